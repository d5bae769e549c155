package tokencache_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// counter is a source without a network: it grants token-1, token-2, …
type counter struct{ granted int }

func (c *counter) Fetch(_ context.Context, task tokencache.Task) tokencache.Fetched {
	task.Begin() // no fetch has to wait for its turn
	c.granted++
	return tokencache.Fetched{Granted: tokencache.Offer{Granted: endpoint.Granted{
		Value: fmt.Sprintf("token-%d", c.granted), Sent: time.Now(), Lifetime: time.Hour,
	}}}
}

func (*counter) Limit() time.Duration                               { return time.Second }
func (*counter) ChangedSince(context.Context, *endpoint.Error) bool { return false }
func (*counter) HasNewer(context.Context, *tokencache.Token) bool   { return false }
func (*counter) Report(tokencache.Outcome)                          {}
func (*counter) Waited(time.Duration)                               {}
func (*counter) Trace(ctx, _ context.Context) (context.Context, func(tokencache.Outcome)) {
	return ctx, func(tokencache.Outcome) {}
}

// forRequest returns the token for a request. Only a request that finds none has to wait.
func forRequest(ctx context.Context, grant *tokencache.Grant, src tokencache.Source) (*tokencache.Token, error) {
	var ahead tokencache.RefreshAhead
	token := grant.Current()
	switch tokencache.StateOf(token, time.Now(), ahead) {
	case tokencache.StateFresh:
	case tokencache.StateStale:
		grant.RenewAhead(ctx, token, src)
	case tokencache.StateNone, tokencache.StateDue, tokencache.StateExpired:
		return grant.Get(ctx, src)
	}
	return token, nil
}

func ExampleGrant() {
	ctx, grant, src := context.Background(), tokencache.NewGrant(), new(counter)
	var token *tokencache.Token
	for range 2 {
		var err error
		if token, err = forRequest(ctx, grant, src); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("Authorization:", token.Bearer)
	}

	// The upstream rejects it, and says that the token is at fault.
	renewed, err := grant.RenewRejected(ctx, tokencache.Rejection{Token: token}, src)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("Authorization:", renewed.Bearer)

	// And that as well: another one so soon would not help.
	if _, err = grant.RenewRejected(ctx, tokencache.Rejection{Token: renewed}, src); errors.Is(err, tokencache.ErrNotRenewed) {
		fmt.Println("the rejection stands:", err)
	}
	// Output:
	// Authorization: Bearer token-1
	// Authorization: Bearer token-1
	// Authorization: Bearer token-2
	// the rejection stands: no other token
}
