package oauthcc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/goleak"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// A reload keeps the tokens, of a table of the same size.
func TestReloadKeepsTheTokensOfAllTenants(t *testing.T) {
	server, upstream := gatewaytest.StartTenantServer(t, gatewaytest.MappedSecrets()), gatewaytest.StartAPI(t)
	site := gatewaytest.MappedSite(server, upstream)
	g := gatewaytest.Start(t, site)
	gatewaytest.AskAsTenant(g, "a")
	gatewaytest.AskAsTenant(g, "b")
	for i := range 5 {
		g.Reload(site + fmt.Sprintf("header X-Reload %d\n", i))
		gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "a"), 200, "GET / with of-a-id-1")
		gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "b"), 200, "GET / with of-b-id-1")
	}
	gatewaytest.WantFetched(t, server.TokenServer, 2)
	if n := len(grantReferences()); n != 1 {
		t.Errorf("%d grants in the pool, want the table", n)
	}
	g.Reload("respond gone")
	gatewaytest.Await(t, "the table is released", func() bool { return len(grantReferences()) == 0 })
	g.Reload(site)
	gatewaytest.CheckAnswer(t, gatewaytest.AskAsTenant(g, "a"), 200, "GET / with of-a-id-2")
}

func TestConfigurationThatDoesNotRunAsksForNoToken(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	site := endpoint.Options("prefetch") + upstream.Proxy()
	if err := validateCaddyfile(t, "http://"+gatewaytest.FreeAddr(t)+" {\n"+site+"\n}"); err != nil {
		t.Fatal(err)
	}
	g := gatewaytest.Start(t, "respond running")
	if err := g.TryReload(gatewaytest.ReloadRoute("failing", site, "reload_probe fail")); err == nil {
		t.Error("a wrong configuration was loaded")
	}
	// Its address is taken: it is provisioned, but can't start.
	if err := g.TryReload(site + "}\nhttp://" + endpoint.Listener.Addr().String() + " {\n" + site); err == nil {
		t.Error("a wrong configuration was loaded")
	}
	g.Get("/")
	gatewaytest.WantFetched(t, endpoint, 0)
	if n := len(grantReferences()); n != 0 {
		t.Errorf("%d grants are left", n)
	}
}

// grantReferences lists how often each grant in the pool is used.
func grantReferences() map[endpoint.GrantKey]int {
	var keys []endpoint.GrantKey
	grants.Range(func(key, _ any) bool {
		keys = append(keys, key.(endpoint.GrantKey))
		return true
	})
	counts := make(map[endpoint.GrantKey]int)
	for _, key := range keys {
		if n, ok := grants.References(key); ok {
			counts[key] = n
		}
	}
	return counts
}

