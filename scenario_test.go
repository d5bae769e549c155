package oauthcc

import (
	goflag "flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Scenarios are what happens to a gateway in a bad week, for real: a running Caddy, real
// servers, real time. Each logs a line of figures, and these are what it is judged by.
var longScenarios = goflag.Bool("long", false, "let the scenarios take as long as they do in a bad week")

// lasting is a duration for every run of the tests, and another for the flag.
func lasting(short, long time.Duration) time.Duration {
	if *longScenarios {
		return long
	}
	return short
}

// scenario is one site of a gateway, its token endpoint and the load on it.
type scenario struct {
	*gateway
	endpoint *tokenServer
	upstream *api
	site     string

	mu      sync.Mutex
	answers []scenarioAnswer
}

type scenarioAnswer struct {
	path       string
	status     int
	from       string // {http.oauth_cc.status}
	retryAfter string
	sent       time.Time
	waited     time.Duration
}

func newScenario(t *testing.T, options ...string) *scenario {
	t.Helper()
	s := &scenario{endpoint: startTokenServer(t), upstream: startAPI(t)}
	s.site = "header >X-Token {http.oauth_cc.status}\n" + s.endpoint.options(options...) + s.upstream.proxy()
	return s
}

// runScenarios starts one gateway for all.
func runScenarios(t *testing.T, scenarios ...*scenario) {
	t.Helper()
	first := startGateway(t, "")
	var sites strings.Builder
	for _, s := range scenarios {
		s.gateway = &gateway{t: t, addr: freeAddr(t), logs: first.logs}
		fmt.Fprintf(&sites, "http://%s {\n%s\n}\n", s.addr, s.site)
	}
	if err := loadCaddyfileWith(globalOptions{logging: littleLog}, sites.String()); err != nil {
		t.Fatal(err)
	}
}

// fetches lists the handler's log entries about this scenario's endpoint.
func (s *scenario) fetches(message string) []map[string]any {
	return slices.DeleteFunc(s.logs.with(message), func(entry map[string]any) bool {
		return entry["endpoint"] != s.endpoint.URL+"/token"
	})
}

func (s *scenario) failures() []map[string]any {
	return append(s.fetches("token not renewed; the one at hand is used on"), s.fetches("no token obtained")...)
}

// load has clients send requests, each with a pause between them, until stop is called,
// which waits for the last answers.
func (s *scenario) load(clients int, pause time.Duration, request func(n int) *http.Request) (stop func()) {
	transport := &http.Transport{MaxIdleConnsPerHost: clients, DisableCompression: true}
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	done := make(chan struct{})
	var wait sync.WaitGroup
	var count atomic.Int64
	for range clients {
		wait.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(pause/2 + rand.N(pause+1)):
				}
				s.exchange(client, request(int(count.Add(1))))
			}
		})
	}
	return sync.OnceFunc(func() {
		close(done)
		wait.Wait()
		transport.CloseIdleConnections()
	})
}

func (s *scenario) exchange(client *http.Client, req *http.Request) {
	a := scenarioAnswer{path: req.URL.Path, sent: time.Now()}
	res, err := client.Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		a.status, a.from, a.retryAfter = res.StatusCode, res.Header.Get("X-Token"), res.Header.Get("Retry-After")
	}
	if err != nil {
		a.status = 0
		s.t.Errorf("no answer: %v", err)
	}
	a.waited = time.Since(a.sent)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, a)
}

func (s *scenario) gets(path string) func(int) *http.Request {
	return func(int) *http.Request {
		req, _ := http.NewRequest(http.MethodGet, s.url(path), nil)
		return req
	}
}

// all returns the answers so far.
func (s *scenario) all() []scenarioAnswer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.answers)
}

// tally counts the answers.
func tally(answers []scenarioAnswer, by func(scenarioAnswer) string) map[string]int {
	counts := make(map[string]int)
	for _, a := range answers {
		counts[by(a)]++
	}
	return counts
}

func byStatus(a scenarioAnswer) string { return fmt.Sprint(a.status) }

