package oauthcc

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/check"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// Each member that the command prints is described in its help, and no other.
func TestHelpDescribesTheMembers(t *testing.T) {
	text, err := json.Marshal(check.Result{
		Endpoint: "x", Issuer: "x", ClientID: "x", Status: 1, TokenType: "x", Lifetime: 1, DefaultTTL: 1, Scope: "x", Missing: "x", ClockSkew: 1,
		Detail: "x", EndpointMessage: "x", Hint: "x", RetryAfter: 1, AcceptedMethod: "x", AcceptedFormat: "x", MissingValues: []string{"x"}, Notes: []string{"x"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil || len(members) != 21 {
		t.Fatalf("%d members: %v", len(members), err)
	}
	words := strings.FieldsFunc(checkHelp, func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz_", r) })
	for name := range members {
		if !slices.Contains(words, name) {
			t.Errorf("the help does not describe %s", name)
		}
	}
}

// What the check sets up it takes away again; prefetch and renewal don't begin.
func TestCheckLeavesNothingBehind(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	before := len(handlers.all())
	config := gatewaytest.CaddyfileWith(t, endpoint.Options("prefetch", "storage"))
	t.Chdir(filepath.Dir(config)) // where it is found without --config
	if out, err := gatewaytest.CheckCommand(t); err != nil || !strings.Contains(out, " ok ") {
		t.Errorf("got %v\n%s", err, out)
	}
	if n := len(handlers.all()); n != before {
		t.Errorf("%d handlers, %d before", n, before)
	}
	if n := endpoint.Count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}
