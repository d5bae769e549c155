package oauthcc

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// tenantServer is a token endpoint with several clients. It grants of-<client_id>-1,
// of-<client_id>-2, … to whoever has that client's secret.
type tenantServer struct {
	*tokenServer

	state   sync.Mutex
	secrets map[string]string
	grants  map[string]int
}

func startTenantServer(t testing.TB, secrets map[string]string) *tenantServer {
	s := &tenantServer{tokenServer: startTokenServer(t), secrets: secrets, grants: make(map[string]int)}
	s.setAnswer(func(w http.ResponseWriter, r *http.Request, _ int) { s.serve(w, r) })
	return s
}

func (s *tenantServer) serve(w http.ResponseWriter, r *http.Request) {
	id, secret, _ := r.BasicAuth()
	s.state.Lock()
	defer s.state.Unlock()
	if secret == "" || s.secrets[id] != secret {
		http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
		return
	}
	s.grants[id]++
	fmt.Fprintf(w, `{"access_token":"of-%s-%d","token_type":"Bearer","expires_in":3600}`, id, s.grants[id])
}

// becomes replaces a client's secret.
func (s *tenantServer) becomes(id, secret string) {
	s.state.Lock()
	defer s.state.Unlock()
	s.secrets[id] = secret
}

// tenantMap is a map from the header to what is in the lines.
func tenantMap(destinations string, lines ...string) string {
	return "map {header.X-Tenant} " + destinations + " {\n" + strings.Join(lines, "\n") + "\n}\n"
}

// mappedSite has the clients a and b for tenants of these names.
func mappedSite(s *tenantServer, upstream *api, more ...string) string {
	return tenantMap("{id} {secret}", "a a-id s3cret-canary-a", "b b-id s3cret-canary-b") +
		"oauth_cc " + s.URL + "/token {\nclient_id {id}\nclient_secret {secret}\n" + strings.Join(more, "\n") + "\n}\n" + upstream.proxy()
}

func mappedSecrets() map[string]string {
	return map[string]string{"a-id": "s3cret-canary-a", "b-id": "s3cret-canary-b"}
}

func (g *gateway) asTenant(tenant string) answer {
	g.t.Helper()
	return sendLines(g.t, http.MethodGet, g.url("/"), "", "X-Tenant: "+tenant)
}

// Under the race detector: through rejections and replays no tenant gets another's token.
func TestEachTenantGetsItsOwnToken(t *testing.T) {
	server, upstream := startTenantServer(t, mappedSecrets()), startAPI(t)
	g := startGateway(t, mappedSite(server, upstream))
	for _, tenant := range []string{"a", "b", "a", "b"} {
		checkAnswer(t, g.asTenant(tenant), 200, "GET / with of-"+tenant+"-id-1")
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
				req, _ := http.NewRequest(http.MethodPost, g.url("/"), strings.NewReader("body of "+tenant))
				req.Header.Set("X-Tenant", tenant)
				a, err := exchangeWith(testClient, req)
				if err != nil || a.status != 200 || !strings.HasPrefix(a.body, "POST / with of-"+tenant+"-id-") {
					t.Errorf("%s got %d %q, %v", tenant, a.status, a.body, err)
				}
			}
		})
	}
	<-revoke
	upstream.revoke("of-a-id-1")
	wait.Wait()
	checkAnswer(t, g.asTenant("a"), 200, "GET / with of-a-id-2")
	checkAnswer(t, g.asTenant("b"), 200, "GET / with of-b-id-1")
	wantFetched(t, server.tokenServer, 3)
	upstream.mu.Lock()
	for _, served := range upstream.served {
		if tenant := served.header.Get("X-Tenant"); served.body != "" && served.body != "body of "+tenant {
			t.Errorf("%s sent %q", tenant, served.body)
		}
	}
	upstream.mu.Unlock()
	if strings.Contains(g.logs.all(), "s3cret-canary") {
		t.Error("the log has a secret")
	}
	wantNoPanicLogged(t, g)
}

