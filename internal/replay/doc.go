// Package replay drops a response and sends its request again, without the client noticing. It
// decides nothing: a [Judge] sees the status and the header of each response before anything of it
// has reached the client, and says whether to pass it on or to drop it.
//
// The way of a request through the package:
//
//   - attempts.go: [Attempts.Send] sends the request once. After a dropped response it puts everything
//     back that handlers have changed, and the caller sends the request again.
//   - attempt.go: the context of one attempt, which can be cut off.
//   - guard.go: the response writer for later handlers. It asks the judge, and discards the rest of
//     a dropped response.
//   - hints.go: informational responses, and what of a response is for the gateway alone.
//   - tape.go, cursor.go: the request's body is recorded while the first attempt reads it. Each
//     further attempt has its own cursor, which reads the tape, then the rest from the client.
//   - recording.go, memory.go: what a tape has recorded, in memory that is used again.
//   - budget.go: the memory that all bodies of a handler take together.
//   - trailer.go: each attempt gets the trailers of the request when it has read the body to its end.
//   - context.go: the context of a request, set in place.
//   - saved.go: the request and the response's header as they were before.
//   - answers.go: what the upstreams of an attempt have answered. A request that one may have carried out must not
//     be sent again.
//   - variables.go: each attempt's own variables.
//
// # When the response comes before the body was read
//
//  1. The judge asks for HoldBody: the attempt's reader waits, and begins no further read from the
//     client. HoldBody reports false if the body has outgrown its tape. Then the response passes.
//  2. If the response is dropped, RewindBody ends that reader with errAbandoned. The next attempt
//     reads the tape, then the rest from the client. If the reader is reading from the client just then, it
//     goes on until something comes, which the next attempt gets. Its own attempt is cut off and its handler aborted:
//     a transport can wait for its reader. With HTTP/2, the upstream has the stream until that ends.
//  3. If the response passes, StopRecording lets the same reader go on. Nothing more is recorded.
//  4. If the response is dropped and the caller answers instead, AbandonBody ends that reader as well. The
//     handler that answers can read the body if it is still complete.
//
// A response can also end before its request, or fail. The transport closes the body then. That ends a reader
// in any of these states, see cursor.Close.
//
// # What a transport still reads of an attempt that is over
//
// Its body, which ends with errAbandoned. And if it has seen the end of the body, the trailers of the request: Caddy's
// proxy reads them on the transport's goroutine, and with HTTP/2 nothing tells when. So from the first attempt on,
// nobody writes the request's field Trailer, and its map changes once, under the tape's lock, before the first
// reader sees the end. What is restored are other fields, and the context is set alone (context.go).
//
// # The variables of a request
//
// An HTTP transport goes on dialling after another connection has become free and the attempt is over.
// Caddy's then reads the variables in the attempt's context, without a lock. So each attempt has a map of
// its own, which nobody writes after it:
//
//  1. The first attempt has the map of the request. After a dropped response, the request's context is
//     replaced by one with a copy, in place. Placeholders, later handlers and the log find it there.
//  2. Placeholders look at the request that the server made. If a handler such as tracing or handle_errors
//     passes on a copy of that, the first attempt has a copy of the variables, too. What an attempt changes
//     is then copied to the map in which placeholders look, whenever a handler may be about to use them. No
//     dial of an attempt reads that one.
//
// A transport that itself replaces placeholders while it dials (tls_server_name) looks at the request that
// is being restored. That can't be kept from it.
//
// # Words
//
//   - attempt: the request is sent once. Each attempt but the last has its own context, which is cut off
//     if its dropped response takes too long.
//   - tape: the recorded body. It is recording, held or passing, see tapeState.
//   - abandoned: a cursor whose attempt is over. An HTTP transport may still read from it.
//
// # Locks
//
// tape.mu guards the tape and all of its cursors. shownVariables.mu guards the variables that are copied for
// placeholders. answers.mu guards what upstreams have answered; Caddy's lock of the placeholders is taken under it.
// attempt.mu guards what ends with an attempt; package context's locks are taken under it. None
// is held while the client's body is read, nor while a handler or the judge runs.
//
// All requests of a handler share a [Budget]. Its lock is taken under tape.mu, and under it those of other tapes, which
// may have to give way, but without waiting.
package replay
