package replay

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// attemptsOf runs a test with the request that the server made, and with a copy as some handlers make one.
// Placeholders look at the former.
func attemptsOf(t *testing.T, run func(t *testing.T, made, given *http.Request, repl *caddy.Replacer)) {
	type key struct{}
	for _, name := range []string{"made by the server", "a copy"} {
		t.Run(name, func(t *testing.T) {
			repl := caddy.NewReplacer()
			made := caddyhttp.PrepareRequest(httptest.NewRequest("GET", "/", nil), repl, nil, nil)
			given := made
			if name == "a copy" {
				given = made.WithContext(context.WithValue(made.Context(), key{}, "span"))
			}
			run(t, made, given, repl)
		})
	}
}

// send sends r until a response passes, which one with status 401 does not. The third attempt is the last.
func send(t *testing.T, w http.ResponseWriter, r *http.Request, next func(w http.ResponseWriter, r *http.Request, attempt int)) {
	t.Helper()
	var x Attempts
	x.Begin(w, r, &statusJudge{drop: 401})
	defer x.End()
	for attempt, dropped := 1, true; dropped; attempt++ {
		handler := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			next(w, r, attempt)
			return nil
		})
		var err error
		if attempt < 3 {
			dropped, err = x.Send(handler)
		} else {
			dropped, err = false, x.SendLast(handler)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// What a connection that is still being dialled reads is not written by the next attempt.
func TestAttemptsHaveVariablesOfTheirOwn(t *testing.T) {
	for _, last := range []int{1, 2, 3} {
		t.Run(fmt.Sprintf("%d attempts", last), func(t *testing.T) {
			attemptsOf(t, func(t *testing.T, made, given *http.Request, repl *caddy.Replacer) {
				caddyhttp.SetVar(made.Context(), "before", "set")
				held := make([]map[string]any, last+1) // by dials
				send(t, httptest.NewRecorder(), given, func(w http.ResponseWriter, r *http.Request, attempt int) {
					held[attempt] = variables(r.Context())
					caddyhttp.SetVar(r.Context(), "attempt", attempt)
					caddyhttp.SetVar(r.Context(), "list", []string{fmt.Sprint(attempt)})
					if delete(variables(r.Context()), "first"); attempt == 1 {
						caddyhttp.SetVar(r.Context(), "first", "here")
					}
					repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
					want := fmt.Sprintf("set %d [%d] %s", attempt, attempt, map[int]string{1: "here"}[attempt])
					if got := repl.ReplaceAll("{http.vars.before} {http.vars.attempt} ", "") + fmt.Sprint(caddyhttp.GetVar(r.Context(), "list")) +
						repl.ReplaceAll(" {http.vars.first}", ""); got != want {
						t.Errorf("placeholders of attempt %d: got %q, want %q", attempt, got, want)
					}
					w.WriteHeader(map[bool]int{true: 200, false: 401}[attempt == last])
				})
				for attempt, vars := range held[1:] {
					if got := vars["attempt"]; got != attempt+1 {
						t.Errorf("the variables of attempt %d were written by attempt %v", attempt+1, got)
					}
				}
				// Earlier handlers and the log see what the last attempt has left.
				vars := variables(made.Context())
				if _, first := vars["first"]; vars["attempt"] != last || vars["before"] != "set" || first != (last == 1) {
					t.Errorf("in the end: %v", vars)
				}
				if got := repl.ReplaceAll("{http.vars.before} {http.vars.attempt}", ""); got != fmt.Sprint("set ", last) {
					t.Errorf("placeholders in the end: %q", got)
				}
			})
		})
	}
}

// A request that fails after a dropped response goes on to an error route.
func TestVariablesAfterADroppedResponseAreOthers(t *testing.T) {
	attemptsOf(t, func(t *testing.T, made, given *http.Request, repl *caddy.Replacer) {
		var held map[string]any
		var x Attempts
		x.Begin(httptest.NewRecorder(), given, &statusJudge{drop: 401})
		if dropped, err := x.Send(caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			held = variables(r.Context())
			caddyhttp.SetVar(r.Context(), "by", "the attempt")
			w.WriteHeader(401)
			return nil
		})); !dropped || err != nil {
			t.Fatal(dropped, err)
		}
		x.End()
		if got := repl.ReplaceAll("{http.vars.by}", ""); got != "the attempt" {
			t.Errorf("got %q", got)
		}
		caddyhttp.SetVar(made.Context(), "by", "the error route")
		if got := repl.ReplaceAll("{http.vars.by}", ""); got != "the error route" || held["by"] != "the attempt" {
			t.Errorf("got %q; the attempt's is %q", got, held["by"])
		}
	})
}

