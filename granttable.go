package oauthcc

import (
	"container/list"
	"sync"
)

// vainShare is the share of a table that grants without a token can always have, so that
// it is remembered of them how they failed. They don't displace any token for more.
const vainShare = 8

// grantTable holds the tokens of grants that differ from request to request. When there
// are more than its limit, those that were not used for longest go, but none that is in
// use. Nothing in it belongs to one configuration.
type grantTable struct {
	server discovery // of the issuer, which is the same for all

	mu       sync.Mutex
	limit    int
	entries  map[grantKey]*tableEntry
	idle     list.List // those with a token that nobody uses right now, the last used first
	vain     list.List // likewise, those without
	released bool      // no configuration uses the table any more; requests may
}

// tableEntry is a grant in a table.
type tableEntry struct {
	cachedGrant
	table *grantTable
	key   grantKey
	shown []string      // what the placeholders of the request stand for, see shownValues
	uses  int           // requests and fetches that use it now; guarded by the table's lock, as is place
	place *list.Element // nil while it is in use
	in    *list.List    // that place belongs to
}

func newGrantTable(limit int) *grantTable {
	return &grantTable{limit: limit, entries: make(map[grantKey]*tableEntry)}
}

// Destruct implements caddy.Destructor. Requests of an earlier configuration can outlive
// it.
func (t *grantTable) Destruct() error {
	t.mu.Lock()
	t.released = true
	t.mu.Unlock()
	for _, e := range t.all() {
		if err := e.Destruct(); err != nil {
			return err
		}
	}
	return nil
}

// acquire returns the grant with that key, for these values of the placeholders. It is not
// dropped until it is released.
func (t *grantTable) acquire(key grantKey, placeholders []requestPlaceholder, values []string) *tableEntry {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[key]
	if e == nil {
		e = &tableEntry{table: t, key: key, shown: shownValues(placeholders, values)}
		e.entry, e.released = e, t.released
		t.entries[key] = e
		e.uses++
		t.shrink()
		return e
	}
	e.retain()
	return e
}

// all returns the grants that are held: those in use, and the others by when they were used
// last.
func (t *grantTable) all() []*tableEntry {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*tableEntry, 0, len(t.entries))
	for _, e := range t.entries {
		if e.place == nil {
			all = append(all, e)
		}
	}
	for _, list := range []*list.List{&t.idle, &t.vain} {
		for place := list.Front(); place != nil; place = place.Next() {
			all = append(all, place.Value.(*tableEntry))
		}
	}
	return all
}

// retain has the entry kept for another user. The caller holds the table's lock.
func (e *tableEntry) retain() {
	if e.uses++; e.place != nil {
		e.in.Remove(e.place)
		e.place = nil
	}
}

// keep is retain for who doesn't hold the lock, but has the entry in use. A grant that is
// in no table needs no keeping.
func (e *tableEntry) keep() {
	if e == nil {
		return
	}
	e.table.mu.Lock()
	defer e.table.mu.Unlock()
	e.retain()
}

// release ends a use of the entry.
func (e *tableEntry) release() {
	if e == nil {
		return
	}
	t := e.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.uses--; e.uses > 0 {
		return
	}
	e.in = &t.idle
	if e.current.Load() == nil {
		e.in = &t.vain
	}
	e.place = e.in.PushFront(e)
	t.shrink()
}

// shrink drops what is too much, as far as it is not in use. Requests in progress make the
// table larger for as long as they take: they could drive out all tokens otherwise, just by
// being many. The caller holds mu.
func (t *grantTable) shrink() {
	vain := t.limit / vainShare
	for len(t.entries) > t.limit {
		from := &t.idle
		switch {
		case t.vain.Len() > vain:
			from = &t.vain
		case t.idle.Len() <= t.limit-vain:
			return
		}
		delete(t.entries, from.Remove(from.Back()).(*tableEntry).key)
	}
}
