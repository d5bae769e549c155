package oauthcc

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// grantState is what an operator can see of a grant.
type grantState struct {
	token    *token       // nil if there is none; it may have expired
	failed   *failedFetch // nil if the last fetch succeeded
	fetching bool
	history  grantHistory
	uses     uint64 // requests that were given a token
}

// grantHistory counts the fetches of a grant since the process began to hold it.
type grantHistory struct {
	fetches, failures uint64
	lastFailure       *fetchError // nil if there was none
	failedAt          time.Time
}

// note takes note of a fetch.
func (h *grantHistory) note(result fetched, now time.Time) {
	h.fetches++
	if result.failure != nil {
		h.failures++
		h.lastFailure, h.failedAt = result.failure, now
	}
}

func (g *cachedGrant) state() grantState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return grantState{
		token: g.current.Load(), failed: g.failed, fetching: g.flight != nil,
		history: g.history, uses: g.uses.Load(),
	}
}

// refresh has the endpoint asked for another token whatever there is in the cache, also in a
// pause after a failure, and waits for it. Errors are those of get.
func (g *cachedGrant) refresh(ctx context.Context, src source) (*token, error) {
	for {
		g.mu.Lock()
		if g.flight == nil {
			g.start(src, flight{trigger: triggerOperator, forced: true, anew: true, parent: trace.SpanFromContext(ctx)})
		}
		f := g.flight
		f.waiting++
		g.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			g.leave(f)
			return nil, ctx.Err()
		}
		g.leave(f)
		if f.anew { // else it may have brought what another gateway has got
			return f.token, f.err
		}
	}
}

// drop forgets the token, and pauses with it: the next request has the endpoint asked, for
// what is in the storage can be the same token.
func (g *cachedGrant) drop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forget()
	g.current.Store(nil)
	g.anew, g.forcedFrom, g.bareWait, g.bareFrom = true, time.Time{}, 0, time.Time{}
}

// prepare has a token fetched in the background if there is none, as long as that is not to
// be left alone after a failure.
func (g *cachedGrant) prepare(ctx context.Context, src source) {
	g.noticeChange(ctx, src)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.usable(time.Now()) != nil {
		return
	}
	if f, err := g.join(src, flight{trigger: triggerPrefetch, parent: trace.SpanFromContext(ctx)}); err == nil {
		f.kept = true
		g.unboard(f)
	}
}

// The states of a token, as operators are told.
const (
	stateFresh   = "fresh"
	stateStale   = "stale" // it is used, and renewed by the next request
	stateExpired = "expired"
	stateNone    = "none"
)

// tokenState is the state of a token in the hands of this handler.
func (h *Handler) tokenState(t *token, now time.Time) string {
	switch {
	case !t.usable(now):
		return stateExpired
	case h.refreshAhead.staleFrom(t).passed(now):
		return stateStale
	}
	return stateFresh
}

// grants are those that the handler has tokens of.
func (h *Handler) grants() []*cachedGrant {
	if h.table == nil {
		return []*cachedGrant{h.source.grant}
	}
	entries := h.table.all()
	all := make([]*cachedGrant, len(entries))
	for i, e := range entries {
		all[i] = &e.cachedGrant
	}
	return all
}