// counts writes a tally as figures.
func counts(tally map[string]int) string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(tally)) {
		list = append(list, fmt.Sprintf("%d × %s", tally[key], key))
	}
	return strings.Join(list, ", ")
}

// onlyStatus wants at least so many answers, all with that status.
func onlyStatus(t *testing.T, answers []scenarioAnswer, status, least int) {
	t.Helper()
	if got := tally(answers, byStatus); len(got) != 1 || got[fmt.Sprint(status)] < least {
		t.Errorf("answers: %s; want none but %d", counts(got), status)
	}
}

// pass lets real time go by.
func pass(d time.Duration) { <-time.After(d) }

// stalls watches for the machine standing still. It returns the longest time that it
// did, in which no program can keep a promise.
func stalls() (longest func() time.Duration) {
	var most atomic.Int64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		for last := time.Now(); ; {
			select {
			case <-ticker.C:
				now := time.Now()
				most.Store(max(most.Load(), int64(now.Sub(last))))
				last = now
			case <-done:
				return
			}
		}
	}()
	return sync.OnceValue(func() time.Duration {
		close(done)
		<-ended
		return time.Duration(most.Load())
	})
}

// schedule checks that failed fetches were as far apart as a table says, in seconds, and
// as the log announced.
func schedule(t *testing.T, failures []map[string]any, seconds ...float64) {
	t.Helper()
	slices.SortFunc(failures, func(a, b map[string]any) int { return int(a["ts"].(float64)*1e3 - b["ts"].(float64)*1e3) })
	for i, failure := range failures {
		if i == 0 {
			continue
		}
		before := failures[i-1]
		pause := failure["ts"].(float64) - failure["duration"].(float64) - before["ts"].(float64)
		announced, want := before["next_try"].(float64), seconds[min(i, len(seconds))-1]
		if announced < 0.8*want-0.01 || announced > 1.2*want || pause < announced-0.01 {
			t.Errorf("fetch %d came %.2f s after the one before, of which the log said %.2f s; want about %v s", i+1, pause, announced, want)
		}
	}
}

func TestScenarioExpiryStorm(t *testing.T) {
	s := newScenario(t)
	s.endpoint.lifetime, s.endpoint.takes = 2, 300*time.Millisecond
	runScenarios(t, s)
	if a := s.get("/"); a.status != 200 {
		t.Fatalf("got %d", a.status)
	}
	const clients = 200
	lasts, stalled := lasting(8*time.Second, 20*time.Second), stalls()
	stop := s.load(clients, 150*time.Millisecond, s.gets("/"))
	pass(lasts)
	stop()
	answers, stall := s.all(), stalled()
	fetched := tally(answers, func(a scenarioAnswer) string { return a.from })[statusFetched]
	t.Logf("expiry storm: %d clients, %v: answers %s; %d requests waited; %d token requests, %d at a time; the machine stalled for %v at the most",
		clients, lasts, counts(tally(answers, byStatus)), fetched, s.endpoint.count(), s.endpoint.mostFlying, stall)
	onlyStatus(t, answers, 200, 1000)
	if most := int(lasts/(1200*time.Millisecond)) + 2; s.endpoint.count() > most {
		t.Errorf("%d token requests, want %d at the most", s.endpoint.count(), most)
	}
	if s.endpoint.mostFlying != 1 {
		t.Errorf("%d token requests at a time", s.endpoint.mostFlying)
	}
	// There are 100 ms between a token that comes in time and the end of the one before.
	if fetched > 0 && stall < 50*time.Millisecond {
		t.Errorf("%d requests waited for a token", fetched)
	}
}

