package scenarios

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// mortalTokens is what an endpoint and an API know of tokens that live for some seconds.
type mortalTokens struct {
	lifetime time.Duration

	mu    sync.Mutex
	lives map[string][]life // by the path of the endpoint
	ends  map[string]time.Time
	down  func(w http.ResponseWriter) // nil: it grants
}

type life struct{ from, to time.Time }

// token answers a token request.
func (m *mortalTokens) token(w http.ResponseWriter, r *http.Request, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if down := m.down; down != nil {
		m.mu.Unlock()
		defer m.mu.Lock()
		down(w)
		return
	}
	now, token := time.Now(), fmt.Sprintf("token-%d", n)
	m.ends[token] = now.Add(m.lifetime)
	m.lives[r.URL.Path] = append(m.lives[r.URL.Path], life{now, m.ends[token]})
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":%d}`, token, int(m.lifetime.Seconds()))
}

// api answers a request with a token.
func (m *mortalTokens) api(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	ends := m.ends[gatewaytest.Bearer(r)]
	m.mu.Unlock()
	if !time.Now().Before(ends) {
		gatewaytest.RejectToken(w)
	}
}

func (m *mortalTokens) becomes(down func(w http.ResponseWriter)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
}

// livesFor reports whether a token of that path lived then, and for so long before and after that.
func (m *mortalTokens) livesFor(path string, then time.Time, long time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.lives[path], func(l life) bool { return l.from.Add(long).Before(then) && then.Add(long).Before(l.to) })
}

// Whatever the endpoint does, and however a site is configured: no client is refused while a token lives.
func TestScenarioOutagesWhileTokensLive(t *testing.T) {
	if !gatewaytest.Apart(t, isBusy) {
		return
	}
	tokens := &mortalTokens{lifetime: 5 * time.Second, ends: make(map[string]time.Time), lives: make(map[string][]life)}
	endpoint := gatewaytest.StartTokenServer(t)
	endpoint.SetAnswer(tokens.token)
	api := gatewaytest.StartScriptedAPI(t, tokens.api)
	scenarios := make(map[string]*scenario)
	for name, more := range map[string]string{
		"/plain": "", "/off": "refresh_ahead off", "/kept": "prefetch", "/tenants": "scope {http.request.header.X-Tenant}",
		"/shared": "storage file_system " + t.TempDir(),
	} {
		scenarios[name] = &scenario{site: fmt.Sprintf("header >X-Token {http.oauth_cc.status}\noauth_cc %s%s {\nclient_id app\nclient_secret s3cret\ntimeout 4s\n%s\n}\n%s",
			endpoint.URL, name, more, gatewaytest.ProxyTo(api))}
	}
	runScenarios(t, slices.Collect(maps.Values(scenarios))...)

	ended := make(chan struct{})
	status := func(code int, retryAfter ...string) func(w http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header()["Retry-After"] = retryAfter
			w.WriteHeader(code)
		}
	}
	outages := []func(w http.ResponseWriter){
		status(503), status(429, "1"), status(429, "3"), status(500, "2"),
		func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		func(http.ResponseWriter) { <-ended },
		status(401), // the last, as it is followed by the longest pause
	}
	delays := slices.Collect(maps.Values(scenarios))[0].delays()
	var stops []func()
	for name, s := range scenarios {
		stops = append(stops, s.load(4, 10*time.Millisecond, func(n int) *http.Request {
			req := s.gets(name)(n)
			req.Header.Set("X-Tenant", "harbor")
			return req
		}))
	}
	gatewaytest.Pass(time.Second)
	for _, outage := range outages {
		tokens.becomes(outage)
		gatewaytest.Pass(gatewaytest.Lasting(2500*time.Millisecond, 8*time.Second)) // the renewals of most tokens, and the end of some
		tokens.becomes(nil)
		gatewaytest.Pass(gatewaytest.Lasting(time.Second, 4*time.Second))
	}
	close(ended)
	for _, stop := range stops {
		stop()
	}

	spared := 100*time.Millisecond + delays() // for the way of a request, and that of a token to the gateway
	stale := 0
	for name, s := range scenarios {
		lived, refused := 0, 0
		for _, a := range s.all() {
			if !tokens.livesFor(name, a.sent, spared) {
				continue
			}
			lived++
			if a.from == "stale" {
				stale++
			}
			if a.status != 200 {
				refused++
			}
		}
		t.Logf("outages while tokens live, %s: answers %s; %d while a token lived", name, counts(tally(s.all(), byStatus)), lived)
		if lived < 100 || refused > 0 {
			t.Errorf("%s: %d of %d requests were refused while a token lived", name, refused, lived)
		}
	}
	if t.Logf("%d requests went with a stale token", stale); stale == 0 {
		t.Error("no token was used up to its end")
	}
}
