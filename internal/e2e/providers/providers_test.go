package providers

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// providerSpec describes one of the documented providers: what its token endpoint
// demands, how it answers and how its API does.
type providerSpec struct {
	example   string
	variables string // prefix of the example's environment variables
	idName    string
	path      string // of the token endpoint
	mediaType string // of a token request
	apiType   string // of the API's bodies
	lifetime  time.Duration

	// vet returns why a token request is refused, or nil.
	vet func(s *providerStandIn, r *http.Request, body string) *endpointRefusal

	// granted is the answer with a token.
	granted func(token string) map[string]any

	// A request with a wrong secret, as the log tells it.
	refusedError string
	refusedSaid  string
	refusedHint  string
}

// endpointRefusal is an error answer of a token endpoint.
type endpointRefusal struct {
	status int
	body   string
}

const providerID = "gateway+1/é"

// The secret has what form encoding changes and what a Caddyfile or a replacer could
// take for its own.
const providerSecret = `s&cr=t+%2F 100%/é{env.HOME}`

var patientsKnowBest = &providerSpec{
	example: "patients-know-best", variables: "PKB_", idName: "CLIENT_ID",
	path: "/api/oauth/token", mediaType: "application/x-www-form-urlencoded",
	apiType: "application/json", lifetime: 10 * time.Minute,
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		if !s.sentBasic(r, s.id+":"+s.secret) {
			return &endpointRefusal{401, `{"error":"unauthorized","error_description":"Full authentication is required to access this resource"}`}
		}
		return onlyGrantType(body)
	},
	granted: func(token string) map[string]any {
		return map[string]any{
			"access_token": token, "token_type": "bearer", "expires_in": 600,
			"scope": "none", "jti": "24eb74c3-ad03-4c4f-a93d-786cf47b6c2f",
		}
	},
	refusedError: "refused",
	refusedSaid:  "unauthorized Full authentication is required to access this resource",
	refusedHint:  "try auth_method client_secret_basic, or find out with --try-methods",
}

var genesysCloud = &providerSpec{
	example: "genesys-cloud", variables: "GENESYS_", idName: "CLIENT_ID",
	path: "/oauth/token", mediaType: "application/x-www-form-urlencoded",
	apiType: "application/json", lifetime: 24 * time.Hour,
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		if !s.sentBasic(r, s.id+":"+s.secret) {
			return &endpointRefusal{401, `{"error":"invalid_client","description":"authentication failed","error_description":"authentication failed"}`}
		}
		return onlyGrantType(body)
	},
	granted: func(token string) map[string]any {
		return map[string]any{"access_token": token, "token_type": "bearer", "expires_in": 86400}
	},
	refusedError: "invalid_client",
	refusedSaid:  "invalid_client authentication failed",
	refusedHint:  "try auth_method client_secret_basic, or find out with --try-methods",
}

var myParcel = &providerSpec{
	example: "myparcel", variables: "MYPARCEL_", idName: "CLIENT_ID",
	path: "/access-token", mediaType: "application/json",
	apiType: "application/vnd.api+json", lifetime: time.Hour, // as the token says itself
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		var members map[string]any
		if err := json.Unmarshal([]byte(body), &members); err != nil || r.Header["Authorization"] != nil {
			return &endpointRefusal{400, `{"error":"invalid_request"}`}
		}
		if members["client_id"] == s.id && members["client_secret"] != s.secret {
			return &endpointRefusal{401, `{"error":"invalid_client","error_description":"Client authentication failed"}`}
		}
		if !reflect.DeepEqual(members, map[string]any{
			"grant_type": "client_credentials", "client_id": s.id, "client_secret": s.secret, "scope": s.scope,
		}) {
			return &endpointRefusal{400, `{"error":"invalid_request"}`}
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 86400}
	},
	refusedError: "invalid_client",
	refusedSaid:  "invalid_client Client authentication failed",
}

var applixure = &providerSpec{
	example: "applixure", variables: "APPLIXURE_", idName: "KEY_ID",
	path: "/oauth2/token", mediaType: "application/x-www-form-urlencoded",
	apiType: "application/json", lifetime: time.Hour,
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form, err := url.ParseQuery(body)
		if err != nil || !slices.Equal(form["grant_type"], []string{"client_credentials"}) || len(form["scope"]) > 1 {
			return &endpointRefusal{400, `{"error":"invalid_request"}`}
		}
		inBody := slices.Equal(form["client_id"], []string{s.id}) && slices.Equal(form["client_secret"], []string{s.secret})
		inHeader := s.sentBasic(r, url.QueryEscape(s.id)+":"+url.QueryEscape(s.secret)) && !form.Has("client_id") && !form.Has("client_secret")
		if !inHeader && (!inBody || r.Header["Authorization"] != nil) {
			return &endpointRefusal{401, `{"error":"invalid_client","error_description":"Unknown API key"}`}
		}
		for _, name := range []string{"grant_type", "scope", "client_id", "client_secret"} {
			form.Del(name)
		}
		if len(form) > 0 {
			return &endpointRefusal{400, `{"error":"invalid_request"}`}
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600}
	},
	refusedError: "invalid_client",
	refusedSaid:  "invalid_client Unknown API key",
	refusedHint:  "try auth_method client_secret_basic_raw, or find out with --try-methods",
}

