package providers

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// exampleTests has a test for each file in examples, which runs that file.
var exampleTests = map[string]func(*testing.T){
	"access-log":         testAccessLog,
	"always-warm":        testAlwaysWarm,
	"api-key":            testAPIKey,
	"client-secret-jwt":  testClientSecretJWT,
	"dpop":               testDPoP,
	"fapi2-dpop":         testFAPI2DPoP,
	"fapi2-mutual-tls":   func(t *testing.T) { testMutualTLS(t, "fapi2-mutual-tls") },
	"mutual-tls":         func(t *testing.T) { testMutualTLS(t, "mutual-tls") },
	"private-key-jwt":    testPrivateKeyJWT,
	"applixure":          func(t *testing.T) { testProviderExample(t, applixure) },
	"error-pages":        testErrorPages,
	"fleet":              testFleet,
	"fleet-redis":        testFleetRedis,
	"genesys-cloud":      func(t *testing.T) { testProviderExample(t, genesysCloud) },
	"grpc":               testGRPC,
	"login":              testLogin,
	"multi-tenant":       testMultiTenant,
	"myparcel":           func(t *testing.T) { testProviderExample(t, myParcel) },
	"password-grant":     testPasswordGrant,
	"patients-know-best": func(t *testing.T) { testProviderExample(t, patientsKnowBest) },
	"private-ca":         testPrivateCA,

	"entra-certificate":       testEntraCertificate,
	"entra-workload-identity": testEntraWorkloadIdentity,
	"keycloak-kubernetes":     testKeycloakKubernetes,
	"spiffe":                  testSPIFFE,
	"signer":                  testSigner,
	"google-service-account":  testGoogleServiceAccount,
	"salesforce":              testSalesforce,
	"docusign":                testDocuSign,
	"box":                     testBox,

	"quickstart":     testQuickstart,
	"refresh-token":  testRefreshToken,
	"secret-file":    testSecretFile,
	"notify":         testNotify,
	"token-exchange": testTokenExchange,
	"tracing":        testTracing,
	"two-apis":       testTwoAPIs,
	"upload":         testUpload,
}

// slowExamples are those whose tests wait for tokens to expire or for retries.
var slowExamples = map[string]bool{"always-warm": true, "multi-tenant": true, "private-ca": true, "quickstart": true}

func TestEveryExampleRuns(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(examples, "*.Caddyfile"))
	if err != nil || len(files) < len(exampleTests) {
		t.Fatalf("found %d examples for %d tests: %v", len(files), len(exampleTests), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".Caddyfile")
		t.Run(name, func(t *testing.T) {
			run := exampleTests[name]
			if run == nil {
				t.Fatalf("%s has no test", file)
			}
			if slowExamples[name] && !gatewaytest.Apart(t) {
				return
			}
			delete(startedExamples, name)
			run(t)
			if !startedExamples[name] {
				t.Errorf("%s was not started by its test", file)
			}
		})
	}
}

