package gatewaytest

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Monitored is a site that serves metrics as well.
func Monitored(site string) string {
	return "handle /metrics {\nmetrics\n}\nhandle {\n" + site + "\n}\n"
}

// samples are what a scrape finds, by name and labels as they are written.
type samples map[string]float64

// Scrape reads the module's metrics.
func Scrape(g *Gateway) samples {
	g.T.Helper()
	a := g.Get("/metrics")
	if a.Status != http.StatusOK {
		g.T.Fatalf("scraping: %d %s", a.Status, a.Body)
	}
	found := make(samples)
	for line := range strings.Lines(a.Body) {
		if !strings.HasPrefix(line, "caddy_oauth_cc_") {
			continue
		}
		end := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(strings.TrimSpace(line[end+1:]), 64)
		if err != nil {
			g.T.Fatalf("scraping: %v in %q", err, line)
		}
		found[strings.TrimPrefix(line[:end], "caddy_oauth_cc_")] = value
	}
	return found
}

// SampleOf names a sample of the endpoint's.
func SampleOf(s *TokenServer, name, clientID string, more ...string) string {
	u, err := url.Parse(s.URL)
	if err != nil {
		panic(err)
	}
	labels := append([]string{fmt.Sprintf("client_id=%q", clientID), fmt.Sprintf(`endpoint="%s/token"`, u.Host)}, more...)
	slices.Sort(labels)
	return name + "{" + strings.Join(labels, ",") + "}"
}

// WantSamples wants these values of the samples whose client is app.
func WantSamples(t testing.TB, s *TokenServer, found samples, want map[string]float64) {
	t.Helper()
	for _, short := range slices.Sorted(maps.Keys(want)) {
		name, labels, _ := strings.Cut(short, " ")
		full := SampleOf(s, name, "app", strings.Fields(labels)...)
		if got, ok := found[full]; !ok || got != want[short] {
			t.Errorf("%s = %v (there: %t), want %v", full, got, ok, want[short])
		}
	}
}