var providers = []*providerSpec{patientsKnowBest, myParcel, applixure, genesysCloud}

// onlyGrantType refuses a form that holds anything else.
func onlyGrantType(body string) *endpointRefusal {
	form, err := url.ParseQuery(body)
	if err != nil || !reflect.DeepEqual(form, url.Values{"grant_type": {"client_credentials"}}) {
		return &endpointRefusal{400, `{"error":"invalid_request","error_description":"unexpected parameters"}`}
	}
	return nil
}

// providerStandIn is a provider's token endpoint and API in the test.
type providerStandIn struct {
	*providerSpec
	id, secret, scope string
	endpoint, api     *httptest.Server

	// Set before the first request; the functions may be nil.
	instead  func(w http.ResponseWriter, n int) bool // answers the nth token request, or returns false
	change   func(members map[string]any)            // of an answer that grants
	onReject func()                                  // before the API answers 401
	life     time.Duration                           // of a token
	patience time.Duration                           // of the API, once a token has expired

	mu       sync.Mutex
	asked    int                  // token requests
	expiry   map[string]time.Time // of the tokens that were not revoked
	rejected int                  // requests to the API
	accepted []acceptedRequest
}

type acceptedRequest struct {
	token, uri, body string
}

func startProvider(t testing.TB, p *providerSpec) *providerStandIn {
	s := &providerStandIn{
		providerSpec: p, id: providerID, secret: providerSecret, scope: "*",
		life:   p.lifetime,
		expiry: make(map[string]time.Time),
	}
	start := func(serve http.HandlerFunc) *httptest.Server {
		server := httptest.NewUnstartedServer(serve)
		server.EnableHTTP2 = true
		server.StartTLS()
		t.Cleanup(server.Close)
		return server
	}
	s.endpoint, s.api = start(s.serveToken), start(s.serveAPI)
	return s
}

// start runs the provider's example against the stand-in, with replacements in it.
func (s *providerStandIn) start(t *testing.T, replace ...string) *gatewaytest.Gateway {
	t.Helper()
	return startExample(t, s.example, s.run(s.secret, replace...))
}

func (s *providerStandIn) run(secret string, replace ...string) exampleRun {
	return exampleRun{
		env: map[string]string{
			s.variables + "TOKEN_ENDPOINT": s.endpoint.URL + s.path,
			s.variables + "API":            s.api.URL,
			s.variables + s.idName:         s.id,
			s.variables + s.secretName():   secret,
		},
		replace: replace,
		trust:   s.api.Certificate(),
	}
}

func (s *providerStandIn) secretName() string { return strings.Replace(s.idName, "ID", "SECRET", 1) }

func (s *providerStandIn) sentBasic(r *http.Request, credential string) bool {
	return slices.Equal(r.Header["Authorization"], []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(credential))})
}

