package providers

import (
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// assertionServer is a token endpoint that takes nothing but what its provider's documentation describes.
type assertionServer struct {
	*gatewaytest.TokenServer
	key    any      // with which it verifies assertions
	params []string // that a token request has, beside the assertion

	// judge returns why an assertion is refused, as the provider says it: an error's code and its description.
	judge  func(form url.Values, header, claims map[string]any) (code, description string)
	answer string // with %s for the token
}

// startAssertionServer starts one. member is the parameter with the assertion.
func startAssertionServer(t *testing.T, member string, s *assertionServer) *assertionServer {
	s.TokenServer = gatewaytest.StartTokenServer(t)
	s.SetAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		if strings.HasPrefix(r.URL.Path, "/.well-known/") {
			fmt.Fprintf(w, `{"issuer":%q,"token_endpoint":%q}`, s.URL, s.URL+"/token")
			return
		}
		refuse := func(code, description string) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": description})
		}
		form, err := url.ParseQuery(s.Recorded()[n-1].Body)
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || r.Header.Get("Authorization") != "" {
			refuse("invalid_request", "not a form")
			return
		}
		names := append([]string{member}, s.params...)
		for name, values := range form {
			if !slices.Contains(names, name) || len(values) != 1 {
				refuse("invalid_request", "unexpected "+name)
				return
			}
		}
		if len(form) != len(names) {
			refuse("invalid_request", "a parameter is missing")
			return
		}
		parsed, err := jose.ParseSigned(form.Get(member), servertest.SigningAlgs)
		if err == nil {
			_, err = parsed.Verify(s.key)
		}
		if err != nil {
			refuse("invalid_grant", "Invalid JWT Signature.")
			return
		}
		header, claims := servertest.OpenJWT(t, form.Get(member), s.key)
		if code, description := s.judge(form, header, claims); code != "" {
			refuse(code, description)
			return
		}
		token := fmt.Sprintf("token-%d", n)
		_, _ = io.WriteString(w, strings.ReplaceAll(s.answer, "%s", token))
	})
	return s
}

// lives reports whether an assertion is made now, and for no longer than that.
func lives(claims map[string]any, atMost time.Duration) bool {
	issued, _ := claims["iat"].(float64)
	ends, _ := claims["exp"].(float64)
	now := float64(time.Now().Unix())
	return issued > now-60 && issued <= now+1 && ends > now && ends-issued <= atMost.Seconds()
}

// replays checks that an example gets a token, and another one when the API rejects it.
func replays(t *testing.T, g *gatewaytest.Gateway, s *assertionServer, upstream *gatewaytest.API) {
	t.Helper()
	first := g.Get("/orders")
	if first.Status != 200 || !strings.HasPrefix(first.Body, "GET /orders with token-") {
		t.Fatalf("got %d %s; the endpoint got %+v", first.Status, first.Body, s.Recorded())
	}
	upstream.Revoke(strings.TrimPrefix(first.Body, "GET /orders with "))
	if second := g.Get("/orders"); second.Status != 200 || second.Body == first.Body {
		t.Errorf("after a revocation got %d %s", second.Status, second.Body)
	}
}

const jwtBearerAssertion = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// Microsoft identity platform, "Certificate credentials" and "OAuth 2.0 client credentials flow".
func entraServer(t *testing.T, key any, thumbprint func(header map[string]any) bool) *assertionServer {
	s := &assertionServer{
		key: key, params: []string{"grant_type", "client_id", "client_assertion_type", "scope"},
		answer: `{"token_type":"Bearer","expires_in":3599,"ext_expires_in":3599,"access_token":"%s"}`,
	}
	s.judge = func(form url.Values, header, claims map[string]any) (string, string) {
		switch {
		case form.Get("grant_type") != "client_credentials" || form.Get("client_assertion_type") != jwtBearerAssertion:
			return "invalid_request", "AADSTS900144: The request body must contain the right parameters."
		case form.Get("client_id") != "00001111-aaaa-2222-bbbb-3333cccc4444":
			return "unauthorized_client", "AADSTS700016: Application was not found in the directory."
		case !strings.HasSuffix(form.Get("scope"), "/.default"):
			return "invalid_scope", "AADSTS1002012: The provided value for scope is not valid."
		case !thumbprint(header):
			return "invalid_client", "AADSTS700027: The certificate with identifier used to sign the client assertion is not registered on application."
		case claims["exp"] == nil || claims["exp"].(float64) <= float64(time.Now().Unix()):
			return "invalid_client", "AADSTS700024: Client assertion is not within its valid time range."
		}
		return "", ""
	}
	return startAssertionServer(t, "client_assertion", s)
}

