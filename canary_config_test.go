package oauthcc

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// TestNoSecretComesOutOfABrokenConfiguration has secrets where they don't belong, or beside
// what is wrong.
func TestNoSecretComesOutOfABrokenConfiguration(t *testing.T) {
	c := new(canaries)
	secret := func(name string) string { return quoted(c.secret(name, awkward)) }
	bare := func(name string) string { return c.secret(name, "-") } // fits wherever one may be misplaced
	folder := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(folder, name)
		writeFile(t, path, content)
		return path
	}
	const url, id = "https://auth.example.com/token", "client_id app\n"
	key := pkcs8(t, testKeys()["P-256"])
	c.add("lines of a signing key", strings.Split(strings.TrimSpace(key), "\n")[1:3]...)
	t.Setenv("OAUTH_CC_TEST_SECRET", c.secret("variable", awkward))
	texts := map[string]string{
		"blank in a secret":            "oauth_cc " + url + " {\n" + id + "client_secret " + bare("1") + " " + bare("2") + "\n}",
		"unknown placeholder":          "oauth_cc " + url + " {\n" + id + "client_secret " + quoted(bare("3")+"{"+bare("4")+"}") + "\n}",
		"open brace":                   "oauth_cc " + url + " {\n" + id + "client_secret " + quoted(bare("5")+"{"+bare("6")) + "\n}",
		"placeholder in a parameter":   "oauth_cc " + url + " {\n" + id + "client_secret x\nparam api_key " + quoted("{"+bare("7")+"}") + "\n}",
		"two secrets":                  "oauth_cc " + url + " {\n" + id + "client_secret " + bare("8") + "\nclient_secret " + bare("9") + "\n}",
		"misspelled option":            "oauth_cc " + url + " {\n" + id + "client_secrt " + secret("10") + "\n}",
		"user info":                    "oauth_cc https://app:" + bare("11") + "@auth.example.com/token {\n" + id + "client_secret " + secret("12") + "\n}",
		"secret for a port":            "oauth_cc https://auth.example.com:" + bare("13") + "/token?key=" + bare("14") + " {\n" + id + "client_secret x\n}",
		"bad escape":                   "oauth_cc https://auth.example.com/%zz?key=" + bare("15") + " {\n" + id + "client_secret x\n}",
		"fragment":                     "oauth_cc https://auth.example.com/token?key=" + bare("16") + "#" + bare("17") + " {\n" + id + "client_secret x\n}",
		"cleartext":                    "oauth_cc http://auth.example.com/token?key=" + bare("18") + " {\n" + id + "client_secret x\n}",
		"secret beside a key":          "oauth_cc " + url + " {\n" + id + "auth_method private_key_jwt\nsigning_key " + file("good.pem", key) + "\nclient_secret " + secret("19") + "\n}",
		"secret without use":           "oauth_cc " + url + " {\n" + id + "auth_method none\nclient_secret " + secret("20") + "\n}",
		"secret too short to sign":     "oauth_cc " + url + " {\n" + id + "auth_method client_secret_jwt\nclient_secret " + quoted(bare("21")[:20]) + "\n}",
		"secret in place of a file":    "oauth_cc " + url + " {\n" + id + "client_secret {file." + folder + "/missing}\nparam key " + secret("22") + "\n}",
		"no key":                       "oauth_cc " + url + " {\n" + id + "auth_method private_key_jwt\nsigning_key " + file("none.pem", "-----BEGIN PRIVATE KEY-----\n"+bare("23")) + "\n}",
		"half a key":                   "oauth_cc " + url + " {\n" + id + "auth_method private_key_jwt\nsigning_key " + file("half.pem", key[:len(key)/2]) + "\n}",
		"key of another kind":          "oauth_cc " + url + " {\n" + id + "auth_method private_key_jwt\nsigning_key " + file("other.pem", key) + " {\nalg RS256\n}\n}",
		"JWK with a string for a key":  "oauth_cc " + url + " {\n" + id + "auth_method private_key_jwt\nsigning_key " + file("key.jwk", `{"kty":"EC","crv":"P-256","x":"AA","y":"AA","d":"`+bare("24")+`"}`) + "\n}",
		"header without a value":       "oauth_cc " + url + " {\n" + id + "client_secret x\nrequest_header " + quoted("X-Key: "+bare("25")) + "\n}",
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
	g := startGatewayWithAdmin(t, "respond fine")
	for name, text := range texts {
		a := g.load("text/caddyfile", "{\nadmin "+g.admin+"\nauto_https off\npersist_config off\nlog {\noutput oauth_cc_test\nlevel DEBUG\n}\n}\nhttp://"+g.addr+" {\n"+text+"\n}\n")
		if a.status != http.StatusBadRequest {
			t.Errorf("%s: got %d", name, a.status)
		}
		c.wantNone(t, name, fmt.Sprint(a.status, a.header, a.body))
	}
	for name, members := range map[string]map[string]any{
		"list":            {"client_secret": []string{c.secret("35", awkward)}},
		"object":          {"params": map[string]string{"api_key": c.secret("36", awkward)}},
		"unknown member":  {"client_secrt": c.secret("37", awkward)},
		"unknown storage": {"client_secret": c.secret("38", awkward), "storage": map[string]any{"module": "nonsense", "password": c.secret("39", awkward)}},
		"bad storage":     {"client_secret": c.secret("40", awkward), "storage": c.secret("41", awkward)},
		"line break":      {"client_secret": c.secret("42", awkward), "request_headers": map[string]any{"X-Key": []string{c.secret("43", "\r\n")}}},
		"key":             {"signing_key": c.secret("44", awkward)},
	} {
		a := g.loadRemotely(members)
		if a.status != http.StatusBadRequest {
			t.Errorf("%s: got %d", name, a.status)
		}
		c.wantNone(t, name, fmt.Sprint(a.status, a.header, a.body))
	}
	c.wantNone(t, "the log", g.logged())
}

