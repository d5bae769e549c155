package oauthcc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// tableKey is the key of a tenant by number.
func tableKey(n int) grantKey { return newGrantKey([]string{fmt.Sprint(n)}) }

// storeToken gives a grant a token as a fetch does.
func storeToken(g *cachedGrant, value string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.store(grantedToken{value: value, sent: time.Now(), lifetime: time.Hour})
}

// useTable has each of the tenants use the table once, the first first, and leaves those
// with a token.
func useTable(table *grantTable, withToken bool, tenants ...int) {
	for _, n := range tenants {
		e := table.acquire(tableKey(n), nil, nil)
		if withToken {
			storeToken(&e.cachedGrant, fmt.Sprintf("token-%d", n))
		}
		e.release()
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
func heldTenants(table *grantTable, upTo int) []int {
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
func wantConsistent(t *testing.T, table *grantTable) {
	t.Helper()
	table.mu.Lock()
	defer table.mu.Unlock()
	idle := 0
	for key, e := range table.entries {
		if e.key != key || e.table != table {
			t.Error("an entry under another's key")
		}
		if (e.uses == 0) != (e.place != nil) {
			t.Errorf("%d uses, and in a list: %t", e.uses, e.place != nil)
		}
		if e.place != nil {
			idle++
		}
	}
	if n := table.idle.Len() + table.vain.Len(); n != idle {
		t.Errorf("%d entries in the lists, want %d", n, idle)
	}
}

func TestTableDropsWhatWasNotUsedForLongest(t *testing.T) {
	table := newGrantTable(4)
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
	table := newGrantTable(3)
	first, again := table.acquire(tableKey(1), nil, nil), table.acquire(tableKey(1), nil, nil)
	if first != again {
		t.Fatal("two entries for one key")
	}
	storeToken(&first.cachedGrant, "token-1")
	useTable(table, true, numbers(2, 20)...)
	if got := heldTenants(table, 20); !slices.Contains(got, 1) {
		t.Errorf("it holds %v", got)
	}
	first.release()
	useTable(table, true, numbers(2, 20)...)
	if got := heldTenants(table, 20); !slices.Contains(got, 1) {
		t.Errorf("after one of two uses it holds %v", got)
	}
	again.release()
	useTable(table, true, 21, 22, 23)
	if got := heldTenants(table, 23); !slices.Equal(got, []int{21, 22, 23}) {
		t.Errorf("after the last use it holds %v", got)
	}
	wantConsistent(t, table)
}

// A table of one or a few has no eighth to spare.
func TestSmallTable(t *testing.T) {
	for limit := 1; limit <= 7; limit++ {
		table := newGrantTable(limit)
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
	table := newGrantTable(limit)
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
	table := newGrantTable(limit)
	useTable(table, true, numbers(1, limit)...)
	var flood []*tableEntry
	for n := range 1000 {
		flood = append(flood, table.acquire(tableKey(1001+n), nil, nil))
	}
	useTable(table, true, limit) // a tenant that goes on meanwhile
	if got := heldTenants(table, limit); !slices.Equal(got, numbers(eighth+1, limit)) {
		t.Errorf("during the flood it holds %d tokens: %v", len(got), got)
	}
	wantConsistent(t, table)
	for _, e := range flood {
		e.release()
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
	table := newGrantTable(limit)
	var inUse [tenants + 1]struct {
		sync.Mutex
		entry *tableEntry
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
				e := table.acquire(tableKey(n), nil, nil)
				if slot.uses > 0 && slot.entry != e {
					t.Errorf("tenant %d: another entry while one is in use", n)
				}
				slot.entry = e
				slot.uses++
				slot.Unlock()
				if n%2 == 0 {
					storeToken(&e.cachedGrant, fmt.Sprint("token-", n))
				}
				e.keep()
				runtime.Gosched()
				e.release()
				slot.Lock()
				slot.uses--
				e.release()
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
		if e := table.entries[tableKey(n)]; e != nil && e.current.Load() != nil && e.current.Load().value != fmt.Sprint("token-", n) {
			t.Errorf("tenant %d has %s", n, e.current.Load().value)
		}
	}
}

// tenantEndpoint is a token endpoint in memory. It knows tenants by their scope and grants
// of-<tenant>-1, of-<tenant>-2, …
type tenantEndpoint struct {
	mu     sync.Mutex
	takes  time.Duration
	answer func(tenant string) http.RoundTripper // nil, or nil for the tenant: it grants

	asked, flying           map[string]int
	total, most, mostForOne int // requests at a time
}

func (e *tenantEndpoint) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	tenant := form.Get("scope")
	e.mu.Lock()
	if e.asked == nil {
		e.asked, e.flying = make(map[string]int), make(map[string]int)
	}
	e.asked[tenant]++
	e.flying[tenant]++
	e.total++
	e.most, e.mostForOne = max(e.most, e.total), max(e.mostForOne, e.flying[tenant])
	value, takes := fmt.Sprintf("of-%s-%d", tenant, e.asked[tenant]), e.takes
	var answer http.RoundTripper
	if e.answer != nil {
		answer = e.answer(tenant)
	}
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.flying[tenant]--
		e.total--
		e.mu.Unlock()
	}()
	select {
	case <-time.After(takes):
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	if answer != nil {
		return answer.RoundTrip(req)
	}
	return cannedAnswer{body: fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, value)}.RoundTrip(req)
}

// becomes sets how long an answer takes, and what it is.
func (e *tenantEndpoint) becomes(takes time.Duration, answer func(tenant string) http.RoundTripper) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.takes, e.answer = takes, answer
}

// count is the number of token requests for tenants whose name begins so.
func (e *tenantEndpoint) count(prefix string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	count := 0
	for tenant, n := range e.asked {
		if strings.HasPrefix(tenant, prefix) {
			count += n
		}
	}
	return count
}

// refusesInvented refuses all tenants that are not known.
func refusesInvented(tenant string) http.RoundTripper {
	if strings.HasPrefix(tenant, "invented-") {
		return cannedAnswer{status: 400, body: `{"error":"invalid_scope"}`}
	}
	return nil
}

const tenantPlaceholder = "http.request.header.X-Tenant"

// newTenantGateway has a grant for each tenant, in the bubble of the test.
func newTenantGateway(t *testing.T, h *Handler) (*virtualGateway, *tenantEndpoint) {
	t.Helper()
	h.Scopes = []string{"{" + tenantPlaceholder + "}"}
	g, endpoint := newVirtualGateway(t, h), new(tenantEndpoint)
	g.client.transport = endpoint
	return g, endpoint
}

// as sends a request of a tenant's. The token is that with which the API was asked last.
func (g *virtualGateway) as(ctx context.Context, tenant string, body io.Reader) virtualAnswer {
	r := requestInCaddy(http.MethodPost, "/", body)
	r = r.WithContext(contextOf(ctx, r))
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	repl.Set(tenantPlaceholder, tenant)
	w, start, a := httptest.NewRecorder(), time.Now(), virtualAnswer{}
	err := g.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		_, _ = io.Copy(io.Discard, r.Body)
		a.token = bearer(r)
		g.mu.Lock()
		accepted := g.accepted
		g.mu.Unlock()
		if accepted != nil && !accepted(a.token) {
			rejectToken(w)
			return nil
		}
		w.WriteHeader(http.StatusOK)
		return nil
	}))
	a.status, a.waited = w.Code, time.Since(start)
	if failure, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
		a.status = failure.StatusCode
	}
	a.from, _ = repl.GetString(statusPlaceholder)
	a.cause, _ = repl.GetString(errorPlaceholder)
	a.retryAfter, _ = strconv.Atoi(w.Header().Get("Retry-After"))
	return a
}

