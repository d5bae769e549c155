package tokencache

import (
	"context"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// outagePatience is how long callers wait for a fetch when the one before has failed. So an endpoint
// that hangs stalls its callers once, and not with every fetch.
const outagePatience = time.Second

const (
	// duePatience is how long callers with a due token wait for a fetch, from its start.
	duePatience = time.Second

	// lastMoment is the end of a token's life, in which its request can't be sure to arrive in time.
	lastMoment = 50 * time.Millisecond
)

// order is what a caller orders: a fetch for this reason, from this source.
type order struct {
	trigger Trigger
	src     Source
	limit   time.Duration // of src
	due     *Token        // what the caller gets if there is no other token soon; nil for nothing
}

// newOrder asks the source for its limit, so no lock must be held.
func newOrder(trigger Trigger, src Source) order {
	return order{trigger: trigger, src: src, limit: src.Limit()}
}

// flight is the fetch in progress. All callers share it.
type flight struct {
	// Set at the start.
	order       order     // of the caller that started it
	began       time.Time // from which outagePatience counts
	askEndpoint bool      // see Task
	cancel      context.CancelFunc
	wanted      chan time.Time // see Task; its buffer has room for the only value

	// forcedBefore is what was known of forced renewals before the flight. It holds again if another
	// gateway's token comes of it, or if it is cancelled before it is sent.
	forcedBefore forcedRenewals

	// outage is the error for callers whose patience ends before the fetch does; nil unless the
	// fetch before failed.
	outage *UnavailableError

	// Guarded by the grant's lock.
	forced     bool // one of its callers needs a rejected token replaced
	waiting    int  // callers that want the outcome
	queued     bool // it has not had its turn yet
	background bool // it goes on even if nobody waits for it
	isWanted   bool // a request waits or has waited for it
	isRetrying bool // a try has failed, so retrying is closed

	retrying chan struct{} // closed when a try has failed and another follows

	// Set before done is closed, read after that.
	token *Token
	err   error
	done  chan struct{}
}

// joinLocked returns the fetch in progress or starts one, except in a pause after a failure. The
// caller counts as waiting for it. cause is the caller's context.
func (g *Grant) joinLocked(cause context.Context, o order) (*flight, error) {
	if g.flight == nil {
		if pause := g.pauses.missPause(time.Now()); pause != nil {
			return nil, pause
		}
		g.startLocked(cause, o)
	}
	f := g.flight
	f.forced = f.forced || o.trigger.isForced()
	f.waiting++
	if o.trigger != TriggerPrefetch && !f.isWanted {
		f.isWanted = true
		f.wanted <- time.Now()
	}
	return f, nil
}

// startLocked starts a fetch. The fetch has its own context, as other callers can join it and must
// not lose it when this one goes away.
func (g *Grant) startLocked(cause context.Context, o order) *flight {
	now := time.Now()
	g.pauses.forgetOld(now)
	f := &flight{
		order:        o,
		askEndpoint:  g.askEndpoint || o.trigger == TriggerOperator,
		began:        now,
		outage:       g.pauses.outage(now, o.limit),
		forcedBefore: g.forced,
		wanted:       make(chan time.Time, 1),
		forced:       o.trigger.isForced(),
		queued:       g.entry != nil,
		retrying:     make(chan struct{}),
		done:         make(chan struct{}),
	}
	if f.forced {
		g.forced.noteStart(now)
	}
	ctx, cancel := context.WithCancel(context.Background()) // the source's Limit bounds it in time
	f.cancel = cancel
	g.flight = f
	g.pauses.ahead.close()
	g.entry.hold() // until the end of fly
	go g.fly(ctx, cause, f, g.taskLocked(f))
	return f
}

// taskLocked describes the fetch to its source.
func (g *Grant) taskLocked(f *flight) Task {
	return Task{
		Begin: func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			f.queued = false
		},
		Retrying: func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			if !f.isRetrying {
				f.isRetrying = true
				close(f.retrying)
			}
		},
		Last:        g.newest,
		Wanted:      f.wanted,
		early:       !f.forced && g.newest.Timely(f.began),
		askEndpoint: f.askEndpoint,
	}
}

