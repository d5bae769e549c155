package endpoint

import (
	"net/http"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// Each form is one that servers are known to answer with.
func TestRefusalInAnotherFormIsQuoted(t *testing.T) {
	for _, test := range []struct{ name, body, want string }{
		{"problem+json", `{"type":"about:blank","title":"Unauthorized","status":401,"detail":"The client is disabled"}`, "Unauthorized: The client is disabled"},
		{"problem+json, a title alone", `{"title":"Unauthorized"}`, "Unauthorized"},
		{"message", `{"status":400,"message":"invalid client"}`, "invalid client"},
		{"Message", `{"Message":"Authorization has been denied"}`, "Authorization has been denied"},
		{"message with a code", `{"code":"UNAUTHORIZED","message":"no such client"}`, "UNAUTHORIZED: no such client"},
		{"messages", `{"statusCode":400,"message":["client_id must be a string","scope should not be empty"],"error":"Bad Request"}`,
			"Bad Request; client_id must be a string; scope should not be empty"},
		{"error_message", `{"error_message":"who are you?","error_code":3}`, "3: who are you?"},
		{"errorMessage", `{"errorCode":1234,"errorMessage":"who are you?"}`, "1234: who are you?"},
		{"fault", `{"fault":{"faultstring":"Invalid client identifier","detail":{"errorcode":"oauth.v2.InvalidClientIdentifier"}}}`,
			"Invalid client identifier; oauth.v2.InvalidClientIdentifier"},
		{"Fault", `{"Fault":{"FaultString":"Invalid client"}}`, "Invalid client"},
		{"fault with description", `{"fault":{"code":900901,"message":"Invalid Credentials","description":"Make sure you have given the right ones"}}`,
			"900901: Invalid Credentials: Make sure you have given the right ones"},
		{"errors", `{"errors":[{"status":"401","title":"Unauthorized","detail":"no such client"},{"message":"try again"}]}`, "Unauthorized: no such client; try again"},
		{"errors in a response", `{"response":{"errors":[{"code":"10400","message":"Invalid/Missing Authorization Header"}]}}`, "10400: Invalid/Missing Authorization Header"},
		{"errors as texts", `{"errors":["no such client","really"]}`, "no such client; really"},
		{"errors by field", `{"title":"One or more validation errors occurred.","errors":{"client_id":["is required"],"scope":["is unknown"]}}`,
			"One or more validation errors occurred.; is required; is unknown"},
		{"error as an object", `{"error":{"code":403,"message":"The caller may not do that","status":"PERMISSION_DENIED","errors":[{"message":"The caller may not do that"}]}}`,
			"403: The caller may not do that"},
		{"errorSummary", `{"errorCode":"E0000011","errorSummary":"Invalid token provided","errorLink":"E0000011","errorCauses":[{"errorSummary":"it is old"}]}`,
			"E0000011: Invalid token provided; it is old"},
		{"moreInformation", `{"httpCode":"401","httpMessage":"Unauthorized","moreInformation":"Invalid client id or secret."}`, "Unauthorized: Invalid client id or secret."},
		{"a list", `[{"message":"expired access/refresh token","errorCode":"INVALID_AUTH_HEADER"}]`, "INVALID_AUTH_HEADER: expired access/refresh token"},
		{"an outcome", `{"resourceType":"OperationOutcome","issue":[{"severity":"error","diagnostics":"no such client"}]}`, "no such client"},
		{"beside an OAuth error", `{"error":"invalid_client","error_description":"no","message":"the client is locked"}`, "invalid_client no; the client is locked"},
		{"the same beside an OAuth error", `{"error":"invalid_client","error_description":"it is locked","message":"it is locked","description":"locked"}`, "invalid_client it is locked"},
		{"after a byte order mark", "\xef\xbb\xbf" + `{"message":"no such client"}`, "no such client"},
		{"a secret", `{"message":"no client with secret-canary and param-canary"}`, "no client with *** and ***"},
		{"control characters", `{"message":"a\r\nb\u0000c"}`, "a  b c"},

		{"HTML", "<html>no such client", ""},
		{"text", "no such client", ""},
		{"a string", `"no such client"`, ""},
		{"other members", `{"who":"canary","data":{"name":"canary"},"status":"canary","errors":{"a":{"b":"canary"}}}`, ""},
		{"members of other types", `{"message":{"a":1},"title":true,"errors":3,"detail":null,"code":{},"fault":[[[]]],"error":{"message":[{}]}}`, ""},
		{"nothing wrong", `{"code":0,"message":""}`, ""},
		{"too deep", strings.Repeat(`{"errors":[`, 9) + `{"message":"canary"}` + strings.Repeat(`]}`, 9), ""},
		{"much too deep", strings.Repeat(`[`, maxRefusal), ""},
		{"much too deep, and whole", strings.Repeat(`{"error":`, 5000) + `"canary"` + strings.Repeat(`}`, 5000), ""},
		{"too long", `{"message":"canary","x":"` + strings.Repeat("x ", maxRefusal) + `"}`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, status := range []int{400, 401, 404, 503} {
				if said := failureOf(t, servertest.Answer{Status: status, Body: test.body}).Said; said != test.want {
					t.Errorf("%d: said %q, want %q", status, said, test.want)
				}
			}
		})
	}
}

// Some servers answer 200 whatever happens.
func TestAnswerWithoutATokenIsQuoted(t *testing.T) {
	failure := failureOf(t, servertest.Answer{Body: `{"errcode":40013,"errmsg":"invalid appid","code":1001,"msg":"no such app"}`})
	if failure.Class != ClassInvalidResponse || failure.Said != "1001: no such app: invalid appid" {
		t.Errorf("got %+v", failure)
	}
}

func TestWordsAreShort(t *testing.T) {
	for _, body := range []string{
		`{"message":"` + strings.Repeat("ä ", maxRefusal/4) + `"}`,
		`{"errors":[` + strings.Repeat(`{"message":"a"},{"message":"b"},`, 1000) + `{}]}`,
		`{` + strings.Repeat(`"message":"no",`, 2000) + `"Message":"no more"}`,
	} {
		if said := failureOf(t, servertest.Answer{Status: 400, Body: body}).Said; said == "" || utf8.RuneCountInString(said) > 200 {
			t.Errorf("%.40s: said %q", body, said)
		}
	}
}

func FuzzRefusalInAnotherForm(f *testing.F) {
	for _, seed := range []string{
		`{"title":"a","detail":"b"}`, `{"errors":{"a":["b"]}}`, `{"error":{"code":1e999,"message":["a",{"message":"b"}]}}`, `[[[{"Message":"\ud800"}]]]`,
		strings.Repeat(`[`, 20), strings.Repeat(`{"error":`, 10) + `1` + strings.Repeat(`}`, 10), "{\"message\":\"\xff\"}", `{"fault":{"faultstring":null}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var first, second words
		first.collectFrom(body)
		if second.collectFrom(body); first.String() != second.String() {
			t.Errorf("said %q and then %q", first.String(), second.String())
		}
		if len(first.phrases) > maxPhrases {
			t.Errorf("said %q", first.phrases)
		}
		said := failureOf(t, servertest.Answer{Status: http.StatusBadRequest, Body: string(body)}).Said
		if utf8.RuneCountInString(said) > 200 || strings.ContainsFunc(said, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("said %q", said)
		}
	})
}
