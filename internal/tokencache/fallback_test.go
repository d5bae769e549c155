package tokencache

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// renewedGrant is a grant whose token, of an hour, has just been renewed ahead of its expiry.
func renewedGrant(t *testing.T, s *fetchStub) (g *Grant, before, newest *Token) {
	t.Helper()
	g = newTestGrant(t)
	before = mustGetToken(t, g, s)
	accept(g, before)
	time.Sleep(57 * time.Minute)
	g.RenewAhead(t.Context(), before, s)
	synctest.Wait()
	if newest = g.Current(); newest == before || newest.Fallback {
		t.Fatalf("got %+v", newest)
	}
	return g, before, newest
}

// wantFallsBack wants the token before to be used again after a rejection.
func wantFallsBack(t *testing.T, g *Grant, rejected, before *Token, s *fetchStub) *Token {
	t.Helper()
	token, err := g.RenewRejected(t.Context(), rejection(rejected), s)
	if err != nil || token.Value != before.Value || !token.Fallback || token.Generation != before.Generation {
		t.Fatalf("got %+v, %v", token, err)
	}
	if got := mustGetToken(t, g, s); got != token {
		t.Errorf("others get %q", got.Value)
	}
	return token
}

// The upstream may not know a new token yet. For that long the one before is used: 1, 2, 4, and 8 s, and
// the new one tried after each.
func TestTokenBeforeIsUsedUntilTheNewOneIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(fetchStub)
		g, before, newest := renewedGrant(t, s)
		for _, wait := range []time.Duration{1, 2, 4, 8, 8} {
			used := wantFallsBack(t, g, newest, before, s)
			if again := wantFallsBack(t, g, newest, before, s); again != used { // of a request that was sent before
				t.Error("the wait begins anew")
			}
			time.Sleep(wait*time.Second - 1)
			if got := mustGetToken(t, g, s); got != used {
				t.Errorf("got %q after %v", got.Value, wait)
			}
			g.RenewAhead(t.Context(), used, s) // it is stale
			time.Sleep(time.Nanosecond)
			if got := mustGetToken(t, g, s); got != newest {
				t.Errorf("got %q after %v", got.Value, wait)
			}
		}
		accept(g, newest)
		s.wantCalls(t, 2)
	})
}

// After half a minute the new token is at fault.
func TestTokenBeforeIsNotUsedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(fetchStub)
		g, before, newest := renewedGrant(t, s)
		time.Sleep(settlingTime)
		wantFallsBack(t, g, newest, before, s)
		time.Sleep(fallbackMin)
		if got := mustGetToken(t, g, s); got != newest {
			t.Fatalf("got %q", got.Value)
		}
		mustRenewToken(t, g, newest, s)
		s.wantCalls(t, 3)
	})
}

func TestTokenBeforeEndsWithItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, newest, s := endingFallback(t)
		time.Sleep(500*time.Millisecond - 1)
		if got := mustGetToken(t, g, s); !got.Fallback {
			t.Errorf("got %q", got.Value)
		}
		time.Sleep(time.Nanosecond)
		if got := mustGetToken(t, g, s); got != newest {
			t.Errorf("got %q", got.Value)
		}
		mustRenewToken(t, g, newest, s)
	})
}

// endingFallback is a grant that uses the token before again, which ends in half a second.
func endingFallback(t *testing.T) (g *Grant, newest *Token, s *fetchStub) {
	t.Helper()
	g, s = newTestGrant(t), &fetchStub{lifetime: 100 * time.Second}
	before := mustGetToken(t, g, s)
	time.Sleep(99500 * time.Millisecond)
	newest = mustGetToken(t, g, s) // the one before was due
	wantFallsBack(t, g, newest, before, s)
	return g, newest, s
}

// The newest token is there for those who do not wait, too, when the one before ends.
func TestTokenBeforeHidesNothingAtItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, newest, s := endingFallback(t)
		time.Sleep(500 * time.Millisecond)
		if live := g.Snapshot().Live; !live {
			t.Error("operators see no live token")
		}
		if live := g.Live(time.Now()); live != newest {
			t.Errorf("got %v", live)
		}
		g.Prepare(t.Context(), s)
		synctest.Wait()
		s.wantCalls(t, 2)
	})
}

