package endpoint

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// loginFields are of an endpoint that has everything elsewhere.
var loginFields = map[string]string{"access_token": "data.accessToken", "expires_in": "data.lives.seconds", "token_type": "kind"}

// withFields is the request with these paths.
func withFields(fields map[string]string) Request {
	request := cannedRequest
	request.ResponseFields = fields
	return request
}

func TestMembersAreReadAtTheirPaths(t *testing.T) {
	for _, test := range []struct {
		name, body string
		want       Granted
	}{
		{"all", `{"data":{"accessToken":"tok-1","lives":{"seconds":60}},"kind":"Login"}`, Granted{Value: "tok-1", Lifetime: time.Minute, UnusualType: "Login"}},
		{"among others", `{"a":{"accessToken":"no"},"data":{"x":[{}],"lives":{"seconds":"60","hours":1},"accessToken":"tok-1","y":null},"b":2}`, Granted{Value: "tok-1", Lifetime: time.Minute}},
		{"in any order, with blanks", "\r\n{ \"kind\" :\t\"Bearer\" ,\n\"data\" : { \"lives\" : {\"seconds\": 6e1 } , \"accessToken\" : \"tok-1\" } } ", Granted{Value: "tok-1", Lifetime: time.Minute}},
		{"what OAuth has does not count", `{"access_token":"no","expires_in":9,"token_type":"PoP","data":{"accessToken":"tok-1"}}`, Granted{Value: "tok-1", Lifetime: cannedTTL, LifetimeGuessed: true}},
		{"the last of two objects counts", `{"data":{"accessToken":"no","lives":{"seconds":9}},"data":{"accessToken":"tok-1"}}`, Granted{Value: "tok-1", Lifetime: cannedTTL, LifetimeGuessed: true}},
		{"the last of two members counts", `{"data":{"accessToken":"no","accessToken":"tok-1","lives":{"seconds":60},"lives":7}}`, Granted{Value: "tok-1", Lifetime: cannedTTL, LifetimeGuessed: true}},
		{"names with escapes", `{"d\u0061ta":{"access\u0054oken":"tok-1"}}`, Granted{Value: "tok-1", Lifetime: cannedTTL, LifetimeGuessed: true}},
		{"the others stay", `{"data":{"accessToken":"tok-1","lives":{"seconds":600}},"refresh_in":60,"scope":"a","error":null}`,
			Granted{Value: "tok-1", Lifetime: 10 * time.Minute, RefreshIn: time.Minute, Scope: "a", ScopeKnown: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			granted, failure := askOnce(t, servertest.Answer{Body: test.body}, withFields(loginFields))
			granted.Sent = time.Time{}
			if failure != nil || granted != test.want {
				t.Errorf("got %+v, %v", granted, failure)
			}
		})
	}
}

// One member can be within another's object.
func TestPathsCanCross(t *testing.T) {
	for _, test := range []struct {
		fields map[string]string
		body   string
	}{
		{map[string]string{"access_token": "access_token.value", "expires_in": "access_token.expires_in"}, `{"access_token":{"value":"tok-1","expires_in":60}}`},
		{map[string]string{"access_token": "expires_in.token"}, `{"expires_in":{"token":"tok-1"}}`},
		{map[string]string{"access_token": "scope.token"}, `{"scope":{"token":"tok-1"}}`},
		{map[string]string{"access_token": "token", "token_type": "token"}, `{"token":"tok-1"}`},
	} {
		if granted, failure := askOnce(t, servertest.Answer{Body: test.body}, withFields(test.fields)); failure != nil || granted.Value != "tok-1" {
			t.Errorf("%v in %s: got %+v, %v", test.fields, test.body, granted, failure)
		}
	}
	// What says that something is wrong still does.
	request := withFields(map[string]string{"access_token": "error.token"})
	if _, failure := askOnce(t, servertest.Answer{Body: `{"error":{"token":"tok-1"}}`}, request); failure == nil || failure.Class != ClassRefused {
		t.Errorf("got %+v", failure)
	}
}

