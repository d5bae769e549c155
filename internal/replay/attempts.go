package replay

import (
	"context"
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Attempts is a request that can be sent again, and the response writer for later handlers. Call Begin
// first and End last. One goroutine uses it; only the body is read by the transport's.
type Attempts struct {
	guard

	request *http.Request   // made by the server; changed in place
	client  context.Context // of the client's request
	base    context.Context // the next attempt's context comes from it; nil before the first attempt
	saved   *savedRequest   // what the request was before the first attempt
	tape    *tape           // nil without a body
	body    io.ReadCloser   // of the next attempt
	first   attempt         // here to save an allocation
}

// Begin prepares r to be sent several times. judge decides about each response before it reaches w.
func (x *Attempts) Begin(w http.ResponseWriter, r *http.Request, judge Judge) {
	x.ResponseWriter, x.judge = w, judge
	x.request, x.client, x.body = r, r.Context(), r.Body
	x.saved = saveRequest(r, w.Header())
}

// RecordBody records the body while it is read, if there is one. limit is the most bytes that are
// recorded, out of the budget; with 0, the body passes unrecorded. drop names the trailer fields that
// don't pass. RecordBody is optional, and must be called between Begin and the first attempt.
func (x *Attempts) RecordBody(limit int64, budget *Budget, drop []string) {
	if hasBody(x.request) {
		x.tape = newTape(x.request, limit, budget, drop)
		x.body = x.request.Body
	}
}

// End frees what the exchange holds. The exchange must not be used after that.
func (x *Attempts) End() {
	if x.shown != nil {
		x.shown.end()
		x.inContext(x.client) // handlers that come after this one use what placeholders see
	}
	x.saved.free()
	if x.tape != nil {
		if x.client.Err() != nil {
			x.tape.settle()
		}
		x.tape.free()
	}
}

// Send sends the request to next. It reports whether the response was dropped. If so, request and
// response are what they were before, and the body is the one that RewindBody or AbandonBody prepared.
//
// An attempt has its own context, which is cancelled if its dropped response takes too long, and its own
// variables. The context stays valid after an answer that passed, for later handlers. Errors of a dropped attempt are ignored, as
// is http.ErrAbortHandler, with which Caddy's proxy aborts.
func (x *Attempts) Send(next caddyhttp.Handler) (dropped bool, err error) {
	if x.base == nil {
		x.base, x.shown = firstVariables(x.request)
	}
	if x.current == nil {
		x.current = &x.first
	} else {
		x.current = new(attempt) // a transport can still have the context of the attempt before
	}
	x.current.Context, x.current.notes = x.base, !x.isHarmless()
	x.inContext(x.current)
	defer func() {
		if !x.dropped {
			x.removeKeptTrailers()
			return
		}
		if reason := recover(); reason != nil && reason != http.ErrAbortHandler {
			panic(reason)
		}
		x.restore()
		dropped, err = true, nil
	}()
	return false, x.pass(next)
}

// SendLast sends the request to next, in a context that ends with the client's. The judge must not drop the
// response.
func (x *Attempts) SendLast(next caddyhttp.Handler) error {
	defer x.removeKeptTrailers()
	return x.pass(next)
}

// pass calls next, and panics if the client's body did while a transport read it.
func (x *Attempts) pass(next caddyhttp.Handler) error {
	err := next.ServeHTTP(&x.guard, x.request)
	if x.tape != nil {
		x.tape.rethrow()
	}
	return err
}

// Request returns the request of Begin.
func (x *Attempts) Request() *http.Request { return x.request }

// ClientContext returns the context of the client's request. It outlives an attempt whose response is
// dropped.
func (x *Attempts) ClientContext() context.Context { return x.client }

// MayRepeat reports whether the request can be sent again without being carried out twice, when its response
// has that status: it is harmless, or each upstream that has answered this attempt answered with that status.
// Otherwise an upstream may have done what the request asks for, and the response is another's or a handler's.
func (x *Attempts) MayRepeat(status int) bool {
	return x.isHarmless() || x.current != nil && x.current.haveAll(status)
}

// isHarmless reports whether the request asks for nothing but an answer, as far as can be seen from here.
func (x *Attempts) isHarmless() bool {
	return isSafe(x.saved.method) && isSafe(x.request.Method) && (x.tape == nil || x.tape.isEmpty())
}

// HoldBody stops the current attempt from reading more of the body, while it is not known whether
// another attempt follows. It reports false if the body can't be sent again anyway.
func (x *Attempts) HoldBody() bool {
	return x.tape == nil || x.tape.hold()
}

// RewindBody prepares the body for another attempt. last means that no further attempt follows that
// one. It reports false, and changes nothing, if the body can't be sent again.
func (x *Attempts) RewindBody(last bool) bool {
	if x.tape == nil {
		return true
	}
	cursor, ok := x.tape.rewind(last)
	if ok {
		x.body, x.isRead = cursor, x.tape.isReading()
	}
	return ok
}

// AbandonBody takes the body away from the current attempt, and no other follows. The handler that
// answers instead can read it, if all of it can still be read.
func (x *Attempts) AbandonBody() {
	if x.tape != nil {
		x.body = x.tape.abandon()
		x.isRead = x.tape.isReading()
	}
}

// StopRecording lets the rest of the body pass unrecorded, as no further attempt follows.
func (x *Attempts) StopRecording() {
	if x.tape != nil {
		x.tape.stopRecording()
	}
}

// restore puts request and response back after an attempt whose response was dropped.
func (x *Attempts) restore() {
	x.guard.reset()
	x.base = withOwnVariables(x.client, variables(x.request.Context()), x.shown)
	x.inContext(x.base)
	x.saved.restore(x.request, x.Header())
	x.request.Body = x.body
}

// inContext changes the request's context in place: placeholders look at the request that the server
// made, whichever request a handler is called with.
func (x *Attempts) inContext(ctx context.Context) { setContext(x.request, ctx) }

// SendOnce sends a request of which nothing is kept for another attempt. drop names trailer fields that don't
// pass.
func SendOnce(next caddyhttp.Handler, w http.ResponseWriter, r *http.Request, drop []string) error {
	if r.Trailer == nil || r.Body == nil {
		return next.ServeHTTP(w, r)
	}
	t := newTape(r, 0, new(Budget), drop)
	err := next.ServeHTTP(w, r)
	t.rethrow()
	return err
}

// hasBody reports whether the client's request has a body, or trailers, which can follow an empty
// body. Another handler can have wrapped http.NoBody, so the length counts as well.
func hasBody(r *http.Request) bool {
	return r.Body != nil && r.Body != http.NoBody && (r.ContentLength != 0 || r.Trailer != nil)
}
