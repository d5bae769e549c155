package tokencache

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

func TestEndpointIsLeftAloneAfterAFailure(t *testing.T) {
	for name, test := range map[string]struct {
		failure     endpoint.Error
		least, most time.Duration // of the first pause
	}{
		"unreachable":                  {endpoint.Error{Class: endpoint.ClassUnreachable}, 800 * time.Millisecond, 1200 * time.Millisecond},
		"timeout":                      {endpoint.Error{Class: endpoint.ClassTimeout}, 800 * time.Millisecond, 1200 * time.Millisecond},
		"server error":                 {endpoint.Error{Class: endpoint.ClassServerError}, 800 * time.Millisecond, 1200 * time.Millisecond},
		"unreadable":                   {endpoint.Error{Class: endpoint.ClassInvalidResponse}, 800 * time.Millisecond, 1200 * time.Millisecond},
		"refused":                      {endpoint.Error{Class: endpoint.ClassRefused}, 12 * time.Second, 18 * time.Second},
		"nothing sent":                 {endpoint.Error{Class: endpoint.ClassRefused, Unsent: true}, 800 * time.Millisecond, 1200 * time.Millisecond},
		"short Retry-After":            {endpoint.Error{Class: endpoint.ClassServerError, RetryAfter: time.Millisecond}, 800 * time.Millisecond, 1200 * time.Millisecond},
		"long Retry-After":             {endpoint.Error{Class: endpoint.ClassServerError, RetryAfter: time.Minute}, time.Minute, time.Minute},
		"longest Retry-After":          {endpoint.Error{Class: endpoint.ClassServerError, RetryAfter: time.Hour}, time.Hour, time.Hour},
		"refused, short Retry-After":   {endpoint.Error{Class: endpoint.ClassRefused, RetryAfter: time.Second}, 12 * time.Second, 18 * time.Second},
		"refused, longest Retry-After": {endpoint.Error{Class: endpoint.ClassRefused, RetryAfter: time.Hour}, time.Hour, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, s := newTestGrant(t), &fetchStub{takes: 2 * time.Second}
				s.fails(&test.failure)
				// The pause counts from when the fetch failed.
				first := wantUnavailable(t, g, s, false)
				retryAt := first.RetryAt
				if pause := time.Until(retryAt); pause < test.least || pause > test.most || first.Cause != &test.failure {
					t.Errorf("a pause of %v after %v; want %v to %v", pause, first.Cause, test.least, test.most)
				}
				for _, wait := range []time.Duration{0, time.Until(retryAt) - time.Nanosecond} {
					time.Sleep(wait)
					start := time.Now()
					if later := wantUnavailable(t, g, s, true); later.RetryAt != retryAt || later.Cause != &test.failure {
						t.Errorf("%v until %v, was until %v", later.Cause, later.RetryAt, retryAt)
					}
					if time.Since(start) != 0 {
						t.Error("a caller had to wait")
					}
				}
				s.wantCalls(t, 1)

				time.Sleep(time.Nanosecond)
				s.takes = 0
				s.fails(nil)
				if token := mustGetToken(t, g, s); token.Value != "token-2" {
					t.Errorf("got %q", token.Value)
				}
				s.wantCalls(t, 2)
			})
		})
	}
}

func TestSuccessEndsThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{lifetime: 20 * time.Second}
		s.fails(&endpoint.Error{Class: endpoint.ClassRefused})
		_, _ = g.Get(t.Context(), s)
		time.Sleep(18 * time.Second)
		s.fails(nil)
		token := mustGetToken(t, g, s)
		mustRenewToken(t, g, token, s) // no trace of the failure
		s.wantCalls(t, 3)
	})
}

func TestFailedRenewalLeavesTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), new(fetchStub)
		first := mustGetToken(t, g, s)
		s.fails(&endpoint.Error{Class: endpoint.ClassRefused})
		if _, err := g.RenewRejected(t.Context(), rejection(first), s); err == nil {
			t.Fatal("renewed")
		}
		if timely(g) != first || mustGetToken(t, g, s) != first {
			t.Error("the token at hand is gone")
		}
		// Neither the spacing of renewals nor the pause lets another through, and the
		// upstream's rejection is not the answer either.
		for _, wait := range []time.Duration{0, forcedSpacing} {
			time.Sleep(wait)
			_, err := g.RenewRejected(t.Context(), rejection(first), s)
			if failure, ok := errors.AsType[*UnavailableError](err); !ok || !failure.Waiting || !failure.RetryAt.After(time.Now()) {
				t.Errorf("got %v", err)
			}
		}
		s.wantCalls(t, 2)
		time.Sleep(18*time.Second - forcedSpacing)
		s.fails(nil)
		mustRenewToken(t, g, first, s)
	})
}

// changedSource is a source whose configuration has changed since any failure.
type changedSource struct {
	fetchStub
	queued bool
}

func (s *changedSource) Fetch(ctx context.Context, task Task) Fetched {
	result := s.fetchStub.Fetch(ctx, task)
	result.Queued = s.queued
	return result
}

func (*changedSource) ChangedSince(context.Context, *endpoint.Error) bool { return true }

// A change ends the pause, but not that of a fetch which never had its turn: it has shown nothing to
// compare with.
func TestQueuedFetchHasNothingToCompareWith(t *testing.T) {
	for _, queued := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g, s := newTestGrant(t), &changedSource{queued: queued}
			s.fails(&endpoint.Error{Class: endpoint.ClassTimeout, Unsent: true})
			_, _ = g.Get(t.Context(), s)
			_, _ = g.Get(t.Context(), s)
			want := int64(2)
			if queued {
				want = 1
			}
			s.wantCalls(t, want)
		})
	}
}