// contextOf is a context that ends with ctx and has the values of the request's.
func contextOf(ctx context.Context, r *http.Request) context.Context {
	for _, key := range []any{caddy.ReplacerCtxKey, caddyhttp.VarsCtxKey, caddy.CtxKey("route_group")} {
		ctx = context.WithValue(ctx, key, r.Context().Value(key)) //nolint:fatcontext // three values
	}
	return ctx
}

func (g *virtualGateway) wantTenantServed(tenant, token string) {
	g.t.Helper()
	if a := g.as(g.t.Context(), tenant, nil); a.status != 200 || a.token != token {
		g.t.Errorf("%s got %+v, want %s", tenant, a, token)
	}
}

// The endpoint sees a flood of invented tenants as 64 requests at a time, one for each, and
// a tenant with a token sees nothing of it.
func TestFloodOfInventedTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, flood, takes, rounds = 1000, 10000, 110 * time.Millisecond, 91
		g, endpoint := newTenantGateway(t, &Handler{MaxTokens: limit})
		endpoint.becomes(takes, refusesInvented)
		g.wantTenantServed("known", "of-known-1")
		before := runtime.NumGoroutine()
		start := time.Now()
		var wait sync.WaitGroup
		var mu sync.Mutex
		statuses := make(map[int]int)
		for n := range flood {
			for range 1 + n%2 { // some come twice
				wait.Go(func() {
					a := g.as(t.Context(), fmt.Sprintf("invented-%d", n), nil)
					mu.Lock()
					defer mu.Unlock()
					statuses[a.status]++
					if a.waited > defaultTimeout {
						t.Errorf("a client waited for %s", a.waited)
					}
				})
			}
		}
		for time.Since(start) < defaultTimeout {
			if a := g.as(t.Context(), "known", nil); a.status != 200 || a.token != "of-known-1" || a.from != statusFresh || a.waited != 0 {
				t.Errorf("during the flood the tenant got %+v", a)
			}
			time.Sleep(50 * time.Millisecond)
		}
		wait.Wait()
		synctest.Wait()
		if endpoint.most != maxFetches || endpoint.mostForOne != 1 {
			t.Errorf("%d requests at a time, %d for one tenant", endpoint.most, endpoint.mostForOne)
		}
		// As many as there is time for, and a few that get their turn in the very moment in
		// which the time of all ends. None after that.
		asked := endpoint.count("invented-")
		if asked < maxFetches*rounds || asked > maxFetches*rounds*11/10 {
			t.Errorf("%d token requests, want %d", asked, maxFetches*rounds)
		}
		time.Sleep(time.Minute)
		if n := endpoint.count("invented-") - asked; n != 0 {
			t.Errorf("%d token requests that nobody waits for", n)
		}
		if statuses[502]+statuses[504] != flood*3/2 || statuses[502] < maxFetches*(rounds-1) || statuses[504] == 0 {
			t.Errorf("the answers were %v", statuses)
		}
		if after := runtime.NumGoroutine(); after > before {
			t.Errorf("%d goroutines, %d before", after, before)
		}
		if n := len(g.table.entries); n > limit {
			t.Errorf("%d entries are left", n)
		}
		if len(g.fetching) != 0 {
			t.Errorf("%d fetches are still counted", len(g.fetching))
		}
		wantConsistent(t, g.table)
		g.wantTenantServed("known", "of-known-1")
	})
}

