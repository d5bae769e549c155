package oauthcc

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/storagetest"
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
		"rejection_of_a_new_token":      inVirtualTime(logRejectionOfANewToken),
		"rejection_not_replayable":      inVirtualTime(logRejectionNotReplayable),
		"rejection_of_what_may_be_done": inVirtualTime(logRejectionOfWhatMayBeDone),
		"rejection_and_no_renewal":      inVirtualTime(logRejectionAndNoRenewal),
		"secret_rotated":                inVirtualTime(logSecretRotated),
		"secret_gone":                   inVirtualTime(logSecretGone),
		"scopes_narrowed":               inVirtualTime(logScopesNarrowed),
		"unusual_type":                  inVirtualTime(logUnusualType),
		"refresh_token_replaced":        inVirtualTime(logRefreshTokenReplaced),
		"expired_when_granted":          inVirtualTime(logExpiredWhenGranted),
		"value_missing":                 logValueMissing,
		"storage_outage":                inVirtualTime(logStorageOutage),
		"storage_has_the_token":         inVirtualTime(logStorageHasTheToken),
		"lock_not_had_in_time":          inVirtualTime(logLockInVain),
		"metadata":                      inVirtualTime(logMetadata),
		"signing_key":                   logSigningKey,
		"client_certificate":            inVirtualTime(logClientCertificate),
		"certificate_expires":           inVirtualTime(logCertificateExpires),
		"assertion_refused":             logAssertionRefused,
		"assertion_missing":             logAssertionMissing,
		"proof_refused":                 logProofRefused,
		"proof_of_another_path":         logProofOfAnotherPath,
		"events_lost":                   inVirtualTime(logEventsLost),
		"placements":                    logPlacements,
	}
}

// Nobody has told of any event yet.
func logEventsLost(t *testing.T) *virtualGateway {
	g := namedApp(t, new(Handler))
	g.reporter.eventQueue = newEventQueue()
	for range maxEvents + 2 {
		g.reporter.emit(eventFailed, nil)
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
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, endpoint.Options("prefetch")+upstream.Proxy())
	gatewaytest.Await(t, "the token is there", func() bool { return len(g.Logs.With("token obtained")) == 1 })
	return g.Logs.All()
}

func logObtainedForTenants(t *testing.T) string {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, strings.Replace(endpoint.Options(), "client_id app", "client_id {http.request.header.X-Tenant}", 1)+upstream.Proxy())
	for _, tenant := range []string{"acme", "globex", "acme"} {
		req := gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil)
		req.Header.Set("X-Tenant", tenant)
		g.Do(req)
	}
	return g.Logs.All()
}

// An operator renews a token, in vain the second time, and has it forgotten.
func logOperator(t *testing.T) string {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithAdmin(t, endpoint.Options()+upstream.Proxy())
	path := "tokens/" + g.Token().ID
	g.Ask(http.MethodPost, path+"/refresh")
	endpoint.SetAnswer(gatewaytest.Says(http.StatusBadRequest, "application/json", `{"error":"invalid_scope"}`))
	g.Ask(http.MethodPost, path+"/refresh")
	g.Ask(http.MethodDelete, path)
	g.Ask(http.MethodPost, path+"/refresh")
	return g.Logs.All()
}

// As long as the token is valid it is a warning for each try, and an error from then on.
func logRenewalFails(t *testing.T) *virtualGateway {
	g := namedApp(t, &Handler{RefreshAhead: "10s"})
	g.endpoint.expiresIn = "60"
	g.mustGet()
	g.endpoint.becomes(servertest.Answer{Status: 503, Body: `{"error":"temporarily_unavailable","error_description":"back at noon"}`})
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
	for _, answer := range []servertest.Answer{
		{Status: 401, Body: `{"error":"invalid_client","error_description":"no client app with s3cret+canary"}`},
		{Status: 401, Header: servertest.WithType("text/html"), Body: "<html>canary"},
		{Status: 400, Body: `{"error":"invalid_target","error_description":"which audience?"}`},
		{Status: 400, Body: `{"error":"a code of its own","error_description":"line\nbreak"}`},
		{Status: 200, Body: `{"error":"unauthorized_client"}`},
		{Status: 307, Header: http.Header{"Location": {"https://login.example.com/token?secret=canary"}}},
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
	upstream := gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, "oauth_cc http://"+gatewaytest.FreeAddr(t)+"/token {\nclient_id app\nclient_secret s3cret-canary\ntimeout 150ms\n}\n"+upstream.Proxy())
	g.Get("/")
	g.Get("/")
	return g.Logs.All()
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
	g.endpoint.becomes(servertest.Answer{Status: 503, Header: http.Header{"Retry-After": {"30"}}, Body: "<html>canary"})
	g.getAfterPause()
	g.endpoint.becomes(servertest.Answer{Status: 429, Header: http.Header{"Retry-After": {"999999"}}})
	g.getAfterPause()
	return g
}

