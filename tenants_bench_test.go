package oauthcc

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// newTenantHandler has a token for each of so many tenants, called 0, 1, …
func newTenantHandler(t testing.TB, tenants, tokenLength int) *Handler {
	t.Helper()
	h := handlerInMemory(t, &Handler{Scopes: []string{"{" + tenantPlaceholder + "}"}, MaxTokens: max(tenants, 100)})
	granted := 0
	h.tokens.client.Transport = servertest.Func(func(req *http.Request) (*http.Response, error) {
		granted++
		value := fmt.Sprintf("%d-%s", granted, strings.Repeat("x", tokenLength))[:tokenLength]
		return servertest.Answer{Body: `{"access_token":"` + value + `","token_type":"Bearer","expires_in":3600}`}.RoundTrip(req)
	})
	for n := range tenants {
		r := requestInCaddy(http.MethodGet, "/", nil)
		r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set(tenantPlaceholder, fmt.Sprint(n))
		if err := h.ServeHTTP(httptest.NewRecorder(), r, trivialNext); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// heapInUse is what the garbage collector leaves.
func heapInUse() uint64 {
	var stats runtime.MemStats
	for range 3 { // what has a finalizer takes more than one round
		runtime.GC()
	}
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// What a token takes up in the cache is not much more than the token.
func TestMemoryOfACachedToken(t *testing.T) {
	const tenants, tokenLength, most = 20000, 1024, 2048
	before := heapInUse()
	h := newTenantHandler(t, tenants, tokenLength)
	after := heapInUse()
	if n := len(h.tokens.table.All()); n != tenants {
		t.Fatalf("%d entries", n)
	}
	perToken := (int64(after)-int64(before))/tenants - tokenLength
	t.Logf("%d bytes beside the %d of each token", perToken, tokenLength)
	if perToken <= 0 || perToken > most {
		t.Errorf("a token takes %d bytes beside its own, want no more than %d", perToken, most)
	}
	runtime.KeepAlive(h)
}

// benchmarkTenants measures requests of all tenants in turn.
func benchmarkTenants(b *testing.B, tenants int, parallel bool) {
	h := newTenantHandler(b, tenants, 1024)
	names := make([]string, tenants)
	for n := range names {
		names[n] = fmt.Sprint(n)
	}
	var requests atomic.Int64
	benchmarkHandler(b, nil, parallel, func(w http.ResponseWriter, r *http.Request) error {
		// Coprime to the numbers, so that the next tenant is not the one beside.
		n := requests.Add(7919) % int64(tenants)
		r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set(tenantPlaceholder, names[n])
		return h.ServeHTTP(w, r, trivialNext)
	})
}

func BenchmarkPerRequest_10(b *testing.B)           { benchmarkTenants(b, 10, false) }
func BenchmarkPerRequest_1000(b *testing.B)         { benchmarkTenants(b, 1000, false) }
func BenchmarkPerRequest_100000(b *testing.B)       { benchmarkTenants(b, 100000, false) }
func BenchmarkPerRequest_1000Parallel(b *testing.B) { benchmarkTenants(b, 1000, true) }
