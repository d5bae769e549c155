package operators

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

func TestCheckTakesValuesOfRequests(t *testing.T) {
	t.Setenv("TENANT_SECRET", "s3cret-canary")
	endpoint := gatewaytest.StartTokenServer(t)
	config := gatewaytest.CaddyfileWith(t, "map {header.X-Tenant} {partner_secret} {\nacme {env.NOT_READ}\n}\n"+
		"oauth_cc "+endpoint.URL+"/{header.X-Tenant}/token {\nclient_id app-{header.X-Tenant}\nclient_secret {partner_secret}\n}")
	results, err := gatewaytest.CheckJSON(t, "--config", config, "--value", "header.X-Tenant=acme", "--value", "{partner_secret}={env.TENANT_SECRET}")
	if err != nil || len(results) != 1 || results[0].Result != tokencache.ResultOK || results[0].ClientID != "app-acme" || results[0].Endpoint != endpoint.URL+"/acme/token" {
		t.Errorf("got %+v, %v", results, err)
	}
	if got := endpoint.Recorded()[0].Header.Get("Authorization"); got != "Basic "+base64.StdEncoding.EncodeToString([]byte("app-acme:s3cret-canary")) {
		t.Errorf("sent %q", got)
	}
	results, err = gatewaytest.CheckJSON(t, "--config", config, "--value", "http.request.header.X-Tenant=acme")
	if err == nil || len(results) != 1 || results[0].Result != "refused" ||
		results[0].Detail != "client_secret: placeholder {partner_secret} is empty: the map of {http.request.header.X-Tenant} has no output for this value, or an empty one" {
		t.Errorf("got %+v, %v", results, err)
	}
	for _, test := range []struct{ value, want string }{
		{"header.X-Tennant=acme", "no grant depends on the placeholder {http.request.header.X-Tennant}; there is {http.request.header.X-Tenant}, {partner_secret}"},
		{"X-Tenant", "write <placeholder>=<value>"},
	} {
		if _, err := gatewaytest.CheckCommand(t, "--config", config, "--value", test.value); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v", test.value, err)
		}
	}
	results, err = gatewaytest.CheckJSON(t, "--config", config, "--value", "header.X-Tenant=../x", "--value", "partner_secret=s")
	if err == nil || len(results) != 1 || results[0].Result != "refused" || !strings.Contains(results[0].Detail, "has characters that a part of a URL can't have") {
		t.Errorf("got %+v, %v", results, err)
	}
	if n := endpoint.Count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	if _, err := gatewaytest.CheckCommand(t, "--config", gatewaytest.CaddyfileWith(t, endpoint.Options()), "--value", "x=y"); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("got %v", err)
	}
}

func TestCheckTriesFormats(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		var members map[string]string
		if json.Unmarshal([]byte(endpoint.Recorded()[n-1].Body), &members) != nil || members["client_secret"] == "" {
			w.WriteHeader(http.StatusUnprocessableEntity)
			fmt.Fprint(w, `{"message":"can't be processed"}`)
			return
		}
		endpoint.Grant(w)
	})
	results, err := gatewaytest.CheckJSON(t, "--config", gatewaytest.CaddyfileWith(t, endpoint.Options()), "--try-methods")
	if err == nil || results[0].Hint != "accepted with auth_method client_secret_post and request_format json; write that" || results[0].AcceptedFormat != "json" {
		t.Errorf("got %+v, %v", results, err)
	}
	if n := endpoint.Count(); n != 3 {
		t.Errorf("%d token requests, want 3", n)
	}
}

// Each try may count where an endpoint locks clients out.
func TestCheckTriesARefusedClientOnce(t *testing.T) {
	endpoint, other := gatewaytest.StartTokenServer(t), gatewaytest.StartTokenServer(t)
	endpoint.SetAnswer(gatewaytest.RefuseClients)
	var site strings.Builder
	for n := range 5 {
		fmt.Fprintf(&site, "route /%d {\n%s}\n", n, endpoint.Options(fmt.Sprintf("scope scope-%d", n)))
	}
	fmt.Fprintf(&site, "route /other {\n%s}\n", other.Options())
	results, err := gatewaytest.CheckJSON(t, "--config", gatewaytest.CaddyfileWith(t, site.String()))
	if err == nil {
		t.Error("no failure")
	}
	gatewaytest.WantFetched(t, endpoint, 1)
	gatewaytest.WantFetched(t, other, 1)
	counts := make(map[string]int)
	for _, r := range results {
		counts[r.Result]++
	}
	if counts["invalid_client"] != 1 || counts["not_checked"] != 4 || counts[tokencache.ResultOK] != 1 {
		t.Errorf("results %v", counts)
	}
}

// Clients without a client_id are told apart by what they authenticate with.
func TestCheckTellsClientsWithoutAnIDApart(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	dir := t.TempDir()
	for name, assertion := range map[string]string{"refused": "e30.e30.cmVmdXNlZA", "fine": "e30.e30.ZmluZQ"} {
		servertest.WriteFile(t, filepath.Join(dir, name), assertion)
	}
	endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		if strings.Contains(endpoint.Recorded()[n-1].Body, "cmVmdXNlZA") {
			gatewaytest.RefuseClients(w, r, n)
			return
		}
		endpoint.Grant(w)
	})
	site := ""
	for _, name := range []string{"refused", "fine"} {
		site += "handle /" + name + " {\noauth_cc " + endpoint.URL + "/token {\nclient_assertion {file." + filepath.Join(dir, name) + "}\n}\n}\n"
	}
	results, err := gatewaytest.CheckJSON(t, "--config", gatewaytest.CaddyfileWith(t, site))
	if err == nil || len(results) != 2 || results[0].Result != "invalid_client" || results[1].Result != "ok" {
		t.Errorf("got %+v, %v", results, err)
	}
}

// What a client is granted a token for stands in the place of a method that it does not have.
func TestCheckKnowsGrants(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	key := filepath.Join(t.TempDir(), "key.pem")
	servertest.WriteFile(t, key, servertest.PKCS8(t, servertest.Keys()["P-256"]))
	config := gatewaytest.CaddyfileWith(t, "oauth_cc "+endpoint.URL+"/token {\nsigning_key "+key+"\ngrant jwt_bearer {\nissuer gateway\n}\n}")
	out, err := gatewaytest.CheckCommand(t, "--config", config)
	if row := strings.Join(strings.Fields(out), " "); err != nil || !strings.Contains(row, "/token gateway jwt_bearer ok Bearer") {
		t.Errorf("got %q, %v", row, err)
	}
	results, err := gatewaytest.CheckJSON(t, "--config", config)
	if err != nil || results[0].Grant != "jwt_bearer" || results[0].AuthMethod != "none" {
		t.Errorf("got %+v, %v", results, err)
	}
}
