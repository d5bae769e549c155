package oauthcc

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// startSpan begins the span of a fetch as a child of the request's span. Fetches without a request, or with one
// that Caddy does not trace, get a span that records nothing.
func startSpan(ctx, request context.Context) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(request)
	ctx = trace.ContextWithSpan(ctx, parent)
	return parent.TracerProvider().Tracer("http.handlers.oauth_cc").
		Start(ctx, "fetch access token", trace.WithSpanKind(trace.SpanKindClient))
}

// endSpan ends the span of a fetch with the outcome.
func endSpan(span trace.Span, o tokencache.Outcome) {
	defer span.End()
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(
		attribute.String("oauth_cc.endpoint", o.Endpoint),
		attribute.String("oauth_cc.client_id", o.ClientID),
		attribute.String("oauth_cc.trigger", string(o.Trigger)),
		attribute.String("oauth_cc.result", o.Result()))
	if o.Failure == nil {
		return
	}
	if o.Failure.Status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", o.Failure.Status))
	}
	span.SetStatus(codes.Error, o.Failure.ErrorCode())
}
