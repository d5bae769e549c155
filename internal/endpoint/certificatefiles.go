package endpoint

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// CertificateFiles reads a client certificate and its key, and reads them again when their files change:
// certificates are replaced while gateways run. It is not safe for concurrent use.
type CertificateFiles struct {
	// Set once.
	CertificatePath string
	KeyPath         string
	Patience        time.Duration // how long Read waits for the files once it has had a pair

	// The last usable pair.
	pair *ClientCertificate // nil until there is one

	// Why pair is not the one in the files; zero if it is.
	unusableSince time.Time
	reported      string // the last problem that Read has returned as stale

	reading chan filesRead // the outcome of a read that has not ended in time; nil without
}

// ClientCertificate is a certificate with its key. It does not change.
type ClientCertificate struct {
	TLS tls.Certificate // with its Leaf

	Certificate string // the content of its file, in PEM
	Key         []byte // likewise
}

// maxCertificateFile bounds the size of each file, in bytes. Chains are some KiB.
const maxCertificateFile = 1 << 20

// certificateSettleTime is how long Read does not report files that can't be used: they are replaced one
// after the other, and don't belong together in between.
const certificateSettleTime = 5 * time.Second

// maxClockSkew is how much later than now a certificate may begin: the clock of who has issued it can be ahead.
const maxClockSkew = time.Minute

// Read returns the pair in the files, or else the last usable one: files that are just being replaced must not cause
// an outage. If the files can't be used for 5 seconds, stale says why, once. err is set if the files never had a
// usable pair.
func (f *CertificateFiles) Read() (pair *ClientCertificate, stale, err error) {
	pair, err = f.readUsable()
	switch {
	case err == nil:
		f.pair, f.unusableSince, f.reported = pair, time.Time{}, ""
		return pair, nil, nil
	case f.pair == nil:
		return nil, nil, fmt.Errorf("transport: tls_client_auth: %w", err)
	}
	if f.unusableSince.IsZero() {
		f.unusableSince = time.Now()
	}
	if time.Since(f.unusableSince) >= certificateSettleTime && f.reported != err.Error() {
		f.reported, stale = err.Error(), err
	}
	return f.pair, stale, nil
}

// Settling returns how long it takes until Read says why the files can't be used. ok is false if it has nothing to
// say, or has said something.
func (f *CertificateFiles) Settling() (left time.Duration, ok bool) {
	if f.unusableSince.IsZero() || f.reported != "" {
		return 0, false
	}
	return certificateSettleTime - time.Since(f.unusableSince), true
}

// readUsable returns the pair in the files. It does not parse the same content again.
func (f *CertificateFiles) readUsable() (*ClientCertificate, error) {
	read := f.readInTime()
	if read.err != nil {
		return nil, read.err
	}
	if f.pair != nil && string(read.certificate) == f.pair.Certificate && bytes.Equal(read.key, f.pair.Key) {
		return f.pair, nil
	}
	parsed, err := tls.X509KeyPair(read.certificate, read.key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", f.CertificatePath, f.KeyPath, err)
	}
	if err := f.whyWorse(parsed.Leaf, time.Now()); err != nil {
		return nil, err
	}
	return &ClientCertificate{TLS: parsed, Certificate: string(read.certificate), Key: read.key}, nil
}

// whyWorse says why the certificate in use, if it is valid, is better than the one in the file.
func (f *CertificateFiles) whyWorse(next *x509.Certificate, now time.Time) error {
	switch {
	case f.pair == nil || now.After(f.pair.TLS.Leaf.NotAfter):
		return nil
	case now.After(next.NotAfter):
		return fmt.Errorf("%s: the certificate ended on %s, before the one in use", f.CertificatePath, next.NotAfter.UTC().Format(time.RFC3339))
	case next.NotBefore.Sub(now) > maxClockSkew && now.After(f.pair.TLS.Leaf.NotBefore):
		return fmt.Errorf("%s: the certificate is only valid from %s on, and the one in use is valid now",
			f.CertificatePath, next.NotBefore.UTC().Format(time.RFC3339))
	default:
		return nil
	}
}

// filesRead is the content of both files.
type filesRead struct {
	certificate, key []byte
	err              error
}

var errFilesHang = errors.New("the files could not be read in time; they may be on a mount that hangs")

// readInTime reads the files. If a mount hangs, the pair in memory is still good. So readInTime waits no longer than
// f.Patience, and does not start another read while one hangs. The files may have changed since a read that ended
// after that. It counts only if the next read takes too long as well: it is still newer than the pair in memory. The
// first time, readInTime waits as long as it takes, as Caddy does for the same files.
func (f *CertificateFiles) readInTime() filesRead {
	if f.pair == nil {
		return f.readFiles()
	}
	late := filesRead{err: errFilesHang}
	if f.reading != nil {
		select {
		case read := <-f.reading:
			if read.err == nil {
				late = read
			}
		default:
			return late // it has been waited for
		}
	}
	f.reading = make(chan filesRead, 1)
	go func(done chan<- filesRead) { done <- f.readFiles() }(f.reading)
	timeout := time.NewTimer(f.Patience)
	defer timeout.Stop()
	select {
	case read := <-f.reading:
		f.reading = nil
		return read
	case <-timeout.C:
	}
	select {
	case read := <-f.reading: // both were ready
		f.reading = nil
		return read
	default:
		return late
	}
}

// readFiles reads both files. It uses only fields that are set once.
func (f *CertificateFiles) readFiles() (read filesRead) {
	content := func(path string) (data []byte) {
		if read.err == nil {
			if data, read.err = readFile(path, maxCertificateFile, "1 MiB"); read.err != nil {
				read.err = fmt.Errorf("%s: %w", path, read.err)
			}
		}
		return data
	}
	read.certificate = content(f.CertificatePath)
	read.key = content(f.KeyPath)
	return read
}
