package soak

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/storagetest"
)

var (
	lasts = flag.Duration("soak", 0, "how long to soak a gateway; 0: each fault once")
	seed  = flag.Uint64("seed", 0, "of the faults and the load; 0: another one each time")
)

// soak is a run.
type soak struct {
	*report
	incidents incidents
	endpoint  *endpoint
	api       *api
	storage   *storagetest.Memory
	sites     map[string]string // addresses by name
	began     time.Time

	leaving atomic.Bool // some clients do

	refuse  func() // the endpoint's connections, for the lane of its faults
	clients []*client

	reloading          sync.Mutex // nor is the secret rotated meanwhile
	reloads            int
	secretFile, secret string
	rotated            int
}

// options are those of each site. {secret} is where the secret comes from.
var options = map[string]string{
	"plain":   "client_id app\nclient_secret {secret}",
	"h2c":     "client_id app\nclient_secret {secret}",
	"tenants": "client_id {header.X-Tenant}\nclient_secret {secret}",
	"shared":  "client_id app\nclient_secret {secret}\nstorage oauth_cc_test_soak",
	"dpop":    "client_id app\nclient_secret {secret}\ndpop {api}",
}

func TestSoak(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-seed %d", *seed)
	streams := uint64(0)
	random := func() *rand.Rand { // each goroutine has its own
		streams++
		return rand.New(rand.NewPCG(*seed, streams))
	}
	s := &soak{
		report:    &report{t: t, count: make(map[string]map[string]int)},
		incidents: incidents{count: make(map[string]int)},
		storage:   storagetest.NewMemory(), sites: make(map[string]string), began: time.Now(),
	}
	theStorage = s.storage
	shortest, longest := 3, 20
	if *lasts == 0 {
		shortest, longest = 1, 2
	}
	s.endpoint = startEndpoint(t, random(), shortest, longest)
	s.refuse = s.endpoint.listen()
	s.api = startAPI(t, random(), s.endpoint, s.report)
	s.writeSecret(t)

	g := gatewaytest.Start(t, "")
	g.Logs.Divert(s.log)
	transports := []*http.Transport{newTransport(false), newTransport(true), newTransport(true)}
	names := slices.Sorted(maps.Keys(options))
	for i, addr := range gatewaytest.FreeAddrs(t, len(names)) {
		s.sites[names[i]] = addr
		for _, transport := range transports {
			s.clients = append(s.clients, &client{s, names[i], &http.Client{Transport: transport}, random()})
		}
	}
	s.reload()
	lanesRandom := [lanes]*rand.Rand{random(), random(), random()}

	// warm up, then two halves, with nothing going on between them.
	calm := func() cost {
		for _, transport := range transports {
			transport.CloseIdleConnections()
		}
		s.reload() // which closes the connections to the API
		s.forget(0)
		return s.settled()
	}
	s.load(func(chan struct{}) { gatewaytest.Pass(time.Second / 2) })
	start := calm()
	var costs [2]cost
	for half := range costs {
		s.load(func(stop chan struct{}) {
			var playing sync.WaitGroup
			for lane, faults := range s.faults() {
				var once []fault
				if *lasts == 0 {
					once = faults[half*len(faults)/2 : (half+1)*len(faults)/2]
				}
				playing.Go(func() { s.play(lane, lanesRandom[lane], once, stop) })
			}
			if *lasts > 0 {
				gatewaytest.Pass(*lasts / 2)
				return
			}
			s.reload()
			playing.Wait()
		})
		costs[half] = calm()
	}

	s.tell()
	s.tellTokens(time.Since(s.began))
	t.Logf("reloads: %d", s.reloads)
	for _, kind := range slices.Sorted(maps.Keys(s.incidents.count)) {
		t.Logf("  %8d  %s", s.incidents.count[kind], kind)
	}
	t.Logf("start:  %v", start)
	t.Logf("middle: %v", costs[0])
	t.Logf("end:    %v", costs[1])

	if most := start.goroutines + 10; costs[1].goroutines > most {
		buffer := make([]byte, 1<<20)
		t.Errorf("%d goroutines have become %d:\n%s", start.goroutines, costs[1].goroutines, buffer[:runtime.Stack(buffer, true)])
	}
	if most := costs[0].heap*3/2 + 8<<20; costs[1].heap > most {
		t.Errorf("the live heap of %.1f MiB in the middle has become %.1f MiB", mib(costs[0].heap), mib(costs[1].heap))
	}
	for _, faults := range s.faults() {
		for _, f := range faults {
			if *lasts == 0 && s.incidents.count[f.kind] != 1 {
				t.Errorf("%q has happened %d times", f.kind, s.incidents.count[f.kind])
			}
		}
	}
}

