package gatewaytest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// EventText is all that the handler of events was told.
func EventText() string {
	seenEvents.mu.Lock()
	defer seenEvents.mu.Unlock()
	var text strings.Builder
	for _, event := range seenEvents.events {
		fmt.Fprintln(&text, event.Name(), event.Data)
	}
	return text.String()
}

// eventLog is an event handler of Caddy's that tests can look at.
type eventLog struct {
	mu     sync.Mutex
	events []caddy.Event
	hold   chan struct{} // it does not return before that is closed; nil: at once
}

var seenEvents = new(eventLog)

func init() {
	caddy.RegisterModule(testEvents{})
}

// testEvents notes the events that it gets.
type testEvents struct{}

func (testEvents) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.oauth_cc_test", New: func() caddy.Module { return new(testEvents) }}
}
func (testEvents) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (testEvents) Handle(ctx context.Context, event caddy.Event) error {
	seenEvents.mu.Lock()
	seenEvents.events = append(seenEvents.events, event)
	hold := seenEvents.hold
	seenEvents.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
		}
	}
	return nil
}

// StartWithEvents is startGateway with a subscription to all of the module's events.
func StartWithEvents(t *testing.T, site string) *Gateway {
	t.Helper()
	ForgetEvents()
	g := Start(t, "")
	g.Events = "events {\non oauth_cc.token_obtained oauth_cc_test\non oauth_cc.token_failed oauth_cc_test\non oauth_cc.token_rejected oauth_cc_test\n}"
	g.Reload(site)
	return g
}

// ForgetEvents forgets what the handler was told, and has it hold nothing.
func ForgetEvents() {
	seenEvents.mu.Lock()
	defer seenEvents.mu.Unlock()
	seenEvents.events, seenEvents.hold = nil, nil
}

// HoldEvents has the handler return from no event before the channel is closed.
func HoldEvents(hold chan struct{}) {
	seenEvents.mu.Lock()
	defer seenEvents.mu.Unlock()
	seenEvents.hold = hold
}

// AwaitEvents waits for so many events of that name.
func AwaitEvents(t *testing.T, name string, n int) []caddy.Event {
	t.Helper()
	var found []caddy.Event
	Await(t, name, func() bool {
		found = EventsNamed(name)
		return len(found) >= n
	})
	return found
}

func EventsNamed(name string) (found []caddy.Event) {
	seenEvents.mu.Lock()
	defer seenEvents.mu.Unlock()
	for _, event := range seenEvents.events {
		if event.Name() == name {
			found = append(found, event)
		}
	}
	return found
}
