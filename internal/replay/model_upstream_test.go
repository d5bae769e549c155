package replay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
)

// attemptPlan is what an upstream, and the transport to it, do with an attempt.
type attemptPlan struct {
	// The transport, which reads the body.
	inline bool            // the handler reads it by itself, and goes on when it has answered
	reads  []int           // the sizes of its reads, in turn
	pauses []time.Duration // before the reads, in turn
	want   int             // how much it reads at most; -1 for all
	yields int             // to other goroutines, when it has read the end
	stops  bool            // it reads no further once the answer is there
	lags   bool            // the answer does not wait for it to end
	closer bool            // another goroutine closes the body before the handler returns

	// The upstream.
	after   int           // bytes that it gets before it answers; -1 for all
	waits   time.Duration // after that
	hints   int           // informational responses
	status  int           // 0 for an error without an answer
	plain   bool          // the status is not written by itself, if it is 200
	flushes bool
	size    int           // of the answer
	piece   int           // of the answer, that are written at once
	dawdles time.Duration // between pieces
	aborts  bool          // the answer is cut off in the end
}

func newAttemptPlan(d dice, unit int) attemptPlan {
	p := attemptPlan{inline: d(4) == 0, stops: d(2) == 0, lags: d(2) == 0, closer: d(2) == 0, yields: d(8)}
	for range 1 + d(3) {
		p.reads = append(p.reads, min(pick(d, 32<<10, 1, 5, 64, 1000)*unit, 32<<10)) // as transports do
		p.pauses = append(p.pauses, pick(d, 0, 0, 0, time.Millisecond, 300*time.Millisecond))
	}
	p.want = pick(d, -1, -1, -1, 0, 1, 10, 64)
	p.after = pick(d, -1, 0, 1, 10, 39, 64, 66)
	if p.want > 0 {
		p.want *= unit
	}
	if p.after > 0 {
		p.after *= unit
	}
	p.waits = pick(d, 0, time.Millisecond, 2*time.Second)
	p.hints = pick(d, 0, 0, 0, 1, 2)
	p.status = pick(d, 401, 401, 401, 401, 200, 200, 500, 0)
	p.plain, p.flushes, p.aborts = p.status == 200 && d(2) == 0, d(4) == 0, d(8) == 7
	p.size, p.piece = pick(d, 0, 1, 1000, 70<<10), pick(d, 1000, 1<<20)
	p.dawdles = pick(d, 0, 0, time.Millisecond, 600*time.Millisecond)
	return p
}

// Whether the body of an attempt is taken away.
const (
	staying int32 = iota
	leaving
	left
)

// hurry has everything happen at once.
func (p *attemptPlan) hurry() {
	clear(p.pauses)
	p.waits, p.dawdles = 0, 0
}

// attempt is the handler that sends the request, with its transport and the upstream.
type attempt struct {
	x      *exchange
	number int
	plan   attemptPlan
	reader

	progress chan struct{} // the reader got something
	stop     chan struct{} // the reader shall stop
	ended    chan struct{} // it has; nil if it runs in the handler's goroutine

	judged, dropped bool
	left            atomic.Int32 // whether the body is taken away, see staying
	written         []byte       // of the answer, without an error
}

func (a *attempt) mark() string { return fmt.Sprint("X-Attempt-", a.number) }

