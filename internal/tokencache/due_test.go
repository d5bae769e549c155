package tokencache

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// dueGrant is a grant whose token, of 100 s, has been due for a second.
func dueGrant(t *testing.T, s *fetchStub) (*Grant, *Token) {
	t.Helper()
	g := newTestGrant(t)
	takes := s.takes
	s.lifetime, s.takes = 100*time.Second, 0
	first := mustGetToken(t, g, s)
	time.Sleep(91 * time.Second)
	s.takes = takes
	return g, first
}

// wantWaits gets a token and wants that to take as long as this.
func wantWaits(t *testing.T, g *Grant, s *fetchStub, waits time.Duration) *Token {
	t.Helper()
	start := time.Now()
	token := mustGetToken(t, g, s)
	if waited := time.Since(start); waited != waits {
		t.Errorf("waited %v for %q, want %v", waited, token.Value, waits)
	}
	return token
}

func TestDueTokenIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fetchStub{takes: duePatience - 1}
		g, first := dueGrant(t, s)
		if token := wantWaits(t, g, s, s.takes); token == first {
			t.Error("got the due token")
		}
		s.wantCalls(t, 2)
	})
}

// Whatever the endpoint does, a token is served until it expires. Once a fetch has failed or taken too
// long, nobody waits for it.
func TestDueTokenIsServedInAnOutage(t *testing.T) {
	for name, test := range map[string]struct {
		takes   time.Duration
		failure *endpoint.Error
		first   time.Duration // that the first request waits
	}{
		"refused at once":  {0, &endpoint.Error{Class: endpoint.ClassUnreachable}, 0},
		"fails late":       {500 * time.Millisecond, &endpoint.Error{Class: endpoint.ClassServerError}, 500 * time.Millisecond},
		"Retry-After":      {0, &endpoint.Error{Class: endpoint.ClassServerError, Status: 429, RetryAfter: 3 * time.Second}, 0},
		"long Retry-After": {0, &endpoint.Error{Class: endpoint.ClassServerError, Status: 503, RetryAfter: time.Hour}, 0},
		"client refused":   {0, &endpoint.Error{Class: endpoint.ClassRefused, Status: 401}, 0},
		"hangs":            {5 * time.Second, &endpoint.Error{Class: endpoint.ClassTimeout}, duePatience},
		"slow":             {5 * time.Second, nil, duePatience},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &fetchStub{takes: test.takes}
				g, first := dueGrant(t, s)
				if test.failure != nil {
					s.fails(test.failure)
				}
				if token := wantWaits(t, g, s, test.first); token != first {
					t.Errorf("got %q", token.Value)
				}
				for time.Now().Before(first.expires.monotonic) {
					token := wantWaits(t, g, s, 0)
					if token != first && test.failure != nil {
						t.Fatalf("got %q", token.Value)
					}
					time.Sleep(10 * time.Millisecond)
				}
				if n := s.calls.Load(); n > 4 {
					t.Errorf("%d fetches in the ten seconds in which the token was due", n)
				}
				if test.failure == nil {
					return
				}
				if token, err := g.Get(t.Context(), s); err == nil {
					t.Errorf("got %q after its expiry", token.Value)
				}
			})
		})
	}
}

// A fetch whose first try has failed is not waited for.
func TestRetryIsNotWaitedForWithADueToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fetchStub{takes: 800 * time.Millisecond, retries: 100 * time.Millisecond}
		g, first := dueGrant(t, s)
		for _, waits := range []time.Duration{s.retries, 0} {
			if token := wantWaits(t, g, s, waits); token != first {
				t.Errorf("got %q", token.Value)
			}
		}
		time.Sleep(s.takes)
		synctest.Wait()
		if token := wantWaits(t, g, s, 0); token == first {
			t.Error("the fetch did not go on")
		}
	})
	// Without a due token, it is.
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{takes: 800 * time.Millisecond, retries: 100 * time.Millisecond}
		wantWaits(t, g, s, s.takes)
	})
}

// A request that finds a slow endpoint just before the expiry goes while the token lives.
func TestDueTokenIsNotWaitedToDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fetchStub{takes: 5 * time.Second}
		g, first := dueGrant(t, s)
		s.fails(&endpoint.Error{Class: endpoint.ClassTimeout})
		time.Sleep(time.Until(first.expires.monotonic) - 300*time.Millisecond)
		if token := wantWaits(t, g, s, 300*time.Millisecond-lastMoment); token != first {
			t.Errorf("got %q", token.Value)
		}
	})
}

// In the last moment of its life a token may not arrive in time, so it is not preferred to the next one.
func TestLastMomentOfAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fetchStub{takes: 200 * time.Millisecond}
		g, first := dueGrant(t, s)
		time.Sleep(time.Until(first.expires.monotonic) - lastMoment)
		if token := wantWaits(t, g, s, s.takes); token == first {
			t.Error("got the old token")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := new(fetchStub)
		g, first := dueGrant(t, s)
		s.fails(&endpoint.Error{Class: endpoint.ClassUnreachable})
		time.Sleep(time.Until(first.expires.monotonic) - 1)
		if token := wantWaits(t, g, s, 0); token != first {
			t.Errorf("got %q", token.Value)
		}
	})
}

