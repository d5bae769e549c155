package fleet

import (
	"testing"
	"testing/synctest"
	"time"
)

// The table of patience, with the timeout's default and with a short one.
func TestPatience(t *testing.T) {
	const never = -1
	for name, test := range map[string]struct {
		timeout       time.Duration
		wanted        time.Duration // after the fetch's beginning
		signs         int
		first, second time.Duration // after the fetch's beginning
	}{
		"no request waits":          {10 * time.Second, never, 0, 5 * time.Second, 7500 * time.Millisecond},
		"a sign for no request":     {10 * time.Second, never, 1, 5 * time.Second, 7500 * time.Millisecond},
		"a request from the start":  {10 * time.Second, 0, 0, time.Second, 2 * time.Second},
		"one that waits for longer": {10 * time.Second, -5 * time.Second, 0, time.Second, 2 * time.Second},
		"one that joins":            {10 * time.Second, 2 * time.Second, 0, 3 * time.Second, 4 * time.Second},
		"one that joins late":       {10 * time.Second, 4500 * time.Millisecond, 0, 5 * time.Second, 6500 * time.Millisecond},
		"one that joins very late":  {10 * time.Second, 7 * time.Second, 0, 5 * time.Second, 7500 * time.Millisecond},
		"a sign":                    {10 * time.Second, 0, 1, time.Second + signPatience, 2*time.Second + signPatience},
		"many signs":                {10 * time.Second, 0, 100, 5 * time.Second, 6 * time.Second},
		"many signs, joined late":   {10 * time.Second, 4 * time.Second, 100, 5 * time.Second, 7500 * time.Millisecond},
		"short":                     {time.Second, never, 0, 500 * time.Millisecond, 750 * time.Millisecond},
		"short, with a request":     {time.Second, 0, 0, 250 * time.Millisecond, 500 * time.Millisecond},
		"short, with signs":         {time.Second, 0, 100, 500 * time.Millisecond, 750 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := patience{timeout: test.timeout, began: time.Now()}
				if test.wanted != never {
					p.requestWaits(p.began.Add(test.wanted))
				}
				for range test.signs {
					p.signSeen(firstLock)
				}
				for rank, want := range map[lockRank]time.Duration{firstLock: test.first, secondLock: test.second} {
					if got := p.until(rank).Sub(p.began); got != want {
						t.Errorf("the wait for lock %d ends after %s, want %s", rank, got, want)
					}
					if left := p.left(rank); left != want-min(signLook, want/4) {
						t.Errorf("%s are left for lock %d", left, rank)
					}
				}
				if p.atMost() != test.second || p.remaining() != test.second {
					t.Errorf("%s are left for all, of %s, want %s", p.remaining(), p.atMost(), test.second)
				}
			})
		})
	}
}

// A sign of life counts only as long as there is more time for it.
func TestSignsOfLifeEndToCount(t *testing.T) {
	p := patience{timeout: 10 * time.Second, began: time.Now()}
	if p.signSeen(firstLock) {
		t.Error("a sign leaves more time though no request waits")
	}
	p.requestWaits(p.began)
	counted := 0
	for p.signSeen(firstLock) {
		counted++
	}
	if counted != 6 { // with the one before: 1 s and 7 × 0.6 s, up to 5 s
		t.Errorf("%d signs of life leave more time, want 6", counted)
	}
}