// fly runs one fetch to its end, in its own goroutine.
func (g *Grant) fly(ctx, cause context.Context, f *flight, task Task) {
	defer g.Release()
	if after := g.fetchAndLand(ctx, cause, f, task); after != nil {
		after()
	}
}

// fetchAndLand runs the fetch until the callers that wait have the outcome. It returns what is left
// to do after that.
func (g *Grant) fetchAndLand(ctx, cause context.Context, f *flight, task Task) (after func()) {
	defer close(f.done)
	defer f.cancel()
	src := f.order.src
	ctx, endTrace := src.Trace(ctx, cause)
	o := g.land(f, src.Fetch(ctx, task))
	endTrace(o)
	if o.Failure == nil || ctx.Err() == nil { // the failure of a cancelled fetch interests nobody
		src.Report(o)
	}
	return o.After
}

// land puts the token of a fetch into the cache, or begins the pause after its failure.
func (g *Grant) land(f *flight, result Fetched) Outcome {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	o := Outcome{Fetched: result, Trigger: f.order.trigger, Took: now.Sub(f.began)}
	abandoned := g.flight != f
	if !abandoned {
		g.flight = nil
	}
	switch {
	case result.Failure == nil:
		g.history.count(result, now, g.generation > 0)
		g.landTokenLocked(f, &o)
	case !abandoned:
		g.history.count(result, now, g.generation > 0)
		g.landFailureLocked(f, now, &o)
	default: // it failed because it was cancelled, which says nothing about the endpoint
		o.Usable = g.liveLocked(now) != nil
		f.err = &UnavailableError{Cause: result.Failure, RetryAt: now}
	}
	return o
}

// landTokenLocked puts a token into the cache and ends all pauses.
func (g *Grant) landTokenLocked(f *flight, o *Outcome) {
	granted := o.Granted
	if g.askEndpoint && !f.askEndpoint && granted.Adopted {
		// An operator had the token forgotten during the fetch, and this can be the same token.
		// Only the callers of this fetch get it.
		f.token = granted.token()
		f.token.Generation = g.generation
		return
	}
	g.pauses.forget()
	g.askEndpoint = g.askEndpoint && !f.askEndpoint
	before := g.generation
	f.token = g.storeLocked(granted, f.forced)
	g.noteForcedLocked(f, g.generation == before)
	if granted.Adopted { // it is another gateway's; this one's own request, if there was one, failed
		return
	}
	o.Narrowed = g.told.isNarrowed(granted.MissingScope)
	o.AtEnd = g.told.isAtEnd(granted.AtEnd)
	o.Unusual = g.told.isUnusual(granted.UnusualType)
	o.Replaced = g.told.isReplaced(granted.RefreshTokenReplaced)
}

// noteForcedLocked notes what a forced renewal has brought.
func (g *Grant) noteForcedLocked(f *flight, sameAgain bool) {
	switch {
	case !f.forced:
	case f.token.Adopted:
		g.forced.undoStart(f.forcedBefore)
	case !sameAgain:
		g.forced.brought = g.generation
	default: // the same token again cures nothing either
		g.forced.noteUncured()
		g.evidence.again = true
	}
}

// landFailureLocked begins the pause after a fetch that failed.
func (g *Grant) landFailureLocked(f *flight, now time.Time, o *Outcome) {
	o.Usable, o.Rejected, o.Known = g.liveLocked(now) != nil, g.evidence.doubted, g.generation > 0
	failed := g.pauses.noteFailure(o.Fetched, now, o.Usable, f.forced)
	o.RetryAt = failed.nextTry
	retryAt := failed.missFrom
	if o.Usable { // so the callers that wait have a token, but a rejected one
		retryAt = failed.rejectedFrom
	}
	f.err = &UnavailableError{Cause: o.Failure, RetryAt: retryAt, Again: f.outage != nil}
}

