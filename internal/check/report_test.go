package check

import (
	"errors"
	"strings"
	"testing"
)

func TestTableOfResults(t *testing.T) {
	const want = `ENDPOINT                  CLIENT  METHOD               RESULT              TYPE    LIFETIME  SCOPE
https://a.test/token      app     client_secret_basic  ok                  Bearer  1h0m0s    müller read
https://a.test/{x}/token  -       none                 ok                  DPoP    unknown   -
    note: first
    note: second
https://issuer.test       a pp    client_secret_basic  invalid_client 401  -       -         -
    detail: ours
    the endpoint says: theirs
    hint: try this
    note: the endpoint asks to be left alone for 2m0s
    note: third
    see https://help.test#invalid_client
https://a.test/token      app     client_secret_basic  timeout             -       -         -
https://a.test/token      app     client_secret_basic  not checked         -       -         -
`
	var out strings.Builder
	err := WriteTable(&out, []Result{
		{Endpoint: "https://a.test/token", Issuer: "https://issuer.test", ClientID: "app", AuthMethod: "client_secret_basic", Result: "ok", TokenType: "Bearer", Lifetime: 3600, Scope: "müller read"},
		{Endpoint: "https://a.test/{x}/token", AuthMethod: "none", Result: "ok", TokenType: "DPoP", DefaultTTL: 300, Notes: []string{"first", "second"}},
		{Issuer: "https://issuer.test", ClientID: "a\npp", AuthMethod: "client_secret_basic", Result: "invalid_client", Status: 401,
			Detail: "ours", EndpointMessage: "theirs", Hint: "try this", RetryAfter: 120, Notes: []string{"third"}, Help: "https://help.test#invalid_client"},
		{Endpoint: "https://a.test/token", ClientID: "app", AuthMethod: "client_secret_basic", Result: "timeout"},
		{Endpoint: "https://a.test/token", ClientID: "app", AuthMethod: "client_secret_basic", Result: resultNotChecked},
	})
	if err != nil || out.String() != want {
		t.Errorf("%v: got\n%s\nwant\n%s", err, out.String(), want)
	}
}

func TestJSONOfResults(t *testing.T) {
	const want = `[
  {
    "endpoint": "https://a.test/token",
    "auth_method": "none",
    "request_format": "form",
    "result": "ok",
    "endpoint_message": "<&>",
    "help": "https://help.test#ok"
  }
]
`
	var out strings.Builder
	err := WriteJSON(&out, []Result{{Endpoint: "https://a.test/token", AuthMethod: "none", RequestFormat: "form", Result: resultGranted, EndpointMessage: "<&>", Help: "https://help.test#ok", refused: true}})
	if err != nil || out.String() != want {
		t.Errorf("%v: got\n%s\nwant\n%s", err, out.String(), want)
	}
}

// brokenWriter takes nothing.
type brokenWriter struct{}

var errBroken = errors.New("broken")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestReportThatCannotBeWrittenIsAnError(t *testing.T) {
	if err := WriteTable(brokenWriter{}, nil); !errors.Is(err, errBroken) {
		t.Errorf("table: %v", err)
	}
	if err := WriteJSON(brokenWriter{}, nil); !errors.Is(err, errBroken) {
		t.Errorf("JSON: %v", err)
	}
}

func TestSummaryCountsWhatWasAsked(t *testing.T) {
	ok, failed, unchecked := Result{Result: resultGranted}, Result{Result: "timeout"}, Result{Result: resultNotChecked}
	for _, test := range []struct {
		results []Result
		want    string // empty for no error
	}{
		{[]Result{ok, ok}, ""},
		{[]Result{ok, unchecked}, ""},
		{[]Result{unchecked}, ""},
		{[]Result{failed, ok, unchecked, failed}, "no token for 2 of 3 grants"},
	} {
		if err := Summarize(test.results); (err != nil) != (test.want != "") || err != nil && err.Error() != test.want {
			t.Errorf("%+v: got %v, want %q", test.results, err, test.want)
		}
	}
}
