package replay

import (
	"maps"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

// savedRequest is what later handlers change in a request and in the response's header, as it was
// before. It is restored in place: placeholders look at the request that the server made, whichever
// request a handler is called with.
type savedRequest struct {
	// The request line.
	method     string
	requestURI string
	host       string
	url        url.URL

	// Where the URL and the header were, and what was in the header.
	urlAt    *url.URL
	headerAt http.Header
	header   savedHeader

	// How the body is sent.
	contentLength    int64
	transferEncoding []string

	// Parsed forms.
	form, postForm url.Values
	multipartForm  *multipart.Form

	// The route groups that were taken, see routeGroups.
	groups []string

	// The response's header.
	response savedHeader
}

// savedRequests saves allocations for every request.
var savedRequests = sync.Pool{New: func() any { return new(savedRequest) }}

func saveRequest(r *http.Request, response http.Header) *savedRequest {
	s := savedRequests.Get().(*savedRequest)
	s.method, s.requestURI, s.host = r.Method, r.RequestURI, r.Host
	s.urlAt, s.url = r.URL, *r.URL
	s.headerAt = r.Header
	s.header.save(r.Header)
	s.contentLength, s.transferEncoding = r.ContentLength, r.TransferEncoding
	s.form, s.postForm, s.multipartForm = r.Form, r.PostForm, r.MultipartForm
	for group := range routeGroups(r) {
		s.groups = append(s.groups, group)
	}
	s.response.save(response)
	return s
}

// restore puts everything back, except for the body and the trailers: a transport may still read those.
func (s *savedRequest) restore(r *http.Request, response http.Header) {
	r.Method, r.RequestURI, r.Host = s.method, s.requestURI, s.host
	r.URL = s.urlAt
	*r.URL = s.url
	r.Header = s.headerAt
	s.header.restore(r.Header)
	r.ContentLength, r.TransferEncoding = s.contentLength, s.transferEncoding
	r.Form, r.PostForm, r.MultipartForm = s.form, s.postForm, s.multipartForm
	maps.DeleteFunc(routeGroups(r), func(group string, _ struct{}) bool { return !slices.Contains(s.groups, group) })
	s.response.restore(response)
}

// free gives the memory back. s must not be used after that.
func (s *savedRequest) free() {
	header, response, groups := s.header, s.response, s.groups
	header.reset()
	response.reset()
	clear(groups)
	*s = savedRequest{header: header, response: response, groups: groups[:0]}
	savedRequests.Put(s)
}

// routeGroups returns where Caddy notes which of several exclusive routes was taken. If a replay found
// them taken, it would skip all of them.
func routeGroups(r *http.Request) map[string]struct{} {
	groups, _ := r.Context().Value(caddy.CtxKey("route_group")).(map[string]struct{})
	return groups
}

// savedHeader is a deep copy of a header, in memory that is used again.
type savedHeader struct {
	fields []savedField
	values []string // of all fields, one after the other
}

type savedField struct {
	name  string
	count int // of its values; -1 for nil, by which Caddy suppresses a field
}

func (s *savedHeader) save(h http.Header) {
	for name, values := range h {
		switch {
		case len(values) == 1: // nearly all of them, and quicker than to append a slice
			s.values = append(s.values, values[0])
			s.fields = append(s.fields, savedField{name, 1})
		case values == nil:
			s.fields = append(s.fields, savedField{name, -1})
		default:
			s.values = append(s.values, values...)
			s.fields = append(s.fields, savedField{name, len(values)})
		}
	}
}

func (s *savedHeader) restore(h http.Header) {
	clear(h)
	values := s.values
	for _, field := range s.fields {
		if field.count < 0 {
			h[field.name] = nil
			continue
		}
		h[field.name] = slices.Clone(values[:field.count:field.count])
		values = values[field.count:]
	}
}

// reset drops the copy, so that no credential stays in the pool, and keeps the memory.
func (s *savedHeader) reset() {
	clear(s.fields)
	clear(s.values)
	s.fields, s.values = s.fields[:0], s.values[:0]
}
