package oauthcc

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// tenantHeader is how the configurations below tell tenants apart.
const tenantHeader = "{http.request.header.X-Tenant}"

func TestProvisionRefusesPerRequest(t *testing.T) {
	keyFile := filepath.Join(t.TempDir(), "key.pem")
	servertest.WriteFile(t, keyFile, servertest.PKCS8(t, servertest.Keys()["P-256"]))
	withKey := func(options ...string) string {
		return configWithClient(append([]string{"client_id app", "auth_method private_key_jwt"}, options...)...)
	}
	t.Setenv("OAUTH_CC_TEST_DOMAIN", "example.com")
	t.Setenv("OAUTH_CC_TEST_AT", "@evil.example.com")
	t.Setenv("OAUTH_CC_TEST_JSON", `{"a":"b"}`)
	t.Setenv("OAUTH_CC_TEST_MARK", placeMark)
	for _, test := range []struct {
		name   string
		config string
		says   []string // the first is how the message begins
	}{
		// Options that don't fit.
		{"prefetch", configWith("scope "+tenantHeader, "prefetch"), []string{"prefetch: without a request nobody knows what " + tenantHeader + " stands for", "remove prefetch"}},
		{"max_tokens without a placeholder of the request", configWith("max_tokens 5"), []string{"max_tokens: there is one token", "remove max_tokens"}},
		{"max_tokens with a placeholder of the environment", configWith("scope {env.OAUTH_CC_TEST_DOMAIN}", "max_tokens 5"), []string{"max_tokens: there is one token"}},
		{"negative max_tokens", jsonWith(`"max_tokens":-1,"scopes":["` + tenantHeader + `"]`), []string{"max_tokens: must be greater than zero", "such as 10000"}},
		{"negative max_tokens for one token", jsonWith(`"max_tokens":-1`), []string{"max_tokens: must be greater than zero"}},

		// Options that are the same for all requests.
		{"issuer", "oauth_cc {\nissuer https://" + tenantHeader + ".example.com\nclient_id app\nauth_method none\n}", []string{"issuer: placeholder " + tenantHeader + " differs from request to request, which this option can't", "use {env.*} or {file./path/to/file}"}},
		{"issuer beside a client_id", "oauth_cc {\nissuer https://auth.example.com/{host}\nclient_id " + tenantHeader + "\nauth_method none\n}", []string{"issuer: placeholder {http.request.host} differs"}},
		{"signing_key", withKey("signing_key /keys/" + tenantHeader), []string{"signing_key: placeholder " + tenantHeader + " differs from request to request", "{file."}},
		{"key_id", withKey("signing_key " + keyFile + " {\nkey_id " + tenantHeader + "\n}"), []string{"signing_key.key_id: placeholder " + tenantHeader + " differs"}},
		{"audience of assertions", withKey("signing_key " + keyFile + " {\naudience " + tenantHeader + "\n}"), []string{"signing_key.audience: placeholder " + tenantHeader + " differs"}},
		{"dpop", configWith("dpop https://" + tenantHeader), []string{"dpop: placeholder " + tenantHeader + " differs"}},
		{"name of a param", configWith("param " + tenantHeader + " 1"), []string{"param: ", "has no placeholders"}},
		{"name of a header", configWith("request_header " + tenantHeader + " 1"), []string{"request_header: "}},

		// Placeholders that don't fit.
		{"unknown", configWith("scope {tenant}"), []string{"scope: unknown placeholder {tenant}", "use {env.*}, {file./path/to/file}", "{http.request.header.X-Tenant}", "a map sets", `write \{ for a literal brace`}},
		{"unknown, of a secret", configWithClient("client_id app", "client_secret {"+configCanary+"}"), []string{"client_secret: unknown placeholder; use"}},
		{"unknown, of a header", configWith("request_header X-Key a{" + configCanary + "}"), []string{"request_header X-Key: unknown placeholder; use"}},
		{"time", configWith("scope {time.now.unix}"), []string{"scope: unknown placeholder {time.now.unix}"}},
		{"one that is set by nothing but a vars", "vars tenant a\n" + configWith("scope {tenant}"), []string{"scope: unknown placeholder {tenant}"}},
		{"of another map", "map {host} {other} {\ndefault a\n}\n" + configWith("scope {tenant}"), []string{"scope: unknown placeholder {tenant}"}},
		{"UUID", configWith("scope {http.request.uuid}"), []string{"scope: placeholder {http.request.uuid} would make each request another grant", "use one that tells tenants apart", "{http.auth.user.id}"}},
		{"time until shutdown", configWith("scope {http.time_until_shutdown}"), []string{"scope: placeholder {http.time_until_shutdown} would make each request another grant"}},
		{"duration", configWith("scope {http.request.duration_ms}"), []string{"scope: placeholder {http.request.duration_ms} would make each request another grant"}},
		{"port of the client", configWith("scope {http.request.remote.port}"), []string{"scope: placeholder {http.request.remote.port} would make each request another grant"}},
		{"address of the client with its port", configWith("scope {http.request.remote}"), []string{"scope: placeholder {http.request.remote} would make each request another grant"}},
		{"body", configWithClient("client_id {http.request.body}"), []string{"client_id: placeholder {http.request.body} would read the whole body"}},
		{"body in base64", configWithClient("client_id {http.request.body_base64}"), []string{"client_id: placeholder {http.request.body_base64} would read"}},
		{"response", configWith("audience {http.response.header.X-Tenant}"), []string{"audience: placeholder {http.response.header.X-Tenant} has no value yet"}},
		{"reverse_proxy", configWith("audience {http.reverse_proxy.upstream.host}"), []string{"audience: placeholder {http.reverse_proxy.upstream.host} has no value yet"}},
		{"error", configWith("audience {http.error.status_code}"), []string{"audience: placeholder {http.error.status_code} has no value yet"}},
		{"its own", configWith("audience {http.oauth_cc.status}"), []string{"audience: placeholder {http.oauth_cc.status} has no value yet"}},
		{"beside a mark", configWith("scope {env.OAUTH_CC_TEST_MARK}:" + tenantHeader), []string{"scope: a variable or a file has the character U+E001", "remove it"}},

		// JSON of the client's choice.
		{"bare in an object", configWith(`param details ` + "`\\{\"limit\":" + tenantHeader + "}`"), []string{"param details: placeholder " + tenantHeader + " is outside of a JSON string", "put quotes around it"}},
		{"bare in an array", configWith("param details `[" + tenantHeader + "]`"), []string{"param details: placeholder " + tenantHeader + " is outside of a JSON string"}},
		{"bare between others", configWith("param details `[\"a\"," + tenantHeader + ",\"{host}\"]`"), []string{"param details: placeholder " + tenantHeader + " is outside of a JSON string"}},
		{"bare behind white space", configWith("param details ` \t[ " + tenantHeader + " ]`"), []string{"param details: placeholder " + tenantHeader + " is outside of a JSON string"}},
		{"bare in JSON in a string", configWith("param details `[\"[" + tenantHeader + "]\"]`"), []string{"param details: placeholder " + tenantHeader + " is outside of a JSON string"}},
		{"bare beside a variable", configWith("param details `[{env.OAUTH_CC_TEST_JSON}," + tenantHeader + "]`"), []string{"param details: placeholder " + tenantHeader + " is outside of a JSON string"}},
		{"bare in a header", configWith("request_header X-Details `[" + tenantHeader + "]`"), []string{"request_header X-Details: placeholder " + tenantHeader + " is outside of a JSON string"}},
		{"name of a member", configWith("param details `\\{\"" + tenantHeader + "\" : 1}`"), []string{"param details: placeholder " + tenantHeader + " is in the name of a JSON member", "use the placeholder in the value"}},
		{"part of the name of a member", configWith("param details `\\{\"a" + tenantHeader + "\":1}`"), []string{"param details: placeholder " + tenantHeader + " is in the name of a JSON member"}},
		{"name of a member in JSON in a string", configWith("param details `[\"\\{\\\"" + tenantHeader + "\\\":1}\"]`"), []string{"param details: placeholder " + tenantHeader + " is in the name of a JSON member"}},
		{"JSON from a map that has the client's words", "map {host} {details} {\na.example.com `[\"" + tenantHeader + "\"]`\n}\n" + configWith("param scope_details {details}"), []string{"param scope_details: the map that sets {details} puts what a client sent into JSON", "write the JSON into the option itself"}},
		{"JSON from a map that has them by a regular expression", "map {host} {details} {\n~(.*) `{\"a\":\"$1\"}`\n}\n" + configWith("param scope_details {details}"), []string{"param scope_details: the map that sets {details} puts"}},
		{"JSON from vars that have them", "vars details `[\"" + tenantHeader + "\"]`\n" + configWith("param scope_details {vars.details}"), []string{"param scope_details: the vars that sets {http.vars.details} puts"}},

		// Endpoints of the client's choice.
		{"endpoint from a header", configAt(tenantHeader), []string{"token_endpoint: " + tenantHeader + " would let clients choose where the credential is sent", "have a map choose"}},
		{"endpoint from the query", configAt("{query.endpoint}"), []string{"token_endpoint: {http.request.uri.query.endpoint} would let clients choose"}},
		{"endpoint from a cookie", configAt("{cookie.endpoint}"), []string{"token_endpoint: {http.request.cookie.endpoint} would let clients choose"}},
		{"endpoint from a match", configAt("{re.endpoint.1}"), []string{"token_endpoint: {http.regexp.endpoint.1} would let clients choose"}},
		{"endpoint from a map that has the client's words", "map {host} {endpoint} {\na.example.com https://auth.example.com/token\nb.example.com https://" + tenantHeader + "/token\n}\n" + configAt("{endpoint}"), []string{"token_endpoint: the map that sets {endpoint} puts what a client sent into the URL", "list whole URLs", "write that part into token_endpoint itself"}},
		{"endpoint from a map that has them by default", "map {host} {endpoint} {\ndefault https://{host}/token\n}\n" + configAt("{endpoint}"), []string{"token_endpoint: the map that sets {endpoint} puts"}},
		{"endpoint from a map that has them by a regular expression", "map {host} {tenant} {endpoint} {\n~(.*) a https://$1.auth.example.com/token\n}\n" + configAt("{endpoint}"), []string{"token_endpoint: the map that sets {endpoint} puts"}},
		{"endpoint from a map that has another map's", "map {host} {tenant} {\n~(.*) $1\n}\nroute {\nmap {host} {endpoint} {\na.example.com https://{tenant}/token\n}\n" + configAt("{endpoint}") + "\n}", []string{"token_endpoint: the map that sets {endpoint} puts"}},
		{"endpoint from vars that have them", "vars endpoint https://{host}/token\nroute {\n" + configAt("{vars.endpoint}") + "\n}", []string{"token_endpoint: the vars that sets {http.vars.endpoint} puts what a client sent into the URL"}},
		{"endpoint of two placeholders", configAt("{http.request.header.A}{http.request.header.B}"), []string{"token_endpoint: the scheme can't differ"}},
		{"endpoint with no more than a path of its own", configAt(tenantHeader + "/token"), []string{"token_endpoint: the scheme can't differ", "write https://"}},
		{"scheme", configAt("{scheme}://auth.example.com/token"), []string{"token_endpoint: the scheme can't differ"}},
		{"part of the scheme", configAt("http" + tenantHeader + "://auth.example.com/token"), []string{"token_endpoint: the scheme can't differ"}},
		{"host", configAt("https://" + tenantHeader + "/token"), []string{"token_endpoint: the host ends with a placeholder of the request", "sent anywhere", "write the domain after it", ".auth.example.com/token"}},
		{"host and port", configAt("https://" + tenantHeader + ":8443/token"), []string{"token_endpoint: the host ends with a placeholder"}},
		{"end of the host", configAt("https://auth.example." + tenantHeader + "/token"), []string{"token_endpoint: the host ends with a placeholder"}},
		{"host that ends in part with it", configAt("https://auth.example.c" + tenantHeader), []string{"token_endpoint: the host ends with a placeholder"}},
		{"port", configAt("https://auth.example.com:" + tenantHeader + "/token"), []string{"token_endpoint: the host ends with a placeholder"}},
		{"part of the port", configAt("https://auth.example.com:4" + tenantHeader + "3/token"), []string{"token_endpoint: the host ends with a placeholder"}},
		{"domain without a dot before it", configAt("https://" + tenantHeader + "example.com/token"), []string{"token_endpoint: the host ends with a placeholder"}},
		{"two, of which one is the end", configAt("https://{http.request.header.A}.example.com.{http.request.header.B}/token"), []string{"token_endpoint: the host ends with a placeholder"}},
		{"top-level domain", configAt("https://" + tenantHeader + ".com/token"), []string{"token_endpoint: the host ends with a placeholder"}},
		{"end of an IPv4 address", configAt("https://" + tenantHeader + ".113.5/token"), []string{"token_endpoint: the host ends with a placeholder"}},
		{"end of an IPv4 address in octal", configAt("https://" + tenantHeader + ".0.0.01/token"), []string{"token_endpoint: the host ends with a placeholder"}},
		{"end of an IPv4 address in hexadecimal", configAt("https://" + tenantHeader + ".0.0x71/token"), []string{"token_endpoint: the host ends with a placeholder"}},
		{"IPv6 address", configAt("https://[2001:db8::" + tenantHeader + "]/token"), []string{"token_endpoint: the host ends with a placeholder"}},
		{"zone of an IPv6 address", configAt("https://[fe80::1%25" + tenantHeader + ".example.com]/token"), []string{"token_endpoint: the host ends with a placeholder"}},
		{"user", configAt("https://" + tenantHeader + "@auth.example.com/token"), []string{"token_endpoint: the host ends with a placeholder"}},
		{"user of another host", configAt("https://" + tenantHeader + "@evil"), []string{"token_endpoint: the host ends with a placeholder"}},
		{"host that becomes a user", configAt("https://" + tenantHeader + ".example.com{env.OAUTH_CC_TEST_AT}/token"), []string{"token_endpoint: the host ends with a placeholder"}},
		{"password", configAt("https://app:" + tenantHeader + ".example.com@auth.example.com/token"), []string{"token_endpoint: the host ends with a placeholder"}},
		{"user before it", configAt("https://app@" + tenantHeader + ".auth.example.com/token"), []string{"token_endpoint: the URL has user info"}},
		{"port before it", configAt("https://auth.example.com:" + tenantHeader + ".example.com/token"), []string{"token_endpoint: not an absolute"}},
		{"backslash", configAt(`"https://` + tenantHeader + `.auth.example.com\\@evil.example.com/token"`), []string{"token_endpoint: the host ends with a placeholder"}},
		{"host after another ://", configAt(`"https://` + tenantHeader + `?a=https://auth.example.com/token"`), []string{"token_endpoint: the host ends with a placeholder"}},
		{"no host", configAt("https:///" + tenantHeader + ".example.com/token"), []string{"token_endpoint: not an absolute"}},
		{"fragment", configAt(`"https://auth.example.com/token#` + tenantHeader + `"`), []string{"token_endpoint: the URL has a fragment"}},
		{"cleartext", configAt("http://" + tenantHeader + ".auth.example.com/token"), []string{"token_endpoint: http would show"}},
		{"escape", configAt("https://auth.example.com/%" + tenantHeader + "/token"), []string{"token_endpoint: "}},
		{"half an escape", configAt("https://auth.example.com/%2" + tenantHeader + "/token"), []string{"token_endpoint: "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, err := provisionSite(t, test.config)
			if err == nil {
				t.Fatalf("was accepted:\n%s", test.config)
			}
			wantMessage(t, err, test.says)
			if h != nil && (h.holds.grant || h.tokens.table != nil || h.tokens.source != nil) {
				t.Error("a table was acquired all the same")
			}
		})
	}
}

