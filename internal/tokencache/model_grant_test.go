package tokencache

import "time"

// modelGrant is what the README says of one grant, kept up to date with what is seen to happen. It knows
// nothing of the grant's inside.
type modelGrant struct {
	w        *world
	grant    *Grant
	key      int
	inTable  bool
	released bool
	users    int // requests that have the grant, or a token of it
	lastUse  time.Time
	calls    map[*modelCall]bool // that have not returned
	keeper   *Keeper
	keeps    *modelSource // what the keeper renews with
	keepBy   time.Time    // the keeper need not have noticed before that what others did

	tokens       []*modelToken
	newest       *modelToken
	before       *modelToken // that can be used again
	used         *modelToken // the one before, while it is used again
	usedFor      time.Duration
	generation   uint64
	evidence     *Grant // a grant of which no more is used than whose fault rejections are; tests of its own hold that
	mustAsk      bool   // an operator had the token forgotten
	wasForgotten bool   // at any time, so that its place in a table tells nothing

	flight     *modelFlight
	landedAt   time.Time
	fetching   int // flights that have not ended, with cancelled ones
	starts     int
	failed     *modelFailure
	failing    bool // the last fetch failed, and nothing but another ends that
	failures   [3]int
	lookFrom   time.Time
	forced     modelForced
	vain       []time.Time // starts of forced renewals that cured nothing
	uncured    uint64      // generation of the last token that is known not to have cured
	rejections uint64      // generation of the last token whose rejection was news
}

// modelToken is a token as it was granted, and what the upstream said to it.
type modelToken struct {
	value              string
	generation         uint64
	sequence           uint64
	sent, due, expires time.Time
	guessed            bool
	stored             time.Time
	forgotten          time.Time   // zero if it was not
	isAgain            bool        // it is the one before the newest, used again
	invalid            func() bool // the upstream has answered that it is
}

// current is the token that requests take: the newest, or the one before while that is used again.
func (m *modelGrant) current(now time.Time) *modelToken {
	if m.used != nil && !now.Before(m.used.due) {
		m.used = nil
	}
	if m.used != nil {
		return m.used
	}
	return m.newest
}

func (t *modelToken) isTimely(now time.Time) bool { return t != nil && now.Before(t.due) }

// isLive reports whether a token is served if there is no other: until it expires, or if that is a guess,
// until it is rejected.
func (t *modelToken) isLive(now time.Time) bool {
	return t != nil && (now.Before(t.expires) || t.guessed && !t.invalid())
}

// live is the token that requests get if there is no other.
func (m *modelGrant) live(now time.Time) *modelToken {
	if t := m.current(now); t.isLive(now) {
		return t
	}
	return nil
}

// forget is what an operator does to a token.
func (m *modelGrant) forget() {
	for _, t := range m.tokens {
		t.forgotten = time.Now()
	}
	m.newest, m.before, m.used, m.usedFor = nil, nil, nil, 0
	m.mustAsk, m.wasForgotten = true, true
	m.evidence.evidence.forNewToken()
	m.succeeded()
	m.forced.allow()
	m.forced.noteCured()
	m.vain = nil
}

// noteAccepted is what an accepted request says of its token.
func (m *modelGrant) noteAccepted(h *hand, s Subject) {
	m.vain = nil
	m.evidence.NoteAccepted(&Token{Generation: h.known.generation}, h.from, func() Subject { return s })
}

// noteRejected is what a rejected request says of its token. It returns the generation that counts as
// rejected, and whose fault that is.
func (m *modelGrant) noteRejected(h *hand, r Rejection, now time.Time) (uint64, fault) {
	rejected, inUse := h.known.generation, m.current(now).isAgainNow()
	both := h.insteadOf != 0 && m.newest != nil && m.newest.generation == h.insteadOf
	if m.before != nil && m.before.generation == rejected {
		m.before, m.used = nil, nil
		both = both || inUse
	}
	t := m.newest
	if both {
		rejected = t.generation
	}
	if t == nil || rejected != t.generation {
		return rejected, faultUnknown
	}
	e, token := &m.evidence.evidence, &Token{Generation: t.generation}
	isEarly := e.isEarly(now)
	whose := e.noteRejection(token, &r, now)
	if t.generation != m.forced.brought {
		return rejected, whose
	}
	// The last renewal has not cured, or at least it is not known to have cured.
	if !e.wasAccepted(token) {
		m.noteUncured(t.generation)
	} else if isEarly && whose == faultOfToken && !e.isFamiliar(token, r.Subject) {
		m.noteUncured(t.generation)
		return rejected, faultUnknown
	}
	return rejected, whose
}

func (t *modelToken) isAgainNow() bool { return t != nil && t.isAgain }

func (m *modelGrant) noteUncured(generation uint64) {
	if generation > m.uncured {
		m.uncured = generation
		m.forced.noteUncured()
		m.evidence.evidence.curious.Store(true)
	}
}

// canFallBack reports whether the token before the newest is to be used instead.
func (m *modelGrant) canFallBack(now time.Time) bool {
	return m.before != nil && now.Before(m.before.expires) && now.Sub(m.newest.sent) <= 30*time.Second
}

// fallBack has the token before the newest used again, and returns it.
func (m *modelGrant) fallBack(now time.Time) *modelToken {
	if t := m.current(now); t.isAgain {
		return t
	}
	m.usedFor = min(max(2*m.usedFor, time.Second), 8*time.Second)
	again := *m.before
	again.isAgain, again.due = true, now.Add(m.usedFor)
	if again.due.After(again.expires) {
		again.due = again.expires
	}
	m.used = &again
	return m.used
}
