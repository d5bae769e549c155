package tokencache

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// The token of such an answer can't be cached, but those who waited have nothing
// better.
func TestTokenThatExpiredOnItsWayGoesToThoseWhoWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{lifetime: time.Second, takes: 3 * time.Second}
		if token := mustGetToken(t, g, s); token.Value != "token-1" || timely(g) != nil {
			t.Errorf("got %q, cached %v", token.Value, timely(g))
		}
		if token := mustGetToken(t, g, s); token.Value != "token-2" {
			t.Errorf("got %q", token.Value)
		}
	})
}

func TestConcurrentCallersShareOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{takes: 3 * time.Second}
		var wait sync.WaitGroup
		for range 10_000 {
			wait.Go(func() {
				if token, err := g.Get(t.Context(), s); err != nil || token.Value != "token-1" {
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
		s.fails(&endpoint.Error{Class: endpoint.ClassServerError, Status: 503})
		var wait sync.WaitGroup
		for range 1000 {
			wait.Go(func() {
				_, err := g.Get(t.Context(), s)
				if failure, ok := errors.AsType[*UnavailableError](err); !ok || failure.Waiting || failure.Cause.Status != 503 {
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
				token, err := g.Get(ctx, s)
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
		if _, err := g.Get(ctx, s); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if token := timely(g); token == nil || token.Value != "token-1" {
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
		s.answer = func(fetching context.Context, _ int64) (endpoint.Granted, *endpoint.Error) {
			cancel()
			if fetching.Value(key{}) != nil {
				t.Error("the fetch sees values of the request")
			}
			if err := fetching.Err(); err != nil {
				t.Errorf("the fetch ends with the request: %v", err)
			}
			return endpoint.Granted{}, nil
		}
		_, _ = g.Get(ctx, s)
		synctest.Wait()
		if timely(g) == nil {
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
		mustRenewToken(t, g, first, s)
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
				fetch := sourceFunc(func(ctx context.Context) Fetched {
					defer func() { ended <- time.Since(start) }()
					return s.Fetch(ctx, Task{})
				})
				for _, wait := range test.waits {
					ctx, cancel := context.WithTimeout(t.Context(), wait*time.Second)
					defer cancel()
					go func() { _, _ = g.Get(ctx, fetch) }()
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
		g := new(Grant)
		calls := 0
		fetch := sourceFunc(func(ctx context.Context) Fetched {
			calls++
			if calls > 1 {
				return Fetched{Granted: Offer{Granted: endpoint.Granted{Value: "second", Sent: time.Now(), Lifetime: time.Hour}}}
			}
			<-ctx.Done()
			time.Sleep(time.Second) // until it has noticed
			return Fetched{Failure: &endpoint.Error{Class: endpoint.ClassUnreachable}}
		})
		ctx, leave := context.WithCancel(t.Context())
		go func() { _, _ = g.Get(ctx, fetch) }()
		synctest.Wait()
		_ = g.Destruct()
		leave()
		synctest.Wait()
		for range 2 {
			if token, err := g.Get(t.Context(), fetch); err != nil || token.Value != "second" {
				t.Fatalf("got %v, %v", token, err)
			}
			time.Sleep(2 * time.Second) // what became of the first is of no interest
		}
		if g.pauses.failed != nil {
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
			g.RenewRejectedInBackground(t.Context(), rejection(first), s)
			time.Sleep(s.takes)
			synctest.Wait()
			if renewed := timely(g) != first; renewed == released {
				t.Errorf("renewed: %v", renewed)
			}
		})
	}
}

// A renewal that was not sent, as nobody waited for its turn, is none: the next need not wait.
func TestRenewalThatWasNotSentDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, s, first := queuedGrant(t)
		s.abandonRenewal(t, e, first)
		mustRenewToken(t, &e.Grant, first, &s.fetchStub)
	})
}

// Nor does it end a pause.
func TestPauseOutlastsARenewalThatWasNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, s, first := queuedGrant(t)
		s.fails(&endpoint.Error{Class: endpoint.ClassUnreachable})
		e.RenewAhead(t.Context(), first, &s.fetchStub)
		time.Sleep(2 * time.Second) // after which rejected tokens may be renewed, and no others
		s.abandonRenewal(t, e, first)
		e.RenewAhead(t.Context(), first, &s.fetchStub)
		synctest.Wait()
		s.wantCalls(t, 2)
	})
}

// A request that goes with a due token wants the next one to come, also if the client that has it fetched goes
// away.
func TestNextTokenComesAfterADueOneIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, s, first := queuedGrant(t)
		time.Sleep(time.Until(first.dueFrom.monotonic))
		s.turns <- struct{}{}
		ctx, leave := context.WithTimeout(t.Context(), 3*time.Second)
		defer leave()
		go func() { _, _ = e.RenewRejected(ctx, rejection(first), s) }()
		time.Sleep(2 * time.Second)
		if token, err := e.Get(t.Context(), s); token != first {
			t.Errorf("got %v, %v", token, err)
		}
		time.Sleep(2 * time.Second)
		<-s.turns
		synctest.Wait()
		s.wantCalls(t, 2)
	})
}

// queuedGrant is a grant of a table, with a token and a source that can keep fetches waiting.
func queuedGrant(t *testing.T) (*Entry, *queuedStub, *Token) {
	t.Helper()
	e, s := NewTable(1).Acquire(tableKey(1), nil), &queuedStub{turns: make(chan struct{}, 1)}
	t.Cleanup(e.Release)
	return e, s, mustGetToken(t, &e.Grant, &s.fetchStub)
}

// abandonRenewal has a rejected token renewed, and the client go away before that has its turn.
func (s *queuedStub) abandonRenewal(t *testing.T, e *Entry, rejected *Token) {
	t.Helper()
	s.turns <- struct{}{}
	ctx, leave := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer leave()
	if _, err := e.RenewRejected(ctx, rejection(rejected), s); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("renew: %v", err)
	}
	synctest.Wait()
	<-s.turns
}
