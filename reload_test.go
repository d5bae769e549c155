package oauthcc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/goleak"
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

func probeReached(id string) bool {
	_, ok := probed.Load(id)
	return ok
}

// reloadRoute puts the handlers in the order in which they are written, with a mark that
// makes each configuration another one.
func reloadRoute(mark any, handlers ...string) string {
	return fmt.Sprintf("route {\nreload_probe\nheader X-Reload %v\n%s\n}\n", mark, strings.Join(handlers, "\n"))
}

// sendProbe sends a request until it has reached a handler. A server that stops drops
// connections on which it has not yet handed a request to a handler: those in the
// queue of its listener, and those whose request it has just read. Clients see that
// without any handler being at fault, and may try again. A request that has reached a
// handler must be answered in full.
func sendProbe(ctx context.Context, g *gateway, id string) (answer, error) {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.url("/"), nil)
		if err != nil {
			return answer{}, err
		}
		req.Header.Set("X-Probe", id)
		a, err := exchangeWith(testClient, req)
		if err == nil || probeReached(id) || time.Now().After(deadline) {
			return a, err
		}
	}
}

func newProbe() string { return strconv.FormatInt(probeCount.Add(1), 10) }

var probeCount atomic.Int64

func mustProbe(t testing.TB, g *gateway) answer {
	t.Helper()
	a, err := sendProbe(t.Context(), g, newProbe())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// startProbe sends a request and returns once the gateway's handlers have it.
func startProbe(t testing.TB, g *gateway) <-chan answer {
	t.Helper()
	id, answers := newProbe(), make(chan answer, 1)
	go func() {
		a, err := sendProbe(t.Context(), g, id)
		if err != nil {
			t.Errorf("aborted: %v", err)
		}
		answers <- a
	}()
	awaitCondition(t, "the request reaches the gateway", func() bool { return probeReached(id) })
	return answers
}

func wantProbed(t testing.TB, a answer, status int, body string) {
	t.Helper()
	if a.status != status || body != "" && a.body != body {
		t.Errorf("got %d %q, want %d %q", a.status, a.body, status, body)
	}
}

func wantFetched(t testing.TB, endpoint *tokenServer, want int) {
	t.Helper()
	if n := endpoint.count(); n != want {
		t.Errorf("%d token requests, want %d", n, want)
	}
}

func wantNoPanicLogged(t testing.TB, g *gateway) {
	t.Helper()
	for line := range strings.Lines(g.logs.all()) {
		if strings.Contains(line, "panic") {
			t.Errorf("a handler panicked: %s", line)
		}
	}
}

// grantReferences lists how often each grant in the pool is used.
func grantReferences() map[grantKey]int {
	var keys []grantKey
	grants.Range(func(key, _ any) bool {
		keys = append(keys, key.(grantKey))
		return true
	})
	counts := make(map[grantKey]int)
	for _, key := range keys {
		if n, ok := grants.References(key); ok {
			counts[key] = n
		}
	}
	return counts
}

func TestReloadUnderLoadFailsNoRequest(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	handlers := endpoint.options() + upstream.proxy()
	g := startGateway(t, reloadRoute("first", handlers))
	mustProbe(t, g)
	answered, stop := probeLoad(t, g, "GET / with token-1")
	underLoad := func() {
		before := answered.Load()
		awaitCondition(t, "requests are answered after a reload", func() bool { return answered.Load() >= before+8 || t.Failed() })
	}
	for i := range 15 {
		g.reload(reloadRoute(i, handlers))
		underLoad()
		if err := g.tryReload(reloadRoute(i, handlers, "reload_probe fail")); err == nil {
			t.Error("a wrong configuration was loaded")
		}
		underLoad()
	}
	stop()
	wantFetched(t, endpoint, 1)
	wantNoPanicLogged(t, g)
}

// probeLoad has four clients send probes until stop is called. Each answer is to be that.
func probeLoad(t testing.TB, g *gateway, body string) (answered *atomic.Int64, stop func()) {
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
				if a, err := sendProbe(t.Context(), g, newProbe()); err != nil || a.status != 200 || a.body != body {
					t.Errorf("got %d %q, %v", a.status, a.body, err)
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

func TestFailedReloadKeepsTheTokenAndHoldsNothing(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	ours := func(options ...string) string { return endpoint.options(options...) + upstream.proxy() }
	other := strings.Replace(ours(), "s3cret-canary", "another-secret", 1)
	missing := filepath.Join(t.TempDir(), "missing")
	g := startGateway(t, reloadRoute("running", ours()))
	wantProbed(t, mustProbe(t, g), 200, "GET / with token-1")
	before := grantReferences()
	if len(before) != 1 {
		t.Fatalf("%d grants", len(before))
	}
	for name, site := range map[string]string{
		"a later handler":                    reloadRoute(1, ours(), "reload_probe fail"),
		"a later handler, another grant":     reloadRoute(1, other, "reload_probe fail"),
		"a later handler, several grants":    reloadRoute(1, ours(), other, ours(), "reload_probe fail"),
		"an earlier handler":                 reloadRoute(1, "reload_probe fail", ours()),
		"our option, in the Caddyfile":       reloadRoute(1, ours("timeout never")),
		"our option, at Provision":           reloadRoute(1, ours("param client_id x")),
		"our option, in a second handler":    reloadRoute(1, ours(), ours("param client_id x")),
		"our placeholder":                    reloadRoute(1, ours("audience {env.OAUTH_CC_TEST_UNSET}")),
		"our file":                           reloadRoute(1, ours("audience {file."+missing+"}")),
		"our transport":                      reloadRoute(1, ours("transport {\ntls_trust_pool file "+missing+"\n}")),
		"our transport, in a second handler": reloadRoute(1, ours(), ours("transport {\ntls_trust_pool file "+missing+"\n}")),
		// The address is taken: the configuration is provisioned, but can't start.
		"an address in use": reloadRoute(1, other) + "}\nhttp://" + endpoint.Listener.Addr().String() + " {\n" + ours(),
	} {
		t.Run(name, func(t *testing.T) {
			if err := g.tryReload(site); err == nil {
				t.Fatal("a wrong configuration was loaded")
			}
			if after := grantReferences(); !maps.Equal(before, after) {
				t.Errorf("references: %v, were %v", after, before)
			}
			wantProbed(t, mustProbe(t, g), 200, "GET / with token-1")
			wantFetched(t, endpoint, 1)
		})
	}
	g.reload(reloadRoute("again", ours()))
	wantProbed(t, mustProbe(t, g), 200, "GET / with token-1")
	wantFetched(t, endpoint, 1)
}

func TestFetchInProgressServesBothConfigurations(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	asked, release := make(chan struct{}, 10), make(chan struct{})
	endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		asked <- struct{}{}
		<-release
		endpoint.grant(w)
	})
	handlers := endpoint.options() + upstream.proxy()
	g := startGateway(t, reloadRoute("old", handlers))
	before := startProbe(t, g)
	<-asked
	g.reload(reloadRoute("new", handlers))
	if err := g.tryReload(reloadRoute("newer", handlers, "reload_probe fail")); err == nil {
		t.Error("a wrong configuration was loaded")
	}
	after := startProbe(t, g)
	close(release)
	for mark, answers := range map[string]<-chan answer{"old": before, "new": after} {
		a := <-answers
		wantProbed(t, a, 200, "GET / with token-1")
		if got := a.header.Get("X-Reload"); got != mark {
			t.Errorf("answered by the %s configuration, want the %s", got, mark)
		}
	}
	wantFetched(t, endpoint, 1)
}

func TestReloadKeepsTheTokenAsLongAsTheGrantIsTheSame(t *testing.T) {
	t.Setenv("OAUTH_CC_TEST_SCOPE", "read")
	for name, test := range map[string]struct {
		options string
		replace [2]string
		kept    bool
	}{
		"nothing":          {kept: true},
		"timeout":          {options: "timeout 3s", kept: true},
		"default_ttl":      {options: "default_ttl 3m", kept: true},
		"retry_status":     {options: "retry_status off", kept: true},
		"replay_buffer":    {options: "replay_buffer 1KiB", kept: true},
		"client_secret":    {replace: [2]string{"s3cret-canary", "another"}},
		"client_id":        {replace: [2]string{"client_id app", "client_id other"}},
		"auth_method":      {options: "auth_method client_secret_post"},
		"request_format":   {options: "request_format json"},
		"scope":            {options: "scope read"},
		"scope, resolved":  {options: "scope {env.OAUTH_CC_TEST_SCOPE}"},
		"audience":         {options: "audience a"},
		"resource":         {options: "resource https://api.example.com/"},
		"param":            {options: "param a b"},
		"request_header":   {options: "request_header X-A b"},
		"endpoint":         {replace: [2]string{"/token", "/other"}},
		"way to connect":   {options: "transport {\ndial_timeout 4s\n}"},
		"where it is from": {replace: [2]string{"client_id app", "client_id {env.OAUTH_CC_TEST_ID}"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OAUTH_CC_TEST_ID", "app")
			endpoint, upstream := startTokenServer(t), startAPI(t)
			old := endpoint.options() + upstream.proxy()
			changed := endpoint.options(test.options) + upstream.proxy()
			if test.replace[0] != "" {
				changed = strings.Replace(changed, test.replace[0], test.replace[1], 1)
			}
			g := startGateway(t, reloadRoute("old", old))
			mustProbe(t, g)
			tokens := 1
			for _, site := range []string{changed, old} {
				g.reload(reloadRoute("next", site))
				if !test.kept {
					tokens++
				}
				for range 2 {
					wantProbed(t, mustProbe(t, g), 200, fmt.Sprintf("GET / with token-%d", tokens))
				}
				wantFetched(t, endpoint, tokens)
			}
		})
	}
}

func TestPoolCountsTheHandlersThatUseAGrant(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	ours := endpoint.options() + upstream.proxy()
	other := strings.Replace(ours, "client_id app", "client_id other", 1)
	want := func(counts ...int) {
		t.Helper()
		got := grantReferences()
		for _, n := range got {
			for i, count := range counts {
				if n == count {
					counts[i] = -n
					break
				}
			}
		}
		for _, count := range counts {
			if count > 0 || len(got) != len(counts) {
				t.Fatalf("references: %v", got)
			}
		}
	}
	want()
	g := startGateway(t, reloadRoute(1, ours, ours))
	want(2)
	g.reload(reloadRoute(2, ours, ours))
	want(2)
	g.reload(reloadRoute(3, ours, ours, other))
	want(2, 1)
	g.reload(reloadRoute(4, other))
	want(1)
	mustProbe(t, g)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	want()
}

// Caddy cleans a configuration up while its last requests are still being served.
func TestReplayAfterAReload(t *testing.T) {
	for name, test := range map[string]struct {
		reject bool
		body   string
		tokens int
	}{
		"accepted": {body: "GET / with token-1", tokens: 1},
		"rejected": {reject: true, body: "GET / with token-2", tokens: 2},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint, upstream := startTokenServer(t), startGatedAPI(t)
			handlers := endpoint.options() + upstream.proxy
			g := startGateway(t, reloadRoute("old", handlers))
			mustProbe(t, g)
			answers := upstream.hold(t, g)
			g.reload(reloadRoute("new", handlers))
			if test.reject {
				upstream.revoke("token-1")
			}
			close(upstream.release)
			a := <-answers
			wantProbed(t, a, 200, test.body)
			if a.header.Get("X-Reload") != "old" {
				t.Errorf("answered by %q", a.header.Get("X-Reload"))
			}
			wantProbed(t, mustProbe(t, g), 200, test.body)
			wantFetched(t, endpoint, test.tokens)
			wantNoPanicLogged(t, g)
		})
	}
}

