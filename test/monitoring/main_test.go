// Package monitoring tests what is in examples/monitoring, with a gateway and a Prometheus
// that scrapes it.
package monitoring

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-oauth-cc/caddy-oauth-cc"
)

// folder has the files that are tested.
const folder = "../../examples/monitoring/"

var update = flag.Bool("update", false, "draw "+picture+" anew")

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if code == 0 {
		// Caddy's TLS app cleans its storage in the background, holding a lock.
		if err := goleak.Find(goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh")); err != nil {
			fmt.Fprintln(os.Stderr, "FAILED:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// program finds a program of Prometheus.
func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("this test needs the Debian package prometheus (apt-get install --no-install-recommends prometheus): %v", err)
	}
	return path
}

// read reads a file, of which "go test" takes note, and runs the tests again when it has
// changed.
func read(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
