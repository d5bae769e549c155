package endpoint

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Discovery keeps the metadata of an issuer. It keeps one issuer at a time, as all requests of one
// configuration name the same. The zero Discovery is ready to use, and safe for concurrent use. It
// must not be copied.
type Discovery struct {
	current atomic.Pointer[metadata] // nil until there is some
	stale   atomic.Pointer[Error]    // why it could not be read again; nil after TakeStaleReason

	// An issuer's metadata is read once at a time, in the goroutine of the fetch that needs it first.
	// Other fetches wait for the outcome. mu guards reading. It is held to begin, join and end a
	// reading, and never while one goes on.
	mu      sync.Mutex
	reading *reading // the one in progress, or nil
}

// EndpointFor returns the token endpoint of the request's issuer. It is empty as long as that is not
// known, and for a request without an issuer.
func (d *Discovery) EndpointFor(r Request) string {
	if m := d.known(r.Issuer); m != nil {
		return m.endpointFor(r)
	}
	return ""
}

// TakeStaleReason returns, once, why metadata that was due could not be read again. The old metadata
// stays in use. It returns nil if there is nothing new to report.
func (d *Discovery) TakeStaleReason() *Error { return d.stale.Swap(nil) }

// known returns the metadata of an issuer, or nil.
func (d *Discovery) known(issuer string) *metadata {
	if m := d.current.Load(); m != nil && m.issuer == issuer {
		return m
	}
	return nil
}

const (
	// metadataLife is how long an authorization server's metadata is used before it is read again. RFC
	// 8414 defines no lifetime, and the Cache-Control of servers varies too much.
	metadataLife = time.Hour

	// metadataSpacing is the least time between two readings of metadata while there is some that can
	// be used. A server that fails must not get more requests because of that.
	metadataSpacing = time.Minute
)

// discover returns the metadata of the request's issuer. It is read if it is due; if that fails, the
// old one is returned.
func (c *Client) discover(ctx context.Context, r Request, d *Discovery) (*metadata, *Error) {
	now := time.Now()
	known := d.known(r.Issuer)
	if known != nil && now.Before(known.due) {
		return known, nil
	}
	reading, isMine := d.joinReading(r.Issuer)
	if !isMine {
		select {
		case <-reading.done:
			return reading.outcome()
		case <-ctx.Done():
			return nil, asError(ctx, ctx.Err())
		}
	}
	defer d.endReading(reading)
	reading.found, reading.failure = c.renewMetadata(ctx, r, d, known, now)
	return reading.outcome()
}

// renewMetadata reads the metadata, for all fetches that wait. known is what the caller found before it
// joined, or nil.
func (c *Client) renewMetadata(ctx context.Context, r Request, d *Discovery, known *metadata, now time.Time) (*metadata, *Error) {
	if m := d.known(r.Issuer); m != known && m != nil { // another fetch has just read it
		return m, nil
	}
	limit := c.Timeout / 2 // as for a token request, see send
	if known != nil {
		limit /= 2 // leave time to ask for the token with the old metadata
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	m, failure := c.readMetadata(ctx, r, known)
	switch {
	case failure == nil:
		m.tried, m.due = now, now.Add(metadataLife)
		d.current.Store(m)
		return m, nil
	case known != nil:
		d.keepStale(known, now, failure)
		return known, nil
	}
	return nil, failure
}

// keepStale keeps metadata in use that could not be read again. Perhaps only the document is not
// available; if the token endpoint is not either, its own failure will say so.
func (d *Discovery) keepStale(m *metadata, now time.Time, failure *Error) {
	changed := *m // others may be reading m
	changed.tried, changed.due = now, now.Add(metadataSpacing)
	d.current.CompareAndSwap(m, &changed)
	d.stale.Store(failure)
}

// doubt makes the metadata due earlier, as the server may have moved. It is called when the token
// endpoint has failed. Most failures have another reason, so metadataSpacing still applies.
func (d *Discovery) doubt(issuer string) {
	m := d.known(issuer)
	if m == nil {
		return
	}
	if soon := m.tried.Add(metadataSpacing); soon.Before(m.due) {
		changed := *m
		changed.due = soon
		d.current.CompareAndSwap(m, &changed)
	}
}

// reading is one attempt to read an issuer's metadata. All fetches that need it share it.
type reading struct {
	issuer string
	done   chan struct{} // closed when the outcome is known

	// The outcome, set before done is closed.
	found   *metadata
	failure *Error
}

// outcome returns the metadata, or a copy of the failure, as each caller may add to it.
func (r *reading) outcome() (*metadata, *Error) {
	if r.failure == nil {
		return r.found, nil
	}
	failure := *r.failure
	return nil, &failure
}

// joinReading returns the reading in progress, or a new one. The caller must end a new one (isMine).
func (d *Discovery) joinReading(issuer string) (r *reading, isMine bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reading != nil && d.reading.issuer == issuer {
		return d.reading, false
	}
	r = &reading{issuer: issuer, done: make(chan struct{})}
	d.reading = r
	return r, true
}

// endReading makes the outcome known.
func (d *Discovery) endReading(r *reading) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reading == r { // a reading of another issuer may have replaced it
		d.reading = nil
	}
	close(r.done)
}
