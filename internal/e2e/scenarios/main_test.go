// Package scenarios has what happens to a gateway in a bad week, for real: a running Caddy, real
// servers, real time. Each scenario logs a line of figures, and these are what it is judged by.
package scenarios

import (
	"os"
	"testing"

	"github.com/caddyserver/caddy/v2"

	_ "github.com/caddy-oauth-cc/caddy-oauth-cc"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func TestMain(m *testing.M) {
	caddy.RegisterModule(new(flakyStorage))
	if config := os.Getenv(gatewayConfig); config != "" {
		os.Exit(runGateway(config))
	}
	gatewaytest.MainWaiting(m)
}
