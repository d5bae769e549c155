package gatewaytest

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// Ask sends a request to the admin endpoint.
func (g *Gateway) Ask(method, path string) Answer {
	g.T.Helper()
	request := func() *http.Request { return ClientRequest(g.T, method, "http://"+g.Admin+"/oauth_cc/"+path, nil) }
	if method == http.MethodGet {
		if a, err := Exchange(Client, request()); err == nil {
			return a
		}
		// A reload that keeps the address can reset a new connection.
	}
	return g.Do(request())
}

// SendLines makes a request with a header of the given lines, such as "Cookie: a=b".
func SendLines(t testing.TB, method, url, body string, lines ...string) Answer {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	a, err := Exchange(Client, req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return a
}

func init() {
	caddy.RegisterModule(new(testLogs))
}

// Gateway is a running Caddy. There is one per process, so tests that start one are
// not parallel.
type Gateway struct {
	T    testing.TB
	Addr string // of the site that most tests use
	Logs *Logs

	Logging string // what to log, if not everything
	Admin   string // address of Caddy's admin endpoint, if it has one
	Events  string // global options of the events app
}

// Start runs a Caddy with one site on a port of the system's choice.
func Start(t testing.TB, site string) *Gateway {
	t.Helper()
	g := &Gateway{T: t, Addr: FreeAddr(t), Logs: new(Logs)}
	currentLogs.Lock()
	currentLogs.lines = g.Logs
	currentLogs.Unlock()
	t.Cleanup(func() {
		if !CaddySince(5) { // it stops without letting go of the certificates that it has in memory
			if err := Load(""); err != nil {
				t.Errorf("loading an empty configuration: %v", err)
			}
		}
		Stop(t)
		wantHelp(t, g.Logs)
	})
	g.Reload(site)
	return g
}

// StartSites runs one Caddy with several sites, each of which is returned as a gateway of its
// own, for tests that run side by side. They log to the same place.
func StartSites(t testing.TB, sites ...string) []*Gateway {
	t.Helper()
	first, addrs := Start(t, ""), FreeAddrs(t, len(sites))
	var text strings.Builder
	gateways := make([]*Gateway, len(sites))
	for i, site := range sites {
		gateways[i] = &Gateway{T: t, Addr: addrs[i], Logs: first.Logs}
		fmt.Fprintf(&text, "http://%s {\n%s\n}\n", addrs[i], site)
	}
	if err := Load(text.String()); err != nil {
		t.Fatalf("loading the configuration: %v", err)
	}
	return gateways
}

// For is the gateway for a part of the test that started it.
func (g *Gateway) For(t testing.TB) *Gateway {
	copied := *g
	copied.T = t
	return &copied
}

// Stop ends the Caddy of this process.
func Stop(t testing.TB) {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Errorf("stopping Caddy: %v", err)
	}
}

// StartWithAdmin is startGateway with Caddy's admin endpoint.
func StartWithAdmin(t testing.TB, site string) *Gateway {
	t.Helper()
	g := Start(t, "")
	g.Admin = FreeAddr(t)
	t.Cleanup(func() {
		g.Admin = ""
		g.Reload("") // Caddy's Stop does not end it
	})
	g.Reload(site)
	return g
}

// Reload loads a configuration in which the site has changed.
func (g *Gateway) Reload(site string) {
	g.T.Helper()
	if err := g.TryReload(site); err != nil {
		g.T.Fatalf("loading the configuration: %v", err)
	}
}

// TryReload is Reload for a configuration that may be wrong.
func (g *Gateway) TryReload(site string) error {
	return LoadWith(GlobalOptions{admin: g.Admin, Logging: cmp.Or(g.Logging, "level DEBUG"), More: g.Events}, fmt.Sprintf("http://%s {\n%s\n}\n", g.Addr, site))
}

// AwaitOldListeners waits until nothing but the newest configuration listens on any of the addresses in the text.
// Caddy closes the listeners of the one before in the background, and connections that were waiting to be accepted
// there are reset by the system.
func AwaitOldListeners(text string) error {
	for _, addr := range regexp.MustCompile(`127\.0\.0\.1:\d+`).FindAllString(text, -1) {
		for deadline := time.Now().Add(Patience); listeners(addr) > 1; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				return fmt.Errorf("an old configuration still listens on %s", addr)
			}
		}
	}
	return nil
}

