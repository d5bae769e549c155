package operators

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// TestNoSecretComesOutOfABrokenConfiguration has secrets where they don't belong, or beside
// what is wrong.
func TestNoSecretComesOutOfABrokenConfiguration(t *testing.T) {
	c := new(gatewaytest.Canaries)
	secret := func(name string) string { return gatewaytest.Quoted(c.Secret(name, gatewaytest.Awkward)) }
	bare := func(name string) string { return c.Secret(name, "-") } // fits wherever one may be misplaced
	folder := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(folder, name)
		servertest.WriteFile(t, path, content)
		return path
	}
	const url, id = "https://auth.example.com/token", "client_id app\n"
	key := servertest.PKCS8(t, servertest.Keys()["P-256"])
	c.Add("lines of a signing key", strings.Split(strings.TrimSpace(key), "\n")[1:3]...)
	t.Setenv("OAUTH_CC_TEST_SECRET", c.Secret("variable", gatewaytest.Awkward))
	texts := map[string]string{
		"blank in a secret":            "oauth_cc " + url + " {\n" + id + "client_secret " + bare("1") + " " + bare("2") + "\n}",
		"unknown placeholder":          "oauth_cc " + url + " {\n" + id + "client_secret " + gatewaytest.Quoted(bare("3")+"{"+bare("4")+"}") + "\n}",
		"open brace":                   "oauth_cc " + url + " {\n" + id + "client_secret " + gatewaytest.Quoted(bare("5")+"{"+bare("6")) + "\n}",
		"placeholder in a parameter":   "oauth_cc " + url + " {\n" + id + "client_secret x\nparam api_key " + gatewaytest.Quoted("{"+bare("7")+"}") + "\n}",
		"two secrets":                  "oauth_cc " + url + " {\n" + id + "client_secret " + bare("8") + "\nclient_secret " + bare("9") + "\n}",
		"misspelled option":            "oauth_cc " + url + " {\n" + id + "client_secrt " + secret("10") + "\n}",
		"user info":                    "oauth_cc https://app:" + bare("11") + "@auth.example.com/token {\n" + id + "client_secret " + secret("12") + "\n}",
		"secret for a port":            "oauth_cc https://auth.example.com:" + bare("13") + "/token?key=" + bare("14") + " {\n" + id + "client_secret x\n}",
		"bad escape":                   "oauth_cc https://auth.example.com/%zz?key=" + bare("15") + " {\n" + id + "client_secret x\n}",
		"fragment":                     "oauth_cc https://auth.example.com/token?key=" + bare("16") + "#" + bare("17") + " {\n" + id + "client_secret x\n}",
		"cleartext":                    "oauth_cc http://auth.example.com/token?key=" + bare("18") + " {\n" + id + "client_secret x\n}",
		"secret beside a key":          "oauth_cc " + url + " {\n" + id + "auth_method private_key_jwt\nsigning_key " + file("good.pem", key) + "\nclient_secret " + secret("19") + "\n}",
		"secret without use":           "oauth_cc " + url + " {\n" + id + "auth_method none\nclient_secret " + secret("20") + "\n}",
		"secret too short to sign":     "oauth_cc " + url + " {\n" + id + "auth_method client_secret_jwt\nclient_secret " + gatewaytest.Quoted(bare("21")[:20]) + "\n}",
		"secret in place of a file":    "oauth_cc " + url + " {\n" + id + "client_secret {file." + folder + "/missing}\nparam key " + secret("22") + "\n}",
		"no key":                       "oauth_cc " + url + " {\n" + id + "auth_method private_key_jwt\nsigning_key " + file("none.pem", "-----BEGIN PRIVATE KEY-----\n"+bare("23")) + "\n}",
		"half a key":                   "oauth_cc " + url + " {\n" + id + "auth_method private_key_jwt\nsigning_key " + file("half.pem", key[:len(key)/2]) + "\n}",
		"key of another kind":          "oauth_cc " + url + " {\n" + id + "auth_method private_key_jwt\nsigning_key " + file("other.pem", key) + " {\nalg RS256\n}\n}",
		"JWK with a string for a key":  "oauth_cc " + url + " {\n" + id + "auth_method private_key_jwt\nsigning_key " + file("key.jwk", `{"kty":"EC","crv":"P-256","x":"AA","y":"AA","d":"`+bare("24")+`"}`) + "\n}",
		"header without a value":       "oauth_cc " + url + " {\n" + id + "client_secret x\nrequest_header " + gatewaytest.Quoted("X-Key: "+bare("25")) + "\n}",
		"header with a line break":     "oauth_cc " + url + " {\n" + id + "client_secret x\nrequest_header X-Key \"" + bare("26") + "\n" + bare("27") + "\"\n}",
		"header of the secret's":       "oauth_cc " + url + " {\n" + id + "client_secret x\nrequest_header Authorization \"Bearer " + bare("28") + "\"\n}",
		"parameter of the grant's":     "oauth_cc " + url + " {\n" + id + "client_secret x\nparam client_secret " + bare("29") + "\n}",
		"parameter with three":         "oauth_cc " + url + " {\n" + id + "client_secret x\nparam api_key " + bare("30") + " " + bare("31") + "\n}",
		"colon in the client's name":   "oauth_cc " + url + " {\nclient_id app:\nauth_method client_secret_basic_raw\nclient_secret " + secret("32") + "\n}",
		"JSON for an assertion":        "oauth_cc " + url + " {\n" + id + "auth_method client_secret_jwt\nrequest_format json\nclient_secret " + secret("33") + "\n}",
		"secret from the environment":  "oauth_cc " + url + " {\n" + id + "auth_method none\nclient_secret {env.OAUTH_CC_TEST_SECRET}\n}",
		"secret for a duration":        "oauth_cc " + url + " {\n" + id + "client_secret " + secret("34") + "\ntimeout soon\n}",
		"URL that is made of a secret": "oauth_cc {env.OAUTH_CC_TEST_SECRET} {\n" + id + "client_secret x\n}",
	}
	g := gatewaytest.StartWithAdmin(t, "respond fine")
	for name, text := range texts {
		text = "{\nadmin " + g.Admin + "\nauto_https off\npersist_config off\nlog {\noutput oauth_cc_test\nlevel DEBUG\n}\n}\nhttp://" + g.Addr + " {\n" + text + "\n}\n"
		if !gatewaytest.CaddySince(5) { // it answers 200 as soon as it warns of something, such as the format
			text = string(caddyfile.Format([]byte(text)))
		}
		a := loadConfig(g, "text/caddyfile", text)
		if a.Status != http.StatusBadRequest {
			t.Errorf("%s: got %d", name, a.Status)
		}
		c.WantNone(t, name, fmt.Sprint(a.Status, a.Header, a.Body))
	}
	for name, members := range map[string]map[string]any{
		"list":            {"client_secret": []string{c.Secret("35", gatewaytest.Awkward)}},
		"object":          {"params": map[string]string{"api_key": c.Secret("36", gatewaytest.Awkward)}},
		"unknown member":  {"client_secrt": c.Secret("37", gatewaytest.Awkward)},
		"unknown storage": {"client_secret": c.Secret("38", gatewaytest.Awkward), "storage": map[string]any{"module": "nonsense", "password": c.Secret("39", gatewaytest.Awkward)}},
		"bad storage":     {"client_secret": c.Secret("40", gatewaytest.Awkward), "storage": c.Secret("41", gatewaytest.Awkward)},
		"line break":      {"client_secret": c.Secret("42", gatewaytest.Awkward), "request_headers": map[string]any{"X-Key": []string{c.Secret("43", "\r\n")}}},
		"key":             {"signing_key": c.Secret("44", gatewaytest.Awkward)},
	} {
		a := loadRemotely(g, members)
		if a.Status != http.StatusBadRequest {
			t.Errorf("%s: got %d", name, a.Status)
		}
		c.WantNone(t, name, fmt.Sprint(a.Status, a.Header, a.Body))
	}
	c.WantNone(t, "the log", gatewaytest.WithoutRepeats(g))
}

