package oauthcc

import (
	"context"
	"slices"
	"time"
)

// The events that Caddy's events app is told.
const (
	eventObtained = "oauth_cc.token_obtained"
	eventFailed   = "oauth_cc.token_failed"
	eventRejected = "oauth_cc.token_rejected"
)

// emit tells whoever wants to know of the event, and returns when all have been told.
func (h *Handler) emit(name string, data func() map[string]any) {
	// Before the configuration runs, subscriptions are still being made.
	if h.events == nil || !h.running.Load() || h.ctx.Err() != nil || !h.events.ShouldEmit(name) {
		return
	}
	h.events.Emit(h.ctx, name, data())
}

// announce implements source: it tells of the outcome as an event.
func (s *grantSource) announce(o outcome) {
	name := eventObtained
	if o.failure != nil {
		name = eventFailed
	}
	s.h.emit(name, func() map[string]any {
		data := map[string]any{"endpoint": o.endpoint, "client_id": o.clientID, "trigger": string(o.trigger)}
		if o.failure == nil {
			data["token"] = fingerprint(o.granted.value)
			data["expires_at"] = o.granted.sent.Add(o.granted.lifetime).UTC().Format(time.RFC3339)
			data["shared"] = o.granted.adopted
			return data
		}
		data["error"] = o.failure.errorCode()
		data["status"] = o.failure.status
		data["usable"] = o.usable
		data["next_try"] = o.retryAt.UTC().Format(time.RFC3339)
		return data
	})
}

// challengeErrors are the codes that a challenge can have (RFC 6750 §3.1, RFC 9449 §12.2,
// RFC 9470 §3). Any other text is the upstream's own, and goes nowhere.
var challengeErrors = []string{
	"invalid_request", "invalid_token", "insufficient_scope", "invalid_dpop_proof", "use_dpop_nonce",
	"insufficient_user_authentication",
}

// announceRejection tells of a rejected token as an event, without holding up its request.
func (s *grantSource) announceRejection(t *token, status int, code string) {
	if !slices.Contains(challengeErrors, code) {
		code = ""
	}
	go s.h.emit(eventRejected, func() map[string]any {
		ctx, cancel := context.WithTimeout(s.h.ctx, changeLookup)
		defer cancel()
		request, err := s.resolveWithin(ctx)
		if err != nil {
			request = s.h.template()
		}
		return map[string]any{
			"endpoint": request.endpointName(), "client_id": request.clientID,
			"token": fingerprint(t.value), "status": status, "error": code,
		}
	})
}
