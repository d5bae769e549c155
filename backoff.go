package oauthcc

import (
	"math/rand/v2"
	"time"
)

// backoffRow is one of the ways in which an endpoint is left alone after failed
// fetches, from the first wait doubling up to the last.
type backoffRow int

const (
	// A token that can still be served was not renewed.
	backoffBackground backoffRow = iota

	// There is no token, and the endpoint may be back any moment.
	backoffTransient

	// There is no token, and the endpoint refused the client: trying again soon would
	// help nobody and could lock the client's account.
	backoffRefused
)

const backoffRows = int(backoffRefused) + 1

// bounds returns the first wait and the longest.
func (r backoffRow) bounds() (first, last time.Duration) {
	switch r {
	case backoffBackground:
		return 5 * time.Second, time.Minute
	case backoffTransient:
		return time.Second, 10 * time.Second
	case backoffRefused:
	}
	return 15 * time.Second, 5 * time.Minute
}

// Each wait is drawn from this share of what the row says, so that gateways which
// failed together don't come back together.
const (
	leastJitter = 0.8
	mostJitter  = 1.2
)

// backoffFor is the row for a failure that leaves no token.
func backoffFor(failure *fetchError) backoffRow {
	// What was not sent can't annoy the endpoint, and an unreadable answer is none.
	if failure.class == classRefused && !failure.unsent {
		return backoffRefused
	}
	return backoffTransient
}

// backoff counts the failed fetches since the last that succeeded, each row for itself.
type backoff [backoffRows]int

// jittered draws a wait.
func jittered(wait time.Duration) time.Duration {
	return time.Duration(float64(wait) * (leastJitter + (mostJitter-leastJitter)*rand.Float64())) //nolint:gosec // jitter
}

// longest is the longest wait that can be drawn after such a failure that leaves no token.
func (b *backoff) longest(failure *fetchError) time.Duration {
	return time.Duration(float64(b.wait(backoffFor(failure))) * mostJitter)
}

// wait is how long to wait after the next failure.
func (b *backoff) wait(row backoffRow) time.Duration {
	wait, last := row.bounds()
	for range b[row] {
		if wait *= 2; wait >= last {
			return last
		}
	}
	return wait
}

// failedFetch is what the last fetch leaves behind that has failed.
type failedFetch struct {
	cause *fetchError

	// Not before these moments is the endpoint asked again: for a request without a
	// token that can be served, for one whose token the upstream rejected, and to renew
	// a token ahead of its expiry, or without one, for any reason.
	missAt, rejectedAt, nextTry time.Time

	// Since the last fetch that succeeded, one that was to replace a rejected token has
	// failed.
	forced bool
}

// until tells a caller to come back later, without the endpoint being asked.
func (f *failedFetch) until(retryAt time.Time) *unavailableError {
	return &unavailableError{cause: f.cause, retryAt: retryAt, waiting: true}
}

// postpone finds when the endpoint is asked again after a failure. The caller holds mu.
func (g *cachedGrant) postpone(now time.Time, cause *fetchError, usable, forced bool) *failedFetch {
	failed := &failedFetch{cause: cause, forced: forced || g.failed != nil && g.failed.forced}
	without := g.failures.wait(backoffFor(cause))
	if forced || !usable {
		g.failures[backoffFor(cause)]++
	}
	failed.rejectedAt = now.Add(max(jittered(without), cause.retryAfter))
	if !usable {
		failed.missAt, failed.nextTry = failed.rejectedAt, failed.rejectedAt
		return failed
	}
	// Once the token has expired the pause for renewals is over, but for what the
	// endpoint has asked for.
	failed.missAt = now.Add(cause.retryAfter)
	failed.nextTry = now.Add(max(jittered(g.failures.wait(backoffBackground)), cause.retryAfter))
	g.failures[backoffBackground]++
	return failed
}
