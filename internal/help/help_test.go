package help

import "testing"

func TestAnchorIsGitHubs(t *testing.T) {
	for heading, want := range map[string]string{
		"`invalid_client`":           "invalid_client",
		"504, with `Retry-After`":    "504-with-retry-after",
		"`can't be used; <header>`":  "cant-be-used-header",
		"`a {…} is empty`":           "a--is-empty",
		"`header_up -<header> twice": "header_up--header-twice",
	} {
		if got := anchor(heading); got != want {
			t.Errorf("%s: got %s, want %s", heading, got, want)
		}
	}
}

func TestHintEndsWithTheAddress(t *testing.T) {
	const see = "see https://github.com/caddy-oauth-cc/caddy-oauth-cc/blob/main/docs/troubleshooting.md#invalid_client"
	for hint, want := range map[string]string{"": see, "try this": "try this; " + see} {
		if got := Hint(hint, "invalid_client"); got != want {
			t.Errorf("%q: got %s, want %s", hint, got, want)
		}
	}
}
