package replay

import (
	"context"
	"maps"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// ownVariables is a context in which the request's variables are a map of its own. A connection that an
// earlier attempt is still dialling reads that attempt's map, so nothing may write to it any more.
type ownVariables struct {
	context.Context
	vars  map[string]any
	shown *shownVariables // nil if placeholders find vars by themselves
}

// withOwnVariables returns ctx with a copy of vars, or ctx if there are none.
func withOwnVariables(ctx context.Context, vars map[string]any, shown *shownVariables) context.Context {
	if vars == nil {
		return ctx
	}
	c := &ownVariables{Context: ctx, vars: maps.Clone(vars), shown: shown}
	if shown != nil {
		shown.current.Store(c)
	}
	return c
}

// Value implements context.Context. A handler looks up the replacer before it replaces placeholders.
func (c *ownVariables) Value(key any) any {
	switch key {
	case caddyhttp.VarsCtxKey:
		return c.vars
	case caddy.ReplacerCtxKey:
		if c.shown != nil && c.shown.current.Load() == c {
			c.shown.update()
		}
	}
	return c.Context.Value(key)
}

// shownVariables are what placeholders see if they look at another request than the one that the handler
// was given. Its map is written when a replay has changed something, so no dial may read it: each attempt
// has its own variables, the first one too.
type shownVariables struct {
	current atomic.Pointer[ownVariables] // of the last attempt so far; nil after the request

	mu     sync.Mutex
	vars   map[string]any // where placeholders look
	copied map[string]any // what vars has got from the attempts
}

// firstVariables returns the context from which the first attempt's comes. shown is nil if placeholders
// see the variables in the context of r. Then the first attempt needs no copy of them.
func firstVariables(r *http.Request) (ctx context.Context, shown *shownVariables) {
	vars := variables(r.Context())
	if vars == nil || placeholdersLookAt(r) {
		return r.Context(), nil
	}
	shown = &shownVariables{vars: vars, copied: maps.Clone(vars)}
	return withOwnVariables(r.Context(), vars, shown), shown
}

// update shows what the current attempt has changed. Nothing else is written: connections that handlers
// before this one are dialling may read it.
func (s *shownVariables) update() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.updateLocked()
}

// end shows what the last attempt has left. After that, nothing is written: a connection that is still being
// dialled can ask for more at any time.
func (s *shownVariables) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.updateLocked()
	s.current.Store(nil)
}

func (s *shownVariables) updateLocked() {
	current := s.current.Load()
	if current == nil {
		return
	}
	vars := current.vars
	for name, value := range vars {
		if before, ok := s.copied[name]; !ok || !same(before, value) {
			s.vars[name], s.copied[name] = value, value
		}
	}
	if len(s.copied) == len(vars) {
		return
	}
	for name := range s.copied {
		if _, ok := vars[name]; !ok {
			delete(s.vars, name)
			delete(s.copied, name)
		}
	}
}

// same reports whether a variable is unchanged. What can't be compared counts as changed.
func same(a, b any) bool { return reflect.ValueOf(a).Comparable() && a == b }

// variables returns the request's variables, or nil if there are none.
func variables(ctx context.Context) map[string]any {
	vars, _ := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any)
	return vars
}

// placeholdersLookAt reports whether placeholders see what is changed in r. They look at the request that
// the server made. Handlers such as tracing pass on a copy of it, and nothing leads from the copy back.
func placeholdersLookAt(r *http.Request) bool {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return true // there are no placeholders
	}
	method := r.Method
	r.Method = "" // no server makes such a request
	seen, ok := repl.Get("http.request.method")
	r.Method = method
	return !ok || seen == ""
}
