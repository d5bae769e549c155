// Package storagetest has a storage in memory, for the tests of all packages.
package storagetest

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

// Memory is a storage in memory that several gateways can share. Like Caddy's own it
// gives the lock of a holder that has died to another after ten seconds. Unlike that it has a
// lock end with the context it was obtained with, as some do.
type Memory struct {
	mu     sync.Mutex
	values map[string][]byte
	locks  map[string]*memoryLock
	taken  bool           // all locks, by others
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

// NewMemory makes one that is empty, and works.
func NewMemory() *Memory {
	return &Memory{values: make(map[string][]byte), locks: make(map[string]*memoryLock), calls: make(map[string]int)}
}

func (s *Memory) begin(ctx context.Context, operation string) error {
	s.mu.Lock()
	s.calls[operation]++
	if operation == "stat" {
		operation = "load" // it fails and hangs as loads do
	}
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

func (s *Memory) Load(ctx context.Context, key string) ([]byte, error) {
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

func (s *Memory) Store(ctx context.Context, key string, value []byte) error {
	if err := s.begin(ctx, "store"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[key] = slices.Clone(value)
	return nil
}

func (s *Memory) Delete(ctx context.Context, key string) error {
	if err := s.begin(ctx, "delete"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.values, key)
	return nil
}

func (s *Memory) Exists(context.Context, string) bool { return false }

func (s *Memory) List(ctx context.Context, prefix string, _ bool) ([]string, error) {
	if err := s.begin(ctx, "list"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Collect(maps.Keys(s.values)), func(key string) bool { return !strings.HasPrefix(key, prefix+"/") }), nil
}

func (s *Memory) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	if err := s.begin(ctx, "stat"); err != nil {
		return certmagic.KeyInfo{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[key]
	if !ok {
		return certmagic.KeyInfo{}, fs.ErrNotExist
	}
	return certmagic.KeyInfo{Key: key, Size: int64(len(value)), IsTerminal: true}, nil
}

func (s *Memory) Lock(ctx context.Context, name string) error {
	if err := s.begin(ctx, "lock"); err != nil {
		return err
	}
	for {
		s.mu.Lock()
		lock := s.locks[name]
		if !s.taken && (lock == nil || lock.isLost() || !lock.dies.IsZero() && time.Now().After(lock.dies)) {
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

func (s *Memory) Unlock(ctx context.Context, name string) error {
	if err := s.begin(ctx, "unlock"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.locks, name)
	return nil
}

// Held counts the locks.
func (s *Memory) Held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.locks)
}

// TakeLocks has another gateway hold all locks for ever, whatever their names.
func (s *Memory) TakeLocks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = true
}

// ReturnLocks has the other gateway release them.
func (s *Memory) ReturnLocks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = false
}

// KillHolders has the holders of all locks die.
func (s *Memory) KillHolders() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, lock := range s.locks {
		lock.dies = time.Now().Add(10 * time.Second)
	}
}

// Put puts a value there as another gateway would; nil takes it away.
func (s *Memory) Put(key string, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values[key] = value; value == nil {
		delete(s.values, key)
	}
}

// Clear takes all values away.
func (s *Memory) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.values)
}

// All is a copy of the values.
func (s *Memory) All() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.values)
}

// Slows has each operation take so long.
func (s *Memory) Slows(takes time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takes = takes
}

// Count is how often an operation was begun.
func (s *Memory) Count(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[operation]
}

// Becomes changes how it works; nil for no failures, or for nothing that hangs.
func (s *Memory) Becomes(fails func(string) error, hangs func(string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails, s.hangs = fails, hangs
}

// Every has all operations fail.
func Every(err error) func(string) error { return func(string) error { return err } }

// Failing has these operations fail.
func Failing(operations ...string) func(string) error {
	return func(operation string) error {
		if slices.Contains(operations, operation) {
			return errors.New("no space left on device")
		}
		return nil
	}
}

// Just is for these operations.
func Just(operations ...string) func(string) bool {
	return func(operation string) bool { return slices.Contains(operations, operation) }
}
