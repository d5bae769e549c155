package requests

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// canarySite has a gateway whose secrets, and whatever a hostile endpoint says, hold
// the word canary.
func canarySite(endpoint, scope string, upstream *gatewaytest.API, more ...string) string {
	return "log\noauth_cc " + endpoint + "/token?key=query-canary {\nclient_id app\nclient_secret s3cret-canary\nscope " + scope + "\n" +
		strings.Join(more, "\n") + "\n}\n" + upstream.Proxy("header_up X-Status {http.oauth_cc.status}", "header_up X-Error {http.oauth_cc.error}") +
		"handle_errors {\nrespond \"{err.status_code} {http.oauth_cc.error} {http.oauth_cc.status}\" {err.status_code}\n}\n"
}

// wantNoCanary fails if anything that was logged or answered must not be known.
func wantNoCanary(g *gatewaytest.Gateway, answers ...gatewaytest.Answer) {
	g.T.Helper()
	texts := map[string]string{"the log": g.Logs.All()}
	for i, a := range answers {
		texts[fmt.Sprint("answer ", i)] = fmt.Sprint(a)
	}
	basic := base64.StdEncoding.EncodeToString([]byte("app:s3cret-canary"))
	for place, text := range texts {
		for _, secret := range []string{"canary", basic} {
			if at := strings.Index(text, secret); at >= 0 {
				g.T.Errorf("%s holds a secret: …%s", place, text[max(0, at-300):at+len(secret)])
			}
		}
	}
}

// wantFailure fails unless the gateway told one failed fetch from the endpoint, with that error
// code.
func wantFailure(g *gatewaytest.Gateway, endpoint, code string) map[string]any {
	g.T.Helper()
	entries := slices.DeleteFunc(g.Logs.With("no token obtained"), func(entry map[string]any) bool {
		return entry["endpoint"] != endpoint+"/token"
	})
	if len(entries) != 1 {
		g.T.Fatalf("%d log entries of a failure, want 1: %v", len(entries), entries)
	}
	if entry := entries[0]; entry["level"] != "error" || entry["error"] != code || entry["client_id"] != "app" {
		g.T.Errorf("logged %v, want the error %s", entry, code)
	}
	return entries[0]
}

// comesTo sends GET requests until one is answered with that status. A connection
// that fails is no answer: right after a reload the kernel can reset one that was
// waiting for the listener of the configuration before.
func comesTo(g *gatewaytest.Gateway, status int) gatewaytest.Answer {
	g.T.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		req, _ := http.NewRequest(http.MethodGet, g.URL("/"), nil)
		a, err := gatewaytest.Exchange(gatewaytest.Client, req)
		if err == nil && a.Status == status {
			return a
		}
		if time.Now().After(deadline) {
			g.T.Fatalf("at last got %d %q, %v; want %d", a.Status, a.Body, err, status)
		}
	}
}

// json200 is an endpoint that answers with that JSON.
func json200(body string) gatewaytest.EndpointAnswer {
	return gatewaytest.Says(200, "application/json", body)
}

// hangsUp is an endpoint that writes a text to the bare connection and closes it,
// with a reset if abort is set.
func hangsUp(text string, abort bool) gatewaytest.EndpointAnswer {
	return func(w http.ResponseWriter, _ *http.Request, _ int) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, text)
		if abort {
			_ = conn.(*net.TCPConn).SetLinger(0)
		}
	}
}

