package replay

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestBudgetIsNeverExceeded(t *testing.T) {
	budget := &Budget{Limit: 10}
	var held atomic.Int64
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			tape := new(tape)
			tape.mu.Lock() // so it does not give way
			defer tape.mu.Unlock()
			for range 2000 {
				if n := 1 + rand.N(int64(5)); budget.grow(tape, n) {
					if held.Add(n) > budget.Limit {
						t.Error("more than the limit is taken")
					}
					held.Add(-n)
					budget.shrink(tape, 0)
				}
			}
		})
	}
	wait.Wait()
	wantUsed(t, budget, 0)
	one, another := new(tape), new(tape)
	one.mu.Lock()
	if !budget.grow(one, 10) || budget.grow(another, 1) {
		t.Error("the limit is another one")
	}
}

// upload is a body of which so many bytes have come.
func upload(t *testing.T, budget *Budget, size int) (*tape, *cursor, string) {
	t.Helper()
	body := randomBody(size)
	tape, first := newTestTape(newTapeSource(body), 1<<20, budget)
	if got := readPieces(t, first, size); got != body {
		t.Fatal("read something else")
	}
	return tape, tape.current, body
}

// Uploads that stall must not keep the requests of others from being sent again.
func TestIdleTapesGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := &Budget{Limit: 4 << 20}
		var stalled []*tape
		var readers []*cursor
		for _, size := range []int{1_000_000, 1_010_000, 990_000} { // each takes 31 large chunks
			tape, first, _ := upload(t, budget, size)
			stalled, readers = append(stalled, tape), append(readers, first)
		}
		late, _, _ := upload(t, budget, 1_000_000)
		if late.hold() {
			t.Error("large bodies take what is kept for small ones")
		}
		for range 16 {
			if small, _, _ := upload(t, budget, 60_000); !small.hold() {
				t.Fatal("a small body has no room beside large ones")
			}
		}
		if small, _, _ := upload(t, budget, 60_000); small.hold() {
			t.Error("more is taken than there is, while all are busy")
		}

		time.Sleep(idleTime)
		if late, _, _ := upload(t, budget, 1_000_000); !late.hold() {
			t.Error("no idle upload has given way to another")
		}
		if small, _, _ := upload(t, budget, 60_000); !small.hold() {
			t.Error("no idle upload has given way to a small body")
		}
		left := 0
		for i, tape := range stalled {
			if tape.hold() {
				left++
			}
			tape.stopRecording()
			wantRest(t, readers[i], "") // and no error
		}
		if left != 1 {
			t.Errorf("%d uploads are left, want 1", left)
		}
	})
}

// A large upload must not cost many others their replay.
func TestSmallTapesDoNotGiveWayToALargeOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := &Budget{Limit: 1 << 20}
		var stalled []*tape
		for range 14 { // each takes 68 KiB, and as much is left
			tape, _, _ := upload(t, budget, 60_000)
			stalled = append(stalled, tape)
		}
		time.Sleep(idleTime)
		if late, _, _ := upload(t, budget, 600_000); late.hold() {
			t.Error("a large body has room beside small ones that fill the budget")
		}
		for _, tape := range stalled {
			if !tape.hold() {
				t.Fatal("a small one gave way")
			}
		}
	})
}

func TestWhoIsNeededDoesNotGiveWay(t *testing.T) {
	for name, prepare := range map[string]func(*testing.T, *tape){
		"a verdict is awaited":       func(_ *testing.T, tape *tape) { tape.hold() },
		"the next attempt is behind": func(_ *testing.T, tape *tape) { _, _ = tape.rewind(false) },
		"it has just read": func(_ *testing.T, tape *tape) {
			time.Sleep(idleTime / 2)
			tape.mu.Lock()
			defer tape.mu.Unlock()
			tape.lastRead = time.Now()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				budget := &Budget{Limit: 1 << 20}
				tape, _, body := upload(t, budget, 600_000)
				time.Sleep(idleTime / 2)
				prepare(t, tape)
				if name != "it has just read" {
					time.Sleep(idleTime)
				}
				if late, _, _ := upload(t, budget, 600_000); late.hold() {
					t.Error("the other gave way")
				}
				if next, ok := tape.rewind(true); !ok {
					t.Error("it gave way")
				} else if got := readPieces(t, next, 600_000); got != body {
					t.Error("the next attempt reads something else")
				}
			})
		})
	}
}

func TestOneBodyCanHaveAllOfTheBudget(t *testing.T) {
	budget := &Budget{Limit: 1 << 20}
	tape, _, _ := upload(t, budget, 1<<20-1)
	if !tape.hold() {
		t.Error("it has no room")
	}
	tape.free()
	wantUsed(t, budget, 0)
	if budget.large != 0 || budget.growth.Len() != 0 {
		t.Errorf("left: %d bytes, %d tapes", budget.large, budget.growth.Len())
	}
}

// Tapes grow, end and give way at the same time.
func TestBudgetUnderLoad(t *testing.T) {
	budget := &Budget{Limit: 1 << 20}
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 200 {
				size := 1 + rand.IntN(200_000)
				body := randomBody(size)
				tape, first := newTestTape(newTapeSource(body), 1<<20, budget)
				readPieces(t, first, size/2)
				tape.mu.Lock()
				tape.lastRead = time.Time{} // as if it was long ago
				tape.mu.Unlock()
				wantRest(t, first, body[size/2:])
				tape.free()
			}
		})
	}
	wait.Wait()
	wantUsed(t, budget, 0)
}
