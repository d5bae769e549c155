package oauthcc

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// keepVirtually runs a keeper for a while.
func (g *virtualGateway) keepVirtually(lasts time.Duration) {
	ctx, cancel := context.WithTimeout(g.t.Context(), lasts)
	defer cancel()
	g.keepToken(ctx)
}

func TestKeptTokenIsRenewedWhileIdle(t *testing.T) {
	for name, test := range map[string]struct {
		option, expiresIn string
		lasts             time.Duration
		least, most       int
	}{
		"an hour":     {"", "3600", 24 * time.Hour, 25, 27},
		"two seconds": {"", "2", time.Minute, 43, 51},
		"one second":  {"", "1", time.Minute, 80, 101},
		"nothing":     {"", "0", time.Minute, 80, 101},
		"a share":     {"50%", "3600", 24 * time.Hour, 44, 61},
		"a century":   {"", "3153600000", 24 * time.Hour, 1, 1},
		// Then it is renewed when it has expired.
		"not ahead": {"off", "100", 899 * time.Second, 10, 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newVirtualGateway(t, &Handler{RefreshAhead: test.option})
				g.endpoint.expiresIn = test.expiresIn
				g.keepVirtually(test.lasts)
				if n := g.endpoint.count(); n < test.least || n > test.most {
					t.Errorf("%d token requests, want %d to %d", n, test.least, test.most)
				}
				for _, entry := range g.logs.All() {
					if why := entry.ContextMap()["trigger"]; why != string(triggerPrefetch) {
						t.Errorf("a token was obtained because of %q", why)
					}
				}
			})
		})
	}
}

func TestNoRequestWaitsForAKeptToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		g.endpoint.expiresIn, g.endpoint.takes = "20", 2*time.Second
		var keeping sync.WaitGroup
		keeping.Go(func() { g.keepVirtually(time.Hour) })
		time.Sleep(3 * time.Second)
		g.load(7*time.Second, time.Hour-10*time.Second, g.wantServed)
		keeping.Wait()
	})
}

// With nobody asking, the endpoint is asked again as scheduled.
func TestKeeperBacksOff(t *testing.T) {
	for _, test := range []struct {
		name   string
		down   http.RoundTripper
		pauses []float64
		lasts  time.Duration
	}{
		{"unreachable", dying, []float64{1, 2, 4, 8, 10, 10}, time.Minute},
		{"refused", cannedStatus(400), []float64{15, 30, 60, 120, 240, 300}, 20 * time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newVirtualGateway(t, new(Handler))
				g.endpoint.becomes(test.down)
				start := time.Now()
				g.keepVirtually(test.lasts)
				g.wantPauses(start, test.pauses...)
			})
		})
	}
	t.Run("with a token", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newVirtualGateway(t, &Handler{RefreshAhead: "30m"})
			g.mustGet()
			g.endpoint.becomes(dying)
			start := time.Now()
			g.keepVirtually(40 * time.Minute)
			g.wantPauses(start, 5, 10, 20, 40, 60, 60)
		})
	})
}

func TestKeeperUsesAReplacedSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, endpoint, file := newLockedGateway(t, new(Handler))
		endpoint.becomes("new")
		var keeping sync.WaitGroup
		keeping.Go(func() { g.keepVirtually(10 * time.Minute) })
		time.Sleep(4 * time.Minute)
		writeFile(t, file, "new")
		time.Sleep(longestLook)
		synctest.Wait()
		if g.source.grant.usable(time.Now()) == nil {
			t.Errorf("no token after %d tries", endpoint.count())
		}
		keeping.Wait()
	})
}

func TestPrefetchBeginsWithTheConfiguration(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, endpoint.options("prefetch")+upstream.proxy())
	awaitCondition(t, "the first token is there", func() bool { return len(g.logs.with("token obtained")) > 0 })
	if why := g.logs.with("token obtained")[0]["trigger"]; why != "prefetch" {
		t.Errorf("obtained because of %q", why)
	}
	awaitCondition(t, "it is used", func() bool {
		req := clientRequest(t, http.MethodGet, g.url("/"), nil)
		return g.do(req).body == "GET / with token-1"
	})
	wantFetched(t, endpoint, 1)
	if logged := g.logs.all(); strings.Contains(logged, "s3cret-canary") {
		t.Error("the log has the secret")
	}
}

