package replay

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// tapeSource is the body as the client sends it. While it is held, a read waits at the
// gate.
type tapeSource struct {
	rest    []byte
	err     error // after the rest, io.EOF if nil
	eager   bool  // err comes along with the last bytes
	piece   int   // at most so many bytes in one read, if not 0
	held    atomic.Bool
	entered chan struct{}
	gate    chan struct{}
	ended   bool
	closed  bool
}

func newTapeSource(data string) *tapeSource {
	return &tapeSource{rest: []byte(data), entered: make(chan struct{}), gate: make(chan struct{})}
}

func (b *tapeSource) Read(p []byte) (int, error) {
	if b.held.Load() {
		b.entered <- struct{}{}
		<-b.gate
	}
	if b.piece > 0 && len(p) > b.piece {
		p = p[:b.piece]
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	if len(b.rest) > 0 || n > 0 && !b.eager {
		return n, nil
	}
	b.ended = true
	if b.err != nil {
		return n, b.err
	}
	return n, io.EOF
}

func (b *tapeSource) Close() error {
	b.closed = true
	return nil
}

// newTestTape is the tape of a request with that body, and its first attempt's
// cursor.
func newTestTape(body io.ReadCloser, limit int64, budget *Budget) (*tape, io.ReadCloser) {
	r := &http.Request{Body: body}
	return newTape(r, limit, budget, []string{"Authorization"}), r.Body
}

// readPieces reads so many bytes in pieces of random size.
func readPieces(t *testing.T, r io.Reader, n int) string {
	t.Helper()
	var got []byte
	for len(got) < n {
		p := make([]byte, 1+rand.N(n-len(got)))
		k, err := r.Read(p)
		got = append(got, p[:k]...)
		if err != nil && len(got) < n {
			t.Fatalf("after %d of %d bytes: %v", len(got), n, err)
		}
	}
	return string(got)
}

func mustRewind(t *testing.T, tape *tape) *cursor {
	t.Helper()
	cursor, ok := tape.rewind(true)
	if !ok {
		t.Fatal("the body can't be read again")
	}
	return cursor
}

func wantRest(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != want {
		t.Fatalf("read %d bytes, want %d: %v", len(got), len(want), err)
	}
}

func wantReadError(t *testing.T, r io.Reader, want error) {
	t.Helper()
	if n, err := r.Read(make([]byte, 10)); n != 0 || err != want {
		t.Errorf("read %d bytes, %v; want %v", n, err, want)
	}
}

func wantUsed(t *testing.T, budget *Budget, want int64) {
	t.Helper()
	if used := budget.Used(); used != want {
		t.Errorf("%d bytes of the budget are taken, want %d", used, want)
	}
}

// randomBody has no two long parts that are alike.
func randomBody(n int) string {
	text := make([]byte, n)
	for i := range text {
		text[i] = byte(rand.N(256))
	}
	return string(text)
}

func TestSecondAttemptReadsTheWholeBody(t *testing.T) {
	for _, size := range []int{0, 1, 4095, 4096, 4097, 100_000} {
		for _, read := range []int{0, 1, size / 2, size - 1, size} {
			if read < 0 || read > size {
				continue
			}
			for _, eager := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d of %d eager=%v", read, size, eager), func(t *testing.T) {
					body := randomBody(size)
					source, budget := newTapeSource(body), &Budget{Limit: 1 << 20}
					source.eager = eager
					tape, first := newTestTape(source, 1<<20, budget)
					if got := readPieces(t, first, read); got != body[:read] {
						t.Error("the first attempt read something else")
					}
					second := mustRewind(t, tape)
					wantReadError(t, first, errAbandoned)
					wantRest(t, iotest.OneByteReader(second), body)
					wantReadError(t, second, io.EOF)
					tape.free()
					wantUsed(t, budget, 0)
					if source.closed {
						t.Error("the source was closed")
					}
				})
			}
		}
	}
}

