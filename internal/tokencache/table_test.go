package tokencache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// tableKey is the key of a tenant by number.
func tableKey(n int) endpoint.GrantKey { return endpoint.NewGrantKey([]string{fmt.Sprint(n)}) }

// storeToken gives a grant a token as a fetch does.
func storeToken(g *Grant, value string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.storeLocked(Offer{Granted: endpoint.Granted{Value: value, Sent: time.Now(), Lifetime: time.Hour}}, false)
}

// useTable has each of the tenants use the table once, the first first, and leaves those
// with a token.
func useTable(table *Table, withToken bool, tenants ...int) {
	for _, n := range tenants {
		e := table.Acquire(tableKey(n), nil)
		if withToken {
			storeToken(&e.Grant, fmt.Sprintf("token-%d", n))
		}
		e.Release()
	}
}

func numbers(from, to int) []int {
	var list []int
	for n := from; n <= to; n++ {
		list = append(list, n)
	}
	return list
}

// heldTenants lists which of the tenants up to that number are in the table.
func heldTenants(table *Table, upTo int) []int {
	table.mu.Lock()
	defer table.mu.Unlock()
	var list []int
	for n := 1; n <= upTo; n++ {
		if table.entries[tableKey(n)] != nil {
			list = append(list, n)
		}
	}
	return list
}

// wantConsistent checks that each entry which nobody uses is in the list where it can be
// dropped, and no other is.
func wantConsistent(t *testing.T, table *Table) {
	t.Helper()
	table.mu.Lock()
	defer table.mu.Unlock()
	idle := 0
	for key, e := range table.entries {
		if e.key != key || e.table != table {
			t.Error("an entry under another's key")
		}
		if (e.users == 0) != (e.place != nil) {
			t.Errorf("%d uses, and in a list: %t", e.users, e.place != nil)
		}
		if e.place != nil {
			idle++
		}
	}
	if n := table.idle.Len() + table.tokenless.Len(); n != idle {
		t.Errorf("%d entries in the lists, want %d", n, idle)
	}
}

func TestTableDropsWhatWasNotUsedForLongest(t *testing.T) {
	table := NewTable(4)
	useTable(table, true, 1, 2, 3, 4)
	useTable(table, true, 1, 3) // so 2 was not used for longest, then 4
	for _, step := range []struct {
		next int
		want []int
	}{
		{5, []int{1, 3, 4, 5}},
		{6, []int{1, 3, 5, 6}},
		{7, []int{3, 5, 6, 7}},
		{5, []int{3, 5, 6, 7}},
		{8, []int{5, 6, 7, 8}},
		{9, []int{5, 7, 8, 9}},
	} {
		useTable(table, true, step.next)
		if got := heldTenants(table, 9); !slices.Equal(got, step.want) {
			t.Errorf("after %d it holds %v, want %v", step.next, got, step.want)
		}
		wantConsistent(t, table)
	}
}

func TestEntryInUseIsNotDropped(t *testing.T) {
	table := NewTable(3)
	first, again := table.Acquire(tableKey(1), nil), table.Acquire(tableKey(1), nil)
	if first != again {
		t.Fatal("two entries for one key")
	}
	storeToken(&first.Grant, "token-1")
	useTable(table, true, numbers(2, 20)...)
	if got := heldTenants(table, 20); !slices.Contains(got, 1) {
		t.Errorf("it holds %v", got)
	}
	first.Release()
	useTable(table, true, numbers(2, 20)...)
	if got := heldTenants(table, 20); !slices.Contains(got, 1) {
		t.Errorf("after one of two uses it holds %v", got)
	}
	again.Release()
	useTable(table, true, 21, 22, 23)
	if got := heldTenants(table, 23); !slices.Equal(got, []int{21, 22, 23}) {
		t.Errorf("after the last use it holds %v", got)
	}
	wantConsistent(t, table)
}

// A table of one or a few has no eighth to spare.
func TestSmallTable(t *testing.T) {
	for limit := 1; limit <= 7; limit++ {
		table := NewTable(limit)
		useTable(table, true, numbers(1, limit)...)
		useTable(table, false, numbers(100, 200)...)
		if got := heldTenants(table, 200); !slices.Equal(got, numbers(1, limit)) {
			t.Errorf("of %d tokens %v are left", limit, got)
		}
		useTable(table, true, numbers(10, 20)...)
		if got := heldTenants(table, 20); !slices.Equal(got, numbers(21-limit, 20)) {
			t.Errorf("a table of %d holds %v", limit, got)
		}
		wantConsistent(t, table)
	}
}

func TestGrantsWithoutATokenDisplaceFew(t *testing.T) {
	const limit, eighth = 80, 10
	table := NewTable(limit)
	useTable(table, false, numbers(1001, 1050)...)
	if got := len(heldTenants(table, 1050)); got != 50 {
		t.Errorf("%d are remembered while there is room, want 50", got)
	}
	useTable(table, true, numbers(1, limit-eighth)...)
	if got := heldTenants(table, 1050); !slices.Equal(got, append(numbers(1, limit-eighth), numbers(1041, 1050)...)) {
		t.Errorf("full, it holds %v", got)
	}
	useTable(table, true, numbers(limit-eighth+1, limit)...)
	useTable(table, false, numbers(1001, 3000)...)
	want := append(numbers(eighth+1, limit), numbers(2991, 3000)...)
	if got := heldTenants(table, 3000); !slices.Equal(got, want) {
		t.Errorf("after the flood it holds %v", got)
	}
	wantConsistent(t, table)
}

