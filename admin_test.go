package oauthcc

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A fetch that began before may bring what another gateway had got.
func TestAdminRefreshWaitsForAFetchAndMakesItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		g.running.Store(true)
		g.endpoint.takes = 2 * time.Second
		go g.get()
		time.Sleep(time.Second)
		req := httptest.NewRequest(http.MethodPost, "/", nil)
		for _, named := range namedGrants() {
			if named.h == g.Handler {
				req.SetPathValue("id", named.id)
			}
		}
		w, start := httptest.NewRecorder(), time.Now()
		if err := (adminAPI{}).refresh(w, req); err != nil || w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"generation":2`) {
			t.Errorf("refreshing: %v, %d %s", err, w.Code, w.Body)
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("it took %v, want what is left of the first fetch and another", took)
		}
		if n := g.endpoint.count(); n != 2 {
			t.Errorf("%d token requests", n)
		}
	})
}

func TestValuesThatAreNotShown(t *testing.T) {
	for placeholder, shown := range map[string]bool{
		"http.request.header.X-Tenant": true, "http.auth.user.id": true, "http.request.host": true, "http.request.uri.path": true,
		"http.request.header.Authorization": false, "http.request.header.X-Api-Key": false, "http.request.cookie.session": false,
		"http.request.uri.query": false, "http.request.uri.query.sig": false, "http.request.header.X-Pass": false, "http.request.uri": false,
		"http.request.orig_uri": false, "http.request.uri.prefixed_query": false, "http.request.orig_uri.query": false,
		"http.request.uri_escaped": false, "http.request.uri.query_escaped": false, "http.request.uri.path_escaped": true,
	} {
		h := provisionedConfig(t, configWithClient("client_id app", "client_secret x", "scope {"+placeholder+"}"))
		if got := !h.request.placeholders[0].secret; got != shown {
			t.Errorf("%s is shown: %t", placeholder, got)
		}
	}
	// Nor where credentials are, whatever the name.
	for options, shown := range map[string]bool{
		"scope {http.vars.a}": true, "audience {http.vars.a}": true, "param a {http.vars.a}": false, "request_header X-A {http.vars.a}": false,
		"scope {http.vars.a}\nrequest_header X-A {http.vars.a}": false, "client_secret {http.vars.a}": false,
	} {
		if !strings.HasPrefix(options, "client_secret") {
			options = "client_secret x\n" + options
		}
		h := provisionedConfig(t, configWithClient("client_id app", options))
		if got := !h.request.placeholders[0].secret; got != shown {
			t.Errorf("the value in %q is shown: %t", options, got)
		}
	}
}

// namedGrants are all grants that operators can name.
func namedGrants() (all []namedGrant) {
	for _, h := range namedHandlers() {
		for _, g := range h.tokens.allGrants() {
			all = append(all, h.named(g))
		}
	}
	return all
}
