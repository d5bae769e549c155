package oauthcc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	// metadataLife is how long an authorization server's metadata is used before it is
	// read again.
	metadataLife = time.Hour

	// metadataSpacing is the least time between two readings of metadata while there is
	// some that can be used.
	metadataSpacing = time.Minute
)

// serverMetadata is what is used of an authorization server's metadata (RFC 8414 §2). It
// is immutable.
type serverMetadata struct {
	issuer       string
	url          string // where it was found
	endpoint     string
	mtlsEndpoint string    // for clients with a certificate, if it is another (RFC 8705 §5)
	authMethods  []string  // that the server names, as far as they are known here
	tried        time.Time // when it was last read, or that was tried
	due          time.Time // to be read again
}

// endpointFor returns the token endpoint for a request.
func (m *serverMetadata) endpointFor(r grantRequest) string {
	if r.certificate && m.mtlsEndpoint != "" {
		return m.mtlsEndpoint
	}
	return m.endpoint
}

// discovery keeps the metadata of the server that a token comes from.
type discovery struct {
	current atomic.Pointer[serverMetadata]
	news    atomic.Pointer[fetchError] // why it could not be read again, until that is told

	mu      sync.Mutex
	reading *reading // in progress; nil without
}

// known returns the metadata of an issuer, or nil.
func (d *discovery) known(issuer string) *serverMetadata {
	if m := d.current.Load(); m != nil && m.issuer == issuer {
		return m
	}
	return nil
}

// keep has metadata used on that could not be read again.
func (d *discovery) keep(m *serverMetadata, now time.Time, failure *fetchError) {
	changed := *m
	changed.tried, changed.due = now, now.Add(metadataSpacing)
	d.current.CompareAndSwap(m, &changed)
	d.news.Store(failure)
}

// doubt has the metadata read again before its time, as the server may have moved.
func (d *discovery) doubt(issuer string) {
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

// discover returns the metadata of the request's issuer: what is known while that is not
// due, else what the server says, else what is known all the same.
func (c *tokenClient) discover(ctx context.Context, r grantRequest, d *discovery) (*serverMetadata, *fetchError) {
	now := time.Now()
	known := d.known(r.issuer)
	if known != nil && now.Before(known.due) {
		return known, nil
	}
	limit := c.timeout / 2
	if known != nil {
		limit /= 2 // the token is to be asked for as well
	}
	reading, isMine := d.begin(r.issuer)
	if !isMine {
		select {
		case <-reading.done:
			return reading.outcome()
		case <-ctx.Done():
			return nil, asFetchError(ctx, ctx.Err())
		}
	}
	defer d.end(reading)
	if m := d.known(r.issuer); m != known && m != nil { // read just now by another
		reading.m = m
		return m, nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	m, failure := c.readMetadata(ctx, r, known)
	switch {
	case failure == nil:
		m.tried, m.due = now, now.Add(metadataLife)
		d.current.Store(m)
	case known != nil:
		d.keep(known, now, failure)
		m, failure = known, nil
	}
	reading.m, reading.failure = m, failure
	return reading.outcome()
}

// reading is one look for an issuer's metadata.
type reading struct {
	issuer  string
	done    chan struct{} // closed when the outcome is there
	m       *serverMetadata
	failure *fetchError
}

// outcome is what came of it. Each who is told has an error of its own to add to.
func (r *reading) outcome() (*serverMetadata, *fetchError) {
	if r.failure == nil {
		return r.m, nil
	}
	failure := *r.failure
	return nil, &failure
}

// begin returns the reading in progress, or a new one that is the caller's to end: several
// grants of one issuer can need its metadata at once.
func (d *discovery) begin(issuer string) (r *reading, isMine bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reading != nil && d.reading.issuer == issuer {
		return d.reading, false
	}
	r = &reading{issuer: issuer, done: make(chan struct{})}
	d.reading = r
	return r, true
}

func (d *discovery) end(r *reading) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reading == r {
		d.reading = nil
	}
	close(r.done)
}

// readMetadata looks at both places where metadata can be, first where it was before.
func (c *tokenClient) readMetadata(ctx context.Context, r grantRequest, known *serverMetadata) (*serverMetadata, *fetchError) {
	places := metadataURLs(r.issuer)
	if known != nil && known.url == places[1] {
		slices.Reverse(places)
	}
	var first *fetchError
	for _, place := range places {
		m, failure := c.readMetadataAt(ctx, r, place)
		if failure == nil {
			return m, nil
		}
		if failure.class == classTimeout && (first == nil || isNotThere(first)) {
			return nil, failure
		}
		// That a document is not there says less than any other failure.
		if first == nil || isNotThere(first) {
			first = failure
		}
	}
	return nil, first
}

func isNotThere(failure *fetchError) bool {
	return failure.class == classRefused && failure.status >= 400
}

// metadataURLs are where an issuer's metadata can be: below the host with the path of the
// issuer behind (RFC 8414 §3.1), or below the issuer (OpenID Connect Discovery 1.0 §4.1).
func metadataURLs(issuer string) []string {
	issuer = strings.TrimSuffix(issuer, "/")
	scheme, rest, _ := strings.Cut(issuer, "://")
	host, path, isBelow := strings.Cut(rest, "/")
	if isBelow {
		path = "/" + path
	}
	return []string{
		scheme + "://" + host + "/.well-known/oauth-authorization-server" + path,
		issuer + "/.well-known/openid-configuration",
	}
}

// readMetadataAt reads one document. Redirects are not followed.
func (c *tokenClient) readMetadataAt(ctx context.Context, r grantRequest, place string) (*serverMetadata, *fetchError) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, place, nil)
	if err != nil {
		return nil, &fetchError{class: classRefused, unsent: true, detail: "the issuer's metadata has no valid URL"}
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	res, err := c.transport.RoundTrip(req)
	if err != nil {
		failure := asFetchError(ctx, err)
		failure.detail = fmt.Sprintf("reading the issuer's metadata at %s: %s", place, failure.detail)
		return nil, failure
	}
	defer res.Body.Close()
	m, failure := c.vetMetadata(res, r)
	if failure != nil {
		failure.status = res.StatusCode
		failure.retryAfter = retryAfter(res.Header, time.Now())
		failure.detail = fmt.Sprintf("reading the issuer's metadata at %s: %s", place, failure.detail)
		return nil, failure
	}
	m.url = place
	return m, nil
}

