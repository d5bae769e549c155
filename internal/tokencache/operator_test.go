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
