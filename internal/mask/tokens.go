package mask

import (
	"regexp"
	"strings"
)

// anyJWT finds a JWT, or the beginning of one: a server can repeat a client's assertion or proof. A JWT
// starts with {" in base64url, which is eyJ.
var anyJWT = regexp.MustCompile(`eyJ[\w-]+(\.[\w-]*)*`)

// namedToken finds what follows the name of a credential, such as a token that another client got.
var namedToken = regexp.MustCompile(`(?i)(\b(?:bearer|dpop|basic|[a-z_-]*token|client_secret|[a-z_]*assertion|api[-_]?key|password)["'\\]*[\s:=]+["'\\]*)([\w.~+/%-]+=*)`)

// hideTokens replaces what looks like a token, whether it is known or not.
func hideTokens(text string) string {
	text = anyJWT.ReplaceAllLiteralString(text, masked)
	return namedToken.ReplaceAllStringFunc(text, func(match string) string {
		parts := namedToken.FindStringSubmatch(match)
		if !looksRandom(parts[2]) {
			return match
		}
		return parts[1] + masked
	})
}

// Bounds of what looks random: fewer characters are a word, and so are fewer without digits.
const (
	minRandom  = 6
	minLetters = 24
)

// looksRandom reports whether a text is probably no word.
func looksRandom(text string) bool {
	switch {
	case len(text) < minRandom:
		return false
	case strings.ContainsAny(text, "0123456789"):
		return true
	}
	return len(text) >= minLetters || strings.HasSuffix(text, "=") && strings.ToLower(text) != text
}
