package dpop

import (
	"crypto"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// A WebSocket comes over HTTP/2 as CONNECT, and reaches the upstream as GET.
func TestProofIsForTheMethodThatTheUpstreamSees(t *testing.T) {
	for _, test := range []struct {
		method, protocol string
		major            int
		want             string
	}{
		{"CONNECT", "websocket", 2, "GET"}, {"CONNECT", "websocket", 3, "GET"}, {"CONNECT", "", 2, "CONNECT"},
		{"CONNECT", "", 1, "CONNECT"}, {"GET", "websocket", 2, "GET"}, {"POST", "", 2, "POST"},
	} {
		r := httptest.NewRequest(test.method, "https://gateway.example.com/", nil)
		r.ProtoMajor = test.major
		if test.major == 2 && test.protocol != "" {
			r.Header[":protocol"] = []string{test.protocol}
		} else {
			r.Proto = test.protocol
		}
		if got := Method(r); got != test.want {
			t.Errorf("%+v: got %s", test, got)
		}
	}
}

func TestOriginIsNormalized(t *testing.T) {
	for raw, want := range map[string]string{
		"https://API.example.com":       "https://api.example.com",
		"HTTPS://api.example.com:443/":  "https://api.example.com",
		"http://api.example.com:80":     "http://api.example.com",
		"http://api.example.com:443":    "http://api.example.com:443",
		"https://api.example.com:8443/": "https://api.example.com:8443",
		"https://[2001:DB8::1]":         "https://[2001:db8::1]",
		"https://[::1]:8443":            "https://[::1]:8443",
	} {
		if got, err := ParseOrigin(raw); got != want || err != nil {
			t.Errorf("%s: got %s, %v", raw, got, err)
		}
	}
}

func TestProofTargetHasThePathAlone(t *testing.T) {
	for raw, want := range map[string]string{
		"/": "/", "": "/", "*": "/", "/a?b=c": "/a", "/a%2Fb/%C3%A9": "/a%2Fb/%C3%A9", "/é": "/%C3%A9", "/a//b/../c": "/a//b/../c",
	} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := Target("https://api.example.com", u); got != "https://api.example.com"+want {
			t.Errorf("%s: got %s", raw, got)
		}
	}
}

func TestNonceIsVetted(t *testing.T) {
	for value, want := range map[string]bool{
		"eyJ7S_zG.eyJH0-Z.HX4w-7v": true, strings.Repeat("a", maxNonce): true, "!#~": true,
		"": false, "a b": false, `a"b`: false, `a\b`: false, "é": false, "a\tb": false, strings.Repeat("a", maxNonce+1): false,
	} {
		n := new(nonce)
		if got := n.update(http.Header{NonceHeader: {value}}) != ""; got != want || (n.last() == value) != (want || value == "") {
			t.Errorf("%q: %t, kept %q", value, got, n.last())
		}
	}
	if n := new(nonce); n.update(http.Header{}) != "" || n.last() != "" {
		t.Error("there was none")
	}
}

func TestNoncesAreKeptForABoundedNumberOfOrigins(t *testing.T) {
	n := new(nonces)
	first := n.of("https://0.example.com")
	if n.of("https://0.example.com") != first {
		t.Error("it is another one")
	}
	for i := range 3 * maxNonceOrigins {
		n.of(fmt.Sprintf("https://%d.example.com", i))
		if len(n.origin) > maxNonceOrigins {
			t.Fatalf("%d origins", len(n.origin))
		}
	}
}

func BenchmarkProof(b *testing.B) {
	key, err := NewKey()
	if err != nil {
		b.Fatal(err)
	}
	last := key.resources.of("https://api.example.com")
	last.update(http.Header{NonceHeader: {"eyJ7S_zG.eyJH0-Z.HX4w-7v"}})
	hash := HashToken("token-1")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := key.proof("GET", "https://api.example.com/v1/orders", hash, last.last()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSignature is the part of a proof that nothing can spare.
func BenchmarkSignature(b *testing.B) {
	key := servertest.Keys()["P-256"]
	digest := make([]byte, 32)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := key.Sign(rand.Reader, digest, crypto.SHA256); err != nil {
			b.Fatal(err)
		}
	}
}
