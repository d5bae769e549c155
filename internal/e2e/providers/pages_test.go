package providers

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/check"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// This file runs what the pages of docs/providers show: the Caddyfiles of each against a stand-in for the provider, and
// with each of the mistakes that the page tells of.

// paged are the Caddyfiles of the pages, those of one page in its order.
var paged = []*providerSpec{
	apigee, applixure, auth0, cognito, box, boxSecret, docuSign, ebay, entraID, entraCertificate, entraWorkloadIdentity, genesysCloud,
	googleServiceAccount, googleFederation, keycloak, myParcel, okta, patientsKnowBest, payPal, pingFederate, pingOne, salesforce,
	salesforceSecret, ups, zoom,
}

// pageMistake is a row of what a page says goes wrong.
type pageMistake struct {
	row     string   // its first cell
	replace []string // pairs of what is in the Caddyfile and what to write instead
	flaw    string   // of the client at the provider
	retried bool     // the endpoint is asked again at once
}

// wrongSecret is a secret that no provider has given out.
const wrongSecret = "Wr0ngSecretCanary"

// providerPage is a page of docs/providers, with one of its Caddyfiles and what goes wrong with that.
type providerPage struct {
	text      string
	headings  []string // of the Caddyfiles, if there are several
	caddyfile string
	rows      []pageRow
}

// pageRow says what goes wrong, and what one sees then.
type pageRow struct {
	wrong        string
	status       int    // of the endpoint's answer; 0 if nothing is sent
	answer, told string // what the endpoint and the log say; … stands for anything
	client       int    // the status that clients get
}

const pagesFolder = "docs/providers"

// pageSections are the headings of each page, in their order.
var pageSections = []string{"Caddyfile", "Set up", "Good to know", "What goes wrong", "Documentation"}

// pageCells are the cells of a row.
var pageCells = regexp.MustCompile("(?m)^\\| ([^|]+) \\| (?:(\\d+) `([^|]+)`|nothing is sent) \\| `([^|]+)` \\| (\\d+) \\|$")

// readPage reads the page of a provider, and there what is under one heading if it has several Caddyfiles.
func readPage(t *testing.T, p *providerSpec) *providerPage {
	t.Helper()
	page := &providerPage{text: readDocument(t, filepath.Join(pagesFolder, p.name+".md"))}
	names, sections := cutAt(page.text, "## ")
	if !slices.Equal(names, pageSections) {
		t.Fatalf("%s has the sections %q, want %q", p.name, names, pageSections)
	}
	caddyfiles, wrong := sections["Caddyfile"], sections["What goes wrong"]
	if p.heading != "" {
		headings, shown := cutAt(caddyfiles, "### ")
		told, rows := cutAt(wrong, "### ")
		if !slices.Equal(headings, told) {
			t.Fatalf("%s has Caddyfiles for %q, and says what goes wrong for %q", p.name, headings, told)
		}
		page.headings, caddyfiles, wrong = headings, shown[p.heading], rows[p.heading]
	}
	blocks := regexp.MustCompile("(?s)```caddyfile\n(.*?)```").FindAllStringSubmatch(caddyfiles, -1)
	if len(blocks) != 1 {
		t.Fatalf("%s has %d Caddyfiles, want one for %q", p.name, len(blocks), p.heading)
	}
	page.caddyfile = blocks[0][1]
	for _, cells := range pageCells.FindAllStringSubmatch(wrong, -1) {
		status, _ := strconv.Atoi(cells[2])
		client, _ := strconv.Atoi(cells[5])
		page.rows = append(page.rows, pageRow{cells[1], status, cells[3], cells[4], client})
	}
	if rows := strings.Count(wrong, "\n| ") - 1; rows != len(page.rows) {
		t.Fatalf("%s has %d rows for %q, of which %d can be read", p.name, rows, p.heading, len(page.rows))
	}
	return page
}

