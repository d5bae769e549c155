package operators

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

func TestCheckPrintsATable(t *testing.T) {
	good, bad := gatewaytest.StartTokenServer(t), gatewaytest.StartTokenServer(t)
	bad.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.Header().Set("Retry-After", "120")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"invalid_client","error_description":"who is this?"}`)
	})
	config := gatewaytest.CaddyfileWith(t,
		"handle /a {\n"+good.Options("scope orders:read orders:write")+"}\n"+
			"handle /b {\n"+bad.Options("client_secret a+b-canary", "auth_method client_secret_basic_raw")+"}\n"+
			"handle /c {\n"+good.Options("client_id {header.X-Tenant}", "param tenant {host}")+"}\n")
	// An option is given once, so that of options goes.
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	servertest.WriteFile(t, config, strings.NewReplacer("client_id app\nclient_secret s3cret-canary\nclient_secret a+b", "client_id app\nclient_secret a+b",
		"client_id app\nclient_secret s3cret-canary\nclient_id {", "client_secret s3cret-canary\nclient_id {").Replace(string(text)))
	out, err := gatewaytest.CheckCommand(t, "--config", config)
	if err == nil || err.Error() != "no token for 1 of 2 grants" {
		t.Errorf("got %v", err)
	}
	const want = `ENDPOINT                      CLIENT                          METHOD                   RESULT              TYPE    LIFETIME  SCOPE
http://endpoint-A.test/token  app                             client_secret_basic      ok                  Bearer  1h0m0s    orders:read orders:write
http://endpoint-B.test/token  app                             client_secret_basic_raw  invalid_client 401  -       -         -
    the endpoint says: invalid_client who is this?
    hint: the credential has reserved characters, which servers decode differently; try auth_method client_secret_basic, or find out with --try-methods
    note: the endpoint asks to be left alone for 2m0s
    see https://github.com/caddy-oauth-cc/caddy-oauth-cc/blob/main/docs/troubleshooting.md#invalid_client
http://endpoint-A.test/token  {http.request.header.X-Tenant}  client_secret_basic      not checked         -       -         -
    note: the grant differs from request to request; to check it, add --value http.request.header.X-Tenant=… --value http.request.host=…
    see https://github.com/caddy-oauth-cc/caddy-oauth-cc/blob/main/docs/troubleshooting.md#not_checked
