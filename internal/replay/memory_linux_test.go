package replay

import (
	"runtime"
	"syscall"
	"testing"
	"time"
)

func TestUnusedMemoryGoesBackToTheSystem(t *testing.T) {
	m := newLargeMemory()
	mapped := m.bytes
	if err := syscall.Madvise(mapped, syscall.MADV_NORMAL); err != nil {
		t.Fatalf("the memory is not the system's: %v", err)
	}
	mapped[0], mapped[largeMemory-1] = 1, 2
	m.giveBack()
	for deadline := time.Now().Add(time.Minute); syscall.Madvise(mapped, syscall.MADV_NORMAL) == nil; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatal("the memory is still there")
		}
	}
}
