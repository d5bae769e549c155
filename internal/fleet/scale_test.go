package fleet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/storagetest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// scaleFleet is a fleet of gateways in virtual time, each with a cache and a clock of its own,
// which use the same grants. The endpoint and the storage are in memory; what decides when
// either is asked is what runs in production.
type scaleFleet struct {
	scalePlan
	endpoint *scaleEndpoint
	storage  *scaleStorage // nil without
	gateways []*scaleGateway
}

// scalePlan is how large a fleet is and how it is used.
type scalePlan struct {
	gateways, grants int
	skew             time.Duration // the most that a clock is wrong, either way
	pause            time.Duration // between two requests of a gateway with the same grant, on average
	ahead            tokencache.RefreshAhead
	shared           bool
}

// scaleFetches is how many fetches a handler has in progress at a time.
const scaleFetches = 64

func newScaleFleet(t *testing.T, plan scalePlan, endpoint *scaleEndpoint) *scaleFleet {
	f := &scaleFleet{scalePlan: plan, endpoint: endpoint}
	endpoint.began = time.Now()
	if plan.shared {
		f.storage = &scaleStorage{storagetest.NewMemory()}
	}
	for range plan.gateways {
		g := &scaleGateway{scaleFleet: f, fetching: make(chan struct{}, scaleFetches)}
		if plan.shared {
			wrong := time.Duration((2*rand.Float64() - 1) * float64(plan.skew))
			g.sharing = New(f.storage, defaultTimeout, plan.ahead, nil, zap.NewNop())
			g.sharing.now = func() time.Time { return time.Now().Add(wrong) }
		}
		g.restart()
		f.gateways = append(f.gateways, g)
	}
	t.Cleanup(func() {
		for _, g := range f.gateways {
			g.sharing.Stop()
		}
	})
	return f
}

// scaleGateway is one process. Its grants are those of one handler.
type scaleGateway struct {
	*scaleFleet
	sharing  *Sharing // nil without
	fetching chan struct{}
	grants   []*tokencache.Grant
}

// restart forgets all tokens, as a process that is started again does.
func (g *scaleGateway) restart() {
	g.grants = make([]*tokencache.Grant, g.scalePlan.grants)
	for i := range g.grants {
		g.grants[i] = tokencache.NewGrant()
	}
}

// scaleSource is the way to the tokens of one grant of a gateway.
type scaleSource struct {
	quietSource
	*scaleGateway
	n int // of the grant
}

// Fetch implements tokencache.Source as a handler does whose grants differ from request to
// request, but for what goes over the network.
func (s scaleSource) Fetch(ctx context.Context, task tokencache.Task) tokencache.Fetched {
	ctx, cancel := context.WithTimeout(ctx, s.Limit())
	defer cancel()
	select {
	case s.fetching <- struct{}{}:
		defer func() { <-s.fetching }()
	case <-ctx.Done():
		return tokencache.Fetched{Failure: &endpoint.Error{Class: endpoint.ClassTimeout, Unsent: true}}
	}
	task.Begin()
	ask := func(ctx context.Context) tokencache.Fetched { return s.endpoint.grant(ctx, s.n) }
	if s.sharing == nil {
		return ask(ctx)
	}
	request := endpoint.Request{
		Endpoint: "https://login.example.com/token", ClientID: "gateway", ClientSecret: "s3cret-canary",
		AuthMethod: endpoint.AuthSecretBasic, Scopes: []string{strconv.Itoa(s.n)},
	}
	return s.sharing.Fetch(ctx, task, &request, ask)
}

// Limit implements tokencache.Source.
func (s scaleSource) Limit() time.Duration { return defaultTimeout }

// scaleEndpoint grants tokens in memory and knows which of them live.
type scaleEndpoint struct {
	lifetime time.Duration

	mu    sync.Mutex
	began time.Time
	asked []time.Duration // since then
	takes time.Duration   // an answer, give or take a half
	count int

	revoked atomic.Int64 // tokens from before then, in ns since 1970
}

func (e *scaleEndpoint) grant(ctx context.Context, grant int) tokencache.Fetched {
	sent := time.Now()
	e.mu.Lock()
	e.asked = append(e.asked, sent.Sub(e.began))
	e.count++
	value, takes := fmt.Sprintf("%d-%d-%d", grant, e.count, sent.UnixNano()), time.Duration((0.5+rand.Float64())*float64(e.takes))
	e.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return tokencache.Fetched{Failure: &endpoint.Error{Class: endpoint.ClassTimeout}}
	}
	return tokencache.Fetched{Granted: tokencache.Offer{Granted: endpoint.Granted{Value: value, Sent: sent, Lifetime: e.lifetime}}}
}

