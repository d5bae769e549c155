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
	lookAgain  time.Time     // not before then is looked elsewhere for a token after a failure
	bareWait   time.Duration // 0 until a renewal did not cure
	bareFrom   time.Time     // not before then is a bare rejection a reason to renew
	narrowed   string        // names the scopes that the endpoint did not grant, already told
	atEnd      bool          // tokens have expired when they are granted, likewise

	// Generations of the last tokens of which it was recorded that they did not cure a
	// rejection, nor a bare one, or were rejected and the request could not be replayed, or
	// that a proof for them was refused.
	uncured, uncuredBare, unreplayed, unproven uint64
}

func newCachedGrant() *cachedGrant { return new(cachedGrant) }

// flight is the one fetch in progress, shared by all who wait for it.
type flight struct {
	trigger      trigger
	forced       bool // a rejected token is to be replaced, if not by trigger then for one who joined
	bare         bool // the fetch was started for one of which the upstream did not say that it was at fault
	began        time.Time
	limit        time.Duration     // that it can last
	outage       *unavailableError // for those who don't wait to its end, if the fetch before failed
	cancel       context.CancelFunc
	waiting      int            // guarded by the grant's lock
	queued       bool           // it is not its turn yet; likewise
	kept         bool           // it goes on even if nobody waits for it; likewise
	wanted       chan time.Time // tells when the first request began to wait
	isWanted     bool           // one does; likewise
	forcedBefore time.Time      // what forcedFrom was before the fetch
	done         chan struct{}  // closed when token or err is set
	token        *token
	err          error
}

// Destruct implements caddy.Destructor. Requests of an earlier configuration can
// outlive it, so a fetch goes on as long as one waits for it.
func (g *cachedGrant) Destruct() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.released = true
	g.endUnused(g.flight)
	return nil
}

