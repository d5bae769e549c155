// Package dpop demonstrates possession of a private key (RFC 9449). Tokens are bound to the key, so a
// stolen token is useless.
//
//   - key.go: a Key makes proofs, each for one request.
//   - transport.go: Transport adds a proof to a token request. That binds the token to the key.
//   - prover.go: a Prover adds a proof to each request with such a token. The proof is about the
//     request as the upstream sees it. origin.go finds the upstream's name for itself.
//   - nonce.go: a server can ask for its own nonce in the proof, which shows that the proof is new.
//     The last nonce of each server is kept.
//
// # Locks
//
// A Key has one lock for the nonces of authorization servers, and one for those of upstreams. Each
// guards a map from origins to nonces. It is held to look one up, and never while a proof is made or
// a request is sent. The nonces themselves are atomic.
package dpop
