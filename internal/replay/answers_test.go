package replay

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// judgeOfRepeats notes whether the request could be sent again with each response.
type judgeOfRepeats struct {
	x    *Attempts
	said bool
}

func (j *judgeOfRepeats) Verdict(status int, _ http.Header) (int, bool) {
	j.said = j.x.MayRepeat(status)
	return status, false
}

// mayRepeat sends a request to upstreams that answer so, one after the other; 0 is one that can't be reached.
// The client is answered with a status.
func mayRepeat(r *http.Request, written int, answered ...int) bool {
	j := &judgeOfRepeats{x: new(Attempts)}
	j.x.Begin(httptest.NewRecorder(), r, j)
	j.x.RecordBody(1<<20, &Budget{Limit: 1 << 20}, nil)
	defer j.x.End()
	_, _ = j.x.Send(caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		for _, status := range answered {
			ctx, cancel := context.WithCancel(r.Context()) // as handlers derive it
			_ = ctx.Value(caddyhttp.ServerCtxKey)
			cancel()
			if status != 0 {
				repl.Set(statusOfProxy, status)
			}
		}
		w.WriteHeader(written)
		return nil
	}))
	return j.said
}

func TestUnsafeRequestIsRepeatedOnlyIfAllUpstreamsAnsweredTheSame(t *testing.T) {
	for _, test := range []struct {
		written  int
		answered []int
		want     bool
	}{
		{401, []int{401}, true},
		{401, []int{0, 401}, true},
		{401, []int{0, 0, 401}, true},
		{401, []int{401, 401}, true},
		{401, nil, false},
		{401, []int{0}, false},
		{401, []int{200}, false},
		{401, []int{200, 401}, false},
		{401, []int{401, 200}, false},
		{401, []int{401, 200, 401}, false},
		{401, []int{503, 401}, false},
		{401, []int{200, 0}, false},
		{403, []int{401}, false},
		{200, []int{200}, true}, // of gRPC
	} {
		for _, before := range []int{0, 200, 401} { // by a proxy before this handler
			r := requestInCaddy("POST", "/", strings.NewReader("a body"))
			if before != 0 {
				r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set(statusOfProxy, before)
			}
			if got := mayRepeat(r, test.written, test.answered...); got != test.want {
				t.Errorf("%d after %v, with %d before: %t", test.written, test.answered, before, got)
			}
		}
	}
}

func TestOnlySafeRequestsWithoutBodyAreRepeatedWhateverWasAnswered(t *testing.T) {
	for method, want := range map[string]bool{
		"GET": true, "HEAD": true, "OPTIONS": true, "POST": false, "PUT": false, "DELETE": false, "PATCH": false, "QUERY": false, "CONNECT": false,
	} {
		if got := mayRepeat(requestInCaddy(method, "/", nil), 401, 200, 401); got != want {
			t.Errorf("%s: %t", method, got)
		}
		if mayRepeat(requestInCaddy(method, "/", strings.NewReader("a body")), 401, 200, 401) {
			t.Errorf("%s with a body", method)
		}
	}
	changed := requestInCaddy("GET", "/", nil)
	x := &Attempts{request: changed, saved: saveRequest(changed, nil)}
	changed.Method = "POST"
	if x.MayRepeat(401) {
		t.Error("a handler changed the method")
	}
}
