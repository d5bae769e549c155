package oauthcc

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// monitored is a site that serves metrics as well.
func monitored(site string) string {
	return "handle /metrics {\nmetrics\n}\nhandle {\n" + site + "\n}\n"
}

// samples are what a scrape finds, by name and labels as they are written.
type samples map[string]float64

// scrape reads the module's metrics.
func (g *gateway) scrape() samples {
	g.t.Helper()
	a := g.get("/metrics")
	if a.status != http.StatusOK {
		g.t.Fatalf("scraping: %d %s", a.status, a.body)
	}
	found := make(samples)
	for line := range strings.Lines(a.body) {
		if !strings.HasPrefix(line, "caddy_oauth_cc_") {
			continue
		}
		end := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(strings.TrimSpace(line[end+1:]), 64)
		if err != nil {
			g.t.Fatalf("scraping: %v in %q", err, line)
		}
		found[strings.TrimPrefix(line[:end], "caddy_oauth_cc_")] = value
	}
	return found
}

// with is a sample of the endpoint's.
func (s *tokenServer) sample(name, clientID string, more ...string) string {
	u, err := url.Parse(s.URL)
	if err != nil {
		panic(err)
	}
	labels := append([]string{fmt.Sprintf("client_id=%q", clientID), fmt.Sprintf(`endpoint="%s/token"`, u.Host)}, more...)
	slices.Sort(labels)
	return name + "{" + strings.Join(labels, ",") + "}"
}

// wantSamples wants these values of the samples whose client is app.
func (s *tokenServer) wantSamples(t testing.TB, found samples, want map[string]float64) {
	t.Helper()
	for _, short := range slices.Sorted(maps.Keys(want)) {
		name, labels, _ := strings.Cut(short, " ")
		full := s.sample(name, "app", strings.Fields(labels)...)
		if got, ok := found[full]; !ok || got != want[short] {
			t.Errorf("%s = %v (there: %t), want %v", full, got, ok, want[short])
		}
	}
}

func TestMetricsCountRequestsAndFetches(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, monitored(endpoint.options()+upstream.proxy()))
	fresh := g.scrape()
	endpoint.wantSamples(t, fresh, map[string]float64{
		`requests_total token="fresh"`: 0, `requests_total token="none"`: 0, `tokens`: 0,
		`token_fetches_total result="ok" trigger="miss"`: 0, `upstream_rejections_total outcome="cured"`: 0,
	})
	for _, absent := range []string{"token_expiry_timestamp_seconds", "token_last_success_timestamp_seconds"} {
		if value, ok := fresh[endpoint.sample(absent, "app")]; ok {
			t.Errorf("%s is %v before there was a token", absent, value)
		}
	}

	before := time.Now()
	for range 3 {
		if a := g.get("/"); a.status != http.StatusOK {
			t.Fatalf("got %d", a.status)
		}
	}
	found := g.scrape()
	endpoint.wantSamples(t, found, map[string]float64{
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
		seconds := found[endpoint.sample(name, "app")]
		if off := time.UnixMilli(int64(1000 * seconds)).Sub(want); off < -time.Millisecond || off > patience {
			t.Errorf("%s is %s off", name, off)
		}
	}
}

func TestMetricsCountFailures(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	refuse := func(w http.ResponseWriter, _ *http.Request, _ int) {
		http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
	}
	endpoint.setAnswer(refuse)
	g := startGateway(t, monitored(endpoint.options()+upstream.proxy()))
	for range 3 {
		if a := g.get("/"); a.status != http.StatusBadGateway {
			t.Fatalf("got %d", a.status)
		}
	}
	endpoint.wantSamples(t, g.scrape(), map[string]float64{
		`requests_total token="none"`: 3, `requests_total token="fetched"`: 0, `tokens`: 0,
		`token_fetches_total result="invalid_client" trigger="miss"`: 1,
		`token_fetch_duration_seconds_count`:                         1, `token_wait_duration_seconds_count`: 1,
	})
}

