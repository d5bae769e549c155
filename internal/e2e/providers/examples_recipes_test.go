package providers

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// testLogin has a login that takes nothing but JSON, says in its own words what is wrong, with status 200, and
// grants tokens in its own form.
func testLogin(t *testing.T) {
	login, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	login.SetAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		var got map[string]string
		body := login.Recorded()[n-1].Body
		if err := json.Unmarshal([]byte(body), &got); err != nil || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Authorization") != "" {
			t.Errorf("the login got %q with %v", body, r.Header)
		}
		w.Header().Set("Content-Type", "application/json")
		if want := map[string]string{"grant_type": "client_credentials", "username": "gateway-user", "password": "second-password"}; !maps.Equal(got, want) {
			fmt.Fprintf(w, `{"status":"error","code":4011,"message":"%s is not the password","data":null}`, got["password"])
			return
		}
		fmt.Fprintf(w, `{"status":"ok","data":{"accessToken":"token-%d","expiresIn":3600,"user":{"id":7}}}`, n)
	})
	password := filepath.Join(t.TempDir(), "password")
	servertest.WriteFile(t, password, "first-password\n")
	g := startExample(t, "login", exampleRun{env: map[string]string{
		"LOGIN_URL": login.URL, "LOGIN_USER": "gateway-user", "PASSWORD_FILE": password, "API": upstream.URL,
	}})
	if a := g.Get("/orders"); a.Status != 502 {
		t.Errorf("with a wrong password: got %d %q", a.Status, a.Body)
	}
	failed := g.Logs.With("no token obtained")
	if len(failed) != 1 || failed[0]["detail"] != "the answer has no access_token at data.accessToken" || failed[0]["endpoint_message"] != "4011: *** is not the password" {
		t.Errorf("logged %v", failed)
	}
	servertest.WriteFile(t, password, "second-password\n")
	gatewaytest.CheckAnswer(t, g.Get("/orders"), 200, "GET /orders with token-2")
	upstream.Revoke("token-2")
	gatewaytest.CheckAnswer(t, g.Get("/orders"), 200, "GET /orders with token-3")
	config := filepath.Join(t.TempDir(), "Caddyfile")
	servertest.WriteFile(t, config, readExample(t, "login"))
	if out, err := gatewaytest.CheckCommand(t, "--config", config); err != nil || !strings.Contains(out, " 1h") {
		t.Errorf("the check ends with %v: %s", err, out)
	}
	for _, obtained := range g.Logs.With("token obtained") {
		if obtained["lifetime"] != 3600.0 {
			t.Errorf("the lifetime is %v", obtained["lifetime"])
		}
	}
	for _, secret := range []string{"first-password", "second-password", "token-2"} {
		if strings.Contains(oauthLog(g), secret) {
			t.Errorf("the log shows %s", secret)
		}
	}
}

// oauthLog is what oauth_cc has logged.
func oauthLog(g *gatewaytest.Gateway) string {
	var b strings.Builder
	for line := range strings.Lines(g.Logs.All()) {
		if strings.Contains(line, `"logger":"http.handlers.oauth_cc"`) {
			b.WriteString(line)
		}
	}
	return b.String()
}
