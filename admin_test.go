package oauthcc

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// ask sends a request to the admin endpoint.
func (g *gateway) ask(method, path string) answer {
	g.t.Helper()
	return g.do(clientRequest(g.t, method, "http://"+g.admin+"/oauth_cc/"+path, nil))
}

// list is what the admin endpoint tells of the tokens.
func (g *gateway) list() []tokenStatus {
	g.t.Helper()
	a := g.ask(http.MethodGet, "tokens")
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" || a.header.Get("Cache-Control") != "no-store" {
		g.t.Fatalf("listing: %d %v %s", a.status, a.header, a.body)
	}
	if !strings.Contains(a.body, `"tokens":[`) {
		g.t.Errorf("no array: %s", a.body)
	}
	var list tokenList
	decodeStrictly(g.t, a.body, &list)
	return list.Tokens
}

func decodeStrictly(t testing.TB, body string, into any) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
}

// theOne is the only token there is.
func (g *gateway) theOne() tokenStatus {
	g.t.Helper()
	list := g.list()
	if len(list) != 1 {
		g.t.Fatalf("%d tokens, want one: %+v", len(list), list)
	}
	return list[0]
}

func wantState(t testing.TB, s tokenStatus, state string, generation uint64) {
	t.Helper()
	if s.State != state || s.Generation != generation {
		t.Errorf("%s, generation %d; want %s, generation %d", s.State, s.Generation, state, generation)
	}
}

func TestAdminListsTokens(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGatewayWithAdmin(t, endpoint.options("scope orders items", "audience https://api.example.com")+upstream.proxy())
	s := g.theOne()
	wantState(t, s, stateNone, 0)
	if s.Endpoint != endpoint.URL+"/token" || s.ClientID != "app" || s.AuthMethod != authSecretBasic || strings.Join(s.Scopes, " ") != "orders items" ||
		strings.Join(s.Audience, " ") != "https://api.example.com" || s.ObtainedAt != nil || s.LastError != nil || s.NextTry != nil {
		t.Errorf("told %+v", s)
	}
	g.get("/")
	g.get("/")
	s = g.theOne()
	wantState(t, s, stateFresh, 1)
	if s.Token != fingerprint("token-1") || s.Requests != 2 || s.Fetches != 1 || s.FailedFetches != 0 || s.Fetching || s.Shared {
		t.Errorf("told %+v", s)
	}
	if left := time.Until(*s.ExpiresAt); left > time.Hour || left < time.Hour-patience || !s.StaleFrom.Before(*s.ExpiresAt) || !s.ObtainedAt.Before(*s.StaleFrom) {
		t.Errorf("obtained at %s, stale from %s, expires at %s", s.ObtainedAt, s.StaleFrom, s.ExpiresAt)
	}
}

func TestAdminTellsOfFailures(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		http.Error(w, `{"error":"invalid_client","error_description":"endpoint-canary"}`, http.StatusUnauthorized)
	})
	g := startGatewayWithAdmin(t, endpoint.options()+upstream.proxy())
	g.get("/")
	s := g.theOne()
	wantState(t, s, stateNone, 0)
	if s.LastError == nil || s.LastError.Error != "invalid_client" || s.LastError.Status != 401 || time.Since(s.LastError.At) > patience ||
		s.FailedFetches != 1 || s.Requests != 0 || s.NextTry == nil || time.Until(*s.NextTry) > 18*time.Second {
		t.Errorf("told %+v, last error %+v", s, s.LastError)
	}

	a := g.ask(http.MethodPost, "tokens/"+s.ID+"/refresh")
	if a.status != http.StatusBadGateway || a.body != `{"error":"no access token: invalid_client, HTTP status 401"}`+"\n" {
		t.Errorf("refreshing: %d %s", a.status, a.body)
	}
	endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusServiceUnavailable) })
	if a := g.ask(http.MethodPost, "tokens/"+s.ID+"/refresh"); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("refreshing: %d %v", a.status, a.header)
	}

	endpoint.setAnswer(nil)
	a = g.ask(http.MethodPost, "tokens/"+s.ID+"/refresh") // ends the pause
	var refreshed tokenStatus
	decodeStrictly(t, a.body, &refreshed)
	wantState(t, refreshed, stateFresh, 1)
	if a.status != http.StatusOK || refreshed.NextTry != nil || refreshed.LastError == nil || refreshed.LastError.Error != "server_error" {
		t.Errorf("refreshing: %d %s", a.status, a.body)
	}
	if a := g.get("/"); a.body != "GET / with token-1" {
		t.Errorf("got %d %q", a.status, a.body)
	}
	if last := g.logs.with("token obtained"); len(last) != 1 || last[0]["trigger"] != "operator" {
		t.Errorf("logged %v", last)
	}
}

