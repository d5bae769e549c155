package oauthcc

import (
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/help"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// The events that the handler emits.
const (
	eventObtained = "oauth_cc.token_obtained"
	eventFailed   = "oauth_cc.token_failed"
	eventRejected = "oauth_cc.token_rejected"
)

// maxEvents is how many events of an oauth_cc handler can wait. If subscribers are slow, further events are lost.
const maxEvents = 64

// eventQueue holds the events of a handler until their handlers have run, one event after the other.
type eventQueue struct {
	waiting chan event
	lost    atomic.Bool // events were lost, and the log says so
}

func newEventQueue() *eventQueue { return &eventQueue{waiting: make(chan event, maxEvents)} }

// emit queues an event. It doesn't wait for the event's handlers: requests and fetches go on meanwhile. data is
// called later, and only if somebody may see it.
func (o *reporter) emit(name string, data func() map[string]any) {
	if o.eventQueue == nil {
		return
	}
	if o.ctx.Err() != nil { // the fetch has outlived its configuration, whose events nobody handles any more
		if successor := o.successor(); successor != nil {
			o = successor
		}
	}
	o.enqueue(event{name, data})
}

// successor is the reporter of the running configuration that has the same grant, or nil.
func (o *reporter) successor() *reporter {
	if h := handlers.runningWith(o.key); h != nil {
		return &h.reporter
	}
	return nil
}

// event is one that waits for its handlers.
type event struct {
	name string
	data func() map[string]any
}

func (o *reporter) enqueue(e event) {
	if o.eventQueue == nil {
		return
	}
	select {
	case o.eventQueue.waiting <- e:
	default:
		if o.eventQueue.lost.CompareAndSwap(false, true) {
			help.Write(o.logger.Check(zapcore.WarnLevel, "events are lost, since their handlers take too long"), "", o.grantFields(zap.String("event", e.name))...)
		}
	}
}

// handOver gives the waiting events to the reporter of the next configuration, if there is one. first come before
// them.
func (o *reporter) handOver(first ...event) {
	successor := o.successor()
	if successor == nil || successor == o {
		return
	}
	for _, e := range first {
		successor.enqueue(e)
	}
	for {
		select {
		case e := <-o.eventQueue.waiting:
			successor.enqueue(e)
		default:
			return
		}
	}
}

// runEvents emits the waiting events until the configuration ends. It starts when the configuration runs, as
// subscriptions are made until then.
func (o *reporter) runEvents() {
	for {
		select {
		case e := <-o.eventQueue.waiting:
			if o.ctx.Err() != nil { // the select may choose either
				o.handOver(e)
				return
			}
			if o.isObserved(e.name) {
				o.events.Emit(o.ctx, e.name, e.data())
			}
		case <-o.ctx.Done():
			o.handOver()
			return
		}
		if len(o.eventQueue.waiting) == 0 {
			o.eventQueue.lost.Store(false)
		}
	}
}

// observation is what Caddy's events app can do from v2.11.7 on: tell whether an event would be seen by anybody.
type observation interface{ ShouldEmit(name string) bool }

// isObserved reports whether somebody may see an event of this name.
func (o *reporter) isObserved(name string) bool {
	events, ok := any(o.events).(observation)
	return !ok || events.ShouldEmit(name)
}

// announce emits the outcome of a fetch.
func (o *reporter) announce(outcome tokencache.Outcome) {
	name := eventObtained
	if outcome.Failure != nil {
		name = eventFailed
	}
	o.emit(name, func() map[string]any {
		data := map[string]any{"endpoint": outcome.Endpoint, "client_id": outcome.ClientID, "trigger": string(outcome.Trigger)}
		if outcome.Failure == nil {
			data["token"] = tokencache.Fingerprint(outcome.Granted.Value)
			data["expires_at"] = outcome.Granted.Sent.Add(outcome.Granted.Lifetime).UTC().Format(time.RFC3339)
			data["shared"] = outcome.Granted.Adopted
			return data
		}
		data["error"] = outcome.Failure.ErrorCode()
		data["status"] = outcome.Failure.Status
		data["usable"] = outcome.Usable
		data["next_try"] = outcome.RetryAt.UTC().Format(time.RFC3339)
		return data
	})
}

// challengeErrors are the codes that a challenge can have (RFC 6750 §3.1, RFC 9449 §12.2,
// RFC 9470 §3). Any other text is the upstream's own, and goes nowhere.
var challengeErrors = []string{
	"invalid_request", "invalid_token", "insufficient_scope", "invalid_dpop_proof", "use_dpop_nonce",
	"insufficient_user_authentication",
}