// endUnused ends a fetch whose outcome is of no use to anyone, and keeps others from
// waiting for it. The caller holds mu.
func (g *cachedGrant) endUnused(f *flight) {
	if f != nil && f.waiting == 0 && (g.released || f.queued && !f.kept) {
		f.cancel()
		if g.flight == f {
			g.flight = nil
			g.aheadFrom.Store(nil)
		}
	}
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
	f, err := g.join(src, flight{trigger: triggerMiss})
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
	t, f, err := g.force(rejected, bare, src)
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
func (g *cachedGrant) renewInBackground(rejected *token, bare bool, src source) bool {
	_, f, err := g.force(rejected, bare, src)
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
func (g *cachedGrant) renewAhead(t *token, src source) {
	if !g.isAheadDue(time.Now()) {
		return // most requests that find a stale token come this far
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.released && g.flight == nil && g.current.Load() == t && g.isAheadDue(time.Now()) {
		g.start(src, flight{trigger: triggerAhead, kept: true})
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
	f, err := g.join(src, flight{trigger: triggerPrefetch})
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
	mayLook := failed != nil && !now.Before(g.lookAgain)
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
func (g *cachedGrant) force(rejected *token, bare bool, src source) (*token, *flight, error) {
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
	f, err := g.join(src, flight{trigger: triggerRejected, forced: true, bare: bare})
	return nil, f, err
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// join returns the fetch in progress or starts one, unless the endpoint is to be
// left alone after a failure; kind tells what one that is started is for. The caller
// holds mu, and counts as waiting.
func (g *cachedGrant) join(src source, kind flight) (*flight, error) {
	if g.flight == nil {
		if g.failed != nil && time.Now().Before(g.failed.missAt) {
			return nil, g.failed.until(g.failed.missAt)
		}
		g.start(src, kind)
	}
	g.flight.forced = g.flight.forced || kind.forced
	g.flight.waiting++
	if kind.trigger != triggerPrefetch && !g.flight.isWanted {
		g.flight.isWanted = true
		g.flight.wanted <- time.Now()
	}
	return g.flight, nil
}

// start begins a fetch. The caller holds mu.
func (g *cachedGrant) start(src source, kind flight) {
	now := time.Now()
	if g.failed != nil && now.After(g.failed.nextTry.Add(outageMemory)) {
		g.forget()
	}
	kind.forcedBefore = g.forcedFrom
	if kind.forced {
		g.forcedFrom = now.Add(forcedSpacing)
	}
	kind.began, kind.limit = now, src.limit()
	if g.failed != nil {
		// The latest that the endpoint is asked the next time, should this fetch fail in
		// the same way.
		kind.outage = g.failed.until(now.Add(kind.limit + g.failures.longest(g.failed.cause)))
	}
	// The context has nothing of the request that starts the fetch, which others
	// wait for as well; fetch itself bounds its time.
	ctx, cancel := context.WithCancel(context.Background())
	kind.cancel, kind.done, kind.wanted, kind.queued = cancel, make(chan struct{}), make(chan time.Time, 1), g.entry != nil
	g.flight = &kind
	g.aheadFrom.Store(&never)
	g.entry.keep()
	go g.fly(ctx, g.flight, g.task(g.flight), src)
}

// never comes.
var never = time.Unix(1<<40, 0)

// fly runs one fetch to its end.
func (g *cachedGrant) fly(ctx context.Context, f *flight, task fetchTask, src source) {
	defer g.entry.release()
	result := func() fetched {
		defer close(f.done)
		defer f.cancel()
		result := src.fetch(ctx, task)
		o := g.land(f, result)
		if result.failure == nil || ctx.Err() == nil { // else nobody waits for it any more
			src.report(o)
		}
		return result
	}()
	if result.after != nil {
		result.after()
	}
}

// task is what the source is told of the fetch. The caller holds mu.
func (g *cachedGrant) task(f *flight) fetchTask {
	last := g.current.Load()
	return fetchTask{
		begin: func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			f.queued = false
		},
		last: last, ahead: !f.forced && last.usable(f.began), wanted: f.wanted,
	}
}

// land draws the conclusions from what a fetch came to.
func (g *cachedGrant) land(f *flight, result fetched) outcome {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	o := outcome{fetched: result, trigger: f.trigger, took: now.Sub(f.began)}
	ended := g.flight != f
	if !ended {
		g.flight = nil
	}
	if result.failure == nil {
		g.forget()
		if result.granted.adopted {
			g.forcedFrom = f.forcedBefore // the endpoint was not asked
		}
		generation := g.generation
		if f.token = g.store(result.granted); f.bare && generation == g.generation {
			g.delayBare() // the same token again is no cure either
		}
		if !result.granted.adopted {
			o.narrowed = g.narrows(result.granted.missingScope)
			o.atEnd = result.granted.atEnd && !g.atEnd
			g.atEnd = result.granted.atEnd
		}
		return o
	}
	o.usable = g.usable(now) != nil
	if ended {
		f.err = &unavailableError{cause: result.failure, retryAt: now}
		return o
	}
	g.failed = g.postpone(now, result.failure, o.usable, f.forced)
	next, retryAt := g.failed.nextTry, g.failed.missAt
	if o.usable { // so who waits has a token, but a rejected one
		retryAt = g.failed.rejectedAt
	}
	g.aheadFrom.Store(&next)
	o.retryAt = next
	f.err = &unavailableError{cause: result.failure, retryAt: retryAt}
	return o
}

// wait waits for the outcome of the fetch. Its token goes to those who waited for it
// even if it was granted for less time than the answer took: none is newer.
func (g *cachedGrant) wait(ctx context.Context, f *flight, src source) (*token, error) {
	defer g.leave(f)
	var enough <-chan time.Time
	late := f.outage
	switch limit := src.limit(); {
	case late != nil:
		timer := time.NewTimer(time.Until(f.began.Add(outagePatience)))
		defer timer.Stop()
		enough = timer.C
	case limit < f.limit: // of the configuration that started the fetch
		timer := time.NewTimer(limit)
		defer timer.Stop()
		enough = timer.C
		late = &unavailableError{cause: &fetchError{class: classTimeout}, retryAt: f.began.Add(f.limit)}
	}
	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-enough:
	}
	select {
	case <-f.done: // just now
		return f.token, f.err
	default:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	f.kept = true // by who comes next
	return nil, late
}

// leave ends a caller's waiting.
func (g *cachedGrant) leave(f *flight) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unboard(f)
}

// unboard is leave for who holds mu.
func (g *cachedGrant) unboard(f *flight) {
	f.waiting--
	g.endUnused(f)
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
