package servertest

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// Keys makes each kind of key once, as RSA keys take their time.
var Keys = sync.OnceValue(func() map[string]crypto.Signer {
	rsaKey := func(bits int) crypto.Signer {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			panic(err)
		}
		return key
	}
	ecKey := func(curve elliptic.Curve) crypto.Signer {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			panic(err)
		}
		return key
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return map[string]crypto.Signer{
		"RSA": rsaKey(2048), "short RSA": rsaKey(1024), "P-224": ecKey(elliptic.P224()),
		"P-256": ecKey(elliptic.P256()), "P-384": ecKey(elliptic.P384()), "P-521": ecKey(elliptic.P521()), "Ed25519": ed,
	}
})

// PEM is one block of it.
func PEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// PKCS8 is a private key as a PEM file holds it.
func PKCS8(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return PEM("PRIVATE KEY", der)
}

// SEC1 is an EC key in the form of its own.
func SEC1(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	return PEM("EC PRIVATE KEY", der)
}

// PublicPEM is the public part of a key.
func PublicPEM(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return PEM("PUBLIC KEY", der)
}

// JWKWith is a key as a JWK, with further members.
func JWKWith(t testing.TB, key any, members map[string]any) string {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKey{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	maps.Copy(all, members)
	text, err = json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// ECParameters is what openssl ecparam -genkey writes before the key.
func ECParameters(t testing.TB) string {
	t.Helper()
	der, err := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7})
	if err != nil {
		t.Fatal(err)
	}
	return PEM("EC PARAMETERS", der)
}

// UnusableKeys are files that hold no key to sign with, and what is said of them.
func UnusableKeys(t testing.TB) map[string][2]string {
	keys := Keys()
	p256 := PKCS8(t, keys["P-256"])
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := NewCA(t)
	encrypted := strings.Replace(p256, "\n", "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00000000000000000000000000000000\n\n", 1)
	return map[string][2]string{
		"empty":                      {" \n", "the file is empty"},
		"text":                       {"hunter2-canary", "neither PEM nor a JWK"},
		"DER":                        {"\x30\x82\x01\x0acanary", "neither PEM nor a JWK"},
		"encrypted PKCS #8":          {strings.ReplaceAll(p256, "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), "openssl pkey"},
		"encrypted PKCS #1":          {encrypted, "the key is encrypted"},
		"OpenSSH":                    {strings.ReplaceAll(p256, "PRIVATE KEY", "OPENSSH PRIVATE KEY"), "ssh-keygen -p -m PKCS8"},
		"damaged":                    {PEM("PRIVATE KEY", []byte("canary")), "PEM block PRIVATE KEY is not a valid key"},
		"damaged PKCS #1":            {PEM("RSA PRIVATE KEY", []byte("canary")), "PEM block RSA PRIVATE KEY is not a valid key"},
		"PEM cut off":                {p256[:len(p256)/2], "neither PEM nor a JWK"},
		"public key":                 {PublicPEM(t, keys["P-256"]), "a public key or a certificate, but no private key"},
		"certificate":                {string(ca.PEM), "a public key or a certificate, but no private key"},
		"parameters alone":           {ECParameters(t), "the file holds no private key"},
		"two keys":                   {p256 + p256, "several private keys; keep one"},
		"X25519":                     {PKCS8(t, x25519), "of a kind that can't sign; use RSA, EC"},
		"RSA of 1024 bits":           {PKCS8(t, keys["short RSA"]), "use RSA with 2048 bits or more"},
		"P-224":                      {PKCS8(t, keys["P-224"]), "EC (P-256, P-384, P-521)"},
		"JWK Set":                    {`{"keys":[` + JWKWith(t, keys["P-256"], nil) + `]}`, "JWK Set; write the one private key"},
		"public JWK":                 {JWKWith(t, keys["P-256"].Public(), nil), "public key; give the private one"},
		"symmetric JWK":              {JWKWith(t, []byte("hunter2-canary-hunter2-canary-12"), nil), "client_secret_jwt"},
		"JWK for encryption":         {JWKWith(t, keys["RSA"], map[string]any{"use": "enc"}), "not meant for signatures"},
		"JWK whose alg does not fit": {JWKWith(t, keys["P-256"], map[string]any{"alg": "RS256"}), "the JWK's alg does not fit its key; use ES256"},
		"JWK of two keys":            {JWKWith(t, keys["P-256"], map[string]any{"d": base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))}), "does not belong to its public part"},
		"JWK of an unknown kind":     {`{"kty":"canary","d":"hunter2-canary"}`, "not a valid JWK"},
		"other JSON":                 {`{"hunter2-canary":1}`, "not a valid JWK"},
		"broken JSON":                {`{"kty":"EC","d":"hunter2-canary`, "not a valid JWK"},
		"too large":                  {p256 + strings.Repeat("\n", 64<<10), "larger than 64 KiB"},
	}
}
