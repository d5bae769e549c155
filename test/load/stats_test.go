package main

import (
	"slices"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{3}, 3},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 9, 1, 2}, 3},
	} {
		given := slices.Clone(test.values)
		if got := median(test.values); got != test.want {
			t.Errorf("the median of %v is %v, want %v", test.values, got, test.want)
		}
		if !slices.Equal(given, test.values) {
			t.Errorf("%v was sorted", given)
		}
	}
}

func TestPercentileIsTheNearestRank(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for p, want := range map[float64]time.Duration{0: 1, 50: 50, 99: 99, 99.5: 100, 100: 100} {
		if got := percentile(hundred, p); got != want {
			t.Errorf("percentile %v is %d, want %d", p, got, want)
		}
	}
	if got := percentile([]time.Duration{7}, 50); got != 7 {
		t.Errorf("the median of 7 alone is %d", got)
	}
	if got := percentile([]time.Duration(nil), 50); got != 0 {
		t.Errorf("the median of nothing is %d", got)
	}
}

// The ranks are those of the tables for the sign test.
func TestMedianBounds(t *testing.T) {
	for n, rank := range map[int]int{6: 1, 8: 1, 9: 2, 10: 2, 20: 6, 36: 12, 100: 40} {
		values := make([]float64, n)
		for i := range values {
			values[i] = float64(n - i) // the value tells its rank
		}
		want := bounds{float64(rank), float64(n + 1 - rank), true}
		if got := medianBounds(values); got != want {
			t.Errorf("of %d values: %v, want %v", n, got, want)
		}
	}
}

func TestFewValuesHaveARangeOnly(t *testing.T) {
	want := bounds{low: 1, high: 5}
	if got := medianBounds([]float64{3, 1, 4, 5, 2}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := medianBounds(nil); got != (bounds{}) {
		t.Errorf("of nothing: %v", got)
	}
}