// grantedAt is when a token was granted, which its value says.
func grantedAt(value string) time.Time {
	ns, _ := strconv.ParseInt(value[strings.LastIndexByte(value, '-')+1:], 10, 64)
	return time.Unix(0, ns)
}

// becomes sets how long an answer takes from now on.
func (e *scaleEndpoint) becomes(takes time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.takes = takes
}

// revokeAll ends all tokens.
func (e *scaleEndpoint) revokeAll() { e.revoked.Store(time.Now().UnixNano()) }

func (e *scaleEndpoint) isRevoked(value string) bool {
	return grantedAt(value).UnixNano() < e.revoked.Load()
}

// scaleStorage is a storage whose operations take their time.
type scaleStorage struct{ *storagetest.Memory }

// empty has nothing stored.
func (s *scaleStorage) empty() {
	if s != nil {
		s.Clear()
	}
}

func (s *scaleStorage) pause(ctx context.Context) {
	select {
	case <-time.After(2*time.Millisecond + rand.N(8*time.Millisecond)):
	case <-ctx.Done():
	}
}

func (s *scaleStorage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	s.pause(ctx)
	return s.Memory.Stat(ctx, key)
}

func (s *scaleStorage) Load(ctx context.Context, key string) ([]byte, error) {
	s.pause(ctx)
	return s.Memory.Load(ctx, key)
}

func (s *scaleStorage) Store(ctx context.Context, key string, value []byte) error {
	s.pause(ctx)
	return s.Memory.Store(ctx, key, value)
}

func (s *scaleStorage) Lock(ctx context.Context, name string) error {
	s.pause(ctx)
	return s.Memory.Lock(ctx, name)
}

func (s *scaleStorage) Unlock(ctx context.Context, name string) error {
	s.pause(ctx)
	return s.Memory.Unlock(ctx, name)
}

// scaleFigures are what one part of a fleet's life came to.
type scaleFigures struct {
	requests int // that were followed; those that find a fresh token are not, as nothing can become of them
	failed   int
	expired  int           // that were sent with a token that the endpoint counts as expired
	margin   time.Duration // before a token's end by the endpoint's clock at which a gateway lets go of it, the shortest
	rejected int           // for the first time, and sent again
	waits    []time.Duration
	asked    []time.Duration // when the endpoint was, since the part began
	loads    int             // looks for a token: each asks for its size, and loads it if there is one
	stores   int
	locks    int
}

func (f *scaleFigures) add(other scaleFigures) {
	f.requests += other.requests
	f.failed += other.failed
	f.expired += other.expired
	f.rejected += other.rejected
	f.margin = min(f.margin, other.margin)
	f.waits = append(f.waits, other.waits...)
}

// peak is the most token requests in a second.
func (f *scaleFigures) peak() int {
	slices.Sort(f.asked)
	most, from := 0, 0
	for i, at := range f.asked {
		for f.asked[from] <= at-time.Second {
			from++
		}
		most = max(most, i-from+1)
	}
	return most
}

// waited is how long the given share of the requests that had to wait did so at the most.
func (f *scaleFigures) waited(share float64) time.Duration {
	if len(f.waits) == 0 {
		return 0
	}
	slices.Sort(f.waits)
	return f.waits[int(share*float64(len(f.waits)-1))].Round(time.Millisecond)
}

// live has requests come for a while, with each grant of each gateway: the first at a moment
// of its own within the time given, the others as they come.
func (f *scaleFleet) live(within, lasts time.Duration) *scaleFigures {
	total, began := &scaleFigures{margin: f.endpoint.lifetime}, time.Now()
	var mu sync.Mutex
	var wait sync.WaitGroup
	f.endpoint.mu.Lock()
	f.endpoint.asked, f.endpoint.began = nil, began
	f.endpoint.mu.Unlock()
	calls := func(operation string) int {
		if f.storage == nil {
			return 0
		}
		return f.storage.Count(operation)
	}
	loads, stores, locks := calls("stat"), calls("store"), calls("lock")
	for _, g := range f.gateways {
		for n := range g.grants {
			wait.Go(func() {
				figures := scaleSource{scaleGateway: g, n: n}.live(rand.N(within+1), began.Add(lasts))
				mu.Lock()
				defer mu.Unlock()
				total.add(figures)
			})
		}
	}
	wait.Wait()
	time.Sleep(time.Until(began.Add(lasts)))
	f.endpoint.mu.Lock()
	defer f.endpoint.mu.Unlock()
	total.asked = slices.Clone(f.endpoint.asked)
	total.loads, total.stores, total.locks = calls("stat")-loads, calls("store")-stores, calls("lock")-locks
	return total
}