func TestPathThatLeadsNowhereIsNamed(t *testing.T) {
	for _, test := range []struct{ name, body, detail, said string }{
		{"another name", `{"data":{"token":"tok-1"}}`, "the answer has no access_token at data.accessToken", ""},
		{"only where OAuth has it", `{"access_token":"tok-1","token_type":"Bearer"}`, "the answer has no access_token at data.accessToken", ""},
		{"a text on the way", `{"data":"tok-1"}`, "the answer has no access_token at data.accessToken", ""},
		{"a list on the way", `{"data":[{"accessToken":"tok-1"}]}`, "the answer has no access_token at data.accessToken", ""},
		{"a name in other letters", `{"data":{"accesstoken":"tok-1"}}`, "the answer has no access_token at data.accessToken", ""},
		{"one name with a dot", `{"data.accessToken":"tok-1"}`, "the answer has no access_token at data.accessToken", ""},
		{"no text", `{"data":{"accessToken":{"value":"tok-1"}}}`, "the answer has no access_token at data.accessToken", ""},
		{"refused with words", `{"code":17,"message":"no user s3cret-canary","data":null}`, "the answer has no access_token at data.accessToken", "17: no user ***"},
		{"too many members in all", `{` + strings.Repeat(`"a":1,`, maxMembers/2) + `"data":{` + strings.Repeat(`"a":1,`, maxMembers/2) + `"accessToken":"tok-1"}}`, "the answer is neither JSON nor a form", ""},
		{"not closed", `{"data":{"accessToken":"tok-1"}`, "the answer is neither JSON nor a form", ""},
		{"no colon", `{"data"{"accessToken":"tok-1"}}`, "the answer is neither JSON nor a form", ""},
		{"more after the end", `{"data":{"accessToken":"tok-1"}}}`, "the answer is neither JSON nor a form", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := withFields(loginFields)
			request.ClientSecret = "s3cret-canary"
			granted, failure := askOnce(t, servertest.Answer{Body: test.body}, request)
			class := ClassRefused // for what else would such an endpoint say?
			if strings.Contains(test.detail, "neither") {
				class = ClassInvalidResponse
			}
			if failure == nil || failure.Class != class || failure.Detail != test.detail || failure.Said != test.said {
				t.Errorf("got %+v, %+v", granted, failure)
			}
		})
	}
}

func TestHintNamesTheOptionForATokenElsewhere(t *testing.T) {
	const elsewhere, compare = "the answer may have the token elsewhere; if so, name the place with response_field access_token <path>, such as data.accessToken", "compare the path of response_field with an answer of the endpoint"
	for _, test := range []struct {
		fields     map[string]string
		body, hint string
	}{
		{nil, `{"data":{"accessToken":"tok-1"}}`, elsewhere},
		{map[string]string{"expires_in": "data.expires"}, `{"data":{"accessToken":"tok-1"}}`, elsewhere},
		{loginFields, `{"data":{"token":"tok-1"}}`, compare},
		{nil, `{"message":"no such user"}`, ""}, // which says it
		{loginFields, `{"message":"no such user"}`, ""},
	} {
		_, failure := askOnce(t, servertest.Answer{Body: test.body}, withFields(test.fields))
		if !strings.HasPrefix(failure.Hint, test.hint) || test.hint == "" && failure.Hint != "" {
			t.Errorf("%s with %v: the hint is %q", test.body, test.fields, failure.Hint)
		}
	}
}

func TestFormsHaveNoPaths(t *testing.T) {
	granted, failure := askOnce(t, servertest.Answer{Header: servertest.WithType("text/plain"), Body: "access_token=tok-1&expires_in=60&token_type=bearer"}, withFields(loginFields))
	if failure != nil || granted.Value != "tok-1" || granted.Lifetime != time.Minute {
		t.Errorf("got %+v, %v", granted, failure)
	}
}

// The endpoint's words can have the token, wherever else that is.
func TestTokenAtAPathIsMasked(t *testing.T) {
	const token = "k3Jq8ZpW1xVbT6mN"
	request := withFields(map[string]string{"access_token": "data.ticket", "token_type": "data.kind"})
	const issued = `"data":{"ticket":"` + token + `"`
	for name, answer := range map[string]servertest.Answer{
		"refused":                    {Status: 400, Body: `{"error":"odd","error_description":"issued ` + token + `",` + issued + `}}`},
		"refused, in another place":  {Status: 400, Body: `{"error":"odd","error_description":"issued ` + token + `","other":{"ticket":"` + token + `"}}`},
		"refused, with too much":     {Status: 400, Body: `{"error":"odd","error_description":"issued ` + token + `",` + issued + `}} and more`},
		"refused, with many members": {Status: 400, Body: `{"error":"odd","error_description":"issued ` + token + `",` + issued + `}` + strings.Repeat(`,"a":1`, maxMembers) + `}`},
		"of a type that is refused":  {Body: `{"error_description":"x",` + issued + `,"kind":"PoP"}}`},
		"of an unusual type":         {Body: `{` + issued + `,"kind":"issued ` + token + `"},"scope":"odd issued ` + token + `"}`},
	} {
		granted, failure := askOnce(t, answer, request)
		said := granted.UnusualType + granted.Scope
		if failure != nil {
			said = failure.Said + failure.Detail + failure.Hint
		}
		if strings.Contains(said, token[:8]) || strings.HasPrefix(name, "refused") && !strings.Contains(said, "issued ***") {
			t.Errorf("%s: %q", name, said)
		}
	}
}

