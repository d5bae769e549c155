package oauthcc

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.opentelemetry.io/otel/trace"
)

const (
	// forcedSpacing is the least time between two renewals of a rejected token.
	forcedSpacing = 5 * time.Second

	// A renewal that did not cure a rejection without a challenge delays the next
	// such renewal, from bareWaitMin doubling up to bareWaitMax: the upstream may
	// reject for another reason than the token.
	bareWaitMin = 10 * time.Second
	bareWaitMax = time.Minute

	// outagePatience is how long a caller waits for a fetch when the one before has
	// failed: an endpoint that hangs stalls its callers once and not at every try.
	outagePatience = time.Second

	// lookSpacing is the least time between two looks for a token that others have got, while
	// the endpoint is left alone.
	lookSpacing = time.Second

	// outageMemory is how long after the next try was due a failure still tells
	// something of the endpoint: twice the longest pause, so that requests that come
	// less and less often don't start the pauses anew.
	outageMemory = 10 * time.Minute
)

// grantKey identifies a token: equal keys ask the same endpoint for the same grant
// with the same credential.
type grantKey [sha256.Size]byte

// newGrantKey hashes the fields, each with its length before it, so that no two
// different lists are written alike.
func newGrantKey(groups ...[]string) grantKey {
	var space [512]byte // on the stack, enough for most
	b := space[:0]
	for _, group := range groups {
		b = binary.BigEndian.AppendUint64(b, uint64(len(group)))
		for _, field := range group {
			b = binary.BigEndian.AppendUint64(b, uint64(len(field)))
			b = append(b, field...)
		}
	}
	return sha256.Sum256(b)
}

// grants holds the tokens of all configurations in this process, by grantKey: a
// *cachedGrant, or a *grantTable where the grant differs from request to request.
// Configurations come and go, tokens stay as long as one uses them.
var grants = caddy.NewUsagePool()

// acquireGrant returns what the pool has under that key, or puts a new one there.
func acquireGrant[T caddy.Destructor](key grantKey, create func() T) (T, error) {
	value, _, err := grants.LoadOrNew(key, func() (caddy.Destructor, error) {
		return create(), nil
	})
	if err != nil {
		var none T
		return none, err
	}
	return value.(T), nil
}

func releaseGrant(key grantKey) error {
	_, err := grants.Delete(key)
	return err
}

// errNotRenewed is the outcome of a forced renewal that was not due or that brought
// the same token again: there is nothing to replay with.
var errNotRenewed = errors.New("no other token")

// cachedGrant is the token of one grant key and all that is known about getting the
// next one. Nothing in it belongs to one configuration.
type cachedGrant struct {
	current   atomic.Pointer[token]
	aheadFrom atomic.Pointer[time.Time] // not before then is a token renewed ahead of its expiry; nil for any time
	server    discovery                 // of an issuer's endpoint
	entry     *tableEntry               // that the grant is; nil if it is in no table

	mu         sync.Mutex
	flight     *flight
	released   bool         // no configuration uses the grant any more; requests may
	failed     *failedFetch // nil if the last fetch succeeded
	failures   backoff      // since then
	generation uint64
	forcedFrom time.Time     // not before then is a token renewed that was rejected
	anew       bool          // the next token is not to be one that others have got
	lookAgain  time.Time     // not before then is looked elsewhere for a token after a failure
	bareWait   time.Duration // 0 until a renewal did not cure
	bareFrom   time.Time     // not before then is a bare rejection a reason to renew
	narrowed   string        // names the scopes that the endpoint did not grant, already told
	atEnd      bool          // tokens have expired when they are granted, likewise

	// Generations of the last tokens of which it was recorded that they did not cure a
	// rejection, nor a bare one, or were rejected and the request could not be replayed, or
	// that a proof for them was refused, or that they were rejected at all.
	uncured, uncuredBare, unreplayed, unproven, rejected uint64

	history grantHistory
	uses    atomic.Uint64 // requests that were given a token
}

func newCachedGrant() *cachedGrant { return new(cachedGrant) }

