package fleet

import (
	"context"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// Sharing shares the tokens of one configuration with other gateways. Any number of fetches, for any
// number of grants, can use it at the same time. Only Stop may be called on a nil Sharing.
type Sharing struct {
	storage *boundedStorage
	sweeper *sweeper

	timeout time.Duration           // of a fetch as a whole
	ahead   tokencache.RefreshAhead // when a token is stale
	trust   []string                // how the endpoint is trusted
	logger  *zap.Logger

	now func() time.Time // the machine's clock, by which records are dated
}

// New makes a Sharing over a storage, which it does not use yet. storage and logger must not be
// nil.
//
// timeout is the longest that a whole fetch can take, with its waits and token requests. ahead says when a token is
// stale: another gateway's stale token does not replace a stale one. trust says how the endpoint is trusted. Gateways
// with another trust don't share tokens. logger gets a message when the storage fails, when it works again, and when
// the wait for a lock times out.
func New(storage certmagic.Storage, timeout time.Duration, ahead tokencache.RefreshAhead, trust []string, logger *zap.Logger) *Sharing {
	bounded := newBoundedStorage(storage, logger)
	return &Sharing{
		storage: bounded, sweeper: newSweeper(bounded),
		timeout: timeout, ahead: ahead, trust: trust, logger: logger,
		now: time.Now,
	}
}

// Fetch returns another gateway's token, if task accepts it. Otherwise it calls ask, once, and shares
// the token that ask returns. It fails only if ask does, even if the storage does not work. ctx must
// end within the timeout of New.
//
// request is the token request. ask may change it, as the credential can be replaced during the
// fetch. The token is shared under the credential that it was granted for.
//
// The After of the result stores the token and releases the lock. It takes up to three seconds, and
// other gateways wait for it. This gateway's requests don't have to.
func (s *Sharing) Fetch(ctx context.Context, task tokencache.Task, request *endpoint.Request, ask func(context.Context) tokencache.Fetched) tokencache.Fetched {
	key, err := recordKeyFor(*request, s.trust)
	if err != nil {
		return ask(ctx) // without a credential nothing can be sealed, so nothing is shared
	}
	turn := s.newTurn(key, task)
	if found := turn.await(ctx); found != nil {
		return tokencache.Fetched{
			Granted: *found, Endpoint: request.EndpointName(), ClientID: request.ClientID,
			After: turn.passOn,
		}
	}
	result := turn.ask(ctx, ask)
	result.After = turn.passOn
	if result.Failure != nil {
		if found := turn.lookAfterFailure(ctx); found != nil {
			result.Granted, result.Failure = *found, nil
		}
		return result
	}
	key, err = recordKeyFor(*request, s.trust) // ask can have used another credential
	if err != nil {
		return result
	}
	result.Granted.Sequence = turn.newest + 1
	granted := result.Granted
	result.After = func() { turn.passOnWith(key, granted) }
	return result
}

// HasNewer reports whether another gateway has a token that is usable and newer than last, which may
// be nil. It neither asks the endpoint nor waits for a lock, and takes at most a second. If the
// storage fails, there is no token.
func (s *Sharing) HasNewer(ctx context.Context, request endpoint.Request, last *tokencache.Token) bool {
	key, err := recordKeyFor(request, s.trust)
	if err != nil {
		return false
	}
	l := s.newLookout(key, tokencache.Task{Last: last})
	if l.contact == resting {
		return false
	}
	found, _ := l.find(ctx, storageLimit)
	return found != nil
}

// Stop stops the sweep in progress and waits for its end. After that the storage's failures are no longer
// logged, except for one that is being logged now: the end of the configuration can close it. Fetches in
// progress go on. On a nil Sharing, Stop does nothing.
func (s *Sharing) Stop() {
	if s == nil {
		return
	}
	s.storage.health.fallSilent()
	s.sweeper.stop()
}
