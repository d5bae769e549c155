package soak

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// idHeader names a request to all that it passes.
const idHeader = "X-Request"

// request is what became of a request.
type request struct {
	id     string
	grant  string // whose token it is to have
	method string
	size   int
	sent   time.Time

	mu        sync.Mutex
	by        string   // the secret when the configuration was loaded whose handlers it has reached; empty: none
	attempts  int      // at the API
	carried   int      // answered by the API with something else than 401
	rejected  []string // tokens, in order
	rejection string   // why the last one was
	proofs    []string // by their ids
	reset     bool     // by the API, in its answer
	left      bool     // by its client
	done      time.Time
}

// body is a text of which every part is another one, and in every request.
func (r *request) body() []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < r.size; i++ {
		fmt.Fprintf(&b, "%s:%d ", r.id, i)
	}
	return b.Bytes()[:r.size]
}

// wanted is the right answer.
func (r *request) wanted() string {
	if r.method == http.MethodPost {
		return r.id + " " + sum(r.body())
	}
	return r.id + " " + strings.Repeat(sum([]byte(r.id)), 16)
}

func sum(text []byte) string {
	hash := sha256.Sum256(text)
	return hex.EncodeToString(hash[:])
}

// requests are those that are on their way, or were a moment ago.
var requests = struct {
	sync.Mutex
	count int
	by    map[string]*request
}{by: make(map[string]*request)}

func newRequest(grant, method string, size int) *request {
	requests.Lock()
	defer requests.Unlock()
	requests.count++
	r := &request{id: strconv.Itoa(requests.count), grant: grant, method: method, size: size, sent: time.Now()}
	requests.by[r.id] = r
	return r
}

// requestOf is nil if it is long over.
func requestOf(r *http.Request) *request {
	requests.Lock()
	defer requests.Unlock()
	return requests.by[r.Header.Get(idHeader)]
}

// forgetRequests looks for the last time at those that were over before then.
func forgetRequests(then time.Time, last func(*request)) {
	requests.Lock()
	var over []*request
	for id, r := range requests.by {
		r.mu.Lock()
		if !r.done.IsZero() && r.done.Before(then) {
			over = append(over, r)
			delete(requests.by, id)
		}
		r.mu.Unlock()
	}
	requests.Unlock()
	for _, r := range over {
		last(r)
	}
}

// wasRejected notes a rejection. It reports whether the request had come with that token before.
func (r *request) wasRejected(token, why string) (again bool) {
	again = slices.Contains(r.rejected, token)
	r.rejected, r.rejection = append(r.rejected, token), why
	return again
}

// arrival is a handler that notes which requests have reached it. A server that stops drops connections whose
// requests no handler has yet.
type arrival struct {
	Secret string `json:"secret,omitempty"` // when the configuration was loaded
}

func parseArrival(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	var a arrival
	if h.Next(); !h.Args(&a.Secret) {
		return nil, h.ArgErr()
	}
	return a, nil
}

func (arrival) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.oauth_cc_soak_arrival", New: func() caddy.Module { return new(arrival) }}
}

func (a arrival) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if req := requestOf(r); req != nil {
		req.mu.Lock()
		req.by = a.Secret
		req.mu.Unlock()
	}
	return next.ServeHTTP(w, r)
}
