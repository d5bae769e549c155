package oauthcc

import (
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"time"
)

// expiryMargin is how long before its expiry a token is no longer served, so
// that it does not expire on its way; a tenth of its lifetime if that is less.
const expiryMargin = 10 * time.Second

// moment is a point in time on both clocks of a machine. The monotonic clock is never
// set, but stands still while the machine is suspended; the wall clock is what tokens
// go by, and can be set.
type moment struct {
	monotonic, wall time.Time
}

func momentAt(t time.Time) moment {
	return moment{monotonic: t, wall: t.Round(0)}
}

func (m moment) add(d time.Duration) moment {
	return moment{monotonic: m.monotonic.Add(d), wall: m.wall.Add(d)}
}

// passed reports whether one of the clocks has come to it. So a wall clock that is set
// back makes nothing last longer, and time in which the machine slept counts.
func (m moment) passed(now time.Time) bool {
	return !now.Before(m.monotonic) || !now.Round(0).Before(m.wall)
}

// token is an access token in the cache. It is immutable.
type token struct {
	value      string
	bearer     string // the value after the scheme Bearer, of which value is a part
	generation uint64 // higher than that of every token before it
	sent       moment // when it was asked for, from which its lifetime counts
	lifetime   time.Duration
	refreshIn  time.Duration // when the endpoint wants it to be renewed, 0 if it didn't say
	spread     float64       // from -1 to 1, drawn once, by which a fleet's renewals spread out
	servedTo   moment        // from then on it counts as expired
	sequence   uint64        // see sharedToken; 0 if it is not shared
	adopted    bool          // another gateway has got it
}

// bearerScheme is what comes before most tokens.
const bearerScheme = typeBearer + " "

func newToken(granted grantedToken) *token {
	bearer := bearerScheme + granted.value
	t := &token{
		value: bearer[len(bearerScheme):], bearer: bearer, sent: momentAt(granted.sent), lifetime: granted.lifetime, refreshIn: granted.refreshIn,
		sequence: granted.sequence, adopted: granted.adopted,
		spread: 2*rand.Float64() - 1, //nolint:gosec // jitter
	}
	t.servedTo = t.sent.add(t.servedFor())
	return t
}

// servedFor is the time from when a token was asked for to when it counts as expired.
func (t *token) servedFor() time.Duration {
	return t.lifetime - min(expiryMargin, t.lifetime/10)
}

// expiry is when the token really expires.
func (t *token) expiry() time.Time { return t.sent.wall.Add(t.lifetime) }

func (t *token) usable(now time.Time) bool {
	return t != nil && !t.servedTo.passed(now)
}

// fingerprint names a token in logs.
func fingerprint(value string) string {
	sum := sha256.Sum256([]byte(value))
	return hex.EncodeToString(sum[:4])
}