// Whoever has not found the path yet has it in a member of any name.
func TestJWTInAnAnswerIsMasked(t *testing.T) {
	token := "eyJhbGciOiJIUzI1NiJ9." + strings.Repeat("k3Jq8ZpW1xVbT6mN_-", 3) + ".c2ln"
	for _, body := range []string{`{"message":"` + token + `"}`, `{"result":{"message":"welcome","detail":"` + token + `"}}`} {
		failure := failureOf(t, servertest.Answer{Body: body})
		if strings.Contains(failure.Said, "k3Jq8Z") || !strings.Contains(failure.Said, "***") {
			t.Errorf("%s: said %q", body, failure.Said)
		}
	}
}

func TestPathThatCantBeFollowedIsRefused(t *testing.T) {
	for _, fields := range []map[string]string{loginFields, {"access_token": "access_token"}, {"expires_in": "a.b.c.d.e.f.g.h"}, {"token_type": "The_Type of-2"}} {
		if err := withFields(fields).Check(); err != nil {
			t.Errorf("%v: %v", fields, err)
		}
	}
	for _, test := range []struct{ name, path, want string }{
		{"refresh_token", "data.refreshToken", `"refresh_token" can't have another place; use one of access_token, expires_in, token_type`},
		{"access_token", "", `"" is not a path; write the names of the members that lead to access_token with dots between them, such as data.accessToken`},
		{"access_token", ".data", "is not a path"},
		{"access_token", "error", "the path error is another member of the answer; write the path of access_token"},
		{"access_token", "data..token", "is not a path"},
		{"access_token", "$.data.token", "is not a path"},
		{"access_token", "/data/token", "is not a path"},
		{"access_token", "data.tokens[0]", "is not a path"},
		{"access_token", "data.*", "is not a path"},
		{"access_token", "{env.PATH}", "is not a path"},
		{"access_token", `data\.token`, "is not a path"},
		{"access_token", "data.t\u00f6ken", "is not a path"},
		{"access_token", strings.Repeat("x", 65), "is not a path"},
		{"expires_in", "a.b.c.d.e.f.g.h.i", "has more than 8 names"},
	} {
		err := withFields(map[string]string{test.name: test.path}).Check()
		if err == nil || !strings.HasPrefix(err.Error(), "response_field: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s at %q: %v", test.name, test.path, err)
		}
	}
}

// Two answers in one can have two tokens.
func TestPathsArePartOfTheKeys(t *testing.T) {
	without, one, other, same := cannedRequest, withFields(map[string]string{"access_token": "a"}), withFields(map[string]string{"access_token": "b"}), withFields(map[string]string{"access_token": "b"})
	for _, key := range []func(Request) GrantKey{Request.Key, func(r Request) GrantKey { return r.PortableKey([]string{"a", "b"}) }} {
		if key(without) == key(one) || key(one) == key(other) || key(other) != key(same) || key(one) == key(withFields(map[string]string{"expires_in": "a"})) {
			t.Error("the paths are not told apart")
		}
	}
	if n := len(without.Fields()); n != len(one.Fields())-1 {
		t.Errorf("%d fields without, so that gateways that don't know the option have another key", n)
	}
}

func TestLargestAnswersWithPathsCostLittleMemory(t *testing.T) {
	const size = MaxResponse - 1<<10
	repeated := func(part string) string { return strings.Repeat(part, size/len(part)) }
	request := withFields(map[string]string{"access_token": "a.b.c.d.e.f.g.h", "expires_in": "a.b.c.d.e.f.g.i", "token_type": "a.b.c.d"})
	deep := `{"a":{"b":{"c":{"d":{"e":{"f":{"g":`
	for name, body := range map[string]string{
		"nothing else": deep + `{"h":"tok-1"}}}}}}}}`,
		"a long text":  deep + `{"h":"tok-1","i":"` + repeated("9") + `"}}}}}}}}`,
		"deep":         repeated(`{"a":`),
		"deeper":       `{"a":{"b":{"c":` + strings.Repeat(`{"d":`, 9000) + `1` + strings.Repeat(`}`, 9003),
		"a list":       `{"a":[` + repeated("0,") + `0]}`,
		"lists":        `{"a":` + repeated("["),
		"members":      deep + `{` + manyMembers(size-100) + `"h":"tok-1"}}}}}}}}`,
		"the same":     `{` + repeated(`"a":{"b":{"c":{"d":1}}},`) + `"x":1}`,
	} {
		t.Run(name, func(t *testing.T) {
			n := allocated(func() { _, _ = askOnce(t, servertest.Answer{Body: body}, request) })
			if n > 16*MaxResponse { // the race detector adds some
				t.Errorf("%d KiB were allocated", n>>10)
			}
		})
	}
}

