package oauthcc

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

// memoryStorage is a storage in memory that several gateways can share. Like Caddy's own it
// gives the lock of a holder that has died to another after ten seconds. Unlike that it has a
// lock end with the context it was obtained with, as some do.
type memoryStorage struct {
	mu     sync.Mutex
	values map[string][]byte
	locks  map[string]*memoryLock
	calls  map[string]int // by operation
	takes  time.Duration  // each operation

	fails func(operation string) error // nil: none does
	hangs func(operation string) bool  // for ever, whatever its context says; nil: none does
}

type memoryLock struct {
	held context.Context // the lock is lost when it ends
	dies time.Time       // zero while its holder lives
}

func (l *memoryLock) isLost() bool { return l.held.Err() != nil }

func newMemoryStorage() *memoryStorage {
	return &memoryStorage{values: make(map[string][]byte), locks: make(map[string]*memoryLock), calls: make(map[string]int)}
}

func (s *memoryStorage) begin(ctx context.Context, operation string) error {
	s.mu.Lock()
	s.calls[operation]++
	fails, hangs, takes := s.fails, s.hangs, s.takes
	s.mu.Unlock()
	if hangs != nil && hangs(operation) {
		time.Sleep(time.Hour)
		return errors.New("an hour has passed")
	}
	if fails != nil {
		if err := fails(operation); err != nil {
			return err
		}
	}
	if takes > 0 {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (s *memoryStorage) Load(ctx context.Context, key string) ([]byte, error) {
	if err := s.begin(ctx, "load"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(value), nil
}

func (s *memoryStorage) Store(ctx context.Context, key string, value []byte) error {
	if err := s.begin(ctx, "store"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[key] = slices.Clone(value)
	return nil
}

func (s *memoryStorage) Delete(ctx context.Context, key string) error {
	if err := s.begin(ctx, "delete"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.values, key)
	return nil
}

func (s *memoryStorage) Exists(context.Context, string) bool { return false }

func (s *memoryStorage) List(ctx context.Context, prefix string, _ bool) ([]string, error) {
	if err := s.begin(ctx, "list"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Collect(maps.Keys(s.values)), func(key string) bool { return !strings.HasPrefix(key, prefix+"/") }), nil
}

func (s *memoryStorage) Stat(context.Context, string) (certmagic.KeyInfo, error) {
	return certmagic.KeyInfo{}, fs.ErrNotExist
}

func (s *memoryStorage) Lock(ctx context.Context, name string) error {
	if err := s.begin(ctx, "lock"); err != nil {
		return err
	}
	for {
		s.mu.Lock()
		lock := s.locks[name]
		if lock == nil || lock.isLost() || !lock.dies.IsZero() && time.Now().After(lock.dies) {
			s.locks[name] = &memoryLock{held: ctx}
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		select {
		case <-time.After(time.Second): // as often as certmagic's files are looked at
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *memoryStorage) Unlock(ctx context.Context, name string) error {
	if err := s.begin(ctx, "unlock"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.locks, name)
	return nil
}

// held counts the locks.
func (s *memoryStorage) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.locks)
}

// killHolders has the holders of all locks die.
func (s *memoryStorage) killHolders() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, lock := range s.locks {
		lock.dies = time.Now().Add(10 * time.Second)
	}
}

// put puts a value there as another gateway would; nil takes it away.
func (s *memoryStorage) put(key string, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values[key] = value; value == nil {
		delete(s.values, key)
	}
}

// all is a copy of the values.
func (s *memoryStorage) all() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.values)
}

// slows has each operation take so long.
func (s *memoryStorage) slows(takes time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takes = takes
}

// count is how often an operation was begun.
func (s *memoryStorage) count(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[operation]
}

// becomes changes how it works; nil for no failures, or for nothing that hangs.
func (s *memoryStorage) becomes(fails func(string) error, hangs func(string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails, s.hangs = fails, hangs
}

// every is for all operations.
func every(err error) func(string) error { return func(string) error { return err } }

// just is for these operations.
func just(operations ...string) func(string) bool {
	return func(operation string) bool { return slices.Contains(operations, operation) }
}
