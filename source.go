package oauthcc

import (
	"context"
	"time"
)

// trigger is the reason for a fetch, as logs tell it.
type trigger string

const (
	triggerMiss     trigger = "miss"     // a request found no token that can be served
	triggerAhead    trigger = "ahead"    // a request found one that will expire soon
	triggerRejected trigger = "rejected" // the upstream rejected the token
	triggerPrefetch trigger = "prefetch" // without a request
	triggerOperator trigger = "operator" // an operator asked for it
)

// source gets tokens with one configuration, and is kept no longer than a fetch takes.
type source interface {
	// fetch asks the endpoint for a token. It takes no longer than limit.
	fetch(ctx context.Context, task fetchTask) fetched
	limit() time.Duration

	// changedSince reports whether a fetch would ask for something else by now than
	// the one that failed did, such as with a credential that has been replaced.
	changedSince(ctx context.Context, failure *fetchError) bool

	// hasNewer reports whether there is a newer token to be had without asking the endpoint.
	hasNewer(ctx context.Context, last *token) bool

	// report is told what became of a fetch, before those who wait for it.
	report(outcome)

	// waited is told how long a request waited for a fetch.
	waited(time.Duration)
}

// fetchTask is what a source is told of a fetch.
type fetchTask struct {
	begin  func()           // is to be called when it is the fetch's turn
	last   *token           // the last one of the grant; nil if there was none
	ahead  bool             // last can still be served, and is to be renewed before it can't
	anew   bool             // the endpoint is to be asked, whatever others have got
	wanted <-chan time.Time // tells when the first request began to wait for the outcome
}

// accepts reports whether a token that another gateway has got will do.
func (t fetchTask) accepts(granted grantedToken, stale refreshAhead) bool {
	if t.anew || t.last != nil && (granted.sequence <= t.last.sequence || granted.value == t.last.value) {
		return false
	}
	now, offered := time.Now(), newToken(granted)
	return offered.usable(now) && (!t.ahead || !stale.staleFrom(offered).passed(now))
}

// fetched is what a fetch came to.
type fetched struct {
	granted  grantedToken
	failure  *fetchError // nil if a token was granted
	endpoint string      // as logs may show it
	clientID string
	after    func() // to be called when it is known to those who wait; nil for nothing
}

// Results of a fetch that brought a token; else it is an error code.
const (
	resultOK     = "ok"
	resultShared = "shared" // another gateway has got the token
)

// outcome is what a fetch came to, and what that means.
type outcome struct {
	fetched
	trigger  trigger
	took     time.Duration
	usable   bool      // a failed fetch leaves a token that can be served
	retryAt  time.Time // after a failed one, not before then is the endpoint asked again
	narrowed bool      // it is news that fewer scopes were granted than asked for
	atEnd    bool      // it is news that tokens have expired when they are granted
}

// result names what a fetch came to.
func (o *outcome) result() string {
	switch {
	case o.failure != nil:
		return o.failure.errorCode()
	case o.granted.adopted:
		return resultShared
	}
	return resultOK
}

// unavailableError tells a caller why there is no token and when to come back.
type unavailableError struct {
	cause   *fetchError
	retryAt time.Time // not before then is the endpoint asked again
	waiting bool      // the endpoint was not asked this time, or not waited for
}

func (e *unavailableError) Error() string { return e.cause.Error() }
func (e *unavailableError) Unwrap() error { return e.cause }
