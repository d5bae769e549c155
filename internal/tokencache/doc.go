// Package tokencache manages the life of access tokens, from the authorization server to the
// requests that carry them. Requests that wait share one fetch. Tokens are renewed before they
// expire and after a rejection, and failures are followed by pauses. The package knows neither HTTP
// nor a configuration: it asks a [Source], which comes with each call.
//
// # A token's way
//
//   - token.go, refreshahead.go, tokenstate.go: what a token is, and when it is fresh, stale, due or expired;
//   - source.go, outcome.go: what a source is asked for, what it answers, and what callers get;
//   - grant.go: a request takes [Grant.Current] if that is fresh. If it is stale, the request takes
//     it as well and calls [Grant.RenewAhead]. Otherwise it calls [Grant.Get], or
//     [Grant.RenewRejected] after a rejection;
//   - flight.go: each of these joins the fetch in progress, or starts one (joinLocked, startLocked).
//     The fetch runs in its own goroutine (fly, [Source].Fetch) and ends with a token in the cache
//     or with a pause (land). Callers wait for it (wait), or let it go on in the background;
//   - pauses.go, backoff.go: how long the endpoint is left alone after a failure, and what ends
//     a pause early;
//   - rejection.go: what replaces a rejected token, if anything does;
//   - fallback.go: the token before the newest one, while the upstream does not take that yet;
//   - evidence.go: whether the token is at fault or the rejected request;
//   - forced.go: how far apart renewals of rejected tokens are;
//   - news.go: what was already reported to operators;
//   - operator.go: what operators see of a grant and can do with it;
//   - table.go: per-request grants, as many as fit;
//   - keeper.go: keeps a token renewed without requests.
//
// # When a fetch fails
//
//   - A token that lives is served. Only renewals wait for the end of the pause. Who has a due token waits
//     for the first fetch only, and no longer than a second (duePatience) or than its first try.
//   - Without one, requests wait for the first fetch of an outage to its end, at most [Source].Limit.
//   - In the pause after it they get *[UnavailableError], once [Source].ChangedSince and HasNewer have
//     answered.
//   - When a later fetch runs, they wait until one second after its start (outagePatience). The
//     fetch then goes on in the background.
//   - Pauses double: 1 s to 10 s; 15 s to 5 min if the client was refused; 5 s to 1 min while a
//     token lives (backoff.go). They are at least as long as Retry-After.
//   - A pause ends early if the credential has changed or another gateway has a token
//     (endPauseOnChange).
//
// # Words
//
//   - Grant: what a token is for: endpoint, client, credential, scopes and the rest of the token
//     request. Its GrantKey identifies it. The type [Grant] keeps its current token.
//   - Source: gets tokens for a grant, with one configuration.
//   - Fetch: one call of [Source].Fetch, with all its tries. Flight: the fetch of a grant that is in
//     progress, and its callers.
//   - Generation: the number of a token in its grant. A token with the same value as the one before
//     has the same generation. Generations never decrease.
//   - Timely: served without waiting, as it is fresh or stale. Stale: renewed in the background. Due: about to
//     expire, so requests wait for the next token. Live: not expired; or its lifetime is only a guess, and it
//     was not rejected. Live tokens are served if no other is to be had.
//   - Newest token: the last that was stored. Fallback: the one before it, while that is used again.
//   - Pause: the time for which the endpoint is left alone after a failed fetch. It differs for
//     requests without a token, for requests with a rejected token, and for renewals ahead.
//   - Forced renewal: the renewal of a token that has not expired, because the upstream rejected it
//     or an operator wants another.
//   - Uncured: the forced renewal's token was rejected as well.
//   - Subject: what a rejected request was for, in a number. Refused subject: one that was rejected with a
//     token and with its replacement.
//   - Adopted: another gateway got the token, and this one found it in their shared storage.
//   - Keeper: gets a token before the first request, and renews it while there are no requests.
//   - Table: the per-request grants of one configuration, such as one for each tenant. Entry: one of
//     them.
//
// # Locks
//
// Each grant has a lock, Grant.mu, and each table has one, Table.mu. Whoever needs both takes the
// grant's first: a fetch that starts keeps its entry in the table. Methods whose name ends with
// Locked are called with the lock of their receiver held. No lock is held while a source or another
// function of a caller is called, nor while waiting.
//
// Requests read what they need without a lock: the token, which is immutable, the count of uses,
// whether a renewal ahead is allowed (aheadGate), and whether an acceptance is news (evidence). Before
// something is done, it is checked again under the lock.
package tokencache
