package tokencache

import (
	"context"
	"errors"
	"time"
)

// modelCall is a call of a grant that may wait.
type modelCall struct {
	m      *modelGrant
	name   string
	began  time.Time
	by     time.Time // when it returns at the latest
	ctx    context.Context
	cancel context.CancelFunc

	live     *modelToken // at the start; nil without
	isOver   bool        // at the start, that token's guessed lifetime was over, and it was rejected
	rejected *hand       // nil unless it replaces a rejected token
	than     uint64      // the new token's generation is greater; 0 for none
	joined   *modelFlight

	ended bool
	token *Token
	err   error
}

// expectation is what a call may come to. In a pause with jitter more than one thing can happen.
type expectation struct {
	waits   bool        // for a fetch, or for the end of a short pause
	token   *modelToken // it gets this token at once; nil for none
	fails   bool        // it fails at once, because of a pause
	stands  bool        // it is told at once that there is no other token
	starts  bool        // a fetch starts if it waits, or if it gets a token at once
	by      time.Time   // when it returns at the latest
	rejects uint64      // generation of the token that counts as rejected
}

// expectGet says what Get comes to.
func (m *modelGrant) expectGet(src *modelSource, now time.Time) expectation {
	t := m.current(now)
	switch {
	case t.isTimely(now):
		return expectation{token: t}
	case t.isLive(now):
		return m.expectDue(src, t, now)
	}
	if src.endsPause(now) {
		m.pauseEnded()
	}
	failed := m.failed
	if m.flight == nil && failed != nil && failed.hadToken && now.Before(failed.miss) && failed.miss.Sub(now) <= time.Second {
		return expectation{waits: true, by: failed.miss.Add(src.limit)}
	}
	return m.expectJoin(src, now)
}

// expectDue says what a call comes to that can go with a due token.
func (m *modelGrant) expectDue(src *modelSource, t *modelToken, now time.Time) expectation {
	f := m.flight
	switch {
	case m.failed != nil:
		return expectation{token: t, starts: f == nil && !m.released && !now.Before(m.failed.next)}
	case f == nil:
		return expectation{waits: true, starts: true, by: byDue(src, t, now, now)}
	case f.retrying || !now.Before(f.began.Add(time.Second)):
		return expectation{token: t}
	}
	return expectation{waits: true, by: byDue(src, t, f.began, now)}
}

// byDue is how long a request with a due token waits for a fetch. In its last moment it may not arrive in
// time, so that the next one is better.
func byDue(src *modelSource, t *modelToken, began, now time.Time) time.Time {
	by, end := began.Add(time.Second), t.expires.Add(-50*time.Millisecond)
	switch {
	case t.guessed || by.Before(end):
		return by
	case now.Before(end):
		return end
	}
	return now.Add(src.limit)
}

// expectJoin says what a call without a token comes to.
func (m *modelGrant) expectJoin(src *modelSource, now time.Time) expectation {
	f, failed := m.flight, m.failed
	switch {
	case f != nil && !f.outage:
		return expectation{waits: true, by: now.Add(src.limit)}
	case f != nil && now.Before(f.began.Add(time.Second)):
		return expectation{waits: true, by: f.began.Add(time.Second)}
	case f != nil:
		return expectation{fails: true}
	case failed != nil && now.Before(failed.miss):
		return expectation{fails: true}
	case m.isOutage(failed) && !now.After(failed.next.Add(10*time.Minute)):
		return expectation{waits: true, starts: true, by: now.Add(time.Second)}
	}
	return expectation{waits: true, starts: true, by: now.Add(src.limit)}
}

// expectRejected says what replaces a rejected token, in the order of the README's table.
func (m *modelGrant) expectRejected(src *modelSource, h *hand, r Rejection, now time.Time) expectation {
	rejects, whose := m.noteRejected(h, r, now)
	e := m.judge(src, rejects, r.Subject, whose, now)
	e.rejects = rejects
	return e
}

func (m *modelGrant) judge(src *modelSource, rejects uint64, s Subject, whose fault, now time.Time) expectation {
	live, failed := m.live(now), m.failed
	switch {
	case live != nil && live.generation > rejects:
		return m.expectNewer(src, live, now)
	case m.canFallBack(now) && m.evidence.evidence.refused.has(s) && !m.evidence.evidence.doubted:
		return expectation{stands: true}
	case m.canFallBack(now):
		return expectation{token: m.fallBack(now)}
	case whose == faultOfRequest && (failed != nil || !m.forced.isLastResort(now)):
		return expectation{stands: true}
	case live == nil, m.flight != nil, !live.isTimely(now) && failed == nil:
		return m.expectForced(src, whose, now)
	}
	tooSoon := now.Before(m.forced.from) || whose != faultOfToken && now.Before(m.forced.slow)
	var certainly, possibly bool // left alone after a failure
	if failed != nil {
		certainly, possibly = failed.rejected.isAhead(now)
	}
	switch {
	case failed != nil && failed.forced && (certainly || now.Before(m.forced.from)):
		return expectation{fails: true}
	case tooSoon:
		return expectation{stands: true, fails: possibly && failed.forced}
	case certainly:
		return expectation{fails: true}
	}
	e := m.expectForced(src, whose, now)
	e.fails = e.fails || possibly
	return e
}

