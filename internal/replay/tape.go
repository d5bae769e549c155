package replay

import (
	"container/list"
	"io"
	"net/http"
	"sync"
	"time"
)

// tapeState says what happens to the bytes that are read from the client.
type tapeState uint8

const (
	// tapeRecording: they are kept, and the tape has all of the body so far. It can be rewound.
	tapeRecording tapeState = iota

	// tapeHeld: as tapeRecording, but nothing more is read until it is known whether an attempt
	// follows. Otherwise the tape could fill up with bytes that the dropped attempt does not need.
	tapeHeld

	// tapePassing: they go to the current reader and are not kept. No attempt follows, or the body
	// has outgrown its tape. Only the current reader needs what is still on the tape.
	tapePassing
)

// tape is a request body that can be read again. It records what is read. So a further attempt reads
// the same bytes from memory, and the rest from the client. A body that outgrows its tape can be read
// to its end, but not again.
//
// An HTTP transport may go on reading the body of an attempt after its response has arrived. So each
// attempt has its own cursor.
type tape struct {
	// Set once.
	source  io.ReadCloser // the client's body
	limit   int64         // of the recording, in bytes
	isKnown bool          // the client has announced the length of the body
	budget  *Budget
	trailer trailerFilter
	first   cursor // of the first attempt; part of tape to save an allocation

	// Guarded by mu.
	mu       sync.Mutex
	changed  sync.Cond // tells a waiting reader to look again
	state    tapeState
	reading  bool          // a read of the source is in progress, without the lock
	filling  bool          // and what it reads lands in the recording
	current  *cursor       // of the current attempt
	recorded recording     // the body from its first byte
	beyond   [1]byte       // what is read at the limit, to see whether the body ends there
	taken    int64         // bytes of the budget; read with either lock, changed with both
	lastRead time.Time     // of the client's body
	inBudget *list.Element // guarded by the budget's lock; nil while nothing is taken
	err      error         // how the source ended
	panicked any           // the value of a panic while the source was read
}

// newTape replaces the body of r by a tape. With a limit of 0 it records nothing. drop names the
// trailer fields that don't pass.
func newTape(r *http.Request, limit int64, budget *Budget, drop []string) *tape {
	t := &tape{source: r.Body, limit: limit, budget: budget}
	if limit == 0 {
		t.state = tapePassing
	}
	if r.ContentLength > 0 {
		t.limit, t.isKnown = min(limit, r.ContentLength), true
	}
	t.changed.L = &t.mu
	t.trailer.attach(r, drop)
	t.first.tape = t
	t.current = &t.first
	r.Body = t.current
	return t
}

// isEmpty reports whether the body is known to be empty. HTTP/3 doesn't tell that in advance.
func (t *tape) isEmpty() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err == io.EOF && t.recorded.size == 0 && t.state != tapePassing
}

// hold stops the current attempt from reading more. It reports false, and changes nothing, if the
// body can't be read again anyway. rewind, abandon and stopRecording end the hold.
func (t *tape) hold() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == tapePassing {
		return false
	}
	t.state = tapeHeld
	return true
}

// rewind abandons the current cursor and returns one at the start of the body, for the next attempt.
// last means that this is the last attempt. It reports false, and changes nothing, if the body can't
// be read again.
func (t *tape) rewind(last bool) (*cursor, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == tapePassing {
		return nil, false
	}
	t.nextCursorLocked(last)
	return t.current, true
}

// abandon abandons the current cursor, and no other attempt follows. It returns a cursor for the
// handler that answers instead. That can be read if all of the body can still be read.
func (t *tape) abandon() *cursor {
	t.mu.Lock()
	defer t.mu.Unlock()
	incomplete := t.state == tapePassing
	t.nextCursorLocked(true)
	t.current.abandoned = incomplete
	return t.current
}

// nextCursorLocked abandons the current cursor and makes the next one.
func (t *tape) nextCursorLocked(last bool) {
	t.state = tapeRecording
	if last {
		t.state = tapePassing // nobody reads the body after the last reader
	}
	t.current.abandoned = true
	t.current = &cursor{tape: t}
	t.changed.Broadcast()
}

