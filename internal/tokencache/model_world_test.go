package tokencache

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// dice returns a number from 0 to n-1. It decides everything that happens in a world, but for the jitter
// of pauses.
type dice func(n int) int

// world is one run of the model: grants, what is around them, and what was seen so far.
type world struct {
	t    *testing.T
	dice dice

	// Only the test's goroutine uses these.
	conf     *modelConf
	grants   []*modelGrant
	table    *Table // nil if there is one grant
	size     int    // of the table
	released bool   // no configuration is left
	upstream modelUpstream
	theme    theme
	step     int

	// mu guards the rest, and what the model knows. While nothing moves, the test's goroutine does
	// without it.
	mu         sync.Mutex
	script     script
	credential int                     // version
	changedAt  time.Time               // of the credential
	asked      map[*endpoint.Error]int // with which credential
	unreported map[*endpoint.Error]bool
	granted    int
	sequence   uint64
	shared     map[int]Offer // what gateways share, by key; nil without a storage
	hands      []*hand
	log        []string
	failed     bool
}

// theme is what a run has more of than others. Otherwise some things hardly ever come together.
type theme int

const (
	anything  theme = iota
	lagging         // new tokens are taken late
	queueing        // fetches wait for their turn, and clients go away
	rejecting       // tokens are rejected
)

// modelConf is what configurations of the same grant can differ in.
type modelConf struct {
	limit time.Duration
	ahead RefreshAhead
}

// script is how the endpoint answers.
type script struct {
	queues   time.Duration // before it is asked, in a table
	takes    time.Duration
	retries  time.Duration // the first try fails then; 0 if it doesn't
	failure  *endpoint.Error
	lifetime time.Duration
	guessed  bool
	same     bool // it grants the last token again
	deaf     bool // it grants the token also when the fetch was cancelled
}

// modelUpstream is what the upstream takes. A subject of 3 or more is forbidden.
type modelUpstream struct {
	rejects bool          // everything
	lag     time.Duration // a new token is taken after that
	revoked map[string]bool
}

func (u *modelUpstream) takes(t *modelToken, s Subject, now time.Time) bool {
	return !u.rejects && s < 3 && !u.revoked[t.value] && (t.generation == 1 || now.Sub(t.sent) >= u.lag)
}

// hand is a token on its way upstream.
type hand struct {
	m         *modelGrant
	token     *Token
	known     *modelToken
	from      time.Time
	insteadOf uint64 // generation of the newest token, if this is the one before
	renewals  int
	isOlder   bool // it can have been revoked with the one that it replaces
}

// settle waits until nothing moves. Only then the test's goroutine does something.
func (w *world) settle() {
	w.publish()
	synctest.Wait()
}

// sleep is settle, for a time that has to pass before.
func (w *world) sleep(d time.Duration) {
	w.publish()
	time.Sleep(d)
	synctest.Wait()
}

// publish makes what the test's goroutine has done known to others, as far as the race detector is
// concerned.
func (w *world) publish() {
	w.mu.Lock()
	defer w.mu.Unlock()
}

// at shows a time as the log does.
func (*world) at(t time.Time) string {
	return t.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).String()
}

// note adds a line to what is shown when the run fails.
func (w *world) note(format string, args ...any) {
	if w.failed {
		return // what follows does not matter
	}
	w.log = append(w.log, fmt.Sprintf("%3d %-16s ", w.step, w.at(time.Now()))+fmt.Sprintf(format, args...))
}

// violated fails the run.
func (w *world) violated(format string, args ...any) {
	w.note("VIOLATED: "+format, args...)
	w.failed = true
	w.t.Errorf(format, args...)
}

// tail shows what happened last.
func (w *world) tail() string {
	return strings.Join(w.log[max(0, len(w.log)-60):], "\n")
}

type flightKey struct{}

// modelSource is the source of a grant with a configuration.
type modelSource struct {
	*modelConf
	m *modelGrant
}

func (s *modelSource) Limit() time.Duration { return s.limit }
func (*modelSource) Waited(time.Duration)   {}

// Trace sees a fetch at its start and at its end.
func (s *modelSource) Trace(ctx, _ context.Context) (context.Context, func(Outcome)) {
	w, m := s.m.w, s.m
	f := &modelFlight{ctx: ctx, began: time.Now(), limit: s.limit}
	m.grant.mu.Lock()
	if m.grant.flight != nil {
		f.trigger = m.grant.flight.order.trigger
	}
	m.grant.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	f.script = w.script
	w.note("grant %d: fetch (%s)", m.key, f.trigger)
	m.started(f)
	return context.WithValue(ctx, flightKey{}, f), func(o Outcome) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.note("grant %d: fetch (%s): %q for %s, %v, cancelled: %v", m.key, o.Trigger, o.Granted.Value, o.Granted.Lifetime, o.Failure, f.ctx.Err())
		m.landed(f, o)
	}
}

func (s *modelSource) Fetch(ctx context.Context, task Task) Fetched {
	f := ctx.Value(flightKey{}).(*modelFlight)
	result := s.fetch(ctx, f, task)
	s.m.w.mu.Lock()
	defer s.m.w.mu.Unlock()
	if last := task.Last; (last == nil) != (f.last == nil) || last != nil && (last.Value != f.last.value || last.Generation != f.last.generation) {
		s.m.w.violated("the fetch is told that %+v is the last token, want %+v", last, f.last)
	}
	var wanted time.Time
	select {
	case wanted = <-task.Wanted:
	default:
	}
	if !f.wanted.IsZero() && (wanted.IsZero() || wanted.After(f.wanted)) {
		s.m.w.violated("a request waits since %s, and the fetch was told %s", s.m.w.at(f.wanted), s.m.w.at(wanted))
	}
	if result.Failure != nil {
		s.m.w.asked[result.Failure] = s.m.w.credential
	}
	return result
}

