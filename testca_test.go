package oauthcc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"
)

// testCA signs certificates that nobody trusts.
type testCA struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Canary CA"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue signs a certificate with a key of its own.
func (ca *testCA) issue(t testing.TB, template x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		t.Fatal(err)
	}
	template.NotBefore, template.KeyUsage = time.Now().Add(-24*time.Hour), x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, &template, ca.certificate, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// server is a certificate for a host.
func (ca *testCA) server(t testing.TB, host string, notAfter time.Time) tls.Certificate {
	template := x509.Certificate{
		Subject: pkix.Name{CommonName: host}, NotAfter: notAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	return ca.issue(t, template)
}

// client writes a client's certificate and its key into files.
func (ca *testCA) client(t testing.TB, name string) (certFile, keyFile string) {
	t.Helper()
	issued := ca.issue(t, x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "client.pem"), filepath.Join(dir, "client-key.pem")
	writeFile(t, certFile, pemBlock("CERTIFICATE", issued.Certificate[0]))
	writeFile(t, keyFile, pkcs8(t, issued.PrivateKey))
	return certFile, keyFile
}

// file writes the CA's own certificate into a file.
func (ca *testCA) file(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, file, string(ca.pem))
	return file
}

// serve starts a token endpoint over TLS with a certificate for that host, and
// returns its address.
func (ca *testCA) serve(t testing.TB, host string, notAfter time.Time) string {
	t.Helper()
	server := ca.start(t, ca.server(t, host, notAfter), startTokenServer(t), tls.NoClientCert)
	return server.Listener.Addr().String()
}

// startForClients runs a server on loopback to which clients come with a certificate of
// the CA.
func (ca *testCA) startForClients(t testing.TB, handler http.Handler) *httptest.Server {
	t.Helper()
	return ca.start(t, ca.server(t, "127.0.0.1", time.Now().Add(time.Hour)), handler, tls.RequireAndVerifyClientCert)
}

// start runs a server over TLS.
func (ca *testCA) start(t testing.TB, certificate tls.Certificate, handler http.Handler, client tls.ClientAuthType) *httptest.Server {
	t.Helper()
	trusted := x509.NewCertPool()
	trusted.AddCert(ca.certificate)
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: client, ClientCAs: trusted}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // failed handshakes are what these tests are about
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}
