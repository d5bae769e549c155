package gatewaytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/check"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// CheckCommand runs the command in this process, and returns what it prints.
func CheckCommand(t testing.TB, args ...string) (string, error) {
	t.Helper()
	cmd := &cobra.Command{Use: "oauth-cc", SilenceUsage: true}
	caddycmd.Commands()["oauth-cc"].CobraFunc(cmd)
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs(append([]string{"check"}, args...))
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// CheckJSON returns what the command prints for programs.
func CheckJSON(t testing.TB, args ...string) ([]check.Result, error) {
	t.Helper()
	out, err := CheckCommand(t, append(args, "--json")...)
	var results []check.Result
	if out != "" {
		decoder := json.NewDecoder(strings.NewReader(out))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&results); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
	}
	return results, err
}

// CaddyfileWith writes a Caddyfile whose first site has these directives. Its port is taken,
// so that it could not be started.
func CaddyfileWith(t testing.TB, site string, more ...string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	name := filepath.Join(t.TempDir(), "Caddyfile")
	servertest.WriteFile(t, name, fmt.Sprintf("{\nauto_https off\n}\nhttp://%s {\nbind 127.0.0.1\n%s\n}\n%s\n", listener.Addr(), site, strings.Join(more, "\n")))
	return name
}

// Process is Caddy as another process, with an empty folder for all that it keeps.
type Process struct {
	*exec.Cmd
	Home           string
	Output, Errors bytes.Buffer
}

// CaddyProcess has Caddy run with these arguments when the test says so.
func CaddyProcess(t testing.TB, args ...string) *Process {
	t.Helper()
	p := &Process{Cmd: exec.CommandContext(t.Context(), os.Args[0], args...), Home: t.TempDir()}
	p.Env = append(os.Environ(), CommandLine+"=1", "HOME="+p.Home, "XDG_DATA_HOME="+p.Home, "XDG_CONFIG_HOME="+p.Home)
	p.Dir = p.Home
	p.Stdout, p.Stderr = &p.Output, &p.Errors
	return p
}

// RunTo runs the process and wants it to end with that status.
func (p *Process) RunTo(t testing.TB, status int) {
	t.Helper()
	_ = p.Run()
	p.WantStatus(t, status)
}

// WantStatus is for a process that has ended.
func (p *Process) WantStatus(t testing.TB, status int) {
	t.Helper()
	if got := p.ProcessState.ExitCode(); got != status {
		t.Fatalf("exit status %d, want %d:\n%s%s", got, status, p.Output.String(), p.Errors.String())
	}
}
