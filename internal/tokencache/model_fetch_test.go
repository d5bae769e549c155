package tokencache

import (
	"context"
	"net/http"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// modelFlight is a fetch.
type modelFlight struct {
	ctx        context.Context // ends when it is cancelled
	began      time.Time
	limit      time.Duration
	script     script
	last       *modelToken // at the start
	trigger    Trigger
	outage     bool // the one before failed
	asks       bool // another gateway's token will not do
	forced     bool
	before     modelForced
	begun      bool // it had its turn
	retrying   bool
	background bool
	wanted     time.Time // when the first request began to wait; zero if that is not known
}

// modelFailure is a fetch that failed, and how long nobody is to ask again.
type modelFailure struct {
	cause    *endpoint.Error
	queued   bool
	forced   bool
	hadToken bool
	miss     time.Time // for requests without a token
	next     time.Time // for renewals ahead
	rejected span      // for requests with a rejected token
}

// modelForced is when a rejected token may be replaced.
type modelForced struct {
	last, from, slow time.Time
	spacing, resort  time.Duration
	brought          uint64
}

// span is a time that is somewhere from the one to the other.
type span struct{ from, to time.Time }

// isAhead reports whether the time is certainly, and whether it is possibly yet to come.
func (s span) isAhead(now time.Time) (certainly, possibly bool) {
	return now.Before(s.from), now.Before(s.to)
}

func (s span) atLeast(t time.Time) span { return span{later(s.from, t), later(s.to, t)} }

// started is called when a fetch starts. It checks whether it may.
func (m *modelGrant) started(f *modelFlight) {
	now := f.began
	f.last = m.newest
	m.starts++
	m.fetching++
	if f.ctx.Err() != nil {
		return // it was cancelled in the same moment, and sends nothing
	}
	if m.flight != nil && m.flight.ctx.Err() == nil {
		m.w.violated("two fetches at the same time: %s, and %s since %s", f.trigger, m.flight.trigger, m.w.at(m.flight.began))
	}
	if failed := m.failed; failed != nil {
		m.checkPause(f, failed)
		if now.After(failed.next.Add(10 * time.Minute)) {
			m.succeeded() // that is too long ago
		}
	}
	if m.released && (f.trigger == TriggerAhead || f.trigger == TriggerPrefetch) {
		m.w.violated("%s without a configuration", f.trigger)
	}
	f.outage = m.isOutage(m.failed)
	f.asks = m.mustAsk || f.trigger == TriggerOperator
	f.background = f.trigger == TriggerAhead
	f.begun = !m.inTable
	f.before = m.forced
	if f.trigger == TriggerRejected || f.trigger == TriggerOperator {
		f.forced = true
		m.forced.last, m.forced.from, m.forced.slow = now, now.Add(5*time.Second), now.Add(m.forced.spacing)
	}
	if f.trigger == TriggerRejected && m.live(now).isTimely(now) {
		m.checkVain(now)
	}
	m.flight = f
}

// isOutage reports whether requests wait for a fetch no longer than a second.
func (*modelGrant) isOutage(failed *modelFailure) bool {
	return failed != nil && (!failed.hadToken || failed.cause.Status != http.StatusTooManyRequests)
}

// checkPause checks that a fetch does not start in a pause.
func (m *modelGrant) checkPause(f *modelFlight, failed *modelFailure) {
	live := m.live(f.began)
	from := failed.miss
	switch f.trigger {
	case TriggerOperator:
		return
	case TriggerAhead:
		from = failed.next
	case TriggerMiss, TriggerPrefetch:
		if live != nil {
			from = failed.next
		}
	case TriggerRejected:
		if live != nil {
			from = failed.rejected.from
		}
	}
	if f.began.Before(from) {
		m.w.violated("the endpoint is asked (%s) %s before the end of the pause", f.trigger, from.Sub(f.began))
	}
}

// checkVain checks that renewals which cure nothing become rare.
func (m *modelGrant) checkVain(now time.Time) {
	if m.evidence.evidence.accepted.Load() >= m.newest.generation {
		m.vain = nil // so it was a good one
		return
	}
	if n := len(m.vain); n > 0 {
		least := min(5*time.Second<<min(n, 8), time.Minute)
		if gap := now.Sub(m.vain[n-1]); gap < least {
			m.w.violated("renewal %d in vain is %s after the one before", n+1, gap)
		}
	}
	m.vain = append(m.vain, now)
}

// landed is called with what has come of a fetch, before anybody else is told.
func (m *modelGrant) landed(f *modelFlight, o Outcome) {
	now := time.Now()
	isCancelled := f.ctx.Err() != nil
	m.fetching--
	m.lastUse, m.landedAt = now, now
	if m.flight == f {
		m.flight = nil
		if isCancelled {
			m.cancelled(f)
		}
	}
	if f.trigger != "" && f.trigger != o.Trigger {
		m.w.violated("a fetch for %s became one for %s", f.trigger, o.Trigger)
	}
	if o.Trigger != TriggerPrefetch {
		m.keepBy = now.Add(time.Minute)
	}
	switch {
	case o.Failure == nil:
		m.store(f, o.Granted, now)
	case !isCancelled:
		m.fail(f, o, now)
	default:
		m.w.unreported[o.Failure] = true
	}
}

// cancelled is called when a fetch is cancelled. If it was not sent, it does not count.
func (m *modelGrant) cancelled(f *modelFlight) {
	if m.isNeeded(f) {
		m.w.violated("a fetch (%s) is cancelled that is needed", f.trigger)
	}
	m.vain = nil // nobody knows what would have come of it
	if f.begun || f.trigger != TriggerRejected && f.trigger != TriggerOperator {
		return
	}
	m.forced.last, m.forced.from, m.forced.slow = f.before.last, f.before.from, f.before.slow
}

// succeeded forgets all failures.
func (m *modelGrant) succeeded() { m.failed, m.failures = nil, [3]int{} }

// store keeps a token that was granted.
func (m *modelGrant) store(f *modelFlight, o Offer, now time.Time) {
	t := &modelToken{
		value: o.Value, sequence: o.Sequence, sent: o.Sent, expires: o.Sent.Add(o.Lifetime), guessed: o.LifetimeGuessed, stored: now,
		invalid: func() bool { return m.evidence.evidence.invalid },
	}
	t.due = t.expires.Add(-min(10*time.Second, o.Lifetime/10))
	m.tokens = append(m.tokens, t)
	m.failing = false
	if o.Adopted && m.mustAsk && !f.asks {
		t.generation = m.generation // it may be what was forgotten, so only those who waited get it
		return
	}
	if o.Adopted && f.asks {
		m.w.violated("another gateway's token was taken")
	}
	m.succeeded()
	m.mustAsk = m.mustAsk && !f.asks
	last := m.newest
	isSame := last != nil && last.value == t.value
	if isSame {
		t.generation = last.generation
	} else {
		m.generation++
		t.generation, m.used, m.usedFor = m.generation, nil, 0
		switch {
		case f.forced || last == nil:
			m.before = nil
		case !m.evidence.evidence.doubted:
			m.before = last
		}
		m.evidence.evidence.forNewToken()
	}
	m.newest = t
	switch {
	case !f.forced:
		m.vain = nil
	case o.Adopted:
		m.vain = nil
		m.forced.last, m.forced.from, m.forced.slow = f.before.last, f.before.from, f.before.slow
	case isSame:
		m.forced.noteUncured()
		m.evidence.evidence.again = true
	default:
		m.forced.brought = t.generation
	}
}

// fail begins the pauses after a failure.
func (m *modelGrant) fail(f *modelFlight, o Outcome, now time.Time) {
	const background, transient, refused = 0, 1, 2
	row, first, most := transient, time.Second, 10*time.Second
	if o.Failure.Class == endpoint.ClassRefused && !o.Failure.Unsent {
		row, first, most = refused, 15*time.Second, 5*time.Minute
	}
	asked := now.Add(o.Failure.RetryAfter)
	failed := &modelFailure{cause: o.Failure, queued: o.Queued, forced: f.forced || m.failed != nil && m.failed.forced, hadToken: m.live(now) != nil}
	if o.Usable != failed.hadToken {
		m.w.violated("after a failure, a usable token: %t", o.Usable)
	}
	failed.rejected = pauseSpan(now, first, most, m.failures[row]).atLeast(asked)
	next := failed.rejected
	if !failed.hadToken || f.forced {
		m.failures[row]++
	}
	if failed.hadToken {
		next = pauseSpan(now, 5*time.Second, time.Minute, m.failures[background]).atLeast(asked)
		m.failures[background]++
	}
	failed.next, failed.miss = o.RetryAt, asked
	if failed.next.Before(next.from) || failed.next.After(next.to) {
		m.w.violated("a pause of %s, want %s to %s", failed.next.Sub(now), next.from.Sub(now), next.to.Sub(now))
	}
	if !failed.hadToken {
		failed.miss, failed.rejected = failed.next, span{failed.next, failed.next}
	}
	m.failed, m.failing, m.vain = failed, true, nil
}

func pauseSpan(now time.Time, first, most time.Duration, failures int) span {
	wait := min(first<<min(failures, 10), most)
	return span{now.Add(wait * 8 / 10), now.Add(wait*12/10 + 1)}
}

// pauseEnded is called when a source says that another try may succeed.
func (m *modelGrant) pauseEnded() {
	if m.failed == nil {
		return
	}
	unsent, failures := m.failed.cause.Unsent, m.failures
	m.succeeded()
	if unsent {
		m.failures = failures
	}
	m.forced.allow()
	m.vain, m.keepBy = nil, time.Now().Add(time.Minute)
}

func (f *modelForced) allow() { f.from, f.slow = time.Time{}, time.Time{} }

func (f *modelForced) noteUncured() {
	f.spacing = min(2*max(f.spacing, 5*time.Second), time.Minute)
	f.slow = f.last.Add(f.spacing)
}

func (f *modelForced) noteCured() { f.brought, f.spacing, f.slow, f.resort = 0, 0, time.Time{}, 0 }

// isLastResort reports whether a rejection that seems to be due to its request has the token renewed after all.
func (f *modelForced) isLastResort(now time.Time) bool {
	return now.Sub(f.last) >= max(f.resort, 5*time.Minute)
}

func (f *modelForced) noteLastResort() { f.resort = min(2*max(f.resort, 5*time.Minute), time.Hour) }
