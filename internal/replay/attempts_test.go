package replay

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// When it has read a body to its end, Caddy's proxy reads the trailers of the request on the transport's goroutine,
// while other attempts are on their way. Nothing orders the two, so the race detector sees any write.
func TestTrailersCanBeReadWhileTheRequestIsSentAgain(t *testing.T) {
	attemptsOf(t, func(t *testing.T, _, r *http.Request, _ *caddy.Replacer) {
		r.Method, r.Body, r.ContentLength = "POST", io.NopCloser(strings.NewReader("a body")), -1
		r.Trailer = http.Header{"X-Checksum": {"abc"}}
		x := new(Attempts)
		sent := 0
		x.Begin(httptest.NewRecorder(), r, judgeFunc(func(status int, _ http.Header) (int, bool) {
			return status, status == 401 && x.RewindBody(sent == 2)
		}))
		x.RecordBody(1<<20, &Budget{Limit: 1 << 20}, nil)
		seen := make(chan http.Header, 3)
		next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			sent++
			body, ended := r.Body, make(chan struct{})
			go func() {
				if content, err := io.ReadAll(body); string(content) != "a body" || err != nil {
					t.Errorf("got %q, %v", content, err)
				}
				close(ended)
				seen <- r.Trailer.Clone()
			}()
			<-ended
			_ = body.Close() // as the transport of HTTP/2 does when an answer comes
			w.WriteHeader([]int{401, 401, 200}[sent-1])
			return nil
		})
		for range 2 {
			if dropped, err := x.Send(next); !dropped || err != nil {
				t.Fatal(dropped, err)
			}
		}
		if err := x.SendLast(next); err != nil {
			t.Error(err)
		}
		x.End()
		for range 3 {
			if trailers := <-seen; trailers.Get("X-Checksum") != "abc" {
				t.Errorf("the trailers: %v", trailers)
			}
		}
	})
}

func TestOnlyTheContextIsSet(t *testing.T) {
	if !contextFound {
		t.Fatal("requests have their context elsewhere")
	}
	r := httptest.NewRequest("POST", "http://example.com/a", strings.NewReader("a body"))
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, true)
	want := r.WithContext(ctx)
	setContext(r, ctx)
	if r.Context() != ctx || !reflect.DeepEqual(r, want) {
		t.Errorf("got %+v, want %+v", r, want)
	}
}

// countingBody counts what it has read without a lock, as the server does for the access log.
type countingBody struct {
	left <-chan struct{} // the client has left
	late time.Duration   // from then to the end of the read
	n    int
}

func (b *countingBody) Read([]byte) (int, error) {
	<-b.left
	time.Sleep(b.late)
	b.n++
	return 0, io.ErrUnexpectedEOF
}

func (b *countingBody) Close() error { return nil }

// The server looks at its count when the handler is done. A transport can still be reading then, if the client has left.
func TestEndWaitsForAReadFromAClientThatHasLeft(t *testing.T) {
	for late, want := range map[time.Duration]time.Duration{time.Millisecond: time.Millisecond, time.Hour: settleTime} {
		synctest.Test(t, func(t *testing.T) {
			client, leave := context.WithCancel(t.Context())
			body := &countingBody{left: client.Done(), late: late}
			r := httptest.NewRequest(http.MethodPost, "/", body).WithContext(context.WithValue(client, caddyhttp.VarsCtxKey, map[string]any{}))
			x := new(Attempts)
			x.Begin(httptest.NewRecorder(), r, judgeFunc(func(status int, _ http.Header) (int, bool) { return status, false }))
			x.RecordBody(1<<20, &Budget{Limit: 1 << 20}, nil)
			err := x.SendLast(caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
				go func() { _, _ = io.Copy(io.Discard, r.Body) }()
				synctest.Wait()
				leave()
				return client.Err()
			}))
			if err == nil {
				t.Error("the client has not left")
			}
			start := time.Now()
			x.End()
			if took := time.Since(start); took != want {
				t.Errorf("a read that ends after %s holds the request up for %s", late, took)
			}
			if late < settleTime && body.n != 1 {
				t.Errorf("counted %d reads", body.n)
			}
			time.Sleep(late)
		})
	}
}
