package oauthcc

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// testTime is a moment long ago.
var testTime = time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)

// longSecret is long enough for each of the HMAC algorithms.
var longSecret = strings.Repeat("s3cret-canary-é", 5)

// signingAlgs are all that an assertion can be signed with.
var signingAlgs = append([]jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}, jose.HS256, jose.HS384, jose.HS512)

// openJWT verifies a JWT and returns its protected header and its claims.
func openJWT(t testing.TB, text string, key any) (header, claims map[string]any) {
	t.Helper()
	parsed, err := jose.ParseSigned(text, signingAlgs)
	if err != nil {
		t.Fatalf("%.60q: %v", text, err)
	}
	payload, err := parsed.Verify(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(text, ".")
	protected, err := base64.RawURLEncoding.DecodeString(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(protected, &header); err != nil {
		t.Fatal(err)
	}
	return header, claims
}

// keyRequest is a token request of a client with a key.
func keyRequest(t testing.TB, kind string, options SigningKey) grantRequest {
	t.Helper()
	key, err := parseSigningKey([]byte(pkcs8(t, testKeys()[kind])))
	if err != nil {
		t.Fatal(err)
	}
	if err := options.provision(); err != nil {
		t.Fatal(err)
	}
	r := cannedRequest
	r.authMethod, r.clientSecret = authPrivateKeyJWT, ""
	r.assertion = newClientAssertion(options, key)
	return r
}

// secretRequest is a token request of a client that signs with its secret.
func secretRequest(t testing.TB, options SigningKey) grantRequest {
	t.Helper()
	if err := options.provision(); err != nil {
		t.Fatal(err)
	}
	r := cannedRequest
	r.authMethod, r.clientSecret = authSecretJWT, longSecret
	r.assertion = newClientAssertion(options, nil)
	return r
}

// sentAssertion is what a request sends, as a form.
func sentAssertion(t testing.TB, request wireRequest) url.Values {
	t.Helper()
	form, err := url.ParseQuery(request.body)
	if err != nil {
		t.Fatal(err)
	}
	return form
}

func TestAssertionIsSignedWithEachAlgorithm(t *testing.T) {
	kinds := map[string]string{"RS": "RSA", "PS": "RSA", "ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}
	for _, alg := range signingAlgs {
		t.Run(string(alg), func(t *testing.T) {
			var request grantRequest
			var key any
			if strings.HasPrefix(string(alg), "HS") {
				request, key = secretRequest(t, SigningKey{Alg: string(alg)}), []byte(longSecret)
			} else {
				kind := kinds[string(alg)]
				if kind == "" {
					kind = kinds[string(alg)[:2]]
				}
				request, key = keyRequest(t, kind, SigningKey{Alg: string(alg)}), testKeys()[kind].Public()
			}
			assertion, err := request.assertion.sign(request, testTime)
			if err != nil {
				t.Fatal(err)
			}
			header, claims := openJWT(t, assertion, key)
			if want := map[string]any{"alg": string(alg), "typ": "client-authentication+jwt"}; fmt.Sprint(header) != fmt.Sprint(want) {
				t.Errorf("the header is %v, want %v", header, want)
			}
			id, _ := claims["jti"].(string)
			delete(claims, "jti")
			want := map[string]any{
				"iss": "app", "sub": "app", "aud": "https://auth.example.com/token?key=query-canary",
				"iat": float64(testTime.Unix()), "exp": float64(testTime.Unix() + 60),
			}
			if fmt.Sprint(claims) != fmt.Sprint(want) || len(id) < 20 {
				t.Errorf("the claims are %v with the jti %q, want %v", claims, id, want)
			}
		})
	}
}

func TestAssertionIsMadeAsTheOptionsSay(t *testing.T) {
	withIssuer := func(r grantRequest) grantRequest {
		r.issuer = "https://auth.example.com"
		return r
	}
	jwk, err := parseSigningKey([]byte(jwkWith(t, testKeys()["RSA"], map[string]any{"alg": "PS256", "kid": "of-jwk"})))
	if err != nil {
		t.Fatal(err)
	}
	withJWK := func(options SigningKey) grantRequest {
		r := keyRequest(t, "RSA", options)
		r.assertion = newClientAssertion(options, jwk)
		return r
	}
	for name, test := range map[string]struct {
		request        grantRequest
		aud            string
		alg, typ, kid  any
		life           float64
		wantDefaultTyp bool
	}{
		"the issuer is the audience": {request: withIssuer(keyRequest(t, "P-256", SigningKey{})), aud: "https://auth.example.com", alg: "ES256"},
		"unless another is given":    {request: withIssuer(keyRequest(t, "P-256", SigningKey{Audience: "urn:server"})), aud: "urn:server", alg: "ES256"},
		"audience":                   {request: keyRequest(t, "P-256", SigningKey{Audience: "urn:server"}), aud: "urn:server", alg: "ES256"},
		"typ":                        {request: keyRequest(t, "P-256", SigningKey{Typ: "JWT"}), alg: "ES256", typ: "JWT"},
		"key_id":                     {request: keyRequest(t, "P-256", SigningKey{KeyID: "k1"}), alg: "ES256", kid: "k1"},
		"lifetime":                   {request: keyRequest(t, "P-256", SigningKey{Lifetime: 300e9}), alg: "ES256", life: 300},
		"a JWK's own":                {request: withJWK(SigningKey{Typ: "JWT", Lifetime: 60e9}), alg: "PS256", typ: "JWT", kid: "of-jwk"},
		"rather than a JWK's own":    {request: withJWK(SigningKey{Alg: "RS512", KeyID: "k2", Typ: "JWT", Lifetime: 60e9}), alg: "RS512", typ: "JWT", kid: "k2"},
		"key_id of a secret":         {request: secretRequest(t, SigningKey{KeyID: "k3", Alg: "HS384"}), alg: "HS384", kid: "k3"},
	} {
		t.Run(name, func(t *testing.T) {
			assertion, err := test.request.assertion.sign(test.request, testTime)
			if err != nil {
				t.Fatal(err)
			}
			var key any = []byte(longSecret)
			if test.request.assertion.key != nil {
				key = test.request.assertion.key.signer.Public()
			}
			header, claims := openJWT(t, assertion, key)
			if test.typ == nil {
				test.typ = defaultAssertionTyp
			}
			if header["alg"] != test.alg || header["typ"] != test.typ || header["kid"] != test.kid {
				t.Errorf("the header is %v", header)
			}
			if test.aud == "" {
				test.aud = test.request.endpoint
			}
			if test.life == 0 {
				test.life = 60
			}
			if claims["aud"] != test.aud || claims["exp"].(float64)-claims["iat"].(float64) != test.life {
				t.Errorf("the claims are %v", claims)
			}
		})
	}
}

func TestAssertionIsSentInPlaceOfASecret(t *testing.T) {
	for name, request := range map[string]grantRequest{
		authPrivateKeyJWT: keyRequest(t, "P-256", SigningKey{}),
		authSecretJWT:     secretRequest(t, SigningKey{}),
	} {
		t.Run(name, func(t *testing.T) {
			sent := onWire(t, request, anyToken)
			if len(sent) != 1 {
				t.Fatalf("%d requests", len(sent))
			}
			form := sentAssertion(t, sent[0])
			if form.Get("client_assertion_type") != assertionType || form.Get("client_id") != "app" || form.Get("grant_type") != "client_credentials" {
				t.Errorf("sent %v", form)
			}
			if form.Has("client_secret") || sent[0].header.Get("Authorization") != "" || strings.Contains(sent[0].body, "canary-") {
				t.Errorf("a secret was sent: %v %v", form, sent[0].header)
			}
		})
	}
}

func TestEachAttemptHasAnAssertionOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		request := keyRequest(t, "P-256", SigningKey{})
		var ids []string
		var issued []float64
		endpoint := endpointFunc(func(req *http.Request) (*http.Response, error) {
			body, _ := io.ReadAll(req.Body)
			_, claims := openJWT(t, sentAssertion(t, wireRequest{body: string(body)}).Get("client_assertion"), testKeys()["P-256"].Public())
			ids, issued = append(ids, claims["jti"].(string)), append(issued, claims["iat"].(float64))
			time.Sleep(time.Second)
			return cannedStatus(503).RoundTrip(req)
		})
		client := &tokenClient{transport: endpoint, timeout: 20 * time.Second}
		_, failure := client.fetch(t.Context(), func(context.Context) (grantRequest, error) { return request, nil }, nil)
		if failure == nil || len(ids) != 3 || ids[0] == ids[1] || ids[1] == ids[2] || ids[0] == ids[2] {
			t.Errorf("got %v after the assertions %v", failure, ids)
		}
		if issued[0] >= issued[1] || issued[1] >= issued[2] {
			t.Errorf("issued at %v", issued)
		}
	})
}

