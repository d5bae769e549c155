package endpoint

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// paramGrantRequest asks with a grant whose credential is a parameter.
func paramGrantRequest(grant, credential string) Request {
	request := cannedRequest
	request.Params = map[string][]string{"grant_type": {grant}, grantParams[grant]: {credential}, "username": {"gateway-user"}, "subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"}}
	return request
}

func TestHintTellsWhyAGrantIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // at 2000-01-01
		const mayBeWrong = "the user name or the password may be wrong"
		const hasEnded = "the refresh token has ended, was revoked or belongs to another client, or the endpoint has replaced it"
		const notTaken = "the endpoint may not take the subject token"
		ended, lives := cannedJWT(`{"exp":946684700}`), cannedJWT(`{"exp":946688400}`)
		for _, test := range []struct {
			request    Request
			status     int
			said, hint string
		}{
			{paramGrantRequest(grantPassword, "k3Jq8ZpW"), 400, `{"error":"invalid_grant"}`, mayBeWrong},
			{paramGrantRequest(grantPassword, "k3Jq8ZpW"), 401, `{"error":"invalid_grant","error_description":"Invalid user credentials"}`, mayBeWrong},
			{paramGrantRequest(grantPassword, "k3Jq8ZpW\n"), 400, `{"error":"invalid_grant"}`, "the password begins or ends with white space"},
			{paramGrantRequest(grantPassword, "k3Jq8ZpW"), 401, `{"error":"invalid_client"}`, "the id or the secret may be wrong"},
			{paramGrantRequest(grantPassword, "k3Jq8ZpW"), 400, `{"error":"unsupported_grant_type"}`, "the client may not be allowed to use the grant password; have it turned on"},
			{paramGrantRequest(grantRefreshToken, "k3Jq8ZpW"), 400, `{"error":"invalid_grant"}`, hasEnded},
			{paramGrantRequest(grantRefreshToken, "TOKEN_FILE=k3Jq8ZpW"), 400, `{"error":"invalid_grant"}`, "the refresh_token has the form NAME=value"},
			{paramGrantRequest(grantRefreshToken, "k3Jq8ZpW"), 401, `{"error":"unauthorized_client"}`, "the client may not be allowed to use the grant refresh_token; have it turned on"},
			{paramGrantRequest(grantTokenExchange, lives), 400, `{"error":"invalid_request"}`, notTaken},
			{paramGrantRequest(grantTokenExchange, lives), 400, `{"error":"invalid_request","error_description":"Invalid token"}`, notTaken},
			{paramGrantRequest(grantTokenExchange, lives), 400, `{"error":"invalid_request","error_description":"client authentication missing"}`, "a parameter may be missing or not be as the endpoint wants it"},
			{paramGrantRequest(grantTokenExchange, lives), 400, `{"error":"invalid_grant"}`, notTaken},
			{paramGrantRequest(grantTokenExchange, "opaque"), 400, `{"error":"invalid_grant"}`, notTaken},
			{paramGrantRequest(grantTokenExchange, ended), 400, `{"error":"invalid_request"}`, "the subject token has ended at 1999-12-31T23:58:20Z; see that what writes it"},
			{paramGrantRequest(grantTokenExchange, "\xef\xbb\xbf"+lives), 400, `{"error":"invalid_grant"}`, "the subject_token begins with a byte order mark"},
			{paramGrantRequest(grantTokenExchange, lives), 400, `{"error":"invalid_target"}`, "the endpoint has no token for this audience or resource"},
			{cannedRequest, 400, `{"error":"invalid_grant"}`, "the client may not be allowed to use the client-credentials grant"},
		} {
			_, failure := askOnce(t, servertest.Answer{Status: test.status, Body: test.said}, test.request)
			if !strings.HasPrefix(failure.Hint, test.hint) {
				t.Errorf("%s for %v: the hint is %q", test.said, test.request.Params["grant_type"], failure.Hint)
			}
		}
	})
}

