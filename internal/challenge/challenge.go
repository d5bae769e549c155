// Package challenge reads the challenges of a WWW-Authenticate field (RFC 9110 §11.6.1), in which an
// API says why it rejected a token (RFC 6750 §3).
//
// The grammar is hard to read: a comma separates challenges, but also their parameters, and a token68
// can look like a parameter. Some servers don't keep to it either. So nothing is an error here: the
// parser goes from left to right once, and skips what it can't read.
//
// A field can have megabytes. Only its beginning is read, and only an error code is kept.
//
// It has no locks.
package challenge

import (
	"iter"
	"strings"
)

// maxField bounds how much of a field is read, in bytes of all its lines together, with the separators
// between them. The challenge that is cut there counts as missing: what is left of it could say the
// opposite of the whole.
const maxField = 16 << 10

// Challenge has the parts of a challenge that the gateway needs.
type Challenge struct {
	Scheme string // as written; compare it without regard to case (RFC 9110 §11.1)
	Error  string // its error code; empty without
}

// ErrorCode returns the error code of a scheme's challenges (RFC 6750 §3.1, RFC 9449 §7.1) in the lines
// of a WWW-Authenticate field. invalid_token goes before any other code. The code is empty if no
// challenge of the scheme has an error.
func ErrorCode(lines []string, scheme string) string {
	code := ""
	for c := range All(lines) {
		if c.Error == "" || !strings.EqualFold(c.Scheme, scheme) {
			continue
		}
		// A proxy may have added another challenge, but only the API can judge the token.
		if code = c.Error; code == "invalid_token" {
			return code
		}
	}
	return code
}

// All iterates over the challenges in the lines of a field, up to maxField.
func All(lines []string) iter.Seq[Challenge] {
	return func(yield func(Challenge) bool) {
		left := maxField
		for _, line := range lines {
			isCut := len(line) > left
			if !readLine(line[:min(len(line), left)], isCut, yield) || isCut {
				return
			}
			if left -= len(line) + len(", "); left <= 0 {
				return
			}
		}
	}
}

// readLine yields the challenges of a line, but for the last one if the line is cut. It reports whether
// the caller wants more.
func readLine(line string, isCut bool, yield func(Challenge) bool) bool {
	var current Challenge // without a scheme, there is none yet
	for part := range parts(line) {
		switch {
		case part.name == "":
			if current.Scheme != "" && !yield(current) {
				return false
			}
			current = Challenge{Scheme: part.scheme}
		// The first of a name counts, as RFC 9110 §11.2 allows each name only once.
		case current.Error == "" && strings.EqualFold(part.name, "error"):
			current.Error = part.value
		}
	}
	return current.Scheme == "" || isCut || yield(current)
}

// part is a part of a line: the scheme with which a challenge begins, or a parameter of the last one.
type part struct {
	scheme      string
	name, value string
}

// parts iterates over the parts of a line. What does not fit the grammar is skipped up to the next
// comma: half a challenge is better than none.
//
// A name before an equals sign is a parameter of the last challenge. Any other name is the scheme of a
// new challenge. Its first parameter follows without a comma.
func parts(line string) iter.Seq[part] {
	return func(yield func(part) bool) {
		s := fieldScanner{rest: line}
		hasScheme := false
		for s.skipSeparators(); s.rest != ""; s.skipSeparators() {
			name := s.token()
			if name == "" {
				s.skipElement()
				continue
			}
			spaced := s.skipBlanks()
			if !hasScheme || !strings.HasPrefix(s.rest, "=") {
				hasScheme = true
				if !yield(part{scheme: name}) {
					return
				}
				if !spaced || s.rest == "" || s.rest[0] == ',' {
					continue // a scheme without parameters
				}
				name = s.token()
				s.skipBlanks()
				if name == "" || !strings.HasPrefix(s.rest, "=") {
					s.skipElement() // a token68
					continue
				}
			}
			if value, ok := s.parameter(); ok && !yield(part{name: name, value: value}) {
				return
			}
		}
	}
}

// fieldScanner reads the parts of a header field from left to right.
type fieldScanner struct {
	rest string
}

// parameter reads what follows a parameter's name, from the equals sign on, and returns the value. It
// must not take a token68 for a parameter: that looks like one with an empty value, or with a value that
// contains "=".
func (s *fieldScanner) parameter() (value string, ok bool) {
	s.rest = s.rest[1:]
	s.skipBlanks()
	if value, ok = s.quoted(); !ok {
		value = s.token()
		ok = value != ""
	}
	// Some servers leave out the comma between parameters.
	if s.rest != "" && !strings.ContainsRune(" \t", rune(s.rest[0])) {
		s.skipElement()
	}
	return value, ok
}

// quoted reads a quoted-string (RFC 9110 §5.6.4), and reports whether there is one. Without a closing
// quote it ends with the line.
func (s *fieldScanner) quoted() (string, bool) {
	if !strings.HasPrefix(s.rest, `"`) {
		return "", false
	}
	text, escaped := s.rest[1:], false
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+1 < len(text):
			escaped = true
			i++
		case text[i] == '"':
			s.rest = text[i+1:]
			return unescaped(text[:i], escaped), true
		}
	}
	s.rest = ""
	return unescaped(text, escaped), true
}

// unescaped undoes the escapes of a quoted-string, if it has any.
func unescaped(text string, escaped bool) string {
	if !escaped {
		return text
	}
	plain := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) {
			i++
		}
		plain = append(plain, text[i])
	}
	return string(plain)
}

// token reads a token (RFC 9110 §5.6.2). It returns an empty string if there is none.
func (s *fieldScanner) token() string {
	end := 0
	for end < len(s.rest) && isTokenChar(s.rest[end]) {
		end++
	}
	token := s.rest[:end]
	s.rest = s.rest[end:]
	return token
}

// isTokenChar reports whether a token can contain c: the tchar of RFC 9110 §5.6.2.
func isTokenChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// skipBlanks skips spaces and tabs, and reports whether there were any.
func (s *fieldScanner) skipBlanks() bool {
	before := len(s.rest)
	s.rest = strings.TrimLeft(s.rest, " \t")
	return len(s.rest) < before
}

// skipSeparators goes to the next element of the list. Empty elements are allowed (RFC 9110 §5.6.1.2).
func (s *fieldScanner) skipSeparators() {
	s.rest = strings.TrimLeft(s.rest, " \t,")
}

// skipElement goes to the next comma that is not inside a quoted-string.
func (s *fieldScanner) skipElement() {
	for s.rest != "" && s.rest[0] != ',' {
		if _, ok := s.quoted(); !ok {
			s.rest = s.rest[1:]
		}
	}
}
