package providers

import (
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// shownConsole compares what commands print with what a section of docs/operations.md shows.
type shownConsole struct {
	t       *testing.T
	shown   map[string]bool // a line without what differs from run to run: whether it was printed
	replace *strings.Replacer
}

func consoleOf(t *testing.T, heading string, replace ...string) *shownConsole {
	t.Helper()
	_, sections := cutAt(readDocument(t, "docs/operations.md"), "### ")
	c := &shownConsole{t: t, shown: make(map[string]bool), replace: strings.NewReplacer(replace...)}
	for i, block := range strings.Split(sections[heading], "```") {
		lines, ok := strings.CutPrefix(block, "console\n")
		if !ok || i%2 == 0 {
			continue
		}
		for line := range strings.Lines(lines) {
			if line = c.comparable(line); line != "" && !strings.HasPrefix(line, "$ ") {
				c.shown[line] = false
			}
		}
	}
	if len(c.shown) == 0 {
		t.Fatalf("docs/operations.md shows nothing under %q", heading)
	}
	return c
}

// differing are times, names of tokens, and ids.
var differing = regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+Z|\b(?:\d+[smhd])+\b|\b[0-9a-f]{12}\.[0-9a-f]{12}\b|\b(?:[0-9a-f]{8}|[0-9a-f]{12})\b`)

func (c *shownConsole) comparable(line string) string {
	return strings.Join(strings.Fields(differing.ReplaceAllString(c.replace.Replace(line), "…")), " ")
}

func (c *shownConsole) printed(text string) {
	c.t.Helper()
	for line := range strings.Lines(text) {
		line = c.comparable(line)
		if _, ok := c.shown[line]; !ok {
			c.t.Errorf("docs/operations.md does not show %q", line)
		}
		c.shown[line] = true
	}
}

func (c *shownConsole) everythingWasPrinted() {
	c.t.Helper()
	for line, printed := range c.shown {
		if !printed {
			c.t.Errorf("docs/operations.md shows %q, which nothing has printed", line)
		}
	}
}

// tokensCommand has the command ask the gateway, and returns what it prints.
func tokensCommand(t *testing.T, g *gatewaytest.Gateway, status int, args ...string) string {
	t.Helper()
	p := gatewaytest.CaddyProcess(t, append([]string{"oauth-cc", "tokens", "--address", g.Admin}, args...)...)
	p.RunTo(t, status)
	return p.Output.String()
}

// takingSecrets makes the endpoint grant tokens to those clients that come with one of these secrets.
func takingSecrets(s *gatewaytest.TokenServer, secrets ...string) {
	s.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		for _, secret := range secrets {
			if _, got, _ := r.BasicAuth(); got == secret {
				s.Grant(w)
				return
			}
		}
		w.Header().Set("Retry-After", "3000") // longer than any test takes
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"invalid_client","error_description":"who is this?"}`)
	})
}

func wantServed(t *testing.T, g *gatewaytest.Gateway, token string) {
	t.Helper()
	if a := g.Get("/"); a.Status != 200 || !strings.Contains(a.Body, token) {
		t.Errorf("a request gets %d %q, want one with %s", a.Status, a.Body, token)
	}
}

func TestOperationsRotatesASecret(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	api := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, gatewaytest.Bearer(r)) })
	secret := filepath.Join(t.TempDir(), "partner")
	servertest.WriteFile(t, secret, "old")
	site := fmt.Sprintf("oauth_cc %s/oauth/token {\nclient_id gateway\nclient_secret {file.%s}\n}\n%s", endpoint.URL, secret, gatewaytest.ProxyTo(api))
	takingSecrets(endpoint, "old", "new")
	g := gatewaytest.StartWithAdmin(t, site)
	console := consoleOf(t, "Rotate a secret, and prove that the new one is in use", endpoint.URL, "https://auth.example.com")
	config := gatewaytest.CaddyfileWith(t, site)
	checked := func(status int) string {
		t.Helper()
		p := gatewaytest.CaddyProcess(t, "oauth-cc", "check", "--config", config)
		p.RunTo(t, status)
		return p.Output.String()
	}

	wantServed(t, g, "token-1")
	console.printed(g.Ask(http.MethodGet, "tokens").Body)
	before := g.Token()

	servertest.WriteFile(t, secret, "wrong")
	checked(1)
	console.printed(tokensCommand(t, g, 1, "refresh", before.ID[:4]))
	wantServed(t, g, "token-1")

	servertest.WriteFile(t, secret, "new")
	console.printed(checked(0)) // is granted token-2 or a later one
	if now := g.Token(); now.Token != before.Token || now.Generation != before.Generation {
		t.Errorf("the check has changed the token from %+v to %+v", before, now)
	}
	out := tokensCommand(t, g, 0, "refresh", before.ID[:4])
	out, failure, _ := strings.Cut(out, "    last error:") // of the attempt with the wrong secret
	if !strings.HasSuffix(failure, ", over\n") {
		t.Errorf("the last error is %q", failure)
	}
	console.printed(out)
	console.everythingWasPrinted()
	after := g.Token()
	if after.ID != before.ID || after.Token == before.Token || !strings.Contains(out, after.Token) ||
		after.Generation != before.Generation+1 || !after.ObtainedAt.After(*before.ObtainedAt) {
		t.Errorf("the token goes from %+v to %+v", before, after)
	}
	recorded := endpoint.Recorded()
	last := http.Request{Header: recorded[len(recorded)-1].Header}
	if _, used, _ := last.BasicAuth(); used != "new" {
		t.Errorf("the last token request came with %q", used)
	}
	gatewaytest.Await(t, "the new token is logged", func() bool {
		for _, entry := range g.Logs.With("token obtained") {
			if entry["trigger"] == "operator" && entry["token"] == after.Token {
				return true
			}
		}
		return false
	})

	takingSecrets(endpoint, "new") // the old one has ended
	tokensCommand(t, g, 0, "refresh", before.ID)
}

