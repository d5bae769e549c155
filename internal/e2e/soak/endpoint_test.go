package soak

import (
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// token is an entry of the books.
type token struct {
	grant    string
	granted  time.Time
	expires  time.Time
	late     time.Time // the API takes it from then on
	key      string    // it is bound to, if any
	accepted time.Time // for the first time
	by       string    // the credential of the configuration that it was accepted through
	revoked  bool
	rejected bool // for whatever reason but its age
}

// endpoint is the token endpoint of all sites, each of which has a path. Its books are the truth about tokens.
type endpoint struct {
	t      testing.TB
	addr   string
	server http.Server
	serve  sync.WaitGroup

	mu       sync.Mutex
	random   *rand.Rand
	shortest int // lifetimes, in seconds
	longest  int
	fault    string
	over     chan struct{} // closed at the end of the fault
	lateness time.Duration // until the API takes a token that is granted now
	secrets  []string
	tokens   map[string]*token
	lived    map[string]*lives // by grant
	count    map[string]int    // token requests, by what became of them
}

// lives sums up the tokens of a grant.
type lives struct {
	tokens  int
	seconds int
}

func startEndpoint(t testing.TB, random *rand.Rand, shortest, longest int) *endpoint {
	e := &endpoint{
		t: t, addr: gatewaytest.FreeAddr(t), random: random, shortest: shortest, longest: longest,
		tokens: make(map[string]*token), lived: make(map[string]*lives), count: make(map[string]int),
	}
	e.server = http.Server{Handler: e, ErrorLog: log.New(io.Discard, "", 0)}
	t.Cleanup(func() {
		_ = e.server.Close()
		e.serve.Wait()
	})
	return e
}

// listen can be undone, and done again at the same address.
func (e *endpoint) listen() (refuse func()) {
	config := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		var failed error
		err := conn.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		if err != nil {
			return err
		}
		return failed
	}}
	listener, err := config.Listen(context.Background(), "tcp", e.addr)
	if err != nil {
		e.t.Errorf("the token endpoint: %v", err)
		return func() {}
	}
	e.serve.Go(func() { _ = e.server.Serve(listener) })
	return func() { _ = listener.Close() }
}

// begins has a fault until end is called.
func (e *endpoint) begins(fault string) (end func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fault, e.over = fault, make(chan struct{})
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.fault = ""
		close(e.over)
	}
}

