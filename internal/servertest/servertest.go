// Package servertest has the parts of an authorization server that tests need without a gateway: answers without a
// network, metadata, keys, assertions that are opened again, and certificates with servers on loopback that show
// them.
//
// It imports no package of ours, so that each of them can be tested with it from within.
package servertest

import (
	"os"
	"testing"
)

// WriteFile replaces a file in one step, as secret mounts do, so that nobody reads half of it.
func WriteFile(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(name+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}