func TestOperationsForgetsDuringAnOutage(t *testing.T) {
	for name, outage := range map[string]struct {
		answer gatewaytest.EndpointAnswer
		status int
	}{
		"is not well": {gatewaytest.Says(503, "text/plain", "maintenance"), 503},
		"refuses":     {gatewaytest.RefuseClients, 502},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint := gatewaytest.StartTokenServer(t)
			api := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, gatewaytest.Bearer(r)) })
			g := gatewaytest.StartWithAdmin(t, endpoint.Options()+gatewaytest.ProxyTo(api))
			console := consoleOf(t, "Refresh, don't forget, while the endpoint is down", endpoint.URL+"/token", "https://auth.example.com/oauth/token")
			wantServed(t, g, "token-1")
			endpoint.SetAnswer(outage.answer)
			id := g.Token().ID
			tokensCommand(t, g, 1, "refresh", id)
			wantServed(t, g, "token-1")
			console.printed(tokensCommand(t, g, 0, "forget", id))
			console.everythingWasPrinted()
			if a := g.Get("/"); a.Status != outage.status {
				t.Errorf("a request gets %d, want %d", a.Status, outage.status)
			}
			if state := g.Token(); state.Token != "" || state.State != "none" {
				t.Errorf("the token is %+v", state)
			}
		})
	}
}

func TestOperationsFindsTheTenantThatFails(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if id, _, _ := r.BasicAuth(); id == "acme" {
			endpoint.Grant(w)
			return
		}
		w.Header().Set("Retry-After", "3000") // longer than any test takes
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"invalid_client","error_description":"who is this?"}`)
	})
	g := gatewaytest.StartWithAdmin(t, strings.Replace(endpoint.Options(), "client_id app", "client_id {header.X-Tenant}", 1)+upstream.Proxy())
	console := consoleOf(t, "Which tenant fails", endpoint.URL+"/token", "https://auth.example.com/oauth/token")
	for tenant, status := range map[string]int{"acme": 200, "globex": 502} {
		if a := g.Do(gatewaytest.TenantRequest(t, g, tenant)); a.Status != status {
			t.Fatalf("%s gets %d, want %d", tenant, a.Status, status)
		}
	}
	console.printed(tokensCommand(t, g, 0, "--failing"))
	console.everythingWasPrinted()
	if out := tokensCommand(t, g, 0, "--value", "globex"); !strings.Contains(out, "X-Tenant=globex") || strings.Contains(out, "acme") {
		t.Errorf("got %s", out)
	}
	var list gatewaytest.TokenList
	gatewaytest.DecodeStrictly(t, g.Ask(http.MethodGet, "tokens?failing=true").Body, &list)
	if len(list.Tokens) != 1 || !list.Tokens[0].Failing || list.Tokens[0].Values["http.request.header.X-Tenant"] != "globex" || list.Tokens[0].LastError.Error != "invalid_client" {
		t.Errorf("got %+v", list)
	}
	if entry := g.Logs.With("no token obtained"); len(entry) != 1 || entry[0]["client_id"] != "globex" || entry[0]["endpoint"] != endpoint.URL+"/token" {
		t.Errorf("the log says %v", entry)
	}
}
