package check

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/help"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// tokenEndpoint is a token endpoint in memory.
type tokenEndpoint struct {
	takes  time.Duration
	answer func(*http.Request) http.RoundTripper // nil, or nil for the request: it grants

	mu                  sync.Mutex
	asked, flying, most int // requests, now and at a time
}

func (e *tokenEndpoint) RoundTrip(req *http.Request) (*http.Response, error) {
	e.mu.Lock()
	e.asked++
	e.flying++
	e.most = max(e.most, e.flying)
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.flying--
		e.mu.Unlock()
	}()
	select {
	case <-time.After(e.takes):
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	if err := req.ParseForm(); err != nil {
		return nil, err
	}
	if e.answer != nil {
		if answer := e.answer(req); answer != nil {
			return answer.RoundTrip(req)
		}
	}
	return servertest.Answer{Body: `{"access_token":"token-canary","token_type":"Bearer","expires_in":3600}`}.RoundTrip(req)
}

func (e *tokenEndpoint) wantAsked(t *testing.T, want int) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.asked != want {
		t.Errorf("%d token requests, want %d", e.asked, want)
	}
}

// target is a grant of a client's at the endpoint.
func (e *tokenEndpoint) target(client string, scopes ...string) Target {
	return e.targetOf(endpoint.Request{ClientID: client, ClientSecret: "s3cret-canary", AuthMethod: endpoint.AuthSecretBasic, Scopes: scopes})
}

func (e *tokenEndpoint) targetOf(r endpoint.Request) Target {
	return e.targetIn(endpoint.FormatForm, r)
}

func (e *tokenEndpoint) targetIn(format string, r endpoint.Request) Target {
	r.Endpoint, r.Format = "https://auth.example.com/token?key=query-canary", format
	return Target{
		GrantKey: r.Key(), ClientKey: endpoint.NewGrantKey([]string{r.Endpoint, r.ClientID, r.ClientSecret}), Template: r,
		Resolve: func(context.Context) (endpoint.Request, error) { return r, nil },
		Client:  &endpoint.Client{Transport: e, Timeout: 10 * time.Second, DefaultTTL: 5 * time.Minute},
	}
}

func mustCheck(t *testing.T, c Checker, targets ...Target) []Result {
	t.Helper()
	results, err := c.All(t.Context(), targets)
	if err != nil {
		t.Fatal(err)
	}
	return results
}

// named lists the clients and what came of each.
func named(results []Result) []string {
	var list []string
	for _, r := range results {
		list = append(list, r.ClientID+" "+r.Result)
	}
	return list
}

func TestFewGrantsAreAskedForAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &tokenEndpoint{takes: time.Second}
		var targets []Target
		var want []string
		for i := range 5 * checksAtOnce {
			client := fmt.Sprintf("client-%d", i*7%20)
			targets, want = append(targets, e.target(client)), append(want, client+" ok")
		}
		start := time.Now()
		if got := named(mustCheck(t, Checker{}, targets...)); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if took := time.Since(start); took != 5*time.Second || e.most != checksAtOnce {
			t.Errorf("took %s, %d at a time, want %d", took, e.most, checksAtOnce)
		}
	})
}

