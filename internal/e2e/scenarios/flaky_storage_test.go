package scenarios

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
)

// flakyStorage is Caddy's file storage on a bad day: its operations fail before or after they
// are done, take several seconds, whatever their context says or not, or never end.
type flakyStorage struct {
	Root string `json:"root,omitempty"`
	Seed uint64 `json:"seed,omitempty"`
}

func (*flakyStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.oauth_cc_test_flaky", New: func() caddy.Module { return new(flakyStorage) }}
}

func (s *flakyStorage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	var seed string
	if !d.Args(&s.Root, &seed) {
		return d.ArgErr()
	}
	var err error
	s.Seed, err = strconv.ParseUint(seed, 10, 64)
	return err
}

func (s *flakyStorage) CertMagicStorage() (certmagic.Storage, error) {
	return &flakyFiles{FileStorage: certmagic.FileStorage{Path: s.Root}, random: rand.New(rand.NewPCG(s.Seed, 0))}, nil
}

type flakyFiles struct {
	certmagic.FileStorage

	mu     sync.Mutex
	random *rand.Rand
}

const (
	flakyError = 0.20 // the share of operations
	flakySlow  = 0.10
	flakyHang  = 0.03
)

var errBadDay = errors.New("the storage has a bad day")

// flaky does an operation.
func flaky[T any](ctx context.Context, s *flakyFiles, operation func() (T, error)) (T, error) {
	s.mu.Lock()
	what, delay, done, heeds := s.random.Float64(), time.Duration(s.random.Int64N(int64(4*time.Second))), s.random.IntN(2) == 0, s.random.IntN(2) == 0
	s.mu.Unlock()
	var none T
	if !heeds {
		ctx = context.WithoutCancel(ctx)
	}
	switch {
	case what < flakyError && done:
		_, _ = operation()
		return none, errBadDay
	case what < flakyError:
		return none, errBadDay
	case what < flakyError+flakySlow:
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return none, ctx.Err()
		}
	case what < flakyError+flakySlow+flakyHang:
		<-ctx.Done()
		return none, ctx.Err()
	}
	return operation()
}

func flakily(ctx context.Context, s *flakyFiles, operation func() error) error {
	_, err := flaky(ctx, s, func() (struct{}, error) { return struct{}{}, operation() })
	return err
}

func (s *flakyFiles) Load(ctx context.Context, key string) ([]byte, error) {
	return flaky(ctx, s, func() ([]byte, error) { return s.FileStorage.Load(ctx, key) })
}

func (s *flakyFiles) Store(ctx context.Context, key string, value []byte) error {
	return flakily(ctx, s, func() error { return s.FileStorage.Store(ctx, key, value) })
}

func (s *flakyFiles) Delete(ctx context.Context, key string) error {
	return flakily(ctx, s, func() error { return s.FileStorage.Delete(ctx, key) })
}

func (s *flakyFiles) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	return flaky(ctx, s, func() ([]string, error) { return s.FileStorage.List(ctx, prefix, recursive) })
}

func (s *flakyFiles) Lock(ctx context.Context, name string) error {
	return flakily(ctx, s, func() error { return s.FileStorage.Lock(ctx, name) })
}

func (s *flakyFiles) Unlock(ctx context.Context, name string) error {
	return flakily(ctx, s, func() error { return s.FileStorage.Unlock(ctx, name) })
}

// Interface guards
var (
	_ caddy.StorageConverter = (*flakyStorage)(nil)
	_ caddyfile.Unmarshaler  = (*flakyStorage)(nil)
	_ certmagic.Storage      = (*flakyFiles)(nil)
)
