package requests

import (
	"encoding/json"
	"net/url"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// hostileValues are what a client writes to get out of the place that is meant for it.
var hostileValues = []string{
	`x","actions":["write"],"y":"z`, `x"},{"type":"admin","a":"`, `\`, `\\`, `\",`, `"`, `""`, `x\`, "\x00", "a\x00\"b", "\x01\x1f\x7f", "\b\f\n\r\t",
	"</script><script>alert(1)</script>", "<!--", "&amp;", "\u2028\u2029", "\ufeff", "\ue000", "\ue001", `\ue001`, `\u0022`, `\ud800`, `\udc00\ud800`, "\U0001F600", "é", "e\u0301",
	"{env.OAUTH_CC_TEST_SECRET}", "{file./etc/passwd}", `\{env.OAUTH_CC_TEST_SECRET\}`, "{http.request.host}", "{header.X-Other}", "$1", "${1}", "%22", "%2522", "&scope=write", "a=b&c=d",
	`]`, `}`, `}]`, `//`, `/*`, `'`, "`", "null", "0", " ", strings.Repeat(`"`, 500),
}

// asked is the form of the last token request.
func asked(t *testing.T, endpoint *gatewaytest.TokenServer) url.Values {
	t.Helper()
	recorded := endpoint.Recorded()
	form, err := url.ParseQuery(recorded[len(recorded)-1].Body)
	if err != nil {
		t.Fatal(err)
	}
	return form
}

// askWith sends a request with a value in the query, where a client can write any byte.
func askWith(g *gatewaytest.Gateway, value string) gatewaytest.Answer {
	g.T.Helper()
	return g.Get("/?x=" + url.QueryEscape(value))
}

func TestValueStaysInItsJSONString(t *testing.T) {
	t.Setenv("OAUTH_CC_TEST_SECRET", "s3cret-canary")
	t.Setenv("OAUTH_CC_TEST_DETAIL", `{"type":"{query.x}"}`)
	upstream := gatewaytest.StartAPI(t)
	inner := func(v string) string { text, _ := json.Marshal(map[string]string{"tenant": v}); return string(text) }
	tests := []struct {
		name, before, option string
		want                 func(value string) any
	}{
		{"object in a list", "", "param details `[\\{\"type\":\"a\",\"to\":\"{query.x}\",\"actions\":[\"read\"]}]`",
			func(v string) any {
				return []any{map[string]any{"type": "a", "to": v, "actions": []any{"read"}}}
			}},
		{"in the middle of a string", "", "param details ` \\{\"to\": \"a {query.x} \\\" z\"}`", func(v string) any { return map[string]any{"to": "a " + v + ` " z`} }},
		{"twice", "", "param details `[\"{query.x}{query.x}\", \"{query.x}\"]`", func(v string) any { return []any{v + v, v} }},
		{"a string", "", "param details `\"{query.x}\"`", func(v string) any { return v }},
		{"JSON in a string", "", "param details `\\{\"claims\":\"\\{\\\"tenant\\\":\\\"{query.x}\\\"}\"}`",
			func(v string) any { return map[string]any{"claims": inner(v)} }},
		{"beside a variable with JSON", "", "param details `[{env.OAUTH_CC_TEST_DETAIL},\"{query.x}\"]`",
			func(v string) any { return []any{map[string]any{"type": "{query.x}"}, v} }},
		{"from vars", "vars tenant {query.x}", "param details `[\"{vars.tenant}\"]`", func(v string) any { return []any{v} }},
		{"from a map", "map {host} {tenant} {\ndefault {query.x}\n}", "param details `[\"{tenant}\"]`", func(v string) any { return []any{v} }},
		{"from a map of an expression", "map {query.x} {tenant} {\n\"~(?s)^(.*)$\" ${1}\n}", "param details `[\"{tenant}\"]`", func(v string) any { return []any{v} }},
		{"audience", "", "audience `\\{\"to\":\"{query.x}\"}`", func(v string) any { return map[string]any{"to": v} }},
	}
	endpoints, sites := make([]*gatewaytest.TokenServer, len(tests)), make([]string, len(tests))
	for i, test := range tests {
		endpoints[i] = gatewaytest.StartTokenServer(t)
		sites[i] = test.before + "\n" + endpoints[i].Options(test.option) + upstream.Proxy()
	}
	gateways := gatewaytest.StartSites(t, sites...)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g := gateways[i].For(t)
			for _, value := range hostileValues {
				gatewaytest.WantProbed(t, askWith(g, value), 200, "")
				form := asked(t, endpoints[i])
				sent := form.Get("details") + form.Get("audience")
				var got any
				if err := json.Unmarshal([]byte(sent), &got); err != nil {
					t.Errorf("%.60q: %v in %.200q", value, err, sent)
				} else if want := test.want(value); !reflect.DeepEqual(got, want) {
					t.Errorf("%.60q: the endpoint got %.200v, want %.200v", value, got, want)
				}
			}
		})
	}
}

