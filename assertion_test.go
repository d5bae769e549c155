package oauthcc

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/zap"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// newSigningGateway makes a gateway with a key file, before an endpoint that knows one public key.
func newSigningGateway(t *testing.T, refreshAhead string) (g *virtualGateway, file string, accept func(kind string)) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "key.pem")
	servertest.WriteFile(t, file, servertest.PKCS8(t, servertest.Keys()["P-256"]))
	g = newVirtualGateway(t, &Handler{AuthMethod: endpoint.AuthPrivateKeyJWT, SigningKey: &SigningKey{File: file}, RefreshAhead: refreshAhead})
	known := servertest.Keys()["P-256"].Public()
	g.tokens.client.Transport = servertest.Func(func(req *http.Request) (*http.Response, error) {
		_ = req.ParseForm()
		parsed, err := jose.ParseSigned(req.PostForm.Get("client_assertion"), servertest.SigningAlgs)
		if err == nil {
			_, err = parsed.Verify(known)
		}
		if err != nil {
			return servertest.Answer{Status: http.StatusUnauthorized, Body: `{"error":"invalid_client"}`}.RoundTrip(req)
		}
		return g.endpoint.RoundTrip(req)
	})
	return g, file, func(kind string) { known = servertest.Keys()[kind].Public() }
}

// The key is replaced before the server forgets the old one, or after: no reload either way.
func TestSigningKeyRotatesWithoutReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, file, accept := newSigningGateway(t, "")
		revoked := make(map[string]bool)
		g.accepts(func(token string) bool { return !revoked[token] }, nil)
		if a := g.mustGet(); a.token != "token-1" {
			t.Errorf("got %+v", a)
		}
		servertest.WriteFile(t, file, servertest.PKCS8(t, servertest.Keys()["Ed25519"]))
		accept("Ed25519")
		revoked["token-1"] = true
		if a := g.mustGet(); a.token != "token-2" {
			t.Errorf("got %+v", a)
		}

		// The server already knows the next one alone: refused, and right once it is there.
		accept("P-384")
		revoked["token-2"] = true
		if a := g.get(); a.status != 200 && a.status != 502 && a.status != 401 {
			t.Errorf("got %+v", a)
		}
		servertest.WriteFile(t, file, servertest.PKCS8(t, servertest.Keys()["P-384"]))
		start := time.Now()
		for g.get().status != 200 {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("the new key is used after %v", took)
		}
		if strings.Contains(g.log(), "PRIVATE") {
			t.Error("a key was logged")
		}
	})
}

func TestKeyThatCannotBeUsedLeavesTheOldOneInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, file, _ := newSigningGateway(t, "off")
		g.endpoint.expiresIn = "1"
		g.mustGet()
		servertest.WriteFile(t, file, "-----BEGIN PRIVATE KEY-----\ncanary")
		for g.endpoint.count() < 4 {
			g.mustGet()
			time.Sleep(10 * time.Millisecond)
		}
		told := g.logs.FilterMessage("the signing key can't be used; the previous key stays in use").All()
		if len(told) != 1 || told[0].Level != zap.WarnLevel || !strings.Contains(fmt.Sprint(told[0].ContextMap()["error"]), file+": the file is neither PEM nor a JWK") {
			t.Errorf("logged %v", told)
		}
		if strings.Contains(g.log(), "canary") {
			t.Error("the file was logged")
		}
	})
}

// Two files with the same key are two sources: when one is rotated, the handlers ask for
// different things, and must not end each other's pauses.
func TestAnotherKeyFileIsAnotherGrant(t *testing.T) {
	dir := t.TempDir()
	keyOf := func(name string) endpoint.GrantKey {
		file := filepath.Join(dir, name)
		servertest.WriteFile(t, file, servertest.PKCS8(t, servertest.Keys()["P-256"]))
		return provisionedConfig(t, configWithClient("client_id app", "auth_method private_key_jwt", "signing_key "+file)).tokens.key
	}
	if keyOf("a") == keyOf("b") {
		t.Error("the files are not told apart")
	}
}

func TestPlaceholdersInASigningKeysOptionsAreResolved(t *testing.T) {
	t.Setenv("OAUTH_CC_TEST_KID", "k-env")
	t.Setenv("OAUTH_CC_TEST_AUD", "urn:env")
	t.Setenv("OAUTH_CC_TEST_LONG_SECRET", servertest.LongSecret)
	file := filepath.Join(t.TempDir(), "key")
	servertest.WriteFile(t, file, servertest.PKCS8(t, servertest.Keys()["P-256"]))
	for credential, verifiedWith := range map[string]any{
		"auth_method private_key_jwt\nsigning_key " + file:                                          servertest.Keys()["P-256"].Public(),
		"auth_method client_secret_jwt\nclient_secret {env.OAUTH_CC_TEST_LONG_SECRET}\nsigning_key": []byte(servertest.LongSecret),
	} {
		h := provisionedConfig(t, configWithClient("client_id app", credential+" {\nkey_id {env.OAUTH_CC_TEST_KID}\naudience {env.OAUTH_CC_TEST_AUD}\n}"))
		var header, claims map[string]any
		h.tokens.client.Transport = servertest.Func(func(req *http.Request) (*http.Response, error) {
			if err := req.ParseForm(); err != nil {
				t.Error(err)
			}
			header, claims = servertest.OpenJWT(t, req.PostForm.Get("client_assertion"), verifiedWith)
			return servertest.AnyToken.RoundTrip(req)
		})
		if err := h.ServeHTTP(httptest.NewRecorder(), requestInCaddy(http.MethodGet, "/", nil), trivialNext); err != nil {
			t.Fatal(err)
		}
		if header["kid"] != "k-env" || claims["aud"] != "urn:env" {
			t.Errorf("signed %v and %v", header, claims)
		}
	}
}

// A key that is replaced in its file leaves the token in use, with a reload as without one.
func TestReplacedKeyIsTheSameGrant(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	config := configWithClient("client_id app", "auth_method private_key_jwt", "signing_key "+file)
	keyOf := func(kind string) endpoint.GrantKey {
		servertest.WriteFile(t, file, servertest.PKCS8(t, servertest.Keys()[kind]))
		return provisionedConfig(t, config).tokens.key
	}
	a, b := keyOf("P-256"), keyOf("P-384")
	if a != b {
		t.Error("it is another grant")
	}
}