func TestScenarioRevocationUnderLoad(t *testing.T) {
	s := newScenario(t)
	runScenarios(t, s)
	body := strings.Repeat("0123456789abcdef", 4<<10)
	stop := s.load(40, 20*time.Millisecond, func(n int) *http.Request {
		if n%2 == 0 {
			return s.gets("/")(n)
		}
		req, _ := http.NewRequest(http.MethodPost, s.url("/"), strings.NewReader(body[:n%len(body)]))
		return req
	})
	lasts := lasting(time.Second, 5*time.Second)
	pass(lasts)
	s.upstream.revoke("token-1")
	pass(lasts)
	stop()
	answers := s.all()
	replayed := tally(answers, func(a scenarioAnswer) string { return a.from })[statusReplayed]
	t.Logf("revocation under load: answers %s; %d rejections, %d replays, %d token requests",
		counts(tally(answers, byStatus)), s.upstream.rejected, replayed, s.endpoint.count())
	onlyStatus(t, answers, 200, 100)
	if s.endpoint.count() != 2 || replayed == 0 || replayed != s.upstream.rejected {
		t.Errorf("%d token requests, %d rejections, %d replays", s.endpoint.count(), s.upstream.rejected, replayed)
	}
}

func TestScenarioOutagePastExpiry(t *testing.T) {
	s := newScenario(t)
	s.endpoint.lifetime = 1
	runScenarios(t, s)
	if a := s.get("/"); a.status != 200 {
		t.Fatalf("got %d", a.status)
	}
	address := s.endpoint.Listener.Addr().String()
	s.endpoint.Listener.Close() // connections are refused from now on
	pass(time.Second)
	began, lasts := time.Now(), lasting(6*time.Second, 25*time.Second)
	stop := s.load(20, 0, s.gets("/"))
	pass(lasts)
	stop()
	answers, failures := s.all(), s.fetches("no token obtained")
	rate := float64(len(answers)) / time.Since(began).Seconds()

	// The endpoint is back, and who was told when to come again does so.
	told := answers[len(answers)-1].retryAfter
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = http.Serve(listener, s.endpoint) }()
	defer listener.Close()
	wait, err := time.ParseDuration(told + "s")
	if err != nil {
		t.Fatalf("the last answer had Retry-After %q", told)
	}
	pass(wait)
	after := s.get("/")
	t.Logf("outage past expiry: %v at %.0f requests/s: answers %s; %d fetches; %d after Retry-After: %s",
		lasts, rate, counts(tally(answers, byStatus)), len(failures), after.status, told)
	onlyStatus(t, answers, 503, 1000)
	schedule(t, failures, 1, 2, 4, 8, 10)
	if len(failures) < 2 || len(failures) > 2+int(lasts/(4*time.Second)) {
		t.Errorf("%d fetches", len(failures))
	}
	if after.status != 200 {
		t.Errorf("after Retry-After: %s got %d", told, after.status)
	}
}

// Scenarios that mostly wait do so at the same time, in one gateway.
func TestScenarios(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	writeFile(t, secret, "s3cret-canary")
	outage := func(name string, down func(s *scenario)) (string, *scenario, func(*testing.T, *scenario)) {
		s := newScenario(t, "timeout 2s", "refresh_ahead 90%")
		s.endpoint.lifetime = int(lasting(20*time.Second, 120*time.Second).Seconds())
		return "outage with a valid token, " + name, s, func(t *testing.T, s *scenario) {
			pauses := []float64{5, 10, 20, 40, 60}
			if name == "429" {
				pauses[0] = 7 / 1.1 // as Retry-After says, where that is longer
			}
			scenarioOutage(t, s, down, pauses)
		}
	}
	hangs := func(s *scenario) {
		s.endpoint.setAnswer(func(_ http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() })
	}
	var names []string
	var scenarios []*scenario
	var runs []func(*testing.T, *scenario)
	add := func(name string, s *scenario, run func(*testing.T, *scenario)) {
		names, scenarios, runs = append(names, name), append(scenarios, s), append(runs, run)
	}
	add(outage("refused", func(s *scenario) { s.endpoint.Listener.Close() }))
	add(outage("hang", hangs))
	add(outage("503", func(s *scenario) {
		s.endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(503) })
	}))
	add(outage("429", func(s *scenario) {
		s.endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(429)
		})
	}))
	hanging := newScenario(t, "timeout 2s")
	hanging.endpoint.lifetime = 3
	add("endpoint that hangs", hanging, func(t *testing.T, s *scenario) { scenarioHang(t, s, hangs) })

	wrong := newScenario(t)
	wrong.site = strings.Replace(wrong.site, "client_secret s3cret-canary", "client_secret {file."+secret+"}", 1)
	add("wrong secret", wrong, func(t *testing.T, s *scenario) { scenarioWrongSecret(t, s, secret) })

	add("mixed upstream", newScenario(t), scenarioMixed)

	runScenarios(t, scenarios...)
	var wait sync.WaitGroup
	defer wait.Wait()
	for i, s := range scenarios {
		wait.Go(func() {
			t.Run(names[i], func(t *testing.T) {
				s.t = t
				runs[i](t, s)
			})
		})
	}
}

