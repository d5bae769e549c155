package oauthcc

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// A fetch that is under way when the token is forgotten may bring what another gateway has
// got, which can be the same.
func TestForgottenTokenDoesNotComeBackByAFetchUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGrant(t)
		adopted := true
		s := sourceFunc(func(context.Context) fetched {
			time.Sleep(time.Second)
			return fetched{granted: grantedToken{value: "stored", sent: time.Now(), lifetime: time.Hour, sequence: 1, adopted: adopted}}
		})
		waiter := make(chan *token)
		go func() {
			got, _ := g.get(t.Context(), s)
			waiter <- got
		}()
		synctest.Wait()
		g.drop()
		if got := <-waiter; got == nil || got.value != "stored" {
			t.Errorf("who waited got %v", got)
		}
		if got := g.state().token; got != nil {
			t.Errorf("held is %q", got.value)
		}
		adopted = false
		if got, err := g.get(t.Context(), s); err != nil || got != g.state().token {
			t.Errorf("got %v, %v", got, err)
		}
	})
}