func testEntraCertificate(t *testing.T) {
	certFile, keyFile, certificate := exampleRSACertificate(t)
	upstream := gatewaytest.StartAPI(t)
	s := entraServer(t, certificate.PublicKey, func(header map[string]any) bool {
		by256, by1 := sha256.Sum256(certificate.Raw), sha1.Sum(certificate.Raw)
		encode := base64.RawURLEncoding.EncodeToString
		return header["alg"] == "PS256" && header["typ"] == "JWT" && header["x5t#S256"] == encode(by256[:]) && header["x5t"] == encode(by1[:]) && header["x5c"] == nil
	})
	judge := s.judge
	s.judge = func(form url.Values, header, claims map[string]any) (string, string) {
		const id = "00001111-aaaa-2222-bbbb-3333cccc4444"
		if claims["aud"] != s.URL+"/tenant/oauth2/v2.0/token" || claims["iss"] != id || claims["sub"] != id || claims["jti"] == "" || !lives(claims, 10*time.Minute) {
			return "invalid_client", "AADSTS700021: Client assertion application identifier doesn't match."
		}
		return judge(form, header, claims)
	}
	g := startExample(t, "entra-certificate", exampleRun{env: map[string]string{
		"AUTHORITY": s.URL, "TENANT_ID": "tenant", "CLIENT_ID": "00001111-aaaa-2222-bbbb-3333cccc4444", "KEY_FILE": keyFile, "CERTIFICATE_FILE": certFile,
		"API": upstream.URL,
	}})
	replays(t, g, s, upstream)
}

// exampleRSACertificate writes an RSA key and a certificate of it into files.
func exampleRSACertificate(t testing.TB) (certFile, keyFile string, certificate *x509.Certificate) {
	t.Helper()
	keyFile = exampleKey(t, "RSA")
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, servertest.Keys()["RSA"].Public(), servertest.Keys()["RSA"])
	if err != nil {
		t.Fatal(err)
	}
	certFile = filepath.Join(t.TempDir(), "gateway.crt")
	servertest.WriteFile(t, certFile, servertest.PEM("CERTIFICATE", der))
	if certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile, certificate
}

// assertionIssuer signs assertions for others, such as a cluster or a SPIFFE agent, and writes them to a file.
type assertionIssuer struct {
	file   string
	claims map[string]any
}

// write writes an assertion that ends after that time.
func (i *assertionIssuer) write(t *testing.T, lifetime time.Duration) {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: servertest.Keys()["P-256"]}, nil)
	if err != nil {
		t.Fatal(err)
	}
	i.claims["iat"], i.claims["exp"] = time.Now().Unix(), time.Now().Add(lifetime).Unix()
	text, err := jwt.Signed(signer).Claims(i.claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	servertest.WriteFile(t, i.file+".next", text+"\n")
	if err := os.Rename(i.file+".next", i.file); err != nil {
		t.Fatal(err)
	}
}

