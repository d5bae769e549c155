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

	// tapeHeld: as tapeRecording, but no further read begins until it is known whether an attempt
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
	current  *cursor       // of the current attempt
	recorded recording     // the body from its first byte
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
	if t.stop() {
		go func() { _ = t.closeSource() }() // a server can have that wait for the reader
	}
}

// stop ends the recording. It reports whether the last reader still reads from the client though its transport has
// closed the body, see cursor.Close.
func (t *tape) stop() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.passLocked()
	return t.current.closed && t.current.reading
}

// isReading reports whether a reader waits for the client at the moment.
func (t *tape) isReading() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reading
}

// settleTime is how long the end of a request waits for a read from a client that has left. Such a read ends by itself.
const settleTime = 100 * time.Millisecond

// settle waits for a read from a client that has left. The server counts what it read, and the access log looks at that
// count without a lock.
func (t *tape) settle() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.reading {
		return
	}
	isLate := false
	timer := time.AfterFunc(settleTime, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		isLate = true
		t.changed.Broadcast()
	})
	defer timer.Stop()
	for t.reading && !isLate {
		t.changed.Wait()
	}
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
	t.recorded.freeBefore(&t.current.place)
	t.takeLocked(t.needed(0))
}

// isIdleLocked reports whether the recording can give way to another: its client sends nothing, nobody needs what
// was recorded to read the body, and no attempt is about to follow.
func (t *tape) isIdleLocked() bool {
	isIdle := t.state == tapeRecording && !t.recorded.hasMore(&t.current.place) && time.Since(t.lastRead) >= idleTime
	isEnding := t.current.closed && t.current.reading // see cursor.giveUp
	return isIdle && !isEnding
}

// giveWayLocked drops the recording of an idle tape, for the budget.
func (t *tape) giveWayLocked() {
	t.state = tapePassing
	t.recorded.freeBefore(&t.current.place)
	t.changed.Broadcast()
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

// mostAtOnceLocked is how much may be read of the client at once: no more than is kept if an attempt follows that needs
// it. At the limit, whatever comes shows that the body does not end there.
func (t *tape) mostAtOnceLocked() int {
	if left := t.limit - t.recorded.size; left > 0 {
		return int(min(left, largeMemory))
	}
	return largeMemory
}

// recordLocked records what was read from the client. It reports false, and records nothing, if there is no room for
// all of it.
func (t *tape) recordLocked(data []byte) bool {
	if t.recorded.size+int64(len(data)) > t.limit {
		return false
	}
	more := t.recorded.memoryFor(len(data), t.limit, t.isKnown)
	if more > 0 && !t.budget.grow(t, t.needed(more)) {
		return false
	}
	t.recorded.add(data, t.limit, t.isKnown)
	return true
}

// keepLocked keeps what an abandoned reader has read for the attempt after it, which has not seen it.
func (t *tape) keepLocked(data []byte) {
	if len(data) > 0 && (t.state == tapePassing || !t.recordLocked(data)) {
		t.recorded.addUncounted(data)
	}
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
	t.reading, t.lastRead, t.err = false, time.Now(), err
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
