package monitoring

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// dashboard is what Grafana makes of a dashboard, as far as it is used here.
type dashboard struct {
	SchemaVersion int
	Templating    struct{ List []variable }
	Panels        []panel
}

type variable struct {
	Name, Type, Definition, AllValue string
	IncludeAll                       bool
	Datasource                       datasource
}

type datasource struct{ Type, UID string }

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               datasource
	GridPos                  struct{ X, Y, W, H int }
	FieldConfig              struct {
		Defaults struct {
			Unit   string
			Min    *float64
			Custom struct{ Stacking struct{ Mode string } }
		}
		Overrides []override
	}
	Targets []target
}

type override struct {
	Matcher    struct{ Options string }
	Properties []struct {
		ID    string
		Value any
	}
}

type target struct {
	RefID, Expr, LegendFormat string
	Instant                   bool
	Datasource                datasource
}

func readDashboard(t testing.TB) *dashboard {
	t.Helper()
	d := new(dashboard)
	if err := json.Unmarshal([]byte(read(t, folder+"dashboard.json")), d); err != nil {
		t.Fatal(err)
	}
	return d
}

// filled puts values in the place of variables, as Grafana does. The time is that of four
// scrapes and a bit.
func filled(text string, values map[string]string) string {
	text = strings.ReplaceAll(text, "$__rate_interval", "5s")
	for name, value := range values {
		text = strings.ReplaceAll(text, "$"+name, value)
	}
	return text
}

func TestDashboardIsComplete(t *testing.T) {
	d := readDashboard(t)
	if d.SchemaVersion < 39 {
		t.Errorf("the schema is of version %d", d.SchemaVersion)
	}
	const source = "${datasource}"
	for _, v := range d.Templating.List {
		// The client_id can be empty, which is no label at all.
		if v.Type == "query" && (v.Datasource.UID != source || !v.IncludeAll || v.AllValue != ".*") {
			t.Errorf("variable %s: %+v", v.Name, v)
		}
	}
	metrics := make(map[string]bool)
	for i, p := range d.Panels {
		if p.Title == "" || p.Description == "" || p.FieldConfig.Defaults.Unit == "" || p.Datasource.UID != source || len(p.Targets) == 0 {
			t.Errorf("panel %d lacks something: %+v", p.ID, p)
		}
		for _, q := range p.Targets {
			if q.Datasource.UID != source {
				t.Errorf("%s: query %s has the data source %q", p.Title, q.RefID, q.Datasource.UID)
			}
			for _, metric := range regexp.MustCompile(`caddy_oauth_cc_\w+?(_bucket)?\{([^}]*)\}`).FindAllStringSubmatch(q.Expr, -1) {
				metrics[strings.TrimSuffix(metric[0][:strings.IndexByte(metric[0], '{')], "_bucket")] = true
				if !strings.HasPrefix(metric[2], `instance=~"$instance", endpoint=~"$endpoint", client_id=~"$client_id"`) {
					t.Errorf("%s: query %s does not go by all variables: %s", p.Title, q.RefID, metric[0])
				}
			}
		}
		for _, other := range d.Panels[:i] {
			a, b := p.GridPos, other.GridPos
			if p.ID == other.ID || a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %q and %q are in each other's way", p.Title, other.Title)
			}
		}
	}
	const all = 8
	if len(metrics) != all {
		t.Errorf("the dashboard shows %d metrics, want %d: %v", len(metrics), all, slices.Sorted(maps.Keys(metrics)))
	}
}

// testDashboard wants data for each query, and draws them.
func testDashboard(t *testing.T, prom *prometheus, began time.Time) {
	d := readDashboard(t)
	everything := make(map[string]string)
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		query := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(v.Definition)
		if query == nil {
			t.Errorf("variable %s: %q is no query for its values", v.Name, v.Definition)
			continue
		}
		var values []string
		prom.get(t, "label/"+query[2]+"/values", url.Values{"match[]": {filled(query[1], everything)}}, &values)
		if len(values) == 0 {
			t.Errorf("variable %s has no values", v.Name)
		}
		everything[v.Name] = v.AllValue
	}

	charts := queryAll(t, prom, d, began)
	for i, p := range d.Panels {
		for j, q := range p.Targets {
			if !slices.ContainsFunc(charts[i].data[j], hasData) {
				t.Errorf("%s: no data for query %s: %s", p.Title, q.RefID, q.Expr)
			}
		}
	}
	if svg := draw(charts, nil); len(titles(t, svg)) == 0 {
		t.Error("nothing is drawn")
	}
	for _, one := range []string{"steady", "(steady|renewed)"} {
		everything["client_id"] = one
		for _, s := range prom.now(t, filled(d.Panels[len(d.Panels)-1].Targets[0].Expr, everything)) {
			if client := s.labels["client_id"]; !strings.Contains(one, client) {
				t.Errorf("%s is there where %s is asked for", client, one)
			}
		}
	}
}