func TestExamplesAreFormattedAndListenOnLoopbackOnly(t *testing.T) {
	for name := range exampleTests {
		text := readExample(t, name)
		if !bytes.Equal(caddyfile.Format([]byte(text)), []byte(text)) {
			t.Errorf("%s: caddy fmt changes it", name)
		}
		config, err := gatewaytest.Adapt(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		eachObject(decodeConfig(t, config), func(object map[string]any) {
			listen, _ := object["listen"].([]any)
			for _, address := range listen {
				if !strings.HasPrefix(address.(string), "127.0.0.1:") {
					t.Errorf("%s listens on %s", name, address)
				}
			}
		})
	}
}

// startedExamples are those that startExample has run.
var startedExamples = make(map[string]bool)

// exampleRun is what an example needs to run in a test.
type exampleRun struct {
	env     map[string]string
	replace []string          // pairs of what is in the file and what to write instead
	trust   *x509.Certificate // of the servers, where the example goes by public CAs
}

// startExample runs a file of the folder examples. Only the addresses, the log and
// the admin endpoint differ from what a user gets.
func startExample(t *testing.T, name string, run exampleRun) *gatewaytest.Gateway {
	t.Helper()
	g, err := tryExample(t, name, run)
	if err != nil {
		t.Fatalf("loading %s: %v", name, err)
	}
	startedExamples[name] = true
	return g
}

func tryExample(t *testing.T, name string, run exampleRun) (*gatewaytest.Gateway, error) {
	t.Helper()
	g := gatewaytest.Start(t, "")
	g.Addr = gatewaytest.FreeAddr(t) // a reload that keeps the address can reset a new connection
	t.Setenv("GATEWAY_ADDRESS", g.Addr)
	return g, loadExample(t, name, run)
}

// loadExample is also what a reload does.
func loadExample(t *testing.T, name string, run exampleRun) error {
	t.Helper()
	for variable, value := range run.env {
		t.Setenv(variable, value)
	}
	text := readExample(t, name)
	for i := 0; i < len(run.replace); i += 2 {
		if !strings.Contains(text, run.replace[i]) {
			t.Fatalf("%s does not contain %q", name, run.replace[i])
		}
		text = strings.ReplaceAll(text, run.replace[i], run.replace[i+1])
	}
	config, err := gatewaytest.Adapt(text)
	if err != nil {
		return err
	}
	loaded := forTest(t, config, run.trust)
	return errors.Join(caddy.Load(loaded, true), gatewaytest.AwaitOldListeners(string(loaded)))
}

func readExample(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(examples, name+".Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// forTest replaces the log and the admin endpoint of a configuration, and the CAs
// that its TLS connections trust.
func forTest(t testing.TB, config []byte, trust *x509.Certificate) []byte {
	t.Helper()
	tree := decodeConfig(t, config)
	tree["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
	tree["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{
		"writer":  map[string]any{"output": "oauth_cc_test"},
		"encoder": map[string]any{"format": "json"},
		"level":   "DEBUG",
	}}}
	if trust != nil {
		eachObject(tree, func(object map[string]any) {
			switch object["handler"] {
			case "reverse_proxy":
				member(object, "transport")["protocol"] = "http"
			case "oauth_cc":
			default:
				return
			}
			member(member(object, "transport"), "tls")["ca"] = map[string]any{
				"provider": "inline", "trusted_ca_certs": []string{base64.StdEncoding.EncodeToString(trust.Raw)},
			}
		})
	}
	config, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// member is an object within another, made if need be.
func member(object map[string]any, name string) map[string]any {
	if found, ok := object[name].(map[string]any); ok {
		return found
	}
	made := make(map[string]any)
	object[name] = made
	return made
}

func decodeConfig(t testing.TB, config []byte) map[string]any {
	t.Helper()
	var tree map[string]any
	if err := json.Unmarshal(config, &tree); err != nil {
		t.Fatal(err)
	}
	return tree
}

// eachObject visits every object of a decoded configuration.
func eachObject(node any, visit func(map[string]any)) {
	switch node := node.(type) {
	case map[string]any:
		visit(node)
		for _, child := range node {
			eachObject(child, visit)
		}
	case []any:
		for _, child := range node {
			eachObject(child, visit)
		}
	}
}

// testQuickstart shortens the life of a token from ten seconds to two, and the API's
// patience to what still covers a token that was issued late in its second.
func testQuickstart(t *testing.T) {
	endpoint, api := gatewaytest.FreeAddr(t), gatewaytest.FreeAddr(t)
	gatewayAddr := gatewaytest.FreeAddr(t)
	g := startExample(t, "quickstart", exampleRun{replace: []string{
		"localhost:8080", gatewayAddr,
		"localhost:9090", endpoint,
		"localhost:9091", api,
		`"expires_in":10`, `"expires_in":2`,
		"[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]", "[0, 1, 2, 3]",
	}})
	first := gatewaytest.SendLines(t, http.MethodGet, "http://"+gatewayAddr+"/orders/1", "")
	if first.Status != 200 || !strings.HasPrefix(first.Body, "Order 1 is on its way. (You came with Bearer demo-") {
		t.Fatalf("the gateway answered %d %q", first.Status, first.Body)
	}
	if first.Header.Get("WWW-Authenticate") != "" {
		t.Error("a request that was accepted got a challenge")
	}
	gatewaytest.Await(t, "the token is renewed", func() bool {
		a := gatewaytest.SendLines(t, http.MethodGet, "http://"+gatewayAddr+"/orders/1", "")
		if a.Status != 200 {
			t.Fatalf("the gateway answered %d %q", a.Status, a.Body)
		}
		return a.Body != first.Body
	})
	var obtained []map[string]any
	gatewaytest.Await(t, "the renewal is logged", func() bool { // which comes after the token can be used
		obtained = g.Logs.With("token obtained")
		return len(obtained) >= 2
	})
	if obtained[1]["trigger"] != string(tokencache.TriggerAhead) {
		t.Errorf("the log does not show the renewal: %v", obtained)
	}

	_, issued, _ := strings.Cut(first.Body, "Bearer ")
	issued, _, _ = strings.Cut(issued, ".)")
	now := time.Now().Unix()
	for name, authorization := range map[string]string{
		"none":           "X-None: ",
		"forged":         "Authorization: Bearer forged",
		"from long ago":  fmt.Sprintf("Authorization: Bearer demo-%d", now-10),
		"not issued yet": fmt.Sprintf("Authorization: Bearer demo-%d", now+3600),
		"basic":          "Authorization: Basic ZGVtbzpzM2NyZXQ=",
	} {
		a := gatewaytest.SendLines(t, http.MethodGet, "http://"+api+"/orders/1", "", authorization)
		if a.Status != 401 || a.Header.Get("WWW-Authenticate") != `Bearer error="invalid_token"` {
			t.Errorf("token %s: the API answered %d %v", name, a.Status, a.Header)
		}
	}
	gatewaytest.Await(t, "the first token expires", func() bool {
		return gatewaytest.SendLines(t, http.MethodGet, "http://"+api+"/orders/1", "", "Authorization: Bearer "+issued).Status == 401
	})
	if a := gatewaytest.SendLines(t, http.MethodPost, "http://"+endpoint+"/oauth/token", "grant_type=client_credentials"); a.Status != 401 {
		t.Errorf("the token endpoint answered %d to a stranger", a.Status)
	}
}

// grantOnlyTo makes the endpoint grant tokens to the client with that secret alone.
func grantOnlyTo(s *gatewaytest.TokenServer, id, secret string) {
	s.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if gotID, gotSecret, _ := r.BasicAuth(); gotID != id || gotSecret != secret {
			http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
			return
		}
		s.Grant(w)
	})
}

func testAlwaysWarm(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.Lifetime = 2
	grantOnlyTo(endpoint, "gateway", "s3cret")
	upstream.SetReject(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	g := startExample(t, "always-warm", exampleRun{env: map[string]string{
		"TOKEN_ENDPOINT": endpoint.URL, "CLIENT_SECRET": "s3cret", "API": upstream.URL,
	}})
	gatewaytest.Await(t, "tokens are renewed while nobody asks", func() bool { return len(g.Logs.With("token obtained")) >= 3 })
	if a := g.Get("/"); a.Status != 200 {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
	for _, entry := range g.Logs.With("token obtained") {
		if entry["trigger"] != string(tokencache.TriggerPrefetch) && entry["trigger"] != string(tokencache.TriggerAhead) {
			t.Errorf("obtained because of %q", entry["trigger"])
		}
	}
	for n := range endpoint.Count() {
		upstream.Revoke(fmt.Sprintf("token-%d", n+1))
	}
	if a := g.Get("/"); a.Status != 200 {
		t.Errorf("after the revocation: got %d %q", a.Status, a.Body)
	}
}

func testSecretFile(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	secretFile := filepath.Join(t.TempDir(), "secret")
	servertest.WriteFile(t, secretFile, "first-secret\n")
	grantOnlyTo(endpoint, "gateway", "first-secret")
	g := startExample(t, "secret-file", exampleRun{env: map[string]string{
		"TOKEN_ENDPOINT": endpoint.URL, "SECRET_FILE": secretFile, "API": upstream.URL,
	}})
	if a := g.Get("/"); a.Status != 200 {
		t.Fatalf("got %d %q", a.Status, a.Body)
	}
	servertest.WriteFile(t, secretFile, "second-secret\n")
	grantOnlyTo(endpoint, "gateway", "second-secret")
	upstream.Revoke("token-1")
	if a := g.Get("/"); a.Status != 200 || a.Body != "GET / with token-2" {
		t.Errorf("with the new secret: got %d %q", a.Status, a.Body)
	}
	if n := endpoint.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

func testErrorPages(t *testing.T) {
	tests := map[string]struct {
		endpoint   http.HandlerFunc
		api        http.HandlerFunc
		status     int
		body       string
		retryAfter bool
	}{
		"a refused client": {
			endpoint: func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, `{"error":"invalid_client","error_description":"endpoint-words"}`, 401)
			},
			status: 502, body: `{"title":"No access to the partner","status":502,"cause":"invalid_client"}`,
		},
		"an endpoint that is down": {
			endpoint: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "30") // no try is due before, so the test need not wait
				http.Error(w, "endpoint-words", 503)
			},
			status: 503, body: `{"title":"No access to the partner","status":503,"cause":"server_error"}`, retryAfter: true,
		},
		"an API that is down": {
			api:    func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			status: 502, body: `{"title":"Bad Gateway","status":502}`,
		},
		"a rejection that a new token does not cure": {
			api: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", "Bearer")
				http.Error(w, "no such account", 401)
			},
			status: 502, body: "no such account\n",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			endpoint, upstream := gatewaytest.StartTokenServer(t), httptest.NewServer(test.api)
			t.Cleanup(upstream.Close)
			if test.endpoint != nil {
				endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) { test.endpoint(w, r) })
			}
			g := startExample(t, "error-pages", exampleRun{env: map[string]string{
				"TOKEN_ENDPOINT": endpoint.URL, "CLIENT_SECRET": "s3cret", "API": upstream.URL,
			}})
			a := g.Get("/")
			if a.Status != test.status || a.Body != test.body {
				t.Errorf("got %d %q", a.Status, a.Body)
			}
			if got := a.Header.Get("Retry-After") != ""; got != test.retryAfter {
				t.Errorf("Retry-After is %q", a.Header.Get("Retry-After"))
			}
			if a.Header.Get("WWW-Authenticate") != "" {
				t.Error("the client got the API's challenge")
			}
		})
	}
}

