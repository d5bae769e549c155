package requests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// Under the race detector: through rejections and replays no tenant gets another's token.
func TestEachTenantGetsItsOwnToken(t *testing.T) {
	server, upstream := gatewaytest.StartTenantServer(t, gatewaytest.MappedSecrets()), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, gatewaytest.MappedSite(server, upstream))
	for _, tenant := range []string{"a", "b", "a", "b"} {
		gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, tenant), 200, "GET / with of-"+tenant+"-id-1")
	}
	var wait sync.WaitGroup
	revoke := make(chan struct{})
	for i := range 8 {
		tenant := string("ab"[i%2])
		wait.Go(func() {
			for n := range 20 {
				if n == 10 && i == 0 {
					close(revoke)
				}
				req, _ := http.NewRequest(http.MethodPost, g.URL("/"), strings.NewReader("body of "+tenant))
				req.Header.Set("X-Tenant", tenant)
				a, err := gatewaytest.Exchange(gatewaytest.Client, req)
				if err != nil || a.Status != 200 || !strings.HasPrefix(a.Body, "POST / with of-"+tenant+"-id-") {
					t.Errorf("%s got %d %q, %v", tenant, a.Status, a.Body, err)
				}
			}
		})
	}
	<-revoke
	upstream.Revoke("of-a-id-1")
	wait.Wait()
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "a"), 200, "GET / with of-a-id-2")
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "b"), 200, "GET / with of-b-id-1")
	gatewaytest.WantFetched(t, server.TokenServer, 3)
	for _, served := range upstream.Accepted() {
		if tenant := served.Header.Get("X-Tenant"); served.Body != "" && served.Body != "body of "+tenant {
			t.Errorf("%s sent %q", tenant, served.Body)
		}
	}
	if strings.Contains(g.Logs.All(), "s3cret-canary") {
		t.Error("the log has a secret")
	}
	gatewaytest.WantNoPanicLogged(t, g)
}

func TestTenantsWithEndpointsOfTheirOwn(t *testing.T) {
	one := gatewaytest.StartTenantServer(t, map[string]string{"gateway": "s3cret-canary-a"})
	two := gatewaytest.StartTenantServer(t, map[string]string{"gateway": "s3cret-canary-b"})
	upstream := gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, gatewaytest.TenantMap("{endpoint} {secret}",
		"a "+one.URL+"/token s3cret-canary-a", "b "+two.URL+"/token s3cret-canary-b", "mixed "+one.URL+"/token s3cret-canary-b",
		"cleartext http://auth.example.com/token s3cret-canary-a", "user http://user:pass@"+one.Listener.Addr().String()+"/token s3cret-canary-a",
		"path /token s3cret-canary-a", "none - s3cret-canary-a")+
		"oauth_cc {endpoint} {\nclient_id gateway\nclient_secret {secret}\n}\n"+upstream.Proxy())
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "a"), 200, "GET / with of-gateway-1")
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "mixed"), 502, "")
	gatewaytest.WantFetched(t, one.TokenServer, 2)
	gatewaytest.WantFetched(t, two.TokenServer, 0)
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "b"), 200, "GET / with of-gateway-1")
	gatewaytest.WantFetched(t, two.TokenServer, 1)
	for tenant, says := range map[string]string{
		"cleartext": "token_endpoint: http would show the credential",
		"user":      "token_endpoint: the URL has user info",
		"path":      "token_endpoint: not an absolute",
		"none":      "token_endpoint: placeholder {endpoint} is empty",
	} {
		gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, tenant), 502, "")
		if !strings.Contains(g.Logs.All(), says) {
			t.Errorf("%s: the log does not say %q", tenant, says)
		}
	}
	gatewaytest.WantFetched(t, one.TokenServer, 2)
	gatewaytest.WantFetched(t, two.TokenServer, 1)
}

func TestReloadDuringTokenRequests(t *testing.T) {
	server, upstream := gatewaytest.StartTenantServer(t, gatewaytest.MappedSecrets()), gatewaytest.StartAPI(t)
	release := make(chan struct{})
	server.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		<-release
		server.Serve(w, r)
	})
	site := gatewaytest.MappedSite(server, upstream)
	g := gatewaytest.Start(t, site)
	var wait sync.WaitGroup
	for _, tenant := range []string{"a", "b"} {
		wait.Go(func() {
			if a := gatewaytest.AskAsTenant(g, tenant); a.Status != 200 || a.Body != "GET / with of-"+tenant+"-id-1" {
				t.Errorf("%s got %d %q", tenant, a.Status, a.Body)
			}
		})
	}
	gatewaytest.Await(t, "both are asked for", func() bool { return server.Count() == 2 })
	// Caddy waits for requests in progress in the background.
	g.Reload(site + "header X-New 1\n")
	for range 4 {
		wait.Go(func() {
			if a := gatewaytest.AskAsTenant(g, "a"); a.Status != 200 || a.Body != "GET / with of-a-id-1" || a.Header.Get("X-New") != "1" {
				t.Errorf("after the reload: got %d %q", a.Status, a.Body)
			}
		})
	}
	close(release)
	wait.Wait()
	gatewaytest.WantFetched(t, server.TokenServer, 2)
	gatewaytest.WantNoPanicLogged(t, g)
}

