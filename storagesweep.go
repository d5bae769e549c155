package oauthcc

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// sweepInterval is the least time between two sweeps of a storage, whichever gateway
	// does it.
	sweepInterval = 24 * time.Hour

	// sweepMargin is how long after its token has expired a record stays, since clocks
	// don't agree.
	sweepMargin = time.Hour

	// sweepLimit bounds the time of one sweep. What it does not come to is left to the next.
	sweepLimit = 10 * time.Minute

	// sweepMark is where gateways tell each other when the storage was last swept.
	sweepMark = storagePrefix + "/swept"
)

// sweeper deletes what nobody will look for again: the records of clients that are gone, or
// whose credential was replaced.
type sweeper struct {
	storage *sharedStorage
	stop    context.CancelFunc
	ctx     context.Context // ends with the configuration
	done    sync.WaitGroup

	mu  sync.Mutex
	due time.Time
}

func newSweeper(storage *sharedStorage) *sweeper {
	ctx, stop := context.WithCancel(context.Background())
	return &sweeper{storage: storage, ctx: ctx, stop: stop}
}

// end stops sweeping.
func (s *sweeper) end() {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	s.done.Wait()
}

// sweep sweeps in the background, if it is time for that.
func (s *sweeper) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil || time.Now().Before(s.due) {
		return
	}
	s.due = time.Now().Add(jittered(sweepInterval))
	s.done.Go(func() { s.run(now) })
}

func (s *sweeper) run(now time.Time) {
	ctx, cancel := context.WithTimeout(s.ctx, sweepLimit)
	defer cancel()
	mark, err := s.storage.load(ctx, sweepMark, storageLimit)
	if err != nil {
		return
	}
	if last, err := time.Parse(time.RFC3339, string(mark)); err == nil && last.Before(now.Add(sweepInterval)) && now.Before(last.Add(sweepInterval)) {
		return // another gateway did
	}
	if s.storage.store(ctx, sweepMark, []byte(now.UTC().Format(time.RFC3339))) != nil {
		return
	}
	paths, err := within(ctx, s.storage, time.Minute, func(ctx context.Context) ([]string, error) {
		return s.storage.List(ctx, storagePrefix, false)
	})
	if err != nil {
		return
	}
	rand.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] }) //nolint:gosec // any order
	for _, path := range paths {
		// What can't be loaded, such as a folder, is not the sweeper's.
		record, err := within(ctx, s.storage, storageLimit, func(ctx context.Context) ([]byte, error) { return s.storage.Load(ctx, path) })
		if ctx.Err() != nil || s.storage.rests() {
			return
		}
		// A token that is stored just now would be lost, and fetched once more.
		if expiry, ok := expiryOf(record); err == nil && ok && now.After(expiry.Add(sweepMargin)) && path != sweepMark {
			s.storage.remove(ctx, path)
		}
	}
}
