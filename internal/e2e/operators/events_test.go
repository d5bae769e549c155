package operators

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

const (
	eventObtained = "oauth_cc.token_obtained"
	eventFailed   = "oauth_cc.token_failed"
	eventRejected = "oauth_cc.token_rejected"
)

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
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithEvents(t, endpoint.Options()+upstream.Proxy())
	g.Get("/")
	wantData(t, gatewaytest.AwaitEvents(t, eventObtained, 1)[0], map[string]any{
		"endpoint": endpoint.URL + "/token", "client_id": "app", "trigger": "miss", "token": tokencache.Fingerprint("token-1"), "shared": false, "expires_at": "",
	})
	upstream.Revoke("token-1")
	g.Get("/")
	wantData(t, gatewaytest.AwaitEvents(t, eventRejected, 1)[0], map[string]any{
		"endpoint": endpoint.URL + "/token", "client_id": "app", "token": tokencache.Fingerprint("token-1"), "status": 401, "error": "invalid_token",
	})
	wantData(t, gatewaytest.AwaitEvents(t, eventObtained, 2)[1], map[string]any{
		"endpoint": endpoint.URL + "/token", "client_id": "app", "trigger": "rejected", "token": tokencache.Fingerprint("token-2"), "shared": false, "expires_at": "",
	})
	if failed := gatewaytest.EventsNamed(eventFailed); len(failed) > 0 {
		t.Errorf("failed: %v", failed)
	}
}

func TestEventOfAFailure(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		http.Error(w, `{"error":"invalid_client","error_description":"endpoint-canary"}`, http.StatusUnauthorized)
	})
	g := gatewaytest.StartWithEvents(t, endpoint.Options()+upstream.Proxy())
	for range 3 {
		g.Get("/")
	}
	failed := gatewaytest.AwaitEvents(t, eventFailed, 1)
	wantData(t, failed[0], map[string]any{
		"endpoint": endpoint.URL + "/token", "client_id": "app", "trigger": "miss", "error": "invalid_client", "status": 401, "usable": false, "next_try": "",
	})
	if len(failed) != 1 {
		t.Errorf("%d events of one failure", len(failed))
	}
}

// One for each token, whatever a challenge says.
func TestEventOfARejectionIsNotForEachRequest(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithEvents(t, endpoint.Options()+upstream.Proxy())
	g.Get("/")
	upstream.SetReject(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer error="upstream-canary"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	upstream.Revoke("token-1")
	upstream.Revoke("token-2")
	for range 5 {
		g.Get("/")
	}
	rejected := gatewaytest.AwaitEvents(t, eventRejected, 2)
	if len(rejected) != 2 {
		t.Errorf("%d events of two tokens", len(rejected))
	}
	for _, event := range rejected {
		if event.Data["error"] != "" {
			t.Errorf("data %v", event.Data)
		}
	}
}

// The status is that of HTTP, with which gRPC says nothing.
func TestEventOfARejectedGRPCCall(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	upstream.SetReject(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", "16")
	})
	upstream.Revoke("token-1")
	g := gatewaytest.StartWithEvents(t, endpoint.Options()+upstream.Proxy())
	g.Get("/")
	wantData(t, gatewaytest.AwaitEvents(t, eventRejected, 1)[0], map[string]any{
		"endpoint": endpoint.URL + "/token", "client_id": "app", "token": tokencache.Fingerprint("token-1"), "status": 200, "error": "",
	})
}

func TestEventsOfTenants(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithEvents(t, "oauth_cc "+endpoint.URL+"/token {\nclient_id {http.request.header.X-Tenant}\nclient_secret s3cret-canary\n}\n"+upstream.Proxy())
	upstream.Revoke("token-1")
	req := gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil)
	req.Header.Set("X-Tenant", "acme")
	g.Do(req)
	for _, name := range []string{eventObtained, eventRejected} {
		if event := gatewaytest.AwaitEvents(t, name, 1)[0]; event.Data["client_id"] != "acme" {
			t.Errorf("%s: %v", name, event.Data)
		}
	}
}

// A command that does not end holds up neither requests nor a reload.
func TestSlowEventHandlersHoldUpNobody(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithEvents(t, endpoint.Options()+upstream.Proxy())
	hold := make(chan struct{})
	defer close(hold)
	gatewaytest.HoldEvents(hold)
	if a := g.Get("/"); a.Status != http.StatusOK {
		t.Errorf("got %d", a.Status)
	}
	gatewaytest.AwaitEvents(t, eventObtained, 1)
	upstream.Revoke("token-1")
	if a := g.Get("/"); a.Body != "GET / with token-2" {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
	g.Reload(endpoint.Options("refresh_ahead off") + upstream.Proxy())
	if a := g.Get("/"); a.Body != "GET / with token-2" {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
}

// What waits to be told is told by the configuration that takes over.
func TestEventsOutliveAReload(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithEvents(t, endpoint.Options()+upstream.Proxy())
	hold := make(chan struct{})
	gatewaytest.HoldEvents(hold)
	g.Get("/")
	gatewaytest.AwaitEvents(t, eventObtained, 1)
	upstream.Revoke("token-1")
	g.Get("/")
	if told := gatewaytest.EventsNamed(eventRejected); len(told) > 0 {
		t.Errorf("told before the first handler is done: %v", told)
	}
	g.Reload(endpoint.Options("refresh_ahead off") + upstream.Proxy())
	close(hold)
	gatewaytest.AwaitEvents(t, eventRejected, 1)
	gatewaytest.AwaitEvents(t, eventObtained, 2)
}
