package gatewaytest

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

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/dpop"
)

// VerifiedProof is what a proof says that has been verified.
type VerifiedProof struct {
	ID        string `json:"jti"`
	Method    string `json:"htm"`
	Target    string `json:"htu"`
	IssuedAt  int64  `json:"iat"`
	TokenHash string `json:"ath"`
	Nonce     string `json:"nonce"`

	Key string // by its thumbprint
}

// VerifyProof does what RFC 9449 §4.3 asks of a server, but for the nonce.
func VerifyProof(r *http.Request, target, token string) (VerifiedProof, error) {
	var v VerifiedProof
	lines := r.Header[dpop.Header]
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
	if err := json.Unmarshal(payload, &v); err != nil {
		return v, err
	}
	thumbprint, err := header.JSONWebKey.Thumbprint(crypto.SHA256)
	if err != nil {
		return v, err
	}
	v.Key = base64.RawURLEncoding.EncodeToString(thumbprint)
	hash := ""
	if token != "" {
		hash = dpop.HashToken(token)
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

// ProofChecker verifies the proofs that one server gets.
type ProofChecker struct {
	mu     sync.Mutex
	nonce  string // that it wants, if any
	Offer  string // that it gives with its answers, if it wants none
	used   map[string]bool
	Proofs []VerifiedProof
	errors []error
}

// Check returns the error code for a request, and its proof.
func (c *ProofChecker) Check(w http.ResponseWriter, r *http.Request, target, token string) (string, VerifiedProof) {
	c.mu.Lock()
	defer c.mu.Unlock()
	proof, err := VerifyProof(r, target, token)
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
	c.Proofs = append(c.Proofs, proof)
	if c.nonce == "" && c.Offer != "" {
		w.Header().Set("DPoP-Nonce", c.Offer)
	}
	if c.nonce != "" {
		w.Header().Set("DPoP-Nonce", c.nonce)
		if proof.Nonce != c.nonce {
			return "use_dpop_nonce", proof
		}
	}
	return "", proof
}

// Demand has the server want that nonce from now on.
func (c *ProofChecker) Demand(nonce string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nonce = nonce
}

// Nonces lists those of the proofs in the order in which they came; a dot for none.
func (c *ProofChecker) Nonces() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for _, proof := range c.Proofs {
		if proof.Nonce == "" {
			proof.Nonce = "."
		}
		list = append(list, proof.Nonce)
	}
	return strings.Join(list, " ")
}

func (c *ProofChecker) WantNoErrors(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, err := range c.errors {
		t.Errorf("a proof was refused: %v", err)
	}
}

// BindingServer is a token endpoint that binds its tokens to the key of the proof.
type BindingServer struct {
	*TokenServer
	ProofChecker
}

func StartBindingServer(t testing.TB) *BindingServer {
	s := &BindingServer{TokenServer: StartTokenServer(t)}
	s.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if code, _ := s.Check(w, r, s.URL+"/token", ""); code != "" {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error":%q}`, code)
			return
		}
		s.GrantBound(w)
	})
	return s
}

// GrantBound answers with a new token that is bound.
func (s *BindingServer) GrantBound(w http.ResponseWriter) {
	answer := httptest.NewRecorder()
	s.Grant(answer)
	_, _ = io.WriteString(w, strings.Replace(answer.Body.String(), "Bearer", "DPoP", 1))
}

// BoundAPI accepts tokens with a proof for its origin.
type BoundAPI struct {
	*httptest.Server
	ProofChecker
	Origin string

	state    sync.Mutex
	accepted func(token string) bool // nil: all
	attempts []string                // what became of each request
	header   http.Header             // of the last request that was accepted
}

func StartBoundAPI(t testing.TB) *BoundAPI {
	a := &BoundAPI{}
	a.Server = StartScriptedAPI(t, a.Serve)
	a.Origin = a.URL
	return a
}

func (a *BoundAPI) Serve(w http.ResponseWriter, r *http.Request) {
	token, isBound := strings.CutPrefix(r.Header.Get("Authorization"), "DPoP ")
	code, _ := a.Check(w, r, dpop.Target(a.Origin, r.URL), token)
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

func (a *BoundAPI) Accepts(accepted func(token string) bool) {
	a.state.Lock()
	defer a.state.Unlock()
	a.accepted = accepted
}

// Log lists what became of each request, and forgets it.
func (a *BoundAPI) Log() string {
	a.state.Lock()
	defer a.state.Unlock()
	list := strings.Join(a.attempts, ", ")
	a.attempts = nil
	return list
}

// BoundOptions are those of a gateway between the two.
func BoundOptions(server *BindingServer, upstream *BoundAPI, more ...string) string {
	return server.Options(slices.Concat([]string{"dpop " + upstream.Origin}, more)...) + ProxyTo(upstream.Server)
}
