package mask

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// formsOf lists the forms of a secret: as it is, without what a file can add to it, decoded once too often by a
// server, and read in a wrong encoding of characters.
func formsOf(secret string) [][]rune {
	secret = secret[:min(len(secret), maxSecret)]
	written := [][]byte{[]byte(secret)}
	add := func(form []byte) {
		if !slices.ContainsFunc(written, func(w []byte) bool { return bytes.Equal(w, form) }) {
			written = append(written, form)
		}
	}
	for _, bare := range bareForms(secret) {
		add([]byte(bare))
	}
	for _, form := range slices.Clone(written) {
		for _, decode := range escapes {
			if decoded, changed := decode(newView(form)); changed && len(decoded.text) >= minRuns {
				add(decoded.text)
			}
		}
	}
	for _, form := range slices.Clone(written) { // a form has + for a space (WHATWG URL §5)
		add(bytes.ReplaceAll(form, []byte{' '}, []byte{'+'}))
		add(bytes.ReplaceAll(form, []byte{'+'}, []byte{' '}))
	}
	var forms [][]rune
	for _, form := range written {
		forms = appendNew(forms, runesOf(form))
		if !utf8.Valid(form) { // as libraries replace each byte, or several at once
			forms = appendNew(forms, []rune(string(form)))
			forms = appendNew(forms, []rune(strings.ToValidUTF8(string(form), "\ufffd")))
		}
		if !isASCII(form) {
			latin := misread(form, latin1)
			forms = appendNew(forms, latin)
			forms = appendNew(forms, misread(form, windows1252))
			forms = appendNew(forms, misread([]byte(string(latin)), latin1)) // twice
		}
	}
	return forms
}

// appendNew appends a form unless it is in the list, or has nothing in it.
func appendNew(forms [][]rune, form []rune) [][]rune {
	if len(form) == 0 || slices.ContainsFunc(forms, func(f []rune) bool { return slices.Equal(f, form) }) {
		return forms
	}
	return append(forms, form)
}

// bareForms lists a secret without what a file can add to it: white space around it, a byte order mark, the zero
// bytes of UTF-16, or NAME= and quotes in a line NAME=value.
func bareForms(secret string) []string {
	var bare []string
	valid := strings.TrimPrefix(strings.ToValidUTF8(secret, ""), "\ufeff")
	for _, form := range []string{valid, strings.ReplaceAll(valid, "\x00", "")} {
		form = strings.TrimSpace(form)
		bare = append(bare, form)
		if _, value, ok := strings.Cut(form, "="); ok && assignment.MatchString(form) {
			value = strings.TrimSpace(value)
			bare = append(bare, value, strings.Trim(value, `"'`))
		}
	}
	return slices.DeleteFunc(bare, func(form string) bool { return len(form) < leastRun })
}

// assignment finds a line of an environment file. A = at the end belongs to base64.
var assignment = regexp.MustCompile(`^(export\s+)?[A-Za-z_][A-Za-z0-9_]*\s*=\s*[^\s=]`)

func isASCII(text []byte) bool {
	return !slices.ContainsFunc(text, func(b byte) bool { return b >= utf8.RuneSelf })
}

// misread reads a text as if each byte were a character.
func misread(text []byte, encoding func(byte) rune) []rune {
	runes := make([]rune, len(text))
	for i, b := range text {
		runes[i] = encoding(b)
	}
	return runes
}

func latin1(b byte) rune { return rune(b) }

// windows1252 is ISO-8859-1 with other characters for 0x80 to 0x9f.
func windows1252(b byte) rune {
	if b >= 0x80 && b < 0xa0 {
		return []rune("€\u0081‚ƒ„…†‡ˆ‰Š‹Œ\u008dŽ\u008f\u0090‘’“”•–—˜™š›œ\u009džŸ")[b-0x80]
	}
	return rune(b)
}
