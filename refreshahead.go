package oauthcc

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// refreshAhead tells how long before it expires a token is renewed. The zero value
// is the default.
type refreshAhead struct {
	off   bool
	time  time.Duration
	share float64 // of the lifetime
}

const (
	defaultAheadShare = 0.25
	defaultAheadMost  = 5 * time.Minute

	// maxAheadShare bounds what is asked for: a token that is renewed as soon as it
	// is there would have the endpoint asked all the time.
	maxAheadShare = 0.9

	// aheadSpread is by how much of itself the time ahead differs from one token to
	// the next at the most.
	aheadSpread = 0.2
)

// parseRefreshAhead reads the option's value.
func parseRefreshAhead(text string) (refreshAhead, error) {
	switch percent, isPercent := strings.CutSuffix(text, "%"); {
	case text == "":
		return refreshAhead{}, nil
	case text == "off":
		return refreshAhead{off: true}, nil
	case isPercent:
		value, err := strconv.ParseFloat(percent, 64)
		if err == nil && value > 0 && value <= 100*maxAheadShare {
			return refreshAhead{share: value / 100}, nil
		}
	default:
		value, err := caddy.ParseDuration(text)
		if err == nil && value > 0 {
			return refreshAhead{time: value}, nil
		}
	}
	return refreshAhead{}, fmt.Errorf("refresh_ahead: %q is not a time ahead of the expiry; use a duration such as 2m, "+
		"a share of the lifetime such as 25%%, up to %.0f%%, or off", text, 100*maxAheadShare)
}

// staleFrom is when the token is to be renewed: the time ahead of the moment in which
// it counts as expired, moved by up to a fifth; or, if that is earlier, when the endpoint
// wants it to be renewed, or up to a fifth sooner. A token is never renewed in the first
// tenth of its life, nor in the first second or the first half of a shorter life.
func (a refreshAhead) staleFrom(t *token) moment {
	if a.off {
		return t.servedTo
	}
	ahead := min(scaled(t.lifetime, defaultAheadShare), defaultAheadMost)
	switch {
	case a.share > 0:
		ahead = scaled(t.lifetime, a.share)
	case a.time > 0:
		ahead = min(a.time, t.lifetime/2) // longer than the lifetime of some tokens
	}
	fresh := t.servedFor() - scaled(ahead, 1+aheadSpread*t.spread)
	if t.refreshIn > 0 {
		fresh = min(fresh, scaled(t.refreshIn, 1-aheadSpread*(1+t.spread)/2))
	}
	fresh = max(fresh, t.lifetime/10, min(t.lifetime/2, time.Second))
	return t.sent.add(fresh)
}

func scaled(d time.Duration, by float64) time.Duration {
	return time.Duration(float64(d) * by)
}
