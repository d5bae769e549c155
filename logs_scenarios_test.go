package oauthcc

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// logScenarios are what a gateway has to tell of, by the name of the golden file.
func logScenarios() map[string]logScenario {
	return map[string]logScenario{
		"obtained_for_a_request":        inVirtualTime(logObtained),
		"obtained_ahead":                inVirtualTime(logObtainedAhead),
		"obtained_by_prefetch":          logObtainedByPrefetch,
		"obtained_for_tenants":          logObtainedForTenants,
		"operator":                      logOperator,
		"renewal_fails":                 inVirtualTime(logRenewalFails),
		"refused":                       inVirtualTime(logRefused),
		"unreachable":                   logUnreachable,
		"timeout":                       inVirtualTime(logTimeout),
		"server_error_with_retry_after": inVirtualTime(logServerError),
		"unreadable_answers":            inVirtualTime(logUnreadableAnswers),
		"rejection_cured":               inVirtualTime(logRejectionCured),
		"rejection_not_cured":           inVirtualTime(logRejectionNotCured),
		"rejection_not_replayable":      inVirtualTime(logRejectionNotReplayable),
		"rejection_and_no_renewal":      inVirtualTime(logRejectionAndNoRenewal),
		"secret_rotated":                inVirtualTime(logSecretRotated),
		"secret_gone":                   inVirtualTime(logSecretGone),
		"scopes_narrowed":               inVirtualTime(logScopesNarrowed),
		"expired_when_granted":          inVirtualTime(logExpiredWhenGranted),
		"value_missing":                 logValueMissing,
		"storage_outage":                inVirtualTime(logStorageOutage),
		"storage_has_the_token":         inVirtualTime(logStorageHasTheToken),
		"lock_waited_for_in_vain":       inVirtualTime(logLockInVain),
		"metadata":                      inVirtualTime(logMetadata),
		"signing_key":                   logSigningKey,
		"assertion_refused":             logAssertionRefused,
		"proof_refused":                 logProofRefused,
		"proof_of_another_path":         logProofOfAnotherPath,
		"events_lost":                   inVirtualTime(logEventsLost),
	}
}

// Nobody has told of any event yet.
func logEventsLost(t *testing.T) *virtualGateway {
	g := namedApp(t, new(Handler))
	g.eventQueue = newEventQueue()
	for range maxEvents + 2 {
		g.emit(eventFailed, nil)
	}
	return g
}

func logObtained(t *testing.T) *virtualGateway {
	g := namedApp(t, new(Handler))
	for range 3 {
		g.mustGet() // of which two find it
	}
	return g
}

func logObtainedAhead(t *testing.T) *virtualGateway {
	g := namedApp(t, &Handler{RefreshAhead: "50%"})
	g.mustGet()
	time.Sleep(40 * time.Minute)
	g.mustGet()
	return g
}

func logObtainedByPrefetch(t *testing.T) string {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, endpoint.options("prefetch")+upstream.proxy())
	awaitCondition(t, "the token is there", func() bool { return len(g.logs.with("token obtained")) == 1 })
	return g.logs.all()
}

func logObtainedForTenants(t *testing.T) string {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, strings.Replace(endpoint.options(), "client_id app", "client_id {http.request.header.X-Tenant}", 1)+upstream.proxy())
	for _, tenant := range []string{"acme", "globex", "acme"} {
		req := clientRequest(t, http.MethodGet, g.url("/"), nil)
		req.Header.Set("X-Tenant", tenant)
		g.do(req)
	}
	return g.logs.all()
}

// An operator renews a token, in vain the second time, and has it forgotten.
func logOperator(t *testing.T) string {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGatewayWithAdmin(t, endpoint.options()+upstream.proxy())
	path := "tokens/" + g.theOne().ID
	g.ask(http.MethodPost, path+"/refresh")
	endpoint.setAnswer(says(http.StatusBadRequest, "application/json", `{"error":"invalid_scope"}`))
	g.ask(http.MethodPost, path+"/refresh")
	g.ask(http.MethodDelete, path)
	g.ask(http.MethodPost, path+"/refresh")
	return g.logs.all()
}

// As long as the token is valid it is a warning for each try, and an error from then on.
func logRenewalFails(t *testing.T) *virtualGateway {
	g := namedApp(t, &Handler{RefreshAhead: "10s"})
	g.endpoint.expiresIn = "60"
	g.mustGet()
	g.endpoint.becomes(cannedAnswer{status: 503, body: `{"error":"temporarily_unavailable","error_description":"back at noon"}`})
	time.Sleep(48 * time.Second)
	for range 5 {
		g.mustGet()
	}
	time.Sleep(20 * time.Second)
	for range 5 {
		g.get()
	}
	time.Sleep(20 * time.Second)
	g.endpoint.becomes(nil)
	g.mustGet()
	return g
}

