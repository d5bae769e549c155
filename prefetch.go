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
	woken   chan struct{} // has an element if the token is to be looked at now
}

// newKeeper makes one that begins once the configuration runs.
func newKeeper() *keeper {
	k := &keeper{woken: make(chan struct{}, 1)}
	k.context, k.stop = context.WithCancel(context.Background())
	return k
}

func (k *keeper) begin(h *Handler) {
	k.done.Go(func() { h.keepToken(k.context) })
}

// wake has the token looked at now.
func (k *keeper) wake() {
	if k == nil {
		return
	}
	select {
	case k.woken <- struct{}{}:
	default: // it will be anyway
	}
}

// end stops the keeper. A fetch that others wait for goes on.
func (k *keeper) end() {
	if k != nil {
		k.stop()
		k.done.Wait()
	}
}

// wakened tells when to look; never without a keeper.
func (k *keeper) wakened() <-chan struct{} {
	if k == nil {
		return nil
	}
	return k.woken
}

func (h *Handler) keepToken(ctx context.Context) {
	for {
		next := h.source.grant.keep(ctx, h.refreshAhead, h.source)
		timer := time.NewTimer(min(max(time.Until(next), shortestLook), longestLook))
		select {
		case <-timer.C:
		case <-h.keeper.wakened():
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}
