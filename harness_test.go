package oauthcc

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	caddy.RegisterModule(new(testLogs))
	caddy.RegisterModule(new(flakyStorage))
	if config := os.Getenv(gatewayConfig); config != "" {
		os.Exit(runGateway(config))
	}
	if os.Getenv(commandLine) != "" {
		caddycmd.Main()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m,
		// Caddy's TLS app cleans its storage in the background, holding a lock.
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"))
}

// gateway is a running Caddy. There is one per process, so tests that start one are
// not parallel.
type gateway struct {
	t    testing.TB
	addr string // of the site that most tests use
	logs *logLines

	logging string // what to log, if not everything
	admin   string // address of Caddy's admin endpoint, if it has one
	events  string // global options of the events app
}

// startGateway runs a Caddy with one site on a port of the system's choice.
func startGateway(t testing.TB, site string) *gateway {
	t.Helper()
	g := &gateway{t: t, addr: freeAddr(t), logs: new(logLines)}
	currentLogs.Lock()
	currentLogs.lines = g.logs
	currentLogs.Unlock()
	t.Cleanup(func() { stopCaddy(t) })
	g.reload(site)
	return g
}

func stopCaddy(t testing.TB) {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Errorf("stopping Caddy: %v", err)
	}
}

// startGatewayWithAdmin is startGateway with Caddy's admin endpoint.
func startGatewayWithAdmin(t testing.TB, site string) *gateway {
	t.Helper()
	g := startGateway(t, "")
	g.admin = freeAddr(t)
	t.Cleanup(func() {
		g.admin = ""
		g.reload("") // Caddy's Stop does not end it
	})
	g.reload(site)
	return g
}

// reload loads a configuration in which the site has changed.
func (g *gateway) reload(site string) {
	g.t.Helper()
	if err := g.tryReload(site); err != nil {
		g.t.Fatalf("loading the configuration: %v", err)
	}
}

// tryReload returns once the listener of the configuration before is closed, which
// Caddy does in the background. Connections that were waiting to be accepted there are
// reset by the system.
func (g *gateway) tryReload(site string) error {
	err := loadCaddyfileWith(globalOptions{g.admin, cmp.Or(g.logging, "level DEBUG"), g.events}, fmt.Sprintf("http://%s {\n%s\n}\n", g.addr, site))
	g.awaitOldListener()
	return err
}

func (g *gateway) awaitOldListener() {
	g.t.Helper()
	awaitCondition(g.t, "the listener of the old configuration is closed", func() bool { return listeners(g.t, g.addr) <= 1 })
}

// listeners counts the sockets that listen on the address: Linux lets several do so.
func listeners(t testing.TB, addr string) int {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0 // another system, where a listener is handed on
	}
	_, port, _ := net.SplitHostPort(addr)
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for line := range strings.Lines(string(table)) {
		const listening = "0A"
		if fields := strings.Fields(line); len(fields) > 3 && fields[3] == listening && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", number)) {
			count++
		}
	}
	return count
}

// loadCaddyfile runs the sites of a Caddyfile under the options that all tests need.
func loadCaddyfile(sites string) error {
	return loadCaddyfileWith(globalOptions{logging: "level DEBUG"}, sites)
}

// littleLog is what to log under load.
const littleLog = "level INFO\ninclude http.handlers.oauth_cc"

// globalOptions are those that differ from test to test.
type globalOptions struct {
	admin   string // empty: off
	logging string
	events  string
}

func loadCaddyfileWith(options globalOptions, sites string) error {
	config, err := adapt(`{
		admin ` + cmp.Or(options.admin, "off") + `
		` + options.events + `
		auto_https off
		persist_config off
		default_bind 127.0.0.1
		log {
			output oauth_cc_test
			format json
			` + options.logging + `
		}
		servers {
			protocols h1 h2 h2c
		}
	}
	` + sites)
	if err != nil {
		return err
	}
	return caddy.Load(config, true)
}

func adapt(text string) ([]byte, error) {
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	config, _, err := adapter.Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	return config, err
}

func (g *gateway) url(path string) string { return "http://" + g.addr + path }

// answer is a response that has been read to its end.
type answer struct {
	status  int
	body    string
	header  http.Header
	trailer http.Header
}

// get sends a GET request to the gateway.
func (g *gateway) get(path string) answer {
	g.t.Helper()
	req, err := http.NewRequest(http.MethodGet, g.url(path), nil)
	if err != nil {
		g.t.Fatal(err)
	}
	return g.do(req)
}

// patience bounds the waiting for what must happen soon.
const patience = 20 * time.Second

