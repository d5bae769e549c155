package servers

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// gateway is a running Caddy. There is one per process, so tests that start one are
// not parallel.
type gateway struct {
	addrs  []string // one for each site
	config []byte
	logs   *logLines
}

// startGateway runs a Caddy with sites on ports of the system's choice.
func startGateway(t testing.TB, sites ...string) *gateway {
	t.Helper()
	g := &gateway{addrs: freeAddrs(t, len(sites)), logs: new(logLines)}
	currentLogs.Lock()
	currentLogs.lines = g.logs
	currentLogs.Unlock()

	var text strings.Builder
	text.WriteString(`{
		admin off
		auto_https off
		persist_config off
		default_bind 127.0.0.1
		log {
			output oauth_cc_test
			format json
			level DEBUG
		}
	}
	`)
	for i, site := range sites {
		fmt.Fprintf(&text, "http://%s {\n%s\n}\n", g.addrs[i], site)
	}
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	var err error
	g.config, _, err = adapter.Adapt([]byte(text.String()), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("adapting the Caddyfile: %v", err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
		if t.Failed() {
			t.Logf("the plugin's log:\n%s", g.logs.own())
		}
	})
	if err := caddy.Load(g.config, true); err != nil {
		t.Fatalf("loading the configuration: %v", err)
	}
	return g
}

// reload loads the same configuration again. It returns once the listeners of the one
// before are closed, which Caddy does in the background: connections that were waiting
// to be accepted there are reset by the system.
func (g *gateway) reload(t testing.TB) {
	t.Helper()
	if err := caddy.Load(g.config, true); err != nil {
		t.Fatalf("loading the configuration again: %v", err)
	}
	awaitCondition(t, "the listeners of the old configuration are closed", func() bool {
		return !slices.ContainsFunc(g.addrs, func(addr string) bool { return listeners(t, addr) > 1 })
	})
}

// listeners counts the sockets that listen on the address: Linux lets several do so.
func listeners(t testing.TB, addr string) int {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0 // another system, where a listener is handed on
	}
	_, port, _ := net.SplitHostPort(addr)
	suffix := fmt.Sprintf(":%04X", atoi(port))
	count := 0
	for line := range strings.Lines(string(table)) {
		const listening = "0A"
		if fields := strings.Fields(line); len(fields) > 3 && fields[3] == listening && strings.HasSuffix(fields[1], suffix) {
			count++
		}
	}
	return count
}

// send sends a request to a site, with a body if that is not empty.
func (g *gateway) send(site int, method, path, body string) (status int, answer string, err error) {
	req, err := http.NewRequest(method, "http://"+g.addrs[site]+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	res, err := newClient().Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

// want sends a request to a site, and wants that status.
func (g *gateway) want(t testing.TB, status, site int, method, path, body string) {
	t.Helper()
	if got, answer, err := g.send(site, method, path, body); err != nil || got != status {
		t.Fatalf("%s %s got %d %q, %v; want %d", method, path, got, answer, err, status)
	}
}

// newClient keeps no connections that could outlive a test, trusts the tests' CA, and
// shows a certificate if it gets one.
func newClient(certificates ...tls.Certificate) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: ca.pool, Certificates: certificates},
		},
		Timeout: patience,
	}
}

// freeAddrs are addresses on loopback that nobody listened on a moment ago.
func freeAddrs(t testing.TB, n int) []string {
	t.Helper()
	var addrs []string
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close() // not before the others have theirs
		addrs = append(addrs, listener.Addr().String())
	}
	return addrs
}

// awaitCondition polls for a condition.
func awaitCondition(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
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

// own returns what the plugin logged.
func (l *logLines) own() string {
	var own strings.Builder
	for line := range strings.Lines(l.all()) {
		if strings.Contains(line, `"logger":"http.handlers.oauth_cc"`) {
			own.WriteString(line)
		}
	}
	return own.String()
}

// with returns the plugin's entries with that message.
func (l *logLines) with(message string) []map[string]any {
	var found []map[string]any
	for line := range strings.Lines(l.own()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message {
			found = append(found, entry)
		}
	}
	return found
}