// wait waits for the outcome of the fetch, for a request with this order. Callers get the token even
// if it expired on its way, as there is no newer one.
func (g *Grant) wait(ctx context.Context, f *flight, o order) (*Token, error) {
	defer g.stopWaiting(f)
	began := time.Now()
	defer func() { o.src.Waited(time.Since(began)) }()
	var enough <-chan time.Time
	var retrying <-chan struct{}
	patience, instead := f.patience(o)
	if instead != nil {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		enough = timer.C
		if instead.token != nil {
			retrying = f.retrying
		}
	}
	select {
	case <-f.done:
		return g.landedFor(f, o)
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-enough:
	case <-retrying:
	}
	if f.hasLanded() { // just now
		return g.landedFor(f, o)
	}
	g.continueInBackground(f) // for the next callers
	if instead.token == nil && o.due != nil {
		// The due token was in its last moment, and may still live.
		return g.liveOr(instead.err)
	}
	return instead.token, instead.err
}

// landedFor returns what a caller with this order gets of a fetch that has landed.
func (g *Grant) landedFor(f *flight, o order) (*Token, error) {
	if f.err == nil || o.due == nil {
		return f.token, f.err
	}
	return g.liveOr(f.err)
}

// liveOr returns the live token, or the error if there is none.
func (g *Grant) liveOr(err error) (*Token, error) {
	if t := g.Live(time.Now()); t != nil {
		return t, nil
	}
	return nil, err
}

// substitute is what a caller gets that does not wait to the end.
type substitute struct {
	token *Token
	err   error
}

// patience returns how long a caller with this order waits, and what it gets then. A nil substitute
// means: wait to the end.
func (f *flight) patience(o order) (time.Duration, *substitute) {
	if o.due != nil {
		patience := time.Until(f.began.Add(duePatience))
		if o.due.guessed {
			return patience, &substitute{token: o.due}
		}
		if left := time.Until(o.due.expires.monotonic) - lastMoment; left > 0 {
			return min(patience, left), &substitute{token: o.due}
		}
	}
	switch {
	case f.outage != nil:
		return time.Until(f.began.Add(outagePatience)), &substitute{err: f.outage}
	case o.limit < f.order.limit: // a configuration with a longer timeout started it
		return o.limit, &substitute{err: &UnavailableError{
			Cause:   &endpoint.Error{Class: endpoint.ClassTimeout},
			RetryAt: f.began.Add(f.order.limit),
		}}
	}
	return 0, nil
}

// waitUntil waits until that time. It fails only if ctx ends first.
func waitUntil(ctx context.Context, at time.Time) error {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hasLanded reports whether the outcome is known.
func (f *flight) hasLanded() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// waitToEnd waits for a fetch however long it takes, for a caller that is not a request. It fails
// only if ctx ends first.
func (g *Grant) waitToEnd(ctx context.Context, f *flight) error {
	defer g.stopWaiting(f)
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// continueInBackground lets a fetch go on even if nobody waits for it.
func (g *Grant) continueInBackground(f *flight) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f.background = true
}

// stopWaiting counts a caller out that no longer waits.
func (g *Grant) stopWaiting(f *flight) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopWaitingLocked(f)
}

func (g *Grant) stopWaitingLocked(f *flight) {
	f.waiting--
	g.abandonUselessLocked(f)
}

// detachLocked counts a caller out, and lets the fetch go on without it.
func (g *Grant) detachLocked(f *flight) {
	f.background = true
	g.stopWaitingLocked(f)
}

// abandonUselessLocked cancels a fetch that nobody needs, and keeps new callers from joining it. A
// fetch that has had its turn is needed by the next request, unless no configuration is left.
func (g *Grant) abandonUselessLocked(f *flight) {
	useless := f.waiting == 0 && (g.released || f.queued && !f.background)
	if !useless {
		return
	}
	f.cancel()
	if g.flight != f {
		return
	}
	g.flight = nil
	g.pauses.reopenAhead()
	if f.queued && f.order.trigger.isForced() { // it was not sent
		g.forced.undoStart(f.forcedBefore)
	}
}
