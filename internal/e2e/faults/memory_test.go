package faults

import (
	"runtime"
	"sync"
	"testing"
)

// Faults that happen again and again take no more memory than those that happened a few times.
func TestMemoryStaysBounded(t *testing.T) {
	const start, size, large = 9_000, 60_000, 300_000
	breaksOff := by(func(v *visit) { v.drain(); v.say(numberedText(start)); v.breakOff() })
	rejects := script{answer: (*visit).reject}
	var rows []row
	for _, over := range []protocol{h1, h2c, h2} { // quic-go remembers closed connections for a while
		for _, row := range []row{
			{name: "client breaks its body off", ask: breakingOff(start)},
			{name: "client leaves in the answer", upstream: by(func(v *visit) { v.say(numberedText(start)); v.hang() }), ask: leavingInAnswer(start)},
			{name: "upstream breaks its answer off", upstream: breaksOff, ask: post(size)},
			{name: "upstream breaks the request off", upstream: by(func(v *visit) { v.read(start); v.breakOff() }), ask: post(size)},
			{name: "upstream rejects every token", upstream: rejects, ask: post(size)},
			{name: "upstream rejects large bodies", upstream: rejects, ask: chunked(large)},
			{name: "endpoint refuses", endpoint: says(403, "", ""), ask: post(size)},
		} {
			rows = append(rows, row.by(over))
		}
	}
	r := group{rows: rows, quiet: true}.start(t)
	busyBefore := busyGoroutines()
	heapAfter := func(rounds int) int64 {
		for range rounds {
			var wait sync.WaitGroup
			for _, p := range r.plays {
				wait.Go(func() {
					p.ask(p)
					p.api.forget()
				})
			}
			wait.Wait()
		}
		for _, p := range r.plays {
			p.client.CloseIdleConnections()
			p.token.forget()
		}
		awaitIdle(t, busyBefore)
		runtime.GC()
		runtime.GC() // pools give up what they have in two steps
		var memory runtime.MemStats
		runtime.ReadMemStats(&memory)
		return int64(memory.HeapAlloc)
	}
	before := heapAfter(20)
	after := heapAfter(60)
	t.Logf("%d KiB, then %d KiB", before>>10, after>>10)
	if after > before+3<<20 {
		t.Errorf("%d KiB have become %d KiB", before>>10, after>>10)
	}
}
