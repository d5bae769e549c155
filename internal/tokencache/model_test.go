package tokencache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

const (
	modelRuns  = 600
	modelSteps = 80
)

// TestModel does at random whatever requests, endpoints, upstreams, gateways, operators and reloads can do
// to grants, and compares what comes of it with a model of what the README says. Each run is a subtest that
// is named by its seed. Only the jitter of pauses is another one each time.
func TestModel(t *testing.T) {
	for seed := range uint64(modelRuns) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			runModel(t, random.IntN, modelSteps)
		})
	}
}

// FuzzModel is TestModel, with bytes that decide what is done. Jitter keeps inputs from being minimized, so run
// it with -fuzzminimizetime 5x.
func FuzzModel(f *testing.F) {
	for seed := range uint64(8) {
		random := rand.New(rand.NewPCG(seed, 1))
		script := make([]byte, 300)
		for i := range script {
			script[i] = byte(random.Uint32())
		}
		f.Add(script)
	}
	f.Fuzz(runScript)
}

// runScript is a run whose dice fall as the bytes of the script say, and then on the same side.
func runScript(t *testing.T, script []byte) {
	runModel(t, func(n int) int {
		if len(script) == 0 {
			return 0
		}
		b := int(script[0])
		script = script[1:]
		return b % n
	}, min(len(script)/3, modelSteps))
}

func runModel(t *testing.T, d dice, steps int) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, d)
		for w.step = 1; w.step <= steps && !w.failed; w.step++ {
			w.sleep(w.pause())
			w.check()
			w.act()
			w.settle()
			w.check()
		}
		w.end()
		if w.failed {
			t.Logf("what happened last:\n%s", w.tail())
		}
	})
}

func newWorld(t *testing.T, d dice) *world {
	w := &world{t: t, dice: d, asked: make(map[*endpoint.Error]int), unreported: make(map[*endpoint.Error]bool)}
	w.upstream.revoked = make(map[string]bool)
	if d(2) == 0 {
		w.shared = make(map[int]Offer)
	}
	w.theme = pick(w, anything, anything, anything, lagging, queueing, rejecting)
	if w.theme == lagging {
		w.upstream.lag = pick(w, 10*time.Second, 40*time.Second)
	}
	w.reconfigure()
	w.direct()
	w.begin(w.theme == queueing || w.theme != lagging && d(3) == 0)
	return w
}

// begin makes the grants of a process, or those after a time without a configuration.
func (w *world) begin(inTable bool) {
	w.released = false
	if !inTable {
		w.table = nil
		w.grants = append(w.grants, w.model(NewGrant(), 0, false))
		return
	}
	w.size = 1 + w.dice(10)
	w.table = NewTable(w.size)
}

func (w *world) model(g *Grant, key int, inTable bool) *modelGrant {
	return &modelGrant{w: w, grant: g, key: key, inTable: inTable, calls: make(map[*modelCall]bool), evidence: NewGrant()}
}

// pick chooses among things of any kind.
func pick[T any](w *world, from ...T) T { return from[w.dice(len(from))] }

// pause is the time to the next step: at random, or to a moment at which something ends.
func (w *world) pause() time.Duration {
	switch {
	case w.isSettling() && w.dice(4) > 0:
		return time.Duration(w.dice(30)) * 100 * time.Millisecond
	case w.theme == queueing && w.dice(3) > 0:
		return time.Duration(w.dice(20)) * 100 * time.Millisecond
	case w.theme == rejecting && w.dice(2) > 0:
		return time.Duration(w.dice(15)) * time.Second
	case w.theme == lagging && w.dice(8) > 0:
		m := w.grants[len(w.grants)-1]
		if m.newest == nil || m.flight != nil {
			return 500 * time.Millisecond
		}
		return max(100*time.Millisecond, time.Until(w.conf.ahead.StaleFrom(m.grant.Snapshot().Token).monotonic))
	case w.dice(3) > 0:
		most := pick(w, 0, 50*time.Millisecond, time.Second, time.Second, 5*time.Second, 20*time.Second, time.Minute, 10*time.Minute)
		if slices.ContainsFunc(w.grants, func(m *modelGrant) bool { return m.keeper != nil }) {
			most = min(most, time.Minute) // it can have to renew twice a second
		}
		return most * time.Duration(1+w.dice(200)) / 200
	}
	var ends []time.Time
	for _, m := range w.grants {
		ends = append(ends, m.forced.from, m.forced.slow)
		if t := m.newest; t != nil {
			ends = append(ends, w.conf.ahead.StaleFrom(m.grant.Snapshot().Token).monotonic, t.due, t.expires, t.expires.Add(-60*time.Millisecond), t.expires.Add(-40*time.Millisecond), t.sent.Add(30*time.Second))
		}
		if t := m.used; t != nil {
			ends = append(ends, t.due)
		}
		if f := m.failed; f != nil {
			ends = append(ends, f.miss, f.next, f.rejected.to, f.miss.Add(-900*time.Millisecond))
		}
	}
	now := time.Now()
	ends = slices.DeleteFunc(ends, func(at time.Time) bool { return at.Before(now) })
	if len(ends) == 0 {
		return time.Millisecond
	}
	return max(0, pick(w, ends...).Sub(now)+pick[time.Duration](w, -1, 0, 1))
}

// isSettling reports whether there is a new token that the upstream may not take yet.
func (w *world) isSettling() bool {
	return slices.ContainsFunc(w.grants, func(m *modelGrant) bool {
		return m.before != nil && time.Since(m.newest.sent) < 40*time.Second
	})
}

