package replay

import (
	"container/list"
	"sync"
	"time"
)

const (
	// smallTape is the most that a tape can take and still count as small, in bytes: what a body of 64 KiB takes whose
	// length is not known.
	smallTape = smallMemory + 2*largeMemory

	// largeShare is the part of a budget, three quarters, that large tapes can have together. The rest is for small
	// ones: so uploads don't keep others from being sent again.
	largeShare = 0.75

	// idleTime is for how long nothing was read of the client's body before a tape has to give way to another.
	idleTime = time.Second

	// maxLooked is how many tapes are looked at to find one that gives way. Those that have grown last are not.
	maxLooked = 64
)

// Budget bounds the memory that all tapes of a handler take together. When there is no room, tapes whose
// clients don't send anything give way, the largest first: their bodies can't be sent again then.
type Budget struct {
	// Limit in bytes. It must not change once a tape uses the budget.
	Limit int64

	mu     sync.Mutex
	used   int64
	large  int64     // of that by large tapes
	growth list.List // the tapes that have taken something; those that have grown last at the end
}

// Used returns how many bytes the tapes hold at the moment.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// grow reserves what the tape needs to have so many bytes in all, or reports false if there is no room for them. The
// caller has the lock of the tape.
func (b *Budget) grow(t *tape, size int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.hasRoomLocked(t.taken, size) {
		if !b.makeRoomLocked(size > smallTape) {
			return false
		}
	}
	b.accountLocked(t, size)
	if t.inBudget == nil {
		t.inBudget = b.growth.PushBack(t)
	} else {
		b.growth.MoveToBack(t.inBudget)
	}
	return true
}

// shrink takes back what the tape has taken, but for so many bytes. The caller has the lock of the tape.
func (b *Budget) shrink(t *tape, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shrinkLocked(t, size)
}

func (b *Budget) shrinkLocked(t *tape, size int64) {
	b.accountLocked(t, size)
	if size == 0 {
		b.growth.Remove(t.inBudget)
		t.inBudget = nil
	}
}

// hasRoomLocked reports whether a tape can have so many bytes instead of those that it has taken. A large one can
// have all of the budget if there is no other.
func (b *Budget) hasRoomLocked(taken, size int64) bool {
	if b.used-taken+size > b.Limit {
		return false
	}
	others := b.large
	if taken > smallTape {
		others -= taken
	}
	return size <= smallTape || others == 0 || float64(others+size) <= largeShare*float64(b.Limit)
}

// accountLocked notes that a tape has so many bytes now.
func (b *Budget) accountLocked(t *tape, size int64) {
	for _, change := range []struct{ bytes, sign int64 }{{t.taken, -1}, {size, 1}} {
		b.used += change.sign * change.bytes
		if change.bytes > smallTape {
			b.large += change.sign * change.bytes
		}
	}
	t.taken = size
}

// makeRoomLocked has the largest idle tape give way. It reports false if there is none. Only large ones give way to a
// large one.
func (b *Budget) makeRoomLocked(forLarge bool) bool {
	var largest *tape
	looked := 0
	for place := b.growth.Front(); place != nil && looked < maxLooked; place = place.Next() {
		looked++
		t := place.Value.(*tape)
		if largest != nil && t.taken <= largest.taken || forLarge && t.taken <= smallTape {
			continue
		}
		// Who has the lock is busy with it. To wait for it here could wait for this lock.
		if !t.mu.TryLock() {
			continue
		}
		if !t.isIdleLocked() {
			t.mu.Unlock()
			continue
		}
		if largest != nil {
			largest.mu.Unlock()
		}
		largest = t
	}
	if largest == nil {
		return false
	}
	defer largest.mu.Unlock()
	largest.giveWayLocked()
	b.shrinkLocked(largest, 0)
	return true
}