// ServeHTTP implements caddyhttp.Handler.
func (a *attempt) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	a.checkBeginning(w, r)
	a.reader = reader{x: a.x, of: fmt.Sprint("attempt ", a.number), want: a.plan.want, left: &a.left, yields: a.plan.yields, stop: a.stop}
	body := r.Body // a transport has a copy of the request
	a.reader.close = func() { _ = body.Close() }
	a.spoil(w, r)
	if a.plan.inline {
		a.reader.want = a.plan.after
		a.reader.read(body, r, a.plan.reads, a.plan.pauses)
	} else {
		ctx := r.Context()
		a.ended = make(chan struct{})
		go a.send(body, r)
		defer a.leave(ctx, body)
		for !a.hasEnough() {
			select {
			case <-a.progress:
			case <-a.ended:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	time.Sleep(a.plan.waits)
	if err := a.answer(w, r.Context()); err != nil {
		return err
	}
	if a.plan.inline && a.reader.end == nil {
		a.reader.want = a.plan.want
		a.reader.read(body, r, a.plan.reads, a.plan.pauses)
	}
	return nil
}

// checkBeginning checks that an attempt begins like the first.
func (a *attempt) checkBeginning(w http.ResponseWriter, r *http.Request) {
	t, c := a.x.t, a.x.client
	if len(r.Header) != 1 || r.Header.Get("X-Client") != "1" || r.Method != http.MethodPost || r.URL.String() != "http://example.com/a?b=c" || r.ContentLength != c.contentLength() {
		t.Errorf("attempt %d begins with %s %s, length %d, %v", a.number, r.Method, r.URL, r.ContentLength, r.Header)
	}
	if header := w.Header(); len(header) != 1 || header.Get("Server") != "Caddy" {
		t.Errorf("attempt %d begins with the response's header %v", a.number, header)
	}
	if err := r.Context().Err(); err != nil && !c.hasGone() {
		t.Errorf("attempt %d begins with %v", a.number, err)
	}
}

// spoil changes what handlers change.
func (a *attempt) spoil(w http.ResponseWriter, r *http.Request) {
	r.Header.Set("X-Upstream", "1")
	r.Header.Del("X-Client")
	r.Method, r.URL.Path, r.ContentLength = http.MethodPut, "/spoiled", -1
	w.Header().Set(a.mark(), "1")
	w.Header().Del("Server")
}

// hasEnough reports whether the upstream can answer.
func (a *attempt) hasEnough() bool {
	return isClosed(a.ended) || a.plan.after >= 0 && a.reader.count.Load() >= int64(a.plan.after)
}

// send is the transport's goroutine.
func (a *attempt) send(body io.Reader, r *http.Request) {
	defer close(a.ended)
	a.reader.progress = a.progress
	a.reader.read(body, r, a.plan.reads, a.plan.pauses)
	a.reader.close()
}

// leave is what a transport does when its caller returns.
func (a *attempt) leave(ctx context.Context, body io.Closer) {
	if a.plan.closer {
		go func() {
			a.reader.closed.Store(true)
			_ = body.Close()
			select {
			case <-a.ended:
			case <-time.After(5 * time.Second): // more than any pause between reads, and than a closed body stays open
				if a.left.Load() != left { // who is left waits for the client, and nobody waits for it
					a.x.t.Errorf("%s: reading did not end when the body was closed", a.reader.of)
				}
			}
		}()
	}
	if a.plan.stops {
		close(a.stop)
	}
	switch {
	case a.plan.closer: // as HTTP/2 closes a response
		began := time.Now()
		select {
		case <-a.ended:
		case <-ctx.Done():
		}
		if held := time.Since(began); a.left.Load() == left && held >= time.Second {
			a.x.t.Errorf("%s: its reader held its handler up for %v", a.reader.of, held)
		}
	case !a.plan.lags && !a.plan.stops:
		<-a.ended
	}
}

// answer writes the upstream's answer.
func (a *attempt) answer(w http.ResponseWriter, ctx context.Context) error {
	p := a.plan
	for i := range p.hints {
		w.Header().Set("Link", fmt.Sprint(a.number, i))
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
	}
	switch {
	case p.status == 0:
		return errors.New("no answer")
	case !p.plain:
		w.WriteHeader(p.status)
	}
	if p.flushes || p.plain && p.size == 0 {
		if err := http.NewResponseController(w).Flush(); err != nil {
			a.x.t.Errorf("flushing: %v", err)
		}
	}
	for rest := p.size; rest > 0; rest -= p.piece {
		piece := strings.Repeat(string(rune('a'+a.number)), min(rest, p.piece))
		n, err := io.Copy(w, strings.NewReader(piece))
		a.written = append(a.written, piece[:n]...)
		if err != nil {
			return err
		}
		select {
		case <-time.After(p.dawdles):
		case <-ctx.Done():
			panic(http.ErrAbortHandler)
		}
	}
	if p.aborts {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// reader reads a body, and checks what it gets.
type reader struct {
	x        *exchange
	of       string
	want     int           // the most that is read; -1 for all
	close    func()        // closes the body
	left     *atomic.Int32 // whether the body is taken away, see staying; nil if it can be at any time
	yields   int           // to other goroutines, when it has read the end
	progress chan struct{} // is sent to after a read; can be nil
	stop     chan struct{} // nil for never

	got    []byte
	count  atomic.Int64 // bytes that it got
	closed atomic.Bool
	end    error // what ended it; nil if it had enough
}

func (r *reader) read(body io.Reader, request *http.Request, sizes []int, pauses []time.Duration) {
	defer func() {
		if reason := recover(); reason != nil {
			if reason != errPanic {
				panic(reason)
			}
			r.check(0, errPanic)
		}
	}()
	for turn := 0; (r.want < 0 || len(r.got) < r.want) && !isClosed(r.stop); turn++ {
		if len(pauses) > 0 {
			time.Sleep(pauses[turn%len(pauses)])
		}
		size := sizes[turn%len(sizes)]
		if r.want > 0 {
			size = min(size, r.want-len(r.got))
		}
		p := make([]byte, size)
		isLeft := r.left != nil && r.left.Load() == left
		n, err := body.Read(p)
		if isLeft && (n > 0 || err == nil) {
			r.x.t.Errorf("%s: read %d bytes, %v, of a body that was taken away", r.of, n, err)
		}
		r.got = append(r.got, p[:n]...)
		r.check(n, err)
		r.count.Add(int64(n))
		if err != nil {
			for range r.yields {
				runtime.Gosched() // others run before the transport looks at the trailers
			}
			if err == io.EOF && r.x.client.trailer != nil && request.Trailer.Get("X-Sum") != "42" {
				r.x.t.Errorf("%s: the body ended with the trailers %v", r.of, request.Trailer)
			}
			return
		}
		select {
		case r.progress <- struct{}{}:
		default:
		}
	}
}

// check checks what a read has returned.
func (r *reader) check(n int, err error) {
	c, t := r.x.client, r.x.t
	r.end = err
	for i := len(r.got) - n; i < len(r.got); i++ {
		if r.got[i] != byteAt(i) {
			t.Errorf("%s: byte %d is another one", r.of, i)
			return
		}
	}
	switch {
	case err == nil:
		if n == 0 {
			t.Errorf("%s: read nothing", r.of)
		}
	case err == io.EOF:
		if len(r.got) != c.plan.size || c.plan.ends != atEOF {
			t.Errorf("%s: the body ended after %d of %d bytes, with EOF instead of %s", r.of, len(r.got), c.plan.size, c.plan.ends)
		}
	case errors.Is(err, errCut), errors.Is(err, errPanic):
		if len(r.got) != c.plan.size {
			t.Errorf("%s: the body broke off after %d of %d bytes", r.of, len(r.got), c.plan.size)
		}
	case errors.Is(err, errAborted):
		if !c.hasGone() {
			t.Errorf("%s: %v, too early", r.of, err)
		}
	case errors.Is(err, errClosed), errors.Is(err, http.ErrBodyReadAfterClose):
		if !isClosed(c.closing) && !r.closed.Load() {
			t.Errorf("%s: %v, and nobody has", r.of, err)
		}
	case c.panicked.Load(): // a transport gets an error of any kind, and the handler the panic
	default:
		if r.left != nil && r.left.Load() == staying {
			t.Errorf("%s: after %d bytes: %v", r.of, len(r.got), err)
		}
	}
}

// isAbandoned reports whether the body was taken away.
func (r *reader) isAbandoned() bool {
	return r.end != nil && !errors.Is(r.end, io.EOF) && !errors.Is(r.end, errCut) && !errors.Is(r.end, errPanic) && !errors.Is(r.end, errAborted)
}
