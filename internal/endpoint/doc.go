// Package endpoint asks an OAuth 2.0 token endpoint for an access token by the client-credentials
// grant (RFC 6749 §4.4). It does one token request, from its options to a vetted token or to an error
// that says what to do.
//
// # The way of a request
//
// The files, in reading order:
//
//   - request.go: a Request says where, who, what for and how. requestcheck.go refuses requests that
//     could not work or would endanger the credential. identity.go says which requests may share a
//     token.
//   - client.go: Client.Fetch turns a Request into a token. It tries, waits and tries again. If the
//     client is refused, it reads the credential once more.
//   - discovery.go: if the request names an issuer, the endpoint is in the issuer's metadata, which
//     Discovery keeps. metadata.go reads it (RFC 8414).
//   - methods.go: how the client authenticates. method_*.go have a type for each method. assertion.go,
//     signingkey.go and keyfile.go are for methods that sign. otherways.go lists what else to try.
//   - transports.go: x/oauth2 writes the request; this file writes what x/oauth2 can't.
//   - vetting.go: passes only tokens that can be used. answer.go reads what a server may have meant, and
//     words.go what it says in a form of its own; secrets.go lists what to mask in that; granted.go describes
//     the token.
//   - error.go: an Error says what went wrong, with a code for clients and with words for operators.
//     network.go makes one from a network error. symptoms.go and hints*.go find out what may help.
//
// # Words
//
//   - A fetch is one call of Client.Fetch. It consists of tries. A try is one token request (an
//     attempt), or two if the endpoint wants another nonce in the proof.
//   - A grant is what a token is for: endpoint, client, credential, scopes and the rest of the token
//     request. Its GrantKey identifies it.
//   - An assertion is a JWT with which a client authenticates (RFC 7523).
//   - A proof is a JWT that binds a token to a key (RFC 9449).
//
// # Peers are not trusted
//
// A server may be broken, taken over, or not a token endpoint at all. At most MaxResponse of an answer
// is read, and no redirect is followed. In an Error, the server's words are only in Said, with
// credentials masked, as they are in Granted.
//
// # Locks
//
// There is one, in Discovery. It decides which fetch reads the metadata. It is held for a few
// assignments, and never while something is read or called. Everything else is a value, or belongs to
// one fetch. A KeyFile is for one goroutine at a time.
//
// # How to ask a token endpoint without Caddy
//
// The package knows nothing of Caddy. Take it along with the packages challenge, dpop and mask; besides
// the standard library they need golang.org/x/oauth2, x/net/http/httpguts and go-jose. A program needs a
// Client with any http.RoundTripper and a Request that passes Check. private_key_jwt needs AssertionOptions
// (Complete), a KeyFile and NewAssertion; DPoP a dpop.Key; an issuer a Discovery. Fetch gets one token and
// keeps none: when to ask again, and what to do without a token, is up to the program. The example shows a
// request with a secret.
package endpoint