// Every way in which Caddy can set a placeholder of a request.
func TestWhereTheValuesComeFrom(t *testing.T) {
	dir := t.TempDir()
	for _, tenant := range []string{"a", "b"} {
		servertest.WriteFile(t, filepath.Join(dir, tenant), "s3cret-canary-"+tenant+"\n")
	}
	t.Setenv("OAUTH_CC_TEST_SUFFIX", "id")
	t.Setenv("OAUTH_CC_TEST_SECRET_A", "s3cret-canary-a")
	t.Setenv("OAUTH_CC_TEST_SECRET_B", "s3cret-canary-b")
	options := func(id, secret string) string { return "client_id " + id + "\nclient_secret " + secret + "\n" }
	for name, test := range map[string]struct{ before, options string }{
		"a header in a map":       {gatewaytest.TenantMap("{id} {secret}", "a a-id s3cret-canary-a", "b b-id s3cret-canary-b"), options("{id}", "{secret}")},
		"files in a map":          {gatewaytest.TenantMap("{secret}", "a {file."+dir+"/a}", "b {file."+dir+"/b}"), options("{header.X-Tenant}-id", "{secret}")},
		"variables in a map":      {gatewaytest.TenantMap("{secret}", "a {env.OAUTH_CC_TEST_SECRET_A}", "b {env.OAUTH_CC_TEST_SECRET_B}"), options("{header.X-Tenant}-id", "{secret}")},
		"mixed with the others":   {"", options("{header.X-Tenant}-{env.OAUTH_CC_TEST_SUFFIX}", "s3cret-canary-{header.X-Tenant}")},
		"a header":                {"", options("{header.X-Tenant}-id", "s3cret-canary-{header.X-Tenant}")},
		"a part of the host":      {"request_header X-A {labels.0}", options("{header.X-Tenant}-id", "s3cret-canary-{header.X-Tenant}")},
		"vars":                    {"vars {\nid {header.X-Tenant}-id\nsecret s3cret-canary-{header.X-Tenant}\n}", options("{vars.id}", "{vars.secret}")},
		"a regular expression":    {"@tenant header_regexp tenant X-Tenant ^([ab])$\nvars @tenant matched yes", options("{re.tenant.1}-id", "s3cret-canary-{re.tenant.1}")},
		"a map of an expression":  {gatewaytest.TenantMap("{id} {secret}", "~^([ab])$ $1-id s3cret-canary-$1"), options("{id}", "{secret}")},
		"a map within a subroute": {"", "in a subroute"},
	} {
		t.Run(name, func(t *testing.T) {
			server, upstream := gatewaytest.StartTenantServer(t, gatewaytest.MappedSecrets()), gatewaytest.StartAPI(t)
			site := test.before + "\noauth_cc " + server.URL + "/token {\n" + test.options + "}\n" + upstream.Proxy()
			if test.options == "in a subroute" {
				site = "handle {\nroute {\n" + gatewaytest.MappedSite(server, upstream) + "\n}\n}\n"
			}
			g := gatewaytest.Start(t, site)
			for range 2 {
				gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "a"), 200, "GET / with of-a-id-1")
				gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "b"), 200, "GET / with of-b-id-1")
			}
			gatewaytest.WantFetched(t, server.TokenServer, 2)
		})
	}
}

// A secret that a map reads from a file is another value once the file is replaced, so the
// request after that asks for a token with it.
func TestRotatedSecretInAMapIsAnotherGrant(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	servertest.WriteFile(t, file, "s3cret-canary-a\n")
	server, upstream := gatewaytest.StartTenantServer(t, gatewaytest.MappedSecrets()), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, gatewaytest.TenantMap("{id} {secret}", "a a-id {file."+file+"}", "b b-id s3cret-canary-b")+
		"oauth_cc "+server.URL+"/token {\nclient_id {id}\nclient_secret {secret}\n}\n"+upstream.Proxy())
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "a"), 200, "GET / with of-a-id-1")
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "b"), 200, "GET / with of-b-id-1")
	server.Becomes("a-id", "s3cret-canary-new")
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "a"), 200, "GET / with of-a-id-1")
	servertest.WriteFile(t, file, "s3cret-canary-new\n")
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "a"), 200, "GET / with of-a-id-2")
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "b"), 200, "GET / with of-b-id-1")
	gatewaytest.WantFetched(t, server.TokenServer, 3)

	// A file that is gone leaves the tenant without a secret, and not with another's.
	servertest.WriteFile(t, file, "")
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "a"), 502, "")
	gatewaytest.WantMissing(t, g, "client_secret: placeholder {secret} is empty", 1)
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "b"), 200, "GET / with of-b-id-1")
	gatewaytest.WantFetched(t, server.TokenServer, 3)
}

