package providers

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// strictGrant is an endpoint that grants tokens to those who send this client and exactly these parameters, and
// refuses others with this error, which repeats what they have sent.
type strictGrant struct {
	client, secret string // HTTP Basic; empty for no client authentication
	params         url.Values
	refusal        string
	answer         string // further members of a token's answer
}

func (e strictGrant) serve(t *testing.T, s *gatewaytest.TokenServer) {
	s.SetAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Content-Type", "application/json")
		params, err := url.ParseQuery(s.Recorded()[n-1].Body)
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
			t.Errorf("the endpoint got %s %v, %v", r.Method, r.Header, err)
		}
		if client, secret, ok := r.BasicAuth(); client != e.client || secret != e.secret || ok != (e.client != "") {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
			return
		}
		if !maps.EqualFunc(params, e.params, slices.Equal) {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": e.refusal, "error_description": "no grant for " + fmt.Sprint(params)})
			return
		}
		fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":3600%s}`, n, e.answer)
	})
}

// wantRefusal wants one failure with this hint since the last call, and nothing secret in the log.
func wantRefusal(t *testing.T, g *gatewaytest.Gateway, code, hint string, secrets ...string) {
	t.Helper()
	if a := g.Get("/orders"); a.Status != 502 {
		t.Errorf("with a wrong credential: got %d %q", a.Status, a.Body)
	}
	failed := g.Logs.With("no token obtained")
	if n := len(failed); n == 0 || failed[n-1]["error"] != code || !strings.Contains(fmt.Sprint(failed[n-1]["hint"]), hint) {
		t.Errorf("logged %v; want a hint with %q", failed, hint)
	}
	wantNoSecret(t, g, secrets...)
}

// wantNoSecret wants none of these in what oauth_cc has logged.
func wantNoSecret(t *testing.T, g *gatewaytest.Gateway, secrets ...string) {
	t.Helper()
	for line := range strings.Lines(g.Logs.All()) {
		for _, secret := range secrets {
			if strings.Contains(line, `"logger":"http.handlers.oauth_cc"`) && strings.Contains(line, secret) {
				t.Errorf("the log shows %s: %s", secret, line)
			}
		}
	}
}

// fileWith is a file with a credential, as people write it: with a line end.
func fileWith(t *testing.T, credential string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credential")
	servertest.WriteFile(t, file, credential+"\n")
	return file
}

func testPasswordGrant(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	strictGrant{client: "gateway", secret: "s3cret-canary", refusal: "invalid_grant", params: url.Values{
		"grant_type": {"password"}, "username": {"gateway@example.com"}, "password": {"right-Passw0rd"},
	}}.serve(t, endpoint)
	password := fileWith(t, "wrong-Passw0rd")
	g := startExample(t, "password-grant", exampleRun{env: map[string]string{
		"TOKEN_ENDPOINT": endpoint.URL, "SECRET_FILE": fileWith(t, "s3cret-canary"), "PASSWORD_FILE": password, "API": upstream.URL,
	}})
	wantRefusal(t, g, "invalid_grant", "the user name or the password may be wrong", "wrong-Passw0rd", "s3cret-canary")
	servertest.WriteFile(t, password, "right-Passw0rd\r\n")
	gatewaytest.CheckAnswer(t, g.Get("/orders"), 200, "GET /orders with token-2")
	upstream.Revoke("token-2")
	gatewaytest.CheckAnswer(t, g.Get("/orders"), 200, "GET /orders with token-3")
	wantNoSecret(t, g, "right-Passw0rd")
}

func testRefreshToken(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	strict := strictGrant{client: "gateway", secret: "s3cret-canary", refusal: "invalid_grant", params: url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {"right-k3Jq8ZpW1xVb"},
	}}
	strict.serve(t, endpoint)
	token := fileWith(t, "ended-k3Jq8ZpW1xVb")
	g := startExample(t, "refresh-token", exampleRun{env: map[string]string{
		"TOKEN_ENDPOINT": endpoint.URL, "SECRET_FILE": fileWith(t, "s3cret-canary"), "REFRESH_TOKEN_FILE": token, "API": upstream.URL,
	}})
	wantRefusal(t, g, "invalid_grant", "the refresh token has ended", "ended-k3Jq8ZpW1xVb", "s3cret-canary")
	servertest.WriteFile(t, token, "right-k3Jq8ZpW1xVb\n")
	gatewaytest.CheckAnswer(t, g.Get("/orders"), 200, "GET /orders with token-2")
	const replaced = "the endpoint has replaced the refresh token, and may not take the configured one again"
	if warned := g.Logs.With(replaced); len(warned) != 0 {
		t.Errorf("warned of a token that stays: %v", warned)
	}
	strict.answer = `,"refresh_token":"another-t6mN2k3Jq8"`
	strict.serve(t, endpoint)
	upstream.Revoke("token-2")
	gatewaytest.CheckAnswer(t, g.Get("/orders"), 200, "GET /orders with token-3")
	gatewaytest.Await(t, "the replaced token is warned of", func() bool { return len(g.Logs.With(replaced)) == 1 })
	wantNoSecret(t, g, "right-k3Jq8ZpW1xVb", "another-t6mN2k3Jq8")
}

func testTokenExchange(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	subject := func(lifetime time.Duration) string {
		claims := fmt.Sprintf(`{"sub":"gateway","exp":%d}`, time.Now().Add(lifetime).Unix())
		return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2lnbmVk"
	}
	takes := func(subjectToken string) {
		strictGrant{refusal: "invalid_request", params: url.Values{
			"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {subjectToken},
			"subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"}, "requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
			"audience": {"https://api.partner.example"},
		}, answer: `,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token"`}.serve(t, endpoint)
	}
	ended, first, second := subject(-time.Hour), subject(time.Hour), subject(2*time.Hour)
	takes(first)
	file := fileWith(t, ended)
	g := startExample(t, "token-exchange", exampleRun{env: map[string]string{
		"TOKEN_ENDPOINT": endpoint.URL, "SUBJECT_TOKEN_FILE": file, "AUDIENCE": "https://api.partner.example", "API": upstream.URL,
	}})
	wantRefusal(t, g, "invalid_request", "the subject token has ended at ", ended)
	servertest.WriteFile(t, file, first+"\n")
	gatewaytest.CheckAnswer(t, g.Get("/orders"), 200, "GET /orders with token-2")

	// The platform replaces the file while requests run. The token stays in use, and the next one is for the new one.
	takes(second)
	servertest.WriteFile(t, file, second)
	gatewaytest.CheckAnswer(t, g.Get("/orders"), 200, "GET /orders with token-2")
	upstream.Revoke("token-2")
	gatewaytest.CheckAnswer(t, g.Get("/orders"), 200, "GET /orders with token-3")
	wantNoSecret(t, g, first, second)
}

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
	if len(failed) != 1 || failed[0]["error"] != "refused" || failed[0]["detail"] != "the answer has no access_token at data.accessToken" || failed[0]["endpoint_message"] != "4011: *** is not the password" {
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
	wantNoSecret(t, g, "first-password", "second-password", "token-2")
}