// loadConfig posts a configuration to the admin endpoint.
func loadConfig(g *gatewaytest.Gateway, contentType, config string) gatewaytest.Answer {
	g.T.Helper()
	req := gatewaytest.ClientRequest(g.T, http.MethodPost, "http://"+g.Admin+"/load", strings.NewReader(config))
	req.Header.Set("Content-Type", contentType)
	a := g.Do(req)
	if err := gatewaytest.AwaitOldListeners(g.Addr + " " + g.Admin); err != nil {
		g.T.Fatal(err)
	}
	return a
}

// loadRemotely posts a configuration whose handler has these members.
func loadRemotely(g *gatewaytest.Gateway, members map[string]any) gatewaytest.Answer {
	g.T.Helper()
	handler := map[string]any{"handler": "oauth_cc", "token_endpoint": "https://auth.example.com/token", "client_id": "app"}
	maps.Copy(handler, members)
	config, err := json.Marshal(map[string]any{
		"admin":   map[string]any{"listen": g.Admin, "config": map[string]any{"persist": false}},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"writer": map[string]any{"output": "oauth_cc_test"}, "level": "DEBUG"}}},
		"apps": map[string]any{"http": map[string]any{"servers": map[string]any{
			"main": map[string]any{"listen": []string{g.Addr}, "routes": []any{map[string]any{"handle": []any{handler}}}},
		}}},
	})
	if err != nil {
		g.T.Fatal(err)
	}
	return loadConfig(g, "application/json", string(config))
}