// Nor is that end a reason to renew the newest one.
func TestEndOfTheTokenBeforeIsNoReasonToRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _, s := endingFallback(t)
		time.Sleep(500 * time.Millisecond)
		k := NewKeeper()
		k.Begin(g, RefreshAhead{}, s)
		time.Sleep(time.Second)
		k.Stop()
		s.wantCalls(t, 2)
	})
}

// A token that was rejected itself, or that an operator wants replaced, is not used again.
func TestTokenBeforeIsUsedOnlyIfItIsGood(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, g *Grant, first *Token, s *fetchStub) *Token{
		"it was rejected": func(t *testing.T, g *Grant, first *Token, s *fetchStub) *Token {
			return mustRenewToken(t, g, first, s)
		},
		"it was rejected while it was renewed": func(t *testing.T, g *Grant, first *Token, s *fetchStub) *Token {
			s.takes = time.Second
			g.RenewAhead(t.Context(), first, s)
			return mustRenewToken(t, g, first, s)
		},
		"it was rejected after that": func(t *testing.T, g *Grant, first *Token, s *fetchStub) *Token {
			g.RenewAhead(t.Context(), first, s)
			synctest.Wait()
			return mustRenewToken(t, g, first, s)
		},
		"an operator wants another": func(t *testing.T, g *Grant, _ *Token, s *fetchStub) *Token {
			token, err := g.Refresh(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			return token
		},
		"an operator has it forgotten": func(t *testing.T, g *Grant, _ *Token, s *fetchStub) *Token {
			g.Forget()
			return mustGetToken(t, g, s)
		},
		"an operator has the next forgotten": func(t *testing.T, g *Grant, first *Token, s *fetchStub) *Token {
			g.RenewAhead(t.Context(), first, s)
			synctest.Wait()
			g.Forget()
			return mustGetToken(t, g, s)
		},
		"it is the only one": func(*testing.T, *Grant, *Token, *fetchStub) *Token { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, s := newTestGrant(t), new(fetchStub)
				first := mustGetToken(t, g, s)
				time.Sleep(forcedSpacing)
				newest := replace(t, g, first, s)
				if newest == nil {
					newest = first
				}
				calls := s.calls.Load()
				token, err := g.RenewRejected(t.Context(), rejection(newest), s)
				if err == nil && (token.Fallback || token.Generation <= newest.Generation) {
					t.Errorf("got %+v", token)
				}
				if err != nil && (err != ErrNotRenewed || s.calls.Load() != calls) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// When both are rejected, there is a third.
func TestBothTokensAreRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(fetchStub)
		g, before, newest := renewedGrant(t, s)
		again := wantFallsBack(t, g, newest, before, s)
		third := mustRenewToken(t, g, again, s)
		if third.Generation <= newest.Generation || g.Current() != third {
			t.Errorf("got %+v", third)
		}
		s.wantCalls(t, 3)
		// The next is not, so soon.
		wantNotRenewed(t, g, third, s)
	})
	// The endpoint has no third.
	synctest.Test(t, func(t *testing.T) {
		s := new(fetchStub)
		g, before, newest := renewedGrant(t, s)
		again := wantFallsBack(t, g, newest, before, s)
		s.fails(&endpoint.Error{Class: endpoint.ClassUnreachable})
		if _, err := g.RenewRejected(t.Context(), rejection(again), s); err == nil || err == ErrNotRenewed {
			t.Errorf("got %v", err)
		}
		if got := mustGetToken(t, g, s); got != newest {
			t.Errorf("got %q", got.Value)
		}
	})
	// It hands out the same one again.
	synctest.Test(t, func(t *testing.T) {
		s := new(fetchStub)
		g, before, newest := renewedGrant(t, s)
		again := wantFallsBack(t, g, newest, before, s)
		s.calls.Store(1) // so that the next is token-2 again
		wantNotRenewed(t, g, again, s)
		if got := mustGetToken(t, g, s); got.Generation != newest.Generation {
			t.Errorf("got %q", got.Value)
		}
	})
}

