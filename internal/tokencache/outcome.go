package tokencache

import (
	"errors"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// Trigger is the reason for a fetch. Logs and metrics show it.
type Trigger string

// The reasons.
const (
	TriggerMiss     Trigger = "miss"     // a request found no token, or a due one
	TriggerAhead    Trigger = "ahead"    // a request found a stale token
	TriggerRejected Trigger = "rejected" // the upstream rejected the token
	TriggerPrefetch Trigger = "prefetch" // no request; the token is fetched for later ones
	TriggerOperator Trigger = "operator" // an operator asked for it
)

// isForced reports whether a fetch for this reason is a forced renewal: it replaces a token that has
// not expired.
func (t Trigger) isForced() bool {
	return t == TriggerRejected || t == TriggerOperator
}

// Outcome is the result of a fetch, and what follows from it.
type Outcome struct {
	Fetched
	Trigger Trigger
	Took    time.Duration // including the wait for its turn

	// After a failure.
	Usable   bool      // the grant still has a live token
	Rejected bool      // the upstream has rejected that token, and accepted it for nothing since then
	RetryAt  time.Time // the end of the pause
	Known    bool      // the grant has had a token from the endpoint or another gateway before

	// After a success: what is news and worth a warning.
	Narrowed bool // the endpoint granted fewer scopes than asked for
	AtEnd    bool // tokens have already expired when they are granted
	Unusual  bool // the endpoint calls the type of its tokens by an unusual name
	Replaced bool // the endpoint has replaced the refresh token that the grant goes by
}

// Results of a fetch that brought a token. Any other result is an error code.
const (
	ResultOK     = "ok"
	resultShared = "shared" // another gateway's token
)

// Result names the outcome: ok, shared, or the error code.
func (o *Outcome) Result() string {
	switch {
	case o.Failure != nil:
		return o.Failure.ErrorCode()
	case o.Granted.Adopted:
		return resultShared
	}
	return ResultOK
}

// UnavailableError tells a caller why there is no token and when to come back. Its text is that of
// the cause, and contains no secret.
type UnavailableError struct {
	Cause   *endpoint.Error // the failure of the last fetch that failed; never nil
	RetryAt time.Time       // the endpoint is not asked again before this time
	Waiting bool            // in a pause, or during an outage the caller did not wait to the end
	Again   bool            // the fetch before had failed as well, so the caller is not the first to meet the outage

	// The pause began while there was a token, and is so short that waiting for its end spares the
	// caller the error. An endpoint that has one token for each client grants the next when that ends.
	endsSoon bool
}

func (e *UnavailableError) Error() string { return e.Cause.Error() }
func (e *UnavailableError) Unwrap() error { return e.Cause }

// ErrNotRenewed means that a forced renewal was not due, or that it brought the same token again. So
// there is no token to replay the request with.
var ErrNotRenewed = errors.New("no other token")
