package servers

import (
	"fmt"
	"os"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/goleak"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-oauth-cc/caddy-oauth-cc"
)

// The authorization servers, running while the tests do.
var (
	ca *certificateAuthority

	oidcProvider, fosite *authorizationServer
)

func TestMain(m *testing.M) {
	caddy.RegisterModule(new(testLogs))
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAILED:", err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "oauth-cc-servers")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)

	if ca, err = newCertificateAuthority(dir); err != nil {
		return 1, err
	}
	if err := prepareClients(dir); err != nil {
		return 1, err
	}
	if fosite, err = startFosite(dir); err != nil {
		return 1, fmt.Errorf("starting the server around fosite: %w", err)
	}
	defer fosite.stop()
	if oidcProvider, err = startOIDCProvider(dir); err != nil {
		return 1, fmt.Errorf("starting oidc-provider: %w", err)
	}
	defer oidcProvider.stop()

	code = m.Run()
	oidcProvider.stop()
	fosite.stop()
	if code == 0 {
		// Caddy's TLS app cleans its storage in the background, holding a lock.
		err = goleak.Find(goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"))
	}
	return code, err
}