// Caddy's header handler replaces placeholders in the moment in which the header is written.
func TestEarlierHandlersSeeVariablesWhenTheHeaderIsWritten(t *testing.T) {
	attemptsOf(t, func(t *testing.T, _, given *http.Request, repl *caddy.Replacer) {
		w := &onHeader{httptest.NewRecorder(), func() string { return repl.ReplaceAll("{http.vars.attempt}", "") }, ""}
		send(t, w, given, func(w http.ResponseWriter, r *http.Request, attempt int) {
			caddyhttp.SetVar(r.Context(), "attempt", attempt)
			w.WriteHeader(map[int]int{1: 401, 2: 200}[attempt])
		})
		if w.seen != "2" {
			t.Errorf("got %q", w.seen)
		}
	})
}

type onHeader struct {
	http.ResponseWriter
	look func() string
	seen string
}

func (w *onHeader) WriteHeader(status int) {
	w.seen = w.look()
	w.ResponseWriter.WriteHeader(status)
}

// Some placeholders keep what they have made up in a variable.
func TestPlaceholdersKeepTheirOwnVariables(t *testing.T) {
	attemptsOf(t, func(t *testing.T, _, given *http.Request, repl *caddy.Replacer) {
		id := func() string { return repl.ReplaceAll("{http.request.uuid}", "") }
		var first string
		send(t, httptest.NewRecorder(), given, func(w http.ResponseWriter, r *http.Request, attempt int) {
			caddyhttp.SetVar(r.Context(), fmt.Sprint("only in ", attempt), true)
			if attempt == 1 {
				first = id()
			} else {
				delete(variables(r.Context()), fmt.Sprint("only in ", attempt-1))
			}
			if r.Context().Value(caddy.ReplacerCtxKey) != repl || id() != first {
				t.Errorf("attempt %d has another id", attempt)
			}
			w.WriteHeader(map[int]int{1: 401, 2: 401, 3: 200}[attempt])
		})
		if id() != first {
			t.Error("it has another id in the end")
		}
	})
}

// A handler before, such as forward_auth, can have left a connection that is still being dialled.
func TestUnchangedVariablesAreNotWritten(t *testing.T) {
	attemptsOf(t, func(t *testing.T, made, given *http.Request, _ *caddy.Replacer) {
		vars := variables(made.Context())
		var dial sync.WaitGroup
		dial.Go(func() { _ = vars["start_time"] }) // the race detector compares it with all that follows
		send(t, httptest.NewRecorder(), given, func(w http.ResponseWriter, r *http.Request, attempt int) {
			_ = r.Context().Value(caddy.ReplacerCtxKey)
			w.WriteHeader(map[int]int{1: 401, 2: 200}[attempt])
		})
		dial.Wait()
	})
}

// A late dial can still replace placeholders, as those of tls_server_name.
func TestEarlierAttemptsShowNothingMore(t *testing.T) {
	attemptsOf(t, func(t *testing.T, _, given *http.Request, repl *caddy.Replacer) {
		var late context.Context
		send(t, httptest.NewRecorder(), given, func(w http.ResponseWriter, r *http.Request, attempt int) {
			caddyhttp.SetVar(r.Context(), "attempt", attempt)
			if attempt == 1 {
				late = r.Context()
				w.WriteHeader(401)
				return
			}
			_ = late.Value(caddy.ReplacerCtxKey)
			_ = r.Context().Value(caddy.ReplacerCtxKey)
			_ = late.Value(caddy.ReplacerCtxKey)
			if got := repl.ReplaceAll("{http.vars.attempt}", ""); got != "2" {
				t.Errorf("got %q", got)
			}
		})
	})
}

// A dial can outlive the request whose last attempt it belongs to, and still replace placeholders.
func TestVariablesAreNotWrittenAfterTheRequest(t *testing.T) {
	attemptsOf(t, func(t *testing.T, made, given *http.Request, repl *caddy.Replacer) {
		caddyhttp.SetVar(made.Context(), "list", []string{"a"})
		var late context.Context
		var dial sync.WaitGroup
		defer dial.Wait()
		ended := make(chan struct{})
		send(t, httptest.NewRecorder(), given, func(w http.ResponseWriter, r *http.Request, _ int) {
			late = r.Context()
			dial.Go(func() {
				<-ended
				_ = late.Value(caddy.ReplacerCtxKey)
			})
			w.WriteHeader(200)
		})
		close(ended)
		caddyhttp.SetVar(made.Context(), "by", "the error route")
		caddyhttp.SetVar(given.Context(), "in", "a subroute's")
		if got := repl.ReplaceAll("{http.vars.by}, {http.vars.in}", ""); got != "the error route, a subroute's" {
			t.Errorf("got %q", got)
		}
	})
}
