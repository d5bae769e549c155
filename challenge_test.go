package oauthcc

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestChallengesAreParsed(t *testing.T) {
	type params = map[string]string
	for _, test := range []struct {
		line string
		want []challenge
	}{
		{``, nil},
		{` , ,, `, nil},
		{`Bearer`, []challenge{{"Bearer", nil}}},
		{`Bearer error="invalid_token"`, []challenge{{"Bearer", params{"error": "invalid_token"}}}},
		{`Bearer error=invalid_token`, []challenge{{"Bearer", params{"error": "invalid_token"}}}},
		{`bEaReR ERROR="invalid_token"`, []challenge{{"bEaReR", params{"error": "invalid_token"}}}},
		{`Bearer realm="a, b", error = "x"	,scope="c d"`, []challenge{{"Bearer", params{"realm": "a, b", "error": "x", "scope": "c d"}}}},
		{`Bearer realm="say \"hi\", \\o/", error="x"`, []challenge{{"Bearer", params{"realm": `say "hi", \o/`, "error": "x"}}}},
		{`Bearer realm="Basic error=\"x\""`, []challenge{{"Bearer", params{"realm": `Basic error="x"`}}}},
		{`Bearer error="first", error="second"`, []challenge{{"Bearer", params{"error": "first"}}}},
		{`Basic realm="x", Bearer error="y"`, []challenge{{"Basic", params{"realm": "x"}}, {"Bearer", params{"error": "y"}}}},
		{`Basic, Bearer, Digest qop="auth"`, []challenge{{"Basic", nil}, {"Bearer", nil}, {"Digest", params{"qop": "auth"}}}},
		{`Negotiate`, []challenge{{"Negotiate", nil}}},
		{`Negotiate YII/a+b==, Bearer error="y"`, []challenge{{"Negotiate", nil}, {"Bearer", params{"error": "y"}}}},
		{`NTLM abc=, Bearer error="y"`, []challenge{{"NTLM", nil}, {"Bearer", params{"error": "y"}}}},
		{`Custom abc, Bearer error="y"`, []challenge{{"Custom", nil}, {"Bearer", params{"error": "y"}}}},
		{`Bearer , error="x"`, []challenge{{"Bearer", params{"error": "x"}}}},
		{`Bearer realm="x",, error="y",`, []challenge{{"Bearer", params{"realm": "x", "error": "y"}}}},
		{`Bearer error=""`, []challenge{{"Bearer", params{"error": ""}}}},
		{`Bearer error=`, []challenge{{"Bearer", nil}}},
		{`Bearer error="cut off`, []challenge{{"Bearer", params{"error": "cut off"}}}},
		{`Bearer error="cut off\`, []challenge{{"Bearer", params{"error": `cut off\`}}}},
		{`Bearer "quoted", Basic realm="x"`, []challenge{{"Bearer", nil}, {"Basic", params{"realm": "x"}}}},
		{`"quoted, Bearer", Basic realm="x"`, []challenge{{"Basic", params{"realm": "x"}}}},
		{`Bearer realm="a"junk, error="x"`, []challenge{{"Bearer", params{"realm": "a", "error": "x"}}}},
		{`{}, =x, ;, Bearer error="x"`, []challenge{{"Bearer", params{"error": "x"}}}},
	} {
		got := parseChallenges(test.line)
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
		if got := challengeError(test.lines, typeBearer); got != test.want {
			t.Errorf("%q: got %q, want %q", test.lines, got, test.want)
		}
	}
}

// A header of a megabyte takes milliseconds when it is read once, and hours when each
// of its parts is read to the end.
func TestHugeChallengeIsReadOnce(t *testing.T) {
	for _, part := range []string{",", `"`, `\`, " ", "=", "a,", `a="`, `"",`, `a="\`, "a ", "a=b,", "a b=c,", `a b="`, "\x00", "a b "} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			parseChallenges(strings.Repeat(part, 1<<20/len(part)))
			parseChallenges(`Bearer realm="` + strings.Repeat(part, 1<<20/len(part)))
		}()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatalf("%q is not read in linear time", part)
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
		for _, c := range parseChallenges(line) {
			if c.scheme == "" || strings.ContainsFunc(c.scheme, func(r rune) bool { return r > 127 || !isTokenChar(byte(r)) }) {
				t.Errorf("scheme %q", c.scheme)
			}
			for name := range c.params {
				if name == "" || name != strings.ToLower(name) {
					t.Errorf("parameter %q", name)
				}
			}
		}
		if code := challengeError([]string{"Basic", line, `Bearer error="invalid_token"`}, typeBearer); code != "invalid_token" {
			t.Errorf("one line hides another: %q", code)
		}
	})
}
