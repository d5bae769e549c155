package replay

import (
	"context"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// attempt is the context of one attempt. It notes what upstreams answer, and can be cut off. What that takes is made
// when somebody wants to know of it, such as a transport.
type attempt struct {
	context.Context // of the request

	notes   bool // what upstreams answer
	answers answers

	mu     sync.Mutex
	inner  context.Context // that ends with the attempt; nil until somebody asks for it
	cancel context.CancelFunc
	isCut  bool
}

// cutOff ends the attempt.
func (a *attempt) cutOff() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.isCut = true; a.cancel != nil {
		a.cancel()
	}
}

// ending returns a context that ends with the attempt.
func (a *attempt) ending() context.Context {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.inner == nil {
		a.inner, a.cancel = context.WithCancel(a.Context)
		if a.isCut {
			a.cancel()
		}
	}
	return a.inner
}

// Done implements context.Context.
func (a *attempt) Done() <-chan struct{} { return a.ending().Done() }

// Err implements context.Context.
func (a *attempt) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.inner != nil:
		return a.inner.Err()
	case a.isCut:
		return context.Canceled
	}
	return a.Context.Err()
}

// Value implements context.Context. It asks the context around this one first: that can be another attempt's,
// and needs what is deleted by noting an answer.
func (a *attempt) Value(key any) any {
	if _, ok := key.(*int); ok { // package context looks for the nearest context that it knows how to wait for
		return a.ending().Value(key)
	}
	value := a.Context.Value(key)
	if a.notes && key == caddyhttp.ServerCtxKey {
		a.answers.note(a.Context)
	}
	return value
}

// haveAll reports whether upstreams are known to have answered, and all of them with that status.
func (a *attempt) haveAll(status int) bool {
	if !a.notes {
		return false
	}
	a.answers.note(a.Context)
	return a.answers.areAll(status)
}
