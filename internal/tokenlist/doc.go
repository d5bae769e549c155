// Package tokenlist has the list of tokens that the Admin API returns, and how "caddy oauth-cc tokens" asks for it
// and prints it.
//
//   - tokenlist.go: the answer. Nothing in it is secret.
//   - filter.go: which tokens are asked for.
//   - gateway.go: a running gateway, by its admin endpoint.
//   - operate.go: what the command does: list once or repeatedly, refresh, forget.
//   - report.go: a list as a table.
//
// The root package has the gateway's side, and the command's flags. The package has no locks.
package tokenlist
