package oauthcc

import (
	"crypto"
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

// verifiedProof is what a proof says that has been verified.
type verifiedProof struct {
	proofClaims
	key string // by its thumbprint
}

// verifyProof does what RFC 9449 §4.3 asks of a server, but for the nonce.
func verifyProof(r *http.Request, target, token string) (verifiedProof, error) {
	var v verifiedProof
	lines := r.Header[proofHeader]
	if len(lines) != 1 {
		return v, fmt.Errorf("%d proofs", len(lines))
	}
	parsed, err := jose.ParseSigned(lines[0], []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return v, err
	}
	header := parsed.Signatures[0].Protected
	if header.ExtraHeaders[jose.HeaderType] != "dpop+jwt" || header.JSONWebKey == nil || !header.JSONWebKey.IsPublic() {
		return v, fmt.Errorf("the header is %+v", header)
	}
	payload, err := parsed.Verify(header.JSONWebKey)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(payload, &v.proofClaims); err != nil {
		return v, err
	}
	thumbprint, err := header.JSONWebKey.Thumbprint(crypto.SHA256)
	if err != nil {
		return v, err
	}
	v.key = base64.RawURLEncoding.EncodeToString(thumbprint)
	hash := ""
	if token != "" {
		hash = hashToken(token)
	}
	age := time.Since(time.Unix(v.IssuedAt, 0))
	switch {
	case v.Method != r.Method:
		return v, fmt.Errorf("htm is %s", v.Method)
	case v.Target != target:
		return v, fmt.Errorf("htu is %s, want %s", v.Target, target)
	case v.TokenHash != hash:
		return v, fmt.Errorf("ath is %q", v.TokenHash)
	case age < -time.Second || age > 5*time.Second:
		return v, fmt.Errorf("iat is %d", v.IssuedAt)
	case len(v.ID) < 20:
		return v, errors.New("a jti that can be guessed")
	}
	return v, nil
}

// proofChecker verifies the proofs that one server gets.
type proofChecker struct {
	mu     sync.Mutex
	nonce  string // that it wants, if any
	offer  string // that it gives with its answers, if it wants none
	used   map[string]bool
	proofs []verifiedProof
	errors []error
}

// check returns the error code for a request, and its proof.
func (c *proofChecker) check(w http.ResponseWriter, r *http.Request, target, token string) (string, verifiedProof) {
	c.mu.Lock()
	defer c.mu.Unlock()
	proof, err := verifyProof(r, target, token)
	if err == nil && c.used[proof.ID] {
		err = errors.New("the proof was used before")
	}
	if err != nil {
		c.errors = append(c.errors, err)
		return "invalid_dpop_proof", proof
	}
	if c.used == nil {
		c.used = make(map[string]bool)
	}
	c.used[proof.ID] = true
	c.proofs = append(c.proofs, proof)
	if c.nonce == "" && c.offer != "" {
		w.Header().Set("DPoP-Nonce", c.offer)
	}
	if c.nonce != "" {
		w.Header().Set("DPoP-Nonce", c.nonce)
		if proof.Nonce != c.nonce {
			return "use_dpop_nonce", proof
		}
	}
	return "", proof
}

// demand has the server want that nonce from now on.
func (c *proofChecker) demand(nonce string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nonce = nonce
}

// nonces lists those of the proofs in the order in which they came; a dot for none.
func (c *proofChecker) nonces() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for _, proof := range c.proofs {
		if proof.Nonce == "" {
			proof.Nonce = "."
		}
		list = append(list, proof.Nonce)
	}
	return strings.Join(list, " ")
}

func (c *proofChecker) wantNoErrors(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, err := range c.errors {
		t.Errorf("a proof was refused: %v", err)
	}
}

// bindingServer is a token endpoint that binds its tokens to the key of the proof.
type bindingServer struct {
	*tokenServer
	proofChecker
}

func startBindingServer(t testing.TB) *bindingServer {
	s := &bindingServer{tokenServer: startTokenServer(t)}
	s.setAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if code, _ := s.check(w, r, s.URL+"/token", ""); code != "" {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error":%q}`, code)
			return
		}
		s.grantBound(w)
	})
	return s
}

// grantBound answers with a new token that is bound.
func (s *bindingServer) grantBound(w http.ResponseWriter) {
	answer := httptest.NewRecorder()
	s.grant(answer)
	_, _ = io.WriteString(w, strings.Replace(answer.Body.String(), "Bearer", "DPoP", 1))
}

// boundAPI accepts tokens with a proof for its origin.
type boundAPI struct {
	*httptest.Server
	proofChecker
	origin string

	state    sync.Mutex
	accepted func(token string) bool // nil: all
	attempts []string                // what became of each request
	header   http.Header             // of the last request that was accepted
}

func startBoundAPI(t testing.TB) *boundAPI {
	a := &boundAPI{}
	a.Server = startScriptedAPI(t, a.serve)
	a.origin = a.URL
	return a
}

func (a *boundAPI) serve(w http.ResponseWriter, r *http.Request) {
	token, isBound := strings.CutPrefix(r.Header.Get("Authorization"), "DPoP ")
	code, _ := a.check(w, r, proofTarget(a.origin, r.URL), token)
	a.state.Lock()
	accepted := a.accepted
	a.state.Unlock()
	switch {
	case !isBound || len(r.Header["Authorization"]) != 1:
		code = "invalid_request"
	case code == "" && accepted != nil && !accepted(token):
		code = "invalid_token"
	}
	a.state.Lock()
	a.attempts = append(a.attempts, strings.TrimSpace(token+" "+code))
	if code == "" {
		a.header = r.Header.Clone()
	}
	a.state.Unlock()
	if code != "" {
		w.Header().Add("WWW-Authenticate", `Bearer realm="api"`)
		w.Header().Add("WWW-Authenticate", fmt.Sprintf(`DPoP realm="api", error=%q, algs="ES256"`, code))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%s %s with %s %s", r.Method, r.URL.RequestURI(), token, body)
}

func (a *boundAPI) accepts(accepted func(token string) bool) {
	a.state.Lock()
	defer a.state.Unlock()
	a.accepted = accepted
}

// log lists what became of each request, and forgets it.
func (a *boundAPI) log() string {
	a.state.Lock()
	defer a.state.Unlock()
	list := strings.Join(a.attempts, ", ")
	a.attempts = nil
	return list
}

// options are those of a gateway between the two.
func boundOptions(server *bindingServer, upstream *boundAPI, more ...string) string {
	return server.options(slices.Concat([]string{"dpop " + upstream.origin}, more)...) + proxyTo(upstream.Server, dialAnew)
}
