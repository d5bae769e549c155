package oauthcc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fetchStub is a source with an endpoint in memory. It grants token-1, token-2, … or
// whatever answer says.
type fetchStub struct {
	calls    atomic.Int64
	takes    time.Duration
	lifetime time.Duration // an hour if zero
	answer   func(ctx context.Context, n int64) (grantedToken, *fetchError)
}

func (s *fetchStub) fetch(ctx context.Context, _ fetchTask) fetched {
	n, sent := s.calls.Add(1), time.Now()
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return fetched{failure: &fetchError{class: classUnreachable}}
	}
	granted := grantedToken{value: fmt.Sprintf("token-%d", n), sent: sent, lifetime: s.lifetime}
	if granted.lifetime == 0 {
		granted.lifetime = time.Hour
	}
	if s.answer == nil {
		return fetched{granted: granted}
	}
	answered, failure := s.answer(ctx, n)
	if failure != nil {
		return fetched{failure: failure}
	}
	if answered.value != "" {
		granted.value = answered.value
	}
	return fetched{granted: granted}
}

func (s *fetchStub) limit() time.Duration                           { return s.takes }
func (s *fetchStub) changedSince(context.Context, *fetchError) bool { return false }
func (s *fetchStub) hasNewer(context.Context, *token) bool          { return false }
func (s *fetchStub) waited(time.Duration)                           {}
func (s *fetchStub) report(outcome)                                 {}

// fails makes the stub answer with this error, or grant again if it is nil.
func (s *fetchStub) fails(failure *fetchError) {
	s.answer = func(context.Context, int64) (grantedToken, *fetchError) { return grantedToken{}, failure }
}

// sourceFunc is a source that is nothing but its fetch.
type sourceFunc func(ctx context.Context) fetched

func (f sourceFunc) fetch(ctx context.Context, _ fetchTask) fetched { return f(ctx) }
func (f sourceFunc) limit() time.Duration                           { return 0 }
func (f sourceFunc) changedSince(context.Context, *fetchError) bool { return false }
func (f sourceFunc) hasNewer(context.Context, *token) bool          { return false }
func (f sourceFunc) waited(time.Duration)                           {}
func (f sourceFunc) report(outcome)                                 {}

func (s *fetchStub) wantCalls(t *testing.T, want int64) {
	t.Helper()
	if got := s.calls.Load(); got != want {
		t.Errorf("%d fetches, want %d", got, want)
	}
}

// newTestGrant is a grant that ends with the test.
func newTestGrant(t *testing.T) *cachedGrant {
	g := new(cachedGrant)
	t.Cleanup(func() { _ = g.Destruct() })
	return g
}

func mustGetToken(t *testing.T, g *cachedGrant, s *fetchStub) *token {
	t.Helper()
	token, err := g.get(t.Context(), s)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	return token
}

// mustRenew gets another token for the rejected one.
func mustRenewToken(t *testing.T, g *cachedGrant, rejected *token, bare bool, s *fetchStub) *token {
	t.Helper()
	token, err := g.renew(t.Context(), rejected, bare, s)
	if err != nil {
		t.Fatalf("renew: %v", err)
	}
	if token.generation <= rejected.generation || token.value == rejected.value {
		t.Fatalf("got %q again", token.value)
	}
	return token
}

func wantNotRenewed(t *testing.T, g *cachedGrant, rejected *token, bare bool, s *fetchStub) {
	t.Helper()
	if token, err := g.renew(t.Context(), rejected, bare, s); err != errNotRenewed || token != nil {
		t.Fatalf("renew: %v, %v; want no other token", token, err)
	}
}

