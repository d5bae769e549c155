package oauthcc

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"testing"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// spanCollector is an exporter of traces to the test that runs. The library's own forgets
// all when a configuration ends.
type spanCollector struct {
	mu    sync.Mutex
	spans tracetest.SpanStubs
}

var collectedSpans spanCollector

func init() {
	autoexport.RegisterSpanExporter("oauth_cc_test", func(context.Context) (sdktrace.SpanExporter, error) { return &collectedSpans, nil })
}

func (c *spanCollector) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spans = append(c.spans, tracetest.SpanStubsFromReadOnlySpans(spans)...)
	return nil
}

func (*spanCollector) Shutdown(context.Context) error { return nil }

// named returns the spans of that name.
func (c *spanCollector) named(name string) tracetest.SpanStubs {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.spans), func(s tracetest.SpanStub) bool { return s.Name != name })
}

// collectSpans has Caddy's tracing export to the collector, at once.
func collectSpans(t *testing.T) *spanCollector {
	t.Setenv("OTEL_TRACES_EXPORTER", "oauth_cc_test")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
	collectedSpans.mu.Lock()
	defer collectedSpans.mu.Unlock()
	collectedSpans.spans = nil
	return &collectedSpans
}

const fetchSpan = "fetch access token"

func (c *spanCollector) await(t *testing.T, name string, n int) tracetest.SpanStubs {
	t.Helper()
	awaitCondition(t, "the spans are exported", func() bool { return len(c.named(name)) >= n })
	spans := c.named(name)
	if len(spans) != n {
		t.Fatalf("%d spans %s, want %d", len(spans), name, n)
	}
	return spans
}

func attributesOf(s tracetest.SpanStub) map[string]any {
	found := make(map[string]any)
	for _, attribute := range s.Attributes {
		found[string(attribute.Key)] = attribute.Value.AsInterface()
	}
	return found
}

func wantAttributes(t *testing.T, s tracetest.SpanStub, want map[string]any) {
	t.Helper()
	got := attributesOf(s)
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
	spans := collectSpans(t)
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, "tracing {\nspan gateway\n}\n"+endpoint.options()+upstream.proxy())
	g.get("/")
	g.get("/") // with the same token
	requests := spans.await(t, "gateway", 2)
	fetch := spans.await(t, fetchSpan, 1)[0]
	request := requests[slices.IndexFunc(requests, func(s tracetest.SpanStub) bool { return s.SpanContext.SpanID() == fetch.Parent.SpanID() })]
	if fetch.SpanContext.TraceID() != request.SpanContext.TraceID() || fetch.SpanKind != trace.SpanKindClient || fetch.Status.Code != codes.Unset {
		t.Errorf("the span is %+v below %+v", fetch, request)
	}
	wantAttributes(t, fetch, map[string]any{
		"oauth_cc.endpoint": endpoint.URL + "/token", "oauth_cc.client_id": "app", "oauth_cc.trigger": "miss", "oauth_cc.result": "ok",
	})
	// What goes on inside is none of the authorization server's business.
	if got := endpoint.recorded()[0].header.Get("Traceparent"); got != "" {
		t.Errorf("the endpoint was sent %q", got)
	}
}

func TestFailedFetchIsASpanThatFailed(t *testing.T) {
	spans := collectSpans(t)
	endpoint, upstream := startTokenServer(t), startAPI(t)
	endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		http.Error(w, `{"error":"invalid_client","error_description":"endpoint-canary"}`, http.StatusUnauthorized)
	})
	g := startGateway(t, "tracing {\nspan gateway\n}\n"+endpoint.options()+upstream.proxy())
	g.get("/")
	fetch := spans.await(t, fetchSpan, 1)[0]
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
	spans := collectSpans(t)
	endpoint, upstream := startTokenServer(t), startAPI(t)
	endpoint.lifetime = 2
	g := startGateway(t, "tracing {\nspan gateway\n}\n"+endpoint.options("refresh_ahead 90%")+upstream.proxy())
	g.get("/")
	awaitCondition(t, "it is renewed ahead", func() bool {
		g.get("/")
		return slices.ContainsFunc(spans.named(fetchSpan), func(s tracetest.SpanStub) bool { return attributesOf(s)["oauth_cc.trigger"] == "ahead" })
	})
	endpoint.mu.Lock()
	endpoint.lifetime = 3600
	endpoint.mu.Unlock()
	awaitCondition(t, "it is replaced", func() bool {
		body := g.get("/").body
		upstream.revoke(body[len("GET / with "):])
		g.get("/")
		return slices.ContainsFunc(spans.named(fetchSpan), func(s tracetest.SpanStub) bool { return attributesOf(s)["oauth_cc.trigger"] == "rejected" })
	})
	for _, s := range spans.named(fetchSpan) {
		if !s.Parent.IsValid() {
			t.Errorf("without a parent: %v", attributesOf(s))
		}
	}
}

// A fetch that no request has started is in no trace.
func TestPrefetchingIsNoSpan(t *testing.T) {
	spans := collectSpans(t)
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, "tracing {\nspan gateway\n}\n"+endpoint.options("prefetch")+upstream.proxy())
	awaitCondition(t, "the first token is there", func() bool { return len(g.logs.with("token obtained")) > 0 })
	g.get("/")
	spans.await(t, "gateway", 1)
	if got := spans.named(fetchSpan); len(got) > 0 {
		t.Errorf("spans %v", got)
	}
}
