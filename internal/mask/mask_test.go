package mask

import (
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// An endpoint can send a lot, and masking takes its time.
func TestNoMoreIsMaskedThanMayBeShown(t *testing.T) {
	for text, want := range map[string]int{
		strings.Repeat("*:", 1<<18) + " a":     0,
		strings.Repeat("word ", 1<<18):         200,
		strings.Repeat("a", 1<<20):             0,
		strings.Repeat("ä ", 1<<20):            200,
		"short":                                5,
		strings.Repeat("hunter2 ", 1000):       200,
		strings.Repeat("hunter2", 1000) + " x": 0,
	} {
		got := Secrets{Certain: []string{"hunter2"}}.Quote(text)
		if n := utf8.RuneCountInString(got); n != want {
			t.Errorf("%.20q became %d characters, want %d", text, n, want)
		}
	}
}

// Each secret is repeated in each way, whole and in part.
func TestNoRunOfASecretIsShown(t *testing.T) {
	parts := slices.Sorted(maps.Keys(servertest.Cuts))
	for i, kind := range slices.Sorted(maps.Keys(servertest.AwkwardSecrets)) {
		secret := servertest.AwkwardSecrets[kind]
		for j, way := range slices.Sorted(maps.Keys(servertest.Echoes)) {
			echo := servertest.Echoes[way]
			whole := Secrets{Certain: []string{secret}}.Quote(sentence(echo(secret)))
			if possible := (Secrets{Possible: []string{secret}}).Quote(sentence(echo(secret))); possible != whole {
				t.Errorf("%s, %s: %q, or %q", kind, way, whole, possible)
			}
			wantHidden(t, kind+", "+way, whole, secret)
			if whole != sentence(masked) {
				if run := servertest.LeakedEcho(whole, secret, sentence(masked), echo); run != "" {
					t.Errorf("%s, %s: %q shows %q", kind, way, whole, run)
				}
			}
			part := parts[(i+j)%len(parts)] // each with each, but for time not all three
			shown := Secrets{Certain: []string{secret}}.Quote(sentence(echo(string(servertest.Cuts[part]([]rune(secret))))))
			wantHidden(t, kind+", "+way+", "+part+" of it", shown, secret)
		}
	}
}

// sentence is what a server says about something.
func sentence(about string) string { return "no client has " + about + ", sorry" }

// wantHidden wants nothing but the secret hidden in a sentence.
func wantHidden(t *testing.T, what, shown, secret string) {
	t.Helper()
	if shown == sentence(masked) {
		return
	}
	if run := servertest.LeakedRun(shown, secret, sentence(masked+" "+masked)); run != "" {
		t.Errorf("%s: %q shows %q", what, shown, run)
	}
	if !strings.HasPrefix(shown, "no client ha") { // the s can be that of a secret
		t.Errorf("%s: %q hides other words", what, shown)
	}
}

// What is known about the request stays in the message, whatever the secrets have in common with it.
func TestMessagesStayUseful(t *testing.T) {
	s := Secrets{
		Certain: []string{"shop-4711-s3cret", "secret", "x", "no"},
		Possible: []string{"true", "1", "api", "v2", "2.0", "external", "customers", "https://api.example.com/v1/orders", "pin 1",
			"shop-4711", "application/json", "de", "client_credentials", ""},
		Public: []string{"https://auth.example.com/oauth2/token", "auth.example.com", "/oauth2/token", ".example.com/", "shop-4711", "orders:read", "https://api.example.com/"},
	}
	for _, text := range []string{
		"invalid_client: client shop-4711 is unknown at auth.example.com",
		"https://auth.example.com/oauth2/token does not grant orders:read to shop-4711",
		"client_secret_basic is not allowed, use client_secret_post",
		"the grant_type client_credentials needs a client_secret",
		"true is not one of api, v2, 2.0 or 1",
		"Basic authentication is required", "a Bearer token is required", "access_token: missing", "client_secret=missing",
		"unsupported Content-Type application/json",
		"an internal error, on 2026-03-01 at 12:00",
		"redirects to https://login.example.com/oauth2/token",
		"xylophone", "not now",
	} {
		if got := s.Quote(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestShortSecrets(t *testing.T) {
	for _, test := range []struct {
		s          Secrets
		text, want string
	}{
		{Secrets{Certain: []string{"x"}}, "is it x or xx, -x-?", "is it *** or xx, -***-?"},
		{Secrets{Certain: []string{"k3y"}}, "k3y, ak3y, K3Y%21", "***, ak3y, ***%21"},
		{Secrets{Certain: []string{"test"}}, "the latest TEST", "the latest ***"},
		{Secrets{Certain: []string{"password"}, Public: []string{"password"}}, "which password?", "which ***?"},
		{Secrets{Certain: []string{"t3st"}}, "the lat3st", "the la***"},
		{Secrets{Certain: []string{"k3ä1pzwq"}}, "is it 3?1p or ä1pz?", "is it *** or ***?"},
		{Secrets{Certain: []string{"1234"}}, "1234 or 12345", "*** or 12345"},
		{Secrets{Possible: []string{"\ufefft3st"}}, "is it 't3st'?", "is it '***'?"}, // of a file with a byte order mark
		{Secrets{Certain: []string{"\ufeffCLIENT_SECRET=t3st"}}, "is it t3st?", "is it ***?"},
		{Secrets{Possible: []string{"t3st"}}, "the lat3st t3st", "the lat3st ***"},
		{Secrets{Possible: []string{"k3"}}, "it is k3, dGhlIGtleSBpcyBrMw==", "it is ***, ***"},
		{Secrets{Possible: []string{"p@ss"}}, "it is p%40ss", "it is ***"},
		{Secrets{Possible: []string{"12345"}}, "it is 12345", "it is ***"},
		{Secrets{Possible: []string{"hello"}}, "hello, othellos", "***, othellos"},
		{Secrets{Possible: []string{"customers"}}, "the customer", "the ***"},
		{Secrets{Possible: []string{"production-7"}}, "a prod: tion-7", "a prod: ***"},
	} {
		if got := test.s.Quote(test.text); got != test.want {
			t.Errorf("%v: %q became %q, want %q", test.s, test.text, got, test.want)
		}
	}
}

// A JWT that comes back is an assertion or a token, though nobody knows it any more.
func TestQuoteHidesWhatLooksLikeAToken(t *testing.T) {
	for text, want := range map[string]string{
		"what is eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.c2ln?": "what is ***?",
		"what is eyJhbGciOi":                         "what is ***",
		"a\r\nb\xff":                                 "a  b",
		"Authorization: Bearer abc-123.def~":         "Authorization: Bearer ***",
		"authorization: BEARER mF_9.B5f-4.1JqM":      "authorization: BEARER ***",
		`got DPoP Kz~8mXK1EalYznwH-LC`:               "got DPoP ***",
		"Basic YXBwOm5vbmU=":                         "Basic ***",
		`{"access_token": "2YotnFZFEjr1zCsicMWpAA"}`: `{"access_token": "***"}`,
		"refresh_token=tGzv3JOkF0XG5Qx2TlKWIA&x=1":   "refresh_token=***&x=1",
		`{\"id_token\":\"k3Jq8ZpW1xVb\"}`:            `{\"id_token\":\"***\"}`,
		"the token has expired at 12:00":             "the token has expired at 12:00",
		"Bearer error=invalid_token":                 "Bearer error=invalid_token",
	} {
		if got := (Secrets{}).Quote(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

// Callers keep the list.
func TestSecretsOfTheCallerAreKept(t *testing.T) {
	s := Secrets{Certain: []string{"s3cret-canary", ""}, Possible: []string{"", "canary"}, Public: []string{"", "b", "a"}}
	for _, text := range []string{"short", "the secret is 7333637265742d63616e617279 in hex", "the secret is s3cret-canary"} {
		if got := s.Quote(text); text != "short" && got == text {
			t.Errorf("%q is not masked", text)
		}
		if s.Certain[0] != "s3cret-canary" || s.Possible[1] != "canary" || !slices.Equal(s.Public, []string{"", "b", "a"}) {
			t.Fatalf("the caller's lists are %q after %q", s, text)
		}
	}
}

// A secret can have a server's words in it, and a server can put others between.
func TestPartsThatAreShown(t *testing.T) {
	s := Secrets{Certain: []string{"k3Jq8ZpW1xVbT6mN", base64.StdEncoding.EncodeToString([]byte("app:k3Jq8ZpW1xVbT6mN"))}, Public: []string{"app", "bT6mN"}}
	for text, want := range map[string]string{
		"k3Jq8Zp and W1xVbT6": "k3Jq8Zp and W1xVbT6", // seven of each
		"k3Jq8ZpW and VbT6mN": "*** and VbT6mN",
		"k3Jq8ZpW...VbT6mN":   "***...VbT6mN",
		"a k3Jq8ZpW1xVbT6mNz": "a ***z",
	} {
		if got := s.Quote(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

// A secret that begins or ends with a word which stays readable elsewhere is hidden as a whole.
func TestSecretWithAPublicWordAtItsEdge(t *testing.T) {
	for _, secret := range []string{"token-k3Jq8ZpW", "k3Jq8ZpW-token", "auth.example.com/k3Jq8ZpW", "k3Jq8ZpW@auth.example.com"} {
		s := Secrets{Certain: []string{secret}, Public: []string{"auth.example.com"}}
		text := "no token of " + secret + " at auth.example.com"
		if got, want := s.Quote(text), "no token of *** at auth.example.com"; got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}
