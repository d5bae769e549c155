package tokencache

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// fetchStub is a source with an endpoint in memory. It grants token-1, token-2, … or
// whatever answer says.
type fetchStub struct {
	calls    atomic.Int64
	takes    time.Duration
	lifetime time.Duration // an hour if zero
	guessed  bool          // the lifetime
	retries  time.Duration // the first try fails after that; 0 if it doesn't
	answer   func(ctx context.Context, n int64) (endpoint.Granted, *endpoint.Error)
}

func (s *fetchStub) Fetch(ctx context.Context, task Task) Fetched {
	n, sent := s.calls.Add(1), time.Now()
	if s.retries > 0 {
		time.AfterFunc(s.retries, task.Retrying)
	}
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return Fetched{Failure: &endpoint.Error{Class: endpoint.ClassUnreachable}}
	}
	granted := endpoint.Granted{Value: fmt.Sprintf("token-%d", n), Sent: sent, Lifetime: s.lifetime, LifetimeGuessed: s.guessed}
	if granted.Lifetime == 0 {
		granted.Lifetime = time.Hour
	}
	if s.answer == nil {
		return Fetched{Granted: Offer{Granted: granted}}
	}
	answered, failure := s.answer(ctx, n)
	if failure != nil {
		return Fetched{Failure: failure}
	}
	if answered.Value != "" {
		granted.Value = answered.Value
	}
	return Fetched{Granted: Offer{Granted: granted}}
}

func (*fetchStub) Trace(ctx, _ context.Context) (context.Context, func(Outcome)) {
	return ctx, func(Outcome) {}
}

func (s *fetchStub) Limit() time.Duration                               { return s.takes }
func (s *fetchStub) ChangedSince(context.Context, *endpoint.Error) bool { return false }
func (s *fetchStub) HasNewer(context.Context, *Token) bool              { return false }
func (s *fetchStub) Waited(time.Duration)                               {}
func (s *fetchStub) Report(Outcome)                                     {}

// fails makes the stub answer with this error, or grant again if it is nil.
func (s *fetchStub) fails(failure *endpoint.Error) {
	s.answer = func(context.Context, int64) (endpoint.Granted, *endpoint.Error) { return endpoint.Granted{}, failure }
}

// sourceFunc is a source that is nothing but its fetch.
type sourceFunc func(ctx context.Context) Fetched

func (f sourceFunc) Fetch(ctx context.Context, _ Task) Fetched          { return f(ctx) }
func (f sourceFunc) Limit() time.Duration                               { return 0 }
func (f sourceFunc) ChangedSince(context.Context, *endpoint.Error) bool { return false }
func (f sourceFunc) HasNewer(context.Context, *Token) bool              { return false }
func (f sourceFunc) Waited(time.Duration)                               {}
func (f sourceFunc) Report(Outcome)                                     {}

func (s *fetchStub) wantCalls(t *testing.T, want int64) {
	t.Helper()
	if got := s.calls.Load(); got != want {
		t.Errorf("%d fetches, want %d", got, want)
	}
}

// newTestGrant is a grant that ends with the test.
func newTestGrant(t *testing.T) *Grant {
	g := new(Grant)
	t.Cleanup(func() { _ = g.Destruct() })
	return g
}

func mustGetToken(t *testing.T, g *Grant, s *fetchStub) *Token {
	t.Helper()
	token, err := g.Get(t.Context(), s)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	return token
}

// timely returns the token that requests take without waiting, or nil.
func timely(g *Grant) *Token {
	if t := g.Current(); t.Timely(time.Now()) {
		return t
	}
	return nil
}

// accept has a request with the token accepted.
func accept(g *Grant, t *Token) { g.NoteAccepted(t, time.Now(), func() Subject { return 0 }) }

// rejection is the rejection of a token.
func rejection(t *Token) Rejection { return Rejection{Token: t, Invalid: true} }

// mustRenew gets another token for the rejected one.
func mustRenewToken(t *testing.T, g *Grant, rejected *Token, s *fetchStub) *Token {
	t.Helper()
	token, err := g.RenewRejected(t.Context(), rejection(rejected), s)
	if err != nil {
		t.Fatalf("renew: %v", err)
	}
	if token.Generation <= rejected.Generation || token.Value == rejected.Value {
		t.Fatalf("got %q again", token.Value)
	}
	return token
}

func wantNotRenewed(t *testing.T, g *Grant, rejected *Token, s *fetchStub) {
	t.Helper()
	if token, err := g.RenewRejected(t.Context(), rejection(rejected), s); err != ErrNotRenewed || token != nil {
		t.Fatalf("renew: %v, %v; want no other token", token, err)
	}
}

// wantUnavailable wants no token, without or with having waited for the endpoint.
func wantUnavailable(t *testing.T, g *Grant, s *fetchStub, waiting bool) *UnavailableError {
	t.Helper()
	_, err := g.Get(t.Context(), s)
	failure, ok := errors.AsType[*UnavailableError](err)
	if !ok || failure.Waiting != waiting {
		t.Fatalf("got %#v", err)
	}
	return failure
}
