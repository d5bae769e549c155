package fleet

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// passOnLimit bounds the work after a fetch: a store, a delete and an unlock.
const passOnLimit = 3 * storageLimit

// turn is a fetch's turn to ask the endpoint: the wait for it, and what comes after. It belongs
// to the goroutine of the fetch.
type turn struct {
	lookout  // for a token that makes the token request unnecessary
	patience patience
	held     *heldLock // nil without a lock
}

func (s *Sharing) newTurn(key recordKey, task tokencache.Task) *turn {
	l := s.newLookout(key, task)
	return &turn{lookout: l, patience: patience{timeout: s.timeout, began: l.began}}
}

// await waits until another gateway has the token, and returns it, or until it is this gateway's
// turn, and returns nil. In both cases this gateway can have the lock.
func (t *turn) await(ctx context.Context) *tokencache.Offer {
	if t.contact == resting {
		return nil
	}
	select {
	case since := <-t.task.Wanted:
		t.patience.requestWaits(since)
	default: // no request waits yet
	}
	found, err := t.find(ctx, t.patience.atMost())
	if found != nil || err != nil {
		return found
	}
	for _, rank := range []lockRank{firstLock, secondLock} {
		found, timedOut := t.waitForLock(ctx, rank)
		if !timedOut {
			return found
		}
	}
	t.sharing.logger.Info("the lock for a token could not be had in time, as another gateway is gone or slow or the storage gives no locks; the token is fetched here as well",
		zap.Duration("waited", time.Since(t.began)))
	return nil
}

// ask asks the endpoint. Meanwhile it gives signs of life to the gateways that wait for the lock.
// Without a lock no gateway waits for this one.
func (t *turn) ask(ctx context.Context, ask func(context.Context) tokencache.Fetched) tokencache.Fetched {
	if t.held == nil || t.contact == resting {
		return ask(ctx)
	}
	asking, asked := context.WithCancel(ctx)
	var signs sync.WaitGroup
	signs.Go(func() { t.giveSigns(asking) })
	defer signs.Wait()
	defer asked()
	return ask(ctx)
}

// lookAfterFailure returns the token that another gateway got while this one failed, or nil. The
// endpoint may have refused only this gateway, such as for its address.
func (t *turn) lookAfterFailure(ctx context.Context) *tokencache.Offer {
	if t.contact == resting {
		return nil
	}
	found, _ := t.find(ctx, signLook)
	return found
}

// passOn lets the next gateway have its turn. No request waits for it.
func (t *turn) passOn() {
	ctx, cancel := context.WithTimeout(context.Background(), passOnLimit)
	defer cancel()
	t.releaseLock(ctx)
}

// passOnWith is passOn after this gateway got a token. It stores the token before it releases the
// lock, as the next holder looks for it then.
func (t *turn) passOnWith(key recordKey, granted tokencache.Offer) {
	ctx, cancel := context.WithTimeout(context.Background(), passOnLimit)
	defer cancel()
	t.publish(ctx, key, granted)
	t.releaseLock(ctx)
}

// publish stores the token. If the storage is left alone, it stores only with the lock, as other
// gateways wait for the token then.
func (t *turn) publish(ctx context.Context, key recordKey, granted tokencache.Offer) {
	if t.contact == resting && t.held == nil {
		return
	}
	sealed, err := key.seal(newRecord(granted, t.sharing.now()))
	if err != nil {
		return // this gateway still uses the token
	}
	if t.sharing.storage.store(ctx, key.path(), sealed) == nil {
		t.sharing.sweeper.sweep(t.sharing.now())
	}
}

// releaseLock releases the lock, if there is one, and deletes the signs of life under it.
func (t *turn) releaseLock(ctx context.Context) {
	if t.held == nil {
		return
	}
	if t.held.signs > 0 {
		t.sharing.storage.remove(ctx, signPath(t.held.name))
	}
	t.sharing.storage.unlock(ctx, t.held.name)
	t.held.letGo()
}
