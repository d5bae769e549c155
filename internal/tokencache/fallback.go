package tokencache

import "time"

const (
	// settlingTime is how old a token can be and still be unknown to the upstream: replication takes
	// time, and clocks differ (nbf, RFC 7519 §4.1.5).
	settlingTime = 30 * time.Second

	// The token before a new one is used again for fallbackMin, then for twice as long each time, up
	// to fallbackMax.
	fallbackMin = time.Second
	fallbackMax = 8 * time.Second
)

// fallback is the token before the newest one. It is used again when the upstream does not take the
// newest one yet. The grant's lock guards it. The zero value has none.
type fallback struct {
	before *Token        // nil if there is none, or if it was rejected as well; else there is a newest one
	wait   time.Duration // how long it was used again the last time
}

// keepLocked keeps the newest token for the time in which the upstream may not take next yet. replaces means that the
// newest token was rejected, or that an operator wants another.
func (g *Grant) keepLocked(replaces bool) {
	g.fallback.wait = 0
	switch {
	case replaces || g.newest == nil:
		g.fallback.before = nil
	case !g.evidence.doubted: // otherwise the one before it is the last that was accepted
		g.fallback.before = g.newest
	}
}

// canFallBackLocked reports whether the token before the newest one can be used again.
func (g *Grant) canFallBackLocked(now time.Time) bool {
	before := g.fallback.before
	return before != nil && !before.expires.Passed(now) && now.Sub(g.newest.Sent.monotonic) <= settlingTime
}

// fallBackLocked has the token before the newest one used again, for a while, and returns it.
func (g *Grant) fallBackLocked(now time.Time) *Token {
	if t := g.current.Load(); t.Fallback {
		return t // another request did that
	}
	f := &g.fallback
	f.wait = min(max(2*f.wait, fallbackMin), fallbackMax)
	again := *f.before
	again.Fallback, again.insteadOf = true, g.newest.Generation
	again.dueFrom = momentAt(now.Add(f.wait))
	if again.expires.monotonic.Before(again.dueFrom.monotonic) {
		again.dueFrom = again.expires
	}
	g.current.Store(&again)
	return &again
}

// endFallbackLocked has the newest token tried again when it is time for that.
func (g *Grant) endFallbackLocked(now time.Time) {
	if t := g.current.Load(); t != nil && t.Fallback && !t.Timely(now) {
		g.current.Store(g.newest)
	}
}

// noteBeforeRejectedLocked has the token before the newest one used no more if that is the rejected one.
// It reports whether the newest one was rejected as well.
func (g *Grant) noteBeforeRejectedLocked(rejected *Token) (both bool) {
	both = rejected.Fallback && g.newest != nil && rejected.insteadOf == g.newest.Generation
	before := g.fallback.before
	if before == nil || before.Generation != rejected.Generation {
		return both
	}
	g.fallback.before = nil
	if g.current.Load().Fallback {
		g.current.Store(g.newest)
		both = true
	}
	return both
}
