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

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

func TestTokenIsAttachedAndCached(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, endpoint.Options()+upstream.Proxy())
	for range 3 {
		if a := g.Get("/orders"); a.Status != 200 || a.Body != "GET /orders with token-1" {
			t.Fatalf("got %d %q", a.Status, a.Body)
		}
	}
	if n := endpoint.Count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	request := endpoint.Recorded()[0]
	if request.Method != http.MethodPost || request.Body != "grant_type=client_credentials" {
		t.Errorf("token request was %s %q", request.Method, request.Body)
	}
}

func TestManyFirstRequestsCauseOneTokenRequest(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, endpoint.Options()+upstream.Proxy())
	g.GetConcurrently(200, 200)
	if n := endpoint.Count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

func TestRevokedTokenIsReplayedOnce(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, endpoint.Options()+upstream.Proxy())
	g.Get("/")
	upstream.Revoke("token-1")
	body := strings.Repeat("x", 900<<10)
	if a := g.Post("/orders", "text/plain", body); a.Status != 200 || a.Body != "POST /orders with token-2" {
		t.Fatalf("got %d %q", a.Status, a.Body)
	}
	if got := upstream.Last(t).Body; got != body {
		t.Errorf("the upstream got %d bytes, want %d", len(got), len(body))
	}
	if n := endpoint.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

// A request that waits for a token is served, even if the configuration that it came
// in with is replaced by one that asks for another token.
func TestRequestOutlivesItsConfiguration(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	asked, proceed := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(proceed) })
	defer release()
	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, n int) {
		if n == 1 {
			close(asked)
			<-proceed
		}
		endpoint.Grant(w)
	})
	g := gatewaytest.Start(t, endpoint.Options()+upstream.Proxy())
	waiting := make(chan gatewaytest.Answer, 1)
	go func() {
		req, _ := http.NewRequest(http.MethodGet, g.URL("/"), nil)
		a, _ := gatewaytest.Exchange(gatewaytest.Client, req)
		waiting <- a
	}()
	<-asked
	g.Reload(endpoint.Options("scope other") + upstream.Proxy())
	if a := g.Get("/"); a.Status != 200 {
		t.Errorf("the new configuration answers %d", a.Status)
	}
	release()
	if a := <-waiting; a.Status != 200 {
		t.Errorf("the request of the old configuration got %d %q", a.Status, a.Body)
	}
}

func TestTraceGetsNoToken(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, endpoint.Options()+upstream.Proxy())
	g.Get("/")
	req, err := http.NewRequest(http.MethodTrace, g.URL("/"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer token-1")
	if a := g.Do(req); a.Status != 401 {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
}

// Behind CGI, WSGI and their like, X_Api_Token and X-Api-Token are the same variable. Neither passes, whether Caddy sees to
// that or not.
func TestLookalikesOfTheTokenHeaderDoNotArrive(t *testing.T) {
	var seen gatewaytest.AttemptLog
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, seen.Observe(func(http.ResponseWriter, *http.Request) {}))
	g := gatewaytest.Start(t, endpoint.Options("token_header X-Api-Token")+gatewaytest.ProxyTo(upstream))
	gatewaytest.SendRaw(t, g.Addr, "GET /", "X_Api_Token: theirs", "x-api_token: theirs", "X.Api.Token: theirs", "X-Api: stays")
	got := fmt.Sprint(seen.All()[0].Header)
	if strings.Contains(got, "theirs") || !strings.Contains(got, "X-Api-Token:[token-1]") || !strings.Contains(got, "stays") {
		t.Errorf("the upstream got %s", got)
	}
}

// What handle_errors does with a request may lead anywhere.
func TestTokenDoesNotReachErrorRoutes(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "authorization %q", r.Header["Authorization"])
	}))
	defer elsewhere.Close()
	for _, option := range []string{"", "retry_status off"} {
		g := gatewaytest.Start(t, endpoint.Options(option)+"reverse_proxy "+gatewaytest.FreeAddr(t)+
			"\nhandle_errors {\nreverse_proxy "+elsewhere.Listener.Addr().String()+"\n}\n")
		if a := g.Get("/"); a.Body != "authorization []" {
			t.Errorf("%s: got %d %q", option, a.Status, a.Body)
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
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
			upstream.Revoke("token-1")
			g := gatewaytest.Start(t, fmt.Sprintf(site, endpoint.Options("token_header X-Api-Token")+route+"\n"+
				upstream.Proxy(`header_up Authorization "Bearer {http.vars.credential}"`)))
			if a := g.Get("/"); !strings.HasSuffix(a.Body, "with token-2") {
				t.Errorf("got %d %q", a.Status, a.Body)
			}
		})
	}
}

