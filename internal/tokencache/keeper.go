package tokencache

import (
	"context"
	"sync"
	"time"
)

const (
	// longestLook is the longest time between two looks at a token. A timer stands still while the
	// machine is suspended, and the wall clock can be set.
	longestLook = time.Minute

	// shortestLook keeps a keeper from spinning, however short the tokens of an endpoint live.
	shortestLook = 100 * time.Millisecond
)

// Keeper gets the first token of a configuration before a request needs it, and keeps the token
// renewed while there are no requests. Without a keeper, a configuration has a nil one, which can be
// woken and stopped as well.
type Keeper struct {
	context context.Context // ends with the keeper
	cancel  context.CancelFunc
	done    sync.WaitGroup
	woken   chan struct{} // has an element if a look at the token is due now
}

// NewKeeper makes a keeper. It does nothing before Begin.
func NewKeeper() *Keeper {
	k := &Keeper{woken: make(chan struct{}, 1)}
	k.context, k.cancel = context.WithCancel(context.Background())
	return k
}

// Begin starts to keep the token of the grant, in a goroutine that Stop ends. It must be called at
// most once.
func (k *Keeper) Begin(grant *Grant, ahead RefreshAhead, src Source) {
	k.done.Go(func() { k.run(k.context, grant, ahead, src) })
}

// Wake makes the keeper look at the token now.
func (k *Keeper) Wake() {
	if k == nil {
		return
	}
	select {
	case k.woken <- struct{}{}:
	default: // a look is due already
	}
}

// Stop stops the keeper and waits for its goroutine. A fetch that it waited for goes on.
func (k *Keeper) Stop() {
	if k != nil {
		k.cancel()
		k.done.Wait()
	}
}

func (k *Keeper) run(ctx context.Context, grant *Grant, ahead RefreshAhead, src Source) {
	for {
		next := grant.keepRenewed(ctx, ahead, src)
		timer := time.NewTimer(min(max(time.Until(next), shortestLook), longestLook))
		select {
		case <-timer.C:
		case <-k.woken:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// keepRenewed fetches a token if there is none or a stale one, and waits for it. It returns when to
// look again.
func (g *Grant) keepRenewed(ctx context.Context, ahead RefreshAhead, src Source) time.Time {
	if f := g.joinToKeep(ctx, ahead, src); f != nil {
		_ = g.waitToEnd(ctx, f) // an error means that the keeper is stopped
	}
	return g.nextLook(ahead)
}

// joinToKeep returns the fetch that keepRenewed waits for, or nil if there is none. Any fetch in progress is
// one, since it changes when to look again.
func (g *Grant) joinToKeep(ctx context.Context, ahead RefreshAhead, src Source) *flight {
	g.endPauseOnChange(ctx, src)
	o := newOrder(TriggerPrefetch, src)
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if g.liveLocked(now) != nil && g.flight == nil { // otherwise the next token is on its way
		if !ahead.StaleFrom(g.newest).Passed(now) || !g.pauses.ahead.isOpen(now) {
			return nil
		}
	}
	f, err := g.joinLocked(ctx, o)
	if err != nil {
		return nil // in a pause
	}
	return f
}

// nextLook returns when there is something to do for the token again.
func (g *Grant) nextLook(ahead RefreshAhead) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	t, failed := g.newest, g.pauses.failed
	switch live := g.liveLocked(now) != nil; {
	case !live && failed == nil:
		return now
	case !live:
		return failed.missFrom
	}
	due := ahead.StaleFrom(t).monotonic
	if g.flight == nil { // otherwise the gate is closed for as long as the fetch takes
		due = later(due, g.pauses.ahead.opensAt())
	}
	if !t.guessed && due.After(t.expires.monotonic) {
		return t.expires.monotonic // without a token, other pauses apply
	}
	return due
}
