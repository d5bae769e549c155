package fleet

import (
	"bytes"
	"context"
	"time"
)

const (
	// signInterval is how often the gateway that has the lock gives a sign of life.
	signInterval = 300 * time.Millisecond

	// signLook bounds a look for a sign of life, and the look for a token after a failure. It is
	// short, as a request waits for both.
	signLook = 200 * time.Millisecond

	// signText is the content of a sign of life. It is not JSON, so it can't be taken for a token.
	signText = "alive"
)

// giveSigns gives signs of life until ctx ends or the storage fails.
func (t *turn) giveSigns(ctx context.Context) {
	ticker := time.NewTicker(signInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		t.held.signs++ // even if the store fails, as the storage may have done it
		if t.sharing.storage.store(ctx, signPath(t.held.name), t.key.makeSign(t.sharing.now())) != nil {
			return
		}
	}
}

// loadSign returns the last sign of life of the gateway that has a lock, or nil.
func (t *turn) loadSign(ctx context.Context, lock string) []byte {
	sealed, err := t.sharing.storage.load(ctx, signPath(lock), min(signLook, t.patience.remaining()))
	if err != nil || !t.key.isSign(sealed) {
		return nil
	}
	return sealed
}

// signWatch tells whether the gateway that has a lock is alive. That takes two looks: the gateway can
// have died after it gave the sign that the first look finds.
type signWatch struct {
	looks int
	last  []byte // the sign at the last look; nil if there was none
}

// isNewSign reports whether a look found a sign of life that was given since the look before. It
// remembers the sign for the next look.
func (w *signWatch) isNewSign(sign []byte) (isNew bool) {
	isNew = w.looks > 0 && sign != nil && !bytes.Equal(sign, w.last)
	w.looks++
	w.last = sign
	return isNew
}

// signPath returns where the holder of a lock gives signs of life.
func signPath(lock string) string { return storagePrefix + "/" + lock }

// makeSign makes a sign of life. Each has another nonce, so a new sign differs from the last one and
// no clock is needed to recognise it. For the sweeper, it is a record that expires now.
func (k recordKey) makeSign(now time.Time) []byte {
	return k.sealText([]byte(signText), now)
}

// isSign reports whether it is a sign of life that was made with the credential.
func (k recordKey) isSign(sealed []byte) bool {
	text, ok := k.openText(sealed)
	return ok && string(text) == signText
}
