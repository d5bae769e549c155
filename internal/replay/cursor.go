package replay

import (
	"errors"
	"io"
	"net/http"
)

// errAbandoned is the error for the reader of an abandoned attempt.
var errAbandoned = errors.New("the request is sent again")

// errPanicked is the error for a reader whose goroutine is not the handler's: a panic there would end the process.
// Attempts panics with the reason when the handler is done.
var errPanicked = errors.New("reading the client's request panicked")

// cursor is the request body of one attempt. The tape's lock guards all of it.
type cursor struct {
	tape *tape

	place          // on the tape, of the next byte to read
	reading   bool // its reader reads from the client itself
	abandoned bool // its attempt is over
	closed    bool // its reader has closed it
}

// Read implements io.Reader. It reads first from the tape, then from the client.
//
// Each turn of the loop serves the reader or waits. recordNext and other changes of the tape wake it.
func (c *cursor) Read(p []byte) (int, error) {
	t := c.tape
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		switch {
		case c.abandoned:
			return 0, errAbandoned
		case c.closed:
			return 0, http.ErrBodyReadAfterClose
		case t.recorded.hasMore(&c.place):
			n := t.recorded.read(&c.place, p)
			t.freeReadLocked()
			return n, nil
		case t.err != nil:
			return 0, c.endLocked()
		case t.reading || t.state == tapeHeld:
			t.changed.Wait()
		case t.state == tapeRecording:
			if room := t.roomLocked(); room != nil {
				t.reading, t.filling = true, true
				go t.recordNext(room)
			}
		default:
			return c.passThroughLocked(p)
		}
	}
}

// passThroughLocked reads from the client without recording, as no other attempt follows. It releases
// the lock while it reads.
func (c *cursor) passThroughLocked(p []byte) (int, error) {
	t := c.tape
	c.reading = true
	n, err := t.readUnlocked(p)
	c.reading = false
	switch {
	case c.abandoned:
		return 0, errAbandoned
	case err != nil:
		return n, c.endLocked()
	}
	return n, nil
}

// readUnlocked reads the source without the lock, which the caller holds again in the end.
func (t *tape) readUnlocked(p []byte) (n int, err error) {
	t.reading = true
	t.mu.Unlock()
	n, reason, err := t.readSource(p)
	t.mu.Lock()
	t.landedLocked(err, reason)
	return n, err
}

// endLocked puts the trailers in place and returns how the body ended.
func (c *cursor) endLocked() error {
	if c.tape.err == io.EOF {
		c.tape.trailer.deliver()
	}
	return c.tape.err
}

// Close implements io.Closer. The client's body stays open for another attempt. The server closes it
// after the request. But a reader that reads from the client itself can be woken in no other way. No
// attempt follows then, and its transport can wait for it: the response can end before the request.
func (c *cursor) Close() error {
	if c.close() {
		return c.tape.closeSource()
	}
	return nil
}

// close wakes the readers of the tape, and reports whether one reads from the client.
func (c *cursor) close() (reading bool) {
	t := c.tape
	t.mu.Lock()
	defer t.mu.Unlock()
	c.closed = true
	t.freeReadLocked()
	t.changed.Broadcast()
	return c.reading
}

// Interface guard
var _ io.ReadCloser = (*cursor)(nil)
