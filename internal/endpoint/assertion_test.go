package endpoint

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// testTime is a moment long ago.
var testTime = time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)

// keyRequest is a token request of a client with a key.
func keyRequest(t testing.TB, kind string, options AssertionOptions) Request {
	t.Helper()
	key, err := ParsePrivateKey([]byte(servertest.PKCS8(t, servertest.Keys()[kind])))
	if err != nil {
		t.Fatal(err)
	}
	if err := options.Complete(); err != nil {
		t.Fatal(err)
	}
	r := cannedRequest
	r.AuthMethod, r.ClientSecret = AuthPrivateKeyJWT, ""
	r.Assertion = NewAssertion(options, key)
	return r
}

// secretRequest is a token request of a client that signs with its secret.
func secretRequest(t testing.TB, options AssertionOptions) Request {
	t.Helper()
	if err := options.Complete(); err != nil {
		t.Fatal(err)
	}
	r := cannedRequest
	r.AuthMethod, r.ClientSecret = AuthSecretJWT, servertest.LongSecret
	r.Assertion = NewAssertion(options, nil)
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
	for _, alg := range servertest.SigningAlgs {
		t.Run(string(alg), func(t *testing.T) {
			var request Request
			var key any
			if strings.HasPrefix(string(alg), "HS") {
				request, key = secretRequest(t, AssertionOptions{Alg: string(alg)}), []byte(servertest.LongSecret)
			} else {
				kind := kinds[string(alg)]
				if kind == "" {
					kind = kinds[string(alg)[:2]]
				}
				request, key = keyRequest(t, kind, AssertionOptions{Alg: string(alg)}), servertest.Keys()[kind].Public()
			}
			assertion, err := request.Assertion.sign(request, testTime)
			if err != nil {
				t.Fatal(err)
			}
			header, claims := servertest.OpenJWT(t, assertion, key)
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
	withIssuer := func(r Request) Request {
		r.Issuer = "https://auth.example.com"
		return r
	}
	jwk, err := ParsePrivateKey([]byte(servertest.JWKWith(t, servertest.Keys()["RSA"], map[string]any{"alg": "PS256", "kid": "of-jwk"})))
	if err != nil {
		t.Fatal(err)
	}
	withJWK := func(options AssertionOptions) Request {
		r := keyRequest(t, "RSA", options)
		r.Assertion = NewAssertion(options, jwk)
		return r
	}
	for name, test := range map[string]struct {
		request        Request
		aud            string
		alg, typ, kid  any
		life           float64
		wantDefaultTyp bool
	}{
		"the issuer is the audience": {request: withIssuer(keyRequest(t, "P-256", AssertionOptions{})), aud: "https://auth.example.com", alg: "ES256"},
		"unless another is given":    {request: withIssuer(keyRequest(t, "P-256", AssertionOptions{Audience: "urn:server"})), aud: "urn:server", alg: "ES256"},
		"audience":                   {request: keyRequest(t, "P-256", AssertionOptions{Audience: "urn:server"}), aud: "urn:server", alg: "ES256"},
		"typ":                        {request: keyRequest(t, "P-256", AssertionOptions{Typ: "JWT"}), alg: "ES256", typ: "JWT"},
		"key_id":                     {request: keyRequest(t, "P-256", AssertionOptions{KeyID: "k1"}), alg: "ES256", kid: "k1"},
		"lifetime":                   {request: keyRequest(t, "P-256", AssertionOptions{Lifetime: 300e9}), alg: "ES256", life: 300},
		"a JWK's own":                {request: withJWK(AssertionOptions{Typ: "JWT", Lifetime: 60e9}), alg: "PS256", typ: "JWT", kid: "of-jwk"},
		"rather than a JWK's own":    {request: withJWK(AssertionOptions{Alg: "RS512", KeyID: "k2", Typ: "JWT", Lifetime: 60e9}), alg: "RS512", typ: "JWT", kid: "k2"},
		"key_id of a secret":         {request: secretRequest(t, AssertionOptions{KeyID: "k3", Alg: "HS384"}), alg: "HS384", kid: "k3"},
	} {
		t.Run(name, func(t *testing.T) {
			assertion, err := test.request.Assertion.sign(test.request, testTime)
			if err != nil {
				t.Fatal(err)
			}
			var key any = []byte(servertest.LongSecret)
			if test.request.Assertion.key != nil {
				key = test.request.Assertion.key.signer.Public()
			}
			header, claims := servertest.OpenJWT(t, assertion, key)
			if test.typ == nil {
				test.typ = defaultAssertionTyp
			}
			if header["alg"] != test.alg || header["typ"] != test.typ || header["kid"] != test.kid {
				t.Errorf("the header is %v", header)
			}
			if test.aud == "" {
				test.aud = test.request.Endpoint
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
	for name, request := range map[string]Request{
		AuthPrivateKeyJWT: keyRequest(t, "P-256", AssertionOptions{}),
		AuthSecretJWT:     secretRequest(t, AssertionOptions{}),
	} {
		t.Run(name, func(t *testing.T) {
			sent := onWire(t, request, servertest.AnyToken)
			if len(sent) != 1 {
				t.Fatalf("%d requests", len(sent))
			}
			form := sentAssertion(t, sent[0])
			if form.Get("client_assertion_type") != AssertionTypeJWT || form.Get("client_id") != "app" || form.Get("grant_type") != "client_credentials" {
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
		request := keyRequest(t, "P-256", AssertionOptions{})
		var ids []string
		var issued []float64
		endpoint := servertest.Func(func(req *http.Request) (*http.Response, error) {
			body, _ := io.ReadAll(req.Body)
			_, claims := servertest.OpenJWT(t, sentAssertion(t, wireRequest{body: string(body)}).Get("client_assertion"), servertest.Keys()["P-256"].Public())
			ids, issued = append(ids, claims["jti"].(string)), append(issued, claims["iat"].(float64))
			time.Sleep(time.Second)
			return servertest.Status(503).RoundTrip(req)
		})
		client := &Client{Transport: endpoint, Timeout: 20 * time.Second}
		_, failure := client.Fetch(t.Context(), func(context.Context) (Request, error) { return request, nil }, nil)
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
	for _, request := range []Request{keyRequest(t, "P-256", AssertionOptions{}), secretRequest(t, AssertionOptions{})} {
		for name, cut := range map[string]func(string) string{
			"whole":   func(assertion string) string { return assertion },
			"cut off": func(assertion string) string { return assertion[:40] },
			"claims":  func(assertion string) string { return strings.Split(assertion, ".")[1] },
		} {
			var assertion string
			_, failure := askOnce(t, servertest.Func(func(req *http.Request) (*http.Response, error) {
				body, _ := io.ReadAll(req.Body)
				assertion = sentAssertion(t, wireRequest{body: string(body)}).Get("client_assertion")
				return servertest.Answer{Status: 401, Body: `{"error":"invalid_client","error_description":"what is ` + cut(assertion) + `?"}`}.RoundTrip(req)
			}), request)
			if failure == nil || failure.Said != "invalid_client what is ***?" {
				t.Errorf("%s: the log says %q", name, failure.Said)
			}
		}
	}
}

// A redirect has its target in a header of its own, which is looked at after the (empty) body.
func TestAssertionInARedirectIsMasked(t *testing.T) {
	for name, encode := range map[string]func(string) string{
		"hex":    func(s string) string { return hex.EncodeToString([]byte(s)) },
		"base64": func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	} {
		_, failure := askOnce(t, servertest.Func(func(req *http.Request) (*http.Response, error) {
			body, _ := io.ReadAll(req.Body)
			assertion := sentAssertion(t, wireRequest{body: string(body)}).Get("client_assertion")
			location := http.Header{"Location": {"https://elsewhere.example.com/" + encode(assertion)}}
			return servertest.Answer{Status: 307, Header: location}.RoundTrip(req)
		}), secretRequest(t, AssertionOptions{}))
		if failure == nil || !strings.HasPrefix(failure.Said, "redirects to https:") || !strings.HasSuffix(failure.Said, "***") {
			t.Errorf("%s: the log says %q", name, failure.Said)
		}
	}
}

func TestHintForARefusedAssertionNamesWhatServersDisagreeOn(t *testing.T) {
	withIssuer := keyRequest(t, "P-256", AssertionOptions{})
	withIssuer.Issuer = "https://auth.example.com"
	for name, test := range map[string]struct {
		request Request
		says    []string
		not     string
	}{
		"endpoint":       {keyRequest(t, "P-256", AssertionOptions{}), []string{"clocks", "newer servers want the issuer", "older servers want JWT", "public key"}, "older servers want the token"},
		"issuer":         {withIssuer, []string{"older servers want the token endpoint's URL"}, "newer"},
		"all is set":     {keyRequest(t, "P-256", AssertionOptions{Typ: "JWT", Audience: "a"}), []string{"clocks", "public key"}, "servers want"},
		"with a secret":  {secretRequest(t, AssertionOptions{}), []string{"clocks"}, "public key"},
		"no client auth": {cannedRequest, nil, "assertion"},
	} {
		_, failure := askOnce(t, servertest.Answer{Status: 400, Body: `{"error":"invalid_client"}`}, test.request)
		for _, part := range test.says {
			if !strings.Contains(failure.Hint, part) {
				t.Errorf("%s: %q does not say %q", name, failure.Hint, part)
			}
		}
		if strings.Contains(failure.Hint, test.not) {
			t.Errorf("%s: %q says %q", name, failure.Hint, test.not)
		}
	}
}
