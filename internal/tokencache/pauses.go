package tokencache

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

const (
	// outageMemory is how long a failure counts after its pause. It is twice the longest pause:
	// otherwise each of a few rare requests would start with the shortest pause again.
	outageMemory = 10 * time.Minute

	// lookSpacing is the least time between two looks for another gateway's token in a pause. Each
	// costs an operation of the storage, and a request waits for it.
	lookSpacing = time.Second
)

// pauses knows which fetch failed, and how long the endpoint is left alone after that. The zero value
// has no failure.
type pauses struct {
	ahead aheadGate // whether renewals ahead are allowed; no lock guards it

	// Guarded by the grant's lock.
	failed   *failedFetch // the last fetch; nil if it succeeded
	failures backoff      // since the last fetch that succeeded
	lookFrom time.Time    // the earliest time of the next look for another gateway's token
}

// failedFetch is what is remembered of the last fetch if it failed. It is immutable.
type failedFetch struct {
	cause  *endpoint.Error
	queued bool // see Fetched

	// The endpoint is not asked again before these times:
	missFrom     time.Time // for a request without a token that can be served
	rejectedFrom time.Time // for a request whose token the upstream rejected
	nextTry      time.Time // to renew a token ahead of its expiry; without a token, for any reason

	hadToken bool // there was a live token when it failed

	// A forced renewal has failed since the last fetch that succeeded. So the endpoint has no other
	// token than the one that had to be replaced.
	forced bool
}

// noteFailure begins the pause after a failure, and returns what is remembered of it. usable means
// that a live token is left, wasForced that the fetch was to replace it.
//
// Without a live token, all requests wait for the same moment. With one, requests whose token was
// rejected, renewals ahead, and requests after the token's expiry each have a moment of their own.
func (p *pauses) noteFailure(result Fetched, now time.Time, usable, wasForced bool) *failedFetch {
	cause := result.Failure
	failed := &failedFetch{cause: cause, queued: result.Queued, forced: wasForced || p.failed != nil && p.failed.forced, hadToken: usable}
	p.failed = failed

	row := backoffFor(cause)
	failed.rejectedFrom = now.Add(max(Jittered(p.failures.wait(row)), cause.RetryAfter))
	if wasForced || !usable {
		p.failures[row]++
	}
	if !usable {
		failed.missFrom, failed.nextTry = failed.rejectedFrom, failed.rejectedFrom
		p.ahead.openAt(failed.nextTry)
		return failed
	}

	// When the token has expired, requests don't wait for the end of the pause for renewals. They
	// only wait as long as the endpoint asked for (Retry-After, RFC 9110 §10.2.3).
	failed.missFrom = now.Add(cause.RetryAfter)
	failed.nextTry = now.Add(max(Jittered(p.failures.wait(backoffBackground)), cause.RetryAfter))
	p.failures[backoffBackground]++
	p.ahead.openAt(failed.nextTry)
	return failed
}

// missPause returns the error for a request without a token in a pause, or nil if there is no pause.
func (p *pauses) missPause(now time.Time) *UnavailableError {
	if p.failed == nil || !now.Before(p.failed.missFrom) {
		return nil
	}
	pause := p.failed.until(p.failed.missFrom)
	pause.endsSoon = p.failed.hadToken && p.failed.missFrom.Sub(now) <= outagePatience
	return pause
}

// outage returns the error for callers that don't wait to the end of a fetch that starts now. It is nil unless the
// fetch before failed. limit is the longest that the fetch can take. The error's RetryAt is the end of the next pause
// at the latest, if this fetch fails in the same way. An endpoint that limits its clients is well: the first fetch
// after the end of a token is waited for, as it may grant the next only then.
func (p *pauses) outage(now time.Time, limit time.Duration) *UnavailableError {
	if p.failed == nil || p.failed.hadToken && p.failed.cause.Status == http.StatusTooManyRequests {
		return nil
	}
	return p.failed.until(now.Add(limit + p.failures.longest(p.failed.cause)))
}

// until is the error for a caller for whom the endpoint is not asked.
func (f *failedFetch) until(retryAt time.Time) *UnavailableError {
	return &UnavailableError{Cause: f.cause, RetryAt: retryAt, Waiting: true}
}

// forget ends all pauses, as after a fetch that succeeded.
func (p *pauses) forget() {
	p.failed, p.failures = nil, backoff{}
	p.ahead.open()
}

// reopenAhead allows renewals ahead after a fetch that was cancelled: at once, or after the pause that was
// there before.
func (p *pauses) reopenAhead() {
	if p.failed != nil {
		p.ahead.openAt(p.failed.nextTry)
		return
	}
	p.ahead.open()
}

// forgetOld forgets a failure that is too old to say something about the endpoint.
func (p *pauses) forgetOld(now time.Time) {
	if p.failed != nil && now.After(p.failed.nextTry.Add(outageMemory)) {
		p.forget()
	}
}

// endEarly ends the pause because another fetch may succeed. After a request that could not be sent,
// the earlier failures still count: the endpoint knows of those, and the same may happen again.
func (p *pauses) endEarly() {
	unsent, failures := p.failed.cause.Unsent, p.failures
	p.forget()
	if unsent {
		p.failures = failures
	}
}

// mayLook reports whether it is time to look for another gateway's token. The caller then has to
// look, as the next look is due lookSpacing later.
func (p *pauses) mayLook(now time.Time) bool {
	if now.Before(p.lookFrom) {
		return false
	}
	p.lookFrom = now.Add(lookSpacing)
	return true
}

// endPauseOnChange ends a pause if a fetch would now ask with another credential, or would find
// another gateway's token. The source looks at files or into a storage for that, so no lock is held.
func (g *Grant) endPauseOnChange(ctx context.Context, src Source) {
	g.mu.Lock()
	failed, last := g.pauses.failed, g.newest
	mayLook := failed != nil && !g.askEndpoint && g.pauses.mayLook(time.Now())
	g.mu.Unlock()
	if failed == nil {
		return
	}
	if changed := !failed.queued && src.ChangedSince(ctx, failed.cause) || mayLook && src.HasNewer(ctx, last); !changed {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pauses.failed != failed {
		return // another fetch has ended in the meantime
	}
	g.pauses.endEarly()
	g.forced.allow()
}

// aheadGate is open if a token may be renewed ahead of its expiry: no fetch is in progress, and there
// is no pause. Every request with a stale token asks it, so it needs no lock; callers ask again under
// the grant's lock. The zero value is open.
type aheadGate struct {
	opens atomic.Pointer[time.Time] // nil if it is open
}

// never is a time that does not come.
var never = time.Unix(1<<40, 0)

func (a *aheadGate) open()              { a.opens.Store(nil) }
func (a *aheadGate) openAt(t time.Time) { a.opens.Store(&t) }
func (a *aheadGate) close()             { a.opens.Store(&never) }

func (a *aheadGate) isOpen(now time.Time) bool {
	return !now.Before(a.opensAt())
}

// opensAt returns when the gate opens, which can be past. It is zero if it is open without a pause.
func (a *aheadGate) opensAt() time.Time {
	if at := a.opens.Load(); at != nil {
		return *at
	}
	return time.Time{}
}
