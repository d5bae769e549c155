package soak

import (
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/dpop"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// api is the API behind all sites, over HTTP/1.1 and h2c. It wants proofs at /dpop.
type api struct {
	t       testing.TB
	books   *endpoint
	server  *httptest.Server
	reports *report

	mu       sync.Mutex
	random   *rand.Rand
	tenant   string // whose tokens it rejects
	breaking bool   // some of its answers break off
}

func startAPI(t testing.TB, random *rand.Rand, books *endpoint, reports *report) *api {
	a := &api{t: t, books: books, random: random, reports: reports}
	a.server = httptest.NewUnstartedServer(a)
	config := a.server.Config
	config.ErrorLog = log.New(io.Discard, "", 0)
	config.Protocols = new(http.Protocols)
	config.Protocols.SetHTTP1(true)
	config.Protocols.SetUnencryptedHTTP2(true)
	config.HTTP2 = &http.HTTP2Config{CountError: func(kind string) { reports.counts("HTTP/2 errors that the API has seen", kind) }}
	a.server.Start()
	t.Cleanup(a.server.Close)
	return a
}

// rejects has it reject the tokens of that tenant.
func (a *api) rejects(tenant string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tenant = tenant
}

// breaksOff has it break off one answer in three.
func (a *api) breaksOff(breaking bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.breaking = breaking
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req := requestOf(r)
	if req == nil {
		a.reports.wrong("a request came to the API long after it was over")
		return
	}
	a.mu.Lock()
	tenant := a.tenant
	breaks, early := a.breaking && a.random.IntN(3) == 0, a.random.IntN(2) == 0
	a.mu.Unlock()

	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	rejected, wrong := a.books.look(token, req, tenant)
	if wrong != "" {
		a.reports.wrong("request %s of %s came with %s", req.id, req.grant, wrong)
	}
	a.checkProof(r, req, scheme, token)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // its client has left
	}
	if got := sum(body); req.method == http.MethodPost && got != sum(req.body()) {
		a.reports.wrong("request %s: %d bytes have come with another checksum", req.id, len(body))
	}

	req.mu.Lock()
	req.attempts++
	if rejected != "" {
		again := req.wasRejected(token, rejected)
		req.mu.Unlock()
		if again {
			a.reports.wrong("request %s came with the rejected token again (%s)", req.id, rejected)
		}
		a.reports.counts("rejections by the API", rejected)
		w.Header().Set("WWW-Authenticate", scheme+` error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	req.carried++
	req.reset = req.reset || breaks
	req.mu.Unlock()

	answer := req.wanted()
	if !breaks {
		_, _ = io.WriteString(w, answer)
		return
	}
	if !early {
		w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
		_, _ = io.WriteString(w, answer[:len(answer)/2])
		_ = http.NewResponseController(w).Flush()
	}
	panic(http.ErrAbortHandler)
}

// checkProof does so where tokens are bound.
func (a *api) checkProof(r *http.Request, req *request, scheme, token string) {
	if !strings.HasPrefix(req.grant, "dpop/") {
		if scheme != "Bearer" {
			a.reports.wrong("request %s has the scheme %q", req.id, scheme)
		}
		return
	}
	proof, err := gatewaytest.VerifyProof(r, dpop.Target(a.server.URL, r.URL), token)
	if err != nil {
		a.reports.wrong("request %s: its proof is wrong: %v", req.id, err)
	}
	if key := a.books.keyOf(token); scheme != "DPoP" || key != "" && key != proof.Key {
		a.reports.wrong("request %s: the scheme is %s, or the proof is of another key than the token's", req.id, scheme)
	}
	req.mu.Lock()
	defer req.mu.Unlock()
	// A GET whose connection breaks before the answer is sent again as it is, by the transport.
	if slices.Contains(req.proofs, proof.ID) && !req.reset {
		a.reports.wrong("request %s: its proof was used before", req.id)
	}
	req.proofs = append(req.proofs, proof.ID)
}
