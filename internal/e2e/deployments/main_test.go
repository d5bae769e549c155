// Package deployments runs the Caddyfiles of examples/deploy as processes, and asks them as a kubelet, an operator and
// a stranger would. What it reads there is the whole of an example, so that a test holds what a reader copies.
package deployments

import (
	"testing"

	_ "github.com/caddy-oauth-cc/caddy-oauth-cc"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// repository is where this package sees it.
const repository = "../../../"

const deploy = repository + "examples/deploy/"

func TestMain(m *testing.M) { gatewaytest.MainWaiting(m) }
