// Package mask quotes a peer's words without credentials.
//
// Servers often repeat a request that they refuse, but not always as it was sent. It can be decoded, escaped for JSON
// or HTML, in base64, in another encoding of characters, or cut. Secrets.Quote finds a secret in all of these forms,
// and makes the words fit for a log: one short line, without anything that looks like a token.
//
// # How secrets are found
//
//   - grams.go: parts of a secret are found, not only the whole: each run of 8 characters, or each half of a shorter
//     secret. A run is compared without regard to case, in four foldings: with white space as one space, without
//     white space, without all that is not ASCII, and with letters and digits alone. forms.go lists the forms that a
//     secret itself can have.
//   - views.go: a text is searched as it is, and with each encoding undone that it can have, including encodings
//     within encodings. decoders.go and words.go undo them. A view knows for each of its bytes where that comes from.
//   - scan.go: finds runs in a view, in one pass.
//   - plain.go: what stays readable. tokens.go: what looks like a token.
//
// Masking hides too much rather than too little. It is best effort all the same: don't show a peer's words
// to people who must not see secrets. A secret that was encrypted, hashed, reversed or spelled otherwise
// is not found.
//
// The package has no locks, and keeps no secret.
package mask

import (
	"slices"
	"strings"
	"unicode"
)

// masked stands for a credential in a text.
const masked = "***"

// maxQuoted bounds how much of a peer's words is looked at, in bytes. That is more than is shown, as
// masks can be shorter than the secrets they replace. It also bounds the time that masking takes.
const maxQuoted = 4 << 10

// maxShown bounds what Quote returns, in characters.
const maxShown = 200

// Secrets are what is hidden in a peer's words.
type Secrets struct {
	// Credentials and tokens. They are hidden whatever they look like. Those of up to 3 characters, and
	// words or numbers of 4 or 5, are hidden where they stand alone.
	Certain []string

	// Values that can be credentials, or plain words. They are hidden like credentials, unless they are
	// common words such as true, or of up to 3 letters, or a short number. Other values of up to 5
	// characters are hidden where they stand alone.
	Possible []string

	// What stays readable, such as the name of the server, also if a part of a secret is in it.
	Public []string
}

// Quote makes a peer's words fit for a log: printable, at most maxShown characters, without the secrets and
// without what looks like a token.
func (s Secrets) Quote(text string) string {
	if len(text) > maxQuoted {
		// It is cut after a whole word, as less of a word may not be enough to know it by.
		text = text[:strings.LastIndexAny(text[:maxQuoted], " \t\r\n")+1]
	}
	text = hideTokens(strings.ToValidUTF8(s.hide(text), ""))
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
	return FirstRunes(text, maxShown)
}

// FirstRunes returns the first characters of a text, at most that many, and never part of one.
func FirstRunes(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most])
	}
	return text
}

// hide replaces the secrets in a text.
func (s Secrets) hide(text string) string {
	if text == "" {
		return ""
	}
	views := viewsOf(text)
	grams := s.grams(views)
	if len(grams.kinds) == 0 {
		return text
	}
	var found []span
	for _, v := range views {
		found = append(found, grams.find(v)...)
	}
	if len(found) == 0 {
		return text
	}
	return replace(text, s.notPublic(text, found))
}

// span is a part of a text, from a byte to the one after its last.
type span struct{ from, to int }

// replace puts a mask in the place of each span, and one in that of spans that touch each other. Spaces around
// them stay.
func replace(text string, spans []span) string {
	for i, s := range spans {
		trimmed := strings.TrimLeft(text[s.from:s.to], " ")
		spans[i].from = s.to - len(trimmed)
		spans[i].to = spans[i].from + len(strings.TrimRight(trimmed, " "))
	}
	slices.SortFunc(spans, func(a, b span) int { return a.from - b.from })
	var shown strings.Builder
	end := 0 // of what is written or masked
	for i, s := range spans {
		if i == 0 || s.from > end {
			shown.WriteString(text[end:s.from])
			shown.WriteString(masked)
		}
		end = max(end, s.to)
	}
	shown.WriteString(text[end:])
	return shown.String()
}