// hangs is an endpoint that writes a text and then neither goes on nor ends.
func hangs(text string) gatewaytest.EndpointAnswer {
	return func(w http.ResponseWriter, r *http.Request, _ int) {
		if text != "" {
			_, _ = io.WriteString(w, text)
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
	}
}

func TestHostileEndpointHarmsNobody(t *testing.T) {
	upstream, thief := gatewaytest.StartAPI(t), gatewaytest.StartTokenServer(t)
	unavailable := func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Retry-After", "30") // spares the test the retries
		gatewaytest.Says(503, "text/html", "<html>body-canary</html>")(w, r, n)
	}
	const short = "timeout 300ms"
	tests := []struct {
		name    string
		answer  gatewaytest.EndpointAnswer // nil for an endpoint of another kind
		at      func(t *testing.T) string
		status  int
		code    string
		options []string
	}{
		{name: "empty", answer: json200(""), status: 502, code: "invalid_response"},
		{name: "no content", answer: gatewaytest.Says(204, "application/json", ""), status: 502, code: "invalid_response"},
		{name: "HTML", answer: gatewaytest.Says(200, "text/html", "<html>body-canary</html>"), status: 502, code: "invalid_response"},
		{name: "truncated JSON", answer: json200(`{"access_token":"token-canary","expir`), status: 502, code: "invalid_response"},
		{name: "2 MiB", answer: json200(`{"access_token":"token-canary","x":"` + strings.Repeat("canary ", 300_000) + `"}`), status: 502, code: "invalid_response"},
		{name: "wrong content type", answer: gatewaytest.Says(200, "image/png", "access_token=token-canary"), status: 502, code: "invalid_response"},
		{name: "no token", answer: json200(`{"id_token":"token-canary"}`), status: 502, code: "invalid_response"},
		{name: "line break in the token", answer: json200(`{"access_token":"token\r\nX-Injected: canary"}`), status: 502, code: "invalid_response"},
		{name: "blank in the token", answer: json200(`{"access_token":"token canary"}`), status: 502, code: "invalid_response"},
		{name: "NUL in the token", answer: json200(`{"access_token":"token-canary\u0000"}`), status: 502, code: "invalid_response"},
		{name: "non-ASCII in the token", answer: json200(`{"access_token":"tökencanary"}`), status: 502, code: "invalid_response"},
		{name: "another type of token", answer: json200(`{"access_token":"token-canary","token_type":"mac"}`), status: 502, code: "invalid_response"},
		{name: "a token for no API", answer: json200(`{"access_token":"token-canary","token_type":"N_A"}`), status: 502, code: "invalid_response"},
		{name: "error in a 200", answer: json200(`{"access_token":"token-canary","error":"invalid_scope"}`), status: 502, code: "invalid_scope"},
		{name: "error object in a 200", answer: json200(`{"access_token":"token-canary","error":{"code":"ouch","about":"token-canary"}}`), status: 502, code: "refused"},
		{name: "error that repeats the credential", answer: gatewaytest.Says(401, "application/json",
			`{"error":"invalid_client","error_description":"s3cret-canary is wrong for query-canary\r\n"}`), status: 502, code: "invalid_client"},
		{name: "400", answer: gatewaytest.Says(400, "text/plain", "body-canary"), status: 502, code: "refused"},
		{name: "bare 403", answer: gatewaytest.Says(403, "", ""), status: 502, code: "refused"},
		{name: "404", answer: gatewaytest.Says(404, "text/html", "body-canary"), status: 502, code: "invalid_response"},
		{name: "redirect to another host", answer: func(w http.ResponseWriter, r *http.Request, _ int) {
			http.Redirect(w, r, thief.URL+"/?code=canary", http.StatusTemporaryRedirect)
		}, status: 502, code: "invalid_response"},
		{name: "switch of protocols", answer: hangsUp("HTTP/1.1 101 canary\r\nConnection: Upgrade\r\nUpgrade: canary\r\n\r\n", false), status: 502, code: "invalid_response"},
		{name: "switch of protocols that stays", at: func(t *testing.T) string { return "http://" + gatewaytest.StartPeer(t, gatewaytest.Switching) }, status: 502, code: "invalid_response"},
		{name: "503 with Retry-After", answer: unavailable, status: 503, code: "server_error"},
		{name: "500", answer: gatewaytest.Says(500, "application/json", `{"error":"body-canary`), status: 503, code: "server_error"},
		{name: "reset", answer: hangsUp("", true), status: 503, code: "unreachable"},
		{name: "closed", answer: hangsUp("HTTP/1.1 200 OK\r\nX-Canary: canary", false), status: 503, code: "unreachable"},
		{name: "garbage", answer: hangsUp("canary canary\r\n\r\n", false), status: 503, code: "unreachable"},
		{name: "refused connection", at: func(t *testing.T) string { return "http://" + gatewaytest.FreeAddr(t) }, status: 503, code: "unreachable"},
		{name: "TLS that is not trusted", at: func(t *testing.T) string {
			return "https://" + servertest.NewCA(t).Serve(t, "127.0.0.1", time.Now().Add(time.Hour), gatewaytest.StartTokenServer(t))
		}, status: 503, code: "unreachable"},
		{name: "hang", answer: hangs(""), options: []string{short}, status: 504, code: "timeout"},
		{name: "hang in the body", answer: hangs(`{"access_token":"token-canary"`), options: []string{short}, status: 504, code: "timeout"},
		{name: "hang after an error", answer: func(w http.ResponseWriter, r *http.Request, n int) {
			w.WriteHeader(http.StatusBadRequest)
			hangs(`{"error":"canary`)(w, r, n)
		}, options: []string{short}, status: 502, code: "refused"},
	}
	endpoints, addresses := make([]*gatewaytest.TokenServer, len(tests)), make([]string, len(tests))
	var sites []string
	for i, test := range tests {
		endpoints[i] = gatewaytest.StartTokenServer(t)
		endpoints[i].SetAnswer(test.answer)
		addresses[i] = endpoints[i].URL
		if test.at != nil {
			addresses[i] = test.at(t)
		}
		// Another scope is another grant, which the pause doesn't hold.
		sites = append(sites, canarySite(addresses[i], "one", upstream, test.options...), canarySite(endpoints[i].URL, "two", upstream))
	}
	gateways := gatewaytest.StartSites(t, sites...)
	t.Cleanup(func() {
		if n := thief.Count(); n != 0 {
			t.Errorf("the credential went to another host %d times", n)
		}
	})
	t.Run("answers", func(t *testing.T) { // is over when all that is parallel in it is
		for i, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				g, other := gateways[2*i].For(t), gateways[2*i+1].For(t)
				a := g.Get("/")
				if want := fmt.Sprintf("%d %s none", test.status, test.code); a.Status != test.status || a.Body != want {
					t.Errorf("the client got %d %q, want %q", a.Status, a.Body, want)
				}
				retryAfter, err := strconv.Atoi(a.Header.Get("Retry-After"))
				if later := test.status != 502; later && (err != nil || retryAfter < 1) || !later && a.Header["Retry-After"] != nil {
					t.Errorf("Retry-After %q with %d", a.Header["Retry-After"], a.Status)
				}
				wantFailure(g, addresses[i], test.code)

				endpoints[i].SetAnswer(nil)
				next := other.Get("/")
				if next.Status != 200 || next.Body != "GET / with token-1" {
					t.Errorf("the next request got %d %q", next.Status, next.Body)
				}
				wantNoCanary(g, a, next)
			})
		}
	})

	// Nor does it keep the configuration from being loaded anew.
	sites = nil
	for _, endpoint := range endpoints {
		sites = append(sites, canarySite(endpoint.URL, "three", upstream))
	}
	for i, g := range gatewaytest.StartSites(t, sites...) {
		if a := g.For(t).Get("/"); a.Status != 200 || !strings.HasPrefix(a.Body, "GET / with token-") {
			t.Errorf("%s: after a reload got %d %q", tests[i].name, a.Status, a.Body)
		}
	}
}

