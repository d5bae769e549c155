package servers

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// site is a gateway's site before an API: a client at an authorization server.
type site struct {
	name   string
	issuer *issuer
	client *client

	options   string // further ones of the plugin
	discover  bool   // the token endpoint is found by the issuer
	resource  string // for which the tokens are, as JWTs
	jwt       bool   // the tokens are JWTs without that
	apiNonces int    // for how many proofs the API takes a nonce, if it requires one
	before    string // directives that change the request
}

// with is the same site with another client.
func (s site) with(c *client) site {
	s.client = c
	return s
}

// revocable reports whether the authorization server can take a token back.
func (s site) revocable() bool { return s.resource == "" }

// caddyfile is the site's configuration.
func (s site) caddyfile(api *protectedAPI) string {
	var b strings.Builder
	endpoint := s.issuer.TokenEndpoint
	if s.client.certificate != nil {
		endpoint = s.issuer.MTLSAliases.TokenEndpoint
	}
	option := "token_endpoint " + endpoint
	if s.discover {
		option = "issuer " + s.issuer.Issuer
	}
	fmt.Fprintf(&b, "%s\noauth_cc {\n%s\n%s\n%s\n", s.before, option, s.client.options(), s.options)
	if s.resource != "" {
		fmt.Fprintf(&b, "resource %s\n", s.resource)
	}
	if strings.HasPrefix(s.issuer.Issuer, "https:") {
		fmt.Fprintf(&b, "transport {\n%s\n}\n", ca.transport(s.client.certificate))
	}
	if s.client.dpop {
		fmt.Fprintf(&b, "dpop %s\n", api.URL)
	}
	fmt.Fprintf(&b, "}\nreverse_proxy %s {\n", api.URL)
	if c := s.client.certificate; c != nil {
		fmt.Fprintf(&b, "transport http {\n%s\n}\n", ca.transport(c))
	}
	b.WriteString("}\n")
	return b.String()
}

// runningSite is a site of a running gateway.
type runningSite struct {
	site
	api   *protectedAPI
	g     *gateway
	index int // among the gateway's sites
}

// startSites runs a gateway with sites, each before an API of its own.
func startSites(t testing.TB, sites ...site) []*runningSite {
	t.Helper()
	var running []*runningSite
	var configs []string
	for i, s := range sites {
		api := startAPI(t, s)
		running = append(running, &runningSite{site: s, api: api, index: i})
		configs = append(configs, s.caddyfile(api))
	}
	g := startGateway(t, configs...)
	for _, s := range running {
		s.g = g
	}
	return running
}

// path has a query, which is no part of a DPoP proof's htu.
const path = "/orders/1%2F2?expand=lines"

// request sends a request, and wants it to reach the API and come back, with its body.
func (s *runningSite) request(t testing.TB, method, body string) {
	t.Helper()
	status, answer, err := s.g.send(s.index, method, path, body)
	if want := method + " " + path + " " + body; err != nil || status != http.StatusOK || answer != want {
		t.Fatalf("%s of %s got %d %.200q, %v", method, s.client.id, status, answer, err)
	}
}

// wantRefusal sends a request, and wants the server to have refused the client.
func (s *runningSite) wantRefusal(t testing.TB) (logged map[string]any) {
	t.Helper()
	s.g.want(t, http.StatusBadGateway, s.index, http.MethodGet, path, "")
	failures := s.g.logs.with("no token obtained")
	if len(failures) != 1 || failures[0]["error"] != "invalid_client" {
		t.Fatalf("the log has %d failures, want one by invalid_client:\n%s", len(failures), s.g.logs.own())
	}
	return failures[0]
}

// testSites tests for each site that its API gets good tokens, that a revoked token
// is replaced without the client noticing, whatever it sends, and that tokens are
// outlived.
func testSites(t *testing.T, sites ...site) {
	var all []site
	for _, s := range sites {
		short := s.with(s.client.short())
		// The servers count in whole seconds, and can be early by one.
		short.options += "\nrefresh_ahead 50%"
		all = append(all, s, s.with(s.client.post()), short)
	}
	running := startSites(t, all...)
	for i, s := range sites {
		t.Run(s.name, func(t *testing.T) {
			testToken(t, running[3*i], http.MethodGet, "")
			testToken(t, running[3*i+1], http.MethodPost, strings.Repeat("An order. ", 10_000))
		})
	}
	t.Run("expiry", func(t *testing.T) {
		var short []*runningSite
		for i := range sites {
			short = append(short, running[3*i+2])
		}
		testExpiry(t, short)
	})
}

// testToken tests that the API gets a token, the same again, and another one when
// that has been revoked.
func testToken(t *testing.T, s *runningSite, method, body string) {
	t.Helper()
	s.request(t, method, body)
	s.request(t, method, body)
	token := s.api.lastToken()
	if n := s.api.tokens(); n != 1 {
		t.Errorf("%d tokens for two requests, want 1", n)
	}
	if !s.revocable() {
		return
	}
	s.issuer.revoke(t, token)
	s.request(t, method, body)
	if s.api.lastToken() == token {
		t.Error("the API accepts a token that was revoked")
	}
}

// testExpiry sends requests to all sites until the first token of each is not good
// any more. The API never sees one that isn't.
func testExpiry(t *testing.T, sites []*runningSite) {
	t.Helper()
	first := make([]string, len(sites))
	for i, s := range sites {
		s.request(t, http.MethodGet, "")
		first[i] = s.api.lastToken()
	}
	awaitCondition(t, "the first tokens have expired, after others were used", func() bool {
		outlived := true
		for i, s := range sites {
			s.request(t, http.MethodGet, "")
			outlived = outlived && s.api.tokens() > 1 && !s.api.accepts(first[i])
		}
		return outlived
	})
	for _, s := range sites {
		if slices.Contains(s.api.refused(), errInactive.Error()) {
			t.Errorf("%s: the API got a token that had expired", s.name)
		}
	}
}
