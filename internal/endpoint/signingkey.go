package endpoint

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// PrivateKey is a private key that can sign, with what its file says about its use. It is immutable.
type PrivateKey struct {
	signer crypto.Signer
	alg    jose.SignatureAlgorithm // from a JWK, or the first algorithm that fits
	keyID  string                  // from a JWK or a service account, else empty

	publicHash string // SHA-256 of the public key, in hexadecimal: identifies the key

	certificates []*x509.Certificate // the key's own and those that certify it; empty without
	account      serviceAccount      // that the key is of; zero for any other key
}

// serviceAccount is what a Google service account's key file says beside the key.
type serviceAccount struct {
	email         string // which is the issuer of the account's assertions
	tokenEndpoint string
}

// ServiceAccount returns the email address and the token endpoint of the Google service account that the
// key is of. Both are empty for any other key.
func (k *PrivateKey) ServiceAccount() (email, tokenEndpoint string) {
	return k.account.email, k.account.tokenEndpoint
}

// Certificate returns the key's certificate, or nil if it has none.
func (k *PrivateKey) Certificate() *x509.Certificate {
	if len(k.certificates) == 0 {
		return nil
	}
	return k.certificates[0]
}

// ParsePrivateKey reads a private key in PEM (PKCS #8, PKCS #1 or SEC 1), as a JWK (RFC 7517), or in the
// JSON key file of a Google service account. Its errors say what to do instead, and contain nothing of the
// file's content.
func ParsePrivateKey(data []byte) (*PrivateKey, error) {
	data = bytes.TrimSpace(data)
	var k *PrivateKey
	var err error
	switch {
	case len(data) == 0:
		return nil, errors.New("the file is empty")
	case data[0] == '{':
		k, err = parseJSONKey(data)
	default:
		k, err = parsePEM(data)
	}
	if err != nil {
		return nil, err
	}
	// The public key identifies the key in a GrantKey, so that no private part is hashed there.
	public, err := x509.MarshalPKIXPublicKey(k.signer.Public())
	if err != nil {
		return nil, errors.New("the key is of a kind that can't sign; use RSA, EC (P-256, P-384, P-521) or Ed25519")
	}
	sum := sha256.Sum256(public)
	k.publicHash = hex.EncodeToString(sum[:])
	fitting := algsFor(k.signer)
	switch {
	case len(fitting) == 0:
		return nil, errors.New("no algorithm fits the key; use RSA with 2048 bits or more, EC (P-256, P-384, P-521) or Ed25519")
	case k.alg == "": // PEM has none, and in a JWK it is optional (RFC 7517 §4.4)
		k.alg = fitting[0]
	case !slices.Contains(fitting, k.alg):
		return nil, fmt.Errorf("the JWK's alg does not fit its key; use %s", joinAlgs(fitting))
	}
	if !k.isPair() {
		return nil, errors.New("the private part of the key does not belong to its public part; write the key anew")
	}
	return k, nil
}

// isPair reports whether the public part verifies what the private part signs. A JWK contains both, so
// they can be of different keys; then servers would refuse every assertion.
func (k *PrivateKey) isPair() bool {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.alg, Key: k.signer}, nil)
	if err != nil {
		return false
	}
	signed, err := signer.Sign(nil)
	if err != nil {
		return false
	}
	_, err = signed.Verify(k.signer.Public())
	return err == nil
}

// parseJSONKey reads a JWK, or the key file of a Google service account. Its errors name exactly what the
// file is instead, as users can't tell these apart.
func parseJSONKey(data []byte) (*PrivateKey, error) {
	var members struct {
		Keys json.RawMessage `json:"keys"`
		Kind string          `json:"kty"`
		Use  string          `json:"use"`
		Type string          `json:"type"`
	}
	switch err := json.Unmarshal(data, &members); {
	case err == nil && members.Type == "service_account":
		return parseServiceAccount(data)
	case err == nil && members.Type != "" && members.Kind == "":
		return nil, errors.New("the file is a credential file without a private key; create a JSON key for a Google service account, or use client_assertion with a token from elsewhere")
	case err == nil && members.Keys != nil:
		return nil, errors.New("the file holds a JWK Set; write the one private key into a file of its own")
	case err == nil && members.Kind == "oct":
		return nil, errors.New("the JWK is a symmetric key; for a shared secret use client_secret with auth_method client_secret_jwt")
	}
	var jwk jose.JSONWebKey
	if err := json.Unmarshal(data, &jwk); err != nil || !jwk.Valid() {
		return nil, errors.New("the file is not a valid JWK")
	}
	if members.Use != "" && members.Use != "sig" { // RFC 7517 §4.2
		return nil, errors.New(`the JWK is not meant for signatures; use one whose "use" is "sig"`)
	}
	signer, ok := jwk.Key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the JWK is a public key; give the private one, and the public one to the authorization server")
	}
	return &PrivateKey{signer: signer, alg: jose.SignatureAlgorithm(jwk.Algorithm), keyID: jwk.KeyID}, nil
}

