package replay

import (
	"net/http"
	"slices"
)

// trailerFilter passes the trailers of a request on, except for some. The server fills its own map
// while the body is read, which can be during another attempt. So the request gets a map of its own,
// which changes only when a reader reaches the end of the body.
type trailerFilter struct {
	from, to http.Header // nil if the request announced no trailers
	drop     []string    // canonical names of the fields that don't pass
	done     bool        // the trailers are in place
}

// attach replaces the trailers of r. Those that are announced have no values yet.
func (f *trailerFilter) attach(r *http.Request, drop []string) {
	if r.Trailer == nil {
		return
	}
	f.from, f.to, f.drop = r.Trailer, make(http.Header, len(r.Trailer)), drop
	f.copy()
	r.Trailer = f.to
}

// deliver puts the trailers in place, once. The server has them when the body ends.
func (f *trailerFilter) deliver() {
	if !f.done {
		f.done = true
		f.copy()
	}
}

// copy copies the fields that pass.
func (f *trailerFilter) copy() {
	for name, values := range f.from {
		if !slices.Contains(f.drop, http.CanonicalHeaderKey(name)) {
			f.to[name] = slices.Clone(values)
		}
	}
}
