package servers

import (
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// protectedAPI is an API that takes the tokens of one client at one authorization
// server. It verifies JWTs with the server's keys, has the server tell whether a
// token is good where it can, and checks what the token is bound to.
type protectedAPI struct {
	*httptest.Server
	issuer   *issuer
	client   *client
	audience string // of the tokens, which are JWTs that the server knows nothing of
	jwt      bool   // they are JWTs, and the server knows them

	proofs     *proofChecker // for a client that uses DPoP
	nonceFirst bool          // the nonce is looked at before the token

	mu       sync.Mutex
	accepted []string // tokens, each once, in the order of their first use
	last     string   // the token that was accepted last
	refusals []string // why tokens were not accepted
}

func startAPI(t testing.TB, s site) *protectedAPI {
	a := &protectedAPI{issuer: s.issuer, client: s.client, audience: s.resource, jwt: s.jwt}
	a.Server = httptest.NewUnstartedServer(a)
	if s.client.dpop {
		a.proofs = &proofChecker{seen: make(map[string]bool), usesPerNonce: s.apiNonces}
	}
	if s.client.certificate == nil {
		a.Start()
	} else {
		certificate, err := ca.issue("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		a.TLS = &tls.Config{
			Certificates: []tls.Certificate{certificate.Certificate},
			ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: ca.pool,
		}
		a.StartTLS()
	}
	t.Cleanup(func() {
		a.Close()
		if refusals := a.refused(); t.Failed() && len(refusals) > 0 {
			t.Logf("the API of %s refused requests: %q", s.client.id, refusals)
		}
	})
	return a
}

func (a *protectedAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, err := a.authorize(r)
	if a.proofs != nil && (err == nil || a.nonceFirst) {
		err = cmp.Or(a.proofs.checkNonce(w, r), err)
	}
	if err != nil {
		a.refuse(w, err)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "incomplete body: "+err.Error(), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	if a.last = token; !slices.Contains(a.accepted, token) {
		a.accepted = append(a.accepted, token)
	}
	a.mu.Unlock()
	_, _ = fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), body) // the client sees that it is cut off
}

// refuse answers as RFC 6750 §3 and RFC 9449 §7.1 say.
func (a *protectedAPI) refuse(w http.ResponseWriter, err error) {
	a.mu.Lock()
	a.refusals = append(a.refusals, err.Error())
	a.mu.Unlock()
	scheme, code := "Bearer", "invalid_token"
	if a.proofs != nil {
		scheme = "DPoP"
	}
	if proof, ok := errors.AsType[*proofError](err); ok {
		code = proof.code
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf("%s error=%q", scheme, code))
	http.Error(w, "refused", http.StatusUnauthorized)
}

// authorize finds out whether a request comes with a good token, and who sends it.
func (a *protectedAPI) authorize(r *http.Request) (token string, err error) {
	scheme := "Bearer "
	if a.proofs != nil {
		scheme = "DPoP "
	}
	authorization := r.Header.Values("Authorization")
	if len(authorization) != 1 || !strings.HasPrefix(authorization[0], scheme) {
		return "", fmt.Errorf("the request has no token, or several, or not as %s", scheme)
	}
	token = strings.TrimPrefix(authorization[0], scheme)
	info, err := a.inspect(token)
	switch {
	case err != nil:
		return "", err
	case !info.Active:
		return "", errInactive
	case info.ClientID != a.client.id:
		return "", fmt.Errorf("the token is that of the client %q", info.ClientID)
	case info.Issuer != "" && info.Issuer != a.issuer.Issuer:
		return "", fmt.Errorf("the token is issued by %q", info.Issuer)
	case a.audience != "" && !slices.Contains(info.Audience, a.audience):
		return "", fmt.Errorf("the token is for %q", info.Audience)
	case (info.Confirmation.JKT != "") != a.client.dpop, (info.Confirmation.X5T != "") != (a.client.certificate != nil):
		return "", fmt.Errorf("the token is bound to %+v", info.Confirmation)
	case info.Confirmation.X5T != "" && info.Confirmation.X5T != presentedX5T(r):
		return "", errors.New("the token is bound to another certificate")
	case a.proofs != nil:
		return token, a.proofs.check(r, a.URL, token, info.Confirmation.JKT)
	}
	return token, nil
}

var errInactive = errors.New("the token is expired or revoked")

func (a *protectedAPI) inspect(token string) (tokenInfo, error) {
	if a.jwt || a.audience != "" {
		info, err := a.issuer.verifyJWT(token)
		if err != nil || a.audience != "" {
			return info, err
		}
	}
	return a.issuer.introspect(token)
}

// accepts reports whether a token is good in itself.
func (a *protectedAPI) accepts(token string) bool {
	info, err := a.inspect(token)
	return err == nil && info.Active
}

