package fleet

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/storagetest"
)

// sizedStorage tells another size of its values than they have.
type sizedStorage struct {
	*storagetest.Memory
	stat func() (certmagic.KeyInfo, error)
}

func (s sizedStorage) Stat(context.Context, string) (certmagic.KeyInfo, error) { return s.stat() }

// Whoever can write into the storage can put anything there, of any size.
func TestOnlyWhatCanBeARecordIsLoaded(t *testing.T) {
	told := func(size int64, err error) func() (certmagic.KeyInfo, error) {
		return func() (certmagic.KeyInfo, error) { return certmagic.KeyInfo{Size: size}, err }
	}
	for name, test := range map[string]struct {
		stat  func() (certmagic.KeyInfo, error)
		loads int
	}{
		"small":             {told(1000, nil), 1},
		"the largest":       {told(2*endpoint.MaxResponse, nil), 1},
		"larger":            {told(2*endpoint.MaxResponse+1, nil), 0},
		"huge":              {told(600<<20, nil), 0},
		"not there":         {told(0, fs.ErrNotExist), 0},
		"no size":           {told(0, nil), 1}, // not every storage tells it
		"a negative size":   {told(-1, nil), 1},
		"it can't be found": {told(0, errors.New("not implemented")), 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory := storagetest.NewMemory()
				memory.Put("a", []byte("value"))
				storage := newBoundedStorage(sizedStorage{memory, test.stat}, zap.NewNop())
				value, err := storage.load(t.Context(), "a", storageLimit)
				if err != nil || (value != nil) != (test.loads > 0) {
					t.Errorf("got %q, %v", value, err)
				}
				if n := memory.Count("load"); n != test.loads {
					t.Errorf("loaded %d times, want %d", n, test.loads)
				}
			})
		})
	}
}

// What is not a record of this package is none of the sweeper's, whatever a storage lists, and however much.
func TestSweepLooksAtWhatCanBeARecord(t *testing.T) {
	const many = 3 * maxSwept
	paths := make([]string, 0, many)
	for range many - 4 {
		paths = append(paths, storagePrefix+"/"+strings.Repeat("a", 64))
	}
	paths = append(paths, "certificates/a.key", storagePrefix, storagePrefix+"/"+strings.Repeat("a", maxName+1), sweepMark)
	chosen := sweepable(paths)
	if len(chosen) != maxSwept || cap(chosen) > 2*maxSwept {
		t.Errorf("%d paths of %d, in the place of %d", len(chosen), many, cap(chosen))
	}
	for _, path := range chosen {
		if len(path) != len(storagePrefix)+1+64 {
			t.Errorf("looks at %.100s", path)
		}
	}
	short := sweepable([]string{storagePrefix + "/a", "a", storagePrefix + "/b/c"})
	if len(short) != 1 || short[0] != storagePrefix+"/a" {
		t.Errorf("looks at %q", short)
	}
}