func TestSameGrantIsCheckedOnce(t *testing.T) {
	e := new(tokenEndpoint)
	first, second := e.target("first"), e.target("second")
	if got, want := named(mustCheck(t, Checker{}, first, second, first, second)), []string{"first ok", "second ok"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	e.wantAsked(t, 2)
}

// Each try may count where an endpoint locks clients out. Another client, or another failure,
// is nothing to go by.
func TestRefusedClientIsNotTriedAgain(t *testing.T) {
	e := &tokenEndpoint{answer: func(r *http.Request) http.RoundTripper {
		switch id, _, _ := r.BasicAuth(); {
		case id == "locked" && r.PostFormValue("scope") != "known":
			return servertest.Answer{Status: http.StatusUnauthorized, Body: `{"error":"invalid_client"}`}
		case r.PostFormValue("scope") == "unknown":
			return servertest.Answer{Status: http.StatusBadRequest, Body: `{"error":"invalid_scope"}`}
		}
		return nil
	}}
	results := mustCheck(t, Checker{}, e.target("locked", "known"), e.target("open", "unknown"), e.target("locked", "a"), e.target("open", "a"),
		e.target("locked", "b"), e.target("locked", "c"))
	want := []string{"locked ok", "open invalid_scope", "locked invalid_client", "open ok", "locked not_checked", "locked not_checked"}
	if got := named(results); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	e.wantAsked(t, 4)
	for _, r := range results[4:] {
		if !slices.Equal(r.Notes, []string{"the same client was refused just now"}) || r.failed() {
			t.Errorf("got %+v", r)
		}
	}
	if err := Summarize(results); err == nil || err.Error() != "no token for 2 of 4 grants" {
		t.Errorf("got %v", err)
	}
}

// perRequest is a target whose grant depends on placeholders of the request.
func (e *tokenEndpoint) perRequest(names ...string) Target {
	t := e.target("{" + strings.Join(names, "}{") + "}")
	t.Inputs = names
	return t
}

func TestGrantWithoutItsValuesIsNotChecked(t *testing.T) {
	for name, test := range map[string]struct {
		missing, notes []string
		unfit          error
		want           Result
		asked          int
	}{
		"missing": {[]string{"tenant", "part"}, nil, nil,
			Result{Result: "not_checked", MissingValues: []string{"tenant", "part"}, Notes: []string{
				"the grant differs from request to request; to check it, add --value tenant=… --value part=…",
			}, Help: help.Address("not_checked")}, 1},
		"missing, with a remark": {[]string{"part"}, []string{"which one?"}, nil,
			Result{Result: "not_checked", MissingValues: []string{"part"}, Notes: []string{
				"the grant differs from request to request; to check it, add --value part=…", "which one?",
			}, Help: help.Address("not_checked")}, 1},
		"unfit": {nil, nil, errors.New("can't be used"), Result{Result: "refused", Detail: "can't be used", Help: help.Address("refused")}, 1},
		"given": {nil, nil, nil, Result{Result: "ok", TokenType: "Bearer", Lifetime: 3600}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			e := new(tokenEndpoint)
			target := e.perRequest("tenant", "part")
			target.Missing, target.Notes, target.Unfit = test.missing, test.notes, test.unfit
			results := mustCheck(t, Checker{Given: []string{"part"}}, e.target("fixed"), target)
			want := test.want
			want.Endpoint, want.ClientID, want.AuthMethod, want.RequestFormat = "https://auth.example.com/token", "{tenant}{part}", "client_secret_basic", "form"
			wantResult(t, results[1], want)
			if err := Summarize(results); (err != nil) != (test.unfit != nil) {
				t.Errorf("got %v", err)
			}
			e.wantAsked(t, test.asked)
		})
	}
}

// A name may be misspelled.
func TestValueOfNoUseIsAnError(t *testing.T) {
	e := new(tokenEndpoint)
	for _, test := range []struct {
		targets []Target
		want    string
	}{
		{nil, "the configuration has no oauth_cc handler"},
		{[]Target{e.target("a")}, "--value: no grant depends on the placeholder {tennant}, nor on any other of the request; remove it"},
		{[]Target{e.target("a"), e.perRequest("tenant", "part"), e.perRequest("host", "tenant")},
			"--value: no grant depends on the placeholder {tennant}; there is {tenant}, {part}, {host}"},
	} {
		c := Checker{Given: []string{"tennant"}}
		if results, err := c.All(t.Context(), test.targets); err == nil || err.Error() != test.want || results != nil {
			t.Errorf("got %+v, %v; want %s", results, err, test.want)
		}
	}
	e.wantAsked(t, 0)
}

func TestInterruptedCheckHasNoResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &tokenEndpoint{takes: time.Hour}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		results, err := Checker{}.All(ctx, []Target{e.target("a"), e.target("b")})
		if err == nil || err.Error() != "interrupted" || results != nil {
			t.Errorf("got %+v, %v", results, err)
		}
		e.wantAsked(t, 2)
	})
}

