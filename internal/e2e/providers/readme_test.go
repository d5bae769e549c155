package providers

import (
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// What the documentation shows of the check is what it prints for the quick start.
func TestDocumentationShowsTheCheck(t *testing.T) {
	gatewayAddr, endpoint, api := gatewaytest.FreeAddr(t), gatewaytest.FreeAddr(t), gatewaytest.FreeAddr(t)
	addresses := []string{"localhost:8080", gatewayAddr, "localhost:9090", endpoint, "localhost:9091", api}
	startExample(t, "quickstart", exampleRun{replace: addresses})
	documents := readDocuments(t)
	for secret, status := range map[string]int{"s3cret": 0, "wrong": 1} {
		p := gatewaytest.CaddyProcess(t, "oauth-cc", "check", "--config", "Caddyfile")
		p.Env = append(p.Env, "DEMO_SECRET="+secret)
		servertest.WriteFile(t, filepath.Join(p.Home, "Caddyfile"), strings.NewReplacer(addresses...).Replace(readExample(t, "quickstart")))
		p.RunTo(t, status)
		out := strings.ReplaceAll(p.Output.String(), endpoint, "localhost:9090")
		for line := range strings.Lines(out) {
			shown := slices.ContainsFunc(strings.Split(documents, "\n"), func(l string) bool {
				return slices.Equal(strings.Fields(l), strings.Fields(line)) // another port can be longer
			})
			if !shown {
				t.Errorf("with %q the documentation does not show %q", secret, line)
			}
		}
	}
}

// What the documentation shows of the tokens is what is printed of such, but for times, ids and names of tokens.
func TestDocumentationShowsTheTokens(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	ended := func(w http.ResponseWriter, r *http.Request, _ int) {
		if id, _, _ := r.BasicAuth(); id == "reports" {
			w.Header().Set("Retry-After", "3000") // longer than any test takes
			http.Error(w, `{"error":"invalid_client","error_description":"the secret has ended"}`, http.StatusUnauthorized)
			return
		}
		endpoint.Grant(w)
	}
	endpoint.SetAnswer(ended)
	client := func(name string) string {
		return "handle /" + name + " {\n" + strings.Replace(endpoint.Options(), "client_id app", "client_id "+name, 1) + upstream.Proxy() + "}\n"
	}
	g := gatewaytest.StartWithAdmin(t, client("orders")+client("reports"))
	g.Get("/orders")
	g.Get("/reports")
	documents := readDocuments(t)
	differing := regexp.MustCompile(`\b(([0-9]+[smhd])+|[0-9a-f]{8}|[0-9a-f]{12})\b`)
	shown := make(map[string]bool)
	comparable := func(line string) string {
		return strings.Join(strings.Fields(differing.ReplaceAllString(line, "…")), " ")
	}
	for line := range strings.Lines(documents) {
		shown[comparable(line)] = true
	}
	wantShown := func(args ...string) {
		t.Helper()
		p := gatewaytest.CaddyProcess(t, append([]string{"oauth-cc", "tokens", "--address", g.Admin}, args...)...)
		p.RunTo(t, 0)
		out := strings.ReplaceAll(p.Output.String(), endpoint.URL+"/token", "https://auth.example.com/oauth/token")
		for line := range strings.Lines(out) {
			if !shown[comparable(line)] {
				t.Errorf("the documentation does not show %q", line)
			}
		}
	}
	wantShown()
	endpoint.SetAnswer(nil)
	for _, token := range g.Tokens() {
		if token.ClientID == "reports" {
			wantShown("refresh", token.ID[:6])
		}
	}
}

// readDocuments is all that users read.
func readDocuments(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, pattern := range []string{"README.md", "docs/*.md"} {
		files, err := filepath.Glob(filepath.Join(repository, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(text)
		}
	}
	return all.String()
}

// Every link in the repository leads to a file that is there, and to a heading that it has.
func TestEveryLinkLeadsSomewhere(t *testing.T) {
	links := 0
	err := filepath.WalkDir(repository, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() && (entry.Name() == "node_modules" || entry.Name() == ".git") {
			return cmp.Or(err, fs.SkipDir)
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		document, err := filepath.Rel(repository, path)
		if err != nil {
			return err
		}
		for _, link := range markdownLink.FindAllStringSubmatch(codeInMarkdown.ReplaceAllString(readDocument(t, document), ""), -1) {
			links++
			if err := checkLink(document, link[1], link[2]); err != nil {
				t.Errorf("%s: %s: %v", document, link[0], err)
			}
		}
		return nil
	})
	if err != nil || links < 300 {
		t.Errorf("%d links, %v", links, err)
	}
}

// codeInMarkdown is what looks like a link but is code.
var codeInMarkdown = regexp.MustCompile("(?s)\n```.*?\n```")

// documentedSnippet is the documentation's Caddyfile that has a text, with these stand-ins for its upstreams.
func documentedSnippet(t *testing.T, text string, replace ...string) string {
	t.Helper()
	documents := readDocuments(t)
	var found []string
	for i, block := range strings.Split(documents, "```") {
		if snippet, ok := strings.CutPrefix(block, "caddyfile\n"); ok && i%2 == 1 && strings.Contains(snippet, text) {
			found = append(found, snippet)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d snippets have %q", len(found), text)
	}
	return strings.NewReplacer(replace...).Replace(found[0])
}

// startSnippet wants no warning of the module's.
func startSnippet(t *testing.T, site string) *gatewaytest.Gateway {
	t.Helper()
	g := gatewaytest.Start(t, site)
	for line := range strings.Lines(g.Logs.All()) {
		if strings.Contains(line, `"level":"warn"`) && strings.Contains(line, "http.handlers.oauth_cc") {
			t.Errorf("logs %s", line)
		}
	}
	return g
}

func TestDocumentationShowsAPageOfOnesOwnForRejections(t *testing.T) {
	t.Setenv("PARTNER_SECRET", "s3cret")
	for name, reject := range map[string]http.HandlerFunc{
		"with a challenge": func(w http.ResponseWriter, _ *http.Request) { gatewaytest.RejectToken(w) },
		"with a long page": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, strings.Repeat("no. ", 100), http.StatusUnauthorized)
		},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint := gatewaytest.StartTokenServer(t)
			upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/closed" || gatewaytest.Bearer(r) == "token-1" {
					reject(w, r)
				}
			})
			g := startSnippet(t, documentedSnippet(t, "out of reach", "https://auth.partner.example", endpoint.URL, "https://api.partner.example", upstream.URL))
			gatewaytest.CheckAnswer(t, g.Get("/"), 200, "")
			a := g.Get("/closed")
			gatewaytest.CheckAnswer(t, a, 502, "The partner is out of reach.")
			if a.Header.Get("WWW-Authenticate") != "" {
				t.Errorf("the client got %v", a.Header)
			}
		})
	}
}

func TestDocumentationShowsAnErrorBehind200(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if gatewaytest.Bearer(r) == "token-1" {
			w.Header().Set("X-Error", "token_expired")
		}
		_, _ = io.WriteString(w, gatewaytest.Bearer(r))
	})
	g := startSnippet(t, endpoint.Options()+documentedSnippet(t, "token_expired", "https://api.partner.example", upstream.URL))
	a := g.Get("/")
	gatewaytest.CheckAnswer(t, a, 200, "token-2")
	if a.Header.Get("X-Error") != "" {
		t.Errorf("the client got %v", a.Header)
	}
}

func TestDocumentationShowsAStoreThatGetsNoToken(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	api := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Accel-Redirect", "/of/"+gatewaytest.Bearer(r))
	})
	store := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.URL.Path, r.Header["Authorization"])
	})
	g := startSnippet(t, endpoint.Options()+documentedSnippet(t, "X-Accel-Redirect", "https://api.partner.example", api.URL, "https://store.example", store.URL))
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "/of/token-1[]")
}