// expectForced is expectJoin for a rejected token, which the fetch in progress then replaces.
func (m *modelGrant) expectForced(src *modelSource, whose fault, now time.Time) expectation {
	if whose == faultOfRequest {
		m.forced.noteLastResort()
	}
	if m.flight != nil {
		m.flight.forced = true
	}
	return m.expectJoin(src, now)
}

// expectNewer says what a call comes to whose rejected token has been replaced. If that is being replaced
// as well, the next one is better.
func (m *modelGrant) expectNewer(src *modelSource, t *modelToken, now time.Time) expectation {
	f := m.flight
	if f == nil || !f.forced {
		return expectation{token: t}
	}
	by := byDue(src, t, f.began, now)
	isLastMoment := !t.guessed && !now.Before(t.expires.Add(-50*time.Millisecond))
	if isLastMoment && f.outage {
		by = f.began.Add(time.Second)
	}
	if f.retrying && !isLastMoment || !now.Before(by) {
		return expectation{token: t}
	}
	return expectation{waits: true, by: by}
}

// call starts a call and checks what becomes of it in the same moment.
func (w *world) call(c *modelCall, e expectation, do func(context.Context) (*Token, error)) {
	m := c.m
	c.ctx, c.cancel = context.WithCancel(w.t.Context())
	c.began, c.by, c.than = time.Now(), e.by, e.rejects
	starts, flew := m.starts, m.flight
	m.users++
	m.calls[c] = true
	go func() {
		t, err := do(c.ctx)
		w.mu.Lock()
		c.end(t, err)
		isKept := c.keep()
		w.mu.Unlock()
		if !isKept {
			m.leave()
		}
	}()
	w.settle()
	switch {
	case !c.ended && !e.waits:
		w.violated("%s waits, want %s", c.name, e)
	case !c.ended:
		c.joined = m.flight
		if f := m.flight; f != nil && f.wanted.IsZero() && c.name != "refresh" {
			f.wanted = c.began
		}
	case c.token != nil && (e.token == nil || e.token.value != c.token.Value || e.token.isAgain != c.token.Fallback),
		c.err == ErrNotRenewed && !e.stands,
		c.err != nil && c.err != ErrNotRenewed && (!e.fails || !isInPause(c.err)):
		w.violated("%s got %v, %v at once, want %s", c.name, c.token, c.err, e)
	}
	if (m.starts > starts) != (e.starts && (!c.ended || c.token != nil)) {
		w.violated("%s started %d fetches, want %s", c.name, m.starts-starts, e)
	}
	takes := c.token != nil && !c.token.Fallback // a token, although another is on its way
	if f := m.flight; c.ended && f != nil && (f != flew || takes && (f.forced || c.rejected == nil && !e.token.isTimely(c.began))) {
		f.background = true // it did not wait to the end
	}
}

// isInPause reports whether an error tells that the endpoint was not asked, or not waited for.
func isInPause(err error) bool {
	unavailable, ok := errors.AsType[*UnavailableError](err)
	return ok && unavailable.Waiting
}

func (e expectation) String() string {
	s := ""
	for word, holds := range map[string]bool{"a wait": e.waits, "a failure": e.fails, "no other token": e.stands, "a fetch": e.starts} {
		if holds {
			s += word + ", "
		}
	}
	if e.token != nil {
		s += e.token.value
	}
	return s
}