// Whatever the sizes and whenever the first attempt is given up, also in the middle
// of a read, the second reads the body from its first to its last byte.
func TestSecondAttemptReadsTheWholeBodyWhileTheFirstStillReads(t *testing.T) {
	for range 300 {
		body := randomBody(rand.N(20_000))
		budget := &Budget{Limit: 1 << 20}
		source := newTapeSource(body)
		source.eager = rand.N(2) == 0
		tape, first := newTestTape(source, 1<<20, budget)
		giveUp := rand.N(len(body) + 1)
		reached := make(chan struct{})
		var wait sync.WaitGroup
		wait.Go(func() {
			var got []byte
			once := sync.OnceFunc(func() { close(reached) })
			defer once()
			for {
				p := make([]byte, 1+rand.N(500))
				n, err := first.Read(p)
				if got = append(got, p[:n]...); len(got) >= giveUp {
					once()
				}
				if err != nil {
					break
				}
			}
			if !strings.HasPrefix(body, string(got)) {
				t.Error("the first attempt read something else")
			}
		})
		<-reached
		second := mustRewind(t, tape)
		if rand.N(2) == 0 {
			tape.stopRecording()
		}
		if got := readPieces(t, second, len(body)); got != body {
			t.Fatal("the second attempt read something else")
		}
		wantReadError(t, second, io.EOF)
		wait.Wait()
		tape.free()
		wantUsed(t, budget, 0)
	}
}

func TestReadInProgressIsNotLost(t *testing.T) {
	for name, test := range map[string]struct {
		before int    // bytes read before
		buffer int    // of the read in progress
		err    error  // after the body
		close  bool   // the first attempt closes its body meanwhile
		stop   bool   // the tape is stopped before the read lands
		want   string // of the second attempt
	}{
		"first read":         {buffer: 4, want: "0123456789"},
		"later read":         {before: 3, buffer: 4, want: "0123456789"},
		"last read":          {before: 3, buffer: 100, want: "0123456789"},
		"only the end":       {before: 10, buffer: 4, want: "0123456789"},
		"closed":             {before: 3, buffer: 4, close: true, want: "0123456789"},
		"stopped":            {before: 3, buffer: 4, stop: true, want: "0123456789"},
		"stopped at once":    {buffer: 4, stop: true, want: "0123456789"},
		"error with data":    {before: 3, buffer: 100, err: io.ErrUnexpectedEOF, want: "0123456789"},
		"error without data": {before: 10, buffer: 4, err: io.ErrUnexpectedEOF, want: "0123456789"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source, budget := newTapeSource("0123456789"), &Budget{Limit: 1 << 20}
				source.err, source.eager = test.err, true
				if test.before == 10 {
					source.eager = false
				}
				tape, first := newTestTape(source, 1<<20, budget)
				source.piece = 1
				readPieces(t, first, test.before)

				source.held.Store(true)
				source.piece = test.buffer
				retired := make(chan error)
				go func() {
					n, err := first.Read(make([]byte, test.buffer))
					if n != 0 {
						t.Errorf("the abandoned attempt read %d bytes", n)
					}
					retired <- err
				}()
				<-source.entered
				source.held.Store(false)
				if test.close {
					_ = first.Close()
				}
				second := mustRewind(t, tape)
				if test.stop {
					tape.stopRecording()
				}
				var got []byte
				var err error
				done := make(chan struct{})
				go func() {
					defer close(done)
					got, err = io.ReadAll(second)
				}()
				synctest.Wait() // the second attempt waits for what the first has begun to read
				select {
				case <-done:
					t.Fatal("the second attempt did not wait")
				default:
				}
				close(source.gate)
				if err := <-retired; err != errAbandoned && (!test.close || err != http.ErrBodyReadAfterClose) {
					t.Errorf("the abandoned attempt got %v", err)
				}
				<-done
				if string(got) != test.want || err != test.err {
					t.Errorf("the second attempt read %q, %v", got, err)
				}
				tape.free()
				wantUsed(t, budget, 0)
			})
		})
	}
}