func TestTokenIsServedUntilItsMargin(t *testing.T) {
	for _, test := range []struct{ lifetime, takes, servedFor time.Duration }{
		{time.Second, 0, 900 * time.Millisecond},
		{2 * time.Second, 0, 1800 * time.Millisecond},
		{50 * time.Second, 0, 45 * time.Second},
		{100 * time.Second, 0, 90 * time.Second},
		{200 * time.Second, 0, 190 * time.Second},
		{24 * time.Hour, 0, 24*time.Hour - 10*time.Second},
		{maxLifetime, 0, maxLifetime - 10*time.Second},
		// The lifetime counts from when the request was sent.
		{100 * time.Second, 30 * time.Second, 60 * time.Second},
		{2 * time.Second, 1700 * time.Millisecond, 100 * time.Millisecond},
	} {
		t.Run(fmt.Sprintf("%v after %v", test.lifetime, test.takes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, s := newTestGrant(t), &fetchStub{lifetime: test.lifetime, takes: test.takes}
				first := mustGetToken(t, g, s)
				time.Sleep(test.servedFor - time.Nanosecond)
				if g.usable(time.Now()) != first || mustGetToken(t, g, s) != first {
					t.Error("the token is gone too early")
				}
				s.wantCalls(t, 1)
				time.Sleep(time.Nanosecond)
				if g.usable(time.Now()) != nil {
					t.Error("the token is served after it expired")
				}
				if second := mustGetToken(t, g, s); second.value != "token-2" || second.generation <= first.generation {
					t.Errorf("got %q of generation %d", second.value, second.generation)
				}
				s.wantCalls(t, 2)
			})
		})
	}
}

// The token of such an answer can't be cached, but those who waited have nothing
// better.
func TestTokenThatExpiredOnItsWayGoesToThoseWhoWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{lifetime: time.Second, takes: 3 * time.Second}
		if token := mustGetToken(t, g, s); token.value != "token-1" || g.usable(time.Now()) != nil {
			t.Errorf("got %q, cached %v", token.value, g.usable(time.Now()))
		}
		if token := mustGetToken(t, g, s); token.value != "token-2" {
			t.Errorf("got %q", token.value)
		}
	})
}

// A step of the wall clock, seen as a time without a monotonic reading, must not
// make a token last longer than its lifetime by the clock that does not step.
func TestLifetimeIsMeasuredWithTheMonotonicClock(t *testing.T) {
	g := newTestGrant(t)
	sent := time.Now()
	g.mu.Lock()
	stored := g.store(grantedToken{value: "a", sent: sent, lifetime: time.Minute})
	g.mu.Unlock()
	if got := stored.servedTo.monotonic.Sub(sent); got != 54*time.Second {
		t.Errorf("served for %v", got)
	}
	if stored.servedTo.monotonic == stored.servedTo.monotonic.Round(0) { //nolint:staticcheck // also compares the monotonic reading
		t.Error("the expiry has lost its monotonic reading")
	}
}

func TestConcurrentCallersShareOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{takes: 3 * time.Second}
		var wait sync.WaitGroup
		for range 10_000 {
			wait.Go(func() {
				if token, err := g.get(t.Context(), s); err != nil || token.value != "token-1" {
					t.Errorf("got %v, %v", token, err)
				}
			})
		}
		wait.Wait()
		s.wantCalls(t, 1)
	})
}

func TestConcurrentCallersShareOneFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{takes: 3 * time.Second}
		s.fails(&fetchError{class: classServerError, status: 503})
		var wait sync.WaitGroup
		for range 1000 {
			wait.Go(func() {
				_, err := g.get(t.Context(), s)
				if failure, ok := errors.AsType[*unavailableError](err); !ok || failure.waiting || failure.cause.status != 503 {
					t.Errorf("got %v", err)
				}
			})
		}
		wait.Wait()
		s.wantCalls(t, 1)
	})
}

func TestCancelledCallerEndsItsOwnWaitAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{takes: 5 * time.Second}
		start := time.Now()
		var wait sync.WaitGroup
		call := func(timeout, waits time.Duration, want error) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			wait.Go(func() {
				defer cancel()
				token, err := g.get(ctx, s)
				if !errors.Is(err, want) || (err == nil) != (token != nil) {
					t.Errorf("got %v, %v; want error %v", token, err, want)
				}
				if waited := time.Since(start); waited != waits {
					t.Errorf("waited %v, want %v", waited, waits)
				}
			})
		}
		call(time.Second, time.Second, context.DeadlineExceeded) // the one that starts the fetch
		synctest.Wait()
		call(2*time.Second, 2*time.Second, context.DeadlineExceeded)
		call(time.Minute, 5*time.Second, nil)
		wait.Wait()
		s.wantCalls(t, 1)
	})
}

func TestFetchThatNobodyWaitsForFillsTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{takes: 5 * time.Second}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := g.get(ctx, s); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if token := g.usable(time.Now()); token == nil || token.value != "token-1" {
			t.Errorf("cached %v", token)
		}
		s.wantCalls(t, 1)
	})
}

func TestFetchRunsOnAContextOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		g, s := newTestGrant(t), new(fetchStub)
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "of the request"))
		s.answer = func(fetching context.Context, _ int64) (grantedToken, *fetchError) {
			cancel()
			if fetching.Value(key{}) != nil {
				t.Error("the fetch sees values of the request")
			}
			if err := fetching.Err(); err != nil {
				t.Errorf("the fetch ends with the request: %v", err)
			}
			return grantedToken{}, nil
		}
		_, _ = g.get(ctx, s)
		synctest.Wait()
		if g.usable(time.Now()) == nil {
			t.Error("no token")
		}
	})
}

// Requests outlive their configuration, and so do their waits.
func TestReleasedGrantStillServesRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{takes: 2 * time.Second}
		time.AfterFunc(time.Second, func() { _ = g.Destruct() })
		first := mustGetToken(t, g, s)
		mustRenewToken(t, g, first, false, s)
		s.wantCalls(t, 2)
	})
}

func TestReleasedGrantEndsAFetchThatNobodyWaitsFor(t *testing.T) {
	for name, test := range map[string]struct {
		waits []time.Duration // of callers
		after time.Duration   // the grant is released
		ends  time.Duration   // the fetch
	}{
		"none waits any more":    {[]time.Duration{1}, 5, 5},
		"one waits longer":       {[]time.Duration{1, 8}, 5, 8},
		"two wait longer":        {[]time.Duration{7, 8, 1}, 5, 8},
		"released at once":       {[]time.Duration{3}, 1, 3},
		"one waits to the end":   {[]time.Duration{3, 100}, 5, 60},
		"released after the end": {[]time.Duration{3}, 100, 60},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, s, start := newTestGrant(t), &fetchStub{takes: time.Minute}, time.Now()
				ended := make(chan time.Duration, 1)
				fetch := sourceFunc(func(ctx context.Context) fetched {
					defer func() { ended <- time.Since(start) }()
					return s.fetch(ctx, fetchTask{})
				})
				for _, wait := range test.waits {
					ctx, cancel := context.WithTimeout(t.Context(), wait*time.Second)
					defer cancel()
					go func() { _, _ = g.get(ctx, fetch) }()
				}
				time.AfterFunc(test.after*time.Second, func() { _ = g.Destruct() })
				if end := <-ended; end != test.ends*time.Second {
					t.Errorf("the fetch ended after %v", end)
				}
				time.Sleep(time.Hour)
				s.wantCalls(t, 1)
			})
		})
	}
}

// Who comes after the last waiter has gone starts afresh.
func TestEndedFetchIsNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := new(cachedGrant)
		calls := 0
		fetch := sourceFunc(func(ctx context.Context) fetched {
			calls++
			if calls > 1 {
				return fetched{granted: grantedToken{value: "second", sent: time.Now(), lifetime: time.Hour}}
			}
			<-ctx.Done()
			time.Sleep(time.Second) // until it has noticed
			return fetched{failure: &fetchError{class: classUnreachable}}
		})
		ctx, leave := context.WithCancel(t.Context())
		go func() { _, _ = g.get(ctx, fetch) }()
		synctest.Wait()
		_ = g.Destruct()
		leave()
		synctest.Wait()
		for range 2 {
			if token, err := g.get(t.Context(), fetch); err != nil || token.value != "second" {
				t.Fatalf("got %v, %v", token, err)
			}
			time.Sleep(2 * time.Second) // what became of the first is of no interest
		}
		if g.failed != nil {
			t.Error("the ended fetch counts as failed")
		}
	})
}

func TestReleasedGrantRenewsNothingInBackground(t *testing.T) {
	for _, released := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g, s := newTestGrant(t), &fetchStub{takes: 2 * time.Second}
			first := mustGetToken(t, g, s)
			if released {
				_ = g.Destruct()
			}
			g.renewInBackground(t.Context(), first, false, s)
			time.Sleep(s.takes)
			synctest.Wait()
			if renewed := g.usable(time.Now()) != first; renewed == released {
				t.Errorf("renewed: %v", renewed)
			}
		})
	}
}