func TestFailedReloadKeepsTheTokenAndHoldsNothing(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	ours := func(options ...string) string { return endpoint.Options(options...) + upstream.Proxy() }
	other := strings.Replace(ours(), "s3cret-canary", "another-secret", 1)
	missing := filepath.Join(t.TempDir(), "missing")
	g := gatewaytest.Start(t, gatewaytest.ReloadRoute("running", ours()))
	gatewaytest.WantProbed(t, gatewaytest.MustProbe(t, g), 200, "GET / with token-1")
	before := grantReferences()
	if len(before) != 1 {
		t.Fatalf("%d grants", len(before))
	}
	for name, site := range map[string]string{
		"a later handler":                    gatewaytest.ReloadRoute(1, ours(), "reload_probe fail"),
		"a later handler, another grant":     gatewaytest.ReloadRoute(1, other, "reload_probe fail"),
		"a later handler, several grants":    gatewaytest.ReloadRoute(1, ours(), other, ours(), "reload_probe fail"),
		"an earlier handler":                 gatewaytest.ReloadRoute(1, "reload_probe fail", ours()),
		"our option, in the Caddyfile":       gatewaytest.ReloadRoute(1, ours("timeout never")),
		"our option, at Provision":           gatewaytest.ReloadRoute(1, ours("param client_id x")),
		"our option, in a second handler":    gatewaytest.ReloadRoute(1, ours(), ours("param client_id x")),
		"our placeholder":                    gatewaytest.ReloadRoute(1, ours("audience {env.OAUTH_CC_TEST_UNSET}")),
		"our file":                           gatewaytest.ReloadRoute(1, ours("audience {file."+missing+"}")),
		"our transport":                      gatewaytest.ReloadRoute(1, ours("transport {\ntls_trust_pool file "+missing+"\n}")),
		"our transport, in a second handler": gatewaytest.ReloadRoute(1, ours(), ours("transport {\ntls_trust_pool file "+missing+"\n}")),
		// The address is taken: the configuration is provisioned, but can't start.
		"an address in use": gatewaytest.ReloadRoute(1, other) + "}\nhttp://" + endpoint.Listener.Addr().String() + " {\n" + ours(),
	} {
		t.Run(name, func(t *testing.T) {
			if err := g.TryReload(site); err == nil {
				t.Fatal("a wrong configuration was loaded")
			}
			if after := grantReferences(); !maps.Equal(before, after) {
				t.Errorf("references: %v, were %v", after, before)
			}
			gatewaytest.WantProbed(t, gatewaytest.MustProbe(t, g), 200, "GET / with token-1")
			gatewaytest.WantFetched(t, endpoint, 1)
		})
	}
	g.Reload(gatewaytest.ReloadRoute("again", ours()))
	gatewaytest.WantProbed(t, gatewaytest.MustProbe(t, g), 200, "GET / with token-1")
	gatewaytest.WantFetched(t, endpoint, 1)
}

func TestPoolCountsTheHandlersThatUseAGrant(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	ours := endpoint.Options() + upstream.Proxy()
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
	g := gatewaytest.Start(t, gatewaytest.ReloadRoute(1, ours, ours))
	want(2)
	g.Reload(gatewaytest.ReloadRoute(2, ours, ours))
	want(2)
	g.Reload(gatewaytest.ReloadRoute(3, ours, ours, other))
	want(2, 1)
	g.Reload(gatewaytest.ReloadRoute(4, other))
	want(1)
	gatewaytest.MustProbe(t, g)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	want()
}

// No configuration uses the grant of such a request any more.
func TestReplayAfterAReloadWithAnotherGrant(t *testing.T) {
	for reject, body := range map[bool]string{false: "GET / with token-1", true: "GET / with token-2"} {
		t.Run(fmt.Sprintf("rejected=%v", reject), func(t *testing.T) {
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartGatedAPI(t)
			g := gatewaytest.Start(t, gatewaytest.ReloadRoute("old", endpoint.Options(), upstream.Proxy))
			gatewaytest.MustProbe(t, g)
			answers := upstream.Hold(t, g)
			g.Reload(gatewaytest.ReloadRoute("new", endpoint.Options("scope other"), upstream.Proxy))
			if reject {
				upstream.Revoke("token-1")
			}
			close(upstream.Release)
			gatewaytest.WantProbed(t, <-answers, 200, body)
			if a := gatewaytest.MustProbe(t, g); a.Status != 200 || a.Body == body {
				t.Errorf("got %d %q", a.Status, a.Body)
			}
			if n := len(grantReferences()); n != 1 {
				t.Errorf("%d grants", n)
			}
			gatewaytest.WantNoPanicLogged(t, g)
		})
	}
}

