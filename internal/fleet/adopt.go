package fleet

import (
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// newRecord makes the record of a token. now is by the machine's clock. The token's age is taken from
// the monotonic clock, so the record is right even if the machine's clock was set since then.
func newRecord(t tokencache.Offer, now time.Time) record {
	return record{
		Value: t.Value, Sent: now.Add(-time.Since(t.Sent)).UTC(), Lifetime: t.Lifetime, Guessed: t.LifetimeGuessed, Fixed: t.LifetimeFixed,
		RefreshIn: t.RefreshIn, Sequence: t.Sequence,
	}
}

// adopt makes the record's token one of this gateway. greatestAge is the oldest that the token can
// be, or 0 if that is not known. It reports false for a token whose age or expiry can't be trusted.
func (r record) adopt(now time.Time, greatestAge time.Duration) (tokencache.Offer, bool) {
	age, ok := r.age(now, greatestAge)
	if !ok {
		return tokencache.Offer{}, false
	}
	lifetime := r.Lifetime
	// A JWT also expires by its own exp (RFC 7519 §4.1.4), which is read by this machine's clock. The
	// option ttl counts instead of it: gateways with another one don't find this record.
	if left, known := endpoint.JWTLifetime(r.Value, now); known && !r.Fixed {
		lifetime = min(lifetime, age+left)
	}
	granted := endpoint.Granted{
		Value: r.Value, Sent: time.Now().Add(-age), Lifetime: lifetime, LifetimeGuessed: r.Guessed, LifetimeFixed: r.Fixed, RefreshIn: r.RefreshIn,
	}
	return tokencache.Offer{Granted: granted, Sequence: r.Sequence, Adopted: true}, lifetime > 0
}

// age returns how long ago the token was asked for. If this machine's clock is behind that of the
// machine that asked, the token looks too young and would be used for too long. This only shows if
// the token comes from the future. Up to the margin before a token's expiry, it does no harm. Beyond
// that, the token counts as being of greatestAge. If that is unknown too, the token is refused.
func (r record) age(now time.Time, greatestAge time.Duration) (age time.Duration, ok bool) {
	age = now.Sub(r.Sent)
	if age >= -min(tokencache.ExpiryMargin, r.Lifetime/10) {
		return max(age, 0), true
	}
	return greatestAge, greatestAge > 0
}
