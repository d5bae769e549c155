package tokencache

import (
	"slices"
	"time"
)

// checkGrants checks what is seen of the grants from outside.
func (w *world) checkGrants() {
	now := time.Now()
	for _, m := range w.grants {
		m.checkFlight()
		m.checkSnapshot(now)
		m.checkKeeper(now)
		for c := range m.calls {
			if !c.by.IsZero() && now.After(c.by) {
				w.violated("%s has not returned, %s too late", c.name, now.Sub(c.by))
			}
		}
	}
}

// isNeeded reports whether somebody needs the fetch.
func (m *modelGrant) isNeeded(f *modelFlight) bool {
	for c := range m.calls {
		isAboutToEnd := c.ctx.Err() != nil || !time.Now().Before(c.by) || c.live != nil && f.retrying
		if c.joined == f && !isAboutToEnd {
			return true
		}
	}
	return !m.released && (f.begun || f.background)
}

// checkFlight checks that a fetch goes on no longer than somebody needs it.
func (m *modelGrant) checkFlight() {
	f := m.flight
	if f == nil {
		return
	}
	isCancelled := f.ctx.Err() != nil
	if !isCancelled && len(m.calls) == 0 && m.keeper == nil && !m.isNeeded(f) {
		m.w.violated("a fetch (%s) goes on that nobody needs", f.trigger)
	}
	if isCancelled { // it ends soon
		m.flight = nil
		m.cancelled(f)
	}
}

// checkSnapshot checks what operators and requests see.
func (m *modelGrant) checkSnapshot(now time.Time) {
	s, w := m.grant.Snapshot(), m.w
	switch {
	case (s.Token == nil) != (m.newest == nil), s.Token != nil && (s.Token.Value != m.newest.value || s.Token.Generation != m.newest.generation):
		w.violated("grant %d: the newest token is %+v, want %+v", m.key, s.Token, m.newest)
	case s.Live != (m.live(now) != nil), s.Live != (m.grant.Live(now) != nil):
		w.violated("grant %d: there is a live token: %t", m.key, s.Live)
	case s.Fetching != (m.flight != nil):
		w.violated("grant %d: a fetch is in progress: %t", m.key, s.Fetching)
	case s.History.Failing != m.failing:
		w.violated("grant %d: the last fetch failed: %t", m.key, s.History.Failing)
	case m.failed == nil && !s.NextTry.IsZero(), m.failed != nil && !s.NextTry.Equal(m.failed.next):
		w.violated("grant %d: the next try is at %s, want %+v", m.key, w.at(s.NextTry), m.failed)
	}
}

// checkKeeper checks that a keeper keeps a token.
func (m *modelGrant) checkKeeper(now time.Time) {
	t := m.newest
	if m.keeper == nil || m.flight != nil || now.Before(m.keepBy) || t != nil && t.guessed && t.invalid() {
		return
	}
	by := now.Add(-1)
	if t != nil && t.isLive(now) {
		by = m.keeps.ahead.StaleFrom(m.grant.Snapshot().Token).monotonic
		if m.failed != nil {
			by = later(by, m.failed.next)
		}
		if !t.guessed && by.After(t.expires) {
			by = t.expires
		}
	} else if m.failed != nil {
		by = m.failed.miss
		if t != nil && m.failed.hadToken {
			by = later(by, t.expires)
		}
	}
	if m.failed != nil && !m.failed.queued && m.keeps.isChanged(m.failed.cause) && now.Sub(later(m.landedAt, m.w.changedAt)) > 61*time.Second {
		m.w.violated("the keeper has not seen another credential")
	}
	if late := now.Sub(later(by, m.landedAt)); late > 100*time.Millisecond {
		m.w.violated("the keeper is %s late", late)
	}
}

// checkTable checks that only what was not used for longest is dropped, and no more than necessary.
func (w *world) checkTable() {
	held := make(map[*Grant]bool)
	for _, e := range w.table.All() {
		held[&e.Grant] = true
	}
	inUse, idle, tokenless, now := 0, 0, 0, time.Now()
	var kept, dropped []*modelGrant
	for _, m := range w.grants {
		switch {
		case held[m.grant]:
			kept = append(kept, m)
			switch {
			case m.users > 0 || m.fetching > 0:
				inUse++
			case m.newest != nil || m.wasForgotten: // what is forgotten keeps its place until it is used
				idle++
			default:
				tokenless++
			}
		default:
			dropped = append(dropped, m)
		}
	}
	for _, m := range dropped {
		if m.users > 0 || m.fetching > 0 {
			w.violated("grant %d was dropped while it was in use", m.key)
		}
		isLast := func(other *modelGrant) bool {
			return other.users == 0 && other.fetching == 0 && other.newest != nil && !other.wasForgotten && other.lastUse.Before(m.lastUse)
		}
		if i := slices.IndexFunc(kept, isLast); i >= 0 && m.newest != nil && !m.wasForgotten {
			w.violated("grant %d was dropped and not %d, which was used last %s before", m.key, kept[i].key, m.lastUse.Sub(kept[i].lastUse))
		}
		if m.newest != nil && (tokenless > w.size/8 || inUse+idle < w.size-w.size/8) {
			w.violated("grant %d was dropped, and its token; %d are in use, %d have a token, %d have none", m.key, inUse, idle, tokenless)
		}
		w.note("grant %d was dropped at %s", m.key, w.at(now))
	}
	if n := len(held); n != len(kept) || n > w.size+inUse {
		w.violated("%d grants in a table for %d, %d of them in use", n, w.size, inUse)
	}
	if len(dropped) > 0 && len(held)+len(dropped) <= w.size {
		w.violated("%d grants were dropped of a table with %d of %d", len(dropped), len(held), w.size)
	}
	w.grants = kept
}
