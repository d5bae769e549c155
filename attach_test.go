package oauthcc

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
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

// Caddy drops lookalikes from v2.11.5 on, and then oauth_cc does not look for any.
func TestLookalikesAreRemovedWhereCaddyDoesNotDropThem(t *testing.T) {
	if caddyDropsLookalikes() != gatewaytest.CaddySince(5) {
		t.Errorf("the handler takes it that Caddy drops lookalikes: %t", caddyDropsLookalikes())
	}
	for header, has := range map[string]bool{"X-Api-Token": !gatewaytest.CaddySince(5), "Authorization": false} {
		h := &Handler{TokenHeader: &TokenHeader{Name: header}}
		if err := h.provisionTokenHeader(); err != nil || h.carrier.hasLookalikes != has {
			t.Errorf("%s: it looks for lookalikes: %t, %v", header, h.carrier.hasLookalikes, err)
		}
	}
	for has, want := range map[bool]string{true: "map[X-Api:[stays] X_api:[stays]]", false: "map[X-Api:[stays] X.Api-token:[theirs] X_api:[stays] X_api_token:[theirs]]"} {
		c := carrier{header: "X-Api-Token", fields: []string{"X-Api-Token"}, hasLookalikes: has}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header = http.Header{"X-Api-Token": {"theirs"}, "X_api_token": {"theirs"}, "X.Api-token": {"theirs"}, "X-Api": {"stays"}, "X_api": {"stays"}}
		c.removeClientToken(r)
		if got := fmt.Sprint(r.Header); got != want {
			t.Errorf("%t: left is %s", has, got)
		}
	}
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
