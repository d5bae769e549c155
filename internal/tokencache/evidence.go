package tokencache

import (
	"slices"
	"sync/atomic"
	"time"
)

// Subject stands for what a request asks the upstream for. Requests with the same subject are those
// that the upstream is likely to judge alike. It is 0 if that can't be told.
type Subject uint64

// familiarSlots is how many subjects of accepted requests are remembered at most.
const familiarSlots = 64

// maxSubjects is how many subjects are remembered of each other kind. The next one takes the place of the oldest.
const maxSubjects = 16

// subjects are the last few of a kind. They are read without a lock, and changed with that of the grant.
type subjects struct{ list atomic.Pointer[[]Subject] }

func (l *subjects) has(s Subject) bool {
	list := l.list.Load()
	return list != nil && s != 0 && slices.Contains(*list, s)
}

func (l *subjects) add(s Subject) {
	if s == 0 || l.has(s) {
		return
	}
	list := []Subject{s}
	if others := l.list.Load(); others != nil {
		list = append(list, (*others)[:min(len(*others), maxSubjects-1)]...)
	}
	l.list.Store(&list)
}

func (l *subjects) remove(s Subject) {
	list := slices.DeleteFunc(slices.Clone(*l.list.Load()), func(other Subject) bool { return other == s })
	l.list.Store(&list)
}

// longestAcceptance bounds how long acceptances are waited for.
const longestAcceptance = 2 * time.Second

// evidence is what the answers of the upstream say about rejections: is the token at fault, or the
// request? A client that asks for what nobody may have is rejected with every token, while others are
// accepted. The zero value knows nothing.
type evidence struct {
	// Requests that are accepted use these, without a lock.
	accepted atomic.Uint64 // generation of the last token with which a request was accepted
	wanted   atomic.Uint64 // generation of the token of which an acceptance would be news; 0 for none

	// Once a request was rejected that no token helps, it matters what requests are for.
	curious  atomic.Bool
	refused  subjects                     // rejected with a token and with its replacement, and not accepted since
	divided  subjects                     // refused before, and accepted since
	familiar [familiarSlots]atomic.Uint64 // accepted with a token, each mixed with the token's generation

	// About the newest token. Guarded by the grant's lock.
	since   time.Time     // the first rejection after the last acceptance; zero if there was none
	doubted bool          // one of the rejections since then is not of a refused subject
	invalid bool          // one of them says that the token is invalid
	mixed   bool          // the token was doubted, and accepted after that
	takes   time.Duration // how long an accepted request took, up to longestAcceptance
	again   bool          // the endpoint has handed it out again since then
}

// forNewToken forgets what was about the token before.
func (e *evidence) forNewToken() {
	e.wanted.Store(0)
	e.since, e.doubted, e.invalid, e.mixed, e.again = time.Time{}, false, false, false, false
}

// allow notes that a request for this was accepted. If others for this were not, no token was at fault, but
// what else is in the requests.
func (e *evidence) allow(s Subject) {
	if e.refused.has(s) {
		e.refused.remove(s)
		e.divided.add(s)
	}
}

// remember remembers that a request for this was accepted with the token.
func (e *evidence) remember(t *Token, s Subject) {
	slot, value := familiarIn(t, s)
	if e.familiar[slot].Load() != value {
		e.familiar[slot].Store(value)
	}
}

// isFamiliar reports whether requests for this are accepted with the token, as far as is known.
func (e *evidence) isFamiliar(t *Token, s Subject) bool {
	slot, value := familiarIn(t, s)
	return s != 0 && e.familiar[slot].Load() == value && !e.divided.has(s)
}

// familiarIn returns where it is remembered that a request was accepted, and as what.
func familiarIn(t *Token, s Subject) (slot, value uint64) {
	return uint64(s) % familiarSlots, uint64(s) ^ t.Generation<<32
}

// wasAccepted reports whether a request was accepted with this token, the newest one.
func (e *evidence) wasAccepted(t *Token) bool { return e.accepted.Load() >= t.Generation }

// noteRejection notes a rejection of the newest token. It returns whose fault that is.
func (e *evidence) noteRejection(t *Token, r *Rejection, now time.Time) fault {
	s := r.Subject
	isEarly, isRefused := e.isEarly(now), e.refused.has(s)
	if e.since.IsZero() {
		e.since = now
	}
	e.doubted = e.doubted || !isRefused
	e.invalid = e.invalid || r.Invalid
	e.wanted.Store(t.Generation)
	switch {
	case !e.wasAccepted(t):
		return faultUnknown
	case e.isFamiliar(t, s) && !e.again:
		return faultOfToken
	case isEarly && (isRefused || e.mixed): // others were accepted until now
		return faultOfRequest
	case isRefused || e.again:
		return faultUnknown
	}
	return faultOfToken
}

// isEarly reports whether a rejection of the newest token is the first since an acceptance, or follows the first so
// soon that no request that was sent after it can have been accepted yet.
func (e *evidence) isEarly(now time.Time) bool {
	return e.since.IsZero() || now.Sub(e.since) < 2*e.takes
}

// noteAcceptance notes that a request which was sent at that time was accepted with the token.
func (e *evidence) noteAcceptance(t *Token, sent, now time.Time) {
	e.takes = min(now.Sub(sent), longestAcceptance)
	e.accepted.Store(max(e.accepted.Load(), t.Generation))
	if e.wanted.Load() != t.Generation || sent.Before(e.since) {
		return // the token may have been revoked since then
	}
	if e.doubted {
		e.mixed = true
		e.curious.Store(true)
	}
	e.since, e.doubted, e.invalid, e.again = time.Time{}, false, false, false
	e.wanted.Store(0)
}

// fault says what a rejection is probably due to.
type fault uint8

const (
	faultUnknown   fault = iota
	faultOfToken         // it was accepted before, for the like or until it was first rejected
	faultOfRequest       // other requests are accepted meanwhile
)

// NoteAccepted notes that the upstream accepted the token, in a request that was sent at that time. subject is called
// if it matters what the request was for. Most calls only compare three numbers.
func (g *Grant) NoteAccepted(t *Token, sent time.Time, subject func() Subject) {
	e := &g.evidence
	isNews := e.accepted.Load() < t.Generation || e.wanted.Load() == t.Generation
	var allowed Subject
	if e.curious.Load() {
		s := subject()
		e.remember(t, s)
		if e.refused.has(s) {
			allowed = s
		}
	}
	if !isNews && allowed == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	e.noteAcceptance(t, sent, time.Now())
	e.allow(allowed)
}
