package oauthcc

import (
	"context"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// grantingSource grants one token, once it is let.
type grantingSource struct {
	granted endpoint.Granted
	let     <-chan struct{} // nil: at once
}

func (s grantingSource) Fetch(context.Context, tokencache.Task) tokencache.Fetched {
	if s.let != nil {
		<-s.let
	}
	return tokencache.Fetched{Granted: tokencache.Offer{Granted: s.granted}}
}

func (grantingSource) Trace(ctx, _ context.Context) (context.Context, func(tokencache.Outcome)) {
	return ctx, func(tokencache.Outcome) {}
}

func (grantingSource) Limit() time.Duration                               { return time.Minute }
func (grantingSource) ChangedSince(context.Context, *endpoint.Error) bool { return false }
func (grantingSource) HasNewer(context.Context, *tokencache.Token) bool   { return false }
func (grantingSource) Report(tokencache.Outcome)                          {}
func (grantingSource) Waited(time.Duration)                               {}

// isReleased reports whether no configuration uses the grant any more: then nothing is fetched
// that nobody waits for.
func isReleased(t *testing.T, g *tokencache.Grant) bool {
	t.Helper()
	let := make(chan struct{})
	g.RenewAhead(t.Context(), g.Current(), grantingSource{endpoint.Granted{Value: "any", Sent: time.Now(), Lifetime: time.Hour}, let})
	fetches := g.Snapshot().Fetching
	close(let)
	gatewaytest.Await(t, "the fetch ends", func() bool { return !g.Snapshot().Fetching })
	return !fetches
}

func TestPoolHoldsAGrantAsLongAsItIsUsed(t *testing.T) {
	key := endpoint.NewGrantKey([]string{t.Name()})
	first, err := acquireGrant(key, tokencache.NewGrant)
	if err != nil {
		t.Fatal(err)
	}
	second, err := acquireGrant(key, tokencache.NewGrant)
	if err != nil || second != first {
		t.Fatalf("got another grant, %v", err)
	}
	for _, alive := range []bool{true, false} {
		if err := releaseGrant(key); err != nil {
			t.Fatal(err)
		}
		if isReleased(t, first) == alive {
			t.Errorf("alive: %v, want %v", !alive, alive)
		}
	}
	third, err := acquireGrant(key, tokencache.NewGrant)
	if err != nil || third == first {
		t.Fatalf("a grant that has ended is used again, %v", err)
	}
	if err := releaseGrant(key); err != nil {
		t.Fatal(err)
	}
}