// What a server says of an assertion can have it in it, whole or in parts.
func TestAssertionInTheEndpointsWordsIsMasked(t *testing.T) {
	for _, request := range []grantRequest{keyRequest(t, "P-256", SigningKey{}), secretRequest(t, SigningKey{})} {
		for name, cut := range map[string]func(string) string{
			"whole":   func(assertion string) string { return assertion },
			"cut off": func(assertion string) string { return assertion[:40] },
			"claims":  func(assertion string) string { return strings.Split(assertion, ".")[1] },
		} {
			var assertion string
			_, failure := askOnce(t, endpointFunc(func(req *http.Request) (*http.Response, error) {
				body, _ := io.ReadAll(req.Body)
				assertion = sentAssertion(t, wireRequest{body: string(body)}).Get("client_assertion")
				return cannedAnswer{status: 401, body: `{"error":"invalid_client","error_description":"what is ` + cut(assertion) + `?"}`}.RoundTrip(req)
			}), request)
			if failure == nil || failure.said != "invalid_client what is ***?" {
				t.Errorf("%s: the log says %q", name, failure.said)
			}
		}
	}
}

func TestHintForARefusedAssertionNamesWhatServersDisagreeOn(t *testing.T) {
	withIssuer := keyRequest(t, "P-256", SigningKey{})
	withIssuer.issuer = "https://auth.example.com"
	for name, test := range map[string]struct {
		request grantRequest
		says    []string
		not     string
	}{
		"endpoint":       {keyRequest(t, "P-256", SigningKey{}), []string{"clocks", "newer servers want the issuer", "older servers want JWT", "public key"}, "older servers want the token"},
		"issuer":         {withIssuer, []string{"older servers want the token endpoint's URL"}, "newer"},
		"all is set":     {keyRequest(t, "P-256", SigningKey{Typ: "JWT", Audience: "a"}), []string{"clocks", "public key"}, "servers want"},
		"with a secret":  {secretRequest(t, SigningKey{}), []string{"clocks"}, "public key"},
		"no client auth": {cannedRequest, nil, "assertion"},
	} {
		_, failure := askOnce(t, cannedAnswer{status: 400, body: `{"error":"invalid_client"}`}, test.request)
		for _, part := range test.says {
			if !strings.Contains(failure.hint, part) {
				t.Errorf("%s: %q does not say %q", name, failure.hint, part)
			}
		}
		if strings.Contains(failure.hint, test.not) {
			t.Errorf("%s: %q says %q", name, failure.hint, test.not)
		}
	}
}