func TestEndpointIsLeftAloneAfterAFailure(t *testing.T) {
	for name, test := range map[string]struct {
		failure     fetchError
		least, most time.Duration // of the first pause
	}{
		"unreachable":                  {fetchError{class: classUnreachable}, 800 * time.Millisecond, 1200 * time.Millisecond},
		"timeout":                      {fetchError{class: classTimeout}, 800 * time.Millisecond, 1200 * time.Millisecond},
		"server error":                 {fetchError{class: classServerError}, 800 * time.Millisecond, 1200 * time.Millisecond},
		"unreadable":                   {fetchError{class: classInvalidResponse}, 800 * time.Millisecond, 1200 * time.Millisecond},
		"refused":                      {fetchError{class: classRefused}, 12 * time.Second, 18 * time.Second},
		"nothing sent":                 {fetchError{class: classRefused, unsent: true}, 800 * time.Millisecond, 1200 * time.Millisecond},
		"short Retry-After":            {fetchError{class: classServerError, retryAfter: time.Millisecond}, 800 * time.Millisecond, 1200 * time.Millisecond},
		"long Retry-After":             {fetchError{class: classServerError, retryAfter: time.Minute}, time.Minute, time.Minute},
		"longest Retry-After":          {fetchError{class: classServerError, retryAfter: maxRetryAfter}, time.Hour, time.Hour},
		"refused, short Retry-After":   {fetchError{class: classRefused, retryAfter: time.Second}, 12 * time.Second, 18 * time.Second},
		"refused, longest Retry-After": {fetchError{class: classRefused, retryAfter: maxRetryAfter}, time.Hour, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, s := newTestGrant(t), &fetchStub{takes: 2 * time.Second}
				s.fails(&test.failure)
				// The pause counts from when the fetch failed.
				first := wantUnavailable(t, g, s, false)
				retryAt := first.retryAt
				if pause := time.Until(retryAt); pause < test.least || pause > test.most || first.cause != &test.failure {
					t.Errorf("a pause of %v after %v; want %v to %v", pause, first.cause, test.least, test.most)
				}
				for _, wait := range []time.Duration{0, time.Until(retryAt) - time.Nanosecond} {
					time.Sleep(wait)
					start := time.Now()
					if later := wantUnavailable(t, g, s, true); later.retryAt != retryAt || later.cause != &test.failure {
						t.Errorf("%v until %v, was until %v", later.cause, later.retryAt, retryAt)
					}
					if time.Since(start) != 0 {
						t.Error("a caller had to wait")
					}
				}
				s.wantCalls(t, 1)

				time.Sleep(time.Nanosecond)
				s.takes = 0
				s.fails(nil)
				if token := mustGetToken(t, g, s); token.value != "token-2" {
					t.Errorf("got %q", token.value)
				}
				s.wantCalls(t, 2)
			})
		})
	}
}

// wantUnavailable wants no token, without or with having waited for the endpoint.
func wantUnavailable(t *testing.T, g *cachedGrant, s *fetchStub, waiting bool) *unavailableError {
	t.Helper()
	_, err := g.get(t.Context(), s)
	failure, ok := errors.AsType[*unavailableError](err)
	if !ok || failure.waiting != waiting {
		t.Fatalf("got %#v", err)
	}
	return failure
}

func TestSuccessEndsThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{lifetime: 20 * time.Second}
		s.fails(&fetchError{class: classRefused})
		_, _ = g.get(t.Context(), s)
		time.Sleep(18 * time.Second)
		s.fails(nil)
		token := mustGetToken(t, g, s)
		mustRenewToken(t, g, token, false, s) // no trace of the failure
		s.wantCalls(t, 3)
	})
}

func TestFailedRenewalLeavesTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), new(fetchStub)
		first := mustGetToken(t, g, s)
		s.fails(&fetchError{class: classRefused})
		if _, err := g.renew(t.Context(), first, false, s); err == nil {
			t.Fatal("renewed")
		}
		if g.usable(time.Now()) != first || mustGetToken(t, g, s) != first {
			t.Error("the token at hand is gone")
		}
		// Neither the spacing of renewals nor the pause lets another through, and the
		// upstream's rejection is not the answer either.
		for _, wait := range []time.Duration{0, forcedSpacing} {
			time.Sleep(wait)
			_, err := g.renew(t.Context(), first, false, s)
			if failure, ok := errors.AsType[*unavailableError](err); !ok || !failure.waiting || !failure.retryAt.After(time.Now()) {
				t.Errorf("got %v", err)
			}
		}
		s.wantCalls(t, 2)
		time.Sleep(18*time.Second - forcedSpacing)
		s.fails(nil)
		mustRenewToken(t, g, first, false, s)
	})
}

func TestNewerTokenIsUsedWithoutAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), new(fetchStub)
		first := mustGetToken(t, g, s)
		second := mustRenewToken(t, g, first, false, s)
		for _, bare := range []bool{false, true} {
			if token := mustRenewToken(t, g, first, bare, s); token != second {
				t.Errorf("got %q", token.value)
			}
		}
		s.wantCalls(t, 2)
	})
}

func TestForcedRenewalsAreSpaced(t *testing.T) {
	for _, bare := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g, s := newTestGrant(t), &fetchStub{takes: time.Second}
			rejected := mustRenewToken(t, g, mustGetToken(t, g, s), bare, s)
			time.Sleep(forcedSpacing - s.takes - time.Nanosecond) // it counts from the start of the renewal
			wantNotRenewed(t, g, rejected, bare, s)
			g.renewInBackground(t.Context(), rejected, bare, s)
			synctest.Wait()
			s.wantCalls(t, 2)
			time.Sleep(time.Nanosecond)
			mustRenewToken(t, g, rejected, bare, s)
			s.wantCalls(t, 3)
		})
	}
}

// A fetch that was needed anyway is not kept off by the spacing.
func TestSpacingDoesNotKeepAnExpiredTokenFromBeingReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{lifetime: time.Second}
		second := mustRenewToken(t, g, mustGetToken(t, g, s), false, s)
		time.Sleep(s.lifetime)
		third := mustRenewToken(t, g, second, true, s) // rejected just when it expired
		time.Sleep(s.lifetime)
		if token := mustGetToken(t, g, s); token.value != "token-4" || token.generation <= third.generation {
			t.Errorf("got %q", token.value)
		}
	})
}

func TestUncuredBareRejectionsSlowRenewalsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{lifetime: 24 * time.Hour}
		current := mustGetToken(t, g, s)
		renewAndReject := func() {
			t.Helper()
			current = mustRenewToken(t, g, current, true, s)
			if !g.notCured(current, true) {
				t.Error("an uncured rejection is no news")
			}
			// As many other requests report that were replayed with the same token.
			if g.notCured(current, true) {
				t.Error("the same token is news twice")
			}
		}
		waits := func(wait time.Duration) {
			t.Helper()
			time.Sleep(wait - time.Nanosecond)
			wantNotRenewed(t, g, current, true, s)
			time.Sleep(time.Nanosecond)
		}
		renewAndReject()
		for _, wait := range []time.Duration{10, 20, 40, 60, 60} {
			waits(wait * time.Second)
			renewAndReject()
		}

		// invalid_token does not wait for that.
		time.Sleep(forcedSpacing)
		current = mustRenewToken(t, g, current, false, s)
		wantNotRenewed(t, g, current, true, s)

		g.cured()
		time.Sleep(forcedSpacing)
		renewAndReject()
		waits(bareWaitMin)
		renewAndReject()
	})
}

func TestUncuredInvalidTokenDoesNotSlowRenewalsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), new(fetchStub)
		current := mustGetToken(t, g, s)
		for range 5 {
			current = mustRenewToken(t, g, current, false, s)
			if !g.notCured(current, false) || g.notCured(current, false) {
				t.Error("an uncured rejection is news once")
			}
			time.Sleep(forcedSpacing)
		}
		mustRenewToken(t, g, current, true, s)
	})
}

func TestIdenticalTokenCuresNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{lifetime: 100 * time.Second}
		s.answer = func(context.Context, int64) (grantedToken, *fetchError) { return grantedToken{value: "same"}, nil }
		first := mustGetToken(t, g, s)
		time.Sleep(50 * time.Second)
		wantNotRenewed(t, g, first, false, s)
		s.wantCalls(t, 2)
		again := g.usable(time.Now())
		if again.generation != first.generation || !again.servedTo.wall.After(first.servedTo.wall) {
			t.Errorf("generation %d until %v, was %d until %v", again.generation, again.servedTo.wall, first.generation, first.servedTo.wall)
		}
		// Whatever came in between, it is another token when it is handed out later.
		s.answer = nil
		time.Sleep(forcedSpacing)
		other := mustRenewToken(t, g, again, false, s)
		s.answer = func(context.Context, int64) (grantedToken, *fetchError) { return grantedToken{value: "same"}, nil }
		time.Sleep(forcedSpacing)
		mustRenewToken(t, g, other, false, s)
	})
}

