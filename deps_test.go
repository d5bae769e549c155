package oauthcc

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// stockMain is the program that xcaddy builds when no plugin is asked for.
const stockMain = `package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() { caddycmd.Main() }
`

func TestModuleAddsNothingToAStockCaddyBuild(t *testing.T) {
	versions := strings.Fields(runGoCommand(t, ".", "list", "-m", "-f", "{{.GoVersion}} {{.Version}}", oursPath, caddyPath))
	if len(versions) != 3 {
		t.Fatalf("unexpected versions of Go and Caddy: %q", versions)
	}
	stock := t.TempDir()
	servertest.WriteFile(t, filepath.Join(stock, "main.go"), stockMain)
	servertest.WriteFile(t, filepath.Join(stock, "go.mod"), "module stock\n\ngo "+versions[0]+"\n\nrequire "+caddyPath+" "+versions[2]+"\n")
	sums, err := os.ReadFile("go.sum")
	if err != nil {
		t.Fatal(err)
	}
	servertest.WriteFile(t, filepath.Join(stock, "go.sum"), string(sums)) // saves a look at the network
	runGoCommand(t, stock, "mod", "tidy")

	ours, theirs := moduleVersions(t, "."), moduleVersions(t, stock)
	for _, path := range slices.Sorted(maps.Keys(ours)) {
		if theirs[path] == "" {
			t.Errorf("+ %s %s: not in a stock build", path, ours[path])
		} else if ours[path] != theirs[path] {
			t.Errorf("! %s %s: %s in a stock build", path, ours[path], theirs[path])
		}
	}
	for _, path := range slices.Sorted(maps.Keys(theirs)) {
		if ours[path] == "" {
			t.Errorf("- %s %s: only in a stock build", path, theirs[path])
		}
	}
}

const (
	oursPath  = "github.com/caddy-oauth-cc/caddy-oauth-cc"
	caddyPath = "github.com/caddyserver/caddy/v2"
)

// moduleVersions lists the versions of all modules that the one in dir is built with, by
// their paths.
func moduleVersions(t *testing.T, dir string) map[string]string {
	t.Helper()
	list := make(map[string]string)
	for line := range strings.Lines(runGoCommand(t, dir, "list", "-m", "all")) {
		path, version, _ := strings.Cut(strings.TrimSpace(line), " ")
		if version != "" { // but for the main module
			list[path] = version
		}
	}
	if list[caddyPath] == "" {
		t.Fatalf("%s is not built with Caddy", dir)
	}
	return list
}

// runGoCommand changes nothing in the module that is tested.
func runGoCommand(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	mode := "-mod=mod"
	if dir == "." {
		mode = "-mod=readonly"
	}
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS="+mode)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func TestHandlerIsRegistered(t *testing.T) {
	info, err := caddy.GetModule("http.handlers.oauth_cc")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := info.New().(*Handler); !ok {
		t.Errorf("the module makes a %T", info.New())
	}
}
