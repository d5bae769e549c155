package oauthcc

import (
	"context"
	"sync"
	"time"
)

const (
	// A keeper looks at its token at least once in this time, since its timer stands
	// still while the machine is suspended and the wall clock can be set.
	longestLook = time.Minute

	// shortestLook keeps it from spinning, whatever the endpoint grants.
	shortestLook = 100 * time.Millisecond
)

// keeper gets the first token of a configuration before any request needs it, and keeps
// it renewed while there are none.
type keeper struct {
	context context.Context
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// newKeeper makes one that begins once the configuration runs.
func newKeeper() *keeper {
	k := new(keeper)
	k.context, k.stop = context.WithCancel(context.Background())
	return k
}

func (k *keeper) begin(h *Handler) {
	k.done.Go(func() { h.keepToken(k.context) })
}

// end stops the keeper. A fetch that others wait for goes on.
func (k *keeper) end() {
	if k != nil {
		k.stop()
		k.done.Wait()
	}
}

func (h *Handler) keepToken(ctx context.Context) {
	for {
		next := h.source.grant.keep(ctx, h.refreshAhead, h.source)
		timer := time.NewTimer(min(max(time.Until(next), shortestLook), longestLook))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}
