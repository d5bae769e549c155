package oauthcc

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

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

// startGatewayWithEvents is startGateway with a subscription to all of the module's events.
func startGatewayWithEvents(t *testing.T, site string) *gateway {
	t.Helper()
	seenEvents.mu.Lock()
	seenEvents.events, seenEvents.hold = nil, nil
	seenEvents.mu.Unlock()
	g := startGateway(t, "")
	g.events = "events {\non oauth_cc.token_obtained oauth_cc_test\non oauth_cc.token_failed oauth_cc_test\non oauth_cc.token_rejected oauth_cc_test\n}"
	g.reload(site)
	return g
}

// awaitEvents waits for so many events of that name.
func awaitEvents(t *testing.T, name string, n int) []caddy.Event {
	t.Helper()
	var found []caddy.Event
	awaitCondition(t, name, func() bool {
		found = eventsNamed(name)
		return len(found) >= n
	})
	return found
}

func eventsNamed(name string) (found []caddy.Event) {
	seenEvents.mu.Lock()
	defer seenEvents.mu.Unlock()
	for _, event := range seenEvents.events {
		if event.Name() == name {
			found = append(found, event)
		}
	}
	return found
}

func wantData(t *testing.T, event caddy.Event, want map[string]any) {
	t.Helper()
	if event.Origin() == nil || event.Origin().CaddyModule().ID != "http.handlers.oauth_cc" {
		t.Errorf("the origin is %v", event.Origin())
	}
	for _, name := range []string{"expires_at", "next_try"} { // what differs from run to run
		text, ok := event.Data[name].(string)
		if !ok {
			continue
		}
		at, err := time.Parse(time.RFC3339, text)
		if err != nil || at.Before(time.Now().Add(-time.Minute)) {
			t.Errorf("%s is %q", name, text)
		}
		want[name] = text
	}
	if len(event.Data) != len(want) {
		t.Errorf("data %v, want %v", event.Data, want)
	}
	for key, value := range want {
		if event.Data[key] != value {
			t.Errorf("%s = %v, want %v", key, event.Data[key], value)
		}
	}
}

func TestEventsOfTokens(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGatewayWithEvents(t, endpoint.options()+upstream.proxy())
	g.get("/")
	wantData(t, awaitEvents(t, eventObtained, 1)[0], map[string]any{
		"endpoint": endpoint.URL + "/token", "client_id": "app", "trigger": "miss", "token": fingerprint("token-1"), "shared": false, "expires_at": "",
	})
	upstream.revoke("token-1")
	g.get("/")
	wantData(t, awaitEvents(t, eventRejected, 1)[0], map[string]any{
		"endpoint": endpoint.URL + "/token", "client_id": "app", "token": fingerprint("token-1"), "status": 401, "error": "invalid_token",
	})
	wantData(t, awaitEvents(t, eventObtained, 2)[1], map[string]any{
		"endpoint": endpoint.URL + "/token", "client_id": "app", "trigger": "rejected", "token": fingerprint("token-2"), "shared": false, "expires_at": "",
	})
	if failed := eventsNamed(eventFailed); len(failed) > 0 {
		t.Errorf("failed: %v", failed)
	}
}

func TestEventOfAFailure(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		http.Error(w, `{"error":"invalid_client","error_description":"endpoint-canary"}`, http.StatusUnauthorized)
	})
	g := startGatewayWithEvents(t, endpoint.options()+upstream.proxy())
	for range 3 {
		g.get("/")
	}
	failed := awaitEvents(t, eventFailed, 1)
	wantData(t, failed[0], map[string]any{
		"endpoint": endpoint.URL + "/token", "client_id": "app", "trigger": "miss", "error": "invalid_client", "status": 401, "usable": false, "next_try": "",
	})
	if len(failed) != 1 {
		t.Errorf("%d events of one failure", len(failed))
	}
}

