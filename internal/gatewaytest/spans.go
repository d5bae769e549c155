package gatewaytest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// Text is all that was traced.
func (c *SpanCollector) Text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var text strings.Builder
	for _, span := range c.spans {
		fmt.Fprintln(&text, span.Name, span.Attributes, span.Events, span.Status, span.Resource)
	}
	return text.String()
}

// SpanCollector is an exporter of traces to the test that runs. The library's own forgets
// all when a configuration ends.
type SpanCollector struct {
	mu    sync.Mutex
	spans tracetest.SpanStubs
}

var collectedSpans SpanCollector

func init() {
	autoexport.RegisterSpanExporter("oauth_cc_test", func(context.Context) (sdktrace.SpanExporter, error) { return &collectedSpans, nil })
}

func (c *SpanCollector) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spans = append(c.spans, tracetest.SpanStubsFromReadOnlySpans(spans)...)
	return nil
}

func (*SpanCollector) Shutdown(context.Context) error { return nil }

// Named returns the spans of that name.
func (c *SpanCollector) Named(name string) tracetest.SpanStubs {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.spans), func(s tracetest.SpanStub) bool { return s.Name != name })
}

// CollectSpans has Caddy's tracing export to the collector, at once.
func CollectSpans(t *testing.T) *SpanCollector {
	t.Setenv("OTEL_TRACES_EXPORTER", "oauth_cc_test")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
	collectedSpans.mu.Lock()
	defer collectedSpans.mu.Unlock()
	collectedSpans.spans = nil
	return &collectedSpans
}

const FetchSpan = "fetch access token"

func (c *SpanCollector) Await(t *testing.T, name string, n int) tracetest.SpanStubs {
	t.Helper()
	Await(t, "the spans are exported", func() bool { return len(c.Named(name)) >= n })
	spans := c.Named(name)
	if len(spans) != n {
		t.Fatalf("%d spans %s, want %d", len(spans), name, n)
	}
	return spans
}

func AttributesOf(s tracetest.SpanStub) map[string]any {
	found := make(map[string]any)
	for _, attribute := range s.Attributes {
		found[string(attribute.Key)] = attribute.Value.AsInterface()
	}
	return found
}