// presentedX5T is RFC 8705 §3.1's thumbprint of the connection's certificate.
func presentedX5T(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	return hash(string(r.TLS.PeerCertificates[0].Raw))
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// lastToken is the token that was accepted last.
func (a *protectedAPI) lastToken() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// tokens counts the tokens that were accepted.
func (a *protectedAPI) tokens() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.accepted)
}

func (a *protectedAPI) refused() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.refusals)
}

// proofChecker verifies DPoP proofs, as RFC 9449 §4.3 says.
type proofChecker struct {
	usesPerNonce int // after which another one is required; without, none is

	mu      sync.Mutex
	seen    map[string]bool // values of jti
	nonce   string          // that proofs must have
	uses    int             // how often it has been used
	renewed int             // how many there have been
	asked   int             // how often a client was told to use another one
	last    string          // the proof that was verified last
}

// proofError is what is wrong with a proof.
type proofError struct{ code, text string }

func (e *proofError) Error() string { return e.code + ": " + e.text }

type proofClaims struct {
	JTI    string `json:"jti"`
	Method string `json:"htm"`
	URL    string `json:"htu"`
	Issued int64  `json:"iat"`
	Hash   string `json:"ath"`
	Nonce  string `json:"nonce"`
}

var proofAlgorithms = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.PS256, jose.RS256, jose.EdDSA}

// check verifies all of a proof but the nonce.
func (c *proofChecker) check(r *http.Request, origin, token, thumbprint string) error {
	claims, key, err := parseProof(r)
	if err != nil {
		return &proofError{"invalid_dpop_proof", err.Error()}
	}
	bad := func(format string, values ...any) error {
		return &proofError{"invalid_dpop_proof", fmt.Sprintf(format, values...)}
	}
	switch jkt, err := key.Thumbprint(crypto.SHA256); {
	case err != nil:
		return bad("thumbprint: %v", err)
	case base64.RawURLEncoding.EncodeToString(jkt) != thumbprint:
		return bad("the token is bound to another key")
	case claims.Method != r.Method:
		return bad("htm is %q", claims.Method)
	case claims.URL != origin+r.URL.EscapedPath():
		return bad("htu is %q", claims.URL)
	case time.Since(time.Unix(claims.Issued, 0)).Abs() > time.Minute:
		return bad("iat is %d", claims.Issued)
	case claims.Hash != hash(token):
		return bad("ath is %q", claims.Hash)
	case claims.JTI == "":
		return bad("there is no jti")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen[claims.JTI] {
		return bad("jti was used before")
	}
	c.seen[claims.JTI] = true
	c.last = r.Header.Get("DPoP")
	return nil
}

// parseProof verifies the signature of the request's proof.
func parseProof(r *http.Request) (claims proofClaims, key *jose.JSONWebKey, err error) {
	proofs := r.Header.Values("DPoP")
	if len(proofs) != 1 {
		return claims, nil, fmt.Errorf("there are %d proofs", len(proofs))
	}
	signed, err := jose.ParseSignedCompact(proofs[0], proofAlgorithms)
	if err != nil {
		return claims, nil, err
	}
	header := signed.Signatures[0].Protected
	if typ := header.ExtraHeaders[jose.HeaderType]; typ != "dpop+jwt" {
		return claims, nil, fmt.Errorf("typ is %q", typ)
	}
	key = header.JSONWebKey
	if key == nil || !key.Valid() || !key.IsPublic() {
		return claims, nil, errors.New("jwk is no public key")
	}
	payload, err := signed.Verify(key)
	if err != nil {
		return claims, nil, err
	}
	return claims, key, json.Unmarshal(payload, &claims)
}

// checkNonce requires the nonce of the moment. Every other one is announced before it
// is required; of the rest the client learns when a request is refused for it.
func (c *proofChecker) checkNonce(w http.ResponseWriter, r *http.Request) error {
	if c.usesPerNonce == 0 {
		return nil
	}
	claims, _, err := parseProof(r)
	if err != nil {
		return &proofError{"invalid_dpop_proof", err.Error()}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nonce == "" || claims.Nonce != c.nonce {
		if c.nonce == "" {
			c.nonce = rand.Text()
		}
		c.asked++
		w.Header().Set("DPoP-Nonce", c.nonce)
		return &proofError{"use_dpop_nonce", fmt.Sprintf("the nonce is %q", claims.Nonce)}
	}
	if c.uses++; c.uses%c.usesPerNonce == 0 {
		c.nonce = rand.Text()
		if c.renewed++; c.renewed%2 == 1 {
			w.Header().Set("DPoP-Nonce", c.nonce)
		}
	}
	return nil
}

// renewNonce requires another nonce, of which nobody knows yet.
func (c *proofChecker) renewNonce() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nonce = rand.Text()
}

// timesAsked is how often a client was told to use another nonce.
func (c *proofChecker) timesAsked() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

// lastProof is the proof that was verified last.
func (c *proofChecker) lastProof() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}