func TestAdminRefreshesAGoodToken(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGatewayWithAdmin(t, endpoint.options()+upstream.proxy())
	g.get("/")
	id := g.theOne().ID
	if a := g.ask(http.MethodPost, "tokens/"+id+"/refresh"); a.status != http.StatusOK {
		t.Fatalf("refreshing: %d %s", a.status, a.body)
	}
	if a := g.get("/"); a.body != "GET / with token-2" {
		t.Errorf("got %q", a.body)
	}
	wantFetched(t, endpoint, 2)

	endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusBadRequest) })
	if a := g.ask(http.MethodPost, "tokens/"+id+"/refresh"); a.status != http.StatusBadGateway {
		t.Errorf("refreshing: %d %s", a.status, a.body)
	}
	if a := g.get("/"); a.body != "GET / with token-2" {
		t.Errorf("a refresh that failed took the token away: %d %q", a.status, a.body)
	}
}

func TestAdminForgetsATokenOnce(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGatewayWithAdmin(t, endpoint.options()+upstream.proxy())
	g.get("/")
	s := g.theOne()
	for range 2 {
		if a := g.ask(http.MethodDelete, "tokens/"+s.ID); a.status != http.StatusNoContent || a.body != "" {
			t.Fatalf("deleting: %d %s", a.status, a.body)
		}
		dropped := g.theOne()
		wantState(t, dropped, stateNone, 0)
		if dropped.ID != s.ID || dropped.Token != "" {
			t.Errorf("told %+v", dropped)
		}
	}
	if a := g.get("/"); a.body != "GET / with token-2" {
		t.Errorf("got %d %q", a.status, a.body)
	}
	wantState(t, g.theOne(), stateFresh, 2)
	wantFetched(t, endpoint, 2)
}

// A pause ends as well.
func TestAdminForgetsAFailure(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusBadRequest) })
	g := startGatewayWithAdmin(t, endpoint.options()+upstream.proxy())
	g.get("/")
	endpoint.setAnswer(nil)
	g.ask(http.MethodDelete, "tokens/"+g.theOne().ID)
	if a := g.get("/"); a.body != "GET / with token-1" {
		t.Errorf("got %d %q", a.status, a.body)
	}
}

// What is deleted on a gateway must not come back to it by way of the storage, and what is
// refreshed must be asked for.
func TestAdminAsksPastTheStorage(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		for _, method := range []string{http.MethodDelete, http.MethodPost} {
			t.Run(fmt.Sprintf("%s, restarted: %t", method, restarted), func(t *testing.T) {
				endpoint, upstream, root := startTokenServer(t), startAPI(t), t.TempDir()
				site := endpoint.options("storage file_system "+root) + upstream.proxy()
				g := startGatewayWithAdmin(t, site)
				g.get("/")
				awaitRecords(t, root, 1)
				if restarted {
					g.reload("")
					g.reload(site)
				}
				path := "tokens/" + g.theOne().ID
				if method == http.MethodPost {
					path += "/refresh"
				}
				if a := g.ask(method, path); a.status >= 300 || strings.Contains(a.body, `"shared"`) {
					t.Errorf("%d %s", a.status, a.body)
				}
				if a := g.get("/"); a.body != "GET / with token-2" {
					t.Errorf("got %d %q", a.status, a.body)
				}
				awaitRecords(t, root, 1)
				wantFetched(t, endpoint, 2)
				// Others, and this gateway later on, have the new one.
				g.reload("")
				g.reload(site)
				if a := g.get("/"); a.body != "GET / with token-2" {
					t.Errorf("got %d %q", a.status, a.body)
				}
				wantFetched(t, endpoint, 2)
			})
		}
	}
}

