package gatewaytest

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// apartTest is the variable of the environment that names the test for which a process is there.
const apartTest = "OAUTH_CC_TEST_APART"

// Apart has a test run beside others in a process of its own, since there is one Caddy at a time
// in each. It reports whether this is that process; in the other one the test is over then. first
// is called there before the test runs.
func Apart(t *testing.T, first ...func(*testing.T)) bool {
	t.Helper()
	if os.Getenv(apartTest) == t.Name() {
		return true
	}
	Parallel(t)
	for _, f := range first {
		f(t)
	}
	var pattern []string
	for part := range strings.SplitSeq(t.Name(), "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(part)+"$")
	}
	p := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+strings.Join(pattern, "/"), "-test.v")
	if *Long {
		p.Args = append(p.Args, "-long")
	}
	p.Env = append(os.Environ(), apartTest+"="+t.Name())
	out, err := p.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("in a process of its own: %v\n%s", err, out)
	case !strings.Contains(string(out), "--- PASS: "+t.Name()+" "):
		t.Errorf("it was not run in a process of its own:\n%s", out)
	default:
		t.Logf("%s", out)
	}
	return false
}
