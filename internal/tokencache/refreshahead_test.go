package tokencache

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// optionsOfAhead are times ahead as a configuration has them.
var optionsOfAhead = map[string]RefreshAhead{
	"": {}, "off": {Off: true}, "2m": {Time: 2 * time.Minute}, "5m": {Time: 5 * time.Minute}, "10%": {Share: 0.1}, "90%": {Share: 0.9},
}

func TestTimeOfRenewal(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, test := range []struct {
		option              string
		lifetime, in        time.Duration
		early, middle, late time.Duration // for the spreads 1, 0 and -1
	}{
		// A quarter of the lifetime before it counts as expired.
		{"", 2 * time.Second, 0, 1200 * time.Millisecond, 1300 * time.Millisecond, 1400 * time.Millisecond},
		{"", 100 * time.Second, 0, 60 * time.Second, 65 * time.Second, 70 * time.Second},
		// At most five minutes.
		{"", time.Hour, 0, time.Hour - 370*time.Second, time.Hour - 310*time.Second, time.Hour - 250*time.Second},
		{"", 100 * year, 0, 100*year - 370*time.Second, 100*year - 310*time.Second, 100*year - 250*time.Second},
		{"2m", time.Hour, 0, time.Hour - 154*time.Second, time.Hour - 130*time.Second, time.Hour - 106*time.Second},
		{"10%", time.Hour, 0, 3158 * time.Second, 3230 * time.Second, 3302 * time.Second},
		{"off", time.Hour, 0, 3590 * time.Second, 3590 * time.Second, 3590 * time.Second},
		{"off", time.Hour, time.Minute, 3590 * time.Second, 3590 * time.Second, 3590 * time.Second},
		// Longer than such a token lives: half of its lifetime.
		{"5m", 100 * time.Second, 0, 30 * time.Second, 40 * time.Second, 50 * time.Second},
		// Never as soon as it is there.
		{"90%", 100 * time.Second, 0, 10 * time.Second, 10 * time.Second, 18 * time.Second},
		{"90%", time.Second, 0, 500 * time.Millisecond, 500 * time.Millisecond, 500 * time.Millisecond},
		{"", time.Second, 0, 600 * time.Millisecond, 650 * time.Millisecond, 700 * time.Millisecond},
		// What the endpoint recommends holds if it is earlier, as it is, but not in the first second.
		{"", time.Hour, 1000 * time.Second, 1000 * time.Second, 1000 * time.Second, 1000 * time.Second},
		{"", time.Hour, 55 * time.Minute, time.Hour - 370*time.Second, time.Hour - 310*time.Second, 55 * time.Minute},
		{"", time.Hour, 2 * time.Hour, time.Hour - 370*time.Second, time.Hour - 310*time.Second, time.Hour - 250*time.Second},
		{"", time.Hour, time.Second, time.Second, time.Second, time.Second},
		{"", time.Hour, time.Millisecond, time.Second, time.Second, time.Second},
		{"", time.Second, 100 * time.Millisecond, 600 * time.Millisecond, 650 * time.Millisecond, 700 * time.Millisecond},
	} {
		t.Run(fmt.Sprintf("%s of %v in %v", test.option, test.lifetime, test.in), func(t *testing.T) {
			ahead, ok := optionsOfAhead[test.option]
			if !ok {
				t.Fatal("no such option")
			}
			for spread, want := range map[float64]time.Duration{1: test.early, 0: test.middle, -1: test.late} {
				token := NewToken(endpoint.Granted{Value: "a", Sent: time.Now(), Lifetime: test.lifetime, RefreshIn: test.in})
				token.spread = spread
				got := ahead.StaleFrom(token).monotonic.Sub(token.Sent.monotonic)
				if off := got - want; off.Abs() > time.Microsecond {
					t.Errorf("spread %v: renewed after %v, want %v", spread, got, want)
				}
			}
		})
	}
}

// What tokens draw is spread over the whole range.
func TestRenewalsSpreadOut(t *testing.T) {
	least, most := 1.0, -1.0
	for range 1000 {
		token := NewToken(endpoint.Granted{Value: "a", Sent: time.Now(), Lifetime: time.Hour})
		least, most = min(least, token.spread), max(most, token.spread)
	}
	if least < -1 || least > -0.95 || most > 1 || most < 0.95 {
		t.Errorf("from %v to %v", least, most)
	}
}

// Whatever was configured and granted, a token is renewed while it can be served, and
// not as soon as it is there.
func FuzzTimeOfRenewal(f *testing.F) {
	f.Add(false, int64(0), 0.0, int64(time.Hour), int64(0), 0.0)
	f.Add(false, int64(5*time.Minute), 0.0, int64(time.Second), int64(time.Minute), 1.0)
	f.Add(false, int64(0), 0.9, int64(endpoint.MaxLifetime), int64(1), -1.0)
	f.Add(true, int64(0), 0.0, int64(0), int64(-1), 0.5)
	f.Fuzz(func(t *testing.T, off bool, before int64, share float64, lifetime, in int64, spread float64) {
		// No more than one of them can be configured.
		ahead := RefreshAhead{Off: off}
		if !off && share > 0 && share <= MaxAheadShare {
			ahead.Share = share
		} else if !off {
			ahead.Time = time.Duration(max(before, 0))
		}
		if !(spread >= -1 && spread <= 1) {
			return
		}
		token := NewToken(endpoint.Granted{
			Value: "a", Sent: time.Now(),
			Lifetime: min(max(time.Duration(lifetime), time.Second), endpoint.MaxLifetime), RefreshIn: min(max(time.Duration(in), 0), endpoint.MaxLifetime),
		})
		token.spread = spread
		fresh := ahead.StaleFrom(token).monotonic.Sub(token.Sent.monotonic)
		least := token.lifetime / 10
		if token.refreshIn > 0 {
			least = min(least, time.Second)
		}
		if fresh < least || fresh > token.dueAfter() {
			t.Errorf("renewed after %v of %v", fresh, token.dueAfter())
		}
	})
}
