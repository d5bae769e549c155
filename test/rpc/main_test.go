//go:build !race

// Package rpc makes gRPC calls through a gateway, with gRPC's own client and server.
//
// The race detector can't be used here. A server that refuses a call, or answers it, does not wait for the end of the
// request, and resets the stream. When that happens while reverse_proxy's transport reads the body, Caddy's wrapper
// around the body (bodyNopCloserIfNotRead) is read and written without a lock, with or without the module.
package rpc

import (
	"testing"

	_ "github.com/caddy-oauth-cc/caddy-oauth-cc"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func TestMain(m *testing.M) { gatewaytest.Main(m) }
