package tokencache

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// A keeper that begins while another configuration renews the token keeps the token that comes of it.
func TestKeeperKeepsTheTokenOfAFetchOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &fetchStub{guessed: true, lifetime: 100 * time.Second}
		first := mustGetToken(t, g, s)
		time.Sleep(80 * time.Second)
		s.takes, s.lifetime = 5*time.Second, 6*time.Second
		g.RenewAhead(t.Context(), first, s)
		time.Sleep(time.Second)
		k := NewKeeper()
		k.Begin(g, RefreshAhead{Off: true}, s)
		defer k.Stop()
		time.Sleep(5 * time.Second) // the second token is due when it has come
		s.wantCalls(t, 3)
	})
}

// A token whose lifetime is a guess lives on in a pause. So its end is no reason to look again and again.
func TestKeeperRestsInAPauseBeyondAGuessedLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newTestGrant(t), &askedStub{fetchStub: fetchStub{guessed: true, lifetime: 100 * time.Second}}
		mustGetToken(t, g, &s.fetchStub)
		s.fails(&endpoint.Error{Class: endpoint.ClassServerError, RetryAfter: 10 * time.Minute})
		k := NewKeeper()
		k.Begin(g, RefreshAhead{}, s)
		defer k.Stop()
		time.Sleep(10 * time.Minute)
		s.wantCalls(t, 2)
		if n := s.asked.Load(); n > 10+2 { // each minute, and at the renewal
			t.Errorf("it looked %d times in ten minutes", n)
		}
	})
}

// askedStub counts how often it is asked for another credential, as it is with each look in a pause.
type askedStub struct {
	fetchStub

	asked atomic.Int64
}

func (s *askedStub) ChangedSince(context.Context, *endpoint.Error) bool {
	s.asked.Add(1)
	return false
}