// TestNoSecretComesOutOfACheck has the command ask endpoints that repeat what they are sent,
// in this process for all that they can say, and in one of its own for what it prints beside.
func TestNoSecretComesOutOfACheck(t *testing.T) {
	if !gatewaytest.Apart(t) {
		return
	}
	c := new(gatewaytest.Canaries)
	p := gatewaytest.StartParrot(t, c)
	var site strings.Builder
	for i, method := range []string{endpoint.AuthSecretBasic, "client_secret_basic_raw", endpoint.AuthSecretPost, endpoint.AuthSecretJWT} {
		fmt.Fprintf(&site, "handle /%d {\noauth_cc %s/%d?key=%s {\nclient_id app\nauth_method %s\nclient_secret %s\nparam api_key %s\nrequest_header X-Api-Key %s\nscope orders\n}\n}\n",
			i, p.URL, i, c.Secret("query of "+method, "-"), method, gatewaytest.Quoted(c.Secret("client secret of "+method, gatewaytest.Awkward)),
			gatewaytest.Quoted(c.Secret("parameter of "+method, gatewaytest.Awkward)), gatewaytest.Quoted(c.Secret("request header of "+method, gatewaytest.Awkward)))
	}
	fmt.Fprintf(&site, "handle /tenants {\noauth_cc %s/tenants {\nclient_id app\nclient_secret {header.%s}\n}\n}\n", p.URL, gatewaytest.TenantSecret)
	config := gatewaytest.CaddyfileWith(t, site.String())
	t.Setenv("OAUTH_CC_TEST_TENANT", c.Secret("tenant's secret", gatewaytest.Awkward))
	args := []string{"--config", config, "--value", "header." + gatewaytest.TenantSecret + "={env.OAUTH_CC_TEST_TENANT}"}
	for _, more := range [][]string{nil, {"--json"}, {"--try-methods"}, {"--json", "--try-methods"}} {
		flags := append(append([]string{}, args...), more...)
		p.Says(nil)
		wantNoneOfProcess(t, c, 0, flags)
		p.Says(func(w http.ResponseWriter, heard []string) { gatewaytest.Perches[1](w, strings.Join(heard, " ")) })
		wantNoneOfProcess(t, c, 1, flags)
		for i, perch := range append(gatewaytest.Perches, gatewaytest.Speeches...) {
			for part := range 10 {
				p.Says(func(w http.ResponseWriter, heard []string) {
					perch(w, gatewaytest.SpokenForms[(part+i)%len(gatewaytest.SpokenForms)](heard[part%len(heard)]))
				})
				out, err := gatewaytest.CheckCommand(t, flags...)
				c.WantNone(t, fmt.Sprint(flags, i, part), fmt.Sprint(out, err))
			}
		}
	}
}

func wantNoneOfProcess(t *testing.T, c *gatewaytest.Canaries, status int, flags []string) {
	t.Helper()
	p := gatewaytest.CaddyProcess(t, append([]string{"oauth-cc", "check"}, flags...)...)
	p.RunTo(t, status)
	c.WantNone(t, fmt.Sprint("standard output with ", flags), p.Output.String())
	c.WantNone(t, fmt.Sprint("both outputs with ", flags), p.Output.String()+p.Errors.String())
}