// testReadyAssertion runs an example whose assertion somebody else writes: it is missing, and comes later.
func testReadyAssertion(t *testing.T, name string, s *assertionServer, claims map[string]any, env map[string]string, fileVariable string) {
	upstream := gatewaytest.StartAPI(t)
	issuer := &assertionIssuer{file: filepath.Join(t.TempDir(), "assertion"), claims: claims}
	env["API"], env[fileVariable] = upstream.URL, issuer.file
	g := startExample(t, name, exampleRun{env: env})
	if a := g.Get("/orders"); a.Status != http.StatusBadGateway {
		t.Errorf("without an assertion got %d %s", a.Status, a.Body)
	}
	issuer.write(t, time.Hour)
	gatewaytest.Await(t, "the assertion is used", func() bool { return g.Get("/orders").Status == 200 })
	replays(t, g, s, upstream)
}

func testEntraWorkloadIdentity(t *testing.T) {
	s := entraServer(t, servertest.Keys()["P-256"].Public(), func(map[string]any) bool { return true })
	judge := s.judge
	const subject = "system:serviceaccount:shop:gateway"
	s.judge = func(form url.Values, header, claims map[string]any) (string, string) {
		if audience, _ := claims["aud"].([]any); len(audience) != 1 || audience[0] != "api://AzureADTokenExchange" || claims["sub"] != subject {
			return "invalid_client", "AADSTS700213: No matching federated identity record found for presented assertion subject."
		}
		return judge(form, header, claims)
	}
	testReadyAssertion(t, "entra-workload-identity", s, map[string]any{
		"iss": "https://cluster.example.com", "sub": subject, "aud": []string{"api://AzureADTokenExchange"},
	}, map[string]string{
		"AZURE_AUTHORITY_HOST": s.URL + "/", "AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "00001111-aaaa-2222-bbbb-3333cccc4444",
	}, "AZURE_FEDERATED_TOKEN_FILE")
}

// Keycloak, "Kubernetes identity provider" and "Federated client authentication".
func testKeycloakKubernetes(t *testing.T) {
	s := &assertionServer{
		key: servertest.Keys()["P-256"].Public(), params: []string{"grant_type", "client_assertion_type"},
		answer: `{"access_token":"%s","expires_in":300,"refresh_expires_in":0,"token_type":"Bearer","not-before-policy":0,"scope":"email profile"}`,
	}
	s.judge = func(form url.Values, _, claims map[string]any) (string, string) {
		if audience, _ := claims["aud"].([]any); len(audience) != 1 || audience[0] != s.URL || form.Get("client_assertion_type") != jwtBearerAssertion {
			return "invalid_client", "Invalid client or Invalid client credentials"
		}
		return "", ""
	}
	startAssertionServer(t, "client_assertion", s)
	testReadyAssertion(t, "keycloak-kubernetes", s, map[string]any{
		"iss": "https://kubernetes.default.svc.cluster.local", "sub": "system:serviceaccount:shop:gateway", "aud": []string{s.URL},
	}, map[string]string{"REALM": s.URL}, "TOKEN_FILE")
}

// draft-ietf-oauth-spiffe-client-auth, §3.1.
func testSPIFFE(t *testing.T) {
	s := &assertionServer{
		key: servertest.Keys()["P-256"].Public(), params: []string{"grant_type", "client_assertion_type", "scope"},
		answer: `{"access_token":"%s","expires_in":300,"token_type":"Bearer"}`,
	}
	s.judge = func(form url.Values, _, claims map[string]any) (string, string) {
		if claims["aud"] != s.URL || !strings.HasPrefix(fmt.Sprint(claims["sub"]), "spiffe://") ||
			form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe" {
			return "invalid_client", ""
		}
		return "", ""
	}
	startAssertionServer(t, "client_assertion", s)
	testReadyAssertion(t, "spiffe", s, map[string]any{"sub": "spiffe://example.com/gateway", "aud": s.URL}, map[string]string{"ISSUER": s.URL}, "SVID_FILE")
}

