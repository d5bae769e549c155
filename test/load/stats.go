package main

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
)

// median is that of values in any order.
func median[T ~int64 | ~float64](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// percentile is the smallest of the sorted values that p percent of them don't exceed (nearest rank).
func percentile[T cmp.Ordered](sorted []T, p float64) (value T) {
	if len(sorted) == 0 {
		return value
	}
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[max(1, rank)-1]
}

// bounds are the lowest and the highest value of an interval.
type bounds struct {
	low, high float64
	confident bool // the median is between them with a probability of 95% or more
}

// medianBounds is the interval of order statistics in which the median of what the values are a sample of
// lies with a probability of at least 95%, whatever their distribution. That takes six values; the bounds
// of fewer are the lowest and the highest.
func medianBounds(values []float64) bounds {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return bounds{}
	}
	// Each value is below the median with probability 1/2. The k-th value and the k-th from the end have the
	// median between them unless fewer than k values are on one side of it.
	k := 0
	for missed := binomial(n, 0); 2*missed <= 0.05; missed += binomial(n, k) {
		k++
	}
	if k == 0 {
		return bounds{low: sorted[0], high: sorted[n-1]}
	}
	return bounds{sorted[k-1], sorted[n-k], true}
}

// binomial is the probability of k heads in n tosses of a coin.
func binomial(n, k int) float64 {
	all, _ := math.Lgamma(float64(n + 1))
	some, _ := math.Lgamma(float64(k + 1))
	rest, _ := math.Lgamma(float64(n - k + 1))
	return math.Exp(all - some - rest - float64(n)*math.Ln2)
}

// isCancelled tells that a request has failed only because the slice was given up.
func isCancelled(err error) bool { return errors.Is(err, context.Canceled) }
