package oauthcc

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// canarySite has a gateway whose secrets, and whatever a hostile endpoint says, hold
// the word canary.
func canarySite(endpoint, scope string, upstream *api, more ...string) string {
	return "log\noauth_cc " + endpoint + "/token?key=query-canary {\nclient_id app\nclient_secret s3cret-canary\nscope " + scope + "\n" +
		strings.Join(more, "\n") + "\n}\n" + upstream.proxy("header_up X-Status {http.oauth_cc.status}", "header_up X-Error {http.oauth_cc.error}") +
		"handle_errors {\nrespond \"{err.status_code} {http.oauth_cc.error} {http.oauth_cc.status}\" {err.status_code}\n}\n"
}

// wantNoCanary fails if anything that was logged or answered must not be known.
func (g *gateway) wantNoCanary(answers ...answer) {
	g.t.Helper()
	texts := map[string]string{"the log": g.logs.all()}
	for i, a := range answers {
		texts[fmt.Sprint("answer ", i)] = fmt.Sprint(a)
	}
	basic := base64.StdEncoding.EncodeToString([]byte("app:s3cret-canary"))
	for place, text := range texts {
		for _, secret := range []string{"canary", basic} {
			if at := strings.Index(text, secret); at >= 0 {
				g.t.Errorf("%s holds a secret: …%s", place, text[max(0, at-300):at+len(secret)])
			}
		}
	}
}

// wantFailure fails unless the gateway told one failed fetch, with that error code.
func (g *gateway) wantFailure(code string) map[string]any {
	g.t.Helper()
	entries := g.logs.with("no token obtained")
	if len(entries) != 1 {
		g.t.Fatalf("%d log entries of a failure, want 1: %v", len(entries), entries)
	}
	if entry := entries[0]; entry["level"] != "error" || entry["error"] != code || entry["client_id"] != "app" {
		g.t.Errorf("logged %v, want the error %s", entry, code)
	}
	return entries[0]
}

// comesTo sends GET requests until one is answered with that status. A connection
// that fails is no answer: right after a reload the kernel can reset one that was
// waiting for the listener of the configuration before.
func (g *gateway) comesTo(status int) answer {
	g.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		req, _ := http.NewRequest(http.MethodGet, g.url("/"), nil)
		a, err := exchangeWith(testClient, req)
		if err == nil && a.status == status {
			return a
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("at last got %d %q, %v; want %d", a.status, a.body, err, status)
		}
	}
}

type endpointAnswer = func(w http.ResponseWriter, r *http.Request, n int)

