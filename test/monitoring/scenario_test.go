package monitoring

import (
	"bytes"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// The scenario runs a gateway whose clients fare differently, each in one way.
func TestScenario(t *testing.T) {
	p := startPartner(t, map[string]*client{
		"steady":   {lifetime: 60},                               // a token is revoked
		"renewed":  {lifetime: 8},                                // ahead of its expiry
		"idle":     {lifetime: 2},                                // one request, and the token lapses
		"upload":   {lifetime: 60},                               // rejected once, with a body that is too large
		"stubborn": {lifetime: 60, reject: "invalid_token"},      // the API rejects each token
		"scoped":   {lifetime: 60, reject: "insufficient_scope"}, // nor would another one help
		"refused":  {fault: refuses},                             // by the endpoint
		"down":     {fault: hangsUp},                             // is the endpoint
		"lapsing":  {lifetime: 6},                                // the endpoint goes down after the first token
		"churning": {lifetime: 1, delay: 50 * time.Millisecond},  // tokens live for a second
		dynamic:    {lifetime: 60},
		"unused":   {lifetime: 60},                   // no request at all
		"broken":   {lifetime: 60, fault: isNotWell}, // at first
	})
	began := time.Now()
	g := startGateway(t, p, map[string]string{"upload": "replay_buffer 1KiB 1KiB"})
	prom := startPrometheus(t, g.metrics)
	await(t, "the gateway is scraped", func() bool { return len(prom.now(t, "caddy_oauth_cc_requests_total")) > 0 })

	const often = 100 * time.Millisecond
	paces := map[string]time.Duration{}
	for _, name := range []string{"steady", "renewed", "stubborn", "scoped", "refused", "down", "lapsing", "churning", "broken"} {
		paces[name] = often
	}
	stop := g.keepUsing(t, paces)
	single := func(name string, body []byte, want int) {
		t.Helper()
		if status, err := g.send(name, "", body); err != nil || status != want {
			t.Fatalf("a request of %s got %d, %v; want %d", name, status, err, want)
		}
	}
	single("idle", nil, 200)
	single("upload", nil, 200)
	p.revoke("upload")
	single("upload", bytes.Repeat([]byte("x"), 64<<10), 401)
	await(t, "upload's token is renewed", func() bool { return g.obtained(t, "upload") == 2 })
	single("upload", nil, 200)
	for _, tenant := range []string{"orchard", "harbor", "orchard"} {
		if status, err := g.send(dynamic, tenant, nil); err != nil || status != 200 {
			t.Fatalf("a request of %s got %d, %v", tenant, status, err)
		}
	}
	await(t, "lapsing has a token", func() bool { return p.state("lapsing").issued > 0 })
	p.change("lapsing", func(c *client) { c.fault = isNotWell })
	await(t, "steady has a token", func() bool { return p.state("steady").issued > 0 })
	p.revoke("steady")
	await(t, "steady's token is renewed", func() bool { return p.state("steady").issued > 1 })
	await(t, "fetches of broken have failed", func() bool { return p.state("broken").asked > 3 })
	p.change("broken", func(c *client) { c.fault = nil })
	await(t, "broken has a token", func() bool { return p.state("broken").issued > 0 })

	// Counts outlive a reload, and a load that fails.
	for _, load := range []struct {
		more  string
		fails bool
	}{
		{more: fmt.Sprintf("http://%s {\nrespond ok\n}", freeAddrs(t, 1)[0])},
		{more: fmt.Sprintf(`http://%s {
			route {
				oauth_cc https://as.example/token {
					client_id app
					client_secret s3cret
				}
				oauth_cc https://as.example/token {
					client_id app
					client_secret {env.NO_SUCH_SECRET}
				}
			}
		}`, freeAddrs(t, 1)[0]), fails: true},
		{},
	} {
		g.withoutTraffic(func() {
			before, counted := g.scrape(t, "_total"), g.quiet(t)
			if err := g.load(t, load.more); (err != nil) != load.fails {
				t.Fatalf("loading a configuration: %v", err)
			}
			if after := g.quiet(t); !maps.Equal(counted, after) {
				t.Errorf("a load changes the counts\nfrom %v\nto   %v", counted, after)
			}
			after := g.scrape(t, "_total")
			for name, value := range before {
				if after[name] < value {
					t.Errorf("%s goes from %v to %v with a load", name, value, after[name])
				}
			}
			for name := range after {
				if strings.Contains(name, "as.example") {
					t.Errorf("a load that failed leaves %s behind", name)
				}
			}
		})
	}

	t.Run("alerts", func(t *testing.T) { testAlerts(t, prom) })
	sent := stop()
	t.Run("counts", func(t *testing.T) { testCounts(t, prom, p, sent) })
	t.Run("dashboard", func(t *testing.T) { testDashboard(t, prom, began) })
}

// withoutTraffic does something while no request is on its way.
func (g *gateway) withoutTraffic(do func()) {
	g.traffic.Lock()
	defer g.traffic.Unlock()
	do()
}

// obtained is how many tokens of a client have arrived.
func (g *gateway) obtained(t testing.TB, client string) (tokens int) {
	t.Helper()
	for name, value := range g.scrape(t, "token_fetches_total") {
		if strings.Contains(name, fmt.Sprintf("client_id=%q", client)) && strings.Contains(name, `result="ok"`) {
			tokens += int(value)
		}
	}
	return tokens
}

// quiet are the counts that change with requests alone.
func (g *gateway) quiet(t testing.TB) samples {
	t.Helper()
	found := g.scrape(t, "requests_total")
	maps.Copy(found, g.scrape(t, "upstream_rejections_total"))
	return found
}

// wantAlerts are the alerts that fire, as in "alert client".
var wantAlerts = []string{
	"OAuthClientRefused refused",
	"OAuthEndpointUnavailable down",
	"OAuthEndpointUnavailable lapsing",
	"OAuthRequestsWithoutToken down",
	"OAuthRequestsWithoutToken lapsing",
	"OAuthRequestsWithoutToken refused",
	"OAuthTokenChurn churning",
	"OAuthTokenNotRenewed lapsing",
	"OAuthTokenRejected scoped",
	"OAuthTokenRejected stubborn",
}

// troubled are the clients of whose alerts there are more than those for which they are
// there, depending on the moment.
var troubled = []string{"broken"}

func testAlerts(t *testing.T, prom *prometheus) {
	fired := func() []string {
		var names []string
		for _, s := range prom.now(t, `count_over_time(ALERTS{alertstate="firing", `+hurry+`="yes"}[10m])`) {
			if client := s.labels["client_id"]; !slices.Contains(troubled, client) {
				names = append(names, s.labels["alertname"]+" "+client)
			}
		}
		slices.Sort(names)
		return names
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		names := fired()
		if slices.Equal(names, wantAlerts) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("these alerts have fired:\n%s\nwant\n%s", strings.Join(names, "\n"), strings.Join(wantAlerts, "\n"))
		}
	}

	var data struct {
		Groups []struct {
			Rules []struct {
				Name      string
				Health    string
				LastError string
				Labels    map[string]string
				Alerts    []struct {
					Annotations map[string]string
				}
			}
		}
	}
	prom.get(t, "rules", url.Values{"type": {"alert"}}, &data)
	rules := 0
	for _, group := range data.Groups {
		for _, rule := range group.Rules {
			rules++
			if rule.Health != "ok" {
				t.Errorf("%s is %s: %s", rule.Name, rule.Health, rule.LastError)
			}
			if rule.Labels["severity"] == "" {
				t.Errorf("%s has no severity", rule.Name)
			}
			for _, alert := range rule.Alerts {
				for _, name := range []string{"summary", "description"} {
					if text := alert.Annotations[name]; text == "" || strings.Contains(text, "error expanding") {
						t.Errorf("%s has the %s %q", rule.Name, name, text)
					}
				}
			}
		}
	}
	if alerts := 2 * strings.Count(read(t, folder+"alerts.yml"), "- alert: "); rules != alerts {
		t.Errorf("Prometheus has %d rules, want %d", rules, alerts)
	}
}

