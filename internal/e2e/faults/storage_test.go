package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// A storage that fails is as good as none. Its entries in the log name no endpoint, so rows run one after the other.
func TestStorageFaults(t *testing.T) {
	fine := func(log ...string) want {
		return want{"200 GET with token-1 | 200 GET with token-1", "GET / token-1 | GET / token-1", listed(log), once, nothing}
	}
	fails := func(operation string, err error) string {
		return fmt.Sprintf("the storage fails (%s, %s)", operation, err)
	}
	failing := func(err error, operations ...string) func(string) error {
		return func(operation string) error {
			if len(operations) == 0 || slices.Contains(operations, operation) {
				return err
			}
			return nil
		}
	}
	broken := errors.New("the storage is broken")
	group{alone: true, rows: []row{
		{name: "well", storage: failing(nil), ask: each(get, get), want: fine(gotFirst)},
		{name: "full disk", storage: failing(syscall.ENOSPC, "store"), ask: each(get, get), want: fine(gotFirst, fails("store", syscall.ENOSPC))},
		{name: "full disk, for locks too", storage: failing(syscall.ENOSPC, "store", "lock"), ask: each(get, get),
			want: fine(fails("lock", syscall.ENOSPC), gotFirst)},
		{name: "read-only", storage: failing(syscall.EROFS, "store", "lock", "unlock", "delete"), ask: each(get, get),
			want: fine(fails("lock", syscall.EROFS), gotFirst)},
		{name: "unreadable", storage: failing(syscall.EACCES, "load", "list"), ask: each(get, get), want: fine(fails("load", syscall.EACCES), gotFirst)},
		{name: "down", storage: failing(broken), ask: each(get, get), want: fine(fails("load", broken), gotFirst)},
		{name: "no locks", storage: failing(broken, "lock"), ask: each(get, get), want: fine(fails("lock", broken), gotFirst)},
		{name: "locks that are lost", storage: failing(broken, "unlock"), ask: each(get, get), want: fine(gotFirst)},
		{name: "no lists", storage: failing(broken, "list", "delete"), ask: each(get, get), want: fine(gotFirst)},
		{name: "an error of many lines", storage: failing(errors.New("first\nsecond\r\n\x1b[31mthird"), "load"), ask: get,
			want: want{"200 GET with token-1", "GET / token-1", fails("load", errors.New("first second   [31mthird")) + then + gotFirst, once, nothing}},
		{name: "down, and a token is rejected", storage: failing(broken), upstream: rejecting("token-1"), ask: post(60_000),
			want: want{"200 60000 bytes", "POST / token-1 60000 bytes | POST / token-2 60000 bytes", fails("load", broken) + then + gotFirst + then + gotRenewed,
				twice, nothing}},
		{name: "down, and the endpoint refuses", storage: failing(broken), endpoint: says(403, "", ""), ask: get,
			want: want{"502 refused", nothing, fails("load", broken) + then + failed("refused"), once, nothing}},
		{name: "another gateway holds the lock for ever", options: "timeout 4s", storage: failing(nil), prepare: func(p *play) { storageOf(p).TakeLocks() },
			ask: each(get, func(p *play) []string {
				storageOf(p).ReturnLocks()
				return nil
			}),
			want: want{"200 GET with token-1", "GET / token-1", "the lock for a token could not be had in time" + then + gotFirst, once, nothing}},
	}}.run(t)
}

// Files that hold secrets and keys are gone, empty or something else when they are needed.
func TestFileFaults(t *testing.T) {
	secret := func(p *play) string { return filepath.Join(p.dir, "secret") }
	// after has this happen to the file of the secret before the first request.
	after := func(happens func(p *play, file string)) func(*play) []string {
		return func(p *play) []string {
			happens(p, secret(p))
			got := get(p)
			_ = os.RemoveAll(secret(p))
			servertest.WriteFile(p.t, secret(p), "s3cret-canary")
			return got
		}
	}
	prepared := func(p *play) {
		servertest.WriteFile(p.t, secret(p), "s3cret-canary")
		p.options = "client_secret {file." + secret(p) + "}\n" + p.options
	}
	unresolved := want{"502 refused", nothing, failed("refused"), never, nothing}
	rows := []row{
		{name: "replaced", ask: after(func(p *play, file string) { servertest.WriteFile(p.t, file, "another-canary") }),
			want: want{"200 GET with token-1", "GET / token-1", gotFirst, once, nothing}},
		{name: "gone", ask: after(func(_ *play, file string) { _ = os.Remove(file) }), want: unresolved},
		{name: "empty", ask: after(func(p *play, file string) { servertest.WriteFile(p.t, file, "") }), want: unresolved},
		{name: "a folder", ask: after(func(_ *play, file string) {
			_ = os.Remove(file)
			_ = os.Mkdir(file, 0o700)
		}), want: unresolved},
		{name: "a link to itself", ask: after(func(_ *play, file string) {
			_ = os.Remove(file)
			_ = os.Symlink(file, file)
		}), want: unresolved},
		{name: "a link to nothing", ask: after(func(_ *play, file string) {
			_ = os.Remove(file)
			_ = os.Symlink(file+".gone", file)
		}), want: unresolved},
		{name: "larger than can be", ask: after(func(p *play, file string) { servertest.WriteFile(p.t, file, strings.Repeat("canary", 1<<20)) }),
			want: unresolved},
		{name: "wrong, and replaced while the endpoint refuses it", endpoint: by(func(v *visit) {
			servertest.WriteFile(v.at.play.t, secret(v.at.play), "another-canary")
			v.w.WriteHeader(401)
		}, (*visit).grant), ask: get, want: want{"200 GET with token-1", "GET / token-1", gotFirst, twice, nothing}},
		{name: "a pipe that nobody writes to", options: "timeout 400ms", ask: func(p *play) []string {
			_ = os.Remove(secret(p))
			if err := unix.Mkfifo(secret(p), 0o600); err != nil {
				p.t.Fatal(err)
			}
			got := get(p)
			// Whoever waits for the pipe gets its end.
			pipe, err := os.OpenFile(secret(p), os.O_RDWR, 0)
			if err != nil {
				p.t.Fatal(err)
			}
			servertest.WriteFile(p.t, secret(p), "s3cret-canary")
			_ = pipe.Close()
			return got
		}, want: want{"504 timeout to be retried", nothing, failed("timeout"), never, nothing}},
	}
	for i := range rows {
		rows[i].prepare = prepared
	}
	group{rows: rows}.run(t)
}