// live sends the requests of one grant. Between two moments in which something can happen it
// sends none: it would be served from the cache.
func (s scaleSource) live(first time.Duration, end time.Time) scaleFigures {
	figures := scaleFigures{margin: s.endpoint.lifetime}
	for time.Sleep(first); !time.Now().After(end); {
		s.request(&figures)
		next := time.Now()
		if t := s.grants[s.n].Current(); t.Timely(next) {
			if stale := s.ahead.StaleFrom(t).Wall; stale.After(next) {
				next = stale
			}
		}
		next = next.Add(time.Duration(rand.ExpFloat64() * float64(s.pause)))
		if next.After(end) {
			break
		}
		time.Sleep(time.Until(next))
	}
	return figures
}

// request does what a handler does with a request and with the upstream's answer to it.
func (s scaleSource) request(figures *scaleFigures) {
	began := time.Now()
	figures.requests++
	t, _, err := serve(s.grants[s.n], s, s.ahead, func(token string) bool {
		revoked := s.endpoint.isRevoked(token)
		if revoked {
			figures.rejected++
		}
		return !revoked
	})
	if errors.Is(err, errRejected) {
		figures.failed++
		return
	}
	if waited := time.Since(began); waited > 0 {
		figures.waits = append(figures.waits, waited)
	}
	if err != nil {
		figures.failed++
		return
	}
	end := grantedAt(t.Value).Add(s.endpoint.lifetime)
	if !time.Now().Before(end) {
		figures.expired++
	}
	figures.margin = min(figures.margin, end.Sub(tokencache.RefreshAhead{Off: true}.StaleFrom(t).Wall))
}

// restart has all gateways forget their tokens.
func (f *scaleFleet) restart() {
	for _, g := range f.gateways {
		g.restart()
	}
}

// scalePart is a part of a fleet's life.
type scalePart struct {
	name   string
	rounds int // in which each grant needs a token, if each gateway asks for itself
	live   func(f *scaleFleet) *scaleFigures
	wants  func(f *scaleFleet, t *testing.T, x *scaleFigures)
}

const (
	scaleLifetime = time.Hour
	scaleAnswer   = 150 * time.Millisecond
	scaleSlow     = 3 * time.Second
)

var scaleParts = []scalePart{
	{"all start at once", 1, func(f *scaleFleet) *scaleFigures {
		return f.live(0, time.Minute)
	}, (*scaleFleet).wantsStorm},

	{"two lifetimes", 2, func(f *scaleFleet) *scaleFigures {
		return f.live(time.Minute, 2*scaleLifetime)
	}, (*scaleFleet).wantsRenewals},

	{"all tokens revoked at once", 1, func(f *scaleFleet) *scaleFigures {
		f.endpoint.revokeAll()
		return f.live(0, time.Minute)
	}, (*scaleFleet).wantsStorm},

	{"all tokens lapsed, all requests at once", 1, func(f *scaleFleet) *scaleFigures {
		time.Sleep(scaleLifetime)
		return f.live(0, time.Minute)
	}, (*scaleFleet).wantsStorm},

	{"all restart within a minute", 1, func(f *scaleFleet) *scaleFigures {
		f.restart()
		return f.live(time.Minute, 2*time.Minute)
	}, (*scaleFleet).wantsRestart},

	{"all start within a minute", 1, func(f *scaleFleet) *scaleFigures {
		f.restart()
		f.storage.empty()
		return f.live(time.Minute, 2*time.Minute)
	}, (*scaleFleet).wantsStart},

	{"lapsed again, the endpoint takes 3 s", 1, func(f *scaleFleet) *scaleFigures {
		time.Sleep(scaleLifetime)
		f.endpoint.becomes(scaleSlow)
		defer f.endpoint.becomes(scaleAnswer)
		return f.live(0, time.Minute)
	}, (*scaleFleet).wantsSlow},
}

// perGrant is how many token requests there were for each grant.
func (f *scaleFleet) perGrant(x *scaleFigures) float64 {
	return float64(len(x.asked)) / float64(f.scalePlan.grants)
}

