package challenge

import (
	"strings"
	"testing"
)

// FuzzErrorCode writes challenges in all the ways that the grammar allows (RFC 9110 §11.6.1), and looks for
// the error code among them. The program decides what is written; its dice are its bytes. Whatever else the
// field has in lines of its own changes nothing.
func FuzzErrorCode(f *testing.F) {
	f.Add([]byte{}, "")
	f.Add([]byte{2, 0, 1, 0, 0, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, "Negotiate YII/a+b==")
	f.Add([]byte("\x03some challenges, one after the other, as the bytes of a text have it"), `Basic realm="cut off`)
	f.Add([]byte("\x04and others that come of other bytes, with schemes of all kinds: ~~~ÿÿÿ\x00\x01\x02"), `"`)
	f.Add([]byte{4, 3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 0, 0, 0, 5, 5, 5, 5, 5, 6, 6, 6, 6}, `,,"a"=b, =x \`)
	f.Fuzz(func(t *testing.T, program []byte, other string) {
		if len(program) > 300 || len(other) > 8<<10 {
			return // so that the field is read to its end
		}
		w := &fieldWriter{program: program}
		var texts []string
		for range w.dice(5) {
			texts = append(texts, w.challenge())
		}
		oneLine := w.blanks() + strings.Join(texts, w.comma()) + w.pick("", ",", " , ")
		check := func(how string, lines ...string) {
			for scheme, want := range map[string]string{"Bearer": w.bearer.code, "DPoP": w.dpop.code} {
				if got := ErrorCode(lines, scheme); got != want {
					t.Errorf("%s: the code of %s is %q, want %q, in %q", how, scheme, got, want, lines)
				}
			}
		}
		check("in one line", oneLine)
		check("in a line each", texts...)
		check("after another scheme", `Other error="invalid_token", error_description="a \"b\", c"`+w.comma()+oneLine)
		check("before another scheme", oneLine, "Other "+w.token68())
		check("after another line that ends in a challenge", "Other", oneLine)
		if lower := strings.ToLower(other); !strings.Contains(lower, "bearer") && !strings.Contains(lower, "dpop") {
			check("between other lines", other, oneLine, other)
		}
	})
}

// fieldWriter writes challenges, and knows what they say.
type fieldWriter struct {
	program      []byte
	bearer, dpop expectedCode
}

// expectedCode is the error code of the challenges of a scheme: the last one, but invalid_token before all.
type expectedCode struct{ code string }

func (e *expectedCode) note(code string) {
	if code != "" && e.code != "invalid_token" {
		e.code = code
	}
}

// dice draws a number from 0 to n-1.
func (w *fieldWriter) dice(n int) int {
	if len(w.program) == 0 {
		return 0
	}
	b := int(w.program[0])
	w.program = w.program[1:]
	return b % n
}

func (w *fieldWriter) pick(from ...string) string { return from[w.dice(len(from))] }

func (w *fieldWriter) blanks() string { return w.pick("", "", " ", "\t", "  \t ") }

// comma is what stands between two elements of a list.
func (w *fieldWriter) comma() string {
	return w.blanks() + w.pick(",", ",", ",,", ", ,\t,") + w.blanks()
}

// challenge writes a challenge, and notes its code.
func (w *fieldWriter) challenge() string {
	scheme := w.pick("Bearer", "bEARER", "DPoP", "dpop", "Basic", "Digest", "Bearer2", "X!#$%&'*+-.^_`|~")
	switch w.dice(6) {
	case 0:
		return scheme
	case 1:
		return scheme + w.pick(" ", "  ") + w.token68()
	}
	code := ""
	var params []string
	for range 1 + w.dice(4) {
		name, value := w.pick("error", "ERROR", "realm", "scope", "error_description", "errors", "x"), w.value()
		if strings.EqualFold(name, "error") && code == "" {
			code = value
		}
		params = append(params, name+w.blanks()+"="+w.blanks()+w.written(value))
	}
	text := scheme + w.pick(" ", "\t", "   ") + params[0]
	for _, param := range params[1:] {
		text += w.comma() + param
	}
	switch strings.ToLower(scheme) {
	case "bearer":
		w.bearer.note(code)
	case "dpop":
		w.dpop.note(code)
	}
	return text
}

func (w *fieldWriter) token68() string {
	return w.pick("YII", "a+b/c", "error", "Bearer", "-._~+/", "0") + w.pick("", "=", "==", "=====")
}

func (w *fieldWriter) value() string {
	switch w.dice(4) {
	case 0:
		return w.pick("invalid_token", "insufficient_scope", "invalid_request", "use_dpop_nonce")
	case 1:
		return w.pick("", `"`, `\`, `\"`, ",", "=", `Bearer error="invalid_token"`, ", Bearer error=invalid_token", "a b", "\xff\x80", "x,", " ")
	}
	b := make([]byte, w.dice(6))
	for i := range b {
		b[i] = byte(w.dice(256))
	}
	return string(b)
}

// written is the value as a token, if it is one, or quoted.
func (w *fieldWriter) written(value string) string {
	isToken := value != ""
	for i := range len(value) {
		isToken = isToken && isTokenChar(value[i])
	}
	if isToken && w.dice(2) == 0 {
		return value
	}
	text := []byte{'"'}
	for i := range len(value) {
		if value[i] == '"' || value[i] == '\\' || w.dice(4) == 3 {
			text = append(text, '\\')
		}
		text = append(text, value[i])
	}
	return string(append(text, '"'))
}
