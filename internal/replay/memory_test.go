package replay

import (
	"bytes"
	"runtime"
	"testing"
)

// What is recorded in memory of the system is there until the recording is freed.
func TestMemoryLastsAsLongAsItsRecording(t *testing.T) {
	body := []byte(randomBody(10*largeMemory + 1))
	var r recording
	for rest := body; len(rest) > 0; {
		n := min(len(rest), 10_000)
		r.add(rest[:n], int64(len(body)), true)
		rest = rest[n:]
		runtime.GC()
	}
	got := make([]byte, len(body)+1)
	var from place
	n := 0
	for r.hasMore(&from) {
		runtime.GC()
		n += r.read(&from, got[n:])
	}
	if !bytes.Equal(got[:n], body) {
		t.Errorf("read %d bytes, or others", n)
	}
	r.freeBefore(&from)
	if r.memory != 0 {
		t.Errorf("%d bytes are not freed", r.memory)
	}
}
