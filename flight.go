package oauthcc

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// flight is the one fetch in progress, shared by all who wait for it.
type flight struct {
	trigger      trigger
	parent       trace.Span // of what started it
	forced       bool       // a rejected token is to be replaced, if not by trigger then for one who joined
	anew         bool       // see fetchTask
	bare         bool       // the fetch was started for one of which the upstream did not say that it was at fault
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
	kind.anew = kind.anew || g.anew
	kind.began, kind.limit = now, src.limit()
	if g.failed != nil {
		// The latest that the endpoint is asked the next time, should this fetch fail in
		// the same way.
		kind.outage = g.failed.until(now.Add(kind.limit + g.failures.longest(g.failed.cause)))
	}
	// The context has nothing of the request that starts the fetch but its span, since
	// others wait for it as well; fetch itself bounds its time.
	ctx, span := startSpan(kind.parent)
	ctx, cancel := context.WithCancel(ctx)
	kind.cancel, kind.done, kind.wanted, kind.queued = cancel, make(chan struct{}), make(chan time.Time, 1), g.entry != nil
	g.flight = &kind
	g.aheadFrom.Store(&never)
	g.entry.keep()
	go g.fly(ctx, span, g.flight, g.task(g.flight), src)
}

// never comes.
var never = time.Unix(1<<40, 0)

// fly runs one fetch to its end.
func (g *cachedGrant) fly(ctx context.Context, span trace.Span, f *flight, task fetchTask, src source) {
	defer g.entry.release()
	after := func() func() {
		defer close(f.done)
		defer f.cancel()
		o := g.land(f, src.fetch(ctx, task))
		endSpan(span, o)
		if o.failure == nil || ctx.Err() == nil { // else nobody waits for it any more
			src.report(o)
		}
		return o.after
	}()
	if after != nil {
		after()
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
		last: last, ahead: !f.forced && last.usable(f.began), anew: f.anew, wanted: f.wanted,
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
	if !ended || result.failure == nil {
		g.history.note(result, now)
	}
	if result.failure == nil {
		if g.anew && !f.anew && result.granted.adopted {
			// The token was forgotten meanwhile, and this can be the same. It is for those
			// alone who waited for it.
			f.token = newToken(result.granted)
			f.token.generation = g.generation
			return o
		}
		g.forget()
		g.anew = g.anew && !f.anew
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
	began := time.Now()
	defer func() { src.waited(time.Since(began)) }()
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
