package endpoint

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// KeyFile reads a signing key, and reads it again when its file changes: keys are replaced while
// gateways run. It is not safe for concurrent use.
type KeyFile struct {
	// Set once.
	Path        string
	Alg         string // the key must fit this algorithm; empty for any
	Certificate string // file with the key's certificate, in PEM; empty for none

	// What the file has to say beside the key, as that of a Google service account does.
	NamesEndpoint bool
	NamesIssuer   bool
	InsecureHTTP  bool // an endpoint with http is allowed

	// The last usable key, and the hash of the files' content that it comes from.
	key     *PrivateKey // nil until there is one
	content [sha256.Size]byte
	problem string // why key is not the one in the file, as Read reported it; empty if it is
}

// Read returns the key in the file, or else the last usable one: a file that is just being written must not cause an
// outage. The same goes for the certificate, which changes together with the key. If the key is not the one in the
// file, stale says why, once. err is set if the file never had a usable key.
func (f *KeyFile) Read() (key *PrivateKey, stale, err error) {
	key, content, err := f.parse()
	if err != nil {
		err = fmt.Errorf("signing_key: %w", err)
		if f.key == nil {
			return nil, nil, err
		}
		if f.problem != err.Error() {
			f.problem, stale = err.Error(), err
		}
		return f.key, stale, nil
	}
	f.key, f.content, f.problem = key, content, ""
	return key, nil, nil
}

// parse returns the key in the file, with its certificate, and the hash of what the files contain. It does not
// parse the same content again.
func (f *KeyFile) parse() (*PrivateKey, [sha256.Size]byte, error) {
	data, err := readKeyFile(f.Path)
	if err != nil {
		return nil, [sha256.Size]byte{}, fmt.Errorf("%s: %w", f.Path, err)
	}
	var certificate []byte
	if f.Certificate != "" {
		if certificate, err = readKeyFile(f.Certificate); err != nil {
			return nil, [sha256.Size]byte{}, fmt.Errorf("certificate: %s: %w", f.Certificate, err)
		}
	}
	hash := sha256.Sum256(data)
	content := sha256.Sum256(append(hash[:], certificate...))
	if f.key != nil && content == f.content {
		return f.key, content, nil
	}
	key, err := ParsePrivateKey(data)
	if err != nil {
		return nil, content, fmt.Errorf("%s: %w", f.Path, err)
	}
	if fitting := algsFor(key.signer); f.Alg != "" && !slices.Contains(fitting, jose.SignatureAlgorithm(f.Alg)) {
		return nil, content, fmt.Errorf("%s: alg %s does not fit the key; use %s, or another key", f.Path, f.Alg, joinAlgs(fitting))
	}
	if err := f.checkAccount(key.account); err != nil {
		return nil, content, fmt.Errorf("%s: %w", f.Path, err)
	}
	if f.Certificate != "" {
		if err := key.certify(certificate); err != nil {
			return nil, content, fmt.Errorf("certificate: %s: %w", f.Certificate, err)
		}
	}
	return key, content, nil
}

// checkAccount refuses a file that does not say what it has to.
func (f *KeyFile) checkAccount(account serviceAccount) error {
	switch {
	case f.NamesEndpoint && account.tokenEndpoint == "":
		return errors.New("the file names no token endpoint, as the key file of a Google service account does; give the URL in token_endpoint")
	case f.NamesIssuer && account.email == "":
		return errors.New("the file names no issuer, as the key file of a Google service account does; give it in the block of grant, or give client_id")
	case f.NamesEndpoint:
		return checkEndpoint(account.tokenEndpoint, f.InsecureHTTP)
	}
	return nil
}

// maxKeyFile bounds the size of a signing key's file, in bytes. Keys are a few KiB.
const maxKeyFile = 64 << 10

// readKeyFile reads the file of a key or of its certificate. Its errors don't contain the path.
func readKeyFile(path string) ([]byte, error) { return readFile(path, maxKeyFile, "64 KiB") }

// readFile reads a file of a key or a certificate, of most bytes. named says the same in words. Its errors don't contain
// the path.
func readFile(path string, most int64, named string) ([]byte, error) {
	file, err := os.Open(path) //nolint:gosec // the configuration names it
	if err != nil {
		if pathErr, ok := errors.AsType[*os.PathError](err); ok {
			err = pathErr.Err // the caller adds the path
		}
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, most+1))
	if err != nil {
		return nil, errors.New("the file can't be read")
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("the file is larger than %s, which no key and no certificate is", named)
	}
	return data, nil
}

// IsReadableByAll reports whether every user of the machine can read the key. It is false if that is
// unknown, as on Windows.
func (f *KeyFile) IsReadableByAll() bool {
	info, err := os.Stat(f.Path)
	return err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o004 != 0
}