func scenarioOutage(t *testing.T, s *scenario, down func(*scenario), pauses []float64) {
	lifetime := time.Duration(s.endpoint.lifetime) * time.Second
	if a := s.get("/"); a.status != 200 {
		t.Fatalf("got %d", a.status)
	}
	down(s)
	stop := s.load(5, 50*time.Millisecond, s.gets("/"))
	pass(lifetime * 8 / 10) // it is served for nine tenths
	stop()
	answers, failures := s.all(), s.failures()
	t.Logf("%s: %v: answers %s; %d fetches", t.Name(), lifetime*8/10, counts(tally(answers, byStatus)), len(failures))
	onlyStatus(t, answers, 200, 100)
	if waited := tally(answers, func(a scenarioAnswer) string { return a.from })[statusFetched]; waited > 0 {
		t.Errorf("%d requests waited for the endpoint", waited)
	}
	schedule(t, failures, pauses...)
	if len(failures) < 2 {
		t.Errorf("%d fetches", len(failures))
	}
}

func scenarioHang(t *testing.T, s *scenario, hangs func(*scenario)) {
	if a := s.get("/"); a.status != 200 {
		t.Fatalf("got %d", a.status)
	}
	hangs(s)
	stop := s.load(20, 50*time.Millisecond, s.gets("/"))
	pass(lasting(12*time.Second, time.Minute))
	s.endpoint.setAnswer(nil)
	recovered := time.Now()
	awaitCondition(t, "the gateway recovers", func() bool {
		answers := s.all()
		return answers[len(answers)-1].status == 200
	})
	recovery := time.Since(recovered)
	stop()
	answers, failures := s.all(), s.failures()
	if len(failures) == 0 {
		t.Fatal("no fetch has failed")
	}
	schedule(t, failures, 1, 2, 4, 8, 10)
	firstFailure := time.UnixMicro(int64(failures[0]["ts"].(float64) * 1e6))
	var longest, longestLater time.Duration
	for _, a := range answers {
		if a.sent.Before(firstFailure) {
			longest = max(longest, a.waited)
		} else {
			longestLater = max(longestLater, a.waited)
		}
	}
	t.Logf("%s: answers %s; a request waited %v at the most, %v after the first fetch had failed; %d fetches, recovered after %v",
		t.Name(), counts(tally(answers, byStatus)), longest, longestLater, len(failures), recovery)
	statuses := tally(answers, byStatus)
	if statuses["200"]+statuses["503"]+statuses["504"] != len(answers) || statuses["503"] == 0 {
		t.Errorf("answers: %s", counts(statuses))
	}
	if longest > 3*time.Second || longestLater > 2*time.Second { // 2 and 1, and what the machine takes
		t.Errorf("requests waited %v and %v", longest, longestLater)
	}
}

