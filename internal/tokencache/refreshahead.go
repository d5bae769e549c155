package tokencache

import "time"

const (
	defaultAheadShare = 0.25
	defaultAheadMost  = 5 * time.Minute

	// MaxAheadShare bounds RefreshAhead.Share. A token that is renewed as soon as it arrives would
	// cause one token request after the other.
	MaxAheadShare = 0.9

	// aheadSpread is the largest part by which the time ahead is made longer or shorter. So the
	// gateways of a fleet don't renew all at the same time.
	aheadSpread = 0.2
)

// RefreshAhead says how long before its expiry a token is renewed. The zero value is the default: a
// quarter of the lifetime, at most 5 minutes. Set at most one field.
type RefreshAhead struct {
	Off   bool          // a token is not renewed before it has expired
	Share float64       // of the lifetime, up to MaxAheadShare; 0 for none
	Time  time.Duration // capped at half of the lifetime; 0 for none
}

// StaleFrom returns when the token is to be renewed in the background: the time ahead before it is due, moved by up
// to a fifth. That is never in the first tenth of its life, nor in its first second. For tokens that live less than
// two seconds, it is never in the first half. If the endpoint wants it renewed earlier (refresh_in), that time
// counts, but not in the first second. A token that is used again counts as stale.
func (a RefreshAhead) StaleFrom(t *Token) Moment {
	switch {
	case t.Fallback:
		return Moment{}
	case a.Off:
		return t.dueFrom
	}
	fresh := t.dueAfter() - scaled(a.ahead(t.lifetime), 1+aheadSpread*t.spread)
	fresh = max(fresh, t.lifetime/10, min(t.lifetime/2, time.Second))
	if t.refreshIn > 0 {
		fresh = min(fresh, max(t.refreshIn, time.Second))
	}
	return t.Sent.add(fresh)
}

// ahead returns the time ahead for tokens of this lifetime, before it is spread.
func (a RefreshAhead) ahead(lifetime time.Duration) time.Duration {
	switch {
	case a.Share > 0:
		return scaled(lifetime, a.Share)
	case a.Time > 0:
		return min(a.Time, lifetime/2) // some tokens may live less than Time
	}
	return min(scaled(lifetime, defaultAheadShare), defaultAheadMost)
}

func scaled(d time.Duration, by float64) time.Duration {
	return time.Duration(float64(d) * by)
}