// While another token is being fetched, the first attempt must not use up the tape.
func TestHeldBodyIsNotReadOn(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *tape) error{
		"rewound":   func(t *testing.T, tape *tape) error { mustRewind(t, tape); return errAbandoned },
		"abandoned": func(_ *testing.T, tape *tape) error { tape.abandon(); return errAbandoned },
		"stopped":   func(_ *testing.T, tape *tape) error { tape.stopRecording(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := newTapeSource("0123456789")
				source.piece = 1
				tape, first := newTestTape(source, 5, &Budget{Limit: 1 << 20})
				readPieces(t, first, 3)
				if !tape.hold() {
					t.Fatal("the body can't be read again")
				}
				result := make(chan error)
				go func() {
					_, err := first.Read(make([]byte, 10))
					result <- err
				}()
				synctest.Wait()
				if string(source.rest) != "3456789" {
					t.Errorf("the client's body was read up to %q", source.rest)
				}
				want := end(t, tape)
				if err := <-result; err != want {
					t.Errorf("got %v, want %v", err, want)
				}
			})
		})
	}
}

func TestTwoReadersOfOneAttemptTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newTapeSource("ab")
		source.piece = 1
		source.held.Store(true)
		_, body := newTestTape(source, 10, &Budget{Limit: 1 << 20})
		got := make(chan string, 2)
		for range 2 {
			go func() {
				p := make([]byte, 1)
				n, _ := body.Read(p)
				got <- string(p[:n])
			}()
		}
		<-source.entered
		synctest.Wait()
		source.gate <- struct{}{}
		<-source.entered // fails if both had entered before
		source.gate <- struct{}{}
		if first, second := <-got, <-got; min(first, second) != "a" || max(first, second) != "b" {
			t.Errorf("read %q and %q", first, second)
		}
	})
}

func TestBodyThatOutgrowsItsTapeIsReadOn(t *testing.T) {
	for name, test := range map[string]struct {
		size, read   int
		limit, total int64
		replayable   bool
	}{
		"within the limit":             {10_000, 10_000, 10_000, 1 << 20, true},
		"past the limit":               {10_000, 10_000, 9_999, 1 << 20, false},
		"not yet past the limit":       {10_000, 9_999, 9_999, 1 << 20, true},
		"large body, unread":           {5 << 20, 0, 1000, 1 << 20, true},
		"within the total":             {4096, 4096, 10_000, 4096, true},
		"past the total":               {4097, 4097, 10_000, 4096, false},
		"the total is too small":       {1, 1, 10_000, 1000, false},
		"the limit is the least piece": {1000, 1000, 1000, 1000, true},
	} {
		t.Run(name, func(t *testing.T) {
			body, budget := randomBody(test.size), &Budget{Limit: test.total}
			tape, first := newTestTape(newTapeSource(body), test.limit, budget)
			if got := readPieces(t, first, test.read); got != body[:test.read] {
				t.Error("the first attempt read something else")
			}
			if used := budget.Used(); used > min(test.limit, test.total) || test.read > 0 && test.replayable && used < int64(test.read) {
				t.Errorf("%d bytes of the budget are taken", used)
			}
			if tape.hold() != test.replayable {
				t.Fatalf("replayable: %v", tape.hold())
			}
			second, ok := tape.rewind(true)
			if ok != test.replayable {
				t.Fatalf("rewound: %v", ok)
			}
			if ok {
				wantRest(t, second, body)
			} else {
				wantRest(t, first, body[test.read:])
				wantUsed(t, budget, 0) // before the end of the request
			}
			tape.free()
			wantUsed(t, budget, 0)
		})
	}
}

func TestBudgetIsSharedAndGivenBack(t *testing.T) {
	budget := &Budget{Limit: 3 * smallMemory}
	body := strings.Repeat("x", smallMemory)
	var tapes []*tape
	for range 3 {
		source := newTapeSource(body)
		source.piece = 1
		tape, first := newTestTape(source, 1<<20, budget)
		readPieces(t, first, 1)
		tapes = append(tapes, tape)
	}
	wantUsed(t, budget, 3*smallMemory)
	late, first := newTestTape(newTapeSource(body), 1<<20, budget)
	readPieces(t, first, 1)
	if late.hold() {
		t.Error("more is recorded than the total allows")
	}
	wantRest(t, first, body[1:])
	for i, tape := range tapes {
		tape.stopRecording()
		tape.stopRecording()
		wantUsed(t, budget, int64(2-i)*smallMemory)
	}
	late.stopRecording()
	wantUsed(t, budget, 0)
}