// Only who waited for the endpoint is told that it did not answer in time.
func TestTimeoutIsAnswered504AndThen503(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.SetAnswer(func(_ http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() })
	g := gatewaytest.Start(t, endpoint.Options("timeout 200ms")+upstream.Proxy())
	first, second := g.Get("/"), g.Get("/")
	retryAfter := second.Header.Get("Retry-After")
	if first.Status != 504 || second.Status != 503 || retryAfter != "1" && retryAfter != "2" {
		t.Errorf("got %d, then %d with %v", first.Status, second.Status, second.Header)
	}
	if n := endpoint.Count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

// Caddy's transport looks for a replacer in the context of the request.
func TestPlaceholdersInTransportAreReplaced(t *testing.T) {
	ca := servertest.NewCA(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	servertest.WriteFile(t, file, string(ca.PEM))
	t.Setenv("OAUTH_CC_TEST_NAME", "auth.internal")
	upstream := gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, "oauth_cc https://"+ca.Serve(t, "auth.internal", time.Now().Add(time.Hour), gatewaytest.StartTokenServer(t))+`/token {
		client_id app
		client_secret s3cret-canary
		transport {
			tls_trust_pool file `+file+`
			tls_server_name {env.OAUTH_CC_TEST_NAME}
		}
	}
	`+upstream.Proxy())
	if a := g.Get("/"); a.Status != 200 {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
}

// The log tells it once for each token that requests could not be sent again.
func TestUnreplayableRequestsAreToldOnce(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	upstream.SetReject(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusUnauthorized)
	})
	upstream.Revoke("token-1")
	upstream.Revoke("token-2")
	g := gatewaytest.Start(t, endpoint.Options("replay_buffer 1KiB")+upstream.Proxy())
	reject := func() {
		t.Helper()
		if a := g.Post("/", "text/plain", strings.Repeat("x", 64<<10)); a.Status != 401 {
			t.Fatalf("got %d", a.Status)
		}
	}
	reject()
	gatewaytest.Await(t, "the token is renewed", func() bool { return len(g.Logs.With("token obtained")) == 2 })
	for range 4 {
		reject()
	}
	warned := 0
	for _, entry := range g.Logs.With("the upstream rejected the token of a request whose body can't be sent again; the client gets the rejection") {
		if entry["level"] == "warn" {
			warned++
		}
	}
	if want := endpoint.Count(); warned != want {
		t.Errorf("%d warnings for %d tokens", warned, want)
	}
}

// HTTP/2 allows trailers after a body that is announced to be empty.
func TestTrailerAfterAnEmptyBodyIsNoWayIn(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	for _, option := range []string{"", "retry_status off"} {
		g := gatewaytest.Start(t, endpoint.Options("token_header X-Api-Key", option)+
			upstream.Proxy("header_up Authorization {http.request.header.X-Api-Key}", `header_up Authorization (.+) "Bearer $1"`))
		conn, err := net.Dial("tcp", g.Addr)
		if err != nil {
			t.Fatal(err)
		}
		sendHeaders := h2cStream(t, conn)
		sendHeaders(false, ":method", "POST", ":scheme", "http", ":authority", g.Addr, ":path", "/",
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
		served := upstream.Last(t)
		if served.Trailer.Get("X-Api-Key") != "" || served.Trailer.Get("X-Other") != gatewaytest.PassedTrailer("1") {
			t.Errorf("%s: the upstream got the trailers %v", option, served.Trailer)
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
