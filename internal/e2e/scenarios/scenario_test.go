package scenarios

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// besideFleets has a test run beside the fleets, whose gateways are processes of their own. In
// this one there is one gateway at a time.
func besideFleets(t *testing.T) {
	gatewaytest.Parallel(t)
	gatewayHere.Lock()
	t.Cleanup(gatewayHere.Unlock)
}

// isBusy has a test wait for those that need a machine with little to do.
func isBusy(t *testing.T) {
	quiet.RLock()
	t.Cleanup(quiet.RUnlock)
}

var (
	gatewayHere sync.Mutex
	quiet       sync.RWMutex // for who measures how long requests wait
)

// scenario is one site of a gateway, its token endpoint and the load on it.
type scenario struct {
	*gatewaytest.Gateway
	endpoint *gatewaytest.TokenServer
	upstream *gatewaytest.API
	site     string

	tokenless string // URL of the same gateway, which it answers by itself

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
	s := &scenario{endpoint: gatewaytest.StartTokenServer(t), upstream: gatewaytest.StartAPI(t)}
	s.site = "header >X-Token {http.oauth_cc.status}\n" + s.endpoint.Options(options...) + s.upstream.Proxy()
	return s
}

// runScenarios starts one gateway for all.
func runScenarios(t *testing.T, scenarios ...*scenario) {
	t.Helper()
	first := gatewaytest.Start(t, "")
	var sites strings.Builder
	fmt.Fprintf(&sites, "http://%s {\nrespond 204\n}\n", first.Addr)
	addrs := gatewaytest.FreeAddrs(t, len(scenarios))
	for i, s := range scenarios {
		s.Gateway = &gatewaytest.Gateway{T: t, Addr: addrs[i], Logs: first.Logs}
		s.tokenless = first.URL("/")
		fmt.Fprintf(&sites, "http://%s {\n%s\n}\n", s.Addr, s.site)
	}
	if err := gatewaytest.LoadWith(gatewaytest.GlobalOptions{Logging: gatewaytest.LittleLog}, sites.String()); err != nil {
		t.Fatal(err)
	}
}

// fetches lists the handler's log entries about this scenario's endpoint.
func (s *scenario) fetches(message string) []map[string]any {
	return slices.DeleteFunc(s.Logs.With(message), func(entry map[string]any) bool {
		return entry["endpoint"] != s.endpoint.URL+"/token"
	})
}

func (s *scenario) failures() []map[string]any {
	return append(s.fetches("token not renewed; the current token stays in use"), s.fetches("no token obtained")...)
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
		s.T.Errorf("no answer: %v", err)
	}
	a.waited = time.Since(a.sent)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, a)
}

