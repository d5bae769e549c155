package servers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certificateAuthority issues the certificates of servers and clients.
type certificateAuthority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         string
	pool        *x509.CertPool
	file        string // with the certificate
	dir         string
}

// certificate is one that was issued, with its key, also as files.
type certificate struct {
	tls.Certificate
	pem, keyPEM       string
	certFile, keyFile string
}

func newCertificateAuthority(dir string) (*certificateAuthority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	ca := &certificateAuthority{key: key, pem: encodePEM("CERTIFICATE", der), pool: x509.NewCertPool(), dir: dir}
	if ca.certificate, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	ca.pool.AddCert(ca.certificate)
	ca.file, err = writeFile(dir, "ca.pem", ca.pem)
	return ca, err
}

// issue issues a certificate for a server's address, or for a client by that name,
// whose subject is CN=name,O=Test then.
func (ca *certificateAuthority) issue(name string) (*certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name, Organization: []string{"Test"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.certificate, &key.PublicKey, ca.key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	c := &certificate{pem: encodePEM("CERTIFICATE", der), keyPEM: encodePEM("PRIVATE KEY", keyDER)}
	if c.Certificate, err = tls.X509KeyPair([]byte(c.pem), []byte(c.keyPEM)); err != nil {
		return nil, err
	}
	if c.certFile, err = writeFile(ca.dir, serial.String()+".crt", c.pem); err != nil {
		return nil, err
	}
	c.keyFile, err = writeFile(ca.dir, serial.String()+".key", c.keyPEM)
	return c, err
}

// transport are the options with which Caddy trusts the CA, and shows a certificate if
// there is one.
func (ca *certificateAuthority) transport(c *certificate) string {
	options := "tls_trust_pool file " + ca.file
	if c != nil {
		options += "\ntls_client_auth " + c.certFile + " " + c.keyFile
	}
	return options
}

func encodePEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func writeFile(dir, name, content string) (string, error) {
	file := filepath.Join(dir, name)
	return file, os.WriteFile(file, []byte(content), 0o600)
}
