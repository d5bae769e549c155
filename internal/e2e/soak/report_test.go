package soak

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// report counts, by what and which.
type report struct {
	t testing.TB

	mu     sync.Mutex
	count  map[string]map[string]int
	wrongs int
}

func (r *report) counts(what, which string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count[what] == nil {
		r.count[what] = make(map[string]int)
	}
	r.count[what][which]++
}

// wrong fails the test, and tells the first of many.
func (r *report) wrong(format string, args ...any) {
	r.t.Helper()
	r.mu.Lock()
	r.wrongs++
	n := r.wrongs
	r.mu.Unlock()
	if n <= 30 {
		r.t.Errorf(format, args...)
	} else {
		r.t.Fail()
	}
}

// log counts the lines of a gateway's log. It keeps none.
func (r *report) log(line []byte) {
	var entry struct{ Level, Logger, Msg string }
	if err := json.Unmarshal(line, &entry); err != nil {
		r.wrong("a line of the log: %v", err)
		return
	}
	if strings.Contains(string(line), "panic") && !strings.Contains(string(line), "net/http: abort Handler") {
		r.wrong("logged: %s", line)
	}
	if strings.Contains(string(line), "canary") {
		r.wrong("a secret in the log: %s", line)
	}
	r.counts("log lines", entry.Level+" "+entry.Logger+": "+general(entry.Msg))
}

// variable is what differs from one error to the next.
var variable = regexp.MustCompile(`\d+\.\d+\.\d+\.\d+:\d+|LastStreamID=\d+|:\d{4,5}`)

func general(text string) string { return variable.ReplaceAllString(text, "…") }

// tell logs a table.
func (r *report) tell() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, what := range slices.Sorted(maps.Keys(r.count)) {
		total := 0
		for _, n := range r.count[what] {
			total += n
		}
		r.t.Logf("%s: %d", what, total)
		for _, which := range slices.Sorted(maps.Keys(r.count[what])) {
			r.t.Logf("  %8d  %s", r.count[what][which], which)
		}
	}
}

// cost is what a process takes.
type cost struct {
	goroutines     int
	heap, resident uint64
}

func measure() cost {
	runtime.GC()
	runtime.GC() // pools give up what they have in two steps
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return cost{runtime.NumGoroutine(), memory.HeapAlloc, resident()}
}

// resident is 0 where the system does not tell.
func resident() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	pages, _ := strconv.ParseUint(fields[1], 10, 64)
	return pages * uint64(os.Getpagesize())
}

func (c cost) String() string {
	return fmt.Sprintf("%d goroutines, %.1f MiB live heap, %.1f MiB resident", c.goroutines, mib(c.heap), mib(c.resident))
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }
