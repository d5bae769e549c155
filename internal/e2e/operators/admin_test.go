package operators

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

func wantState(t testing.TB, s gatewaytest.TokenStatus, state string, generation uint64) {
	t.Helper()
	if s.State != state || s.Generation != generation {
		t.Errorf("%s, generation %d; want %s, generation %d", s.State, s.Generation, state, generation)
	}
}

func TestAdminListsTokens(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithAdmin(t, endpoint.Options("scope orders items", "audience https://api.example.com")+upstream.Proxy())
	s := g.Token()
	wantState(t, s, "none", 0)
	if s.Endpoint != endpoint.URL+"/token" || s.ClientID != "app" || s.AuthMethod != "client_secret_basic" || strings.Join(s.Scopes, " ") != "orders items" ||
		strings.Join(s.Audience, " ") != "https://api.example.com" || s.ObtainedAt != nil || s.LastError != nil || s.NextTry != nil {
		t.Errorf("told %+v", s)
	}
	g.Get("/")
	g.Get("/")
	s = g.Token()
	wantState(t, s, "fresh", 1)
	if s.Token != tokencache.Fingerprint("token-1") || s.Requests != 2 || s.Fetches != 1 || s.FailedFetches != 0 || s.Fetching || s.Shared {
		t.Errorf("told %+v", s)
	}
	if left := time.Until(*s.ExpiresAt); left > time.Hour || left < time.Hour-gatewaytest.Patience || !s.StaleFrom.Before(*s.ExpiresAt) || !s.ObtainedAt.Before(*s.StaleFrom) {
		t.Errorf("obtained at %s, stale from %s, expires at %s", s.ObtainedAt, s.StaleFrom, s.ExpiresAt)
	}
}

// What an operator wants to know at night: the token has not expired, but it is no good any more.
func TestAdminTellsOfRejections(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithAdmin(t, endpoint.Options()+upstream.Proxy())
	g.Get("/")
	if s := g.Token(); s.RejectedSince != nil {
		t.Errorf("told %+v", s)
	}
	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusServiceUnavailable) })
	upstream.Revoke("token-1")
	if a := g.Get("/"); a.Status != http.StatusServiceUnavailable {
		t.Errorf("got %+v", a)
	}
	s := g.Token()
	wantState(t, s, "fresh", 1)
	if s.RejectedSince == nil || s.RejectedSince.Before(*s.ObtainedAt) || s.RejectedSince.After(time.Now()) {
		t.Errorf("told %+v", s)
	}
	endpoint.SetAnswer(nil)
	g.Ask(http.MethodPost, "tokens/"+s.ID+"/refresh")
	if s := g.Token(); s.RejectedSince != nil || s.Generation != 2 {
		t.Errorf("told %+v", s)
	}
}

func TestAdminTellsOfFailures(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		http.Error(w, `{"error":"invalid_client","error_description":"endpoint-canary"}`, http.StatusUnauthorized)
	})
	g := gatewaytest.StartWithAdmin(t, endpoint.Options()+upstream.Proxy())
	g.Get("/")
	s := g.Token()
	wantState(t, s, "none", 0)
	if s.LastError == nil || s.LastError.Error != "invalid_client" || s.LastError.Status != 401 || time.Since(s.LastError.At) > gatewaytest.Patience ||
		s.FailedFetches != 1 || s.Requests != 0 || s.NextTry == nil || time.Until(*s.NextTry) > 18*time.Second {
		t.Errorf("told %+v, last error %+v", s, s.LastError)
	}

	a := g.Ask(http.MethodPost, "tokens/"+s.ID+"/refresh")
	if a.Status != http.StatusBadGateway || a.Body != `{"error":"no access token: invalid_client, HTTP status 401"}`+"\n" {
		t.Errorf("refreshing: %d %s", a.Status, a.Body)
	}
	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusServiceUnavailable) })
	if a := g.Ask(http.MethodPost, "tokens/"+s.ID+"/refresh"); a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
		t.Errorf("refreshing: %d %v", a.Status, a.Header)
	}

	g.Ask(http.MethodDelete, "tokens/"+s.ID) // which cures nothing
	if s := g.Token(); !s.Failing || s.NextTry != nil || s.LastError == nil || s.LastError.Error != "server_error" {
		t.Errorf("told %+v", s)
	}

	endpoint.SetAnswer(nil)
	a = g.Ask(http.MethodPost, "tokens/"+s.ID+"/refresh")
	var refreshed gatewaytest.TokenStatus
	gatewaytest.DecodeStrictly(t, a.Body, &refreshed)
	wantState(t, refreshed, "fresh", 1)
	if a.Status != http.StatusOK || refreshed.Failing || refreshed.NextTry != nil || refreshed.LastError == nil || refreshed.LastError.Error != "server_error" {
		t.Errorf("refreshing: %d %s", a.Status, a.Body)
	}
	if a := g.Get("/"); a.Body != "GET / with token-1" {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
	if last := g.Logs.With("token obtained"); len(last) != 1 || last[0]["trigger"] != "operator" {
		t.Errorf("logged %v", last)
	}
}

