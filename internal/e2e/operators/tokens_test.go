package operators

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// tokensCommand has the command ask a gateway, and returns what it prints.
func tokensCommand(t *testing.T, g *gatewaytest.Gateway, status int, args ...string) (out, errors string) {
	t.Helper()
	p := gatewaytest.CaddyProcess(t, append([]string{"oauth-cc", "tokens", "--address", g.Admin}, args...)...)
	p.RunTo(t, status)
	return p.Output.String(), p.Errors.String()
}

// durations and ids differ from run to run.
var (
	durations = regexp.MustCompile(`\b(\d+[smhd])+\b`)
	ids       = regexp.MustCompile(`\b[0-9a-f]{12}(\.[0-9a-f]{12})?\b`)
	gaps      = regexp.MustCompile(` {2,}`)
)

// withoutNumbers is a table in which these look the same each time.
func withoutNumbers(table string, endpoint *gatewaytest.TokenServer) string {
	table = strings.ReplaceAll(table, endpoint.URL, "URL")
	return gaps.ReplaceAllString(ids.ReplaceAllString(durations.ReplaceAllString(table, "TIME"), "ID"), "  ")
}

// refusingBad grants tokens to all clients but that of the name bad, whose secret it repeats.
func refusingBad(endpoint *gatewaytest.TokenServer) {
	endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if id, secret, _ := r.BasicAuth(); id == "bad" {
			w.Header().Set("Retry-After", "3000") // longer than any test takes
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":"invalid_client","error_description":"not with %s"}`, secret)
			return
		}
		endpoint.Grant(w)
	})
}

// clientOptions are the endpoint's options for another client.
func clientOptions(endpoint *gatewaytest.TokenServer, client string) string {
	return strings.Replace(endpoint.Options(), "client_id app", "client_id "+client, 1)
}

func TestTokensPrintsATable(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	refusingBad(endpoint)
	g := gatewaytest.StartWithAdmin(t, "handle /bad {\n"+clientOptions(endpoint, "bad")+upstream.Proxy()+"}\nhandle {\n"+endpoint.Options()+upstream.Proxy()+"}\n")
	out, _ := tokensCommand(t, g, 0)
	const before = `2 tokens: 2 none
ENDPOINT  CLIENT  STATE  EXPIRES  NEXT TRY  ID
URL/token  bad  none  -  -  ID
  no token yet: none was asked for
URL/token  app  none  -  -  ID
  no token yet: none was asked for
`
	if got := withoutNumbers(out, endpoint); got != before {
		t.Errorf("got\n%s\nwant\n%s", got, before)
	}
	g.Get("/")
	g.Get("/bad")
	out, errors := tokensCommand(t, g, 0)
	const after = `2 tokens: 1 fresh, 1 none, 1 failing
ENDPOINT  CLIENT  STATE  EXPIRES  NEXT TRY  ID
URL/token  bad  none  -  in TIME  ID
  last error: invalid_client 401, TIME ago
  the endpoint says: invalid_client not with ***
  hint: the id or the secret may be wrong, or the endpoint may want them sent in another way; --try-methods finds out which
  see https://github.com/caddy-oauth-cc/caddy-oauth-cc/blob/main/docs/troubleshooting.md#invalid_client
URL/token  app  fresh  in TIME  -  ID
`
	if got := withoutNumbers(out, endpoint); got != after || errors != "" {
		t.Errorf("got\n%s\nwant\n%s\n%s", got, after, errors)
	}
	if out, _ = tokensCommand(t, g, 0, "--state", "fresh,due", "--limit", "5"); strings.Contains(out, "bad") || !strings.HasPrefix(out, "1 token: 1 fresh\n") {
		t.Errorf("got %s", out)
	}
	out, _ = tokensCommand(t, g, 0, "--json")
	var list gatewaytest.TokenList
	gatewaytest.DecodeStrictly(t, out, &list)
	if len(list.Tokens) != 2 || !list.Tokens[0].Failing || list.Tokens[1].Failing || out != g.Ask(http.MethodGet, "tokens").Body {
		t.Errorf("got %s", out)
	}
	g.Reload("respond nothing")
	if out, _ = tokensCommand(t, g, 0); out != "the running configuration has no oauth_cc\n" {
		t.Errorf("got %s", out)
	}
}

