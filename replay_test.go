package oauthcc

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/replay"
)

func isUntouched(budget *replay.Budget) bool { return budget.Used() == 0 }

// As soon as a response passes, its request won't be sent again.
func TestBodyIsNotKeptOnceTheResponsePasses(t *testing.T) {
	h := handlerInMemory(t, new(Handler))
	h.rejections.bodyBudget.Limit = 10_000
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return err
		}
		if isUntouched(h.rejections.bodyBudget) {
			t.Error("nothing was recorded")
		}
		w.WriteHeader(http.StatusOK)
		if !isUntouched(h.rejections.bodyBudget) {
			t.Error("the recording is kept")
		}
		return nil
	})
	r := requestInCaddy("POST", "/", strings.NewReader("0123456789"))
	if err := h.ServeHTTP(httptest.NewRecorder(), r, next); err != nil {
		t.Fatal(err)
	}
}

// Whatever becomes of a request, its share of the total is given back.
func TestBudgetIsGivenBackOnEveryWay(t *testing.T) {
	read := func(r *http.Request) { _, _ = io.CopyN(io.Discard, r.Body, 5000) }
	for name, test := range map[string]struct {
		next func(w http.ResponseWriter, r *http.Request, n int) error
		want int // attempts
	}{
		"answered": {func(w http.ResponseWriter, r *http.Request, _ int) error {
			read(r)
			w.WriteHeader(200)
			return nil
		}, 1},
		"not answered": {func(_ http.ResponseWriter, r *http.Request, _ int) error {
			read(r)
			return nil
		}, 1},
		"failed": {func(_ http.ResponseWriter, r *http.Request, _ int) error {
			read(r)
			return errors.New("failed")
		}, 1},
		"panicked": {func(_ http.ResponseWriter, r *http.Request, _ int) error {
			read(r)
			panic(http.ErrAbortHandler)
		}, 1},
		"replayed": {func(w http.ResponseWriter, r *http.Request, n int) error {
			read(r)
			w.WriteHeader([]int{0, 401, 200}[n])
			return nil
		}, 2},
		"rejected twice": {func(w http.ResponseWriter, r *http.Request, _ int) error {
			read(r)
			w.WriteHeader(401)
			return nil
		}, 2},
		"replay panicked": {func(w http.ResponseWriter, r *http.Request, n int) error {
			read(r)
			if n == 2 {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(401)
			return nil
		}, 2},
		"rejected with a panic": {func(w http.ResponseWriter, r *http.Request, n int) error {
			read(r)
			if n == 2 {
				return nil
			}
			w.WriteHeader(401)
			panic(http.ErrAbortHandler)
		}, 2},
		"outgrown": {func(w http.ResponseWriter, r *http.Request, _ int) error {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(401)
			return nil
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := handlerInMemory(t, &Handler{ReplayBuffer: &ReplayBuffer{PerRequest: 8000}})
			h.rejections.bodyBudget.Limit = 10_000
			attempts := 0
			func() {
				defer func() { _ = recover() }()
				r := requestInCaddy("POST", "/", strings.NewReader(strings.Repeat("x", 10_000)))
				_ = h.ServeHTTP(httptest.NewRecorder(), r, proxyInMemory(func(w http.ResponseWriter, r *http.Request) error {
					attempts++
					return test.next(w, r, attempts)
				}))
			}()
			if attempts != test.want {
				t.Errorf("%d attempts, want %d", attempts, test.want)
			}
			if !isUntouched(h.rejections.bodyBudget) {
				t.Error("the recording is kept")
			}
		})
	}
}