func TestMetricsCountRejections(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	upstream.closedPath = "/closed"
	g := startGateway(t, monitored(endpoint.options("replay_buffer 1KiB 1KiB")+upstream.proxy()))
	g.get("/")
	upstream.revoke("token-1")
	if a := g.get("/"); a.body != "GET / with token-2" {
		t.Fatalf("got %d %q", a.status, a.body)
	}
	upstream.setReject(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	upstream.revoke("token-2")
	g.get("/")
	want := map[string]float64{
		`upstream_rejections_total outcome="cured"`: 1, `upstream_rejections_total outcome="passed"`: 1,
		`upstream_rejections_total outcome="uncured"`: 0, `upstream_rejections_total outcome="not_replayable"`: 0,
		`token_fetches_total result="ok" trigger="rejected"`: 1,
	}
	endpoint.wantSamples(t, g.scrape(), want)

	upstream.setReject(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	g.post("/", "text/plain", strings.Repeat("x", 1<<20))
	want[`upstream_rejections_total outcome="not_replayable"`]++
	endpoint.wantSamples(t, g.scrape(), want)
}

func TestMetricsCountUncuredRejections(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	upstream.closedPath = "/closed"
	g := startGateway(t, monitored(endpoint.options()+upstream.proxy()))
	for range 2 { // the second is not due
		if a := g.get("/closed"); a.status != http.StatusUnauthorized {
			t.Fatalf("got %d", a.status)
		}
	}
	endpoint.wantSamples(t, g.scrape(), map[string]float64{
		`upstream_rejections_total outcome="uncured"`: 1, `upstream_rejections_total outcome="passed"`: 1,
	})
}

func TestMetricsWithoutARejectedTokensReplacement(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, monitored(endpoint.options()+upstream.proxy()))
	g.get("/")
	upstream.revoke("token-1")
	endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusBadRequest) })
	if a := g.get("/"); a.status != http.StatusBadGateway {
		t.Fatalf("got %d", a.status)
	}
	endpoint.wantSamples(t, g.scrape(), map[string]float64{
		`upstream_rejections_total outcome="uncured"`: 1, `requests_total token="fresh"`: 1, `requests_total token="none"`: 0,
		`token_fetches_total result="refused" trigger="rejected"`: 1,
	})
}

// What a client brings of its own, and what must not have a token, is not the gateway's.
func TestMetricsDoNotCountRequestsThatGetNoToken(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, monitored(endpoint.options("keep_client_authorization")+upstream.proxy()))
	req := clientRequest(t, http.MethodGet, g.url("/"), nil)
	req.Header.Set("Authorization", "Bearer own")
	g.do(req)
	g.do(clientRequest(t, http.MethodTrace, g.url("/"), nil))
	for name, value := range g.scrape() {
		if value != 0 {
			t.Errorf("%s is %v", name, value)
		}
	}
}

func TestMetricsSurviveReloads(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	site := monitored(endpoint.options() + upstream.proxy())
	g := startGateway(t, site)
	g.get("/")
	want := map[string]float64{
		`requests_total token="fetched"`: 1, `requests_total token="fresh"`: 0, `tokens`: 1,
		`token_fetches_total result="ok" trigger="miss"`: 1,
	}
	for range 3 {
		g.reload(site)
		endpoint.wantSamples(t, g.scrape(), want)
	}
	if err := g.tryReload(site + "\nhandle /other {\n" + endpoint.options("client_id other", "auth_method nonsense") + "\n}"); err == nil {
		t.Fatal("the configuration was loaded")
	}
	for name := range g.scrape() {
		if strings.Contains(name, "other") {
			t.Errorf("%s is of a configuration that was never loaded", name)
		}
	}
	endpoint.wantSamples(t, g.scrape(), want)

	g.get("/")
	want[`requests_total token="fresh"`]++
	g.reload(monitored(endpoint.options("refresh_ahead off") + upstream.proxy()))
	endpoint.wantSamples(t, g.scrape(), want)

	g.reload("handle /metrics {\nmetrics\n}")
	if left := g.scrape(); len(left) > 0 {
		t.Errorf("still there: %v", left)
	}
}