// Clients leave when they want, and what only they waited for is not sent.
func TestQueuedFetchIsDroppedWithItsClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, endpoint := newTenantGateway(t, new(Handler))
		endpoint.becomes(3*time.Second, nil)
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		var wait sync.WaitGroup
		for n := range 500 {
			wait.Go(func() {
				a := g.as(ctx, fmt.Sprintf("leaving-%d", n), nil)
				if a.status != http.StatusGatewayTimeout || a.waited != time.Second {
					t.Errorf("a client that leaves got %+v", a)
				}
			})
		}
		synctest.Wait()
		wait.Go(func() { // stays, of several who wait for the same
			if a := g.as(t.Context(), "leaving-400", nil); a.status != 200 || a.token != "of-leaving-400-1" {
				t.Errorf("the client that stays got %+v", a)
			}
		})
		wait.Wait()
		synctest.Wait()
		if n := endpoint.count("leaving-"); n != maxFetches+1 && n != maxFetches {
			t.Errorf("%d token requests, want %d", n, maxFetches+1)
		}
		// One who left is not held against the tenant.
		g.wantTenantServed("leaving-450", "of-leaving-450-1")
		for _, entry := range g.logs.All() {
			if entry.Message != "token obtained" {
				t.Errorf("logged %v", entry)
			}
		}
	})
}

