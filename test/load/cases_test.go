package main

import (
	"io"
	"strings"
	"testing"
)

func TestPatternsChooseCases(t *testing.T) {
	for patterns, want := range map[string]string{
		"":                         "",
		"get-small-h1":             "get-small-h1",
		"post-1m-*":                "post-1m-h1 post-1m-h2c post-1m-chunked-h1 post-1m-chunked-h2c",
		"post-1k-h2c,get-small-h1": "get-small-h1 post-1k-h2c",
		"get-small-*,*-small-h1":   "get-small-h1 get-small-h2c",
		"*":                        "get-small-h1 get-small-h2c get-64k-h1 get-64k-h2c post-1k-h1 post-1k-h2c post-1m-h1 post-1m-h2c post-1m-chunked-h1 post-1m-chunked-h2c",
	} {
		chosen, err := choose("-cases", patterns, allCases(), testCase.name)
		var names []string
		for _, c := range chosen {
			names = append(names, c.name())
		}
		if got := strings.Join(names, " "); err != nil || got != want {
			t.Errorf("%q chooses %q, %v; want %q", patterns, got, err, want)
		}
	}
}

func TestWrongArgumentsAreRefused(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"-cases get-small", `-cases: nothing is called "get-small"; there are get-small-h1, get-small-h2c,`},
		{"-cases get-small-h1,", `-cases: nothing is called ""`},
		{"-cases [", `-cases: "[": syntax error in pattern`},
		{"-compare none", `there are static-nothing, oauth_cc-nothing, oauth_cc-static, static-static`},
		{"-storms rain", `-storms: nothing is called "rain"; there are calm-get,`},
		{"-slice 0s", "must be more than 0"},
		{"-starts 0", "must be more than 0"},
		{"-pairs x", "invalid value"},
		{"now", `unexpected argument "now"`},
	} {
		_, err := parseSettings(strings.Fields(test.args), io.Discard)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.args, err, test.want)
		}
	}
}