func TestMetricsOfSeveralHandlersAndServers(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, "")
	second := &gateway{t: t, addr: freeAddr(t), logs: g.logs}
	site := func(g *gateway, clientID string) string {
		return fmt.Sprintf("http://%s {\n%s\n}\n", g.addr, monitored(
			strings.Replace(endpoint.options(), "client_id app", "client_id "+clientID, 1)+upstream.proxy()))
	}
	load := func(sites string) {
		t.Helper()
		if err := loadCaddyfile(sites); err != nil {
			t.Fatal(err)
		}
		g.awaitOldListener()
		second.awaitOldListener()
	}
	load(site(g, "app") + site(second, "app"))
	g.get("/")
	second.get("/")
	for _, scraped := range []*gateway{g, second} {
		endpoint.wantSamples(t, scraped.scrape(), map[string]float64{
			`requests_total token="fetched"`: 1, `requests_total token="fresh"`: 1, `tokens`: 1,
		})
	}
	load(site(g, "app") + site(second, "other"))
	second.get("/")
	found := g.scrape()
	endpoint.wantSamples(t, found, map[string]float64{`requests_total token="fetched"`: 1, `tokens`: 1})
	if got := found[endpoint.sample("requests_total", "other", `token="fetched"`)]; got != 1 {
		t.Errorf("%v requests of the other client", got)
	}
}

// Who does not wait for the token says nothing of whether there is one.
func TestMetricsOfClientsThatGoAway(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	release := make(chan struct{})
	endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		<-release
		endpoint.grant(w)
	})
	g := startGateway(t, monitored(endpoint.options()+upstream.proxy()))
	ctx, leave := context.WithCancel(t.Context())
	req := clientRequest(t, http.MethodGet, g.url("/"), nil).WithContext(ctx)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if _, err := exchangeWith(testClient, req); err == nil {
			t.Error("the client did not go away")
		}
	}()
	awaitCondition(t, "the endpoint is asked", func() bool { return endpoint.count() == 1 })
	leave()
	<-gone
	awaitCondition(t, "the wait is over", func() bool { return g.scrape()[endpoint.sample("token_wait_duration_seconds_count", "app")] == 1 })
	close(release)
	endpoint.wantSamples(t, g.scrape(), map[string]float64{`requests_total token="none"`: 0, `requests_total token="fetched"`: 0})
}

func TestASecondCleanupTakesNothingAway(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, monitored(endpoint.options()+upstream.proxy()))
	g.get("/")
	old := handlers.running()[0]
	g.reload(monitored(endpoint.options("refresh_ahead off") + upstream.proxy()))
	before := len(g.scrape())
	cleanUpConfig(t, old)
	if after := len(g.scrape()); after != before {
		t.Errorf("%d samples have become %d", before, after)
	}
}

// Two grants of one client are one line on a graph: that which needs an eye.
func TestMetricsOfGrantsWithTheSameLabels(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, monitored("handle /long {\n"+endpoint.options("scope long")+upstream.proxy()+"}\nhandle /short {\n"+
		endpoint.options("scope short")+upstream.proxy()+"}\n"))
	g.get("/long")
	endpoint.mu.Lock()
	endpoint.lifetime = 100
	endpoint.mu.Unlock()
	g.get("/short")
	found := g.scrape()
	endpoint.wantSamples(t, found, map[string]float64{`tokens`: 2, `requests_total token="fetched"`: 2})
	left := time.Until(time.Unix(int64(found[endpoint.sample("token_expiry_timestamp_seconds", "app")]), 0))
	if left > 100*time.Second {
		t.Errorf("the earliest expires in %s", left)
	}
}