// A queue that does not move stalls a tenant once, as an endpoint that hangs does.
func TestFullQueueStallsATenantOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, endpoint := newTenantGateway(t, new(Handler))
		for range maxFetches {
			g.fetching <- struct{}{}
		}
		first := g.as(t.Context(), "known", nil)
		if first.status != http.StatusGatewayTimeout || first.waited != defaultTimeout || first.cause != "timeout" {
			t.Errorf("first it got %+v", first)
		}
		for range 300 {
			if a := g.as(t.Context(), "known", nil); a.status != http.StatusServiceUnavailable || a.waited > outagePatience || a.retryAfter == 0 {
				t.Errorf("then it got %+v", a)
			}
			time.Sleep(100 * time.Millisecond)
		}
		told := g.logs.FilterMessage("no token obtained").FilterField(zap.String("detail", "64 other token requests of this handler were in progress all the time")).All()
		if len(told) < 2 {
			t.Errorf("the log tells %d times of the queue", len(told))
		}
		for range maxFetches {
			<-g.fetching
		}
		time.Sleep(15 * time.Second) // until the longest pause is over
		if n := endpoint.count("known"); n > 1 {
			t.Errorf("%d token requests", n)
		}
		g.wantTenantServed("known", "of-known-1")
	})
}

// A renewal in the background is wanted although nobody waits for it, or not any more.
func TestBackgroundRenewalStaysInTheQueue(t *testing.T) {
	for name, renew := range map[string]func(g *virtualGateway){
		"rejected, and can't be replayed": func(g *virtualGateway) {
			g.accepts(func(token string) bool { return token != "of-known-1" }, nil)
			if a := g.as(g.t.Context(), "known", strings.NewReader("too long to be kept")); a.status != 401 || a.waited != 0 {
				g.t.Errorf("got %+v", a)
			}
		},
		"ahead": func(g *virtualGateway) {
			g.wantTenantServed("known", "of-known-1")
		},
		"ahead, and one waits for a while": func(g *virtualGateway) {
			g.wantTenantServed("known", "of-known-1")
			g.accepts(func(token string) bool { return token != "of-known-1" }, nil)
			ctx, leave := context.WithTimeout(g.t.Context(), time.Second)
			defer leave()
			if a := g.as(ctx, "known", nil); a.status != 504 || a.waited != time.Second {
				g.t.Errorf("got %+v", a)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, endpoint := newTenantGateway(t, &Handler{ReplayBuffer: &ReplayBuffer{PerRequest: 4}, RefreshAhead: "30m"})
				g.wantTenantServed("known", "of-known-1")
				time.Sleep(50 * time.Minute)
				endpoint.becomes(3*time.Second, nil)
				var others sync.WaitGroup
				for n := range maxFetches {
					others.Go(func() { g.wantTenantServed(fmt.Sprintf("other-%d", n), fmt.Sprintf("of-other-%d-1", n)) })
				}
				synctest.Wait()
				renew(g)
				others.Wait()
				time.Sleep(4 * time.Second)
				if n := endpoint.count("known"); n != 2 {
					t.Errorf("%d token requests, want 2", n)
				}
				g.wantTenantServed("known", "of-known-2")
			})
		})
	}
}

