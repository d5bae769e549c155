package oauthcc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

const (
	// sharingPatience is how long a fetch that requests wait for is held up at the most by a
	// storage, or by a gateway that has the lock and gives no sign of life.
	sharingPatience = 2 * time.Second

	// signInterval is how often the gateway that has the lock gives a sign of life, and
	// signPatience how long one is good for.
	signInterval = 300 * time.Millisecond
	signPatience = 2 * signInterval

	// signLook is the time for a look for one.
	signLook = 200 * time.Millisecond

	// Who waits for another gateway's token looks for it between firstLook and lastLook
	// apart.
	firstLook = 50 * time.Millisecond
	lastLook  = 400 * time.Millisecond
)

// sharing has gateways that use the same storage share tokens: one of them fetches a
// token, under a lock, and the others find it.
type sharing struct {
	storage *sharedStorage
	timeout time.Duration    // of a fetch as a whole
	now     func() time.Time // the clock of the machine
	sweeper *sweeper
	trust   []string // how the endpoint is trusted, and with which certificate
	stale   refreshAhead
}

// provisionStorage sets up the sharing of tokens.
func (h *Handler) provisionStorage(ctx caddy.Context) error {
	if h.StorageRaw == nil || string(h.StorageRaw) == "null" {
		return nil
	}
	switch {
	case h.DPoP != "":
		return errors.New("storage: with dpop tokens are bound to a key of this process and of no use to others; remove one of them")
	case h.AuthMethod == authNone:
		return fmt.Errorf("storage: tokens are encrypted with the client's credential, and auth_method %s has none; remove storage", authNone)
	}
	if h.AuthMethod == authTLS {
		var err error
		if h.certificateKey, err = readCertificateKey(h.Transport); err != nil {
			return err
		}
	}
	storage, err := h.loadStorage(ctx)
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	shared := newSharedStorage(storage, h.logger)
	h.sharing = &sharing{
		storage: shared, timeout: time.Duration(h.Timeout), stale: h.refreshAhead, trust: h.trust, now: time.Now,
		sweeper: newSweeper(shared),
	}
	return nil
}

// readCertificateKey reads the private key of the client certificate.
func readCertificateKey(t *reverseproxy.HTTPTransport) ([]byte, error) {
	if t.TLS.ClientCertificateKeyFile == "" {
		return nil, errors.New("storage: tokens are encrypted with the key of the client certificate, which has to be in a file; write transport { tls_client_auth <certificate> <key> }")
	}
	key, err := os.ReadFile(t.TLS.ClientCertificateKeyFile)
	if err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	return key, nil
}

// loadStorage returns the storage of the option, or Caddy's own.
func (h *Handler) loadStorage(ctx caddy.Context) (certmagic.Storage, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(h.StorageRaw, &members); err != nil {
		return nil, errors.New("not a storage module; write an object with its name in the member module, or {} for Caddy's storage")
	}
	if len(members) == 0 {
		return ctx.Storage(), nil
	}
	module, err := ctx.LoadModule(h, "StorageRaw")
	if err != nil {
		return nil, err
	}
	converter, ok := module.(caddy.StorageConverter)
	if !ok {
		return nil, errors.New("the module is no storage")
	}
	return converter.CertMagicStorage()
}

// end stops what goes on in the background.
func (s *sharing) end() {
	if s != nil {
		s.storage.end()
		s.sweeper.end()
	}
}

// fetch gets the token that another gateway has got, or else has ask get one, for the others
// as well. The request is the one that was resolved last.
func (s *sharing) fetch(ctx context.Context, task fetchTask, request *grantRequest, ask func(context.Context) fetched) fetched {
	key, err := request.sharedKey(s.trust...)
	if err != nil {
		return ask(ctx) // only for a key that can't be one
	}
	turn, found := s.await(ctx, key, task)
	if found != nil {
		return fetched{
			granted: *found, endpoint: request.endpointName(), clientID: request.clientID,
			after: func() { turn.end(key, nil) },
		}
	}
	result := turn.ask(ctx, ask)
	result.after = func() { turn.end(key, nil) }
	if result.failure != nil {
		// It may be this gateway alone that the endpoint does not want to hear of now.
		if turn.off {
			return result
		}
		if found, _ := turn.look(ctx, signLook); found != nil {
			result.granted, result.failure = *found, nil
		}
		return result
	}
	// The credential can have been replaced meanwhile.
	asked, err := request.sharedKey(s.trust...)
	if err != nil {
		return result
	}
	result.granted.sequence = turn.sequence + 1
	granted := result.granted
	result.after = func() { turn.end(asked, &granted) }
	return result
}