// All who wait with a due token stop at the same time, and the fetch goes on.
func TestSlowFetchGoesOnForADueToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fetchStub{takes: 3 * time.Second}
		g, first := dueGrant(t, s)
		var wait sync.WaitGroup
		for i := range 10 {
			wait.Go(func() {
				delay := time.Duration(i) * 100 * time.Millisecond
				time.Sleep(delay)
				if token := wantWaits(t, g, s, duePatience-delay); token != first {
					t.Errorf("got %q", token.Value)
				}
			})
		}
		wait.Wait()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if token := wantWaits(t, g, s, 0); token == first {
			t.Error("the fetch did not go on")
		}
		s.wantCalls(t, 2)
	})
}

// An endpoint that allows a client one token at a time grants the next when the last one ends, which
// the gateway's clock can see a moment earlier.
func TestShortPauseAfterATokenIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(fetchStub)
		g, first := dueGrant(t, s)
		until := first.expires.monotonic.Add(800 * time.Millisecond)
		s.fails(&endpoint.Error{Class: endpoint.ClassServerError, Status: 429, RetryAfter: time.Until(until)})
		wantWaits(t, g, s, 0)
		time.Sleep(time.Until(first.expires.monotonic))
		s.answer = nil
		if token := wantWaits(t, g, s, 800*time.Millisecond); token == first {
			t.Error("got the expired token")
		}
	})
}

// A longer pause is not.
func TestLongPauseAfterATokenIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(fetchStub)
		g, first := dueGrant(t, s)
		s.fails(&endpoint.Error{Class: endpoint.ClassServerError, Status: 429, RetryAfter: time.Minute})
		wantWaits(t, g, s, 0)
		time.Sleep(time.Until(first.expires.monotonic))
		start := time.Now()
		wantUnavailable(t, g, s, true)
		if time.Since(start) != 0 {
			t.Error("it was waited for")
		}
	})
}

// Nobody knows when a token ends whose lifetime is a guess, until the upstream rejects it.
func TestGuessedLifetimeEndsWithARejection(t *testing.T) {
	guessing := func(_ *testing.T) (*fetchStub, func()) {
		s := &fetchStub{guessed: true}
		return s, func() { s.fails(&endpoint.Error{Class: endpoint.ClassUnreachable}) }
	}
	synctest.Test(t, func(t *testing.T) {
		s, fail := guessing(t)
		g, first := dueGrant(t, s)
		fail()
		for range 100 {
			if token := wantWaits(t, g, s, 0); token != first {
				t.Fatalf("got %q", token.Value)
			}
			time.Sleep(time.Minute)
		}
		if state := g.Snapshot().State(time.Now(), RefreshAhead{}); state != StateDue {
			t.Errorf("it is %s", state)
		}
		if _, err := g.RenewRejected(t.Context(), rejection(first), s); err == nil {
			t.Fatal("it was renewed")
		}
		wantUnavailable(t, g, s, true)
		if state := g.Snapshot().State(time.Now(), RefreshAhead{}); state != StateExpired {
			t.Errorf("it is %s", state)
		}
		s.answer = nil
		time.Sleep(2 * time.Minute)
		if token := mustGetToken(t, g, s); token == first {
			t.Error("got the rejected token")
		}
	})
	// But not with one that says nothing of the token.
	synctest.Test(t, func(t *testing.T) {
		s, fail := guessing(t)
		g, first := dueGrant(t, s)
		fail()
		time.Sleep(time.Minute)
		mustGetToken(t, g, s)
		if _, err := g.RenewRejected(t.Context(), Rejection{Token: first, Subject: 1}, s); err == nil {
			t.Fatal("it was renewed")
		}
		if token := wantWaits(t, g, s, 0); token != first {
			t.Errorf("got %q", token.Value)
		}
	})
	// A new one is had as soon as that is possible.
	synctest.Test(t, func(t *testing.T) {
		s, fail := guessing(t)
		g, first := dueGrant(t, s)
		fail()
		mustGetToken(t, g, s)
		s.answer = nil
		time.Sleep(2 * time.Minute)
		if token := wantWaits(t, g, s, 0); token != first {
			t.Errorf("got %q", token.Value)
		}
		synctest.Wait()
		if token := wantWaits(t, g, s, 0); token == first {
			t.Error("it was not renewed in the background")
		}
	})
}

// A rejected token that is due is renewed as one that has expired: no spacing keeps it.
func TestRejectedDueTokenIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(fetchStub)
		g, first := dueGrant(t, s)
		g.mu.Lock()
		g.forced.noteStart(time.Now())
		g.mu.Unlock()
		mustRenewToken(t, g, first, s)
	})
	// In an outage it is not asked for with each rejection.
	synctest.Test(t, func(t *testing.T) {
		s := new(fetchStub)
		g, first := dueGrant(t, s)
		s.fails(&endpoint.Error{Class: endpoint.ClassUnreachable})
		for range 80 {
			if _, err := g.RenewRejected(t.Context(), rejection(first), s); err == nil {
				t.Fatal("it was renewed")
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := s.calls.Load(); n > 6 {
			t.Errorf("%d fetches in 8 s", n)
		}
	})
}
