package oauthcc

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// onlooker is a handler around the gateway's that looks at the request when the answer comes by.
type onlooker struct {
	*httptest.ResponseRecorder

	r    *http.Request
	acts []string // what came by, with the token if the request had it then
}

func (o *onlooker) look(act string) { o.acts = append(o.acts, act+o.r.Header.Get("Authorization")) }

func (o *onlooker) WriteHeader(int) { o.look("status") }

func (o *onlooker) Write(data []byte) (int, error) {
	o.look("write")
	return len(data), nil
}

func (o *onlooker) ReadFrom(r io.Reader) (int64, error) {
	o.look("copy")
	return io.Copy(io.Discard, r)
}

func (o *onlooker) FlushError() error {
	o.look("flush")
	return nil
}

// Whatever an answer begins with, the token is off the request by then, and stays off unless the request can still be
// sent again.
func TestTokenIsGoneWhenTheAnswerBegins(t *testing.T) {
	for name, test := range map[string]struct {
		begin func(w http.ResponseWriter) error
		want  string
	}{
		"a status": {func(w http.ResponseWriter) error { w.WriteHeader(http.StatusOK); return nil }, "status"},
		"another protocol": {func(w http.ResponseWriter) error {
			w.WriteHeader(http.StatusSwitchingProtocols)
			return nil
		}, "status"},
		"a hint":  {func(w http.ResponseWriter) error { w.WriteHeader(http.StatusEarlyHints); return nil }, "status"},
		"a write": {func(w http.ResponseWriter) error { _, err := io.WriteString(w, "x"); return err }, "write"},
		"a copy": {func(w http.ResponseWriter) error {
			_, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("x"))
			return err
		}, "copy"},
		"a flush": {func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() }, "flush"},
	} {
		for way, retryStatus := range map[string][]int{"": nil, ", retry_status off": {}} {
			t.Run(name+way, func(t *testing.T) {
				h := handlerInMemory(t, &Handler{RetryStatus: retryStatus})
				r := requestInCaddy(http.MethodGet, "/", nil)
				w := &onlooker{httptest.NewRecorder(), r, nil}
				err := h.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
					if r.Header.Get("Authorization") == "" {
						t.Error("the request has no token")
					}
					err := test.begin(w)
					if isOn := r.Header.Get("Authorization") != ""; isOn != (name == "a hint") {
						t.Errorf("the token is on the request afterwards: %t", isOn)
					}
					return err
				}))
				if err != nil {
					t.Fatal(err)
				}
				want := test.want
				if way == "" && want != "status" {
					want = "status " + want // which is judged
				}
				if got := strings.Join(w.acts, " "); got != want {
					t.Errorf("what came by was %q, want %q", got, want)
				}
			})
		}
	}
}
