package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// comparison is of what a request costs in two gateways.
type comparison struct {
	measured, base kind
}

func (c comparison) name() string { return string(c.measured) + "-" + string(c.base) }

// isNoise tells that the gateways are alike: their difference is that of the measurement.
func (c comparison) isNoise() bool { return c.measured == c.base }

func allComparisons() []comparison {
	return []comparison{{static, nothing}, {oauthCC, nothing}, {oauthCC, static}, {static, static}}
}

// caseResult is what a case came to.
type caseResult struct {
	testCase

	ratios []ratioResult
	costs  map[kind]*costs
}

// ratioResult has the ratios of a comparison, measured gateway to base.
type ratioResult struct {
	comparison

	cpu    [][]float64 // of each pair in each start
	memory []float64   // of each start
}

// costs are those of a gateway, from all comparisons that it was in.
type costs struct {
	cpu      []float64 // seconds for each request, one for each slice; so are rate, p50 and p99
	rate     []float64 // requests a second
	p50, p99 []time.Duration
	memory   []float64 // bytes, one for each start
}

func (c *costs) add(s *slice) {
	c.cpu = append(c.cpu, s.cost())
	c.rate = append(c.rate, s.rate())
	c.p50 = append(c.p50, percentile(s.latencies, 50))
	c.p99 = append(c.p99, percentile(s.latencies, 99))
}

// measure makes all comparisons of a case.
func (l *lab) measure(ctx context.Context, c testCase) (caseResult, error) {
	result := caseResult{testCase: c, costs: make(map[kind]*costs)}
	for _, comparison := range l.comparisons {
		result.ratios = append(result.ratios, ratioResult{comparison: comparison})
		for _, k := range []kind{comparison.measured, comparison.base} {
			if result.costs[k] == nil {
				result.costs[k] = new(costs)
			}
		}
	}
	// A start of all comparisons before the next, so that what changes in the course of a case is in all of them.
	for start := range l.starts {
		for i := range result.ratios {
			r := &result.ratios[i]
			if err := l.compare(ctx, c, r, result.costs); err != nil {
				return result, fmt.Errorf("%s: %w", r.name(), err)
			}
			l.tell("%s: %s: start %d of %d: %.3f", c.name(), r.name(), start+1, l.starts, median(r.cpu[start]))
		}
	}
	return result, nil
}

// compare starts two gateways and loads them by turns.
func (l *lab) compare(ctx context.Context, c testCase, r *ratioResult, all map[kind]*costs) error {
	kinds := [2]kind{r.measured, r.base}
	var gateways [2]*gateway
	var clients [2][]client
	// Which of two is started first must not matter either.
	for _, i := range shuffledPair() {
		var err error
		if gateways[i], clients[i], err = l.startWith(ctx, kinds[i], c); err != nil {
			return err
		}
		defer gateways[i].stop(clients[i])
	}
	var ratios []float64
	for range l.pairs {
		var pair [2]float64
		for _, i := range shuffledPair() {
			s, err := drive(ctx, gateways[i], clients[i], l.slice, c.answer)
			if err == nil {
				err = s.onlyServed()
			}
			if err != nil {
				return fmt.Errorf("the gateway with %s: %w", kinds[i], err)
			}
			all[kinds[i]].add(s)
			pair[i] = s.cost()
		}
		ratios = append(ratios, pair[0]/pair[1])
	}
	r.cpu = append(r.cpu, ratios)

	var peaks [2]float64
	for i, g := range gateways {
		peak, err := peakMemory(g.pid())
		if err != nil {
			return err
		}
		peaks[i] = float64(peak)
		all[kinds[i]].memory = append(all[kinds[i]].memory, peaks[i])
	}
	r.memory = append(r.memory, peaks[0]/peaks[1])
	return nil
}

// shuffledPair is 0 and 1 in random order.
func shuffledPair() []int { return rand.Perm(2) }
