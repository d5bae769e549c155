package providers

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

var providers = []*providerSpec{patientsKnowBest, myParcel, applixure, genesysCloud}

// testProviderExample runs the provider's example as it is.
func testProviderExample(t *testing.T, p *providerSpec) {
	s := startProvider(t, p)
	s.checkWorks(t, s.start(t))
}

// checkWorks wants requests to get to the API with one token.
func (s *providerStandIn) checkWorks(t *testing.T, g *gatewaytest.Gateway) {
	t.Helper()
	apiType := cmp.Or(s.apiType, jsonType)
	for i := range 3 {
		path := fmt.Sprintf("/v1/things/%d?a=b", i)
		a := gatewaytest.SendLines(t, http.MethodGet, g.URL(path), "", "Authorization: Bearer of-the-client", "Cookie: a=b", "Accept: text/html")
		if a.Status != 200 || a.Body != fmt.Sprintf(`{"data":{"path":%q}}`, path) || a.Header.Get("Content-Type") != apiType {
			t.Fatalf("got %d %q %v", a.Status, a.Body, a.Header)
		}
	}
	if a := g.Post("/v1/things", apiType, `{"data":{"name":"é"}}`); a.Status != 200 {
		t.Errorf("POST: got %d %q", a.Status, a.Body)
	}
	accepted, rejected := s.apiRequests()
	if n := s.tokenRequests(); n != 1 || rejected != 0 || len(accepted) != 4 || accepted[3].body != `{"data":{"name":"é"}}` {
		t.Errorf("%d token requests, the API rejected %d and accepted %v", n, rejected, accepted)
	}
	gatewaytest.Await(t, "the token is logged", func() bool { return len(s.logged(g, "token obtained")) > 0 }) // which comes after it can be used
	obtained := s.logged(g, "token obtained")
	if len(obtained) != 1 || !nearLifetime(obtained[0]["lifetime"], s.lifetime) {
		t.Errorf("the log says %v, want one token with a lifetime of %v", obtained, s.lifetime)
	}
	s.hasNoCredentials(t, g.Logs.All())
}

// logged are the entries about this provider's tokens with that message.
func (s *providerStandIn) logged(g *gatewaytest.Gateway, message string) []map[string]any {
	return slices.DeleteFunc(g.Logs.With(message), func(entry map[string]any) bool {
		return !strings.HasPrefix(fmt.Sprint(entry["endpoint"]), s.endpoint.URL+"/")
	})
}

// nearLifetime allows for the fraction of a second by which a JWT's exp is rounded, and
// for a slow machine.
func nearLifetime(got any, want time.Duration) bool {
	seconds, ok := got.(float64)
	return ok && seconds <= want.Seconds() && seconds > want.Seconds()-60
}

func TestProviderRefusesWrongSecret(t *testing.T) {
	for _, p := range providers {
		t.Run(p.name, func(t *testing.T) {
			s := startProvider(t, p)
			const wrong = "wr+ng s&cret-canary"
			g := startExample(t, p.name, s.run(wrong))
			for range 2 { // the second finds the endpoint left alone
				a := g.Get("/")
				if a.Status != 502 || a.Body != "" || a.Header.Get("Retry-After") != "" || a.Header.Get("WWW-Authenticate") != "" {
					t.Errorf("got %d %q %v", a.Status, a.Body, a.Header)
				}
			}
			checkRefusalInLog(t, g, p, p.refusedSaid)
			if n := s.tokenRequests(); n != 1 {
				t.Errorf("%d token requests, want 1", n)
			}
			if accepted, rejected := s.apiRequests(); len(accepted)+rejected > 0 {
				t.Error("a request without a token reached the API")
			}
			s.hasNoCredentials(t, g.Logs.All(), wrong)
		})
	}
}

// checkRefusalInLog checks the one log entry of a refused client.
func checkRefusalInLog(t testing.TB, g *gatewaytest.Gateway, p *providerSpec, said string) {
	t.Helper()
	entries := g.Logs.With("no token obtained")
	if len(entries) != 1 {
		t.Fatalf("%d failures in the log, want 1: %v", len(entries), entries)
	}
	entry := entries[0]
	hint := gatewaytest.WithoutHelp(entry["hint"])
	if message, _ := entry["endpoint_message"].(string); entry["level"] != "error" || entry["error"] != p.refusedError ||
		entry["status"] != 401.0 || message != said {
		t.Errorf("the log says %v", entry)
	}
	if hint == "" || !strings.HasSuffix(hint, cmp.Or(p.refusedHint, "--try-methods finds out which")) {
		t.Errorf("the hint is %q, want %q", hint, p.refusedHint)
	}
}

// PKB's documentation shows an answer that lacks a comma.
func TestPatientsKnowBestRefusesInInvalidJSON(t *testing.T) {
	s := startProvider(t, patientsKnowBest)
	s.instead = func(w http.ResponseWriter, _ int) bool {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, "{\n\"error\":\"unauthorized\"\n\"error_description\":\"Full authentication is required to access this resource\"\n}")
		return true
	}
	g := s.start(t)
	if a := g.Get("/"); a.Status != 502 {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
	checkRefusalInLog(t, g, s.providerSpec, "")
	s.hasNoCredentials(t, g.Logs.All())
}