// The list has the words of the log.
func TestAdminTellsWhatMayHelp(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	refuse := func(w http.ResponseWriter, r *http.Request, _ int) {
		_, secret, _ := r.BasicAuth()
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, `{"error":"invalid_client","error_description":"no %s here"}`, secret)
	}
	endpoint.SetAnswer(refuse)
	g := gatewaytest.StartWithAdmin(t, endpoint.Options()+upstream.Proxy())
	told := func(want gatewaytest.FailedStatus) {
		t.Helper()
		got := g.Token().LastError
		if got == nil {
			t.Fatal("no error")
		}
		want.At, want.Help = got.At, "https://github.com/caddy-oauth-cc/caddy-oauth-cc/blob/main/docs/troubleshooting.md#"+want.Error
		if *got != want {
			t.Errorf("told %+v, want %+v", *got, want)
		}
		for _, entry := range g.Logs.With("no token obtained") {
			if entry["error"] == want.Error && entry["hint"] != want.Hint+"; see "+want.Help {
				t.Errorf("logged %v", entry)
			}
		}
	}
	id := g.Token().ID
	g.Ask(http.MethodPost, "tokens/"+id+"/refresh")
	told(gatewaytest.FailedStatus{Error: "invalid_client", Status: 401, EndpointMessage: "invalid_client no *** here",
		Hint: "the id or the secret may be wrong, or the endpoint may want them sent in another way; --try-methods finds out which"})

	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { fmt.Fprint(w, `{}`) })
	g.Ask(http.MethodPost, "tokens/"+id+"/refresh")
	told(gatewaytest.FailedStatus{Error: "invalid_response", Status: 200, Detail: "the answer has no access_token",
		Hint: "the answer may have the token elsewhere; if so, name the place with response_field access_token <path>, such as data.accessToken"})

	// The hint of that time stays, also when there is a token since.
	endpoint.SetAnswer(refuse)
	g.Ask(http.MethodPost, "tokens/"+id+"/refresh")
	before := g.Token().LastError
	endpoint.SetAnswer(nil)
	g.Ask(http.MethodPost, "tokens/"+id+"/refresh")
	told(*before)
	endpoint.SetAnswer(refuse)
	g.Ask(http.MethodDelete, "tokens/"+id)
	g.Get("/")
	if hint := g.Token().LastError.Hint; !strings.HasPrefix(hint, "the endpoint has taken this client's credential before") {
		t.Errorf("told %q", hint)
	}
	if last := g.Logs.With("no token obtained"); last[len(last)-1]["hint"] != g.Token().LastError.Hint+"; see "+g.Token().LastError.Help {
		t.Errorf("logged %v", last[len(last)-1])
	}
}

