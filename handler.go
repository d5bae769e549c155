package oauthcc

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Placeholders that the handler sets on a request.
const (
	statusPlaceholder = "http.oauth_cc.status"
	errorPlaceholder  = "http.oauth_cc.error"
)

// Values of {http.oauth_cc.status}.
const (
	statusFresh    = "fresh"
	statusFetched  = "fetched"
	statusReplayed = "replayed"
	statusNone     = "none"
)

// statusClientClosedRequest is what Caddy logs for a client that did not wait.
const statusClientClosedRequest = 499

// trigger is the reason for a fetch, as logs tell it.
type trigger string

const (
	triggerMiss     trigger = "miss"
	triggerRejected trigger = "rejected"
)

// ServeHTTP attaches a token to the request and passes it on. If the upstream rejects
// the token, the request is sent once more with another one.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if h.KeepClientAuthorization && slices.ContainsFunc(r.Header[h.headerName], func(v string) bool { return v != "" }) {
		repl.Set(statusPlaceholder, statusNone)
		return next.ServeHTTP(w, r)
	}
	if r.Method == http.MethodTrace {
		// The answer repeats the request to the client (RFC 9110 §9.3.8).
		repl.Set(statusPlaceholder, statusNone)
		h.removeClientToken(r)
		return next.ServeHTTP(w, r)
	}
	repl.Set(statusPlaceholder, statusFresh)
	t := h.grant.usable()
	if t == nil {
		repl.Set(statusPlaceholder, statusFetched)
		var err error
		if t, err = h.grant.get(r.Context(), h.fetch(triggerMiss)); err != nil {
			if err = h.withoutToken(w, repl, err); err != nil {
				return err
			}
		}
	}
	h.removeClientToken(r)

	if len(h.retryStatus) == 0 {
		if r.Trailer != nil && r.Body != nil {
			newTape(r, 0, h.budget, h.headerName)
		}
		h.attach(r, t)
		return h.detach(r, next.ServeHTTP(w, r))
	}
	x := &exchange{h: h, r: r, repl: repl, token: t}
	x.ResponseWriter = w
	return x.serve(next)
}

// withoutToken decides what becomes of a request for which there is no token. It
// returns nil if it may be proxied all the same.
func (h *Handler) withoutToken(w http.ResponseWriter, repl *caddy.Replacer, err error) error {
	repl.Set(statusPlaceholder, statusNone)
	failure, ok := errors.AsType[*unavailableError](err)
	if !ok {
		// The client did not wait for the token, or was not allowed to.
		if errors.Is(err, context.DeadlineExceeded) {
			return caddyhttp.Error(http.StatusGatewayTimeout, err)
		}
		return caddyhttp.Error(statusClientClosedRequest, err)
	}
	repl.Set(errorPlaceholder, failure.cause.errorCode())
	if h.AllowWithoutToken {
		return nil
	}
	status := http.StatusBadGateway
	if failure.cause.transient() {
		status = http.StatusServiceUnavailable
		if failure.cause.class == classTimeout && !failure.waiting {
			status = http.StatusGatewayTimeout
		}
		seconds := max(1, int(math.Ceil(time.Until(failure.retryAt).Seconds())))
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
	}
	return caddyhttp.Error(status, failure)
}

// removeClientToken takes away what the client sent in the token's place. A client
// that names the token's header in Connection would have the proxy strip our token
// as well (RFC 9110 §7.6.1).
func (h *Handler) removeClientToken(r *http.Request) {
	delete(r.Header, h.headerName)
	lines, ok := r.Header["Connection"]
	if !ok {
		return
	}
	var kept []string
	for _, line := range lines {
		options := slices.DeleteFunc(strings.Split(line, ","), func(option string) bool {
			return strings.EqualFold(strings.TrimSpace(option), h.headerName)
		})
		if len(options) > 0 {
			kept = append(kept, strings.Join(options, ","))
		}
	}
	if len(kept) == 0 {
		delete(r.Header, "Connection")
		return
	}
	r.Header["Connection"] = kept
}

// attach sets the token's header. The slice is the request's own: header operations
// change values in place.
func (h *Handler) attach(r *http.Request, t *token) {
	if t != nil {
		r.Header[h.headerName] = []string{h.rendered.of(t, h.scheme)}
	}
}

