package requests

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func TestPrefetchBeginsWithTheConfiguration(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, endpoint.Options("prefetch")+upstream.Proxy())
	gatewaytest.Await(t, "the first token is there", func() bool { return len(g.Logs.With("token obtained")) > 0 })
	if why := g.Logs.With("token obtained")[0]["trigger"]; why != "prefetch" {
		t.Errorf("obtained because of %q", why)
	}
	gatewaytest.Await(t, "it is used", func() bool {
		req := gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil)
		return g.Do(req).Body == "GET / with token-1"
	})
	gatewaytest.WantFetched(t, endpoint, 1)
	if logged := g.Logs.All(); strings.Contains(logged, "s3cret-canary") {
		t.Error("the log has the secret")
	}
}

func TestPrefetchNeitherDelaysNorFailsTheStart(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	release := make(chan struct{})
	defer close(release)
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request, n int){
		"a hang": func(_ http.ResponseWriter, r *http.Request, _ int) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		},
		"a refusal": func(w http.ResponseWriter, _ *http.Request, _ int) {
			http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
		},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint.SetAnswer(answer)
			before := endpoint.Count()
			g := gatewaytest.Start(t, endpoint.Options("prefetch")+upstream.Proxy()+"\nrespond /health OK")
			gatewaytest.Await(t, "the endpoint is asked", func() bool { return endpoint.Count() > before })
			g.Reload("respond gone")
			if a := g.Get("/"); a.Body != "gone" {
				t.Errorf("got %d %q", a.Status, a.Body)
			}
		})
	}
}

// After a reload the new configuration keeps the token, and the old one doesn't.
func TestPrefetchGoesOverToTheNextConfiguration(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.Lifetime = 2
	site := endpoint.Options("prefetch") + upstream.Proxy()
	g := gatewaytest.Start(t, gatewaytest.ReloadRoute("old", site))
	for i := range 5 {
		g.Reload(gatewaytest.ReloadRoute(i, site))
	}
	before := endpoint.Count()
	start := time.Now()
	gatewaytest.Await(t, "the token is kept", func() bool { return endpoint.Count() >= before+3 })
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("3 token requests in %v: kept more than once", took)
	}
}
