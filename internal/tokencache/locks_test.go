package tokencache

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// lockWatch is a source that looks, each time it is called, whether a lock is held. So do the
// functions that are handed out and in.
type lockWatch struct {
	t       *testing.T
	entry   *Entry
	failure *endpoint.Error // what fetches come to; nil for a token

	mu     sync.Mutex
	called []string
}

// isFree reports whether the lock can be had. In a bubble all others have come to a halt when
// the time goes on, so a goroutine that has the lock then keeps it while it waits for something.
// One that is woken at the same moment can have it as well, but not again and again.
func isFree(lock *sync.Mutex) bool {
	for range 10 {
		time.Sleep(time.Nanosecond)
		if lock.TryLock() {
			lock.Unlock()
			return true
		}
	}
	return false
}

// call is a call of a function that must not find a lock held.
func (w *lockWatch) call(name string) {
	if !isFree(&w.entry.Grant.mu) {
		w.t.Errorf("%s is called with the grant's lock held", name)
	}
	if !isFree(&w.entry.table.mu) {
		w.t.Errorf("%s is called with the table's lock held", name)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.called = append(w.called, name)
}

func (w *lockWatch) Limit() time.Duration {
	w.call("Limit")
	return time.Minute
}

func (w *lockWatch) ChangedSince(context.Context, *endpoint.Error) bool {
	w.call("ChangedSince")
	return false
}

func (w *lockWatch) HasNewer(context.Context, *Token) bool {
	w.call("HasNewer")
	return false
}

func (w *lockWatch) Trace(ctx, _ context.Context) (context.Context, func(Outcome)) {
	w.call("Trace")
	return ctx, func(Outcome) { w.call("end of Trace") }
}

func (w *lockWatch) Fetch(_ context.Context, task Task) Fetched {
	w.call("Fetch")
	task.Begin()
	time.Sleep(time.Second)
	return Fetched{
		Granted: Offer{Granted: endpoint.Granted{Value: time.Now().String(), Sent: time.Now(), Lifetime: time.Minute}},
		Failure: w.failure,
		After:   func() { w.call("After") },
	}
}

func (w *lockWatch) Report(Outcome)       { w.call("Report") }
func (w *lockWatch) Waited(time.Duration) { w.call("Waited") }

// callAll calls what calls a source.
func (w *lockWatch) callAll(ctx context.Context) {
	g := &w.entry.Grant
	_, _ = g.Get(ctx, w)
	if t := g.Current(); t != nil {
		time.Sleep(forcedSpacing)
		_, _ = g.RenewRejected(ctx, rejection(t), w)
		time.Sleep(forcedSpacingMax)
		g.RenewRejectedInBackground(ctx, rejection(t), w)
		time.Sleep(2 * time.Second)
		g.RenewAhead(ctx, g.Current(), w)
	}
	_, _ = g.Refresh(ctx, w)
	time.Sleep(time.Minute)
	g.Prepare(ctx, w)
	k := NewKeeper()
	k.Begin(g, RefreshAhead{}, w)
	time.Sleep(time.Minute)
	k.Stop()
	time.Sleep(2 * time.Second) // a fetch of the keeper's goes on
}

func TestNoLockIsHeldWhileSomeoneElsesCodeRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(1)
		w := &lockWatch{t: t}
		w.entry = table.Acquire(tableKey(1), nil)
		w.callAll(t.Context())
		w.failure = &endpoint.Error{Class: endpoint.ClassServerError}
		w.callAll(t.Context())
		table.Acquire(tableKey(2), func() []string {
			w.call("shown")
			return nil
		}).Release()
		_ = table.Destruct()
		w.entry.Release()

		slices.Sort(w.called)
		want := []string{"After", "ChangedSince", "Fetch", "HasNewer", "Limit", "Report", "Trace", "Waited", "end of Trace", "shown"}
		if got := slices.Compact(w.called); !slices.Equal(got, want) {
			t.Errorf("called were %q, want %q", got, want)
		}
	})
}

// A grant's lock is taken before its table's. So who has the table's never waits for that of
// a grant: this test would not end.
func TestTableDoesNotWaitForAGrantsLock(t *testing.T) {
	table := NewTable(1)
	e := table.Acquire(tableKey(1), nil)
	storeToken(&e.Grant, "token-1")
	e.Grant.mu.Lock()
	table.Acquire(tableKey(1), nil).Release()
	useTable(table, false, 2, 3) // more than there is room for
	e.Release()
	table.All()

	var destruct sync.WaitGroup
	destruct.Go(func() { _ = table.Destruct() }) // waits for the grant's lock, but without the table's
	for released := false; !released; runtime.Gosched() {
		table.mu.Lock()
		released = table.released
		table.mu.Unlock()
	}
	useTable(table, true, 4)
	e.Grant.mu.Unlock()
	destruct.Wait()
}