// cutAt cuts a text at headings, which begin with the mark, and returns what is under each.
func cutAt(text, mark string) (names []string, under map[string]string) {
	under = make(map[string]string)
	for _, part := range strings.Split("\n"+text, "\n"+mark)[1:] {
		name, rest, _ := strings.Cut(part, "\n")
		names = append(names, name)
		under[name] = "\n" + rest
	}
	return names, under
}

// row is the one that says this goes wrong.
func (p *providerPage) row(t *testing.T, wrong string) pageRow {
	t.Helper()
	at := slices.IndexFunc(p.rows, func(r pageRow) bool { return r.wrong == wrong })
	if at < 0 {
		t.Fatalf("the page has no row %q", wrong)
	}
	return p.rows[at]
}

// elided matches a text in which … stands for anything.
func elided(text string) *regexp.Regexp {
	return regexp.MustCompile(strings.ReplaceAll(regexp.QuoteMeta(text), "…", ".*"))
}

// pageRun is a page's Caddyfile at work, with or without a mistake.
type pageRun struct {
	*providerStandIn
	page    *providerPage
	mistake *pageMistake      // nil: as the page has it
	paths   map[string]string // where a file is, by where the page has it
	gateway *gatewaytest.Gateway
	answer  gatewaytest.Answer // with a mistake
}

func newPageRun(t *testing.T, p *providerSpec, page *providerPage, mistake *pageMistake) *pageRun {
	t.Helper()
	r := &pageRun{providerStandIn: startProvider(t, p), page: page, mistake: mistake}
	r.id, r.secret = p.id, p.secret
	if mistake != nil {
		r.flaw = mistake.flaw
	}
	r.paths = r.writeFiles(t)
	return r
}

var (
	pageSite     = regexp.MustCompile(`(?m)^gateway\.example\.com \{$`)
	pageEndpoint = regexp.MustCompile(`(?m)^\toauth_cc https://[^/\s]+`)
	pageAPI      = regexp.MustCompile(`(?m)^\treverse_proxy https://[^/\s]+$`)
)

// site is the page's, with the stand-in's addresses and with the mistake.
func (r *pageRun) site(t *testing.T) string {
	t.Helper()
	// Where the documentation leaves the endpoint's host open, so does the page.
	text := strings.Replace(r.page.caddyfile, "oauth_cc {env."+r.variables+"TOKEN_ENDPOINT}", "oauth_cc https://host"+r.path, 1)
	addresses := map[*regexp.Regexp]string{
		pageSite:     "http://" + r.gateway.Addr + " {",
		pageEndpoint: "\toauth_cc " + r.endpoint.URL,
		pageAPI:      "\treverse_proxy " + r.api.URL,
	}
	if strings.Contains(text, "\toauth_cc {\n") {
		delete(addresses, pageEndpoint) // it is in a file
	}
	for old, replacement := range addresses {
		if n := len(old.FindAllString(text, -1)); n != 1 {
			t.Fatalf("%s: the Caddyfile has %s %d times", r.name, old, n)
		}
		text = old.ReplaceAllLiteralString(text, replacement)
	}
	var replace []string
	if r.mistake != nil {
		replace = slices.Clone(r.mistake.replace)
	}
	for page, file := range r.paths {
		replace = append(replace, page, file)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			t.Fatalf("%s: the Caddyfile does not contain %q", r.name, replace[i])
		}
		text = strings.ReplaceAll(text, replace[i], replace[i+1])
	}
	return text
}

// asOnPage is a text of the gateway's with the paths that the page has.
func (r *pageRun) asOnPage(text string) string {
	text = helpInLog.ReplaceAllString(text, "")
	for page, file := range r.paths {
		text = strings.ReplaceAll(text, file, page)
	}
	return text
}

// helpInLog is the end of a hint in the log, or a whole one. Pages leave it out: it is the address of the heading that the
// error code has.
var helpInLog = regexp.MustCompile(`,"hint":"see https:[^"]*"|; see https:[^"]*#[^"]*`)

