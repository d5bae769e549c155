package requests

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// corsAPI answers preflights without looking at a token, and wants one of all other requests.
func corsAPI(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Got", fmt.Sprint(r.Header["Authorization"]))
	switch {
	case r.Method == http.MethodOptions:
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.WriteHeader(http.StatusNoContent)
	case gatewaytest.Bearer(r) == "":
		gatewaytest.RejectToken(w)
	}
}

// preflight sends what a browser sends before a request to another origin.
func preflight(g *gatewaytest.Gateway, lines ...string) gatewaytest.Answer {
	g.T.Helper()
	req := gatewaytest.ClientRequest(g.T, http.MethodOptions, g.URL("/"), nil)
	req.Header.Set("Origin", "https://app.example.com")
	req.Header.Set("Access-Control-Request-Method", http.MethodGet)
	for i := 0; i < len(lines); i += 2 {
		req.Header.Set(lines[i], lines[i+1])
	}
	return g.Do(req)
}

// wantPreflight wants an answer of the API's, which got that for a token.
func wantPreflight(t *testing.T, a gatewaytest.Answer, got, status string) {
	t.Helper()
	if a.Status != 204 || a.Header.Get("X-Got") != got || a.Header.Get("X-Token") != status {
		t.Errorf("got %d with %v, want 204 of an API that got %s, and %s", a.Status, a.Header, got, status)
	}
}

const showStatus = "header >X-Token {http.oauth_cc.status}\n"

// A browser would report a failure of its preflight as one of CORS, and not show the 503 to the page.
func TestPreflightNeedsNoToken(t *testing.T) {
	for _, options := range []string{"", "retry_status off", "allow_without_token", "token_header X-Api-Key"} {
		t.Run(options, func(t *testing.T) {
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, corsAPI)
			endpoint.SetAnswer(func(_ http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() })
			g := gatewaytest.Start(t, showStatus+endpoint.Options(options, "timeout 200ms")+gatewaytest.ProxyTo(upstream))
			wantPreflight(t, preflight(g), "[]", "none")
			gatewaytest.WantFetched(t, endpoint, 0)
			if all := g.Logs.With("no token obtained"); len(all) != 0 {
				t.Errorf("logged %v", all)
			}
		})
	}
}

func TestOtherOptionsRequestsWaitForAToken(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, corsAPI)
	endpoint.SetAnswer(gatewaytest.RefuseClients)
	g := gatewaytest.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream))
	if a := g.Do(gatewaytest.ClientRequest(t, http.MethodOptions, g.URL("/"), nil)); a.Status != 502 {
		t.Errorf("OPTIONS without a method to ask for: got %d", a.Status)
	}
	req := gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil)
	req.Header.Set("Access-Control-Request-Method", http.MethodGet)
	if a := g.Do(req); a.Status != 502 {
		t.Errorf("GET that asks for a method: got %d", a.Status)
	}
}

func TestPreflightGetsTheTokenAtHand(t *testing.T) {
	for _, options := range []string{"", "retry_status off"} {
		t.Run(options, func(t *testing.T) {
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, corsAPI)
			g := gatewaytest.Start(t, gatewaytest.Monitored(showStatus+endpoint.Options(options)+gatewaytest.ProxyTo(upstream)))
			wantPreflight(t, preflight(g, "Authorization", "Bearer theirs"), "[]", "none")
			g.Get("/")
			wantPreflight(t, preflight(g, "Authorization", "Bearer theirs"), "[Bearer token-1]", "fresh")
			gatewaytest.WantFetched(t, endpoint, 1)
			gatewaytest.WantSamples(t, endpoint, gatewaytest.Scrape(g), map[string]float64{
				`requests_total token="none"`: 0, `requests_total token="fetched"`: 1, `requests_total token="fresh"`: 1,
			})
		})
	}
}

// Which tenant a preflight is of may stand in a header that browsers send with the request alone.
func TestPreflightNeedsNoTenant(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, corsAPI)
	site := showStatus + strings.Replace(endpoint.Options(), "client_id app", "client_id {http.request.header.X-Tenant}", 1) + gatewaytest.ProxyTo(upstream)
	g := gatewaytest.Start(t, site)
	wantPreflight(t, preflight(g), "[]", "none")
	wantPreflight(t, preflight(g, "X-Tenant", "acme"), "[]", "none")
	req := gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil)
	req.Header.Set("X-Tenant", "acme")
	g.Do(req)
	wantPreflight(t, preflight(g, "X-Tenant", "acme"), "[Bearer token-1]", "fresh")
	wantPreflight(t, preflight(g), "[]", "none")
	if told := g.Logs.With("no token for a request"); len(told) != 0 {
		t.Errorf("logged %v", told)
	}
}

// Many APIs reject preflights whatever the token, which says nothing about it.
func TestRejectedPreflightIsAnAnswer(t *testing.T) {
	for options, status := range map[string]int{"": 401, "retry_status off": 401, "mask_rejection": 502} {
		t.Run(options, func(t *testing.T) {
			endpoint, seen := gatewaytest.StartTokenServer(t), new(gatewaytest.AttemptLog)
			upstream := gatewaytest.StartScriptedAPI(t, seen.Observe(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodOptions {
					gatewaytest.RejectToken(w)
				}
			}))
			g := gatewaytest.Start(t, gatewaytest.Monitored(showStatus+endpoint.Options(options)+gatewaytest.ProxyTo(upstream)))
			for _, want := range []string{"none", "fresh"} {
				a := preflight(g)
				if a.Status != status || a.Header.Get("X-Token") != want || (a.Header.Get("WWW-Authenticate") != "") != (status == 401) {
					t.Errorf("got %d with %v, want %d and %s", a.Status, a.Header, status, want)
				}
				g.Get("/")
			}
			gatewaytest.WantFetched(t, endpoint, 1)
			if got := seen.Tokens(); got != " token-1 token-1 token-1" {
				t.Errorf("the API got the tokens %q", got)
			}
			for name, value := range gatewaytest.Scrape(g) {
				if strings.HasPrefix(name, "upstream_rejections_total") && value != 0 {
					t.Errorf("%s is %v", name, value)
				}
			}
		})
	}
}

// The proof is for the preflight itself, and the API's nonce is kept, but not used for a second attempt.
func TestPreflightIsProvenOnce(t *testing.T) {
	server, seen := gatewaytest.StartBindingServer(t), new(gatewaytest.AttemptLog)
	upstream := gatewaytest.StartScriptedAPI(t, seen.Observe(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodOptions {
			w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
			w.Header().Set("DPoP-Nonce", "n1")
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	for _, option := range []string{"", "retry_status off"} {
		g := gatewaytest.Start(t, server.Options("dpop "+upstream.URL, option)+gatewaytest.ProxyTo(upstream))
		g.Get("/")
		before := len(seen.All())
		if a := preflight(g); a.Status != 401 || a.Header.Get("DPoP-Nonce") != "" {
			t.Errorf("%s: got %d with %v", option, a.Status, a.Header)
		}
		got := seen.All()[before:]
		if len(got) != 1 || len(got[0].Header["Dpop"]) != 1 || !slices.Equal(got[0].Header["Authorization"], []string{"DPoP token-1"}) {
			t.Errorf("%s: the API got %v", option, got)
		}
	}
}
