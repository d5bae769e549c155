package operators

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func TestMetricsCountRequestsAndFetches(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, gatewaytest.Monitored(endpoint.Options()+upstream.Proxy()))
	fresh := gatewaytest.Scrape(g)
	gatewaytest.WantSamples(t, endpoint, fresh, map[string]float64{
		`requests_total token="fresh"`: 0, `requests_total token="none"`: 0, `tokens`: 0,
		`token_fetches_total result="ok" trigger="miss"`: 0, `upstream_rejections_total outcome="cured"`: 0,
	})
	for _, absent := range []string{"token_expiry_timestamp_seconds", "token_last_success_timestamp_seconds"} {
		if value, ok := fresh[gatewaytest.SampleOf(endpoint, absent, "app")]; ok {
			t.Errorf("%s is %v before there was a token", absent, value)
		}
	}

	before := time.Now()
	for range 3 {
		if a := g.Get("/"); a.Status != http.StatusOK {
			t.Fatalf("got %d", a.Status)
		}
	}
	found := gatewaytest.Scrape(g)
	gatewaytest.WantSamples(t, endpoint, found, map[string]float64{
		`requests_total token="fetched"`: 1, `requests_total token="fresh"`: 2, `requests_total token="stale"`: 0, `requests_total token="none"`: 0,
		`token_fetches_total result="ok" trigger="miss"`: 1,
		`token_fetch_duration_seconds_count`:             1, `token_wait_duration_seconds_count`: 1,
		`token_fetch_duration_seconds_bucket le="30"`: 1,
		`tokens`: 1,
	})
	for name, want := range map[string]time.Time{
		"token_expiry_timestamp_seconds":       before.Add(time.Hour),
		"token_last_success_timestamp_seconds": before,
	} {
		seconds := found[gatewaytest.SampleOf(endpoint, name, "app")]
		if off := time.UnixMilli(int64(1000 * seconds)).Sub(want); off < -time.Millisecond || off > gatewaytest.Patience {
			t.Errorf("%s is %s off", name, off)
		}
	}
}

func TestMetricsCountFailures(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	refuse := func(w http.ResponseWriter, _ *http.Request, _ int) {
		http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
	}
	endpoint.SetAnswer(refuse)
	g := gatewaytest.Start(t, gatewaytest.Monitored(endpoint.Options()+upstream.Proxy()))
	for range 3 {
		if a := g.Get("/"); a.Status != http.StatusBadGateway {
			t.Fatalf("got %d", a.Status)
		}
	}
	gatewaytest.WantSamples(t, endpoint, gatewaytest.Scrape(g), map[string]float64{
		`requests_total token="none"`: 3, `requests_total token="fetched"`: 0, `tokens`: 0,
		`token_fetches_total result="invalid_client" trigger="miss"`: 1,
		`token_fetch_duration_seconds_count`:                         1, `token_wait_duration_seconds_count`: 1,
	})
}