func logUnreadableAnswers(t *testing.T) *virtualGateway {
	g := namedApp(t, new(Handler))
	for _, answer := range []servertest.Answer{
		{Header: servertest.WithType("text/html"), Body: "<html>canary"},
		{Body: " "},
		{Body: `{"id_token":"canary"}`},
		{Body: `{"access_token":"can\r\nary","token_type":"Bearer"}`},
		{Body: `{"access_token":"canary","token_type":"mac"}`},
		{Body: strings.Repeat(" ", endpoint.MaxResponse+1)},
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
func logRejectionOfANewToken(t *testing.T) *virtualGateway {
	g := namedApp(t, new(Handler))
	g.mustGet()
	time.Sleep(57 * time.Minute)
	g.mustGet() // has it renewed
	synctest.Wait()
	g.accepts(func(token string) bool { return token == "token-1" }, nil)
	for range 20 {
		g.mustGet()
		time.Sleep(200 * time.Millisecond)
	}
	return g
}

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
		gatewaytest.RejectToken(w)
	})
	for range 2 {
		g.send(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.Repeat("x", 64<<10))))
	}
	time.Sleep(2 * time.Second)
	return g
}

// The upstream has answered, and a handler makes another answer of it.
func logRejectionOfWhatMayBeDone(t *testing.T) *virtualGateway {
	g := namedApp(t, new(Handler))
	g.mustGet()
	g.endpoint.mu.Lock()
	g.endpoint.takes = time.Second
	g.endpoint.mu.Unlock()
	g.accepts(func(token string) bool { return token != "token-1" }, func(w http.ResponseWriter, _ *http.Request) {
		w.(proxyWriter).ResponseWriter.WriteHeader(http.StatusUnauthorized)
	})
	for range 2 {
		g.send(httptest.NewRequest(http.MethodPost, "/", strings.NewReader("an order")))
	}
	time.Sleep(2 * time.Second)
	return g
}

func logRejectionAndNoRenewal(t *testing.T) *virtualGateway {
	g := namedApp(t, new(Handler))
	g.mustGet()
	g.accepts(func(token string) bool { return token != "token-1" }, nil)
	g.endpoint.becomes(servertest.Answer{Status: 401, Body: `{"error":"invalid_client"}`})
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
	servertest.WriteFile(t, file, "new")
	g.mustGet()
	endpoint.becomes("newer")
	servertest.WriteFile(t, file, "newer")
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
		g.endpoint.becomes(servertest.Answer{Body: `{"access_token":"token-1","token_type":"Bearer","expires_in":60,"scope":"` + scope + `"}`})
		g.mustGet()
		time.Sleep(2 * time.Minute)
	}
	return g
}

// The warning comes with each change.
func logUnusualType(t *testing.T) *virtualGateway {
	g := namedApp(t, new(Handler))
	for _, name := range []string{"BearerToken", "BearerToken", "bearer", "BearerToken", "Application Access Token token-1"} {
		g.endpoint.becomes(servertest.Answer{Body: `{"access_token":"token-1","token_type":"` + name + `","expires_in":60}`})
		g.mustGet()
		time.Sleep(2 * time.Minute)
	}
	return g
}

// The warning comes once, for as long as the endpoint does that.
func logRefreshTokenReplaced(t *testing.T) *virtualGateway {
	g := namedApp(t, &Handler{Params: map[string][]string{"grant_type": {"refresh_token"}, "refresh_token": {"first"}}})
	for _, token := range []string{"second", "third", "first", "fourth"} {
		g.endpoint.becomes(servertest.Answer{Body: `{"access_token":"token-1","token_type":"Bearer","expires_in":60,"refresh_token":"` + token + `"}`})
		g.mustGet()
		time.Sleep(2 * time.Minute)
	}
	g.endpoint.becomes(servertest.Answer{Status: 400, Body: `{"error":"invalid_grant","error_description":"first is no refresh token"}`})
	g.get()
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
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, strings.Replace(endpoint.Options("scope {http.request.header.X-Tenant}"), "/token", "/{http.request.header.X-Realm}/token", 1)+upstream.Proxy())
	for _, values := range [][2]string{{"", "a"}, {"a", "../b"}, {"a", strings.Repeat("x", maxValue+1)}} {
		req := gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil)
		req.Header.Set("X-Tenant", values[0])
		req.Header.Set("X-Realm", values[1])
		g.Do(req)
	}
	return g.Logs.All()
}