func TestTapeTakesWhatTheAnnouncedLengthNeeds(t *testing.T) {
	for _, test := range []struct{ length, read, limit, want int64 }{
		{-1, 1, 1 << 20, smallMemory},
		{-1, smallMemory + 1, 1 << 20, smallMemory + largeMemory},
		{100, 1, 1 << 20, 100},
		{20_000, 1, 1 << 20, 20_000},
		{20_000, 1, 10_000, 10_000},
		{200_000, 1, 1 << 20, largeMemory},
		{200_000, 200_000, 1 << 20, 200_000},
	} {
		budget := &Budget{Limit: 1 << 20}
		r := &http.Request{Body: newTapeSource(strings.Repeat("x", 300_000)), ContentLength: test.length}
		tape := newTape(r, test.limit, budget, []string{"Authorization"})
		readPieces(t, io.LimitReader(r.Body, test.read), int(test.read))
		wantUsed(t, budget, test.want)
		tape.free()
	}
}

// Once the last reader is through with the recording, nobody needs it any more.
func TestRecordingIsFreedBeforeTheEndOfTheRequest(t *testing.T) {
	body := strings.Repeat("x", 3*largeMemory)
	for name, use := range map[string]func(*testing.T, *tape, io.ReadCloser){
		"stopped":              func(_ *testing.T, tape *tape, _ io.ReadCloser) { tape.stopRecording() },
		"closed, then stopped": func(_ *testing.T, tape *tape, first io.ReadCloser) { _ = first.Close(); tape.stopRecording() },
		"stopped, then closed": func(_ *testing.T, tape *tape, first io.ReadCloser) { tape.stopRecording(); _ = first.Close() },
		"read a second time": func(t *testing.T, tape *tape, _ io.ReadCloser) {
			readPieces(t, mustRewind(t, tape), smallMemory+largeMemory)
		},
		"closed a second time": func(t *testing.T, tape *tape, _ io.ReadCloser) { _ = mustRewind(t, tape).Close() },
	} {
		t.Run(name, func(t *testing.T) {
			budget := &Budget{Limit: 1 << 20}
			tape, first := newTestTape(newTapeSource(body), 1<<20, budget)
			if _, err := io.CopyN(io.Discard, first, smallMemory+largeMemory); err != nil {
				t.Fatal(err)
			}
			use(t, tape, first)
			wantUsed(t, budget, 0)
		})
	}
}

// A server waits until it has filled what it is asked for, if it can.
func TestNoMoreIsReadAheadThanAProxyWould(t *testing.T) {
	source := newTapeSource(strings.Repeat("x", 1<<20))
	_, first := newTestTape(source, 1<<20, &Budget{Limit: 1 << 20})
	total := 0
	for range 10 {
		n, err := first.Read(make([]byte, largeMemory))
		if total += n; err != nil || n == 0 || 1<<20-len(source.rest) != total {
			t.Fatalf("%d bytes were read for %d, %v", 1<<20-len(source.rest), total, err)
		}
	}
	if total < 9*largeMemory {
		t.Errorf("%d bytes in ten reads", total)
	}
}

type panickingBody struct{ reason any }

func (b panickingBody) Read([]byte) (int, error) { panic(b.reason) }
func (b panickingBody) Close() error             { panic(b.reason) }

// A panic on another goroutine than the handler's would end the process, and so would one that finds a lock
// unlocked.
func TestPanicOfTheBodyIsAnErrorForItsReader(t *testing.T) {
	for name, limit := range map[string]int64{"recorded": 100, "at the limit": 3, "passed through": 0} {
		t.Run(name, func(t *testing.T) {
			source := struct {
				io.Reader
				io.Closer
			}{io.MultiReader(strings.NewReader("abc"), panickingBody{"reason"}), panickingBody{"reason"}}
			tape, body := newTestTape(source, limit, &Budget{Limit: 100})
			if got := readPieces(t, body, 3); got != "abc" {
				t.Errorf("read %q", got)
			}
			for range 2 {
				wantReadError(t, body, errPanicked)
			}
			if limit == 100 {
				second := mustRewind(t, tape)
				if got := readPieces(t, second, 3); got != "abc" {
					t.Errorf("read %q again", got)
				}
				wantReadError(t, second, errPanicked)
			}
			if err := body.Close(); err != nil {
				t.Error(err)
			}
			if !tape.mu.TryLock() {
				t.Error("the lock is still held")
			}
		})
	}
}

