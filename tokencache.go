package oauthcc

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/fleet"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// maxFetches is how many fetches of a handler's per-request grants can be in progress.
const maxFetches = 64

// grants holds the tokens of all configurations in this process, by endpoint.GrantKey: a *pooledGrant, or a
// *pooledTable for per-request grants. Tokens stay as long as a configuration uses them.
var grants = caddy.NewUsagePool()

// pooledGrant is a grant with the metadata of its issuer.
type pooledGrant struct {
	*tokencache.Grant
	server endpoint.Discovery
}

// pooledTable is a table of grants with the metadata of their issuer, which is the same for all of them.
type pooledTable struct {
	*tokencache.Table
	server endpoint.Discovery
}

// tokenAccess is a configuration's way to its tokens.
type tokenAccess struct {
	// Set by Provision.
	key       endpoint.GrantKey
	client    *endpoint.Client
	transport *endpointTransport  // of the client
	server    *endpoint.Discovery // what is known of the issuer
	sharing   *fleet.Sharing      // nil without storage
	ahead     tokencache.RefreshAhead
	source    *grantSource      // nil for per-request grants
	table     *tokencache.Table // nil if it does not

	slots    chan struct{}                 // holds an element for each fetch of the table in progress
	prepared atomic.Pointer[preparedToken] // the last one of the source
}

// joinCache acquires the configuration's grant from the pool, or the table of its per-request grants.
func (h *Handler) joinCache() error {
	if h.request.placeholders == nil {
		pooled, err := acquireGrant(h.tokens.key, func() *pooledGrant { return &pooledGrant{Grant: tokencache.NewGrant()} })
		if err != nil {
			return err
		}
		h.tokens.source, h.tokens.server, h.holds.grant = &grantSource{h: h, grant: pooled.Grant}, &pooled.server, true
		return nil
	}
	pooled, err := acquireGrant(h.tokens.key, func() *pooledTable { return &pooledTable{Table: tokencache.NewTable(h.MaxTokens)} })
	if err != nil {
		return err
	}
	h.tokens.table, h.tokens.server, h.holds.grant = pooled.Table, &pooled.server, true
	h.tokens.slots = make(chan struct{}, maxFetches)
	return nil
}

// acquireGrant returns what the pool has under that key, or puts a new one there.
func acquireGrant[T caddy.Destructor](key endpoint.GrantKey, create func() T) (T, error) {
	value, _, err := grants.LoadOrNew(key, func() (caddy.Destructor, error) {
		return create(), nil
	})
	if err != nil {
		var none T
		return none, err
	}
	return value.(T), nil
}

func releaseGrant(key endpoint.GrantKey) error {
	_, err := grants.Delete(key)
	return err
}

// allGrants are the grants that the handler has tokens of.
func (a *tokenAccess) allGrants() []*tokencache.Grant {
	if a.table == nil {
		return []*tokencache.Grant{a.source.grant}
	}
	entries := a.table.All()
	all := make([]*tokencache.Grant, len(entries))
	for i, e := range entries {
		all[i] = &e.Grant
	}
	return all
}

// grantSource is the way to the tokens of one grant with one configuration.
type grantSource struct {
	h      *Handler
	grant  *tokencache.Grant
	values []string // what the placeholders of the request stand for
}

// sourceFor finds the grant of a request. The source is to be released.
func (h *Handler) sourceFor(repl *caddy.Replacer) (*grantSource, error) {
	if h.tokens.table == nil {
		return h.tokens.source, nil
	}
	values, err := h.request.values(repl)
	if err != nil {
		return nil, err
	}
	entry := h.tokens.table.Acquire(endpoint.NewGrantKey([]string{string(h.tokens.key[:])}, values), func() []string { return shownValues(h.request.placeholders, values) })
	return &grantSource{h: h, grant: &entry.Grant, values: values}, nil
}

// release ends the use of the source by a request.
func (s *grantSource) release() { s.grant.Release() }

// prepare returns the token as this configuration uses it. A handler with one grant keeps the last one, so that it
// is not made anew for each request.
func (s *grantSource) prepare(t *tokencache.Token) preparedToken {
	a := &s.h.tokens
	if a.table != nil {
		return s.h.carrier.prepare(t, a.ahead)
	}
	if prepared := a.prepared.Load(); prepared != nil && prepared.token == t {
		return *prepared
	}
	prepared := s.h.carrier.prepare(t, a.ahead)
	a.prepared.Store(&prepared)
	return prepared
}

// Fetch implements tokencache.Source.
func (s *grantSource) Fetch(ctx context.Context, task tokencache.Task) tokencache.Fetched {
	ctx, cancel := context.WithTimeout(ctx, s.Limit())
	defer cancel()
	ctx = endpoint.WithRetryTrace(ctx, task.Retrying)
	f := &tokenFetch{grantSource: s, request: s.h.request.template()}
	if s.h.tokens.table != nil {
		if !s.h.tokens.acquireSlot(ctx, task) {
			return f.named(tokencache.Fetched{Queued: true, Failure: &endpoint.Error{
				Class: endpoint.ClassTimeout, Unsent: true,
				Detail: fmt.Sprintf("%d other token requests of this handler were in progress all the time", maxFetches),
			}})
		}
		defer s.h.tokens.releaseSlot()
	}
	if s.h.tokens.sharing != nil {
		// Sharing derives its key from the request. The request is resolved again before it is sent: the wait
		// for another gateway can take seconds, and the credential can be replaced meanwhile.
		if _, err := f.resolve(ctx); err == nil {
			return f.named(s.h.tokens.sharing.Fetch(ctx, task, &f.request, f.ask))
		}
	}
	return f.ask(ctx)
}