// The next renewal may come while the token before is used, as with short lifetimes.
func TestTokenBeforeOutlivesARenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(fetchStub)
		g, before, newest := renewedGrant(t, s)
		wantFallsBack(t, g, newest, before, s)
		g.mu.Lock()
		g.startLocked(t.Context(), newOrder(TriggerAhead, s))
		g.mu.Unlock()
		synctest.Wait()
		third := mustGetToken(t, g, s)
		if third.Fallback || third.Generation <= newest.Generation {
			t.Fatalf("got %+v", third)
		}
		wantFallsBack(t, g, third, before, s)
	})
}

// An endpoint that grants the new token again brings no other.
func TestTokenBeforeIsUsedOnIfTheNewOneIsGrantedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(fetchStub)
		g, before, newest := renewedGrant(t, s)
		used := wantFallsBack(t, g, newest, before, s)
		s.calls.Store(1) // so that the next is token-2 again
		if again, err := g.Refresh(t.Context(), s); err != nil || again.Value != newest.Value {
			t.Fatalf("got %v, %v", again, err)
		}
		if got := mustGetToken(t, g, s); got != used {
			t.Errorf("got %q", got.Value)
		}
	})
}

// A keeper and an operator see the new token.
func TestTokenBeforeIsNoReasonToRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(fetchStub)
		g, before, newest := renewedGrant(t, s)
		wantFallsBack(t, g, newest, before, s)
		k := NewKeeper()
		k.Begin(g, RefreshAhead{}, s)
		time.Sleep(10 * time.Second)
		k.Stop()
		if shown := g.Snapshot().Token; shown != newest {
			t.Errorf("operators see %q", shown.Value)
		}
		s.wantCalls(t, 2)
	})
}

// Of many requests that fell back, the first whose token is rejected again has a third one fetched, and
// all get it. None is sent with the newest one again.
func TestBothTokensAreRejectedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(fetchStub)
		g, before, newest := renewedGrant(t, s)
		accept(g, newest)
		s.takes = duePatience / 2
		first := wantFallsBack(t, g, newest, before, s)
		second := wantFallsBack(t, g, newest, before, s)
		var wait sync.WaitGroup
		for _, rejected := range []*Token{first, second, before} { // the last is of a request that was sent earlier
			wait.Go(func() {
				third := mustRenewToken(t, g, rejected, s)
				if third.Generation <= newest.Generation {
					t.Errorf("got %q for %q", third.Value, rejected.Value)
				}
			})
			synctest.Wait()
		}
		wait.Wait()
		s.wantCalls(t, 3)
	})
}

// A fetch that is to replace the newer token need not succeed.
func TestNewerTokenIsUsedIfThereIsNoThird(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(fetchStub)
		g, before, newest := renewedGrant(t, s)
		time.Sleep(settlingTime + 1)
		s.takes = 500 * time.Millisecond
		s.fails(&endpoint.Error{Class: endpoint.ClassUnreachable})
		g.RenewRejectedInBackground(t.Context(), rejection(newest), s)
		if token := mustRenewToken(t, g, before, s); token != newest {
			t.Errorf("got %q", token.Value)
		}
	})
}

// Nor need there be time for it: a token that lives goes, in its last moment too.
func TestNewerTokenIsUsedInItsLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), new(fetchStub)
		first := mustGetToken(t, g, s)
		s.lifetime = 100 * time.Second
		newest := mustRenewToken(t, g, first, s)
		time.Sleep(92 * time.Second)
		s.fails(&endpoint.Error{Class: endpoint.ClassUnreachable})
		mustGetToken(t, g, s) // it is due
		time.Sleep(5 * time.Second)
		s.takes = 5 * time.Second
		g.RenewRejectedInBackground(t.Context(), rejection(newest), s)
		time.Sleep(time.Until(newest.expires.monotonic) - lastMoment/2)
		if token := mustRenewToken(t, g, first, s); token != newest {
			t.Errorf("got %q", token.Value)
		}
	})
}