// startPages runs all of them in one Caddy, and returns its configuration.
func startPages(t *testing.T, runs []*pageRun) []byte {
	t.Helper()
	g := gatewaytest.Start(t, "")
	var sites strings.Builder
	for i, addr := range gatewaytest.FreeAddrs(t, len(runs)) {
		r := runs[i]
		r.gateway = &gatewaytest.Gateway{T: t, Addr: addr, Logs: g.Logs}
		if r.idName != "" {
			t.Setenv(r.variables+r.idName, r.id)
		}
		if r.secret != "" {
			t.Setenv(r.variables+r.secretName(), r.secret)
		}
		for name, value := range r.further {
			t.Setenv(r.variables+name, value)
		}
		sites.WriteString(r.site(t))
	}
	config, err := gatewaytest.Adapt("{\nauto_https off\ndefault_bind 127.0.0.1\n}\n" + sites.String())
	if err != nil {
		t.Fatal(err)
	}
	config = withPatience(t, forTest(t, config, runs[0].api.Certificate()))
	if err := errors.Join(caddy.Load(config, true), gatewaytest.AwaitOldListeners(string(config))); err != nil {
		t.Fatal(err)
	}
	return config
}

// withPatience gives each token request more time, as a slow machine needs it.
func withPatience(t *testing.T, config []byte) []byte {
	t.Helper()
	tree := decodeConfig(t, config)
	eachObject(tree, func(object map[string]any) {
		if object["handler"] == "oauth_cc" {
			object["timeout"] = "2m"
		}
	})
	config, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// runsAtOnce bounds the handshakes that a slow machine has to do at a time.
const runsAtOnce = 8

// What the endpoint refuses for a moment is tried again, which takes its time.
func TestProviderPages(t *testing.T) {
	if !gatewaytest.Apart(t) {
		return
	}
	var runs []*pageRun
	for _, p := range paged {
		page := readPage(t, p)
		if len(page.rows) != len(p.mistakes) {
			t.Errorf("%s has %d rows for %q, and there are %d mistakes to make", p.name, len(page.rows), p.heading, len(p.mistakes))
		}
		runs = append(runs, newPageRun(t, p, page, nil))
		for i := range p.mistakes {
			runs = append(runs, newPageRun(t, p, page, &p.mistakes[i]))
		}
	}
	config := startPages(t, runs)

	var wait sync.WaitGroup
	turn := make(chan struct{}, runsAtOnce) // holds an element for each run that is asked now
	for _, r := range runs {
		if r.mistake != nil {
			wait.Go(func() {
				turn <- struct{}{}
				defer func() { <-turn }()
				req, _ := http.NewRequest(http.MethodGet, r.gateway.URL("/"), nil)
				r.answer, _ = gatewaytest.Exchange(gatewaytest.Client, req)
			})
		}
	}
	wait.Wait()
	for _, r := range runs {
		t.Run(r.title(), func(t *testing.T) {
			r.gateway = r.gateway.For(t)
			if r.mistake == nil {
				r.checkRight(t)
				return
			}
			r.checkMistake(t)
		})
	}
	checkPagesByCommand(t, config, runs)
}

func (r *pageRun) title() string {
	title := r.name
	if r.heading != "" {
		title += "/" + r.heading
	}
	if r.mistake == nil {
		return title
	}
	return title + "/" + r.mistake.row
}

// checkRight is for what the page shows.
func (r *pageRun) checkRight(t *testing.T) {
	r.checkWorks(t, r.gateway)
	if r.warning != "" {
		gatewaytest.Await(t, "the warning", func() bool { return len(r.logged(r.gateway, r.warning)) > 0 })
		if !strings.Contains(r.page.text, r.warning) {
			t.Errorf("the page does not tell of %q", r.warning)
		}
	}
	for line := range strings.Lines(r.gateway.Logs.All()) {
		var entry struct{ Level, Endpoint, Msg string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Level == "warn" && entry.Msg != r.warning && strings.HasPrefix(entry.Endpoint, r.endpoint.URL+"/") {
			t.Errorf("the log warns of %q", entry.Msg)
		}
	}
	r.checkStrict(t)
}

// checkStrict wants the stand-in to take no other token requests than the one that it has granted.
func (r *pageRun) checkStrict(t *testing.T) {
	t.Helper()
	send := func(method, path string, request tokenRequest) int {
		req, err := http.NewRequest(method, r.endpoint.URL+path, strings.NewReader(request.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = request.header
		res, err := r.endpoint.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	_, fine := r.judged()
	r.setClock(fine.at) // for an assertion that ends soon
	defer r.setClock(time.Time{})
	with := func(change func(*tokenRequest)) tokenRequest {
		request := tokenRequest{fine.header.Clone(), fine.body, fine.at}
		change(&request)
		return request
	}
	same := with(func(*tokenRequest) {})
	if status := send(http.MethodPost, r.path, same); status != 200 {
		t.Fatalf("the same request gets %d", status)
	}
	more := "&foo=bar"
	if r.mediaType == jsonType {
		more = `,"foo":"bar"}`
	}
	statuses := map[string]int{
		"another method":            send(http.MethodPut, r.path, same),
		"another path":              send(http.MethodPost, r.path+"/", same),
		"a query":                   send(http.MethodPost, r.path+"?a=b", same),
		"another media type":        send(http.MethodPost, r.path, with(func(q *tokenRequest) { q.header.Set("Content-Type", "text/plain") })),
		"another Accept":            send(http.MethodPost, r.path, with(func(q *tokenRequest) { q.header.Set("Accept", "*/*") })),
		"a cookie":                  send(http.MethodPost, r.path, with(func(q *tokenRequest) { q.header.Set("Cookie", "a=b") })),
		"another credential":        send(http.MethodPost, r.path, with(func(q *tokenRequest) { q.header.Set("Authorization", "Basic YTpi") })),
		"one more parameter":        send(http.MethodPost, r.path, with(func(q *tokenRequest) { q.body = strings.TrimSuffix(q.body, "}") + more })),
		"no body":                   send(http.MethodPost, r.path, with(func(q *tokenRequest) { q.body = "" })),
		"a parameter that is twice": send(http.MethodPost, r.path, with(func(q *tokenRequest) { q.body += "&grant_type=client_credentials" })),
	}
	if r.signed != "" {
		assertion := formOf(fine.body).Get(r.signed)
		statuses["another signature"] = send(http.MethodPost, r.path, with(func(q *tokenRequest) {
			q.body = strings.Replace(q.body, assertion, withOtherSignature(assertion), 1)
		}))
		statuses["no signature"] = send(http.MethodPost, r.path, with(func(q *tokenRequest) {
			q.body = strings.Replace(q.body, assertion, assertion[:strings.LastIndex(assertion, ".")+1], 1)
		}))
	}
	for name, status := range statuses {
		if status < 400 {
			t.Errorf("the stand-in takes a request with %s", name)
		}
	}
}

// checkMistake wants what the page's row says, of the stand-in as of the log.
func (r *pageRun) checkMistake(t *testing.T) {
	row := r.page.row(t, r.mistake.row)
	if r.answer.Status != row.client || r.answer.Body != "" {
		t.Errorf("the client got %d %q, want %d", r.answer.Status, r.answer.Body, row.client)
	}
	refusal, _ := r.judged()
	if row.status == 0 {
		if n := r.tokenRequests(); n > 0 {
			t.Errorf("%d token requests, want none", n)
		}
	} else if refusal == nil {
		t.Fatal("no token request was refused")
	} else if refusal.status != row.status || elided(row.answer).FindString(refusal.body) != refusal.body {
		t.Errorf("the endpoint answers %d\n%s, and the page has %d\n%s", refusal.status, refusal.body, row.status, row.answer)
	}
	var told []string
	gatewaytest.Await(t, "the failure is logged", func() bool {
		told = nil
		for line := range strings.Lines(r.gateway.Logs.All()) {
			if strings.Contains(line, `"msg":"no token obtained","endpoint":"`+r.endpoint.URL+"/") {
				told = append(told, r.asOnPage(line))
			}
		}
		return told != nil
	})
	if len(told) != 1 || !elided(row.told).MatchString(told[0]) || !strings.Contains(told[0], `"level":"error"`) {
		t.Errorf("the log says\n%s, and the page has\n%s", strings.Join(told, ""), row.told)
	}
	if n := r.tokenRequests(); n > 1 != r.mistake.retried {
		t.Errorf("%d token requests", n)
	}
	if accepted, rejected := r.apiRequests(); len(accepted)+rejected > 0 {
		t.Error("a request without a token reached the API")
	}
	r.hasNoCredentials(t, r.gateway.Logs.All(), wrongSecret)
}

// checkPagesByCommand wants `caddy oauth-cc check` to say the same as the log.
func checkPagesByCommand(t *testing.T, config []byte, runs []*pageRun) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.json")
	servertest.WriteFile(t, file, string(config))
	results, _ := gatewaytest.CheckJSON(t, "--config", file)
	for _, r := range runs {
		at := slices.IndexFunc(results, func(result check.Result) bool { return strings.HasPrefix(result.Endpoint, r.endpoint.URL+"/") })
		if at < 0 {
			t.Errorf("%s: not checked", r.title())
			continue
		}
		result := results[at]
		if r.mistake == nil {
			if result.Result != "ok" {
				t.Errorf("%s: the check says %+v", r.title(), result)
			}
			continue
		}
		told := fmt.Sprintf(`"error":%q`, result.Result)
		if result.Status != 0 {
			told += fmt.Sprintf(`,"status":%d`, result.Status)
		}
		for _, text := range []struct{ name, value string }{
			{"detail", result.Detail}, {"endpoint_message", result.EndpointMessage}, {"hint", result.Hint},
		} {
			if text.value != "" {
				var quoted strings.Builder
				encoder := json.NewEncoder(&quoted)
				encoder.SetEscapeHTML(false) // as in the log
				_ = encoder.Encode(text.value)
				told += fmt.Sprintf(`,%q:%s`, text.name, strings.TrimSpace(quoted.String()))
			}
		}
		if row := r.page.row(t, r.mistake.row); !elided(row.told).MatchString(r.asOnPage(told)) {
			t.Errorf("%s: the check says\n%s, and the page has\n%s", r.title(), told, row.told)
		}
	}
}

func TestProviderPagesAreFormattedAndListed(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(repository, pagesFolder, "*.md"))
	headings := make(map[string][]string) // by the page
	for _, p := range paged {
		headings[p.name] = append(headings[p.name], p.heading)
	}
	if err != nil || len(files) != len(headings)+1 {
		t.Errorf("there are %d pages and an index for %d providers: %v", len(files)-1, len(headings), err)
	}
	for _, document := range []string{"README.md", pagesFolder + "/README.md"} {
		text := readDocument(t, document)
		for _, p := range paged {
			target := strings.TrimPrefix(pagesFolder+"/"+p.name+".md", strings.TrimSuffix(document, "README.md"))
			if !strings.Contains(text, "("+target+")") {
				t.Errorf("%s does not lead to %s", document, target)
			}
		}
	}
	for _, p := range paged {
		page := readPage(t, p)
		if run := headings[p.name]; page.headings != nil && !slices.Equal(page.headings, run) || page.headings == nil && len(run) > 1 {
			t.Errorf("%s has Caddyfiles for %q, and those for %q are run", p.name, page.headings, run)
		}
		if formatted := caddyfile.Format([]byte(page.caddyfile)); string(formatted) != page.caddyfile {
			t.Errorf("%s: caddy fmt would write\n%s", p.name, formatted)
		}
		gatewaytest.AdaptWithoutWarnings(t, page.caddyfile)
	}
	for _, file := range files {
		document := filepath.Join(pagesFolder, filepath.Base(file))
		for _, link := range markdownLink.FindAllStringSubmatch(readDocument(t, document), -1) {
			if err := checkLink(document, link[1], link[2]); err != nil {
				t.Errorf("%s: %s: %v", document, link[0], err)
			}
			if strings.HasPrefix(link[2], "https://") {
				t.Errorf("%s: %s can move; name the document", document, link[0])
			}
		}
	}
}
