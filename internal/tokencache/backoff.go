package tokencache

import (
	"math/rand/v2"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// backoff counts the failed fetches since the last successful one, separately for each row.
type backoff [backoffRows]int

// backoffRow is a way to leave an endpoint alone after failed fetches. Its waits double from the
// first to the longest.
type backoffRow int

const (
	// A token that can still be served was not renewed.
	backoffBackground backoffRow = iota

	// There is no token, and the endpoint may be back any moment. Requests wait for it.
	backoffTransient

	// There is no token, and the endpoint refused the client. Trying again soon would not help,
	// and could lock the client's account.
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

// backoffFor returns the row for a failure that leaves no token.
func backoffFor(failure *endpoint.Error) backoffRow {
	// A request that was not sent can't lock an account. An unreadable answer is no refusal.
	if failure.Class == endpoint.ClassRefused && !failure.Unsent {
		return backoffRefused
	}
	return backoffTransient
}

// wait returns how long to wait after the next failure, before jitter.
func (b *backoff) wait(row backoffRow) time.Duration {
	wait, last := row.bounds()
	for range b[row] {
		if wait *= 2; wait >= last {
			return last
		}
	}
	return wait
}

// longest returns the longest possible wait after such a failure, with jitter, if no token is left.
func (b *backoff) longest(failure *endpoint.Error) time.Duration {
	return time.Duration(float64(b.wait(backoffFor(failure))) * mostJitter)
}

// A wait with jitter is between these multiples of the wait without.
const (
	leastJitter = 0.8
	mostJitter  = 1.2
)

// Jittered makes a wait up to a fifth shorter or longer, at random. So gateways that failed at the
// same time don't come back at the same time.
func Jittered(wait time.Duration) time.Duration {
	return time.Duration(float64(wait) * (leastJitter + (mostJitter-leastJitter)*rand.Float64())) //nolint:gosec // jitter
}