// provisionSite provisions the handler alone where the configuration is nothing else, or the
// whole site, of which the error alone is returned, without what Caddy puts before it.
func provisionSite(t *testing.T, config string) (*Handler, error) {
	t.Helper()
	if strings.HasPrefix(config, "oauth_cc") || strings.HasPrefix(config, "{") {
		return provisionConfig(t, config)
	}
	err := validateCaddyfile(t, ":80 {\n"+config+"\n}\n")
	if err == nil {
		return nil, nil
	}
	message := err.Error()
	for _, option := range []string{"scope: ", "param scope_details: ", "token_endpoint: "} {
		if at := strings.Index(message, option); at >= 0 {
			message = message[at:]
		}
	}
	return nil, fmt.Errorf("%s", message)
}

func TestProvisionAcceptsPerRequest(t *testing.T) {
	t.Setenv("OAUTH_CC_TEST_DOMAIN", "example.com")
	for _, config := range []string{
		configWith("param details `\\{\"tenant\":\"" + tenantHeader + "\", \"a\":[\"{host}\"]}`"),
		configWith("param tenant [tenant]" + tenantHeader),
		configWith("param tenant `\"" + tenantHeader + "\"; {host}`"),
		"map {host} {details} {\na.example.com `[\\{\"a\":\"b\"}]`\n~^b `[{\"a\":\"b\"}]`\ndefault " + tenantHeader + "\n}\n" + configWith("param details {details}"),
		"vars details `[\\{\"a\":\"$b\"}]`\n" + configWith("param details {vars.details}"),
		"vars endpoint https://auth.example.com/token?a=$1\n" + configAt("{vars.endpoint}"),
		configWith("scope "+tenantHeader, "max_tokens 1"),
		configWith("audience {http.auth.user.id}"),
		configWith("resource https://api.example.com/" + tenantHeader),
		configWith("resource {http.vars.api}"),
		configWith("param tenant {query.tenant}"),
		configWith("request_header X-Tenant {labels.2}"),
		configWithClient("client_id {http.vars.id}", "client_secret {http.vars.secret}"),
		configWithClient("client_id {http.vars.id}", "client_secret a{http.vars.secret}z", "auth_method client_secret_jwt"),
		configAt("{http.vars.endpoint}"),
		configAt("{http.auth.user.endpoint}"),
		configAt("https://" + tenantHeader + ".auth.example.com/token"),
		configAt("https://" + tenantHeader + ".example.com:8443/token"),
		configAt("https://" + tenantHeader + ".EXAMPLE.com"),
		configAt("https://auth-" + tenantHeader + ".example.com/token"),
		configAt("https://" + tenantHeader + ".{http.request.header.Region}.example.com/token"),
		configAt("https://" + tenantHeader + ".{env.OAUTH_CC_TEST_DOMAIN}/token"),
		configAt("https://" + tenantHeader + ".xn--bcher-kva.example/token"),
		configAt("https://" + tenantHeader + ".auth.internal/token"),
		configAt("https://" + tenantHeader + ".internal/token"),
		configAt("http://" + tenantHeader + ".localhost/token"),
		configAt("https://auth.example.com/" + tenantHeader + "/token"),
		configAt("https://auth.example.com/token/" + tenantHeader),
		configAt("https://10.0.0.1:8443/a-" + tenantHeader + ".b/token"),
		configAt("https://[2001:db8::1]/" + tenantHeader + "/token"),
		configAt("https://auth.example.com/token?tenant=" + tenantHeader),
		"map {host} {tenant} {secret} {\na.example.com a b\n}\n" + configWithClient("client_id {tenant}", "client_secret {secret}"),
		"map {host} {endpoint} {\na.example.com https://auth.example.com/token\n}\n" + configAt("{endpoint}"),
		"map {host} {endpoint} {\n~(.*).com https://auth.example.com/token\na.example.com https://{env.OAUTH_CC_TEST_DOMAIN}/token\n}\n" + configAt("{endpoint}"),
		"map {host} {tenant} {\na.example.com a\n}\nhandle {\nroute {\n" + configAt("https://{tenant}.auth.example.com/token") + "\n}\n}",
		"route {\nhandle_path /a {\nmap {host} {tenant} {\na.example.com a\n}\n" + configWith("scope {tenant}") + "\n}\n}",
		"route {\nmap {host} {tenant} {\na.example.com a\n}\nmap {host} {region} {\na.example.com b\n}\n" + configWith("scope {tenant} {region}") + "\n}",
	} {
		if _, err := provisionSite(t, config); err != nil {
			t.Errorf("%v in\n%s", err, config)
		}
	}
}

