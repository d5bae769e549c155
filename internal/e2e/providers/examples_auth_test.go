package providers

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

func testAPIKey(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.Header.Get("X-Api-Key") != "s3cret" || r.Header.Get("Authorization") != "" {
			http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
			return
		}
		endpoint.Grant(w)
	})
	g := startExample(t, "api-key", exampleRun{env: map[string]string{
		"TOKEN_ENDPOINT": endpoint.URL, "API_KEY": "s3cret", "API": upstream.URL,
	}})
	gatewaytest.CheckAnswer(t, g.Get("/orders"), 200, "GET /orders with token-1")
}

// grantOnlyToSigner makes the endpoint grant tokens to whoever sends an assertion that is
// signed with the key, and made for that audience.
func grantOnlyToSigner(t testing.TB, s *gatewaytest.TokenServer, key any, alg jose.SignatureAlgorithm, audience, typ, keyID string) {
	s.SetAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		if strings.HasPrefix(r.URL.Path, "/.well-known/") {
			fmt.Fprintf(w, `{"issuer":%q,"token_endpoint":%q}`, s.URL, s.URL+"/token")
			return
		}
		form, _ := url.ParseQuery(s.Recorded()[n-1].Body)
		assertion := form.Get("client_assertion")
		if parsed, err := jose.ParseSigned(assertion, []jose.SignatureAlgorithm{alg}); err != nil {
			t.Errorf("%v in %v", err, form)
		} else if _, err := parsed.Verify(key); err != nil {
			t.Error(err)
		}
		header, claims := servertest.OpenJWT(t, assertion, key)
		if header["typ"] != typ || fmt.Sprint(header["kid"]) != keyID || claims["aud"] != audience || claims["sub"] != "gateway" || form.Has("client_secret") {
			t.Errorf("got %v, %v in %v", header, claims, form)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		s.Grant(w)
	})
}

func testClientSecretJWT(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	grantOnlyToSigner(t, endpoint, []byte(servertest.LongSecret), jose.HS256, endpoint.URL+"/token", "JWT", "<nil>")
	g := startExample(t, "client-secret-jwt", exampleRun{env: map[string]string{
		"TOKEN_ENDPOINT": endpoint.URL + "/token", "CLIENT_SECRET": servertest.LongSecret, "API": upstream.URL,
	}})
	gatewaytest.CheckAnswer(t, g.Get("/orders"), 200, "GET /orders with token-1")
	upstream.Revoke("token-1")
	gatewaytest.CheckAnswer(t, g.Get("/orders"), 200, "GET /orders with token-2")
}

// exampleKey writes a private key into a file.
func exampleKey(t testing.TB, kind string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "gateway.pem")
	servertest.WriteFile(t, file, servertest.PKCS8(t, servertest.Keys()[kind]))
	return file
}

func testPrivateKeyJWT(t *testing.T) {
	server, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	grantOnlyToSigner(t, server, servertest.Keys()["P-256"].Public(), jose.ES256, server.URL, "client-authentication+jwt", "2026-11")
	g := startExample(t, "private-key-jwt", exampleRun{env: map[string]string{
		"ISSUER": server.URL, "KEY_FILE": exampleKey(t, "P-256"), "API": upstream.URL,
	}})
	gatewaytest.CheckAnswer(t, g.Get("/orders"), 200, "GET /orders with token-1")
	upstream.Revoke("token-1")
	gatewaytest.CheckAnswer(t, g.Get("/orders"), 200, "GET /orders with token-2")
	if n := server.Count(); n != 3 {
		t.Errorf("%d requests to the server, want one for its metadata and two for tokens", n)
	}
}

func testDPoP(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	server.Demand("s1")
	upstream.Demand("u1")
	g := startExample(t, "dpop", exampleRun{env: map[string]string{
		"TOKEN_ENDPOINT": server.URL + "/token", "CLIENT_SECRET": "s3cret", "API": upstream.URL,
	}})
	gatewaytest.CheckAnswer(t, g.Post("/orders?page=2", "text/plain", "payload"), 200, "POST /v1/orders?page=2 with token-1 payload")
	upstream.Accepts(func(token string) bool { return token != "token-1" })
	gatewaytest.CheckAnswer(t, g.Get("/orders"), 200, "GET /v1/orders with token-2 ")
	server.WantNoErrors(t)
	upstream.WantNoErrors(t)
}

