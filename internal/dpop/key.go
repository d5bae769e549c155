package dpop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// The header fields of RFC 9449 §4.1 and §8, as net/http writes them.
const (
	Header      = "Dpop"
	NonceHeader = "Dpop-Nonce"
)

// Key is a key that tokens are bound to, on the curve P-256. It is made by NewKey and never written
// anywhere. So a token that is bound to it can be used only by this process, and only while the Key
// exists. A Key is safe for concurrent use.
type Key struct {
	// Set once.
	signer     jose.Signer
	thumbprint string // RFC 7638; the server's name for the key

	// The last nonces of authorization servers and of upstreams. They are not interchangeable (RFC 9449
	// §9).
	servers, resources nonces
}

// NewKey makes a key.
func NewKey() (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return keyOf(private)
}

// keyOf makes a Key of a private key. The public one is in the header of each proof (RFC 9449 §4.2).
func keyOf(private *ecdsa.PrivateKey) (*Key, error) {
	public := jose.JSONWebKey{Key: private.Public()}
	thumbprint, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	jwk, err := public.MarshalJSON() // here, to do it once and not for each proof
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: private},
		new(jose.SignerOptions).WithType("dpop+jwt").WithHeader("jwk", json.RawMessage(jwk)))
	if err != nil {
		return nil, err
	}
	return &Key{signer: signer, thumbprint: base64.RawURLEncoding.EncodeToString(thumbprint)}, nil
}

// Destruct lets one of Caddy's pools keep the key. There is nothing to close.
func (*Key) Destruct() error { return nil }

// Thumbprint identifies the key (RFC 7638). It is empty for a nil Key.
func (k *Key) Thumbprint() string {
	if k == nil {
		return ""
	}
	return k.thumbprint
}

// claims are the claims of a proof (RFC 9449 §4.2).
type claims struct {
	ID        string `json:"jti"`
	Method    string `json:"htm"`
	Target    string `json:"htu"`
	IssuedAt  int64  `json:"iat"`
	TokenHash string `json:"ath,omitempty"`
	Nonce     string `json:"nonce,omitempty"`
}

// proof makes the proof for one request. tokenHash is empty for a token request, and nonce is empty as
// long as the server has not sent one.
func (k *Key) proof(method, target, tokenHash, nonce string) (string, error) {
	payload, err := json.Marshal(claims{
		ID: rand.Text(), Method: method, Target: target, IssuedAt: time.Now().Unix(),
		TokenHash: tokenHash, Nonce: nonce,
	})
	if err != nil {
		return "", err
	}
	proof, err := k.signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return proof.CompactSerialize()
}

// HashToken returns the ath of a proof (RFC 9449 §4.2). It ties the proof to the token that the request
// carries.
func HashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
