package fleet

import (
	"context"
	"strconv"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

const (
	// lockNames is how many renewals in a row have different locks, see lockName.
	lockNames = 16

	// A fetch that waits for another gateway's token looks for it at intervals that double from
	// firstLook to lastLook.
	firstLook = 50 * time.Millisecond
	lastLook  = 400 * time.Millisecond
)

// lockRank tells the two locks of a renewal apart.
type lockRank int

const (
	// firstLock is for everyone.
	firstLock lockRank = iota

	// secondLock is for gateways whose wait for the first one timed out. The holder of the first lock
	// may be dead. With a second one, still only one gateway asks.
	secondLock
)

// lockName returns the name of the lock under which a gateway asks for the token that follows the
// sequence number stored. Renewals that follow each other have different locks, so a lock that is
// never released delays only one renewal. That happens: Caddy's file storage can keep a dead
// holder's lock fresh. It does as long as a process lives that had a lock of the same name a few
// seconds before.
func (k recordKey) lockName(stored uint64, rank lockRank) string {
	name := storagePrefix + "-" + k.name + "-" + strconv.FormatUint(stored%lockNames, 10)
	if rank == secondLock {
		name += "-2"
	}
	return name
}

// heldLock is a lock that this gateway has.
type heldLock struct {
	name  string
	letGo context.CancelFunc // ends the context with which the storage was asked for it
	signs int                // number of signs of life that were given under it
}

// lockWait is the wait for a lock and, as long as another gateway has it, for that gateway's
// token.
type lockWait struct {
	*turn
	rank   lockRank
	name   string
	letGo  context.CancelFunc // see heldLock
	answer chan error         // the storage's: nil when this gateway has the lock

	// Looks for the token.
	interval time.Duration // from one look to the next
	nextLook *time.Timer

	// Looks for a sign of life. The look at fullTime decides whether the wait goes on.
	holder   signWatch
	halfTime *time.Timer
	fullTime *time.Timer
}

// waitForLock waits for a lock, or for the token of another gateway. If it returns neither a token
// nor timedOut, this gateway has the lock, or the storage fails, or ctx has ended.
func (t *turn) waitForLock(ctx context.Context, rank lockRank) (found *tokencache.Offer, timedOut bool) {
	// A storage may release the lock when the context of Lock ends. So that context must outlive ctx.
	whileHeld, letGo := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if t.held == nil {
			letGo()
		}
	}()
	w := t.newLockWait(rank, letGo)
	defer w.stopTimers()
	t.sharing.storage.lock(whileHeld, w.name, w.answer)
	for {
		select {
		case err := <-w.answer:
			return w.takeLock(ctx, err), false
		case <-w.nextLook.C:
			if found, err := w.lookAgain(ctx); found != nil || err != nil {
				return found, false
			}
		case <-w.halfTime.C:
			w.watchHolder(ctx)
		case since := <-w.task.Wanted:
			w.requestWaits(since)
		case <-w.fullTime.C:
			if !w.extend(ctx) {
				return nil, true
			}
		case <-ctx.Done():
			return nil, false
		}
	}
}

func (t *turn) newLockWait(rank lockRank, letGo context.CancelFunc) *lockWait {
	left := t.patience.left(rank)
	return &lockWait{
		turn: t, rank: rank, name: t.key.lockName(t.stored, rank), letGo: letGo, answer: make(chan error),
		interval: firstLook, nextLook: time.NewTimer(tokencache.Jittered(firstLook)),
		halfTime: time.NewTimer(left / 2), fullTime: time.NewTimer(left),
	}
}

func (w *lockWait) stopTimers() {
	w.nextLook.Stop()
	w.halfTime.Stop()
	w.fullTime.Stop()
}

// takeLock handles the storage's answer. If this gateway has the lock, it looks for the token once
// more: the last holder can have stored one just before it released the lock.
func (w *lockWait) takeLock(ctx context.Context, err error) *tokencache.Offer {
	w.sharing.storage.health.observe(ctx, opLock, err)
	if err != nil {
		w.noteRest()
		return nil
	}
	w.held = &heldLock{name: w.name, letGo: w.letGo}
	found, _ := w.find(ctx, w.patience.remaining())
	return found
}

// lookAgain looks for the token, and doubles the time to the next look.
func (w *lockWait) lookAgain(ctx context.Context) (*tokencache.Offer, error) {
	found, err := w.find(ctx, w.patience.remaining())
	w.interval = min(2*w.interval, lastLook)
	w.nextLook.Reset(tokencache.Jittered(w.interval))
	return found, err
}

// requestWaits notes that a request waits for the fetch. That shortens the wait for the lock.
func (w *lockWait) requestWaits(since time.Time) {
	w.patience.requestWaits(since)
	left := w.patience.left(w.rank)
	w.halfTime.Reset(left / 2)
	w.fullTime.Reset(left)
}

// watchHolder notes the current sign of life, so that extend can tell whether it finds a new one. As
// long as no request waits, signs of life make no difference.
func (w *lockWait) watchHolder(ctx context.Context) {
	if w.patience.isWanted() {
		w.holder.isNewSign(w.loadSign(ctx, w.name))
	}
}

// extend reports whether the wait goes on after its full time. For how long is up to patience.
func (w *lockWait) extend(ctx context.Context) bool {
	if !w.patience.isWanted() {
		return false // the holder had enough time
	}
	if isAlive := w.holder.isNewSign(w.loadSign(ctx, w.name)); !isAlive {
		return false
	}
	if hasMore := w.patience.signSeen(w.rank); !hasMore {
		return false // the holder is alive, but too slow
	}
	w.fullTime.Reset(w.patience.left(w.rank))
	return true
}