`
	if got := strings.NewReplacer(good.URL, "http://endpoint-A.test", bad.URL, "http://endpoint-B.test").Replace(out); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if good.Count() != 1 || bad.Count() != 1 {
		t.Errorf("%d and %d token requests, want 1 of each", good.Count(), bad.Count())
	}
}

func TestCheckPrintsJSON(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		if strings.HasPrefix(r.URL.Path, "/bad") {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":"invalid_scope","error_description":"<no>"}`)
			return
		}
		fmt.Fprint(w, `{"access_token":"token-canary","token_type":"bearer","scope":"a","expires_in":"soon"}`)
	})
	config := gatewaytest.CaddyfileWith(t, "handle /a {\n"+endpoint.Options("scope a b")+"}\nhandle /b {\n"+
		strings.Replace(endpoint.Options("scope a b"), "/token", "/bad/token?key=query-canary", 1)+"}\n")
	out, err := gatewaytest.CheckCommand(t, "--config", config, "--json")
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
    "hint": "asked for was a b; check the spelling, and whether the client has been granted these scopes",
    "help": "https://github.com/caddy-oauth-cc/caddy-oauth-cc/blob/main/docs/troubleshooting.md#invalid_scope"
  }
]
`
	if got := strings.ReplaceAll(out, endpoint.URL, "URL"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Wherever a handler is, it is found, in the order of the configuration; those with the same
// grant are one.
func TestCheckFindsEveryHandler(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	of := func(client string) string {
		return strings.Replace(endpoint.Options(), "client_id app", "client_id "+client, 1)
	}
	config := gatewaytest.CaddyfileWith(t,
		"handle /plain {\n"+of("plain")+"}\n"+
			"handle /again {\n"+of("plain")+"}\n"+
			"invoke named\n"+
			"handle_errors {\nroute {\nhandle {\n"+of("in-errors")+"}\n}\n}",
		fmt.Sprintf("&(named) {\nroute {\n%s}\n}", of("named")),
		"http://127.0.0.1:1 {\n"+of("second")+"}")
	results, err := gatewaytest.CheckJSON(t, "--config", config)
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
	if n := endpoint.Count(); n != len(results) {
		t.Errorf("%d token requests, want %d", n, len(results))
	}
}

// In JSON the order is that of the file, whatever the names.
func TestCheckKeepsTheOrderOfJSON(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	endpoint.Takes = 50 * time.Millisecond
	var servers, want []string
	for i := range 20 {
		name := fmt.Sprintf("client-%d", i*7%20)
		want = append(want, name)
		servers = append(servers, fmt.Sprintf(`"%s":{"listen":["127.0.0.1:%d"],"routes":[{"handle":[{"handler":"subroute","routes":[{"handle":[`+
			`{"handler":"oauth_cc","token_endpoint":"%s/token","client_id":"%s","client_secret":"s3cret"}]}]}]}]}`, name, 1+i, endpoint.URL, name))
	}
	config := filepath.Join(t.TempDir(), "caddy.json")
	servertest.WriteFile(t, config, `{"apps":{"http":{"servers":{`+strings.Join(servers, ",")+`}}}}`)
	results, err := gatewaytest.CheckJSON(t, "--config", config)
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
	if n := endpoint.MostAtATime(); n != 4 {
		t.Errorf("%d token requests at a time", n)
	}
}

func TestCheckTellsWhatCannotBeSetUp(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	for name, test := range map[string]struct{ site, want string }{
		"an unset variable": {endpoint.Options() + "handle /x {\noauth_cc " + endpoint.URL + " {\nclient_id x\nclient_secret {env.NOT_SET_ANYWHERE}\n}\n}", "client_secret: placeholder {env.NOT_SET_ANYWHERE} is empty"},
		"a typing error":    {"oauth_cc https://auth.example.com {\nclient_idd x\n}", "Caddyfile:7"},
		"another module":    {endpoint.Options() + "@x path_regexp [\nrespond @x ok", "http app module"},
		"no handler":        {"respond ok", "the configuration has no oauth_cc handler"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := gatewaytest.CheckCommand(t, "--config", gatewaytest.CaddyfileWith(t, test.site))
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "inspector") || out != "" {
				t.Errorf("got %v and %q, want %q", err, out, test.want)
			}
		})
	}
	if n := endpoint.Count(); n != 0 {
		t.Errorf("%d token requests", n)
	}
	if _, err := gatewaytest.CheckCommand(t, "--config", filepath.Join(t.TempDir(), "Caddyfile")); err == nil {
		t.Error("no error for a file that is not there")
	}
	t.Chdir(t.TempDir())
	if _, err := gatewaytest.CheckCommand(t); err == nil || !strings.Contains(err.Error(), "use --config") {
		t.Errorf("got %v", err)
	}
}

// The token that a gateway has is not the check's to use, nor to replace.
func TestCheckDoesNotTouchTheCache(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, endpoint.Options()+upstream.Proxy())
	g.Get("/")
	config := gatewaytest.CaddyfileWith(t, endpoint.Options())
	for range 2 {
		if _, err := gatewaytest.CheckCommand(t, "--config", config); err != nil {
			t.Fatal(err)
		}
	}
	if n := endpoint.Count(); n != 3 {
		t.Errorf("%d token requests, want 3", n)
	}
	if a := g.Get("/"); a.Body != "GET / with token-1" {
		t.Errorf("got %q", a.Body)
	}
}

func TestCheckHonoursTimeout(t *testing.T) {
	if !gatewaytest.Apart(t) {
		return
	}
	endpoint := gatewaytest.StartTokenServer(t)
	endpoint.Takes = 2 * time.Second
	start := time.Now()
	results, err := gatewaytest.CheckJSON(t, "--config", gatewaytest.CaddyfileWith(t, endpoint.Options("timeout 200ms")))
	if err == nil || results[0].Result != "timeout" || results[0].Detail != "no answer in time" {
		t.Errorf("got %+v, %v", results, err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %s", took)
	}
}

func TestCheckDiscoversTheEndpoint(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if strings.HasPrefix(r.URL.Path, "/.well-known/") {
			fmt.Fprintf(w, `{"issuer":%q,"token_endpoint":%q}`, endpoint.URL, endpoint.URL+"/found")
			return
		}
		endpoint.Grant(w)
	})
	results, err := gatewaytest.CheckJSON(t, "--config", gatewaytest.CaddyfileWith(t, "oauth_cc {\nissuer "+endpoint.URL+"\nclient_id app\nclient_secret s3cret\n}"))
	if err != nil || results[0].Endpoint != endpoint.URL+"/found" || results[0].Issuer != endpoint.URL {
		t.Errorf("got %+v, %v", results, err)
	}
}

func TestCheckBindsTokens(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		tokenType := "DPoP"
		if r.Header.Get("DPoP") == "" {
			tokenType = "Bearer"
		}
		fmt.Fprintf(w, `{"access_token":"bound","token_type":%q,"expires_in":60}`, tokenType)
	})
	results, err := gatewaytest.CheckJSON(t, "--config", gatewaytest.CaddyfileWith(t, endpoint.Options("dpop https://api.example.com")))
	if err != nil || results[0].TokenType != "DPoP" || results[0].Lifetime != 60 {
		t.Errorf("got %+v, %v", results, err)
	}
}

func TestCommandLine(t *testing.T) {
	p := gatewaytest.CaddyProcess(t, "oauth-cc")
	p.RunTo(t, 0)
	if !strings.Contains(p.Output.String(), "check       Asks each token endpoint in a configuration") {
		t.Errorf("got %s", p.Output.String())
	}
	gatewaytest.CaddyProcess(t, "oauth-cc", "chekc").RunTo(t, 1)
	gatewaytest.CaddyProcess(t, "oauth-cc", "check", "what").RunTo(t, 1)

	endpoint := gatewaytest.StartTokenServer(t)
	p = gatewaytest.CaddyProcess(t, "oauth-cc", "check", "--config", "-", "--adapter", "caddyfile", "--envfile", "env")
	servertest.WriteFile(t, filepath.Join(p.Home, "env"), "OAUTH_CC_TEST_CLIENT=from-the-file\n")
	p.Stdin = strings.NewReader(":8080 {\n" + strings.Replace(endpoint.Options(), "client_id app", "client_id {env.OAUTH_CC_TEST_CLIENT}", 1) + "}")
	p.RunTo(t, 0)
	if !strings.Contains(p.Output.String(), "from-the-file  client_secret_basic  ok") || p.Errors.Len() > 0 && !strings.Contains(p.Errors.String(), "not formatted") {
		t.Errorf("got %s and %s", p.Output.String(), p.Errors.String())
	}

	p = gatewaytest.CaddyProcess(t, "oauth-cc", "check", "--config", "nowhere")
	p.RunTo(t, 1)
	if p.Output.Len() > 0 || !strings.Contains(p.Errors.String(), "reading config from file") {
		t.Errorf("got %s and %s", p.Output.String(), p.Errors.String())
	}
}

// The gateway's files are its own: its log, its storage, and what Caddy keeps at home.
func TestCheckWritesNoFile(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	p := gatewaytest.CaddyProcess(t, "oauth-cc", "check", "--config", "Caddyfile")
	config := `{
	log {
		output file ` + p.Home + `/gateway.log
	}
	storage file_system ` + p.Home + `/storage
}
http://127.0.0.1:1 {
	log {
		output file ` + p.Home + `/access.log
	}
	` + endpoint.Options("storage", "prefetch") + `
	handle /x {
	` + endpoint.Options("storage file_system "+p.Home+"/tokens") + `
	}
}
`
	servertest.WriteFile(t, filepath.Join(p.Home, "Caddyfile"), config)
	p.RunTo(t, 0)
	_ = filepath.WalkDir(p.Home, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path != p.Home && filepath.Base(path) != "Caddyfile" {
			t.Errorf("there is %s, %v", path, err)
		}
		return nil
	})
	if strings.Contains(p.Errors.String(), `"info"`) {
		t.Errorf("the log says %s", p.Errors.String())
	}
}

func TestInterruptEndsTheCheck(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	hanging := make(chan struct{})
	defer close(hanging)
	endpoint.SetAnswer(func(http.ResponseWriter, *http.Request, int) { <-hanging })
	p := gatewaytest.CaddyProcess(t, "oauth-cc", "check", "--config", gatewaytest.CaddyfileWith(t, endpoint.Options("timeout 1m")))
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	gatewaytest.Await(t, "the endpoint is asked", func() bool { return endpoint.Count() > 0 })
	start := time.Now()
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()
	p.WantStatus(t, 1)
	if took := time.Since(start); took > gatewaytest.Patience/2 || !strings.Contains(p.Errors.String(), "interrupted") || p.Output.Len() > 0 {
		t.Errorf("after %s: %s%s", took, p.Output.String(), p.Errors.String())
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
	endpoint := gatewaytest.StartTokenServer(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
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
		p := gatewaytest.CaddyProcess(t, append([]string{"oauth-cc", "check", "--config", gatewaytest.CaddyfileWith(t, site.String())}, args...)...)
		p.Env = append(p.Env, "CANARY="+secret)
		p.RunTo(t, 1)
		if out := p.Output.String(); strings.Count(out, "***") < 2*len(echo) || !strings.Contains(out, "invalid_client") {
			t.Errorf("nothing is masked in\n%s", out)
		}
		for _, text := range append(echo, "canary", strings.Trim(string(quoted), `"`)) {
			if strings.Contains(p.Output.String()+p.Errors.String(), text) {
				t.Errorf("%v: %q is in\n%s%s", args, text, p.Output.String(), p.Errors.String())
			}
		}
	}
}
