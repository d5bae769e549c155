package oauthcc

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
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
	stop context.CancelFunc
	done sync.WaitGroup
}

// provisionPrefetch sets up a keeper that begins once the configuration runs: one that
// is only validated, or fails to load, asks for no token.
func (h *Handler) provisionPrefetch(ctx caddy.Context) error {
	if !h.Prefetch {
		return nil
	}
	app, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("prefetch: %w", err)
	}
	keeping, stop := context.WithCancel(context.Background())
	h.keeper = &keeper{stop: stop}
	start := configurationStarted{sync.OnceFunc(func() {
		h.keeper.done.Go(func() { h.keepToken(keeping) })
	})}
	if err := app.(*caddyevents.App).On("started", start); err != nil {
		stop()
		return fmt.Errorf("prefetch: %w", err)
	}
	return nil
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

// configurationStarted handles the event with which Caddy tells that a configuration
// runs. It has no exported fields, since Caddy logs handlers of events.
type configurationStarted struct {
	begin func()
}

// Handle implements caddyevents.Handler. An event of that name with an origin is some
// module's own.
func (s configurationStarted) Handle(_ context.Context, event caddy.Event) error {
	if event.Origin() == nil {
		s.begin()
	}
	return nil
}

// Interface guard
var _ caddyevents.Handler = configurationStarted{}