func TestIdenticalTokenSlowsBareRenewalsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{lifetime: time.Hour}
		s.answer = func(context.Context, int64) (grantedToken, *fetchError) { return grantedToken{value: "same"}, nil }
		first := mustGetToken(t, g, s)
		wantNotRenewed(t, g, first, true, s)
		s.wantCalls(t, 2)
		for _, wait := range []time.Duration{bareWaitMin, 2 * bareWaitMin} {
			calls := s.calls.Load()
			time.Sleep(wait - time.Second)
			wantNotRenewed(t, g, first, true, s)
			s.wantCalls(t, calls)
			time.Sleep(time.Second)
			wantNotRenewed(t, g, first, true, s)
			s.wantCalls(t, calls+1)
		}
	})
}

func TestRenewalJoinsAFetchInProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{takes: 2 * time.Second}
		first := mustGetToken(t, g, s)
		var wait sync.WaitGroup
		renewAll := func() {
			for i := range 500 {
				wait.Go(func() {
					if token, err := g.renew(t.Context(), first, i%2 == 0, s); err != nil || token.value != "token-2" {
						t.Errorf("got %v, %v", token, err)
					}
				})
			}
		}
		renewAll()
		time.Sleep(time.Second)
		renewAll()
		if mustGetToken(t, g, s) != first {
			t.Error("a token in use is not served while it is renewed")
		}
		wait.Wait()
		s.wantCalls(t, 2)
	})
}

func TestRenewalInBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{takes: 2 * time.Second}
		first := mustGetToken(t, g, s)
		start := time.Now()
		for range 3 {
			g.renewInBackground(t.Context(), first, true, s)
		}
		if time.Since(start) != 0 {
			t.Error("the caller had to wait")
		}
		time.Sleep(s.takes)
		synctest.Wait()
		if token := g.usable(time.Now()); token == nil || token.value != "token-2" {
			t.Errorf("cached %v", token)
		}
		s.wantCalls(t, 2)
	})
}

func TestRenewalEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{takes: 2 * time.Second}
		first := mustGetToken(t, g, s)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.renew(ctx, first, false, s); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if g.usable(time.Now()) == first {
			t.Error("the renewal ended with the caller")
		}
	})
}

func TestNarrowedScopeIsToldOnce(t *testing.T) {
	g := newTestGrant(t)
	for i, step := range []struct {
		missing string
		news    bool
	}{
		{"", false}, {"write", true}, {"write", false}, {"write admin", true}, {"write admin", false},
		{"", false}, {"", false}, {"write", true},
	} {
		g.mu.Lock()
		got := g.narrows(step.missing)
		g.mu.Unlock()
		if got != step.news {
			t.Errorf("step %d: %q is news: %v", i, step.missing, got)
		}
	}
}

func TestDifferentGrantsHaveDifferentKeys(t *testing.T) {
	lists := [][][]string{
		nil, {nil}, {nil, nil}, {{""}}, {{"", ""}}, {{""}, {""}},
		{{"ab"}}, {{"a", "b"}}, {{"a"}, {"b"}}, {{"b", "a"}}, {{"ab", ""}}, {{"", "ab"}}, {{"a", "b"}, nil}, {nil, {"a", "b"}},
		{{"a\x00b"}}, {{"a,b"}}, {{"a b"}}, {{"\x00\x00\x00\x00\x00\x00\x00\x01a"}}, {{"", "a"}}, {{"a"}},
	}
	seen := make(map[grantKey]int)
	for i, list := range lists {
		key := newGrantKey(list...)
		if j, ok := seen[key]; ok {
			t.Errorf("%q and %q have one key", lists[j], list)
		}
		seen[key] = i
		if key != newGrantKey(list...) {
			t.Errorf("%q has two keys", list)
		}
	}
}

func TestFingerprintDoesNotShowTheToken(t *testing.T) {
	for _, value := range []string{"", "a", "b", "secret-token"} {
		if print := fingerprint(value); !regexp.MustCompile(`^[0-9a-f]{8}$`).MatchString(print) {
			t.Errorf("fingerprint %q", print)
		}
	}
	if fingerprint("abc") != "ba7816bf" { // the first digits of its SHA-256
		t.Errorf("fingerprint %q", fingerprint("abc"))
	}
}