func (e *endpoint) counts(result string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.count[result]++
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	e.mu.Lock()
	fault, over := e.fault, e.over
	slowness := time.Duration(2+e.random.IntN(18)) * time.Millisecond
	pause := 1 + e.random.IntN(3)
	e.mu.Unlock()
	switch fault {
	case "reset":
		e.counts(fault)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	case "503":
		e.counts(fault)
		w.WriteHeader(http.StatusServiceUnavailable)
	case "429":
		e.counts(fault)
		w.Header().Set("Retry-After", fmt.Sprint(pause))
		w.WriteHeader(http.StatusTooManyRequests)
	case "hang":
		e.counts(fault)
		select {
		case <-over:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	case "garbage":
		e.counts(fault)
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html>It works!</html>")
	case "drip":
		e.grant(w, r, func(text string) error {
			for i := range text {
				select {
				case <-time.After(slowness):
				case <-r.Context().Done():
					return r.Context().Err()
				}
				if _, err := io.WriteString(w, text[i:i+1]); err != nil {
					return err
				}
				_ = http.NewResponseController(w).Flush()
			}
			return nil
		})
	default:
		e.grant(w, r, func(text string) error {
			_, err := io.WriteString(w, text)
			return err
		})
	}
}

func (e *endpoint) grant(w http.ResponseWriter, r *http.Request, write func(string) error) {
	id, secret, _ := r.BasicAuth()
	site := strings.Trim(r.URL.Path, "/")
	e.mu.Lock()
	known := slices.Contains(e.secrets, secret)
	e.mu.Unlock()
	if !known {
		e.counts("invalid_client")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
		return
	}
	scheme, key := "Bearer", ""
	if site == "dpop" {
		proof, err := gatewaytest.VerifyProof(r, "http://"+e.addr+r.URL.Path, "")
		if err != nil {
			e.t.Errorf("a proof at the token endpoint: %v", err)
		}
		scheme, key = "DPoP", proof.Key
	}
	name, life := e.enter(site+"/"+id, key)
	w.Header().Set("Content-Type", "application/json")
	if err := write(fmt.Sprintf(`{"access_token":%q,"token_type":%q,"expires_in":%d}`, name, scheme, life)); err != nil {
		e.counts("left in a drip")
		return
	}
	e.counts("granted")
}

// enter puts a new token into the books.
func (e *endpoint) enter(grant, key string) (name string, seconds int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	seconds = e.shortest + e.random.IntN(e.longest-e.shortest+1)
	name = fmt.Sprintf("%s-%x", strings.ReplaceAll(grant, "/", "-"), e.random.Uint64())
	e.tokens[name] = &token{grant: grant, granted: now, expires: now.Add(time.Duration(seconds) * time.Second), late: now.Add(e.lateness), key: key}
	l := e.lived[grant]
	if l == nil {
		l = new(lives)
		e.lived[grant] = l
	}
	l.tokens++
	l.seconds += seconds
	return name, seconds
}

// look asks the books about a token that came with a request: it is to be rejected for a reason, or taken.
// A wrong is what no gateway may do.
func (e *endpoint) look(name string, r *request, tenant string) (rejected, wrong string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	t, now := e.tokens[name], time.Now()
	switch {
	case t == nil:
		return "unknown", "a token that is not in the books, or expired long ago"
	case t.grant != r.grant:
		return "another's", "a token of " + t.grant
	case !t.expires.After(r.sent):
		return "expired", fmt.Sprintf("a token that expired %v before the request was sent", r.sent.Sub(t.expires))
	case !t.expires.After(now):
		return "expired", ""
	case t.revoked:
		rejected = "revoked"
	case tenant == t.grant:
		rejected = "tenant"
	case now.Before(t.late):
		rejected = "late"
	}
	if rejected != "" {
		t.rejected = true
	} else if t.accepted.IsZero() {
		t.accepted, t.by = now, r.by
	}
	return rejected, ""
}

func (e *endpoint) keyOf(name string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.tokens[name]; t != nil {
		return t.key
	}
	return ""
}

// revokeAll revokes what has been granted so far.
func (e *endpoint) revokeAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.tokens {
		t.revoked = true
	}
}

// hadToken reports whether the gateway had a token for a request all the time, which was accepted before it and
// rejected by no one. A configuration that is loaded after the secret was rotated begins without any.
func (e *endpoint) hadToken(r *request) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	var had *token
	for _, t := range e.tokens {
		if t.grant == r.grant && t.by == r.by && !t.accepted.IsZero() && t.accepted.Before(r.sent) && (had == nil || t.granted.After(had.granted)) {
			had = t
		}
	}
	// The gateway counts from when it sent its request, which can take a while to get here.
	const way = 2 * time.Second
	if had == nil || had.revoked || had.rejected || !had.expires.Add(-way).After(r.done) {
		return false
	}
	for _, t := range e.tokens {
		if t.grant == r.grant && t.by == r.by && t.granted.After(had.granted) && (t.rejected || t.revoked) {
			return false // the gateway may have forgotten the one before that
		}
	}
	return true
}

// forget forgets tokens that expired before then.
func (e *endpoint) forget(then time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name, t := range e.tokens {
		if t.expires.Before(then) {
			delete(e.tokens, name)
		}
	}
}

// takes has the endpoint take these secrets only.
func (e *endpoint) takes(secrets ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.secrets = secrets
}

// takesLate has the API take tokens late that are granted from now on.
func (e *endpoint) takesLate(lateness time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lateness = lateness
}