func TestMetricsCountRejections(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	upstream.ClosePath("/closed")
	g := gatewaytest.Start(t, gatewaytest.Monitored(endpoint.Options("replay_buffer 1KiB 1KiB")+upstream.Proxy()))
	g.Get("/")
	upstream.Revoke("token-1")
	if a := g.Get("/"); a.Body != "GET / with token-2" {
		t.Fatalf("got %d %q", a.Status, a.Body)
	}
	upstream.SetReject(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	upstream.Revoke("token-2")
	g.Get("/")
	want := map[string]float64{
		`upstream_rejections_total outcome="cured"`: 1, `upstream_rejections_total outcome="passed"`: 1,
		`upstream_rejections_total outcome="uncured"`: 0, `upstream_rejections_total outcome="not_replayable"`: 0,
		`token_fetches_total result="ok" trigger="rejected"`: 1,
	}
	gatewaytest.WantSamples(t, endpoint, gatewaytest.Scrape(g), want)

	upstream.SetReject(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	g.Post("/", "text/plain", strings.Repeat("x", 1<<20))
	want[`upstream_rejections_total outcome="not_replayable"`]++
	gatewaytest.WantSamples(t, endpoint, gatewaytest.Scrape(g), want)
}

func TestMetricsCountUncuredRejections(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	upstream.ClosePath("/closed")
	g := gatewaytest.Start(t, gatewaytest.Monitored(endpoint.Options()+upstream.Proxy()))
	for range 2 { // the second is not due
		if a := g.Get("/closed"); a.Status != http.StatusUnauthorized {
			t.Fatalf("got %d", a.Status)
		}
	}
	gatewaytest.WantSamples(t, endpoint, gatewaytest.Scrape(g), map[string]float64{
		`upstream_rejections_total outcome="uncured"`: 1, `upstream_rejections_total outcome="passed"`: 1,
	})
}

func TestMetricsWithoutARejectedTokensReplacement(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, gatewaytest.Monitored(endpoint.Options()+upstream.Proxy()))
	g.Get("/")
	upstream.Revoke("token-1")
	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusBadRequest) })
	if a := g.Get("/"); a.Status != http.StatusBadGateway {
		t.Fatalf("got %d", a.Status)
	}
	gatewaytest.WantSamples(t, endpoint, gatewaytest.Scrape(g), map[string]float64{
		`upstream_rejections_total outcome="uncured"`: 1, `requests_total token="fresh"`: 1, `requests_total token="none"`: 0,
		`token_fetches_total result="refused" trigger="rejected"`: 1,
	})
}

// What a client brings of its own, and what must not have a token, is not the gateway's.
func TestMetricsDoNotCountRequestsThatGetNoToken(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, gatewaytest.Monitored(endpoint.Options("keep_client_authorization")+upstream.Proxy()))
	req := gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil)
	req.Header.Set("Authorization", "Bearer own")
	g.Do(req)
	g.Do(gatewaytest.ClientRequest(t, http.MethodTrace, g.URL("/"), nil))
	for name, value := range gatewaytest.Scrape(g) {
		if value != 0 {
			t.Errorf("%s is %v", name, value)
		}
	}
}

func TestMetricsSurviveReloads(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	site := gatewaytest.Monitored(endpoint.Options() + upstream.Proxy())
	g := gatewaytest.Start(t, site)
	g.Get("/")
	want := map[string]float64{
		`requests_total token="fetched"`: 1, `requests_total token="fresh"`: 0, `tokens`: 1,
		`token_fetches_total result="ok" trigger="miss"`: 1,
	}
	for range 3 {
		g.Reload(site)
		gatewaytest.WantSamples(t, endpoint, gatewaytest.Scrape(g), want)
	}
	if err := g.TryReload(site + "\nhandle /other {\n" + endpoint.Options("client_id other", "auth_method nonsense") + "\n}"); err == nil {
		t.Fatal("the configuration was loaded")
	}
	for name := range gatewaytest.Scrape(g) {
		if strings.Contains(name, "other") {
			t.Errorf("%s is of a configuration that was never loaded", name)
		}
	}
	gatewaytest.WantSamples(t, endpoint, gatewaytest.Scrape(g), want)

	g.Get("/")
	want[`requests_total token="fresh"`]++
	g.Reload(gatewaytest.Monitored(endpoint.Options("refresh_ahead off") + upstream.Proxy()))
	gatewaytest.WantSamples(t, endpoint, gatewaytest.Scrape(g), want)

	g.Reload("handle /metrics {\nmetrics\n}")
	if left := gatewaytest.Scrape(g); len(left) > 0 {
		t.Errorf("still there: %v", left)
	}
}

