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
	if x.tape != nil && !x.tape.hold() {
		level := zapcore.DebugLevel
		if x.h.grant.renewInBackground(x.token, x.bare, x.h) {
			level = zapcore.WarnLevel // once for each token
		}
		x.h.logger.Log(level, "the upstream rejected the token of a request whose body can't be sent again; the client gets the rejection",
			zap.String("token", fingerprint(x.token.value)),
			zap.Int64("replay_buffer", x.h.replayLimit))
		return false
	}
	t, err := x.h.grant.renew(x.client, x.token, x.bare, x.h)
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