// A login has no error codes, and no client.
func TestHintTellsWhyALoginIsRefused(t *testing.T) {
	login := Request{
		Endpoint: "https://api.example.com/login", AuthMethod: AuthNone, Format: FormatJSON,
		Params:         map[string][]string{"username": {"gateway-user"}, "password": {"k3Jq8ZpW"}},
		ResponseFields: map[string]string{"access_token": "data.accessToken"},
	}
	const mayBeWrong = "the user name or the password may be wrong"
	for _, test := range []struct {
		status     int
		said, hint string
	}{
		{401, ``, mayBeWrong},
		{401, `{"message":"no"}`, mayBeWrong},
		{403, `{"message":"no"}`, mayBeWrong},
		{400, `{"message":"Invalid password"}`, mayBeWrong},
		{422, `{"errors":[{"detail":"unknown user"}]}`, ""},
		{200, `{"message":"login failed"}`, mayBeWrong},
		{200, `{"data":{"token":"x"}}`, "compare the path of response_field"},
		{400, `{"message":"Unexpected token g in JSON"}`, wantsForm},
		{500, `{"message":"no user"}`, ""},
	} {
		_, failure := askOnce(t, servertest.Answer{Status: test.status, Body: test.said}, login)
		if !strings.HasPrefix(failure.Hint, test.hint) {
			t.Errorf("%d %s: the hint is %q", test.status, test.said, failure.Hint)
		}
	}
}

func TestRefusedGrantIsTriedOnceMoreWithAChangedCredential(t *testing.T) {
	for grant, code := range map[string]string{grantPassword: "invalid_grant", grantRefreshToken: "invalid_grant", grantTokenExchange: "invalid_request"} {
		asked := 0
		server := servertest.Func(func(req *http.Request) (*http.Response, error) {
			if asked++; asked == 1 {
				return servertest.Answer{Status: 400, Body: fmt.Sprintf(`{"error":%q}`, code)}.RoundTrip(req)
			}
			return servertest.Answer{Body: `{"access_token":"tok-1","token_type":"Bearer"}`}.RoundTrip(req)
		})
		resolved := 0
		client := &Client{Transport: server, Timeout: time.Minute, DefaultTTL: cannedTTL}
		granted, failure := client.Fetch(t.Context(), func(context.Context) (Request, error) {
			resolved++
			return paramGrantRequest(grant, fmt.Sprint("credential-", resolved)), nil
		}, nil)
		if failure != nil || granted.Value != "tok-1" || asked != 2 {
			t.Errorf("%s: asked %d times, got %+v, %v", grant, asked, granted, failure)
		}
	}
}

func TestCredentialOfAGrantIsMasked(t *testing.T) {
	for grant, param := range grantParams {
		for _, credential := range []string{"k3Jq8ZpW1xVb", "true", "abc"} { // also if it is a word
			request := paramGrantRequest(grant, credential)
			if got := saidBy(t, request, "no "+credential+" of urn:ietf:params:oauth:token-type:jwt with "+grant, nil); got != "no *** of urn:ietf:params:oauth:token-type:jwt with "+grant {
				t.Errorf("%s: %q", param, got)
			}
		}
	}
}

func TestReplacedRefreshTokenIsNoted(t *testing.T) {
	const answer = `{"access_token":"tok-1","token_type":"Bearer"`
	for _, test := range []struct {
		grant, body string
		want        bool
	}{
		{grantRefreshToken, answer + `}`, false},
		{grantRefreshToken, answer + `,"refresh_token":"first"}`, false},
		{grantRefreshToken, answer + `,"refresh_token":null}`, false},
		{grantRefreshToken, answer + `,"refresh_token":"second"}`, true},
		{grantRefreshToken, `access_token=tok-1&refresh_token=second`, true},
		{grantPassword, answer + `,"refresh_token":"second"}`, false}, // which nobody has asked for
	} {
		granted, failure := askOnce(t, servertest.Answer{Header: servertest.WithType("text/plain"), Body: test.body}, paramGrantRequest(test.grant, "first"))
		if failure != nil || granted.RefreshTokenReplaced != test.want {
			t.Errorf("%s: %s: got %+v, %v", test.grant, test.body, granted, failure)
		}
	}
}

func TestExchangeForNoAccessTokenIsRefused(t *testing.T) {
	request := paramGrantRequest(grantTokenExchange, "subject-canary")
	const issued = `"access_token":"tok-1","issued_token_type":"urn:ietf:params:oauth:token-type:`
	_, failure := askOnce(t, servertest.Answer{Body: `{` + issued + `id_token","token_type":"N_A"}`}, request)
	if failure == nil || failure.Detail != "the token_type is not Bearer: what the endpoint has issued is no access token; ask for one with param requested_token_type urn:ietf:params:oauth:token-type:access_token" {
		t.Errorf("got %+v", failure)
	}
	granted, failure := askOnce(t, servertest.Answer{Body: `{` + issued + `access_token","token_type":"Bearer"}`}, request)
	if failure != nil || granted.Value != "tok-1" || granted.UnusualType != "" {
		t.Errorf("got %+v, %v", granted, failure)
	}
}