func logStorageOutage(t *testing.T) *virtualGateway {
	storage := storagetest.NewMemory()
	storage.Becomes(storagetest.Failing("load", "store", "lock"), nil)
	g := newFleet(t, storage, 1, plain)[0]
	g.ClientID = "app"
	g.endpoint.expiresIn = "60"
	g.mustGet()
	time.Sleep(2 * time.Minute)
	g.mustGet()
	storage.Becomes(nil, nil)
	time.Sleep(2 * time.Minute)
	g.mustGet()
	time.Sleep(2 * time.Second) // until it is stored
	return g
}

func logStorageHasTheToken(t *testing.T) *virtualGateway {
	fleet := newFleet(t, storagetest.NewMemory(), 2, plain)
	for _, g := range fleet {
		g.ClientID = "app"
		g.mustGet()
		time.Sleep(2 * time.Second)
	}
	return fleet[1]
}

func logLockInVain(t *testing.T) *virtualGateway {
	storage := storagetest.NewMemory()
	g := newFleet(t, storage, 1, plain)[0]
	g.ClientID = "app"
	storage.TakeLocks()
	g.mustGet()
	return g
}

// The issuer's metadata is gone, which is an error at first and a warning when it is known.
func logMetadata(t *testing.T) *virtualGateway {
	g := namedApp(t, &Handler{Issuer: servertest.Issuer})
	server := &servertest.Discovery{At: map[string]http.RoundTripper{servertest.Endpoint: g.endpoint}}
	g.tokens.client.Transport = server
	g.getAfterPause()
	server.Becomes(servertest.RFC8414Place, servertest.Answer{Body: servertest.Document(map[string]any{"issuer": "https://evil.example.com"})})
	g.getAfterPause()
	server.Becomes(servertest.RFC8414Place, servertest.Answer{Body: servertest.Document(nil)})
	g.mustGet()
	server.Becomes(servertest.RFC8414Place, nil)
	time.Sleep(2 * time.Hour)
	g.mustGet()
	return g
}

// A key that others can read is warned of, as is one that can't be used.
func logSigningKey(t *testing.T) string {
	server, upstream := gatewaytest.StartKeyServer(t), gatewaytest.StartAPI(t)
	if err := os.Chmod(server.File, 0o644); err != nil {
		t.Fatal(err)
	}
	g := gatewaytest.Start(t, server.Options()+upstream.Proxy())
	g.Get("/")
	servertest.WriteFile(t, server.File, "-----BEGIN PRIVATE KEY-----\ncanary")
	upstream.Revoke("token-1")
	g.Get("/")
	if all := g.Logs.All(); strings.Contains(all, "PRIVATE") || strings.Contains(all, "canary") {
		t.Errorf("the log has what is in the key's file: %s", all)
	}
	return g.Logs.All()
}

// One that can't be used for a moment is nothing to tell of.
func logClientCertificate(t *testing.T) *virtualGateway {
	f := newCertificateFolder(t)
	f.put(365 * 24 * time.Hour)
	g := namedApp(t, f.client())
	g.mustGet()
	servertest.WriteFile(t, f.keyFile(), "-----BEGIN PRIVATE KEY-----\ncanary")
	for range 2 {
		time.Sleep(time.Hour + time.Minute)
		g.mustGet()
	}
	return g
}

func logCertificateExpires(t *testing.T) *virtualGateway {
	f := newCertificateFolder(t)
	f.put(150 * day)
	g := namedApp(t, f.client())
	for _, days := range []time.Duration{119, 2, 30} {
		time.Sleep(days * day)
		g.mustGet()
	}
	return g
}

func logAssertionRefused(t *testing.T) string {
	server, upstream := gatewaytest.StartKeyServer(t), gatewaytest.StartAPI(t)
	server.Accept("P-384")
	g := gatewaytest.Start(t, server.Options()+upstream.Proxy())
	g.Get("/")
	return g.Logs.All()
}

// The gateway starts before whatever writes its assertion.
func logAssertionMissing(t *testing.T) string {
	server, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	file := filepath.Join(t.TempDir(), "token")
	g := gatewaytest.Start(t, strings.Replace(server.Options(), "client_secret s3cret-canary", "client_assertion {file."+file+"}", 1)+upstream.Proxy())
	g.Get("/")
	return g.Logs.All()
}

func logProofRefused(t *testing.T) string {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	upstream.Origin = "https://api.example.com"
	g := gatewaytest.Start(t, server.Options("dpop "+upstream.URL)+gatewaytest.ProxyTo(upstream.Server))
	g.Get("/")
	g.Get("/")
	return g.Logs.All()
}

func logProofOfAnotherPath(t *testing.T) string {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	g := gatewaytest.Start(t, "route {\n"+server.Options("dpop "+upstream.Origin)+"uri replace a b\n"+gatewaytest.ProxyTo(upstream.Server)+"}\n")
	g.Get("/a")
	g.Get("/a")
	return g.Logs.All()
}