// Nor does one leave it that is not waited for any longer because the last one failed.
func TestFetchStaysInTheQueueDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, endpoint := newTenantGateway(t, new(Handler))
		endpoint.becomes(0, func(string) http.RoundTripper { return cannedStatus(400) })
		if a := g.as(t.Context(), "known", nil); a.status != 502 {
			t.Errorf("got %+v", a)
		}
		time.Sleep(20 * time.Second) // until the pause is over
		endpoint.becomes(3*time.Second, nil)
		var others sync.WaitGroup
		for n := range maxFetches {
			others.Go(func() { g.wantTenantServed(fmt.Sprintf("other-%d", n), fmt.Sprintf("of-other-%d-1", n)) })
		}
		synctest.Wait()
		if a := g.as(t.Context(), "known", nil); a.status != 502 || a.waited != outagePatience {
			t.Errorf("got %+v", a)
		}
		others.Wait()
		time.Sleep(4 * time.Second)
		if a := g.as(t.Context(), "known", nil); a.token != "of-known-2" || a.from != statusFresh {
			t.Errorf("got %+v", a)
		}
	})
}

// One whose value can't be sent does not keep others from noticing a replaced secret.
func TestUnfitValueHidesNoReplacedSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "secret")
		writeFile(t, file, "old")
		g, _ := newTenantGateway(t, &Handler{ClientSecret: "{file." + file + "}", RequestHeaders: map[string][]string{"X-Tenant": {"{" + tenantPlaceholder + "}"}}})
		endpoint := &lockedEndpoint{secret: "new"}
		g.client.transport = endpoint
		for _, tenant := range []string{"known", "unfit\n"} {
			if a := g.as(t.Context(), tenant, nil); a.status != 502 {
				t.Errorf("%q got %+v", tenant, a)
			}
		}
		writeFile(t, file, "new")
		if a := g.as(t.Context(), "unfit\n", nil); a.status != 502 {
			t.Errorf("got %+v", a)
		}
		if n := endpoint.count(); n != 1 {
			t.Errorf("%d token requests", n)
		}
		g.wantTenantServed("known", "of-new")
	})
}

// A configuration that ends takes its table along, but not the token requests that are
// waited for.
func TestReleasedTableServesWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, endpoint := newTenantGateway(t, &Handler{RefreshAhead: "30m"})
		g.wantTenantServed("known", "of-known-1")
		time.Sleep(50 * time.Minute)
		endpoint.becomes(time.Second, nil)
		g.as(t.Context(), "known", nil) // has it renewed in the background
		var wait sync.WaitGroup
		wait.Go(func() { g.wantTenantServed("waiting", "of-waiting-1") })
		synctest.Wait()
		if err := g.Cleanup(); err != nil {
			t.Error(err)
		}
		wait.Go(func() { g.wantTenantServed("late", "of-late-1") })
		wait.Wait()
		synctest.Wait()
		if got := g.table.entries; len(got) != 3 {
			t.Errorf("%d entries", len(got))
		}
		g.wantTenantServed("known", "of-known-1") // its renewal was of no use to anyone
		checkGrantUsers(t, g.key, 0)
	})
}

// Handlers share a table only if they mean the same limit.
func TestLimitIsTheHandlersOwn(t *testing.T) {
	tables := make(map[*grantTable]bool)
	for _, limit := range []int{0, 1, 2, 2, defaultMaxTokens} {
		h := handlerInMemory(t, &Handler{Scopes: []string{tenantHeader}, MaxTokens: limit})
		if want := cmp.Or(limit, defaultMaxTokens); h.table.limit != want {
			t.Errorf("the limit is %d, want %d", h.table.limit, want)
		}
		tables[h.table] = true
	}
	if len(tables) != 3 {
		t.Errorf("%d tables, want one for each limit", len(tables))
	}
}
