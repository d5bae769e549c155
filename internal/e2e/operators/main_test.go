// Package operators looks at a running Caddy as its operators do.
package operators

import (
	"testing"

	_ "github.com/caddy-oauth-cc/caddy-oauth-cc"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func TestMain(m *testing.M) { gatewaytest.MainWaiting(m) }
