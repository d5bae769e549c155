package main

import (
	"strings"
	"testing"
	"time"
)

func TestTables(t *testing.T) {
	ms := func(n int) []time.Duration { return []time.Duration{time.Duration(n) * time.Millisecond} }
	result := caseResult{
		testCase: testCase{post1K, h2c},
		ratios: []ratioResult{
			{comparison{oauthCC, static}, [][]float64{{1.01, 1.03, 1.02}, {1.05, 1.04, 1.06}}, []float64{1.1, 1.2}},
			{comparison{static, static}, [][]float64{{0.99, 1.01}}, []float64{1}},
		},
		costs: map[kind]*costs{
			oauthCC: {[]float64{0.0002}, []float64{4000.4}, ms(3), ms(12), []float64{60 << 20, 62 << 20}},
			static:  {[]float64{0.0001}, []float64{5000}, ms(2), ms(10), []float64{59 << 20}},
		},
	}
	s := stormResult{
		storm: storm{name: "outage", shape: getSmall},
		slice: &slice{statuses: map[int]int{502: 1, 200: 2}, latencies: append(append(ms(1), ms(2)...), ms(3)...), cpu: 3 * time.Millisecond},
		asked: 7,
	}
	var text strings.Builder
	writeRatios(&text, []caseResult{result})
	writeCosts(&text, []caseResult{result})
	writeStorms(&text, []stormResult{s})
	const want = `| case | compared | CPU per request | 95% interval | medians of the starts | peak memory | from–to |
| --- | --- | --- | --- | --- | --- | --- |
| post-1k-h2c | oauth_cc / static | 1.035 | 1.010–1.060 | 1.020–1.050 | 1.150 | 1.100–1.200 |
| post-1k-h2c | noise: static / static | 1.000 | 0.990–1.010 (range) | 1.000–1.000 | 1.000 | 1.000–1.000 |

| case | gateway | CPU s per 10,000 | requests/s | p50 | p99 | peak memory, MiB |
| --- | --- | --- | --- | --- | --- | --- |
| post-1k-h2c | static | 1.00 | 5000 | 2.00 ms | 10.00 ms | 59 |
| post-1k-h2c | oauth_cc | 2.00 | 4000 | 3.00 ms | 12.00 ms | 61 |

| storm | request | requests | answers | token requests | p50 | p99 | longest | CPU s per 10,000 |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| outage | get-small | 3 | 200: 2, 502: 1 | 7 | 2.00 ms | 3.00 ms | 3.00 ms | 10.00 |

`
	if got := text.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
