package oauthcc

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"html"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// masked stands for a credential in a text.
const masked = "***"

// minMasked is the least length of a value that may be a credential, or else a plain
// word, for which it is masked.
const minMasked = 6

// mask replaces whatever equals a credential of the request: the client's secret, the
// endpoint's query and the values of parameters and header fields, which can be API keys.
func (r grantRequest) mask(text string) string {
	params := maps.Clone(r.params)
	delete(params, "grant_type") // the name of a grant, which messages have
	named := []map[string][]string{params, r.headers}
	if u, err := url.Parse(r.endpoint); err == nil {
		named = append(named, u.Query(), map[string][]string{"": {u.RawQuery}})
	}
	secrets := []string{r.clientSecret}
	for _, values := range named {
		for _, list := range values {
			secrets = append(secrets, slices.DeleteFunc(slices.Clone(list), func(v string) bool { return len(v) < minMasked })...)
		}
	}
	return maskSecrets(text, r.clientID, secrets...)
}

// maskSecrets replaces secrets in a peer's words, in the forms in which they are sent and in
// which servers repeat what they were sent: with the characters escaped that URLs, JSON or
// HTML escape, in base64 or in hexadecimal. What has a secret in an escaped form is shown
// without the escapes.
func maskSecrets(text, clientID string, secrets ...string) string {
	secrets = slices.DeleteFunc(secrets, func(s string) bool { return s == "" || len(s) > len(text) })
	if len(secrets) == 0 {
		return text
	}
	var forms, encoded []string
	for _, secret := range secrets {
		written := writtenForms(secret)
		forms = append(append(forms, written...),
			base64.StdEncoding.EncodeToString([]byte(secret)),
			base64.StdEncoding.EncodeToString([]byte(clientID+":"+secret)),
			base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(clientID)+":"+url.QueryEscape(secret))))
		for _, form := range written {
			encoded = append(encoded, encodedForms(form)...)
		}
	}
	// The longest first, as one may hold another.
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) })
	text = replacerOf(forms).Replace(text)
	// What is masked is never longer than what was there, however often it is done.
	long := replacerOf(slices.DeleteFunc(forms, func(form string) bool { return len(form) < minMasked }))
	unescaped := text
	for range 2 { // what is escaped can have been sent so
		for _, unescape := range unescapers {
			unescaped = unescape(unescaped)
			if shown := long.Replace(unescaped); shown != unescaped {
				text, unescaped = shown, shown
			}
		}
	}
	return encodedWord.ReplaceAllStringFunc(text, func(word string) string {
		if slices.ContainsFunc(encoded, func(form string) bool { return strings.Contains(word, form) }) {
			return masked
		}
		return word
	})
}

func replacerOf(forms []string) *strings.Replacer {
	pairs := make([]string, 0, 2*len(forms))
	for _, form := range forms {
		pairs = append(pairs, form, masked)
	}
	return strings.NewReplacer(pairs...)
}

// writtenForms are those of a secret in a form, a path, JSON, and a form of which nothing
// but percent-encoding is undone; and what a server makes of it that undoes what was not done.
func writtenForms(secret string) []string {
	quoted, _ := json.Marshal(secret)
	forms := []string{
		secret, url.QueryEscape(secret), url.PathEscape(secret), string(quoted[1 : len(quoted)-1]),
		strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(secret), strings.ReplaceAll(secret, " ", "+"),
	}
	for _, decode := range []func(string) (string, error){url.QueryUnescape, url.PathUnescape} {
		if decoded, err := decode(secret); err == nil && len(decoded) >= minMasked {
			forms = append(forms, decoded)
		}
	}
	slices.Sort(forms)
	return slices.Compact(forms)
}

// minEncoded is the least length of what is looked for in encoded text: anything shorter
// can be there by chance.
const minEncoded = 8

// encodedForms are what the text has of base64, in either alphabet and wherever it begins in
// what is encoded, and its hexadecimal digits.
func encodedForms(text string) []string {
	digits := hex.EncodeToString([]byte(text))
	forms := append(make([]string, 0, 8), digits, strings.ToUpper(digits))
	for before := range 3 {
		code := base64.StdEncoding.EncodeToString([]byte("xx"[:before] + text))
		code = code[(8*before+5)/6 : 8*(before+len(text))/6] // less what its neighbours have a part in
		forms = append(forms, code, strings.NewReplacer("+", "-", "/", "_").Replace(code))
	}
	return slices.DeleteFunc(forms, func(form string) bool { return len(form) < minEncoded })
}

var (
	encodedWord   = regexp.MustCompile(`[\w.+/=-]{8,}`) // with dots, to take a JWT as a whole
	percentEscape = regexp.MustCompile(`(%[0-9A-Fa-f]{2})+`)
	stringEscape  = regexp.MustCompile(`\\(u[0-9A-Fa-f]{4}|["'/\\])`)
)

var unescapers = []func(string) string{
	func(text string) string {
		return percentEscape.ReplaceAllStringFunc(text, func(escape string) string {
			plain, err := url.PathUnescape(escape)
			if err != nil {
				return escape
			}
			return strings.ToValidUTF8(plain, "")
		})
	},
	html.UnescapeString,
	func(text string) string {
		return stringEscape.ReplaceAllStringFunc(text, func(escape string) string {
			if escape[1] != 'u' {
				return escape[1:]
			}
			code, _ := strconv.ParseUint(escape[2:], 16, 16)
			return string(rune(code))
		})
	},
}
