package oauthcc

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// exchange is a request on its way upstream: once, or again with another token, and with
// DPoP once more for each of these where the upstream wants a nonce of its own. It judges
// the response to an attempt while that is still in hand.
type exchange struct {
	guard
	h     *Handler
	src   *grantSource
	r     *http.Request
	repl  *caddy.Replacer
	saved *savedRequest
	tape  *tape  // nil without a body
	token *token // nil if there is none

	client       context.Context // the client's, which outlives each attempt but the last
	first        attemptContext
	body         io.ReadCloser    // of the next attempt
	renewed      bool             // the token is another one than at first
	renewedAgain bool             // and so is that, after another gateway's
	bare         bool             // the rejection did not say that the token was at fault
	outcome      rejectionOutcome // of the rejection of the first token
	nonce        string           // that the upstream wants with this token; empty until it has told
	failure      error            // why there is no other token

	method, path string // that the proof is for
}

func (x *exchange) serve(next caddyhttp.Handler) error {
	if hasBody(x.r) {
		limit := x.h.replayLimit
		if x.isLast() {
			limit = 0
		}
		x.tape = newTape(x.r, limit, x.h.budget, x.h.ownHeaders...)
		defer x.tape.release()
	}
	x.body = x.r.Body
	x.saved = saveRequest(x.r, x.Header())
	defer x.saved.release()
	x.client, x.judge = x.r.Context(), x
	defer x.count()

	for c := &x.first; ; c = new(attemptContext) {
		dropped, err := x.attempt(c, next)
		if !dropped {
			return x.h.detach(x.r, err)
		}
		x.restore(c)
		if x.failure != nil {
			if err := x.h.withoutToken(x, x.repl, x.failure); err != nil {
				return err
			}
		}
		if x.isLast() {
			return x.h.detach(x.r, x.send(next))
		}
	}
}

// isLast reports whether the response to the next attempt is final.
func (x *exchange) isLast() bool {
	return x.token == nil || x.renewed && !x.canRenewAgain() && (x.h.prover == nil || x.nonce != "")
}

// canRenewAgain reports whether the token comes from another gateway, and can be as old as
// the one that was rejected.
func (x *exchange) canRenewAgain() bool {
	return x.token.adopted && !x.renewedAgain
}

// attempt sends the request in a context of its own, in the request that the placeholders
// look at. That is not cancelled when all goes well, for handlers that come after this
// one. What became of a response that was dropped is of no interest, be it an error or the
// panic with which Caddy's proxy gives up writing.
func (x *exchange) attempt(c *attemptContext, next caddyhttp.Handler) (dropped bool, err error) {
	c.Context, x.cutOff = context.WithCancel(x.client)
	x.inContext(c)
	defer func() {
		if !x.dropped {
			return
		}
		if reason := recover(); reason != nil && reason != http.ErrAbortHandler {
			panic(reason)
		}
		dropped, err = true, nil
	}()
	return false, x.send(next)
}

// send attaches the token and passes the request on.
func (x *exchange) send(next caddyhttp.Handler) error {
	if err := x.src.attach(x.r, x.token, x.nonce); err != nil {
		return err
	}
	if x.h.prover == nil || x.token == nil {
		return next.ServeHTTP(&x.guard, x.r)
	}
	x.method, x.path = x.r.Method, x.r.URL.EscapedPath()
	return next.ServeHTTP(&x.guard, x.r)
}

// restore makes request and response what they were before an attempt.
func (x *exchange) restore(c *attemptContext) {
	x.guard.reset()
	if x.tape != nil {
		x.tape.settle()
	}
	c.end()
	x.inContext(x.client)
	x.saved.restore(x.r, x.Header())
	x.r.Body = x.body
}

// inContext changes the request's context in place.
func (x *exchange) inContext(ctx context.Context) {
	*x.r = *x.r.WithContext(ctx)
}