// keyServer is a token endpoint that knows one public key, and a gateway's key file.
type keyServer struct {
	*tokenServer
	file string

	mu       sync.Mutex
	accepted string
}

func startKeyServer(t *testing.T) *keyServer {
	s := &keyServer{tokenServer: startTokenServer(t), file: filepath.Join(t.TempDir(), "key.pem"), accepted: "P-256"}
	writeFile(t, s.file, pkcs8(t, testKeys()["P-256"]))
	s.setAnswer(func(w http.ResponseWriter, _ *http.Request, n int) {
		sent := s.recorded()[n-1]
		form, _ := url.ParseQuery(sent.body)
		s.mu.Lock()
		key := testKeys()[s.accepted].Public()
		s.mu.Unlock()
		parsed, err := jose.ParseSigned(form.Get("client_assertion"), signingAlgs)
		if err == nil {
			_, err = parsed.Verify(key)
		}
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
			return
		}
		s.grant(w)
	})
	return s
}

func (s *keyServer) accept(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted = kind
}

func (s *keyServer) options(more ...string) string {
	return "oauth_cc " + s.URL + "/token {\nclient_id app\nauth_method private_key_jwt\n" +
		"signing_key " + s.file + "\n" + strings.Join(more, "\n") + "\n}\n"
}

// The key is replaced before the server forgets the old one, or after: no reload either way.
func TestSigningKeyRotatesWithoutReload(t *testing.T) {
	server, upstream := startKeyServer(t), startAPI(t)
	g := startGateway(t, server.options()+upstream.proxy())
	checkAnswer(t, g.get("/"), 200, "GET / with token-1")
	writeFile(t, server.file, pkcs8(t, testKeys()["Ed25519"]))
	server.accept("Ed25519")
	upstream.revoke("token-1")
	checkAnswer(t, g.get("/"), 200, "GET / with token-2")

	// The server already knows the next one alone: refused, and right once it is there.
	server.accept("P-384")
	upstream.revoke("token-2")
	if a := g.get("/"); a.status != 200 && a.status != 502 && a.status != 401 {
		t.Errorf("got %d", a.status)
	}
	writeFile(t, server.file, pkcs8(t, testKeys()["P-384"]))
	awaitCondition(t, "the new key is used", func() bool { return g.get("/").status == 200 })
	if strings.Contains(g.logs.all(), "PRIVATE") {
		t.Error("a key was logged")
	}
}