// The flood comes at once, so that all of it is in use.
func TestRequestsInProgressDisplaceFewTokens(t *testing.T) {
	const limit, eighth = 80, 10
	table := NewTable(limit)
	useTable(table, true, numbers(1, limit)...)
	var flood []*Entry
	for n := range 1000 {
		flood = append(flood, table.Acquire(tableKey(1001+n), nil))
	}
	useTable(table, true, limit) // a tenant that goes on meanwhile
	if got := heldTenants(table, limit); !slices.Equal(got, numbers(eighth+1, limit)) {
		t.Errorf("during the flood it holds %d tokens: %v", len(got), got)
	}
	wantConsistent(t, table)
	for _, e := range flood {
		e.Release()
	}
	want := append(numbers(eighth+1, limit), numbers(1991, 2000)...)
	if got := heldTenants(table, 2000); !slices.Equal(got, want) {
		t.Errorf("after the flood it holds %v", got)
	}
	wantConsistent(t, table)
}

// Under the race detector: an entry is nobody else's as long as it is in use, and in the end
// there are no more than there may be.
func TestTableUnderConcurrentUse(t *testing.T) {
	const limit, tenants = 40, 200
	table := NewTable(limit)
	var inUse [tenants + 1]struct {
		sync.Mutex
		entry *Entry
		uses  int
	}
	var wait sync.WaitGroup
	for worker := range 8 {
		random := rand.New(rand.NewPCG(1, uint64(worker)))
		wait.Go(func() {
			for range 5000 {
				n := 1 + random.IntN(tenants)
				slot := &inUse[n]
				slot.Lock()
				e := table.Acquire(tableKey(n), nil)
				if slot.uses > 0 && slot.entry != e {
					t.Errorf("tenant %d: another entry while one is in use", n)
				}
				slot.entry = e
				slot.uses++
				slot.Unlock()
				if n%2 == 0 {
					storeToken(&e.Grant, fmt.Sprint("token-", n))
				}
				e.hold()
				runtime.Gosched()
				e.Release()
				slot.Lock()
				slot.uses--
				e.Release()
				slot.Unlock()
			}
		})
	}
	wait.Wait()
	wantConsistent(t, table)
	if n := len(heldTenants(table, tenants)); n != limit {
		t.Errorf("it holds %d, want %d", n, limit)
	}
	for n := 1; n <= tenants; n++ {
		if e := table.entries[tableKey(n)]; e != nil && e.current.Load() != nil && e.current.Load().Value != fmt.Sprint("token-", n) {
			t.Errorf("tenant %d has %s", n, e.current.Load().Value)
		}
	}
}

// queuedStub is a stub whose fetches wait for their turn.
type queuedStub struct {
	fetchStub
	turns chan struct{}
}

func (s *queuedStub) Fetch(ctx context.Context, task Task) Fetched {
	select {
	case s.turns <- struct{}{}:
	case <-ctx.Done():
		return Fetched{Failure: &endpoint.Error{Class: endpoint.ClassTimeout, Unsent: true}, Queued: true}
	}
	defer func() { <-s.turns }()
	task.Begin()
	return s.fetchStub.Fetch(ctx, task)
}

// Fetches use entries as requests do. However they end, and whoever waits for them, the table
// is in order when the flood is over.
func TestTableAfterAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, flood = 100, 1000
		table, s := NewTable(limit), &queuedStub{turns: make(chan struct{}, 8)}
		s.takes = 110 * time.Millisecond
		s.answer = func(_ context.Context, n int64) (endpoint.Granted, *endpoint.Error) {
			if n%3 == 0 {
				return endpoint.Granted{}, nil
			}
			return endpoint.Granted{}, &endpoint.Error{Class: endpoint.ClassRefused}
		}
		useTable(table, true, 1)
		var wait sync.WaitGroup
		for n := range flood {
			for client := range 1 + n%2 { // some come twice
				wait.Go(func() {
					ctx, leave := context.WithTimeout(t.Context(), time.Duration(1+n%7+10*client)*time.Second)
					defer leave()
					e := table.Acquire(tableKey(1000+n), nil)
					defer e.Release()
					_, _ = e.Get(ctx, s)
				})
			}
		}
		for range 200 {
			e := table.Acquire(tableKey(1), nil)
			if token := mustGetToken(t, &e.Grant, &s.fetchStub); token.Value != "token-1" {
				t.Errorf("during the flood the tenant got %q", token.Value)
			}
			e.Release()
			wantConsistent(t, table)
			time.Sleep(100 * time.Millisecond)
		}
		wait.Wait()
		synctest.Wait()
		wantConsistent(t, table)
		for _, e := range table.All() {
			if e.users != 0 || e.flight != nil {
				t.Errorf("an entry has %d uses, and a fetch: %t", e.users, e.flight != nil)
			}
		}
		if n := len(table.All()); n > limit {
			t.Errorf("%d entries are left", n)
		}
		if len(s.turns) != 0 {
			t.Errorf("%d fetches are still counted", len(s.turns))
		}
	})
}

// Of a request, this is the part for which the table's lock is held.
func BenchmarkTable_1000(b *testing.B)   { benchmarkTable(b, 1000) }
func BenchmarkTable_100000(b *testing.B) { benchmarkTable(b, 100000) }

// benchmarkTable measures requests of all tenants, in parallel.
func benchmarkTable(b *testing.B, tenants int) {
	table := NewTable(tenants)
	useTable(table, true, numbers(0, tenants-1)...)
	keys := make([]endpoint.GrantKey, tenants)
	for n := range keys {
		keys[n] = tableKey(n)
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for n := rand.IntN(tenants); pb.Next(); n = (n + 7919) % tenants {
			table.Acquire(keys[n], nil).Release()
		}
	})
}