// A reader that reads from the client itself is woken by closing the client's body, on any goroutine.
func TestPanicOfClosingTheBodyIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := struct {
			io.Reader
			io.Closer
		}{newTapeSource("abc"), panickingBody{"reason"}}
		held := source.Reader.(*tapeSource)
		held.held.Store(true)
		tape, body := newTestTape(source, 0, &Budget{})
		go func() { _, _ = body.Read(make([]byte, 1)) }()
		<-held.entered
		if err := body.Close(); err != errPanicked {
			t.Errorf("got %v", err)
		}
		held.gate <- struct{}{}
		defer func() {
			if reason := recover(); reason != "reason" {
				t.Errorf("recovered %v", reason)
			}
		}()
		tape.rethrow()
	})
}

type judgeFunc func(status int, header http.Header) (int, bool)

func (f judgeFunc) Verdict(status int, header http.Header) (int, bool) { return f(status, header) }

// The handler's goroutine is where Caddy's server expects a panic.
func TestPanicOfTheBodyReachesTheHandler(t *testing.T) {
	for _, reason := range []any{http.ErrAbortHandler, "reason"} {
		for name, limit := range map[string]int64{"recorded": 100, "passed through": 0} {
			for _, status := range []int{200, 401} {
				t.Run(fmt.Sprint(reason, name, status), func(t *testing.T) {
					r := requestInCaddy("POST", "/", panickingBody{reason})
					attempts := 0
					next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
						attempts++
						failed := make(chan error)
						go func() { // as a transport does
							_, err := io.ReadAll(r.Body)
							_ = r.Body.Close()
							failed <- err
						}()
						if err := <-failed; err != errPanicked {
							t.Errorf("the transport got %v", err)
						}
						w.WriteHeader(status)
						return nil
					})
					x := new(Attempts)
					x.Begin(httptest.NewRecorder(), r, judgeFunc(func(status int, _ http.Header) (int, bool) {
						return status, status == 401 && x.RewindBody(true)
					}))
					x.RecordBody(limit, &Budget{Limit: 100}, nil)
					defer x.End()
					defer func() {
						if got := recover(); got != reason {
							t.Errorf("recovered %v", got)
						}
					}()
					if dropped, _ := x.Send(next); dropped {
						_ = x.SendLast(next)
					}
					t.Errorf("no panic after %d attempts", attempts)
				})
			}
		}
	}
}

func TestPanicOfTheBodyReachesTheHandlerOfARequestThatIsSentOnce(t *testing.T) {
	r := requestInCaddy("POST", "/", panickingBody{"reason"})
	r.Trailer = http.Header{"X": nil}
	defer func() {
		if got := recover(); got != "reason" {
			t.Errorf("recovered %v", got)
		}
	}()
	_ = SendOnce(caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		_, err := io.ReadAll(r.Body)
		return err
	}), httptest.NewRecorder(), r, nil)
}

func TestStoppedTapeIsReadToItsEnd(t *testing.T) {
	body, budget := randomBody(50_000), &Budget{Limit: 1 << 20}
	tape, first := newTestTape(newTapeSource(body), 1<<20, budget)
	readPieces(t, first, 20_000)
	second := mustRewind(t, tape)
	start := readPieces(t, second, 7_000)
	tape.stopRecording() // while 13,000 recorded bytes are still to be read
	if budget.Used() < 20_000 {
		t.Error("memory in use is given back")
	}
	if tape.hold() {
		t.Error("a stopped tape can be rewound")
	}
	if _, ok := tape.rewind(true); ok {
		t.Error("a stopped tape was rewound")
	}
	wantRest(t, second, body[len(start):])
	wantUsed(t, budget, 0)

	tape, first = newTestTape(newTapeSource(body), 1<<20, budget)
	start = readPieces(t, first, 20_000)
	tape.free()
	wantUsed(t, budget, 0)
	wantRest(t, first, body[len(start):])
}