func testSigner(t *testing.T) {
	s := &assertionServer{
		key: servertest.Keys()["P-256"].Public(), params: []string{"grant_type", "client_assertion_type", "client_id", "scope"},
		answer: `{"access_token":"%s","expires_in":300,"token_type":"Bearer"}`,
	}
	s.judge = func(form url.Values, _, claims map[string]any) (string, string) {
		if claims["aud"] != s.URL || claims["sub"] != "gateway" || claims["iss"] != "gateway" || form.Get("client_id") != "gateway" {
			return "invalid_client", ""
		}
		return "", ""
	}
	startAssertionServer(t, "client_assertion", s)
	testReadyAssertion(t, "signer", s, map[string]any{"iss": "gateway", "sub": "gateway", "aud": s.URL}, map[string]string{"ISSUER": s.URL}, "ASSERTION_FILE")
}

const grantTypeJWTBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"

// Google, "Using OAuth 2.0 for Server to Server Applications".
func testGoogleServiceAccount(t *testing.T) {
	const account, scope = "gateway@project.iam.gserviceaccount.com", "https://www.googleapis.com/auth/cloud-platform"
	s := &assertionServer{
		key: servertest.Keys()["RSA"].Public(), params: []string{"grant_type"},
		answer: `{"access_token":"%s","scope":"` + scope + `","token_type":"Bearer","expires_in":3599}`,
	}
	s.judge = func(form url.Values, header, claims map[string]any) (string, string) {
		switch {
		case form.Get("grant_type") != grantTypeJWTBearer:
			return "unsupported_grant_type", "Invalid grant_type: " + form.Get("grant_type")
		case header["alg"] != "RS256" || header["kid"] != "k9":
			return "invalid_grant", "Invalid JWT Signature."
		case claims["iss"] != account:
			return "invalid_grant", "Invalid grant: account not found"
		case claims["aud"] != s.URL+"/token" || !lives(claims, time.Hour):
			return "invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim."
		case claims["scope"] != scope || claims["sub"] != nil:
			return "invalid_scope", "Empty or missing scope not allowed."
		}
		return "", ""
	}
	startAssertionServer(t, "assertion", s)
	upstream := gatewaytest.StartAPI(t)
	key, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "project", "private_key_id": "k9", "private_key": servertest.PKCS8(t, servertest.Keys()["RSA"]),
		"client_email": account, "client_id": "1", "auth_uri": "https://accounts.google.com/o/oauth2/auth", "token_uri": s.URL + "/token",
		"universe_domain": "googleapis.com",
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "service-account.json")
	servertest.WriteFile(t, file, string(key))
	g := startExample(t, "google-service-account", exampleRun{env: map[string]string{"KEY_FILE": file, "API": upstream.URL}})
	replays(t, g, s, upstream)
	if logged := g.Logs.With("token obtained"); len(logged) == 0 || logged[0]["client_id"] != account || logged[0]["endpoint"] != s.URL+"/token" {
		t.Errorf("logged %v", logged)
	}
}

// Salesforce, "OAuth 2.0 JWT Bearer Flow for Server-to-Server Integration".
func testSalesforce(t *testing.T) {
	s := &assertionServer{
		key: servertest.Keys()["RSA"].Public(), params: []string{"grant_type"},
		answer: `{"access_token":"%s","scope":"api","instance_url":"https://example.my.salesforce.com","id":"https://login.salesforce.com/id/00D/005","token_type":"Bearer"}`,
	}
	s.judge = func(form url.Values, header, claims map[string]any) (string, string) {
		switch {
		case form.Get("grant_type") != grantTypeJWTBearer:
			return "unsupported_grant_type", "grant type not supported"
		case header["alg"] != "RS256" || !lives(claims, 3*time.Minute):
			return "invalid_grant", "invalid assertion"
		case claims["iss"] != "consumer-key":
			return "invalid_client_id", "client identifier invalid"
		case claims["aud"] != "https://login.salesforce.com":
			return "invalid_grant", "audience is invalid"
		case claims["sub"] != "gateway@example.com":
			return "invalid_grant", "user hasn't approved this consumer"
		}
		return "", ""
	}
	startAssertionServer(t, "assertion", s)
	upstream := gatewaytest.StartAPI(t)
	g := startExample(t, "salesforce", exampleRun{env: map[string]string{
		"TOKEN_ENDPOINT": s.URL + "/services/oauth2/token", "KEY_FILE": exampleKey(t, "RSA"), "CONSUMER_KEY": "consumer-key", "USERNAME": "gateway@example.com",
		"API": upstream.URL,
	}})
	replays(t, g, s, upstream)
}