// A secret of the gateway's own, beside a tenant's scope, is read as with a single grant.
func TestRotatedSecretEndsThePauseOfEveryTenant(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	servertest.WriteFile(t, file, "old")
	server, upstream := gatewaytest.StartTenantServer(t, map[string]string{"app": "new"}), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, "oauth_cc "+server.URL+"/token {\nclient_id app\nclient_secret {file."+file+"}\nscope {header.X-Tenant}\n}\n"+upstream.Proxy())
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "a"), 502, "")
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "b"), 502, "")
	gatewaytest.WantFetched(t, server.TokenServer, 2)
	servertest.WriteFile(t, file, "new")
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "a"), 200, "GET / with of-app-1")
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "b"), 200, "GET / with of-app-2")
}

func TestMissingValueIsNobodysGrant(t *testing.T) {
	server, upstream := gatewaytest.StartTenantServer(t, gatewaytest.MappedSecrets()), gatewaytest.StartAPI(t)
	site := "oauth_cc " + server.URL + "/token {\nclient_id {header.X-Tenant}\nclient_secret s3cret-canary-a\n%s\n}\n" + upstream.Proxy() +
		"handle_errors {\nrespond \"{err.status_code} {http.oauth_cc.error} {http.oauth_cc.status}\" {err.status_code}\n}\n"
	g := gatewaytest.Start(t, fmt.Sprintf(site, ""))
	says := "client_id: placeholder {http.request.header.X-Tenant} is empty"
	gatewaytest.CheckAnswer(t, g.Get("/"), 502, "502 refused none")
	gatewaytest.WantMissing(t, g, says, 1)
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, ""), 502, "502 refused none")
	gatewaytest.WantMissing(t, g, says, 2)
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "a-id"), 200, "GET / with of-a-id-1")
	gatewaytest.CheckAnswer(t, g.Get("/"), 502, "502 refused none")
	gatewaytest.WantFetched(t, server.TokenServer, 1)
	// Sent twice it is neither of both.
	gatewaytest.CheckAnswer(t, gatewaytest.SendLines(t, http.MethodGet, g.URL("/"), "", "X-Tenant: a-id", "X-Tenant: b-id"), 502, "502 invalid_client none")

	g.Reload(fmt.Sprintf(site, "allow_without_token"))
	before := upstream.Rejections()
	gatewaytest.CheckAnswer(t, gatewaytest.SendLines(t, http.MethodGet, g.URL("/"), "", "Authorization: Bearer of-a-id-1"), 401, "token rejected\n")
	if upstream.Rejections() != before+1 {
		t.Error("the API did not get the request without a token")
	}
	gatewaytest.WantProbed(t, gatewaytest.AskAsTenant(g, "a-id"), 200, "")

	g.Reload(fmt.Sprintf(site, "keep_client_authorization"))
	wantNoMore := server.Count()
	gatewaytest.CheckAnswer(t, gatewaytest.SendLines(t, http.MethodGet, g.URL("/"), "", "Authorization: Bearer of-the-client"), 200, "GET / with of-the-client")
	gatewaytest.CheckAnswer(t, g.Get("/"), 502, "502 refused none")
	gatewaytest.WantFetched(t, server.TokenServer, wantNoMore)
}

func TestUnmappedTenantIsNobodysGrant(t *testing.T) {
	server, upstream := gatewaytest.StartTenantServer(t, gatewaytest.MappedSecrets()), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, gatewaytest.MappedSite(server, upstream))
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "a"), 200, "GET / with of-a-id-1")
	for i, tenant := range []string{"c", "", "A", "a ,b", "a,b", "{id}", "~a", "a-id"} {
		gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, tenant), 502, "")
		gatewaytest.WantMissing(t, g, "client_id: placeholder {id} is empty", i+1)
	}
	gatewaytest.CheckAnswer(t, g.Get("/"), 502, "")
	gatewaytest.WantFetched(t, server.TokenServer, 1)
}

