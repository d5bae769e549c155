// Package check checks the grants of a configuration for "caddy oauth-cc check". It asks for a token of each grant,
// without the cache and the shared storage, and reports the results.
//
//   - check.go: a Checker asks for the tokens of its Targets, a few clients at a time.
//   - result.go: a Result describes the outcome for one Target. It contains no secret.
//   - report.go: prints results, for programs or for people.
//
// The root package has the command itself: its flags, and how a configuration becomes targets.
//
// Clients are checked at the same time, but the grants of one client one after the other. When a
// client is refused, its other grants are not checked: an endpoint may lock a client out after a few
// failures. The package has no locks: each result is written by the goroutine of its client.
package check
