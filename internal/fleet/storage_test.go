package fleet

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/storagetest"
)

func TestFailingStorageIsAMiss(t *testing.T) {
	down := errors.New("dial tcp 127.0.0.1:6379: connection refused")
	for name, test := range map[string]struct {
		fails func(string) error
		hangs func(string) bool
		takes time.Duration
		most  time.Duration // that the first request waits
		news  []string      // with the first, and when it works again
		later []string
	}{
		"down":         {fails: storagetest.Every(down), news: []string{"load fails"}, later: []string{"load works"}},
		"read-only":    {fails: storagetest.Failing("store", "lock"), news: []string{"lock fails"}, later: []string{"store works"}},
		"full":         {fails: storagetest.Failing("store"), news: []string{"store fails"}, later: []string{"store works"}},
		"no locks":     {fails: storagetest.Failing("lock"), news: []string{"lock fails"}, later: []string{"lock works"}},
		"hangs":        {hangs: storagetest.Just("load", "store", "lock", "unlock"), most: storageLimit, news: []string{"load fails"}, later: []string{"load works"}},
		"loads hang":   {hangs: storagetest.Just("load"), most: storageLimit, news: []string{"load fails"}, later: []string{"load works"}},
		"locks hang":   {hangs: storagetest.Just("lock"), most: sharingPatience},
		"stores hang":  {hangs: storagetest.Just("store"), news: []string{"store fails"}, later: []string{"store works"}},
		"unlocks hang": {hangs: storagetest.Just("unlock"), most: sharingPatience},
		"slow":         {takes: 900 * time.Millisecond, most: sharingPatience},
		"very slow":    {takes: 5 * time.Second, most: storageLimit, news: []string{"load fails"}, later: []string{"load works"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := storagetest.NewMemory()
				storage.Becomes(test.fails, test.hangs)
				storage.Slows(test.takes)
				g := newFleet(t, storage, 1, plain)[0]
				g.endpoint.expiresIn = "60"
				if a := g.mustGet(); a.waited > test.most {
					t.Errorf("the first request waited for %s", a.waited)
				}
				time.Sleep(2 * time.Second) // what comes after
				if told := g.logs.FilterMessageSnippet("could not be had in time").Len(); told > 0 != (name == "locks hang") && name != "slow" {
					t.Errorf("told %d times that the lock could not be had", told)
				}
				if news := g.storageNews(); !slices.Equal(news, test.news) {
					t.Errorf("the log says %q, want %q", news, test.news)
				}
				// All is said once, and nobody waits for what is known.
				waited := 0
				for range 10 {
					time.Sleep(61 * time.Second)
					if a := g.mustGet(); a.waited > test.most {
						t.Errorf("a later request waited for %s", a.waited)
					} else if a.waited > 0 {
						waited++
					}
				}
				time.Sleep(storageRest)
				if news := g.storageNews(); !slices.Equal(news, test.news) {
					t.Errorf("later on the log says %q, want %q", news, test.news)
				}
				storage.Becomes(nil, nil)
				storage.Slows(0)
				time.Sleep(61 * time.Second)
				g.mustGet()
				time.Sleep(2 * time.Second)
				if news := g.storageNews(); !slices.Equal(news[len(test.news):], test.later) {
					t.Errorf("when it works again the log says %q, want %q", news[len(test.news):], test.later)
				}
				time.Sleep(2 * time.Hour) // until what hangs has ended
			})
		})
	}
}

// A storage that hangs is not asked again for a while: with many grants each of them would
// wait for it.
func TestHangingStorageIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		storage.Becomes(nil, storagetest.Just("load"))
		g := newFleet(t, storage, 1, plain)[0]
		g.endpoint.expiresIn = "1"
		asked := 0
		for range 30 {
			a := g.mustGet()
			if a.waited > 0 {
				asked++
			}
			time.Sleep(time.Second)
		}
		if asked > 4 || storage.Count("load") > 4 {
			t.Errorf("%d requests of 30 waited, with %d loads", asked, storage.Count("load"))
		}
		time.Sleep(2 * time.Hour)
	})
}

// Operations that a storage never ends take no more than their share.
func TestOperationsInProgressAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		storage.Becomes(nil, storagetest.Just("lock"))
		shared := newFleet(t, storage, 1, plain)[0].sharing.storage
		got := make(chan error, 2*storageCalls)
		for range storageCalls + 1 {
			shared.lock(t.Context(), "a-lock", got)
		}
		synctest.Wait()
		if err := <-got; !errors.Is(err, errStorageBusy) {
			t.Errorf("got %v", err)
		}
		if _, err := shared.load(t.Context(), "a-key", storageLimit); !errors.Is(err, errStorageBusy) {
			t.Errorf("got %v", err)
		}
		time.Sleep(2 * time.Hour)
	})
}

// A lock that comes when nobody waits for it any more is given back.
func TestLateLockIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		g := newFleet(t, storage, 1, plain)[0]
		first, second := g.recordKey(t).lockName(0, firstLock), g.recordKey(t).lockName(0, secondLock)
		for _, name := range []string{first, second} {
			if err := storage.Lock(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		g.mustGet()
		for _, name := range []string{first, second} {
			if err := storage.Unlock(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if n := storage.Held(); n > 0 {
			t.Errorf("%d locks are held", n)
		}
	})
}

// A storage that hangs is noticed with a short timeout, too.
func TestHangingStorageIsNoticedWithAShortTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		storage.Becomes(nil, storagetest.Just("load"))
		g := newFleet(t, storage, 1, options{timeout: time.Second})[0]
		g.endpoint.expiresIn = "1"
		waited := 0
		for range 10 {
			if a := g.mustGet(); a.waited > 0 {
				waited++
			}
			time.Sleep(time.Second)
		}
		if news := g.storageNews(); waited > 2 || !slices.Equal(news, []string{"load fails"}) {
			t.Errorf("%d requests of 10 waited, and the log says %q", waited, news)
		}
		time.Sleep(2 * time.Hour)
	})
}