// A fetch that began before may bring what another gateway had got.
func TestAdminRefreshWaitsForAFetchAndMakesItsOwn(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	release := make(chan struct{})
	endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, n int) {
		if n == 1 {
			<-release
		}
		endpoint.grant(w)
	})
	g := startGatewayWithAdmin(t, endpoint.options()+upstream.proxy())
	var both sync.WaitGroup
	both.Go(func() { g.get("/") })
	awaitCondition(t, "the endpoint is asked", func() bool { return endpoint.count() == 1 })
	id := g.theOne().ID
	both.Go(func() {
		if a := g.ask(http.MethodPost, "tokens/"+id+"/refresh"); a.status != http.StatusOK || !strings.Contains(a.body, `"generation":2`) {
			t.Errorf("refreshing: %d %s", a.status, a.body)
		}
	})
	grant := handlers.running()[0].source.grant
	awaitCondition(t, "the operator waits for it", func() bool {
		grant.mu.Lock()
		defer grant.mu.Unlock()
		return grant.flight.waiting == 2
	})
	close(release)
	both.Wait()
	wantFetched(t, endpoint, 2)
}

func TestAdminDeletionWakesPrefetching(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGatewayWithAdmin(t, endpoint.options("prefetch")+upstream.proxy())
	awaitCondition(t, "the first token is there", func() bool { return g.theOne().State == stateFresh })
	g.ask(http.MethodDelete, "tokens/"+g.theOne().ID)
	awaitCondition(t, "the next token is there", func() bool { s := g.theOne(); return s.State == stateFresh && s.Generation == 2 })
	wantFetched(t, endpoint, 2)
}

// A map can choose URLs that have more in them than may be shown.
func TestAdminDoesNotShowWhatIsInAnEndpointsURL(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGatewayWithAdmin(t, "map {http.request.header.X-Tenant} {tenant_url} {\nacme "+endpoint.URL+"/token?code=query-canary\nbad http://user:pass-canary@127.0.0.1/token\n}\n"+
		"oauth_cc {tenant_url} {\nclient_id app\nclient_secret s3cret-canary\n}\n"+upstream.proxy())
	for _, name := range []string{"acme", "bad"} {
		g.do(tenantRequest(t, g, name))
	}
	told := g.ask(http.MethodGet, "tokens").body
	if strings.Contains(told, "canary") || !strings.Contains(told, `"tenant_url":"`+endpoint.URL+`/token"`) || strings.Count(told, `"id"`) != 2 {
		t.Errorf("told %s", told)
	}
}

func TestValuesThatAreNotShown(t *testing.T) {
	for placeholder, shown := range map[string]bool{
		"http.request.header.X-Tenant": true, "http.auth.user.id": true, "http.request.host": true, "http.request.uri.path": true,
		"http.request.header.Authorization": false, "http.request.header.X-Api-Key": false, "http.request.cookie.session": false,
		"http.request.uri.query": false, "http.request.uri.query.sig": false, "http.request.header.X-Pass": false, "http.request.uri": false,
		"http.request.orig_uri": false, "http.request.uri.prefixed_query": false,
	} {
		h := provisionedConfig(t, configWithClient("client_id app", "client_secret x", "scope {"+placeholder+"}"))
		if got := !h.perRequest[0].secret; got != shown {
			t.Errorf("%s is shown: %t", placeholder, got)
		}
	}
}

