package endpoint

import (
	"crypto"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// testdata/certificate was made by openssl: a chain, the key's own certificate last, and the names of it that openssl dgst
// and openssl base64 find.
func TestCertificateIsNamedAsOpenSSLNamesIt(t *testing.T) {
	chain, err := os.ReadFile(filepath.Join("testdata", "certificate", "chain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	certificates, err := parseCertificates(chain)
	if err != nil || len(certificates) != 2 {
		t.Fatalf("read %d certificates, %v", len(certificates), err)
	}
	slices.Reverse(certificates)
	options := new(jose.SignerOptions)
	(&PrivateKey{certificates: certificates}).nameCertificate(options, true)
	thumbprints, err := os.ReadFile(filepath.Join("testdata", "certificate", "thumbprints.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(thumbprints)) {
		name, want, _ := strings.Cut(strings.TrimSpace(line), " ")
		if got := strings.Trim(fmt.Sprint(options.ExtraHeaders[jose.HeaderKey(name)]), "[]"); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// certificateFor makes a certificate for a key, in PEM.
func certificateFor(t testing.TB, key crypto.Signer, name string) string {
	return makeCertificate(t, key, &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: testTime, NotAfter: testTime.Add(48 * time.Hour)})
}

func certificateUntil(t testing.TB, key crypto.Signer, end time.Time) string {
	return makeCertificate(t, key, &x509.Certificate{NotBefore: end.Add(-48 * time.Hour), NotAfter: end})
}

func makeCertificate(t testing.TB, key crypto.Signer, template *x509.Certificate) string {
	t.Helper()
	template.SerialNumber = big.NewInt(1)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return servertest.PEM("CERTIFICATE", der)
}

// go-jose verifies the header with what it knows of certificates by itself.
func TestCertificateIsInTheHeaderOfAssertions(t *testing.T) {
	keys := servertest.Keys()
	dir := t.TempDir()
	for name, test := range map[string]struct {
		certificate string
		inKeyFile   bool
		chain       bool
		wantChain   int
	}{
		"names alone":          {certificate: certificateFor(t, keys["RSA"], "own")},
		"in the key's file":    {certificate: certificateFor(t, keys["RSA"], "own"), inKeyFile: true},
		"with the certificate": {certificate: certificateFor(t, keys["RSA"], "own"), chain: true, wantChain: 1},
		"with those above":     {certificate: certificateFor(t, keys["P-256"], "issuer") + certificateFor(t, keys["RSA"], "own") + certificateFor(t, keys["P-384"], "root"), chain: true, wantChain: 3},
	} {
		t.Run(name, func(t *testing.T) {
			file := &KeyFile{Path: filepath.Join(dir, "key.pem"), Certificate: filepath.Join(dir, "certificate.pem")}
			content := servertest.PKCS8(t, keys["RSA"])
			servertest.WriteFile(t, file.Certificate, test.certificate)
			if test.inKeyFile {
				content, file.Certificate = test.certificate+content, file.Path
			}
			servertest.WriteFile(t, file.Path, content)
			key, _, err := file.Read()
			if err != nil {
				t.Fatal(err)
			}
			if key.Certificate().Subject.CommonName != "own" {
				t.Errorf("it has the certificate of %s", key.Certificate().Subject)
			}
			options := AssertionOptions{Alg: "PS256", Typ: "JWT", Chain: test.chain}
			if err := options.Complete(); err != nil {
				t.Fatal(err)
			}
			request := cannedRequest
			request.AuthMethod, request.ClientSecret, request.Assertion = AuthPrivateKeyJWT, "", NewAssertion(options, key)
			assertion, err := request.Assertion.sign(request, testTime)
			if err != nil {
				t.Fatal(err)
			}
			header, claims := servertest.OpenJWT(t, assertion, keys["RSA"].Public())
			if claims["nbf"] != claims["iat"] {
				t.Errorf("the claims are %v", claims)
			}
			jwk := jose.JSONWebKey{Key: keys["RSA"].Public(), Certificates: key.certificates[:1]}
			sha1Sum, err1 := certificateThumbprint(jwk)
			sha256Sum := key.thumbprint()
			if err1 != nil || header["x5t"] != sha1Sum || header["x5t#S256"] != sha256Sum || header["alg"] != "PS256" || header["typ"] != "JWT" {
				t.Errorf("the header is %v", header)
			}
			chain, _ := header["x5c"].([]any)
			if len(chain) != test.wantChain {
				t.Fatalf("x5c has %d certificates, want %d", len(chain), test.wantChain)
			}
			if test.wantChain == 0 {
				return
			}
			first, err := base64.StdEncoding.DecodeString(chain[0].(string))
			if err != nil || string(first) != string(key.certificates[0].Raw) {
				t.Errorf("the first certificate is not the key's own: %v", err)
			}
			parsed, err := jose.ParseSigned(assertion, servertest.SigningAlgs)
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AddCert(key.certificates[0])
			verified, err := parsed.Signatures[0].Protected.Certificates(x509.VerifyOptions{
				Roots: roots, CurrentTime: testTime.Add(time.Hour), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
			})
			if err != nil || len(verified) == 0 {
				t.Errorf("go-jose finds no certificate in the header: %v", err)
			}
		})
	}
}

// certificateThumbprint has go-jose write a JWK with the certificate, and reads its x5t there.
func certificateThumbprint(jwk jose.JSONWebKey) (string, error) {
	sum := sha1.Sum(jwk.Certificates[0].Raw)
	jwk.CertificateThumbprintSHA1 = sum[:]
	text, err := jwk.MarshalJSON()
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(string(text), `"x5t":"`)
	thumbprint, _, _ := strings.Cut(rest, `"`)
	return thumbprint, nil
}

func TestCertificateThatCannotBeUsedIsRefusedWithARemedy(t *testing.T) {
	keys := servertest.Keys()
	dir := t.TempDir()
	key, certificate := filepath.Join(dir, "key.pem"), filepath.Join(dir, "certificate.pem")
	servertest.WriteFile(t, key, servertest.PKCS8(t, keys["P-256"]))
	own := certificateFor(t, keys["P-256"], "own")
	for name, test := range map[string]struct{ content, want string }{
		"another key's": {certificateFor(t, keys["P-384"], "other"), "the certificate is not that of the key"},
		"a key":         {servertest.PKCS8(t, keys["P-256"]), "the file holds no certificate in PEM"},
		"empty":         {"", "the file holds no certificate in PEM"},
		"cut off":       {servertest.PEM("CERTIFICATE", []byte("canary")), "is not a valid certificate"},
		"DER":           {"\x30\x82\x01\x02canary", "openssl x509 -inform DER"},
		"too large":     {own + strings.Repeat(" ", maxKeyFile), "larger than 64 KiB"},
	} {
		servertest.WriteFile(t, certificate, test.content)
		_, _, err := (&KeyFile{Path: key, Certificate: certificate}).Read()
		if err == nil || !strings.HasPrefix(err.Error(), "signing_key: certificate: "+certificate+": ") || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, _, err := (&KeyFile{Path: key, Certificate: filepath.Join(dir, "missing")}).Read(); err == nil || !strings.Contains(err.Error(), "signing_key: certificate: ") {
		t.Errorf("missing: got %v", err)
	}
}

// A renewed certificate can stand beside the one before, which has ended. Gateways that have either share tokens.
func TestRenewedCertificateOfTheSameKey(t *testing.T) {
	key := servertest.Keys()["P-256"]
	parse := func(certificates string) *PrivateKey {
		k, err := ParsePrivateKey([]byte(servertest.PKCS8(t, key)))
		if err == nil {
			err = k.certify([]byte(certificates))
		}
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	old, renewed := certificateUntil(t, key, testTime), certificateUntil(t, key, testTime.Add(time.Hour))
	both := parse(old + renewed)
	if !both.Certificate().NotAfter.After(testTime) || len(both.certificates) != 1 {
		t.Errorf("of %d certificates, that until %s is used", len(both.certificates), both.Certificate().NotAfter)
	}
	a, b := keyRequest(t, "P-256", AssertionOptions{}), keyRequest(t, "P-256", AssertionOptions{})
	a.Assertion, b.Assertion = NewAssertion(AssertionOptions{}, parse(old)), NewAssertion(AssertionOptions{}, both)
	if a.Key() == b.Key() {
		t.Error("a renewed certificate does not end a pause")
	}
	if a.PortableKey(nil) != b.PortableKey(nil) {
		t.Error("a renewed certificate makes another token in the storage")
	}
}

// Key and certificate are replaced one after the other. In between the pair before stays in use.
func TestKeyAndCertificateAreReplacedTogether(t *testing.T) {
	keys := servertest.Keys()
	for _, order := range [][]string{{"key", "certificate"}, {"certificate", "key"}} {
		dir := t.TempDir()
		file := &KeyFile{Path: filepath.Join(dir, "key"), Certificate: filepath.Join(dir, "certificate")}
		write := func(what, kind string) {
			if what == "key" {
				servertest.WriteFile(t, file.Path, servertest.PKCS8(t, keys[kind]))
				return
			}
			servertest.WriteFile(t, file.Certificate, certificateFor(t, keys[kind], kind))
		}
		write("key", "P-256")
		write("certificate", "P-256")
		first, _, err := file.Read()
		if err != nil {
			t.Fatal(err)
		}
		write(order[0], "P-384")
		if key, stale, err := file.Read(); key != first || stale == nil || err != nil {
			t.Errorf("%v: in between got %v, %v", order, stale, err)
		}
		write(order[1], "P-384")
		key, stale, err := file.Read()
		if err != nil || stale != nil || key.publicHash == first.publicHash || key.thumbprint() == first.thumbprint() {
			t.Errorf("%v: at last got %v, %v", order, stale, err)
		}
		a, b := NewAssertion(AssertionOptions{}, first), NewAssertion(AssertionOptions{}, key)
		if slices.Equal(a.fields(), b.fields()) {
			t.Error("they make the same grant")
		}
	}
}
