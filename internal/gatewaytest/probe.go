package gatewaytest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(reloadProbe{})
	httpcaddyfile.RegisterHandlerDirective("reload_probe", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		return reloadProbe{Fail: h.NextArg()}, nil
	})
}

// reloadProbe is a handler that notes which requests have reached it, by their
// X-Probe header. Or it can't be provisioned.
type reloadProbe struct {
	// Whether provisioning fails.
	Fail bool `json:"fail,omitempty"`
}

var probed sync.Map

func (reloadProbe) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.reload_probe", New: func() caddy.Module { return new(reloadProbe) }}
}

func (p reloadProbe) Provision(caddy.Context) error {
	if p.Fail {
		return errors.New("this handler can't be provisioned")
	}
	return nil
}

func (reloadProbe) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	probed.Store(r.Header.Get("X-Probe"), true)
	return next.ServeHTTP(w, r)
}

// ProbeReached reports whether a request with that X-Probe has reached a handler.
func ProbeReached(id string) bool {
	_, ok := probed.Load(id)
	return ok
}

// ForgetProbes forgets which requests have reached a handler.
func ForgetProbes() { probed.Clear() }

// ReloadRoute puts the handlers in the order in which they are written, with a mark that
// makes each configuration another one.
func ReloadRoute(mark any, handlers ...string) string {
	return fmt.Sprintf("route {\nreload_probe\nheader X-Reload %v\n%s\n}\n", mark, strings.Join(handlers, "\n"))
}

// SendProbe sends a request until it has reached a handler. A server that stops drops a connection if no handler has
// its request yet: the connection is in the queue of the listener, or its request was just read. No handler is at
// fault then, and clients may try again. A request that has reached a handler must be answered in full.
func SendProbe(ctx context.Context, g *Gateway, id string) (Answer, error) {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.URL("/"), nil)
		if err != nil {
			return Answer{}, err
		}
		req.Header.Set("X-Probe", id)
		a, err := Exchange(Client, req)
		if err == nil || ProbeReached(id) || time.Now().After(deadline) {
			return a, err
		}
	}
}

func NewProbe() string { return strconv.FormatInt(probeCount.Add(1), 10) }

var probeCount atomic.Int64

func MustProbe(t testing.TB, g *Gateway) Answer {
	t.Helper()
	a, err := SendProbe(t.Context(), g, NewProbe())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// StartProbe sends a request and returns once the gateway's handlers have it.
func StartProbe(t testing.TB, g *Gateway) <-chan Answer {
	t.Helper()
	id, answers := NewProbe(), make(chan Answer, 1)
	go func() {
		a, err := SendProbe(t.Context(), g, id)
		if err != nil {
			t.Errorf("aborted: %v", err)
		}
		answers <- a
	}()
	Await(t, "the request reaches the gateway", func() bool { return ProbeReached(id) })
	return answers
}

func WantProbed(t testing.TB, a Answer, status int, body string) {
	t.Helper()
	if a.Status != status || body != "" && a.Body != body {
		t.Errorf("got %d %q, want %d %q", a.Status, a.Body, status, body)
	}
}

func WantNoPanicLogged(t testing.TB, g *Gateway) {
	t.Helper()
	for line := range strings.Lines(g.Logs.All()) {
		if strings.Contains(line, "panic") {
			t.Errorf("a handler panicked: %s", line)
		}
	}
}

// ProbeLoad has four clients send probes until stop is called. Each answer is to be that.
func ProbeLoad(t testing.TB, g *Gateway, body string) (answered *atomic.Int64, stop func()) {
	answered = new(atomic.Int64)
	done := make(chan struct{})
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if a, err := SendProbe(t.Context(), g, NewProbe()); err != nil || a.Status != 200 || a.Body != body {
					t.Errorf("got %d %q, %v", a.Status, a.Body, err)
					return
				}
				answered.Add(1)
			}
		})
	}
	return answered, func() {
		close(done)
		wait.Wait()
	}
}

// GatedAPI is an API at which requests wait while its gate is closed.
type GatedAPI struct {
	*API
	closed  atomic.Bool
	arrived chan struct{}
	Release chan struct{}
	Proxy   string
}

func StartGatedAPI(t testing.TB) *GatedAPI {
	a := &GatedAPI{API: StartAPI(t), arrived: make(chan struct{}, 1), Release: make(chan struct{})}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.closed.Load() {
			a.arrived <- struct{}{}
			<-a.Release
		}
		a.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	a.Proxy = "reverse_proxy " + server.Listener.Addr().String()
	return a
}

// Hold sends a request and returns once it waits at the API.
func (a *GatedAPI) Hold(t testing.TB, g *Gateway) <-chan Answer {
	t.Helper()
	a.closed.Store(true)
	answers := StartProbe(t, g)
	<-a.arrived
	a.closed.Store(false)
	return answers
}