// tokenFetch is one fetch by a source.
type tokenFetch struct {
	*grantSource
	request endpoint.Request // as it was resolved last; the template until then
}

// resolve resolves the placeholders of the request.
func (f *tokenFetch) resolve(ctx context.Context) (endpoint.Request, error) {
	resolved, err := f.h.request.resolveWithin(ctx, f.values)
	if err == nil {
		f.request = resolved
	}
	return resolved, err
}

// ask asks the token endpoint.
func (f *tokenFetch) ask(ctx context.Context) tokencache.Fetched {
	server := f.h.tokens.server
	granted, failure := f.h.tokens.client.Fetch(ctx, f.resolve, server)
	if discovered := server.EndpointFor(f.request); discovered != "" {
		f.request.Endpoint = discovered
	}
	if stale := server.TakeStaleReason(); stale != nil {
		f.h.reporter.logger.Warn("the issuer's metadata could not be read again; the known metadata stays in use",
			append([]zap.Field{zap.String("issuer", f.request.Issuer)}, failureFields(stale)...)...)
	}
	return f.named(tokencache.Fetched{Granted: tokencache.Offer{Granted: granted}, Failure: failure})
}

// named adds the endpoint and the client to a result, as logs show them.
func (f *tokenFetch) named(fetched tokencache.Fetched) tokencache.Fetched {
	fetched.Endpoint, fetched.ClientID = f.h.request.shownName(f.request)
	return fetched
}

// acquireSlot waits until the fetch may begin. It reports false if ctx ended before, for example because nobody waits
// for the fetch any more.
func (a *tokenAccess) acquireSlot(ctx context.Context, task tokencache.Task) bool {
	select {
	case a.slots <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	task.Begin()
	if ctx.Err() != nil { // the select may choose either
		a.releaseSlot()
		return false
	}
	return true
}

func (a *tokenAccess) releaseSlot() { <-a.slots }

// Trace implements tokencache.Source: a fetch is a span below that of the request which starts it.
func (s *grantSource) Trace(ctx, cause context.Context) (context.Context, func(tokencache.Outcome)) {
	ctx, span := startSpan(ctx, cause)
	return ctx, func(o tokencache.Outcome) { endSpan(span, o) }
}

// Limit implements tokencache.Source.
func (s *grantSource) Limit() time.Duration { return time.Duration(s.h.Timeout) }

// ChangedSince implements tokencache.Source.
func (s *grantSource) ChangedSince(ctx context.Context, failure *endpoint.Error) bool {
	return s.h.request.changedSince(ctx, s.values, failure)
}

// HasNewer implements tokencache.Source: it looks into the storage.
func (s *grantSource) HasNewer(ctx context.Context, last *tokencache.Token) bool {
	if s.h.tokens.sharing == nil || len(s.h.request.resolving) > 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, changeLookup)
	defer cancel()
	request, err := s.h.request.resolveWithin(ctx, s.values)
	return err == nil && s.h.tokens.sharing.HasNewer(ctx, request, last)
}

// Waited implements tokencache.Source.
func (s *grantSource) Waited(d time.Duration) { s.h.reporter.metrics.wait.Observe(d.Seconds()) }

// waitingSource is the source for one request, and notes whether that has waited for a fetch.
type waitingSource struct {
	*grantSource
	waited bool
}

// Waited implements tokencache.Source.
func (w *waitingSource) Waited(d time.Duration) {
	w.waited = true
	w.grantSource.Waited(d)
}

// Report implements tokencache.Source.
func (s *grantSource) Report(o tokencache.Outcome) { s.h.reporter.report(o) }

// announceRejection emits the event for a rejected token. The request does not wait for it.
func (s *grantSource) announceRejection(t *tokencache.Token, status int, code string) {
	known := "" // not code, which is a part of the upstream's header and would keep that while the event waits
	if i := slices.Index(challengeErrors, code); i >= 0 {
		known = challengeErrors[i]
	}
	s.h.reporter.emit(eventRejected, func() map[string]any {
		endpoint, clientID := s.name()
		return map[string]any{
			"endpoint": endpoint, "client_id": clientID, "token": tokencache.Fingerprint(t.Value), "status": status, "error": known,
		}
	})
}

// name is the endpoint and the client of the grant, as logs have them.
func (s *grantSource) name() (endpoint, clientID string) {
	if s.h.tokens.table == nil {
		public := s.public()
		return public.EndpointName(), public.ClientID
	}
	ctx, cancel := context.WithTimeout(s.h.reporter.ctx, changeLookup)
	defer cancel()
	request, err := s.h.request.resolveWithin(ctx, s.values)
	if err != nil {
		return s.h.reporter.public.Endpoint, s.h.reporter.public.ClientID
	}
	return s.h.request.shownName(request)
}

// public returns what operators may see of the grant, with the endpoint of an issuer once it is known.
func (s *grantSource) public() endpoint.Request {
	public := s.h.reporter.public
	if discovered := s.h.tokens.server.EndpointFor(public); discovered != "" {
		public.Endpoint = discovered
		public.Endpoint = public.EndpointName()
	}
	return public
}

// Interface guard
var _ tokencache.Source = (*grantSource)(nil)
