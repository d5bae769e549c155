package oauthcc

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

const (
	// storageLimit bounds each operation of the storage.
	storageLimit = time.Second

	// storageCalls bounds the operations in progress, of which a storage that hangs never
	// ends any. Each of 64 fetches at a time can have a few.
	storageCalls = 1024

	// storageRest is how long a storage that gave no answer in time is left alone.
	storageRest = 10 * time.Second
)

// sharedStorage is a storage that holds nobody up: its operations end in time, also when it
// does not heed their context. It tells the log when it fails and when it works again.
type sharedStorage struct {
	certmagic.Storage
	calls  chan struct{} // holds an element for each operation in progress
	logger *zap.Logger

	mu      sync.Mutex
	ended   bool            // with its configuration, and can be closed by now
	failing map[string]bool // the operations of which the last one failed, if any
	rested  time.Time       // not before then is it used again
}

func newSharedStorage(storage certmagic.Storage, logger *zap.Logger) *sharedStorage {
	return &sharedStorage{Storage: storage, logger: logger, calls: make(chan struct{}, storageCalls), failing: make(map[string]bool)}
}

var (
	errStorageHangs = errors.New("no answer in time")
	errStorageBusy  = errors.New("too many operations have not ended")
	errNoTimeLeft   = errors.New("no time was left for an answer") // which tells nothing of the storage
)

// within runs an operation that is given up when it takes longer than the limit.
func within[T any](ctx context.Context, s *sharedStorage, limit time.Duration, operation func(context.Context) (T, error)) (T, error) {
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
		value, err := operation(ctx)
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

// load returns a value, or nil if there is none. It takes no longer than what time is left.
func (s *sharedStorage) load(ctx context.Context, path string, left time.Duration) ([]byte, error) {
	record, err := within(ctx, s, min(left, storageLimit), func(ctx context.Context) ([]byte, error) { return s.Load(ctx, path) })
	if errors.Is(err, fs.ErrNotExist) {
		record, err = nil, nil
	}
	s.note(ctx, "load", err)
	return record, err
}

func (s *sharedStorage) store(ctx context.Context, path string, record []byte) error {
	_, err := within(ctx, s, storageLimit, func(ctx context.Context) (struct{}, error) { return struct{}{}, s.Store(ctx, path, record) })
	s.note(ctx, "store", err)
	return err
}

// lock tries to get a lock for as long as ctx lasts, and says on got what came of that. A
// lock that nobody waits for any more is released.
func (s *sharedStorage) lock(ctx context.Context, name string, got chan<- error) {
	go func() {
		err := errStorageBusy
		select {
		case s.calls <- struct{}{}:
			err = s.Lock(ctx, name)
			<-s.calls
		default:
		}
		select {
		case got <- err:
		case <-ctx.Done():
			if err == nil {
				s.unlock(context.WithoutCancel(ctx), name)
			}
		}
	}()
}

// remove deletes a value. One that can't be deleted is left to the sweeper.
func (s *sharedStorage) remove(ctx context.Context, path string) {
	_, _ = within(ctx, s, storageLimit, func(ctx context.Context) (struct{}, error) { return struct{}{}, s.Delete(ctx, path) })
}

// unlock releases a lock. One that can't be released expires, and one that was lost is not
// there any more.
func (s *sharedStorage) unlock(ctx context.Context, name string) {
	_, _ = within(ctx, s, storageLimit, func(ctx context.Context) (struct{}, error) { return struct{}{}, s.Unlock(ctx, name) })
}

// note takes note of how an operation ended.
func (s *sharedStorage) note(ctx context.Context, operation string, err error) {
	if err != nil && (ctx.Err() != nil || errors.Is(err, errNoTimeLeft)) {
		return // it was not waited for
	}
	s.mu.Lock()
	failed := len(s.failing) > 0
	switch {
	case err != nil:
		s.failing[operation] = true
	case operation == "load" && s.failing[operation]:
		clear(s.failing) // it was down, and is there again
	default:
		delete(s.failing, operation)
	}
	news := failed != (len(s.failing) > 0) && !s.ended
	if errors.Is(err, errStorageHangs) || errors.Is(err, errStorageBusy) {
		s.rested = time.Now().Add(storageRest)
	}
	s.mu.Unlock()
	switch {
	case !news:
	case err != nil:
		s.logger.Warn("the storage fails; tokens are not shared with other gateways until it works again",
			zap.String("operation", operation), zap.String("error", sanitized(err)))
	default:
		s.logger.Info("the storage works again", zap.String("operation", operation))
	}
}

// end keeps the log quiet of what is still in progress.
func (s *sharedStorage) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
}

// rests reports whether the storage is left alone, since it gave no answer in time.
func (s *sharedStorage) rests() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.rested)
}

// sanitized is a storage's error as logs may show it. It can hold paths and addresses, and
// not what is stored.
func sanitized(err error) string {
	return quote(func(text string) string { return text }, err.Error())
}
