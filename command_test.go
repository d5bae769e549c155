package oauthcc

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// commandLine is the variable of the environment that makes this program Caddy.
const commandLine = "OAUTH_CC_TEST_COMMAND_LINE"

// checkCommand runs the command in this process, and returns what it prints.
func checkCommand(t testing.TB, args ...string) (string, error) {
	t.Helper()
	cmd := &cobra.Command{Use: "oauth-cc", SilenceUsage: true}
	caddycmd.Commands()["oauth-cc"].CobraFunc(cmd)
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs(append([]string{"check"}, args...))
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// checkJSON returns what the command prints for programs.
func checkJSON(t testing.TB, args ...string) ([]checkResult, error) {
	t.Helper()
	out, err := checkCommand(t, append(args, "--json")...)
	var results []checkResult
	if out != "" {
		decoder := json.NewDecoder(strings.NewReader(out))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&results); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
	}
	return results, err
}

// caddyfileWith writes a Caddyfile whose first site has these directives. Its port is taken,
// so that it could not be started.
func caddyfileWith(t testing.TB, site string, more ...string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	name := filepath.Join(t.TempDir(), "Caddyfile")
	writeFile(t, name, fmt.Sprintf("{\nauto_https off\n}\nhttp://%s {\nbind 127.0.0.1\n%s\n}\n%s\n", listener.Addr(), site, strings.Join(more, "\n")))
	return name
}

// caddyCommand is Caddy as another process, with an empty folder for all that it keeps.
type caddyCommand struct {
	*exec.Cmd
	home           string
	stdout, stderr bytes.Buffer
}

func caddyProcess(t testing.TB, args ...string) *caddyCommand {
	t.Helper()
	p := &caddyCommand{Cmd: exec.CommandContext(t.Context(), os.Args[0], args...), home: t.TempDir()}
	p.Env = append(os.Environ(), commandLine+"=1", "HOME="+p.home, "XDG_DATA_HOME="+p.home, "XDG_CONFIG_HOME="+p.home)
	p.Dir = p.home
	p.Stdout, p.Stderr = &p.stdout, &p.stderr
	return p
}

// run wants the process to end with that status.
func (p *caddyCommand) run(t testing.TB, status int) {
	t.Helper()
	_ = p.Run()
	p.ended(t, status)
}

func (p *caddyCommand) ended(t testing.TB, status int) {
	t.Helper()
	if got := p.ProcessState.ExitCode(); got != status {
		t.Fatalf("exit status %d, want %d:\n%s%s", got, status, p.stdout.String(), p.stderr.String())
	}
}

func TestCheckPrintsATable(t *testing.T) {
	good, bad := startTokenServer(t), startTokenServer(t)
	bad.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.Header().Set("Retry-After", "120")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"invalid_client","error_description":"who is this?"}`)
	})
	config := caddyfileWith(t,
		"handle /a {\n"+good.options("scope orders:read orders:write")+"}\n"+
			"handle /b {\n"+bad.options("client_secret a+b-canary", "auth_method client_secret_basic_raw")+"}\n"+
			"handle /c {\n"+good.options("client_id {header.X-Tenant}", "param tenant {host}")+"}\n")
	// An option is given once, so that of options goes.
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, config, strings.NewReplacer("client_id app\nclient_secret s3cret-canary\nclient_secret a+b", "client_id app\nclient_secret a+b",
		"client_id app\nclient_secret s3cret-canary\nclient_id {", "client_secret s3cret-canary\nclient_id {").Replace(string(text)))
	out, err := checkCommand(t, "--config", config)
	if err == nil || err.Error() != "no token for 1 of 2 grants" {
		t.Errorf("got %v", err)
	}
	const want = `ENDPOINT                      CLIENT                          METHOD                   RESULT              TYPE    LIFETIME  SCOPE
http://endpoint-A.test/token  app                             client_secret_basic      ok                  Bearer  1h0m0s    orders:read orders:write
http://endpoint-B.test/token  app                             client_secret_basic_raw  invalid_client 401  -       -         -
    the endpoint says: invalid_client who is this?
    hint: the credential has reserved characters, which servers decode differently; try auth_method client_secret_basic
    note: the endpoint asks to be left alone for 2m0s
