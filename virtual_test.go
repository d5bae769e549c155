package oauthcc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// What the cache does, as clients see it.
const (
	outagePatience = time.Second      // how long they wait once the endpoint is known to be down
	outageMemory   = 10 * time.Minute // how long that is remembered
)

// requestInCaddy is a request as Caddy hands it to a handler.
func requestInCaddy(method, target string, body io.Reader) *http.Request {
	r, err := http.NewRequest(method, target, body) // httptest's takes ten times as long
	if err != nil {
		panic(err)
	}
	r.RequestURI, r.Host, r.RemoteAddr, r.GetBody = target, cmp.Or(r.Host, "example.com"), "192.0.2.1:1234", nil
	switch {
	case r.Body == nil:
		r.Body = http.NoBody
	case r.Body != http.NoBody && r.ContentLength == 0:
		r.ContentLength = -1
	}
	ctx := context.WithValue(context.Background(), caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = context.WithValue(ctx, caddy.CtxKey("route_group"), map[string]struct{}{"taken": {}})
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, make(map[string]any))
	return r.WithContext(ctx)
}

// proxyInMemory does what reverse_proxy does with what upstream answers.
func proxyInMemory(upstream caddyhttp.HandlerFunc) caddyhttp.Handler {
	return caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		_ = r.Context().Value(caddyhttp.ServerCtxKey)
		return upstream(proxyWriter{w, r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)}, r)
	})
}

type proxyWriter struct {
	http.ResponseWriter
	repl *caddy.Replacer
}

func (w proxyWriter) WriteHeader(status int) {
	w.repl.Set("http.reverse_proxy.status_code", status)
	w.ResponseWriter.WriteHeader(status)
}

// virtualEndpoint is a token endpoint in memory, for the virtual time of a bubble.
type virtualEndpoint struct {
	mu        sync.Mutex
	takes     time.Duration
	expiresIn string            // of the tokens, as JSON; empty for none
	down      http.RoundTripper // nil: it grants
	asked     []time.Time
	flying    int
	granted   map[string]time.Time // when each token was asked for
}

func (e *virtualEndpoint) RoundTrip(req *http.Request) (*http.Response, error) {
	e.mu.Lock()
	e.asked = append(e.asked, time.Now())
	e.flying++
	takes, down := e.takes, e.down
	value := fmt.Sprintf("token-%d", len(e.granted)+1)
	if e.flying > 1 {
		value = "two-at-a-time"
	}
	if down == nil {
		if e.granted == nil {
			e.granted = make(map[string]time.Time)
		}
		e.granted[value] = time.Now()
	}
	members := ""
	if e.expiresIn != "" {
		members = `,"expires_in":` + e.expiresIn
	}
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.flying--
		e.mu.Unlock()
	}()
	if down != nil {
		return down.RoundTrip(req)
	}
	select {
	case <-time.After(takes):
		return servertest.Answer{Body: fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer"%s}`, value, members)}.RoundTrip(req)
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
}

// becomes makes the endpoint do that from now on; nil lets it grant.
func (e *virtualEndpoint) becomes(down http.RoundTripper) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = down
}

// tries is when the endpoint was asked since then.
func (e *virtualEndpoint) tries(since time.Time) []time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, asked := range e.asked {
		if !asked.Before(since) {
			return append([]time.Time(nil), e.asked[i:]...)
		}
	}
	return nil
}

func (e *virtualEndpoint) count() int { return len(e.tries(time.Time{})) }

// virtualGateway is a handler before an API in memory.
type virtualGateway struct {
	*Handler
	t        *testing.T
	endpoint *virtualEndpoint
	logs     *observer.ObservedLogs

	mu       sync.Mutex
	accepted func(token string) bool // nil: the API accepts all
	rejects  http.HandlerFunc        // nil: with invalid_token
	closed   map[string]http.HandlerFunc
}

// newVirtualGateway makes one in the bubble of the test.
func newVirtualGateway(t *testing.T, h *Handler) *virtualGateway {
	t.Helper()
	g := &virtualGateway{t: t, endpoint: &virtualEndpoint{expiresIn: "3600"}}
	g.Handler = handlerInMemory(t, h)
	core, logs := observer.New(zapcore.DebugLevel)
	g.tokens.client.Transport, g.reporter.logger, g.logs = g.endpoint, zap.New(core), logs
	return g
}

