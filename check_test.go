package oauthcc

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCheckTakesValuesOfRequests(t *testing.T) {
	t.Setenv("TENANT_SECRET", "s3cret-canary")
	endpoint := startTokenServer(t)
	config := caddyfileWith(t, "map {header.X-Tenant} {partner_secret} {\nacme {env.NOT_READ}\n}\n"+
		"oauth_cc "+endpoint.URL+"/{header.X-Tenant}/token {\nclient_id app-{header.X-Tenant}\nclient_secret {partner_secret}\n}")
	results, err := checkJSON(t, "--config", config, "--value", "header.X-Tenant=acme", "--value", "{partner_secret}={env.TENANT_SECRET}")
	if err != nil || len(results) != 1 || results[0].Result != resultOK || results[0].ClientID != "app-acme" || results[0].Endpoint != endpoint.URL+"/acme/token" {
		t.Errorf("got %+v, %v", results, err)
	}
	if got := endpoint.recorded()[0].header.Get("Authorization"); got != "Basic "+base64.StdEncoding.EncodeToString([]byte("app-acme:s3cret-canary")) {
		t.Errorf("sent %q", got)
	}
	results, err = checkJSON(t, "--config", config, "--value", "http.request.header.X-Tenant=acme")
	if err != nil || len(results) != 1 || results[0].Result != resultNotChecked || !slices.Equal(results[0].MissingValues, []string{"partner_secret"}) {
		t.Errorf("got %+v, %v", results, err)
	}
	for _, test := range []struct{ value, want string }{
		{"header.X-Tennant=acme", "no option has the placeholder {http.request.header.X-Tennant}; there is {http.request.header.X-Tenant}, {partner_secret}"},
		{"X-Tenant", "write <placeholder>=<value>"},
	} {
		if _, err := checkCommand(t, "--config", config, "--value", test.value); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v", test.value, err)
		}
	}
	results, err = checkJSON(t, "--config", config, "--value", "header.X-Tenant=../x", "--value", "partner_secret=s")
	if err == nil || len(results) != 1 || results[0].Result != "refused" || !strings.Contains(results[0].Detail, "has characters that a part of the endpoint's URL can't have") {
		t.Errorf("got %+v, %v", results, err)
	}
	if n := endpoint.count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	if _, err := checkCommand(t, "--config", caddyfileWith(t, endpoint.options()), "--value", "x=y"); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("got %v", err)
	}
}

func TestCheckTriesMethods(t *testing.T) {
	for name, test := range map[string]struct {
		accepts      func(*http.Request) bool // else the client is refused
		options      []string
		method, form string // accepted, or empty
		most         int    // requests
	}{
		"body": {func(r *http.Request) bool { return r.PostFormValue("client_secret") == "s3cret-canary" }, nil, "client_secret_post", "form", 2},
		"header": {func(r *http.Request) bool { return r.Header.Get("Authorization") != "" },
			[]string{"auth_method client_secret_post"}, "client_secret_basic", "form", 2},
		"nothing":        {func(*http.Request) bool { return false }, nil, "", "", 2},
		"no secret sent": {func(*http.Request) bool { return false }, []string{"auth_method client_secret_jwt"}, "", "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint := startTokenServer(t)
			endpoint.setAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
				r.Body = http.NoBody
				r.PostForm, _ = url.ParseQuery(endpoint.recorded()[n-1].body)
				if !test.accepts(r) {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				endpoint.grant(w)
			})
			options := endpoint.options(test.options...)
			if name == "no secret sent" {
				options = strings.ReplaceAll(options, "s3cret-canary", strings.Repeat("s3cret", 6))
			}
			config := caddyfileWith(t, options)
			results, err := checkJSON(t, "--config", config, "--try-methods")
			if err == nil || results[0].AcceptedMethod != test.method || results[0].AcceptedFormat != test.form || results[0].Result != "refused" {
				t.Errorf("got %+v, %v", results, err)
			}
			if test.method != "" && results[0].Hint != "accepted with auth_method "+test.method+"; write that" {
				t.Errorf("the hint is %q", results[0].Hint)
			}
			if n := endpoint.count(); n != test.most {
				t.Errorf("%d token requests, want %d", n, test.most)
			}
			// Unless told to, it does not try.
			results, _ = checkJSON(t, "--config", config)
			if n := endpoint.count(); n != test.most+1 || results[0].AcceptedMethod != "" {
				t.Errorf("%d token requests, %+v", n, results)
			}
			if strings.Contains(results[0].Hint, "--try-methods") != (test.most == 2) {
				t.Errorf("the hint is %q", results[0].Hint)
			}
		})
	}
}