func TestOddAnswerServesAllTheSame(t *testing.T) {
	upstream := gatewaytest.StartAPI(t)
	const token = `{"access_token":"token-canary","token_type":"Bearer"`
	for _, test := range []struct {
		name     string
		answer   gatewaytest.EndpointAnswer
		lifetime float64 // seconds
	}{
		{"expires_in is a string", json200(token + `,"expires_in":"600"}`), 600},
		{"expires_in is a float", json200(token + `,"expires_in":599.0}`), 599},
		{"expires_in is null", json200(token + `,"expires_in":null}`), 300},
		{"expires_in is absurdly large", json200(token + `,"expires_in":1e300}`), 300},
		{"expires_in is missing", json200(token + `}`), 300},
		{"expires_in is negative", json200(token + `,"expires_in":-600}`), 1},
		{"JSON of another type", gatewaytest.Says(200, "text/html", token+`,"expires_in":600}`), 600},
		{"a refresh token", json200(token + `,"expires_in":600,"refresh_token":"canary"}`), 600},
		{"after a byte order mark", json200("\xef\xbb\xbf" + token + `,"expires_in":600}`), 600},
		{"interim answers first", func(w http.ResponseWriter, r *http.Request, n int) {
			w.WriteHeader(http.StatusEarlyHints)
			json200(token+`,"expires_in":600}`)(w, r, n)
		}, 600},
	} {
		t.Run(test.name, func(t *testing.T) {
			endpoint := gatewaytest.StartTokenServer(t)
			endpoint.SetAnswer(test.answer)
			g := gatewaytest.Start(t, canarySite(endpoint.URL, "one", upstream))
			for range 2 {
				if a := g.Get("/"); a.Status != 200 || upstream.Last(t).Header.Get("Authorization") != "Bearer token-canary" {
					t.Errorf("the client got %d %q", a.Status, a.Body)
				}
			}
			if obtained := g.Logs.With("token obtained"); len(obtained) == 0 || obtained[0]["lifetime"] != test.lifetime {
				t.Errorf("logged %v, want the lifetime %v", obtained, test.lifetime)
			}
			wantNoCanary(g)
		})
	}
}

