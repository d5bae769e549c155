package monitoring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// patience bounds the waiting for what must happen soon.
const patience = time.Minute

// gateway is a running Caddy, with a site for requests and one for metrics.
type gateway struct {
	partner       *partner
	addr, metrics string
	log           string // file
	options       map[string]string
	traffic       sync.RWMutex // held for reading by each request
}

// dynamic is the client that is another one for each tenant.
const dynamic = "dynamic"

// startGateway runs a Caddy that passes /name/ on to the partner's API, with the token of
// the client of that name. Options are those of oauth_cc by client.
func startGateway(t testing.TB, p *partner, options map[string]string) *gateway {
	t.Helper()
	addrs := freeAddrs(t, 2)
	g := &gateway{partner: p, addr: addrs[0], metrics: addrs[1], log: filepath.Join(t.TempDir(), "log"), options: options}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
		if t.Failed() {
			t.Logf("the plugin's log:\n%s", g.ownLog())
		}
	})
	if err := g.load(t, ""); err != nil {
		t.Fatalf("loading the configuration: %v", err)
	}
	return g
}

// ownLog is what the plugin has logged.
func (g *gateway) ownLog() string {
	text, _ := os.ReadFile(g.log)
	var own strings.Builder
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, `"logger":"http.handlers.oauth_cc"`) {
			own.WriteString(line)
		}
	}
	return own.String()
}

// load loads the configuration, with another site in it.
func (g *gateway) load(t testing.TB, more string) error {
	t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, `{
		admin off
		auto_https off
		persist_config off
		default_bind 127.0.0.1
		grace_period 5s
		log {
			output file %s {
				roll_disabled
			}
			format json
		}
	}
	http://%s {
		metrics /metrics
	}
	%s
	http://%s {
	`, g.log, g.metrics, more, g.addr)
	for _, name := range slices.Sorted(maps.Keys(g.partner.clients)) {
		id := name
		if name == dynamic {
			id = "{header.X-Tenant}"
		}
		fmt.Fprintf(&text, `handle /%s/* {
			oauth_cc %s/%[1]s/token {
				client_id %[3]s
				client_secret s3cret
				%s
			}
			reverse_proxy %s
		}
		`, name, g.partner.URL, id, g.options[name], g.partner.Listener.Addr())
	}
	text.WriteString("}\n")
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	config, _, err := adapter.Adapt([]byte(text.String()), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("adapting the Caddyfile: %v", err)
	}
	return caddy.Load(config, true)
}

// send sends a client's request through the gateway, for a tenant of dynamic's.
func (g *gateway) send(name, tenant string, body []byte) (status int, err error) {
	g.traffic.RLock()
	defer g.traffic.RUnlock()
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	req, err := http.NewRequest(method, "http://"+g.addr+"/"+name+"/api", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Tenant", tenant)
	res, err := do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

// httpClient keeps no connections that could outlive a test.
var httpClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}

// do sends a request. While a configuration is replaced, the connections that wait for the listener of the one before
// are reset or closed. Nobody has read from them, and the request is sent again.
func do(req *http.Request) (*http.Response, error) {
	for deadline := time.Now().Add(patience); ; {
		res, err := httpClient.Do(req)
		isLost := errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)
		if !isLost || time.Now().After(deadline) {
			return res, err
		}
		if req.GetBody != nil {
			if req.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// keepUsing has each client's requests come at that pace, one after the other, until stop
// is called, which tells how many there were.
func (g *gateway) keepUsing(t testing.TB, paces map[string]time.Duration) (stop func() map[string]int) {
	ctx, cancel := context.WithCancel(context.Background())
	var users sync.WaitGroup
	var mu sync.Mutex
	sent := make(map[string]int)
	for name, pace := range paces {
		users.Go(func() {
			ticks := time.NewTicker(pace)
			defer ticks.Stop()
			for {
				if _, err := g.send(name, "", nil); err != nil {
					t.Errorf("a request of %s: %v", name, err)
					return
				}
				mu.Lock()
				sent[name]++
				mu.Unlock()
				select {
				case <-ticks.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	stop = sync.OnceValue(func() map[string]int {
		cancel()
		users.Wait()
		return sent
	})
	t.Cleanup(func() { stop() })
	return stop
}

// samples are what a scrape finds, by name and labels as they are written.
type samples map[string]float64

// scrape reads those metrics of the plugin's that have names like that.
func (g *gateway) scrape(t testing.TB, like string) samples {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+g.metrics+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("scraping: %s, %v", res.Status, err)
	}
	found := make(samples)
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "caddy_oauth_cc_") {
			continue
		}
		end := strings.LastIndexByte(line, ' ')
		if name, _, _ := strings.Cut(line, "{"); !strings.Contains(name, like) {
			continue
		}
		if found[line[:end]], err = strconv.ParseFloat(strings.TrimSpace(line[end+1:]), 64); err != nil {
			t.Fatalf("scraping: %v in %q", err, line)
		}
	}
	return found
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

// await polls for a condition.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}
