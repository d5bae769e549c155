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

// hangingFile is a pipe in the place of a file. Who reads the file hangs until something is written.
func hangingFile(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}

// endHang gives the one reader that hangs its content, and waits until it has ended.
func (f *rotatedFiles) endHang(content string) {
	f.t.Helper()
	pipe, err := os.OpenFile(f.CertificatePath, os.O_WRONLY, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := pipe.WriteString(content); err != nil {
		f.t.Fatal(err)
	}
	if err := pipe.Close(); err != nil {
		f.t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); len(f.reading) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatal("the read has not ended")
		}
	}
}

// A pipe that nobody writes to stands in for a mount that hangs.
func TestCertificateOnAMountThatHangs(t *testing.T) {
	f := newRotatedFiles(t)
	before, _ := f.read()
	certificate, key := f.issue(time.Hour)
	servertest.WriteFile(t, f.KeyPath, key)
	hangingFile(t, f.CertificatePath)
	f.Patience = time.Millisecond
	for range 3 {
		f.want(before)
	}
	f.unusableSince = time.Now().Add(-certificateSettleTime)
	if _, stale, err := f.Read(); !errors.Is(stale, errFilesHang) || err != nil {
		t.Errorf("said %v, %v", stale, err)
	}
	f.endHang(certificate)
	servertest.WriteFile(t, f.CertificatePath, certificate) // in the place of the pipe
	f.Patience = time.Minute
	f.want(certificate)
}

// What a read has found that hung for a day is a day old.
func TestFilesReplacedWhileAReadHungAreReadAgain(t *testing.T) {
	f := newRotatedFiles(t)
	before, _ := f.read()
	second, secondKey := f.issue(time.Hour)
	servertest.WriteFile(t, f.KeyPath, secondKey)
	hangingFile(t, f.CertificatePath)
	f.Patience = time.Millisecond
	f.want(before)
	f.endHang(second)
	third, thirdKey := f.issue(time.Hour)
	f.put(third, thirdKey)
	f.Patience = time.Minute
	f.want(third)
}

// Every read takes longer than Read waits. What the last one found is still newer than the pair in use.
func TestCertificateOnASlowMountIsTakenByTheNextLook(t *testing.T) {
	f := newRotatedFiles(t)
	before, _ := f.read()
	certificate, key := f.issue(time.Hour)
	servertest.WriteFile(t, f.KeyPath, key)
	hangingFile(t, f.CertificatePath)
	f.Patience = time.Millisecond
	f.want(before)
	f.endHang(certificate)
	f.want(certificate)
	f.endHang("canary")
	if got, stale := f.read(); got != certificate || stale != "" {
		t.Errorf("another certificate (%t), %q", got != certificate, stale)
	}
	f.endHang(certificate)
}
