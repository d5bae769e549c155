package mask

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// FuzzSecrets has random secrets repeated in random ways, whole or in part. Words of messages stay readable, also if a
// secret has them in it.
func FuzzSecrets(f *testing.F) {
	ways := slices.Sorted(maps.Keys(servertest.Echoes))
	harmless := sentence(strings.Join(slices.Concat([]string{masked, masked}, commonWords, wordsOfMessages), " "))
	for i, kind := range slices.Sorted(maps.Keys(servertest.AwkwardSecrets)) {
		f.Add(servertest.AwkwardSecrets[kind], uint8(i), uint8(i%5), uint8(i%2))
	}
	f.Fuzz(func(t *testing.T, secret string, first, second, cut uint8) {
		if n := utf8.RuneCountInString(strings.TrimSpace(secret)); n < 2*leastRun || n > 200 {
			return
		}
		part := []rune(secret)
		if cut > 0 {
			names := slices.Sorted(maps.Keys(servertest.Cuts))
			part = servertest.Cuts[names[int(cut)%len(names)]](part)
		}
		repeated := servertest.Echoes[ways[int(first)%len(ways)]](string(part))
		if outer := []string{"as JSON", "in a form", "in HTML", "in base64"}; int(second) < len(outer) {
			repeated = servertest.Echoes[outer[second]](repeated)
		}
		text := sentence(repeated)
		shown := Secrets{Certain: []string{secret}}.Quote(text)
		if run := servertest.LeakedRun(shown, secret, harmless); run != "" {
			t.Errorf("%q and %q of %q: %q shows %q", ways[int(first)%len(ways)], second, secret, shown, run)
		}
		if again := (Secrets{Certain: []string{secret}}).Quote(text); again != shown {
			t.Errorf("%q, and then %q", shown, again)
		}
		_ = Secrets{Possible: []string{secret}, Public: []string{repeated}}.Quote(text)
	})
}
