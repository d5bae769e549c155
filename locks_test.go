package oauthcc

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// wantNoLock fails the test if one of this package's locks is held.
func wantNoLock(t *testing.T, h *Handler, during string) {
	t.Helper()
	for name, lock := range map[string]*sync.Mutex{
		"directory.mu": &handlers.mu, "counting": &counting.Mutex, "grantMetrics.mu": &h.reporter.metrics.mu,
		"certificates.mu": &h.reporter.certificates.mu, "certificateWarnings.mu": &certificateWarnings.mu,
	} {
		if !isFree(lock) {
			t.Errorf("%s is held during %s", name, during)
		}
	}
}

// isFree reports whether the lock can be had. Others may hold it for a moment, but not while they wait for the
// caller.
func isFree(lock *sync.Mutex) bool {
	for deadline := time.Now().Add(gatewaytest.Patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if lock.TryLock() {
			lock.Unlock()
			return true
		}
	}
	return false
}

// lockProbe is a handler of events that sees to it that nobody holds a lock meanwhile.
type lockProbe struct {
	t    *testing.T
	h    *Handler
	told chan struct{}
}

func (p lockProbe) Handle(context.Context, caddy.Event) error {
	wantNoLock(p.t, p.h, "an event")
	p.told <- struct{}{}
	return nil
}

// An endpoint, an upstream or a handler of events that hangs must hold up nobody else.
func TestNoLockIsHeldWhileOthersRun(t *testing.T) {
	h := handlerInMemory(t, new(Handler))
	probe := lockProbe{t: t, h: h, told: make(chan struct{}, 2)}
	h.reporter.events, h.reporter.eventQueue = new(caddyevents.App), newEventQueue()
	if err := h.reporter.events.Provision(h.reporter.ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.reporter.events.On(eventObtained, probe); err != nil {
		t.Fatal(err)
	}
	go h.reporter.runEvents()

	requests, attempts := 0, 0
	h.tokens.client.Transport = servertest.Func(func(req *http.Request) (*http.Response, error) {
		requests++
		wantNoLock(t, h, "a token request")
		return servertest.AnyToken.RoundTrip(req)
	})
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		attempts++
		wantNoLock(t, h, "an attempt")
		w.WriteHeader(http.StatusUnauthorized)
		return nil
	})
	if err := h.ServeHTTP(httptest.NewRecorder(), requestInCaddy(http.MethodGet, "/", nil), next); err != nil {
		t.Fatal(err)
	}
	gatewaytest.AwaitSignal(t, "the event", probe.told)
	if requests != 2 || attempts != 1 { // the same token again is not sent again
		t.Errorf("%d token requests, %d attempts", requests, attempts)
	}
}
