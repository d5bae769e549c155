package oauthcc

import "time"

// grantState is what an operator can see of a grant.
type grantState struct {
	token    *token       // nil if there is none; it may have expired
	failed   *failedFetch // nil if the last fetch succeeded
	fetching bool
	history  grantHistory
	uses     uint64 // requests that were given a token
}

// grantHistory counts the fetches of a grant since the process began to hold it.
type grantHistory struct {
	fetches, failures uint64
	lastFailure       *fetchError // nil if there was none
	failedAt          time.Time
}

// note takes note of a fetch.
func (h *grantHistory) note(result fetched, now time.Time) {
	h.fetches++
	if result.failure != nil {
		h.failures++
		h.lastFailure, h.failedAt = result.failure, now
	}
}

func (g *cachedGrant) state() grantState {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := grantState{
		token: g.current.Load(), failed: g.failed, fetching: g.flight != nil,
		history: g.history, uses: g.uses.Load(),
	}
	if s.token != nil && s.token.value == "" { // dropped
		s.token = nil
	}
	return s
}

// grants are those that the handler has tokens of.
func (h *Handler) grants() []*cachedGrant {
	if h.table == nil {
		return []*cachedGrant{h.source.grant}
	}
	entries := h.table.all()
	all := make([]*cachedGrant, len(entries))
	for i, e := range entries {
		all[i] = &e.cachedGrant
	}
	return all
}