func TestAdminFindsTokens(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if id, _, _ := r.BasicAuth(); id == "bad" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		endpoint.Grant(w)
	})
	g := gatewaytest.StartWithAdmin(t, "handle /one {\n"+endpoint.Options("scope one")+upstream.Proxy()+"}\n"+
		"handle {\n"+strings.Replace(endpoint.Options("scope {http.request.host}", "param key {http.request.header.X-Key}"), "client_id app", "client_id {http.request.header.X-Tenant}", 1)+upstream.Proxy()+"}\n")
	for _, tenant := range []string{"acme", "Acme-Europe", "globex", "bad"} {
		req := gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil)
		req.Header.Set("X-Tenant", tenant)
		req.Header.Set("X-Key", "key-canary")
		g.Do(req)
	}
	find := func(query string) (found []string, list gatewaytest.TokenList) {
		t.Helper()
		a := g.Ask(http.MethodGet, "tokens?"+query)
		gatewaytest.DecodeStrictly(t, a.Body, &list)
		for _, token := range list.Tokens {
			found = append(found, cmp.Or(token.Values["http.request.header.X-Tenant"], "one"))
		}
		slices.Sort(found)
		return found, list
	}
	for query, want := range map[string]string{
		"": "Acme-Europe acme bad globex one", "state=fresh": "Acme-Europe acme globex", "state=none": "bad one", "state=none&value=bad": "bad",
		"state=none&state=fresh": "Acme-Europe acme bad globex one", "state=expired": "", "value=acme": "Acme-Europe acme", "value=ACME&value=europe": "Acme-Europe",
		"value=127.0.0.1&value=glob": "globex", "value=nobody": "", "value=canary": "",
		"failing=true": "bad", "failing=true&state=none&value=bad": "bad", "failing=true&state=fresh": "", "failing=true&value=acme": "",
	} {
		if found, list := find(query); strings.Join(found, " ") != want || list.Handlers != 2 || list.Omitted != 0 {
			t.Errorf("%q finds %q of %d handlers, %d omitted, want %q", query, found, list.Handlers, list.Omitted, want)
		}
	}
	// The limit is for what is found.
	for query, omitted := range map[string]int{"state=none&value=bad&limit=1": 0, "failing=true&limit=1": 0, "failing=true&limit=0": 1} {
		if found, list := find(query); len(found) != 1-omitted || list.Omitted != omitted || omitted == 0 && found[0] != "bad" {
			t.Errorf("%s finds %q, %d omitted", query, found, list.Omitted)
		}
	}
	if found, list := find("value=acme&limit=1"); len(found) != 1 || list.Omitted != 1 {
		t.Errorf("found %q, %d omitted", found, list.Omitted)
	}
	_, all := find("")
	for _, token := range all.Tokens {
		for _, prefix := range []string{token.ID, token.ID[:len(token.ID)-1]} {
			if _, list := find("id=" + prefix); len(list.Tokens) != 1 || list.Tokens[0].ID != token.ID {
				t.Errorf("%s finds %+v", prefix, list)
			}
		}
	}
	if a := g.Ask(http.MethodGet, "tokens?state=broken"); a.Status != http.StatusBadRequest || a.Body != `{"error":"state: there is no state \"broken\"; write none, fresh, stale, due or expired"}`+"\n" {
		t.Errorf("got %d %s", a.Status, a.Body)
	}
	g.Reload("respond nothing")
	if _, list := find(""); list.Handlers != 0 {
		t.Errorf("%d handlers", list.Handlers)
	}
}

func TestAdminRefreshesAGoodToken(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithAdmin(t, endpoint.Options()+upstream.Proxy())
	g.Get("/")
	id := g.Token().ID
	if a := g.Ask(http.MethodPost, "tokens/"+id+"/refresh"); a.Status != http.StatusOK {
		t.Fatalf("refreshing: %d %s", a.Status, a.Body)
	}
	if a := g.Get("/"); a.Body != "GET / with token-2" {
		t.Errorf("got %q", a.Body)
	}
	gatewaytest.WantFetched(t, endpoint, 2)

	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusBadRequest) })
	if a := g.Ask(http.MethodPost, "tokens/"+id+"/refresh"); a.Status != http.StatusBadGateway {
		t.Errorf("refreshing: %d %s", a.Status, a.Body)
	}
	if a := g.Get("/"); a.Body != "GET / with token-2" {
		t.Errorf("a refresh that failed took the token away: %d %q", a.Status, a.Body)
	}
}

func TestAdminForgetsATokenOnce(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithAdmin(t, endpoint.Options()+upstream.Proxy())
	g.Get("/")
	s := g.Token()
	for range 2 {
		if a := g.Ask(http.MethodDelete, "tokens/"+s.ID); a.Status != http.StatusNoContent || a.Body != "" {
			t.Fatalf("deleting: %d %s", a.Status, a.Body)
		}
		dropped := g.Token()
		wantState(t, dropped, "none", 0)
		if dropped.ID != s.ID || dropped.Token != "" {
			t.Errorf("told %+v", dropped)
		}
	}
	if a := g.Get("/"); a.Body != "GET / with token-2" {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
	wantState(t, g.Token(), "fresh", 2)
	gatewaytest.WantFetched(t, endpoint, 2)
}

// A pause ends as well.
func TestAdminForgetsAFailure(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusBadRequest) })
	g := gatewaytest.StartWithAdmin(t, endpoint.Options()+upstream.Proxy())
	g.Get("/")
	endpoint.SetAnswer(nil)
	g.Ask(http.MethodDelete, "tokens/"+g.Token().ID)
	if a := g.Get("/"); a.Body != "GET / with token-1" {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
}