// What can't be sent as it is fails the request of that tenant alone.
func TestValueThatDoesNotFitItsOption(t *testing.T) {
	server, upstream := gatewaytest.StartTenantServer(t, map[string]string{"app": "s3cret-canary-a"}), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, "oauth_cc "+server.URL+"/token {\nclient_id app\nclient_secret s3cret-canary-a\nrequest_header X-Tenant {query.tenant}\nresource {query.api}\n}\n"+upstream.Proxy())
	good := "/?tenant=a&api=https%3A%2F%2Fapi.example.com%2F"
	gatewaytest.WantProbed(t, g.Get(good), 200, "")
	for path, says := range map[string]string{
		"/?api=https%3A%2F%2Fapi.example.com%2F&tenant=a%0d%0aX-Injected%3A1": "request_header: the value of X-Tenant has characters that a header can't carry",
		"/?api=https%3A%2F%2Fapi.example.com%2F&tenant=a%00":                  "request_header: the value of X-Tenant has characters",
		"/?tenant=a&api=https%3A%2F%2Fapi.example.com%2F%23a":                 "resource: ",
		"/?tenant=a&api=orders": "resource: ",
	} {
		gatewaytest.CheckAnswer(t, g.Get(path), 502, "")
		if !strings.Contains(g.Logs.All(), says) {
			t.Errorf("the log does not say %q", says)
		}
	}
	gatewaytest.WantProbed(t, g.Get(good), 200, "")
	gatewaytest.WantFetched(t, server.TokenServer, 1)
}

// Tenants of one issuer need its metadata once.
func TestTenantsShareTheirIssuersMetadata(t *testing.T) {
	server, upstream := gatewaytest.StartTenantServer(t, nil), gatewaytest.StartAPI(t)
	documents := 0
	server.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.URL.Path == "/token" {
			server.Serve(w, r)
			return
		}
		server.State.Lock()
		documents++
		server.State.Unlock()
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": server.URL, "token_endpoint": server.URL + "/token"})
	})
	const tenants = 30
	server.Secrets = make(map[string]string)
	for n := range tenants {
		server.Secrets[fmt.Sprintf("id-%d", n)] = "s3cret-canary"
	}
	site := "oauth_cc {\nissuer " + server.URL + "\nclient_id {header.X-Tenant}\nclient_secret s3cret-canary\n}\n" + upstream.Proxy()
	g := gatewaytest.Start(t, site)
	all := func() {
		var wait sync.WaitGroup
		for n := range tenants {
			wait.Go(func() {
				if a := gatewaytest.AskAsTenant(g, fmt.Sprintf("id-%d", n)); a.Status != 200 || a.Body != fmt.Sprintf("GET / with of-id-%d-1", n) {
					t.Errorf("tenant %d got %d %q", n, a.Status, a.Body)
				}
			})
		}
		wait.Wait()
	}
	all()
	g.Reload(site + "header X-New 1\n")
	all()
	gatewaytest.WantFetched(t, server.TokenServer, tenants+1)
	if documents != 1 {
		t.Errorf("the metadata was read %d times", documents)
	}
}

// Each tenant's token is bound, and gets a proof of its own with each request.
func TestTenantsWithBoundTokens(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	g := gatewaytest.Start(t, gatewaytest.BoundOptions(server, upstream, "scope {header.X-Tenant}"))
	tokens := make(map[string]string)
	for _, tenant := range []string{"a", "b"} {
		a := gatewaytest.AskAsTenant(g, tenant)
		gatewaytest.WantProbed(t, a, 200, "")
		_, tokens[tenant], _ = strings.Cut(a.Body, " with ")
	}
	if tokens["a"] == tokens["b"] || tokens["a"] == "" {
		t.Errorf("the tokens are %v", tokens)
	}
	upstream.Demand("nonce-1")
	for range 3 {
		for _, tenant := range []string{"a", "b"} {
			gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, tenant), 200, "GET / with "+tokens[tenant])
		}
	}
	revoked := strings.TrimSpace(tokens["a"])
	upstream.Accepts(func(token string) bool { return token != revoked })
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "b"), 200, "GET / with "+tokens["b"])
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "a"), 200, "GET / with token-3 ")
	upstream.WantNoErrors(t)
	server.WantNoErrors(t)
	gatewaytest.WantFetched(t, server.TokenServer, 3)
}

// A limit below the number of tenants costs token requests and nothing else.
func TestMoreTenantsThanTokens(t *testing.T) {
	server, upstream := gatewaytest.StartTenantServer(t, map[string]string{"app": "s3cret-canary-a"}), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, "oauth_cc "+server.URL+"/token {\nclient_id app\nclient_secret s3cret-canary-a\nscope {header.X-Tenant}\nmax_tokens 2\n}\n"+upstream.Proxy())
	for i, step := range []struct {
		tenant  string
		fetches int
	}{{"a", 1}, {"b", 2}, {"a", 2}, {"c", 3}, {"a", 3}, {"b", 4}, {"c", 5}, {"b", 5}} {
		gatewaytest.WantProbed(t, gatewaytest.AskAsTenant(g, step.tenant), 200, "")
		if n := server.Count(); n != step.fetches {
			t.Fatalf("after step %d, %s: %d token requests, want %d", i+1, step.tenant, n, step.fetches)
		}
	}
}