http://endpoint-A.test/token  {http.request.header.X-Tenant}  client_secret_basic      not checked         -       -         -
    note: the grant differs from request to request; to check it, add --value http.request.header.X-Tenant=… --value http.request.host=…
`
	if got := strings.NewReplacer(good.URL, "http://endpoint-A.test", bad.URL, "http://endpoint-B.test").Replace(out); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if good.count() != 1 || bad.count() != 1 {
		t.Errorf("%d and %d token requests, want 1 of each", good.count(), bad.count())
	}
}

func TestCheckPrintsJSON(t *testing.T) {
	endpoint := startTokenServer(t)
	endpoint.setAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		if strings.HasPrefix(r.URL.Path, "/bad") {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":"invalid_scope","error_description":"<no>"}`)
			return
		}
		fmt.Fprint(w, `{"access_token":"token-canary","token_type":"bearer","scope":"a","expires_in":"soon"}`)
	})
	config := caddyfileWith(t, "handle /a {\n"+endpoint.options("scope a b")+"}\nhandle /b {\n"+
		strings.Replace(endpoint.options("scope a b"), "/token", "/bad/token?key=query-canary", 1)+"}\n")
	out, err := checkCommand(t, "--config", config, "--json")
	if err == nil {
		t.Error("no error")
	}
	const want = `[
  {
    "endpoint": "URL/token",
    "client_id": "app",
    "auth_method": "client_secret_basic",
    "request_format": "form",
    "result": "ok",
    "token_type": "Bearer",
    "default_ttl_seconds": 300,
    "scope": "a",
    "missing_scope": "b",
    "notes": [
      "the lifetime is unknown; default_ttl 5m0s is used",
      "fewer scopes were granted than asked for; missing: b"
    ]
  },
  {
    "endpoint": "URL/bad/token",
    "client_id": "app",
    "auth_method": "client_secret_basic",
    "request_format": "form",
    "result": "invalid_scope",
    "status": 400,
    "endpoint_message": "invalid_scope <no>",
    "hint": "asked for was a b; check the spelling, and whether the client has been granted these scopes"
  }
]
`
	if got := strings.ReplaceAll(out, endpoint.URL, "URL"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Each member that the command prints is described in its help, and no other.
func TestHelpDescribesTheMembers(t *testing.T) {
	text, err := json.Marshal(checkResult{
		Endpoint: "x", Issuer: "x", ClientID: "x", Status: 1, TokenType: "x", Lifetime: 1, DefaultTTL: 1, Scope: "x", Missing: "x", ClockSkew: 1,
		Detail: "x", EndpointMessage: "x", Hint: "x", RetryAfter: 1, AcceptedMethod: "x", AcceptedFormat: "x", MissingValues: []string{"x"}, Notes: []string{"x"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil || len(members) != 21 {
		t.Fatalf("%d members: %v", len(members), err)
	}
	words := strings.FieldsFunc(checkHelp, func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz_", r) })
	for name := range members {
		if !slices.Contains(words, name) {
			t.Errorf("the help does not describe %s", name)
		}
	}
}

// Wherever a handler is, it is found, in the order of the configuration; those with the same
// grant are one.
func TestCheckFindsEveryHandler(t *testing.T) {
	endpoint := startTokenServer(t)
	of := func(client string) string {
		return strings.Replace(endpoint.options(), "client_id app", "client_id "+client, 1)
	}
	config := caddyfileWith(t,
		"handle /plain {\n"+of("plain")+"}\n"+
			"handle /again {\n"+of("plain")+"}\n"+
			"invoke named\n"+
			"handle_errors {\nroute {\nhandle {\n"+of("in-errors")+"}\n}\n}",
		fmt.Sprintf("&(named) {\nroute {\n%s}\n}", of("named")),
		"http://127.0.0.1:1 {\n"+of("second")+"}")
	results, err := checkJSON(t, "--config", config)
	if err != nil {
		t.Fatal(err)
	}
	var clients []string
	for _, r := range results {
		clients = append(clients, r.ClientID)
	}
	if want := []string{"plain", "in-errors", "named", "second"}; !slices.Equal(clients, want) {
		t.Errorf("got %q, want %q", clients, want)
	}
	if n := endpoint.count(); n != len(results) {
		t.Errorf("%d token requests, want %d", n, len(results))
	}
}

// In JSON the order is that of the file, whatever the names.
func TestCheckKeepsTheOrderOfJSON(t *testing.T) {
	endpoint := startTokenServer(t)
	endpoint.takes = 50 * time.Millisecond
	var servers, want []string
	for i := range 20 {
		name := fmt.Sprintf("client-%d", i*7%20)
		want = append(want, name)
		servers = append(servers, fmt.Sprintf(`"%s":{"listen":["127.0.0.1:%d"],"routes":[{"handle":[{"handler":"subroute","routes":[{"handle":[`+
			`{"handler":"oauth_cc","token_endpoint":"%s/token","client_id":"%s","client_secret":"s3cret"}]}]}]}]}`, name, 1+i, endpoint.URL, name))
	}
	config := filepath.Join(t.TempDir(), "caddy.json")
	writeFile(t, config, `{"apps":{"http":{"servers":{`+strings.Join(servers, ",")+`}}}}`)
	results, err := checkJSON(t, "--config", config)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range results {
		got = append(got, r.ClientID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if endpoint.mostFlying != checksAtOnce {
		t.Errorf("%d token requests at a time, want %d", endpoint.mostFlying, checksAtOnce)
	}
}

func TestCheckTellsWhatCannotBeSetUp(t *testing.T) {
	endpoint := startTokenServer(t)
	for name, test := range map[string]struct{ site, want string }{
		"an unset variable": {endpoint.options() + "handle /x {\noauth_cc " + endpoint.URL + " {\nclient_id x\nclient_secret {env.NOT_SET_ANYWHERE}\n}\n}", "client_secret: placeholder {env.NOT_SET_ANYWHERE} is empty"},
		"a typing error":    {"oauth_cc https://auth.example.com {\nclient_idd x\n}", "Caddyfile:7"},
		"another module":    {endpoint.options() + "@x path_regexp [\nrespond @x ok", "http app module"},
		"no handler":        {"respond ok", "the configuration has no oauth_cc handler"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := checkCommand(t, "--config", caddyfileWith(t, test.site))
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "inspector") || out != "" {
				t.Errorf("got %v and %q, want %q", err, out, test.want)
			}
		})
	}
	if n := endpoint.count(); n != 0 {
		t.Errorf("%d token requests", n)
	}
	if _, err := checkCommand(t, "--config", filepath.Join(t.TempDir(), "Caddyfile")); err == nil {
		t.Error("no error for a file that is not there")
	}
	t.Chdir(t.TempDir())
	if _, err := checkCommand(t); err == nil || !strings.Contains(err.Error(), "use --config") {
		t.Errorf("got %v", err)
	}
}

// What the check sets up it takes away again; prefetch and renewal don't begin.
func TestCheckLeavesNothingBehind(t *testing.T) {
	endpoint := startTokenServer(t)
	before := len(handlers.all())
	config := caddyfileWith(t, endpoint.options("prefetch", "storage"))
	t.Chdir(filepath.Dir(config)) // where it is found without --config
	if out, err := checkCommand(t); err != nil || !strings.Contains(out, " ok ") {
		t.Errorf("got %v\n%s", err, out)
	}
	if n := len(handlers.all()); n != before {
		t.Errorf("%d handlers, %d before", n, before)
	}
	if n := endpoint.count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

// The token that a gateway has is not the check's to use, nor to replace.
func TestCheckDoesNotTouchTheCache(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, endpoint.options()+upstream.proxy())
	g.get("/")
	config := caddyfileWith(t, endpoint.options())
	for range 2 {
		if _, err := checkCommand(t, "--config", config); err != nil {
			t.Fatal(err)
		}
	}
	if n := endpoint.count(); n != 3 {
		t.Errorf("%d token requests, want 3", n)
	}
	if a := g.get("/"); a.body != "GET / with token-1" {
		t.Errorf("got %q", a.body)
	}
}

func TestCheckHonoursTimeout(t *testing.T) {
	endpoint := startTokenServer(t)
	endpoint.takes = 2 * time.Second
	start := time.Now()
	results, err := checkJSON(t, "--config", caddyfileWith(t, endpoint.options("timeout 200ms")))
	if err == nil || results[0].Result != "timeout" || results[0].Detail != "no answer in time" {
		t.Errorf("got %+v, %v", results, err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %s", took)
	}
}

func TestCheckDiscoversTheEndpoint(t *testing.T) {
	endpoint := startTokenServer(t)
	endpoint.setAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if strings.HasPrefix(r.URL.Path, "/.well-known/") {
			fmt.Fprintf(w, `{"issuer":%q,"token_endpoint":%q}`, endpoint.URL, endpoint.URL+"/found")
			return
		}
		endpoint.grant(w)
	})
	results, err := checkJSON(t, "--config", caddyfileWith(t, "oauth_cc {\nissuer "+endpoint.URL+"\nclient_id app\nclient_secret s3cret\n}"))
	if err != nil || results[0].Endpoint != endpoint.URL+"/found" || results[0].Issuer != endpoint.URL {
		t.Errorf("got %+v, %v", results, err)
	}
}

func TestCheckBindsTokens(t *testing.T) {
	endpoint := startTokenServer(t)
	endpoint.setAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		tokenType := "DPoP"
		if r.Header.Get("DPoP") == "" {
			tokenType = "Bearer"
		}
		fmt.Fprintf(w, `{"access_token":"bound","token_type":%q,"expires_in":60}`, tokenType)
	})
	results, err := checkJSON(t, "--config", caddyfileWith(t, endpoint.options("dpop https://api.example.com")))
	if err != nil || results[0].TokenType != "DPoP" || results[0].Lifetime != 60 {
		t.Errorf("got %+v, %v", results, err)
	}
}

func TestCommandLine(t *testing.T) {
	p := caddyProcess(t, "oauth-cc")
	p.run(t, 0)
	if !strings.Contains(p.stdout.String(), "check       Asks each token endpoint") {
		t.Errorf("got %s", p.stdout.String())
	}
	caddyProcess(t, "oauth-cc", "chekc").run(t, 1)
	caddyProcess(t, "oauth-cc", "check", "what").run(t, 1)

	endpoint := startTokenServer(t)
	p = caddyProcess(t, "oauth-cc", "check", "--config", "-", "--adapter", "caddyfile", "--envfile", "env")
	writeFile(t, filepath.Join(p.home, "env"), "OAUTH_CC_TEST_CLIENT=from-the-file\n")
	p.Stdin = strings.NewReader(":8080 {\n" + strings.Replace(endpoint.options(), "client_id app", "client_id {env.OAUTH_CC_TEST_CLIENT}", 1) + "}")
	p.run(t, 0)
	if !strings.Contains(p.stdout.String(), "from-the-file  client_secret_basic  ok") || p.stderr.Len() > 0 && !strings.Contains(p.stderr.String(), "not formatted") {
		t.Errorf("got %s and %s", p.stdout.String(), p.stderr.String())
	}

	p = caddyProcess(t, "oauth-cc", "check", "--config", "nowhere")
	p.run(t, 1)
	if p.stdout.Len() > 0 || !strings.Contains(p.stderr.String(), "reading config from file") {
		t.Errorf("got %s and %s", p.stdout.String(), p.stderr.String())
	}
}

// The gateway's files are its own: its log, its storage, and what Caddy keeps at home.
func TestCheckWritesNoFile(t *testing.T) {
	endpoint := startTokenServer(t)
	p := caddyProcess(t, "oauth-cc", "check", "--config", "Caddyfile")
	config := `{
	log {
		output file ` + p.home + `/gateway.log
	}
	storage file_system ` + p.home + `/storage
}
http://127.0.0.1:1 {
	log {
		output file ` + p.home + `/access.log
	}
	` + endpoint.options("storage", "prefetch") + `
	handle /x {
	` + endpoint.options("storage file_system "+p.home+"/tokens") + `
	}
}
`
	writeFile(t, filepath.Join(p.home, "Caddyfile"), config)
	p.run(t, 0)
	_ = filepath.WalkDir(p.home, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path != p.home && filepath.Base(path) != "Caddyfile" {
			t.Errorf("there is %s, %v", path, err)
		}
		return nil
	})
	if strings.Contains(p.stderr.String(), `"info"`) {
		t.Errorf("the log says %s", p.stderr.String())
	}
}

func TestInterruptEndsTheCheck(t *testing.T) {
	endpoint := startTokenServer(t)
	hanging := make(chan struct{})
	defer close(hanging)
	endpoint.setAnswer(func(http.ResponseWriter, *http.Request, int) { <-hanging })
	p := caddyProcess(t, "oauth-cc", "check", "--config", caddyfileWith(t, endpoint.options("timeout 1m")))
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	awaitCondition(t, "the endpoint is asked", func() bool { return endpoint.count() > 0 })
	start := time.Now()
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()
	p.ended(t, 1)
	if took := time.Since(start); took > patience/2 || !strings.Contains(p.stderr.String(), "interrupted") || p.stdout.Len() > 0 {
		t.Errorf("after %s: %s%s", took, p.stdout.String(), p.stderr.String())
	}
}

// An endpoint that repeats all that it gets, and more, has nothing of it printed.
func TestCheckPrintsNoSecret(t *testing.T) {
	const secret, key, access = `s3c"r\et +&/canary`, "key-canary-1", "access-canary-2"
	quoted, _ := json.Marshal(secret)
	echo := []string{
		secret, url.QueryEscape(secret), url.PathEscape(secret), string(quoted), base64.StdEncoding.EncodeToString([]byte(secret)),
		base64.StdEncoding.EncodeToString([]byte("app:" + secret)), base64.StdEncoding.EncodeToString([]byte("app:" + url.QueryEscape(secret))),
		key, access,
	}
	endpoint := startTokenServer(t)
	endpoint.setAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		answer := map[string]any{"access_token": access, "token_type": "Bearer"}
		// Each is in an answer of its own, or they would be cut off.
		text := echo[len(r.URL.Path)%len(echo)]
		if strings.HasPrefix(r.URL.Path, "/granted") {
			answer["scope"] = text
		} else {
			answer["error"], answer["error_description"] = "invalid_client", text
			w.WriteHeader(http.StatusUnauthorized)
		}
		_ = json.NewEncoder(w).Encode(answer)
	})
	var site strings.Builder
	for i := range echo {
		for _, path := range []string{"/granted", "/refused"} {
			fmt.Fprintf(&site, "route %s {\noauth_cc %s%s?key=query-canary {\nclient_id app\nclient_secret {env.CANARY}\nparam api_key %s\nrequest_header X-Key %s\nscope a\n}\n}\n",
				path+strings.Repeat("x", i), endpoint.URL, path+strings.Repeat("x", i), key, key)
		}
	}
	for _, args := range [][]string{nil, {"--json"}, {"--try-methods"}} {
		p := caddyProcess(t, append([]string{"oauth-cc", "check", "--config", caddyfileWith(t, site.String())}, args...)...)
		p.Env = append(p.Env, "CANARY="+secret)
		p.run(t, 1)
		if out := p.stdout.String(); strings.Count(out, "***") < 2*len(echo) || !strings.Contains(out, "invalid_client") {
			t.Errorf("nothing is masked in\n%s", out)
		}
		for _, text := range append(echo, "canary", strings.Trim(string(quoted), `"`)) {
			if strings.Contains(p.stdout.String()+p.stderr.String(), text) {
				t.Errorf("%v: %q is in\n%s%s", args, text, p.stdout.String(), p.stderr.String())
			}
		}
	}
}
