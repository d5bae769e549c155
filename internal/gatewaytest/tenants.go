package gatewaytest

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// TenantServer is a token endpoint with several clients. It grants of-<client_id>-1,
// of-<client_id>-2, … to whoever has that client's secret.
type TenantServer struct {
	*TokenServer

	State   sync.Mutex
	Secrets map[string]string
	grants  map[string]int
}

func StartTenantServer(t testing.TB, secrets map[string]string) *TenantServer {
	s := &TenantServer{TokenServer: StartTokenServer(t), Secrets: secrets, grants: make(map[string]int)}
	s.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) { s.Serve(w, r) })
	return s
}

func (s *TenantServer) Serve(w http.ResponseWriter, r *http.Request) {
	id, secret, _ := r.BasicAuth()
	s.State.Lock()
	defer s.State.Unlock()
	if secret == "" || s.Secrets[id] != secret {
		http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
		return
	}
	s.grants[id]++
	fmt.Fprintf(w, `{"access_token":"of-%s-%d","token_type":"Bearer","expires_in":3600}`, id, s.grants[id])
}

// Becomes replaces a client's secret.
func (s *TenantServer) Becomes(id, secret string) {
	s.State.Lock()
	defer s.State.Unlock()
	s.Secrets[id] = secret
}

// TenantMap is a map from the header to what is in the lines.
func TenantMap(destinations string, lines ...string) string {
	return "map {header.X-Tenant} " + destinations + " {\n" + strings.Join(lines, "\n") + "\n}\n"
}

// MappedSite has the clients a and b for tenants of these names.
func MappedSite(s *TenantServer, upstream *API, more ...string) string {
	return TenantMap("{id} {secret}", "a a-id s3cret-canary-a", "b b-id s3cret-canary-b") +
		"oauth_cc " + s.URL + "/token {\nclient_id {id}\nclient_secret {secret}\n" + strings.Join(more, "\n") + "\n}\n" + upstream.Proxy()
}

func MappedSecrets() map[string]string {
	return map[string]string{"a-id": "s3cret-canary-a", "b-id": "s3cret-canary-b"}
}

func AskAsTenant(g *Gateway, tenant string) Answer {
	g.T.Helper()
	return SendLines(g.T, http.MethodGet, g.URL("/"), "", "X-Tenant: "+tenant)
}

// WantMissing checks how often the log names a placeholder without a value.
func WantMissing(t testing.TB, g *Gateway, says string, want int) {
	t.Helper()
	count := 0
	for _, entry := range g.Logs.With("no token for a request") {
		if entry["error"] == says && entry["level"] == "error" {
			count++
		}
	}
	if count != want {
		t.Errorf("the log says %d times %q, want %d: %v", count, says, want, g.Logs.With("no token for a request"))
	}
}

func TenantRequest(t *testing.T, g *Gateway, tenant string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, g.URL("/"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Tenant", tenant)
	return req
}