// Caddy tells once that a configuration runs, and others may tell of something else by
// the same name.
func TestKeeperBeginsOnce(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	begun := 0
	start := configurationStarted{sync.OnceFunc(func() { begun++ })}
	for range 3 {
		event, err := caddy.NewEvent(ctx, "started", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := start.Handle(ctx, event); err != nil {
			t.Fatal(err)
		}
	}
	if begun != 1 {
		t.Errorf("begun %d times", begun)
	}
}

func TestPrefetchNeitherDelaysNorFailsTheStart(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	release := make(chan struct{})
	defer close(release)
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request, n int){
		"a hang": func(_ http.ResponseWriter, r *http.Request, _ int) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		},
		"a refusal": func(w http.ResponseWriter, _ *http.Request, _ int) {
			http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
		},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint.setAnswer(answer)
			before := endpoint.count()
			g := startGateway(t, endpoint.options("prefetch")+upstream.proxy()+"\nrespond /health OK")
			awaitCondition(t, "the endpoint is asked", func() bool { return endpoint.count() > before })
			g.reload("respond gone")
			if a := g.get("/"); a.body != "gone" {
				t.Errorf("got %d %q", a.status, a.body)
			}
		})
	}
}

func TestConfigurationThatDoesNotRunAsksForNoToken(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	site := endpoint.options("prefetch") + upstream.proxy()
	if err := validateCaddyfile(t, "http://"+freeAddr(t)+" {\n"+site+"\n}"); err != nil {
		t.Fatal(err)
	}
	g := startGateway(t, "respond running")
	if err := g.tryReload(reloadRoute("failing", site, "reload_probe fail")); err == nil {
		t.Error("a wrong configuration was loaded")
	}
	// Its address is taken: it is provisioned, but can't start.
	if err := g.tryReload(site + "}\nhttp://" + endpoint.Listener.Addr().String() + " {\n" + site); err == nil {
		t.Error("a wrong configuration was loaded")
	}
	g.get("/")
	wantFetched(t, endpoint, 0)
	if n := len(grantReferences()); n != 0 {
		t.Errorf("%d grants are left", n)
	}
}

// After a reload the new configuration keeps the token, and the old one doesn't.
func TestPrefetchGoesOverToTheNextConfiguration(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	endpoint.lifetime = 2
	site := endpoint.options("prefetch") + upstream.proxy()
	g := startGateway(t, reloadRoute("old", site))
	for i := range 5 {
		g.reload(reloadRoute(i, site))
	}
	before := endpoint.count()
	start := time.Now()
	awaitCondition(t, "the token is kept", func() bool { return endpoint.count() >= before+3 })
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("3 token requests in %v: kept more than once", took)
	}
}

func TestCleanupStopsTheKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		ctx, stop := context.WithCancel(t.Context())
		g.keeper = &keeper{stop: stop}
		g.keeper.done.Go(func() { g.keepToken(ctx) })
		time.Sleep(2 * time.Hour)
		if err := g.Cleanup(); err != nil {
			t.Fatal(err)
		}
		before := g.endpoint.count()
		time.Sleep(24 * time.Hour)
		if n := g.endpoint.count(); n != before || n < 2 {
			t.Errorf("%d token requests, then %d", before, n)
		}
	})
}

// A pause for renewals ends with the token.
func TestKeeperAsksWhenTheTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 10 {
			g := newVirtualGateway(t, &Handler{RefreshAhead: "50%"})
			g.endpoint.expiresIn = "100"
			g.mustGet()
			expires := g.source.grant.current.Load().servedTo.monotonic
			g.endpoint.becomes(cannedStatus(400))
			g.keepVirtually(95 * time.Second)
			if tries := g.endpoint.tries(expires); len(tries) == 0 || tries[0].Sub(expires) > shortestLook {
				t.Errorf("asked at %v, the token expired at %v", tries, expires)
			}
			if err := g.Cleanup(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