// says is an endpoint that answers with that.
func says(status int, contentType, body string) endpointAnswer {
	return func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// json200 is an endpoint that answers with that JSON.
func json200(body string) endpointAnswer { return says(200, "application/json", body) }

// hangsUp is an endpoint that writes a text to the bare connection and closes it,
// with a reset if abort is set.
func hangsUp(text string, abort bool) endpointAnswer {
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
func hangs(text string) endpointAnswer {
	return func(w http.ResponseWriter, r *http.Request, _ int) {
		if text != "" {
			_, _ = io.WriteString(w, text)
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
	}
}

func TestHostileEndpointHarmsNobody(t *testing.T) {
	upstream, thief := startAPI(t), startTokenServer(t)
	unavailable := func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Retry-After", "30") // spares the test the retries
		says(503, "text/html", "<html>body-canary</html>")(w, r, n)
	}
	const short = "timeout 300ms"
	for _, test := range []struct {
		name    string
		answer  endpointAnswer // nil for an endpoint of another kind
		at      func(t *testing.T) string
		status  int
		code    string
		options []string
	}{
		{name: "empty", answer: json200(""), status: 502, code: "invalid_response"},
		{name: "no content", answer: says(204, "application/json", ""), status: 502, code: "invalid_response"},
		{name: "HTML", answer: says(200, "text/html", "<html>body-canary</html>"), status: 502, code: "invalid_response"},
		{name: "truncated JSON", answer: json200(`{"access_token":"token-canary","expir`), status: 502, code: "invalid_response"},
		{name: "2 MiB", answer: json200(`{"access_token":"token-canary","x":"` + strings.Repeat("canary ", 300_000) + `"}`), status: 502, code: "invalid_response"},
		{name: "wrong content type", answer: says(200, "image/png", "access_token=token-canary"), status: 502, code: "invalid_response"},
		{name: "no token", answer: json200(`{"id_token":"token-canary"}`), status: 502, code: "invalid_response"},
		{name: "line break in the token", answer: json200(`{"access_token":"token\r\nX-Injected: canary"}`), status: 502, code: "invalid_response"},
		{name: "blank in the token", answer: json200(`{"access_token":"token canary"}`), status: 502, code: "invalid_response"},
		{name: "NUL in the token", answer: json200(`{"access_token":"token-canary\u0000"}`), status: 502, code: "invalid_response"},
		{name: "non-ASCII in the token", answer: json200(`{"access_token":"tökencanary"}`), status: 502, code: "invalid_response"},
		{name: "another type of token", answer: json200(`{"access_token":"token-canary","token_type":"mac"}`), status: 502, code: "invalid_response"},
		{name: "the token as its type", answer: json200(`{"access_token":"token-canary","token_type":"token-canary"}`), status: 502, code: "invalid_response"},
		{name: "error in a 200", answer: json200(`{"access_token":"token-canary","error":"invalid_scope"}`), status: 502, code: "invalid_scope"},
		{name: "error object in a 200", answer: json200(`{"access_token":"token-canary","error":{"code":"canary"}}`), status: 502, code: "refused"},
		{name: "error that repeats the credential", answer: says(401, "application/json",
			`{"error":"invalid_client","error_description":"s3cret-canary is wrong for query-canary\r\n"}`), status: 502, code: "invalid_client"},
		{name: "400", answer: says(400, "text/plain", "body-canary"), status: 502, code: "refused"},
		{name: "bare 403", answer: says(403, "", ""), status: 502, code: "refused"},
		{name: "404", answer: says(404, "text/html", "body-canary"), status: 502, code: "refused"},
		{name: "redirect to another host", answer: func(w http.ResponseWriter, r *http.Request, _ int) {
			http.Redirect(w, r, thief.URL+"/?code=canary", http.StatusTemporaryRedirect)
		}, status: 502, code: "refused"},
		{name: "switch of protocols", answer: hangsUp("HTTP/1.1 101 canary\r\nConnection: Upgrade\r\nUpgrade: canary\r\n\r\n", false), status: 502, code: "invalid_response"},
		{name: "switch of protocols that stays", at: func(t *testing.T) string { return "http://" + startPeer(t, switching) }, status: 502, code: "invalid_response"},
		{name: "503 with Retry-After", answer: unavailable, status: 503, code: "server_error"},
		{name: "500", answer: says(500, "application/json", `{"error":"body-canary`), status: 503, code: "server_error"},
		{name: "reset", answer: hangsUp("", true), status: 503, code: "unreachable"},
		{name: "closed", answer: hangsUp("HTTP/1.1 200 OK\r\nX-Canary: canary", false), status: 503, code: "unreachable"},
		{name: "garbage", answer: hangsUp("canary canary\r\n\r\n", false), status: 503, code: "unreachable"},
		{name: "refused connection", at: func(t *testing.T) string { return "http://" + freeAddr(t) }, status: 503, code: "unreachable"},
		{name: "TLS that is not trusted", at: func(t *testing.T) string {
			return "https://" + newTestCA(t).serve(t, "127.0.0.1", time.Now().Add(time.Hour))
		}, status: 503, code: "unreachable"},
		{name: "hang", answer: hangs(""), options: []string{short}, status: 504, code: "timeout"},
		{name: "hang in the body", answer: hangs(`{"access_token":"token-canary"`), options: []string{short}, status: 504, code: "timeout"},
		{name: "hang after an error", answer: func(w http.ResponseWriter, r *http.Request, n int) {
			w.WriteHeader(http.StatusBadRequest)
			hangs(`{"error":"canary`)(w, r, n)
		}, options: []string{short}, status: 502, code: "refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			endpoint := startTokenServer(t)
			endpoint.setAnswer(test.answer)
			address := endpoint.URL
			if test.at != nil {
				address = test.at(t)
			}
			g := startGateway(t, canarySite(address, "one", upstream, test.options...))
			a := g.get("/")
			if want := fmt.Sprintf("%d %s none", test.status, test.code); a.status != test.status || a.body != want {
				t.Errorf("the client got %d %q, want %q", a.status, a.body, want)
			}
			retryAfter, err := strconv.Atoi(a.header.Get("Retry-After"))
			if later := test.status != 502; later && (err != nil || retryAfter < 1) || !later && a.header["Retry-After"] != nil {
				t.Errorf("Retry-After %q with %d", a.header["Retry-After"], a.status)
			}
			g.wantFailure(test.code)

			// Another scope is another grant, which the pause doesn't hold.
			endpoint.setAnswer(nil)
			g.reload(canarySite(endpoint.URL, "two", upstream))
			next := g.comesTo(200)
			if next.body != "GET / with token-1" {
				t.Errorf("the next request got %q", next.body)
			}
			g.wantNoCanary(a, next)
		})
	}
	if n := thief.count(); n != 0 {
		t.Errorf("the credential went to another host %d times", n)
	}
}

func TestOddAnswerServesAllTheSame(t *testing.T) {
	upstream := startAPI(t)
	const token = `{"access_token":"token-canary","token_type":"Bearer"`
	for _, test := range []struct {
		name     string
		answer   endpointAnswer
		lifetime float64 // seconds
	}{
		{"expires_in is a string", json200(token + `,"expires_in":"600"}`), 600},
		{"expires_in is a float", json200(token + `,"expires_in":599.0}`), 599},
		{"expires_in is null", json200(token + `,"expires_in":null}`), 300},
		{"expires_in is absurdly large", json200(token + `,"expires_in":1e300}`), 300},
		{"expires_in is missing", json200(token + `}`), 300},
		{"expires_in is negative", json200(token + `,"expires_in":-600}`), 1},
		{"JSON of another type", says(200, "text/html", token+`,"expires_in":600}`), 600},
		{"a refresh token", json200(token + `,"expires_in":600,"refresh_token":"canary"}`), 600},
		{"after a byte order mark", json200("\xef\xbb\xbf" + token + `,"expires_in":600}`), 600},
		{"interim answers first", func(w http.ResponseWriter, r *http.Request, n int) {
			w.WriteHeader(http.StatusEarlyHints)
			json200(token+`,"expires_in":600}`)(w, r, n)
		}, 600},
	} {
		t.Run(test.name, func(t *testing.T) {
			endpoint := startTokenServer(t)
			endpoint.setAnswer(test.answer)
			g := startGateway(t, canarySite(endpoint.URL, "one", upstream))
			for range 2 {
				if a := g.get("/"); a.status != 200 || upstream.last(t).header.Get("Authorization") != "Bearer token-canary" {
					t.Errorf("the client got %d %q", a.status, a.body)
				}
			}
			if obtained := g.logs.with("token obtained"); len(obtained) == 0 || obtained[0]["lifetime"] != test.lifetime {
				t.Errorf("logged %v, want the lifetime %v", obtained, test.lifetime)
			}
			g.wantNoCanary()
		})
	}
}

func TestGatewayRecoversAfterThePause(t *testing.T) {
	upstream := startAPI(t)
	for name, answer := range map[string]endpointAnswer{
		"an unreadable answer": json200("{"), "a reset": hangsUp("", true), "a hang": hangs(""), "a 500": says(500, "", ""),
	} {
		t.Run(name, func(t *testing.T) {
			endpoint := startTokenServer(t)
			endpoint.setAnswer(answer)
			g := startGateway(t, canarySite(endpoint.URL, "one", upstream, "timeout 300ms"))
			if a := g.get("/"); a.status < 502 {
				t.Errorf("the client got %d %q", a.status, a.body)
			}
			endpoint.setAnswer(nil)
			g.comesTo(200)
		})
	}
}

func TestTrustedEndpointIsReachedOverTLS(t *testing.T) {
	ca := newTestCA(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, file, string(ca.pem))
	address := "https://" + ca.serve(t, "127.0.0.1", time.Now().Add(time.Hour))
	g := startGateway(t, canarySite(address, "one", startAPI(t), "transport {\ntls_trust_pool file "+file+"\n}"))
	if a := g.get("/"); a.status != 200 {
		t.Errorf("the client got %d %q", a.status, a.body)
	}
	g.wantNoCanary()
}

// crowd sends requests at the same time. sent is called with each that is on its way
// to the gateway; wait returns all answers.
func (g *gateway) crowd(n int, sent func()) (wait func() []answer) {
	answers := make([]answer, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { sent() }}
			req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), http.MethodGet, g.url("/"), nil)
			var err error
			if answers[i], err = exchangeWith(testClient, req); err != nil {
				g.t.Error(err)
			}
		})
	}
	return func() []answer {
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
			endpoint, upstream := startTokenServer(t), startAPI(t)
			endpoint.setAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
				allSent.Wait()
				w.Header().Set("Retry-After", "600")
				says(test.status, "application/json", `{"error":"`+test.code+`"}`)(w, r, n)
			})
			g := startGateway(t, canarySite(endpoint.URL, "one", upstream))
			answers := g.crowd(clients, allSent.Done)()
			want := fmt.Sprintf("%d %s none", test.want, test.code)
			for _, a := range answers {
				if a.status != test.want || a.body != want {
					t.Errorf("a client got %d %q, want %q", a.status, a.body, want)
				}
			}
			for _, a := range g.crowd(clients, func() {})() {
				if a.status != test.want || a.body != want {
					t.Errorf("during the pause a client got %d %q, want %q", a.status, a.body, want)
				}
			}
			if n := endpoint.count(); n != 1 {
				t.Errorf("%d token requests, want 1", n)
			}
			g.wantFailure(test.code)
			g.wantNoCanary(answers...)
		})
	}
}

