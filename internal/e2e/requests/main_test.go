// Package requests sends requests through a running Caddy.
package requests

import (
	"testing"

	_ "github.com/caddy-oauth-cc/caddy-oauth-cc"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func TestMain(m *testing.M) { gatewaytest.MainWaiting(m) }
