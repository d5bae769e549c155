package oauthcc

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

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
	return servertest.Answer{Body: fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, value)}.RoundTrip(req)
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
		return servertest.Answer{Status: 400, Body: `{"error":"invalid_scope"}`}
	}
	return nil
}

const tenantPlaceholder = "http.request.header.X-Tenant"

// newTenantGateway has a grant for each tenant, in the bubble of the test.
func newTenantGateway(t *testing.T, h *Handler) (*virtualGateway, *tenantEndpoint) {
	t.Helper()
	h.Scopes = []string{"{" + tenantPlaceholder + "}"}
	g, endpoint := newVirtualGateway(t, h), new(tenantEndpoint)
	g.tokens.client.Transport = endpoint
	return g, endpoint
}

// as sends a request of a tenant's. The token is that with which the API was asked last.
func (g *virtualGateway) as(ctx context.Context, tenant string, body io.Reader) virtualAnswer {
	r := requestInCaddy(http.MethodPost, "/", body)
	r = r.WithContext(contextOf(ctx, r))
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	repl.Set(tenantPlaceholder, tenant)
	w, start, a := httptest.NewRecorder(), time.Now(), virtualAnswer{}
	err := g.ServeHTTP(w, r, proxyInMemory(func(w http.ResponseWriter, r *http.Request) error {
		_, _ = io.Copy(io.Discard, r.Body)
		a.token = gatewaytest.Bearer(r)
		g.mu.Lock()
		accepted := g.accepted
		g.mu.Unlock()
		if accepted != nil && !accepted(a.token) {
			gatewaytest.RejectToken(w)
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

// wantConsistent wants each token in the table once, and by its own key.
func wantConsistent(t *testing.T, table *tokencache.Table) {
	t.Helper()
	seen := make(map[endpoint.GrantKey]bool)
	for _, e := range table.All() {
		if seen[e.Key()] {
			t.Error("a key is there twice")
		}
		seen[e.Key()] = true
		if same := table.Acquire(e.Key(), nil); same != e {
			t.Error("an entry is not found by its key")
		}
		e.Release()
	}
	if n := len(table.All()); n != len(seen) {
		t.Errorf("%d entries, and then %d", len(seen), n)
	}
}

func (g *virtualGateway) wantTenantServed(tenant, token string) {
	g.t.Helper()
	if a := g.as(g.t.Context(), tenant, nil); a.status != 200 || a.token != token {
		g.t.Errorf("%s got %+v, want %s", tenant, a, token)
	}
}

// goroutinesInBubble counts the goroutines of virtual time. The runtime has others, which come and go.
func goroutinesInBubble() int {
	stacks := make([]byte, 16<<20)
	return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("synctest bubble"))
}

// The endpoint sees a flood of invented tenants as 64 requests at a time, one for each, and
// a tenant with a token sees nothing of it.
func TestFloodOfInventedTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, flood, takes, rounds = 1000, 10000, 110 * time.Millisecond, 91
		g, endpoint := newTenantGateway(t, &Handler{MaxTokens: limit})
		endpoint.becomes(takes, refusesInvented)
		g.wantTenantServed("known", "of-known-1")
		before := goroutinesInBubble()
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
		if after := goroutinesInBubble(); after > before {
			t.Errorf("%d goroutines, %d before", after, before)
		}
		if n := len(g.tokens.table.All()); n > limit {
			t.Errorf("%d entries are left", n)
		}
		if len(g.tokens.slots) != 0 {
			t.Errorf("%d fetches are still counted", len(g.tokens.slots))
		}
		wantConsistent(t, g.tokens.table)
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
			g.tokens.slots <- struct{}{}
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
			<-g.tokens.slots
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
		endpoint.becomes(0, func(string) http.RoundTripper { return servertest.Status(400) })
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
		servertest.WriteFile(t, file, "old")
		g, _ := newTenantGateway(t, &Handler{ClientSecret: "{file." + file + "}", RequestHeaders: map[string][]string{"X-Tenant": {"{" + tenantPlaceholder + "}"}}})
		endpoint := &lockedEndpoint{secret: "new"}
		g.tokens.client.Transport = endpoint
		for _, tenant := range []string{"known", "unfit\n"} {
			if a := g.as(t.Context(), tenant, nil); a.status != 502 {
				t.Errorf("%q got %+v", tenant, a)
			}
		}
		servertest.WriteFile(t, file, "new")
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
		if got := g.tokens.table.All(); len(got) != 3 {
			t.Errorf("%d entries", len(got))
		}
		g.wantTenantServed("known", "of-known-1") // its renewal was of no use to anyone
		checkGrantUsers(t, g.tokens.key, 0)
	})
}

// Handlers share a table only if they mean the same limit.
func TestLimitIsTheHandlersOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tables := make(map[*tokencache.Table]bool)
		for _, limit := range []int{0, 1, 2, 2, defaultMaxTokens} {
			h := handlerInMemory(t, &Handler{Scopes: []string{tenantHeader}, MaxTokens: limit})
			want := cmp.Or(limit, defaultMaxTokens)
			source := grantingSource{endpoint.Granted{Value: "any", Sent: time.Now(), Lifetime: time.Hour}, nil}
			for n := range want + 1 {
				entry := h.tokens.table.Acquire(endpoint.NewGrantKey([]string{fmt.Sprint(n)}), nil)
				if _, err := entry.Get(t.Context(), source); err != nil {
					t.Fatal(err)
				}
				entry.Release()
			}
			synctest.Wait() // a fetch keeps its grant until it has ended
			if held := len(h.tokens.table.All()); held != want {
				t.Errorf("%d tokens are held, want %d", held, want)
			}
			tables[h.tokens.table] = true
		}
		if len(tables) != 3 {
			t.Errorf("%d tables, want one for each limit", len(tables))
		}
	})
}

// What a client sends does not stay in the memory, nor in the log, at any length.
func TestLongValuesAreNotKept(t *testing.T) {
	long := strings.Repeat("\u0080", 7<<9)
	h := handlerInMemory(t, &Handler{Resource: []string{"{http.request.header.X-Tenant}"}})
	for _, value := range []string{long, long + long} {
		r := requestInCaddy("GET", "/", nil)
		r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("http.request.header.X-Tenant", value)
		var failure caddyhttp.HandlerError
		if err := h.ServeHTTP(httptest.NewRecorder(), r, trivialNext); !errors.As(err, &failure) || failure.StatusCode != http.StatusBadGateway {
			t.Fatalf("got %v", err)
		}
	}
	if len(h.tokens.table.All()) != 1 {
		t.Errorf("%d grants are kept, want that of the value which is not too long", len(h.tokens.table.All()))
	}
	for _, entry := range h.tokens.table.All() {
		if n := len(entry.Snapshot().History.LastFailure.Detail); n == 0 || n > 2<<10 {
			t.Errorf("%d bytes are kept of the reason", n)
		}
	}
}
