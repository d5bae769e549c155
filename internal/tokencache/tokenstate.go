package tokencache

import "time"

// TokenState is the state of a token in its life. Fresh and stale are the words of HTTP caches (RFC
// 9111 §4.2). As in those, a stale token is served while it is renewed.
type TokenState uint8

// The states in the order of a token's life.
const (
	StateNone    TokenState = iota // there is no token
	StateFresh                     // it is served
	StateStale                     // it is served, and the next request starts its renewal
	StateDue                       // requests wait for the next one, but get it if that can't be had
	StateExpired                   // it is no longer served
)

// StateOf returns the state of a token, which can be nil. ahead says when it becomes stale.
func StateOf(t *Token, now time.Time, ahead RefreshAhead) TokenState {
	switch {
	case t == nil:
		return StateNone
	case !t.Live(now):
		return StateExpired
	case !t.Timely(now):
		return StateDue
	case ahead.StaleFrom(t).Passed(now):
		return StateStale
	}
	return StateFresh
}

// String is the state's name for operators.
func (s TokenState) String() string {
	switch s {
	case StateFresh:
		return "fresh"
	case StateStale:
		return "stale"
	case StateDue:
		return "due"
	case StateExpired:
		return "expired"
	case StateNone:
	}
	return "none"
}
