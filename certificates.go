package oauthcc

import (
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/help"
)

// What a certificate is for: the values of the label and the log field certificate.
const (
	certificateOfClient = "client"      // of the connection to the token endpoint
	certificateOfKey    = "signing_key" // named in assertions
)

// Warnings of a certificate begin 30 days before it expires. A certificate that lives for a week at most is usually
// renewed by a program when a third of its life is left. The warning comes when a quarter is left.
const (
	certificateWarningTime  = 30 * 24 * time.Hour
	certificateShortLife    = 7 * 24 * time.Hour
	certificateWarningShare = 4
	certificateWarningPause = 24 * time.Hour // from one warning to the next
)

// certificate is one that a handler uses.
type certificate struct {
	use                 string // certificateOfClient, ...
	file                string
	notBefore, notAfter time.Time
}

// newCertificate describes the first certificate in a file.
func newCertificate(use, file string, leaf *x509.Certificate) certificate {
	return certificate{use: use, file: file, notBefore: leaf.NotBefore, notAfter: leaf.NotAfter}
}

// endsSoon reports whether operators should know that the certificate ends. It is also true after the end.
func (c certificate) endsSoon(now time.Time) bool {
	ahead := certificateWarningTime
	if life := c.notAfter.Sub(c.notBefore); life <= certificateShortLife {
		ahead = life / certificateWarningShare
	}
	return now.After(c.notAfter.Add(-ahead))
}

func (c certificate) hasEnded(now time.Time) bool { return now.After(c.notAfter) }

// certificates are those that a handler uses, one for each use.
type certificates struct {
	mu   sync.Mutex
	list []certificate
}

// put notes which certificate is in use now.
func (s *certificates) put(c certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.list, func(other certificate) bool { return other.use == c.use }); i >= 0 {
		s.list[i] = c
		return
	}
	s.list = append(s.list, c)
}

func (s *certificates) all() []certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// notes tells of the certificates that end soon, for the check.
func (s *certificates) notes(now time.Time) (notes []string) {
	for _, c := range s.all() {
		switch ends := c.notAfter.UTC().Format(time.RFC3339); {
		case c.hasEnded(now):
			notes = append(notes, fmt.Sprintf("the certificate in %s expired on %s", c.file, ends))
		case c.endsSoon(now):
			notes = append(notes, fmt.Sprintf("the certificate in %s expires on %s", c.file, ends))
		}
	}
	return notes
}

// certificateWarnings are the last ones of this process. Handlers that use the same file, also those of the next
// configuration, would each repeat them.
var certificateWarnings struct {
	mu   sync.Mutex
	last map[certificateWarning]time.Time
}

// certificateWarning is what a warning is about.
type certificateWarning struct {
	use, file string
	notAfter  int64 // in Unix time
	ended     bool
}

// isCertificateWarningDue reports whether a warning was not logged within a day, and notes that it is logged now.
func isCertificateWarningDue(w certificateWarning, now time.Time) bool {
	warnings := &certificateWarnings
	warnings.mu.Lock()
	defer warnings.mu.Unlock()
	if warnings.last == nil {
		warnings.last = make(map[certificateWarning]time.Time)
	}
	for other, at := range warnings.last { // few, as they are not kept for longer
		if since := now.Sub(at); since < 0 || since >= certificateWarningPause {
			delete(warnings.last, other)
		}
	}
	if _, ok := warnings.last[w]; ok {
		return false
	}
	warnings.last[w] = now
	return true
}

// warnOfCertificates logs which certificates end soon, or have ended.
func (o *reporter) warnOfCertificates() {
	now := time.Now()
	for _, c := range o.certificates.all() {
		w := certificateWarning{use: c.use, file: c.file, notAfter: c.notAfter.Unix(), ended: c.hasEnded(now)}
		if !c.endsSoon(now) || !isCertificateWarningDue(w, now) {
			continue
		}
		message := "a certificate expires soon; replace its file"
		if w.ended {
			message = "a certificate has expired; replace its file"
		}
		help.Write(o.logger.Check(zapcore.WarnLevel, message), "", o.grantFields(
			zap.String("certificate", c.use), zap.String("file", c.file), zap.String("expires_at", c.notAfter.UTC().Format(time.RFC3339)))...)
	}
}

// certificateLabels are the labels of a certificate's expiry.
type certificateLabels struct {
	metricLabels
	use string
}

// certificateExpiries looks at the certificates of the running configuration. Of several with the same labels, the
// first to end counts.
func certificateExpiries() map[certificateLabels]time.Time {
	expiries := make(map[certificateLabels]time.Time)
	for _, h := range handlers.running() {
		for _, c := range h.reporter.certificates.all() {
			l := certificateLabels{h.reporter.labels, c.use}
			if other, ok := expiries[l]; !ok || c.notAfter.Before(other) {
				expiries[l] = c.notAfter
			}
		}
	}
	return expiries
}
