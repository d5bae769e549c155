package fleet

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

const (
	// storageLimit bounds each operation of the storage, except for those below.
	storageLimit = time.Second

	// listLimit bounds a list, which can take long. Nobody waits for it.
	listLimit = time.Minute

	// storageCalls bounds the operations in progress, as a storage that hangs ends none. It leaves
	// a few for each of 64 fetches at the same time.
	storageCalls = 1024
)

var (
	errStorageHangs = errors.New("no answer in time")
	errStorageBusy  = errors.New("too many operations have not ended")
	errNoTimeLeft   = errors.New("no time was left for an answer") // says nothing about the storage
)

// boundedStorage is a storage whose operations end in time, even if the module ignores their context.
type boundedStorage struct {
	module certmagic.Storage
	calls  chan struct{} // holds an element for each operation in progress
	health *health
}

func newBoundedStorage(module certmagic.Storage, logger *zap.Logger) *boundedStorage {
	return &boundedStorage{module: module, calls: make(chan struct{}, storageCalls), health: newHealth(logger)}
}

// load returns a value, or nil if there is none. left is the longest that it may take; storageLimit
// bounds it as well.
func (s *boundedStorage) load(ctx context.Context, path string, left time.Duration) ([]byte, error) {
	value, err := s.peek(ctx, path, left)
	if errors.Is(err, fs.ErrNotExist) {
		value, err = nil, nil
	}
	s.health.observe(ctx, opLoad, err)
	return value, err
}

// peek is load for a path that can be anything, such as a folder. So health does not see its
// failures.
//
// A value that can't be a record is not loaded, and counts as missing. Others can write a value of any size to the
// storage, and a module loads all of it.
func (s *boundedStorage) peek(ctx context.Context, path string, left time.Duration) ([]byte, error) {
	began := time.Now()
	info, err := within(ctx, s, min(left, storageLimit), func(ctx context.Context) (certmagic.KeyInfo, error) {
		return s.module.Stat(ctx, path)
	})
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !s.canBeRecord(info):
		return nil, fs.ErrNotExist
	case errors.Is(err, errStorageHangs), errors.Is(err, errStorageBusy), errors.Is(err, errNoTimeLeft):
		return nil, err
	}
	// If it could not be found how large the value is, the storage may still be able to load it.
	return within(ctx, s, min(left-time.Since(began), storageLimit), func(ctx context.Context) ([]byte, error) {
		return s.module.Load(ctx, path)
	})
}

// canBeRecord reports whether a value can be a record by its size. Some modules leave the size out. Of files
// it is always known: one without is empty, or no file, such as a link to a device that never ends.
func (s *boundedStorage) canBeRecord(info certmagic.KeyInfo) bool {
	if _, isFiles := s.module.(*certmagic.FileStorage); isFiles && info.Size == 0 {
		return false
	}
	return info.Size <= maxRecord
}

func (s *boundedStorage) store(ctx context.Context, path string, value []byte) error {
	err := s.do(ctx, func(ctx context.Context) error { return s.module.Store(ctx, path, value) })
	s.health.observe(ctx, opStore, err)
	return err
}

// remove deletes a value. If it can't be deleted, it is left to the sweeper.
func (s *boundedStorage) remove(ctx context.Context, path string) {
	_ = s.do(ctx, func(ctx context.Context) error { return s.module.Delete(ctx, path) })
}

// list returns the paths in a folder.
func (s *boundedStorage) list(ctx context.Context, folder string) ([]string, error) {
	return within(ctx, s, listLimit, func(ctx context.Context) ([]string, error) {
		return s.module.List(ctx, folder, false)
	})
}

// lock starts to wait for a lock, until ctx ends, and sends the result on answer. If the lock comes
// after ctx has ended, it is released.
func (s *boundedStorage) lock(ctx context.Context, name string, answer chan<- error) {
	go func() {
		err := errStorageBusy
		select {
		case s.calls <- struct{}{}:
			err = s.module.Lock(ctx, name)
			<-s.calls
		default:
		}
		select {
		case answer <- err:
		case <-ctx.Done():
			if err == nil {
				s.unlock(context.WithoutCancel(ctx), name)
			}
		}
	}()
}

// unlock releases a lock. Errors are ignored: a lock that can't be released expires, and a lost lock
// needs no release.
func (s *boundedStorage) unlock(ctx context.Context, name string) {
	_ = s.do(ctx, func(ctx context.Context) error { return s.module.Unlock(ctx, name) })
}

// do is within for an operation without a result.
func (s *boundedStorage) do(ctx context.Context, call func(context.Context) error) error {
	_, err := within(ctx, s, storageLimit, func(ctx context.Context) (struct{}, error) { return struct{}{}, call(ctx) })
	return err
}

// within runs an operation, and cancels it after the limit. It counts as in progress until the module
// returns, even if that takes longer. A limit below storageLimit means that the fetch has no more
// time left; then a missing answer does not count against the storage.
func within[T any](ctx context.Context, s *boundedStorage, limit time.Duration, call func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case s.calls <- struct{}{}:
	default:
		return none, errStorageBusy
	}
	done := make(chan result, 1)
	go func() {
		value, err := call(ctx)
		<-s.calls
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		if r.err == nil || ctx.Err() == nil {
			return r.value, r.err
		}
	case <-ctx.Done():
	}
	if limit < storageLimit {
		return none, errNoTimeLeft
	}
	return none, errStorageHangs
}
