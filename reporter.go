package oauthcc

import (
	"cmp"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/help"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/mask"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// reporter tells operators what happens to the grant of a configuration: by metrics, in the log and by
// events.
type reporter struct {
	// Set by Provision.
	ctx     caddy.Context     // of the configuration
	key     endpoint.GrantKey // of the grant
	public  endpoint.Request  // what may be told of the token request
	logger  *zap.Logger
	labels  metricLabels
	metrics *grantMetrics

	// Nil if there is no events app, as without Caddy's configuration.
	events     *caddyevents.App
	eventQueue *eventQueue

	certificates certificates // in use
}

// report counts a fetch, logs it and emits its event.
func (o *reporter) report(outcome tokencache.Outcome) {
	o.metrics.count(outcome)
	o.announce(outcome)
	logger := o.logger.With(
		zap.String("endpoint", outcome.Endpoint),
		zap.String("client_id", outcome.ClientID),
		zap.String("trigger", string(outcome.Trigger)),
		zap.Duration("duration", outcome.Took))
	if outcome.Failure != nil {
		logFailure(logger, outcome)
		return
	}
	message := "token obtained"
	if outcome.Granted.Adopted {
		message = "token found in the storage"
	}
	logger.Info(message,
		zap.String("token", tokencache.Fingerprint(outcome.Granted.Value)),
		zap.Duration("lifetime", outcome.Granted.Lifetime))
	if outcome.Narrowed {
		help.Write(logger.Check(zapcore.WarnLevel, "the endpoint granted fewer scopes than asked for"), "",
			zap.String("missing_scope", mask.FirstRunes(outcome.Granted.MissingScope, maxShownScopes)))
	}
	if outcome.Unusual {
		help.Write(logger.Check(zapcore.WarnLevel, "the token has an unusual token_type, and is used as a Bearer token"), "",
			zap.String("token_type", outcome.Granted.UnusualType))
	}
	if outcome.Replaced {
		hint := "nothing keeps the new one; have rotation turned off for this client at the authorization server, or use another grant"
		help.Write(logger.Check(zapcore.WarnLevel, "the endpoint has replaced the refresh token, and may not take the configured one again"), hint)
	}
	if outcome.AtEnd {
		help.Write(logger.Check(zapcore.WarnLevel, "the token has expired already when it is granted, and is used for a second"), outcome.Granted.AtEndHint)
	}
}

// grantFields are fields of a log entry, after those that say which of the configuration's grants it is
// about.
func (o *reporter) grantFields(fields ...zap.Field) []zap.Field {
	return append([]zap.Field{
		zap.String("endpoint", cmp.Or(o.public.Endpoint, o.public.Issuer)),
		zap.String("client_id", o.public.ClientID),
	}, fields...)
}

// failureFields are the fields of a log entry about a failure. The hint leads to the heading of its error code.
func failureFields(failure *endpoint.Error) []zap.Field {
	fields := []zap.Field{zap.String("error", failure.ErrorCode())}
	if failure.Status != 0 {
		fields = append(fields, zap.Int("status", failure.Status))
	}
	for _, text := range []struct{ key, value string }{
		{"detail", failure.Detail}, {"endpoint_message", failure.Said}, {"hint", help.Hint(failure.Hint, failure.ErrorCode())},
	} {
		if text.value != "" {
			fields = append(fields, zap.String(text.key, text.value))
		}
	}
	if failure.RetryAfter > 0 {
		fields = append(fields, zap.Duration("retry_after", failure.RetryAfter))
	}
	return fields
}

func logFailure(logger *zap.Logger, o tokencache.Outcome) {
	failure := *o.Failure
	failure.Hint = hintAfter(o.Failure, o.Known)
	fields := append(failureFields(&failure), zap.Duration("next_try", time.Until(o.RetryAt)))
	if o.Usable && !o.Rejected && o.Trigger != tokencache.TriggerRejected {
		logger.Warn("token not renewed; the current token stays in use", fields...)
		return
	}
	logger.Error("no token obtained", fields...)
}

// hintAfter is the hint about a failure. known tells that the grant has had a token before.
func hintAfter(failure *endpoint.Error, known bool) string {
	if known {
		return failure.HintAfterGrants()
	}
	return failure.Hint
}
