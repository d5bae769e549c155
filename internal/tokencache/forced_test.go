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

func TestNewerTokenIsUsedWithoutAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), new(fetchStub)
		first := mustGetToken(t, g, s)
		second := mustRenewToken(t, g, first, s)
		for range 2 {
			if token := mustRenewToken(t, g, first, s); token != second {
				t.Errorf("got %q", token.Value)
			}
		}
		s.wantCalls(t, 2)
	})
}

func TestForcedRenewalsAreSpaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{takes: time.Second}
		rejected := mustRenewToken(t, g, mustGetToken(t, g, s), s)
		accept(g, rejected)
		time.Sleep(forcedSpacing - s.takes - time.Nanosecond) // it counts from the start of the renewal
		wantNotRenewed(t, g, rejected, s)
		g.RenewRejectedInBackground(t.Context(), rejection(rejected), s)
		synctest.Wait()
		s.wantCalls(t, 2)
		time.Sleep(time.Nanosecond)
		mustRenewToken(t, g, rejected, s)
		s.wantCalls(t, 3)
	})
}

// A fetch that was needed anyway is not kept off by the spacing.
func TestSpacingDoesNotKeepAnExpiredTokenFromBeingReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{lifetime: time.Second}
		second := mustRenewToken(t, g, mustGetToken(t, g, s), s)
		time.Sleep(s.lifetime)
		third := mustRenewToken(t, g, second, s) // rejected just when it expired
		time.Sleep(s.lifetime)
		if token := mustGetToken(t, g, s); token.Value != "token-4" || token.Generation <= third.Generation {
			t.Errorf("got %q", token.Value)
		}
	})
}

func TestUncuredRejectionsSlowRenewalsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{lifetime: 24 * time.Hour}
		current := mustGetToken(t, g, s)
		renewAndReject := func() {
			t.Helper()
			current = mustRenewToken(t, g, current, s)
			if !g.NoteUncured(rejection(current)) {
				t.Error("an uncured rejection is no news")
			}
			// As many other requests report that were replayed with the same token.
			if g.NoteUncured(rejection(current)) {
				t.Error("the same token is news twice")
			}
		}
		waits := func(wait time.Duration) {
			t.Helper()
			time.Sleep(wait - time.Nanosecond)
			wantNotRenewed(t, g, current, s)
			time.Sleep(time.Nanosecond)
		}
		renewAndReject()
		for _, wait := range []time.Duration{10, 20, 40, 60, 60} {
			waits(wait * time.Second)
			renewAndReject()
		}

		// A token that was accepted before does not wait for that.
		time.Sleep(time.Minute)
		current = mustRenewToken(t, g, current, s)
		accept(g, current)
		time.Sleep(forcedSpacing - time.Nanosecond)
		wantNotRenewed(t, g, current, s)
		time.Sleep(time.Nanosecond)
		renewAndReject()

		g.NoteCured()
		time.Sleep(forcedSpacing)
		renewAndReject()
		waits(2 * forcedSpacing)
		renewAndReject()
	})
}

// It need not be the replay of the request that had the token renewed: its body may have been too large
// for one.
func TestRejectionOfARenewedTokenIsUncured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{lifetime: 24 * time.Hour}
		mustGetToken(t, g, s)
		for range 60 * 60 {
			g.RenewRejectedInBackground(t.Context(), rejection(g.Current()), s)
			time.Sleep(time.Second)
		}
		// After 0, 5 or 10, 30 and 70 s, then each minute.
		if n := s.calls.Load(); n > 5+59 {
			t.Errorf("%d fetches in an hour", n)
		}
	})
}

// An endpoint that has no other token is not asked for one every 5 s.
func TestIdenticalTokensSlowRenewalsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{lifetime: 24 * time.Hour}
		s.answer = func(context.Context, int64) (endpoint.Granted, *endpoint.Error) {
			return endpoint.Granted{Value: "same"}, nil
		}
		token := mustGetToken(t, g, s)
		accept(g, token)
		for range 600 {
			wantNotRenewed(t, g, token, s)
			time.Sleep(time.Second)
		}
		if n := s.calls.Load(); n > 1+4+9 {
			t.Errorf("%d fetches in ten minutes", n)
		}
		// When it was accepted meanwhile, the next rejections are another matter.
		accept(g, token)
		s.answer = nil
		time.Sleep(forcedSpacing)
		wantNotRenewed(t, g, token, s) // one can be due to the request
		mustRenewToken(t, g, token, s)
	})
}

func TestIdenticalTokenCuresNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{lifetime: 100 * time.Second}
		s.answer = func(context.Context, int64) (endpoint.Granted, *endpoint.Error) {
			return endpoint.Granted{Value: "same"}, nil
		}
		first := mustGetToken(t, g, s)
		time.Sleep(50 * time.Second)
		wantNotRenewed(t, g, first, s)
		s.wantCalls(t, 2)
		again := timely(g)
		if again.Generation != first.Generation || !again.dueFrom.Wall.After(first.dueFrom.Wall) {
			t.Errorf("generation %d until %v, was %d until %v", again.Generation, again.dueFrom.Wall, first.Generation, first.dueFrom.Wall)
		}
		// Whatever came in between, it is another token when it is handed out later.
		s.answer = nil
		time.Sleep(2 * forcedSpacing)
		other := mustRenewToken(t, g, again, s)
		s.answer = func(context.Context, int64) (endpoint.Granted, *endpoint.Error) {
			return endpoint.Granted{Value: "same"}, nil
		}
		time.Sleep(4 * forcedSpacing)
		mustRenewToken(t, g, other, s)
	})
}

func TestIdenticalTokenSlowsRenewalsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{lifetime: time.Hour}
		s.answer = func(context.Context, int64) (endpoint.Granted, *endpoint.Error) {
			return endpoint.Granted{Value: "same"}, nil
		}
		first := mustGetToken(t, g, s)
		wantNotRenewed(t, g, first, s)
		s.wantCalls(t, 2)
		for _, wait := range []time.Duration{2 * forcedSpacing, 4 * forcedSpacing} {
			calls := s.calls.Load()
			time.Sleep(wait - time.Second)
			wantNotRenewed(t, g, first, s)
			s.wantCalls(t, calls)
			time.Sleep(time.Second)
			wantNotRenewed(t, g, first, s)
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
			for range 500 {
				wait.Go(func() {
					if token, err := g.RenewRejected(t.Context(), rejection(first), s); err != nil || token.Value != "token-2" {
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
			g.RenewRejectedInBackground(t.Context(), rejection(first), s)
		}
		if time.Since(start) != 0 {
			t.Error("the caller had to wait")
		}
		time.Sleep(s.takes)
		synctest.Wait()
		if token := timely(g); token == nil || token.Value != "token-2" {
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
		if _, err := g.RenewRejected(ctx, rejection(first), s); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if timely(g) == first {
			t.Error("the renewal ended with the caller")
		}
	})
}
