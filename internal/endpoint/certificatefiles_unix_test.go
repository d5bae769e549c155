//go:build unix

package endpoint

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// A pipe that nobody writes to stands in for a mount that hangs.
func TestCertificateOnAMountThatHangs(t *testing.T) {
	f := newRotatedFiles(t)
	before, _ := f.read()
	certificate, key := f.issue(time.Hour)
	servertest.WriteFile(t, f.KeyPath, key)
	if err := os.Remove(f.CertificatePath); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(f.CertificatePath, 0o600); err != nil {
		t.Fatal(err)
	}
	f.Patience = time.Millisecond
	for range 3 {
		f.want(before)
	}
	f.unusableSince = time.Now().Add(-certificateSettleTime)
	if _, stale, err := f.Read(); !errors.Is(stale, errFilesHang) || err != nil {
		t.Errorf("said %v, %v", stale, err)
	}
	pipe, err := os.OpenFile(f.CertificatePath, os.O_WRONLY, 0) // of the one reader that hangs
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pipe.WriteString(certificate); err != nil {
		t.Fatal(err)
	}
	if err := pipe.Close(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if got, _ := f.read(); got == certificate {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the certificate is not taken")
		}
	}
	servertest.WriteFile(t, f.CertificatePath, certificate) // in the place of the pipe
	f.Patience = time.Minute
	f.want(certificate)
}