// A named route is somewhere else in the configuration than the map before it.
func TestMapOutsideOfANamedRoute(t *testing.T) {
	if err := validateCaddyfile(t, "&(partner) {\n"+configWith("scope {tenant}")+"\n}\n:80 {\nmap {host} {tenant} {\na b\n}\ninvoke partner\n}\n"); err != nil {
		t.Error(err)
	}
}

// The order in which a configuration is read, which a map in Go does not have, must not
// matter: handlers with the same configuration share their tokens.
func TestSwappedValuesAreAnotherGrant(t *testing.T) {
	two := func() map[string][]string {
		return map[string][]string{"X-A": {"{http.vars.a}"}, "X-B": {"{http.vars.b}"}}
	}
	for name, options := range map[string]func() *Handler{
		"params":  func() *Handler { return &Handler{Params: two()} },
		"headers": func() *Handler { return &Handler{RequestHeaders: two()} },
	} {
		t.Run(name, func(t *testing.T) {
			endpoint := servertest.Func(func(req *http.Request) (*http.Response, error) {
				body, _ := io.ReadAll(req.Body)
				form, _ := url.ParseQuery(string(body))
				value := form.Get("X-A") + form.Get("X-B") + req.Header.Get("X-A") + req.Header.Get("X-B")
				return servertest.Answer{Body: fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, value)}.RoundTrip(req)
			})
			for i := range 20 {
				h := handlerInMemory(t, options())
				h.tokens.client.Transport = endpoint
				for _, values := range []string{"12", "21"} {
					r := requestInCaddy(http.MethodGet, "/", nil)
					repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
					repl.Set("http.vars.a", values[:1])
					repl.Set("http.vars.b", values[1:])
					var got string
					if err := h.ServeHTTP(httptest.NewRecorder(), r, notesToken(&got)); err != nil {
						t.Fatal(err)
					}
					if got != values {
						t.Fatalf("handler %d: the tenant of %s got the token of %s", i, values, got)
					}
				}
			}
		})
	}
}

