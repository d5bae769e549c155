package faults

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// row is something that goes wrong, and what must come of it.
type row struct {
	name string

	// What goes wrong. Servers that nothing is said of grant and accept tokens.
	endpoint, upstream script
	options            string               // of oauth_cc
	proxy              string               // of reverse_proxy
	site               string               // further handlers, before oauth_cc
	prepare            func(*play)          // before the configuration is loaded
	storage            func(string) error   // how operations of the storage fail; nil for no storage
	over               protocol             // of the client
	ask                func(*play) []string // what clients do, and a line for each answer

	want want

	// reverse_proxy has a data race of its own, between a read of the body and its end, which over HTTP/2 comes at any
	// time. The row is left out under the race detector.
	racy bool
}

// want has the columns of a row. It is written without names, so that none can be left out.
type want struct {
	client   string // each answer: status, body, whether it was complete
	upstream string // each request: method, path, token, body
	log      string // the handler's own entries, in any order
	tokens   times  // how often the endpoint was asked
	left     string // in the gateway, when the row is over
}

// play is a row that runs.
type play struct {
	row
	t        *testing.T // of the group, then of the row
	g        *gatewaytest.Gateway
	token    *server // endpoint
	api      *server // upstream
	url      string
	client   *http.Client
	endpoint string        // in the log
	dir      string        // for files
	paused   chan struct{} // receives when the row waits for what is to happen
	resumed  chan struct{} // closed when that has happened
	over     chan struct{} // closed when the row is over
	got      []string
	started  int // length of the log when it began
	alone    bool
}

// bufferSize is the memory that each row has for bodies, all requests together.
const bufferSize = 64 << 10

// group is rows that share a running Caddy.
type group struct {
	rows   []row
	global string // options of the Caddy

	// operate is what an operator does when all rows have come to the point where they wait. Without, rows run side by
	// side, or one after the other.
	operate func(*testing.T, *running)
	alone   bool // one after the other
	quiet   bool // nothing is logged
}

// running is a group in its Caddy.
type running struct {
	group
	plays []*play
	g     *gatewaytest.Gateway
	ca    *servertest.CA
	certs string // the files of a certificate and its key
}

// start runs a Caddy with all rows.
func (g group) start(t *testing.T) *running {
	t.Helper()
	checkGoroutines(t)
	r := &running{group: g, ca: servertest.NewCA(t)}
	r.certs = r.writeCertificate(t)
	r.g = gatewaytest.Start(t, "")
	for _, row := range g.rows {
		if !row.racy || !gatewaytest.HasRaceDetector {
			r.plays = append(r.plays, r.stage(t, row))
		}
	}
	if err := r.load(""); err != nil {
		t.Fatal(err)
	}
	return r
}

// run runs all rows, side by side if they may. But with the race detector, those over HTTP/3 come one after the other:
// a GET has a body of unknown length there, and if that takes 200 ms to turn out empty, Caddy's proxy changes the trailers
// while net/http reads them.
func (g group) run(t *testing.T) {
	r := g.start(t)
	busyBefore := busyGoroutines()
	if g.operate != nil {
		r.runOperated(t)
		return
	}
	t.Run("rows", func(t *testing.T) { // is over when all that is parallel in it is
		for _, p := range r.plays {
			t.Run(p.name, func(t *testing.T) {
				if inOrder := g.alone || gatewaytest.HasRaceDetector && p.row.over == h3; !inOrder {
					t.Parallel()
				}
				p.t = t
				p.run()
			})
		}
	})
	for _, p := range r.plays {
		p.t = t
		if len(p.got) > 0 {
			p.checkAgain()
		}
		p.client.CloseIdleConnections()
	}
	awaitIdle(t, busyBefore)
	r.checkLog(t)
}

// stage prepares a row: its servers, its client, its place in the configuration.
func (r *running) stage(t *testing.T, row row) *play {
	t.Helper()
	p := &play{
		row: row, t: t, g: r.g, alone: r.alone, dir: t.TempDir(), paused: make(chan struct{}, 1), resumed: make(chan struct{}), over: make(chan struct{}),
	}
	p.token = startServer(t, p, row.endpoint, (*visit).grant)
	p.api = startServer(t, p, row.upstream, (*visit).accept)
	t.Cleanup(p.end)
	p.endpoint = "http://" + p.token.addr + "/token"
	p.url, p.client = row.over.connect(t, r.ca)
	if row.storage != nil {
		putStorage(t, p.token.addr, row.storage)
		p.options += "\nstorage oauth_cc_test_faulty " + p.token.addr
	}
	if row.prepare != nil {
		row.prepare(p)
	}
	return p
}

// load runs the configuration. mark makes it another one.
func (r *running) load(mark string) error {
	var text strings.Builder
	for _, p := range r.plays {
		fmt.Fprintf(&text, "%s {\n%s\n}\n", p.url, p.config(r.certs, mark))
	}
	logging := "level DEBUG\ninclude http.handlers.oauth_cc http.log http.stdlib"
	if r.quiet {
		logging = "level FATAL"
	}
	return gatewaytest.LoadWith(gatewaytest.GlobalOptions{
		Logging: logging, More: r.global, Protocols: "h1 h2 h2c h3",
	}, text.String())
}