func testTwoAPIs(t *testing.T) {
	endpoint, orders, stock := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t), gatewaytest.StartAPI(t)
	shop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "the shop got %q", r.Header["Authorization"])
	}))
	t.Cleanup(shop.Close)
	shopAddr := gatewaytest.FreeAddr(t)
	g := startExample(t, "two-apis", exampleRun{env: map[string]string{
		"TOKEN_ENDPOINT": endpoint.URL, "CLIENT_SECRET": "s3cret", "SHOP_ADDRESS": shopAddr,
		"ORDERS_API": orders.URL, "STOCK_API": stock.URL, "SHOP": shop.URL,
	}})
	for _, test := range []struct{ url, body string }{
		{g.URL("/orders"), "GET /orders with token-1"},
		{"http://" + shopAddr + "/partner/stock", "GET /stock with token-1"},
		{"http://" + shopAddr + "/basket", `the shop got ["Bearer of-the-client"]`},
	} {
		a := gatewaytest.SendLines(t, http.MethodGet, test.url, "", "Authorization: Bearer of-the-client")
		if a.Status != 200 || a.Body != test.body {
			t.Errorf("%s: got %d %q", test.url, a.Status, a.Body)
		}
	}
	if requests := endpoint.Recorded(); len(requests) != 1 || !strings.Contains(requests[0].Body, "scope=orders%3Awrite+stock%3Aread") {
		t.Errorf("token requests: %v", requests)
	}
}

