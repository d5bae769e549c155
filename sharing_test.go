package oauthcc

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/fleet"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/storagetest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// newFleet makes gateways that share tokens, as processes of their own would: each has a
// cache of its own.
func newFleet(t *testing.T, storage certmagic.Storage, size int, options func() *Handler) []*virtualGateway {
	t.Helper()
	var gateways []*virtualGateway
	for range size {
		g := newVirtualGateway(t, options())
		if len(gateways) > 0 {
			g.endpoint = gateways[0].endpoint
			g.tokens.client.Transport = g.endpoint
		}
		g.tokens.source = &grantSource{h: g.Handler, grant: tokencache.NewGrant()}
		g.tokens.sharing = fleet.New(storage, time.Duration(g.Timeout), g.tokens.ahead, []string{g.request.trust}, g.reporter.logger)
		gateways = append(gateways, g)
	}
	return gateways
}

func plain() *Handler { return new(Handler) }

// settle has the gateways get their first token, and lets it be stored.
func settle(t *testing.T, gateways []*virtualGateway) {
	t.Helper()
	for _, g := range gateways {
		g.mustGet()
		synctest.Wait()
	}
}

func wantTokenRequests(t *testing.T, e *virtualEndpoint, want int) {
	t.Helper()
	if n := e.count(); n != want {
		t.Errorf("%d token requests, want %d", n, want)
	}
}

// Another gateway's token can have been revoked together with the one at hand. Only one that
// is fetched after the rejection tells.
func TestRejectionOfAnotherGatewaysTokenIsCured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gateways := newFleet(t, storagetest.NewMemory(), 2, plain)
		endpoint := gateways[0].endpoint
		settle(t, gateways)
		revoked := map[string]bool{"token-1": true}
		for _, g := range gateways {
			g.accepts(func(token string) bool { return !revoked[token] }, nil)
		}
		if a := gateways[0].mustGet(); a.token != "token-2" {
			t.Fatalf("got %+v", a)
		}
		synctest.Wait()
		revoked["token-2"] = true
		if a := gateways[1].mustGet(); a.token != "token-3" || a.from != statusReplayed {
			t.Errorf("got %+v", a)
		}
		wantTokenRequests(t, endpoint, 3)
		// Its body is kept for that, too.
		revoked["token-3"] = true
		time.Sleep(5 * time.Second) // no rejected token is renewed sooner after another
		if a := gateways[0].send(httptest.NewRequest(http.MethodPost, "/", strings.NewReader("a body"))); a.status != 200 || a.token != "token-4" {
			t.Errorf("got %+v", a)
		}
		wantTokenRequests(t, endpoint, 4)
	})
}

// However many tokens of others there are, a request is sent three times at the most.
func TestRejectionOfOthersTokensEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gateways := newFleet(t, storagetest.NewMemory(), 2, plain)
		settle(t, gateways)
		attempts := 0
		gateways[1].accepts(func(string) bool { attempts++; return false }, nil)
		gateways[0].accepts(func(token string) bool { return token != "token-1" }, nil)
		gateways[0].mustGet()
		synctest.Wait()
		if a := gateways[1].get(); a.status != 401 || attempts != 3 {
			t.Errorf("got %+v after %d attempts, want 401 after 3", a, attempts)
		}
		wantTokenRequests(t, gateways[0].endpoint, 3)
	})
}

// With an issuer the endpoint is not known when the token is looked for.
func TestTokenOfAnIssuerIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &servertest.Discovery{At: map[string]http.RoundTripper{
			servertest.RFC8414Place: servertest.Answer{Body: servertest.Document(nil)}, servertest.Endpoint: servertest.AnyToken,
		}}
		storage := storagetest.NewMemory()
		gateways := newFleet(t, storage, 2, func() *Handler { return &Handler{Issuer: servertest.Issuer} })
		for _, g := range gateways {
			g.tokens.client.Transport = server
		}
		gateways[0].mustGet()
		synctest.Wait()
		server.Since()
		if a := gateways[1].mustGet(); a.token != "tok-1" {
			t.Errorf("got %+v", a)
		}
		if asked := server.Since(); asked != "" {
			t.Errorf("asked %s, though the token is in the storage", asked)
		}
	})
}

// A secret that is replaced while the endpoint is asked is the one under which others find the
// token, however their configuration has it.
func TestReplacedSecretIsWhereOthersFindTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Setenv("OAUTH_CC_TEST_SECRET", "before")
		storage := storagetest.NewMemory()
		g := newFleet(t, storage, 1, func() *Handler { return &Handler{ClientSecret: "{env.OAUTH_CC_TEST_SECRET}"} })[0]
		other := newFleet(t, storage, 1, func() *Handler { return &Handler{ClientSecret: "after"} })[0]
		locked := &lockedEndpoint{secret: "after"}
		g.tokens.client.Transport = servertest.Func(func(req *http.Request) (*http.Response, error) {
			defer t.Setenv("OAUTH_CC_TEST_SECRET", "after")
			return locked.RoundTrip(req)
		})
		other.tokens.client.Transport = locked
		if a := g.mustGet(); a.token != "of-after" {
			t.Fatalf("got %+v", a)
		}
		synctest.Wait()
		if n := len(storage.All()); n != 2 { // with the sweeper's mark
			t.Errorf("%d values", n)
		}
		n := locked.count()
		if a := other.mustGet(); a.token != "of-after" || locked.count() != n {
			t.Errorf("got %+v with %d more token requests", a, locked.count()-n)
		}
	})
}

// While a gateway leaves the endpoint alone, it looks into the storage for others' tokens.
func TestStorageIsLookedIntoDuringAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gateways := newFleet(t, storagetest.NewMemory(), 2, plain)
		told, other := gateways[0], gateways[1]
		told.endpoint.becomes(servertest.Status(429, "Retry-After", "3600"))
		if a := told.get(); a.status != 503 {
			t.Fatalf("got %+v", a)
		}
		told.endpoint.becomes(nil)
		other.mustGet()
		time.Sleep(time.Second)
		if a := told.mustGet(); a.token != "token-1" {
			t.Errorf("got %+v", a)
		}
		wantTokenRequests(t, told.endpoint, 2)
	})
}
