package replay

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// maxHints is how many informational responses reach the client at the most, once a response was dropped.
// Clients give up when there are too many: Go's after five.
const maxHints = 5

// hints are the informational responses that the client has had. They are passed on when they come, as nobody
// knows then whether the response that follows is dropped. So a client can have some of each attempt, but
// none twice.
type hints struct {
	passed []hint
	again  bool // a response was dropped
}

type hint struct {
	status int
	header http.Header
}

// isNews reports whether the client shall have this one, and notes it.
func (h *hints) isNews(status int, header http.Header) bool {
	next := hint{status, header.Clone()}
	delete(next.header, "Date")
	isSame := func(had hint) bool {
		return had.status == next.status && maps.EqualFunc(had.header, next.header, slices.Equal)
	}
	if h.again && (len(h.passed) >= maxHints || slices.ContainsFunc(h.passed, isSame)) {
		return false
	}
	if len(h.passed) < maxHints { // what is beyond that is not compared
		h.passed = append(h.passed, next)
	}
	return true
}

// Keep names fields of responses that are meant for the gateway. They reach the client neither in an
// informational response nor in trailers. In the header of a response they are the judge's to remove. The names
// are in their canonical form. Keep must be called between Begin and the first attempt.
func (x *Attempts) Keep(fields ...string) { x.kept = fields }

// removeKept removes the fields that are meant for the gateway.
func (g *guard) removeKept() {
	for _, field := range g.kept {
		delete(g.Header(), field)
	}
}

// removeKeptTrailers does it after the response, when its trailers are in the header.
func (g *guard) removeKeptTrailers() {
	if len(g.kept) == 0 || !g.decided || g.dropped {
		return
	}
	g.removeKept()
	for _, field := range g.kept {
		delete(g.Header(), http.TrailerPrefix+field)
	}
}

// unannounce takes the fields that are meant for the gateway out of the list of trailers that follow.
func (g *guard) unannounce() {
	announced := g.Header()["Trailer"]
	if len(g.kept) == 0 || len(announced) == 0 {
		return
	}
	var left []string
	for _, line := range announced {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); !slices.Contains(g.kept, http.CanonicalHeaderKey(name)) {
				left = append(left, name)
			}
		}
	}
	delete(g.Header(), "Trailer")
	if len(left) > 0 {
		g.Header()["Trailer"] = []string{strings.Join(left, ", ")}
	}
}