// What a client sends is a part of one word, of one value, of one segment of a path.
func TestValueCantLeaveItsPlace(t *testing.T) {
	separators := []string{"a write:all", "a\twrite", "a\nwrite", "a\r\nX-Injected: 1", "a\u00a0write", "a\u2028write", "a,write", "a;write", `a"`, `a\`, "a'", "a|b", "a&b=c", "<a", "a)(b", "a]", "a}", "\x00", "a\x7f", "\xff", "a\xc0\xafb", "\xed\xa0\x80"}
	inURL := append([]string{"..", ".", "a/b", "/", "../admin", "a?b", "a#b", "%2f", "a%2e%2e", `\`, "a:b", "a@evil.example", "a=b", "a+b", "é", "a..", ".a"}, separators...)
	upstream := gatewaytest.StartAPI(t)
	tests := []struct {
		name, option string
		refused      []string
		fits         string
	}{
		{"scope", "scope read:{query.x}", separators, "urn:orders/1@example.com?a=b#c+d%20é"},
		{"scope among others", "scope openid {query.x}.read", separators, "orders"},
		{"audience", "audience api-{query.x}", separators, "orders"},
		{"audience that is a URL", "audience https://api.example.com/{query.x}", inURL, "a..b_c-d~e.f"},
		{"audience that is a URL with another before it", "audience https://{method}.example.com/{query.x}", inURL, "orders"},
		{"resource", "resource https://api.example.com/{query.x}/", inURL, "orders"},
		{"resource that is no URL", "resource urn:api:{query.x}", separators, "orders:1"},
		{"parameter", "param tenant a={query.x}", separators, "Zm9v+/=="},
		{"parameter that is a URL", "param where https://{query.x}.example.com/", inURL, "orders"},
		{"URL in JSON", "param details `[\"https://api.example.com/{query.x}\"]`", inURL, "orders"},
		{"like JSON in JSON", "param details `[\"\\{'a':'{query.x}'}\"]`", separators, "orders"},
		{"text like JSON in JSON", "param details `[\"[draft] {query.x}\"]`", separators, "orders"},
		{"like JSON", "param details `\\{'a':'{query.x}'}`", separators, "orders"},
		{"header", "request_header Cookie tenant={query.x}", separators, "orders"},
		{"path", "", inURL, "orders"},
		{"query", "", inURL, "orders"},
		{"whole client_id", "param a {query.x}", []string{"\xff", "\xed\xa0\x80", "a\xc0\xafb", ""}, "a b&c"},
	}
	endpoints, sites := make([]*gatewaytest.TokenServer, len(tests)), make([]string, len(tests))
	for i, test := range tests {
		endpoints[i] = gatewaytest.StartTokenServer(t)
		at := endpoints[i].URL + "/token"
		switch test.name {
		case "path":
			at = endpoints[i].URL + "/a/{query.x}/token"
		case "query":
			at = endpoints[i].URL + "/token?tenant={query.x}"
		}
		sites[i] = "oauth_cc " + at + " {\nclient_id app\nclient_secret s3cret-canary\n" + test.option + "\n}\n" + upstream.Proxy()
	}
	gateways := gatewaytest.StartSites(t, sites...)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g := gateways[i].For(t)
			for _, value := range test.refused {
				if a := askWith(g, value); a.Status != 502 {
					t.Errorf("%q got %d, want 502", value, a.Status)
				}
			}
			gatewaytest.WantFetched(t, endpoints[i], 0)
			gatewaytest.WantProbed(t, askWith(g, test.fits), 200, "")
			gatewaytest.WantFetched(t, endpoints[i], 1)
		})
	}
}

// What a client, a file or a variable says is not searched for placeholders, wherever it goes.
func TestNothingIsReplacedTwice(t *testing.T) {
	file := filepath.Join(t.TempDir(), "details")
	servertest.WriteFile(t, file, "{query.x} {env.OAUTH_CC_TEST_SECRET}")
	t.Setenv("OAUTH_CC_TEST_SECRET", "s3cret-canary")
	t.Setenv("OAUTH_CC_TEST_NESTED", "{env.OAUTH_CC_TEST_SECRET}{query.x}")
	upstream, endpoint := gatewaytest.StartAPI(t), gatewaytest.StartTokenServer(t)
	g := gatewaytest.Start(t, "map {query.x} {mapped} {matched} {\n~(?s)^(.*)$ ${1} ${1}\n}\nmap {host} {default} {\ndefault {query.x}\n}\nvars said {query.x}\n"+
		endpoint.Options("param whole {query.x}", "param json `\\{\"a\":\"{query.x}\"}`", "param vars {vars.said}", "param mapped {mapped}", "param default {default}",
			"scope {query.x}", "audience {query.x}", "request_header X-Whole {query.x}", "param file {file."+file+"}", "param nested {env.OAUTH_CC_TEST_NESTED}")+upstream.Proxy())
	for _, value := range []string{"{env.OAUTH_CC_TEST_SECRET}", "{file." + file + "}", "{$OAUTH_CC_TEST_SECRET}", "{query.y}", "{header.Authorization}", "{vars.said}", "{mapped}", "{http.oauth_cc.status}", `\{env.HOME\}`, "$1${1}$$"} {
		gatewaytest.WantProbed(t, g.Get("/?y=second&x="+url.QueryEscape(value)), 200, "")
		form := asked(t, endpoint)
		text, _ := json.Marshal(map[string]string{"a": value})
		for name, want := range map[string]string{
			"whole": value, "json": string(text), "vars": value, "mapped": value, "default": value, "scope": value, "audience": value,
			"file": "{query.x} {env.OAUTH_CC_TEST_SECRET}", "nested": "{env.OAUTH_CC_TEST_SECRET}{query.x}",
		} {
			if got := form.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		recorded := endpoint.Recorded()
		if got := recorded[len(recorded)-1].Header.Get("X-Whole"); got != value {
			t.Errorf("X-Whole is %q, want %q", got, value)
		}
	}
}