// testMultiTenant has hashes that cost less than those of the example.
func testMultiTenant(t *testing.T) {
	endpoint := gatewaytest.StartTenantServer(t, map[string]string{"orchard-17": "s3cret-canary-orchard"})
	eu := gatewaytest.StartTenantServer(t, map[string]string{"harbor-4": "s3cret-canary-harbor"})
	upstream := gatewaytest.StartAPI(t)
	file := filepath.Join(t.TempDir(), "secret")
	servertest.WriteFile(t, file, "s3cret-canary-orchard\n")
	start := func(replace ...string) *gatewaytest.Gateway {
		return startExample(t, "multi-tenant", exampleRun{
			env: map[string]string{
				"TOKEN_ENDPOINT": endpoint.URL + "/token", "EU_TOKEN_ENDPOINT": eu.URL + "/token",
				"ORCHARD_SECRET_FILE": file, "HARBOR_SECRET": "s3cret-canary-harbor", "API": upstream.URL,
			},
			replace: append([]string{
				"$2a$14$HdWVuwHUsNXqxh.TW1EFFuS2bgEZjGMK9ezA7QqkRKaYOlernw5N2", "$2a$04$t2WNAUApo48fJKb3idOlrOGu3kU.PNPpAHaS3ftPJe1wTxe8omhUG",
				"$2a$14$YUh7un46Ktx.IhnqkEnw6.63mmKJHs3MNRCgZaxdGyIloWPMNo7Um", "$2a$04$nFuVe.fpP2WETJ30qKLnV.knHdV75H6syfvLjga1z2KSTjuImU7zu",
			}, replace...),
		})
	}
	g := start()
	as := func(user, password string, lines ...string) gatewaytest.Answer {
		credential := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
		return gatewaytest.SendLines(t, http.MethodGet, g.URL("/"), "", append(lines, "Authorization: Basic "+credential)...)
	}
	for range 2 {
		gatewaytest.CheckAnswer(t, as("orchard", "orchard-demo"), 200, "GET / with of-orchard-17-1")
		gatewaytest.CheckAnswer(t, as("harbor", "harbor-demo"), 200, "GET / with of-harbor-4-1")
	}
	// Nothing that a client writes makes it another one.
	gatewaytest.CheckAnswer(t, as("orchard", "orchard-demo", "X-Tenant: harbor", "Partner_id: harbor-4"), 200, "GET / with of-orchard-17-1")
	gatewaytest.WantProbed(t, as("orchard", "harbor-demo"), 401, "")
	gatewaytest.WantProbed(t, as("stranger", "orchard-demo"), 401, "")
	gatewaytest.WantProbed(t, g.Get("/"), 401, "")

	endpoint.Becomes("orchard-17", "s3cret-canary-new")
	servertest.WriteFile(t, file, "s3cret-canary-new\n")
	gatewaytest.CheckAnswer(t, as("orchard", "orchard-demo"), 200, "GET / with of-orchard-17-2")
	gatewaytest.WantFetched(t, endpoint.TokenServer, 2)
	gatewaytest.WantFetched(t, eu.TokenServer, 1)

	// One who can log in and is not in the map has nobody's credential.
	g = start("\tharbor {$EU_TOKEN", "\tother {$EU_TOKEN")
	gatewaytest.CheckAnswer(t, as("harbor", "harbor-demo"), 502, "")
	gatewaytest.WantMissing(t, g, "token_endpoint: placeholder {partner_endpoint} is empty", 1)
	gatewaytest.WantFetched(t, eu.TokenServer, 1)
}