// The options of the examples are all needed, as the stand-ins take nothing else.
func TestProviderRefusesOtherTokenRequests(t *testing.T) {
	tests := []struct {
		provider *providerSpec
		name     string
		old, new string
		status   float64
	}{
		{patientsKnowBest, "form-encoded Basic", "client_secret_basic_raw", "client_secret_basic", 401},
		{patientsKnowBest, "credential in the body", "client_secret_basic_raw", "client_secret_post", 401},
		{patientsKnowBest, "a scope", "auth_method", "scope all\nauth_method", 400},
		{genesysCloud, "form-encoded Basic", "client_secret_basic_raw", "client_secret_basic", 401},
		{genesysCloud, "credential in the body", "client_secret_basic_raw", "client_secret_post", 401},
		{genesysCloud, "another parameter", "auth_method", "param org example\nauth_method", 400},
		{myParcel, "a form", "request_format json", "", 415},
		{myParcel, "credential in the header", "auth_method client_secret_post", "", 400},
		{myParcel, "no scope", "scope {$MYPARCEL_SCOPE:*}", "", 400},
		{myParcel, "another member", "auth_method", "audience api\nauth_method", 400},
		{applixure, "raw Basic", "\tscope", "auth_method client_secret_basic_raw\nscope", 401},
		{applixure, "JSON", "\tscope", "request_format json\nscope", 415},
		{applixure, "another parameter", "\tscope", "resource https://api.example.com\nscope", 400},
	}
	for _, test := range tests {
		t.Run(test.provider.name+" "+test.name, func(t *testing.T) {
			s := startProvider(t, test.provider)
			g := s.start(t, test.old, test.new)
			if a := g.Get("/"); a.Status != 502 {
				t.Errorf("got %d %q", a.Status, a.Body)
			}
			if entries := g.Logs.With("no token obtained"); len(entries) != 1 || entries[0]["status"] != test.status {
				t.Errorf("the log says %v, want status %v", entries, test.status)
			}
		})
	}
}