// verdict implements judge: it finds out whether the token or the proof was at fault and,
// if so, whether there is another one to replay the request with.
func (x *exchange) verdict(status int, header http.Header) (int, bool) {
	rejected := slices.Contains(x.h.retryStatus, status)
	code := x.h.challengeError(status, header)
	if x.h.prover != nil {
		nonce := x.h.prover.learn(header)
		if x.token != nil && (rejected || isOfProof(code)) && (x.method != x.r.Method || x.path != x.r.URL.EscapedPath()) {
			x.h.reportRewritten()
		}
		if code == "use_dpop_nonce" && nonce != "" && x.useNonce(nonce) {
			return status, true
		}
	}
	if rejected && x.token != nil {
		x.noteRejection(status, code)
	}
	switch {
	case x.token != nil && isOfProof(code):
		x.decide(rejectionPassed)
		x.reportRefusedProof(code)
	case rejected && x.token != nil && (!x.renewed || x.canRenewAgain()) && x.renew(code):
		return status, true
	case x.renewed:
		x.learn(rejected)
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

// useNonce prepares to send the request again with the same token and the nonce that the
// upstream wants (RFC 9449 §9), which is not the last one any more if another answer
// comes in between. It reports whether that can be done.
func (x *exchange) useNonce(nonce string) bool {
	if x.nonce != "" || x.token == nil {
		return false
	}
	x.nonce = nonce
	return x.rewind()
}

// rewind prepares the body for another attempt.
func (x *exchange) rewind() bool {
	if x.tape == nil {
		return true
	}
	cursor, ok := x.tape.rewind(x.isLast())
	if ok {
		x.body = cursor
	}
	return ok
}

// renew gets another token for a request that was rejected with this error code. It reports
// whether the rejection is to be dropped: for a replay, or because there is no token any
// more.
func (x *exchange) renew(code string) bool {
	if code == "insufficient_scope" || code == "invalid_request" {
		x.decide(rejectionPassed)
		return false
	}
	x.bare = code != "invalid_token"
	if x.tape != nil && !x.tape.hold() {
		x.decide(rejectionNotReplayable)
		level := zapcore.DebugLevel
		if x.src.grant.renewInBackground(x.client, x.token, x.bare, x.src) {
			level = zapcore.WarnLevel // once for each token
		}
		x.h.logger.Log(level, "the upstream rejected the token of a request whose body can't be sent again; the client gets the rejection",
			x.h.named(zap.String("token", fingerprint(x.token.value)), zap.Int64("replay_buffer", x.h.replayLimit))...)
		return false
	}
	t, err := x.src.grant.renew(x.client, x.token, x.bare, x.src)
	if errors.Is(err, errNotRenewed) {
		x.decide(rejectionPassed)
		if c := x.h.logger.Check(zapcore.DebugLevel, "the upstream rejected the token, and there is no other"); c != nil {
			c.Write(x.h.named(zap.String("token", fingerprint(x.token.value)))...)
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
	rejected, renewed := x.token, x.renewed
	x.token, x.renewed, x.renewedAgain, x.nonce = t, true, renewed, ""
	if !x.rewind() {
		x.token, x.renewed, x.renewedAgain = rejected, renewed, false
		x.decide(rejectionNotReplayable)
		return false
	}
	x.repl.Set(statusPlaceholder, statusReplayed)
	return true
}

// noteRejection takes note of a rejection, of which it is open what becomes of it.
func (x *exchange) noteRejection(status int, code string) {
	if x.outcome == notRejected {
		x.outcome = rejectionUncured
	}
	if x.src.grant.isRejected(x.token) {
		x.src.announceRejection(x.token, status, code)
	}
}

// decide notes what becomes of a rejection after which the request is not sent once more. It
// changes nothing for one that already was.
func (x *exchange) decide(outcome rejectionOutcome) {
	if x.outcome != notRejected && !x.renewed {
		x.outcome = outcome
	}
}

// count counts the request if its token was rejected.
func (x *exchange) count() {
	if x.outcome != notRejected {
		x.h.metrics.rejections[x.outcome].Inc()
	}
}

// challengeError is the error code that the upstream's challenge gives.
func (h *Handler) challengeError(status int, header http.Header) string {
	lines := header["Www-Authenticate"]
	if status < 400 || len(lines) == 0 {
		return ""
	}
	if h.prover != nil {
		if code := challengeError(lines, typeDPoP); code != "" {
			return code
		}
	}
	code := challengeError(lines, typeBearer)
	if h.prover == nil && isOfProof(code) {
		return "" // there is none
	}
	return code
}

// isOfProof reports whether an error code is about a DPoP proof, and not about the token
// (RFC 9449 §7.1 and §9).
func isOfProof(code string) bool {
	return code == "use_dpop_nonce" || code == "invalid_dpop_proof"
}

// learn takes note of the answer to a replay.
func (x *exchange) learn(rejected bool) {
	switch {
	case x.token == nil:
	case !rejected:
		x.outcome = rejectionCured
		x.src.grant.cured()
	case x.src.grant.notCured(x.token, x.bare):
		x.h.logger.Warn("the upstream rejected the renewed token as well; the client gets the rejection",
			x.h.named(zap.String("token", fingerprint(x.token.value)))...)
	}
}

// reportRewritten tells, once, that proofs are made too early. reverse_proxy's own rewrite
// can't be seen from here.
func (h *Handler) reportRewritten() {
	if h.prover.toldRewritten.CompareAndSwap(false, true) {
		h.logger.Error("the method or the path was changed after the DPoP proof for it was made, so the upstream refuses it; put oauth_cc after what changes them",
			h.named()...)
	}
}

// reportRefusedProof tells, once for each token, that the upstream does not accept a proof.
func (x *exchange) reportRefusedProof(code string) {
	if !x.src.grant.notProven(x.token) {
		return
	}
	h, r := x.h, x.r
	hint := "check that dpop has the origin by which the upstream knows itself, that nothing changes the path after oauth_cc, and the clocks of both sides"
	if code == "use_dpop_nonce" {
		hint = "the upstream wants a nonce; it gave none, or did not take the one it gave, or the request's body can't be sent again"
	}
	h.logger.Warn("the upstream refuses the DPoP proof; the client gets the rejection", h.named(
		zap.String("error", code),
		zap.String("proof_method", proofMethod(r)),
		zap.String("proof_origin", h.prover.origin),
		zap.String("hint", hint))...)
}
