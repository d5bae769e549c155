// Package faults is a table of what can go wrong around a gateway: a token endpoint that is hostile, slow or broken,
// upstreams and clients that break off at any moment, a storage that is full, files that are gone, operators who
// reload and stop it. Each row says what goes wrong, and what must come of it for everyone (see want). Each group of
// rows is a file, and shares a running Caddy, in which each row has a site.
//
//   - row_test.go: rows, and how they are run
//   - columns_test.go: how the columns are read
//   - aftermath_test.go: what is left of a row: nothing
//   - server_test.go, peer_test.go, h2peer_test.go: token endpoints and upstreams that do what a row says, by
//     net/http, byte by byte, and frame by frame
//   - clients_test.go: clients, over HTTP/1.1, h2c, HTTP/2 and HTTP/3
//   - storage_module_test.go: a storage that fails as a row says
//
// Clocks are the endpoint's here. Those of a gateway that are set, machines that sleep and gateways whose clocks differ
// are tested in virtual time, in token_test.go and due_test.go of internal/tokencache and record_test.go of
// internal/fleet.
package faults

import (
	"testing"

	"github.com/caddyserver/caddy/v2"

	_ "github.com/caddy-oauth-cc/caddy-oauth-cc"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func TestMain(m *testing.M) {
	caddy.RegisterModule(new(faultyStorage))
	gatewaytest.MainWaiting(m)
}