func TestReleasedTapeHoldsNothingOfTheBudget(t *testing.T) {
	budget := &Budget{Limit: 1 << 20}
	tape, first := newTestTape(newTapeSource(randomBody(50_000)), 1<<20, budget)
	readPieces(t, first, 20_000)
	mustRewind(t, tape)
	for range 2 {
		tape.free()
		wantUsed(t, budget, 0)
	}
}

// Another handler may answer in place of the second attempt, and read the body, but
// only if it can have all of it.
func TestAbandonedTapeIsReadWholeOrNotAtAll(t *testing.T) {
	body := randomBody(10_000)
	for _, limit := range []int64{20_000, 5_000} {
		budget := &Budget{Limit: 1 << 20}
		tape, first := newTestTape(newTapeSource(body), limit, budget)
		readPieces(t, first, 6_000)
		rest := tape.abandon()
		wantReadError(t, first, errAbandoned)
		if limit > 10_000 {
			wantRest(t, rest, body)
		} else {
			wantReadError(t, rest, errAbandoned)
		}
		tape.free()
		wantUsed(t, budget, 0)
	}
}

func TestClosedAttemptReadsNoMore(t *testing.T) {
	source, budget := newTapeSource("0123456789"), &Budget{Limit: 1 << 20}
	tape, first := newTestTape(source, 1<<20, budget)
	readPieces(t, first, 4)
	for range 2 {
		if err := first.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		wantReadError(t, first, http.ErrBodyReadAfterClose)
	}
	second := mustRewind(t, tape)
	wantReadError(t, first, errAbandoned)
	readPieces(t, second, 2)
	_ = second.Close()
	wantReadError(t, second, http.ErrBodyReadAfterClose)
	if source.closed {
		t.Error("the source was closed; that is the server's")
	}
}

func TestSourceErrorIsReplayed(t *testing.T) {
	for _, eager := range []bool{false, true} {
		source := newTapeSource("0123456789")
		source.err, source.eager = io.ErrUnexpectedEOF, eager
		tape, first := newTestTape(source, 1<<20, &Budget{Limit: 1 << 20})
		for i, attempt := range []func() io.Reader{
			func() io.Reader { return first },
			func() io.Reader { return mustRewind(t, tape) },
		} {
			body := attempt()
			if got, err := io.ReadAll(body); string(got) != "0123456789" || err != io.ErrUnexpectedEOF {
				t.Errorf("attempt %d read %q, %v", i+1, got, err)
			}
			wantReadError(t, body, io.ErrUnexpectedEOF)
		}
	}
}

func TestTrailersArriveAtTheEndButForTheTokens(t *testing.T) {
	for _, attempts := range []int{1, 2} {
		source := newTapeSource("0123456789")
		announced := http.Header{"X-Sum": nil, "Authorization": nil, "authorization": nil}
		r := &http.Request{Body: source, Trailer: maps.Clone(announced)}
		servers := r.Trailer
		tape := newTape(r, 1<<20, &Budget{Limit: 1 << 20}, []string{"Authorization"})
		body := io.Reader(r.Body)
		if want := (http.Header{"X-Sum": nil}); !reflect.DeepEqual(r.Trailer, want) {
			t.Fatalf("announced: %v", r.Trailer)
		}
		if attempts == 2 {
			readPieces(t, body, 6)
			body = mustRewind(t, tape)
		}
		readPieces(t, body, 10)
		// The server fills its own map when it reads the end.
		servers["X-Sum"] = []string{"45"}
		servers["X-Late"] = []string{"a", "b"}
		servers["Authorization"] = []string{"Bearer of-the-client"}
		servers["authorization"] = []string{"Bearer of-the-client"}
		if r.Trailer.Get("X-Sum") != "" {
			t.Error("a trailer arrived before the end of the body")
		}
		for range 2 {
			wantReadError(t, body, io.EOF)
			if want := (http.Header{"X-Sum": {"45"}, "X-Late": {"a", "b"}}); !reflect.DeepEqual(r.Trailer, want) {
				t.Errorf("trailers: %v", r.Trailer)
			}
		}
		servers["X-Late"][0] = "changed"
		wantReadError(t, body, io.EOF) // a transport may read what it was given by now
		if r.Trailer.Get("X-Late") != "a" {
			t.Error("the values are shared with the server")
		}
	}
}

