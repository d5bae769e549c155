package tokencache

import (
	"context"
	"slices"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// rejectInBackground is a rejection of a request that can't be sent again.
func (w *world) rejectInBackground(m *modelGrant, r Rejection, src *modelSource, e expectation) {
	starts := m.starts
	w.note("in the background")
	m.grant.RenewRejectedInBackground(w.t.Context(), r, src)
	w.settle()
	if f := m.flight; f != nil && !e.stands && (e.token == nil || f.forced && !e.token.isAgain) {
		f.background = true
		if f.wanted.IsZero() && f.began.Equal(time.Now()) {
			f.wanted = time.Now()
		}
	}
	if started := m.starts > starts; started != e.starts && !e.fails {
		w.violated("a renewal in the background starts: %t, want %s", started, e)
	}
}

// direct changes how the endpoint answers from now on.
func (w *world) direct() {
	s := script{
		takes:    pick(w, time.Millisecond, 20*time.Millisecond, 300*time.Millisecond, 990*time.Millisecond, 1500*time.Millisecond, 4*time.Second, time.Minute),
		lifetime: pick(w, time.Second, 5*time.Second, 30*time.Second, 2*time.Minute, 10*time.Minute, time.Hour, time.Hour),
		guessed:  w.dice(4) == 0,
		same:     w.dice(8) == 0,
		deaf:     w.dice(4) == 0,
	}
	if w.dice(2) == 0 {
		s.queues = pick(w, 10*time.Millisecond, time.Second, 5*time.Second, time.Minute)
	}
	if w.theme == queueing {
		s.queues = pick(w, 500*time.Millisecond, 5*time.Second)
	}
	if w.dice(4) == 0 {
		s.retries = pick(w, 5*time.Millisecond, 200*time.Millisecond)
	}
	switch w.theme {
	case lagging: // so that tokens are renewed ahead
		s.takes, s.lifetime, s.guessed = min(s.takes, time.Second), max(s.lifetime, 2*time.Minute), false
	case rejecting:
		s.lifetime, w.upstream.rejects = max(s.lifetime, 10*time.Minute), w.dice(2) == 0
	case queueing:
		w.upstream.rejects = w.dice(2) == 0
	case anything:
	}
	if w.dice(5) < 2 && (w.theme != lagging || w.dice(4) == 0) {
		failure := pick(w,
			endpoint.Error{Class: endpoint.ClassUnreachable},
			endpoint.Error{Class: endpoint.ClassServerError, Status: 503},
			endpoint.Error{Class: endpoint.ClassServerError, Status: 429},
			endpoint.Error{Class: endpoint.ClassInvalidResponse, Status: 404},
			endpoint.Error{Class: endpoint.ClassRefused, Status: 401},
			endpoint.Error{Class: endpoint.ClassRefused, Unsent: true},
		)
		failure.RetryAfter = pick(w, 0, 0, 900*time.Millisecond, 3*time.Second, 2*time.Minute)
		s.failure = &failure
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.script = s
	w.note("the endpoint: %+v", s)
}

// changeUpstream changes what the upstream takes.
func (w *world) changeUpstream() {
	u := &w.upstream
	switch w.dice(4) {
	case 0:
		u.rejects = !u.rejects
	case 1:
		u.lag = pick(w, 0, 3*time.Second, 20*time.Second, 40*time.Second)
	default:
		for _, m := range w.grants {
			for _, t := range m.tokens[max(0, len(m.tokens)-1-w.dice(2)):] {
				u.revoked[t.value] = true
			}
		}
	}
	w.note("the upstream: %+v", *u)
}

// drop has a client that waits go away.
func (w *world) drop() {
	for _, m := range w.grants {
		for c := range m.calls {
			w.note("grant %d: the client of %s goes away", m.key, c.name)
			c.cancel()
			w.settle()
			if !c.ended {
				w.violated("%s waits on without a client", c.name)
			}
			return
		}
	}
}

// forget has an operator forget a token.
func (w *world) forget() {
	if len(w.grants) == 0 {
		return
	}
	m := pick(w, w.grants...)
	w.note("grant %d: forget", m.key)
	m.forget()
	m.grant.Forget()
	m.keeper.Wake()
}

// refresh has an operator ask for another token.
func (w *world) refresh() {
	m := w.grants
	if w.table != nil {
		return // nobody knows the credential of a tenant
	}
	g := m[len(m)-1]
	src, now := w.source(g), time.Now()
	w.note("refresh")
	c := &modelCall{m: g, name: "refresh"}
	e := expectation{waits: true, starts: g.flight == nil, by: now.Add(30 * time.Second)}
	w.call(c, e, func(ctx context.Context) (*Token, error) { return g.grant.Refresh(ctx, src) })
}

// share has another gateway share a token.
func (w *world) share() {
	if w.shared == nil || len(w.grants) == 0 {
		return
	}
	m := pick(w, w.grants...)
	w.mu.Lock()
	defer w.mu.Unlock()
	sent := time.Now().Add(-pick(w, 0, time.Second, time.Minute))
	w.source(m).grantLocked(script{lifetime: pick(w, 2*time.Minute, 10*time.Minute, time.Hour)}, sent)
	w.note("grant %d: another gateway has %q", m.key, w.shared[m.key].Value)
}

// reconfigure loads another configuration for the same grants.
func (w *world) reconfigure() {
	w.conf = &modelConf{
		limit: pick(w, 10*time.Second, 10*time.Second, 2*time.Second, 500*time.Millisecond),
		ahead: pick(w, RefreshAhead{}, RefreshAhead{}, RefreshAhead{Off: true}, RefreshAhead{Share: 0.9}, RefreshAhead{Time: 20 * time.Second}),
	}
	w.note("configuration: %+v", *w.conf)
	for _, m := range w.grants {
		if m.keeper != nil {
			w.stopKeeping(m)
			w.startKeeping(m)
		}
	}
}

// keep starts or stops a keeper.
func (w *world) keep() {
	if w.table != nil {
		return // nobody knows the tenants
	}
	m := w.grants[len(w.grants)-1]
	if m.released {
		return
	}
	if m.keeper != nil {
		w.stopKeeping(m)
		return
	}
	w.startKeeping(m)
}

func (w *world) startKeeping(m *modelGrant) {
	w.note("a keeper begins")
	m.keeper, m.keeps = NewKeeper(), w.source(m)
	m.keeper.Begin(m.grant, m.keeps.ahead, m.keeps)
}

func (w *world) stopKeeping(m *modelGrant) {
	if m.keeper != nil {
		w.note("a keeper ends")
		m.keeper.Stop()
		m.keeper, m.keeps = nil, nil
	}
}

// prepare has a token fetched that is missing.
func (w *world) prepare() {
	m := w.use()
	defer m.leave()
	if m.released {
		return
	}
	src, now, starts := w.source(m), time.Now(), m.starts
	w.note("grant %d: prepare", m.key)
	if src.endsPause(now) {
		m.pauseEnded()
	}
	expected := m.live(now) == nil && m.flight == nil && (m.failed == nil || !now.Before(m.failed.miss))
	joins := m.live(now) == nil
	m.grant.Prepare(w.t.Context(), src)
	w.settle()
	if started := m.starts > starts; started != expected {
		w.violated("a missing token is fetched: %t, want %t", started, expected)
	}
	if joins && m.flight != nil {
		m.flight.background = true
	}
}

// restart ends the last configuration, while its requests go on, and loads another.
func (w *world) restart() {
	w.note("the last configuration ends")
	w.released = true
	for _, m := range w.grants {
		w.stopKeeping(m)
		m.released = true
		if w.table == nil {
			_ = m.grant.Destruct()
		}
	}
	if w.table != nil {
		_ = w.table.Destruct()
	}
	w.settle()
	w.checkGrants()
	for _, h := range w.hands {
		h.m.leave()
	}
	w.hands = nil
	if w.dice(2) == 0 {
		return // requests of the configuration before
	}
	// What goes on is cut short: its grants are not looked at any more.
	w.finish()
	w.grants = nil
	w.begin(w.table != nil)
}

// finish waits for all calls.
func (w *world) finish() {
	for range 4 {
		w.sleep(15 * time.Second)
		w.checkGrants()
	}
	for _, m := range w.grants {
		if n := len(m.calls); n > 0 {
			w.violated("grant %d: %d calls have not returned", m.key, n)
		}
		if m.flight != nil && m.keeper == nil {
			w.violated("grant %d: a fetch goes on", m.key)
		}
	}
}

// end ends the run. Nothing of it may stay.
func (w *world) end() {
	w.finish()
	for _, m := range w.grants {
		w.stopKeeping(m)
		for c := range m.calls {
			c.cancel()
		}
		m.released = true
		_ = m.grant.Destruct()
	}
	w.sleep(time.Minute)
}

// check checks all that holds while nothing moves.
func (w *world) check() {
	if w.failed {
		return
	}
	w.checkGrants()
	for len(w.hands) > 8 {
		w.hands[0].m.leave()
		w.hands = slices.Delete(w.hands, 0, 1)
	}
	if w.table != nil {
		w.checkTable()
	}
}
