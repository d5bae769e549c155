package oauthcc

import (
	"context"
	"errors"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const (
	// What is read of a rejected response so that its connection can be used again,
	// in bytes and in time. Past either the attempt is cut off.
	drainBytes = 64 << 10
	drainTime  = time.Second

	// closeTime bounds the wait for a transport to put down a body that it has read
	// to its end, which takes it no time but that of being scheduled.
	closeTime = 100 * time.Millisecond

	// A tape takes at least so much memory once something is read, or what the announced
	// length needs, up to maxFirstRecording.
	minRecording      = 4 << 10
	maxFirstRecording = 32 << 10

	// readSize is the most that is read of a body at once. A server can wait until it
	// has filled what it is asked for, so it is no more than a proxy would ask for.
	readSize = 32 << 10
)

// readBuffers are for what is being read of bodies; a slow client keeps one busy.
var readBuffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// errRetired is what the reader of an abandoned attempt gets.
var errRetired = errors.New("the request is sent again")

// errDropped is what the writer of a dropped response gets.
var errDropped = errors.New("the response is dropped")

// replayBudget bounds the memory of all tapes of a handler together, in bytes.
type replayBudget struct {
	limit int64
	used  atomic.Int64
}

func (b *replayBudget) take(n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
	return true
}

// tape is a request body that can be read again. It records what is read, so that a
// further attempt reads the same from memory and the rest from the client. A body
// that outgrows its tape can be read on, but not again.
//
// An HTTP transport may go on reading the body of an attempt after its response has
// arrived, so each attempt has a cursor of its own.
type tape struct {
	source  io.ReadCloser
	limit   int64
	least   int64 // to take at first
	budget  *replayBudget
	trailer trailerFilter
	first   tapeCursor

	mu        sync.Mutex
	changed   sync.Cond // signalled when a waiting reader has to look again
	cursor    *tapeCursor
	abandoned *tapeCursor // of the attempt before
	reading   bool        // a read of the source is under way, without the lock
	held      bool        // no further read of the source is begun
	record    bool        // keep what is read of the source
	lost      bool        // something that was read is not kept
	recorded  []byte      // the body from its first byte
	taken     int64       // of the budget
	err       error       // how the source ended
	panicked  any         // what came of reading it otherwise
}

// newTape takes the place of the body of r. With a limit of 0 it records nothing.
// drop names the trailer fields that do not pass.
func newTape(r *http.Request, limit int64, budget *replayBudget, drop ...string) *tape {
	t := &tape{source: r.Body, limit: limit, least: minRecording, budget: budget, record: limit > 0}
	if r.ContentLength > 0 {
		t.limit = min(limit, r.ContentLength)
		t.least = min(maxFirstRecording, r.ContentLength)
	}
	t.changed.L = &t.mu
	t.trailer.attach(r, drop)
	t.first.tape = t
	t.cursor = &t.first
	r.Body = t.cursor
	return t
}

// hold stops the first attempt from reading on while it is not known whether another
// follows: what is read for nothing takes room on the tape. It reports false when the
// body can't be read again anyway. Whatever ends the first attempt ends the hold.
func (t *tape) hold() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = !t.lost
	return t.held
}

// rewind ends an attempt's reading and returns a cursor at the start of the body for the
// next one. It is told whether that is the last. It reports false and changes nothing when
// the body can't be read again.
func (t *tape) rewind(last bool) (*tapeCursor, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lost {
		return nil, false
	}
	t.retire(last)
	return t.cursor, true
}

// abandon ends the first attempt's reading, with none to follow. What it returns is
// for whoever answers instead, and can be read if the body can still be read whole.
func (t *tape) abandon() *tapeCursor {
	t.mu.Lock()
	defer t.mu.Unlock()
	lost := t.lost
	t.retire(true)
	t.cursor.retired = lost
	return t.cursor
}

func (t *tape) retire(last bool) {
	if last {
		t.record, t.lost = false, true // what the last reader has read is not needed again
	}
	t.abandoned = t.cursor
	t.abandoned.retired = true
	t.cursor = &tapeCursor{tape: t}
	t.held = false
	t.changed.Broadcast()
}

