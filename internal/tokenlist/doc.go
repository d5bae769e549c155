// Package tokenlist is what the Admin API tells about tokens.
//
//   - tokenlist.go: the answer. Nothing in it is secret.
//   - filter.go: which tokens are asked for.
//
// The root package has the gateway's side. The package has no locks.
package tokenlist