// hasNewer reports whether another gateway has got a token that will do.
func (s *sharing) hasNewer(ctx context.Context, request grantRequest, last *token) bool {
	key, err := request.sharedKey(s.trust...)
	if err != nil || s.storage.rests() {
		return false
	}
	t := &turn{sharing: s, key: key, task: fetchTask{last: last}, began: time.Now()}
	found, _ := t.look(ctx, storageLimit)
	return found != nil
}

// turn is a gateway's turn to fetch a token, and the wait for it.
type turn struct {
	*sharing
	task     fetchTask
	key      sharedKey
	began    time.Time
	wantedAt time.Time // when a request began to wait for the outcome; zero if none does
	sequence uint64    // of the newest token that was seen
	looked   bool      // the storage has answered to the first look
	first    uint64    // sequence of the token that was there then, 0 without
	stored   uint64    // likewise at the last look
	lock     string    // that is held, or empty
	letGo    func()    // ends the context that it is held with
	sign     []byte    // of life, the last that was seen of who has the lock
	signs    int       // that have been seen since
	signed   bool      // signs of this gateway's own life were given
	off      bool      // the storage is not to be used
}

// await returns the token that another gateway has got, or else the turn to fetch one. Both
// are to be ended.
func (s *sharing) await(ctx context.Context, key sharedKey, task fetchTask) (*turn, *grantedToken) {
	t := &turn{sharing: s, key: key, task: task, began: time.Now(), off: s.storage.rests()}
	if task.last != nil {
		t.sequence = task.last.sequence
	}
	if t.off {
		return t, nil
	}
	select {
	case at := <-task.wanted:
		t.wantedAt = later(at, t.began) // it may have had to wait for its turn
	default:
	}
	found, err := t.look(ctx, t.until(true).Sub(t.began))
	if found != nil || err != nil {
		return t, found
	}
	for _, second := range []bool{false, true} {
		found, gaveUp := t.waitFor(ctx, second)
		if !gaveUp {
			return t, found
		}
		// Who has the lock may be dead, or slow. The second one is for those who have waited,
		// so that still only one of them asks.
	}
	s.storage.logger.Info("the lock for a token was waited for in vain, as another gateway is gone or slow or the storage gives no locks; the token is fetched here as well",
		zap.Duration("waited", time.Since(t.began)))
	return t, nil
}

// until is when the wait for one of the locks ends. As long as no request waits there is
// time enough to outlast another gateway's first try.
func (t *turn) until(second bool) time.Time {
	first, last, from := t.timeout/2, t.timeout*3/4, t.began
	if !t.wantedAt.IsZero() {
		last = min(sharingPatience, t.timeout/2)
		// Half of it, so that whoever gets the second lock has as long for an answer as who
		// had the first.
		first, from = last/2, t.wantedAt
	}
	more := min(time.Duration(t.signs)*signPatience, t.timeout/2-first) // not longer than a first try takes
	// Whatever a request would wait for, there has to be time left to ask the endpoint.
	if second {
		return sooner(from.Add(last+more), t.began.Add(t.timeout*3/4))
	}
	return sooner(from.Add(first+more), t.began.Add(t.timeout/2))
}