func TestMetricsOfSeveralHandlersAndServers(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, "")
	second := &gatewaytest.Gateway{T: t, Addr: gatewaytest.FreeAddr(t), Logs: g.Logs}
	site := func(g *gatewaytest.Gateway, clientID string) string {
		return fmt.Sprintf("http://%s {\n%s\n}\n", g.Addr, gatewaytest.Monitored(
			strings.Replace(endpoint.Options(), "client_id app", "client_id "+clientID, 1)+upstream.Proxy()))
	}
	load := func(sites string) {
		t.Helper()
		if err := gatewaytest.Load(sites); err != nil {
			t.Fatal(err)
		}
	}
	load(site(g, "app") + site(second, "app"))
	g.Get("/")
	second.Get("/")
	for _, scraped := range []*gatewaytest.Gateway{g, second} {
		gatewaytest.WantSamples(t, endpoint, gatewaytest.Scrape(scraped), map[string]float64{
			`requests_total token="fetched"`: 1, `requests_total token="fresh"`: 1, `tokens`: 1,
		})
	}
	load(site(g, "app") + site(second, "other"))
	second.Get("/")
	found := gatewaytest.Scrape(g)
	gatewaytest.WantSamples(t, endpoint, found, map[string]float64{`requests_total token="fetched"`: 1, `tokens`: 1})
	if got := found[gatewaytest.SampleOf(endpoint, "requests_total", "other", `token="fetched"`)]; got != 1 {
		t.Errorf("%v requests of the other client", got)
	}
}

// Who does not wait for the token says nothing of whether there is one.
func TestMetricsOfClientsThatGoAway(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	release := make(chan struct{})
	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		<-release
		endpoint.Grant(w)
	})
	g := gatewaytest.Start(t, gatewaytest.Monitored(endpoint.Options()+upstream.Proxy()))
	ctx, leave := context.WithCancel(t.Context())
	req := gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil).WithContext(ctx)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if _, err := gatewaytest.Exchange(gatewaytest.Client, req); err == nil {
			t.Error("the client did not go away")
		}
	}()
	gatewaytest.Await(t, "the endpoint is asked", func() bool { return endpoint.Count() == 1 })
	leave()
	<-gone
	gatewaytest.Await(t, "the wait is over", func() bool {
		return gatewaytest.Scrape(g)[gatewaytest.SampleOf(endpoint, "token_wait_duration_seconds_count", "app")] == 1
	})
	close(release)
	gatewaytest.WantSamples(t, endpoint, gatewaytest.Scrape(g), map[string]float64{`requests_total token="none"`: 0, `requests_total token="fetched"`: 0})
}

// Two grants of one client are one line on a graph: that which needs an eye.
func TestMetricsOfGrantsWithTheSameLabels(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, gatewaytest.Monitored("handle /long {\n"+endpoint.Options("scope long")+upstream.Proxy()+"}\nhandle /short {\n"+
		endpoint.Options("scope short")+upstream.Proxy()+"}\n"))
	g.Get("/long")
	endpoint.SetLifetime(100)
	g.Get("/short")
	found := gatewaytest.Scrape(g)
	gatewaytest.WantSamples(t, endpoint, found, map[string]float64{`tokens`: 2, `requests_total token="fetched"`: 2})
	left := time.Until(time.Unix(int64(found[gatewaytest.SampleOf(endpoint, "token_expiry_timestamp_seconds", "app")]), 0))
	if left > 100*time.Second {
		t.Errorf("the earliest expires in %s", left)
	}
}

func TestMetricsOfManyTenantsAreBounded(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, gatewaytest.Monitored(strings.Replace(endpoint.Options("scope {http.request.header.X-Tenant}"), "client_id app", "client_id {http.request.header.X-Tenant}", 1)+upstream.Proxy()))
	before := len(gatewaytest.Scrape(g))
	const tenants = 20
	for i := range tenants {
		req := gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil)
		req.Header.Set("X-Tenant", fmt.Sprintf("tenant-%d", i))
		g.Do(req)
	}
	g.Get("/") // without a tenant
	found := gatewaytest.Scrape(g)
	const appeared = 2 // the expiry and the last success
	if len(found) != before+appeared {
		t.Errorf("%d samples, and %d without requests", len(found), before)
	}
	for sample, want := range map[string]float64{
		gatewaytest.SampleOf(endpoint, "tokens", "dynamic"):                                               tenants,
		gatewaytest.SampleOf(endpoint, "requests_total", "dynamic", `token="fetched"`):                    tenants,
		gatewaytest.SampleOf(endpoint, "requests_total", "dynamic", `token="none"`):                       1,
		gatewaytest.SampleOf(endpoint, "token_fetches_total", "dynamic", `result="ok"`, `trigger="miss"`): tenants,
	} {
		if found[sample] != want {
			t.Errorf("%s = %v, want %v", sample, found[sample], want)
		}
	}
}