// act does one of the things that can happen.
func (w *world) act() {
	if w.dice(3) > 0 {
		switch w.theme {
		case lagging:
			pick(w, w.request, w.answer)()
			return
		case queueing:
			pick(w, w.request, w.answer, w.answer, w.drop)()
			return
		case rejecting:
			pick(w, w.request, w.answer, w.answer)()
			return
		case anything:
		}
	}
	switch n := w.dice(100); {
	case n < 30:
		w.request()
	case n < 62:
		w.answer()
	case n < 72:
		w.direct()
	case n < 77:
		w.changeUpstream()
	case n < 82:
		w.drop()
	case n < 84:
		w.forget()
	case n < 86:
		w.refresh()
	case n < 88:
		w.mu.Lock()
		w.credential++
		w.changedAt = time.Now()
		w.note("another credential")
		w.mu.Unlock()
	case n < 91:
		w.share()
	case n < 94:
		w.reconfigure()
	case n < 97:
		w.keep()
	case n < 99:
		w.prepare()
	default:
		w.restart()
	}
}

// use has a request use one of the grants.
func (w *world) use() *modelGrant {
	if w.table == nil {
		m := w.grants[len(w.grants)-1]
		m.users++
		return m
	}
	key := w.dice(w.size + 3)
	e := w.table.Acquire(endpoint.NewGrantKey([]string{fmt.Sprint(key)}), nil)
	for _, m := range w.grants {
		if m.grant == &e.Grant {
			m.users++
			return m
		}
	}
	m := w.model(&e.Grant, key, true)
	m.users, m.lastUse, m.released = 1, time.Now(), w.released
	w.grants = append(w.grants, m)
	return m
}

func (w *world) source(m *modelGrant) *modelSource { return &modelSource{modelConf: w.conf, m: m} }

// request is a request that needs a token, or a few at the same time.
func (w *world) request() {
	for range pick(w, 1, 1, 3) {
		m := w.use()
		src, now := w.source(m), time.Now()
		if t := m.grant.Current(); t.Timely(now) {
			w.take(m, src, t, now)
			continue
		}
		c := &modelCall{m: m, name: "get", live: m.live(now)}
		c.isOver = m.newest != nil && !now.Before(m.newest.expires) && m.newest.invalid()
		w.note("grant %d: get", m.key)
		m.users-- // call counts it
		w.call(c, m.expectGet(src, now), func(ctx context.Context) (*Token, error) { return m.grant.Get(ctx, src) })
	}
}

// take takes a token that is not due, as a handler does.
func (w *world) take(m *modelGrant, src *modelSource, t *Token, now time.Time) {
	c := &modelCall{m: m, name: "take", began: now, ctx: w.t.Context(), live: m.live(now)}
	if known := m.current(now); known == nil || known.value != t.Value || known.isAgain != t.Fallback {
		w.violated("%q is taken, want %+v", t.Value, known)
		return
	}
	c.end(t, nil)
	c.keep()
	starts := m.starts
	if !src.ahead.StaleFrom(t).Passed(now) {
		return
	}
	expected := m.flight == nil && !m.released && !t.Fallback && (m.failed == nil || !now.Before(m.failed.next))
	m.grant.RenewAhead(w.t.Context(), t, src)
	w.settle()
	if started := m.starts > starts; started != expected {
		w.violated("a stale token is renewed: %t, want %t", started, expected)
	}
}

// answer has the upstream answer to a request.
func (w *world) answer() {
	if len(w.hands) == 0 {
		w.request()
		return
	}
	i := len(w.hands) - 1
	if w.dice(4) == 0 {
		i = w.dice(len(w.hands))
	}
	h, s := w.hands[i], pick[Subject](w, 0, 0, 1, 1, 1, 2, 2, 2, 3, 4)
	w.hands = slices.Delete(w.hands, i, i+1)
	if w.upstream.takes(h.known, s, h.from) {
		w.accept(h, s)
		h.m.leave()
		return
	}
	w.reject(h, s)
}

func (w *world) accept(h *hand, s Subject) {
	w.note("grant %d: %q is accepted for %d", h.m.key, h.token.Value, s)
	if h.renewals > 0 {
		h.m.forced.noteCured()
		h.m.grant.NoteCured()
	}
	h.m.noteAccepted(h, s)
	h.m.grant.NoteAccepted(h.token, h.from, func() Subject { return s })
}

func (w *world) reject(h *hand, s Subject) {
	m := h.m
	src, now, r := w.source(m), time.Now(), Rejection{Token: h.token, Subject: s, Invalid: w.dice(2) == 0}
	w.note("grant %d: %q (%d, again %t) is rejected for %d", m.key, h.token.Value, h.known.generation, h.token.Fallback, s)
	isNews := h.known.generation > m.rejections
	m.rejections = max(m.rejections, h.known.generation)
	if m.grant.NoteRejection(h.token) != isNews {
		w.violated("the rejection is news: %t", !isNews)
	}
	if h.renewals > 1 || h.renewals == 1 && !h.isOlder {
		w.note("it is not cured")
		m.evidence.evidence.refused.add(s)
		rejects, _ := m.noteRejected(h, r, now)
		m.noteUncured(rejects)
		m.grant.NoteUncured(r)
		m.leave()
		return
	}
	if !m.released && w.dice(8) == 0 {
		w.rejectInBackground(m, r, src, m.expectRejected(src, h, r, now))
		m.leave()
		return
	}
	c := &modelCall{m: m, name: "renew", rejected: h, live: m.live(now)}
	if src.endsPause(now) {
		m.pauseEnded()
	}
	m.users-- // call counts it
	w.call(c, m.expectRejected(src, h, r, now), func(ctx context.Context) (*Token, error) { return m.grant.RenewRejected(ctx, r, src) })
}