func TestKeyThatCannotBeUsedLeavesTheOldOneInUse(t *testing.T) {
	server, upstream := startKeyServer(t), startAPI(t)
	server.lifetime = 1
	g := startGateway(t, server.options("refresh_ahead off")+upstream.proxy())
	checkAnswer(t, g.get("/"), 200, "GET / with token-1")
	writeFile(t, server.file, "-----BEGIN PRIVATE KEY-----\ncanary")
	awaitCondition(t, "three more tokens", func() bool {
		if a := g.get("/"); a.status != 200 {
			t.Fatalf("got %d %q", a.status, a.body)
		}
		return server.count() == 4
	})
	told := g.logs.with("the signing key can't be used; the one before is used on")
	if len(told) != 1 || told[0]["level"] != "warn" || !strings.Contains(fmt.Sprint(told[0]["error"]), server.file+": the file is neither PEM nor a JWK") {
		t.Errorf("logged %v", told)
	}
	if strings.Contains(g.logs.all(), "canary") {
		t.Error("the file was logged")
	}
}

func TestWorldReadableKeyIsWarnedOf(t *testing.T) {
	server, upstream := startKeyServer(t), startAPI(t)
	if err := os.Chmod(server.file, 0o644); err != nil {
		t.Fatal(err)
	}
	g := startGateway(t, server.options()+upstream.proxy())
	checkAnswer(t, g.get("/"), 200, "GET / with token-1")
	if told := g.logs.with("every user of this machine can read the signing key; take the right away with chmod o-r"); len(told) != 1 || told[0]["signing_key"] != server.file {
		t.Errorf("logged %v", told)
	}
}

// Two files with the same key are two sources: when one is rotated, the handlers ask for
// different things, and must not end each other's pauses.
func TestAnotherKeyFileIsAnotherGrant(t *testing.T) {
	dir := t.TempDir()
	keyOf := func(name string) grantKey {
		file := filepath.Join(dir, name)
		writeFile(t, file, pkcs8(t, testKeys()["P-256"]))
		return provisionedConfig(t, configWithClient("client_id app", "auth_method private_key_jwt", "signing_key "+file)).key
	}
	if keyOf("a") == keyOf("b") {
		t.Error("the files are not told apart")
	}
}

func TestPlaceholdersInASigningKeysOptionsAreResolved(t *testing.T) {
	t.Setenv("OAUTH_CC_TEST_KID", "k-env")
	t.Setenv("OAUTH_CC_TEST_AUD", "urn:env")
	t.Setenv("OAUTH_CC_TEST_LONG_SECRET", longSecret)
	file := filepath.Join(t.TempDir(), "key")
	writeFile(t, file, pkcs8(t, testKeys()["P-256"]))
	for _, credential := range []string{
		"auth_method private_key_jwt\nsigning_key " + file,
		"auth_method client_secret_jwt\nclient_secret {env.OAUTH_CC_TEST_LONG_SECRET}\nsigning_key",
	} {
		h := provisionedConfig(t, configWithClient("client_id app", credential+" {\nkey_id {env.OAUTH_CC_TEST_KID}\naudience {env.OAUTH_CC_TEST_AUD}\n}"))
		if r, err := h.resolve(nil); err != nil || r.assertion.keyID != "k-env" || r.assertion.audience != "urn:env" {
			t.Errorf("got %q and %q, %v", r.assertion.keyID, r.assertion.audience, err)
		}
	}
}

// A key that was written over is another credential, also for the cache.
func TestAnotherKeyIsAnotherGrant(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	config := configWithClient("client_id app", "auth_method private_key_jwt", "signing_key "+file)
	keyOf := func(kind string) grantKey {
		writeFile(t, file, pkcs8(t, testKeys()[kind]))
		return provisionedConfig(t, config).key
	}
	a, b := keyOf("P-256"), keyOf("P-384")
	if a == b || a != keyOf("P-256") {
		t.Error("the key is not told apart")
	}
}