// stopRecording lets the rest of the body pass, as no further attempt follows.
func (t *tape) stopRecording() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.passLocked()
}

// free gives the budget back at the end of the request.
func (t *tape) free() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.passLocked()
	t.takeLocked(0) // what a reader has not read yet is left to the garbage collector
}

// passLocked ends the recording.
func (t *tape) passLocked() {
	t.state = tapePassing
	t.freeReadLocked()
	t.changed.Broadcast()
}

// freeReadLocked frees what the last reader has read, or all if it has closed the body.
func (t *tape) freeReadLocked() {
	if t.state != tapePassing || t.taken == 0 {
		return
	}
	if t.current.closed {
		t.current.place = place{chunk: len(t.recorded.chunks)}
	}
	t.recorded.freeBefore(&t.current.place, t.filling)
	t.takeLocked(t.needed(0))
}

// isIdleLocked reports whether the recording can give way to another: its client sends nothing, nobody needs what
// was recorded to read the body, and no attempt is about to follow.
func (t *tape) isIdleLocked() bool {
	return t.state == tapeRecording && !t.recorded.hasMore(&t.current.place) && time.Since(t.lastRead) >= idleTime
}

// giveWayLocked drops the recording of an idle tape, for the budget. It returns how much of that is still taken: what
// a read in progress reads into.
func (t *tape) giveWayLocked() int64 {
	t.state = tapePassing
	t.recorded.freeBefore(&t.current.place, t.filling)
	t.changed.Broadcast()
	return t.needed(0)
}

// needed returns how much of the budget the recording needs with so much more memory. That counts as much as the
// tape can use of it.
func (t *tape) needed(more int64) int64 { return min(t.recorded.memory+more, t.limit) }

// takeLocked gives a part of the budget back. After that the tape has taken so much.
func (t *tape) takeLocked(size int64) {
	if size < t.taken {
		t.budget.shrink(t, size)
	}
}

// roomLocked returns where the next bytes of the body are read into. At the limit that is one byte, which shows
// whether the body ends there. Without room in the budget, the recording ends, and there is none.
func (t *tape) roomLocked() []byte {
	left := t.limit - t.recorded.size
	if left <= 0 {
		return t.beyond[:]
	}
	if len(t.recorded.room()) == 0 {
		size := t.recorded.nextChunk(t.limit, t.isKnown)
		if !t.budget.grow(t, t.needed(size)) {
			t.passLocked()
			return nil
		}
		t.recorded.addChunk(size, t.limit, t.isKnown)
	}
	room := t.recorded.room()
	return room[:min(int64(len(room)), left)]
}

// recordNext reads the source once, into room. It runs in its own goroutine, so an abandoned reader does not have to
// wait for the client. The next attempt finds the bytes on the tape.
func (t *tape) recordNext(room []byte) {
	n, reason, err := t.readSource(room)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.filling, t.lastRead = false, time.Now()
	t.landedLocked(err, reason)
	switch {
	case n == 0:
	case &room[0] == &t.beyond[0]:
		t.recorded.chunks = append(t.recorded.chunks, t.beyond[:1])
		t.passLocked()
	default:
		t.recorded.landed(n)
	}
	t.freeReadLocked() // nobody may need it any more
}

// readSource reads the client's body. A panic of the reader becomes an error, with the reason.
func (t *tape) readSource(p []byte) (n int, reason any, err error) {
	defer func() {
		if reason = recover(); reason != nil {
			n, err = 0, errPanicked
		}
	}()
	n, err = t.source.Read(p)
	return n, nil, err
}

// landedLocked notes how a read of the source ended.
func (t *tape) landedLocked(err error, reason any) {
	t.reading, t.err = false, err
	if reason != nil {
		t.panicked = reason
	}
	t.changed.Broadcast()
}

// closeSource closes the client's body.
func (t *tape) closeSource() (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = errPanicked
			t.mu.Lock()
			defer t.mu.Unlock()
			t.panicked = reason
		}
	}()
	return t.source.Close()
}

// rethrow panics with the reason if the client's body did. It is for the goroutine of the handler.
func (t *tape) rethrow() {
	t.mu.Lock()
	reason := t.panicked
	t.mu.Unlock()
	if reason != nil {
		panic(reason)
	}
}
