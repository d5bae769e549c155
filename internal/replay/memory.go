package replay

import (
	"os"
	"runtime"
	"sync"
)

const (
	// smallMemory is the size of the only chunk of a body that is short, and of the first one if the length is not
	// known, in bytes.
	smallMemory = 4 << 10

	// largeMemory is the size of every other chunk, in bytes.
	largeMemory = 32 << 10
)

// memory is what one chunk of a recording is written to. It is used again. The large ones are no part of Go's heap: that
// grows to twice of what is live before garbage is collected, and so would what recordings take.
type memory struct {
	bytes []byte
	pool  *sync.Pool
}

// The memory of recordings that are over. What is not used for a while goes back to the system.
var smallPool, largePool sync.Pool

// takeMemory returns memory of one of the two sizes. What is in it is of an earlier request.
func takeMemory(size int) *memory {
	if size == smallMemory {
		if m, ok := smallPool.Get().(*memory); ok {
			return m
		}
		return &memory{bytes: make([]byte, smallMemory), pool: &smallPool}
	}
	if m, ok := largePool.Get().(*memory); ok {
		return m
	}
	return newLargeMemory()
}

// giveBack makes the memory available to other recordings. It must not be used after that.
func (m *memory) giveBack() { m.pool.Put(m) }

// newLargeMemory gets memory of the system, or of the heap if the system gives none. Who has a part of it has to keep
// the memory itself as well: its bytes are gone once the garbage collector finds that nobody has it.
func newLargeMemory() *memory {
	m := &memory{pool: &largePool}
	if largeMemory%os.Getpagesize() == 0 {
		if mapped, err := mapMemory(largeMemory); err == nil {
			m.bytes = mapped
			runtime.AddCleanup(m, unmapMemory, mapped)
			return m
		}
	}
	m.bytes = make([]byte, largeMemory)
	return m
}
