package scenarios

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// forcedSpacing is the least time between two renewals of a rejected token.
const forcedSpacing = 5 * time.Second

// gatewayConfig is the variable of the environment that makes this program a gateway, with the Caddyfile of
// which it is the name.
const gatewayConfig = "OAUTH_CC_TEST_GATEWAY"

// runGateway runs a Caddy until standard input ends, as it does when the test dies. It tells on standard
// output that it serves.
func runGateway(name string) int {
	text, err := os.ReadFile(name)
	if err != nil {
		return complain(err)
	}
	config, err := gatewaytest.Adapt(string(text))
	if err != nil {
		return complain(err)
	}
	if err = caddy.Load(config, true); err != nil {
		return complain(err)
	}
	fmt.Println("serving")
	_, _ = io.Copy(io.Discard, os.Stdin)
	time.AfterFunc(10*time.Second, func() { os.Exit(complain(fmt.Errorf("the gateway does not stop"))) })
	if err := caddy.Stop(); err != nil {
		return complain(err)
	}
	return 0
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, "gateway:", err)
	return 1
}

// fleetOfProcesses is gateways that are processes of their own, and the clients of each.
type fleetOfProcesses struct {
	*partner
	t       *testing.T
	folder  string // of the storage
	members []*fleetMember
	clients int // of each member

	mu       sync.Mutex
	failures []string
	answered atomic.Int64
	waited   atomic.Int64 // answers to requests for which there was no token at first
}

// fleetMember is one of the gateways.
type fleetMember struct {
	*fleetOfProcesses
	name    string
	addr    string
	config  string // file
	logs    gatewaytest.Logs
	current atomic.Pointer[gatewayProcess]
	latest  []atomic.Int64 // number of the token that each client was served with
}

// gatewayProcess is a gateway that runs.
type gatewayProcess struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	ending atomic.Bool   // so its requests don't count any more
	ended  chan struct{} // closed when the process has
}

// newFleetOfProcesses makes gateways that have this storage, written in Caddyfile, with {name} for the
// gateway's own name, and these further options.
func newFleetOfProcesses(t *testing.T, size int, folder, storage string, options ...string) *fleetOfProcesses {
	t.Helper()
	f := &fleetOfProcesses{t: t, partner: startPartner(t), folder: folder, clients: 3}
	for n := range size {
		m := &fleetMember{fleetOfProcesses: f, name: strconv.Itoa(n), addr: gatewaytest.FreeAddr(t), config: filepath.Join(t.TempDir(), "Caddyfile"), latest: make([]atomic.Int64, f.clients)}
		// Each goes by a proxy of its own, by which the endpoint knows who asks. It makes no
		// difference to where tokens are shared.
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.serveToken(w, r, m.name) }))
		t.Cleanup(proxy.Close)
		site := fmt.Sprintf(`{
			admin off
			auto_https off
			persist_config off
			grace_period 5s
			storage file_system %[1]s
			log {
				output stderr
				format json
				level INFO
				include http.handlers.oauth_cc http.handlers.reverse_proxy http.log.error
			}
		}
		http://%[8]s {
			bind 127.0.0.1
			header >X-Token {http.oauth_cc.status}
			oauth_cc %[2]s/token {
				client_id app
				client_secret s3cret-canary
				%[3]s
				transport {
					network_proxy url %[4]s
				}
				%[5]s
			}
			reverse_proxy %[6]s {
				header_up X-Gateway %[7]s
			}
		}`, folder, f.api.URL, strings.ReplaceAll(storage, "{name}", m.name), proxy.URL, strings.Join(options, "\n"),
			f.api.Listener.Addr(), m.name, m.addr)
		servertest.WriteFile(t, m.config, site)
		f.members = append(f.members, m)
	}
	return f
}

// startAll starts the gateways at the same time.
func (f *fleetOfProcesses) startAll() {
	f.t.Helper()
	var wait sync.WaitGroup
	for _, m := range f.members {
		wait.Go(func() {
			if err := m.start(); err != nil {
				f.t.Errorf("gateway %s: %v\n%s", m.name, err, m.logs.All())
			}
		})
	}
	wait.Wait()
	if f.t.Failed() {
		f.t.FailNow()
	}
}

// start runs the gateway and returns when it serves.
func (m *fleetMember) start() error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	p := &gatewayProcess{cmd: exec.Command(program), ended: make(chan struct{})}
	home := filepath.Dir(m.config)
	p.cmd.Env = append(os.Environ(), gatewayConfig+"="+m.config, "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home)
	p.cmd.Stderr = (*logWriter)(&m.logs)
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	_, err = bufio.NewReader(stdout).ReadString('\n') // it ends with the process, if not with a line
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait()
	}()
	m.t.Cleanup(func() { p.end(true) })
	if err != nil {
		return fmt.Errorf("it has not started: %w", err)
	}
	for n := range m.latest {
		m.latest[n].Store(0)
	}
	m.current.Store(p)
	return nil
}

