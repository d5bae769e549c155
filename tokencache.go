package oauthcc

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
)

const (
	// expiryMargin is how long before its expiry a token is no longer served, so
	// that it does not expire on its way; a tenth of its lifetime if that is less.
	expiryMargin = 10 * time.Second

	// forcedSpacing is the least time between two renewals of a rejected token.
	forcedSpacing = 5 * time.Second

	// A renewal that did not cure a rejection without a challenge delays the next
	// such renewal, from bareWaitMin doubling up to bareWaitMax: the upstream may
	// reject for another reason than the token.
	bareWaitMin = 10 * time.Second
	bareWaitMax = time.Minute

	// After a failed fetch the endpoint is left alone: longer when it refused the
	// client than when it may be back any moment.
	pauseRefused   = 15 * time.Second
	pauseTransient = time.Second
)

// grantKey identifies a token: equal keys ask the same endpoint for the same grant
// with the same credential.
type grantKey [sha256.Size]byte

// newGrantKey hashes the fields, each with its length before it, so that no two
// different lists are written alike.
func newGrantKey(groups ...[]string) grantKey {
	hash := sha256.New()
	writeLength := func(n int) {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(n))
		hash.Write(length[:])
	}
	for _, group := range groups {
		writeLength(len(group))
		for _, field := range group {
			writeLength(len(field))
			hash.Write([]byte(field))
		}
	}
	return grantKey(hash.Sum(nil))
}

// grants holds the tokens of all configurations in this process, by grantKey.
// Configurations come and go, tokens stay as long as one uses them.
var grants = caddy.NewUsagePool()

func acquireGrant(key grantKey) (*cachedGrant, error) {
	value, _, err := grants.LoadOrNew(key, func() (caddy.Destructor, error) {
		return new(cachedGrant), nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*cachedGrant), nil
}

func releaseGrant(key grantKey) error {
	_, err := grants.Delete(key)
	return err
}

// token is an access token in the cache. It is immutable.
type token struct {
	value      string
	generation uint64    // higher than that of every token before it
	servedTo   time.Time // from then on it counts as expired
}

func (t *token) usable(now time.Time) bool {
	return t != nil && now.Before(t.servedTo)
}

// fingerprint names a token in logs.
func fingerprint(value string) string {
	sum := sha256.Sum256([]byte(value))
	return hex.EncodeToString(sum[:4])
}

// fetchFunc gets a token from the endpoint. What belongs to one configuration, such
// as its transport and its logger, comes with it and is not kept.
type fetchFunc func(ctx context.Context) (grantedToken, error)

// unavailableError tells a caller why there is no token and when to come back.
type unavailableError struct {
	cause   *fetchError
	retryAt time.Time // not before then is the endpoint asked again
	waiting bool      // the endpoint was not asked this time
}

func (e *unavailableError) Error() string { return e.cause.Error() }
func (e *unavailableError) Unwrap() error { return e.cause }

// errNotRenewed is the outcome of a forced renewal that was not due or that brought
// the same token again: there is nothing to replay with.
var errNotRenewed = errors.New("no other token")

// cachedGrant is the token of one grant key and all that is known about getting the
// next one. Nothing in it belongs to one configuration.
type cachedGrant struct {
	current atomic.Pointer[token]

	mu         sync.Mutex
	flight     *flight
	released   bool              // no configuration uses the grant any more; requests may
	failed     *unavailableError // the last fetch, if it failed
	generation uint64
	forcedFrom time.Time     // not before then is a token renewed that was rejected
	bareWait   time.Duration // 0 until a renewal did not cure
	bareFrom   time.Time     // not before then is a bare rejection a reason to renew
	narrowed   string        // scopes that the endpoint did not grant, already told

	// Generations of the last tokens of which it was recorded that they did not cure a
	// rejection, nor a bare one, or were rejected and the request could not be replayed.
	uncured, uncuredBare, unreplayed uint64
}

// flight is the one fetch in progress, shared by all who wait for it.
type flight struct {
	forced  bool // a rejected token is to be replaced
	bare    bool // and the upstream did not say that the token was at fault
	cancel  context.CancelFunc
	waiting int           // guarded by the grant's lock
	done    chan struct{} // closed when token or err is set
	token   *token
	err     error
}

// Destruct implements caddy.Destructor. Requests of an earlier configuration can
// outlive it, so a fetch goes on as long as one waits for it.
func (g *cachedGrant) Destruct() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.released = true
	g.endUnused(g.flight)
	return nil
}