func TestTenantsWithEndpointsOfTheirOwn(t *testing.T) {
	one := startTenantServer(t, map[string]string{"gateway": "s3cret-canary-a"})
	two := startTenantServer(t, map[string]string{"gateway": "s3cret-canary-b"})
	upstream := startAPI(t)
	g := startGateway(t, tenantMap("{endpoint} {secret}",
		"a "+one.URL+"/token s3cret-canary-a", "b "+two.URL+"/token s3cret-canary-b", "mixed "+one.URL+"/token s3cret-canary-b",
		"cleartext http://auth.example.com/token s3cret-canary-a", "user http://user:pass@"+one.Listener.Addr().String()+"/token s3cret-canary-a",
		"path /token s3cret-canary-a", "none - s3cret-canary-a")+
		"oauth_cc {endpoint} {\nclient_id gateway\nclient_secret {secret}\n}\n"+upstream.proxy())
	checkAnswer(t, g.asTenant("a"), 200, "GET / with of-gateway-1")
	checkAnswer(t, g.asTenant("mixed"), 502, "")
	wantFetched(t, one.tokenServer, 2)
	wantFetched(t, two.tokenServer, 0)
	checkAnswer(t, g.asTenant("b"), 200, "GET / with of-gateway-1")
	wantFetched(t, two.tokenServer, 1)
	for tenant, says := range map[string]string{
		"cleartext": "token_endpoint: http would show the credential",
		"user":      "token_endpoint: the URL has user info",
		"path":      "token_endpoint: not an absolute",
		"none":      "token_endpoint: placeholder {endpoint} is empty",
	} {
		checkAnswer(t, g.asTenant(tenant), 502, "")
		if !strings.Contains(g.logs.all(), says) {
			t.Errorf("%s: the log does not say %q", tenant, says)
		}
	}
	wantFetched(t, one.tokenServer, 2)
	wantFetched(t, two.tokenServer, 1)
}

// A reload keeps the tokens, of a table of the same size.
func TestReloadKeepsTheTokensOfAllTenants(t *testing.T) {
	server, upstream := startTenantServer(t, mappedSecrets()), startAPI(t)
	site := mappedSite(server, upstream)
	g := startGateway(t, site)
	g.asTenant("a")
	g.asTenant("b")
	for i := range 5 {
		g.reload(site + fmt.Sprintf("header X-Reload %d\n", i))
		checkAnswer(t, g.asTenant("a"), 200, "GET / with of-a-id-1")
		checkAnswer(t, g.asTenant("b"), 200, "GET / with of-b-id-1")
	}
	wantFetched(t, server.tokenServer, 2)
	if n := len(grantReferences()); n != 1 {
		t.Errorf("%d grants in the pool, want the table", n)
	}
	g.reload("respond gone")
	awaitCondition(t, "the table is released", func() bool { return len(grantReferences()) == 0 })
	g.reload(site)
	checkAnswer(t, g.asTenant("a"), 200, "GET / with of-a-id-2")
}

func TestReloadDuringTokenRequests(t *testing.T) {
	server, upstream := startTenantServer(t, mappedSecrets()), startAPI(t)
	release := make(chan struct{})
	server.setAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		<-release
		server.serve(w, r)
	})
	site := mappedSite(server, upstream)
	g := startGateway(t, site)
	var wait sync.WaitGroup
	for _, tenant := range []string{"a", "b"} {
		wait.Go(func() {
			if a := g.asTenant(tenant); a.status != 200 || a.body != "GET / with of-"+tenant+"-id-1" {
				t.Errorf("%s got %d %q", tenant, a.status, a.body)
			}
		})
	}
	awaitCondition(t, "both are asked for", func() bool { return server.count() == 2 })
	// Caddy waits for requests in progress in the background.
	g.reload(site + "header X-New 1\n")
	for range 4 {
		wait.Go(func() {
			if a := g.asTenant("a"); a.status != 200 || a.body != "GET / with of-a-id-1" || a.header.Get("X-New") != "1" {
				t.Errorf("after the reload: got %d %q", a.status, a.body)
			}
		})
	}
	close(release)
	wait.Wait()
	wantFetched(t, server.tokenServer, 2)
	wantNoPanicLogged(t, g)
}

