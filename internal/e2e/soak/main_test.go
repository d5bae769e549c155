// Package soak runs a gateway under load, with faults around it at random and a reload every few seconds, for as long as
// -soak says. Each answer has to be right, or an error that a fault explains. At the end there is no more of anything
// than in the middle.
//
//   - soak_test.go: the run: sites, halves, reloads, what must hold at the end
//   - clients_test.go: the load, and how an answer is judged
//   - requests_test.go: what became of each request on its way
//   - faults_test.go: the faults, how they are drawn, and the log of them
//   - endpoint_test.go, api_test.go: the token endpoint and its books, and the APIs that look tokens up in them
//   - report_test.go: counts, and what the run has cost
//
// All that is kept is forgotten when it can't matter any more: what a test remembers would look like a leak.
package soak

import (
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	_ "github.com/caddy-oauth-cc/caddy-oauth-cc"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func TestMain(m *testing.M) {
	caddy.RegisterModule(new(sharedStorage))
	caddy.RegisterModule(arrival{})
	httpcaddyfile.RegisterHandlerDirective("soak_arrival", parseArrival)
	gatewaytest.Main(m)
}
