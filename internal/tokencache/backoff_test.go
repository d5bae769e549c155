package tokencache

import (
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// next counts a failure.
func (b *backoff) next(row backoffRow) time.Duration {
	wait := Jittered(b.wait(row))
	b[row]++
	return wait
}

func TestWaitsDoubleUpToTheLast(t *testing.T) {
	for _, test := range []struct {
		row   backoffRow
		waits []int // seconds
	}{
		{backoffBackground, []int{5, 10, 20, 40, 60, 60, 60}},
		{backoffTransient, []int{1, 2, 4, 8, 10, 10, 10}},
		{backoffRefused, []int{15, 30, 60, 120, 240, 300, 300, 300}},
	} {
		var least, most [8]float64 // as shares of the wait
		for round := range 500 {
			var b backoff
			for i, seconds := range test.waits {
				share := b.next(test.row).Seconds() / float64(seconds)
				if round == 0 {
					least[i], most[i] = share, share
				}
				least[i], most[i] = min(least[i], share), max(most[i], share)
			}
		}
		for i, seconds := range test.waits {
			if least[i] < 0.8 || least[i] > 0.83 || most[i] > 1.2 || most[i] < 1.17 {
				t.Errorf("row %d, wait %d: drawn from %v to %v of %d s", test.row, i, least[i], most[i], seconds)
			}
		}
	}
}

func TestRowsCountForThemselves(t *testing.T) {
	var b backoff
	for range 10 {
		b.next(backoffRefused)
		b.next(backoffBackground)
	}
	if wait := b.next(backoffTransient); wait > 1200*time.Millisecond {
		t.Errorf("waits %v", wait)
	}
}

func TestNoWaitIsLongerThanTheLongest(t *testing.T) {
	for _, failure := range []*endpoint.Error{{Class: endpoint.ClassRefused}, {Class: endpoint.ClassTimeout}, {Class: endpoint.ClassRefused, Unsent: true}} {
		var b backoff
		for range 12 {
			longest := b.longest(failure)
			if wait := b.next(backoffFor(failure)); wait > longest {
				t.Errorf("%v: waits %v, longest %v", failure, wait, longest)
			}
		}
		if b[backoffBackground] != 0 {
			t.Error("a failure that leaves no token counts as one that does")
		}
	}
}
