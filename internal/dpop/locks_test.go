package dpop

import (
	"net/http"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// A server may take its time, and others look up their nonces meanwhile.
func TestNoLockIsHeldOverATokenRequest(t *testing.T) {
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	transport := Transport{Key: key, Next: servertest.Func(func(req *http.Request) (*http.Response, error) {
		asked++
		for side, nonces := range map[string]*nonces{"servers": &key.servers, "resources": &key.resources} {
			if !nonces.mu.TryLock() {
				t.Errorf("that of the %s is held", side)
				continue
			}
			nonces.mu.Unlock()
		}
		return servertest.Status(200, NonceHeader, "n-1").RoundTrip(req)
	})}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://auth.example.com/token", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := transport.RoundTrip(req)
	if err != nil || asked != 1 {
		t.Fatalf("asked %d times, %v", asked, err)
	}
	res.Body.Close()
	if last := key.servers.of("https://auth.example.com").last(); last != "n-1" {
		t.Errorf("kept %q", last)
	}
}