// awaitCondition polls for a condition.
func awaitCondition(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// getConcurrently sends so many GET requests at once and wants that status of each.
func (g *gateway) getConcurrently(n, status int) {
	g.t.Helper()
	var wait sync.WaitGroup
	for range n {
		wait.Go(func() {
			req, _ := http.NewRequest(http.MethodGet, g.url("/"), nil)
			if a, err := exchangeWith(testClient, req); err != nil || a.status != status {
				g.t.Errorf("got %d, %v; want %d", a.status, err, status)
			}
		})
	}
	wait.Wait()
}

// post sends a body whose length is announced.
func (g *gateway) post(path, contentType, body string) answer {
	g.t.Helper()
	req, err := http.NewRequest(http.MethodPost, g.url(path), strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	return g.do(req)
}

func (g *gateway) do(req *http.Request) answer {
	g.t.Helper()
	a, err := exchangeWith(testClient, req)
	if err != nil {
		g.t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	return a
}

// exchangeWith may be called from any goroutine.
func exchangeWith(client *http.Client, req *http.Request) (answer, error) {
	res, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, string(body), res.Header, res.Trailer}, err
}

// testClient keeps no connections that could outlive a test.
var testClient = &http.Client{
	Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
	Timeout:   30 * time.Second,
}

// freeAddr is an address on loopback that nobody listened on a moment ago.
func freeAddr(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// testLogs is a log output of Caddy's that tests can read.
type testLogs struct{}

func (*testLogs) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.oauth_cc_test", New: func() caddy.Module { return new(testLogs) }}
}
func (*testLogs) String() string                                { return "test" }
func (*testLogs) WriterKey() string                             { return "oauth_cc_test" }
func (*testLogs) OpenWriter() (io.WriteCloser, error)           { return logSink{}, nil }
func (*testLogs) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

// logSink writes to whichever test is running.
type logSink struct{}

func (logSink) Close() error { return nil }
func (logSink) Write(p []byte) (int, error) {
	currentLogs.Lock()
	defer currentLogs.Unlock()
	if currentLogs.lines != nil {
		currentLogs.lines.write(p)
	}
	return len(p), nil
}

var currentLogs struct {
	sync.Mutex
	lines *logLines
}

// logLines collects what a gateway logs.
type logLines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logLines) write(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
}

// all returns everything that was logged.
func (l *logLines) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// with returns the handler's own log entries with that message.
func (l *logLines) with(message string) []map[string]any {
	var found []map[string]any
	for line := range strings.Lines(l.all()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message && entry["logger"] == "http.handlers.oauth_cc" {
			found = append(found, entry)
		}
	}
	return found
}

// tokenServer is a stand-in for a token endpoint: it grants token-1, token-2, … to
// whoever asks.
type tokenServer struct {
	*httptest.Server

	mu       sync.Mutex
	requests []recordedRequest
	granted  int
	answer   func(w http.ResponseWriter, r *http.Request, n int) // nil: grant
	lifetime int                                                 // seconds
	takes    time.Duration

	flying, mostFlying int // requests at a time
}

type recordedRequest struct {
	at     time.Time
	method string
	header http.Header
	body   string
}

func startTokenServer(t testing.TB) *tokenServer {
	s := &tokenServer{lifetime: 3600}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.requests = append(s.requests, recordedRequest{time.Now(), r.Method, r.Header.Clone(), string(body)})
	s.flying++
	s.mostFlying = max(s.mostFlying, s.flying)
	n, answer, takes := len(s.requests), s.answer, s.takes
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.flying--
	}()
	if takes > 0 {
		<-time.After(takes)
	}
	if answer != nil {
		answer(w, r, n)
		return
	}
	s.grant(w)
}

// grant answers with a new token.
func (s *tokenServer) grant(w http.ResponseWriter) {
	s.mu.Lock()
	s.granted++
	n, lifetime := s.granted, s.lifetime
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":%d}`, n, lifetime)
}

// setAnswer replaces what the endpoint does; n counts the requests from 1.
func (s *tokenServer) setAnswer(answer func(w http.ResponseWriter, r *http.Request, n int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *tokenServer) recorded() []recordedRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]recordedRequest(nil), s.requests...)
}

// count is the number of token requests so far.
func (s *tokenServer) count() int { return len(s.recorded()) }

// options are those of a gateway that uses the endpoint.
func (s *tokenServer) options(more ...string) string {
	return "oauth_cc " + s.URL + "/token {\nclient_id app\nclient_secret s3cret-canary\n" + strings.Join(more, "\n") + "\n}\n"
}

// api is a stand-in for a partner's API: it accepts the tokens that were not revoked
// and tells what it got.
type api struct {
	*httptest.Server

	mu       sync.Mutex
	revoked  map[string]bool
	served   []servedRequest
	reject   func(w http.ResponseWriter, r *http.Request) // nil: 401 with a challenge
	rejected int

	closedPath string // rejects every token, without saying why
}

type servedRequest struct {
	method, uri, host string
	header, trailer   http.Header
	body              string
}

func startAPI(t testing.TB) *api {
	a := &api{revoked: make(map[string]bool)}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	a.Server = httptest.NewUnstartedServer(a)
	a.Config.Protocols = protocols
	a.Start()
	t.Cleanup(a.Close)
	return a
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	authorization := r.Header.Values("Authorization")
	token, isBearer := "", false
	if len(authorization) == 1 {
		token, isBearer = strings.CutPrefix(authorization[0], "Bearer ")
	}
	a.mu.Lock()
	valid := isBearer && token != "" && !a.revoked[token]
	reject := a.reject
	if !valid {
		a.rejected++
	}
	closed := r.URL.Path == a.closedPath
	a.mu.Unlock()
	if closed {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if !valid {
		if reject != nil {
			reject(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="api", error="invalid_token"`)
		http.Error(w, "token rejected", http.StatusUnauthorized)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "incomplete body: "+err.Error(), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	a.served = append(a.served, servedRequest{r.Method, r.URL.RequestURI(), r.Host, r.Header.Clone(), r.Trailer.Clone(), string(body)})
	a.mu.Unlock()
	fmt.Fprintf(w, "%s %s with %s", r.Method, r.URL.RequestURI(), token)
}

// revoke makes the API reject a token from now on.
func (a *api) revoke(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked[token] = true
}

// setReject replaces how the API rejects a token.
func (a *api) setReject(reject func(w http.ResponseWriter, r *http.Request)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reject = reject
}

// last is the last request that was accepted.
func (a *api) last(t testing.TB) servedRequest {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.served) == 0 {
		t.Fatal("the API served nothing")
	}
	return a.served[len(a.served)-1]
}

// proxy is the reverse_proxy directive for the API.
func (a *api) proxy(options ...string) string {
	return "reverse_proxy " + a.Listener.Addr().String() + " {\n" + strings.Join(options, "\n") + "\n}\n"
}

// writeFile replaces a file in one step, as secret mounts do.
func writeFile(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(name+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}