// chart is a panel with its data, by query.
type chart struct {
	panel
	data [][]series
}

// queryAll asks for the data of all panels, with everything chosen.
func queryAll(t testing.TB, prom *prometheus, d *dashboard, began time.Time) []chart {
	t.Helper()
	everything := map[string]string{"instance": ".*", "endpoint": ".*", "client_id": ".*"}
	now := time.Now()
	var charts []chart
	for _, p := range d.Panels {
		c := chart{panel: p}
		for _, q := range p.Targets {
			c.data = append(c.data, prom.over(t, filled(q.Expr, everything), began, now))
		}
		charts = append(charts, c)
	}
	return charts
}

func hasData(s series) bool {
	return slices.ContainsFunc(s.points, func(p point) bool { return !math.IsNaN(p.value) })
}

// picture shows a scenario as the dashboard does.
const picture = "../../docs/dashboard.svg"

// TestPicture draws it with -update, which takes two minutes. Otherwise it looks whether
// that is to be done.
func TestPicture(t *testing.T) {
	d := readDashboard(t)
	if *update {
		if err := os.WriteFile(picture, []byte(draw(story(t, d), scenes)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	shown := titles(t, read(t, picture))
	for _, p := range d.Panels {
		if p.Type == "timeseries" && !slices.Contains(shown, p.Title) {
			t.Errorf("%s does not show %q; draw it anew with: go -C test test ./monitoring -run Picture -update", picture, p.Title)
		}
	}
}

// scenes are the events of the story.
var scenes = []event{{"a token is revoked", 15, 15}, {"the token endpoint answers 503", 48, 90}}

// story is what the picture shows: two clients at work, a token that is revoked, and an
// outage of the endpoint.
func story(t testing.TB, d *dashboard) []chart {
	p := startPartner(t, map[string]*client{
		"orders":  {lifetime: 30, delay: 120 * time.Millisecond},
		"billing": {lifetime: 60, delay: 60 * time.Millisecond},
	})
	g := startGateway(t, p, nil)
	prom := startPrometheus(t, g.metrics)
	await(t, "the gateway is scraped", func() bool { return len(prom.now(t, "caddy_oauth_cc_requests_total")) > 0 })
	began := time.Now()
	sleepTo := func(second float64) {
		time.Sleep(time.Until(began.Add(time.Duration(second * float64(time.Second)))))
	}
	allAnswer := func(fault http.HandlerFunc) {
		for name := range p.clients {
			p.change(name, func(c *client) { c.fault = fault })
		}
	}
	sleepTo(5)
	stop := g.keepUsing(t, map[string]time.Duration{"orders": 50 * time.Millisecond, "billing": 200 * time.Millisecond})
	defer stop()
	sleepTo(scenes[0].from)
	p.revoke("orders")
	sleepTo(scenes[1].from)
	allAnswer(isNotWell)
	sleepTo(scenes[1].to)
	allAnswer(nil)
	sleepTo(120)
	return queryAll(t, prom, d, began)
}

// titles are those of the panels in a picture.
func titles(t testing.TB, svg string) []string {
	t.Helper()
	var found []string
	for reading, title := xml.NewDecoder(strings.NewReader(svg)), false; ; {
		token, err := reading.Token()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatalf("the picture can't be read: %v", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			title = slices.ContainsFunc(token.Attr, func(a xml.Attr) bool { return a.Name.Local == "class" && a.Value == "title" })
		case xml.CharData:
			if title {
				found = append(found, string(token))
			}
		case xml.EndElement:
			title = false
		}
	}
}
