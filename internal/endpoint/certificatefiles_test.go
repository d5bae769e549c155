package endpoint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// rotatedFiles are the files of a client certificate that a test replaces.
type rotatedFiles struct {
	*CertificateFiles
	t  *testing.T
	ca *servertest.CA
}

func newRotatedFiles(t *testing.T) *rotatedFiles {
	dir := t.TempDir()
	f := &rotatedFiles{t: t, ca: servertest.NewCA(t), CertificateFiles: &CertificateFiles{
		CertificatePath: filepath.Join(dir, "tls.crt"), KeyPath: filepath.Join(dir, "tls.key"), Patience: time.Minute,
	}}
	f.put(f.issue(time.Hour))
	return f
}

// issue makes a pair that is valid until then, from a day before it.
func (f *rotatedFiles) issue(left time.Duration) (certificate, key string) {
	end := time.Now().Add(left)
	return f.ca.ClientPair(f.t, "app", end.Add(-24*time.Hour), end)
}

func (f *rotatedFiles) put(certificate, key string) {
	servertest.WriteFile(f.t, f.CertificatePath, certificate)
	servertest.WriteFile(f.t, f.KeyPath, key)
}

// read wants a pair, and returns its certificate and what is said of the files.
func (f *rotatedFiles) read() (certificate, stale string) {
	f.t.Helper()
	pair, problem, err := f.Read()
	if err != nil {
		f.t.Fatal(err)
	}
	if problem != nil {
		stale = problem.Error()
	}
	return pair.Certificate, stale
}

// want wants this pair, and that nothing is said of the files.
func (f *rotatedFiles) want(certificate string) {
	f.t.Helper()
	if got, stale := f.read(); got != certificate || stale != "" {
		f.t.Errorf("another certificate (%t), %q", got != certificate, stale)
	}
}

// Between the two writes, the files don't belong together.
func TestCertificateIsReplacedInEitherOrder(t *testing.T) {
	for name, order := range map[string][2]int{"the certificate first": {0, 1}, "the key first": {1, 0}} {
		t.Run(name, func(t *testing.T) {
			f := newRotatedFiles(t)
			before, _ := f.read()
			certificate, key := f.issue(2 * time.Hour)
			content, path := [2]string{certificate, key}, [2]string{f.CertificatePath, f.KeyPath}
			servertest.WriteFile(t, path[order[0]], content[order[0]])
			f.want(before)
			servertest.WriteFile(t, path[order[1]], content[order[1]])
			f.want(certificate)
			pair, _, _ := f.Read()
			if again, _, _ := f.Read(); again != pair || string(pair.Key) != key || len(pair.TLS.Certificate) != 1 {
				t.Error("the same content is another pair")
			}
		})
	}
}

// Kubernetes puts a volume in place by renaming one link.
func TestCertificateIsReplacedByALink(t *testing.T) {
	f := newRotatedFiles(t)
	dir := t.TempDir()
	link := filepath.Join(dir, "..data")
	point := func(version, certificate, key string) {
		folder := filepath.Join(dir, version)
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		servertest.WriteFile(t, filepath.Join(folder, "tls.crt"), certificate)
		servertest.WriteFile(t, filepath.Join(folder, "tls.key"), key)
		if err := os.Symlink(version, link+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link+".new", link); err != nil {
			t.Fatal(err)
		}
	}
	f.CertificatePath, f.KeyPath = filepath.Join(link, "tls.crt"), filepath.Join(link, "tls.key")
	first, firstKey := f.issue(time.Hour)
	point("1", first, firstKey)
	f.want(first)
	second, secondKey := f.issue(time.Hour)
	point("2", second, secondKey)
	f.want(second)
}

