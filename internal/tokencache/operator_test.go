package tokencache

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// A fetch that is under way when the token is forgotten may bring what another gateway has
// got, which can be the same.
func TestForgottenTokenDoesNotComeBackByAFetchUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGrant(t)
		adopted := true
		s := sourceFunc(func(context.Context) Fetched {
			time.Sleep(time.Second)
			return Fetched{Granted: Offer{
				Granted:  endpoint.Granted{Value: "stored", Sent: time.Now(), Lifetime: time.Hour},
				Sequence: 1, Adopted: adopted,
			}}
		})
		waiter := make(chan *Token)
		go func() {
			got, _ := g.Get(t.Context(), s)
			waiter <- got
		}()
		synctest.Wait()
		g.Forget()
		if got := <-waiter; got == nil || got.Value != "stored" {
			t.Errorf("who waited got %v", got)
		}
		if got := g.Snapshot().Token; got != nil {
			t.Errorf("held is %q", got.Value)
		}
		adopted = false
		if got, err := g.Get(t.Context(), s); err != nil || got != g.Snapshot().Token {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

// Whatever ends a pause, the failure is over only when a fetch has succeeded.
func TestFailureThatNothingHasCuredIsNotOver(t *testing.T) {
	for how, end := range map[string]func(*Grant){
		"forgotten": func(g *Grant) { g.Forget() },
		"early": func(g *Grant) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.pauses.endEarly()
		},
		"long ago": func(g *Grant) {
			time.Sleep(time.Hour)
			g.mu.Lock()
			defer g.mu.Unlock()
			g.pauses.forgetOld(time.Now())
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newTestGrant(t)
			fails := true
			s := sourceFunc(func(context.Context) Fetched {
				if fails {
					return Fetched{Failure: &endpoint.Error{Class: endpoint.ClassRefused, Code: "invalid_client", Status: 401}}
				}
				return Fetched{Granted: Offer{Granted: endpoint.Granted{Value: "new", Sent: time.Now(), Lifetime: time.Hour}}}
			})
			if _, err := g.Get(t.Context(), s); err == nil || !g.Snapshot().History.Failing {
				t.Errorf("%s: got %v", how, err)
			}
			end(g)
			if got := g.Snapshot(); !got.History.Failing || !got.NextTry.IsZero() {
				t.Errorf("%s: failing is %t, the next try %s", how, got.History.Failing, got.NextTry)
			}
			fails = false
			if _, err := g.Get(t.Context(), s); err != nil || g.Snapshot().History.Failing {
				t.Errorf("%s: got %v, or it is failing still", how, err)
			}
		})
	}
}
