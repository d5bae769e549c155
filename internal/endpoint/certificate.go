package endpoint

import (
	"bytes"
	"crypto"
	"crypto/sha1" //nolint:gosec // RFC 7515 §4.1.7: a name for a certificate, which signs nothing
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"

	"github.com/go-jose/go-jose/v4"
)

// This file names the certificate of a signing key in what the key signs. Some servers know a client's key only
// by its certificate.

// certify adds the key's certificate, and those that certify it, from PEM. Its errors contain nothing of the file.
func (k *PrivateKey) certify(data []byte) error {
	certificates, err := parseCertificates(data)
	if err != nil {
		return err
	}
	own := -1
	for i, certificate := range certificates { // of several, such as the one before, the one that ends last
		if k.isOf(certificate) && (own < 0 || certificate.NotAfter.After(certificates[own].NotAfter)) {
			own = i
		}
	}
	if own < 0 {
		return errors.New("the certificate is not that of the key; give the one that was made for this key")
	}
	k.certificates = []*x509.Certificate{certificates[own]} // RFC 7515 §4.1.6: its own comes first
	for _, certificate := range certificates {
		if !k.isOf(certificate) {
			k.certificates = append(k.certificates, certificate)
		}
	}
	return nil
}

// isOf reports whether a certificate is for the key.
func (k *PrivateKey) isOf(certificate *x509.Certificate) bool {
	public, ok := certificate.PublicKey.(interface {
		Equal(other crypto.PublicKey) bool
	})
	return ok && public.Equal(k.signer.Public())
}

// parseCertificates reads the certificates among PEM blocks. There is at least one.
func parseCertificates(data []byte) (certificates []*x509.Certificate, err error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("a PEM block CERTIFICATE is not a valid certificate")
		}
		certificates = append(certificates, certificate)
	}
	switch {
	case len(certificates) > 0:
		return certificates, nil
	case bytes.HasPrefix(data, []byte("\x30\x82")): // a sequence in DER
		return nil, errors.New("the certificate is not in PEM; write it so, such as with openssl x509 -inform DER -in <file> -out <new file>")
	}
	return nil, errors.New("the file holds no certificate in PEM")
}

// thumbprint returns the name of the key's certificate in a GrantKey. It is empty without one.
func (k *PrivateKey) thumbprint() string {
	if k == nil || len(k.certificates) == 0 {
		return ""
	}
	sum := sha256.Sum256(k.certificates[0].Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// nameCertificate writes the certificate's names into a JWT's header (RFC 7515 §4.1.7 and §4.1.8), and, with
// chain, all certificates (§4.1.6).
func (k *PrivateKey) nameCertificate(options *jose.SignerOptions, chain bool) {
	if k == nil || len(k.certificates) == 0 {
		return
	}
	sum := sha1.Sum(k.certificates[0].Raw) //nolint:gosec // as above
	options.WithHeader("x5t", base64.RawURLEncoding.EncodeToString(sum[:]))
	options.WithHeader("x5t#S256", k.thumbprint())
	if !chain {
		return
	}
	list := make([]string, len(k.certificates))
	for i, certificate := range k.certificates {
		list[i] = base64.StdEncoding.EncodeToString(certificate.Raw) // not base64url there
	}
	options.WithHeader("x5c", list)
}