func TestCertificateThatCannotBeUsedLeavesTheOneBefore(t *testing.T) {
	for name, test := range map[string]struct {
		replace func(f *rotatedFiles)
		want    []string // in what is said
	}{
		"of another key": {func(f *rotatedFiles) {
			certificate, _ := f.issue(time.Hour)
			servertest.WriteFile(f.t, f.CertificatePath, certificate)
		}, []string{"tls.crt and ", "tls.key: ", "private key does not match public key"}},
		"no PEM":      {func(f *rotatedFiles) { f.put("canary", "canary") }, []string{"tls.crt and ", "failed to find any PEM data"}},
		"key missing": {func(f *rotatedFiles) { _ = os.Remove(f.KeyPath) }, []string{"tls.key", "no such file"}},
		"too large": {func(f *rotatedFiles) {
			servertest.WriteFile(f.t, f.CertificatePath, strings.Repeat("\n", maxCertificateFile+1))
		}, []string{"tls.crt: the file is larger than 1 MiB"}},
		"expired": {func(f *rotatedFiles) { f.put(f.issue(-time.Minute)) }, []string{"tls.crt: the certificate ended on 19", "before the one in use"}},
		"not valid yet": {func(f *rotatedFiles) {
			begin := time.Now().Add(2 * time.Hour)
			f.put(f.ca.ClientPair(f.t, "app", begin, begin.Add(time.Hour)))
		}, []string{"tls.crt: the certificate is only valid from 2000-01-01T0", ":00Z on, and the one in use is valid now"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newRotatedFiles(t)
				before, _ := f.read()
				test.replace(f)
				f.want(before)
				time.Sleep(certificateSettleTime - 1)
				f.want(before)
				time.Sleep(time.Nanosecond)
				got, stale := f.read()
				if got != before {
					t.Error("another certificate")
				}
				for _, part := range append(test.want, filepath.Dir(f.KeyPath)) {
					if !strings.Contains(stale, part) || strings.Contains(stale, "canary") {
						t.Errorf("said %q, want %q in it", stale, part)
					}
				}
				time.Sleep(time.Hour / 2)
				f.want(before) // once

				certificate, key := f.issue(time.Hour)
				f.put(certificate, key)
				f.want(certificate)
				test.replace(f)
				f.want(certificate)
				time.Sleep(certificateSettleTime)
				if _, stale := f.read(); stale == "" {
					t.Error("nothing is said the next time")
				}
			})
		})
	}
}

// Nothing is lost if the one in use has expired as well.
func TestExpiredCertificateReplacesAnExpiredOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRotatedFiles(t)
		f.read()
		time.Sleep(2 * time.Hour)
		certificate, key := f.issue(-time.Minute)
		f.put(certificate, key)
		f.want(certificate)
	})
}

// It needs no further change of the files, and does not wait for its day when the one in use has expired.
func TestCertificateThatIsNotValidYetIsTakenLater(t *testing.T) {
	for name, test := range map[string]struct{ begins, taken time.Duration }{
		"while the one in use is valid":    {30 * time.Minute, 29 * time.Minute}, // clocks differ by a minute
		"after the one in use has expired": {24 * time.Hour, time.Hour + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newRotatedFiles(t)
				before, _ := f.read()
				begin := time.Now().Add(test.begins)
				certificate, key := f.ca.ClientPair(t, "app", begin, begin.Add(time.Hour))
				f.put(certificate, key)
				f.want(before)
				time.Sleep(test.taken - 2*time.Second)
				if got, _ := f.read(); got != before {
					t.Error("the certificate is taken too early")
				}
				time.Sleep(2 * time.Second)
				f.want(certificate)
			})
		})
	}
}

func TestCertificateOfAClockThatIsAheadIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRotatedFiles(t)
		f.read()
		begin := time.Now().Add(maxClockSkew)
		certificate, key := f.ca.ClientPair(t, "app", begin, begin.Add(time.Hour))
		f.put(certificate, key)
		f.want(certificate)
	})
}

func TestCertificateThatNeverWasUsable(t *testing.T) {
	f := newRotatedFiles(t)
	servertest.WriteFile(t, f.KeyPath, "canary")
	if pair, stale, err := f.Read(); pair != nil || stale != nil || err == nil || !strings.Contains(err.Error(), "transport: tls_client_auth: "+f.CertificatePath) {
		t.Errorf("got %v, %v, %v", pair, stale, err)
	}
	certificate, key := f.issue(time.Hour)
	f.put(certificate, key)
	f.want(certificate)
}
