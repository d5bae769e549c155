package servers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// usesPerNonce makes the API replace its nonces all the time.
const usesPerNonce = 3

func TestDPoP(t *testing.T) {
	plain, nonces := oidcProvider.issuers[plainIssuer], oidcProvider.issuers[noncesIssuer]
	testSites(t,
		site{name: "basic", issuer: plain, client: dpopBasicClient},
		site{name: "basic, nonces at the API", issuer: plain, client: dpopBasicClient, apiNonces: usesPerNonce, options: "scope orders:write"},
		site{name: "basic, nonces at the server", issuer: nonces, client: dpopBasicClient},
		site{name: "basic, JWT, nonces at both", issuer: nonces, client: dpopBasicClient, apiNonces: usesPerNonce, resource: orders},
		site{name: "private_key_jwt", issuer: plain, client: dpopPS256Client},
		site{name: "private_key_jwt, nonces at both", issuer: nonces, client: dpopPS256Client, apiNonces: usesPerNonce},
	)
}

// As the FAPI 2.0 Security Profile has it: discovery, assertions for the issuer, tokens
// that are bound to a key or a certificate, and nonces wherever they can be required.
func TestFAPI(t *testing.T) {
	fapi := oidcProvider.issuers[fapiIssuer]
	testSites(t,
		site{name: "DPoP", issuer: fapi, client: dpopPS256Client, discover: true, apiNonces: usesPerNonce},
		site{name: "DPoP, JWT", issuer: fapi, client: dpopPS256Client, discover: true, apiNonces: usesPerNonce, resource: orders},
		site{name: "certificate", issuer: fapi, client: boundES256Client, discover: true},
		site{name: "certificate, JWT", issuer: fapi, client: boundES256Client, discover: true, resource: orders},
	)
}

// The API replaces its nonces all the time, by a response of either kind, and no
// client notices.
func TestRotatingNonces(t *testing.T) {
	s := startSites(t, site{issuer: oidcProvider.issuers[noncesIssuer], client: dpopBasicClient, apiNonces: usesPerNonce})[0]
	for range 4 * usesPerNonce {
		s.request(t, http.MethodPost, "An order.")
	}
	// To the first request, and then to every second nonce that is replaced.
	if got, want := s.api.proofs.timesAsked(), 3; got > want {
		t.Errorf("the API had to ask %d times for another nonce, want %d", got, want)
	}
	if n := s.api.tokens(); n != 1 {
		t.Errorf("%d tokens, want 1: the token was not at fault", n)
	}
}

// A revoked token and a nonce that is not accepted any more cost a request two more
// attempts, in whichever order the API looks at them, and three where it takes a nonce
// only once.
func TestTokenAndNonceAreReplacedForOneRequest(t *testing.T) {
	for _, test := range []struct {
		name         string
		nonceFirst   bool
		usesPerNonce int
		refusals     int
	}{
		{"the token first", false, 1000, 2},
		{"the nonce first", true, 1000, 2},
		{"the nonce first, and once", true, 1, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := startSites(t, site{issuer: oidcProvider.issuers[noncesIssuer], client: dpopBasicClient, apiNonces: test.usesPerNonce})[0]
			s.api.nonceFirst = test.nonceFirst
			s.request(t, http.MethodPost, "An order.")
			s.api.proofs.renewNonce()
			s.issuer.revoke(t, s.api.lastToken())
			before := len(s.api.refused())
			s.request(t, http.MethodPost, "Another order.")
			if refusals := s.api.refused()[before:]; len(refusals) != test.refusals {
				t.Errorf("the API refused %q, want %d refusals", refusals, test.refusals)
			}
		})
	}
}

func TestFirstRequestsAtOnceLearnTheNonce(t *testing.T) {
	s := startSites(t, site{issuer: oidcProvider.issuers[noncesIssuer], client: dpopPS256Client, apiNonces: 1000})[0]
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			if status, _, err := s.g.send(0, http.MethodPost, path, "An order."); err != nil || status != http.StatusOK {
				t.Errorf("got %d, %v", status, err)
			}
		})
	}
	wait.Wait()
	if n := s.api.tokens(); n != 1 {
		t.Errorf("%d tokens, want 1", n)
	}
}

// The token is kept over a reload, and so is the key that it is bound to.
func TestReloadKeepsTheProofKey(t *testing.T) {
	s := startSites(t, site{issuer: oidcProvider.issuers[noncesIssuer], client: dpopBasicClient, apiNonces: usesPerNonce})[0]
	for range 3 {
		s.request(t, http.MethodGet, "")
		s.g.reload(t)
	}
	s.request(t, http.MethodGet, "")
	if n := s.api.tokens(); n != 1 {
		t.Errorf("%d tokens, want 1", n)
	}
}

// A proof is for the request that the API gets.
func TestProofIsForTheRewrittenRequest(t *testing.T) {
	s := startSites(t, site{
		issuer: oidcProvider.issuers[secureIssuer], client: dpopBasicClient,
		before: "uri strip_prefix /shop\nuri path_regexp ^/ /v1/",
	})[0]
	status, answer, err := s.g.send(0, http.MethodGet, "/shop"+path, "")
	if want := "GET /v1" + path + " "; err != nil || status != http.StatusOK || answer != want {
		t.Errorf("got %d %q, %v; want %q", status, answer, err, want)
	}
}

// A token that is bound to a key is worth nothing to others. It's what keeps the tests
// of this file from passing without that.
func TestDPoPTokenIsNoBearerToken(t *testing.T) {
	s := startSites(t, site{issuer: oidcProvider.issuers[plainIssuer], client: dpopBasicClient})[0]
	s.request(t, http.MethodGet, "")
	token, proof := s.api.lastToken(), s.api.proofs.lastProof()
	for _, test := range []struct{ name, scheme, proof, reason string }{
		{"as a Bearer token", "Bearer ", "", "no token"},
		{"without a proof", "DPoP ", "", "0 proofs"},
		{"with a proof that was used", "DPoP ", proof, "jti was used before"},
		{"with something that is none", "DPoP ", "a.b.c", "invalid_dpop_proof"},
		{"with somebody else's new one", "DPoP ", foreignProof(t, s.api.URL+path, token), "another key"},
	} {
		status := s.api.call(t, nil, test.scheme+token, test.proof)
		refusals := s.api.refused()
		if status != http.StatusUnauthorized || !strings.Contains(refusals[len(refusals)-1], test.reason) {
			t.Errorf("%s: the API answers %d, by %q; want 401 by %q", test.name, status, refusals, test.reason)
		}
	}
}

// foreignProof is a good proof for a request, but for its key.
func foreignProof(t *testing.T, target, token string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key},
		(&jose.SignerOptions{EmbedJWK: true}).WithType("dpop+jwt"))
	if err != nil {
		t.Fatal(err)
	}
	htu, _, _ := strings.Cut(target, "?")
	claims, err := json.Marshal(proofClaims{JTI: rand.Text(), Method: http.MethodGet, URL: htu, Issued: time.Now().Unix(), Hash: hash(token)})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return proof
}
