package oauthcc

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// benchmarkProvision measures what it takes to load so many handlers, each with a grant of its own. No endpoint is
// asked.
func benchmarkProvision(b *testing.B, handlers int) {
	b.ReportAllocs()
	var memory int64
	for b.Loop() {
		b.StopTimer()
		before := heapInUse()
		b.StartTimer()
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		loaded := make([]*Handler, handlers)
		for n := range loaded {
			h := &Handler{TokenEndpoint: "http://127.0.0.1:1/token", ClientID: fmt.Sprintf("%s-%d", b.Name(), n), ClientSecret: "secret"}
			if err := h.Provision(ctx); err != nil {
				b.Fatal(err)
			}
			loaded[n] = h
		}
		b.StopTimer()
		memory = int64(heapInUse()) - int64(before)
		for _, h := range loaded {
			if h.tokens.source.grant.Current() != nil {
				b.Fatal("a token was fetched")
			}
			if err := h.Cleanup(); err != nil {
				b.Fatal(err)
			}
		}
		cancel()
		b.StartTimer()
	}
	b.ReportMetric(float64(memory)/float64(handlers), "heap-B/handler")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*handlers), "us/handler")
}

func BenchmarkProvision_1(b *testing.B)     { benchmarkProvision(b, 1) }
func BenchmarkProvision_100(b *testing.B)   { benchmarkProvision(b, 100) }
func BenchmarkProvision_10000(b *testing.B) { benchmarkProvision(b, 10000) }

// benchmarkScrape measures a scrape of the metrics with so many tenants.
func benchmarkScrape(b *testing.B, tenants int) {
	newTenantHandler(b, tenants, 1024)
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(metrics); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := registry.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkScrape_10(b *testing.B)     { benchmarkScrape(b, 10) }
func BenchmarkScrape_1000(b *testing.B)   { benchmarkScrape(b, 1000) }
func BenchmarkScrape_100000(b *testing.B) { benchmarkScrape(b, 100000) }

// benchmarkListTokens measures the Admin API's list of so many tokens.
func benchmarkListTokens(b *testing.B, tenants int) {
	newTenantHandler(b, tenants, 1024)
	r := httptest.NewRequest(http.MethodGet, "/oauth_cc/tokens", nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := (adminAPI{}).list(httptest.NewRecorder(), r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkListTokens_10(b *testing.B)     { benchmarkListTokens(b, 10) }
func BenchmarkListTokens_1000(b *testing.B)   { benchmarkListTokens(b, 1000) }
func BenchmarkListTokens_100000(b *testing.B) { benchmarkListTokens(b, 100000) }

// A thousand requests come while there is no token, and wait for one fetch.
func BenchmarkWaiting_1000(b *testing.B) {
	const requests = 1000
	h := handlerInMemory(b, new(Handler))
	arrived, asked := new(sync.WaitGroup), 0
	h.tokens.client.Transport = servertest.Func(func(req *http.Request) (*http.Response, error) {
		arrived.Wait()
		asked++
		return servertest.Answer{Body: fmt.Sprintf(`{"access_token":"token-%d","token_type":"Bearer","expires_in":3600}`, asked)}.RoundTrip(req)
	})
	b.ReportAllocs()
	rounds := 0
	for b.Loop() {
		rounds++
		h.tokens.source.grant.Forget()
		arrived.Add(requests)
		var served sync.WaitGroup
		for range requests {
			served.Go(func() {
				r := requestInCaddy(http.MethodGet, "/", nil)
				arrived.Done()
				if err := h.ServeHTTP(&discardWriter{header: http.Header{}}, r, trivialNext); err != nil {
					b.Error(err)
				}
			})
		}
		served.Wait()
	}
	if asked != rounds {
		b.Errorf("the endpoint was asked %d times, want %d", asked, rounds)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(rounds*requests), "us/request")
}
