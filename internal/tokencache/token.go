package tokencache

import (
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// ExpiryMargin is how long before its expiry a token is due: requests wait for the next one, so that
// theirs does not expire on its way. It is a tenth of the lifetime if that is less.
const ExpiryMargin = 10 * time.Second

// BearerScheme comes before most tokens in a header field (RFC 6750 §2.1).
const BearerScheme = endpoint.TypeBearer + " "

// Token is an access token in the cache. It is immutable once a grant has it, so anyone may read it
// without a lock. A nil token means that there is none.
type Token struct {
	// What is sent upstream. Bearer is BearerScheme and the value, in one string with Value, so that
	// requests need no new string for the usual header.
	Value  string
	Bearer string

	// Which token it is. Generation counts the different tokens of a grant, from 1: only a token of
	// another generation can cure a rejection. Sequence counts in the same way for all gateways that
	// share the grant; it is 0 if the token is not shared.
	Generation uint64
	Sequence   uint64
	Adopted    bool // another gateway got it
	Fallback   bool // it is used again because the upstream does not take the one after it yet

	// How long it lives.
	Sent      Moment        // when the request for it was sent; its lifetime counts from then
	lifetime  time.Duration // as granted
	guessed   bool          // nobody has told the lifetime
	refreshIn time.Duration // after which the endpoint wants it renewed; 0 if it didn't say
	dueFrom   Moment        // requests wait for the next one from then on, see ExpiryMargin
	expires   Moment
	insteadOf uint64 // with Fallback: generation of the token that the upstream does not take yet

	// spread is a random number from -1 to 1. It spreads the renewals of a fleet.
	spread float64
}

// NewToken makes a token of what the endpoint granted. It has no generation yet: only its grant knows
// whether it differs from the token before.
func NewToken(granted endpoint.Granted) *Token {
	bearer := BearerScheme + granted.Value
	t := &Token{
		Value:     bearer[len(BearerScheme):],
		Bearer:    bearer,
		Sent:      momentAt(granted.Sent),
		lifetime:  granted.Lifetime,
		guessed:   granted.LifetimeGuessed,
		refreshIn: granted.RefreshIn,
		spread:    2*rand.Float64() - 1, //nolint:gosec // jitter
	}
	t.dueFrom, t.expires = t.Sent.add(t.dueAfter()), t.Sent.add(t.lifetime)
	return t
}

// Timely reports whether there is a token that is not due: requests take it without waiting.
func (t *Token) Timely(now time.Time) bool {
	return t != nil && !t.dueFrom.Passed(now)
}

// Live reports whether there is a token that has not expired. A token whose lifetime is only a guess
// lives until the upstream rejects it, which its grant knows.
func (t *Token) Live(now time.Time) bool {
	return t != nil && (t.guessed || !t.expires.Passed(now))
}

// AskedBefore reports whether the token was asked for before that time. What was revoked then can
// include it.
func (t *Token) AskedBefore(at time.Time) bool { return t.Adopted || t.Sent.monotonic.Before(at) }

// Expiry returns when the token expires, by the wall clock.
func (t *Token) Expiry() time.Time { return t.expires.Wall }

// dueAfter returns the time from Sent until the token is due.
func (t *Token) dueAfter() time.Duration {
	return t.lifetime - min(ExpiryMargin, t.lifetime/10)
}

// Fingerprint names a token in logs, by the first 8 hexadecimal digits of its SHA-256.
func Fingerprint(value string) string {
	sum := sha256.Sum256([]byte(value))
	return hex.EncodeToString(sum[:4])
}

// Moment is a point in time on both clocks of a machine. The monotonic clock can't be set, but stands
// still while the machine is suspended. Tokens expire by the wall clock, which can be set.
type Moment struct {
	monotonic time.Time
	Wall      time.Time // without a monotonic reading
}

func momentAt(t time.Time) Moment {
	return Moment{monotonic: t, Wall: t.Round(0)}
}

func (m Moment) add(d time.Duration) Moment {
	return Moment{monotonic: m.monotonic.Add(d), Wall: m.Wall.Add(d)}
}

// Passed reports whether the moment is over on either clock. So a wall clock that is set back makes
// nothing last longer, and the time for which the machine was suspended counts.
func (m Moment) Passed(now time.Time) bool {
	return !now.Before(m.monotonic) || !now.Round(0).Before(m.Wall)
}
