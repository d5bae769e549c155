package replay

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// lockProbe is a body, a judge and a handler. They check that nobody holds the tape's lock while they run.
type lockProbe struct {
	t     *testing.T
	x     *Attempts
	body  io.Reader
	calls map[string]int
}

// wantFree checks that the lock is free. In a bubble, time only goes on when all other goroutines wait
// for something. So a lock that is taken after the sleep is held while its owner waits.
func (p *lockProbe) wantFree(during string) {
	p.calls[during]++
	time.Sleep(time.Nanosecond)
	if !p.x.tape.mu.TryLock() {
		p.t.Errorf("the tape's lock is held during %s", during)
		return
	}
	p.x.tape.mu.Unlock()
}

func (p *lockProbe) Read(b []byte) (int, error) {
	p.wantFree("a read of the client's body")
	return p.body.Read(b)
}

func (*lockProbe) Close() error { return nil }

func (p *lockProbe) Verdict(status int, _ http.Header) (int, bool) {
	p.wantFree("a verdict")
	again := p.calls["a verdict"] == 1
	return status, again && p.x.HoldBody() && p.x.RewindBody(true)
}

// A body that hangs must only delay its reader, and a judge may wait for a token.
func TestLockIsNotHeldWhileOthersRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &lockProbe{t: t, x: new(Attempts), body: strings.NewReader("hello"), calls: make(map[string]int)}
		r := requestInCaddy("POST", "/", nil)
		r.Body, r.ContentLength = p, -1
		p.x.Begin(httptest.NewRecorder(), r, p)
		p.x.RecordBody(1<<20, &Budget{Limit: 1 << 20}, nil)
		defer p.x.End()
		next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			p.wantFree("an attempt")
			body, err := io.ReadAll(r.Body)
			if err != nil || string(body) != "hello" {
				t.Errorf("got %q, %v", body, err)
			}
			_ = r.Body.Close()
			w.WriteHeader(http.StatusUnauthorized)
			return nil
		})
		if dropped, err := p.x.Send(next); !dropped || err != nil {
			t.Fatalf("dropped: %v, %v", dropped, err)
		}
		if err := p.x.SendLast(next); err != nil {
			t.Fatal(err)
		}
		for _, during := range []string{"a read of the client's body", "a verdict", "an attempt"} {
			if p.calls[during] < 2 {
				t.Errorf("looked %d times during %s", p.calls[during], during)
			}
		}
	})
}
