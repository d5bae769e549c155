package providers

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// assertionServer is a token endpoint that takes nothing but what its provider's documentation describes.
type assertionServer struct {
	*gatewaytest.TokenServer
	key    any      // with which it verifies assertions
	params []string // that a token request has, beside the assertion

	// judge returns why an assertion is refused, as the provider says it: an error's code and its description.
	judge  func(form url.Values, claims map[string]any) (code, description string)
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
		header, claims := openSigned(form.Get(member), s.key)
		if header == nil {
			refuse("invalid_client", "not signed")
			return
		}
		if code, description := s.judge(form, claims); code != "" {
			refuse(code, description)
			return
		}
		token := fmt.Sprintf("token-%d", n)
		_, _ = io.WriteString(w, strings.ReplaceAll(s.answer, "%s", token))
	})
	return s
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

// assertionIssuer signs assertions for others, such as a cluster or a SPIFFE agent, and writes them to a file.
type assertionIssuer struct {
	file   string
	claims map[string]any
}

// write writes an assertion that ends after that time.
func (i *assertionIssuer) write(t *testing.T, lifetime time.Duration) {
	t.Helper()
	text := signedByOther(t, i.claims, lifetime)
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
	issuer.isLate(t, g)
	replays(t, g, s, upstream)
}

// isLate checks that a gateway has no token without an assertion, and gets one with it.
func (i *assertionIssuer) isLate(t *testing.T, g *gatewaytest.Gateway) {
	t.Helper()
	if a := g.Get("/orders"); a.Status != http.StatusBadGateway {
		t.Errorf("without an assertion got %d %s", a.Status, a.Body)
	}
	i.write(t, time.Hour)
	gatewaytest.Await(t, "the assertion is used", func() bool { return g.Get("/orders").Status == 200 })
}

// startsSigning starts the stand-in for a provider whose client sends an assertion, and writes what the client reads.
func startsSigning(t *testing.T, p *providerSpec) (s *providerStandIn, files map[string]string) {
	t.Helper()
	s = startProvider(t, p)
	s.id, s.secret = p.id, p.secret
	return s, s.writeFiles(t)
}

// runs wants an example to get a token, and another one when the API rejects it.
func (s *providerStandIn) runs(t *testing.T, example string, env map[string]string, replace ...string) *gatewaytest.Gateway {
	t.Helper()
	env["API"] = s.api.URL
	g := startExample(t, example, exampleRun{env: env, replace: replace, trust: s.api.Certificate()})
	s.checkWorks(t, g)
	s.checkReplay(t, g)
	return g
}

// checkReplay wants the gateway to get another token when the API rejects the one that it has.
func (s *providerStandIn) checkReplay(t *testing.T, g *gatewaytest.Gateway) {
	t.Helper()
	before := s.tokenRequests()
	s.revoke()
	if a := g.Get("/orders"); a.Status != 200 || s.tokenRequests() != before+1 {
		t.Errorf("after a revocation got %d %q, with %d more token requests", a.Status, a.Body, s.tokenRequests()-before)
	}
}

func testEntraCertificate(t *testing.T) {
	s, files := startsSigning(t, entraCertificate)
	s.runs(t, "entra-certificate", map[string]string{
		"AUTHORITY": s.endpoint.URL, "TENANT_ID": entraTenant, "CLIENT_ID": s.id, "KEY_FILE": files[entraKeyFile], "CERTIFICATE_FILE": files[entraCertificateFile],
	})
}

func testEntraWorkloadIdentity(t *testing.T) {
	s, _ := startsSigning(t, entraWorkloadIdentity)
	issuer := &assertionIssuer{file: filepath.Join(t.TempDir(), "assertion"), claims: map[string]any{
		"iss": issuerOfCluster, "sub": podOfGateway, "aud": []string{entraExchange},
	}}
	g := startExample(t, "entra-workload-identity", exampleRun{trust: s.api.Certificate(), env: map[string]string{
		"AZURE_AUTHORITY_HOST": s.endpoint.URL + "/", "AZURE_TENANT_ID": entraTenant, "AZURE_CLIENT_ID": s.id, "AZURE_FEDERATED_TOKEN_FILE": issuer.file,
		"API": s.api.URL,
	}})
	issuer.isLate(t, g)
	s.checkReplay(t, g)
}

// Keycloak, "Kubernetes identity provider" and "Federated client authentication".
func testKeycloakKubernetes(t *testing.T) {
	s := &assertionServer{
		key: servertest.Keys()["P-256"].Public(), params: []string{"grant_type", "client_assertion_type"},
		answer: `{"access_token":"%s","expires_in":300,"refresh_expires_in":0,"token_type":"Bearer","not-before-policy":0,"scope":"email profile"}`,
	}
	s.judge = func(form url.Values, claims map[string]any) (string, string) {
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
	s.judge = func(form url.Values, claims map[string]any) (string, string) {
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
	s.judge = func(form url.Values, claims map[string]any) (string, string) {
		if claims["aud"] != s.URL || claims["sub"] != "gateway" || claims["iss"] != "gateway" || form.Get("client_id") != "gateway" {
			return "invalid_client", ""
		}
		return "", ""
	}
	startAssertionServer(t, "client_assertion", s)
	testReadyAssertion(t, "signer", s, map[string]any{"iss": "gateway", "sub": "gateway", "aud": s.URL}, map[string]string{"ISSUER": s.URL}, "ASSERTION_FILE")
}

func testGoogleServiceAccount(t *testing.T) {
	s, files := startsSigning(t, googleServiceAccount)
	g := s.runs(t, "google-service-account", map[string]string{"KEY_FILE": files[googleKeyFile]})
	if logged := g.Logs.With("token obtained"); len(logged) == 0 || logged[0]["client_id"] != googleAccount || logged[0]["endpoint"] != s.endpoint.URL+s.path {
		t.Errorf("logged %v", logged)
	}
}

func testSalesforce(t *testing.T) {
	s, files := startsSigning(t, salesforce)
	s.runs(t, "salesforce", map[string]string{
		"TOKEN_ENDPOINT": s.endpoint.URL + s.path, "KEY_FILE": files[salesforceKeyFile], "CONSUMER_KEY": s.id, "USERNAME": salesforceUser,
	})
}

func testDocuSign(t *testing.T) {
	s, files := startsSigning(t, docuSign)
	s.runs(t, "docusign", map[string]string{
		"AUTH_HOST": docuSignHost, "KEY_FILE": files[docuSignKeyFile], "INTEGRATION_KEY": s.id, "USER_ID": docuSignUser,
	}, "https://{$AUTH_HOST:account.docusign.com}/oauth/token", s.endpoint.URL+s.path)
}

func testBox(t *testing.T) {
	s, files := startsSigning(t, box)
	s.runs(t, "box", map[string]string{
		"TOKEN_ENDPOINT": s.endpoint.URL + s.path, "CLIENT_ID": s.id, "CLIENT_SECRET": s.secret, "ENTERPRISE_ID": boxEnterprise, "PUBLIC_KEY_ID": boxKeyID,
		"KEY_FILE": files[boxKeyFile],
	})
}