// What is deleted on a gateway must not come back to it by way of the storage, and what is
// refreshed must be asked for.
func TestAdminAsksPastTheStorage(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		for _, method := range []string{http.MethodDelete, http.MethodPost} {
			t.Run(fmt.Sprintf("%s, restarted: %t", method, restarted), func(t *testing.T) {
				endpoint, upstream, root := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t), t.TempDir()
				site := endpoint.Options("storage file_system "+root) + upstream.Proxy()
				g := gatewaytest.StartWithAdmin(t, site)
				g.Get("/")
				gatewaytest.AwaitRecords(t, root, 1)
				if restarted {
					g.Reload("")
					g.Reload(site)
				}
				path := "tokens/" + g.Token().ID
				if method == http.MethodPost {
					path += "/refresh"
				}
				if a := g.Ask(method, path); a.Status >= 300 || strings.Contains(a.Body, `"shared"`) {
					t.Errorf("%d %s", a.Status, a.Body)
				}
				if a := g.Get("/"); a.Body != "GET / with token-2" {
					t.Errorf("got %d %q", a.Status, a.Body)
				}
				gatewaytest.AwaitRecords(t, root, 1)
				gatewaytest.WantFetched(t, endpoint, 2)
				// Others, and this gateway later on, have the new one.
				g.Reload("")
				g.Reload(site)
				if a := g.Get("/"); a.Body != "GET / with token-2" {
					t.Errorf("got %d %q", a.Status, a.Body)
				}
				gatewaytest.WantFetched(t, endpoint, 2)
			})
		}
	}
}

func TestAdminDeletionWakesPrefetching(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithAdmin(t, endpoint.Options("prefetch")+upstream.Proxy())
	gatewaytest.Await(t, "the first token is there", func() bool { return g.Token().State == "fresh" })
	g.Ask(http.MethodDelete, "tokens/"+g.Token().ID)
	gatewaytest.Await(t, "the next token is there", func() bool { s := g.Token(); return s.State == "fresh" && s.Generation == 2 })
	gatewaytest.WantFetched(t, endpoint, 2)
}

// A map can choose URLs that have more in them than may be shown.
func TestAdminDoesNotShowWhatIsInAnEndpointsURL(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithAdmin(t, "map {http.request.header.X-Tenant} {tenant_url} {\nacme "+endpoint.URL+"/token?code=query-canary\nbad http://user:pass-canary@127.0.0.1/token\n}\n"+
		"oauth_cc {tenant_url} {\nclient_id app\nclient_secret s3cret-canary\n}\n"+upstream.Proxy())
	for _, name := range []string{"acme", "bad"} {
		g.Do(gatewaytest.TenantRequest(t, g, name))
	}
	told := g.Ask(http.MethodGet, "tokens").Body
	if strings.Contains(told, "canary") || !strings.Contains(told, `"tenant_url":"`+endpoint.URL+`/token"`) || strings.Count(told, `"id"`) != 2 {
		t.Errorf("told %s", told)
	}
}