func TestTokensListsTenants(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	refusingBad(endpoint)
	g := gatewaytest.StartWithAdmin(t, clientOptions(endpoint, "{http.request.header.X-Tenant}")+upstream.Proxy())
	if out, _ := tokensCommand(t, g, 0); out != "no tokens yet: each tenant's first request gets one\n" {
		t.Errorf("got %s", out)
	}
	for _, tenant := range []string{"acme", "globex", "bad"} {
		g.Do(gatewaytest.TenantRequest(t, g, tenant))
	}
	out, _ := tokensCommand(t, g, 0, "--value", "ACM")
	const want = `1 token: 1 fresh
ENDPOINT  CLIENT  VALUES  STATE  EXPIRES  NEXT TRY  ID
URL/token  {http.request.header.X-Tenant}  header.X-Tenant=acme  fresh  in TIME  -  ID
`
	if got := withoutNumbers(out, endpoint); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if out, _ := tokensCommand(t, g, 0, "--limit", "1"); !strings.Contains(out, ", 2 more not shown (see --limit, --failing, --state and --value)\n") {
		t.Errorf("got %s", out)
	}
	if out, _ := tokensCommand(t, g, 0, "--state", "none"); !strings.Contains(out, "header.X-Tenant=bad") || !strings.HasPrefix(out, "1 token: 1 none, 1 failing\n") {
		t.Errorf("got %s", out)
	}
	if out, _ := tokensCommand(t, g, 0, "--failing", "--limit", "1"); !strings.Contains(out, "header.X-Tenant=bad") || !strings.HasPrefix(out, "1 token: 1 none, 1 failing\n") {
		t.Errorf("got %s", out)
	}
	if out, _ := tokensCommand(t, g, 0, "--failing", "--value", "acme"); out != "no failing token is in such a state or has such a value\n" {
		t.Errorf("got %s", out)
	}
	if out, _ := tokensCommand(t, g, 0, "--state", "expired"); out != "no token is in such a state or has such a value\n" {
		t.Errorf("got %s", out)
	}
}

func TestTokensRefreshesAndForgets(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithAdmin(t, endpoint.Options()+upstream.Proxy())
	id := g.Token().ID
	out, _ := tokensCommand(t, g, 0, "refresh", id[:4])
	const refreshed = `ENDPOINT  CLIENT  STATE  EXPIRES  NEXT TRY  ID
URL/token  app  fresh  in TIME  -  ID
`
	if want := "the endpoint has granted the token " + tokencache.Fingerprint("token-1") + "\n" + refreshed; withoutNumbers(out, endpoint) != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		http.Error(w, "{}", http.StatusServiceUnavailable)
	})
	out, errors := tokensCommand(t, g, 1, "refresh", id)
	if !strings.Contains(errors, "no access token: server_error, HTTP status 503; the current token stays in use") || !strings.Contains(out, "    last error: server_error 503, ") {
		t.Errorf("got %s and %s", out, errors)
	}
	if out, _ := tokensCommand(t, g, 0, "forget", id); out != "forgot the token "+tokencache.Fingerprint("token-1")+"; the next request, or prefetch at once, asks "+endpoint.URL+"/token for another\n" {
		t.Errorf("got %s", out)
	}
	wantState(t, g.Token(), "none", 0)
	if out, _ := tokensCommand(t, g, 0, "forget", id); !strings.HasPrefix(out, "there was no token; ") {
		t.Errorf("got %s", out)
	}
	_, errors = tokensCommand(t, g, 1, "refresh", id)
	end := "" // of Caddy's own line about the error of a command
	if gatewaytest.CaddySince(5) {
		end = `"`
	}
	if !strings.Contains(errors, "no access token: server_error, HTTP status 503"+end) || strings.Contains(errors, "current token") {
		t.Errorf("got %s", errors)
	}
	for _, what := range []string{"refresh", "forget"} {
		if _, errors := tokensCommand(t, g, 1, what, "nonsense"); !strings.Contains(errors, "no such token; the list may have changed") {
			t.Errorf("%s: got %s", what, errors)
		}
		tokensCommand(t, g, 1, what)
	}

	g.Reload(clientOptions(endpoint, "{http.request.header.X-Tenant}") + upstream.Proxy())
	endpoint.SetAnswer(nil)
	g.Do(gatewaytest.TenantRequest(t, g, "acme"))
	id = g.Token().ID
	if _, errors := tokensCommand(t, g, 1, "refresh", id); !strings.Contains(errors, "caddy oauth-cc tokens forget "+id) {
		t.Errorf("got %s", errors)
	}
	g.Do(gatewaytest.TenantRequest(t, g, "globex"))
	if _, errors := tokensCommand(t, g, 1, "forget", id[:13]); !strings.Contains(errors, "2 tokens have an id that begins with "+id[:13]) {
		t.Errorf("got %s", errors)
	}
	tokensCommand(t, g, 0, "forget", id)
	if n := len(g.Tokens()); n != 2 {
		t.Errorf("%d tokens", n)
	}
}