// detach takes the token away again from a request that goes on to an error route,
// which may send it elsewhere. It returns err.
func (h *Handler) detach(r *http.Request, err error) error {
	if err != nil {
		delete(r.Header, h.headerName)
	}
	return err
}

// renderedToken keeps the value of the token's header for as long as the token is
// used, so that not every request writes it anew.
type renderedToken struct {
	last atomic.Pointer[renderedValue]
}

type renderedValue struct {
	token *token
	value string
}

func (c *renderedToken) of(t *token, scheme string) string {
	last := c.last.Load()
	if last == nil || last.token != t {
		last = &renderedValue{token: t, value: scheme + t.value}
		c.last.Store(last)
	}
	return last.value
}

// hasBody reports whether the client's request has one, or trailers, which come at a
// body's end however short it is. A wrapped http.NoBody is only known by its length.
func hasBody(r *http.Request) bool {
	return r.Body != nil && r.Body != http.NoBody && (r.ContentLength != 0 || r.Trailer != nil)
}

// exchange is a request on its way upstream, once or twice. It judges the response
// to the first attempt while that is still in hand.
type exchange struct {
	guard
	h     *Handler
	r     *http.Request
	repl  *caddy.Replacer
	saved *savedRequest
	tape  *tape  // nil without a body
	token *token // nil if there is none

	client   context.Context // the client's, which outlives the first attempt
	first    attemptContext
	body     io.ReadCloser // of the next attempt
	replayed bool
	bare     bool  // the rejection did not say that the token was at fault
	failure  error // why there is no other token
}

func (x *exchange) serve(next caddyhttp.Handler) error {
	if hasBody(x.r) {
		x.tape = newTape(x.r, x.h.replayLimit, x.h.budget, x.h.headerName)
		defer x.tape.release()
	}
	x.body = x.r.Body
	x.saved = saveRequest(x.r, x.Header())
	defer x.saved.release()

	// The context of the first attempt, in the request that the placeholders look at.
	// It is not cancelled when all goes well, for handlers that come after this one.
	x.client = x.r.Context()
	attempt, cutOff := context.WithCancel(x.client)
	x.first.Context = attempt
	x.inContext(&x.first)
	x.judge, x.cutOff = x, cutOff

	x.h.attach(x.r, x.token)
	dropped, err := x.attempt(next)
	if !dropped {
		return x.h.detach(x.r, err)
	}
	x.restore()
	x.repl.Set(statusPlaceholder, statusReplayed)
	if x.failure != nil {
		if err := x.h.withoutToken(x, x.repl, x.failure); err != nil {
			return err
		}
	}
	x.replayed = true
	x.h.attach(x.r, x.token)
	return x.h.detach(x.r, next.ServeHTTP(&x.guard, x.r))
}

// attempt sends the request the first time. What became of a response that was
// dropped is of no interest, be it an error or the panic with which Caddy's proxy
// gives up writing.
func (x *exchange) attempt(next caddyhttp.Handler) (dropped bool, err error) {
	defer func() {
		if !x.dropped {
			return
		}
		if reason := recover(); reason != nil && reason != http.ErrAbortHandler {
			panic(reason)
		}
		dropped, err = true, nil
	}()
	return false, next.ServeHTTP(&x.guard, x.r)
}

// restore makes request and response what they were before the first attempt.
func (x *exchange) restore() {
	x.guard.reset()
	if x.tape != nil {
		x.tape.settle()
	}
	x.first.end()
	x.inContext(x.client)
	x.saved.restore(x.r, x.Header())
	x.r.Body = x.body
}

// inContext changes the request's context in place.
func (x *exchange) inContext(ctx context.Context) {
	*x.r = *x.r.WithContext(ctx)
}

// verdict implements judge: it finds out whether the token was at fault and, if so,
// whether there is another one to replay the request with.
func (x *exchange) verdict(status int, header http.Header) (int, bool) {
	rejected := slices.Contains(x.h.retryStatus, status)
	if x.replayed {
		x.learn(rejected)
	} else if rejected && x.token != nil && x.renew(header["Www-Authenticate"]) {
		return status, true
	}
	if x.tape != nil {
		x.tape.stop()
	}
	if rejected && x.h.MaskRejection != 0 {
		delete(header, "Www-Authenticate")
		return x.h.MaskRejection, false
	}
	return status, false
}

