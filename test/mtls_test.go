package servers

import (
	"net/http"
	"path/filepath"
	"testing"
)

// The certificate is what the client authenticates with, or what its tokens are bound
// to while it authenticates in another way. It is the one that the API sees.
func TestMutualTLS(t *testing.T) {
	secure := oidcProvider.issuers[secureIssuer]
	testSites(t,
		site{name: "tls_client_auth", issuer: secure, client: tlsClient},
		site{name: "tls_client_auth, JWT", issuer: secure, client: tlsClient, resource: orders},
		site{name: "private_key_jwt", issuer: secure, client: boundES256Client},
		site{name: "private_key_jwt, JWT", issuer: secure, client: boundES256Client, resource: orders},
		site{name: "basic", issuer: secure, client: boundBasicClient},
		site{name: "basic, JWT", issuer: secure, client: boundBasicClient, resource: orders},
	)
}

func TestCertificateOfAnotherClientIsRefused(t *testing.T) {
	impostor := *tlsClient
	impostor.certificate = boundBasicClient.certificate
	startSites(t, site{issuer: oidcProvider.issuers[secureIssuer], client: &impostor})[0].wantRefusal(t)
}

// A token that is bound to a certificate is worth nothing to others. It's what keeps
// the tests of this file from passing without that.
func TestCertificateBoundTokenIsNoBearerToken(t *testing.T) {
	for _, resource := range []string{"", orders} {
		s := startSites(t, site{issuer: oidcProvider.issuers[secureIssuer], client: boundBasicClient, resource: resource})[0]
		s.request(t, http.MethodGet, "")
		thief, err := ca.issue("thief")
		if err != nil {
			t.Fatal(err)
		}
		for name, test := range map[string]struct {
			certificate *certificate
			status      int
		}{
			"the client": {boundBasicClient.certificate, http.StatusOK},
			"the thief":  {thief, http.StatusUnauthorized},
		} {
			if got := s.api.call(t, test.certificate, "Bearer "+s.api.lastToken(), ""); got != test.status {
				t.Errorf("%s got %d from the API, want %d", name, got, test.status)
			}
		}
	}
}

// When the certificate is renewed in its file, tokens that are bound to the one before
// are worth nothing any more.
func TestRenewedCertificate(t *testing.T) {
	dir := t.TempDir()
	write := func() *certificate {
		c, err := ca.issue(tlsClient.id)
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{"tls.crt": c.pem, "tls.key": c.keyPEM} {
			if _, err := writeFile(dir, name, content); err != nil {
				t.Fatal(err)
			}
		}
		c.certFile, c.keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
		return c
	}
	for name, resource := range map[string]string{"opaque": "", "JWT": orders} {
		t.Run(name, func(t *testing.T) {
			c := *tlsClient
			c.certificate = write()
			s := startSites(t, site{issuer: oidcProvider.issuers[secureIssuer], client: &c, resource: resource})[0]
			s.request(t, http.MethodPost, "An order.")
			write()
			s.g.reload(t)
			s.request(t, http.MethodPost, "An order.")
			if n := s.api.tokens(); n != 2 {
				t.Errorf("the API got %d tokens, want 2", n)
			}
		})
	}
}

// call sends a request to the API past the gateway, and returns the status.
func (a *protectedAPI) call(t *testing.T, certificate *certificate, authorization, proof string) int {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, a.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", authorization)
	if proof != "" {
		req.Header.Set("DPoP", proof)
	}
	client := newClient()
	if certificate != nil {
		client = newClient(certificate.Certificate)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}