func TestGatewayRecoversAfterThePause(t *testing.T) {
	upstream := gatewaytest.StartAPI(t)
	answers := map[string]gatewaytest.EndpointAnswer{
		"an unreadable answer": json200("{"), "a reset": hangsUp("", true), "a hang": hangs(""), "a 500": gatewaytest.Says(500, "", ""),
	}
	names := slices.Sorted(maps.Keys(answers))
	var endpoints []*gatewaytest.TokenServer
	var sites []string
	for _, name := range names {
		endpoint := gatewaytest.StartTokenServer(t)
		endpoint.SetAnswer(answers[name])
		endpoints = append(endpoints, endpoint)
		sites = append(sites, canarySite(endpoint.URL, "one", upstream, "timeout 300ms"))
	}
	gateways := gatewaytest.StartSites(t, sites...)
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gateways[i].For(t)
			if a := g.Get("/"); a.Status < 502 {
				t.Errorf("the client got %d %q", a.Status, a.Body)
			}
			endpoints[i].SetAnswer(nil)
			comesTo(g, 200)
		})
	}
}

func TestTrustedEndpointIsReachedOverTLS(t *testing.T) {
	ca := servertest.NewCA(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	servertest.WriteFile(t, file, string(ca.PEM))
	address := "https://" + ca.Serve(t, "127.0.0.1", time.Now().Add(time.Hour), gatewaytest.StartTokenServer(t))
	g := gatewaytest.Start(t, canarySite(address, "one", gatewaytest.StartAPI(t), "transport {\ntls_trust_pool file "+file+"\n}"))
	if a := g.Get("/"); a.Status != 200 {
		t.Errorf("the client got %d %q", a.Status, a.Body)
	}
	wantNoCanary(g)
}

// crowd sends requests at the same time. sent is called with each that is on its way
// to the gateway; wait returns all answers.
func crowd(g *gatewaytest.Gateway, n int, sent func()) (wait func() []gatewaytest.Answer) {
	answers := make([]gatewaytest.Answer, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { sent() }}
			req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), http.MethodGet, g.URL("/"), nil)
			var err error
			if answers[i], err = gatewaytest.Exchange(gatewaytest.Client, req); err != nil {
				g.T.Error(err)
			}
		})
	}
	return func() []gatewaytest.Answer {
		group.Wait()
		return answers
	}
}

func TestFailureIsSharedByAllWhoWait(t *testing.T) {
	const clients = 50
	for _, test := range []struct {
		name   string
		status int // of the endpoint
		want   int // of the gateway
		code   string
	}{
		{"refused", 401, 502, "invalid_client"},
		{"unavailable", 503, 503, "temporarily_unavailable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var allSent sync.WaitGroup
			allSent.Add(clients)
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
			endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
				allSent.Wait()
				w.Header().Set("Retry-After", "600")
				gatewaytest.Says(test.status, "application/json", `{"error":"`+test.code+`"}`)(w, r, n)
			})
			g := gatewaytest.Start(t, canarySite(endpoint.URL, "one", upstream))
			answers := crowd(g, clients, allSent.Done)()
			want := fmt.Sprintf("%d %s none", test.want, test.code)
			for _, a := range answers {
				if a.Status != test.want || a.Body != want {
					t.Errorf("a client got %d %q, want %q", a.Status, a.Body, want)
				}
			}
			for _, a := range crowd(g, clients, func() {})() {
				if a.Status != test.want || a.Body != want {
					t.Errorf("during the pause a client got %d %q, want %q", a.Status, a.Body, want)
				}
			}
			if n := endpoint.Count(); n != 1 {
				t.Errorf("%d token requests, want 1", n)
			}
			wantFailure(g, endpoint.URL, test.code)
			wantNoCanary(g, answers...)
		})
	}
}