// logWriter is logLines that a process writes to.
type logWriter gatewaytest.Logs

func (l *logWriter) Write(p []byte) (int, error) {
	(*gatewaytest.Logs)(l).Write(p)
	return len(p), nil
}

// end ends the process, at once or when it has done what it does.
func (p *gatewayProcess) end(kill bool) {
	p.ending.Store(true)
	if kill {
		_ = p.cmd.Process.Kill()
	}
	_ = p.stdin.Close()
	<-p.ended
}

// kill ends the gateway at once, wherever it is.
func (m *fleetMember) kill() { m.current.Load().end(true) }

// stopAll has the gateways end in good order.
func (f *fleetOfProcesses) stopAll() {
	f.t.Helper()
	var wait sync.WaitGroup
	for _, m := range f.members {
		wait.Go(func() {
			p := m.current.Load()
			p.end(false)
			if code := p.cmd.ProcessState.ExitCode(); code != 0 {
				f.t.Errorf("gateway %s ended with %d\n%s", m.name, code, m.logs.All())
			}
		})
	}
	wait.Wait()
}

// load has the clients of all gateways send requests until stop is called, which waits for
// the last answers.
func (f *fleetOfProcesses) load(pause time.Duration) (stop func()) {
	client := &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: f.clients, DisableCompression: true}, Timeout: time.Minute,
	}
	done := make(chan struct{})
	var wait sync.WaitGroup
	for _, m := range f.members {
		for n := range f.clients {
			wait.Go(func() {
				for {
					select {
					case <-done:
						return
					case <-time.After(pause/2 + rand.N(pause+1)):
					}
					if p := m.current.Load(); !p.ending.Load() {
						m.request(p, client, n)
					}
				}
			})
		}
	}
	stop = sync.OnceFunc(func() {
		close(done)
		wait.Wait()
		client.CloseIdleConnections()
	})
	f.t.Cleanup(stop)
	return stop
}

// request sends a request for one of the gateway's clients.
func (m *fleetMember) request(p *gatewayProcess, client *http.Client, n int) {
	req, err := http.NewRequest(http.MethodGet, "http://"+m.addr+"/", nil)
	if err != nil {
		panic(err)
	}
	began := time.Now()
	a, err := gatewaytest.Exchange(client, req)
	switch {
	case err == nil && a.Status == http.StatusOK:
		number, _ := strconv.ParseInt(strings.TrimPrefix(a.Body, "token-"), 10, 64)
		m.latest[n].Store(number)
		m.answered.Add(1)
		if a.Header.Get("X-Token") == "fetched" {
			m.waited.Add(1)
		}
	case p.ending.Load(): // it is not there any more
	default:
		m.mu.Lock()
		defer m.mu.Unlock()
		m.failures = append(m.failures, fmt.Sprintf("gateway %s at %s, after %v: %d %q, %v",
			m.name, began.Format(time.StampMilli), time.Since(began), a.Status, a.Body, err))
	}
}

// serves reports whether all clients of the gateway were last served with that token or a
// later one that is not revoked. Each sends one request at a time, so none is on its way with
// an earlier one.
func (m *fleetMember) serves(number int) bool {
	for n := range m.latest {
		if latest := int(m.latest[n].Load()); latest < number || m.isRevoked(latest) {
			return false
		}
	}
	return true
}

// allServe waits until all clients are served with that token or a later one that is not
// revoked.
func (f *fleetOfProcesses) allServe(number int) {
	f.t.Helper()
	f.await(fmt.Sprintf("all gateways serve token %d", number), func() bool {
		for _, m := range f.members {
			if !m.current.Load().ending.Load() && !m.serves(number) {
				return false
			}
		}
		return true
	})
}

// each reports whether it holds for each gateway.
func (f *fleetOfProcesses) each(holds func(*fleetMember) bool) bool {
	return !slices.ContainsFunc(f.members, func(m *fleetMember) bool { return !holds(m) })
}

// told counts how often the gateway has told that.
func (m *fleetMember) told(message string) int { return len(m.logs.With(message)) }

