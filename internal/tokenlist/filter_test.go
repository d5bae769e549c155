package tokenlist

import (
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

func TestFilterReadsWhatItWrites(t *testing.T) {
	for _, f := range []Filter{
		{Limit: DefaultLimit}, {Limit: 0}, {Limit: 7, States: []string{"none", "due"}, Values: []string{"a&b", "c=d"}, IDPrefix: "9e1f", Failing: true},
	} {
		query, err := url.ParseQuery(f.Query().Encode())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseFilter(query); err != nil || !reflect.DeepEqual(got, f) {
			t.Errorf("%+v becomes %+v, %v", f, got, err)
		}
	}
	if f, err := ParseFilter(nil); err != nil || f.Limit != DefaultLimit {
		t.Errorf("got %+v, %v", f, err)
	}
}

func TestFilterTellsWhatToWrite(t *testing.T) {
	for query, want := range map[string]string{
		"limit=many":              "limit: not a number of tokens; write one such as 100",
		"failing=false":           "failing: not a way to filter; write true, or leave it out",
		"failing=true&failing=":   "failing: not a way to filter; write true, or leave it out",
		"limit=-1":                "limit: not a number of tokens; write one such as 100",
		"state=due&state=Expired": `state: there is no state "Expired"; write none, fresh, stale, due or expired`,
		"state=":                  `state: there is no state ""; write none, fresh, stale, due or expired`,
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseFilter(values); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", query, err, want)
		}
	}
}

func TestFilterByFailure(t *testing.T) {
	for _, test := range []struct{ asked, failing, want bool }{{false, false, true}, {false, true, true}, {true, false, false}, {true, true, true}} {
		if got := (Filter{Failing: test.asked}).HasFailing(test.failing); got != test.want {
			t.Errorf("%+v: %t", test, got)
		}
	}
}

func TestFilterByStateAndValue(t *testing.T) {
	if f := (Filter{}); !f.HasState(tokencache.StateDue) || !f.HasValues(nil) {
		t.Error("a filter without conditions leaves something out")
	}
	f := Filter{States: []string{"none", "due"}}
	for state, want := range map[tokencache.TokenState]bool{tokencache.StateNone: true, tokencache.StateDue: true, tokencache.StateFresh: false} {
		if f.HasState(state) != want {
			t.Errorf("%s: %t", state, !want)
		}
	}
	for asked, want := range map[string]bool{"acme": true, "ACME": true, "eu": true, "acme eu": true, "acme us": false, "acmeeu": false} {
		if (Filter{Values: strings.Fields(asked)}).HasValues([]string{"", "Acme-1", "EU"}) != want {
			t.Errorf("%s: %t", asked, !want)
		}
	}
	if (Filter{Values: []string{""}}).HasValues([]string{""}) {
		t.Error("a token without values was found")
	}
}