// What the endpoint says of it, and what may help.
func logRefused(t *testing.T) *virtualGateway {
	g := namedApp(t, &Handler{ClientSecret: "s3cret+canary"})
	for _, answer := range []cannedAnswer{
		{status: 401, body: `{"error":"invalid_client","error_description":"no client app with s3cret+canary"}`},
		{status: 401, header: withType("text/html"), body: "<html>canary"},
		{status: 400, body: `{"error":"invalid_target","error_description":"which audience?"}`},
		{status: 400, body: `{"error":"a code of its own","error_description":"line\nbreak"}`},
		{status: 200, body: `{"error":"unauthorized_client"}`},
		{status: 307, header: http.Header{"Location": {"https://login.example.com/token?secret=canary"}}},
	} {
		g.endpoint.becomes(answer)
		g.getAfterPause()
	}
	return g
}

// getAfterPause sends a request when the endpoint may be asked again.
func (g *virtualGateway) getAfterPause() {
	g.get()
	time.Sleep(2 * time.Hour)
}

func logUnreachable(t *testing.T) string {
	upstream := startAPI(t)
	g := startGateway(t, "oauth_cc http://"+freeAddr(t)+"/token {\nclient_id app\nclient_secret s3cret-canary\ntimeout 150ms\n}\n"+upstream.proxy())
	g.get("/")
	g.get("/")
	return g.logs.all()
}

func logTimeout(t *testing.T) *virtualGateway {
	g := namedApp(t, new(Handler))
	g.endpoint.takes = time.Minute
	g.get()
	g.get() // is told at once
	return g
}

func logServerError(t *testing.T) *virtualGateway {
	g := namedApp(t, new(Handler))
	g.endpoint.becomes(cannedAnswer{status: 503, header: http.Header{"Retry-After": {"30"}}, body: "<html>canary"})
	g.getAfterPause()
	g.endpoint.becomes(cannedAnswer{status: 429, header: http.Header{"Retry-After": {"999999"}}})
	g.getAfterPause()
	return g
}

func logUnreadableAnswers(t *testing.T) *virtualGateway {
	g := namedApp(t, new(Handler))
	for _, answer := range []cannedAnswer{
		{header: withType("text/html"), body: "<html>canary"},
		{body: " "},
		{body: `{"id_token":"canary"}`},
		{body: `{"access_token":"can\r\nary","token_type":"Bearer"}`},
		{body: `{"access_token":"canary","token_type":"mac"}`},
		{body: strings.Repeat(" ", maxResponse+1)},
	} {
		g.endpoint.becomes(answer)
		g.getAfterPause()
	}
	return g
}

func logRejectionCured(t *testing.T) *virtualGateway {
	g := namedApp(t, new(Handler))
	g.mustGet()
	g.accepts(func(token string) bool { return token != "token-1" }, nil)
	g.mustGet()
	return g
}

// Once for a token that is not cured, whatever the load, and in detail for who wants that.
func logRejectionNotCured(t *testing.T) *virtualGateway {
	g := namedApp(t, new(Handler))
	g.accepts(func(string) bool { return false }, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	for range 3 {
		g.get()
	}
	return g
}

func logRejectionNotReplayable(t *testing.T) *virtualGateway {
	g := namedApp(t, &Handler{ReplayBuffer: &ReplayBuffer{PerRequest: 1024}})
	g.mustGet()
	g.endpoint.mu.Lock()
	g.endpoint.takes = time.Second
	g.endpoint.mu.Unlock()
	g.accepts(func(token string) bool { return token != "token-1" }, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		rejectToken(w)
	})
	for range 2 {
		g.send(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.Repeat("x", 64<<10))))
	}
	time.Sleep(2 * time.Second)
	return g
}

func logRejectionAndNoRenewal(t *testing.T) *virtualGateway {
	g := namedApp(t, new(Handler))
	g.mustGet()
	g.accepts(func(token string) bool { return token != "token-1" }, nil)
	g.endpoint.becomes(cannedAnswer{status: 401, body: `{"error":"invalid_client"}`})
	for range 3 {
		g.get()
	}
	return g
}

// The secret that ends is told once a try, and not at all when it has been replaced.
func logSecretRotated(t *testing.T) *virtualGateway {
	g, endpoint, file := newLockedGateway(t, new(Handler))
	g.ClientID = "app"
	g.mustGet()
	endpoint.becomes("new")
	time.Sleep(3 * time.Minute)
	for range 3 {
		g.get()
	}
	writeFile(t, file, "new")
	g.mustGet()
	endpoint.becomes("newer")
	writeFile(t, file, "newer")
	time.Sleep(3 * time.Minute)
	g.mustGet()
	return g
}

func logSecretGone(t *testing.T) *virtualGateway {
	g, _, file := newLockedGateway(t, new(Handler))
	g.ClientID = "app"
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	g.get()
	return g
}

