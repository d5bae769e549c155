package fleet

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

const (
	// sweepInterval is the least time between two sweeps of a storage, by any gateway.
	sweepInterval = 24 * time.Hour

	// sweepMargin is how long a record stays after its token has expired, as clocks can differ.
	sweepMargin = time.Hour

	// sweepLimit bounds the time of one sweep. The next one does the rest.
	sweepLimit = 10 * time.Minute

	// maxSwept bounds the records that a sweep looks at, in random order. The next one does the rest.
	maxSwept = 100_000

	// maxName bounds the name of a record in the folder, in bytes. That of a sign of life has 78.
	maxName = 128

	// sweepMark is where the time of the last sweep is stored, for all gateways.
	sweepMark = storagePrefix + "/swept"
)

// sweeper deletes records that nobody will look for again: those of clients that are gone, or whose
// credential was replaced. It only reads the records' headers, so it needs no key.
type sweeper struct {
	storage *boundedStorage

	ctx    context.Context // ends with the configuration
	cancel context.CancelFunc
	done   sync.WaitGroup // the sweep in progress

	mu  sync.Mutex // guards due, and makes sure that no sweep begins after ctx has ended
	due time.Time  // when this gateway may sweep again; zero at first
}

func newSweeper(storage *boundedStorage) *sweeper {
	ctx, cancel := context.WithCancel(context.Background())
	return &sweeper{storage: storage, ctx: ctx, cancel: cancel}
}

// stop ends the sweep in progress and waits for its end. No other sweep begins.
func (s *sweeper) stop() {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.done.Wait()
}

// sweep sweeps in the background, if a sweep is due. now is by the machine's clock.
func (s *sweeper) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil || time.Now().Before(s.due) {
		return
	}
	s.due = time.Now().Add(tokencache.Jittered(sweepInterval))
	s.done.Go(func() { s.run(now) })
}

// run sweeps, unless another gateway did in the last sweepInterval. It ends early if the storage
// hangs.
func (s *sweeper) run(now time.Time) {
	ctx, cancel := context.WithTimeout(s.ctx, sweepLimit)
	defer cancel()
	if !s.claim(ctx, now) {
		return
	}
	paths, err := s.storage.list(ctx, storagePrefix)
	if err != nil {
		return
	}
	for _, path := range sweepable(paths) {
		sealed, err := s.storage.peek(ctx, path, storageLimit)
		if ctx.Err() != nil || s.storage.health.rests() {
			return
		}
		if err == nil && isOver(sealed, now) {
			// A token that is stored at this moment is deleted as well. It is fetched once more.
			s.storage.remove(ctx, path)
		}
	}
}

// sweepable returns the paths of what can be a record, maxSwept at the most. They are in random order, so
// that sweeps that don't get through don't all miss the same records. They don't keep the list in memory.
func sweepable(paths []string) []string {
	rand.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] }) //nolint:gosec // any order
	var chosen []string
	for _, path := range paths {
		name, isBelow := strings.CutPrefix(path, storagePrefix+"/")
		if !isBelow || path == sweepMark || len(name) > maxName || strings.Contains(name, "/") {
			continue
		}
		if chosen = append(chosen, strings.Clone(path)); len(chosen) == maxSwept {
			break
		}
	}
	return chosen
}

// claim reports whether a sweep is due. If so, it tells the other gateways that this one does it. Two
// gateways can claim the same sweep, which does no harm. A mark that is more than a day in the future
// is ignored, as the clock was wrong that made it.
func (s *sweeper) claim(ctx context.Context, now time.Time) bool {
	mark, err := s.storage.load(ctx, sweepMark, storageLimit)
	if err != nil {
		return false
	}
	last, err := time.Parse(time.RFC3339, string(mark))
	if err == nil && last.Before(now.Add(sweepInterval)) && now.Before(last.Add(sweepInterval)) {
		return false
	}
	return s.storage.store(ctx, sweepMark, []byte(now.UTC().Format(time.RFC3339))) == nil
}

// isOver reports whether nobody needs a record any more. It is false for records of later versions,
// and for anything else that is not a record.
func isOver(sealed []byte, now time.Time) bool {
	expiry, ok := expiryOf(sealed)
	return ok && now.After(expiry.Add(sweepMargin))
}
