package tokenlist

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/table"
)

var now = time.Date(2026, 11, 24, 21, 0, 0, 0, time.UTC)

func after(d time.Duration) *time.Time { at := now.Add(d); return &at }

func drawn(t *testing.T, l List, s table.Style) string {
	t.Helper()
	var out strings.Builder
	if err := l.write(&out, now, s); err != nil {
		t.Fatal(err)
	}
	return l.summary(Filter{}) + out.String()
}

func wantText(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestTableOfTokens(t *testing.T) {
	const endpoint = "https://a.test/token"
	refused := Failure{Error: "invalid_client", Status: 401, Detail: "ours", EndpointMessage: "theirs\x1b[2J", Hint: "try this", Help: "https://help.test#invalid_client", At: *after(-130 * time.Second)}
	list := List{Handlers: 5, Omitted: 2, Tokens: []Token{
		{ID: "aa", Endpoint: endpoint, Issuer: "https://a.test", ClientID: "app", State: "fresh", Token: "0a9d00b6", ExpiresAt: after(45*time.Minute + 10*time.Second), Fetches: 3, LastError: &refused},
		{ID: "bb", Endpoint: endpoint, ClientID: "app2", State: "due", Token: "0a9d00b6", ExpiresAt: after(-90 * time.Minute), Fetches: 3, Failing: true, LastError: &refused, NextTry: after(12 * time.Second)},
		{ID: "cc", Issuer: "https://issuer.test", State: "none", Scopes: []string{"one"}},
		{ID: "dd", Issuer: "https://issuer.test", State: "none", Scopes: []string{"two", "three"}, Audience: []string{"api"}, Fetches: 1, Failing: true, LastError: &Failure{Error: "timeout", At: *after(time.Second)}},
		{ID: "ee", Endpoint: endpoint, ClientID: "app3", State: "fresh", ExpiresAt: after(100 * time.Hour), RejectedSince: after(-3 * time.Second), Fetching: true, Fetches: 1},
	}}
	wantText(t, drawn(t, list, table.Style{}), `5 tokens: 2 fresh, 1 due, 2 none, 2 failing, 2 more not shown (see --limit, --failing, --state and --value)
ENDPOINT              CLIENT  STATE  EXPIRES    NEXT TRY    ID
https://a.test/token  app     fresh  in 45m10s  -           aa
    last error: invalid_client 401, 2m10s ago, over
https://a.test/token  app2    due    1h30m ago  in 12s      bb
    last error: invalid_client 401, 2m10s ago
    detail: ours
    the endpoint says: theirs [2J
    hint: try this
    see https://help.test#invalid_client
https://issuer.test   -       none   -          -           cc
    scope: one
    no token yet: none was asked for
https://issuer.test   -       none   -          on request  dd
    scope: two three
    audience: api
    last error: timeout, 0s ago
https://a.test/token  app3    fresh  in 4d4h    now         ee
    the upstream rejects the token, first 3s ago
`)
}

func TestTableOfTenants(t *testing.T) {
	list := List{Handlers: 1, Tokens: []Token{
		{ID: "aa.bb", Endpoint: "https://a.test/token", ClientID: "app", State: "fresh", Fetches: 1,
			Values: map[string]string{"http.request.host": "h", "http.request.header.X-Tenant": "acme", "tenant_url": "https://b.test/token"}},
	}}
	wantText(t, drawn(t, list, table.Style{}), `1 token: 1 fresh
ENDPOINT              CLIENT  VALUES                                                         STATE  EXPIRES  NEXT TRY  ID
https://a.test/token  app     header.X-Tenant=acme, host=h, tenant_url=https://b.test/token  fresh  -        -         aa.bb
`)
	wantText(t, drawn(t, list, table.Style{Width: 80}), `1 token: 1 fresh
https://a.test/token
    client: app
    values: header.X-Tenant=acme, host=h, tenant_url=https://b.test/token
    state: fresh  id: aa.bb
`)
}

func TestFirstTokenThatIsAskedForIsNotMissing(t *testing.T) {
	list := List{Handlers: 1, Tokens: []Token{{ID: "aa", Endpoint: "https://a.test/token", State: "none", Fetching: true}}}
	wantText(t, drawn(t, list, table.Style{}), `1 token: 1 none
ENDPOINT              CLIENT  STATE  EXPIRES  NEXT TRY  ID
https://a.test/token  -       none   -        now       aa
`)
}

// Colours tell what is wrong, which a state alone does not.
func TestColoursAreForFaults(t *testing.T) {
	for _, test := range []struct {
		token Token
		want  string
	}{
		{Token{State: "fresh"}, "32"}, {Token{State: "stale"}, "32"}, {Token{State: "fresh", LastError: &Failure{}}, "32"},
		{Token{State: "due", Failing: true}, "33"}, {Token{State: "expired"}, ""}, {Token{State: "none"}, ""},
		{Token{State: "none", Failing: true}, "31"}, {Token{State: "expired", Failing: true}, "31"}, {Token{State: "fresh", RejectedSince: after(0)}, "31"},
	} {
		colored := drawn(t, List{Tokens: []Token{test.token}}, table.Style{Colors: true})
		want := fmt.Sprintf("  \x1b[%sm%s\x1b[0m", test.want, test.token.State)
		if test.want == "" {
			want = "  " + test.token.State
		}
		if !strings.Contains(colored, want) {
			t.Errorf("%+v: no %q in %q", test.token, want, colored)
		}
	}
}

func TestSummaryTellsWhyThereIsNothing(t *testing.T) {
	for _, test := range []struct {
		list   List
		filter Filter
		want   string
	}{
		{List{}, Filter{}, "the running configuration has no oauth_cc\n"},
		{List{}, Filter{States: []string{"due"}}, "the running configuration has no oauth_cc\n"},
		{List{Handlers: 1}, Filter{}, "no tokens yet: each tenant's first request gets one\n"},
		{List{Handlers: 1}, Filter{States: []string{"due"}}, "no token is in such a state or has such a value\n"},
		{List{Handlers: 1}, Filter{Values: []string{"due"}}, "no token is in such a state or has such a value\n"},
		{List{Handlers: 1}, Filter{Failing: true}, "no token is failing\n"},
		{List{Handlers: 1}, Filter{Failing: true, States: []string{"due"}}, "no failing token is in such a state or has such a value\n"},
		{List{Handlers: 1, Omitted: 3}, Filter{}, "0 tokens: 3 more not shown (see --limit, --failing, --state and --value)\n"},
	} {
		wantText(t, test.list.summary(test.filter), test.want)
	}
}

func TestTimesAsPeopleTellThem(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "in 0s", 999 * time.Millisecond: "in 0s", 59 * time.Second: "in 59s", time.Minute: "in 1m0s", 61 * time.Minute: "in 1h1m",
		49*time.Hour + time.Minute: "in 2d1h", -time.Millisecond: "0s ago", -time.Hour: "1h0m ago",
	} {
		wantText(t, fromNow(*after(d), now), want)
	}
	wantText(t, ago(*after(500 * time.Millisecond), now), "0s ago")
}

// Grants of a client for two accounts look the same but for the subject. What a token that has expired was rejected for
// does not matter any more.
func TestWhatTellsGrantsApartAndWhatIsOver(t *testing.T) {
	list := List{Handlers: 2, Tokens: []Token{
		{ID: "aa", Endpoint: "https://a.test/token", ClientID: "app", Grant: "jwt_bearer", Subject: "ada", State: "fresh", Fetches: 1},
		{ID: "bb", Endpoint: "https://a.test/token", ClientID: "app", Grant: "jwt_bearer", Subject: "grace", State: "expired", Fetches: 1, RejectedSince: after(-3 * time.Second)},
	}}
	wantText(t, drawn(t, list, table.Style{}), `2 tokens: 1 fresh, 1 expired
ENDPOINT              CLIENT  STATE    EXPIRES  NEXT TRY  ID
https://a.test/token  app     fresh    -        -         aa
    subject: ada
https://a.test/token  app     expired  -        -         bb
    subject: grace
`)
	if mood := list.Tokens[1].mood(); mood != table.Plain {
		t.Errorf("an expired token is drawn as %v", mood)
	}
}
