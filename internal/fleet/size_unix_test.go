//go:build unix

package fleet

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// A file can also be something that never ends, or that nobody writes to.
func TestFileThatIsNoRecordIsNotRead(t *testing.T) {
	folder := t.TempDir()
	path := func(name string) string { return filepath.Join(folder, storagePrefix, name) }
	if err := os.Mkdir(filepath.Join(folder, storagePrefix), 0o700); err != nil {
		t.Fatal(err)
	}
	large, err := os.Create(path("large"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		large.Truncate(600<<20), large.Close(), // has holes, and takes no space
		os.WriteFile(path("empty"), nil, 0o600),
		os.WriteFile(path("small"), []byte("value"), 0o600),
		os.Symlink("/dev/zero", path("endless")),
		os.Symlink(path("large"), path("link")),
		syscall.Mkfifo(path("pipe"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	load := func(t *testing.T, name string) (value []byte, err error) {
		synctest.Test(t, func(t *testing.T) { // so that a slow machine is no slow storage
			storage := newBoundedStorage(&certmagic.FileStorage{Path: folder}, zap.NewNop())
			value, err = storage.load(t.Context(), storagePrefix+"/"+name, storageLimit)
			if n := len(storage.calls); n != 0 {
				t.Errorf("%d operations are still in progress", n)
			}
		})
		return value, err
	}
	for name, want := range map[string]string{"small": "value", "empty": "", "large": "", "link": "", "endless": "", "pipe": "", "missing": ""} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			value, err := load(t, name)
			runtime.ReadMemStats(&after)
			if err != nil || string(value) != want {
				t.Errorf("got %d bytes, %v", len(value), err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
				t.Errorf("%d MiB were allocated", n>>20)
			}
		})
	}
}