// testCounts compares what Prometheus has with what the partner and the clients have counted.
func testCounts(t *testing.T, prom *prometheus, p *partner, sent map[string]int) {
	const (
		ok     = `, result="ok"`
		failed = `, result!="ok"`
	)
	count := func(name, client, more string) int { return int(prom.sum(t, name, client, more)) }
	rejections := func(client, outcome string) int {
		return count("upstream_rejections_total", client, fmt.Sprintf(", outcome=%q", outcome))
	}
	sent["idle"], sent["upload"], sent[dynamic] = 1, 3, 3
	// Also what was on its way has been counted once it has been scraped.
	await(t, "all fetches are counted", func() bool {
		for name := range p.clients {
			if c := p.state(name); c.issued != count("token_fetches_total", name, ok) {
				return false
			}
		}
		return count("token_fetches_total", "refused", failed) == p.state("refused").asked
	})
	for name := range p.clients {
		c := p.state(name)
		await(t, "all requests of "+name+" are counted", func() bool {
			return count("requests_total", name, "") == sent[name]
		})
		want := map[string]int{}
		switch name {
		case "steady":
			want = map[string]int{"cured": 1}
		case "upload":
			want = map[string]int{"not_replayable": 1}
		case "scoped":
			want = map[string]int{"passed": sent[name]}
		case "stubborn": // each is rejected once, or twice if there is a token to send it again with
			uncured := p.state(name).rejected - sent[name]
			want = map[string]int{"uncured": uncured, "passed": sent[name] - uncured}
			if uncured == 0 {
				t.Error("no request of stubborn's was sent again")
			}
		}
		for _, outcome := range []string{"cured", "uncured", "passed", "not_replayable"} {
			await(t, fmt.Sprintf("%d rejections of %s are %s", want[outcome], name, outcome), func() bool {
				return rejections(name, outcome) == want[outcome]
			})
		}
		// A fetch asks up to three times while the endpoint is not well, and is counted when it
		// has ended and been scraped.
		await(t, "the fetches of "+name+" are as many as the endpoint has seen", func() bool {
			fetches := count("token_fetches_total", name, "")
			c = p.state(name)
			return c.asked >= fetches && c.asked <= 3*fetches && (c.asked != c.issued || fetches == c.issued)
		})
		holders := 1
		if name == dynamic {
			holders = 2
		}
		tokens := min(c.issued, holders)
		if got := count("tokens", name, ""); got != tokens {
			t.Errorf("%d tokens of %s are held, want %d", got, name, tokens)
		}
		for _, gauge := range []string{"token_expiry_timestamp_seconds", "token_last_success_timestamp_seconds"} {
			if found := prom.now(t, fmt.Sprintf("caddy_oauth_cc_%s{client_id=%q}", gauge, name)); len(found) != min(tokens, 1) {
				t.Errorf("%s has %d values of %s", gauge, len(found), name)
			}
		}
	}
	for _, used := range []struct{ client, how string }{
		{"steady", "fresh"}, {"renewed", "stale"}, {"churning", "fetched"}, {"refused", "none"},
	} {
		if count("requests_total", used.client, fmt.Sprintf(", token=%q", used.how)) == 0 {
			t.Errorf("no request of %s was %s", used.client, used.how)
		}
	}
	if ahead := count("token_fetches_total", "renewed", ok+`, trigger="ahead"`); ahead < 1 {
		t.Error("no token of renewed was fetched ahead")
	}
	waits := count("token_wait_duration_seconds_count", "churning", "")
	fetched, stale := count("requests_total", "churning", `, token="fetched"`), count("requests_total", "churning", `, token="stale"`)
	if waits < fetched || waits > fetched+stale { // who can't wait longer takes the token that there is
		t.Errorf("%d requests of churning waited; %d were fetched for, and %d were stale", waits, fetched, stale)
	}
}
