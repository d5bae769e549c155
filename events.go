package oauthcc

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// The events that Caddy's events app is told.
const (
	eventObtained = "oauth_cc.token_obtained"
	eventFailed   = "oauth_cc.token_failed"
	eventRejected = "oauth_cc.token_rejected"
)

// maxEvents is how many events of a handler can wait to be told. When there are more, since
// whoever is told takes long, the rest is lost.
const maxEvents = 64

// eventQueue holds the events of a handler until they have been told, one after the other.
type eventQueue struct {
	waiting chan event
	lost    atomic.Bool // this has been said
}

func newEventQueue() *eventQueue { return &eventQueue{waiting: make(chan event, maxEvents)} }

// emit has whoever wants to know told of the event. It does not wait for that.
func (h *Handler) emit(name string, data func() map[string]any) {
	if h.eventQueue == nil {
		return
	}
	if h.ctx.Err() != nil { // a fetch has outlived its configuration
		if successor := handlers.runningWith(h.key); successor != nil {
			h = successor
		}
	}
	h.enqueue(event{name, data})
}

// event waits to be told.
type event struct {
	name string
	data func() map[string]any
}

func (h *Handler) enqueue(e event) {
	if h.eventQueue == nil {
		return
	}
	select {
	case h.eventQueue.waiting <- e:
	default:
		if h.eventQueue.lost.CompareAndSwap(false, true) {
			h.logger.Warn("events are lost, since their handlers take too long", h.named(zap.String("event", e.name))...)
		}
	}
}

// handOver leaves what is not told yet to the configuration that takes over, if there is one:
// these, and what waits.
func (h *Handler) handOver(first ...event) {
	successor := handlers.runningWith(h.key)
	if successor == nil || successor == h {
		return
	}
	for _, e := range first {
		successor.enqueue(e)
	}
	for {
		select {
		case e := <-h.eventQueue.waiting:
			successor.enqueue(e)
		default:
			return
		}
	}
}

// tellEvents tells of the events until the configuration ends. It begins when that runs:
// before, subscriptions are still being made.
func (h *Handler) tellEvents() {
	for {
		select {
		case e := <-h.eventQueue.waiting:
			if h.ctx.Err() != nil { // the select may choose either
				h.handOver(e)
				return
			}
			if h.events.ShouldEmit(e.name) {
				h.events.Emit(h.ctx, e.name, e.data())
			}
		case <-h.ctx.Done():
			h.handOver()
			return
		}
		if len(h.eventQueue.waiting) == 0 {
			h.eventQueue.lost.Store(false)
		}
	}
}

// announce tells of the outcome of a fetch as an event.
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
	s.h.emit(eventRejected, func() map[string]any {
		endpoint, clientID := s.name()
		return map[string]any{
			"endpoint": endpoint, "client_id": clientID, "token": fingerprint(t.value), "status": status, "error": code,
		}
	})
}

// name is the endpoint and the client of the grant, as logs have them.
func (s *grantSource) name() (endpoint, clientID string) {
	if s.h.table == nil {
		public := s.public()
		return public.endpointName(), public.clientID
	}
	ctx, cancel := context.WithTimeout(s.h.ctx, changeLookup)
	defer cancel()
	request, err := s.resolveWithin(ctx)
	if err != nil {
		return s.h.public.endpoint, s.h.public.clientID
	}
	return request.endpointName(), request.clientID
}

// public is what may be told of the grant, with the endpoint of an issuer once it is known.
func (s *grantSource) public() grantRequest {
	public := s.h.public
	if server := s.server().known(public.issuer); server != nil {
		public.endpoint = server.endpointFor(public)
		public.endpoint = public.endpointName()
	}
	return public
}