func TestProviderExampleNamesTheMissingVariable(t *testing.T) {
	for _, p := range providers {
		t.Run(p.name, func(t *testing.T) {
			s := startProvider(t, p)
			_, err := tryExample(t, p.name, s.run(""))
			want := "client_secret: placeholder {env." + s.variables + s.secretName() + "} is empty"
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}

func TestProviderScopesComeFromTheEnvironment(t *testing.T) {
	t.Setenv("MYPARCEL_SCOPE", "shipments.show shops.show")
	s := startProvider(t, myParcel)
	s.scope = "shipments.show shops.show"
	if a := s.start(t).Get("/"); a.Status != 200 {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
}

func TestMyParcelRevocationIsHiddenFromConcurrentRequests(t *testing.T) {
	const requests = 20
	s := startProvider(t, myParcel)
	var met atomic.Int32
	allMet, asked, goOn := make(chan struct{}), make(chan struct{}), make(chan struct{})
	s.onReject = func() { // all requests carry the revoked token before the first learns of it
		if met.Add(1) == requests {
			close(allMet)
		}
		awaitEvent(allMet)
	}
	s.instead = func(_ http.ResponseWriter, n int) bool {
		if n == 2 {
			close(asked)
			awaitEvent(goOn)
		}
		return false
	}
	g := s.start(t)
	g.Get("/")
	s.revoke()

	var answered atomic.Int32
	var wait sync.WaitGroup
	sent := make(map[string]string) // path to body
	for i := range requests {
		method, path, body := http.MethodGet, fmt.Sprintf("/shipments/%d", i), ""
		if i%2 == 1 {
			method, body = http.MethodPost, fmt.Sprintf(`{"data":{"id":"%d","note":%q}}`, i, strings.Repeat("é", 10_000+i))
		}
		sent[path] = body
		wait.Go(func() {
			req, _ := http.NewRequest(method, g.URL(path), strings.NewReader(body))
			req.Header.Set("Content-Type", "application/vnd.api+json")
			a, err := gatewaytest.Exchange(gatewaytest.Client, req)
			answered.Add(1)
			if err != nil || a.Status != 200 || a.Body != fmt.Sprintf(`{"data":{"path":%q}}`, path) {
				t.Errorf("%s %s: got %d %q, %v", method, path, a.Status, a.Body, err)
			}
		})
	}
	awaitEvent(asked)
	if n := answered.Load(); n > 0 {
		t.Errorf("%d requests were answered before there was a new token", n)
	}
	close(goOn)
	wait.Wait()

	accepted, rejected := s.apiRequests()
	if n := s.tokenRequests(); n != 2 || rejected != requests || len(accepted) != 1+requests {
		t.Errorf("%d token requests, the API rejected %d and accepted %d", n, rejected, len(accepted))
	}
	for _, request := range accepted[1:] {
		body, ok := sent[request.uri]
		if !ok || request.body != body {
			t.Errorf("%s: accepted twice, or with another body of %d bytes", request.uri, len(request.body))
		}
		delete(sent, request.uri)
		if request.token == accepted[0].token {
			t.Errorf("%s: sent with the revoked token", request.uri)
		}
	}
	if len(sent) > 0 {
		t.Errorf("never accepted: %d requests", len(sent))
	}
}

// awaitEvent keeps a broken test from hanging.
func awaitEvent(event <-chan struct{}) {
	select {
	case <-event:
	case <-time.After(20 * time.Second):
	}
}

// The API of this test is patient, so that only the token's own exp can be a reason
// to renew it.
func TestMyParcelTokenIsRenewedWhenItsExpSays(t *testing.T) {
	if !gatewaytest.Apart(t) {
		return
	}
	s := startProvider(t, myParcel)
	s.life, s.patience = 3*time.Second, time.Minute
	g := s.start(t)
	gatewaytest.Await(t, "the token is renewed", func() bool {
		if a := g.Get("/"); a.Status != 200 {
			t.Fatalf("got %d %q", a.Status, a.Body)
		}
		return s.tokenRequests() == 2
	})
	if _, rejected := s.apiRequests(); rejected != 0 {
		t.Errorf("the API rejected %d requests", rejected)
	}
}

func TestApplixureOutageIsOverInTime(t *testing.T) {
	if !gatewaytest.Apart(t) {
		return
	}
	s := startProvider(t, applixure)
	s.instead = func(w http.ResponseWriter, n int) bool {
		if n > 2 {
			return false
		}
		http.Error(w, "try again later", []int{503, 500}[n-1])
		return true
	}
	g := s.start(t)
	if a := g.Get("/"); a.Status != 200 {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
	if n := s.tokenRequests(); n != 3 {
		t.Errorf("%d token requests, want 3", n)
	}
}

func TestApplixureRefusesScope(t *testing.T) {
	s := startProvider(t, applixure)
	s.instead = func(w http.ResponseWriter, _ int) bool {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_scope","error_description":"account-data:manage is not for you","error_uri":"https://developers.applixure.com/"}`)
		return true
	}
	g := s.start(t)
	if a := g.Get("/"); a.Status != 502 || a.Body != "" {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
	entries := g.Logs.With("no token obtained")
	if len(entries) != 1 || entries[0]["error"] != "invalid_scope" || entries[0]["status"] != 400.0 ||
		entries[0]["endpoint_message"] != "invalid_scope account-data:manage is not for you" {
		t.Errorf("the log says %v", entries)
	}
	if n := s.tokenRequests(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

func TestApplixureNarrowerScopeIsLoggedOnce(t *testing.T) {
	s := startProvider(t, applixure)
	s.change = func(members map[string]any) { members["scope"] = "account-all:read" }
	g := s.start(t)
	g.Get("/")
	s.revoke()
	if a := g.Get("/"); a.Status != 200 {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
	if n := s.tokenRequests(); n != 2 {
		t.Fatalf("%d token requests, want 2", n)
	}
	entries := g.Logs.With("the endpoint granted fewer scopes than asked for")
	if len(entries) != 1 || entries[0]["level"] != "warn" || entries[0]["missing_scope"] != "account-data:manage" {
		t.Errorf("the log says %v", entries)
	}
}

func TestApplixureAcceptsCredentialInTheBody(t *testing.T) {
	s := startProvider(t, applixure)
	g := s.start(t, "\tscope", "auth_method client_secret_post\nscope")
	if a := g.Get("/"); a.Status != 200 {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
	s.hasNoCredentials(t, g.Logs.All())
}

func TestApplixureDefaultScopesNeedNoScope(t *testing.T) {
	s := startProvider(t, applixure)
	s.change = func(members map[string]any) { members["scope"] = "account-all:read" }
	g := s.start(t, "scope {$APPLIXURE_SCOPE:account-all:read account-data:manage}", "")
	if a := g.Get("/"); a.Status != 200 {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
	if entries := g.Logs.With("the endpoint granted fewer scopes than asked for"); len(entries) != 0 {
		t.Errorf("nothing was asked, but the log says %v", entries)
	}
}

func TestGenesysErrorBesideATokenIsAFailure(t *testing.T) {
	for _, test := range []struct {
		reason any
		status int
	}{
		{"client is suspended", 502}, {"invalid_client", 502}, {nil, 200}, {"", 200},
	} {
		t.Run(fmt.Sprint(test.reason), func(t *testing.T) {
			s := startProvider(t, genesysCloud)
			s.change = func(members map[string]any) { members["error"] = test.reason }
			g := s.start(t)
			if a := g.Get("/"); a.Status != test.status {
				t.Errorf("got %d %q", a.Status, a.Body)
			}
			accepted, _ := s.apiRequests()
			failures := g.Logs.With("no token obtained")
			if test.status == 200 {
				if len(accepted) != 1 || len(failures) != 0 {
					t.Errorf("the API got %v, the log says %v", accepted, failures)
				}
				return
			}
			if len(accepted) != 0 || len(failures) != 1 || failures[0]["endpoint_message"] != test.reason {
				t.Errorf("the API got %v, the log says %v", accepted, failures)
			}
			s.hasNoCredentials(t, g.Logs.All())
		})
	}
}