func TestCheckTriesFormats(t *testing.T) {
	endpoint := startTokenServer(t)
	endpoint.setAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		var members map[string]string
		if json.Unmarshal([]byte(endpoint.recorded()[n-1].body), &members) != nil || members["client_secret"] == "" {
			w.WriteHeader(http.StatusUnprocessableEntity)
			fmt.Fprint(w, `{"message":"can't be processed"}`)
			return
		}
		endpoint.grant(w)
	})
	results, err := checkJSON(t, "--config", caddyfileWith(t, endpoint.options()), "--try-methods")
	if err == nil || results[0].Hint != "accepted with auth_method client_secret_post and request_format json; write that" || results[0].AcceptedFormat != "json" {
		t.Errorf("got %+v, %v", results, err)
	}
	if n := endpoint.count(); n != 4 {
		t.Errorf("%d token requests, want 4", n)
	}
}

// What the README shows of the check is what it prints for the quick start.
func TestReadmeShowsTheCheck(t *testing.T) {
	gatewayAddr, endpoint, api := freeAddr(t), freeAddr(t), freeAddr(t)
	addresses := []string{"localhost:8080", gatewayAddr, "localhost:9090", endpoint, "localhost:9091", api}
	startExample(t, "quickstart", exampleRun{replace: addresses})
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for secret, status := range map[string]int{"s3cret": 0, "wrong": 1} {
		p := caddyProcess(t, "oauth-cc", "check", "--config", "Caddyfile")
		p.Env = append(p.Env, "DEMO_SECRET="+secret)
		writeFile(t, filepath.Join(p.home, "Caddyfile"), strings.NewReplacer(addresses...).Replace(readExample(t, "quickstart")))
		p.run(t, status)
		out := strings.ReplaceAll(p.stdout.String(), endpoint, "localhost:9090")
		for line := range strings.Lines(out) {
			shown := slices.ContainsFunc(strings.Split(string(readme), "\n"), func(l string) bool {
				return slices.Equal(strings.Fields(l), strings.Fields(line)) // another port can be longer
			})
			if !shown {
				t.Errorf("with %q the README does not show %q", secret, line)
			}
		}
	}
}

// Each try may count where an endpoint locks clients out.
func TestCheckTriesARefusedClientOnce(t *testing.T) {
	endpoint, other := startTokenServer(t), startTokenServer(t)
	endpoint.setAnswer(refuseClients)
	var site strings.Builder
	for n := range 5 {
		fmt.Fprintf(&site, "route /%d {\n%s}\n", n, endpoint.options(fmt.Sprintf("scope scope-%d", n)))
	}
	fmt.Fprintf(&site, "route /other {\n%s}\n", other.options())
	results, err := checkJSON(t, "--config", caddyfileWith(t, site.String()))
	if err == nil {
		t.Error("no failure")
	}
	wantFetched(t, endpoint, 1)
	wantFetched(t, other, 1)
	counts := make(map[string]int)
	for _, r := range results {
		counts[r.Result]++
	}
	if counts["invalid_client"] != 1 || counts[resultNotChecked] != 4 || counts[resultOK] != 1 {
		t.Errorf("results %v", counts)
	}
}
