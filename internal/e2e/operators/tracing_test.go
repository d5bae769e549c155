package operators

import (
	"net/http"
	"slices"
	"testing"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func wantAttributes(t *testing.T, s tracetest.SpanStub, want map[string]any) {
	t.Helper()
	got := gatewaytest.AttributesOf(s)
	if len(got) != len(want) {
		t.Errorf("attributes %v, want %v", got, want)
	}
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s = %v, want %v", key, got[key], value)
		}
	}
}

func TestFetchIsASpanBelowItsRequest(t *testing.T) {
	spans := gatewaytest.CollectSpans(t)
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, "tracing {\nspan gateway\n}\n"+endpoint.Options()+upstream.Proxy())
	g.Get("/")
	g.Get("/") // with the same token
	requests := spans.Await(t, "gateway", 2)
	fetch := spans.Await(t, gatewaytest.FetchSpan, 1)[0]
	request := requests[slices.IndexFunc(requests, func(s tracetest.SpanStub) bool { return s.SpanContext.SpanID() == fetch.Parent.SpanID() })]
	if fetch.SpanContext.TraceID() != request.SpanContext.TraceID() || fetch.SpanKind != trace.SpanKindClient || fetch.Status.Code != codes.Unset {
		t.Errorf("the span is %+v below %+v", fetch, request)
	}
	wantAttributes(t, fetch, map[string]any{
		"oauth_cc.endpoint": endpoint.URL + "/token", "oauth_cc.client_id": "app", "oauth_cc.trigger": "miss", "oauth_cc.result": "ok",
	})
	// What goes on inside is none of the authorization server's business.
	if got := endpoint.Recorded()[0].Header.Get("Traceparent"); got != "" {
		t.Errorf("the endpoint was sent %q", got)
	}
}

func TestFailedFetchIsASpanThatFailed(t *testing.T) {
	spans := gatewaytest.CollectSpans(t)
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		http.Error(w, `{"error":"invalid_client","error_description":"endpoint-canary"}`, http.StatusUnauthorized)
	})
	g := gatewaytest.Start(t, "tracing {\nspan gateway\n}\n"+endpoint.Options()+upstream.Proxy())
	g.Get("/")
	fetch := spans.Await(t, gatewaytest.FetchSpan, 1)[0]
	if fetch.Status.Code != codes.Error || fetch.Status.Description != "invalid_client" {
		t.Errorf("status %+v", fetch.Status)
	}
	wantAttributes(t, fetch, map[string]any{
		"oauth_cc.endpoint": endpoint.URL + "/token", "oauth_cc.client_id": "app", "oauth_cc.trigger": "miss",
		"oauth_cc.result": "invalid_client", "http.response.status_code": int64(401),
	})
}

// Whichever way a request starts a fetch.
func TestRenewalsAreSpansBelowTheirRequests(t *testing.T) {
	if !gatewaytest.Apart(t) {
		return
	}
	spans := gatewaytest.CollectSpans(t)
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.Lifetime = 2
	g := gatewaytest.Start(t, "tracing {\nspan gateway\n}\n"+endpoint.Options("refresh_ahead 90%")+upstream.Proxy())
	g.Get("/")
	gatewaytest.Await(t, "it is renewed ahead", func() bool {
		g.Get("/")
		return slices.ContainsFunc(spans.Named(gatewaytest.FetchSpan), func(s tracetest.SpanStub) bool { return gatewaytest.AttributesOf(s)["oauth_cc.trigger"] == "ahead" })
	})
	endpoint.SetLifetime(3600)
	gatewaytest.Await(t, "it is replaced", func() bool {
		body := g.Get("/").Body
		upstream.Revoke(body[len("GET / with "):])
		g.Get("/")
		return slices.ContainsFunc(spans.Named(gatewaytest.FetchSpan), func(s tracetest.SpanStub) bool { return gatewaytest.AttributesOf(s)["oauth_cc.trigger"] == "rejected" })
	})
	for _, s := range spans.Named(gatewaytest.FetchSpan) {
		if !s.Parent.IsValid() {
			t.Errorf("without a parent: %v", gatewaytest.AttributesOf(s))
		}
	}
}

// A fetch that no request has started is in no trace.
func TestPrefetchingIsNoSpan(t *testing.T) {
	spans := gatewaytest.CollectSpans(t)
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, "tracing {\nspan gateway\n}\n"+endpoint.Options("prefetch")+upstream.Proxy())
	gatewaytest.Await(t, "the first token is there", func() bool { return len(g.Logs.With("token obtained")) > 0 })
	g.Get("/")
	spans.Await(t, "gateway", 1)
	if got := spans.Named(gatewaytest.FetchSpan); len(got) > 0 {
		t.Errorf("spans %v", got)
	}
}