// load posts a configuration to the admin endpoint.
func (g *gateway) load(contentType, config string) answer {
	g.t.Helper()
	req := clientRequest(g.t, http.MethodPost, "http://"+g.admin+"/load", strings.NewReader(config))
	req.Header.Set("Content-Type", contentType)
	return g.do(req)
}

// loadRemotely posts a configuration whose handler has these members.
func (g *gateway) loadRemotely(members map[string]any) answer {
	g.t.Helper()
	handler := map[string]any{"handler": "oauth_cc", "token_endpoint": "https://auth.example.com/token", "client_id": "app"}
	maps.Copy(handler, members)
	config, err := json.Marshal(map[string]any{
		"admin":   map[string]any{"listen": g.admin, "config": map[string]any{"persist": false}},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"writer": map[string]any{"output": "oauth_cc_test"}, "level": "DEBUG"}}},
		"apps": map[string]any{"http": map[string]any{"servers": map[string]any{
			"main": map[string]any{"listen": []string{g.addr}, "routes": []any{map[string]any{"handle": []any{handler}}}},
		}}},
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return g.load("application/json", string(config))
}

// TestNoSecretComesOutOfACheck has the command ask endpoints that repeat what they are sent,
// in this process for all that they can say, and in one of its own for what it prints beside.
func TestNoSecretComesOutOfACheck(t *testing.T) {
	c := new(canaries)
	p := startParrot(t, c)
	var site strings.Builder
	for i, method := range []string{authSecretBasic, authSecretBasicRaw, authSecretPost, authSecretJWT} {
		fmt.Fprintf(&site, "handle /%d {\noauth_cc %s/%d?key=%s {\nclient_id app\nauth_method %s\nclient_secret %s\nparam api_key %s\nrequest_header X-Api-Key %s\nscope orders\n}\n}\n",
			i, p.URL, i, c.secret("query of "+method, "-"), method, quoted(c.secret("client secret of "+method, awkward)),
			quoted(c.secret("parameter of "+method, awkward)), quoted(c.secret("request header of "+method, awkward)))
	}
	fmt.Fprintf(&site, "handle /tenants {\noauth_cc %s/tenants {\nclient_id app\nclient_secret {header.%s}\n}\n}\n", p.URL, tenantSecret)
	config := caddyfileWith(t, site.String())
	t.Setenv("OAUTH_CC_TEST_TENANT", c.secret("tenant's secret", awkward))
	args := []string{"--config", config, "--value", "header." + tenantSecret + "={env.OAUTH_CC_TEST_TENANT}"}
	for _, more := range [][]string{nil, {"--json"}, {"--try-methods"}, {"--json", "--try-methods"}} {
		flags := append(append([]string{}, args...), more...)
		p.says(nil)
		c.wantNoneOfProcess(t, 0, flags)
		p.says(func(w http.ResponseWriter, heard []string) { perches[1](w, strings.Join(heard, " ")) })
		c.wantNoneOfProcess(t, 1, flags)
		for i, perch := range append(perches, speeches...) {
			for part := range 10 {
				p.says(func(w http.ResponseWriter, heard []string) {
					perch(w, spokenForms[(part+i)%len(spokenForms)](heard[part%len(heard)]))
				})
				out, err := checkCommand(t, flags...)
				c.wantNone(t, fmt.Sprint(flags, i, part), fmt.Sprint(out, err))
			}
		}
	}
}

func (c *canaries) wantNoneOfProcess(t *testing.T, status int, flags []string) {
	t.Helper()
	p := caddyProcess(t, append([]string{"oauth-cc", "check"}, flags...)...)
	p.run(t, status)
	c.wantNone(t, fmt.Sprint("standard output with ", flags), p.stdout.String())
	c.wantNone(t, fmt.Sprint("both outputs with ", flags), p.stdout.String()+p.stderr.String())
}
