// Package providers runs the examples, those for providers against stand-ins for these.
package providers

import (
	"testing"

	_ "github.com/caddy-oauth-cc/caddy-oauth-cc"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func TestMain(m *testing.M) { gatewaytest.MainWaiting(m) }

// Where the examples are, from this folder.
const (
	repository = "../../.."
	examples   = repository + "/examples"
)
