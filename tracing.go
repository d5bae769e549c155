package oauthcc

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// startSpan begins the span of a fetch, below that of the request which started it. Without
// such a span it is one that nobody sees: Caddy's tracing is a handler of requests.
func startSpan(parent trace.Span) (context.Context, trace.Span) {
	ctx := trace.ContextWithSpan(context.Background(), parent)
	return parent.TracerProvider().Tracer("http.handlers.oauth_cc").
		Start(ctx, "fetch access token", trace.WithSpanKind(trace.SpanKindClient))
}

// endSpan ends it.
func endSpan(span trace.Span, o outcome) {
	defer span.End()
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(
		attribute.String("oauth_cc.endpoint", o.endpoint),
		attribute.String("oauth_cc.client_id", o.clientID),
		attribute.String("oauth_cc.trigger", string(o.trigger)),
		attribute.String("oauth_cc.result", o.result()))
	if o.failure == nil {
		return
	}
	if o.failure.status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", o.failure.status))
	}
	span.SetStatus(codes.Error, o.failure.errorCode())
}
