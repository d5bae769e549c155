package oauthcc

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// A file is read as Caddy's own commands read it.
func TestEnvFileIsReadAsCaddyReadsIt(t *testing.T) {
	const text = `# a comment
OAUTH_CC_T_PLAIN=plain
export OAUTH_CC_T_EXPORTED=exported
OAUTH_CC_T_COMMENT=value # and a comment
OAUTH_CC_T_EMPTY=
OAUTH_CC_T_EQUALS=a=b=
OAUTH_CC_T_QUOTED="in quotes"
OAUTH_CC_T_SINGLE='single $quotes'
OAUTH_CC_T_LINES="first
second \"quoted\" word
third"
OAUTH_CC_T_TWICE=first
OAUTH_CC_T_TWICE=last
OAUTH_CC_T_SET=not used
`
	names := []string{"PLAIN", "EXPORTED", "COMMENT", "EMPTY", "EQUALS", "QUOTED", "SINGLE", "LINES", "TWICE", "SET"}
	file := filepath.Join(t.TempDir(), "env")
	servertest.WriteFile(t, file, text)
	read := func(load func() error) (values []string) {
		for _, name := range names {
			name = "OAUTH_CC_T_" + name
			t.Setenv(name, "before") // restored in the end
			if name != "OAUTH_CC_T_SET" {
				_ = os.Unsetenv(name)
			}
		}
		if err := load(); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			value, ok := os.LookupEnv("OAUTH_CC_T_" + name)
			values = append(values, fmt.Sprintf("%s %v %q", name, ok, value))
		}
		return values
	}
	caddys := read(func() error {
		cmd := &cobra.Command{Use: "validate", SilenceUsage: true}
		caddycmd.Commands()["validate"].CobraFunc(cmd)
		cmd.SetArgs([]string{"--envfile", file, "--config", filepath.Join(t.TempDir(), "nowhere")})
		if err := cmd.ExecuteContext(context.Background()); err == nil || !strings.Contains(err.Error(), "nowhere") {
			return fmt.Errorf("caddy validate says %w", err)
		}
		return nil
	})
	ours := read(func() error { return loadEnvFiles([]string{file}) })
	if !slices.Equal(ours, caddys) {
		t.Errorf("got  %q\nwant %q", ours, caddys)
	}
	if len(ours) == 0 || ours[0] != `PLAIN true "plain"` {
		t.Errorf("got %q", ours)
	}
	for _, bad := range []string{"no equals", "=x", "A B=c", "A= b", "A=\tb"} {
		servertest.WriteFile(t, file, "X=y\n"+bad)
		if err := loadEnvFiles([]string{file}); err == nil || !strings.Contains(err.Error(), "line 2 ") {
			t.Errorf("%q: got %v", bad, err)
		}
	}
	if err := loadEnvFiles([]string{file + ".none"}); err == nil {
		t.Error("a file that is not there is no error")
	}
}
