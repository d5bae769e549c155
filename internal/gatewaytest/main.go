package gatewaytest

import (
	flag "flag"
	"os"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"go.uber.org/goleak"
)

// CommandLine is the variable of the environment that makes the test program Caddy.
const CommandLine = "OAUTH_CC_TEST_COMMAND_LINE"

// MainWaiting is Main where most of what is parallel waits, so that it is not up to the number
// of processors how many tests are.
func MainWaiting(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	Main(m)
}

// Parallel is for tests that mostly wait. Under the race detector they are busy, and one after
// another.
func Parallel(t *testing.T) {
	if !HasRaceDetector {
		t.Parallel()
	}
}

// Main is what a package's TestMain does.
func Main(m *testing.M) {
	if os.Getenv(CommandLine) != "" {
		caddycmd.Main()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, CaddysLeaks()...)
}

// CaddysLeaks ignores the goroutines that Caddy leaves when it stops.
func CaddysLeaks() []goleak.Option {
	leaks := []goleak.Option{
		// Its cleaning of its storage, at most once a day, leaves one for 5 s, which holds a lock.
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"),
	}
	if !CaddySince(5) { // its cache of certificates goes on, and each reload with tracing starts a processor that is not used
		leaks = append(leaks,
			goleak.IgnoreTopFunction("github.com/caddyserver/certmagic.(*Cache).maintainAssets"),
			goleak.IgnoreTopFunction("go.opentelemetry.io/otel/sdk/trace.(*batchSpanProcessor).processQueue"))
	}
	return leaks
}
