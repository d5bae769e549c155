package gatewaytest

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// API is a stand-in for a partner's API: it accepts the tokens that were not revoked
// and tells what it got.
type API struct {
	*httptest.Server

	mu       sync.Mutex
	revoked  map[string]bool
	served   []ServedRequest
	reject   func(w http.ResponseWriter, r *http.Request) // nil: 401 with a challenge
	rejected int

	closedPath string
}

type ServedRequest struct {
	Method, URI, Host string
	Header, Trailer   http.Header
	Body              string
}

func StartAPI(t testing.TB) *API {
	a := &API{revoked: make(map[string]bool)}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	a.Server = httptest.NewUnstartedServer(a)
	a.Config.Protocols = protocols
	a.Start()
	t.Cleanup(a.Close)
	return a
}

func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	authorization := r.Header.Values("Authorization")
	token, isBearer := "", false
	if len(authorization) == 1 {
		token, isBearer = strings.CutPrefix(authorization[0], "Bearer ")
	}
	a.mu.Lock()
	valid := isBearer && token != "" && !a.revoked[token]
	reject := a.reject
	if !valid {
		a.rejected++
	}
	closed := r.URL.Path == a.closedPath
	a.mu.Unlock()
	if closed {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if !valid {
		if reject != nil {
			reject(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="api", error="invalid_token"`)
		http.Error(w, "token rejected", http.StatusUnauthorized)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "incomplete body: "+err.Error(), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	a.served = append(a.served, ServedRequest{r.Method, r.URL.RequestURI(), r.Host, r.Header.Clone(), r.Trailer.Clone(), string(body)})
	a.mu.Unlock()
	fmt.Fprintf(w, "%s %s with %s", r.Method, r.URL.RequestURI(), token)
}

// Revoke makes the API reject a token from now on.
func (a *API) Revoke(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked[token] = true
}

// SetReject replaces how the API rejects a token.
func (a *API) SetReject(reject func(w http.ResponseWriter, r *http.Request)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reject = reject
}

// ClosePath makes the API reject every token at a path, without saying why.
func (a *API) ClosePath(path string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closedPath = path
}

// Accepted are the requests that were accepted, in order.
func (a *API) Accepted() []ServedRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.served)
}

// Rejections is the number of requests that were rejected for their token.
func (a *API) Rejections() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rejected
}

// Last is the last request that was accepted.
func (a *API) Last(t testing.TB) ServedRequest {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.served) == 0 {
		t.Fatal("the API served nothing")
	}
	return a.served[len(a.served)-1]
}

// Proxy is the reverse_proxy directive for the API.
func (a *API) Proxy(options ...string) string {
	return "reverse_proxy " + a.Listener.Addr().String() + " {\n" + strings.Join(options, "\n") + "\n}\n"
}
