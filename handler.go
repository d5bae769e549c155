package oauthcc

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/help"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/replay"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// Placeholders that the handler sets on a request.
const (
	statusPlaceholder = "http.oauth_cc.status"
	errorPlaceholder  = "http.oauth_cc.error"
)

// Values of {http.oauth_cc.status}.
const (
	statusFresh    = "fresh"
	statusStale    = "stale"
	statusFetched  = "fetched"
	statusReplayed = "replayed"
	statusNone     = "none"
)

// statusClientClosedRequest is what Caddy logs for a client that did not wait.
const statusClientClosedRequest = 499

// ServeHTTP finds the token for the request, attaches it and passes the request on. exchange handles what
// follows if the upstream rejects the token.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if h.KeepClientAuthorization && h.carrier.hasClientToken(r) {
		repl.Set(statusPlaceholder, statusNone)
		return next.ServeHTTP(w, r)
	}
	if isRepeated(r.Method) {
		repl.Set(statusPlaceholder, statusNone)
		h.carrier.removeClientToken(r)
		x := &exchange{h: h, repl: repl}
		return x.serve(w, r, next)
	}
	if isPreflight(r) {
		return h.servePreflight(w, r, repl, next)
	}

	src, err := h.sourceFor(repl)
	now := time.Now()
	var t *tokencache.Token
	if err == nil {
		defer src.release()
		t, err = src.tokenFor(r.Context(), repl, now)
	}
	if err != nil {
		if !errors.Is(err, context.Canceled) { // else the client did not wait for it
			h.reporter.metrics.none.Inc()
		}
		if err = h.answerWithoutToken(w, repl, err); err != nil {
			return err
		}
	}

	h.carrier.removeClientToken(r)
	if !h.judgesAnswers() {
		return h.passOnce(w, r, src, t, next)
	}
	x := &exchange{h: h, src: src, repl: repl, current: attempt{token: t, from: now}}
	return x.serve(w, r, next)
}

// isRepeated reports whether the answer to a request with this method repeats the request to the client (RFC 9110
// §9.3.8), with the token in it. Not all servers care how the method is written, and TRACK is Microsoft's TRACE.
func isRepeated(method string) bool {
	return strings.EqualFold(method, http.MethodTrace) || strings.EqualFold(method, "TRACK")
}

// tokenFor returns the token for a request, and notes where it came from. A request waits only if there is none or
// a due one.
func (s *grantSource) tokenFor(ctx context.Context, repl *caddy.Replacer, now time.Time) (*tokencache.Token, error) {
	cached := s.grant.Current()
	if s.takeTimely(ctx, repl, cached, now) {
		return cached, nil
	}
	w := &waitingSource{grantSource: s}
	t, err := s.grant.Get(ctx, w)
	switch {
	case err != nil:
		return nil, err
	case t != cached && w.waited:
		s.take(repl, statusFetched, s.h.reporter.metrics.fetched)
	case t != cached && s.takeTimely(ctx, repl, t, now): // it came in the meantime
	default: // there was no other
		s.take(repl, statusStale, s.h.reporter.metrics.stale)
	}
	return t, nil
}

// tokenAtHand returns the token for a request that does not wait, and notes where it came from. It is nil if there is
// none.
func (s *grantSource) tokenAtHand(ctx context.Context, repl *caddy.Replacer) *tokencache.Token {
	now := time.Now()
	if t := s.grant.Current(); s.takeTimely(ctx, repl, t, now) {
		return t
	}
	t := s.grant.Live(now)
	if t != nil {
		s.take(repl, statusStale, s.h.reporter.metrics.stale)
	}
	return t
}

// takeTimely takes a token for a request if it is fresh or stale. The cases are those of tokencache.StateOf, with the
// staleFrom that prepare keeps.
func (s *grantSource) takeTimely(ctx context.Context, repl *caddy.Replacer, t *tokencache.Token, now time.Time) bool {
	switch {
	case t != nil && !s.prepare(t).staleFrom.Passed(now):
		s.take(repl, statusFresh, s.h.reporter.metrics.fresh)
	case t.Timely(now):
		s.take(repl, statusStale, s.h.reporter.metrics.stale)
		s.grant.RenewAhead(ctx, t, s)
	default:
		return false
	}
	return true
}

// take notes where the token of a request came from. status is a string; as an interface it costs no allocation.
func (s *grantSource) take(repl *caddy.Replacer, status any, counter prometheus.Counter) {
	repl.Set(statusPlaceholder, status)
	counter.Inc()
	s.grant.CountUse()
}

// answerWithoutToken returns the error for a request without a token, or nil if the request may be proxied without
// one. It sets the placeholders.
func (h *Handler) answerWithoutToken(w http.ResponseWriter, repl *caddy.Replacer, err error) error {
	repl.Set(statusPlaceholder, statusNone)
	if missing, ok := errors.AsType[*missingValueError](err); ok {
		help.Write(h.reporter.logger.Check(zapcore.ErrorLevel, "no token for a request"), "", h.reporter.grantFields(zap.Error(missing))...)
		err = &tokencache.UnavailableError{Cause: &endpoint.Error{Class: endpoint.ClassRefused, Unsent: true}}
	}
	failure, ok := errors.AsType[*tokencache.UnavailableError](err)
	if !ok {
		// The client did not wait for the token, or was not allowed to.
		if errors.Is(err, context.DeadlineExceeded) {
			return caddyhttp.Error(http.StatusGatewayTimeout, err)
		}
		return caddyhttp.Error(statusClientClosedRequest, err)
	}
	repl.Set(errorPlaceholder, failure.Cause.ErrorCode())
	if h.AllowWithoutToken {
		return nil
	}
	return caddyhttp.Error(statusFor(failure, w.Header()), failure)
}

// statusFor returns the status for the client, and sets Retry-After (RFC 9110 §10.2.3).
func statusFor(e *tokencache.UnavailableError, header http.Header) int {
	if !e.Cause.IsTransient() {
		return http.StatusBadGateway
	}
	seconds := max(1, int(math.Ceil(time.Until(e.RetryAt).Seconds())))
	header.Set("Retry-After", strconv.Itoa(seconds))
	if e.Cause.Class == endpoint.ClassTimeout && !e.Waiting && !e.Again {
		return http.StatusGatewayTimeout
	}
	return http.StatusServiceUnavailable
}

// judgesAnswers reports whether an answer of the upstream can be a reason to send a request again.
func (h *Handler) judgesAnswers() bool {
	return len(h.rejections.statuses) > 0 || h.carrier.prover != nil
}

// passOnce sends a request whose answer is final. t is nil without a token.
func (h *Handler) passOnce(w http.ResponseWriter, r *http.Request, src *grantSource, t *tokencache.Token, next caddyhttp.Handler) error {
	if t == nil {
		return replay.SendOnce(next, w, r, h.carrier.fields)
	}
	defer h.carrier.detachAtEnd(r, r.Header)
	sent := new(struct { // in one allocation
		tokenlessWriter
		field
	})
	sent.field[0] = src.prepare(t).header // there is no proof where no answer is judged
	r.Header[h.carrier.header] = sent.field[:]
	sent.tokenlessWriter = h.carrier.tokenless(w, r)
	return replay.SendOnce(next, &sent.tokenlessWriter, r, h.carrier.fields)
}