func testFAPI2DPoP(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	server.Demand("s1")
	key := servertest.Keys()["RSA"].Public()
	grantOnlyToSigner(t, server.TokenServer, key, jose.PS256, server.URL, "client-authentication+jwt", "2026-11")
	authenticate := server.TokenServer.Answer
	var ids []string
	server.SetAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		answer := httptest.NewRecorder()
		authenticate(answer, r, n)
		if strings.HasPrefix(r.URL.Path, "/.well-known/") || answer.Code != 200 {
			w.WriteHeader(answer.Code)
			_, _ = w.Write(answer.Body.Bytes())
			return
		}
		form, _ := url.ParseQuery(server.Recorded()[n-1].Body)
		_, claims := servertest.OpenJWT(t, form.Get("client_assertion"), key)
		ids = append(ids, fmt.Sprint(claims["jti"]))
		if code, _ := server.Check(w, r, server.URL+"/token", ""); code != "" {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error":%q}`, code)
			return
		}
		_, _ = io.WriteString(w, strings.Replace(answer.Body.String(), "Bearer", "DPoP", 1))
	})
	g := startExample(t, "fapi2-dpop", exampleRun{env: map[string]string{
		"ISSUER": server.URL, "KEY_FILE": exampleKey(t, "RSA"), "API": upstream.URL,
	}})
	if a := g.Get("/accounts"); a.Status != 200 {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
	server.WantNoErrors(t)
	upstream.WantNoErrors(t)
	if len(ids) != 2 || ids[0] == ids[1] {
		t.Errorf("the assertions %v, want another one with the nonce", ids)
	}
}

// certificateServer is an authorization server that knows its client by a certificate, and
// an API that takes tokens from whoever comes with the certificate that they are bound to.
type certificateServer struct {
	ca        *servertest.CA
	mtls, api *httptest.Server
	plain     *httptest.Server // metadata alone

	mu    sync.Mutex
	bound map[string]string // the certificate's x5t#S256, by token
	forms []url.Values
}

func startCertificateServer(t testing.TB) *certificateServer {
	s := &certificateServer{ca: servertest.NewCA(t), bound: make(map[string]string)}
	s.mtls = s.ca.StartForClients(t, http.HandlerFunc(s.serveToken))
	s.api = s.ca.StartForClients(t, http.HandlerFunc(s.serveAPI))
	s.plain = s.ca.Start(t, s.ca.Server(t, "127.0.0.1", time.Now().Add(time.Hour)), http.HandlerFunc(s.serveMetadata), tls.NoClientCert)
	return s
}

// serveMetadata names another endpoint for clients that have no certificate.
func (s *certificateServer) serveMetadata(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/.well-known/oauth-authorization-server" {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	fmt.Fprintf(w, `{"issuer":%q,"token_endpoint":%q,"mtls_endpoint_aliases":{"token_endpoint":%q}}`, s.plain.URL, s.plain.URL+"/token", s.mtls.URL+"/token")
}

func thumbprintOf(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (s *certificateServer) serveToken(w http.ResponseWriter, r *http.Request) {
	certificate := r.TLS.PeerCertificates[0]
	_ = r.ParseForm()
	if certificate.Subject.CommonName != r.PostForm.Get("client_id") {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	token := fmt.Sprintf("bound-%d", len(s.bound)+1)
	s.bound[token] = thumbprintOf(certificate)
	s.forms = append(s.forms, r.PostForm)
	fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, token)
}

func (s *certificateServer) serveAPI(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if bound := s.bound[gatewaytest.Bearer(r)]; bound == "" || bound != thumbprintOf(r.TLS.PeerCertificates[0]) {
		gatewaytest.RejectToken(w)
		return
	}
	_, _ = io.WriteString(w, gatewaytest.Bearer(r))
}

// revoke has the API reject the tokens of so far.
func (s *certificateServer) revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for token := range s.bound {
		s.bound[token] = "revoked"
	}
}

func testMutualTLS(t *testing.T, example string) {
	server := startCertificateServer(t)
	start := func(certificate, key string) *gatewaytest.Gateway {
		return startExample(t, example, exampleRun{trust: server.ca.Certificate, env: map[string]string{
			"ISSUER": server.plain.URL, "API": server.api.URL, "CERTIFICATE_FILE": certificate, "KEY_FILE": key, "CA_FILE": server.ca.File(t),
		}})
	}
	g := start(server.ca.Client(t, "gateway"))
	gatewaytest.CheckAnswer(t, g.Get("/accounts"), 200, "bound-1")
	server.revoke()
	gatewaytest.CheckAnswer(t, g.Get("/accounts"), 200, "bound-2")
	form := server.forms[0]
	if form.Has("client_secret") || form.Get("client_id") != "gateway" {
		t.Errorf("sent %v", form)
	}
	if example == "fapi2-mutual-tls" && form.Get("authorization_details") != `[{"type":"account_information"}]` {
		t.Errorf("sent %v", form)
	}

	// A certificate of somebody else's: refused, and the log says what to look at.
	g = start(server.ca.Client(t, "somebody"))
	gatewaytest.CheckAnswer(t, g.Get("/accounts"), 502, "")
	told := g.Logs.With("no token obtained")
	if len(told) != 1 || told[0]["error"] != "invalid_client" || !strings.Contains(fmt.Sprint(told[0]["hint"]), "the client certificate was not accepted for this client_id") {
		t.Errorf("logged %v", told)
	}
}