func sooner(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// left is the time until the wait ends, unless there is a sign of life.
func (t *turn) left(second bool) time.Duration {
	left := time.Until(t.until(second))
	return left - min(signLook, left/4)
}

// isAlive reports whether who has the lock has given a sign of life since the last look for
// one, so that more time is left for it: the endpoint may be slow, and would be slower if all
// asked it.
func (t *turn) isAlive(ctx context.Context, lock string, second bool) bool {
	if t.wantedAt.IsZero() {
		return false // there was time enough
	}
	before, until := t.sign, t.until(second)
	if t.sign = t.loadSign(ctx, lock); len(t.sign) == 0 || before == nil || bytes.Equal(t.sign, before) {
		return false
	}
	t.signs++
	return t.until(second).After(until)
}

// loadSign loads a sign of life. It is empty if there is none.
func (t *turn) loadSign(ctx context.Context, lock string) []byte {
	record, err := t.storage.load(ctx, signPath(lock), min(signLook, time.Until(t.until(true))))
	if err != nil || !t.key.isSign(record) {
		return []byte{}
	}
	return record
}

// ask asks the endpoint and gives signs of life, if others wait for the lock.
func (t *turn) ask(ctx context.Context, ask func(context.Context) fetched) fetched {
	if t.lock == "" || t.off {
		return ask(ctx)
	}
	living, die := context.WithCancel(ctx)
	var signs sync.WaitGroup
	signs.Go(func() { t.giveSigns(living) })
	defer signs.Wait()
	defer die()
	return ask(ctx)
}

func (t *turn) giveSigns(ctx context.Context) {
	ticker := time.NewTicker(signInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		t.signed = true
		if t.storage.store(ctx, signPath(t.lock), t.key.makeSign(t.now())) != nil {
			return
		}
	}
}

// look loads the token and returns it if it will do. It takes no longer than limit.
func (t *turn) look(ctx context.Context, limit time.Duration) (*grantedToken, error) {
	record, err := t.storage.load(ctx, t.key.path(), limit)
	if err != nil {
		if !t.looked && errors.Is(err, errNoTimeLeft) {
			t.storage.note(ctx, "load", errStorageHangs) // it had all the time there is
		}
		t.off = t.storage.rests()
		return nil, err
	}
	shared, ok := t.key.open(record)
	if !t.looked {
		t.looked, t.first = true, shared.Sequence
	}
	t.stored = shared.Sequence
	if !ok {
		return nil, nil // none, another's, or a later version's
	}
	t.sequence = max(t.sequence, shared.Sequence)
	most := time.Duration(0)
	if shared.Sequence > t.first { // it was got since
		most = time.Since(t.began) + t.timeout
	}
	granted, ok := shared.adopt(t.now(), most)
	if !ok || !t.task.accepts(granted, t.stale) {
		return nil, nil
	}
	return &granted, nil
}

// waitFor waits for one of the locks and, as long as it does not get that, for the token.
func (t *turn) waitFor(ctx context.Context, second bool) (found *grantedToken, gaveUp bool) {
	// A storage may keep the lock only for as long as the context lasts that it was given.
	held, letGo := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if t.letGo == nil {
			letGo()
		}
	}()
	name := t.key.lock(t.stored, second)
	got := make(chan error)
	t.storage.lock(held, name, got)
	t.sign = nil
	interval := firstLook
	enough, next := time.NewTimer(t.left(second)), time.NewTimer(jittered(interval))
	middle := time.NewTimer(t.left(second) / 2)
	for _, timer := range []*time.Timer{enough, next, middle} {
		defer timer.Stop()
	}
	for {
		select {
		case err := <-got:
			t.storage.note(ctx, "lock", err)
			if err != nil {
				t.off = t.storage.rests()
				return nil, false
			}
			t.lock, t.letGo = name, letGo
			found, _ = t.look(ctx, time.Until(t.until(true))) // another may have been quicker
			return found, false
		case <-next.C:
			found, err := t.look(ctx, time.Until(t.until(true)))
			if found != nil || err != nil {
				return found, false
			}
			interval = min(2*interval, lastLook)
			next.Reset(jittered(interval))
		case <-middle.C:
			if !t.wantedAt.IsZero() {
				t.sign = t.loadSign(ctx, name)
			}
		case t.wantedAt = <-t.task.wanted:
			enough.Reset(t.left(second))
			middle.Reset(t.left(second) / 2)
		case <-enough.C:
			if !t.isAlive(ctx, name, second) {
				return nil, true
			}
			enough.Reset(t.left(second))
		case <-ctx.Done():
			return nil, false
		}
	}
}

// end shares what was fetched, if anything was, and lets the next gateway have its turn. No
// request waits for it.
func (t *turn) end(key sharedKey, fetched *grantedToken) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*storageLimit)
	defer cancel()
	if fetched != nil && (!t.off || t.lock != "") { // others wait for it
		record, err := key.seal(fetched.share(t.now()))
		if err == nil {
			err = t.storage.store(ctx, key.path(), record)
		}
		if err == nil {
			t.sweeper.sweep(t.now())
		}
	}
	if t.signed {
		t.storage.remove(ctx, signPath(t.lock))
	}
	if t.lock != "" {
		t.storage.unlock(ctx, t.lock)
		t.letGo()
	}
}