// wantsAsked checks how often the endpoint was asked, if each gateway may do so that often or,
// with a storage, all together: fewer times by clocks that agree than by others.
func (f *scaleFleet) wantsAsked(t *testing.T, x *scaleFigures, alone, together, skewed float64) {
	t.Helper()
	most := alone * float64(len(f.gateways))
	switch {
	case f.storage != nil && f.skew > tokencache.ExpiryMargin/2:
		most = skewed
	case f.storage != nil:
		most = together
	}
	if asked := f.perGrant(x); asked > most {
		t.Errorf("%.2f token requests for each grant, want %.2f at the most", asked, most)
	}
}

// wantsSpread checks that of the gateways and grants together not more than a share asks the
// endpoint in a second.
func (f *scaleFleet) wantsSpread(t *testing.T, x *scaleFigures, share float64) {
	t.Helper()
	if most := share * float64(len(f.gateways)*f.scalePlan.grants); f.storage == nil && float64(x.peak()) > most {
		t.Errorf("%d token requests in a second, want %.0f at the most", x.peak(), most)
	}
}

// wantsWaited checks how long a request waited at the most. Gateways whose clocks are wrong
// refuse each other's tokens, so their waits time out.
func (f *scaleFleet) wantsWaited(t *testing.T, x *scaleFigures, most time.Duration) {
	t.Helper()
	if f.storage != nil && f.skew > tokencache.ExpiryMargin/2 {
		most = defaultTimeout
	}
	if waited := x.waited(1); waited > most {
		t.Errorf("a request waited %v, want %v at the most", waited, most)
	}
}

func (f *scaleFleet) wantsStorm(t *testing.T, x *scaleFigures) {
	f.wantsAsked(t, x, 1, 1.05, 6)
	f.wantsWaited(t, x, sharingPatience)
}

func (f *scaleFleet) wantsRenewals(t *testing.T, x *scaleFigures) {
	f.wantsAsked(t, x, 2, 2*1.05, 2*2)
	f.wantsSpread(t, x, 1./20)
	if len(x.waits) > 0 {
		t.Errorf("%d requests waited although tokens are renewed ahead of their expiry", len(x.waits))
	}
}

func (f *scaleFleet) wantsRestart(t *testing.T, x *scaleFigures) {
	f.wantsAsked(t, x, 1, 0, 1)
	f.wantsSpread(t, x, 1./10)
	f.wantsWaited(t, x, sharingPatience)
}

func (f *scaleFleet) wantsStart(t *testing.T, x *scaleFigures) {
	f.wantsStorm(t, x)
	f.wantsSpread(t, x, 1./10)
}

func (f *scaleFleet) wantsSlow(t *testing.T, x *scaleFigures) {
	f.wantsAsked(t, x, 1, 1.2, float64(len(f.gateways)))
	f.wantsWaited(t, x, defaultTimeout)
}

// wantsServed checks what holds at any time: all requests are served, and with tokens that
// live. The margin covers clocks that differ by less.
func (f *scaleFleet) wantsServed(t *testing.T, x *scaleFigures) {
	t.Helper()
	if x.failed > 0 || x.expired > 0 || x.requests < len(f.gateways)*f.scalePlan.grants {
		t.Errorf("of %d requests %d failed, %d had a token that was expired", x.requests, x.failed, x.expired)
	}
	if least := tokencache.ExpiryMargin - 2*f.skew - time.Second; x.margin < least {
		t.Errorf("a gateway lets go of a token %v before it expires, want %v at least", x.margin, least)
	}
}

// scaleColumns are those of the tables behind the name of the part.
const scaleColumns = "token requests | per grant | most in 1 s | waited: requests | half | 99 % | longest " +
	"| failed | expired | margin | loads | stores | locks |"

// row is a row of the table.
func (f *scaleFleet) row(name string, x *scaleFigures) string {
	return fmt.Sprintf("| %s | %d | %.2f | %d | %d | %v | %v | %v | %d | %d | %v | %d | %d | %d |",
		name, len(x.asked), f.perGrant(x), x.peak(), len(x.waits), x.waited(0.5), x.waited(0.99), x.waited(1),
		x.failed, x.expired, x.margin.Round(100*time.Millisecond), x.loads, x.stores, x.locks)
}

// scaleTable is the table as the document has it.
func scaleTable(title string, rows []string) string {
	head := "| " + title + " | " + scaleColumns
	line := "|" + strings.Repeat("---|", strings.Count(head, "|")-1)
	return strings.Join(append([]string{head, line}, rows...), "\n")
}

var longScenarios = flag.Bool("long", false, "have the fleets as large as docs/scale.md has them")

