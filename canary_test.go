package oauthcc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"

	"github.com/caddyserver/caddy/v2"
	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/dpop"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// aviary is a gateway with a secret of every kind.
type aviary struct {
	*gatewaytest.Gateway
	*gatewaytest.Canaries
	parrot *gatewaytest.Parrot
	api    *httptest.Server
	root   string // of the storage
	seen   strings.Builder
}

// route is one with a grant of its own.
func (a *aviary) route(name, options string) string {
	query := "?key=" + url.QueryEscape(a.Secret("endpoint's query of "+name, gatewaytest.Awkward))
	return "handle /" + name + "/* {\noauth_cc " + a.parrot.URL + "/" + name + query + " {\nclient_id app\n" + options + "\n}\n" +
		"handle /*/down {\nreverse_proxy 127.0.0.1:1\n}\n" + gatewaytest.ProxyTo(a.api) + "}\n"
}

func (a *aviary) site(keyFile string) string {
	secret := func(name string) string {
		return "client_secret " + gatewaytest.Quoted(a.Secret("client secret of "+name, gatewaytest.Awkward)) + "\n"
	}
	var site strings.Builder
	site.WriteString("log\nlog_append oauth_status {http.oauth_cc.status}\nlog_append oauth_error {http.oauth_cc.error}\nlog_append why {http.error.message}\n" +
		"tracing {\nspan gateway\n}\nhandle_errors {\nrespond \"{err.status_code} {err.status_text} {err.message} {err.trace} {err.id} " +
		"{http.oauth_cc.error} {http.oauth_cc.status} {http.request.header.X-Api-Token}\"\n}\nhandle /metrics {\nmetrics\n}\n")
	for name, options := range map[string]string{
		"basic": secret("basic") + "param api_key " + gatewaytest.Quoted(a.Secret("parameter", gatewaytest.Awkward)) + "\nrequest_header X-Api-Key " + gatewaytest.Quoted(a.Secret("request header", gatewaytest.Awkward)) + "\nscope orders",
		"raw":   "auth_method client_secret_basic_raw\n" + secret("raw"),
		"post":  "auth_method client_secret_post\n" + secret("post"),
		"json":  "auth_method client_secret_post\nrequest_format json\n" + secret("json"),
		"jwt":   "auth_method client_secret_jwt\n" + secret("jwt"),
		"key":   "auth_method private_key_jwt\nsigning_key " + keyFile,
		"mask":  "token_header X-Api-Token\nmask_rejection\n" + secret("mask"),
		"bound": "dpop " + a.api.URL + "\n" + secret("bound"),
		"store": "storage file_system " + a.root + "\n" + secret("store"),
	} {
		site.WriteString(a.route(name, options))
	}
	site.WriteString(strings.Replace(a.route("tenant", "client_secret {http.request.header."+gatewaytest.TenantSecret+"}"), "client_id app", "client_id {http.request.header.X-Tenant}", 1))
	return site.String()
}

var aviaryRoutes = []string{"basic", "raw", "post", "json", "jwt", "key", "mask", "bound", "store", "tenant"}

// visit sends a request to a route, and looks at the answer unless the API repeats the token
// in it.
func (a *aviary) visit(route, path string) gatewaytest.Answer {
	a.T.Helper()
	req := gatewaytest.ClientRequest(a.T, http.MethodPost, a.URL("/"+route+"/"+path), strings.NewReader("payload"))
	req.Header.Set("Authorization", "Bearer "+a.Secret("client's own token", gatewaytest.Awkward))
	if route == "tenant" {
		req.Header.Set("X-Tenant", "acme")
		req.Header.Set(gatewaytest.TenantSecret, a.Secret("tenant's secret", `:+%&=/"<>\ ~`))
	}
	got := a.Do(req)
	if path != "rejected" {
		a.note(got)
	}
	return got
}

func (a *aviary) note(got gatewaytest.Answer) {
	fmt.Fprintln(&a.seen, got.Status, got.Header, got.Body, got.Trailer)
}

// operate asks the admin endpoint.
func (a *aviary) operate(method, path string) gatewaytest.Answer {
	a.T.Helper()
	got := a.Ask(method, path)
	a.note(got)
	return got
}

