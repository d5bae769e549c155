package oauthcc

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// lockedEndpoint grants to whoever knows the secret.
type lockedEndpoint struct {
	mu     sync.Mutex
	secret string
	asked  []string // the secrets that were tried
}

func (e *lockedEndpoint) RoundTrip(req *http.Request) (*http.Response, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, secret, _ := req.BasicAuth()
	e.asked = append(e.asked, secret)
	if secret != e.secret {
		return servertest.Answer{Status: 401, Body: `{"error":"invalid_client"}`}.RoundTrip(req)
	}
	return servertest.Answer{Body: `{"access_token":"of-` + secret + `","token_type":"Bearer","expires_in":100}`}.RoundTrip(req)
}

func (e *lockedEndpoint) becomes(secret string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.secret = secret
}

func (e *lockedEndpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.asked)
}

// newLockedGateway has its secret in a file.
func newLockedGateway(t *testing.T, h *Handler) (g *virtualGateway, endpoint *lockedEndpoint, file string) {
	file = filepath.Join(t.TempDir(), "secret")
	servertest.WriteFile(t, file, "old")
	h.ClientSecret = "{file." + file + "}"
	g, endpoint = newVirtualGateway(t, h), &lockedEndpoint{secret: "old"}
	g.tokens.client.Transport = endpoint
	return g, endpoint, file
}

// The file is replaced before the old secret ends, which is how secrets are rotated.
func TestRotationInGoodOrderIsNoticedByNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, endpoint, file := newLockedGateway(t, new(Handler))
		g.mustGet()
		time.AfterFunc(time.Minute, func() { servertest.WriteFile(t, file, "new") })
		time.AfterFunc(time.Minute+1, func() { endpoint.becomes("new") })
		g.load(50*time.Millisecond, 5*time.Minute, g.wantServed)
		if a := g.mustGet(); a.token != "of-new" {
			t.Errorf("got %+v", a)
		}
		for _, level := range g.logs.All() {
			if level.Level > 0 {
				t.Errorf("logged %v", level)
			}
		}
	})
}

// The old secret ends, and only then the file is replaced.
func TestReplacedSecretEndsThePause(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, file string){
		"replaced": func(t *testing.T, file string) { servertest.WriteFile(t, file, "new") },
		"written in place": func(t *testing.T, file string) {
			if err := os.WriteFile(file, []byte("new"), 0o600); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, endpoint, file := newLockedGateway(t, new(Handler))
				endpoint.becomes("new")
				g.load(100*time.Millisecond, 3*time.Minute, func(a virtualAnswer) {
					if a.status != 502 || a.waited != 0 {
						t.Errorf("got %+v", a)
					}
				})
				if n := endpoint.count(); n < 4 || n > 5 { // after 15, 30, 60 and 120 s
					t.Errorf("asked %d times", n)
				}
				replace(t, file)
				if a := g.mustGet(); a.token != "of-new" || a.waited != 0 {
					t.Errorf("got %+v", a)
				}
			})
		})
	}
}

// One wrong secret after another is still asked for once, and then as scheduled.
func TestEachSecretIsTriedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, endpoint, file := newLockedGateway(t, new(Handler))
		endpoint.becomes("none of these")
		for _, secret := range []string{"old", "a", "b", "", "c"} {
			if secret == "" {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			} else {
				servertest.WriteFile(t, file, secret)
			}
			g.load(100*time.Millisecond, 5*time.Second, func(a virtualAnswer) {
				if a.status != 502 {
					t.Errorf("got %+v", a)
				}
			})
		}
		want := []string{"old", "a", "b", "c"}
		if got := endpoint.asked; len(got) != len(want) {
			t.Errorf("tried %q, want %q", got, want)
		}
	})
}

// An expired token, a refused renewal and a rejected token must not keep the gateway
// from using a new secret at once.
func TestReplacedSecretEndsThePauseOfARejectedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, endpoint, file := newLockedGateway(t, new(Handler))
		g.mustGet()
		g.accepts(func(token string) bool { return token == "of-new" }, nil)
		endpoint.becomes("new")
		for range 3 {
			if a := g.get(); a.status != 502 {
				t.Errorf("got %+v", a)
			}
		}
		servertest.WriteFile(t, file, "new")
		if a := g.mustGet(); a.token != "of-new" || a.from != statusReplayed {
			t.Errorf("got %+v", a)
		}
		if n := endpoint.count(); n != 3 {
			t.Errorf("asked %d times", n)
		}
	})
}