func TestAdminIDsOutliveReloadsAndRotation(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	options := func(secret string) string {
		return strings.Replace(endpoint.options("scope orders"), "s3cret-canary", secret, 1) + upstream.proxy()
	}
	g := startGatewayWithAdmin(t, options("one"))
	id := g.theOne().ID
	g.reload(options("one"))
	if again := g.theOne().ID; again != id {
		t.Errorf("%s has become %s", id, again)
	}
	g.reload(options("two"))
	if again := g.theOne().ID; again != id {
		t.Errorf("%s has become %s by another secret", id, again)
	}
	// Two that differ in the secret alone, on servers that Caddy sets up in any order.
	other := freeAddr(t)
	both := options("one") + "}\nhttp://" + other + " {\n" + options("two")
	g.reload(both)
	second := g.list()[1].ID
	if a := g.ask(http.MethodPost, "tokens/"+second+"/refresh"); a.status != http.StatusOK || !strings.HasPrefix(second, id+"-") {
		t.Errorf("refreshing %s: %d %s", second, a.status, a.body)
	}
	for range 5 {
		g.reload(both)
		for _, s := range g.list() {
			if isSecond := s.ID == second; isSecond != (s.State == stateFresh) || s.ID == id {
				t.Errorf("%s is another grant than it was: %+v", s.ID, s)
			}
		}
	}

	if err := g.tryReload("handle {\n" + options("three") + "}\nhandle /bad {\n" + endpoint.options("auth_method nonsense") + "}\n"); err == nil {
		t.Fatal("the configuration was loaded")
	}
	if after := g.list(); len(after) != 2 {
		t.Errorf("a load that failed left %+v", after)
	}
	g.reload("respond gone")
	if after := g.list(); len(after) != 0 {
		t.Errorf("still listed: %+v", after)
	}
}

func TestAdminListsTenants(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGatewayWithAdmin(t, strings.NewReplacer("client_id app", "client_id {http.request.header.X-Tenant}",
		"s3cret-canary", "{http.request.header.X-Secret}").Replace(endpoint.options())+upstream.proxy())
	tenant := func(name string) answer {
		req := clientRequest(t, http.MethodGet, g.url("/"), nil)
		req.Header.Set("X-Tenant", name)
		req.Header.Set("X-Secret", "tenant-canary-"+name)
		return g.do(req)
	}
	if list := g.list(); len(list) != 0 {
		t.Errorf("listed %+v", list)
	}
	long := strings.Repeat("x", 100)
	for _, name := range []string{"acme", "globex", long} {
		tenant(name)
	}
	tenant("acme")
	list := g.list()
	if len(list) != 3 {
		t.Fatalf("listed %+v", list)
	}
	for i, want := range []string{"acme", long[:maxShown], "globex"} { // the last used first
		s := list[i]
		if shown := s.Values["http.request.header.X-Tenant"]; shown != want || len(s.Values) != 1 || s.ClientID != "{http.request.header.X-Tenant}" {
			t.Errorf("%d: told %+v", i, s)
		}
		wantState(t, s, stateFresh, 1)
	}
	if list[0].Requests != 2 || list[1].Requests != 1 {
		t.Errorf("%d and %d requests", list[0].Requests, list[1].Requests)
	}
	if a := g.ask(http.MethodGet, "tokens?limit=2"); !strings.Contains(a.body, `"omitted":1`) || strings.Count(a.body, `"id"`) != 2 {
		t.Errorf("listed %s", a.body)
	}
	if strings.Contains(g.ask(http.MethodGet, "tokens").body, "tenant-canary") {
		t.Error("told a secret")
	}

	if a := g.ask(http.MethodPost, "tokens/"+list[0].ID+"/refresh"); a.status != http.StatusConflict || !strings.Contains(a.body, "DELETE") {
		t.Errorf("refreshing: %d %s", a.status, a.body)
	}
	if a := g.ask(http.MethodDelete, "tokens/"+list[0].ID); a.status != http.StatusNoContent {
		t.Errorf("deleting: %d %s", a.status, a.body)
	}
	if a := tenant("acme"); a.body != "GET / with token-4" {
		t.Errorf("got %q", a.body)
	}
	if a := tenant("globex"); a.body != "GET / with token-2" {
		t.Errorf("another tenant's is gone: %q", a.body)
	}
}