func scenarioWrongSecret(t *testing.T, s *scenario, file string) {
	s.endpoint.setAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if _, secret, _ := r.BasicAuth(); secret != "the-right-one" {
			http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
			return
		}
		s.endpoint.grant(w)
	})
	stop := s.load(5, 20*time.Millisecond, s.gets("/"))
	pass(lasting(10*time.Second, 110*time.Second))
	stop()
	answers, failures := s.all(), s.failures()
	writeFile(t, file, "the-right-one")
	after := s.get("/")
	t.Logf("%s: answers %s; %d token requests; %d right after the file was replaced",
		t.Name(), counts(tally(answers, byStatus)), len(failures), after.status)
	onlyStatus(t, answers, 502, 100)
	schedule(t, failures, 15, 30, 60, 120)
	if n := s.endpoint.count(); n != len(failures)+1 || !*longScenarios && n != 2 {
		t.Errorf("%d token requests, %d failures", n, len(failures))
	}
	if after.status != 200 {
		t.Errorf("got %d after the file was replaced", after.status)
	}
}

func scenarioMixed(t *testing.T, s *scenario) {
	s.upstream.mu.Lock()
	s.upstream.closedPath = "/closed"
	s.upstream.mu.Unlock()
	stop := s.load(10, 20*time.Millisecond, func(n int) *http.Request {
		return s.gets([]string{"/", "/closed"}[n%2])(n)
	})
	lasts := lasting(13*time.Second, 100*time.Second)
	pass(lasts)
	stop()
	answers := s.all()
	t.Logf("%s: %v: answers %s; %d token requests", t.Name(), lasts,
		counts(tally(answers, func(a scenarioAnswer) string { return a.path + " " + byStatus(a) })), s.endpoint.count())
	open, closed := []scenarioAnswer{}, []scenarioAnswer{}
	for _, a := range answers {
		if a.path == "/closed" {
			closed = append(closed, a)
		} else {
			open = append(open, a)
		}
	}
	onlyStatus(t, open, 200, 100)
	onlyStatus(t, closed, 401, 100)
	// One at first, one for the first rejection, then after 10, 20, 40 … seconds.
	most := 2
	for at, wait := 10*time.Second, 10*time.Second; at < lasts; at += wait {
		wait = min(2*wait, time.Minute)
		most++
	}
	if n := s.endpoint.count(); n > most || n < 2 {
		t.Errorf("%d token requests, want %d at the most", n, most)
	}
}

func TestScenarioReloads(t *testing.T) {
	endpoint := startTokenServer(t)
	upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if bearer(r) != "token-1" {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	// A connection that is kept alive keeps the configuration before in memory for a while.
	handlers := endpoint.options("prefetch") + proxyTo(upstream, "transport http {\nkeepalive off\n}")
	g := startGateway(t, "")
	g.logging = littleLog
	g.reload(reloadRoute("first", handlers))
	answers := int64(0)
	underLoad := func(reloads int) (took time.Duration, goroutines int, heap uint64) {
		answered, stop := probeLoad(t, g, "")
		began := time.Now()
		for i := range reloads {
			g.reload(reloadRoute(i, handlers))
			pass(lasting(50*time.Millisecond, 150*time.Millisecond))
		}
		took = time.Since(began)
		stop()
		answers += answered.Load()
		probed.Clear()
		g.reload(reloadRoute("last", handlers)) // the last requests are through
		var stats runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&stats)
		return took, runtime.NumGoroutine(), stats.HeapAlloc
	}
	reloads := int(lasting(20, 100))
	underLoad(5)
	firstTook, goroutinesBefore, heapBefore := underLoad(reloads / 2)
	secondTook, goroutinesAfter, heapAfter := underLoad(reloads / 2)
	references := slices.Collect(maps.Values(grantReferences()))
	growth := (float64(heapAfter) - float64(heapBefore)) / float64(reloads/2)
	t.Logf("reloads: %d in %v, %d answers, failed: %t; %d token requests; goroutines %d, then %d; %.0f bytes more per reload",
		reloads, firstTook+secondTook, answers, t.Failed(), endpoint.count(), goroutinesBefore, goroutinesAfter, growth)
	wantFetched(t, endpoint, 1)
	if !slices.Equal(references, []int{1}) {
		t.Errorf("grants in use: %v", references)
	}
	if goroutinesAfter > goroutinesBefore+5 || growth > 16<<10 {
		t.Errorf("%d goroutines more, %.0f bytes more per reload", goroutinesAfter-goroutinesBefore, growth)
	}
}