func testUpload(t *testing.T) {
	run := func(t *testing.T, size int, reject func(w http.ResponseWriter, r *http.Request), replace ...string) {
		t.Helper()
		endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
		g := startExample(t, "upload", exampleRun{
			env:     map[string]string{"TOKEN_ENDPOINT": endpoint.URL, "CLIENT_SECRET": "s3cret", "API": upstream.URL},
			replace: replace,
		})
		g.Get("/")
		upstream.Revoke("token-1")
		upstream.SetReject(reject)
		body := strings.Repeat("0123456789abcdef", size/16)
		if a := g.Post("/files", "application/octet-stream", body); a.Status != 200 {
			t.Fatalf("got %d %q", a.Status, a.Body)
		}
		if upstream.Last(t).Body != body {
			t.Errorf("the API got %d bytes, want %d", len(upstream.Last(t).Body), size)
		}
	}
	t.Run("read before it is rejected", func(t *testing.T) {
		run(t, 8<<20, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusUnauthorized)
		})
	})
	t.Run("rejected unread, larger than the buffer", func(t *testing.T) {
		run(t, 1<<20, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Expect") != "100-continue" {
				t.Error("the API was not asked for permission")
			}
			w.WriteHeader(http.StatusUnauthorized)
		}, "16MiB 256MiB", "4KiB", "expect_continue_timeout 5s", "expect_continue_timeout 25s")
	})
}

func testPrivateCA(t *testing.T) {
	company, stranger := servertest.NewCA(t), servertest.NewCA(t)
	endpoint := company.StartForClients(t, &gatewaytest.TokenServer{Lifetime: 3600})
	upstream := company.StartForClients(t, new(gatewaytest.API))
	certificate, key := company.Client(t, "gateway")
	start := func(t *testing.T, trusted *servertest.CA) gatewaytest.Answer {
		g := startExample(t, "private-ca", exampleRun{env: map[string]string{
			"TOKEN_ENDPOINT": endpoint.URL, "API": upstream.URL, "CLIENT_SECRET": "s3cret",
			"CA_FILE": trusted.File(t), "CERTIFICATE_FILE": certificate, "KEY_FILE": key,
		}})
		a := g.Get("/orders")
		if failures := g.Logs.With("no token obtained"); a.Status == 503 &&
			(len(failures) != 1 || !strings.Contains(failures[0]["detail"].(string), "unknown authority")) {
			t.Errorf("the log does not tell the cause: %v", failures)
		}
		return a
	}
	t.Run("of the company", func(t *testing.T) {
		if a := start(t, company); a.Status != 200 || a.Body != "GET /orders with token-1" {
			t.Errorf("got %d %q", a.Status, a.Body)
		}
	})
	t.Run("of a stranger", func(t *testing.T) {
		if a := start(t, stranger); a.Status != 503 {
			t.Errorf("got %d %q", a.Status, a.Body)
		}
	})
}

func TestExamplesAreFormattedAndAdapt(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(examples, "*Caddyfile"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if formatted := caddyfile.Format(text); !bytes.Equal(formatted, text) {
				t.Errorf("caddy fmt would write\n%s", formatted)
			}
			gatewaytest.AdaptedHandlers(t, string(gatewaytest.AdaptWithoutWarnings(t, string(text))))
		})
	}
}