func (s *scenario) gets(path string) func(int) *http.Request {
	return func(int) *http.Request {
		req, _ := http.NewRequest(http.MethodGet, s.URL(path), nil)
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

// delays measures what the machine takes for a request that needs no token, time and again. It returns the
// longest: no program can keep a promise more exactly than that.
func (s *scenario) delays() (longest func() time.Duration) {
	var most time.Duration
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		transport := new(http.Transport)
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport}
		for asked := time.Now(); ; asked = time.Now() {
			select {
			case <-time.After(5 * time.Millisecond):
			case <-done:
				return
			}
			req, _ := http.NewRequest(http.MethodGet, s.tokenless, nil)
			if _, err := gatewaytest.Exchange(client, req); err != nil {
				s.T.Errorf("no answer: %v", err)
			}
			most = max(most, time.Since(asked)-5*time.Millisecond)
		}
	}()
	return sync.OnceValue(func() time.Duration {
		close(done)
		<-ended
		return most
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
	for _, lock := range []sync.Locker{&quiet, &gatewayHere} {
		lock.Lock() // before any other test goes on
		t.Cleanup(lock.Unlock)
	}
	gatewaytest.Parallel(t)
	s := newScenario(t)
	s.endpoint.Lifetime, s.endpoint.Takes = 2, 300*time.Millisecond
	runScenarios(t, s)
	if a := s.Get("/"); a.Status != 200 {
		t.Fatalf("got %d", a.Status)
	}
	const clients = 200
	lasts, delays := gatewaytest.Lasting(8*time.Second, 20*time.Second), s.delays()
	stop := s.load(clients, 150*time.Millisecond, s.gets("/"))
	gatewaytest.Pass(lasts)
	stop()
	answers, delay := s.all(), delays()
	fetched := tally(answers, func(a scenarioAnswer) string { return a.from })["fetched"]
	t.Logf("expiry storm: %d clients, %v: answers %s; %d requests waited; %d token requests, %d at a time; without a token a request took %v at the most",
		clients, lasts, counts(tally(answers, byStatus)), fetched, s.endpoint.Count(), s.endpoint.MostAtATime(), delay)
	onlyStatus(t, answers, 200, 100)
	if most := int(lasts/(1200*time.Millisecond)) + 2; s.endpoint.Count() > most {
		t.Errorf("%d token requests, want %d at the most", s.endpoint.Count(), most)
	}
	if s.endpoint.MostAtATime() != 1 {
		t.Errorf("%d token requests at a time", s.endpoint.MostAtATime())
	}
	// There are 100 ms between a token that comes in time and the end of the one before.
	if fetched > 0 && delay < 50*time.Millisecond {
		t.Errorf("%d requests waited for a token", fetched)
	}
}

func TestScenarioRevocationUnderLoad(t *testing.T) {
	besideFleets(t)
	s := newScenario(t)
	runScenarios(t, s)
	body := strings.Repeat("0123456789abcdef", 4<<10)
	stop := s.load(40, 20*time.Millisecond, func(n int) *http.Request {
		if n%2 == 0 {
			return s.gets("/")(n)
		}
		req, _ := http.NewRequest(http.MethodPost, s.URL("/"), strings.NewReader(body[:n%len(body)]))
		return req
	})
	lasts := gatewaytest.Lasting(time.Second, 5*time.Second)
	gatewaytest.Pass(lasts)
	s.upstream.Revoke("token-1")
	gatewaytest.Pass(lasts)
	stop()
	answers := s.all()
	replayed := tally(answers, func(a scenarioAnswer) string { return a.from })["replayed"]
	t.Logf("revocation under load: answers %s; %d rejections, %d replays, %d token requests",
		counts(tally(answers, byStatus)), s.upstream.Rejections(), replayed, s.endpoint.Count())
	onlyStatus(t, answers, 200, 100)
	if s.endpoint.Count() != 2 || replayed == 0 || replayed != s.upstream.Rejections() {
		t.Errorf("%d token requests, %d rejections, %d replays", s.endpoint.Count(), s.upstream.Rejections(), replayed)
	}
}

func TestScenarioOutagePastExpiry(t *testing.T) {
	if !gatewaytest.Apart(t, isBusy) {
		return
	}
	// What a client is told while a fetch is under way is no later than that.
	s := newScenario(t, "timeout "+gatewaytest.Lasting(2*time.Second, 10*time.Second).String())
	s.endpoint.Lifetime = 1
	runScenarios(t, s)
	if a := s.Get("/"); a.Status != 200 {
		t.Fatalf("got %d", a.Status)
	}
	address := s.endpoint.Listener.Addr().String()
	s.endpoint.Listener.Close() // connections are refused from now on
	gatewaytest.Pass(time.Second)
	began, lasts := time.Now(), gatewaytest.Lasting(6*time.Second, 25*time.Second)
	stop := s.load(20, 0, s.gets("/"))
	gatewaytest.Pass(lasts)
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
	gatewaytest.Pass(wait)
	after := s.Get("/")
	t.Logf("outage past expiry: %v at %.0f requests/s: answers %s; %d fetches; %d after Retry-After: %s",
		lasts, rate, counts(tally(answers, byStatus)), len(failures), after.Status, told)
	onlyStatus(t, answers, 503, 100)
	schedule(t, failures, 1, 2, 4, 8, 10)
	if len(failures) < 2 || len(failures) > 2+int(lasts/(4*time.Second)) {
		t.Errorf("%d fetches", len(failures))
	}
	if after.Status != 200 {
		t.Errorf("after Retry-After: %s got %d", told, after.Status)
	}
}

// Scenarios that mostly wait do so at the same time, in one gateway.
func TestScenarios(t *testing.T) {
	besideFleets(t)
	secret := filepath.Join(t.TempDir(), "secret")
	servertest.WriteFile(t, secret, "s3cret-canary")
	outage := func(name string, down func(s *scenario)) (string, *scenario, func(*testing.T, *scenario)) {
		s := newScenario(t, "timeout 2s", "refresh_ahead 90%")
		s.endpoint.Lifetime = int(gatewaytest.Lasting(20*time.Second, 120*time.Second).Seconds())
		return "outage with a valid token, " + name, s, func(t *testing.T, s *scenario) {
			pauses := []float64{5, 10, 20, 40, 60}
			if name == "429" {
				pauses[0] = 7 / 1.1 // as Retry-After says, where that is longer
			}
			scenarioOutage(t, s, down, pauses)
		}
	}
	hangs := func(s *scenario) {
		s.endpoint.SetAnswer(func(_ http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() })
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
		s.endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(503) })
	}))
	add(outage("429", func(s *scenario) {
		s.endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(429)
		})
	}))
	hanging := newScenario(t, "timeout 2s")
	hanging.endpoint.Lifetime = 3
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
				s.T = t
				runs[i](t, s)
			})
		})
	}
}