// The warning comes with each change.
func logScopesNarrowed(t *testing.T) *virtualGateway {
	g := namedApp(t, &Handler{Scopes: []string{"orders", "items"}})
	for _, scope := range []string{"orders", "orders", "items orders", "other"} {
		g.endpoint.becomes(cannedAnswer{body: `{"access_token":"token-1","token_type":"Bearer","expires_in":60,"scope":"` + scope + `"}`})
		g.mustGet()
		time.Sleep(2 * time.Minute)
	}
	return g
}

func logExpiredWhenGranted(t *testing.T) *virtualGateway {
	g := namedApp(t, new(Handler))
	g.endpoint.expiresIn = "0"
	for range 2 {
		g.mustGet()
		time.Sleep(time.Minute)
	}
	return g
}

func logValueMissing(t *testing.T) string {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, strings.Replace(endpoint.options("scope {http.request.header.X-Tenant}"), "/token", "/{http.request.header.X-Realm}/token", 1)+upstream.proxy())
	for _, values := range [][2]string{{"", "a"}, {"a", "../b"}, {"a", strings.Repeat("x", maxValue+1)}} {
		req := clientRequest(t, http.MethodGet, g.url("/"), nil)
		req.Header.Set("X-Tenant", values[0])
		req.Header.Set("X-Realm", values[1])
		g.do(req)
	}
	return g.logs.all()
}

func logStorageOutage(t *testing.T) *virtualGateway {
	storage := newMemoryStorage()
	storage.fails = failing("load", "store", "lock")
	g := newFleet(t, storage, 1, plain)[0]
	g.ClientID = "app"
	g.endpoint.expiresIn = "60"
	g.mustGet()
	time.Sleep(2 * time.Minute)
	g.mustGet()
	storage.becomes(nil, nil)
	time.Sleep(2 * time.Minute)
	g.mustGet()
	time.Sleep(2 * time.Second) // until it is stored
	return g
}

func logStorageHasTheToken(t *testing.T) *virtualGateway {
	fleet := newFleet(t, newMemoryStorage(), 2, plain)
	for _, g := range fleet {
		g.ClientID = "app"
		g.mustGet()
		time.Sleep(2 * time.Second)
	}
	return fleet[1]
}

func logLockInVain(t *testing.T) *virtualGateway {
	storage := newMemoryStorage()
	g := newFleet(t, storage, 1, plain)[0]
	g.ClientID = "app"
	for _, second := range []bool{false, true} {
		if err := storage.Lock(t.Context(), g.sharedKey(t).lock(0, second)); err != nil {
			t.Fatal(err)
		}
	}
	g.mustGet()
	return g
}

// The issuer's metadata is gone, which is an error at first and a warning when it is known.
func logMetadata(t *testing.T) *virtualGateway {
	g := namedApp(t, &Handler{Issuer: testIssuer})
	server := &discoveryServer{at: map[string]http.RoundTripper{testEndpoint: g.endpoint}}
	g.client.transport = server
	g.getAfterPause()
	server.becomes(rfc8414Place, cannedAnswer{body: document(map[string]any{"issuer": "https://evil.example.com"})})
	g.getAfterPause()
	server.becomes(rfc8414Place, cannedAnswer{body: document(nil)})
	g.mustGet()
	server.becomes(rfc8414Place, nil)
	time.Sleep(2 * time.Hour)
	g.mustGet()
	return g
}

// A key that others can read is warned of, as is one that can't be used.
func logSigningKey(t *testing.T) string {
	server, upstream := startKeyServer(t), startAPI(t)
	if err := os.Chmod(server.file, 0o644); err != nil {
		t.Fatal(err)
	}
	g := startGateway(t, server.options()+upstream.proxy())
	g.get("/")
	writeFile(t, server.file, "-----BEGIN PRIVATE KEY-----\ncanary")
	upstream.revoke("token-1")
	g.get("/")
	return g.logs.all()
}

func logAssertionRefused(t *testing.T) string {
	server, upstream := startKeyServer(t), startAPI(t)
	server.accept("P-384")
	g := startGateway(t, server.options()+upstream.proxy())
	g.get("/")
	return g.logs.all()
}

func logProofRefused(t *testing.T) string {
	server, upstream := startBindingServer(t), startBoundAPI(t)
	upstream.origin = "https://api.example.com"
	g := startGateway(t, server.options("dpop "+upstream.URL)+proxyTo(upstream.Server))
	g.get("/")
	g.get("/")
	return g.logs.all()
}

func logProofOfAnotherPath(t *testing.T) string {
	server, upstream := startBindingServer(t), startBoundAPI(t)
	g := startGateway(t, "route {\n"+server.options("dpop "+upstream.origin)+"uri replace a b\n"+proxyTo(upstream.Server)+"}\n")
	g.get("/a")
	g.get("/a")
	return g.logs.all()
}