// await polls for a condition. What has gone wrong by then is told at once.
func (f *fleetOfProcesses) await(what string, holds func() bool) {
	f.t.Helper()
	const patience = 3 * time.Minute
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.check(len(f.members))
			f.t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// check wants every answer to be the API's, no more token requests at a time than that, and
// nothing in the logs that should not be there.
func (f *fleetOfProcesses) check(atATime int) {
	f.t.Helper()
	if most := f.mostAtATime(); most > atATime {
		f.t.Errorf("%d token requests at a time, want %d at the most", most, atATime)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, failure := range f.failures[:min(len(f.failures), 10)] {
		f.t.Error(failure)
	}
	if len(f.failures) > 0 || f.answered.Load() == 0 {
		f.t.Errorf("%d answers were not the API's, %d were", len(f.failures), f.answered.Load())
	}
	for _, m := range f.members {
		logs := m.logs.All()
		for _, what := range []string{"DATA RACE", "panic"} {
			if at := strings.Index(logs, what); at >= 0 {
				f.t.Errorf("gateway %s: %.5000s", m.name, logs[at:])
			}
		}
	}
}

// member returns the gateway of that name.
func (f *fleetOfProcesses) member(name string) *fleetMember {
	f.t.Helper()
	n, err := strconv.Atoi(name)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.members[n]
}

// partner is a stand-in for a token endpoint and for the API behind it, which accepts the
// tokens that were granted, for as long as they were granted.
type partner struct {
	api *httptest.Server

	mu       sync.Mutex
	requests []tokenRequestSeen
	tokens   []partnerToken // the first is that with number 1
	lifetime time.Duration
	single   bool          // a token ends the one before
	held     chan<- string // is told who sends the next token request, which is not answered
	flying   int
	most     int // requests at a time
}

type tokenRequestSeen struct {
	from string
	at   time.Time
}

type partnerToken struct {
	expires time.Time
	revoked bool
	used    bool
	from    string // who got it
}

func startPartner(t *testing.T) *partner {
	p := &partner{lifetime: time.Hour}
	p.api = httptest.NewServer(http.HandlerFunc(p.serveAPI))
	t.Cleanup(p.api.Close)
	return p
}

// serveToken is the token endpoint.
func (p *partner) serveToken(w http.ResponseWriter, r *http.Request, from string) {
	_, _ = io.Copy(io.Discard, r.Body)
	if id, secret, _ := r.BasicAuth(); id != "app" || secret != "s3cret-canary" {
		http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
		return
	}
	p.mu.Lock()
	p.requests = append(p.requests, tokenRequestSeen{from, time.Now()})
	held := p.held
	p.held = nil
	p.flying++
	p.most = max(p.most, p.flying)
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.flying--
	}()
	if held != nil {
		held <- from
		<-r.Context().Done()
		return
	}
	p.mu.Lock()
	if n := len(p.tokens); p.single && n > 0 {
		p.tokens[n-1].revoked = true
	}
	p.tokens = append(p.tokens, partnerToken{expires: time.Now().Add(p.lifetime), from: from})
	number, lifetime := len(p.tokens), p.lifetime
	p.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":%d}`, number, int(lifetime.Seconds()))
}

// serveAPI is the API. It answers with the token.
func (p *partner) serveAPI(w http.ResponseWriter, r *http.Request) {
	number, _ := strconv.Atoi(strings.TrimPrefix(gatewaytest.Bearer(r), "token-"))
	if !p.accepts(number) {
		gatewaytest.RejectToken(w)
		return
	}
	_, _ = io.WriteString(w, gatewaytest.Bearer(r))
}

func (p *partner) accepts(number int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if number < 1 || number > len(p.tokens) {
		return false
	}
	t := &p.tokens[number-1]
	t.used = true
	return !t.revoked && time.Now().Before(t.expires)
}

// newest is the number of the last token.
func (p *partner) newest() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.tokens)
}

// asked is the number of token requests.
func (p *partner) asked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.requests)
}

// grantFor sets the lifetime of the tokens from now on.
func (p *partner) grantFor(lifetime time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lifetime = lifetime
}

// revokeAll has the API reject all tokens that were granted so far, but for those that are
// still on their way to a gateway.
func (p *partner) revokeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := range p.tokens {
		p.tokens[n].revoked = p.tokens[n].used
	}
}

func (p *partner) isRevoked(number int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tokens[number-1].revoked
}

// holder of a token is who got it from the endpoint.
func (p *partner) holder(number int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tokens[number-1].from
}

// holdNext leaves the next token request without an answer. It returns who has sent it.
func (p *partner) holdNext() <-chan string {
	held := make(chan string, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
	return held
}

// mostAtATime is how many token requests there were at a time.
func (p *partner) mostAtATime() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.most
}