// Every way in which Caddy can set a placeholder of a request.
func TestWhereTheValuesComeFrom(t *testing.T) {
	dir := t.TempDir()
	for _, tenant := range []string{"a", "b"} {
		writeFile(t, filepath.Join(dir, tenant), "s3cret-canary-"+tenant+"\n")
	}
	t.Setenv("OAUTH_CC_TEST_SUFFIX", "id")
	t.Setenv("OAUTH_CC_TEST_SECRET_A", "s3cret-canary-a")
	t.Setenv("OAUTH_CC_TEST_SECRET_B", "s3cret-canary-b")
	options := func(id, secret string) string { return "client_id " + id + "\nclient_secret " + secret + "\n" }
	for name, test := range map[string]struct{ before, options string }{
		"a header in a map":       {tenantMap("{id} {secret}", "a a-id s3cret-canary-a", "b b-id s3cret-canary-b"), options("{id}", "{secret}")},
		"files in a map":          {tenantMap("{secret}", "a {file."+dir+"/a}", "b {file."+dir+"/b}"), options("{header.X-Tenant}-id", "{secret}")},
		"variables in a map":      {tenantMap("{secret}", "a {env.OAUTH_CC_TEST_SECRET_A}", "b {env.OAUTH_CC_TEST_SECRET_B}"), options("{header.X-Tenant}-id", "{secret}")},
		"mixed with the others":   {"", options("{header.X-Tenant}-{env.OAUTH_CC_TEST_SUFFIX}", "s3cret-canary-{header.X-Tenant}")},
		"a header":                {"", options("{header.X-Tenant}-id", "s3cret-canary-{header.X-Tenant}")},
		"a part of the host":      {"request_header X-A {labels.0}", options("{header.X-Tenant}-id", "s3cret-canary-{header.X-Tenant}")},
		"vars":                    {"vars {\nid {header.X-Tenant}-id\nsecret s3cret-canary-{header.X-Tenant}\n}", options("{vars.id}", "{vars.secret}")},
		"a regular expression":    {"@tenant header_regexp tenant X-Tenant ^([ab])$\nvars @tenant matched yes", options("{re.tenant.1}-id", "s3cret-canary-{re.tenant.1}")},
		"a map of an expression":  {tenantMap("{id} {secret}", "~^([ab])$ $1-id s3cret-canary-$1"), options("{id}", "{secret}")},
		"a map within a subroute": {"", "in a subroute"},
	} {
		t.Run(name, func(t *testing.T) {
			server, upstream := startTenantServer(t, mappedSecrets()), startAPI(t)
			site := test.before + "\noauth_cc " + server.URL + "/token {\n" + test.options + "}\n" + upstream.proxy()
			if test.options == "in a subroute" {
				site = "handle {\nroute {\n" + mappedSite(server, upstream) + "\n}\n}\n"
			}
			g := startGateway(t, site)
			for range 2 {
				checkAnswer(t, g.asTenant("a"), 200, "GET / with of-a-id-1")
				checkAnswer(t, g.asTenant("b"), 200, "GET / with of-b-id-1")
			}
			wantFetched(t, server.tokenServer, 2)
		})
	}
}

