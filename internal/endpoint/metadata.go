package endpoint

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
	"time"
)

// metadata is the part of an authorization server's metadata that is used here (RFC 8414 §2). It is
// immutable once it is in a Discovery.
type metadata struct {
	issuer string
	url    string // where it was found

	endpoint     string
	mtlsEndpoint string   // for clients with a certificate, if it is another one (RFC 8705 §5)
	authMethods  []string // the server's methods that are known here, by our names

	tried time.Time // the last attempt to read it
	due   time.Time // when to read it again
}

// endpointFor returns the token endpoint for a request.
func (m *metadata) endpointFor(r Request) string {
	if r.HasCertificate && m.mtlsEndpoint != "" {
		return m.mtlsEndpoint
	}
	return m.endpoint
}

// readMetadata looks at both places where metadata can be, first where it was the last time. If it is
// in neither, it returns the more useful failure: the first one, unless that is just a 404.
func (c *Client) readMetadata(ctx context.Context, r Request, known *metadata) (*metadata, *Error) {
	places := metadataURLs(r.Issuer)
	if known != nil && known.url == places[1] { // saves a request that fails every hour
		slices.Reverse(places)
	}
	var first *Error
	for _, place := range places {
		m, failure := c.readMetadataAt(ctx, r, place)
		if failure == nil {
			return m, nil
		}
		if failure.Status == http.StatusProxyAuthRequired {
			failure.Hint = proxyHint
			return nil, failure
		}
		// A server that hangs has left no time for the other place.
		if failure.Class == ClassTimeout && (first == nil || isNotThere(first)) {
			return nil, failure
		}
		if first == nil || isNotThere(first) {
			first = failure
		}
	}
	return nil, first
}

// isNotThere reports whether the server only says that it has no document here.
func isNotThere(failure *Error) bool {
	return failure.Status >= 400 && !failure.IsTransient()
}

// metadataURLs returns the places where an issuer's metadata can be: between the host and the path of
// the issuer (RFC 8414 §3.1), or below the issuer (OpenID Connect Discovery 1.0 §4.1).
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

// readMetadataAt reads one document. It does not follow redirects, and sends no part of the token
// request, as it is not known yet whether the server may see it.
func (c *Client) readMetadataAt(ctx context.Context, r Request, place string) (*metadata, *Error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, place, nil)
	if err != nil {
		return nil, &Error{Class: ClassRefused, Unsent: true, Detail: "the issuer's metadata has no valid URL"}
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	res, err := c.Transport.RoundTrip(req)
	if err != nil {
		failure := asError(ctx, err)
		failure.Detail = fmt.Sprintf("reading the issuer's metadata at %s: %s", place, failure.Detail)
		return nil, failure
	}
	defer res.Body.Close()
	m, failure := vetMetadata(res, r)
	if failure != nil {
		failure.Status = res.StatusCode
		failure.RetryAfter = retryAfter(res.Header, time.Now())
		failure.Detail = fmt.Sprintf("reading the issuer's metadata at %s: %s", place, failure.Detail)
		return nil, failure
	}
	m.url = place
	return m, nil
}

// vetMetadata reads from an answer what the request needs. The metadata decides where a credential is
// sent, so vetMetadata refuses what Check would refuse in an option.
func vetMetadata(res *http.Response, r Request) (*metadata, *Error) {
	quote := r.secrets().Quote
	if res.StatusCode != http.StatusOK {
		return nil, refusedMetadata(res, quote)
	}
	document, failure := readDocument(res)
	if failure != nil {
		return nil, failure
	}
	if document.issuer != r.Issuer {
		// RFC 8414 §3.3. Otherwise one server could pose as another.
		return nil, &Error{
			Class: ClassInvalidResponse, Said: quote("issuer " + document.issuer),
			Detail: "the document is another issuer's; if it is the right server, set issuer to exactly what it calls itself, to the last slash",
		}
	}
	m := document.metadata()
	if max(len(m.endpoint), len(m.mtlsEndpoint)) > maxDiscovered {
		return nil, &Error{Class: ClassInvalidResponse, Detail: "the document names a token_endpoint of more than 8 KiB; until the server is put right, use token_endpoint"}
	}
	endpoint := m.endpointFor(r) // the other endpoint may be wrong, as this client does not use it
	if endpoint == "" {
		return nil, &Error{Class: ClassInvalidResponse, Detail: "the document names no token_endpoint"}
	}
	if err := checkDiscovered(endpoint, r); err != nil {
		failure := &Error{Class: ClassInvalidResponse, Detail: err.Error()}
		if u, err := url.Parse(endpoint); err == nil {
			failure.Said = quote("token_endpoint " + DisplayURL(u)) // without parts that can be secret
		}
		return nil, failure
	}
	return m, nil
}