// DocuSign, "How to get an access token with JWT Grant".
func testDocuSign(t *testing.T) {
	s := &assertionServer{
		key: servertest.Keys()["RSA"].Public(), params: []string{"grant_type"},
		answer: `{"access_token":"%s","token_type":"Bearer","expires_in":3600,"scope":"signature impersonation"}`,
	}
	s.judge = func(form url.Values, header, claims map[string]any) (string, string) {
		switch {
		case form.Get("grant_type") != grantTypeJWTBearer:
			return "invalid_grant", "unsupported_grant_type"
		case header["alg"] != "RS256" || header["typ"] != "JWT":
			return "invalid_grant", "no_valid_keys_or_signatures"
		case claims["iss"] != "integration-key":
			return "invalid_grant", "issuer_not_found"
		case claims["sub"] != "5f3a1c9e-0000-4000-8000-000000000001":
			return "invalid_grant", "user_not_found"
		case claims["aud"] != "account-d.docusign.com" || !lives(claims, time.Hour):
			return "invalid_grant", "no_valid_keys_or_signatures"
		case claims["scope"] != "signature impersonation":
			return "consent_required", ""
		}
		return "", ""
	}
	startAssertionServer(t, "assertion", s)
	upstream := gatewaytest.StartAPI(t)
	g := startExample(t, "docusign", exampleRun{env: map[string]string{
		"AUTH_HOST": "account-d.docusign.com", "KEY_FILE": exampleKey(t, "RSA"), "INTEGRATION_KEY": "integration-key",
		"USER_ID": "5f3a1c9e-0000-4000-8000-000000000001", "API": upstream.URL,
	}, replace: []string{"https://{$AUTH_HOST:account.docusign.com}/oauth/token", s.URL + "/oauth/token"}})
	replays(t, g, s, upstream)
}

// Box, "JWT without SDK".
func testBox(t *testing.T) {
	s := &assertionServer{
		key: servertest.Keys()["RSA"].Public(), params: []string{"grant_type", "client_id", "client_secret"},
		answer: `{"access_token":"%s","expires_in":4123,"restricted_to":[],"token_type":"bearer"}`,
	}
	s.judge = func(form url.Values, header, claims map[string]any) (string, string) {
		id, _ := claims["jti"].(string)
		switch {
		case form.Get("client_id") != "app" || form.Get("client_secret") != "s3cret":
			return "invalid_client", "The client credentials are invalid"
		case header["kid"] != "k7" || form.Get("grant_type") != grantTypeJWTBearer:
			return "invalid_grant", "OAuth JWT signature or public key is invalid."
		case claims["aud"] != "https://api.box.com/oauth2/token":
			return "invalid_grant", "Please check the 'aud' claim."
		case !lives(claims, time.Minute):
			return "invalid_grant", "Please check the 'exp' claim."
		case len(id) < 16 || len(id) > 128:
			return "invalid_grant", "Please check the 'jti' claim."
		case claims["iss"] != "app" || claims["sub"] != "123456" || claims["box_sub_type"] != "enterprise":
			return "unauthorized_client", "This app is not authorized by the enterprise"
		}
		return "", ""
	}
	startAssertionServer(t, "assertion", s)
	upstream := gatewaytest.StartAPI(t)
	g := startExample(t, "box", exampleRun{env: map[string]string{
		"TOKEN_ENDPOINT": s.URL + "/oauth2/token", "CLIENT_ID": "app", "CLIENT_SECRET": "s3cret", "ENTERPRISE_ID": "123456", "PUBLIC_KEY_ID": "k7",
		"KEY_FILE": exampleKey(t, "RSA"), "API": upstream.URL,
	}})
	replays(t, g, s, upstream)
}