func TestMetricsOfManyTenantsAreBounded(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, monitored(strings.Replace(endpoint.options("scope {http.request.header.X-Tenant}"), "client_id app", "client_id {http.request.header.X-Tenant}", 1)+upstream.proxy()))
	before := len(g.scrape())
	const tenants = 20
	for i := range tenants {
		req := clientRequest(t, http.MethodGet, g.url("/"), nil)
		req.Header.Set("X-Tenant", fmt.Sprintf("tenant-%d", i))
		g.do(req)
	}
	g.get("/") // without a tenant
	found := g.scrape()
	const appeared = 2 // the expiry and the last success
	if len(found) != before+appeared {
		t.Errorf("%d samples, and %d without requests", len(found), before)
	}
	for sample, want := range map[string]float64{
		endpoint.sample("tokens", "dynamic"):                                               tenants,
		endpoint.sample("requests_total", "dynamic", `token="fetched"`):                    tenants,
		endpoint.sample("requests_total", "dynamic", `token="none"`):                       1,
		endpoint.sample("token_fetches_total", "dynamic", `result="ok"`, `trigger="miss"`): tenants,
	} {
		if found[sample] != want {
			t.Errorf("%s = %v, want %v", sample, found[sample], want)
		}
	}
}

// gatherFetches is how many fetches of an endpoint are counted, by their results, and how many
// of all were timed.
func gatherFetches(t *testing.T, endpoint string) map[string]int {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(metrics)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]int)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if !slices.ContainsFunc(metric.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == endpoint }) {
				continue
			}
			switch family.GetName() {
			case "caddy_oauth_cc_token_fetches_total":
				for _, label := range metric.GetLabel() {
					if label.GetName() == "result" {
						got[label.GetValue()] += int(metric.GetCounter().GetValue())
					}
				}
			case "caddy_oauth_cc_token_fetch_duration_seconds":
				got["timed"] += int(metric.GetHistogram().GetSampleCount())
			}
		}
	}
	return got
}

// A token that another gateway has got costs the endpoint nothing, and a credential that
// can't be read neither.
func TestMetricsOfFetchesThatAskNobody(t *testing.T) {
	labels := metricLabels{endpoint: "auth.example.com/" + t.Name(), clientID: "app"}
	m := newGrantMetrics(labels)
	t.Cleanup(func() { _ = m.Destruct() })
	adopted := outcome{trigger: triggerMiss}
	adopted.granted.adopted = true
	m.count(adopted)
	unread := outcome{trigger: triggerMiss}
	unread.failure = &fetchError{class: classRefused, unsent: true}
	m.count(unread)
	got := gatherFetches(t, labels.endpoint)
	maps.DeleteFunc(got, func(_ string, n int) bool { return n == 0 })
	if want := map[string]int{"shared": 1, "refused": 1}; !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}

// A fetch can outlive the configuration that began it.
func TestMetricsEndWithTheConfiguration(t *testing.T) {
	labels := metricLabels{endpoint: "auth.example.com/" + t.Name(), clientID: "app"}
	m := newGrantMetrics(labels)
	m.count(outcome{trigger: triggerMiss})
	if got := gatherFetches(t, labels.endpoint); got["ok"] != 1 {
		t.Errorf("counted %v", got)
	}
	if err := m.Destruct(); err != nil {
		t.Fatal(err)
	}
	m.count(outcome{trigger: triggerMiss})
	if got := gatherFetches(t, labels.endpoint); len(got) > 0 {
		t.Errorf("still there: %v", got)
	}
}

func TestEndpointLabel(t *testing.T) {
	t.Setenv("OAUTH_CC_TEST_TENANT", "acme")
	for config, want := range map[string]string{
		"oauth_cc https://auth.example.com/oauth/token?key=secret {\nclient_id app\nclient_secret x\n}":                "auth.example.com/oauth/token",
		"oauth_cc https://{env.OAUTH_CC_TEST_TENANT}.example.com/token {\nclient_id app\nclient_secret x\n}":           "acme.example.com/token",
		"oauth_cc {\nissuer https://auth.example.com/tenant\nclient_id app\nclient_secret x\n}":                        "auth.example.com/tenant",
		"oauth_cc https://{http.request.header.X-Tenant}.example.com/token?key=s {\nclient_id app\nclient_secret x\n}": "{http.request.header.X-Tenant}.example.com/token",
		"oauth_cc https://auth.example.com/token {\nclient_id {http.request.header.X-Tenant}\nclient_secret x\n}":      "auth.example.com/token",
	} {
		if got := provisionedConfig(t, config).labels.endpoint; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
