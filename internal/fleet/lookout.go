package fleet

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// contact says whether the storage has answered a fetch.
type contact int

const (
	unanswered contact = iota // no look was answered
	answered                  // the first look was
	resting                   // it gave no answer in time, and is left alone until the fetch ends
)

// lookout looks for the token of a grant in the storage, for one fetch.
type lookout struct {
	// Set once.
	sharing *Sharing
	key     recordKey
	task    tokencache.Task // which tokens will do
	began   time.Time       // when the fetch began

	// What the looks have found.
	contact contact
	first   uint64 // sequence number of the token at the first look; 0 if there was none
	stored  uint64 // the same at the last look
	newest  uint64 // the highest that any look found, or this gateway's last token has
}

func (s *Sharing) newLookout(key recordKey, task tokencache.Task) lookout {
	l := lookout{sharing: s, key: key, task: task, began: time.Now()}
	l.noteRest()
	if task.Last != nil {
		l.newest = task.Last.Sequence
	}
	return l
}

// noteRest notes whether the storage is left alone by now. Another fetch of this gateway can have
// found that it hangs.
func (l *lookout) noteRest() {
	if l.sharing.storage.health.rests() {
		l.contact = resting
	}
}

// find returns the stored token if it will do for the fetch, or nil. It takes no longer than
// limit.
func (l *lookout) find(ctx context.Context, limit time.Duration) (*tokencache.Offer, error) {
	sealed, err := l.sharing.storage.load(ctx, l.key.path(), limit)
	if err != nil {
		l.noteFailure(ctx, err)
		return nil, err
	}
	stored, ok := l.key.open(sealed)
	l.noteSequence(stored.Sequence)
	if !ok {
		return nil, nil // there is none, or it has another key or the format of a later version
	}
	granted, ok := stored.adopt(l.sharing.now(), l.greatestAge(stored))
	if !ok || !l.task.Accepts(granted, l.sharing.ahead) {
		return nil, nil
	}
	return &granted, nil
}

// noteFailure notes that a look failed. The first look gets all the time that there is for the
// storage. A storage that does not answer in this time counts as hanging, however short the time is:
// with a short timeout, each fetch would wait for it otherwise.
func (l *lookout) noteFailure(ctx context.Context, err error) {
	if l.contact == unanswered && errors.Is(err, errNoTimeLeft) {
		l.sharing.storage.health.observe(ctx, opLoad, errStorageHangs)
	}
	l.noteRest()
}

// noteSequence notes which token a look found.
func (l *lookout) noteSequence(sequence uint64) {
	if l.contact == unanswered {
		l.contact, l.first = answered, sequence
	}
	l.stored, l.newest = sequence, max(l.newest, sequence)
}

// greatestAge returns the oldest that the stored token can be. A token that came after the first look
// was stored since this fetch began, and was asked for at most another gateway's timeout before. A
// token that was there at the first look can be of any age; 0 stands for that.
func (l *lookout) greatestAge(stored record) time.Duration {
	if stored.Sequence <= l.first {
		return 0
	}
	return time.Since(l.began) + l.sharing.timeout
}
