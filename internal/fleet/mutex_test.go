package fleet

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/storagetest"
)

// mutexProbe is a storage that fails the test if one of the package's mutexes is held during an
// operation of it, or while the log is written to.
type mutexProbe struct {
	certmagic.Storage
	t       *testing.T
	sharing *Sharing
	one     chan struct{} // has an element during a check; there is one at a time

	mu   sync.Mutex
	seen map[string]bool
}

func newMutexProbe(t *testing.T, storage certmagic.Storage) *mutexProbe {
	return &mutexProbe{Storage: storage, t: t, one: make(chan struct{}, 1), seen: make(map[string]bool)}
}

// check waits until all others wait for something. A mutex that can't be had then is held
// by someone who waits for what is checked.
func (p *mutexProbe) check(what string) {
	p.one <- struct{}{}
	defer func() { <-p.one }()
	synctest.Wait()
	for name, mu := range map[string]*sync.Mutex{"health.mu": &p.sharing.storage.health.mu, "sweeper.mu": &p.sharing.sweeper.mu} {
		if !mu.TryLock() {
			p.t.Errorf("%s is held during: %s", name, what)
			continue
		}
		mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[what] = true
}

func (p *mutexProbe) Load(ctx context.Context, path string) ([]byte, error) {
	p.check("load")
	return p.Storage.Load(ctx, path)
}

func (p *mutexProbe) Store(ctx context.Context, path string, value []byte) error {
	p.check("store")
	return p.Storage.Store(ctx, path, value)
}

func (p *mutexProbe) Delete(ctx context.Context, path string) error {
	p.check("delete")
	return p.Storage.Delete(ctx, path)
}

func (p *mutexProbe) List(ctx context.Context, folder string, recursive bool) ([]string, error) {
	p.check("list")
	return p.Storage.List(ctx, folder, recursive)
}

func (p *mutexProbe) Lock(ctx context.Context, name string) error {
	p.check("lock")
	return p.Storage.Lock(ctx, name)
}

func (p *mutexProbe) Unlock(ctx context.Context, name string) error {
	p.check("unlock")
	return p.Storage.Unlock(ctx, name)
}

// log is a hook of a logger.
func (p *mutexProbe) log(entry zapcore.Entry) error {
	p.check(entry.Level.String() + " log")
	return nil
}

// No mutex is held over an operation of the storage or a log line: a storage that hangs would
// hold up all fetches.
func TestNoMutexIsHeldOverAnOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		probe := newMutexProbe(t, storage)
		g := newFleet(t, probe, 1, plain)[0]
		probe.sharing = g.sharing
		logger := g.sharing.logger.WithOptions(zap.Hooks(probe.log))
		g.sharing.logger, g.sharing.storage.health.logger = logger, logger

		// A token from a slow endpoint, with signs of life, and a sweep that has something to
		// delete.
		old, err := testRecordKey(t, nil).seal(testRecord(time.Now().Add(-48 * time.Hour)))
		if err != nil {
			t.Fatal(err)
		}
		storage.Put(storagePrefix+"/old", old)
		g.endpoint.takes = time.Second
		g.mustGet()
		time.Sleep(time.Minute)
		g.sharing.HasNewer(t.Context(), g.request(), g.grant.Current())

		// A wait for a lock times out.
		time.Sleep(2 * time.Hour)
		storage.TakeLocks()
		g.mustGet()

		// A storage that fails, and one that works again.
		for _, fails := range []func(string) error{storagetest.Every(errors.New("down")), nil} {
			time.Sleep(2 * time.Hour)
			storage.Becomes(fails, nil)
			g.mustGet()
		}

		// The end during a sweep.
		time.Sleep(48 * time.Hour)
		storage.Put(sweepMark, nil)
		storage.Slows(50 * time.Millisecond)
		lists := storage.Count("list")
		g.mustGet()
		for storage.Count("list") == lists {
			time.Sleep(10 * time.Millisecond)
		}
		g.sharing.Stop()

		want := []string{"delete", "info log", "list", "load", "lock", "store", "unlock", "warn log"}
		probe.mu.Lock()
		defer probe.mu.Unlock()
		if seen := slices.Sorted(maps.Keys(probe.seen)); !slices.Equal(seen, want) {
			t.Errorf("checked %q, want %q", seen, want)
		}
	})
}
