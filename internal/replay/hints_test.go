package replay

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestHintsAreNotRepeated(t *testing.T) {
	hint := func(g *guard, links ...string) {
		for _, link := range links {
			g.Header().Set("Link", link)
			g.Header().Set("Date", fmt.Sprint("of ", link, g.hints.again)) // each attempt has its own
			g.WriteHeader(http.StatusEarlyHints)
		}
		clear(g.Header())
	}
	for name, test := range map[string]struct{ first, second, want string }{
		"the same":                  {"a b", "a b", "103 103 401> 200"},
		"others":                    {"a b", "b c a", "103 103 401> 103 200"},
		"many of the first attempt": {"a b c d e f g", "h", "103 103 103 103 103 103 103 401> 200"},
		"many of the second":        {"a", "b c d e f g", "103 401> 103 103 103 103 200"},
		"repeated by the upstream":  {"a a", "a", "103 103 401> 200"},
	} {
		t.Run(name, func(t *testing.T) {
			g, log, _, _ := newTestGuard(t.Context(), 401)
			hint(g, strings.Fields(test.first)...)
			g.WriteHeader(401)
			log.note("401>")
			g.reset()
			clear(g.Header()) // as restore does
			hint(g, strings.Fields(test.second)...)
			g.WriteHeader(200)
			log.want(t, test.want)
		})
	}
}

func TestWhatIsForTheGatewayDoesNotGetThrough(t *testing.T) {
	g, log, _, _ := newTestGuard(t.Context(), 401)
	g.kept = []string{"Dpop-Nonce"}
	g.Header().Set("DPoP-Nonce", "n1")
	g.WriteHeader(http.StatusEarlyHints)
	if len(g.Header()) != 0 {
		t.Errorf("a hint has %v", g.Header())
	}
	g.Header()["Trailer"] = []string{"X-One, dpop-nonce", "DPoP-Nonce", "X-Two"}
	g.WriteHeader(200)
	if got := g.Header()["Trailer"]; len(got) != 1 || got[0] != "X-One, X-Two" {
		t.Errorf("announced %q", got)
	}
	g.Header().Set("X-One", "1")
	g.Header().Set("DPoP-Nonce", "n2")
	g.Header()[http.TrailerPrefix+"Dpop-Nonce"] = []string{"n3"}
	g.removeKeptTrailers()
	if got := fmt.Sprint(g.Header()); got != "map[Trailer:[X-One, X-Two] X-Judged:[yes] X-One:[1]]" {
		t.Errorf("trailers %s", got)
	}
	log.want(t, "103 200")
}
