package replay

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

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
