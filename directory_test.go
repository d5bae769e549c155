package oauthcc

import (
	"slices"
	"testing"
	"time"
)

// A configuration that is set up, and may never run, is none of an operator's business.
func TestOnlyHandlersThatRunAreShown(t *testing.T) {
	h := provisionedConfig(t, configWithClient("client_id "+t.Name(), "client_secret x"))
	isShown := func() (listed, held bool) {
		listed = slices.ContainsFunc(namedGrants(), func(n namedGrant) bool { return n.h == h })
		_, held = holdings(time.Now())[h.reporter.labels]
		return listed, held
	}
	if listed, held := isShown(); !listed || !held {
		t.Errorf("runs, and is listed: %t, held: %t", listed, held)
	}
	h.running.Store(false)
	if listed, held := isShown(); listed || held {
		t.Errorf("does not run, and is listed: %t, held: %t", listed, held)
	}
	if !slices.Contains(handlers.all(), h) {
		t.Error("is not in the directory")
	}
}

func TestHandlersWithTheSameGrantAreShownOnce(t *testing.T) {
	config := configWithClient("client_id "+t.Name(), "client_secret x")
	first := provisionedConfig(t, config)
	second := provisionedConfig(t, config)
	var shown []*Handler
	for _, n := range namedGrants() {
		if n.grant == first.tokens.source.grant {
			shown = append(shown, n.h)
		}
	}
	if len(shown) != 1 || shown[0] != second {
		t.Errorf("shown %d times, or not of the one that takes over", len(shown))
	}
}
