package replay_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// How a client's body ends other than with EOF.
var (
	errCut     = errors.New("the client sent less than announced")
	errAborted = errors.New("the client has gone")
	errClosed  = errors.New("the server has closed the body")
	errPanic   = errors.New("the client's body panicked")
)

type ending uint8

const (
	atEOF ending = iota
	withError
	withPanic
)

func (e ending) String() string { return [...]string{"EOF", "error", "panic"}[e] }

// client is the body of a request as the server gives it to handlers.
type client struct {
	t    *testing.T
	plan clientPlan

	trailer http.Header // nil without; the server fills it when it reads the end

	abort    *time.Timer
	gone     chan struct{} // closed when the client goes away
	closing  chan struct{} // closed by Close
	once     sync.Once
	lock     chan struct{} // has room while nobody reads the body
	reading  atomic.Bool
	turn     int
	begun    atomic.Int64 // reads
	sent     atomic.Int64 // bytes that were read
	panicked atomic.Bool
}

// clientPlan is what the client does.
type clientPlan struct {
	size    int             // of what it sends until the end
	ends    ending          // how that is
	known   bool            // the length is announced
	hasMore int             // how much more is announced than sent; 0 for a body that ends with EOF
	pieces  []int           // the most that one read gets, in turn
	pauses  []time.Duration // before a read gets something, in turn
	eager   bool            // the end comes along with the last bytes
	wakes   bool            // closing wakes a reader, as with HTTP/2; else it waits for it
	trails  bool            // trailers follow
	stalls  int             // after that many bytes nothing comes any more; -1 for never
	aborts  time.Duration   // when the client goes away; 0 for never
}

func newClient(t *testing.T, d dice, unit int) *client {
	c := &client{t: t, plan: newClientPlan(d, unit), gone: make(chan struct{}), closing: make(chan struct{}), lock: make(chan struct{}, 1)}
	if c.plan.trails {
		c.trailer = http.Header{"X-Sum": nil}
	}
	return c
}

func newClientPlan(d dice, unit int) clientPlan {
	p := clientPlan{size: pick(d, 0, 1, 10, 40, 64, 63, 65, 200) * unit, ends: pick(d, atEOF, atEOF, atEOF, atEOF, withError, withPanic), known: d(2) == 0}
	if p.known && p.ends != atEOF {
		p.hasMore = pick(d, 1, 100) * unit
	}
	for range 1 + d(3) {
		p.pieces = append(p.pieces, pick(d, 1000, 1, 7, 30, 64)*unit)
		p.pauses = append(p.pauses, pick(d, 0, 0, time.Millisecond, 90*time.Millisecond, 2*time.Second))
	}
	p.eager, p.wakes, p.trails = d(2) == 0 && p.ends != withPanic, d(2) == 0, d(2) == 0 && !p.known
	p.stalls = -1
	if p.wakes && d(4) == 3 {
		p.stalls = pick(d, 0, 1, 10, 64) * unit
	}
	p.aborts = pick(d, 0, 0, 0, 0, 0, 0, time.Nanosecond, 5*time.Millisecond, time.Second, 3*time.Second)
	if p.stalls >= 0 && p.aborts == 0 {
		p.aborts = 10 * time.Minute
	}
	return p
}

func (c *client) contentLength() int64 {
	if !c.plan.known {
		return -1
	}
	return int64(c.plan.size + c.plan.hasMore)
}

// connect begins the client's time.
func (c *client) connect(cancel context.CancelFunc) {
	if c.plan.aborts > 0 {
		c.abort = time.AfterFunc(c.plan.aborts, func() {
			close(c.gone)
			cancel()
		})
	}
}

// disconnect is the end of the request: the server closes the body.
func (c *client) disconnect() {
	if c.abort != nil {
		c.abort.Stop()
	}
	_ = c.Close()
}

func (c *client) hasGone() bool { return isClosed(c.gone) }

// Read implements io.Reader.
func (c *client) Read(p []byte) (int, error) {
	if c.reading.Swap(true) {
		c.t.Error("the client's body is read by two at a time")
	}
	defer c.reading.Store(false)
	c.begun.Add(1)
	c.lock <- struct{}{}
	defer func() { <-c.lock }()
	if isClosed(c.closing) {
		return 0, errClosed
	}
	woken := c.closing
	if !c.plan.wakes {
		woken = nil
	}
	pause, stalls := c.plan.pauses[c.turn%len(c.plan.pauses)], c.plan.stalls
	if stalls >= 0 && c.sent.Load() >= int64(stalls) {
		pause = time.Hour
	}
	select {
	case <-time.After(pause):
	case <-c.gone:
	case <-woken:
	}
	switch {
	case c.hasGone():
		return 0, errAborted
	case isClosed(c.closing):
		return 0, errClosed
	}
	from := int(c.sent.Load())
	n := min(len(p), c.plan.pieces[c.turn%len(c.plan.pieces)], c.plan.size-from)
	c.turn++
	for i := range n {
		p[i] = byteAt(from + i)
	}
	c.sent.Add(int64(n))
	if from+n < c.plan.size || n > 0 && !c.plan.eager {
		return n, nil
	}
	switch c.plan.ends {
	case atEOF:
	case withError:
		return n, errCut
	case withPanic:
		c.panicked.Store(true)
		panic(errPanic)
	}
	if c.trailer != nil {
		c.trailer["X-Sum"] = []string{"42"}
	}
	return n, io.EOF
}

// Close implements io.Closer.
func (c *client) Close() error {
	c.once.Do(func() { close(c.closing) })
	c.lock <- struct{}{} // a read in progress comes to its end first
	<-c.lock
	return nil
}

// byteAt is the byte of any body at an offset. No two stretches are alike.
func byteAt(offset int) byte { return byte((uint32(offset) * 2654435761) >> 24) }

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// response is what the client gets.
type response struct {
	client *client
	header http.Header
	hints  []string
	status int
	body   []byte
	many   int // how often a final status was written
}

func (r *response) Header() http.Header { return r.header }

func (r *response) WriteHeader(status int) {
	if status < 200 {
		r.hints = append(r.hints, r.header.Get("Link"))
		return
	}
	if r.many++; r.many > 1 {
		r.client.t.Errorf("the client got a second status, %d after %d", status, r.status)
		return
	}
	r.status, r.header = status, r.header.Clone()
}

func (r *response) Write(data []byte) (int, error) {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	if r.client.hasGone() {
		return 0, errAborted
	}
	r.body = append(r.body, data...)
	return len(data), nil
}

func (r *response) Flush() {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
}