// What the old secret came to says nothing of what the new one will.
func TestReplacedSecretIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, endpoint, file := newLockedGateway(t, new(Handler))
		slow := servertest.Func(func(req *http.Request) (*http.Response, error) {
			time.Sleep(3 * time.Second)
			return endpoint.RoundTrip(req)
		})
		g.tokens.client.Transport = slow
		g.mustGet()
		endpoint.becomes("new")
		time.Sleep(80 * time.Second) // the token is stale, and its renewal refused
		g.mustGet()
		time.Sleep(4 * time.Second)
		g.mustGet()
		servertest.WriteFile(t, file, "new")
		time.Sleep(16 * time.Second) // it has expired
		if a := g.get(); a.status != 200 || a.token != "of-new" || a.waited != 3*time.Second {
			t.Errorf("got %+v", a)
		}
	})
}

// Caddy logs each look at a file that is not there.
func TestMissingFileIsNotLookedUpByEveryRequest(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.Lifetime = 1
	file := filepath.Join(t.TempDir(), "secret")
	servertest.WriteFile(t, file, "s3cret-canary")
	g := gatewaytest.Start(t, endpoint.Options("refresh_ahead off", "audience {file."+file+"}")+upstream.Proxy())
	g.Get("/")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	gatewaytest.Await(t, "the token expires", func() bool { return g.Get("/").Status == 502 })
	began := time.Now()
	g.GetConcurrently(200, 502)
	looks := strings.Count(g.Logs.All(), "failed to read file")
	if most := 4 + int(2*time.Since(began)/changeLookup); looks > most {
		t.Errorf("the file was looked up %d times, want %d at the most", looks, most)
	}
	for _, entry := range g.Logs.With("no token obtained") {
		if entry["client_id"] != "app" || entry["endpoint"] != endpoint.URL+"/token" {
			t.Errorf("logged %v", entry)
		}
	}
}

// A file that is gone for a while, and then there again as it was, is no new secret.
func TestFileThatWasGoneDoesNotStartThePausesAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, endpoint, file := newLockedGateway(t, new(Handler))
		endpoint.becomes("new")
		g.load(100*time.Millisecond, 4*time.Minute, func(virtualAnswer) {})
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		g.load(100*time.Millisecond, 3*time.Minute, func(virtualAnswer) {}) // one fetch fails for that
		servertest.WriteFile(t, file, "old")
		before := endpoint.count()
		g.load(100*time.Millisecond, time.Minute, func(virtualAnswer) {})
		if n := endpoint.count() - before; n > 1 { // a pause is four minutes by now, give or take one
			t.Errorf("the same secret was tried %d times", n)
		}
	})
}

// A secret without placeholders can't change, and need not be looked at.
func TestFixedSecretIsNotLookedUpWhileWaiting(t *testing.T) {
	g := handlerInMemory(t, new(Handler))
	if g.request.varies || g.tokens.source.ChangedSince(t.Context(), &endpoint.Error{Class: endpoint.ClassRefused}) {
		t.Error("it is taken for a secret that can change")
	}
}

// A file on a mount that hangs is like an endpoint that does not answer. A pipe that
// nobody writes to stands in for it.
func TestFileThatHangsHoldsUpNoRequest(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.Lifetime = 1
	file := filepath.Join(t.TempDir(), "secret")
	servertest.WriteFile(t, file, "s3cret-canary")
	g := gatewaytest.Start(t, endpoint.Options("refresh_ahead off", "timeout 300ms", "audience {file."+file+"}")+upstream.Proxy())
	g.Get("/")
	if err := syscall.Mkfifo(file+".new", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	gatewaytest.Await(t, "the token expires", func() bool { return g.Get("/").Status != 200 })
	start := time.Now()
	for range 20 {
		if a := g.Get("/"); a.Status != 503 && a.Status != 504 {
			t.Errorf("got %d", a.Status)
		}
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("20 requests took %v", took)
	}
	if entries := g.Logs.With("no token obtained"); len(entries) == 0 || entries[0]["error"] != "timeout" || entries[0]["detail"] != errResolving.Error() {
		t.Errorf("logged %v", entries)
	}
	// The pipe is read to its end, and a file is there again.
	pipe, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	servertest.WriteFile(t, file, "s3cret-canary")
	if err := pipe.Close(); err != nil {
		t.Fatal(err)
	}
	gatewaytest.Await(t, "the gateway recovers", func() bool { return g.Get("/").Status == 200 })
}

// A token that the upstream rejects is none, though its time has not come.
func TestFailedRenewalOfARejectedTokenIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		g.mustGet()
		g.accepts(func(string) bool { return false }, nil)
		g.endpoint.becomes(servertest.Status(400))
		if a := g.get(); a.status != 502 {
			t.Errorf("got %+v", a)
		}
		entries := g.logs.FilterMessage("no token obtained").All()
		if len(entries) != 1 || entries[0].ContextMap()["trigger"] != string(tokencache.TriggerRejected) {
			t.Errorf("logged %v", g.logs.All())
		}
	})
}