// One for each token, whatever a challenge says.
func TestEventOfARejectionIsNotForEachRequest(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGatewayWithEvents(t, endpoint.options()+upstream.proxy())
	g.get("/")
	upstream.setReject(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer error="upstream-canary"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	upstream.revoke("token-1")
	upstream.revoke("token-2")
	for range 5 {
		g.get("/")
	}
	rejected := awaitEvents(t, eventRejected, 2)
	if len(rejected) != 2 {
		t.Errorf("%d events of two tokens", len(rejected))
	}
	for _, event := range rejected {
		if event.Data["error"] != "" {
			t.Errorf("data %v", event.Data)
		}
	}
}

func TestEventsOfTenants(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGatewayWithEvents(t, "oauth_cc "+endpoint.URL+"/token {\nclient_id {http.request.header.X-Tenant}\nclient_secret s3cret-canary\n}\n"+upstream.proxy())
	upstream.revoke("token-1")
	req := clientRequest(t, http.MethodGet, g.url("/"), nil)
	req.Header.Set("X-Tenant", "acme")
	g.do(req)
	for _, name := range []string{eventObtained, eventRejected} {
		if event := awaitEvents(t, name, 1)[0]; event.Data["client_id"] != "acme" {
			t.Errorf("%s: %v", name, event.Data)
		}
	}
}

// A command that does not end holds up neither requests nor a reload.
func TestSlowEventHandlersHoldUpNobody(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGatewayWithEvents(t, endpoint.options()+upstream.proxy())
	hold := make(chan struct{})
	defer close(hold)
	seenEvents.mu.Lock()
	seenEvents.hold = hold
	seenEvents.mu.Unlock()
	if a := g.get("/"); a.status != http.StatusOK {
		t.Errorf("got %d", a.status)
	}
	awaitEvents(t, eventObtained, 1)
	upstream.revoke("token-1")
	if a := g.get("/"); a.body != "GET / with token-2" {
		t.Errorf("got %d %q", a.status, a.body)
	}
	g.reload(endpoint.options("refresh_ahead off") + upstream.proxy())
	if a := g.get("/"); a.body != "GET / with token-2" {
		t.Errorf("got %d %q", a.status, a.body)
	}
}

// Nor do they let a client, who can invent tenants, take up memory.
func TestSlowEventHandlersHoldNothing(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	endpoint.setAnswer(refuseClients)
	g := startGatewayWithEvents(t, "oauth_cc "+endpoint.URL+"/token {\nclient_id {http.request.header.X-Tenant}\nclient_secret s3cret-canary\nmax_tokens 8\n}\n"+upstream.proxy())
	hold := make(chan struct{})
	seenEvents.mu.Lock()
	seenEvents.hold = hold
	seenEvents.mu.Unlock()
	before := runtime.NumGoroutine()
	const tenants = 3 * maxEvents
	for i := range tenants {
		g.do(tenantRequest(t, g, fmt.Sprintf("tenant-%d", i)))
	}
	h := handlers.running()[0]
	awaitCondition(t, "the fetches are over", func() bool { return runtime.NumGoroutine() < before+20 })
	if n := len(h.table.all()); n > 8 {
		t.Errorf("%d entries are held", n)
	}
	if lost := g.logs.with("events are lost, since their handlers take too long"); len(lost) != 1 || lost[0]["event"] != eventFailed {
		t.Errorf("logged %v", lost)
	}
	close(hold)
	awaitEvents(t, eventFailed, maxEvents)
}

// The configuration that waits for it tells of it.
func TestEventOfAFetchThatOutlivesItsConfiguration(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGatewayWithEvents(t, endpoint.options()+upstream.proxy())
	release := make(chan struct{})
	endpoint.setAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		<-release
		refuseClients(w, r, n)
	})
	send := func(ctx context.Context) {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, g.url("/"), nil)
		_, _ = exchangeWith(testClient, req)
	}
	ctx, leave := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	clients.Go(func() { send(ctx) })
	awaitCondition(t, "the endpoint is asked", func() bool { return endpoint.count() == 1 })
	old := handlers.running()[0]
	clients.Go(func() { g.reload(endpoint.options("refresh_ahead off") + upstream.proxy()) })
	awaitCondition(t, "the next configuration runs", func() bool { return handlers.runningWith(old.key) != old })
	waiting := func() int {
		old.source.grant.mu.Lock()
		defer old.source.grant.mu.Unlock()
		return old.source.grant.flight.waiting
	}
	awaitCondition(t, "a client waits in the next configuration", func() bool {
		if waiting() < 2 {
			clients.Go(func() { send(t.Context()) })
		}
		return waiting() >= 2
	})
	leave()
	awaitCondition(t, "the old configuration has ended", func() bool { return old.ctx.Err() != nil })
	close(release)
	clients.Wait()
	awaitEvents(t, eventFailed, 1)
}

// What waits to be told is told by the configuration that takes over.
func TestEventsOutliveAReload(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGatewayWithEvents(t, endpoint.options()+upstream.proxy())
	hold := make(chan struct{})
	seenEvents.mu.Lock()
	seenEvents.hold = hold
	seenEvents.mu.Unlock()
	g.get("/")
	awaitEvents(t, eventObtained, 1)
	upstream.revoke("token-1")
	g.get("/")
	if told := eventsNamed(eventRejected); len(told) > 0 {
		t.Errorf("told before the first handler is done: %v", told)
	}
	g.reload(endpoint.options("refresh_ahead off") + upstream.proxy())
	close(hold)
	awaitEvents(t, eventRejected, 1)
	awaitEvents(t, eventObtained, 2)
}