// notesToken is an upstream that notes the token of a request.
func notesToken(token *string) caddyhttp.Handler {
	return caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		*token = gatewaytest.Bearer(r)
		return nil
	})
}

// Values are told apart however they are written, and one that has braces is not expanded.
func TestCraftedValuesDoNotCollide(t *testing.T) {
	t.Setenv("OAUTH_CC_TEST_SECRET", configCanary)
	h := handlerInMemory(t, &Handler{
		Scopes: []string{"{http.vars.a}", "{http.vars.b}"}, Audience: []string{"{http.vars.c}-{http.vars.d}"},
	})
	var mu sync.Mutex
	asked := make(map[string]string)
	h.tokens.client.Transport = servertest.Func(func(req *http.Request) (*http.Response, error) {
		body, _ := io.ReadAll(req.Body)
		mu.Lock()
		defer mu.Unlock()
		value := fmt.Sprintf("token-%d", len(asked)+1)
		asked[value] = string(body)
		return servertest.Answer{Body: fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, value)}.RoundTrip(req)
	})
	got := make(map[string][]string)
	for _, values := range [][]string{
		{"a", "b", "c", "d"}, {"ab", "", "c", "d"}, {"ab", "c", "c", "d"}, {"a", "bc", "c", "d"}, {"a", "b", "cc", "d"}, {"b", "a", "c", "d"}, {"a b", "b", "c", "d"}, {"a", "b b", "c", "d"},
		{"a", "b", "c-d", "d"}, {"a", "b", "c", "d-d"}, {"a", "b", "d", "c"}, {"a\x00b", "b", "c", "d"}, {"a", "\x00b", "c", "d"},
		{"a\x00\x00\x00\x00\x00\x00\x00\x01b", "b", "c", "d"}, {"{env.OAUTH_CC_TEST_SECRET}", "b", "c", "d"},
		{"{http.vars.b}", "b", "c", "d"}, {`\{`, "b", "c", "d"}, {"\ue000", "b", "c", "d"}, {"A", "b", "c", "d"}, {" a", "b", "c", "d"},
	} {
		r := requestInCaddy(http.MethodGet, "/", nil)
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		for n, name := range []string{"a", "b", "c", "d"} {
			repl.Set("http.vars."+name, values[n])
		}
		var token string
		err := h.ServeHTTP(httptest.NewRecorder(), r, notesToken(&token))
		if slices.Contains(values, "") {
			if err == nil {
				t.Errorf("%q were accepted", values)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", values, err)
			continue
		}
		if other, ok := got[token]; ok {
			t.Errorf("%q share a token with %q", values, other)
		}
		got[token] = values
		form, _ := url.ParseQuery(asked[token])
		if scope := form.Get("scope"); scope != values[0]+" "+values[1] {
			t.Errorf("%q asked for %q", values, scope)
		}
		if audience := form.Get("audience"); audience != values[2]+"-"+values[3] {
			t.Errorf("%q asked for audience %q", values, audience)
		}
	}
}

