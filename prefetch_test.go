package oauthcc

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// keepVirtually runs a keeper for a while.
func (g *virtualGateway) keepVirtually(lasts time.Duration) {
	keeper := tokencache.NewKeeper()
	keeper.Begin(g.tokens.source.grant, g.tokens.ahead, g.tokens.source)
	time.Sleep(lasts)
	keeper.Stop()
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
					if why := entry.ContextMap()["trigger"]; why != string(tokencache.TriggerPrefetch) {
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
		{"unreachable", servertest.Dying, []float64{1, 2, 4, 8, 10, 10}, time.Minute},
		{"refused", servertest.Status(400), []float64{15, 30, 60, 120, 240, 300}, 20 * time.Minute},
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
			g.endpoint.becomes(servertest.Dying)
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
		servertest.WriteFile(t, file, "new")
		time.Sleep(time.Minute) // it looks no less often
		synctest.Wait()
		if g.tokens.source.grant.Live(time.Now()) == nil {
			t.Errorf("no token after %d tries", endpoint.count())
		}
		keeping.Wait()
	})
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

func TestCleanupStopsTheKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		g.keeper = tokencache.NewKeeper()
		g.keeper.Begin(g.tokens.source.grant, g.tokens.ahead, g.tokens.source)
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
			expires := g.tokens.source.grant.Current().Expiry()
			g.endpoint.becomes(servertest.Status(400))
			g.keepVirtually(105 * time.Second)
			if tries := g.endpoint.tries(expires); len(tries) == 0 || tries[0].Sub(expires) > 100*time.Millisecond {
				t.Errorf("asked at %v, the token expired at %v", tries, expires)
			}
			if err := g.Cleanup(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
