package endpoint

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

func TestSigningKeyIsReadInEveryForm(t *testing.T) {
	keys := servertest.Keys()
	for name, test := range map[string]struct {
		text string
		key  string
		alg  jose.SignatureAlgorithm
		kid  string
	}{
		"PKCS #8 RSA":                  {servertest.PKCS8(t, keys["RSA"]), "RSA", jose.RS256, ""},
		"PKCS #8 P-256":                {servertest.PKCS8(t, keys["P-256"]), "P-256", jose.ES256, ""},
		"PKCS #8 P-384":                {servertest.PKCS8(t, keys["P-384"]), "P-384", jose.ES384, ""},
		"PKCS #8 P-521":                {servertest.PKCS8(t, keys["P-521"]), "P-521", jose.ES512, ""},
		"PKCS #8 Ed25519":              {servertest.PKCS8(t, keys["Ed25519"]), "Ed25519", jose.EdDSA, ""},
		"PKCS #1":                      {servertest.PEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(keys["RSA"].(*rsa.PrivateKey))), "RSA", jose.RS256, ""},
		"SEC 1":                        {servertest.SEC1(t, keys["P-256"]), "P-256", jose.ES256, ""},
		"SEC 1 behind EC PARAMETERS":   {servertest.ECParameters(t) + servertest.SEC1(t, keys["P-256"]), "P-256", jose.ES256, ""},
		"text around it":               {"Bag Attributes\n    friendlyName: gateway\n" + servertest.PKCS8(t, keys["P-256"]) + "\n\n", "P-256", jose.ES256, ""},
		"the public key behind it":     {servertest.PKCS8(t, keys["P-256"]) + servertest.PublicPEM(t, keys["P-256"]), "P-256", jose.ES256, ""},
		"JWK RSA":                      {servertest.JWKWith(t, keys["RSA"], nil), "RSA", jose.RS256, ""},
		"JWK RSA with alg and kid":     {servertest.JWKWith(t, keys["RSA"], map[string]any{"alg": "PS384", "kid": "k1"}), "RSA", jose.PS384, "k1"},
		"JWK P-384 for signatures":     {"\n " + servertest.JWKWith(t, keys["P-384"], map[string]any{"use": "sig", "key_ops": []string{"sign"}}), "P-384", jose.ES384, ""},
		"JWK Ed25519 with its own alg": {servertest.JWKWith(t, keys["Ed25519"], map[string]any{"alg": "EdDSA"}), "Ed25519", jose.EdDSA, ""},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := ParsePrivateKey([]byte(test.text))
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

func TestUnusableKeyIsRefusedWithARemedy(t *testing.T) {
	for name, test := range servertest.UnusableKeys(t) {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "key")
			servertest.WriteFile(t, file, test[0])
			key, _, err := (&KeyFile{Path: file}).Read()
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
		servertest.WriteFile(t, file, servertest.PKCS8(t, servertest.Keys()[test.key]))
		_, _, err := (&KeyFile{Path: file, Alg: test.alg}).Read()
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
	servertest.WriteFile(t, file, servertest.PKCS8(t, servertest.Keys()["P-256"]))
	f := &KeyFile{Path: file}
	read := func(wantKey, wantNews string) {
		t.Helper()
		key, news, err := f.Read()
		if err != nil {
			t.Fatal(err)
		}
		if want, _ := ParsePrivateKey([]byte(servertest.PKCS8(t, servertest.Keys()[wantKey]))); key.publicHash != want.publicHash {
			t.Errorf("it is not the key %s", wantKey)
		}
		if (news != nil) != (wantNews != "") || news != nil && !strings.Contains(news.Error(), wantNews) {
			t.Errorf("told %v, want %q", news, wantNews)
		}
	}
	read("P-256", "")
	servertest.WriteFile(t, file, servertest.PKCS8(t, servertest.Keys()["P-384"]))
	read("P-384", "")
	servertest.WriteFile(t, file, "")
	read("P-384", "the file is empty")
	read("P-384", "") // said once
	servertest.WriteFile(t, file, servertest.PublicPEM(t, servertest.Keys()["RSA"]))
	read("P-384", "a public key or a certificate, but no private key")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	read("P-384", "no such file")
	read("P-384", "")
	servertest.WriteFile(t, file, servertest.PKCS8(t, servertest.Keys()["P-384"])) // the same as before
	read("P-384", "")
	servertest.WriteFile(t, file, "")
	read("P-384", "the file is empty")
	servertest.WriteFile(t, file, servertest.PKCS8(t, servertest.Keys()["P-384"]))
	read("P-384", "")
	servertest.WriteFile(t, file, "")
	read("P-384", "the file is empty") // after it was well, so it is news again
	servertest.WriteFile(t, file, servertest.PKCS8(t, servertest.Keys()["Ed25519"]))
	read("Ed25519", "")
}

func TestWorldReadableKeyIsNoticed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	servertest.WriteFile(t, file, "")
	for mode, want := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o644: true, 0o604: true} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if got := (&KeyFile{Path: file}).IsReadableByAll(); got != want {
			t.Errorf("%o: %t", mode, got)
		}
	}
	if (&KeyFile{Path: file + ".missing"}).IsReadableByAll() {
		t.Error("a missing file is readable")
	}
}

// Whatever is in a file, it is either a key that can sign, or an error that quotes
// nothing of it.
func FuzzSigningKey(f *testing.F) {
	for kind, key := range servertest.Keys() {
		f.Add([]byte(servertest.PKCS8(f, key)))
		if kind == "P-224" {
			continue // there is no such JWK
		}
		f.Add([]byte(servertest.JWKWith(f, key, map[string]any{"kid": "k", "alg": "RS256"})))
	}
	for _, unusable := range servertest.UnusableKeys(f) {
		f.Add([]byte(unusable[0]))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := ParsePrivateKey(data)
		if (key == nil) == (err == nil) {
			t.Fatalf("got %v and %v", key, err)
		}
		if err != nil {
			return
		}
		assertion := NewAssertion(AssertionOptions{Typ: "JWT", Lifetime: 1}, key)
		if _, err := assertion.sign(cannedRequest, testTime); err != nil {
			t.Errorf("a key that can't sign: %v", err)
		}
	})
}