// endUnused ends a fetch whose outcome is of no use to anyone, and keeps others from
// waiting for it. The caller holds mu.
func (g *cachedGrant) endUnused(f *flight) {
	if g.released && f != nil && f.waiting == 0 {
		f.cancel()
		if g.flight == f {
			g.flight = nil
		}
	}
}

// usable returns the cached token if it can be served. It is the whole cost of a
// request while the token lives.
func (g *cachedGrant) usable() *token {
	if t := g.current.Load(); t.usable(time.Now()) {
		return t
	}
	return nil
}

// get returns a token that can be served, fetching one where there is none. Callers
// share one fetch; ctx ends the wait of this caller alone. Errors are of type
// *unavailableError, or those of ctx.
func (g *cachedGrant) get(ctx context.Context, fetch fetchFunc) (*token, error) {
	g.mu.Lock()
	if t := g.usable(); t != nil {
		g.mu.Unlock()
		return t, nil
	}
	f, err := g.join(fetch, flight{})
	g.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return g.wait(ctx, f)
}

// renew returns a token other than the one that the upstream rejected: the cached
// one, if it is newer, else a new one. bare tells that the upstream did not say that
// the token was at fault. Errors are those of get, and errNotRenewed.
func (g *cachedGrant) renew(ctx context.Context, rejected *token, bare bool, fetch fetchFunc) (*token, error) {
	t, f, err := g.force(rejected, bare, fetch)
	if err != nil || t != nil {
		return t, err
	}
	if t, err = g.wait(ctx, f); err != nil {
		return nil, err
	}
	if t.generation <= rejected.generation {
		return nil, errNotRenewed
	}
	return t, nil
}

// renewInBackground is renew for a request that can't be replayed; the outcome is in
// the cache and in the log. It reports whether this is the first such request with the
// token.
func (g *cachedGrant) renewInBackground(rejected *token, bare bool, fetch fetchFunc) bool {
	if _, f, err := g.force(rejected, bare, fetch); err == nil && f != nil {
		g.leave(f)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return isNews(&g.unreplayed, rejected)
}

// force returns the token that has replaced the rejected one, or else the fetch that
// will. The caller counts as waiting for that.
func (g *cachedGrant) force(rejected *token, bare bool, fetch fetchFunc) (*token, *flight, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.usable()
	if t != nil && t.generation > rejected.generation {
		return t, nil, nil
	}
	now := time.Now()
	tooSoon := now.Before(g.forcedFrom) || bare && now.Before(g.bareFrom)
	if t != nil && g.flight == nil && tooSoon {
		if g.failed != nil { // the renewal before, so there is none to be had
			retryAt := g.failed.retryAt
			if g.forcedFrom.After(retryAt) {
				retryAt = g.forcedFrom
			}
			return nil, nil, &unavailableError{cause: g.failed.cause, retryAt: retryAt, waiting: true}
		}
		return nil, nil, errNotRenewed
	}
	f, err := g.join(fetch, flight{forced: true, bare: bare})
	return nil, f, err
}

// join returns the fetch in progress or starts one, unless the endpoint is to be
// left alone after a failure; kind tells what one that is started is for. The caller
// holds mu, and counts as waiting.
func (g *cachedGrant) join(fetch fetchFunc, kind flight) (*flight, error) {
	if g.flight == nil {
		now := time.Now()
		if g.failed != nil && now.Before(g.failed.retryAt) {
			return nil, &unavailableError{cause: g.failed.cause, retryAt: g.failed.retryAt, waiting: true}
		}
		if kind.forced {
			g.forcedFrom = now.Add(forcedSpacing)
		}
		// The context has nothing of the request that starts the fetch, which others
		// wait for as well; fetch itself bounds its time.
		ctx, cancel := context.WithCancel(context.Background())
		kind.cancel, kind.done = cancel, make(chan struct{})
		g.flight = &kind
		go g.fly(ctx, g.flight, fetch)
	}
	g.flight.waiting++
	return g.flight, nil
}

// fly runs one fetch to its end.
func (g *cachedGrant) fly(ctx context.Context, f *flight, fetch fetchFunc) {
	defer close(f.done)
	defer f.cancel()
	granted, err := fetch(ctx)

	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		failed := unavailable(err)
		f.err = failed
		if g.flight == f {
			g.flight, g.failed = nil, failed
		}
		return
	}
	if g.flight == f {
		g.flight = nil
	}
	g.failed = nil
	generation := g.generation
	if f.token = g.store(granted); f.bare && generation == g.generation {
		g.delayBare() // the same token again is no cure either
	}
}