func TestAdminReady(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	down := func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusBadRequest) }
	endpoint.setAnswer(down)
	g := startGatewayWithAdmin(t, "handle /one {\n"+endpoint.options("scope one")+upstream.proxy()+"}\nhandle /two {\n"+endpoint.options("scope two")+upstream.proxy()+
		"}\nhandle {\n"+endpoint.options("scope {http.request.header.X-Tenant}")+upstream.proxy()+"}\n")
	ready := func() (int, readiness) {
		a := g.ask(http.MethodGet, "ready")
		var r readiness
		decodeStrictly(t, a.body, &r)
		return a.status, r
	}
	status, r := ready()
	if status != http.StatusServiceUnavailable || r.Ready || len(r.Missing) != 2 {
		t.Errorf("%d %+v", status, r)
	}
	awaitCondition(t, "both have failed", func() bool { return len(g.logs.with("no token obtained")) == 2 })
	for range 3 { // the endpoint is left alone
		if status, r = ready(); status != http.StatusServiceUnavailable || r.Missing[0].LastError == nil || r.Missing[0].NextTry == nil {
			t.Errorf("%d %+v", status, r)
		}
	}
	wantFetched(t, endpoint, 2)

	endpoint.setAnswer(nil)
	for _, s := range g.list() {
		g.ask(http.MethodPost, "tokens/"+s.ID+"/refresh")
	}
	if status, r = ready(); status != http.StatusOK || !r.Ready || len(r.Missing) > 0 {
		t.Errorf("%d %+v", status, r)
	}
	g.reload("respond nothing")
	if status, r = ready(); status != http.StatusOK || !r.Ready {
		t.Errorf("without a grant: %d %+v", status, r)
	}
}

// A gateway that gets no traffic before it is ready must become so by itself.
func TestAdminReadyGetsTheFirstToken(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGatewayWithAdmin(t, endpoint.options()+upstream.proxy())
	awaitCondition(t, "it is ready", func() bool { return g.ask(http.MethodGet, "ready").status == http.StatusOK })
	wantFetched(t, endpoint, 1)
	if obtained := g.logs.with("token obtained"); len(obtained) != 1 || obtained[0]["trigger"] != "prefetch" {
		t.Errorf("logged %v", obtained)
	}
}

func TestAdminRefusesWhatItDoesNotDo(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGatewayWithAdmin(t, endpoint.options()+upstream.proxy())
	id := g.theOne().ID
	for _, test := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{http.MethodPost, "tokens", 405, "GET, HEAD"},
		{http.MethodGet, "tokens/" + id, 405, "DELETE"},
		{http.MethodGet, "tokens/" + id + "/refresh", 405, "POST"},
		{http.MethodDelete, "ready", 405, "GET, HEAD"},
		{http.MethodDelete, "tokens/nonsense", 404, ""},
		{http.MethodPost, "tokens/nonsense/refresh", 404, ""},
		{http.MethodGet, "tokens?limit=many", 400, ""},
		{http.MethodGet, "tokens?limit=-1", 400, ""},
		{http.MethodHead, "tokens", 200, ""},
		{http.MethodHead, "ready", 503, ""},
	} {
		a := g.ask(test.method, test.path)
		if a.status != test.status || a.header.Get("Allow") != test.allow {
			t.Errorf("%s %s: %d, allows %q; want %d, %q", test.method, test.path, a.status, a.header.Get("Allow"), test.status, test.allow)
		}
		if a.status >= 400 && test.method != http.MethodHead && !strings.HasPrefix(a.body, `{"error":"`) {
			t.Errorf("%s %s: %s", test.method, test.path, a.body)
		}
	}
	// Caddy's own rules hold.
	req := clientRequest(t, http.MethodPost, "http://"+g.admin+"/oauth_cc/tokens/"+id+"/refresh", nil)
	req.Header.Set("Origin", "https://evil.example.com")
	if a := g.do(req); a.status != http.StatusForbidden {
		t.Errorf("from a web page: %d", a.status)
	}
	if endpoint.count() > 1 { // by HEAD of ready
		t.Errorf("%d token requests", endpoint.count())
	}
}

func TestAdminListsAnIssuersEndpoint(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	endpoint.setAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.Method == http.MethodGet {
			fmt.Fprintf(w, `{"issuer":%q,"token_endpoint":%q}`, endpoint.URL, endpoint.URL+"/discovered?secret=canary")
			return
		}
		endpoint.grant(w)
	})
	g := startGatewayWithAdmin(t, strings.Replace(endpoint.options("issuer "+endpoint.URL), "oauth_cc "+endpoint.URL+"/token", "oauth_cc", 1)+upstream.proxy())
	if s := g.theOne(); s.Issuer != endpoint.URL || s.Endpoint != "" {
		t.Errorf("told %+v", s)
	}
	g.get("/")
	if s := g.theOne(); s.Issuer != endpoint.URL || s.Endpoint != endpoint.URL+"/discovered" {
		t.Errorf("told %+v", s)
	}
}
