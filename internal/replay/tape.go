package replay

import (
	"container/list"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// The first memory of a tape, in bytes: at least minRecording, or the announced length of the body
	// up to maxFirstRecording. A client can announce more than it sends.
	minRecording      = 4 << 10
	maxFirstRecording = 32 << 10

	// readSize is the most that is read of a body at once, in bytes. It is no more than a proxy reads
	// at once: a server can wait until it has filled the whole buffer.
	readSize = 32 << 10
)

// readBuffers are the buffers of recordNext. A slow client keeps one busy.
var readBuffers = sync.Pool{New: func() any { return new([readSize]byte) }}

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
	least   int64         // of the first recording, in bytes
	budget  *Budget
	trailer trailerFilter
	first   cursor // of the first attempt; part of tape to save an allocation

	// Guarded by mu.
	mu       sync.Mutex
	changed  sync.Cond // tells a waiting reader to look again
	state    tapeState
	reading  bool          // a read of the source is in progress, without the lock
	current  *cursor       // of the current attempt
	recorded []byte        // the body from its first byte
	taken    int64         // bytes of the budget; read with either lock, changed with both
	lastRead time.Time     // of the client's body
	inBudget *list.Element // guarded by the budget's lock; nil while nothing is taken
	err      error         // how the source ended
	panicked any           // the value of a panic while the source was read
}

// newTape replaces the body of r by a tape. With a limit of 0 it records nothing. drop names the
// trailer fields that don't pass.
func newTape(r *http.Request, limit int64, budget *Budget, drop []string) *tape {
	t := &tape{source: r.Body, limit: limit, least: minRecording, budget: budget}
	if limit == 0 {
		t.state = tapePassing
	}
	if r.ContentLength > 0 {
		t.limit = min(limit, r.ContentLength)
		t.least = min(maxFirstRecording, r.ContentLength)
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
	return t.err == io.EOF && len(t.recorded) == 0 && t.state != tapePassing
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
	t.giveBackLocked()
}

// passLocked ends the recording.
func (t *tape) passLocked() {
	t.state = tapePassing
	t.freeReadLocked()
	t.changed.Broadcast()
}

// freeReadLocked frees the recording when the last reader has read it or closed the body.
func (t *tape) freeReadLocked() {
	if t.state == tapePassing && (t.current.offset == len(t.recorded) || t.current.closed) {
		t.recorded, t.current.offset = nil, 0
		t.giveBackLocked()
	}
}

// isIdleLocked reports whether the recording can give way to another: its client sends nothing, nobody needs what
// was recorded to read the body, and no attempt is about to follow.
func (t *tape) isIdleLocked() bool {
	return t.state == tapeRecording && t.current.offset == len(t.recorded) && time.Since(t.lastRead) >= idleTime
}

// giveWayLocked drops the recording of an idle tape, for the budget, which then takes back what that had taken.
func (t *tape) giveWayLocked() {
	t.state = tapePassing
	t.recorded, t.current.offset = nil, 0
	t.changed.Broadcast()
}

// giveBackLocked gives the tape's part of the budget back.
func (t *tape) giveBackLocked() {
	t.budget.giveBack(t)
}

// recordNext reads the source once, and at most that many bytes. It runs in its own goroutine, so an
// abandoned reader does not have to wait for the client. The next attempt finds the bytes on the tape.
func (t *tape) recordNext(most int64) {
	buffer := readBuffers.Get().(*[readSize]byte)
	defer readBuffers.Put(buffer)
	n, reason, err := t.readSource(buffer[:min(most, readSize)])
	t.mu.Lock()
	defer t.mu.Unlock()
	t.appendLocked(buffer[:n])
	t.landedLocked(err, reason)
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

// appendLocked appends what was read. Without room for it in the limit and the budget, the recording
// ends, and only the current reader gets these bytes. The memory doubles when it is full.
func (t *tape) appendLocked(data []byte) {
	t.lastRead = time.Now()
	needed := len(t.recorded) + len(data)
	if t.state != tapePassing && needed > cap(t.recorded) {
		capacity := min(max(int64(needed), 2*int64(cap(t.recorded)), t.least), t.limit)
		if int64(needed) > t.limit || !t.budget.grow(t, capacity) {
			t.passLocked()
		} else {
			t.recorded = append(make([]byte, 0, capacity), t.recorded...)
		}
	}
	t.recorded = append(t.recorded, data...)
}
