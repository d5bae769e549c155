package monitoring

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// partner is the stand-in for a partner's token endpoint and API. Each client has an
// endpoint of its own, /name/token, and an API below /name/.
type partner struct {
	*httptest.Server

	mu      sync.Mutex
	clients map[string]*client
}

// client is what the partner makes of a client, and what it has seen of it.
type client struct {
	lifetime int           // of tokens, in seconds
	delay    time.Duration // of the endpoint's answers
	fault    http.HandlerFunc
	reject   string // the error in the API's challenge, whatever the token; empty for none

	asked    int // token requests
	issued   int // tokens, which are numbered
	revoked  int // of these, the first
	rejected int // requests to the API
}

func startPartner(t testing.TB, clients map[string]*client) *partner {
	p := &partner{clients: clients}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{client}/token", p.serveToken)
	mux.HandleFunc("/{client}/api", p.serveAPI)
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

// change changes a client, or looks at it.
func (p *partner) change(name string, change func(*client)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p.clients[name])
}

// state is a copy of a client's.
func (p *partner) state(name string) (c client) {
	p.change(name, func(current *client) { c = *current })
	return c
}

func (p *partner) serveToken(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("client")
	time.Sleep(p.state(name).delay)
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clients[name]
	c.asked++
	if c.fault != nil {
		c.fault(w, r)
		return
	}
	c.issued++
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"access_token": fmt.Sprintf("%s-%d", name, c.issued), "token_type": "Bearer", "expires_in": c.lifetime,
	})
}

// serveAPI accepts tokens that are not revoked.
func (p *partner) serveAPI(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("client")
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clients[name]
	code := c.reject
	number, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "+name+"-")
	if n, err := strconv.Atoi(number); code == "" && (err != nil || n <= c.revoked) {
		code = "invalid_token"
	}
	if code == "" {
		return
	}
	c.rejected++
	w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer error=%q", code))
	w.WriteHeader(http.StatusUnauthorized)
}

// revoke revokes the tokens that a client has.
func (p *partner) revoke(name string) {
	p.change(name, func(c *client) { c.revoked = c.issued })
}

// Faults of the endpoint.
func refuses(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
}

func isNotWell(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }

func hangsUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
