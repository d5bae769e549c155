package mask

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// longSecret is as long as a private key or a large assertion.
var longSecret = base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k3Jq8ZpW1xVb-T6mN~", 450)))

// adverseTexts are as long as an answer can be, and have much in them that could be of a secret.
var adverseTexts = map[string]string{
	"beginnings of the secret": strings.Repeat(longSecret[:7]+" ", 1<<17),
	"the secret":               strings.Repeat(longSecret, 1<<20/len(longSecret)),
	"the secret, in words":     strings.Repeat(longSecret[:40]+" ", 1<<20/41),
	"letters":                  strings.Repeat("a", 1<<20),
	"escapes of escapes":       strings.Repeat("%25252541&amp;amp;amp;\\\\\\\\u005cu0041=3D=3D ", 1<<15),
	"base64 of base64":         strings.Repeat("V20xc2JWcFlTbXBpTWxKcw== 4a4b4c4d4e4f ", 1<<15),
	"nothing that counts":      strings.Repeat("?\u200b ", 1<<18),
	"beginnings of entities":   strings.Repeat("&&#&#x&#x1&a", 1<<16) + " ",
	"public words":             strings.Repeat("client_client_secret token ", 1<<16),
}

// Of an answer of any size, only the beginning is looked at, and each view of it is at most as long.
func TestWorkIsBounded(t *testing.T) {
	for name, text := range adverseTexts {
		var beginning string
		if end := strings.LastIndexAny(text[:maxQuoted], " \t\r\n"); end >= 0 {
			beginning = text[:end+1]
		}
		views := viewsOf(beginning)
		if len(views) > maxViews {
			t.Errorf("%s: %d views", name, len(views))
		}
		for _, v := range views {
			if len(v.text) > 2*len(beginning) || len(v.from) != len(v.text) || len(v.to) != len(v.text) {
				t.Errorf("%s: a view has %d bytes, of a text of %d", name, len(v.text), len(beginning))
			}
		}
		s := Secrets{Certain: []string{longSecret}}
		if got, short := s.Quote(text), s.Quote(beginning+"x"); got != s.Quote(beginning) && got != short {
			t.Errorf("%s: %.50q, and %.50q of the beginning", name, got, short)
		}
	}
}

// What is kept of a secret grows as the secret does, and no further than maxSecret.
func TestRunsOfASecretAreBounded(t *testing.T) {
	for _, secret := range []string{longSecret, strings.Repeat("ä+%C3%A4 ", 1<<10), strings.Repeat(longSecret, 200)} {
		n := len(Secrets{Certain: []string{secret}}.grams(viewsOf(secret)).kinds)
		if most := 20 * min(len(secret), maxSecret); n > most {
			t.Errorf("%d runs of %d bytes", n, len(secret))
		}
	}
	long := strings.Repeat("x", maxSecret) + "k3Jq8ZpW1xVb"
	if got := (Secrets{Certain: []string{long}}).Quote("xxxxxxxx"); got != masked {
		t.Errorf("got %q", got)
	}
}

// A secret can have more different characters than there are numbers for them.
func TestSecretOfManyCharacters(t *testing.T) {
	var secret strings.Builder
	for r := '一'; r < '一'+600; r++ {
		secret.WriteRune(r)
	}
	s := Secrets{Certain: []string{secret.String()}}
	for from := 0; from+8 <= 600; from += 50 {
		part := string([]rune(secret.String())[from : from+8])
		if got := s.Quote("no client " + part + " here"); got != "no client *** here" {
			t.Errorf("%q became %q", part, got)
		}
	}
}

func BenchmarkQuote(b *testing.B) {
	secrets := map[string]Secrets{
		"32 bytes": {Certain: []string{"k3Jq8ZpW1xVbT6mN-k3Jq8ZpW1xVbT6mN"}, Public: []string{"auth.example.com"}},
		"10 KiB":   {Certain: []string{longSecret}},
	}
	texts := maps.Clone(adverseTexts)
	texts["a message"] = "invalid_client: client app is unknown at auth.example.com"
	for _, size := range slices.Sorted(maps.Keys(secrets)) {
		for _, name := range slices.Sorted(maps.Keys(texts)) {
			for _, part := range []int{1 << 12, 1 << 20} {
				if part = min(part, len(texts[name])); part < 1<<12 && part != len(texts[name]) {
					continue
				}
				b.Run(fmt.Sprintf("%s/%s/%d", size, name, part), func(b *testing.B) {
					for b.Loop() {
						secrets[size].Quote(texts[name][:part])
					}
				})
			}
		}
	}
}