func TestClientThatGoesAwayDisturbsNobody(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	asked, release := make(chan struct{}), make(chan struct{})
	endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		close(asked)
		<-release
		endpoint.grant(w)
	})
	g := startGateway(t, canarySite(endpoint.URL, "one", upstream))

	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, g.url("/"), nil)
		_, err := exchangeWith(testClient, req)
		left <- err
	}()
	<-asked // the fetch was started by the one who is about to leave
	var allSent sync.WaitGroup
	allSent.Add(5)
	wait := g.crowd(5, allSent.Done)
	allSent.Wait()
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the client that left got %v", err)
	}
	awaitCondition(t, "a 499 is logged", func() bool { return strings.Contains(g.logs.all(), `"status":499`) })
	close(release)
	for _, a := range wait() {
		if a.status != 200 || a.body != "GET / with token-1" {
			t.Errorf("another client got %d %q", a.status, a.body)
		}
	}
	if n := endpoint.count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	if entries := g.logs.with("no token obtained"); len(entries) != 0 {
		t.Errorf("logged %v", entries)
	}
}

func TestWithoutTokenRequestPassesBare(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	endpoint.setAnswer(says(400, "application/json", `{"error":"unauthorized_client"}`))
	upstream.setReject(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q %s %s", r.Header["Authorization"], r.Header.Get("X-Status"), r.Header.Get("X-Error"))
	})
	g := startGateway(t, canarySite(endpoint.URL, "one", upstream, "allow_without_token"))
	for range 2 { // the second is during the pause
		req, _ := http.NewRequest(http.MethodGet, g.url("/"), nil)
		req.Header["Authorization"] = []string{"Bearer of-the-client", "Basic of-the-client"}
		if a := g.do(req); a.status != 200 || a.body != "[] none unauthorized_client" {
			t.Errorf("the upstream got %q, the client %d", a.body, a.status)
		}
	}
	g.wantFailure("unauthorized_client")
}