func TestStopLeavesNoGoroutine(t *testing.T) {
	ignore := append(gatewaytest.CaddysLeaks(), goleak.IgnoreCurrent())
	t.Run("gateway", func(t *testing.T) {
		endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
		handlers := endpoint.Options("prefetch") + upstream.Proxy()
		g := gatewaytest.Start(t, gatewaytest.ReloadRoute("old", handlers))
		gatewaytest.MustProbe(t, g)
		upstream.Revoke("token-1")
		g.Post("/", "text/plain", strings.Repeat("x", 100_000)) // replayed
		g.Reload(gatewaytest.ReloadRoute("new", handlers))

		// A fetch that nobody waits for any more when Caddy stops.
		release := make(chan struct{})
		defer close(release)
		asked := make(chan struct{}, 10)
		endpoint.SetAnswer(func(_ http.ResponseWriter, r *http.Request, _ int) {
			asked <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
			}
		})
		g.Reload(gatewaytest.ReloadRoute("new", strings.NewReplacer("client_id app", "client_id other", "prefetch", "").Replace(handlers)))
		ctx, leave := context.WithCancel(t.Context())
		go func() {
			<-asked
			leave()
		}()
		if _, err := gatewaytest.SendProbe(ctx, g, gatewaytest.NewProbe()); !errors.Is(err, context.Canceled) {
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

func TestScenarioReloads(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if gatewaytest.Bearer(r) != "token-1" {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	// A connection that is kept alive keeps the configuration before in memory for a while.
	handlers := endpoint.Options("prefetch") + gatewaytest.ProxyTo(upstream, "transport http {\nkeepalive off\n}")
	g := gatewaytest.Start(t, "")
	g.Logging = gatewaytest.LittleLog
	g.Reload(gatewaytest.ReloadRoute("first", handlers))
	answers := int64(0)
	underLoad := func(reloads int) (took time.Duration, goroutines int, heap uint64) {
		answered, stop := gatewaytest.ProbeLoad(t, g, "")
		began := time.Now()
		for i := range reloads {
			g.Reload(gatewaytest.ReloadRoute(i, handlers))
			gatewaytest.Pass(gatewaytest.Lasting(50*time.Millisecond, 150*time.Millisecond))
		}
		took = time.Since(began)
		stop()
		answers += answered.Load()
		gatewaytest.ForgetProbes()
		g.Reload(gatewaytest.ReloadRoute("last", handlers)) // the last requests are through
		var stats runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&stats)
		return took, runtime.NumGoroutine(), stats.HeapAlloc
	}
	reloads := int(gatewaytest.Lasting(20, 100))
	underLoad(5)
	firstTook, goroutinesBefore, heapBefore := underLoad(reloads / 2)
	secondTook, goroutinesAfter, heapAfter := underLoad(reloads / 2)
	references := slices.Collect(maps.Values(grantReferences()))
	growth := (float64(heapAfter) - float64(heapBefore)) / float64(reloads/2)
	t.Logf("reloads: %d in %v, %d answers, failed: %t; %d token requests; goroutines %d, then %d; %.0f bytes more per reload",
		reloads, firstTook+secondTook, answers, t.Failed(), endpoint.Count(), goroutinesBefore, goroutinesAfter, growth)
	gatewaytest.WantFetched(t, endpoint, 1)
	if !slices.Equal(references, []int{1}) {
		t.Errorf("grants in use: %v", references)
	}
	if goroutinesAfter > goroutinesBefore+5 || growth > 16<<10 {
		t.Errorf("%d goroutines more, %.0f bytes more per reload", goroutinesAfter-goroutinesBefore, growth)
	}
}

// A secret that is replaced in its file leaves the token in use, also when the configuration is loaded again: the new secret
// can be wrong, or the endpoint be down.
func TestReloadAfterARotationKeepsTheToken(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	secret := filepath.Join(t.TempDir(), "secret")
	servertest.WriteFile(t, secret, "first")
	site := strings.Replace(endpoint.Options(), "s3cret-canary", "{file."+secret+"}", 1) + upstream.Proxy()
	g := gatewaytest.Start(t, site)
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-1")
	servertest.WriteFile(t, secret, "second")
	endpoint.SetAnswer(gatewaytest.RefuseClients)
	g.Reload(site + "# another configuration\n")
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-1")

	// The next token request has the new one.
	endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if _, password, _ := r.BasicAuth(); password != "second" {
			t.Errorf("the endpoint got %q", password)
		}
		endpoint.Grant(w)
	})
	upstream.Revoke("token-1")
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-2")
}