// parseServiceAccount reads the file that Google Cloud makes for a key of a service account.
func parseServiceAccount(data []byte) (*PrivateKey, error) {
	var file struct {
		PrivateKey    string `json:"private_key"`
		PrivateKeyID  string `json:"private_key_id"`
		ClientEmail   string `json:"client_email"`
		TokenEndpoint string `json:"token_uri"`
	}
	if err := json.Unmarshal(data, &file); err != nil || file.PrivateKey == "" || file.ClientEmail == "" {
		return nil, errors.New("the service account's key file has no private_key or no client_email; download the key again as JSON")
	}
	k, err := parsePEM([]byte(file.PrivateKey))
	if err != nil {
		return nil, fmt.Errorf("the service account's private_key: %w", err)
	}
	k.keyID, k.account = file.PrivateKeyID, serviceAccount{email: file.ClientEmail, tokenEndpoint: file.TokenEndpoint}
	return k, nil
}

// parsePEM reads the one private key among PEM blocks. The other blocks can be certificates or public
// keys.
func parsePEM(data []byte) (*PrivateKey, error) {
	var found crypto.Signer
	hasPublic := false // a public key or a certificate is there, which users take for the private key
	block, rest := pem.Decode(data)
	if block == nil {
		return nil, errors.New("the file is neither PEM nor a JWK")
	}
	for ; block != nil; block, rest = pem.Decode(rest) {
		signer, err := parseBlock(block)
		switch {
		case err != nil:
			return nil, err
		case signer == nil:
			hasPublic = hasPublic || strings.HasSuffix(block.Type, "PUBLIC KEY") || block.Type == "CERTIFICATE"
		case found != nil:
			return nil, errors.New("the file holds several private keys; keep one")
		default:
			found = signer
		}
	}
	switch {
	case found == nil && hasPublic:
		return nil, errors.New("the file holds a public key or a certificate, but no private key; give the private key here, and the public one to the authorization server")
	case found == nil:
		return nil, errors.New("the file holds no private key")
	}
	return &PrivateKey{signer: found}, nil
}

// parseBlock returns the private key in a PEM block, or nil if the block is something else, such as the
// EC PARAMETERS that openssl writes before a key.
func parseBlock(block *pem.Block) (crypto.Signer, error) {
	var key any
	var err error
	switch {
	case block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
		return nil, errors.New("the key is encrypted; write it without a passphrase, such as with openssl pkey -in <file> -out <new file>, and protect the file")
	case block.Type == "OPENSSH PRIVATE KEY":
		return nil, errors.New("the key is in OpenSSH's format; write it as PKCS #8, such as with ssh-keygen -p -m PKCS8 -f <file>")
	case block.Type == "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case block.Type == "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case block.Type == "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the PEM block %s is not a valid key", block.Type)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key is of a kind that can't sign; use RSA, EC (P-256, P-384, P-521) or Ed25519")
	}
	return signer, nil
}

// minRSABits is the least size of an RSA key (RFC 7518 §3.3 and §3.5).
const minRSABits = 2048

// algsFor lists the algorithms that fit a private key (RFC 7518 §3.1, RFC 8037 §3.1). The first one is
// supported by most servers.
func algsFor(key crypto.Signer) []jose.SignatureAlgorithm {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if key.N.BitLen() >= minRSABits {
			return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}
		}
	case *ecdsa.PrivateKey:
		switch key.Curve {
		case elliptic.P256():
			return []jose.SignatureAlgorithm{jose.ES256}
		case elliptic.P384():
			return []jose.SignatureAlgorithm{jose.ES384}
		case elliptic.P521():
			return []jose.SignatureAlgorithm{jose.ES512}
		}
	case ed25519.PrivateKey:
		return []jose.SignatureAlgorithm{jose.EdDSA}
	}
	return nil
}

// joinAlgs lists algorithms for a message.
func joinAlgs(algs []jose.SignatureAlgorithm) string {
	names := make([]string, len(algs))
	for i, alg := range algs {
		names[i] = string(alg)
	}
	return strings.Join(names, ", ")
}
