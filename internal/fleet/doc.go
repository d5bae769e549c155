// Package fleet lets gateways share tokens through a storage that all of them use. One gateway
// asks the token endpoint and stores its token, and the others find it there. A gateway that
// restarts goes on with the token it had.
//
// # The way of a fetch
//
// The files are in the order in which a fetch goes through them:
//
//   - sharing.go: [Sharing.Fetch] is the protocol from end to end.
//   - turn.go: a fetch looks for the token, waits for its turn, asks, and passes the turn on.
//   - lock.go: the turn comes with a lock of the storage. As long as another gateway has the
//     lock, the fetch looks for that gateway's token.
//   - patience.go: how long the wait for the lock lasts.
//   - signs.go: a gateway that asks a slow endpoint shows the others that it is alive.
//   - lookout.go: what a fetch finds in the storage, and whether it takes it.
//   - record.go: where a token is stored, and how it is sealed.
//   - adopt.go: the age of a token that was dated by another machine's clock.
//   - storage.go, health.go: each operation of the storage ends in time, and loads nothing that is
//     too large for a record; a failure is logged once.
//   - sweep.go: records that nobody needs any more are deleted.
//
// # The protocol
//
//   - A fetch looks into the storage first. It takes the token there if that is usable and newer
//     than the gateway's own. So a token that the upstream rejected is not taken again, and a
//     token that another gateway got since then makes a token request unnecessary.
//   - Otherwise it asks the endpoint under a lock, and stores the token before it releases the
//     lock. Gateways that wait for the lock look for the token every few hundred milliseconds.
//   - The wait for the lock times out, as its holder may be dead. Then the gateways wait for
//     a second lock, so that again only one of them asks. When that wait times out as well, a
//     gateway asks without a lock.
//   - The gateway that asks gives signs of life. Each new sign extends the wait of the gateways
//     where a request waits: a slow endpoint would get slower if all asked it.
//   - Failures are not shared. The cause can be this gateway's own network, or a limit that the
//     endpoint has for this gateway. A fetch that failed looks for another gateway's token once
//     more.
//   - A storage that fails does not fail a fetch. Each gateway then asks the endpoint itself. A
//     storage that gave no answer in time is left alone for a while.
//   - While a token is fresh, the storage is not used.
//
// # What is stored
//
// The path of a record and the key that seals it (AES-256-GCM) are derived (HKDF, RFC 5869). They
// depend on the client's credential and on everything that makes a difference to the token: the
// token request, how the endpoint is trusted, the client certificate. Without a credential nothing
// is stored. Tokens that are bound to a key of one process (DPoP, RFC 9449) are useless to the
// others; callers don't share them.
//
// Someone who can read the storage but not the credential can see how many tokens there are, how
// long each is, when it was renewed and when it expires. Someone who can write to it can delete
// records, put back earlier ones and hold locks. That costs token requests, and makes gateways wait
// as long as patience.go says. Without the credential, nobody can make a token or a sign of life that
// a gateway accepts.
//
// # Clocks
//
//   - Waits go by the monotonic clock of the process.
//   - A record says when its token was asked for, by the clock of the machine that asked. Other
//     machines read it by their own clocks. adopt.go bounds the damage if the clocks differ.
//   - Which of two tokens is newer is decided by sequence numbers, not by a clock.
//
// # Words
//
//   - record: a token in the storage.
//   - sequence: a number in each record, one more than in the record before it.
//   - lock: of the storage. The gateway that has it asks for the token that follows a sequence
//     number. Each sequence number has a first lock and a second one.
//   - turn: what a fetch waits for before it asks the endpoint. It comes with a lock, or
//     without one if the storage gives none.
//   - sign of life: a value in the storage that the holder of a lock replaces while it asks.
//   - sweep: one pass over all records of a storage.
//
// # Mutexes
//
// health.mu guards what is known about a storage, sweeper.mu when a sweep is due. No goroutine
// holds both. Neither is held during an operation of the storage, while logging, or while waiting
// for a goroutine. Everything else that goroutines share is set once, in [New]. A turn belongs to
// the goroutine of its fetch. The goroutine that gives signs of life ends before the fetch goes on.
package fleet
