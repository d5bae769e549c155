package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// writeRatios writes how the gateways compare, case by case.
func writeRatios(w io.Writer, results []caseResult) {
	if len(results) == 0 {
		return
	}
	t := newTable(w, "case", "compared", "CPU per request", "95% interval", "medians of the starts", "peak memory", "from–to")
	for _, result := range results {
		for _, r := range result.ratios {
			starts := make([]float64, len(r.cpu))
			for i, ratios := range r.cpu {
				starts[i] = median(ratios)
			}
			pairs, memory := slices.Concat(r.cpu...), medianBounds(r.memory)
			t.row(result.name(), r.label(), ratio(median(pairs)), medianBounds(pairs).String(),
				span(slices.Min(starts), slices.Max(starts)), ratio(median(r.memory)), span(memory.low, memory.high))
		}
	}
	t.end()
}

func (c comparison) label() string {
	if c.isNoise() {
		return "noise: " + string(c.measured) + " / " + string(c.base)
	}
	return string(c.measured) + " / " + string(c.base)
}

// writeCosts writes what each gateway costs by itself.
func writeCosts(w io.Writer, results []caseResult) {
	if len(results) == 0 {
		return
	}
	t := newTable(w, "case", "gateway", "CPU s per 10,000", "requests/s", "p50", "p99", "peak memory, MiB")
	for _, result := range results {
		for _, k := range []kind{nothing, static, oauthCC} {
			c, measured := result.costs[k]
			if !measured {
				continue
			}
			t.row(result.name(), string(k), cpuOf10000(median(c.cpu)), fmt.Sprintf("%.0f", median(c.rate)),
				milliseconds(median(c.p50)), milliseconds(median(c.p99)), fmt.Sprintf("%.0f", median(c.memory)/(1<<20)))
		}
	}
	t.end()
}

// writeStorms writes how the gateway with oauth_cc fared in storms.
func writeStorms(w io.Writer, results []stormResult) {
	if len(results) == 0 {
		return
	}
	t := newTable(w, "storm", "request", "requests", "answers", "token requests", "p50", "p99", "longest", "CPU s per 10,000")
	for _, r := range results {
		var answers []string
		for _, status := range slices.Sorted(maps.Keys(r.statuses)) {
			answers = append(answers, fmt.Sprintf("%d: %d", status, r.statuses[status]))
		}
		t.row(r.name, r.shape.name, fmt.Sprint(r.requests()), strings.Join(answers, ", "), fmt.Sprint(r.asked),
			milliseconds(percentile(r.latencies, 50)), milliseconds(percentile(r.latencies, 99)), milliseconds(percentile(r.latencies, 100)),
			cpuOf10000(r.cost()))
	}
	t.end()
}

// table writes a table in Markdown.
type table struct{ w io.Writer }

func newTable(w io.Writer, columns ...string) table {
	t := table{w}
	t.row(columns...)
	t.row(slices.Repeat([]string{"---"}, len(columns))...)
	return t
}

func (t table) row(cells ...string) {
	_, _ = fmt.Fprintf(t.w, "| %s |\n", strings.Join(cells, " | "))
}

func (t table) end() { _, _ = fmt.Fprintln(t.w) }

func (b bounds) String() string {
	text := span(b.low, b.high)
	if !b.confident {
		text += " (range)" // too few pairs to say more
	}
	return text
}

func ratio(r float64) string { return fmt.Sprintf("%.3f", r) }

func span(low, high float64) string { return ratio(low) + "–" + ratio(high) }

func cpuOf10000(seconds float64) string { return fmt.Sprintf("%.2f", seconds*10_000) }

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}
