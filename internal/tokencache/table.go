package tokencache

import (
	"container/list"
	"sync"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// tokenlessShare is the part of a table, an eighth, that is reserved for grants without a token, as
// their pauses must be remembered. Beyond it they don't displace tokens.
const tokenlessShare = 8

// Table keeps per-request grants. When there are more than its limit, the least recently used ones
// are dropped, but none that is in use. Nothing in it belongs to one configuration.
type Table struct {
	limit int // of entries; those in use can exceed it

	// mu guards the rest, and the fields of entries that name it. It may be taken while the lock of a
	// grant is held, but not the other way round.
	mu       sync.Mutex
	released bool // no configuration uses the table any more; requests may
	entries  map[endpoint.GrantKey]*Entry

	// Entries that are not in use, the most recently used first.
	idle      list.List // those with a token
	tokenless list.List // those without
}

// Entry is a grant in a table.
type Entry struct {
	Grant

	// Set when it is made.
	table *Table
	key   endpoint.GrantKey
	shown []string

	// Guarded by the table's lock.
	users  int           // requests and fetches that use it now
	place  *list.Element // its element of listed; nil while it is in use
	listed *list.List
}

// NewTable makes a table for limit grants, at least 1.
func NewTable(limit int) *Table {
	return &Table{limit: limit, entries: make(map[endpoint.GrantKey]*Entry)}
}

// Acquire returns the grant with this key, and makes it if there is none. The grant stays in the
// table until it is released. For a new grant, shown is called, without a lock; it returns what
// operators see of the grant. A nil shown shows nothing.
func (t *Table) Acquire(key endpoint.GrantKey, shown func() []string) *Entry {
	if e := t.acquireKnown(key); e != nil {
		return e
	}
	var values []string
	if shown != nil {
		values = shown()
	}
	return t.acquireOrAdd(key, values)
}

// acquireKnown is Acquire for a grant that is in the table, or else nil.
func (t *Table) acquireKnown(key endpoint.GrantKey) *Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[key]
	if e != nil {
		e.holdLocked()
	}
	return e
}

// acquireOrAdd is Acquire for a grant that was not in the table a moment ago.
func (t *Table) acquireOrAdd(key endpoint.GrantKey, shown []string) *Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entries[key]; e != nil {
		e.holdLocked()
		return e
	}
	e := &Entry{table: t, key: key, shown: shown, users: 1}
	e.entry, e.released = e, t.released
	t.entries[key] = e
	t.shrinkLocked()
	return e
}

// All returns the grants of the table: first those in use, in any order, then those with a token, then
// the others, both most recently used first. The caller does not acquire them.
func (t *Table) All() []*Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*Entry, 0, len(t.entries))
	for _, e := range t.entries {
		if e.place == nil {
			all = append(all, e)
		}
	}
	for _, list := range []*list.List{&t.idle, &t.tokenless} {
		for place := list.Front(); place != nil; place = place.Next() {
			all = append(all, place.Value.(*Entry))
		}
	}
	return all
}

// Destruct is called when no configuration uses the table any more, as Grant.Destruct is. Requests of
// an earlier configuration can outlive it. The error is always nil.
func (t *Table) Destruct() error {
	t.mu.Lock()
	t.released = true // for grants that are added later
	t.mu.Unlock()
	for _, e := range t.All() {
		if err := e.Destruct(); err != nil {
			return err
		}
	}
	return nil
}

// shrinkLocked drops entries beyond the limit, but none that is in use. So many requests at the same
// time make the table larger for a while; otherwise they could drive out all tokens.
func (t *Table) shrinkLocked() {
	spared := t.limit / tokenlessShare
	for len(t.entries) > t.limit {
		from := &t.idle
		switch {
		case t.tokenless.Len() > spared:
			from = &t.tokenless
		case t.idle.Len() <= t.limit-spared:
			return
		}
		delete(t.entries, from.Remove(from.Back()).(*Entry).key)
	}
}

// Key returns the key of the grant in its table.
func (e *Entry) Key() endpoint.GrantKey { return e.key }

// Shown returns what operators see of the grant, as its first Acquire said; nil for nothing. It must
// not be changed.
func (e *Entry) Shown() []string { return e.shown }

// hold counts another user of an entry that is in use. A nil entry, that of a grant in no table, has
// no users.
func (e *Entry) hold() {
	if e == nil {
		return
	}
	e.table.mu.Lock()
	defer e.table.mu.Unlock()
	e.holdLocked()
}

func (e *Entry) holdLocked() {
	e.users++
	if e.place != nil {
		e.listed.Remove(e.place)
		e.place = nil
	}
}

// release ends a use of the entry.
func (e *Entry) release() {
	t := e.table
	t.mu.Lock()
	defer t.mu.Unlock()
	e.users--
	if e.users > 0 {
		return
	}
	e.listed = &t.idle
	if e.current.Load() == nil {
		e.listed = &t.tokenless
	}
	e.place = e.listed.PushFront(e)
	t.shrinkLocked()
}
