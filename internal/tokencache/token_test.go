package tokencache

import (
	"fmt"
	"regexp"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

func TestTokenIsTakenUntilItsMargin(t *testing.T) {
	for _, test := range []struct{ lifetime, takes, dueAfter time.Duration }{
		{time.Second, 0, 900 * time.Millisecond},
		{2 * time.Second, 0, 1800 * time.Millisecond},
		{50 * time.Second, 0, 45 * time.Second},
		{100 * time.Second, 0, 90 * time.Second},
		{200 * time.Second, 0, 190 * time.Second},
		{24 * time.Hour, 0, 24*time.Hour - 10*time.Second},
		{endpoint.MaxLifetime, 0, endpoint.MaxLifetime - 10*time.Second},
		// The lifetime counts from when the request was sent.
		{100 * time.Second, 30 * time.Second, 60 * time.Second},
		{2 * time.Second, 1700 * time.Millisecond, 100 * time.Millisecond},
	} {
		t.Run(fmt.Sprintf("%v after %v", test.lifetime, test.takes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, s := newTestGrant(t), &fetchStub{lifetime: test.lifetime, takes: test.takes}
				first := mustGetToken(t, g, s)
				time.Sleep(test.dueAfter - time.Nanosecond)
				if timely(g) != first || mustGetToken(t, g, s) != first {
					t.Error("the token is gone too early")
				}
				s.wantCalls(t, 1)
				time.Sleep(time.Nanosecond)
				if timely(g) != nil {
					t.Error("the token is taken although it is due")
				}
				s.takes = 0
				if second := mustGetToken(t, g, s); second.Value != "token-2" || second.Generation <= first.Generation {
					t.Errorf("got %q of generation %d", second.Value, second.Generation)
				}
				s.wantCalls(t, 2)
			})
		})
	}
}

// A step of the wall clock, seen as a time without a monotonic reading, must not
// make a token last longer than its lifetime by the clock that does not step.
func TestLifetimeIsMeasuredWithTheMonotonicClock(t *testing.T) {
	g := newTestGrant(t)
	sent := time.Now()
	g.mu.Lock()
	stored := g.storeLocked(Offer{Granted: endpoint.Granted{Value: "a", Sent: sent, Lifetime: time.Minute}}, false)
	g.mu.Unlock()
	if got := stored.dueFrom.monotonic.Sub(sent); got != 54*time.Second {
		t.Errorf("served for %v", got)
	}
	if stored.dueFrom.monotonic == stored.dueFrom.monotonic.Round(0) { //nolint:staticcheck // also compares the monotonic reading
		t.Error("the expiry has lost its monotonic reading")
	}
}

func TestFingerprintDoesNotShowTheToken(t *testing.T) {
	for _, value := range []string{"", "a", "b", "secret-token"} {
		if print := Fingerprint(value); !regexp.MustCompile(`^[0-9a-f]{8}$`).MatchString(print) {
			t.Errorf("fingerprint %q", print)
		}
	}
	if Fingerprint("abc") != "ba7816bf" { // the first digits of its SHA-256
		t.Errorf("fingerprint %q", Fingerprint("abc"))
	}
}

func TestEitherClockEndsATokensLife(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		monotonic, wall time.Duration // from now to the moment
		passed          bool
	}{
		"not yet":                             {time.Second, time.Second, false},
		"just now":                            {0, 0, true},
		"the wall clock was set back":         {-time.Second, time.Hour, true},
		"the wall clock was set forward":      {time.Hour, -time.Second, true},
		"the machine slept a part of the way": {time.Hour, 2 * time.Second, false},
	} {
		m := Moment{monotonic: now.Add(test.monotonic), Wall: now.Add(test.wall).Round(0)}
		if got := m.Passed(now); got != test.passed {
			t.Errorf("%s: passed is %v", name, got)
		}
	}
}

// A clock that is set forward makes the token of before count as expired. The one that
// is fetched then lives by the new time.
func TestClockThatIsSetCostsOneFetch(t *testing.T) {
	for name, step := range map[string]time.Duration{"forward": 2 * time.Hour, "back": -2 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, s := newTestGrant(t), new(fetchStub)
				mustGetToken(t, g, s)
				// As if the clock had been set since then.
				stepped := *g.Current()
				stepped.Sent.Wall = stepped.Sent.Wall.Add(-step)
				stepped.dueFrom.Wall = stepped.dueFrom.Wall.Add(-step)
				g.current.Store(&stepped)
				want := int64(2)
				if step < 0 {
					want = 1
				}
				for range 3 {
					mustGetToken(t, g, s)
				}
				s.wantCalls(t, want)
				time.Sleep(59*time.Minute + 50*time.Second) // by the clock that was not set
				mustGetToken(t, g, s)
				s.wantCalls(t, want+1)
			})
		})
	}
}