// stop ends the recording, as no further attempt follows. The body can be read on.
func (t *tape) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.letGo()
}

// release gives back the budget at the end of the request.
func (t *tape) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.letGo()
	t.giveBack()
}

func (t *tape) letGo() {
	t.record, t.lost, t.held = false, true, false
	t.forget()
	t.changed.Broadcast()
}

// forget frees the recording once the last reader is through with it.
func (t *tape) forget() {
	if t.lost && (t.cursor.offset == len(t.recorded) || t.cursor.isClosed) {
		t.recorded, t.cursor.offset = nil, 0
		t.giveBack()
	}
}

func (t *tape) giveBack() {
	t.budget.used.Add(-t.taken)
	t.taken = 0
}

// fill reads the source once. It has a goroutine of its own, so that the reader of an
// attempt that is abandoned meanwhile does not have to wait for the client. What was
// read is there for the next attempt.
func (t *tape) fill(most int64) {
	buffer := readBuffers.Get().(*[readSize]byte)
	defer readBuffers.Put(buffer)
	var n int
	var err error
	defer func() {
		reason := recover() // for the reader, who would have met it without a tape
		t.mu.Lock()
		defer t.mu.Unlock()
		t.reading, t.err, t.panicked = false, err, reason
		t.keep(buffer[:n])
		t.changed.Broadcast()
	}()
	n, err = t.source.Read(buffer[:min(most, readSize)])
}

// keep appends what was read. If there is no room to record it, it is there for the
// reader alone.
func (t *tape) keep(data []byte) {
	if needed := len(t.recorded) + len(data); t.record && needed > cap(t.recorded) {
		capacity := min(max(int64(needed), 2*int64(cap(t.recorded)), t.least), t.limit)
		if int64(needed) > t.limit || !t.budget.take(capacity-t.taken) {
			t.letGo()
		} else {
			t.taken = capacity
			t.recorded = append(make([]byte, 0, capacity), t.recorded...)
		}
	}
	t.recorded = append(t.recorded, data...)
}

// settle waits until the reader of the abandoned attempt, if it has seen the end of
// the body, has closed it: from then on it does not look at the request any more.
func (t *tape) settle() {
	t.mu.Lock()
	if t.abandoned == nil || !t.abandoned.ended || t.abandoned.isClosed {
		t.mu.Unlock()
		return
	}
	closed := make(chan struct{})
	t.abandoned.closed = closed
	t.mu.Unlock()
	timer := time.NewTimer(closeTime)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
	}
}

// tapeCursor is the request body of one attempt.
type tapeCursor struct {
	tape *tape

	// Guarded by the tape's lock.
	offset   int // into recorded
	retired  bool
	isClosed bool
	closed   chan struct{} // closed with the cursor, for one who waits for that
	ended    bool          // its reader has seen the end of the body
}

// Read implements io.Reader: first what is recorded, then the source.
func (c *tapeCursor) Read(p []byte) (int, error) {
	t := c.tape
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		switch {
		case c.retired:
			return 0, errRetired
		case c.isClosed:
			return 0, http.ErrBodyReadAfterClose
		case c.offset < len(t.recorded):
			n := copy(p, t.recorded[c.offset:])
			c.offset += n
			t.forget()
			return n, nil
		case t.err != nil:
			return 0, c.end()
		case t.reading || t.held:
			t.changed.Wait()
		case t.panicked != nil:
			panic(t.panicked)
		case t.record:
			t.reading = true
			// At the limit, just enough to see whether the body ends there.
			go t.fill(max(1, t.limit-int64(len(t.recorded))))
		default:
			return c.readSource(p)
		}
	}
}

// readSource reads from the client, without the lock, when nothing is recorded any
// more and no other attempt follows.
func (c *tapeCursor) readSource(p []byte) (int, error) {
	t := c.tape
	t.reading = true
	t.mu.Unlock()
	n, err := t.source.Read(p)
	t.mu.Lock()
	t.reading, t.err = false, err
	t.changed.Broadcast()
	if err != nil {
		return n, c.end()
	}
	return n, nil
}

// end returns how the body ended, once its trailers are in place.
func (c *tapeCursor) end() error {
	if c.tape.err == io.EOF {
		c.ended = true
		c.tape.trailer.deliver()
	}
	return c.tape.err
}

