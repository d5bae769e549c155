package servers

import (
	"crypto/tls"
	"net/http"
	"testing"
)

// The certificate that a client has at the authorization server is the one that it
// shows to the API. This needs nothing but the transports of both.
func TestCertificateBoundTokens(t *testing.T) {
	plain := oidcProvider.issuers[plainIssuer]
	testSites(t,
		site{name: "basic", issuer: plain, client: boundBasicClient},
		site{name: "basic, JWT", issuer: plain, client: boundBasicClient, resource: orders},
	)
}

// A token that is bound to a certificate is worth nothing to others. It's what keeps
// the tests of this file from passing without that.
func TestCertificateBoundTokenIsNoBearerToken(t *testing.T) {
	for _, resource := range []string{"", orders} {
		s := startSites(t, site{issuer: oidcProvider.issuers[plainIssuer], client: boundBasicClient, resource: resource})[0]
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
	transport := &http.Transport{DisableKeepAlives: true}
	if certificate != nil {
		transport.TLSClientConfig = &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{certificate.Certificate}}
	}
	res, err := (&http.Client{Transport: transport, Timeout: patience}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}
