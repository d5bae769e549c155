package oauthcc

import (
	"fmt"
	"testing"
	"time"
)

func TestRefreshAheadIsParsed(t *testing.T) {
	for text, want := range map[string]refreshAhead{
		"": {}, "off": {off: true}, "2m": {time: 2 * time.Minute}, "1500ms": {time: 1500 * time.Millisecond}, "1d": {time: 24 * time.Hour},
		"25%": {share: 0.25}, "12.5%": {share: 0.125}, "0.1%": {share: 0.001}, "90%": {share: 0.9},
	} {
		if got, err := parseRefreshAhead(text); err != nil || got != want {
			t.Errorf("%q: got %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"0", "0s", "-2m", "5", "soon", "Off", "%", "0%", "-1%", "91%", "90.1%", "1e9%", "Inf%", "NaN%", "5m%", "25 %", " 2m", "2m off"} {
		if got, err := parseRefreshAhead(text); err == nil {
			t.Errorf("%q is taken for %+v", text, got)
		}
	}
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
		// Five minutes at the most.
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
		// What the endpoint recommends holds if it is earlier, and no later than that.
		{"", time.Hour, 1000 * time.Second, 800 * time.Second, 900 * time.Second, 1000 * time.Second},
		{"", time.Hour, 3590 * time.Second, 2872 * time.Second, 3231 * time.Second, time.Hour - 250*time.Second},
		{"", time.Hour, 2 * time.Hour, time.Hour - 370*time.Second, time.Hour - 310*time.Second, time.Hour - 250*time.Second},
		{"", time.Hour, time.Second, 6 * time.Minute, 6 * time.Minute, 6 * time.Minute},
	} {
		t.Run(fmt.Sprintf("%s of %v in %v", test.option, test.lifetime, test.in), func(t *testing.T) {
			ahead, err := parseRefreshAhead(test.option)
			if err != nil {
				t.Fatal(err)
			}
			for spread, want := range map[float64]time.Duration{1: test.early, 0: test.middle, -1: test.late} {
				token := newToken(grantedToken{value: "a", sent: time.Now(), lifetime: test.lifetime, refreshIn: test.in})
				token.spread = spread
				got := ahead.staleFrom(token).monotonic.Sub(token.sent.monotonic)
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
		token := newToken(grantedToken{value: "a", sent: time.Now(), lifetime: time.Hour})
		least, most = min(least, token.spread), max(most, token.spread)
	}
	if least < -1 || least > -0.95 || most > 1 || most < 0.95 {
		t.Errorf("from %v to %v", least, most)
	}
}

// Whatever was configured and granted, a token is renewed while it can be served, and
// not as soon as it is there.
func FuzzTimeOfRenewal(f *testing.F) {
	f.Add("", int64(time.Hour), int64(0), 0.0)
	f.Add("5m", int64(time.Second), int64(time.Minute), 1.0)
	f.Add("90%", int64(maxLifetime), int64(1), -1.0)
	f.Add("off", int64(0), int64(-1), 0.5)
	f.Fuzz(func(t *testing.T, option string, lifetime, in int64, spread float64) {
		ahead, err := parseRefreshAhead(option)
		if err != nil || !(spread >= -1 && spread <= 1) {
			return
		}
		token := newToken(grantedToken{
			value: "a", sent: time.Now(),
			lifetime: min(max(time.Duration(lifetime), time.Second), maxLifetime), refreshIn: min(max(time.Duration(in), 0), maxLifetime),
		})
		token.spread = spread
		fresh := ahead.staleFrom(token).monotonic.Sub(token.sent.monotonic)
		if fresh < token.lifetime/10 || fresh > token.servedFor() {
			t.Errorf("renewed after %v of %v", fresh, token.servedFor())
		}
	})
}