// No configuration uses the grant of such a request any more.
func TestReplayAfterAReloadWithAnotherGrant(t *testing.T) {
	for reject, body := range map[bool]string{false: "GET / with token-1", true: "GET / with token-2"} {
		t.Run(fmt.Sprintf("rejected=%v", reject), func(t *testing.T) {
			endpoint, upstream := startTokenServer(t), startGatedAPI(t)
			g := startGateway(t, reloadRoute("old", endpoint.options(), upstream.proxy))
			mustProbe(t, g)
			answers := upstream.hold(t, g)
			g.reload(reloadRoute("new", endpoint.options("scope other"), upstream.proxy))
			if reject {
				upstream.revoke("token-1")
			}
			close(upstream.release)
			wantProbed(t, <-answers, 200, body)
			if a := mustProbe(t, g); a.status != 200 || a.body == body {
				t.Errorf("got %d %q", a.status, a.body)
			}
			if n := len(grantReferences()); n != 1 {
				t.Errorf("%d grants", n)
			}
			wantNoPanicLogged(t, g)
		})
	}
}

// gatedAPI is an API at which requests wait while its gate is closed.
type gatedAPI struct {
	*api
	closed  atomic.Bool
	arrived chan struct{}
	release chan struct{}
	proxy   string
}

func startGatedAPI(t testing.TB) *gatedAPI {
	a := &gatedAPI{api: startAPI(t), arrived: make(chan struct{}, 1), release: make(chan struct{})}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.closed.Load() {
			a.arrived <- struct{}{}
			<-a.release
		}
		a.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	a.proxy = "reverse_proxy " + server.Listener.Addr().String()
	return a
}