func TestAdminIDsOutliveReloadsAndRotation(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	options := func(secret string) string {
		return strings.Replace(endpoint.Options("scope orders"), "s3cret-canary", secret, 1) + upstream.Proxy()
	}
	g := gatewaytest.StartWithAdmin(t, options("one"))
	id := g.Token().ID
	g.Reload(options("one"))
	if again := g.Token().ID; again != id {
		t.Errorf("%s has become %s", id, again)
	}
	g.Reload(options("two"))
	if again := g.Token().ID; again != id {
		t.Errorf("%s has become %s by another secret", id, again)
	}
	// Two that differ in the secret alone, on servers that Caddy sets up in any order.
	other := gatewaytest.FreeAddr(t)
	both := options("one") + "}\nhttp://" + other + " {\n" + options("two")
	g.Reload(both)
	second := g.Tokens()[1].ID
	if a := g.Ask(http.MethodPost, "tokens/"+second+"/refresh"); a.Status != http.StatusOK || !strings.HasPrefix(second, id+"-") {
		t.Errorf("refreshing %s: %d %s", second, a.Status, a.Body)
	}
	for range 5 {
		g.Reload(both)
		for _, s := range g.Tokens() {
			if isSecond := s.ID == second; isSecond != (s.State == "fresh") || s.ID == id {
				t.Errorf("%s is another grant than it was: %+v", s.ID, s)
			}
		}
	}

	if err := g.TryReload("handle {\n" + options("three") + "}\nhandle /bad {\n" + endpoint.Options("auth_method nonsense") + "}\n"); err == nil {
		t.Fatal("the configuration was loaded")
	}
	if after := g.Tokens(); len(after) != 2 {
		t.Errorf("a load that failed left %+v", after)
	}
	g.Reload("respond gone")
	if after := g.Tokens(); len(after) != 0 {
		t.Errorf("still listed: %+v", after)
	}
}

func TestAdminListsTenants(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithAdmin(t, strings.NewReplacer("client_id app", "client_id {http.request.header.X-Tenant}",
		"s3cret-canary", "{http.request.header.X-Secret}").Replace(endpoint.Options())+upstream.Proxy())
	tenant := func(name string) gatewaytest.Answer {
		req := gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil)
		req.Header.Set("X-Tenant", name)
		req.Header.Set("X-Secret", "tenant-canary-"+name)
		return g.Do(req)
	}
	if list := g.Tokens(); len(list) != 0 {
		t.Errorf("listed %+v", list)
	}
	long := strings.Repeat("x", 100)
	for _, name := range []string{"acme", "globex", long} {
		tenant(name)
	}
	shown := func(s gatewaytest.TokenStatus) string { return s.Values["http.request.header.X-Tenant"] }
	var list []gatewaytest.TokenStatus
	repeated := 0
	gatewaytest.Await(t, "the last used is first", func() bool { // a client has its answer before the gateway is done with the token
		tenant("acme")
		repeated++
		list = g.Tokens()
		return len(list) == 3 && shown(list[0]) == "acme"
	})
	if others := []string{shown(list[1]), shown(list[2])}; !slices.Contains(others, long[:64]) || !slices.Contains(others, "globex") {
		t.Errorf("listed %v", others)
	}
	for i, s := range list {
		if len(s.Values) != 1 || s.ClientID != "{http.request.header.X-Tenant}" {
			t.Errorf("%d: told %+v", i, s)
		}
		wantState(t, s, "fresh", 1)
	}
	if list[0].Requests != uint64(1+repeated) || list[1].Requests != 1 {
		t.Errorf("%d and %d requests", list[0].Requests, list[1].Requests)
	}
	if a := g.Ask(http.MethodGet, "tokens?limit=2"); !strings.Contains(a.Body, `"omitted":1`) || strings.Count(a.Body, `"id"`) != 2 {
		t.Errorf("listed %s", a.Body)
	}
	if strings.Contains(g.Ask(http.MethodGet, "tokens").Body, "tenant-canary") {
		t.Error("told a secret")
	}

	if a := g.Ask(http.MethodPost, "tokens/"+list[0].ID+"/refresh"); a.Status != http.StatusConflict || !strings.Contains(a.Body, "DELETE") {
		t.Errorf("refreshing: %d %s", a.Status, a.Body)
	}
	if a := g.Ask(http.MethodDelete, "tokens/"+list[0].ID); a.Status != http.StatusNoContent {
		t.Errorf("deleting: %d %s", a.Status, a.Body)
	}
	if a := tenant("acme"); a.Body != "GET / with token-4" {
		t.Errorf("got %q", a.Body)
	}
	if a := tenant("globex"); a.Body != "GET / with token-2" {
		t.Errorf("another tenant's is gone: %q", a.Body)
	}
}

