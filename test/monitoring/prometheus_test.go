package monitoring

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// prometheus is a running Prometheus that scrapes a gateway.
type prometheus struct {
	addr string
}

// startPrometheus runs one with the configuration of examples/monitoring, except that it
// scrapes each second. Its rules are in it twice: as they are, and in a hurry.
func startPrometheus(t testing.TB, target string) *prometheus {
	t.Helper()
	config := read(t, folder+"prometheus.yml")
	for old, with := range map[string]string{
		"scrape_interval: 15s":     "scrape_interval: 1s",
		"evaluation_interval: 15s": "evaluation_interval: 1s",
		"- localhost:2019":         "- " + target,
		"- alerts.yml":             "- alerts.yml\n  - hurried.yml",
	} {
		if strings.Count(config, old) != 1 {
			t.Fatalf("prometheus.yml does not have %q once", old)
		}
		config = strings.Replace(config, old, with, 1)
	}
	alerts := read(t, folder+"alerts.yml")
	dir := t.TempDir()
	for name, text := range map[string]string{"prometheus.yml": config, "alerts.yml": alerts, "hurried.yml": hurried(alerts)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	p := &prometheus{addr: freeAddrs(t, 1)[0]}
	process := exec.Command(program(t, "prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data",
		"--web.listen-address="+p.addr, "--log.level=warn")
	process.Dir = dir
	output := new(lockedBuffer)
	process.Stdout, process.Stderr = output, output
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = process.Wait() // it is killed
	}()
	t.Cleanup(func() {
		_ = process.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("Prometheus says:\n%s", output)
		}
	})
	await(t, "Prometheus is ready", func() bool {
		select {
		case <-ended:
			t.Fatalf("Prometheus has ended:\n%s", output)
		default:
		}
		res, err := httpClient.Get("http://" + p.addr + "/-/ready")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return p
}

// hurry is a label of the alerts whose minutes are seconds.
const hurry = "hurry"

// hurried makes seconds of all minutes in the rules, so that what takes a quarter of an
// hour in life can be waited for.
func hurried(alerts string) string {
	for _, r := range []struct{ like, with string }{
		{`\[(\d+)m`, `[${1}s`},
		{`:(\d+)m\]`, `:${1}s]`},
		{`for: (\d+)m`, `for: ${1}s`},
		{`for: 30s`, `for: 1s`},
		{`(\d+) \* 60\b`, `$1`},
		{`( +)labels:`, "${1}labels:\n${1}  " + hurry + `: "yes"`},
	} {
		alerts = regexp.MustCompile(r.like).ReplaceAllString(alerts, r.with)
	}
	return alerts
}

// get asks the HTTP API.
func (p *prometheus) get(t testing.TB, path string, query url.Values, data any) {
	t.Helper()
	res, err := httpClient.Get("http://" + p.addr + "/api/v1/" + path + "?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	answer := struct {
		Status string `json:"status"`
		Error  string `json:"error"`
		Data   any    `json:"data"`
	}{Data: data}
	if err == nil {
		err = json.Unmarshal(text, &answer)
	}
	if err != nil || answer.Status != "success" {
		t.Fatalf("%s %s: %s %s, %v", path, query, res.Status, answer.Error, err)
	}
}

// series is a result of a query.
type series struct {
	labels map[string]string
	points []point
}

// point is a value at a time, in seconds.
type point struct{ at, value float64 }

func (s *series) UnmarshalJSON(text []byte) error {
	var raw struct {
		Metric map[string]string `json:"metric"`
		Value  []any             `json:"value"`
		Values [][]any           `json:"values"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return err
	}
	if raw.Value != nil {
		raw.Values = [][]any{raw.Value}
	}
	s.labels = raw.Metric
	for _, pair := range raw.Values {
		at, _ := pair[0].(float64)
		written, _ := pair[1].(string)
		value, err := strconv.ParseFloat(written, 64)
		if err != nil {
			return err
		}
		s.points = append(s.points, point{at, value})
	}
	return nil
}

// now evaluates an expression.
func (p *prometheus) now(t testing.TB, expression string) []series {
	t.Helper()
	var data struct {
		Result []series `json:"result"`
	}
	p.get(t, "query", url.Values{"query": {expression}}, &data)
	return data.Result
}

// over evaluates an expression for each second of a time.
func (p *prometheus) over(t testing.TB, expression string, from, to time.Time) []series {
	t.Helper()
	var data struct {
		Result []series `json:"result"`
	}
	p.get(t, "query_range", url.Values{
		"query": {expression}, "start": {fmt.Sprint(from.Unix())}, "end": {fmt.Sprint(to.Unix())}, "step": {"1"},
	}, &data)
	return data.Result
}

// sum is that of an expression's values, for one client.
func (p *prometheus) sum(t testing.TB, name, client, more string) float64 {
	t.Helper()
	total := 0.0
	for _, s := range p.now(t, fmt.Sprintf("sum(caddy_oauth_cc_%s{client_id=%q%s})", name, client, more)) {
		total += s.points[0].value
	}
	return total
}

// lockedBuffer can be read while a process writes to it.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
