package tokencache

import (
	"testing"
	"testing/synctest"
	"time"
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