func TestResultTellsWhatWasGranted(t *testing.T) {
	for name, test := range map[string]struct {
		answer servertest.Answer
		bound  bool
		want   Result // without what was asked for
	}{
		"all is as it should be": {
			servertest.Answer{Body: `{"access_token":"token-canary","token_type":"bearer","expires_in":60}`}, false,
			Result{TokenType: "Bearer", Lifetime: 60, Scope: "a b"},
		},
		"a bound token": {
			servertest.Answer{Body: `{"access_token":"token-canary","expires_in":60}`}, true,
			Result{TokenType: "DPoP", Lifetime: 60, Scope: "a b"},
		},
		"a token of another name": {
			servertest.Answer{Body: `{"access_token":"token-canary","token_type":"BearerToken","expires_in":60}`}, false,
			Result{TokenType: "Bearer", Lifetime: 60, Scope: "a b", Notes: []string{"the endpoint calls the token's type BearerToken; it is used as a Bearer token"}},
		},
		"no lifetime": {
			servertest.Answer{Body: `{"access_token":"token-canary"}`}, false,
			Result{TokenType: "Bearer", DefaultTTL: 300, Scope: "a b", Notes: []string{"the lifetime is unknown; default_ttl 5m0s is used"}},
		},
		"a lifetime of the configuration's": {
			servertest.Answer{Body: `{"access_token":"token-canary","expires_in":0}`}, false,
			Result{TokenType: "Bearer", Lifetime: 3600, Scope: "a b", Notes: []string{"the lifetime is what ttl says"}},
		},
		"fewer scopes": {
			servertest.Answer{Body: `{"access_token":"token-canary","expires_in":60,"scope":"b"}`}, false,
			Result{TokenType: "Bearer", Lifetime: 60, Scope: "b", Missing: "a", Notes: []string{"fewer scopes were granted than asked for; missing: a"}},
		},
		"a secret among the scopes": {
			servertest.Answer{Body: `{"access_token":"token-canary","expires_in":60,"scope":"a b s3cret-canary query-canary token-canary\n"}`}, false,
			Result{TokenType: "Bearer", Lifetime: 60, Scope: "a b *** *** *** "},
		},
		"a refresh token in place of the configured one": {
			servertest.Answer{Body: `{"access_token":"token-canary","expires_in":60,"refresh_token":"second-canary"}`}, false,
			Result{TokenType: "Bearer", Lifetime: 60, Scope: "a b", Notes: []string{
				"the endpoint has replaced the refresh token, and may not take the configured one again; have rotation turned off for this client",
			}},
		},
		"expired already": {
			servertest.Answer{Body: `{"access_token":"token-canary","expires_in":0}`}, false,
			Result{TokenType: "Bearer", Lifetime: 1, Scope: "a b", Notes: []string{
				"the token has expired already when it is granted; expires_in says so; if the token lives longer, set ttl",
			}},
		},
		"a clock that is ahead": {
			servertest.Answer{Header: http.Header{"Date": {"Sat, 01 Jan 2000 01:00:00 GMT"}}, Body: `{"access_token":"token-canary","expires_in":60}`}, false,
			Result{TokenType: "Bearer", Lifetime: 60, Scope: "a b", ClockSkew: 3600, Notes: []string{
				"this machine's clock is 1h0m0s behind the endpoint's; assertions, proofs and the lifetimes of JWTs depend on it",
			}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // at midnight of January 1, 2000
				target := (&tokenEndpoint{answer: func(*http.Request) http.RoundTripper { return test.answer }}).target("app", "a", "b")
				target.Bound = test.bound
				if slices.Contains(test.want.Notes, "the lifetime is what ttl says") {
					request := target.Template
					request.TTL = time.Hour
					target.Resolve = func(context.Context) (endpoint.Request, error) { return request, nil }
				}
				if strings.Contains(name, "refresh token") {
					request := target.Template
					request.Params = map[string][]string{"grant_type": {"refresh_token"}, "refresh_token": {"first-canary"}}
					target.Resolve = func(context.Context) (endpoint.Request, error) { return request, nil }
				}
				want := test.want
				want.Endpoint, want.ClientID, want.AuthMethod, want.RequestFormat, want.Result = "https://auth.example.com/token", "app", "client_secret_basic", "form", resultGranted
				wantResult(t, mustCheck(t, Checker{}, target)[0], want)
			})
		})
	}
}

func TestResultTellsWhyThereIsNoToken(t *testing.T) {
	for name, test := range map[string]struct {
		answer servertest.Answer
		want   Result // likewise
	}{
		"refused": {
			servertest.Answer{Status: 401, Body: `{"error":"invalid_client","error_description":"not with s3cret-canary"}`},
			Result{Result: "invalid_client", Status: 401, EndpointMessage: "invalid_client not with ***", refused: true,
				Hint: "the id or the secret may be wrong, or the endpoint may want them sent in another way; --try-methods finds out which"},
		},
		"not well": {
			servertest.Status(503, "Retry-After", "90"),
			Result{Result: "server_error", Status: 503, RetryAfter: 90},
		},
		"a clock that is behind": {
			servertest.Answer{Status: 400, Header: http.Header{"Date": {"Fri, 31 Dec 1999 23:00:00 GMT"}}, Body: `{"error":"invalid_target"}`},
			Result{Result: "invalid_target", Status: 400, EndpointMessage: "invalid_target", ClockSkew: -3600, Notes: []string{
				"this machine's clock is 1h0m0s ahead of the endpoint's; assertions, proofs and the lifetimes of JWTs depend on it",
			}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target := (&tokenEndpoint{answer: func(*http.Request) http.RoundTripper { return test.answer }}).target("app")
				want := test.want
				want.Endpoint, want.ClientID, want.AuthMethod, want.RequestFormat = "https://auth.example.com/token", "app", "client_secret_basic", "form"
				want.Help = "https://github.com/caddy-oauth-cc/caddy-oauth-cc/blob/main/docs/troubleshooting.md#" + want.Result
				wantResult(t, mustCheck(t, Checker{}, target)[0], want)
			})
		})
	}
}

func wantResult(t *testing.T, got, want Result) {
	t.Helper()
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Errorf("got  %s\nwant %s", g, w)
	}
}