// A secret that a map reads from a file is another value once the file is replaced, so the
// request after that asks for a token with it.
func TestRotatedSecretInAMapIsAnotherGrant(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	writeFile(t, file, "s3cret-canary-a\n")
	server, upstream := startTenantServer(t, mappedSecrets()), startAPI(t)
	g := startGateway(t, tenantMap("{id} {secret}", "a a-id {file."+file+"}", "b b-id s3cret-canary-b")+
		"oauth_cc "+server.URL+"/token {\nclient_id {id}\nclient_secret {secret}\n}\n"+upstream.proxy())
	checkAnswer(t, g.asTenant("a"), 200, "GET / with of-a-id-1")
	checkAnswer(t, g.asTenant("b"), 200, "GET / with of-b-id-1")
	server.becomes("a-id", "s3cret-canary-new")
	checkAnswer(t, g.asTenant("a"), 200, "GET / with of-a-id-1")
	writeFile(t, file, "s3cret-canary-new\n")
	checkAnswer(t, g.asTenant("a"), 200, "GET / with of-a-id-2")
	checkAnswer(t, g.asTenant("b"), 200, "GET / with of-b-id-1")
	wantFetched(t, server.tokenServer, 3)

	// A file that is gone leaves the tenant without a secret, and not with another's.
	writeFile(t, file, "")
	checkAnswer(t, g.asTenant("a"), 502, "")
	wantMissing(t, g, "client_secret: placeholder {secret} is empty", 1)
	checkAnswer(t, g.asTenant("b"), 200, "GET / with of-b-id-1")
	wantFetched(t, server.tokenServer, 3)
}

// A secret of the gateway's own, beside a tenant's scope, is read as with a single grant.
func TestRotatedSecretEndsThePauseOfEveryTenant(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	writeFile(t, file, "old")
	server, upstream := startTenantServer(t, map[string]string{"app": "new"}), startAPI(t)
	g := startGateway(t, "oauth_cc "+server.URL+"/token {\nclient_id app\nclient_secret {file."+file+"}\nscope {header.X-Tenant}\n}\n"+upstream.proxy())
	checkAnswer(t, g.asTenant("a"), 502, "")
	checkAnswer(t, g.asTenant("b"), 502, "")
	wantFetched(t, server.tokenServer, 2)
	writeFile(t, file, "new")
	checkAnswer(t, g.asTenant("a"), 200, "GET / with of-app-1")
	checkAnswer(t, g.asTenant("b"), 200, "GET / with of-app-2")
}

// wantMissing checks how often the log names a placeholder without a value.
func wantMissing(t testing.TB, g *gateway, says string, want int) {
	t.Helper()
	count := 0
	for _, entry := range g.logs.with("no token for a request") {
		if entry["error"] == says && entry["level"] == "error" {
			count++
		}
	}
	if count != want {
		t.Errorf("the log says %d times %q, want %d: %v", count, says, want, g.logs.with("no token for a request"))
	}
}

func TestMissingValueIsNobodysGrant(t *testing.T) {
	server, upstream := startTenantServer(t, mappedSecrets()), startAPI(t)
	site := "oauth_cc " + server.URL + "/token {\nclient_id {header.X-Tenant}\nclient_secret s3cret-canary-a\n%s\n}\n" + upstream.proxy() +
		"handle_errors {\nrespond \"{err.status_code} {http.oauth_cc.error} {http.oauth_cc.status}\" {err.status_code}\n}\n"
	g := startGateway(t, fmt.Sprintf(site, ""))
	says := "client_id: placeholder {http.request.header.X-Tenant} is empty"
	checkAnswer(t, g.get("/"), 502, "502 refused none")
	wantMissing(t, g, says, 1)
	checkAnswer(t, g.asTenant(""), 502, "502 refused none")
	wantMissing(t, g, says, 2)
	checkAnswer(t, g.asTenant("a-id"), 200, "GET / with of-a-id-1")
	checkAnswer(t, g.get("/"), 502, "502 refused none")
	wantFetched(t, server.tokenServer, 1)
	// Sent twice it is neither of both.
	checkAnswer(t, sendLines(t, http.MethodGet, g.url("/"), "", "X-Tenant: a-id", "X-Tenant: b-id"), 502, "502 invalid_client none")

	g.reload(fmt.Sprintf(site, "allow_without_token"))
	before := upstream.rejected
	checkAnswer(t, sendLines(t, http.MethodGet, g.url("/"), "", "Authorization: Bearer of-a-id-1"), 401, "token rejected\n")
	if upstream.rejected != before+1 {
		t.Error("the API did not get the request without a token")
	}
	wantProbed(t, g.asTenant("a-id"), 200, "")

	g.reload(fmt.Sprintf(site, "keep_client_authorization"))
	wantNoMore := server.count()
	checkAnswer(t, sendLines(t, http.MethodGet, g.url("/"), "", "Authorization: Bearer of-the-client"), 200, "GET / with of-the-client")
	checkAnswer(t, g.get("/"), 502, "502 refused none")
	wantFetched(t, server.tokenServer, wantNoMore)
}