// Close implements io.Closer. The source stays open for another attempt; the server
// closes it in the end.
func (c *tapeCursor) Close() error {
	c.tape.mu.Lock()
	defer c.tape.mu.Unlock()
	if !c.isClosed && c.closed != nil {
		close(c.closed)
	}
	c.isClosed = true
	c.tape.forget()
	c.tape.changed.Broadcast()
	return nil
}

// trailerFilter hands the trailers of a request on, but for some. The server fills
// its own map while the body is read, which may be during another attempt, so the
// request gets a map that changes only when its reader is at the end.
type trailerFilter struct {
	from, to http.Header // nil if the request announced no trailers
	drop     []string
	done     bool
}

func (f *trailerFilter) attach(r *http.Request, drop []string) {
	if r.Trailer == nil {
		return
	}
	f.from, f.to, f.drop = r.Trailer, make(http.Header, len(r.Trailer)), drop
	f.copy()
	r.Trailer = f.to
}

func (f *trailerFilter) deliver() {
	if !f.done {
		f.done = true
		f.copy()
	}
}

func (f *trailerFilter) copy() {
	for name, values := range f.from {
		if !slices.Contains(f.drop, http.CanonicalHeaderKey(name)) {
			f.to[name] = slices.Clone(values)
		}
	}
}

// judge decides about the status of a response before anything of it is passed on.
type judge interface {
	// verdict returns the status to answer with, or that the response is dropped. It
	// may change the response's header.
	verdict(status int, header http.Header) (answer int, drop bool)
}

// guard passes a response through untouched, until the judge drops it. From then on
// nothing of it gets through.
type guard struct {
	caddyhttp.ResponseWriterWrapper
	judge   judge
	cutOff  context.CancelFunc // ends the attempt that writes the response
	decided bool
	dropped bool
	drained int
	timer   *time.Timer
}

