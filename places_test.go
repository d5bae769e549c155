package oauthcc

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzPlaces fills JSON in strings of JSON with values, and reads them again.
func FuzzPlaces(f *testing.F) {
	for _, value := range []string{"a", `"`, `\`, `\"`, "\x00", "</script>", "\u2028", placeMark, `","b":"c`, "\U0001F600", "{env.HOME}"} {
		f.Add(value, uint8(0), "x")
		f.Add(value, uint8(3), `a "quoted" \ text, 1`)
	}
	f.Fuzz(func(t *testing.T, value string, depth uint8, around string) {
		depth %= 4
		if !utf8.ValidString(value) || !utf8.ValidString(around) || strings.Contains(around, placeMark) || looksLikeJSON(around) {
			return // not what an operator and a client can write
		}
		text := around + placeMark
		for range depth + 1 {
			text = marshal(t, map[string][]string{"to": {text, "other"}})
		}
		filled, err := fill(text, []placeholderUse{{option: "param details", name: "http.request.header.X"}}, func(placeholderUse) (string, error) { return value, nil })
		if err != nil {
			t.Fatal(err)
		}
		for range depth + 1 {
			var read map[string][]string
			if err := json.Unmarshal([]byte(filled), &read); err != nil || len(read) != 1 || len(read["to"]) != 2 || read["to"][1] != "other" {
				t.Fatalf("%q: %v in %q", value, err, filled)
			}
			filled = read["to"][0]
		}
		if filled != around+value {
			t.Errorf("got %q, want %q", filled, around+value)
		}
	})
}

func marshal(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