// refusedMetadata classifies an answer without a document, by the rules for the token endpoint.
func refusedMetadata(res *http.Response, quote func(string) string) *Error {
	failure := &Error{Class: classForStatus(res.StatusCode), Detail: "there is no document"}
	if res.StatusCode >= 300 && res.StatusCode <= 399 {
		failure.Detail = "the server redirects, which is not followed; set issuer to the URL that it calls itself"
		if location, err := res.Location(); err == nil {
			failure.Said = quote("redirects to " + DisplayURL(location))
		}
	}
	return failure
}

// metadataDocument has the members of the document that are used.
type metadataDocument struct {
	issuer, endpoint string

	// Read later, as a wrong type in them must not make the document unreadable.
	authMethods, aliases json.RawMessage
}

// readDocument parses an answer. It checks only its size and its syntax.
func readDocument(res *http.Response) (document metadataDocument, failure *Error) {
	body, err := io.ReadAll(io.LimitReader(res.Body, MaxResponse+1))
	switch {
	case len(body) > MaxResponse:
		return document, &Error{Class: ClassInvalidResponse, Detail: "the document is larger than 1 MiB"}
	case err != nil:
		return document, asError(res.Request.Context(), err)
	}
	if !document.parse(bytes.TrimPrefix(body, byteOrderMark)) {
		return document, &Error{Class: ClassInvalidResponse, Detail: "the document is not a JSON object with the members of RFC 8414 §2"}
	}
	return document, nil
}

// parse reads the document. It reports false if that is no JSON object, or if the issuer or the endpoint is no text. A
// struct with tags would take their names in any case.
func (d *metadataDocument) parse(body []byte) bool {
	members, ok := knownMembers(body, "issuer", "token_endpoint", "token_endpoint_auth_methods_supported", "mtls_endpoint_aliases")
	d.authMethods, d.aliases = members["token_endpoint_auth_methods_supported"], members["mtls_endpoint_aliases"]
	return ok && readText(members["issuer"], &d.issuer) && readText(members["token_endpoint"], &d.endpoint)
}

// readText reads a member that can be missing. It reports false if that is no text.
func readText(member json.RawMessage, text *string) bool {
	return member == nil || json.Unmarshal(member, text) == nil
}

// Bounds of what is used of a document, in bytes. The endpoint is kept, and in each log entry about a token.
const (
	maxDiscovered  = 8 << 10  // of the endpoint
	maxAuthMethods = 64 << 10 // of the list of methods; a dozen are registered
)

// metadata returns what can be used of the document. Optional members of a wrong type count as missing, as
// does a list of methods that is no such list.
func (d metadataDocument) metadata() *metadata {
	m := &metadata{issuer: d.issuer, endpoint: d.endpoint}
	if aliases, ok := knownMembers(d.aliases, "token_endpoint"); ok {
		_ = readText(aliases["token_endpoint"], &m.mtlsEndpoint)
	}
	var methods []string
	if len(d.authMethods) <= maxAuthMethods {
		_ = json.Unmarshal(d.authMethods, &methods)
	}
	for _, named := range methods {
		if name := methodInMetadata(named); name != "" && !slices.Contains(m.authMethods, name) {
			m.authMethods = append(m.authMethods, name)
		}
	}
	return m
}

// checkDiscovered refuses an endpoint that must not get the credential. For an https issuer it must be
// https too, even on this machine, where checkEndpoint allows http.
func checkDiscovered(endpoint string, r Request) error {
	if checkEndpoint(endpoint, r.InsecureHTTP) != nil {
		return errors.New("the document names a token_endpoint that is no absolute https URL without user info and fragment; until the server is put right, use token_endpoint")
	}
	if scheme(endpoint) != scheme(r.Issuer) {
		return errors.New("the document names a token_endpoint of another scheme than the issuer's; both must be https")
	}
	return nil
}
