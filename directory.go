package oauthcc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// handlers lists the handlers of all configurations in this process.
var handlers directory

// directory lists handlers in the order in which they were provisioned.
type directory struct {
	mu   sync.Mutex
	list []*Handler
}

func (d *directory) add(h *Handler) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = append(d.list, h)
}

func (d *directory) remove(h *Handler) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = slices.DeleteFunc(d.list, func(other *Handler) bool { return other == h })
}

// all returns the handlers that are provisioned, also those of a configuration that is only validated.
func (d *directory) all() []*Handler {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.list)
}

// hasOneIn reports whether a handler of the HTTP app is provisioned. The newest come first.
func (d *directory) hasOneIn(app *caddyhttp.App) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range slices.Backward(d.list) {
		if appAround(h.reporter.ctx) == app {
			return true
		}
	}
	return false
}

// running returns the handlers whose configuration runs. During a reload, two configurations run for a moment.
func (d *directory) running() []*Handler {
	return slices.DeleteFunc(d.all(), func(h *Handler) bool { return !h.running.Load() })
}

// runningWith returns the running handler that has this grant, that of the newest configuration, or nil.
func (d *directory) runningWith(key endpoint.GrantKey) *Handler {
	running := d.running()
	for _, h := range slices.Backward(running) {
		if h.tokens.key == key {
			return h
		}
	}
	return nil
}

// beginWhenStarted starts prefetching and events when the configuration runs. A configuration that is only validated,
// or fails to load, never starts them.
func (h *Handler) beginWhenStarted(ctx caddy.Context) error {
	begin := func() {
		h.running.Store(true)
		if h.reporter.eventQueue != nil {
			go h.reporter.runEvents()
		}
		if h.keeper != nil {
			h.keeper.Begin(h.tokens.source.grant, h.tokens.ahead, h.tokens.source)
		}
	}
	app, err := ctx.AppIfConfigured("events")
	switch {
	case errors.Is(err, caddy.ErrNotConfigured):
		begin() // there is no Caddy around the handler, as in tests
	case err != nil:
		return err
	default:
		h.reporter.events, h.reporter.eventQueue = app.(*caddyevents.App), newEventQueue()
		if err := h.reporter.events.On("started", configurationStarted{sync.OnceFunc(begin)}); err != nil {
			return fmt.Errorf("waiting for the start: %w", err)
		}
	}
	return nil
}

// configurationStarted handles Caddy's event "started", which says that a configuration runs. Its field is not
// exported, since Caddy logs the handlers of events.
type configurationStarted struct {
	begin func()
}

// Handle implements caddyevents.Handler. An event "started" with an origin comes from some module and not from
// Caddy.
func (s configurationStarted) Handle(_ context.Context, event caddy.Event) error {
	if event.Origin() == nil {
		s.begin()
	}
	return nil
}

// Interface guard
var _ caddyevents.Handler = configurationStarted{}
