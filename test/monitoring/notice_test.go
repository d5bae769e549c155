package monitoring

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// What docs/operations.md says about how long before clients notice each alert fires is what promtool says.
func TestNoticeOfEachAlert(t *testing.T) {
	_, text, _ := strings.Cut(read(t, "../../docs/operations.md"), "\n### How long before clients notice\n")
	text, _, _ = strings.Cut(text, "\n### ")
	rows := regexp.MustCompile("(?m)^\\| `(OAuth\\w+)` \\| (.*) \\|$").FindAllStringSubmatch(text, -1)
	if len(rows) != 4+3 {
		t.Fatalf("the section has %d alerts in its tables", len(rows))
	}
	var tests strings.Builder
	for i, row := range rows {
		cells := strings.Split(row[2], " | ")
		if len(cells) != len(noticeLifetimes) {
			t.Fatalf("%s has %d cells", row[1], len(cells))
		}
		for j, cell := range cells {
			o := outage{lifetime: noticeLifetimes[j], ahead: min(noticeLifetimes[j]/4, 5*time.Minute)}
			if i >= 4 { // the second table
				o.ahead = o.lifetime / 2
			}
			o.write(t, &tests, row[1], cell)
		}
	}
	rules, err := filepath.Abs(folder + "alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "notice.yml")
	content := fmt.Sprintf("rule_files:\n  - %s\nevaluation_interval: 15s\ntests:\n%s", rules, tests.String())
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command(program(t, "promtool"), "test", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}

// noticeLifetimes are those of the columns.
var noticeLifetimes = []time.Duration{time.Minute, 5 * time.Minute, time.Hour, 24 * time.Hour}

// outage is one in which a token can't be renewed, from when that is first tried.
type outage struct{ lifetime, ahead time.Duration }

const (
	step       = 15 * time.Second // between scrapes, and between evaluations
	afterwards = 10 * time.Minute // how long the outage goes on when the token has expired
)

// write adds a test that the alert begins to fire when the cell says.
func (o outage) write(t *testing.T, tests *strings.Builder, alert, cell string) {
	t.Helper()
	said := regexp.MustCompile(`^(?:(.*) (before|after)|at the end)$`).FindStringSubmatch(cell)
	if said == nil {
		t.Fatalf("%s: %q", alert, cell)
	}
	notice := time.Duration(0)
	if said[1] != "" {
		var err error
		if notice, err = time.ParseDuration(strings.NewReplacer(" ", "", "min", "m").Replace(said[1])); err != nil {
			t.Fatal(err)
		}
	}
	if said[2] == "after" {
		notice = -notice
	}
	failures := o.failures(alert == "OAuthClientRefused")
	began := max(0, failures[0]-10*time.Minute).Truncate(step) // the token's age when the test begins
	end := o.lifetime - notice - began + 2*time.Minute
	result := "server_error"
	if alert == "OAuthClientRefused" {
		result = "invalid_client"
	}
	samples := int(end/step) + 1
	failed, fresh, none := make([]string, samples), make([]string, samples), make([]string, samples)
	for i := range samples {
		age := began + time.Duration(i)*step
		n, _ := slices.BinarySearch(failures, age+1)
		failed[i], fresh[i], none[i] = fmt.Sprint(n), fmt.Sprint(int(min(age, o.lifetime).Seconds())), fmt.Sprint(int(max(0, age-o.lifetime).Seconds()))
	}
	series := func(name, values string) {
		fmt.Fprintf(tests, "      - series: caddy_oauth_cc_%s\n        values: %s\n", name, values)
	}
	fmt.Fprintf(tests, "  - name: %s, %s, %s ahead\n    interval: 15s\n    input_series:\n", alert, o.lifetime, o.ahead)
	series("token_expiry_timestamp_seconds{client_id=\"app\"}", fmt.Sprintf("%dx%d", int((o.lifetime-began).Seconds()), samples))
	series("token_last_success_timestamp_seconds{client_id=\"app\"}", fmt.Sprintf("%dx%d", -int(began.Seconds()), samples))
	series(fmt.Sprintf("token_fetches_total{client_id=\"app\", result=%q, trigger=\"ahead\"}", result), strings.Join(failed, " "))
	series(`requests_total{client_id="app", token="fresh"}`, strings.Join(fresh, " "))
	series(`requests_total{client_id="app", token="none"}`, strings.Join(none, " "))
	fmt.Fprintf(tests, "    promql_expr_test:\n      - expr: max(%d - %d * (count_over_time(ALERTS{alertname=%q, alertstate=\"firing\"}[2d]) - 1)) # when it began to fire\n",
		int(end.Seconds()), int(step.Seconds()), alert)
	fmt.Fprintf(tests, "        eval_time: %ds\n        exp_samples:\n          - value: %d\n", int(end.Seconds()), int((o.lifetime - notice - began).Seconds()))
}

// failures are the ages of the token at which a fetch fails, without the chance in them. The first is as late as it can
// be, with the time ahead at its shortest.
func (o outage) failures(isRefused bool) []time.Duration {
	var all []time.Duration
	try := func(from, until, pause, longest time.Duration) {
		for at := from; at < until; at += pause {
			if at > from {
				pause = min(2*pause, longest)
			}
			all = append(all, at)
		}
	}
	try(o.lifetime-min(10*time.Second, o.lifetime/10)-o.ahead*8/10, o.lifetime, 5*time.Second, time.Minute)
	if isRefused {
		try(o.lifetime, o.lifetime+afterwards, 15*time.Second, 5*time.Minute)
	} else {
		try(o.lifetime, o.lifetime+afterwards, time.Second, 10*time.Second)
	}
	return all
}
