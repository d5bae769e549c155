package gatewaytest

import "testing"

// FreeAddr is an address on loopback that is nobody else's until the end of the test. Caddy can listen
// there, or nobody does.
func FreeAddr(t testing.TB) string {
	t.Helper()
	return FreeAddrs(t, 1)[0]
}

// FreeAddrs are so many different ones.
func FreeAddrs(t testing.TB, n int) (addrs []string) {
	t.Helper()
	for range n {
		addrs = append(addrs, reserveAddr(t))
	}
	return addrs
}