// load has the clients send requests while something happens. What goes on besides ends when stop is closed.
func (s *soak) load(while func(stop chan struct{})) {
	stop := make(chan struct{})
	var running sync.WaitGroup
	for _, c := range s.clients {
		running.Go(func() { c.run(stop) })
	}
	running.Go(func() {
		for n := 1; ; n++ {
			select {
			case <-time.After(time.Second):
			case <-stop:
				return
			}
			if n%10 == 0 {
				s.reload()
			}
			s.forget(pauses)
		}
	})
	while(stop)
	close(stop)
	running.Wait()
}

// forget forgets what can matter no more for requests that are over for so long.
func (s *soak) forget(over time.Duration) {
	forgetRequests(time.Now().Add(-over), s.lastLook)
	s.endpoint.forget(time.Now().Add(-over - pauses))
	s.incidents.forget(time.Now().Add(-over - 2*pauses))
}

// lastLook is for a request that is over for everyone.
func (s *soak) lastLook(r *request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.method == http.MethodPost && r.carried > 1 {
		s.wrong("request %s of %s, a POST, was carried out %d times", r.id, r.grant, r.carried)
	}
	if r.attempts > 1 {
		s.counts("requests with more than one attempt", fmt.Sprint(r.attempts))
	}
}

// reload loads a configuration that differs from the one before.
func (s *soak) reload() {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	defer s.incidents.begin("reload")()
	s.reloads++
	var text strings.Builder
	for name, addr := range s.sites {
		fill := strings.NewReplacer("{secret}", "{file."+s.secretFile+"}", "{api}", s.api.server.URL)
		transport := "keepalive " + idle.String()
		if name == "h2c" || name == "tenants" {
			transport += "\nversions h2c"
		}
		fmt.Fprintf(&text, `http://%s {
			route {
				soak_arrival %s
				header X-Reload %d
				oauth_cc http://%s/%s {
					%s
					timeout 2s
				}
				%s
			}
			handle_errors {
				header X-Cause "{http.oauth_cc.error}"
				respond "{err.message}" {err.status_code}
			}
		}
		`, addr, s.secret, s.reloads, s.endpoint.addr, name, fill.Replace(options[name]), gatewaytest.ProxyTo(s.api.server, "transport http {\n"+transport+"\n}"))
	}
	if err := gatewaytest.LoadWith(gatewaytest.GlobalOptions{Logging: "level INFO"}, text.String()); err != nil {
		s.wrong("reload %d: %v", s.reloads, err)
	}
}

// idle is how long a connection to the API is kept for another request. One that was in use during a reload is kept for
// as long by a transport that nobody uses any more.
const idle = 300 * time.Millisecond

// settled waits until what has been begun is over, and measures what is left.
func (s *soak) settled() cost {
	least, unchanged := runtime.NumGoroutine(), time.Now()
	for deadline := time.Now().Add(gatewaytest.Patience); time.Since(unchanged) < idle*3/2 && time.Now().Before(deadline); {
		gatewaytest.Pass(10 * time.Millisecond)
		if n := runtime.NumGoroutine(); n < least {
			least, unchanged = n, time.Now()
		}
	}
	return measure()
}

// tellTokens compares the tokens that were granted with those that renewals would take if nothing ever went wrong.
func (s *soak) tellTokens(took time.Duration) {
	s.endpoint.mu.Lock()
	defer s.endpoint.mu.Unlock()
	ideal, granted := 0.0, 0
	for _, l := range s.endpoint.lived {
		// A token is renewed a quarter of its life before it is due, which is a tenth before it ends.
		const used = 1 - 0.1 - 0.25
		ideal += took.Seconds() / (used * float64(l.seconds) / float64(l.tokens))
		granted += l.tokens
	}
	s.t.Logf("tokens granted: %d for %d grants; renewals alone would take %.0f", granted, len(s.endpoint.lived), ideal)
	s.t.Log("token requests, by what became of them:")
	for _, result := range slices.Sorted(maps.Keys(s.endpoint.count)) {
		s.t.Logf("  %8d  %s", s.endpoint.count[result], result)
	}
}