// TestScenarioScale is a fleet's life, in virtual time.
func TestScenarioScale(t *testing.T) {
	document := readScaleDocument(t)
	command := "go test -run " + t.Name() + " -v -timeout 30m ./internal/fleet -long"
	if !strings.Contains(document, "\n"+command+"\n") {
		t.Errorf("docs/scale.md does not have the command: %s", command)
	}
	full := scalePlan{gateways: 50, grants: 10, pause: 10 * time.Second}
	part := full
	if *longScenarios {
		full.gateways, full.grants = 1000, 100
		part.gateways, part.grants = 250, 25
	}
	shared, skewed := full, part
	shared.shared, shared.skew = true, 2*time.Second
	skewed.shared, skewed.skew = true, 30*time.Second
	for _, fleet := range []struct {
		title string
		plan  scalePlan
	}{
		{"without storage", full},
		{"with storage, clocks within ±2 s", shared},
		{"with storage, clocks within ±30 s", skewed},
	} {
		t.Run(fleet.title, func(t *testing.T) {
			var rows []string
			began := time.Now()
			synctest.Test(t, func(t *testing.T) {
				f := newScaleFleet(t, fleet.plan, &scaleEndpoint{lifetime: scaleLifetime, takes: scaleAnswer})
				for _, part := range scaleParts {
					t.Log(part.name)
					x := part.live(f)
					part.wants(f, t, x)
					f.wantsServed(t, x)
					rows = append(rows, f.row(part.name, x))
				}
				time.Sleep(time.Minute) // cancelled operations end
			})
			table := scaleTable(fleet.title, rows)
			t.Logf("%d gateways, %d grants; the run took %v\n%s",
				fleet.plan.gateways, fleet.plan.grants, time.Since(began).Round(100*time.Millisecond), table)
			wantsDocumented(t, document, table)
		})
	}
}

// wantsDocumented checks that the document has a table with the same head and rows, and does
// not report what would fail here.
func wantsDocumented(t *testing.T, document, table string) {
	t.Helper()
	printed := strings.Split(table, "\n")
	_, rest, found := strings.Cut(document, "\n"+printed[0]+"\n")
	if !found {
		t.Fatalf("docs/scale.md does not have the head: %s", printed[0])
	}
	documented := strings.Split(rest, "\n")
	for i, row := range printed[2:] {
		name, _, _ := strings.Cut(row, " | ")
		cells := strings.Split(documented[i+1], " | ")
		if cells[0] != name || len(cells) != strings.Count(scaleColumns, "|")+1 || cells[8] != "0" || cells[9] != "0" {
			t.Errorf("docs/scale.md has in the place of %q: %s", name, documented[i+1])
		}
	}
	if documented[len(printed)-1] != "" {
		t.Errorf("docs/scale.md has one more row: %s", documented[len(printed)-1])
	}
}

func readScaleDocument(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/scale.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// grantingSource grants one token.
type grantingSource struct {
	quietSource
	granted endpoint.Granted
}

func (s grantingSource) Fetch(context.Context, tokencache.Task) tokencache.Fetched {
	return tokencache.Fetched{Granted: tokencache.Offer{Granted: s.granted}}
}

func (grantingSource) Limit() time.Duration { return 0 }

// TestScenarioScaleOfToken tells what a token takes, beside its own length.
func TestScenarioScaleOfToken(t *testing.T) {
	const count = 10000
	heap := func() float64 {
		var stats runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&stats)
		return float64(stats.HeapAlloc)
	}
	value := strings.Repeat("x", 40)
	granted := endpoint.Granted{Sent: time.Now(), Lifetime: time.Hour}
	before, table := heap(), tokencache.NewTable(count)
	for n := range count {
		entry := table.Acquire(endpoint.NewGrantKey([]string{strconv.Itoa(n)}), func() []string { return []string{strconv.Itoa(n)} })
		granted.Value = strings.Clone(value)
		if _, err := entry.Get(t.Context(), grantingSource{granted: granted}); err != nil {
			t.Fatal(err)
		}
		entry.Release()
	}
	each := (heap()-before)/count - float64(len(value))
	runtime.KeepAlive(table)

	granted.Value = value
	key, err := newRecordKey([]byte("s3cret-canary"), endpoint.GrantKey{})
	if err != nil {
		t.Fatal(err)
	}
	record, err := key.seal(newRecord(tokencache.Offer{Granted: granted}, time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a token in memory takes %.0f bytes and its own length, in the storage %d bytes and its own length", each, len(record)-len(value))
	if each > 2000 || len(record)-len(value) > 300 {
		t.Error("docs/scale.md says less")
	}
}