// virtualAnswer is what a client of the gateway gets, and after which time.
type virtualAnswer struct {
	status     int
	token      string // that the API got last
	from       string // {http.oauth_cc.status}
	cause      string // {http.oauth_cc.error}
	retryAfter int
	waited     time.Duration
}

func (g *virtualGateway) get() virtualAnswer {
	return g.send(&http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/"}, Body: http.NoBody})
}

func (g *virtualGateway) send(made *http.Request) virtualAnswer {
	r := requestInCaddy(made.Method, made.URL.String(), made.Body)
	maps.Copy(r.Header, made.Header)
	w, start := httptest.NewRecorder(), time.Now()
	a := virtualAnswer{}
	err := g.ServeHTTP(w, r, proxyInMemory(func(w http.ResponseWriter, r *http.Request) error {
		a.token = gatewaytest.Bearer(r)
		g.mu.Lock()
		accepted, rejects, closed := g.accepted, g.rejects, g.closed[r.URL.Path]
		g.mu.Unlock()
		switch {
		case closed != nil:
			closed(w, r)
		case accepted == nil || accepted(a.token):
			w.WriteHeader(http.StatusOK)
		case rejects != nil:
			rejects(w, r)
		default:
			gatewaytest.RejectToken(w)
		}
		return nil
	}))
	a.status, a.waited = w.Code, time.Since(start)
	if failure, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
		a.status = failure.StatusCode
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	a.from, _ = repl.GetString(statusPlaceholder)
	a.cause, _ = repl.GetString(errorPlaceholder)
	a.retryAfter, _ = strconv.Atoi(w.Header().Get("Retry-After"))
	return a
}

func (g *virtualGateway) mustGet() virtualAnswer {
	g.t.Helper()
	a := g.get()
	if a.status != 200 || a.token == "" || a.token == "two-at-a-time" {
		g.t.Fatalf("got %+v", a)
	}
	return a
}

// accepts makes the API accept nothing but what that says; how it rejects is up to
// rejects.
func (g *virtualGateway) accepts(accepted func(token string) bool, rejects http.HandlerFunc) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.accepted, g.rejects = accepted, rejects
}

// rejectPath has one path reject every token.
func (g *virtualGateway) rejectPath(path string, rejects http.HandlerFunc) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = map[string]http.HandlerFunc{path: rejects}
}

// load sends requests for a while, one in each interval, and hands the answers on. None
// waits for the one before. It returns when all are answered.
func (g *virtualGateway) load(every, lasts time.Duration, got func(virtualAnswer)) {
	var wait sync.WaitGroup
	var mu sync.Mutex
	for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(every) {
		wait.Go(func() {
			a := g.get()
			mu.Lock()
			defer mu.Unlock()
			got(a)
		})
	}
	wait.Wait()
}

// wantServed is for a load of which every request is to be served at once.
func (g *virtualGateway) wantServed(a virtualAnswer) {
	if a.status != 200 || a.waited != 0 {
		g.t.Errorf("got %+v", a)
	}
}

// wantPauses checks the pauses between the fetches that failed since then against what
// a table says, in seconds. It returns how many failed.
func (g *virtualGateway) wantPauses(since time.Time, seconds ...float64) int {
	g.t.Helper()
	var pauses []float64
	var last time.Time
	fetches := 0
	for _, entry := range g.logs.All() {
		took, _ := entry.ContextMap()["duration"].(time.Duration)
		if _, failed := entry.ContextMap()["error"]; !failed || entry.Time.Add(-took).Before(since) {
			continue
		}
		if fetches++; fetches > 1 {
			pauses = append(pauses, entry.Time.Add(-took).Sub(last).Seconds())
		}
		last = entry.Time
	}
	if len(pauses) < len(seconds) {
		g.t.Fatalf("%d pauses, want %d: %.2f", len(pauses), len(seconds), pauses)
	}
	for i, want := range seconds {
		// A fetch begins with the request that comes after the pause.
		if pauses[i] < 0.8*want || pauses[i] > 1.2*want+0.1 {
			g.t.Errorf("pause %d took %.2f s, want %v s: %.2f", i+1, pauses[i], want, pauses)
		}
	}
	return fetches
}
