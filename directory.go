package oauthcc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

// handlers are those of all configurations in this process.
var handlers directory

// directory lists handlers in the order in which they were set up.
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

// all returns those that are set up, be it only to see that they can be.
func (d *directory) all() []*Handler {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.list)
}

// running returns those whose configuration runs. In the moment in which one configuration
// takes over from another, both do.
func (d *directory) running() []*Handler {
	return slices.DeleteFunc(d.all(), func(h *Handler) bool { return !h.running.Load() })
}

// runningWith returns the handler that runs and has this grant, the one of the newest
// configuration, or nil.
func (d *directory) runningWith(key grantKey) *Handler {
	running := d.running()
	for _, h := range slices.Backward(running) {
		if h.key == key {
			return h
		}
	}
	return nil
}

// enterDirectory has the handler listed, and has it run once its configuration does: one
// that is only validated, or fails to load, never runs.
func (h *Handler) enterDirectory(ctx caddy.Context) error {
	begin := func() {
		h.running.Store(true)
		if h.eventQueue != nil {
			go h.tellEvents()
		}
		if h.keeper != nil {
			h.keeper.begin(h)
		}
	}
	app, err := ctx.AppIfConfigured("events")
	switch {
	case errors.Is(err, caddy.ErrNotConfigured):
		begin() // it is used without Caddy's configuration
	case err != nil:
		return err
	default:
		h.events, h.eventQueue = app.(*caddyevents.App), newEventQueue()
		if err := h.events.On("started", configurationStarted{sync.OnceFunc(begin)}); err != nil {
			return fmt.Errorf("waiting for the start: %w", err)
		}
	}
	handlers.add(h)
	return nil
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
