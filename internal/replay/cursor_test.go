package replay

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestEndOfTheBodyWakesEveryReader(t *testing.T) {
	for _, limit := range []int64{100, 0} {
		synctest.Test(t, func(t *testing.T) {
			source := newTapeSource("")
			source.held.Store(true)
			_, body := newTestTape(source, limit, &Budget{Limit: 100})
			results := readTwice(body)
			<-source.entered
			synctest.Wait()
			source.held.Store(false)
			close(source.gate)
			for range 2 {
				if err := <-results; err != io.EOF {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

// readTwice reads from a body in two goroutines, and returns how that ends.
func readTwice(body io.Reader) chan error {
	results := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := body.Read(make([]byte, 1))
			results <- err
		}()
	}
	return results
}

// A server can end a response before the request has ended, or fail. A transport closes the body then, and waits for
// its reader.
func TestCloseEndsEveryReader(t *testing.T) {
	for name, test := range map[string]struct {
		limit  int64
		before func(*tape) // the transport closes the body
		after  func(*tape)
		open   time.Duration // for how long a reader goes on after that
	}{
		"no recording":            {limit: 0},
		"after the recording":     {limit: 100, before: (*tape).stopRecording},
		"then the response comes": {limit: 100, after: (*tape).stopRecording},
		"no response comes":       {limit: 100, open: closeTime},
		"a response is held, and passes": {
			limit: 100, before: func(t *tape) { t.hold() }, after: func(t *tape) { time.Sleep(time.Hour); t.stopRecording() }, open: time.Hour,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source, client := io.Pipe()
				tape, body := newTestTape(source, test.limit, &Budget{Limit: 100})
				results := readTwice(body) // one of them waits for the other
				synctest.Wait()
				if test.before != nil {
					test.before(tape)
					synctest.Wait()
				}
				began := time.Now()
				_ = body.Close()
				if test.after != nil {
					go test.after(tape)
				}
				for range 2 {
					if err := <-results; err == nil {
						t.Error("something was read")
					}
				}
				if open := time.Since(began); open != test.open {
					t.Errorf("a reader has gone on for %v, want %v", open, test.open)
				}
				_ = client.Close()
			})
		})
	}
}

// The recording of a closed body is about to end anyway.
func TestClosedBodyDoesNotGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, client := io.Pipe()
		budget := &Budget{Limit: 100}
		_, body := newTestTape(source, 100, budget)
		go func() { _, _ = client.Write([]byte("x")) }()
		readPieces(t, body, 1)
		results := readTwice(body)
		time.Sleep(2 * idleTime)
		began := time.Now()
		_ = body.Close()
		other := &http.Request{Body: newTapeSource("y"), ContentLength: 1}
		newTape(other, 100, budget, nil)
		readPieces(t, other.Body, 1)
		for range 2 {
			<-results
		}
		if open := time.Since(began); open != closeTime {
			t.Errorf("a reader has gone on for %v", open)
		}
		_ = client.Close()
	})
}

// What is being read when an attempt is promised can be sent again, even if it does not fit.
func TestReadThatLandsWhileHeldIsNotLost(t *testing.T) {
	body := randomBody(100_000)
	for name, test := range map[string]struct{ limit, total int64 }{
		"the limit is near": {20_000, 1 << 20},
		"the total is near": {1 << 20, 4096},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source, budget := newTapeSource(body), &Budget{Limit: test.total}
				tape, first := newTestTape(source, test.limit, budget)
				source.piece = 1000
				readPieces(t, first, 1000)
				source.held.Store(true)
				source.piece = 32 << 10
				read := make(chan int)
				go func() {
					n, _ := first.Read(make([]byte, 32<<10))
					read <- n
				}()
				<-source.entered
				source.held.Store(false)
				if !tape.hold() {
					t.Fatal("the body can't be read again")
				}
				source.gate <- struct{}{}
				if n := <-read; n == 0 {
					t.Error("nothing was read")
				}
				wantRest(t, mustRewind(t, tape), body)
				tape.free()
				wantUsed(t, budget, 0)
			})
		})
	}
}

// A transport can close the body before its response is there, or when its attempt is over. The body stays open for
// whoever comes next.
func TestCloseLeavesTheBodyToWhoComesNext(t *testing.T) {
	for name, follow := range map[string]func(*testing.T, *tape) *cursor{
		"attempt":         mustRewind,
		"handler instead": func(_ *testing.T, tape *tape) *cursor { return tape.abandon() },
	} {
		for _, early := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s %t", name, early), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					source, client := io.Pipe()
					tape, body := newTestTape(source, 100, &Budget{Limit: 100})
					results := readTwice(body)
					synctest.Wait()
					if early {
						_ = body.Close()
						time.Sleep(closeTime - 1)
					}
					if !tape.hold() {
						t.Fatal("the body can't be read again")
					}
					time.Sleep(time.Hour)
					next := follow(t, tape)
					if !early {
						_ = body.Close()
					}
					time.Sleep(time.Hour)
					go func() {
						_, _ = io.WriteString(client, "0123456789")
						_ = client.Close()
					}()
					wantRest(t, next, "0123456789")
					for range 2 {
						if err := <-results; err != http.ErrBodyReadAfterClose && err != errAbandoned {
							t.Errorf("a reader of the first attempt got %v", err)
						}
					}
				})
			})
		}
	}
}