// Destruct implements caddy.Destructor. Requests of an earlier configuration can
// outlive it, so a fetch goes on as long as one waits for it.
func (g *cachedGrant) Destruct() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.released = true
	g.endUnused(g.flight)
	return nil
}

// usable returns the cached token if it can be served.
func (g *cachedGrant) usable(now time.Time) *token {
	if t := g.current.Load(); t.usable(now) {
		return t
	}
	return nil
}

// get returns a token that can be served, fetching one where there is none. Callers
// share one fetch; ctx ends the wait of this caller alone. Errors are of type
// *unavailableError, or those of ctx.
func (g *cachedGrant) get(ctx context.Context, src source) (*token, error) {
	g.noticeChange(ctx, src)
	g.mu.Lock()
	if t := g.usable(time.Now()); t != nil {
		g.mu.Unlock()
		return t, nil
	}
	f, err := g.join(src, flight{trigger: triggerMiss, parent: trace.SpanFromContext(ctx)})
	g.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return g.wait(ctx, f, src)
}

// renew returns a token other than the one that the upstream rejected: the cached
// one, if it is newer, else a new one. bare tells that the upstream did not say that
// the token was at fault. Errors are those of get, and errNotRenewed.
func (g *cachedGrant) renew(ctx context.Context, rejected *token, bare bool, src source) (*token, error) {
	g.noticeChange(ctx, src)
	t, f, err := g.force(ctx, rejected, bare, src)
	if err != nil || t != nil {
		return t, err
	}
	if t, err = g.wait(ctx, f, src); err != nil {
		return nil, err
	}
	if t.generation <= rejected.generation {
		return nil, errNotRenewed
	}
	return t, nil
}

// renewInBackground is renew for a request that can't be replayed; the outcome is in
// the cache and in the log. It reports whether this is the first such request with the
// token.
func (g *cachedGrant) renewInBackground(ctx context.Context, rejected *token, bare bool, src source) bool {
	_, f, err := g.force(ctx, rejected, bare, src)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil && f != nil {
		f.kept = true
		g.unboard(f)
	}
	return isNews(&g.unreplayed, rejected)
}