func (c *tokenClient) vetMetadata(res *http.Response, r grantRequest) (*serverMetadata, *fetchError) {
	quote := func(text string) string { return quote(r.mask, text) }
	if res.StatusCode != http.StatusOK {
		return nil, refusedMetadata(res, quote)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxResponse+1))
	switch {
	case len(body) > maxResponse:
		return nil, &fetchError{class: classInvalidResponse, detail: "the document is larger than 1 MiB"}
	case err != nil:
		failure := asFetchError(res.Request.Context(), err)
		return nil, failure
	}
	var document struct {
		Issuer      string          `json:"issuer"`
		Endpoint    string          `json:"token_endpoint"`
		AuthMethods json.RawMessage `json:"token_endpoint_auth_methods_supported"`
		Aliases     json.RawMessage `json:"mtls_endpoint_aliases"`
	}
	if err := json.Unmarshal(bytes.TrimPrefix(body, byteOrderMark), &document); err != nil {
		return nil, &fetchError{class: classInvalidResponse, detail: "the document is not a JSON object with the members of RFC 8414 §2"}
	}
	if document.Issuer != r.issuer {
		// RFC 8414 §3.3: or one server could pass itself off as another.
		return nil, &fetchError{
			class: classInvalidResponse, said: quote("issuer " + document.Issuer),
			detail: "the document is another issuer's; if it is the right server, set issuer to exactly what it calls itself, to the last slash",
		}
	}
	var aliases struct {
		Endpoint string `json:"token_endpoint"`
	}
	var methods []string
	_ = json.Unmarshal(document.Aliases, &aliases)     // as good as none if it is not what it should be,
	_ = json.Unmarshal(document.AuthMethods, &methods) // and so with these
	m := &serverMetadata{issuer: r.issuer, endpoint: document.Endpoint, mtlsEndpoint: aliases.Endpoint}
	endpoint := m.endpointFor(r) // the other one is for other clients
	if endpoint == "" {
		return nil, &fetchError{class: classInvalidResponse, detail: "the document names no token_endpoint"}
	}
	if err := checkDiscovered(endpoint, r); err != nil {
		failure := &fetchError{class: classInvalidResponse, detail: err.Error()}
		if u, err := url.Parse(endpoint); err == nil {
			failure.said = quote("token_endpoint " + displayURL(u)) // without what may be secret in it
		}
		return nil, failure
	}
	for _, method := range methods {
		if method == "self_signed_tls_client_auth" { // the same for a client
			method = authTLS
		}
		if slices.Contains(authMethods, method) && !slices.Contains(m.authMethods, method) {
			m.authMethods = append(m.authMethods, method)
		}
	}
	return m, nil
}

// refusedMetadata classifies an answer that is no document, as one of the token endpoint
// is.
func refusedMetadata(res *http.Response, quote func(string) string) *fetchError {
	failure := &fetchError{class: classForStatus(res.StatusCode), detail: "there is no document"}
	if res.StatusCode >= 300 && res.StatusCode <= 399 {
		failure.detail = "the server redirects, which is not followed; set issuer to the URL that it calls itself"
		if location, err := res.Location(); err == nil {
			failure.said = quote("redirects to " + displayURL(location))
		}
	}
	return failure
}

// checkDiscovered refuses an endpoint that can't be meant for the credential.
func checkDiscovered(endpoint string, r grantRequest) error {
	if checkEndpoint(endpoint, r.insecureHTTP) != nil {
		return errors.New("the document names a token_endpoint that is no absolute https URL without user info and fragment; until the server is put right, use token_endpoint")
	}
	if scheme(endpoint) != scheme(r.issuer) {
		return errors.New("the document names a token_endpoint of another scheme than the issuer's; both must be https")
	}
	return nil
}

// checkIssuer applies RFC 8414 §2: an https URL without query and fragment.
func checkIssuer(issuer string, insecureHTTP bool) error {
	u, err := url.Parse(issuer)
	switch {
	case !utf8.ValidString(issuer):
		return errors.New("issuer: not UTF-8; write the file or the variable that it comes from in UTF-8")
	case err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return errors.New("issuer: not an absolute http or https URL; write one such as https://auth.example.com")
	case u.User != nil:
		return errors.New("issuer: the URL has user info; use client_id and client_secret")
	case strings.ContainsAny(issuer, "?#"):
		return errors.New("issuer: the URL has a query or a fragment, which no issuer has; remove it")
	case strings.Contains(issuer, "/.well-known/"):
		return errors.New("issuer: give the issuer itself, such as https://auth.example.com, and not the URL of its metadata")
	case u.Scheme == "http" && !insecureHTTP && !isLoopback(u.Hostname()):
		return errors.New("issuer: over http anyone on the way could name a token endpoint of theirs; use https, or set insecure_http")
	}
	return nil
}