// config is the site of a row.
func (p *play) config(certs, mark string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if strings.HasPrefix(p.url, "https:") {
		line("tls %s", certs)
	}
	if mark != "" {
		line("header X-Configuration %s", mark)
	}
	line("log\n%s", p.site)
	line("oauth_cc %s {", p.endpoint)
	line("client_id app")
	if !strings.Contains(p.options, "client_secret") {
		line("client_secret s3cret-canary")
	}
	if !strings.Contains(p.options, "timeout") {
		line("timeout 1m") // a busy machine is no fault
	}
	if !strings.Contains(p.options, "transport") {
		line("transport {\ndial_timeout 1m\n}")
	}
	if !strings.Contains(p.options, "replay_buffer") && !strings.Contains(p.options, "retry_status off") {
		line("replay_buffer %d %[1]d", bufferSize)
	}
	line("%s\n}", p.options)
	line("reverse_proxy %s {\n%s\n}", p.api.addr, p.proxy)
	line("handle_errors {\nrespond \"%s\" {err.status_code}\n}", noErrorCode)
	return b.String()
}

func (r *running) writeCertificate(t *testing.T) string {
	issued := r.ca.Server(t, "127.0.0.1", time.Now().Add(time.Hour))
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	servertest.WriteFile(t, cert, servertest.PEM("CERTIFICATE", issued.Certificate[0]))
	servertest.WriteFile(t, key, servertest.PKCS8(t, issued.PrivateKey))
	return cert + " " + key
}

// run has clients ask, and reads all columns.
func (p *play) run() {
	p.t.Helper()
	if p.want.client == "" || p.want.upstream == "" || p.want.log == "" || p.want.left == "" || p.want.tokens.most < p.want.tokens.least {
		p.t.Fatalf("a column of the row is empty: %+v", p.want)
	}
	p.started = len(p.g.Logs.All())
	p.got = p.ask(p)
	p.check()
	p.end()
	p.checkAftermath()
}

// runOperated has all clients ask, an operator do something when all rows pause, and reads all columns.
func (r *running) runOperated(t *testing.T) {
	answers := make([]chan []string, len(r.plays))
	for i, p := range r.plays {
		answers[i] = make(chan []string, 1)
		go func() { answers[i] <- p.ask(p) }()
		gatewaytest.AwaitSignal(t, "the pause of the row "+p.name, p.paused)
	}
	r.operate(t, r)
	for _, p := range r.plays {
		close(p.resumed)
	}
	for i, p := range r.plays {
		t.Run(p.name, func(t *testing.T) {
			p.t = t
			p.got = gatewaytest.AwaitSignal(t, "the answer", answers[i])
			p.check()
			p.end()
			p.checkAftermath()
		})
		p.t = t
	}
	r.checkLog(t)
}

// end lets go of whatever hangs in the row.
func (p *play) end() {
	if !p.isOver() {
		close(p.over)
	}
}

func (p *play) isOver() bool {
	select {
	case <-p.over:
		return true
	default:
		return false
	}
}

// check reads the columns, once all that was under way has come to its end.
func (p *play) check() {
	p.t.Helper()
	if got := listed(p.got); got != p.want.client {
		p.t.Errorf("the client got\n\t%s\nwant\n\t%s", got, p.want.client)
	}
	for deadline := time.Now().Add(gatewaytest.Patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if p.want.tokens.include(p.token.count()) && p.api.String() == p.want.upstream && sorted(p.logged()) == sorted(p.want.log) {
			break
		}
		if p.t.Failed() {
			break
		}
	}
	if n := p.token.count(); !p.want.tokens.include(n) {
		p.t.Errorf("%d token requests, want %v", n, p.want.tokens)
	}
	p.checkAgain()
	if p.t.Failed() {
		p.t.Logf("the log since the row began, of all rows that ran meanwhile:\n%s", p.g.Logs.All()[p.started:])
	}
}

// checkAgain reads the columns that must still be the same when the row has been over for a while.
func (p *play) checkAgain() {
	p.t.Helper()
	if got := p.api.String(); got != p.want.upstream {
		p.t.Errorf("%s: the upstream got\n\t%s\nwant\n\t%s", p.name, got, p.want.upstream)
	}
	if p.alone && p.isOver() {
		return // the log is another row's by now
	}
	if got := p.logged(); sorted(got) != sorted(p.want.log) {
		p.t.Errorf("%s: logged\n\t%s\nwant\n\t%s", p.name, got, p.want.log)
	}
}

func (p *play) logged() string { return logged(p.g.Logs.All()[p.started:], p.endpoint) }

// pause waits for what is to happen in the row.
func (p *play) pause() {
	p.signal()
	p.wait()
}

// signal tells that the row has come to where something is to happen.
func (p *play) signal() {
	select {
	case p.paused <- struct{}{}:
	default: // somebody else pauses as well
	}
}

// wait waits until it has happened.
func (p *play) wait() {
	select {
	case <-p.resumed:
	case <-p.over:
	}
}
