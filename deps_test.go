package oauthcc

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
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

// With the lowest Caddy and with the newest, which test/go.mod requires.
func TestModuleAddsNothingToAStockCaddyBuild(t *testing.T) {
	goVersion := strings.TrimSpace(runGoCommand(t, ".", "list", "-m", "-f", "{{.GoVersion}}"))
	repository, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for name, module := range map[string]string{"the lowest Caddy": ".", "the newest Caddy": "test"} {
		t.Run(name, func(t *testing.T) {
			caddyVersion := strings.TrimSpace(runGoCommand(t, module, "list", "-m", "-f", "{{.Version}}", caddyPath))
			write := func(main, more string) (dir string) {
				dir = t.TempDir()
				servertest.WriteFile(t, filepath.Join(dir, "main.go"), main)
				servertest.WriteFile(t, filepath.Join(dir, "go.mod"), "module build\n\ngo "+goVersion+"\n\nrequire "+caddyPath+" "+caddyVersion+"\n"+more)
				sums, err := os.ReadFile(filepath.Join(module, "go.sum"))
				if err != nil {
					t.Fatal(err)
				}
				servertest.WriteFile(t, filepath.Join(dir, "go.sum"), string(sums)) // saves a look at the network
				runGoCommand(t, dir, "mod", "tidy")
				return dir
			}
			stock := write(stockMain, "")
			with := write(strings.Replace(stockMain, "import (\n", "import (\n\t_ \""+oursPath+"\"\n", 1),
				"require "+oursPath+" v0.0.0\n\nreplace "+oursPath+" => "+strconv.Quote(filepath.ToSlash(repository))+"\n")
			ours := builtModules(t, with)
			if ours[oursPath] == "" {
				t.Fatal("the build does not have the module")
			}
			delete(ours, oursPath)
			if ours[caddyPath] != caddyVersion {
				t.Errorf("the build with the module has Caddy %s and not %s", ours[caddyPath], caddyVersion)
			}
			compareModules(t, ours, builtModules(t, stock))
			if module == "." { // what go.mod requires, used or not
				compareModules(t, requiredModules(t, module), requiredModules(t, stock))
			}
		})
	}
}

// compareModules wants the same modules in the same versions.
func compareModules(t *testing.T, ours, theirs map[string]string) {
	t.Helper()
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

// builtModules lists the versions of the modules whose packages are in the program in dir, by their paths.
func builtModules(t *testing.T, dir string) map[string]string {
	t.Helper()
	return moduleVersions(t, runGoCommand(t, dir, "list", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Version}}{{end}}", "."))
}

// requiredModules lists the versions of all modules that the one in dir requires, by their paths.
func requiredModules(t *testing.T, dir string) map[string]string {
	t.Helper()
	return moduleVersions(t, runGoCommand(t, dir, "list", "-m", "all"))
}

// moduleVersions reads a list of paths and versions.
func moduleVersions(t *testing.T, lines string) map[string]string {
	t.Helper()
	list := make(map[string]string)
	for line := range strings.Lines(lines) {
		path, version, _ := strings.Cut(strings.TrimSpace(line), " ")
		if version != "" { // but for the standard library and the program itself
			list[path] = version
		}
	}
	if list[caddyPath] == "" {
		t.Fatal("Caddy is not among the modules")
	}
	return list
}

// runGoCommand changes nothing in the module that is tested.
func runGoCommand(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	mode := "-mod=mod"
	if !filepath.IsAbs(dir) {
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
