package oauthcc

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/go-jose/go-jose/v4"
)

// The header fields of RFC 9449 §4.1 and §8, as net/http writes them.
const (
	proofHeader = "Dpop"
	nonceHeader = "Dpop-Nonce"
)

const (
	// maxNonce is the longest nonce that is kept, in bytes.
	maxNonce = 1 << 10

	// maxNonceOrigins bounds for how many origins nonces are kept.
	maxNonceOrigins = 1000
)

// proofKey is the key that tokens are bound to, one for the process: P-256, made when the
// first configuration needs it and never written anywhere.
type proofKey struct {
	signer     jose.Signer
	thumbprint string // RFC 7638; the server's name for the key

	// The last nonces of both sides, which are not interchangeable (RFC 9449 §9).
	servers, resources nonces
}

// proofKeys holds the key as long as a configuration uses it, as tokens are bound to it
// that survive a reload.
var proofKeys = caddy.NewUsagePool()

// proofKeyName is the key's name in the pool.
const proofKeyName = "dpop"

func acquireProofKey() (*proofKey, error) {
	value, _, err := proofKeys.LoadOrNew(proofKeyName, func() (caddy.Destructor, error) { return newProofKey() })
	if err != nil {
		return nil, err
	}
	return value.(*proofKey), nil
}

func releaseProofKey() error {
	_, err := proofKeys.Delete(proofKeyName)
	return err
}

func newProofKey() (*proofKey, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return proofKeyOf(private)
}

func proofKeyOf(private *ecdsa.PrivateKey) (*proofKey, error) {
	public := jose.JSONWebKey{Key: private.Public()}
	thumbprint, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	jwk, err := public.MarshalJSON() // once, and not for each proof
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: private},
		new(jose.SignerOptions).WithType("dpop+jwt").WithHeader("jwk", json.RawMessage(jwk)))
	if err != nil {
		return nil, err
	}
	return &proofKey{signer: signer, thumbprint: base64.RawURLEncoding.EncodeToString(thumbprint)}, nil
}

// Destruct implements caddy.Destructor.
func (*proofKey) Destruct() error { return nil }

// name is the thumbprint, or empty without a key.
func (k *proofKey) name() string {
	if k == nil {
		return ""
	}
	return k.thumbprint
}

// proofClaims are those of RFC 9449 §4.2.
type proofClaims struct {
	ID        string `json:"jti"`
	Method    string `json:"htm"`
	Target    string `json:"htu"`
	IssuedAt  int64  `json:"iat"`
	TokenHash string `json:"ath,omitempty"`
	Nonce     string `json:"nonce,omitempty"`
}

// prove makes the proof for one request. tokenHash is empty for a token request, and nonce
// as long as there is none.
func (k *proofKey) prove(method, target, tokenHash, nonce string) (string, error) {
	claims, err := json.Marshal(proofClaims{
		ID: rand.Text(), Method: method, Target: target, IssuedAt: time.Now().Unix(),
		TokenHash: tokenHash, Nonce: nonce,
	})
	if err != nil {
		return "", err
	}
	proof, err := k.signer.Sign(claims)
	if err != nil {
		return "", err
	}
	return proof.CompactSerialize()
}

// hashToken is the ath of a proof (RFC 9449 §4.2).
func hashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// proofTarget is the htu of a proof: without query and fragment (RFC 9449 §4.2).
func proofTarget(origin string, u *url.URL) string {
	path := u.EscapedPath()
	if !strings.HasPrefix(path, "/") {
		return origin + "/" // an empty path, or the asterisk of OPTIONS
	}
	return origin + path
}

// nonce is the last one of an origin (RFC 9449 §8.2).
type nonce struct {
	value atomic.Pointer[string]
}

func (n *nonce) last() string {
	if value := n.value.Load(); value != nil {
		return *value
	}
	return ""
}

// learn keeps the nonce that an answer brings, and returns it, or an empty string.
func (n *nonce) learn(header http.Header) string {
	value := nonceIn(header)
	if value != "" && n.last() != value {
		n.value.Store(&value)
	}
	return value
}