func TestUnmappedTenantIsNobodysGrant(t *testing.T) {
	server, upstream := startTenantServer(t, mappedSecrets()), startAPI(t)
	g := startGateway(t, mappedSite(server, upstream))
	checkAnswer(t, g.asTenant("a"), 200, "GET / with of-a-id-1")
	for i, tenant := range []string{"c", "", "A", "a ,b", "a,b", "{id}", "~a", "a-id"} {
		checkAnswer(t, g.asTenant(tenant), 502, "")
		wantMissing(t, g, "client_id: placeholder {id} is empty", i+1)
	}
	checkAnswer(t, g.get("/"), 502, "")
	wantFetched(t, server.tokenServer, 1)
}

// What can't be sent as it is fails the request of that tenant alone.
func TestValueThatDoesNotFitItsOption(t *testing.T) {
	server, upstream := startTenantServer(t, map[string]string{"app": "s3cret-canary-a"}), startAPI(t)
	g := startGateway(t, "oauth_cc "+server.URL+"/token {\nclient_id app\nclient_secret s3cret-canary-a\nrequest_header X-Tenant {query.tenant}\nresource {query.api}\n}\n"+upstream.proxy())
	good := "/?tenant=a&api=https%3A%2F%2Fapi.example.com%2F"
	wantProbed(t, g.get(good), 200, "")
	for path, says := range map[string]string{
		"/?api=https%3A%2F%2Fapi.example.com%2F&tenant=a%0d%0aX-Injected%3A1": "request_header: the value of X-Tenant has characters that a header can't carry",
		"/?api=https%3A%2F%2Fapi.example.com%2F&tenant=a%00":                  "request_header: the value of X-Tenant has characters",
		"/?tenant=a&api=https%3A%2F%2Fapi.example.com%2F%23a":                 "resource: ",
		"/?tenant=a&api=orders": "resource: ",
	} {
		checkAnswer(t, g.get(path), 502, "")
		if !strings.Contains(g.logs.all(), says) {
			t.Errorf("the log does not say %q", says)
		}
	}
	wantProbed(t, g.get(good), 200, "")
	wantFetched(t, server.tokenServer, 1)
}

// Tenants of one issuer need its metadata once.
func TestTenantsShareTheirIssuersMetadata(t *testing.T) {
	server, upstream := startTenantServer(t, nil), startAPI(t)
	documents := 0
	server.setAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.URL.Path == "/token" {
			server.serve(w, r)
			return
		}
		server.state.Lock()
		documents++
		server.state.Unlock()
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": server.URL, "token_endpoint": server.URL + "/token"})
	})
	const tenants = 30
	server.secrets = make(map[string]string)
	for n := range tenants {
		server.secrets[fmt.Sprintf("id-%d", n)] = "s3cret-canary"
	}
	site := "oauth_cc {\nissuer " + server.URL + "\nclient_id {header.X-Tenant}\nclient_secret s3cret-canary\n}\n" + upstream.proxy()
	g := startGateway(t, site)
	all := func() {
		var wait sync.WaitGroup
		for n := range tenants {
			wait.Go(func() {
				if a := g.asTenant(fmt.Sprintf("id-%d", n)); a.status != 200 || a.body != fmt.Sprintf("GET / with of-id-%d-1", n) {
					t.Errorf("tenant %d got %d %q", n, a.status, a.body)
				}
			})
		}
		wait.Wait()
	}
	all()
	g.reload(site + "header X-New 1\n")
	all()
	wantFetched(t, server.tokenServer, tenants+1)
	if documents != 1 {
		t.Errorf("the metadata was read %d times", documents)
	}
}