func startAviary(t *testing.T) *aviary {
	c := new(gatewaytest.Canaries)
	a := &aviary{Canaries: c, parrot: gatewaytest.StartParrot(t, c), root: t.TempDir()}
	a.api = gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/rejected") {
			return
		}
		for _, name := range []string{"Authorization", "X-Api-Token"} {
			sent := r.Header.Get(name)
			w.Header().Add("X-Echo", sent)
			w.Header().Add("WWW-Authenticate", "Bearer error="+strconv.QuoteToASCII(sent)+", error_description="+strconv.QuoteToASCII(sent))
		}
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, r.Header)
	})
	key := servertest.Keys()["P-256"].(*ecdsa.PrivateKey)
	c.AddKey("signing key", key)
	keyFile := filepath.Join(t.TempDir(), "key.pem")
	servertest.WriteFile(t, keyFile, servertest.PKCS8(t, key))
	holdProofKey(t, c)
	gatewaytest.ForgetEvents()
	a.Gateway = gatewaytest.StartWithAdmin(t, "")
	a.Events = "events {\non * oauth_cc_test\n}\nmetrics"
	a.Reload(a.site(keyFile))
	return a
}

// holdProofKey has the process use a key of the test's for proofs.
func holdProofKey(t *testing.T, c *gatewaytest.Canaries) {
	t.Helper()
	var private *ecdsa.PrivateKey
	t.Run("a key that is known", func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, 1)
		var err error
		if private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
		cryptotest.SetGlobalRandom(t, 1)
		key, known, err := proofKeys.LoadOrNew(proofKeyName, func() (caddy.Destructor, error) { return dpop.NewKey() })
		if err != nil || known {
			t.Fatalf("%v, or another test has left its key", err)
		}
		public := jose.JSONWebKey{Key: private.Public()}
		if name, err := public.Thumbprint(crypto.SHA256); err != nil || base64.RawURLEncoding.EncodeToString(name) != key.(*dpop.Key).Thumbprint() {
			t.Fatalf("%v, or it is another", err)
		}
	})
	t.Cleanup(func() { _ = releaseProofKey() })
	c.AddKey("key of proofs", private)
}

// TestNoSecretComesOut has everything happen to a gateway of which its operators and clients
// are told.
func TestNoSecretComesOut(t *testing.T) {
	if !gatewaytest.Apart(t) {
		return
	}
	spans := gatewaytest.CollectSpans(t)
	a := startAviary(t)
	for _, route := range aviaryRoutes {
		for _, path := range []string{"ok", "rejected", "rejected", "down"} {
			a.visit(route, path)
		}
	}
	a.operate(http.MethodGet, "tokens")
	for _, s := range a.Gateway.Tokens() {
		a.endure(s)
	}
	a.operate(http.MethodGet, "tokens")
	a.operate(http.MethodGet, "ready")
	a.parrot.Says(nil)
	for _, s := range a.Gateway.Tokens() {
		a.operate(http.MethodDelete, "tokens/"+s.ID)
	}
	for _, route := range aviaryRoutes {
		if got := a.visit(route, "ok"); got.Status != http.StatusOK {
			t.Errorf("%s: got %d", route, got.Status)
		}
	}
	a.operate(http.MethodGet, "tokens")
	a.WantNone(t, "an answer", a.seen.String())
	a.WantNone(t, "the metrics", a.Get("/metrics").Body)
	a.WantNone(t, "the log", gatewaytest.WithoutRepeats(a.Gateway))
	gatewaytest.Await(t, "the token is stored", func() bool { return len(gatewaytest.Stored(t, a.root)) > 0 })
	a.WantNone(t, "the storage", fmt.Sprint(gatewaytest.Stored(t, a.root)))
	a.WantNone(t, "the traces", spans.Text())
	a.WantNone(t, "the events", gatewaytest.EventText())
}

// endure has the endpoint of a grant repeat all that it is sent, in all ways.
func (a *aviary) endure(s gatewaytest.TokenStatus) {
	a.T.Helper()
	again := func() {
		if s.Values == nil {
			a.operate(http.MethodPost, "tokens/"+s.ID+"/refresh")
			a.operate(http.MethodGet, "tokens?id="+s.ID) // has the endpoint's words
			return
		}
		a.operate(http.MethodDelete, "tokens/"+s.ID)
		a.visit("tenant", "ok")
		a.operate(http.MethodGet, "tokens?id="+s.ID)
	}
	for _, speak := range gatewaytest.Speeches {
		a.parrot.Says(func(w http.ResponseWriter, heard []string) { speak(w, strings.Join(heard, " ")) })
		again()
	}
	forms := gatewaytest.SpokenForms
	if s.Values != nil { // one client_secret is like another
		forms = forms[:3]
	}
	for _, perch := range gatewaytest.Perches {
		for part := range a.parrot.Parts() {
			for _, form := range forms {
				a.parrot.Says(func(w http.ResponseWriter, heard []string) { perch(w, form(heard[part])) })
				again()
			}
		}
	}
}
