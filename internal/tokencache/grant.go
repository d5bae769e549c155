package tokencache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Grant keeps the current token of one grant key, and what is known about getting the next one.
// Configurations with the same key share it, so nothing in it belongs to one of them. The zero value
// has no token.
type Grant struct {
	// Requests that find a token use these, without a lock.
	current  atomic.Pointer[Token] // the newest token, or the one before it; may have expired
	uses     atomic.Uint64         // requests that got a token
	evidence evidence              // part of it is guarded by mu

	// Set before the grant is used.
	entry *Entry // the entry that embeds the grant; nil if it is in no table

	// mu guards the rest, except for pauses.ahead. It is never held while a source is called or while
	// waiting, except for the lock of the entry's table.
	mu sync.Mutex

	newest      *Token // nil if there is none; may have expired
	generation  uint64 // of the newest token
	askEndpoint bool   // the next fetch must ask the endpoint, whatever token another gateway has
	released    bool   // no configuration uses the grant any more; requests may

	flight   *flight // nil if no fetch is in progress
	fallback fallback
	pauses   pauses
	forced   forcedRenewals
	told     news
	history  History
}

// NewGrant makes a grant that is in no table.
func NewGrant() *Grant { return new(Grant) }

// Current returns the token that requests take, or nil. It may be due, or may have expired.
func (g *Grant) Current() *Token { return g.current.Load() }

// Live returns the token that requests get if there is no other to be had, or nil.
func (g *Grant) Live(now time.Time) *Token {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.liveLocked(now)
}

// liveLocked is Live with the lock held. When a lifetime is a guess, the upstream knows better.
func (g *Grant) liveLocked(now time.Time) *Token {
	g.endFallbackLocked(now)
	t := g.current.Load()
	if !t.Live(now) || t.expires.Passed(now) && g.evidence.invalid {
		return nil
	}
	return t
}

// CountUse counts a request that got a token, for operators.
func (g *Grant) CountUse() { g.uses.Add(1) }

// Get returns a token, and fetches one if there is none or a due one. If no other can be had, or not
// soon, it returns the due one. Callers share one fetch; ctx ends the wait of this caller only. Errors
// are of type *UnavailableError, or those of ctx.
func (g *Grant) Get(ctx context.Context, src Source) (*Token, error) {
	o := newOrder(TriggerMiss, src)
	if t := g.takeDue(ctx, o); t != nil {
		return t, nil
	}
	g.endPauseOnChange(ctx, src)
	t, f, err := g.takeOrJoin(ctx, &o)
	if pause, ok := errors.AsType[*UnavailableError](err); ok && pause.endsSoon {
		if err := waitUntil(ctx, pause.RetryAt); err != nil {
			return nil, err
		}
		t, f, err = g.takeOrJoin(ctx, &o)
	}
	if t != nil || err != nil {
		return t, err
	}
	return g.wait(ctx, f, o)
}

// takeOrJoin returns a token, or else the fetch that gets one. The caller then counts as waiting for it.
// If there is a due token, it is noted in the order.
func (g *Grant) takeOrJoin(ctx context.Context, o *order) (*Token, *flight, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	o.due = g.liveLocked(now)
	if o.due.Timely(now) {
		return o.due, nil, nil
	}
	f, err := g.joinLocked(ctx, *o)
	if err != nil && o.due != nil {
		return o.due, nil, nil
	}
	return nil, f, err
}

// takeDue returns a due token if its request should not wait for the next one, because that would take
// too long. The fetch goes on in the background, or starts there unless there is a pause.
func (g *Grant) takeDue(ctx context.Context, o order) *Token {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	t := g.liveLocked(now)
	switch {
	case t == nil:
		return nil
	case t.Timely(now):
		return t
	case g.flight != nil:
		if g.pauses.failed == nil && !g.flight.isRetrying && now.Before(g.flight.began.Add(duePatience)) {
			return nil
		}
		g.flight.background = true
	case g.pauses.ahead.isOpen(now):
		if g.pauses.failed == nil {
			return nil
		}
		if !g.released {
			g.startLocked(ctx, o).background = true
		}
	}
	return t
}

