package oauthcc

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// The records of tenants that are gone don't stay for ever.
func TestSweepDeletesWhatHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		key := testSharedKey(t, nil)
		put := func(name string, ends time.Duration) {
			token := testSharedToken(time.Now().Add(ends - time.Hour))
			record, err := key.seal(token)
			if err != nil {
				t.Fatal(err)
			}
			storage.values[storagePrefix+"/"+name] = record
		}
		put("long-gone", -48*time.Hour)
		put("gone", -sweepMargin-time.Minute)
		put("just-gone", -sweepMargin+time.Minute)
		put("alive", time.Hour)
		storage.values[storagePrefix+"/of-a-later-version"] = []byte("\x02whatever")
		storage.values["certificates/example.com"] = []byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00")
		has := func(want ...string) {
			t.Helper()
			for _, name := range want {
				if _, ok := storage.values[name]; !ok {
					t.Errorf("%s is gone", name)
				}
			}
			if len(storage.values) != len(want) {
				t.Errorf("%d values, want %d", len(storage.values), len(want))
			}
		}

		fleet := newFleet(t, storage, 2, plain)
		fleet[0].mustGet()
		time.Sleep(time.Second)
		kept := []string{
			storagePrefix + "/just-gone", storagePrefix + "/alive", storagePrefix + "/of-a-later-version", "certificates/example.com",
			sweepMark, fleet[0].sharedKey(t).path(),
		}
		has(kept...)

		// One gateway does it for all, once a day.
		time.Sleep(2 * time.Hour)
		for _, g := range fleet {
			g.mustGet()
			time.Sleep(time.Second)
		}
		has(kept...)
		if n := storage.count("list"); n != 1 {
			t.Errorf("listed %d times", n)
		}
		for range 50 { // two days, with the times of the sweepers spread
			time.Sleep(time.Hour)
			for _, g := range fleet {
				g.mustGet()
			}
		}
		time.Sleep(time.Second)
		has(storagePrefix+"/of-a-later-version", "certificates/example.com", sweepMark, fleet[0].sharedKey(t).path())
		if n := storage.count("list"); n > 4 {
			t.Errorf("listed %d times in two days", n)
		}
	})
}

func TestSweepIsBoundedAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		record, err := testSharedKey(t, nil).seal(testSharedToken(time.Now().Add(-100 * time.Hour)))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 * sweepMost {
			storage.values[fmt.Sprintf("%s/%d", storagePrefix, i)] = record
		}
		g := newFleet(t, storage, 1, plain)[0]
		g.mustGet()
		time.Sleep(time.Minute)
		if n := storage.count("delete"); n < sweepMost-2 || n > sweepMost {
			t.Errorf("%d records deleted at once", n)
		}
		// A sweep ends with its configuration.
		storage.takes = 500 * time.Millisecond
		another := newFleet(t, storage, 1, plain)[0]
		delete(storage.values, sweepMark)
		another.mustGet()
		time.Sleep(10 * time.Second)
		another.sharing.end()
		n := storage.count("load")
		time.Sleep(time.Minute)
		if more := storage.count("load") - n; more > 0 {
			t.Errorf("%d loads after the end", more)
		}
	})
}