// Each tenant's token is bound, and gets a proof of its own with each request.
func TestTenantsWithBoundTokens(t *testing.T) {
	server, upstream := startBindingServer(t), startBoundAPI(t)
	g := startGateway(t, boundOptions(server, upstream, "scope {header.X-Tenant}"))
	tokens := make(map[string]string)
	for _, tenant := range []string{"a", "b"} {
		a := g.asTenant(tenant)
		wantProbed(t, a, 200, "")
		_, tokens[tenant], _ = strings.Cut(a.body, " with ")
	}
	if tokens["a"] == tokens["b"] || tokens["a"] == "" {
		t.Errorf("the tokens are %v", tokens)
	}
	upstream.demand("nonce-1")
	for range 3 {
		for _, tenant := range []string{"a", "b"} {
			checkAnswer(t, g.asTenant(tenant), 200, "GET / with "+tokens[tenant])
		}
	}
	revoked := strings.TrimSpace(tokens["a"])
	upstream.accepts(func(token string) bool { return token != revoked })
	checkAnswer(t, g.asTenant("b"), 200, "GET / with "+tokens["b"])
	checkAnswer(t, g.asTenant("a"), 200, "GET / with token-3 ")
	upstream.wantNoErrors(t)
	server.wantNoErrors(t)
	wantFetched(t, server.tokenServer, 3)
}

// A limit below the number of tenants costs token requests and nothing else.
func TestMoreTenantsThanTokens(t *testing.T) {
	server, upstream := startTenantServer(t, map[string]string{"app": "s3cret-canary-a"}), startAPI(t)
	g := startGateway(t, "oauth_cc "+server.URL+"/token {\nclient_id app\nclient_secret s3cret-canary-a\nscope {header.X-Tenant}\nmax_tokens 2\n}\n"+upstream.proxy())
	for i, step := range []struct {
		tenant  string
		fetches int
	}{{"a", 1}, {"b", 2}, {"a", 2}, {"c", 3}, {"a", 3}, {"b", 4}, {"c", 5}, {"b", 5}} {
		wantProbed(t, g.asTenant(step.tenant), 200, "")
		if n := server.count(); n != step.fetches {
			t.Fatalf("after step %d, %s: %d token requests, want %d", i+1, step.tenant, n, step.fetches)
		}
	}
}

// What a client sends does not stay in the memory, nor in the log, at any length.
func TestLongValuesAreNotKept(t *testing.T) {
	long := strings.Repeat("\xff", 7<<10)
	h := handlerInMemory(t, &Handler{Resource: []string{"{http.request.header.X-Tenant}"}})
	for _, value := range []string{long, long + long} {
		r := requestInCaddy("GET", "/", nil)
		r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("http.request.header.X-Tenant", value)
		var failure caddyhttp.HandlerError
		if err := h.ServeHTTP(httptest.NewRecorder(), r, trivialNext); !errors.As(err, &failure) || failure.StatusCode != http.StatusBadGateway {
			t.Fatalf("got %v", err)
		}
	}
	if len(h.table.entries) != 1 {
		t.Errorf("%d grants are kept, want that of the value which is not too long", len(h.table.entries))
	}
	for _, entry := range h.table.entries {
		if n := len(entry.failed.cause.detail); n == 0 || n > 2<<10 {
			t.Errorf("%d bytes are kept of the reason", n)
		}
	}
}
