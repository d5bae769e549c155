package oauthcc

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
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// testKeys makes each kind of key once, as RSA keys take their time.
var testKeys = sync.OnceValue(func() map[string]crypto.Signer {
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

func pemBlock(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func pkcs8(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pemBlock("PRIVATE KEY", der)
}

func sec1(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	return pemBlock("EC PRIVATE KEY", der)
}

func publicPEM(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pemBlock("PUBLIC KEY", der)
}

// jwkWith is a key as a JWK, with further members.
func jwkWith(t testing.TB, key any, members map[string]any) string {
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

// ecParameters is what openssl ecparam -genkey writes before the key.
func ecParameters(t testing.TB) string {
	t.Helper()
	der, err := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7})
	if err != nil {
		t.Fatal(err)
	}
	return pemBlock("EC PARAMETERS", der)
}

func TestSigningKeyIsReadInEveryForm(t *testing.T) {
	keys := testKeys()
	for name, test := range map[string]struct {
		text string
		key  string
		alg  jose.SignatureAlgorithm
		kid  string
	}{
		"PKCS #8 RSA":                  {pkcs8(t, keys["RSA"]), "RSA", jose.RS256, ""},
		"PKCS #8 P-256":                {pkcs8(t, keys["P-256"]), "P-256", jose.ES256, ""},
		"PKCS #8 P-384":                {pkcs8(t, keys["P-384"]), "P-384", jose.ES384, ""},
		"PKCS #8 P-521":                {pkcs8(t, keys["P-521"]), "P-521", jose.ES512, ""},
		"PKCS #8 Ed25519":              {pkcs8(t, keys["Ed25519"]), "Ed25519", jose.EdDSA, ""},
		"PKCS #1":                      {pemBlock("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(keys["RSA"].(*rsa.PrivateKey))), "RSA", jose.RS256, ""},
		"SEC 1":                        {sec1(t, keys["P-256"]), "P-256", jose.ES256, ""},
		"SEC 1 behind EC PARAMETERS":   {ecParameters(t) + sec1(t, keys["P-256"]), "P-256", jose.ES256, ""},
		"text around it":               {"Bag Attributes\n    friendlyName: gateway\n" + pkcs8(t, keys["P-256"]) + "\n\n", "P-256", jose.ES256, ""},
		"the public key behind it":     {pkcs8(t, keys["P-256"]) + publicPEM(t, keys["P-256"]), "P-256", jose.ES256, ""},
		"JWK RSA":                      {jwkWith(t, keys["RSA"], nil), "RSA", jose.RS256, ""},
		"JWK RSA with alg and kid":     {jwkWith(t, keys["RSA"], map[string]any{"alg": "PS384", "kid": "k1"}), "RSA", jose.PS384, "k1"},
		"JWK P-384 for signatures":     {"\n " + jwkWith(t, keys["P-384"], map[string]any{"use": "sig", "key_ops": []string{"sign"}}), "P-384", jose.ES384, ""},
		"JWK Ed25519 with its own alg": {jwkWith(t, keys["Ed25519"], map[string]any{"alg": "EdDSA"}), "Ed25519", jose.EdDSA, ""},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := parseSigningKey([]byte(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if key.alg != test.alg || key.keyID != test.kid {
				t.Errorf("got alg %s and kid %q", key.alg, key.keyID)
			}
			type comparable interface{ Equal(x crypto.PublicKey) bool }
			if !key.signer.Public().(comparable).Equal(keys[test.key].Public()) {
				t.Error("it is another key")
			}
		})
	}
}

// unusableKeys are files that hold no key to sign with, and what is said of them.
func unusableKeys(t testing.TB) map[string][2]string {
	keys := testKeys()
	p256 := pkcs8(t, keys["P-256"])
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := newTestCA(t)
	encrypted := strings.Replace(p256, "\n", "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00000000000000000000000000000000\n\n", 1)
	return map[string][2]string{
		"empty":                      {" \n", "the file is empty"},
		"text":                       {"hunter2-canary", "neither PEM nor a JWK"},
		"DER":                        {"\x30\x82\x01\x0acanary", "neither PEM nor a JWK"},
		"encrypted PKCS #8":          {strings.ReplaceAll(p256, "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), "openssl pkey"},
		"encrypted PKCS #1":          {encrypted, "the key is encrypted"},
		"OpenSSH":                    {strings.ReplaceAll(p256, "PRIVATE KEY", "OPENSSH PRIVATE KEY"), "ssh-keygen -p -m PKCS8"},
		"damaged":                    {pemBlock("PRIVATE KEY", []byte("canary")), "PEM block PRIVATE KEY is not a valid key"},
		"damaged PKCS #1":            {pemBlock("RSA PRIVATE KEY", []byte("canary")), "PEM block RSA PRIVATE KEY is not a valid key"},
		"PEM cut off":                {p256[:len(p256)/2], "neither PEM nor a JWK"},
		"public key":                 {publicPEM(t, keys["P-256"]), "no private key but a public one or a certificate"},
		"certificate":                {string(ca.pem), "no private key but a public one or a certificate"},
		"parameters alone":           {ecParameters(t), "the file holds no private key"},
		"two keys":                   {p256 + p256, "several private keys; keep one"},
		"X25519":                     {pkcs8(t, x25519), "of a kind that can't sign; use RSA, EC"},
		"RSA of 1024 bits":           {pkcs8(t, keys["short RSA"]), "use RSA with 2048 bits or more"},
		"P-224":                      {pkcs8(t, keys["P-224"]), "EC (P-256, P-384, P-521)"},
		"JWK Set":                    {`{"keys":[` + jwkWith(t, keys["P-256"], nil) + `]}`, "JWK Set; write the one private key"},
		"public JWK":                 {jwkWith(t, keys["P-256"].Public(), nil), "public key; give the private one"},
		"symmetric JWK":              {jwkWith(t, []byte("hunter2-canary-hunter2-canary-12"), nil), "client_secret_jwt"},
		"JWK for encryption":         {jwkWith(t, keys["RSA"], map[string]any{"use": "enc"}), "not meant for signatures"},
		"JWK whose alg does not fit": {jwkWith(t, keys["P-256"], map[string]any{"alg": "RS256"}), "the JWK's alg does not fit its key; use ES256"},
		"JWK of two keys":            {jwkWith(t, keys["P-256"], map[string]any{"d": base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))}), "does not belong to its public part"},
		"JWK of an unknown kind":     {`{"kty":"canary","d":"hunter2-canary"}`, "not a valid JWK"},
		"other JSON":                 {`{"hunter2-canary":1}`, "not a valid JWK"},
		"broken JSON":                {`{"kty":"EC","d":"hunter2-canary`, "not a valid JWK"},
		"too large":                  {p256 + strings.Repeat("\n", maxKeyFile), "larger than 64 KiB"},
	}
}

func TestUnusableKeyIsRefusedWithARemedy(t *testing.T) {
	for name, test := range unusableKeys(t) {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "key")
			writeFile(t, file, test[0])
			key, _, err := (&keyFile{path: file}).read()
			if err == nil || !strings.HasPrefix(err.Error(), "signing_key: "+file+": ") || !strings.Contains(err.Error(), test[1]) {
				t.Fatalf("got %v, %v; want %q", key, err, test[1])
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("%q quotes the file", err)
			}
		})
	}
}

func TestAlgHasToFitTheKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	for _, test := range []struct {
		key, alg string
		fits     bool
	}{
		{"RSA", "RS256", true}, {"RSA", "RS384", true}, {"RSA", "RS512", true},
		{"RSA", "PS256", true}, {"RSA", "PS384", true}, {"RSA", "PS512", true},
		{"P-256", "ES256", true}, {"P-384", "ES384", true}, {"P-521", "ES512", true}, {"Ed25519", "EdDSA", true},
		{"RSA", "ES256", false}, {"P-256", "ES384", false}, {"P-384", "ES256", false}, {"Ed25519", "ES256", false},
		{"P-256", "RS256", false}, {"RSA", "HS256", false}, {"RSA", "none", false}, {"RSA", "rs256", false},
	} {
		writeFile(t, file, pkcs8(t, testKeys()[test.key]))
		_, _, err := (&keyFile{path: file, alg: test.alg}).read()
		if test.fits != (err == nil) {
			t.Errorf("%s with %s: %v", test.alg, test.key, err)
		}
		if err != nil && !strings.Contains(err.Error(), "alg "+test.alg+" does not fit the key; use ") {
			t.Errorf("%s with %s: %v", test.alg, test.key, err)
		}
	}
}

func TestKeyFileIsReadAgainWhenItChanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	writeFile(t, file, pkcs8(t, testKeys()["P-256"]))
	f := &keyFile{path: file}
	read := func(wantKey, wantNews string) {
		t.Helper()
		key, news, err := f.read()
		if err != nil {
			t.Fatal(err)
		}
		if want, _ := parseSigningKey([]byte(pkcs8(t, testKeys()[wantKey]))); key.name != want.name {
			t.Errorf("it is not the key %s", wantKey)
		}
		if (news != nil) != (wantNews != "") || news != nil && !strings.Contains(news.Error(), wantNews) {
			t.Errorf("told %v, want %q", news, wantNews)
		}
	}
	read("P-256", "")
	writeFile(t, file, pkcs8(t, testKeys()["P-384"]))
	read("P-384", "")
	writeFile(t, file, "")
	read("P-384", "the file is empty")
	read("P-384", "") // said once
	writeFile(t, file, publicPEM(t, testKeys()["RSA"]))
	read("P-384", "no private key but a public one")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	read("P-384", "no such file")
	read("P-384", "")
	writeFile(t, file, pkcs8(t, testKeys()["P-384"])) // the same as before
	read("P-384", "")
	writeFile(t, file, "")
	read("P-384", "the file is empty")
	writeFile(t, file, pkcs8(t, testKeys()["P-384"]))
	read("P-384", "")
	writeFile(t, file, "")
	read("P-384", "the file is empty") // after it was well, so it is news again
	writeFile(t, file, pkcs8(t, testKeys()["Ed25519"]))
	read("Ed25519", "")
}

func TestWorldReadableKeyIsNoticed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	writeFile(t, file, "")
	for mode, want := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o644: true, 0o604: true} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if got := (&keyFile{path: file}).isReadableByAll(); got != want {
			t.Errorf("%o: %t", mode, got)
		}
	}
	if (&keyFile{path: file + ".missing"}).isReadableByAll() {
		t.Error("a missing file is readable")
	}
}

// Whatever is in a file, it is either a key that can sign, or an error that quotes
// nothing of it.
func FuzzSigningKey(f *testing.F) {
	for kind, key := range testKeys() {
		f.Add([]byte(pkcs8(f, key)))
		if kind == "P-224" {
			continue // there is no such JWK
		}
		f.Add([]byte(jwkWith(f, key, map[string]any{"kid": "k", "alg": "RS256"})))
	}
	for _, unusable := range unusableKeys(f) {
		f.Add([]byte(unusable[0]))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := parseSigningKey(data)
		if (key == nil) == (err == nil) {
			t.Fatalf("got %v and %v", key, err)
		}
		if err != nil {
			return
		}
		assertion := newClientAssertion(SigningKey{Typ: "JWT", Lifetime: 1}, key)
		if _, err := assertion.sign(cannedRequest, testTime); err != nil {
			t.Errorf("a key that can't sign: %v", err)
		}
	})
}