func TestRotatedSecretIsUsedByTheNextFetch(t *testing.T) {
	basic := func(secret string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte("app:"+secret)) }
	file := filepath.Join(t.TempDir(), "secret")
	for _, test := range []struct {
		name, placeholder string
		set               func(secret string)
	}{
		{"file", "{file." + file + "}", func(secret string) { writeFile(t, file, secret) }},
		{"environment", "{env.OAUTH_CC_TEST_ROTATED}", func(secret string) { t.Setenv("OAUTH_CC_TEST_ROTATED", secret) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.set("first-canary")
			endpoint, upstream := startTokenServer(t), startAPI(t)
			site := "oauth_cc " + endpoint.URL + " {\nclient_id app\nclient_secret " + test.placeholder + "\n}\n" + upstream.proxy()
			g := startGateway(t, site)
			g.get("/")
			test.set("second-canary")
			upstream.revoke("token-1")
			if a := g.get("/"); a.status != 200 || a.body != "GET / with token-2" {
				t.Errorf("the client got %d %q", a.status, a.body)
			}
			requests := endpoint.recorded()
			for i, want := range []string{basic("first-canary"), basic("second-canary")} {
				if got := requests[i].header.Get("Authorization"); got != want {
					t.Errorf("fetch %d sent %q, want %q", i, got, want)
				}
			}
			g.wantNoCanary()
		})
	}
}

func TestSecretRotatedDuringAFetchCuresTheRefusal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	writeFile(t, file, "first-canary")
	endpoint, upstream := startTokenServer(t), startAPI(t)
	endpoint.setAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if _, secret, _ := r.BasicAuth(); secret != "second-canary" {
			writeFile(t, file, "second-canary")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		endpoint.grant(w)
	})
	g := startGateway(t, "oauth_cc "+endpoint.URL+" {\nclient_id app\nclient_secret {file."+file+"}\n}\n"+upstream.proxy())
	if a := g.get("/"); a.status != 200 || a.body != "GET / with token-1" {
		t.Errorf("the client got %d %q", a.status, a.body)
	}
	if n := endpoint.count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
	if entries := g.logs.with("no token obtained"); len(entries) != 0 {
		t.Errorf("logged %v", entries)
	}
	g.wantNoCanary()
}

func TestSecretThatIsGoneIsNamedInTheLog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	writeFile(t, file, "first-canary")
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, "oauth_cc "+endpoint.URL+" {\nclient_id app\nclient_secret {file."+file+"}\n}\n"+upstream.proxy())
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if a := g.get("/"); a.status != 502 {
		t.Errorf("the client got %d %q", a.status, a.body)
	}
	entries := g.logs.with("no token obtained")
	if len(entries) != 1 || !strings.Contains(fmt.Sprint(entries[0]["detail"]), "client_secret") {
		t.Errorf("logged %v", entries)
	}
	writeFile(t, file, "second-canary")
	g.comesTo(200)
	g.wantNoCanary()
}