// wait waits for the outcome of the fetch. Its token goes to those who waited for it
// even if it was granted for less time than the answer took: none is newer.
func (g *cachedGrant) wait(ctx context.Context, f *flight) (*token, error) {
	defer g.leave(f)
	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// leave ends a caller's waiting.
func (g *cachedGrant) leave(f *flight) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f.waiting--
	g.endUnused(f)
}

// store puts a granted token into the cache. The same token once more keeps its
// generation, as it can't cure a rejection. The caller holds mu.
func (g *cachedGrant) store(granted grantedToken) *token {
	margin := min(expiryMargin, granted.lifetime/10)
	t := &token{value: granted.value, servedTo: granted.sent.Add(granted.lifetime - margin)}
	if old := g.current.Load(); old == nil || old.value != t.value {
		g.generation++
	}
	t.generation = g.generation
	g.current.Store(t)
	return t
}

// unavailable is what the callers of a failed fetch get, and those that come before
// the endpoint is asked again.
func unavailable(err error) *unavailableError {
	failure, ok := errors.AsType[*fetchError](err)
	if !ok {
		failure = &fetchError{class: classUnreachable}
	}
	pause := pauseTransient
	if failure.class == classRefused && !failure.unsent {
		pause = pauseRefused
	}
	return &unavailableError{cause: failure, retryAt: time.Now().Add(max(pause, failure.retryAfter))}
}

// cured records that the upstream accepted a renewed token after a rejection.
func (g *cachedGrant) cured() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bareWait, g.bareFrom = 0, time.Time{}
}

// notCured records that the upstream rejected the renewed token as well. It reports
// whether that is news of this token; many requests may be replayed with it.
func (g *cachedGrant) notCured(renewed *token, bare bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if bare && isNews(&g.uncuredBare, renewed) {
		g.delayBare()
	}
	return isNews(&g.uncured, renewed)
}

// delayBare makes the next renewal for a bare rejection wait, each time longer. The
// caller holds mu.
func (g *cachedGrant) delayBare() {
	g.bareWait = min(max(2*g.bareWait, bareWaitMin), bareWaitMax)
	g.bareFrom = time.Now().Add(g.bareWait)
}

// isNews reports whether the token is newer than the last one that this was recorded
// of, and records it.
func isNews(last *uint64, t *token) bool {
	news := t.generation > *last
	*last = max(*last, t.generation)
	return news
}

// narrows records which scopes the endpoint did not grant. It reports whether that
// is news.
func (g *cachedGrant) narrows(missing string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	news := missing != g.narrowed
	g.narrowed = missing
	return news && missing != ""
}