func TestPoolHoldsAGrantAsLongAsItIsUsed(t *testing.T) {
	key := newGrantKey([]string{t.Name()})
	first, err := acquireGrant(key, newCachedGrant)
	if err != nil {
		t.Fatal(err)
	}
	second, err := acquireGrant(key, newCachedGrant)
	if err != nil || second != first {
		t.Fatalf("got another grant, %v", err)
	}
	for _, alive := range []bool{true, false} {
		if err := releaseGrant(key); err != nil {
			t.Fatal(err)
		}
		if first.released == alive {
			t.Errorf("alive: %v, want %v", !alive, alive)
		}
	}
	third, err := acquireGrant(key, newCachedGrant)
	if err != nil || third == first {
		t.Fatalf("a grant that has ended is used again, %v", err)
	}
	if err := releaseGrant(key); err != nil {
		t.Fatal(err)
	}
}

// Whatever the interleaving: one fetch at a time, no token after its end, no
// generation that goes back, every caller answered.
func TestGrantUnderMixedLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{lifetime: 3 * time.Second, takes: 300 * time.Millisecond}
		var flying atomic.Int32
		fetch := sourceFunc(func(ctx context.Context) fetched {
			if flying.Add(1) > 1 {
				t.Error("two fetches at a time")
			}
			defer flying.Add(-1)
			result := s.fetch(ctx, fetchTask{})
			switch s.calls.Load() % 5 {
			case 3:
				return fetched{failure: &fetchError{class: classServerError}}
			case 4, 0:
				result.granted.value = "same"
			}
			return result
		})
		var wait sync.WaitGroup
		var tokens, failures atomic.Int64
		for range 64 {
			wait.Go(func() {
				seen := uint64(0)
				for range 300 {
					time.Sleep(rand.N(time.Second))
					ctx, cancel := context.WithTimeout(t.Context(), rand.N(2*time.Second))
					current, err := g.usable(time.Now()), error(nil)
					if current == nil {
						current, err = g.get(ctx, fetch)
					}
					if err == nil && current.generation < seen {
						t.Errorf("generation %d after %d", current.generation, seen)
					}
					if err == nil {
						seen = current.generation
						tokens.Add(1)
						bare := rand.N(2) == 0
						switch rand.N(4) {
						case 0:
							g.renewInBackground(t.Context(), current, bare, fetch)
						case 1:
							renewed, err := g.renew(ctx, current, bare, fetch)
							if err == nil && renewed.generation <= current.generation {
								t.Errorf("generation %d for %d", renewed.generation, current.generation)
							}
							if err == nil && rand.N(2) == 0 {
								g.cured()
							} else if err == nil {
								g.notCured(renewed, bare)
							}
						}
					} else {
						failures.Add(1)
						if _, ok := errors.AsType[*unavailableError](err); !ok && ctx.Err() == nil {
							t.Errorf("got %v", err)
						}
					}
					cancel()
				}
			})
		}
		wait.Wait()
		if tokens.Load() == 0 || failures.Load() == 0 || s.calls.Load() < 10 {
			t.Errorf("%d tokens, %d failures, %d fetches: nothing was mixed", tokens.Load(), failures.Load(), s.calls.Load())
		}
	})
}

// The same without a bubble, on the real scheduler.
func TestGrantUnderConcurrentUse(t *testing.T) {
	g, s := newTestGrant(t), &fetchStub{lifetime: time.Millisecond}
	var wait sync.WaitGroup
	values := make([][]string, 8)
	for i := range values {
		wait.Go(func() {
			for n := range 500 {
				current, err := g.get(t.Context(), s)
				if err != nil {
					t.Errorf("get: %v", err)
					return
				}
				values[i] = append(values[i], current.value)
				switch n % 4 {
				case 0:
					if _, err := g.renew(t.Context(), current, n%8 == 0, s); err != nil && err != errNotRenewed {
						t.Errorf("renew: %v", err)
					}
				case 1:
					g.cured()
				case 2:
					g.notCured(current, true)
				}
			}
		})
	}
	wait.Wait()
	if g.usable(time.Now()) == nil && len(slices.Concat(values...)) != 4000 {
		t.Error("calls without a token")
	}
}