// FuzzResponseField compares what is found at a path with what decoding the whole answer finds there.
func FuzzResponseField(f *testing.F) {
	for _, body := range []string{
		`{"data":{"accessToken":"tok-1","lives":{"seconds":60}},"kind":"Login"}`, `{"data":{"accessToken":"a"},"data":{}}`, `{"data":{"accessToken":"a"},"data":null}`,
		`{"data":{"accessToken":"a","accessToken":{}}}`, `{"data":[{"accessToken":"a"}]}`, ` { "data" : { "accessToken" : "a" } } `, `{"data"::{}}`, `{"data":{"accessToken":"a"}`,
		`{"data":{"accessToken":"a"}}x`, `{"d\u0061ta":{"accessToken":"\ud800"}}`, `{"data":{"accessToken":"a",}}`, `{"data":{,"accessToken":"a"}}`, `{"":{"":"a"}}`,
	} {
		f.Add([]byte(body), "data.accessToken", "data.lives.seconds")
	}
	f.Add([]byte(`{"a":{"b":1}}`), "a", "a.b")
	f.Add([]byte(`{"scope":{"b":"t"}}`), "scope.b", "scope")
	f.Fuzz(func(t *testing.T, body []byte, token, expiry string) {
		if CheckResponseField("access_token", token) != nil || CheckResponseField("expires_in", expiry) != nil {
			return
		}
		fields := map[string]string{"access_token": token, "expires_in": expiry}
		var all map[string]json.RawMessage
		isObject := json.Unmarshal(body, &all) == nil && all != nil
		found, ok := answerPlaces(fields).findIn(body)
		if ok != isObject && len(body) < maxMembers { // which can have too many otherwise
			t.Fatalf("%q is an object: %v", body, ok)
		}
		if !ok {
			return
		}
		want := make(map[string]string)
		for _, name := range answerNames {
			path := fields[name]
			if path == "" {
				path = name
			}
			if value := valueAt(body, strings.Split(path, ".")); value != nil {
				want[name] = string(value)
			}
		}
		got := make(map[string]string)
		for name, value := range found {
			got[name] = string(value)
		}
		if !maps.Equal(got, want) {
			t.Errorf("%q at %v: found %q, want %q", body, fields, got, want)
		}
		vetting := &vettingTransport{secrets: cannedRequest.secrets(), now: time.Now, fields: fields}
		vetting.vet(&http.Response{StatusCode: 200, Header: servertest.WithType("application/json")}, body)
	})
}

// valueAt decodes objects as a whole, one in the other.
func valueAt(body []byte, path []string) json.RawMessage {
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) != nil || members[path[0]] == nil {
		return nil
	}
	if len(path) == 1 {
		return members[path[0]]
	}
	return valueAt(members[path[0]], path[1:])
}

// What stands in the token's place is a credential, of whatever type, and however much else sounds like one.
func TestWhatStandsInTheTokensPlaceIsMasked(t *testing.T) {
	decoys := ""
	for range 2 * maxTokens {
		decoys += `"x_token":"decoy",`
	}
	for _, body := range []string{
		`{"data":{"accessToken":{"v":"secretvalue-word"}},"message":"your token secretvalue-word ok"}`,
		`{"data":{"accessToken":["secretvalue-word"]},"message":"your token secretvalue-word ok"}`,
		`{` + decoys + `"old":{"accessToken":"secretvalue-word"},"message":"your token secretvalue-word ok"}`,
	} {
		_, failure := askOnce(t, servertest.Answer{Body: body}, withFields(map[string]string{"access_token": "data.accessToken"}))
		if failure == nil || failure.Said != "your token *** ok" {
			t.Errorf("%.60s: the log has %+v", body, failure)
		}
	}
}

func TestMembersAreCountedOnAllLevels(t *testing.T) {
	inner := strings.TrimSuffix(strings.Repeat(`"a":0,`, maxMembers), ",")
	_, failure := askOnce(t, servertest.Answer{Body: `{"data":{` + inner + `},` + inner + `,"access_token":"tok-1"}`}, withFields(map[string]string{"expires_in": "data.in"}))
	if failure == nil || failure.Detail != "the answer is neither JSON nor a form" {
		t.Errorf("got %+v", failure)
	}
}

// A tenant's value that is not shown can be a part of what is shown elsewhere.
func TestHiddenValueIsMaskedInScopes(t *testing.T) {
	request := cannedRequest
	request.Scopes, request.Hidden = []string{"read:topsecret-9876543210"}, []string{"topsecret-9876543210"}
	_, failure := askOnce(t, servertest.Answer{Status: 400, Body: `{"error":"invalid_scope","error_description":"no topsecret-9876543210"}`}, request)
	if failure == nil || strings.Contains(failure.Hint+failure.Said, "topsecret") || !strings.Contains(failure.Hint, "asked for was read:***") {
		t.Errorf("got %+v", failure)
	}
}