// renew gets another token for a request that was rejected. It reports whether the
// rejection is to be dropped: for a replay, or because there is no token any more.
func (x *exchange) renew(challenges []string) bool {
	code := bearerError(challenges)
	if code == "insufficient_scope" || code == "invalid_request" {
		return false
	}
	x.bare = code != "invalid_token"
	fetch := x.h.fetch(triggerRejected)
	if x.tape != nil && !x.tape.hold() {
		level := zapcore.DebugLevel
		if x.h.grant.renewInBackground(x.token, x.bare, fetch) {
			level = zapcore.WarnLevel // once for each token
		}
		x.h.logger.Log(level, "the upstream rejected the token of a request whose body can't be sent again; the client gets the rejection",
			zap.String("token", fingerprint(x.token.value)),
			zap.Int64("replay_buffer", x.h.replayLimit))
		return false
	}
	t, err := x.h.grant.renew(x.client, x.token, x.bare, fetch)
	if errors.Is(err, errNotRenewed) {
		if c := x.h.logger.Check(zapcore.DebugLevel, "the upstream rejected the token, and there is no other"); c != nil {
			c.Write(zap.String("token", fingerprint(x.token.value)))
		}
		return false
	}
	x.failure = err
	if err != nil && !x.h.AllowWithoutToken {
		if x.tape != nil {
			x.body = x.tape.abandon()
		}
		return true
	}
	if x.tape != nil {
		cursor, ok := x.tape.rewind()
		if !ok {
			return false
		}
		x.body = cursor
	}
	x.token = t
	return true
}

// learn takes note of the answer to a replay.
func (x *exchange) learn(rejected bool) {
	switch {
	case x.token == nil:
	case !rejected:
		x.h.grant.cured()
	case x.h.grant.notCured(x.token, x.bare):
		x.h.logger.Warn("the upstream rejected the renewed token as well; the client gets the rejection",
			zap.String("token", fingerprint(x.token.value)))
	}
}

// fetch returns the function that gets a token with this configuration and tells the
// log what became of it.
func (h *Handler) fetch(why trigger) fetchFunc {
	return func(ctx context.Context) (grantedToken, error) {
		start := time.Now()
		var request grantRequest
		granted, err := h.client.fetch(ctx, func() (_ grantRequest, err error) {
			request, err = h.resolve()
			return request, err
		})
		logger := h.logger.With(
			zap.String("endpoint", request.endpointName()),
			zap.String("client_id", request.clientID),
			zap.String("trigger", string(why)),
			zap.Duration("duration", time.Since(start)))
		if err != nil {
			if ctx.Err() == nil { // else nobody waits for it any more
				h.logFailure(logger, err)
			}
			return granted, err
		}
		logger.Info("token obtained",
			zap.String("token", fingerprint(granted.value)),
			zap.Duration("lifetime", granted.lifetime))
		if h.grant.narrows(granted.missingScope) {
			logger.Warn("the endpoint granted fewer scopes than asked for",
				zap.String("missing_scope", granted.missingScope))
		}
		return granted, nil
	}
}

func (h *Handler) logFailure(logger *zap.Logger, err error) {
	failure, ok := errors.AsType[*fetchError](err)
	if !ok {
		failure = &fetchError{class: classUnreachable}
	}
	fields := []zap.Field{zap.String("error", failure.errorCode())}
	if failure.status != 0 {
		fields = append(fields, zap.Int("status", failure.status))
	}
	for _, text := range []struct{ key, value string }{
		{"detail", failure.detail}, {"endpoint_message", failure.said}, {"hint", failure.hint},
	} {
		if text.value != "" {
			fields = append(fields, zap.String(text.key, text.value))
		}
	}
	if failure.retryAfter > 0 {
		fields = append(fields, zap.Duration("retry_after", failure.retryAfter))
	}
	if h.grant.usable() != nil {
		logger.Warn("token not renewed; the one at hand is used on", fields...)
		return
	}
	logger.Error("no token obtained", fields...)
}