// listeners counts the sockets that listen on the address: Linux lets several do so.
func listeners(addr string) int {
	table, err := os.Open("/proc/net/tcp")
	if err != nil {
		return 0 // another system, where a listener is handed on
	}
	defer table.Close()
	_, port, _ := net.SplitHostPort(addr)
	number, _ := strconv.Atoi(port)
	count := 0
	lines := bufio.NewScanner(table)
	lines.Scan() // the names of the columns
	for lines.Scan() {
		const listening = "0A"
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || fields[3] != listening {
			break // what listens comes first, and there can be tens of thousands of others
		}
		if strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", number)) {
			count++
		}
	}
	return count
}

// Load runs the sites of a Caddyfile under the options that all tests need.
func Load(sites string) error {
	return LoadWith(GlobalOptions{Logging: "level DEBUG"}, sites)
}

// LittleLog is what to log under load.
const LittleLog = "level INFO\ninclude http.handlers.oauth_cc"

// GlobalOptions are those that differ from test to test.
type GlobalOptions struct {
	admin     string // empty: off
	Logging   string
	More      string // whatever else
	Protocols string // for clients; empty: all but HTTP/3
}

// LoadWith returns once nobody gets to the configuration before any more.
func LoadWith(options GlobalOptions, sites string) error {
	config, err := Adapt(`{
		admin ` + cmp.Or(options.admin, "off") + `
		` + options.More + `
		auto_https off
		persist_config off
		default_bind 127.0.0.1
		log {
			output oauth_cc_test
			format json
			` + options.Logging + `
		}
		servers {
			protocols ` + cmp.Or(options.Protocols, "h1 h2 h2c") + `
		}
	}
	` + sites)
	if err != nil {
		return err
	}
	return errors.Join(caddy.Load(config, true), AwaitOldListeners(options.admin+" "+sites))
}

func Adapt(text string) ([]byte, error) {
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	config, _, err := adapter.Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	return config, err
}

func (g *Gateway) URL(path string) string { return "http://" + g.Addr + path }

// Answer is a response that has been read to its end.
type Answer struct {
	Status  int
	Body    string
	Header  http.Header
	Trailer http.Header
}

// Get sends a GET request to the gateway.
func (g *Gateway) Get(path string) Answer {
	g.T.Helper()
	req, err := http.NewRequest(http.MethodGet, g.URL(path), nil)
	if err != nil {
		g.T.Fatal(err)
	}
	return g.Do(req)
}

// Patience bounds the waiting for what must happen soon.
const Patience = time.Minute

// Await polls for a condition.
func Await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, Patience)
		}
	}
}

// GetConcurrently sends so many GET requests at once and wants that status of each.
func (g *Gateway) GetConcurrently(n, status int) {
	g.T.Helper()
	var wait sync.WaitGroup
	for range n {
		wait.Go(func() {
			req, _ := http.NewRequest(http.MethodGet, g.URL("/"), nil)
			if a, err := Exchange(Client, req); err != nil || a.Status != status {
				g.T.Errorf("got %d, %v; want %d", a.Status, err, status)
			}
		})
	}
	wait.Wait()
}

// Post sends a body whose length is announced.
func (g *Gateway) Post(path, contentType, body string) Answer {
	g.T.Helper()
	req, err := http.NewRequest(http.MethodPost, g.URL(path), strings.NewReader(body))
	if err != nil {
		g.T.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	return g.Do(req)
}

func (g *Gateway) Do(req *http.Request) Answer {
	g.T.Helper()
	a, err := Exchange(Client, req)
	if err != nil {
		g.T.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	return a
}

// Exchange may be called from any goroutine.
func Exchange(client *http.Client, req *http.Request) (Answer, error) {
	res, err := client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return Answer{res.StatusCode, string(body), res.Header, res.Trailer}, err
}

// Client keeps no connections that could outlive a test.
var Client = &http.Client{
	Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
	Timeout:   2 * time.Minute,
}