func (s *providerStandIn) serveToken(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.asked++
	n := s.asked
	s.mu.Unlock()
	if s.instead != nil && s.instead(w, n) {
		return
	}
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	if refused := s.vetRequest(r, string(body)); refused != nil {
		w.WriteHeader(refused.status)
		_, _ = io.WriteString(w, refused.body)
		return
	}
	token, expiry := fmt.Sprintf("%s-token-%d", s.example, n), time.Now().Add(s.life)
	if s.providerSpec == myParcel {
		token = providerJWT(expiry, n)
	}
	s.mu.Lock()
	s.expiry[token] = expiry
	s.mu.Unlock()
	answer := s.granted(token)
	if s.change != nil {
		s.change(answer)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// vetRequest refuses what none of the providers documents, then what this one does
// not.
func (s *providerStandIn) vetRequest(r *http.Request, body string) *endpointRefusal {
	switch {
	case r.Method != http.MethodPost:
		return &endpointRefusal{405, `{"error":"invalid_request"}`}
	case r.URL.RequestURI() != s.path || "https://"+r.Host != s.endpoint.URL:
		return &endpointRefusal{404, `{"error":"invalid_request"}`}
	case !slices.Equal(r.Header["Content-Type"], []string{s.mediaType}):
		return &endpointRefusal{415, `{"error":"invalid_request"}`}
	case !slices.Equal(r.Header["Accept"], []string{"application/json"}):
		return &endpointRefusal{406, `{"error":"invalid_request"}`}
	case r.Header["Cookie"] != nil || r.Header["X-Forwarded-For"] != nil:
		return &endpointRefusal{400, `{"error":"invalid_request","error_description":"not meant for this server"}`}
	}
	return s.vet(s, r, body)
}

func providerJWT(exp time.Time, n int) string {
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	return part(`{"alg":"RS256","typ":"JWT"}`) + "." + part(fmt.Sprintf(`{"jti":"%d","exp":%d}`, n, exp.Unix())) + "." + part("signature")
}

func (s *providerStandIn) serveAPI(w http.ResponseWriter, r *http.Request) {
	token := ""
	if lines := r.Header["Authorization"]; len(lines) == 1 {
		token, _ = strings.CutPrefix(lines[0], "Bearer ")
	}
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	valid := time.Now().Before(s.expiry[token].Add(s.patience))
	if !valid {
		s.rejected++
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", s.apiType)
	switch {
	case "https://"+r.Host != s.api.URL:
		w.WriteHeader(http.StatusMisdirectedRequest)
	case !valid:
		if s.onReject != nil {
			s.onReject()
		}
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"errors":[{"status":"401","title":"Unauthorized"}]}`)
	case err != nil || r.Method != http.MethodGet && r.Header.Get("Content-Type") != s.apiType:
		w.WriteHeader(http.StatusUnsupportedMediaType)
	default:
		s.mu.Lock()
		s.accepted = append(s.accepted, acceptedRequest{token, r.URL.RequestURI(), string(body)})
		s.mu.Unlock()
		fmt.Fprintf(w, `{"data":{"path":%q}}`, r.URL.RequestURI())
	}
}

func (s *providerStandIn) tokenRequests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *providerStandIn) apiRequests() (accepted []acceptedRequest, rejected int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.accepted), s.rejected
}

// revoke makes the API reject the tokens that were granted so far.
func (s *providerStandIn) revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.expiry)
}

// hasNoCredentials checks what was logged, at the level of debugging.
func (s *providerStandIn) hasNoCredentials(t testing.TB, logs string, secrets ...string) {
	t.Helper()
	var hidden []string
	for _, secret := range append(secrets, s.secret) {
		quoted, _ := json.Marshal(secret)
		hidden = append(hidden, secret, url.QueryEscape(secret), strings.Trim(string(quoted), `"`),
			base64.StdEncoding.EncodeToString([]byte(s.id+":"+secret)),
			base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(s.id)+":"+url.QueryEscape(secret))))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, text := range slices.AppendSeq(hidden, maps.Keys(s.expiry)) {
		if strings.Contains(logs, text) {
			t.Errorf("the log contains %q", text)
		}
	}
}

// testProviderExample runs the provider's example as it is.
func testProviderExample(t *testing.T, p *providerSpec) {
	s := startProvider(t, p)
	g := s.start(t)
	for i := range 3 {
		path := fmt.Sprintf("/v1/things/%d?a=b", i)
		a := gatewaytest.SendLines(t, http.MethodGet, g.URL(path), "", "Authorization: Bearer of-the-client", "Cookie: a=b", "Accept: text/html")
		if a.Status != 200 || a.Body != fmt.Sprintf(`{"data":{"path":%q}}`, path) || a.Header.Get("Content-Type") != p.apiType {
			t.Fatalf("got %d %q %v", a.Status, a.Body, a.Header)
		}
	}
	if a := g.Post("/v1/things", p.apiType, `{"data":{"name":"é"}}`); a.Status != 200 {
		t.Errorf("POST: got %d %q", a.Status, a.Body)
	}
	accepted, rejected := s.apiRequests()
	if n := s.tokenRequests(); n != 1 || rejected != 0 || len(accepted) != 4 || accepted[3].body != `{"data":{"name":"é"}}` {
		t.Errorf("%d token requests, the API rejected %d and accepted %v", n, rejected, accepted)
	}
	obtained := g.Logs.With("token obtained")
	if len(obtained) != 1 || !nearLifetime(obtained[0]["lifetime"], p.lifetime) {
		t.Errorf("the log says %v, want one token with a lifetime of %v", obtained, p.lifetime)
	}
	s.hasNoCredentials(t, g.Logs.All())
}

// nearLifetime allows for the fraction of a second by which a JWT's exp is rounded, and
// for a slow machine.
func nearLifetime(got any, want time.Duration) bool {
	seconds, ok := got.(float64)
	return ok && seconds <= want.Seconds() && seconds > want.Seconds()-60
}

func TestProviderRefusesWrongSecret(t *testing.T) {
	for _, p := range providers {
		t.Run(p.example, func(t *testing.T) {
			s := startProvider(t, p)
			const wrong = "wr+ng s&cret-canary"
			g := startExample(t, p.example, s.run(wrong))
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
	hint, _ := entry["hint"].(string)
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
		t.Run(test.provider.example+" "+test.name, func(t *testing.T) {
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
		t.Run(p.example, func(t *testing.T) {
			s := startProvider(t, p)
			_, err := tryExample(t, p.example, s.run(""))
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
