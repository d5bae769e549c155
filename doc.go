// Package oauthcc makes a Caddy gateway an OAuth 2.0 client-credentials client: it gets access tokens from a token
// endpoint (RFC 6749 §4.4), caches them, adds them to the requests that are proxied, and renews them. Clients of the
// gateway need no credential.
//
// This package is the Caddy module. The packages below it do the work:
//
//   - internal/endpoint makes one token request, up to a vetted token or a typed error.
//   - internal/tokencache is the life of one grant's tokens: when they are fetched, and how often.
//   - internal/fleet shares tokens with other gateways through a storage.
//   - internal/replay sends a request again.
//   - internal/check is what the command "caddy oauth-cc check" asks and prints.
//   - internal/tokenlist is what the Admin API tells about tokens, and what "caddy oauth-cc tokens" makes of it.
//   - internal/table draws the tables of both commands.
//   - internal/help has the addresses of what the documentation says about a failure.
//   - internal/challenge, internal/dpop and internal/mask parse WWW-Authenticate, make DPoP proofs, and
//     take credentials out of a peer's words.
//
// # A request's way
//
//  1. [Handler.ServeHTTP] (handler.go) finds the grant of the request: the configuration's, or that of
//     the tenant that the request's placeholders name (sourceFor in tokencache.go, tenants.go).
//  2. tokenFor (handler.go) takes the current token from the grant. A request waits only if there is none or
//     a due one: for the fetch in progress, or for one that it starts.
//  3. exchange.serve (exchange.go) attaches the token (attach.go) and passes the request on.
//  4. The response writer of package replay calls exchange.Verdict before anything of the answer reaches
//     the client. It reads the answer (answer.go, grpc.go), and exchange.judge decides by the table in
//     docs/tokens.md, "When the upstream rejects a token": the cases about the request are there, those about
//     the token in tokencache/rejection.go.
//  5. If another token may help, exchange.renewAndReplay gets one, and the request is sent again. If that
//     fails, the client gets the failure. In all other cases the answer passes.
//
// # A token's way
//
//  1. tokencache.Grant.Get (or RenewAhead, RenewRejected, the Keeper) starts a fetch, the one in progress.
//  2. grantSource.Fetch (tokencache.go) resolves the placeholders of the configuration (tokenrequest.go),
//     looks whether another gateway has got a token (package fleet), else asks the token endpoint
//     (package endpoint).
//  3. The grant keeps the token. reporter.report (reporter.go) tells the log, the metrics and the events.
//     Then the requests that wait get the token.
//
// # A reload
//
//   - The new configuration joins the same grant if its GrantKey is equal. The token, pauses and a fetch in
//     progress stay (grants in tokencache.go). The DPoP key and the metrics are pooled in the same way.
//   - Requests in flight keep their Handler and can still fetch. The fetch of a grant that no configuration
//     uses is cancelled when nobody waits for it (tokencache.Grant.Destruct).
//   - Handler.Cleanup stops the keeper and the sweep of the storage. Events that wait go to the running
//     configuration with the same grant. Without one they are lost (events.go).
//
// # A rotated secret
//
// Placeholders are resolved for each fetch, and with a storage again right before the endpoint is asked. If
// that refuses the client, endpoint.Client.Fetch resolves them once more. During a pause,
// tokenRequest.changedSince looks for a change, and a change ends the pause.
//
// The files of the signing key and the client certificate are read at the same times. A certificate that was replaced
// gets the endpoint's transport new connections (clientcertificate.go). The current token stays in use.
//
// # What logs, events, spans and the Admin API show
//
//   - Of a fetch: the endpoint without its query, and the client_id, both resolved. They are shown even if
//     tokenRequest.hides hides the placeholders that they come from. The parts that clients choose are cut (names.go).
//   - Of the other parts of a token request, in the log and the Admin API: those that tokenRequest.public returns.
//   - Of a token: its name, tokencache.Fingerprint.
//   - Of a failure: endpoint.Error. Said is the peer's text, masked by mask.Secrets.Quote. Detail is our own text. It
//     can quote a value of resource.
//   - Of a storage's error: its text, on one line and not masked (fleet/health.go).
//   - Of a tenant, in the Admin API: the values that tokenRequest.hides doesn't hide.
//
// # Words
//
//   - grant: what a token is for: endpoint, client, credential, scopes and the rest of the token request.
//     Its GrantKey identifies it. Handlers with the same grant share its token.
//   - source: the way to the tokens of a grant with one configuration (grantSource).
//   - flight: the one fetch of a grant in progress.
//   - turn: in a fleet, a gateway's turn to ask the endpoint.
//   - slot: one of the 64 fetches that a handler's tenants can have in progress.
//   - tape: the recorded body of a request.
//   - exchange: a request on its way upstream, with all its attempts.
//   - tenant: one combination of values of the request's placeholders.
//
// # Locks
//
// No lock is held over I/O, a request, or a function that a user of the package passes in. Three pairs are nested,
// always in this order:
//
//	counting (metrics.go)      then  grantMetrics.mu (metrics.go)
//	Grant.mu (tokencache)      then  Table.mu (tokencache)
//	tape.mu (replay)           then  Budget.mu (replay), the memory of all recorded bodies
//
// Whoever holds Budget.mu tries the tape.mu of other tapes, but does not wait for one.
//
// Each of the others is taken alone:
//
//	directory.mu (directory.go)                  the list of handlers in this process
//	certificates.mu (certificates.go)            the certificates that a handler uses
//	clientCertificate.mu (clientcertificate.go)  the next look at its files
//	certificateWarnings.mu (certificates.go)     when warnings of certificates were logged
//	Discovery.mu (endpoint)                      which fetch reads an issuer's metadata
//	nonces.mu (dpop)                             the nonces of one side, by origin
//	health.mu (fleet)                            what failed in a storage
//	sweeper.mu (fleet)                           when a storage is swept
//	answers.mu (replay)                          what the upstreams of an attempt have answered
//	attempt.mu (replay)                          what ends with an attempt
//	shownVariables.mu (replay)                   the variables that are copied for placeholders
//
// counting makes sure that no metrics are made while the last ones with the same labels are being removed. It
// is held while its pool makes or destructs metrics. Both locks are held while Prometheus adds or deletes
// series, which can wait for a scrape to collect them. Requests are counted without a lock.
//
// tokenRequest.resolving and tokenAccess.slots are channels. A wait for one ends with its context.
package oauthcc