// A read that is in progress when its attempt is abandoned must not tell the end of the body: that is when the
// request gets its trailers.
func TestAbandonedReaderDoesNotSeeTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newTapeSource("")
		source.held.Store(true)
		tape, first := newTestTape(source, 0, &Budget{})
		result := make(chan error)
		go func() {
			_, err := first.Read(make([]byte, 10))
			result <- err
		}()
		<-source.entered
		_ = tape.abandon()
		source.gate <- struct{}{}
		if err := <-result; err != errAbandoned {
			t.Errorf("got %v", err)
		}
	})
}

// The operations of a fuzzed tape: one byte each, the rest of it a size.
func FuzzTape(f *testing.F) {
	f.Add([]byte("hello world"), []byte{0, 5 << 2, 2, 0}, uint16(100), false)
	f.Add([]byte("hello world"), []byte{4 << 2, 5<<2 | 1, 2, 3, 0}, uint16(100), true)
	f.Add([]byte("hello world"), []byte{5<<2 | 1, 2, 9 << 2}, uint16(4), true)
	f.Add([]byte("hello world"), []byte{63<<2 | 1, 2}, uint16(100), true)
	f.Fuzz(func(t *testing.T, body, ops []byte, limit uint16, eager bool) {
		budget := &Budget{Limit: int64(limit) + 1}
		source := newTapeSource(string(body))
		source.eager = eager
		tape, current := newTestTape(source, int64(limit)+1, budget)
		var got []byte
		var pending chan []byte // what the read in progress returns
		pendingFirst, rewound, ended := false, false, false
		land := func() {
			if pending == nil {
				return
			}
			source.gate <- struct{}{}
			// An abandoned reader does not wait for that.
			for reading := true; reading; runtime.Gosched() {
				tape.mu.Lock()
				reading = tape.reading
				tape.mu.Unlock()
			}
			if data := <-pending; !rewound || !pendingFirst {
				got = append(got, data...)
			} else if len(data) > 0 {
				t.Error("an abandoned attempt read something")
			}
			pending = nil
		}
		read := func(size int) {
			source.piece = size // so that nothing is read ahead
			p := make([]byte, size)
			n, err := current.Read(p)
			got = append(got, p[:n]...)
			ended = ended || err != nil
			if err != nil && err != io.EOF {
				t.Fatalf("read: %v", err)
			}
		}
		for _, op := range ops {
			size := int(op>>2) + 1
			switch op % 4 {
			case 0:
				land()
				read(size)
			case 1: // a read that is not answered yet, where there is nothing recorded
				if pending != nil || source.ended || rewound && len(got) < len(body)-len(source.rest) {
					continue
				}
				source.piece = size
				source.held.Store(true)
				pending, pendingFirst = make(chan []byte, 1), !rewound
				go func(body io.Reader, result chan<- []byte) {
					p := make([]byte, size)
					n, _ := body.Read(p)
					result <- p[:n]
				}(current, pending)
				<-source.entered
				source.held.Store(false)
			case 2:
				if rewound {
					continue
				}
				replayable := tape.hold()
				cursor, ok := tape.rewind(true)
				if ok != replayable || !ok && int64(len(body)-len(source.rest)) <= int64(limit) {
					t.Fatalf("rewound: %v, replayable: %v", ok, replayable)
				}
				if ok {
					current, got, rewound, ended = cursor, nil, true, false
				}
			case 3:
				if rewound {
					tape.stopRecording()
				}
			}
		}
		land()
		for !ended {
			read(64)
		}
		if !bytes.Equal(got, body) {
			t.Errorf("read %q, want %q", got, body)
		}
		tape.free()
		wantUsed(t, budget, 0)
	})
}
