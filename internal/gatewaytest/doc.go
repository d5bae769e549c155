// Package gatewaytest has a running Caddy with stand-ins for its token endpoint and its API, for
// the tests of all packages.
//
//   - gateway.go, adapt.go, main.go: a Caddy in this process, of which there is one at a time
//   - command.go, apart.go: Caddy, or a whole test, as another process
//   - tokenserver.go, api.go, scripted.go, dpop.go, tenants.go, peer.go: what stands in for servers
//   - admin.go, metrics.go, events.go, spans.go, logs.go, help.go, storage.go: what operators see
//   - probe.go: requests that must not get lost when the configuration changes
//   - canaries.go: secrets, and servers that repeat them
//   - scenario.go: how long a scenario takes
//   - caddyversion.go: what only a later Caddy does
//
// It does not import the module: whoever uses it does, so that the tests inside the module's own
// package can use it as well.
package gatewaytest