func (s *modelSource) fetch(ctx context.Context, f *modelFlight, task Task) Fetched {
	end, w := f.began.Add(s.limit), s.m.w
	timeout := &endpoint.Error{Class: endpoint.ClassTimeout}
	if s.m.inTable {
		if !sleepWithin(ctx, f.script.queues, end) {
			timeout.Unsent = true
			return Fetched{Failure: timeout, Queued: true}
		}
		task.Begin()
		w.mu.Lock()
		f.begun = true
		w.mu.Unlock()
	}
	if !sleepWithin(ctx, time.Millisecond, end) { // so that no fetch ends in the moment in which it starts
		return Fetched{Failure: timeout}
	}
	w.mu.Lock()
	shared, isShared := w.shared[s.m.key]
	w.mu.Unlock()
	if isShared && task.Accepts(shared, s.ahead) {
		return Fetched{Granted: shared}
	}
	sent := time.Now()
	if f.script.retries > 0 {
		if !sleepWithin(ctx, f.script.retries, end) {
			return Fetched{Failure: timeout}
		}
		w.mu.Lock()
		f.retrying = true
		w.mu.Unlock()
		task.Retrying()
	}
	if !sleepWithin(ctx, f.script.takes, end) && (!f.script.deaf || time.Now().Equal(end)) {
		return Fetched{Failure: timeout}
	}
	if f.script.failure != nil {
		failure := *f.script.failure
		return Fetched{Failure: &failure}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return Fetched{Granted: s.grantLocked(f.script, sent)}
}

// grantLocked grants a token.
func (s *modelSource) grantLocked(script script, sent time.Time) Offer {
	w := s.m.w
	w.granted++
	o := Offer{Granted: endpoint.Granted{
		Value: fmt.Sprintf("token-%d", w.granted), Sent: sent, Lifetime: script.lifetime, LifetimeGuessed: script.guessed,
	}}
	if script.same && s.m.newest != nil {
		o.Value = s.m.newest.value
	}
	if w.shared != nil {
		w.sequence++
		o.Sequence = w.sequence
		w.shared[s.m.key] = Offer{Granted: o.Granted, Sequence: o.Sequence, Adopted: true}
	}
	return o
}

// sleepWithin reports whether it could sleep for that long before the end.
func sleepWithin(ctx context.Context, d time.Duration, end time.Time) bool {
	left := time.Until(end)
	select {
	case <-time.After(min(d, left)):
		return d < left
	case <-ctx.Done():
		return false
	}
}

func (s *modelSource) Report(o Outcome) {
	s.m.w.mu.Lock()
	defer s.m.w.mu.Unlock()
	if o.Failure != nil && s.m.w.unreported[o.Failure] {
		s.m.w.violated("the failure of a cancelled fetch is reported")
	}
}

// isChanged reports whether the credential is another one than that which failed.
func (s *modelSource) isChanged(failure *endpoint.Error) bool {
	return s.m.w.asked[failure] != s.m.w.credential
}

// hasNewer reports whether there is a token of another gateway.
func (s *modelSource) hasNewer() bool {
	shared, ok := s.m.w.shared[s.m.key]
	return ok && (s.m.newest == nil || shared.Sequence > s.m.newest.sequence)
}

func (s *modelSource) ChangedSince(_ context.Context, failure *endpoint.Error) bool {
	s.m.w.mu.Lock()
	defer s.m.w.mu.Unlock()
	if s.m.failed != nil && s.m.failed.queued {
		s.m.w.violated("after a fetch that was not sent, the credential is looked at")
	}
	if !s.isChanged(failure) {
		return false
	}
	if now := time.Now(); !s.m.mustAsk && !now.Before(s.m.lookFrom) {
		s.m.lookFrom = now.Add(time.Second)
	}
	s.m.pauseEnded()
	return true
}

func (s *modelSource) HasNewer(context.Context, *Token) bool {
	s.m.w.mu.Lock()
	defer s.m.w.mu.Unlock()
	now := time.Now()
	if s.m.mustAsk || now.Before(s.m.lookFrom) {
		s.m.w.violated("a look for another gateway's token, %s too soon or in vain", s.m.lookFrom.Sub(now))
	}
	s.m.lookFrom = now.Add(time.Second)
	if !s.hasNewer() {
		return false
	}
	s.m.pauseEnded()
	return true
}

// endsPause reports whether a look by this source will end the pause.
func (s *modelSource) endsPause(now time.Time) bool {
	failed := s.m.failed
	return failed != nil && (!failed.queued && s.isChanged(failed.cause) || !s.m.mustAsk && !now.Before(s.m.lookFrom) && s.hasNewer())
}

// find returns what is known of a token.
func (m *modelGrant) find(t *Token) *modelToken {
	for _, known := range slices.Backward(m.tokens) {
		if known.value == t.Value && known.sent.Equal(t.Sent.monotonic) {
			return known
		}
	}
	return nil
}