func TestTokensTellsWhatToWrite(t *testing.T) {
	g := gatewaytest.StartWithAdmin(t, "respond nothing")
	for args, want := range map[string]string{
		"--state broken": "there is no state", "--limit -1": "limit: not a number", "--failing=maybe": "invalid argument", "--interval 5s": "--interval is for --watch", "--watch --interval 0s": "write one such as 5s",
		"--watch 5s": "unknown command", "--address 127.0.0.1:1-9": "has several ports",
	} {
		if out, errors := tokensCommand(t, g, 1, strings.Fields(args)...); out != "" && !strings.HasPrefix(out, "Usage:") || !strings.Contains(errors, want) {
			t.Errorf("%s: got %s and %s", args, out, errors)
		}
	}
	p := gatewaytest.CaddyProcess(t, "oauth-cc", "tokens", "--address", gatewaytest.FreeAddr(t))
	p.RunTo(t, 1)
	if !strings.Contains(p.Errors.String(), "no gateway answers at 127.0.0.1:") {
		t.Errorf("got %s", p.Errors.String())
	}
	p = gatewaytest.CaddyProcess(t, "oauth-cc", "tokens", "--help")
	p.RunTo(t, 0)
	for _, want := range []string{"refresh     Asks the token endpoint", "forget      Forgets a token", "--address string"} {
		if !strings.Contains(p.Output.String(), want) {
			t.Errorf("no %q in %s", want, p.Output.String())
		}
	}
}

// As for "caddy reload", the configuration tells where the admin endpoint is.
func TestTokensFindsTheAdminEndpointInAConfiguration(t *testing.T) {
	g := gatewaytest.StartWithAdmin(t, "respond nothing")
	p := gatewaytest.CaddyProcess(t, "oauth-cc", "tokens", "--config", "gateway.conf", "--adapter", "caddyfile")
	servertest.WriteFile(t, filepath.Join(p.Home, "gateway.conf"), "{\n\tadmin "+g.Admin+"\n}\n")
	p.RunTo(t, 0)
	if got := p.Output.String() + p.Errors.String(); got != "the running configuration has no oauth_cc\n" {
		t.Errorf("got %s", got)
	}
}

func TestTokensWatchesUntilItIsInterrupted(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithAdmin(t, endpoint.Options()+upstream.Proxy())
	admin := g.Admin
	p := gatewaytest.CaddyProcess(t, "oauth-cc", "tokens", "--address", admin, "--watch", "--interval", "1ms")
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	p.Stdout = writer
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	lines := bufio.NewScanner(reader)
	await := func(want ...string) {
		t.Helper()
		for _, want := range want {
			for lines.Scan() && !strings.HasPrefix(lines.Text(), want) {
			}
			if !strings.HasPrefix(lines.Text(), want) {
				t.Fatalf("it ended before it printed %q", want)
			}
		}
	}
	await("1 token: 1 none", "ENDPOINT", endpoint.URL, "", "1 token: 1 none")
	g.Get("/")
	await("1 token: 1 fresh")
	g.Admin = gatewaytest.FreeAddr(t)
	g.Reload("respond nothing")
	await("no gateway answers at " + admin)
	g.Admin = admin
	g.Reload(endpoint.Options() + upstream.Proxy())
	await("1 token: ", "ENDPOINT")
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // or it could not write
	}
	_ = p.Wait()
	p.WantStatus(t, 0)
	if p.Errors.Len() > 0 {
		t.Errorf("got %s", p.Errors.String())
	}
}