// renewAhead fetches the next token in the background, for a request that was given t
// although that will expire soon.
func (g *cachedGrant) renewAhead(ctx context.Context, t *token, src source) {
	if !g.isAheadDue(time.Now()) {
		return // most requests that find a stale token come this far
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.released && g.flight == nil && g.current.Load() == t && g.isAheadDue(time.Now()) {
		g.start(src, flight{trigger: triggerAhead, kept: true, parent: trace.SpanFromContext(ctx)})
	}
}

// isAheadDue reports whether a token may be renewed ahead of its expiry: no fetch is in
// progress, and none has failed just now.
func (g *cachedGrant) isAheadDue(now time.Time) bool {
	from := g.aheadFrom.Load()
	return from == nil || !now.Before(*from)
}

// keep fetches a token if there is none, or none that lasts, and waits for that. It
// returns when to look again.
func (g *cachedGrant) keep(ctx context.Context, ahead refreshAhead, src source) time.Time {
	if f := g.board(ctx, ahead, src); f != nil {
		select {
		case <-f.done:
		case <-ctx.Done():
		}
		g.leave(f)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	t := g.usable(now)
	switch {
	case t == nil && g.failed == nil:
		return now
	case t == nil:
		return g.failed.missAt
	}
	due := ahead.staleFrom(t).monotonic
	if from := g.aheadFrom.Load(); from != nil && from.After(due) {
		due = *from
	}
	if due.After(t.servedTo.monotonic) {
		due = t.servedTo.monotonic
	}
	return due
}

// board returns the fetch that keep waits for, or nil if there is none to wait for.
func (g *cachedGrant) board(ctx context.Context, ahead refreshAhead, src source) *flight {
	g.noticeChange(ctx, src)
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if t := g.usable(now); t != nil && (!ahead.staleFrom(t).passed(now) || g.flight == nil && !g.isAheadDue(now)) {
		return nil
	}
	f, err := g.join(src, flight{trigger: triggerPrefetch, parent: trace.SpanFromContext(ctx)})
	if err != nil {
		return nil
	}
	return f
}

// noticeChange has a failure forgotten if a fetch would ask for something else by now, or
// would not have to ask.
func (g *cachedGrant) noticeChange(ctx context.Context, src source) {
	now := time.Now()
	g.mu.Lock()
	failed, last := g.failed, g.current.Load()
	mayLook := failed != nil && !g.anew && !now.Before(g.lookAgain)
	if mayLook {
		g.lookAgain = now.Add(lookSpacing)
	}
	g.mu.Unlock()
	if failed == nil {
		return
	}
	if changed := src.changedSince(ctx, failed.cause) || mayLook && src.hasNewer(ctx, last); !changed {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failed != failed {
		return
	}
	failures := g.failures
	g.forget()
	g.forcedFrom = time.Time{}
	if failed.cause.unsent {
		g.failures = failures // of what was sent before, which may come again
	}
}

// forget makes the fetch before count as one that succeeded. The caller holds mu.
func (g *cachedGrant) forget() {
	g.failed, g.failures = nil, backoff{}
	g.aheadFrom.Store(nil)
}

// force returns the token that has replaced the rejected one, or else the fetch that
// will. The caller counts as waiting for that.
func (g *cachedGrant) force(ctx context.Context, rejected *token, bare bool, src source) (*token, *flight, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	t := g.usable(now)
	if t != nil && t.generation > rejected.generation {
		return t, nil, nil
	}
	if t != nil && g.flight == nil {
		if g.failed != nil && g.failed.forced {
			// There is no other token to be had, so the rejection is not the answer.
			if at := later(g.failed.rejectedAt, g.forcedFrom); now.Before(at) {
				return nil, nil, g.failed.until(at)
			}
		}
		if now.Before(g.forcedFrom) || bare && now.Before(g.bareFrom) {
			return nil, nil, errNotRenewed
		}
		if g.failed != nil && now.Before(g.failed.rejectedAt) {
			return nil, nil, g.failed.until(g.failed.rejectedAt)
		}
	}
	f, err := g.join(src, flight{trigger: triggerRejected, forced: true, bare: bare, parent: trace.SpanFromContext(ctx)})
	return nil, f, err
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// store puts a granted token into the cache. The same token once more keeps its
// generation, as it can't cure a rejection. The caller holds mu.
func (g *cachedGrant) store(granted grantedToken) *token {
	t := newToken(granted)
	if old := g.current.Load(); old == nil || old.value != t.value {
		g.generation++
	}
	t.generation = g.generation
	g.current.Store(t)
	return t
}

// cured records that the upstream accepted a renewed token after a rejection.
func (g *cachedGrant) cured() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bareWait, g.bareFrom = 0, time.Time{}
}

// notCured records that the upstream rejected the renewed token as well. It reports
// whether that is news of this token; many requests may be replayed with it.
func (g *cachedGrant) notCured(renewed *token, bare bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if bare && isNews(&g.uncuredBare, renewed) {
		g.delayBare()
	}
	return isNews(&g.uncured, renewed)
}

// notProven records that the upstream refused a proof for the token. It reports whether that
// is news of this token.
func (g *cachedGrant) notProven(t *token) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return isNews(&g.unproven, t)
}

// isRejected records that the upstream rejected the token. It reports whether that is news.
func (g *cachedGrant) isRejected(t *token) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return isNews(&g.rejected, t)
}

// delayBare makes the next renewal for a bare rejection wait, each time longer. The
// caller holds mu.
func (g *cachedGrant) delayBare() {
	g.bareWait = min(max(2*g.bareWait, bareWaitMin), bareWaitMax)
	g.bareFrom = time.Now().Add(g.bareWait)
}

// isNews reports whether the token is newer than the last one that this was recorded
// of, and records it.
func isNews(last *uint64, t *token) bool {
	news := t.generation > *last
	*last = max(*last, t.generation)
	return news
}

// narrows records which scopes the endpoint did not grant. It reports whether that
// is news. The caller holds mu.
func (g *cachedGrant) narrows(missing string) bool {
	if missing == "" {
		g.narrowed = ""
		return false
	}
	named := fingerprint(missing) // which can be long, and a client's choice
	news := named != g.narrowed
	g.narrowed = named
	return news
}
