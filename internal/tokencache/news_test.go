package tokencache

import (
	"testing"
)

func TestNarrowedScopeIsToldOnce(t *testing.T) {
	g := newTestGrant(t)
	for i, step := range []struct {
		missing string
		news    bool
	}{
		{"", false}, {"write", true}, {"write", false}, {"write admin", true}, {"write admin", false},
		{"", false}, {"", false}, {"write", true},
	} {
		g.mu.Lock()
		got := g.told.isNarrowed(step.missing)
		g.mu.Unlock()
		if got != step.news {
			t.Errorf("step %d: %q is news: %v", i, step.missing, got)
		}
	}
}

func TestUnusualTypeIsToldOnce(t *testing.T) {
	g := newTestGrant(t)
	for i, step := range []struct {
		unusual string
		news    bool
	}{
		{"", false}, {"BearerToken", true}, {"BearerToken", false}, {"JWT", true}, {"JWT", false}, {"", false}, {"JWT", true},
	} {
		g.mu.Lock()
		got := g.told.isUnusual(step.unusual)
		g.mu.Unlock()
		if got != step.news {
			t.Errorf("step %d: %q is news: %v", i, step.unusual, got)
		}
	}
}

func TestReplacedRefreshTokenIsToldOnce(t *testing.T) {
	g := newTestGrant(t)
	for i, step := range []struct{ replaced, news bool }{{false, false}, {true, true}, {true, false}, {false, false}, {true, true}} {
		g.mu.Lock()
		got := g.told.isReplaced(step.replaced)
		g.mu.Unlock()
		if got != step.news {
			t.Errorf("step %d: %v is news: %v", i, step.replaced, got)
		}
	}
}
