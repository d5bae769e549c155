package oauthcc

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
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// maxKeyFile bounds what is read of a signing key's file, in bytes.
const maxKeyFile = 64 << 10

// minRSABits is the least size of an RSA key (RFC 7518 §3.3 and §3.5).
const minRSABits = 2048

// signingKey is a private key, and what its file says of its use.
type signingKey struct {
	signer crypto.Signer
	alg    jose.SignatureAlgorithm // from a JWK, or the first of those that fit
	keyID  string                  // from a JWK, else empty
	name   string                  // of the public key, by its SHA-256
}

// parseSigningKey reads a private key in PEM (PKCS #8, PKCS #1 or SEC 1) or as a JWK
// (RFC 7517). Its errors say what to do instead and have nothing of the file's content.
func parseSigningKey(data []byte) (*signingKey, error) {
	data = bytes.TrimSpace(data)
	var k *signingKey
	var err error
	switch {
	case len(data) == 0:
		return nil, errors.New("the file is empty")
	case data[0] == '{':
		k, err = parseJWK(data)
	default:
		k, err = parsePEM(data)
	}
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(k.signer.Public())
	if err != nil {
		return nil, errors.New("the key is of a kind that can't sign; use RSA, EC (P-256, P-384, P-521) or Ed25519")
	}
	sum := sha256.Sum256(public)
	k.name = hex.EncodeToString(sum[:])
	fitting := algsFor(k.signer)
	switch {
	case len(fitting) == 0:
		return nil, errors.New("no algorithm fits the key; use RSA with 2048 bits or more, EC (P-256, P-384, P-521) or Ed25519")
	case k.alg == "":
		k.alg = fitting[0]
	case !slices.Contains(fitting, k.alg):
		return nil, fmt.Errorf("the JWK's alg does not fit its key; use %s", joinAlgs(fitting))
	}
	if !k.isPair() {
		return nil, errors.New("the private part of the key does not belong to its public part; write the key anew")
	}
	return k, nil
}

// isPair reports whether what the private part signs is what the public part verifies: a
// JWK has both written out.
func (k *signingKey) isPair() bool {
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

func parseJWK(data []byte) (*signingKey, error) {
	var members struct {
		Keys json.RawMessage `json:"keys"`
		Kind string          `json:"kty"`
		Use  string          `json:"use"`
	}
	switch err := json.Unmarshal(data, &members); {
	case err == nil && members.Keys != nil:
		return nil, errors.New("the file holds a JWK Set; write the one private key into a file of its own")
	case err == nil && members.Kind == "oct":
		return nil, errors.New("the JWK is a symmetric key; for a shared secret use client_secret with auth_method client_secret_jwt")
	}
	var jwk jose.JSONWebKey
	if err := json.Unmarshal(data, &jwk); err != nil || !jwk.Valid() {
		return nil, errors.New("the file is not a valid JWK")
	}
	if members.Use != "" && members.Use != "sig" {
		return nil, errors.New(`the JWK is not meant for signatures; use one whose "use" is "sig"`)
	}
	signer, ok := jwk.Key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the JWK is a public key; give the private one, and the public one to the authorization server")
	}
	return &signingKey{signer: signer, alg: jose.SignatureAlgorithm(jwk.Algorithm), keyID: jwk.KeyID}, nil
}

func parsePEM(data []byte) (*signingKey, error) {
	var found crypto.Signer
	hasPublic := false
	block, rest := pem.Decode(data)
	if block == nil {
		return nil, errors.New("the file is neither PEM nor a JWK")
	}
	for ; block != nil; block, rest = pem.Decode(rest) {
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
		default: // such as the EC PARAMETERS that openssl writes
			hasPublic = hasPublic || strings.HasSuffix(block.Type, "PUBLIC KEY") || block.Type == "CERTIFICATE"
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("the PEM block %s is not a valid key", block.Type)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, errors.New("the key is of a kind that can't sign; use RSA, EC (P-256, P-384, P-521) or Ed25519")
		}
		if found != nil {
			return nil, errors.New("the file holds several private keys; keep one")
		}
		found = signer
	}
	switch {
	case found == nil && hasPublic:
		return nil, errors.New("the file holds no private key but a public one or a certificate; give the private key, and those to the authorization server")
	case found == nil:
		return nil, errors.New("the file holds no private key")
	}
	return &signingKey{signer: found}, nil
}

// algsFor lists the algorithms that fit a private key (RFC 7518 §3.1, RFC 8037 §3.1), the
// most widely understood first.
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

func joinAlgs(algs []jose.SignatureAlgorithm) string {
	names := make([]string, len(algs))
	for i, alg := range algs {
		names[i] = string(alg)
	}
	return strings.Join(names, ", ")
}

// keyFile reads a signing key, and reads it again when its file changes. It is not for
// concurrent use.
type keyFile struct {
	path    string
	alg     string // that the key has to fit; empty for any
	content [sha256.Size]byte
	key     *signingKey // the last that could be used
	problem string      // why that is not the one in the file, already told
}

// read returns the key in the file, or else the last one that could be used. news tells,
// once, why that is not the one in the file.
func (f *keyFile) read() (key *signingKey, news, err error) {
	key, content, err := f.parse()
	if err != nil {
		err = fmt.Errorf("signing_key: %s: %w", f.path, err)
		if f.key == nil {
			return nil, nil, err
		}
		if f.problem != err.Error() {
			f.problem, news = err.Error(), err
		}
		return f.key, news, nil
	}
	f.key, f.content, f.problem = key, content, ""
	return key, nil, nil
}

func (f *keyFile) parse() (*signingKey, [sha256.Size]byte, error) {
	data, err := readKeyFile(f.path)
	content := sha256.Sum256(data)
	if err != nil || f.key != nil && content == f.content {
		return f.key, content, err
	}
	key, err := parseSigningKey(data)
	if err != nil {
		return nil, content, err
	}
	if fitting := algsFor(key.signer); f.alg != "" && !slices.Contains(fitting, jose.SignatureAlgorithm(f.alg)) {
		return nil, content, fmt.Errorf("alg %s does not fit the key; use %s, or another key", f.alg, joinAlgs(fitting))
	}
	return key, content, nil
}

func readKeyFile(path string) ([]byte, error) {
	file, err := os.Open(path) //nolint:gosec // the configuration names it
	if err != nil {
		if pathErr, ok := errors.AsType[*os.PathError](err); ok {
			err = pathErr.Err // the path is in the message already
		}
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return nil, errors.New("the file can't be read")
	}
	if len(data) > maxKeyFile {
		return nil, errors.New("the file is larger than 64 KiB, which no key is")
	}
	return data, nil
}

// isReadableByAll reports whether every user of the machine can read the key.
func (f *keyFile) isReadableByAll() bool {
	info, err := os.Stat(f.path)
	return err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o004 != 0
}
