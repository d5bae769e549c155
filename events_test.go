package oauthcc

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"regexp"
	"runtime"
	"runtime/pprof"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// Nor do they let a client, who can invent tenants, take up memory.
func TestSlowEventHandlersHoldNothing(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.SetAnswer(gatewaytest.RefuseClients)
	g := gatewaytest.StartWithEvents(t, "oauth_cc "+endpoint.URL+"/token {\nclient_id {http.request.header.X-Tenant}\nclient_secret s3cret-canary\nmax_tokens 8\n}\n"+upstream.Proxy())
	hold := make(chan struct{})
	gatewaytest.HoldEvents(hold)
	before := runtime.NumGoroutine()
	const tenants = 3 * maxEvents
	for i := range tenants {
		g.Do(gatewaytest.TenantRequest(t, g, fmt.Sprintf("tenant-%d", i)))
	}
	h := handlers.running()[0]
	gatewaytest.Await(t, "the fetches are over", func() bool { return runtime.NumGoroutine() < before+20 })
	if n := len(h.tokens.table.All()); n > 8 {
		t.Errorf("%d entries are held", n)
	}
	if lost := g.Logs.With("events are lost, since their handlers take too long"); len(lost) != 1 || lost[0]["event"] != eventFailed {
		t.Errorf("logged %v", lost)
	}
	close(hold)
	gatewaytest.AwaitEvents(t, eventFailed, maxEvents)
}

// waitingForTokens counts the requests that wait for a fetch.
func waitingForTokens() int {
	var stacks bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&stacks, 2)
	return len(waitingGoroutine.FindAll(stacks.Bytes(), -1))
}

var waitingGoroutine = regexp.MustCompile(`(?m)^goroutine \d+ \[select.*\]:\n.*internal/tokencache\.\(\*Grant\)\.wait\(`)

// The configuration that waits for it tells of it.
func TestEventOfAFetchThatOutlivesItsConfiguration(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithEvents(t, endpoint.Options()+upstream.Proxy())
	release := make(chan struct{})
	endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		<-release
		gatewaytest.RefuseClients(w, r, n)
	})
	send := func(ctx context.Context) {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, g.URL("/"), nil)
		_, _ = gatewaytest.Exchange(gatewaytest.Client, req)
	}
	ctx, leave := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	clients.Go(func() { send(ctx) })
	gatewaytest.Await(t, "the endpoint is asked", func() bool { return endpoint.Count() == 1 })
	old := handlers.running()[0]
	clients.Go(func() { g.Reload(endpoint.Options("refresh_ahead off") + upstream.Proxy()) })
	gatewaytest.Await(t, "the next configuration runs", func() bool { return handlers.runningWith(old.tokens.key) != old })
	gatewaytest.Await(t, "a client waits in the next configuration", func() bool {
		if waitingForTokens() < 2 {
			clients.Go(func() { send(t.Context()) })
		}
		return waitingForTokens() >= 2
	})
	leave()
	gatewaytest.Await(t, "the old configuration has ended", func() bool { return old.reporter.ctx.Err() != nil })
	close(release)
	clients.Wait()
	gatewaytest.AwaitEvents(t, eventFailed, 1)
}

// What fails while a configuration starts is not tried again for some time.
func TestEventsOfAStartAreKept(t *testing.T) {
	h := provisionedConfig(t, configWithClient("client_id app", "client_secret x"))
	h.reporter.events, h.reporter.eventQueue = new(caddyevents.App), newEventQueue()
	if err := h.reporter.events.Provision(h.reporter.ctx); err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 2)
	h.reporter.emit(eventFailed, func() map[string]any { return nil }) // a request came early
	if err := h.reporter.events.On(eventFailed, toldOf(told)); err != nil {
		t.Fatal(err)
	}
	go h.reporter.runEvents() // now it runs
	select {
	case name := <-told:
		if name != eventFailed {
			t.Errorf("told of %s", name)
		}
	case <-time.After(gatewaytest.Patience):
		t.Error("told of nothing")
	}
}

// toldOf is a handler of events.
type toldOf chan<- string

func (c toldOf) Handle(_ context.Context, event caddy.Event) error {
	c <- event.Name()
	return nil
}