// WriteHeader implements http.ResponseWriter.
func (g *guard) WriteHeader(status int) {
	if g.dropped {
		return
	}
	// Informational responses come before the one that counts; a switch of protocols
	// is final (RFC 9110 §15.2).
	informational := status >= 100 && status <= 199 && status != http.StatusSwitchingProtocols
	if !g.decided && !informational {
		g.decided = true
		if status, g.dropped = g.judge.verdict(status, g.Header()); g.dropped {
			g.timer = time.AfterFunc(drainTime, g.cutOff)
			return
		}
	}
	g.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (g *guard) Write(data []byte) (int, error) {
	g.imply()
	if !g.dropped {
		return g.ResponseWriter.Write(data)
	}
	g.drained += len(data)
	if g.drained > drainBytes {
		g.cutOff()
		return 0, errDropped
	}
	return len(data), nil
}

// ReadFrom implements io.ReaderFrom, so that a large file still reaches the
// connection without being copied.
func (g *guard) ReadFrom(r io.Reader) (int64, error) {
	g.imply()
	if !g.dropped {
		return g.ResponseWriterWrapper.ReadFrom(r)
	}
	return io.Copy(writerOnly{g}, r)
}

// FlushError implements the flushing of http.ResponseController.
func (g *guard) FlushError() error {
	g.imply()
	if g.dropped {
		return nil
	}
	return http.NewResponseController(g.ResponseWriter).Flush()
}

// imply writes the status that a handler left out.
func (g *guard) imply() {
	if !g.decided {
		g.WriteHeader(http.StatusOK)
	}
}

// reset prepares the guard for the next attempt.
func (g *guard) reset() {
	if g.timer != nil {
		g.timer.Stop()
	}
	g.decided, g.dropped, g.drained, g.timer = false, false, 0, nil
}

// writerOnly hides ReadFrom from io.Copy.
type writerOnly struct{ io.Writer }

// savedRequest is what later handlers change in place of a request and of the
// response's header, and what it was before. It is restored in place as well:
// placeholders look at the request that the server made, whichever a handler is
// called with.
type savedRequest struct {
	method           string
	requestURI       string
	host             string
	urlAt            *url.URL
	url              url.URL
	headerAt         http.Header
	header           savedHeader
	contentLength    int64
	transferEncoding []string
	form, postForm   url.Values
	multipartForm    *multipart.Form
	groups           []string
	response         savedHeader
}

// savedRequests saves allocations on the way of every request.
var savedRequests = sync.Pool{New: func() any { return new(savedRequest) }}

func saveRequest(r *http.Request, response http.Header) *savedRequest {
	s := savedRequests.Get().(*savedRequest)
	s.method, s.requestURI, s.host = r.Method, r.RequestURI, r.Host
	s.urlAt, s.url = r.URL, *r.URL
	s.headerAt = r.Header
	s.header.save(r.Header)
	s.contentLength, s.transferEncoding = r.ContentLength, r.TransferEncoding
	s.form, s.postForm, s.multipartForm = r.Form, r.PostForm, r.MultipartForm
	for group := range routeGroups(r) {
		s.groups = append(s.groups, group)
	}
	s.response.save(response)
	return s
}

// restore leaves the body and the trailers alone, which a transport may still read.
func (s *savedRequest) restore(r *http.Request, response http.Header) {
	r.Method, r.RequestURI, r.Host = s.method, s.requestURI, s.host
	r.URL = s.urlAt
	*r.URL = s.url
	r.Header = s.headerAt
	s.header.restore(r.Header)
	r.ContentLength, r.TransferEncoding = s.contentLength, s.transferEncoding
	r.Form, r.PostForm, r.MultipartForm = s.form, s.postForm, s.multipartForm
	maps.DeleteFunc(routeGroups(r), func(group string, _ struct{}) bool { return !slices.Contains(s.groups, group) })
	s.response.restore(response)
}

// release gives the memory back. s must not be used any more.
func (s *savedRequest) release() {
	header, response, groups := s.header, s.response, s.groups
	header.reset()
	response.reset()
	clear(groups)
	*s = savedRequest{header: header, response: response, groups: groups[:0]}
	savedRequests.Put(s)
}

// attemptContext is the context of a first attempt. Once that is over, it has a copy of
// the request's variables: a connection that is still being dialled may look into them
// while the next attempt writes them.
type attemptContext struct {
	context.Context
	vars atomic.Pointer[map[string]any]
}

// Value implements context.Context.
func (c *attemptContext) Value(key any) any {
	if key == caddyhttp.VarsCtxKey {
		if vars := c.vars.Load(); vars != nil {
			return *vars
		}
	}
	return c.Context.Value(key)
}

// end gives the attempt its copy.
func (c *attemptContext) end() {
	vars, _ := c.Context.Value(caddyhttp.VarsCtxKey).(map[string]any)
	vars = maps.Clone(vars)
	c.vars.Store(&vars)
}

// routeGroups is where Caddy notes which of mutually exclusive routes has been
// taken. A replay that found them taken would fall through all of them.
func routeGroups(r *http.Request) map[string]struct{} {
	groups, _ := r.Context().Value(caddy.CtxKey("route_group")).(map[string]struct{})
	return groups
}

// savedHeader is a deep copy of a header in memory that can be used again.
type savedHeader struct {
	fields []savedField
	values []string
}

type savedField struct {
	name  string
	count int // of its values; -1 for nil, with which Caddy suppresses a field
}

func (s *savedHeader) save(h http.Header) {
	for name, values := range h {
		count := len(values)
		if values == nil {
			count = -1
		}
		s.fields = append(s.fields, savedField{name, count})
		s.values = append(s.values, values...)
	}
}

func (s *savedHeader) restore(h http.Header) {
	clear(h)
	values := s.values
	for _, field := range s.fields {
		if field.count < 0 {
			h[field.name] = nil
			continue
		}
		h[field.name] = slices.Clone(values[:field.count:field.count])
		values = values[field.count:]
	}
}

func (s *savedHeader) reset() {
	clear(s.fields)
	clear(s.values)
	s.fields, s.values = s.fields[:0], s.values[:0]
}

// Interface guards
var (
	_ http.ResponseWriter = (*guard)(nil)
	_ io.ReaderFrom       = (*guard)(nil)
	_ io.ReadCloser       = (*tapeCursor)(nil)
)