func scenarioOutage(t *testing.T, s *scenario, down func(*scenario), pauses []float64) {
	lifetime := time.Duration(s.endpoint.Lifetime) * time.Second
	if a := s.Get("/"); a.Status != 200 {
		t.Fatalf("got %d", a.Status)
	}
	down(s)
	stop := s.load(5, 50*time.Millisecond, s.gets("/"))
	gatewaytest.Pass(lifetime * 8 / 10) // it is served for nine tenths
	stop()
	answers, failures := s.all(), s.failures()
	t.Logf("%s: %v: answers %s; %d fetches", t.Name(), lifetime*8/10, counts(tally(answers, byStatus)), len(failures))
	onlyStatus(t, answers, 200, 20)
	if waited := tally(answers, func(a scenarioAnswer) string { return a.from })["fetched"]; waited > 0 {
		t.Errorf("%d requests waited for the endpoint", waited)
	}
	schedule(t, failures, pauses...)
	if len(failures) < 2 {
		t.Errorf("%d fetches", len(failures))
	}
}

func scenarioHang(t *testing.T, s *scenario, hangs func(*scenario)) {
	if a := s.Get("/"); a.Status != 200 {
		t.Fatalf("got %d", a.Status)
	}
	hangs(s)
	delays := s.delays()
	stop := s.load(20, 50*time.Millisecond, s.gets("/"))
	gatewaytest.Pass(gatewaytest.Lasting(12*time.Second, time.Minute))
	s.endpoint.SetAnswer(nil)
	recovered := time.Now()
	gatewaytest.Await(t, "the gateway recovers", func() bool {
		answers := s.all()
		return answers[len(answers)-1].status == 200
	})
	recovery := time.Since(recovered)
	stop()
	answers, failures, delay := s.all(), s.failures(), delays()
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
	t.Logf("%s: answers %s; a request waited %v at the most, %v after the first fetch had failed; %d fetches, recovered after %v; without a token one took %v at the most",
		t.Name(), counts(tally(answers, byStatus)), longest, longestLater, len(failures), recovery, delay)
	statuses := tally(answers, byStatus)
	if statuses["200"]+statuses["503"]+statuses["504"] != len(answers) || statuses["503"] == 0 {
		t.Errorf("answers: %s", counts(statuses))
	}
	spared := 500*time.Millisecond + 3*delay // of a request's ways to and fro
	if longest > 2*time.Second+spared || longestLater > time.Second+spared {
		t.Errorf("requests waited %v and %v", longest, longestLater)
	}
}

func scenarioWrongSecret(t *testing.T, s *scenario, file string) {
	s.endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if _, secret, _ := r.BasicAuth(); secret != "the-right-one" {
			http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
			return
		}
		s.endpoint.Grant(w)
	})
	stop := s.load(5, 20*time.Millisecond, s.gets("/"))
	gatewaytest.Pass(gatewaytest.Lasting(10*time.Second, 110*time.Second))
	stop()
	answers, failures := s.all(), s.failures()
	servertest.WriteFile(t, file, "the-right-one")
	after := s.Get("/")
	t.Logf("%s: answers %s; %d token requests; %d right after the file was replaced",
		t.Name(), counts(tally(answers, byStatus)), len(failures), after.Status)
	onlyStatus(t, answers, 502, 20)
	schedule(t, failures, 15, 30, 60, 120)
	if n := s.endpoint.Count(); n != len(failures)+1 || !*gatewaytest.Long && n != 2 {
		t.Errorf("%d token requests, %d failures", n, len(failures))
	}
	if after.Status != 200 {
		t.Errorf("got %d after the file was replaced", after.Status)
	}
}

func scenarioMixed(t *testing.T, s *scenario) {
	s.upstream.ClosePath("/closed")
	stop := s.load(10, 20*time.Millisecond, func(n int) *http.Request {
		return s.gets([]string{"/", "/closed"}[n%2])(n)
	})
	lasts := gatewaytest.Lasting(13*time.Second, 100*time.Second)
	gatewaytest.Pass(lasts)
	stop()
	answers := s.all()
	t.Logf("%s: %v: answers %s; %d token requests", t.Name(), lasts,
		counts(tally(answers, func(a scenarioAnswer) string { return a.path + " " + byStatus(a) })), s.endpoint.Count())
	open, closed := []scenarioAnswer{}, []scenarioAnswer{}
	for _, a := range answers {
		if a.path == "/closed" {
			closed = append(closed, a)
		} else {
			open = append(open, a)
		}
	}
	onlyStatus(t, open, 200, 20)
	onlyStatus(t, closed, 401, 20)
	// One at first, one for the first rejection, then after 10, 20, 40 … seconds.
	most := 2
	for at, wait := 10*time.Second, 10*time.Second; at < lasts; at += wait {
		wait = min(2*wait, time.Minute)
		most++
	}
	if n := s.endpoint.Count(); n > most || n < 2 {
		t.Errorf("%d token requests, want %d at the most", n, most)
	}
}