// What a client sends as a part of the endpoint's URL stays that part, or nothing is sent.
func TestClientCannotChooseTheEndpoint(t *testing.T) {
	hostile := []string{
		"evil.com/", "evil.com/.", "evil.com:443/", "evil.com?", "evil.com#", "evil.com\\", "evil.com%2f", "evil.com%23",
		"..", ".", "...", "../..", "a/../b", "a/..", "../a", "./a", "a/b", "/", "//evil.com", "\\\\evil.com", "..;", "a;b",
		"a?b", "a#b", "a@b", "a:b", "a@evil.com/", "user:pass@evil.com", "evil.com:443", "a&b=c", "a=b",
		"%2e%2e", "%2E%2E", "%2e", "%252e", "a%2fb", "a%00b", "a%", "%",
		"a b", " a", "a ", "a\tb", "a\r\nHost: evil", "a\n", "\n", "a\x00", "a\x7f", "a\x80", "\xff",
		"ä", "evil。com", "evil．com", "a／b", "a⁄b", "ａ", "‥", "\u2024\u2024", "a\u200b", "\ufeff", "\ue000", "a\u3002b",
		".a", "a.", "..a", "a..", "[::1]", "[a]", "a,b", "{a}", "{env.HOME}", `\{`, "'", "\"", "<a>", "a|b", "a^b", "a`b", "$1", "*", "+", "!", "(a)",
		strings.Repeat("a/", 1000),
	}
	for _, test := range []struct {
		endpoint, want string // with TENANT for the value
	}{
		{"https://" + tenantHeader + ".auth.example.com/token", "https://TENANT.auth.example.com/token"},
		{"https://auth.example.com/tenants/" + tenantHeader + "/token", "https://auth.example.com/tenants/TENANT/token"},
		{"https://auth.example.com/token?tenant=" + tenantHeader, "https://auth.example.com/token?tenant=TENANT"},
		{"https://auth.example.com/." + tenantHeader + "/token", "https://auth.example.com/.TENANT/token"},
		{"https://auth.example.com/" + tenantHeader + "./token", "https://auth.example.com/TENANT./token"},
		{"https://auth.example.com/" + tenantHeader + "." + tenantHeader, "https://auth.example.com/TENANT.TENANT"},
	} {
		t.Run(test.endpoint, func(t *testing.T) {
			h := provisionedConfig(t, configAt(`"`+test.endpoint+`"`))
			core, logs := observer.New(zap.ErrorLevel)
			h.reporter.logger = zap.New(core)
			var sent []string
			h.tokens.client.Transport = servertest.Func(func(req *http.Request) (*http.Response, error) {
				sent = append(sent, req.URL.String())
				if req.Host != "" && req.Host != req.URL.Host {
					t.Errorf("the host is %q", req.Host)
				}
				return servertest.Answer{Body: `{"access_token":"a","token_type":"Bearer","expires_in":3600}`}.RoundTrip(req)
			})
			ask := func(tenant string) error {
				r := requestInCaddy(http.MethodGet, "/", nil)
				r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set(tenantPlaceholder, tenant)
				return h.ServeHTTP(httptest.NewRecorder(), r, trivialNext)
			}
			for _, tenant := range hostile {
				if err := ask(tenant); err == nil || len(sent) != 0 {
					t.Errorf("%q was accepted, and sent to %q", tenant, sent)
				}
				told := logs.TakeAll()
				want := " has characters that"
				if !utf8.ValidString(tenant) {
					want = " is not UTF-8"
				}
				if len(told) != 1 || !strings.HasPrefix(told[0].ContextMap()["error"].(string), "token_endpoint: placeholder "+tenantHeader+want) {
					t.Errorf("%q: logged %v", tenant, told)
				}
			}
			if n := len(h.tokens.table.All()); n != 0 {
				t.Errorf("there are %d grants of values that are refused", n)
			}
			for _, tenant := range []string{"a", "A-1", "_a~", "0", "a.b", "a--b", "a..b", "xn--bcher-kva"} {
				sent = nil
				if err := ask(tenant); err != nil || !slices.Equal(sent, []string{strings.ReplaceAll(test.want, "TENANT", tenant)}) {
					t.Errorf("%q was sent to %q, %v", tenant, sent, err)
				}
			}
		})
	}
}
