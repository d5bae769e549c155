package oauthcc

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

func TestASecondCleanupTakesNothingAway(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, gatewaytest.Monitored(endpoint.Options()+upstream.Proxy()))
	g.Get("/")
	old := handlers.running()[0]
	g.Reload(gatewaytest.Monitored(endpoint.Options("refresh_ahead off") + upstream.Proxy()))
	before := len(gatewaytest.Scrape(g))
	cleanUpConfig(t, old)
	if after := len(gatewaytest.Scrape(g)); after != before {
		t.Errorf("%d samples have become %d", before, after)
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
	adopted := tokencache.Outcome{Trigger: tokencache.TriggerMiss}
	adopted.Granted.Adopted = true
	m.count(adopted)
	unread := tokencache.Outcome{Trigger: tokencache.TriggerMiss}
	unread.Failure = &endpoint.Error{Class: endpoint.ClassRefused, Unsent: true}
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
	m.count(tokencache.Outcome{Trigger: tokencache.TriggerMiss})
	if got := gatherFetches(t, labels.endpoint); got["ok"] != 1 {
		t.Errorf("counted %v", got)
	}
	if err := m.Destruct(); err != nil {
		t.Fatal(err)
	}
	m.count(tokencache.Outcome{Trigger: tokencache.TriggerMiss})
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
		if got := provisionedConfig(t, config).reporter.labels.endpoint; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Also series that a grant does not have from the start.
func TestNoSeriesIsLeftOfAGrantThatEnded(t *testing.T) {
	labels := metricLabels{endpoint: "as.example/" + t.Name(), clientID: "app"}
	m := newGrantMetrics(labels)
	m.count(tokencache.Outcome{
		Trigger: tokencache.TriggerMiss,
		Fetched: tokencache.Fetched{Failure: &endpoint.Error{Class: endpoint.ClassRefused, Code: "invalid_scope"}},
	})
	m.count(tokencache.Outcome{Trigger: tokencache.TriggerPrefetch})
	of := func() (series []string) {
		registry := prometheus.NewPedanticRegistry()
		if err := registry.Register(metrics); err != nil {
			t.Fatal(err)
		}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, metric := range family.GetMetric() {
				if text := metric.String(); strings.Contains(text, labels.endpoint) {
					series = append(series, family.GetName()+" "+text)
				}
			}
		}
		return series
	}
	if !slices.ContainsFunc(of(), func(s string) bool { return strings.Contains(s, "invalid_scope") }) {
		t.Errorf("the fetch is not counted in %q", of())
	}
	if err := m.Destruct(); err != nil {
		t.Fatal(err)
	}
	if left := of(); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
}
