package tokencache

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

func (sourceFunc) Trace(ctx, _ context.Context) (context.Context, func(Outcome)) {
	return ctx, func(Outcome) {}
}

func TestRenewalAheadIsForTheTokenAtHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), new(fetchStub)
		first := mustGetToken(t, g, s)
		second := mustRenewToken(t, g, first, s)
		g.RenewAhead(t.Context(), first, s) // found stale before it was replaced
		synctest.Wait()
		s.wantCalls(t, 2)
		s.takes = time.Second
		for range 3 {
			g.RenewAhead(t.Context(), second, s)
		}
		time.Sleep(2 * time.Second)
		s.wantCalls(t, 3)
		_ = g.Destruct()
		g.RenewAhead(t.Context(), timely(g), s)
		time.Sleep(2 * time.Second)
		s.wantCalls(t, 3)
	})
}

// Whatever the interleaving: one fetch at a time, no token after its end, no
// generation that goes back, every caller answered.
func TestGrantUnderMixedLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{lifetime: 3 * time.Second, takes: 300 * time.Millisecond}
		var flying atomic.Int32
		fetch := sourceFunc(func(ctx context.Context) Fetched {
			if flying.Add(1) > 1 {
				t.Error("two fetches at a time")
			}
			defer flying.Add(-1)
			result := s.Fetch(ctx, Task{})
			switch s.calls.Load() % 5 {
			case 3:
				return Fetched{Failure: &endpoint.Error{Class: endpoint.ClassServerError}}
			case 4, 0:
				result.Granted.Value = "same"
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
					current, err := timely(g), error(nil)
					if current == nil {
						current, err = g.Get(ctx, fetch)
					}
					if err == nil && current.Generation < seen && !current.Fallback {
						t.Errorf("generation %d after %d", current.Generation, seen)
					}
					if err == nil {
						seen = max(seen, current.Generation)
						tokens.Add(1)
						switch rand.N(4) {
						case 0:
							g.RenewRejectedInBackground(t.Context(), rejection(current), fetch)
						case 1:
							renewed, err := g.RenewRejected(ctx, rejection(current), fetch)
							if err == nil && renewed.Generation <= current.Generation && !renewed.Fallback {
								t.Errorf("generation %d for %d", renewed.Generation, current.Generation)
							}
							if err == nil && rand.N(2) == 0 {
								g.NoteCured()
							} else if err == nil {
								g.NoteUncured(rejection(renewed))
							}
						}
					} else {
						failures.Add(1)
						if _, ok := errors.AsType[*UnavailableError](err); !ok && ctx.Err() == nil {
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
				current, err := g.Get(t.Context(), s)
				if err != nil {
					t.Errorf("get: %v", err)
					return
				}
				values[i] = append(values[i], current.Value)
				switch n % 4 {
				case 0:
					if _, err := g.RenewRejected(t.Context(), rejection(current), s); err != nil && err != ErrNotRenewed {
						t.Errorf("renew: %v", err)
					}
				case 1:
					g.NoteCured()
				case 2:
					g.NoteUncured(rejection(current))
				}
			}
		})
	}
	wait.Wait()
	if timely(g) == nil && len(slices.Concat(values...)) != 4000 {
		t.Error("calls without a token")
	}
}