func TestClientThatGoesAwayDisturbsNobody(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	asked, release := make(chan struct{}), make(chan struct{})
	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		close(asked)
		<-release
		endpoint.Grant(w)
	})
	g := gatewaytest.Start(t, canarySite(endpoint.URL, "one", upstream))

	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, g.URL("/"), nil)
		_, err := gatewaytest.Exchange(gatewaytest.Client, req)
		left <- err
	}()
	<-asked // the fetch was started by the one who is about to leave
	var allSent sync.WaitGroup
	allSent.Add(5)
	wait := crowd(g, 5, allSent.Done)
	allSent.Wait()
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the client that left got %v", err)
	}
	gatewaytest.Await(t, "a 499 is logged", func() bool { return strings.Contains(g.Logs.All(), `"status":499`) })
	close(release)
	for _, a := range wait() {
		if a.Status != 200 || a.Body != "GET / with token-1" {
			t.Errorf("another client got %d %q", a.Status, a.Body)
		}
	}
	if n := endpoint.Count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	if entries := g.Logs.With("no token obtained"); len(entries) != 0 {
		t.Errorf("logged %v", entries)
	}
}

func TestWithoutTokenRequestPassesBare(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.SetAnswer(gatewaytest.Says(400, "application/json", `{"error":"unauthorized_client"}`))
	upstream.SetReject(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q %s %s", r.Header["Authorization"], r.Header.Get("X-Status"), r.Header.Get("X-Error"))
	})
	g := gatewaytest.Start(t, canarySite(endpoint.URL, "one", upstream, "allow_without_token"))
	for range 2 { // the second is during the pause
		req, _ := http.NewRequest(http.MethodGet, g.URL("/"), nil)
		req.Header["Authorization"] = []string{"Bearer of-the-client", "Basic of-the-client"}
		if a := g.Do(req); a.Status != 200 || a.Body != "[] none unauthorized_client" {
			t.Errorf("the upstream got %q, the client %d", a.Body, a.Status)
		}
	}
	wantFailure(g, endpoint.URL, "unauthorized_client")
}

func TestRotatedSecretIsUsedByTheNextFetch(t *testing.T) {
	basic := func(secret string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte("app:"+secret)) }
	file := filepath.Join(t.TempDir(), "secret")
	for _, test := range []struct {
		name, placeholder string
		set               func(secret string)
	}{
		{"file", "{file." + file + "}", func(secret string) { servertest.WriteFile(t, file, secret) }},
		{"environment", "{env.OAUTH_CC_TEST_ROTATED}", func(secret string) { t.Setenv("OAUTH_CC_TEST_ROTATED", secret) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.set("first-canary")
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
			site := "oauth_cc " + endpoint.URL + " {\nclient_id app\nclient_secret " + test.placeholder + "\n}\n" + upstream.Proxy()
			g := gatewaytest.Start(t, site)
			g.Get("/")
			test.set("second-canary")
			upstream.Revoke("token-1")
			if a := g.Get("/"); a.Status != 200 || a.Body != "GET / with token-2" {
				t.Errorf("the client got %d %q", a.Status, a.Body)
			}
			requests := endpoint.Recorded()
			for i, want := range []string{basic("first-canary"), basic("second-canary")} {
				if got := requests[i].Header.Get("Authorization"); got != want {
					t.Errorf("fetch %d sent %q, want %q", i, got, want)
				}
			}
			wantNoCanary(g)
		})
	}
}

func TestSecretRotatedDuringAFetchCuresTheRefusal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	servertest.WriteFile(t, file, "first-canary")
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if _, secret, _ := r.BasicAuth(); secret != "second-canary" {
			servertest.WriteFile(t, file, "second-canary")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		endpoint.Grant(w)
	})
	g := gatewaytest.Start(t, "oauth_cc "+endpoint.URL+" {\nclient_id app\nclient_secret {file."+file+"}\n}\n"+upstream.Proxy())
	if a := g.Get("/"); a.Status != 200 || a.Body != "GET / with token-1" {
		t.Errorf("the client got %d %q", a.Status, a.Body)
	}
	if n := endpoint.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
	if entries := g.Logs.With("no token obtained"); len(entries) != 0 {
		t.Errorf("logged %v", entries)
	}
	wantNoCanary(g)
}

func TestSecretThatIsGoneIsNamedInTheLog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	servertest.WriteFile(t, file, "first-canary")
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, "oauth_cc "+endpoint.URL+" {\nclient_id app\nclient_secret {file."+file+"}\n}\n"+upstream.Proxy())
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if a := g.Get("/"); a.Status != 502 {
		t.Errorf("the client got %d %q", a.Status, a.Body)
	}
	entries := g.Logs.With("no token obtained")
	if len(entries) != 1 || !strings.Contains(fmt.Sprint(entries[0]["detail"]), "client_secret") {
		t.Errorf("logged %v", entries)
	}
	servertest.WriteFile(t, file, "second-canary")
	comesTo(g, 200)
	wantNoCanary(g)
}
