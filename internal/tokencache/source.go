package tokencache

import (
	"context"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// Source gets tokens with one configuration. A grant uses it only during the call that it comes with
// and during the fetch that this call starts: configurations come and go while a grant stays.
//
// Callers and fetches use a source at the same time, so its methods must be safe for concurrent use.
// None of them is called with a lock of this package held. They may ask the grant what it has, but
// must not wait for it: the grant may be waiting for them.
type Source interface {
	// Limit is the longest that Fetch can take. It is called at the start of each call that may have
	// to fetch, and must return immediately.
	Limit() time.Duration

	// ChangedSince reports whether a fetch would now send another request than the one that failed,
	// such as with a credential that has been replaced. That ends the pause after the failure. It is
	// called for each caller that finds a failure, with that caller's context, and the caller waits.
	ChangedSince(ctx context.Context, failure *endpoint.Error) bool

	// HasNewer reports whether a token newer than last can be had without asking the endpoint. That
	// ends the pause as well. last is nil if the grant has no token. It is called at most once a
	// second, after ChangedSince returned false, and its caller waits.
	HasNewer(ctx context.Context, last *Token) bool

	// Trace is called before each fetch, in the goroutine that also calls Fetch and Report. It
	// returns ctx, the context of the fetch, with a trace that links to the one in cause, and a
	// function that is called with the outcome. Nothing else of cause may be used or kept: it is the
	// context of a request, which can end before the fetch does.
	Trace(ctx, cause context.Context) (context.Context, func(Outcome))

	// Fetch gets a token. It takes no longer than Limit, and ends soon after ctx. ctx is cancelled
	// when nobody needs the outcome any more. task must not be kept, except for Fetched.After. A grant
	// has one fetch at a time, not counting cancelled ones.
	Fetch(ctx context.Context, task Task) Fetched

	// Report is called with the outcome of a fetch, before waiting callers get it. A cancelled fetch
	// that failed is not reported.
	Report(Outcome)

	// Waited is called with the time that a request waited for a fetch.
	Waited(time.Duration)
}

// Task describes a fetch to its source.
type Task struct {
	// Begin tells the grant that the fetch has its turn. A source that queues fetches of a table's
	// grants must call it then. Before that, the fetch is cancelled as soon as nobody waits for it.
	Begin func()

	// Retrying tells the grant that a try has failed and that another follows. Requests that can use a due token
	// don't wait for it. A source need not call it.
	Retrying func()

	// Last is the grant's last token, which may have expired; nil if there is none.
	Last *Token

	// Wanted gets one value: when the first request began to wait for the outcome. It is never
	// closed.
	Wanted <-chan time.Time

	early       bool // Last is not due yet
	askEndpoint bool // the fetch must ask the endpoint, whatever token another gateway has
}

// Accepts reports whether another gateway's token will do. It must be newer than the last token and
// differ from it. For a renewal ahead it must not be stale itself, or it would be renewed again
// immediately.
func (t Task) Accepts(o Offer, ahead RefreshAhead) bool {
	if t.askEndpoint || t.Last != nil && (o.Sequence <= t.Last.Sequence || o.Value == t.Last.Value) {
		return false
	}
	now, offered := time.Now(), o.token()
	return offered.Timely(now) && (!t.early || !ahead.StaleFrom(offered).Passed(now))
}

// Offer is a token that a source got for a grant, from the endpoint or from another gateway.
type Offer struct {
	endpoint.Granted
	Sequence uint64 // see Token; 0 if the token is not shared
	Adopted  bool   // another gateway got it
}

// token makes a Token of the offer, see NewToken.
func (o Offer) token() *Token {
	t := NewToken(o.Granted)
	t.Sequence, t.Adopted = o.Sequence, o.Adopted
	return t
}

// Fetched is the result of a fetch.
type Fetched struct {
	Granted Offer
	Failure *endpoint.Error // nil if there is a token

	// Queued means that the fetch failed before it had its turn. So it was not the credential that
	// failed, and [Source].ChangedSince is not called.
	Queued bool

	// Who was asked, in the form that logs may show.
	Endpoint string
	ClientID string

	// After is called when the waiting callers have the outcome; nil for nothing. A grant of a table
	// stays in it until After returns.
	After func()
}