// end is called when the call returns. It checks what the call came to.
func (c *modelCall) end(t *Token, err error) {
	now, m, w := time.Now(), c.m, c.m.w
	c.ended, c.token, c.err = true, t, err
	delete(m.calls, c)
	value := ""
	if t != nil {
		value = t.Value
	}
	w.note("grant %d: %s of %s ends: %q, %v", m.key, c.name, w.at(c.began), value, err)
	if f := m.flight; f != nil && c.ctx.Err() == nil && (c.joined == f || c.joined == nil && c.began.Before(now)) {
		f.background = true // it did not wait to the end
	}
	if now.After(c.by) && !c.by.IsZero() {
		w.violated("%s returned %s too late", c.name, now.Sub(c.by))
	}
	if t != nil {
		if err != nil {
			w.violated("%s returned a token and an error", c.name)
		}
		c.checkToken(t, now)
		return
	}
	live := m.live(now)
	isWithheld := live != nil && c.live != nil && live.generation > c.than
	if c.rejected != nil { // of the rejected token, and those before it, none will do
		isWithheld = isWithheld && c.live.generation > c.than
	}
	switch unavailable, isUnavailable := errors.AsType[*UnavailableError](err); {
	case err == nil:
		w.violated("%s returned nothing", c.name)
	case c.ctx.Err() != nil:
	case isUnavailable && (unavailable.RetryAt.Before(now) || unavailable.Cause == nil):
		w.violated("%s is to come back at %s, for %v", c.name, w.at(unavailable.RetryAt), unavailable.Cause)
	case isUnavailable && c.joined != nil && !unavailable.Waiting && m.failed != nil && m.landedAt.Equal(now) && !c.isToComeBack(unavailable.RetryAt):
		w.violated("%s is to come back at %s, for %+v", c.name, w.at(unavailable.RetryAt), m.failed)
	case isUnavailable && isWithheld:
		w.violated("%s was refused the live %q", c.name, live.value)
	case err == ErrNotRenewed && c.joined != nil && live != nil && live.generation > c.than:
		w.violated("%s was refused the newer %q", c.name, live.value)
	case !isUnavailable && (err != ErrNotRenewed || c.rejected == nil):
		w.violated("%s failed with %v", c.name, err)
	}
}

// isToComeBack reports whether a call that waited for a fetch which failed is told when to come back.
func (c *modelCall) isToComeBack(at time.Time) bool {
	failed := c.m.failed
	if !failed.hadToken {
		return at.Equal(failed.miss)
	}
	return !at.Before(failed.rejected.from) && !at.After(failed.rejected.to)
}

// checkToken checks that the token may be sent.
func (c *modelCall) checkToken(t *Token, now time.Time) {
	m, w := c.m, c.m.w
	known := m.find(t)
	isFallback := t.Fallback
	switch {
	case known == nil:
		w.violated("%s got %q, which was not granted", c.name, t.Value)
		return
	case known.generation != t.Generation:
		w.violated("%s got generation %d of %q, want %d", c.name, t.Generation, t.Value, known.generation)
	case !known.forgotten.IsZero() && known.forgotten.Before(c.began):
		w.violated("%s got %q, which was forgotten", c.name, t.Value)
	case known.stored.Equal(now) && c.joined != nil: // it came for this call, however long it lives
	case !now.Before(known.expires) && !known.guessed:
		w.violated("%s got %q, which has expired", c.name, t.Value)
	case !now.Before(known.expires) && c.isOver && known.value == c.live.value:
		w.violated("%s got %q, which was rejected, and whose guessed lifetime is over", c.name, t.Value)
	}
	if c.name == "refresh" && t.Adopted {
		w.violated("the operator got another gateway's %q", t.Value)
	}
	if used := m.current(now); isFallback && (used == nil || !used.isAgain || used.value != t.Value) {
		w.violated("%s got %q again", c.name, t.Value)
	}
	if isFallback && now.Sub(m.newest.sent) > 38*time.Second {
		w.violated("%s got %q again, long after the next", c.name, t.Value)
	}
	if c.rejected != nil && !isFallback && t.Generation <= c.than {
		w.violated("%s got generation %d for %d", c.name, t.Generation, c.than)
	}
	if c.rejected != nil && t.Generation == c.rejected.known.generation {
		w.violated("%s got the rejected %q", c.name, t.Value)
	}
}

// keep has the token of a request sent upstream. It reports whether there is one.
func (c *modelCall) keep() bool {
	if c.token == nil || c.name == "refresh" {
		return false
	}
	h := &hand{m: c.m, token: c.token, known: c.m.find(c.token), from: time.Now()}
	if h.known == nil {
		return false
	}
	if c.token.Fallback {
		h.insteadOf = c.m.newest.generation
	}
	if r := c.rejected; r != nil {
		h.renewals = r.renewals
		if !c.token.Fallback || r.token.Fallback {
			h.renewals++
			h.isOlder = c.token.AskedBefore(c.began)
		}
	}
	c.m.w.hands = append(c.m.w.hands, h)
	return true
}

// leave ends the use of a grant by a request.
func (m *modelGrant) leave() {
	m.w.mu.Lock()
	m.users--
	m.lastUse = time.Now()
	m.w.mu.Unlock()
	m.grant.Release()
}
