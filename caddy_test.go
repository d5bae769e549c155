package oauthcc

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func TestTokenIsAttachedAndCached(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, endpoint.options()+upstream.proxy())
	for range 3 {
		if a := g.get("/orders"); a.status != 200 || a.body != "GET /orders with token-1" {
			t.Fatalf("got %d %q", a.status, a.body)
		}
	}
	if n := endpoint.count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	request := endpoint.recorded()[0]
	if request.method != http.MethodPost || request.body != "grant_type=client_credentials" {
		t.Errorf("token request was %s %q", request.method, request.body)
	}
}

func TestManyFirstRequestsCauseOneTokenRequest(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, endpoint.options()+upstream.proxy())
	g.getConcurrently(200, 200)
	if n := endpoint.count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

func TestRevokedTokenIsReplayedOnce(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, endpoint.options()+upstream.proxy())
	g.get("/")
	upstream.revoke("token-1")
	body := strings.Repeat("x", 900<<10)
	if a := g.post("/orders", "text/plain", body); a.status != 200 || a.body != "POST /orders with token-2" {
		t.Fatalf("got %d %q", a.status, a.body)
	}
	if got := upstream.last(t).body; got != body {
		t.Errorf("the upstream got %d bytes, want %d", len(got), len(body))
	}
	if n := endpoint.count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

// A request that waits for a token is served, even if the configuration that it came
// in with is replaced by one that asks for another token.
func TestRequestOutlivesItsConfiguration(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	asked, proceed := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(proceed) })
	defer release()
	endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, n int) {
		if n == 1 {
			close(asked)
			<-proceed
		}
		endpoint.grant(w)
	})
	g := startGateway(t, endpoint.options()+upstream.proxy())
	waiting := make(chan answer, 1)
	go func() {
		req, _ := http.NewRequest(http.MethodGet, g.url("/"), nil)
		a, _ := exchangeWith(testClient, req)
		waiting <- a
	}()
	<-asked
	g.reload(endpoint.options("scope other") + upstream.proxy())
	if a := g.get("/"); a.status != 200 {
		t.Errorf("the new configuration answers %d", a.status)
	}
	release()
	if a := <-waiting; a.status != 200 {
		t.Errorf("the request of the old configuration got %d %q", a.status, a.body)
	}
}

func TestTraceGetsNoToken(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, endpoint.options()+upstream.proxy())
	g.get("/")
	req, err := http.NewRequest(http.MethodTrace, g.url("/"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer token-1")
	if a := g.do(req); a.status != 401 {
		t.Errorf("got %d %q", a.status, a.body)
	}
}

// What handle_errors does with a request may lead anywhere.
func TestTokenDoesNotReachErrorRoutes(t *testing.T) {
	endpoint := startTokenServer(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "authorization %q", r.Header["Authorization"])
	}))
	defer elsewhere.Close()
	for _, option := range []string{"", "retry_status off"} {
		g := startGateway(t, endpoint.options(option)+"reverse_proxy "+freeAddr(t)+
			"\nhandle_errors {\nreverse_proxy "+elsewhere.Listener.Addr().String()+"\n}\n")
		if a := g.get("/"); a.body != "authorization []" {
			t.Errorf("%s: got %d %q", option, a.status, a.body)
		}
	}
}

// Placeholders look at the variables of the request that the server made, whatever copy
// of it the handler is called with.
func TestVariablesOfAReplayAreItsOwn(t *testing.T) {
	const route = "vars credential {http.request.header.X-Api-Token}"
	for name, site := range map[string]string{
		"plain":         "route {\n%s\n}",
		"traced":        "route {\ntracing\n%s\n}",
		"handle_errors": "error /* 500\nhandle_errors {\nroute {\n%s\n}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_TRACES_EXPORTER", "none")
			endpoint, upstream := startTokenServer(t), startAPI(t)
			upstream.revoke("token-1")
			g := startGateway(t, fmt.Sprintf(site, endpoint.options("token_header X-Api-Token")+route+"\n"+
				upstream.proxy(`header_up Authorization "Bearer {http.vars.credential}"`)))
			if a := g.get("/"); !strings.HasSuffix(a.body, "with token-2") {
				t.Errorf("got %d %q", a.status, a.body)
			}
		})
	}
}

