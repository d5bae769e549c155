package fleet

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/storagetest"
)

// The records of tenants that are gone don't stay for ever.
func TestSweepDeletesWhatHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		key := testRecordKey(t, nil)
		put := func(name string, ends time.Duration) {
			token := testRecord(time.Now().Add(ends - time.Hour))
			record, err := key.seal(token)
			if err != nil {
				t.Fatal(err)
			}
			storage.Put(storagePrefix+"/"+name, record)
		}
		put("long-gone", -48*time.Hour)
		put("gone", -sweepMargin-time.Minute)
		put("just-gone", -sweepMargin+time.Minute)
		put("alive", time.Hour)
		storage.Put(storagePrefix+"/of-a-later-version", []byte("\x02whatever"))
		storage.Put("certificates/example.com", []byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00"))
		has := func(want ...string) {
			t.Helper()
			values := storage.All()
			for _, name := range want {
				if values[name] == nil {
					t.Errorf("%s is gone", name)
				}
			}
			if len(values) != len(want) {
				t.Errorf("%d values, want %d", len(values), len(want))
			}
		}

		fleet := newFleet(t, storage, 2, plain)
		fleet[0].mustGet()
		time.Sleep(time.Second)
		kept := []string{
			storagePrefix + "/just-gone", storagePrefix + "/alive", storagePrefix + "/of-a-later-version", "certificates/example.com",
			sweepMark, fleet[0].recordKey(t).path(),
		}
		has(kept...)

		// One gateway does it for all, once a day.
		time.Sleep(2 * time.Hour)
		for _, g := range fleet {
			g.mustGet()
			time.Sleep(time.Second)
		}
		has(kept...)
		if n := storage.Count("list"); n != 1 {
			t.Errorf("listed %d times", n)
		}
		for range 50 { // two days, with the times of the sweepers spread
			time.Sleep(time.Hour)
			for _, g := range fleet {
				g.mustGet()
			}
		}
		time.Sleep(time.Second)
		has(storagePrefix+"/of-a-later-version", "certificates/example.com", sweepMark, fleet[0].recordKey(t).path())
		if n := storage.Count("list"); n > 4 {
			t.Errorf("listed %d times in two days", n)
		}
	})
}

// However much there is, a sweep takes no longer than its time, and ends with its
// configuration. Others go on where it ended.
func TestSweepIsBoundedAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 30000
		storage := storagetest.NewMemory()
		record, err := testRecordKey(t, nil).seal(testRecord(time.Now().Add(-100 * time.Hour)))
		if err != nil {
			t.Fatal(err)
		}
		for i := range many {
			storage.Put(fmt.Sprintf("%s/%d", storagePrefix, i), record)
		}
		storage.Slows(20 * time.Millisecond)
		g := newFleet(t, storage, 1, plain)[0]
		g.mustGet()
		time.Sleep(2 * sweepLimit)
		first := storage.Count("delete")
		if most := int(sweepLimit/(20*time.Millisecond)) / 3; first < most*9/10 || first > most {
			t.Errorf("%d records deleted in %s, want %d", first, sweepLimit, most)
		}
		time.Sleep(30 * time.Hour)
		g.mustGet()
		time.Sleep(2 * sweepLimit)
		if n := storage.Count("delete"); n < first*19/10 {
			t.Errorf("%d records deleted in two days, %d on the first", n, first)
		}

		another := newFleet(t, storage, 1, plain)[0]
		storage.Put(sweepMark, nil)
		another.mustGet()
		time.Sleep(10 * time.Second)
		another.sharing.Stop()
		n := storage.Count("load")
		time.Sleep(time.Minute)
		if more := storage.Count("load") - n; more > 0 {
			t.Errorf("%d loads after the end", more)
		}
	})
}

// What can't be loaded is not the sweeper's, and no failure of the storage.
func TestSweepPassesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		storage.Put(storagePrefix+"/a-folder", []byte("x"))
		g := newFleet(t, storage, 1, plain)[0]
		storage.Becomes(func(operation string) error {
			if operation == "load" && storage.Count("list") > 0 {
				return errors.New("is a directory")
			}
			return nil
		}, nil)
		g.mustGet()
		time.Sleep(time.Minute)
		if storage.Count("list") != 1 || len(g.storageNews()) > 0 {
			t.Errorf("listed %d times, and the log says %q", storage.Count("list"), g.storageNews())
		}
	})
}
