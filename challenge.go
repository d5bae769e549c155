package oauthcc

import "strings"

// challenge is one challenge of a WWW-Authenticate field (RFC 9110 §11.6.1).
type challenge struct {
	scheme string
	params map[string]string // names in lower case; nil for a token68
}

// challengeError returns the error code of a scheme's challenges (RFC 6750 §3.1, RFC 9449
// §7.1) in the lines of a WWW-Authenticate field. invalid_token goes before any other, and
// an empty string stands for no such challenge with an error.
func challengeError(lines []string, scheme string) string {
	code := ""
	for _, line := range lines {
		for _, c := range parseChallenges(line) {
			if !strings.EqualFold(c.scheme, scheme) || c.params["error"] == "" {
				continue
			}
			if code = c.params["error"]; code == "invalid_token" {
				return code
			}
		}
	}
	return code
}

// parseChallenges reads a field value, which can hold several challenges. What does
// not fit the grammar is skipped up to the next comma: half a challenge is worth
// more than none.
func parseChallenges(line string) []challenge {
	var list []challenge
	s := fieldScanner{rest: line}
	for s.skipSeparators(); s.rest != ""; s.skipSeparators() {
		name := s.token()
		if name == "" {
			s.skipElement()
			continue
		}
		spaced := s.skipBlanks()
		if len(list) > 0 && strings.HasPrefix(s.rest, "=") {
			s.parameter(&list[len(list)-1], name)
			continue
		}
		list = append(list, challenge{scheme: name})
		if !spaced || s.rest == "" || s.rest[0] == ',' {
			continue
		}
		if first := s.token(); first != "" {
			s.skipBlanks()
			if strings.HasPrefix(s.rest, "=") {
				s.parameter(&list[len(list)-1], first)
				continue
			}
		}
		s.skipElement() // a token68
	}
	return list
}

// fieldScanner reads the parts of a header field from left to right.
type fieldScanner struct {
	rest string
}

// parameter reads what follows a parameter's name, from the equals sign on, into c.
// A token68 looks like a parameter whose value is empty or goes on with =.
func (s *fieldScanner) parameter(c *challenge, name string) {
	s.rest = s.rest[1:]
	s.skipBlanks()
	value, ok := s.quoted()
	if !ok {
		value = s.token()
	}
	if ok || value != "" {
		if c.params == nil {
			c.params = make(map[string]string)
		}
		if name = strings.ToLower(name); c.params[name] == "" {
			c.params[name] = value
		}
	}
	// Some servers leave out the comma between parameters.
	if s.rest != "" && !strings.ContainsRune(" \t", rune(s.rest[0])) {
		s.skipElement()
	}
}

// quoted reads a quoted-string. An unterminated one ends with the line.
func (s *fieldScanner) quoted() (string, bool) {
	if !strings.HasPrefix(s.rest, `"`) {
		return "", false
	}
	var value strings.Builder
	for i := 1; i < len(s.rest); i++ {
		switch c := s.rest[i]; {
		case c == '\\' && i+1 < len(s.rest):
			i++
			value.WriteByte(s.rest[i])
		case c == '"':
			s.rest = s.rest[i+1:]
			return value.String(), true
		default:
			value.WriteByte(c)
		}
	}
	s.rest = ""
	return value.String(), true
}

// token reads a token (RFC 9110 §5.6.2).
func (s *fieldScanner) token() string {
	end := 0
	for end < len(s.rest) && isTokenChar(s.rest[end]) {
		end++
	}
	token := s.rest[:end]
	s.rest = s.rest[end:]
	return token
}

func isTokenChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// skipBlanks reports whether there were any.
func (s *fieldScanner) skipBlanks() bool {
	before := len(s.rest)
	s.rest = strings.TrimLeft(s.rest, " \t")
	return len(s.rest) < before
}

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
