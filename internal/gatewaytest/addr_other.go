//go:build !unix

package gatewaytest

import (
	"net"
	"testing"
)

// reserveAddr is an address that nobody listened on a moment ago.
func reserveAddr(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
