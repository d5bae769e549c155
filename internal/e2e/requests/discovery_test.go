package requests

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// startIssuer is a token server with metadata.
func startIssuer(t testing.TB) *gatewaytest.TokenServer {
	s := gatewaytest.StartTokenServer(t)
	s.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.URL.Path == "/token" {
			s.Grant(w)
			return
		}
		fmt.Fprintf(w, `{"issuer":%q,"token_endpoint":%q}`, s.URL, s.URL+"/token")
	})
	return s
}

func TestIssuerIsAllThatAGatewayNeeds(t *testing.T) {
	server, upstream := startIssuer(t), gatewaytest.StartAPI(t)
	site := "oauth_cc {\nissuer " + server.URL + "\nclient_id app\nclient_secret s3cret-canary\n}\n" + upstream.Proxy()
	g := gatewaytest.Start(t, site)
	g.GetConcurrently(20, 200)
	if n := server.Count(); n != 2 {
		t.Errorf("%d requests to the server, want one for the metadata and one for the token", n)
	}
	if told := g.Logs.With("token obtained"); len(told) != 1 || told[0]["endpoint"] != server.URL+"/token" {
		t.Errorf("logged %v", told)
	}
	// What is known of the server survives a reload with its token.
	g.Reload(site + "header X-New 1\n")
	upstream.Revoke("token-1")
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-2")
	if n := server.Count(); n != 3 {
		t.Errorf("%d requests to the server", n)
	}
}

// Metadata that can't be had is a failed fetch like any other: paused, answered and logged.
func TestFailedDiscoveryIsAFailedFetch(t *testing.T) {
	server, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	server.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { http.NotFound(w, nil) })
	g := gatewaytest.Start(t, "oauth_cc {\nissuer "+server.URL+"\nclient_id app\nclient_secret s3cret-canary\n}\n"+upstream.Proxy())
	g.GetConcurrently(20, 502)
	g.GetConcurrently(20, 502)
	if n := server.Count(); n != 2 {
		t.Errorf("asked %d times, want once for each place", n)
	}
	told := g.Logs.With("no token obtained")
	if len(told) != 1 || told[0]["error"] != "invalid_response" || told[0]["status"] != 404.0 || told[0]["endpoint"] != server.URL ||
		told[0]["detail"] != "reading the issuer's metadata at "+server.URL+"/.well-known/openid-configuration: there is no document" {
		t.Errorf("logged %v", told)
	}
}
