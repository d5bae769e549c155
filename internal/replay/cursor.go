package replay

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// closeTime is for how long a body that a transport has closed stays open while its reader waits for the client. A
// verdict on a response comes sooner, unless a handler first waits for the rest of that (response_buffers).
const closeTime = 2 * time.Second

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
// Each turn of the loop serves the reader or waits. Whatever changes the tape wakes it.
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
		default:
			return c.readOnLocked(p)
		}
	}
}

// readOnLocked reads from the client, and records that as long as another attempt can follow. It releases the lock
// while it reads.
func (c *cursor) readOnLocked(p []byte) (int, error) {
	t := c.tape
	if t.state == tapeRecording {
		p = p[:min(len(p), t.mostAtOnceLocked())]
	}
	c.reading = true
	n, err := t.readUnlocked(p)
	c.reading = false
	if c.abandoned {
		t.keepLocked(p[:n])
		return 0, errAbandoned
	}
	if n > 0 && t.state != tapePassing {
		c.recordLocked(p[:n])
	}
	if err != nil {
		return n, c.endLocked()
	}
	return n, nil
}

// recordLocked records what this reader has read. If there is no room for that, the recording ends, but not while it is
// held for another attempt.
func (c *cursor) recordLocked(data []byte) {
	t := c.tape
	switch {
	case t.recordLocked(data):
	case t.state == tapeHeld:
		t.recorded.addUncounted(data)
	default:
		t.passLocked()
		return
	}
	c.place = t.recorded.end()
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

// Close implements io.Closer. The client's body stays open for another attempt. The server closes it after the request.
// But a reader that reads from the client can be woken in no other way, with HTTP/2 and HTTP/3, and its transport can
// wait for it: the response can end before the request, or there is none. So the body is closed if no attempt follows,
// or else as soon as that is known, see stopRecording. Without a response, nobody will tell: then it is closed after
// closeTime.
func (c *cursor) Close() error {
	if c.close() {
		return c.tape.closeSource()
	}
	return nil
}

// close wakes the readers of the tape. It reports whether one reads from the client and nobody comes after it.
func (c *cursor) close() bool {
	t := c.tape
	t.mu.Lock()
	defer t.mu.Unlock()
	isFirst := !c.closed
	c.closed = true
	t.freeReadLocked()
	t.changed.Broadcast()
	if isFirst && c.reading && !c.abandoned && t.state == tapeRecording {
		time.AfterFunc(closeTime, c.giveUp)
	}
	return c.reading && !c.abandoned && t.state == tapePassing
}

// giveUp ends a reader whose transport has closed the body, if there still is no response.
func (c *cursor) giveUp() {
	if c.stop() {
		_ = c.tape.closeSource()
	}
}

// stop ends the recording if the reader still reads from the client, and no response is being judged. It reports
// whether it did.
func (c *cursor) stop() bool {
	t := c.tape
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.abandoned || !c.reading || t.state != tapeRecording {
		return false
	}
	t.passLocked()
	return true
}

// Interface guard
var _ io.ReadCloser = (*cursor)(nil)