// nonceIn is the nonce that an answer brings, or an empty string.
func nonceIn(header http.Header) string {
	if values := header[nonceHeader]; len(values) > 0 && isNonce(values[0]) {
		return values[0]
	}
	return ""
}

// isNonce applies the grammar of RFC 9449 §8.1.
func isNonce(value string) bool {
	return value != "" && len(value) <= maxNonce &&
		!strings.ContainsFunc(value, func(r rune) bool { return r < '!' || r > '~' || r == '"' || r == '\\' })
}

// nonces are those of one side, by origin.
type nonces struct {
	mu     sync.Mutex
	origin map[string]*nonce
}

func (n *nonces) of(origin string) *nonce {
	n.mu.Lock()
	defer n.mu.Unlock()
	if found := n.origin[origin]; found != nil {
		return found
	}
	if n.origin == nil || len(n.origin) >= maxNonceOrigins {
		n.origin = make(map[string]*nonce) // who loses one is told another
	}
	made := new(nonce)
	n.origin[origin] = made
	return made
}

// proofTransport adds a proof to a token request (RFC 9449 §5), and learns the nonce of
// the answer.
type proofTransport struct {
	next  http.RoundTripper
	key   *proofKey
	nonce string // to use; empty for the last one
}

func (t proofTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	origin := originOf(req.URL)
	nonce := t.key.servers.of(origin)
	proof, err := t.key.prove(req.Method, proofTarget(origin, req.URL), "", cmp.Or(t.nonce, nonce.last()))
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header[proofHeader] = []string{proof}
	res, err := t.next.RoundTrip(req)
	if err == nil {
		nonce.learn(res.Header)
	}
	return res, err
}

// prover makes the proofs for the requests to one upstream (RFC 9449 §7).
type prover struct {
	key    *proofKey
	origin string
	nonce  *nonce

	toldRewritten atomic.Bool
}

// prove adds a proof to a request with a token, for the method and the path that it has
// by now. An empty nonce stands for the last one.
func (p *prover) prove(r *http.Request, tokenHash, nonce string) error {
	proof, err := p.key.prove(proofMethod(r), proofTarget(p.origin, r.URL), tokenHash, cmp.Or(nonce, p.nonce.last()))
	if err != nil {
		return err
	}
	r.Header[proofHeader] = []string{proof}
	return nil
}

// proofMethod is the method that the upstream sees: reverse_proxy turns a WebSocket of
// HTTP/2 and HTTP/3 (RFC 8441, RFC 9220) into one of HTTP/1.1.
func proofMethod(r *http.Request) string {
	if r.Method == http.MethodConnect && (r.ProtoMajor == 2 && r.Header.Get(":protocol") == "websocket" ||
		r.ProtoMajor == 3 && r.Proto == "websocket") {
		return http.MethodGet
	}
	return r.Method
}

// learn takes the nonce out of an upstream's answer, which is meant for the gateway, and
// returns it, or an empty string.
func (p *prover) learn(header http.Header) string {
	learned := p.nonce.learn(header)
	delete(header, nonceHeader)
	return learned
}

// originOf is a URL's origin (RFC 6454 §4), in lower case and without the default port.
func originOf(u *url.URL) string {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	scheme := strings.ToLower(u.Scheme)
	if port == "" || scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return scheme + "://" + host
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// parseOrigin reads the origin of an upstream.
func parseOrigin(raw string) (string, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return "", errors.New("dpop: not an http or https origin; write the one by which the API knows itself, such as https://api.example.com")
	case u.User != nil || strings.ContainsAny(raw, "?#"):
		return "", errors.New("dpop: an origin has no user info, query or fragment; write one such as https://api.example.com")
	case u.Path != "" && u.Path != "/":
		return "", errors.New("dpop: an origin has no path, which is taken from each request; write one such as https://api.example.com")
	}
	return originOf(u), nil
}
