package tokencache

import (
	"context"
	"time"
)

// Rejection is an answer of the upstream that rejects a token.
type Rejection struct {
	Token   *Token
	Subject Subject // of the rejected request
	Invalid bool    // the upstream does not take the token for valid; otherwise it may lack permission
}

// rejectionVerdict says what to do about a token that the upstream rejected.
type rejectionVerdict uint8

const (
	rejectionUsesNewer rejectionVerdict = iota // the cache has a newer token
	rejectionFallsBack                         // the one before is used again
	rejectionRenews                            // join a fetch or start one
	rejectionStands                            // pass the rejection on, with ErrNotRenewed
	rejectionWaits                             // there is no other token before the end of a pause
)

// rejectionDecision is a verdict, with what is needed to carry it out.
type rejectionDecision struct {
	verdict rejectionVerdict
	retryAt time.Time // with rejectionWaits
}

// judgeRejectionLocked decides whether a rejected token is renewed now. The comments quote the rows
// of the table "When the upstream rejects a token" in docs/tokens.md that are about the token and not about
// the rejected request.
func (g *Grant) judgeRejectionLocked(r Rejection, whose fault, now time.Time) rejectionDecision {
	live, failed := g.liveLocked(now), g.pauses.failed
	switch {
	// "The cache holds a newer token by now."
	case live != nil && live.Generation > r.Token.Generation:
		return rejectionDecision{verdict: rejectionUsesNewer}

	// "The token is at most 30 s old, and the one before it lives and was not rejected." It is no better for
	// what was refused with two tokens already.
	case g.canFallBackLocked(now):
		if g.evidence.refused.has(r.Subject) && !g.evidence.doubted {
			return rejectionDecision{verdict: rejectionStands}
		}
		return rejectionDecision{verdict: rejectionFallsBack}

	// "Other requests are accepted with the token meanwhile."
	case whose == faultOfRequest && (failed != nil || !g.forced.isLastResort(now)):
		return rejectionDecision{verdict: rejectionStands}

	// It has expired by now, or is being renewed, or is about to be. So the rejection causes no extra
	// token request.
	case live == nil, g.flight != nil, !live.Timely(now) && failed == nil:
		return rejectionDecision{verdict: rejectionRenews}

	// "The last renewal of a rejected token failed, and the endpoint is still left alone." The client
	// gets that failure and not the rejection, even if it is too soon for another renewal.
	case failed != nil && failed.forced && now.Before(later(failed.rejectedFrom, g.forced.from)):
		return rejectionDecision{verdict: rejectionWaits, retryAt: later(failed.rejectedFrom, g.forced.from)}

	// "The last renewal of a rejected token was less than 5 s ago", or longer, as long as such
	// renewals don't cure.
	case g.forced.isTooSoon(now, whose):
		return rejectionDecision{verdict: rejectionStands}

	// "The endpoint is left alone after another failure."
	case failed != nil && now.Before(failed.rejectedFrom):
		return rejectionDecision{verdict: rejectionWaits, retryAt: failed.rejectedFrom}
	}

	return rejectionDecision{verdict: rejectionRenews}
}

// replaceRejected is replaceRejectedLocked for callers that don't hold the lock.
func (g *Grant) replaceRejected(ctx context.Context, r *Rejection, o *order) (*Token, *flight, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.replaceRejectedLocked(ctx, r, o)
}

// replaceRejectedLocked returns the token that replaces the rejected one, or else the fetch that will
// bring one. The caller then counts as waiting for it. Errors are ErrNotRenewed and *UnavailableError.
// The rejection becomes one of the newest token if that was rejected as well. The order is completed.
func (g *Grant) replaceRejectedLocked(ctx context.Context, r *Rejection, o *order) (*Token, *flight, error) {
	now := time.Now()
	whose := g.noteRejectedLocked(r, now)
	decision := g.judgeRejectionLocked(*r, whose, now)
	switch decision.verdict {
	case rejectionUsesNewer:
		if g.flight == nil || !g.flight.forced {
			return g.current.Load(), nil, nil
		}
		o.due = g.current.Load() // it was rejected as well, so the next one is preferred
	case rejectionFallsBack:
		return g.fallBackLocked(now), nil, nil
	case rejectionStands:
		return nil, nil, ErrNotRenewed
	case rejectionWaits:
		return nil, nil, g.pauses.failed.until(decision.retryAt)
	case rejectionRenews:
		if whose == faultOfRequest {
			g.forced.noteLastResort()
		}
	}
	f, err := g.joinLocked(ctx, *o)
	return nil, f, err
}

// noteRejectedLocked notes what a rejection says about the tokens, and returns whose fault it is. The
// rejection of a token that was used again counts as one of the newest token, which was rejected before.
func (g *Grant) noteRejectedLocked(r *Rejection, now time.Time) fault {
	if g.noteBeforeRejectedLocked(r.Token) {
		r.Token = g.newest
	}
	if g.newest == nil || r.Token.Generation != g.newest.Generation {
		return faultUnknown
	}
	isEarly := g.evidence.isEarly(now)
	whose := g.evidence.noteRejection(g.newest, r, now)
	if g.newest.Generation != g.forced.brought {
		return whose
	}
	switch {
	case !g.evidence.wasAccepted(g.newest):
		g.countUncuredLocked(g.newest)
	case isEarly && whose == faultOfToken && !g.evidence.isFamiliar(g.newest, r.Subject):
		// The last renewal can have been for such a request as this one. If so, others are accepted.
		g.countUncuredLocked(g.newest)
		return faultUnknown
	}
	return whose
}

// countUncuredLocked lengthens the wait for the next forced renewal, as the last one did not cure.
func (g *Grant) countUncuredLocked(renewed *Token) {
	if g.told.uncuredCounted.isFirst(renewed) {
		g.forced.noteUncured()
		g.evidence.curious.Store(true)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
