package tokencache

import (
	"context"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// Snapshot is what an operator can see of a grant.
type Snapshot struct {
	Token    *Token // the newest one; nil if there is none. It may have expired
	Live     bool   // requests get a token, at least if there is no other to be had
	Fetching bool

	// RejectedSince is when the upstream first rejected the token, if it has accepted it for nothing since then;
	// zero otherwise.
	RejectedSince time.Time

	// NextTry is the end of the pause after the last fetch, which can be past; zero if that fetch
	// succeeded, or if something else has ended the pause.
	NextTry time.Time

	History History
	Uses    uint64 // requests that got a token
}

// State returns the state of the token.
func (s Snapshot) State(now time.Time, ahead RefreshAhead) TokenState {
	state := StateOf(s.Token, now, ahead)
	if state == StateDue && !s.Live { // its lifetime was a guess, and the upstream rejected it
		return StateExpired
	}
	return state
}

// History counts the fetches of a grant, for as long as the process has kept it.
type History struct {
	Fetches, Failures uint64
	Failing           bool // the last fetch failed, even if its pause has been ended

	// The last failure.
	LastFailure *endpoint.Error // nil if there was none
	FailedAt    time.Time
	KnownBefore bool // there was a token of the grant before it
}

// count counts a fetch that has ended. known tells that the grant has had a token before.
func (h *History) count(result Fetched, now time.Time, known bool) {
	h.Fetches++
	h.Failing = result.Failure != nil
	if h.Failing {
		h.Failures++
		h.LastFailure, h.FailedAt, h.KnownBefore = result.Failure, now, known
	}
}

// Snapshot returns what can be seen of the grant now.
func (g *Grant) Snapshot() Snapshot {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Snapshot{Token: g.newest, Live: g.liveLocked(time.Now()) != nil, Fetching: g.flight != nil, History: g.history, Uses: g.uses.Load()}
	if g.evidence.doubted {
		s.RejectedSince = g.evidence.since
	}
	if g.pauses.failed != nil {
		s.NextTry = g.pauses.failed.nextTry
	}
	return s
}

// Refresh asks the endpoint for another token and waits for it, whatever is in the cache, and also in
// a pause after a failure. Errors are those of Get.
func (g *Grant) Refresh(ctx context.Context, src Source) (*Token, error) {
	o := newOrder(TriggerOperator, src)
	for {
		f := g.joinAnyway(ctx, o)
		if err := g.waitToEnd(ctx, f); err != nil {
			return nil, err
		}
		if f.askEndpoint { // otherwise it may have brought another gateway's token
			return f.token, f.err
		}
	}
}

// joinAnyway returns the fetch in progress or starts one, also in a pause. The caller counts as
// waiting for it.
func (g *Grant) joinAnyway(ctx context.Context, o order) *flight {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.flight == nil {
		g.startLocked(ctx, o)
	}
	g.flight.waiting++
	return g.flight
}

// Forget forgets the token, and ends all pauses. The next fetch asks the endpoint, as other gateways
// can have the same token.
func (g *Grant) Forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.current.Store(nil)
	g.newest, g.fallback = nil, fallback{}
	g.evidence.forNewToken()
	g.askEndpoint = true
	g.pauses.forget()
	g.forced.allow()
	g.forced.noteCured()
}

// Prepare fetches a token in the background if there is none, except in a pause after a failure.
func (g *Grant) Prepare(ctx context.Context, src Source) {
	g.endPauseOnChange(ctx, src)
	o := newOrder(TriggerPrefetch, src)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.liveLocked(time.Now()) != nil {
		return
	}
	if f, err := g.joinLocked(ctx, o); err == nil {
		g.detachLocked(f)
	}
}
