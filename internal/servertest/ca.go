package servertest

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

// CA signs certificates that nobody trusts.
type CA struct {
	Certificate *x509.Certificate
	PEM         []byte

	key *ecdsa.PrivateKey
}

// NewCA makes one with a key of its own.
func NewCA(t testing.TB) *CA {
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
	return &CA{certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key}
}

// issue signs a certificate with a key of its own.
func (ca *CA) issue(t testing.TB, template x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		t.Fatal(err)
	}
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-24 * time.Hour)
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, &template, ca.Certificate, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Server is a certificate for a host.
func (ca *CA) Server(t testing.TB, host string, notAfter time.Time) tls.Certificate {
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

// Client writes a client's certificate and its key into files. It is valid for a day.
func (ca *CA) Client(t testing.TB, name string) (certFile, keyFile string) {
	t.Helper()
	certificate, key := ca.ClientPair(t, name, time.Now().Add(-24*time.Hour), time.Now().Add(24*time.Hour))
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "client.pem"), filepath.Join(dir, "client-key.pem")
	WriteFile(t, certFile, certificate)
	WriteFile(t, keyFile, key)
	return certFile, keyFile
}

// ClientPair is a client's certificate and its key, in PEM.
func (ca *CA) ClientPair(t testing.TB, name string, notBefore, notAfter time.Time) (certificate, key string) {
	t.Helper()
	issued := ca.issue(t, x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: notBefore, NotAfter: notAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return PEM("CERTIFICATE", issued.Certificate[0]), PKCS8(t, issued.PrivateKey)
}

// File writes the CA's own certificate into a file.
func (ca *CA) File(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	WriteFile(t, file, string(ca.PEM))
	return file
}

// Serve starts a server over TLS with a certificate for that host, and returns its
// address.
func (ca *CA) Serve(t testing.TB, host string, notAfter time.Time, handler http.Handler) string {
	t.Helper()
	return ca.Start(t, ca.Server(t, host, notAfter), handler, tls.NoClientCert).Listener.Addr().String()
}

// StartForClients runs a server on loopback to which clients come with a certificate of
// the CA.
func (ca *CA) StartForClients(t testing.TB, handler http.Handler) *httptest.Server {
	t.Helper()
	return ca.Start(t, ca.Server(t, "127.0.0.1", time.Now().Add(time.Hour)), handler, tls.RequireAndVerifyClientCert)
}

// Start runs a server over TLS.
func (ca *CA) Start(t testing.TB, certificate tls.Certificate, handler http.Handler, client tls.ClientAuthType) *httptest.Server {
	t.Helper()
	server := ca.Unstarted(t, certificate, handler, client)
	server.StartTLS()
	return server
}

// Unstarted is a server for a test to start, with StartTLS.
func (ca *CA) Unstarted(t testing.TB, certificate tls.Certificate, handler http.Handler, client tls.ClientAuthType) *httptest.Server {
	t.Helper()
	trusted := x509.NewCertPool()
	trusted.AddCert(ca.Certificate)
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: client, ClientCAs: trusted}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // failed handshakes are what these tests are about
	t.Cleanup(server.Close)
	return server
}