// hold sends a request and returns once it waits at the API.
func (a *gatedAPI) hold(t testing.TB, g *gateway) <-chan answer {
	t.Helper()
	a.closed.Store(true)
	answers := startProbe(t, g)
	<-a.arrived
	a.closed.Store(false)
	return answers
}

func TestStopLeavesNoGoroutine(t *testing.T) {
	ignore := []goleak.Option{
		goleak.IgnoreCurrent(),
		// Caddy's cleaning of its storage, at most once a day, leaves one for 5 s.
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"),
	}
	t.Run("gateway", func(t *testing.T) {
		endpoint, upstream := startTokenServer(t), startAPI(t)
		handlers := endpoint.options("prefetch") + upstream.proxy()
		g := startGateway(t, reloadRoute("old", handlers))
		mustProbe(t, g)
		upstream.revoke("token-1")
		g.post("/", "text/plain", strings.Repeat("x", 100_000)) // replayed
		g.reload(reloadRoute("new", handlers))

		// A fetch that nobody waits for any more when Caddy stops.
		release := make(chan struct{})
		defer close(release)
		asked := make(chan struct{}, 10)
		endpoint.setAnswer(func(_ http.ResponseWriter, r *http.Request, _ int) {
			asked <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
			}
		})
		g.reload(reloadRoute("new", strings.NewReplacer("client_id app", "client_id other", "prefetch", "").Replace(handlers)))
		ctx, leave := context.WithCancel(t.Context())
		go func() {
			<-asked
			leave()
		}()
		if _, err := sendProbe(ctx, g, newProbe()); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
		if n := len(grantReferences()); n != 0 {
			t.Errorf("%d grants are left", n)
		}
	})
	if err := goleak.Find(ignore...); err != nil {
		t.Error(err)
	}
}
