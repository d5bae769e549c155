package oauthcc

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
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
	var t *token
	src, err := h.sourceFor(repl)
	if err == nil {
		defer src.release()
		t, err = src.token(r.Context(), repl)
	}
	if err != nil {
		if !errors.Is(err, context.Canceled) { // else the client did not wait for it
			h.metrics.none.Inc()
		}
		if err = h.withoutToken(w, repl, err); err != nil {
			return err
		}
	}
	h.removeClientToken(r)

	if len(h.retryStatus) == 0 && h.prover == nil {
		if r.Trailer != nil && r.Body != nil {
			newTape(r, 0, h.budget, h.ownHeaders...)
		}
		if err := src.attach(r, t, ""); err != nil {
			return err
		}
		return h.detach(r, next.ServeHTTP(w, r))
	}
	x := &exchange{h: h, src: src, r: r, repl: repl, token: t}
	x.ResponseWriter = w
	return x.serve(next)
}

// token returns the token for a request, and notes where it came from. Only a request that
// finds none which can be served has to wait for one.
func (s *grantSource) token(ctx context.Context, repl *caddy.Replacer) (*token, error) {
	now := time.Now()
	t := s.grant.current.Load()
	switch {
	case t != nil && !s.hold(t).staleFrom.passed(now):
		repl.Set(statusPlaceholder, statusFresh)
		s.h.metrics.fresh.Inc()
	case t.usable(now):
		repl.Set(statusPlaceholder, statusStale)
		s.h.metrics.stale.Inc()
		s.grant.renewAhead(ctx, t, s)
	default:
		var err error
		if t, err = s.grant.get(ctx, s); err != nil {
			return nil, err
		}
		repl.Set(statusPlaceholder, statusFetched)
		s.h.metrics.fetched.Inc()
	}
	s.grant.uses.Add(1)
	return t, nil
}

// withoutToken decides what becomes of a request for which there is no token. It
// returns nil if it may be proxied all the same.
func (h *Handler) withoutToken(w http.ResponseWriter, repl *caddy.Replacer, err error) error {
	repl.Set(statusPlaceholder, statusNone)
	if missing, ok := errors.AsType[*missingValueError](err); ok {
		h.logger.Error("no token for a request", h.named(zap.Error(missing))...)
		err = &unavailableError{cause: &fetchError{class: classRefused, unsent: true}}
	}
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
	return caddyhttp.Error(failure.answer(w.Header()), failure)
}

// answer returns the status by which a caller is told of the failure, and sets the header
// that says when to come back (RFC 9110 §10.2.3).
func (e *unavailableError) answer(header http.Header) int {
	if !e.cause.transient() {
		return http.StatusBadGateway
	}
	seconds := max(1, int(math.Ceil(time.Until(e.retryAt).Seconds())))
	header.Set("Retry-After", strconv.Itoa(seconds))
	if e.cause.class == classTimeout && !e.waiting {
		return http.StatusGatewayTimeout
	}
	return http.StatusServiceUnavailable
}

// removeClientToken takes away what the client sent in the token's place. A client
// that names the token's header in Connection would have the proxy strip our token
// as well (RFC 9110 §7.6.1).
func (h *Handler) removeClientToken(r *http.Request) {
	for _, name := range h.ownHeaders {
		delete(r.Header, name)
	}
	lines, ok := r.Header["Connection"]
	if !ok {
		return
	}
	var kept []string
	for _, line := range lines {
		options := slices.DeleteFunc(strings.Split(line, ","), func(option string) bool {
			option = strings.TrimSpace(option)
			return slices.ContainsFunc(h.ownHeaders, func(name string) bool { return strings.EqualFold(option, name) })
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

// attach sets the token's header, and that of the proof, with this nonce or the last one if
// it is empty. The slices are the request's own: header operations change values in place.
func (s *grantSource) attach(r *http.Request, t *token, nonce string) error {
	if t == nil {
		return nil
	}
	h, held := s.h, s.hold(t)
	r.Header[h.headerName] = []string{held.header}
	if h.prover == nil {
		return nil
	}
	if err := h.prover.prove(r, held.hash, nonce); err != nil {
		return caddyhttp.Error(http.StatusInternalServerError, err)
	}
	return nil
}

// detach takes the token away again from a request that goes on to an error route,
// which may send it elsewhere. It returns err.
func (h *Handler) detach(r *http.Request, err error) error {
	if err != nil {
		for _, name := range h.ownHeaders {
			delete(r.Header, name)
		}
	}
	return err
}

// heldToken is what a handler makes of a token.
type heldToken struct {
	token     *token
	header    string // the value of the token's header
	hash      string // of the token, for proofs; empty without
	staleFrom moment // from then on it is renewed in the background
}

// hold makes it. A handler with one grant keeps it for as long as the token is used, so that
// not every request does it anew.
func (s *grantSource) hold(t *token) heldToken {
	h := s.h
	if h.table != nil {
		return h.makeHeld(t)
	}
	if held := h.held.Load(); held != nil && held.token == t {
		return *held
	}
	held := h.makeHeld(t)
	h.held.Store(&held)
	return held
}

func (h *Handler) makeHeld(t *token) heldToken {
	held := heldToken{token: t, header: t.bearer, staleFrom: h.refreshAhead.staleFrom(t)}
	if h.scheme != bearerScheme {
		held.header = h.scheme + t.value
	}
	if h.prover != nil {
		held.hash = hashToken(t.value)
	}
	return held
}

// hasBody reports whether the client's request has one, or trailers, which come at a
// body's end however short it is. A wrapped http.NoBody is only known by its length.
func hasBody(r *http.Request) bool {
	return r.Body != nil && r.Body != http.NoBody && (r.ContentLength != 0 || r.Trailer != nil)
}
