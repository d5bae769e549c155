package tokencache

import (
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

func TestStatesOfATokensLife(t *testing.T) {
	now, ahead := time.Now(), RefreshAhead{Time: time.Minute}
	token := NewToken(endpoint.Granted{Value: "a", Sent: now, Lifetime: time.Hour})
	token.spread = 0
	guessed := NewToken(endpoint.Granted{Value: "a", Sent: now, Lifetime: time.Hour, LifetimeGuessed: true})
	for _, test := range []struct {
		token *Token
		at    time.Duration
		want  string
	}{
		{nil, 0, "none"},
		{token, 0, "fresh"},
		{token, time.Hour - ExpiryMargin - time.Minute - 1, "fresh"},
		{token, time.Hour - ExpiryMargin - time.Minute, "stale"},
		{token, time.Hour - ExpiryMargin - 1, "stale"},
		{token, time.Hour - ExpiryMargin, "due"},
		{token, time.Hour - 1, "due"},
		{token, time.Hour, "expired"},
		{token, 2 * time.Hour, "expired"},
		{guessed, time.Hour - ExpiryMargin - 1, "stale"},
		{guessed, 2 * time.Hour, "due"},
	} {
		if got := StateOf(test.token, now.Add(test.at), ahead).String(); got != test.want {
			t.Errorf("after %v it is %s, want %s", test.at, got, test.want)
		}
	}
	if got := StateOf(token, now.Add(time.Hour-ExpiryMargin-1), RefreshAhead{Off: true}); got != StateFresh {
		t.Errorf("without renewal ahead it is %s, want fresh", got)
	}
}
