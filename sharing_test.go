package oauthcc

import (
	"testing"
	"testing/synctest"
	"time"
)

// newFleet makes gateways that share tokens, as processes of their own would: each has a
// cache of its own.
func newFleet(t *testing.T, storage *memoryStorage, size int, options func() *Handler) []*virtualGateway {
	t.Helper()
	var fleet []*virtualGateway
	for range size {
		g := newVirtualGateway(t, options())
		if len(fleet) > 0 {
			g.endpoint = fleet[0].endpoint
			g.client.transport = g.endpoint
		}
		g.share(storage)
		fleet = append(fleet, g)
	}
	return fleet
}

// share gives the gateway a cache of its own and the storage.
func (g *virtualGateway) share(storage *memoryStorage) {
	g.source = &grantSource{h: g.Handler, grant: newCachedGrant()}
	shared := newSharedStorage(storage, g.logger)
	g.sharing = &sharing{
		storage: shared, timeout: time.Duration(g.Timeout), stale: g.refreshAhead, trust: g.trust, now: time.Now, sweeper: newSweeper(shared),
	}
}

func plain() *Handler { return new(Handler) }

func TestFleetSharesOneToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet := newFleet(t, newMemoryStorage(), 8, plain)
		fleet[0].endpoint.takes = 300 * time.Millisecond
		answers := make(chan virtualAnswer, len(fleet))
		for _, g := range fleet {
			go func() { answers <- g.get() }()
		}
		for range fleet {
			if a := <-answers; a.status != 200 || a.token != "token-1" || a.waited > 800*time.Millisecond {
				t.Errorf("got %+v", a)
			}
		}
		if n := fleet[0].endpoint.count(); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
	})
}