func TestAdminReady(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	down := func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusBadRequest) }
	endpoint.SetAnswer(down)
	g := gatewaytest.StartWithAdmin(t, "handle /one {\n"+endpoint.Options("scope one")+upstream.Proxy()+"}\nhandle /two {\n"+endpoint.Options("scope two")+upstream.Proxy()+
		"}\nhandle {\n"+endpoint.Options("scope {http.request.header.X-Tenant}")+upstream.Proxy()+"}\n")
	ready := func() (int, gatewaytest.Readiness) {
		a := g.Ask(http.MethodGet, "ready")
		var r gatewaytest.Readiness
		gatewaytest.DecodeStrictly(t, a.Body, &r)
		return a.Status, r
	}
	status, r := ready()
	if status != http.StatusServiceUnavailable || r.Ready || len(r.Missing) != 2 {
		t.Errorf("%d %+v", status, r)
	}
	gatewaytest.Await(t, "both have failed", func() bool { return len(g.Logs.With("no token obtained")) == 2 })
	for range 3 { // the endpoint is left alone
		if status, r = ready(); status != http.StatusServiceUnavailable || r.Missing[0].LastError == nil || r.Missing[0].NextTry == nil {
			t.Errorf("%d %+v", status, r)
		}
	}
	gatewaytest.WantFetched(t, endpoint, 2)

	endpoint.SetAnswer(nil)
	for _, s := range g.Tokens() {
		g.Ask(http.MethodPost, "tokens/"+s.ID+"/refresh")
	}
	if status, r = ready(); status != http.StatusOK || !r.Ready || len(r.Missing) > 0 {
		t.Errorf("%d %+v", status, r)
	}
	g.Reload("respond nothing")
	if status, r = ready(); status != http.StatusOK || !r.Ready {
		t.Errorf("without a grant: %d %+v", status, r)
	}
}

// A gateway that gets no traffic before it is ready must become so by itself.
func TestAdminReadyGetsTheFirstToken(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithAdmin(t, endpoint.Options()+upstream.Proxy())
	gatewaytest.Await(t, "it is ready", func() bool { return g.Ask(http.MethodGet, "ready").Status == http.StatusOK })
	gatewaytest.WantFetched(t, endpoint, 1)
	if obtained := g.Logs.With("token obtained"); len(obtained) != 1 || obtained[0]["trigger"] != "prefetch" {
		t.Errorf("logged %v", obtained)
	}
}

func TestAdminRefusesWhatItDoesNotDo(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithAdmin(t, endpoint.Options()+upstream.Proxy())
	id := g.Token().ID
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
		{http.MethodGet, "tokens?failing=yes", 400, ""},
		{http.MethodHead, "tokens", 200, ""},
		{http.MethodHead, "ready", 503, ""},
	} {
		a := g.Ask(test.method, test.path)
		if a.Status != test.status || a.Header.Get("Allow") != test.allow {
			t.Errorf("%s %s: %d, allows %q; want %d, %q", test.method, test.path, a.Status, a.Header.Get("Allow"), test.status, test.allow)
		}
		if a.Status >= 400 && test.method != http.MethodHead && !strings.HasPrefix(a.Body, `{"error":"`) {
			t.Errorf("%s %s: %s", test.method, test.path, a.Body)
		}
	}
	// Caddy's own rules hold.
	req := gatewaytest.ClientRequest(t, http.MethodPost, "http://"+g.Admin+"/oauth_cc/tokens/"+id+"/refresh", nil)
	req.Header.Set("Origin", "https://evil.example.com")
	if a := g.Do(req); a.Status != http.StatusForbidden {
		t.Errorf("from a web page: %d", a.Status)
	}
	if endpoint.Count() > 1 { // by HEAD of ready
		t.Errorf("%d token requests", endpoint.Count())
	}
}

func TestAdminListsAnIssuersEndpoint(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.Method == http.MethodGet {
			fmt.Fprintf(w, `{"issuer":%q,"token_endpoint":%q}`, endpoint.URL, endpoint.URL+"/discovered?secret=canary")
			return
		}
		endpoint.Grant(w)
	})
	g := gatewaytest.StartWithAdmin(t, strings.Replace(endpoint.Options("issuer "+endpoint.URL), "oauth_cc "+endpoint.URL+"/token", "oauth_cc", 1)+upstream.Proxy())
	if s := g.Token(); s.Issuer != endpoint.URL || s.Endpoint != "" {
		t.Errorf("told %+v", s)
	}
	g.Get("/")
	if s := g.Token(); s.Issuer != endpoint.URL || s.Endpoint != endpoint.URL+"/discovered" {
		t.Errorf("told %+v", s)
	}
}
