package replay

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// What a transport waits for is made when it asks, and ends with the attempt or with the client.
func TestAttemptIsCutOff(t *testing.T) {
	type key struct{}
	for name, end := range map[string]func(a *attempt, leave func()){
		"cut off":         func(a *attempt, _ func()) { a.cutOff() },
		"cut off twice":   func(a *attempt, _ func()) { a.cutOff(); a.cutOff() },
		"the client left": func(_ *attempt, leave func()) { leave() },
	} {
		for _, asked := range []string{"before", "after", "never"} {
			t.Run(name+", asked "+asked, func(t *testing.T) {
				client, leave := context.WithCancel(context.WithValue(t.Context(), key{}, "a value"))
				defer leave()
				a := &attempt{Context: client}
				var child context.Context
				derive := func() { // as a proxy and its transport do
					var cancel context.CancelCauseFunc
					child, cancel = context.WithCancelCause(context.WithValue(a, "a key of the proxy's", 1)) //nolint:revive,staticcheck // any key
					t.Cleanup(func() { cancel(nil) })
				}
				goroutines := runtime.NumGoroutine()
				if asked == "before" {
					derive()
					if child.Err() != nil || child.Value(key{}) != "a value" {
						t.Errorf("got %v, %v", child.Err(), child.Value(key{}))
					}
				}
				if a.Err() != nil {
					t.Errorf("it has ended: %v", a.Err())
				}
				end(a, leave)
				if asked == "after" {
					derive()
				}
				if child != nil {
					<-child.Done()
					if child.Err() != context.Canceled {
						t.Errorf("got %v", child.Err())
					}
				}
				if a.Err() != context.Canceled {
					t.Errorf("it has not ended: %v", a.Err())
				}
				// The runtime has goroutines of its own, which come and go.
				for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > goroutines; runtime.Gosched() {
					if time.Now().After(deadline) {
						t.Fatalf("%d goroutines wait for it", runtime.NumGoroutine()-goroutines)
					}
				}
			})
		}
	}
}

func TestAttemptHasTheClientsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, leave := context.WithTimeout(t.Context(), time.Minute)
		defer leave()
		a := &attempt{Context: client}
		if deadline, ok := a.Deadline(); !ok || time.Until(deadline) != time.Minute {
			t.Errorf("it ends at %v", deadline)
		}
		<-a.Done()
		if a.Err() != context.DeadlineExceeded {
			t.Errorf("got %v", a.Err())
		}
	})
}

func TestAttemptThatNobodyWaitsForCostsNothing(t *testing.T) {
	client, leave := context.WithCancel(t.Context())
	defer leave()
	a := new(attempt)
	if n := testing.AllocsPerRun(100, func() {
		*a = attempt{Context: client}
		_ = a.Value(statusOfProxy)
		_ = a.Err()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A handler can make a POST of a GET. Nothing was noted then, and others may still want to know what was answered.
func TestAttemptThatNotesNothingChangesNothing(t *testing.T) {
	repl := caddy.NewReplacer()
	repl.Set(statusOfProxy, 401)
	a := &attempt{Context: context.WithValue(t.Context(), caddy.ReplacerCtxKey, repl)}
	if a.haveAll(401) {
		t.Error("it has answers")
	}
	if status, _ := repl.Get(statusOfProxy); status != 401 {
		t.Errorf("the placeholder is %v", status)
	}
}