// Only who waited for the endpoint is told that it did not answer in time.
func TestTimeoutIsAnswered504AndThen503(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	endpoint.setAnswer(func(_ http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() })
	g := startGateway(t, endpoint.options("timeout 200ms")+upstream.proxy())
	first, second := g.get("/"), g.get("/")
	retryAfter := second.header.Get("Retry-After")
	if first.status != 504 || second.status != 503 || retryAfter != "1" && retryAfter != "2" {
		t.Errorf("got %d, then %d with %v", first.status, second.status, second.header)
	}
	if n := endpoint.count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

// Caddy's transport looks for a replacer in the context of the request.
func TestPlaceholdersInTransportAreReplaced(t *testing.T) {
	ca := newTestCA(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, file, string(ca.pem))
	t.Setenv("OAUTH_CC_TEST_NAME", "auth.internal")
	upstream := startAPI(t)
	g := startGateway(t, "oauth_cc https://"+ca.serve(t, "auth.internal", time.Now().Add(time.Hour))+`/token {
		client_id app
		client_secret s3cret-canary
		transport {
			tls_trust_pool file `+file+`
			tls_server_name {env.OAUTH_CC_TEST_NAME}
		}
	}
	`+upstream.proxy())
	if a := g.get("/"); a.status != 200 {
		t.Errorf("got %d %q", a.status, a.body)
	}
}

// The log tells it once for each token that requests could not be sent again.
func TestUnreplayableRequestsAreToldOnce(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	upstream.setReject(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusUnauthorized)
	})
	upstream.revoke("token-1")
	upstream.revoke("token-2")
	g := startGateway(t, endpoint.options("replay_buffer 1KiB")+upstream.proxy())
	reject := func() {
		t.Helper()
		if a := g.post("/", "text/plain", strings.Repeat("x", 64<<10)); a.status != 401 {
			t.Fatalf("got %d", a.status)
		}
	}
	reject()
	awaitCondition(t, "the token is renewed", func() bool { return len(g.logs.with("token obtained")) == 2 })
	for range 4 {
		reject()
	}
	warned := 0
	for _, entry := range g.logs.with("the upstream rejected the token of a request whose body can't be sent again; the client gets the rejection") {
		if entry["level"] == "warn" {
			warned++
		}
	}
	if want := endpoint.count(); warned != want {
		t.Errorf("%d warnings for %d tokens", warned, want)
	}
}

// HTTP/2 allows trailers after a body that is announced to be empty.
func TestTrailerAfterAnEmptyBodyIsNoWayIn(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	for _, option := range []string{"", "retry_status off"} {
		g := startGateway(t, endpoint.options("token_header X-Api-Key", option)+
			upstream.proxy("header_up Authorization {http.request.header.X-Api-Key}", `header_up Authorization (.+) "Bearer $1"`))
		conn, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		sendHeaders := h2cStream(t, conn)
		sendHeaders(false, ":method", "POST", ":scheme", "http", ":authority", g.addr, ":path", "/",
			"content-length", "0", "trailer", "X-Api-Key, X-Other")
		sendHeaders(true, "x-api-key", "smuggled", "x-other", "1")
		framer := http2.NewFramer(io.Discard, conn)
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if frame.Header().StreamID == 1 && frame.Header().Flags.Has(http2.FlagDataEndStream) {
				break
			}
		}
		conn.Close()
		served := upstream.last(t)
		if served.trailer.Get("X-Api-Key") != "" || served.trailer.Get("X-Other") != "1" {
			t.Errorf("%s: the upstream got the trailers %v", option, served.trailer)
		}
	}
}

// h2cStream starts an HTTP/2 connection and returns what sends header blocks on its
// first stream, in frames that no library would send.
func h2cStream(t *testing.T, conn net.Conn) func(end bool, pairs ...string) {
	t.Helper()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, nil)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	return func(end bool, pairs ...string) {
		t.Helper()
		block.Reset()
		for i := 0; i < len(pairs); i += 2 {
			if err := encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}); err != nil {
				t.Fatal(err)
			}
		}
		err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
		if err != nil {
			t.Fatal(err)
		}
	}
}
