package oauthcc

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// endpointInMemory grants token-1, token-2, … without a network.
type endpointInMemory struct{ granted atomic.Int64 }

func (e *endpointInMemory) RoundTrip(req *http.Request) (*http.Response, error) {
	body := fmt.Sprintf(`{"access_token":"token-%d","token_type":"Bearer","expires_in":3600}`, e.granted.Add(1))
	return &http.Response{
		StatusCode: 200, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header: http.Header{"Content-Type": {"application/json"}},
		Body:   io.NopCloser(strings.NewReader(body)),
	}, nil
}

// handlerInMemory is a handler as a configuration has it, with an endpoint in
// memory and a grant of its own.
func handlerInMemory(t testing.TB, h *Handler) *Handler {
	t.Helper()
	if h.ClientID = t.Name(); h.Issuer == "" {
		h.TokenEndpoint = cmp.Or(h.TokenEndpoint, "http://127.0.0.1/token")
	}
	if h.ClientSecret == "" && h.SigningKey == nil && h.ClientAssertion == nil && h.AuthMethod != endpoint.AuthTLS {
		h.ClientSecret = "secret"
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Cleanup() })
	h.tokens.client.Transport, h.reporter.logger = new(endpointInMemory), zap.NewNop()
	return h
}

// trivialNext answers like the shortest of upstreams.
var trivialNext = caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
	if r.Body != http.NoBody {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return err
		}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
})

// discardWriter is the writer of a client that is not there.
type discardWriter struct{ header http.Header }

func (w *discardWriter) Header() http.Header         { return w.header }
func (w *discardWriter) WriteHeader(int)             {}
func (w *discardWriter) Write(p []byte) (int, error) { return len(p), nil }

// benchmarkHandler measures serve and what a server does for each request at the
// least: a context that ends with it. All else is made once.
func benchmarkHandler(b *testing.B, body []byte, parallel bool, serve func(http.ResponseWriter, *http.Request) error) {
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	loop := func(next func() bool) {
		made := requestInCaddy(http.MethodGet, "http://gateway.example/v1/orders?page=2", bytes.NewReader(body))
		made.Header = http.Header{ // as a service sends it
			"Accept": {"application/json"}, "Accept-Encoding": {"gzip"}, "Accept-Language": {"en"}, "Cache-Control": {"no-cache"},
			"Content-Type": {"application/json"}, "Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
			"User-Agent": {"benchmark/1.0"}, "X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Host": {"gateway.example"},
			"X-Forwarded-Proto": {"https"}, "X-Request-Id": {"0123456789abcdef"}, "X-Tenant": {"acme"},
		}
		if body == nil {
			made.Body = http.NoBody
		}
		reader := bytes.NewReader(body)
		content := io.NopCloser(reader)
		w := &discardWriter{header: http.Header{"Server": {"Caddy"}}}
		r := new(http.Request)
		for next() {
			ctx, cancel := context.WithCancel(made.Context())
			*r = *made.WithContext(ctx)
			if body != nil {
				reader.Reset(body)
				r.Body = content
			}
			if err := serve(w, r); err != nil {
				b.Error(err)
			}
			cancel()
		}
	}
	if parallel {
		b.RunParallel(func(pb *testing.PB) { loop(pb.Next) })
		return
	}
	loop(b.Loop)
}

func benchmarkFresh(b *testing.B, h *Handler, body []byte, parallel bool) {
	h = handlerInMemory(b, h)
	if err := h.ServeHTTP(httptest.NewRecorder(), requestInCaddy("GET", "/", nil), trivialNext); err != nil {
		b.Fatal(err)
	}
	benchmarkHandler(b, body, parallel, func(w http.ResponseWriter, r *http.Request) error {
		return h.ServeHTTP(w, r, trivialNext)
	})
}

// While the next token is fetched, requests use the one at hand.
func BenchmarkServeHTTP_Stale(b *testing.B) {
	h := handlerInMemory(b, &Handler{RefreshAhead: "90%"})
	old := grantingSource{endpoint.Granted{Value: "token-1", Sent: time.Now().Add(-time.Hour), Lifetime: 2 * time.Hour}, nil}
	if _, err := h.tokens.source.grant.Get(b.Context(), old); err != nil {
		b.Fatal(err)
	}
	h.tokens.client.Transport = servertest.Hanging
	benchmarkHandler(b, nil, false, func(w http.ResponseWriter, r *http.Request) error {
		return h.ServeHTTP(w, r, trivialNext)
	})
}

var body64K = bytes.Repeat([]byte("x"), 64<<10)

func BenchmarkNextAlone(b *testing.B)      { benchmarkHandler(b, nil, false, trivialNext) }
func BenchmarkNextAlone_Body(b *testing.B) { benchmarkHandler(b, body64K, false, trivialNext) }

func BenchmarkServeHTTP_Fresh(b *testing.B)         { benchmarkFresh(b, new(Handler), nil, false) }
func BenchmarkServeHTTP_FreshParallel(b *testing.B) { benchmarkFresh(b, new(Handler), nil, true) }
func BenchmarkServeHTTP_FreshBody(b *testing.B)     { benchmarkFresh(b, new(Handler), body64K, false) }
func BenchmarkServeHTTP_RetryOff(b *testing.B) {
	benchmarkFresh(b, &Handler{RetryStatus: []int{}}, nil, false)
}
func BenchmarkServeHTTP_RetryOffBody(b *testing.B) {
	benchmarkFresh(b, &Handler{RetryStatus: []int{}}, body64K, false)
}

// What DPoP costs is the signature of each request's proof.
func BenchmarkServeHTTP_DPoP(b *testing.B) {
	h := handlerInMemory(b, &Handler{DPoP: "https://api.example.com"})
	h.tokens.client.Transport = servertest.Func(func(req *http.Request) (*http.Response, error) {
		return servertest.Answer{Body: `{"access_token":"token-1","token_type":"DPoP","expires_in":3600}`}.RoundTrip(req)
	})
	benchmarkHandler(b, nil, false, func(w http.ResponseWriter, r *http.Request) error {
		delete(r.Header, "Authorization")
		return h.ServeHTTP(w, r, trivialNext)
	})
}
