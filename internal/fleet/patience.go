package fleet

import "time"

const (
	// sharingPatience is the longest time that requests wait for a storage that gives no locks, or
	// for a gateway that has the lock and gives no sign of life.
	sharingPatience = 2 * time.Second

	// signPatience is how much longer the wait gets with each new sign of life. It leaves room for
	// one that is late.
	signPatience = 2 * signInterval
)

// patience is how long a fetch waits for other gateways before it asks the endpoint itself. T
// is the timeout of the fetch as a whole, and P the lesser of sharingPatience and T/2:
//
//	                            no request waits        requests wait
//	the wait counts from        the fetch's beginning   the first request's, if later
//	it lasts, for firstLock     T/2                     P/2
//	          for secondLock    T·3/4                   P
//	each sign of life adds      0                       signPatience, in all up to T/2 − P/2
//	it ends, with firstLock     T/2 after the fetch's beginning at the latest
//	         with secondLock    T·3/4
//
// The reasons, by line:
//
//   - What matters is how long a request waits, not how long the fetch goes on.
//   - That is long enough to outlast another gateway's first try. With a request, the holder of
//     the second lock has as long for an answer as the holder of the first one had.
//   - A gateway that is alive is waited for as long as its first try can take.
//   - Whatever a request would wait for, time is left to ask the endpoint.
type patience struct {
	// Set once.
	timeout time.Duration // T
	began   time.Time     // when the fetch began

	// What changes during the wait.
	wanted time.Time // since when a request waits for the outcome; zero if none does
	signs  int       // number of new signs of life that were seen
}

// requestWaits notes when the first request began to wait. That can be before the fetch began, if
// many fetches of this gateway were in progress. Then the time counts from the fetch's beginning.
// Otherwise there would be no time left for a look into the storage.
func (p *patience) requestWaits(since time.Time) {
	p.wanted = since
	if since.Before(p.began) {
		p.wanted = p.began
	}
}

// isWanted reports whether a request waits.
func (p *patience) isWanted() bool { return !p.wanted.IsZero() }

// signSeen notes a new sign of life, and reports whether the wait gets longer with it.
func (p *patience) signSeen(rank lockRank) bool {
	before := p.until(rank)
	p.signs++
	return p.until(rank).After(before)
}

// until returns when the wait for a lock ends, by the table above.
func (p *patience) until(rank lockRank) time.Time {
	from := p.began
	if p.isWanted() {
		from = p.wanted
	}
	bySigns := min(time.Duration(p.signs)*signPatience, p.latest(firstLock)-p.without(firstLock))
	end, latest := from.Add(p.without(rank)+bySigns), p.began.Add(p.latest(rank))
	if end.After(latest) {
		return latest
	}
	return end
}

// without returns how long the wait lasts without signs of life.
func (p *patience) without(rank lockRank) time.Duration {
	if !p.isWanted() {
		return p.latest(rank)
	}
	most := min(sharingPatience, p.timeout/2)
	if rank == firstLock {
		return most / 2
	}
	return most
}

// latest returns how long after the fetch's beginning the wait ends in any case.
func (p *patience) latest(rank lockRank) time.Duration {
	if rank == firstLock {
		return p.timeout / 2
	}
	return p.timeout * 3 / 4
}

// left returns the time until the wait for a lock ends, less the time for a last look for a sign of
// life.
func (p *patience) left(rank lockRank) time.Duration {
	left := time.Until(p.until(rank))
	return left - min(signLook, left/4)
}

// remaining returns the time until all waiting ends. It bounds operations of the storage.
func (p *patience) remaining() time.Duration { return time.Until(p.until(secondLock)) }

// atMost returns the time from the fetch's beginning until all waiting ends.
func (p *patience) atMost() time.Duration { return p.until(secondLock).Sub(p.began) }