// storeLocked puts a token into the cache. If it is the same token again, it keeps its generation, as
// it can't cure a rejection. replaces means that the one before was rejected or unwanted.
func (g *Grant) storeLocked(granted Offer, replaces bool) *Token {
	t := granted.token()
	isSame := g.newest != nil && g.newest.Value == t.Value
	if !isSame {
		g.generation++
		g.keepLocked(replaces)
		g.evidence.forNewToken()
	}
	t.Generation = g.generation
	if used := g.current.Load(); !isSame || used == g.newest { // otherwise the one before is used again
		g.current.Store(t)
	}
	g.newest = t
	return t
}

// RenewAhead fetches the next token in the background, for a request that got t although t is stale.
func (g *Grant) RenewAhead(ctx context.Context, t *Token, src Source) {
	if t != nil && t.Fallback {
		return // the next token is there already
	}
	if !g.pauses.ahead.isOpen(time.Now()) {
		return // most requests with a stale token end here, without the lock
	}
	o := newOrder(TriggerAhead, src)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.released && g.flight == nil && g.current.Load() == t && g.pauses.ahead.isOpen(time.Now()) {
		g.startLocked(ctx, o).background = true
	}
}

// RenewRejected returns another token than the one that the upstream rejected. That is the cached token if it is
// newer, or the one before if the upstream may not accept the newest one yet. Otherwise it is a new one. Errors are
// those of Get, and ErrNotRenewed.
func (g *Grant) RenewRejected(ctx context.Context, r Rejection, src Source) (*Token, error) {
	g.endPauseOnChange(ctx, src)
	o := newOrder(TriggerRejected, src)
	t, f, err := g.replaceRejected(ctx, &r, &o)
	if t != nil || err != nil {
		return t, err
	}
	if t, err = g.wait(ctx, f, o); err != nil {
		return nil, err
	}
	if t.Generation <= r.Token.Generation {
		return nil, ErrNotRenewed
	}
	return t, nil
}

// RenewRejectedInBackground is RenewRejected for a request that can't be replayed: the new token is
// for later requests. It reports whether this is the first such request with the rejected token.
func (g *Grant) RenewRejectedInBackground(ctx context.Context, r Rejection, src Source) bool {
	o := newOrder(TriggerRejected, src)
	g.mu.Lock()
	defer g.mu.Unlock()
	isFirst := g.told.unreplayed.isFirst(r.Token)
	if _, f, err := g.replaceRejectedLocked(ctx, &r, &o); err == nil && f != nil {
		g.detachLocked(f)
	}
	return isFirst
}

// NoteRejection notes that the upstream rejected the token. It reports whether that is news.
func (g *Grant) NoteRejection(t *Token) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.told.rejected.isFirst(t)
}

// NoteCured notes that the upstream accepted a renewed token after a rejection.
func (g *Grant) NoteCured() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forced.noteCured()
}

// NoteUncured notes that the upstream rejected the renewed token as well. It reports whether that is
// news about this token: many requests can be replayed with it.
func (g *Grant) NoteUncured(r Rejection) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.evidence.refused.add(r.Subject)
	g.noteRejectedLocked(&r, time.Now())
	g.countUncuredLocked(r.Token)
	return g.told.uncured.isFirst(r.Token)
}

// NoteFallback notes that the upstream took the token before t after it had rejected t. It reports whether that is news
// about t.
func (g *Grant) NoteFallback(t *Token) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.told.fellBack.isFirst(t)
}

// NoteRefusedProof notes that the upstream refused a DPoP proof for the token. It reports whether
// that is news about this token.
func (g *Grant) NoteRefusedProof(t *Token) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.told.unproven.isFirst(t)
}

// Release ends the use of a grant that was acquired from a table. For a grant in no table it does
// nothing.
func (g *Grant) Release() {
	if g.entry != nil {
		g.entry.release()
	}
}

// Entry returns the grant's entry in its table, or nil if it is in no table.
func (g *Grant) Entry() *Entry { return g.entry }

// Destruct is called when no configuration uses the grant any more. With this name, Caddy's pools can
// call it. Requests of an earlier configuration can still wait for a fetch, which then goes on. The
// error is always nil.
func (g *Grant) Destruct() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.released = true
	if g.flight != nil {
		g.abandonUselessLocked(g.flight)
	}
	return nil
}
