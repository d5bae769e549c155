package replay

import (
	"context"
	"net/http"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

// statusOfProxy is the placeholder in which reverse_proxy keeps what the last upstream answered, whatever a
// handler makes of it.
const statusOfProxy = "http.reverse_proxy.status_code"

// answers notes what the upstreams of an attempt answer that must not reach one twice: one may have done what it was
// asked, and a handler sends the request on to another, or writes another status.
//
// Caddy looks for its server in the context before it calls a handler, and reverse_proxy before each round
// trip. So no answer is replaced in the placeholder before it is noted here.
type answers struct {
	mu     sync.Mutex
	begun  bool // what the placeholder holds is of this attempt
	status int  // of all answers so far; 0 before the first
	mixed  bool // there were several
}

// note notes the last answer. What was there before the attempt is deleted: it would be taken for an answer
// if no upstream answers.
func (a *answers) note(ctx context.Context) {
	repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	value, _ := repl.Get(statusOfProxy)
	if !a.begun {
		a.begun = true
		repl.Delete(statusOfProxy)
		return
	}
	if status, ok := value.(int); ok {
		a.mixed = a.mixed || a.status != 0 && a.status != status
		a.status = status
	}
}

// areAll reports whether there were answers, and all of them had that status.
func (a *answers) areAll(status int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status == status && !a.mixed
}

// isSafe reports whether a method asks an upstream for nothing but an answer (RFC 9110 §9.2.1).
func isSafe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return true
	default:
		return false
	}
}
