package challenge

import (
	"reflect"
	"strings"
	"testing"
)

// params are the parameters of a challenge, by their names in lower case, the first of each name.
type params = map[string]string

// parsed is a challenge with all its parameters.
type parsed struct {
	scheme string
	params params
}

func parse(line string) []parsed {
	var list []parsed
	for part := range parts(line) {
		if part.name == "" {
			list = append(list, parsed{scheme: part.scheme})
			continue
		}
		last := &list[len(list)-1]
		if last.params == nil {
			last.params = make(params)
		}
		if name := strings.ToLower(part.name); last.params[name] == "" {
			last.params[name] = part.value
		}
	}
	return list
}

func TestChallengesAreParsed(t *testing.T) {
	for _, test := range []struct {
		line string
		want []parsed
	}{
		{``, nil},
		{` , ,, `, nil},
		{`Bearer`, []parsed{{"Bearer", nil}}},
		{`Bearer error="invalid_token"`, []parsed{{"Bearer", params{"error": "invalid_token"}}}},
		{`Bearer error=invalid_token`, []parsed{{"Bearer", params{"error": "invalid_token"}}}},
		{`bEaReR ERROR="invalid_token"`, []parsed{{"bEaReR", params{"error": "invalid_token"}}}},
		{`Bearer realm="a, b", error = "x"	,scope="c d"`, []parsed{{"Bearer", params{"realm": "a, b", "error": "x", "scope": "c d"}}}},
		{`Bearer realm="say \"hi\", \\o/", error="x"`, []parsed{{"Bearer", params{"realm": `say "hi", \o/`, "error": "x"}}}},
		{`Bearer realm="Basic error=\"x\""`, []parsed{{"Bearer", params{"realm": `Basic error="x"`}}}},
		{`Bearer error="first", error="second"`, []parsed{{"Bearer", params{"error": "first"}}}},
		{`Basic realm="x", Bearer error="y"`, []parsed{{"Basic", params{"realm": "x"}}, {"Bearer", params{"error": "y"}}}},
		{`Basic, Bearer, Digest qop="auth"`, []parsed{{"Basic", nil}, {"Bearer", nil}, {"Digest", params{"qop": "auth"}}}},
		{`Negotiate`, []parsed{{"Negotiate", nil}}},
		{`Negotiate YII/a+b==, Bearer error="y"`, []parsed{{"Negotiate", nil}, {"Bearer", params{"error": "y"}}}},
		{`NTLM abc=, Bearer error="y"`, []parsed{{"NTLM", nil}, {"Bearer", params{"error": "y"}}}},
		{`Custom abc, Bearer error="y"`, []parsed{{"Custom", nil}, {"Bearer", params{"error": "y"}}}},
		{`Bearer , error="x"`, []parsed{{"Bearer", params{"error": "x"}}}},
		{`Bearer realm="x",, error="y",`, []parsed{{"Bearer", params{"realm": "x", "error": "y"}}}},
		{`Bearer error=""`, []parsed{{"Bearer", params{"error": ""}}}},
		{`Bearer error=`, []parsed{{"Bearer", nil}}},
		{`Bearer error="cut off`, []parsed{{"Bearer", params{"error": "cut off"}}}},
		{`Bearer error="cut off\`, []parsed{{"Bearer", params{"error": `cut off\`}}}},
		{`Bearer "quoted", Basic realm="x"`, []parsed{{"Bearer", nil}, {"Basic", params{"realm": "x"}}}},
		{`"quoted, Bearer", Basic realm="x"`, []parsed{{"Basic", params{"realm": "x"}}}},
		{`Bearer realm="a"junk, error="x"`, []parsed{{"Bearer", params{"realm": "a", "error": "x"}}}},
		{`{}, =x, ;, Bearer error="x"`, []parsed{{"Bearer", params{"error": "x"}}}},
	} {
		got := parse(test.line)
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s\n got %q\nwant %q", test.line, got, test.want)
		}
	}
}

func TestBearerErrorIsFoundAmongOthers(t *testing.T) {
	for _, test := range []struct {
		lines []string
		want  string
	}{
		{nil, ""},
		{[]string{""}, ""},
		{[]string{`Bearer realm="x"`}, ""},
		{[]string{`Bearer error=""`}, ""},
		{[]string{`Basic error="invalid_token"`}, ""},
		{[]string{`Basic realm="Bearer error=invalid_token"`}, ""},
		{[]string{`BEARER Error="insufficient_scope"`}, "insufficient_scope"},
		{[]string{`Basic realm="x", Bearer error="invalid_token"`}, "invalid_token"},
		{[]string{`Basic realm="x"`, `Negotiate`, `Bearer error=invalid_token`}, "invalid_token"},
		{[]string{`Bearer error="invalid_token"`, `Bearer error="insufficient_scope"`}, "invalid_token"},
		{[]string{`Bearer error="insufficient_scope", Bearer error="invalid_token"`}, "invalid_token"},
		{[]string{`Bearer error="insufficient_scope"`, `Bearer realm="x"`}, "insufficient_scope"},
		{[]string{`DPoP error="invalid_token", Bearer error="invalid_request"`}, "invalid_request"},
	} {
		if got := ErrorCode(test.lines, "Bearer"); got != test.want {
			t.Errorf("%q: got %q, want %q", test.lines, got, test.want)
		}
	}
}

func FuzzParseChallenges(f *testing.F) {
	for _, seed := range []string{
		`Bearer realm="a, b", error="invalid_token"`, `Negotiate YII/a+b==, Basic realm="x"`, `Bearer error="cut off\`, `,,"a"=b`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if len(line) > maxField/2 {
			return
		}
		for part := range parts(line) {
			for _, name := range []string{part.scheme, part.name} {
				if strings.ContainsFunc(name, func(r rune) bool { return r > 127 || !isTokenChar(byte(r)) }) || (part.scheme == "") == (part.name == "") {
					t.Errorf("part %q", part)
				}
			}
		}
		if code := ErrorCode([]string{"Basic", line, `Bearer error="invalid_token"`}, "Bearer"); code != "invalid_token" {
			t.Errorf("one line hides another: %q", code)
		}
	})
}
