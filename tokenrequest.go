package oauthcc

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// The formats of a token request's body.
const (
	formatForm = "form"
	formatJSON = "json"
)

// Retries within one fetch: at most maxRetries after the first try, each after a
// wait between minRetryWait and maxRetryWait, and none when the endpoint asks to
// be left alone for longer than maxRetryWait.
const (
	maxRetries   = 2
	minRetryWait = 200 * time.Millisecond
	maxRetryWait = time.Second
)

// grantRequest is one client-credentials request (RFC 6749 §4.4.2) with every
// placeholder resolved.
type grantRequest struct {
	issuer         string // instead of endpoint, until that is discovered
	endpoint       string
	insecureHTTP   bool
	clientID       string
	clientSecret   string
	authMethod     string
	assertion      clientAssertion // of the methods that use one
	certificate    bool            // the client has one for TLS
	certificateKey []byte          // its private key in PEM, if tokens are shared
	proofs         *proofKey       // nil without DPoP
	format         string
	scopes         []string
	audience       []string
	resource       []string
	params         map[string][]string
	headers        map[string][]string
}

// key identifies what is asked for and with which credential.
func (r grantRequest) key() grantKey {
	return newGrantKey(r.fields()...)
}

func (r grantRequest) fields() [][]string {
	insecure := ""
	if r.issuer != "" && r.insecureHTTP {
		insecure = "insecure_http" // decides what may be discovered
	}
	return [][]string{
		{r.issuer, insecure, r.endpoint, r.clientID, r.clientSecret, r.authMethod, r.format, r.proofs.name()},
		r.scopes, r.audience, r.resource, flatten(r.params), flatten(r.headers), r.assertion.fields(),
	}
}

// flatten lists names and values in a fixed order, each name with the number of
// its values.
func flatten(named map[string][]string) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(named)) {
		list = append(list, name, strconv.Itoa(len(named[name])))
		list = append(list, named[name]...)
	}
	return list
}

// optionParams are the parameters that belong to an option of their own.
var optionParams = map[string]string{
	"client_id":             "client_id",
	"client_secret":         "client_secret",
	"client_assertion":      "auth_method",
	"client_assertion_type": "auth_method",
	"scope":                 "scope",
	"audience":              "audience",
	"resource":              "resource",
}

// ownHeaders are the header fields of a token request that other options or the
// HTTP library write.
var ownHeaders = append([]string{"Content-Type", "Content-Encoding", "Expect", "Dpop"}, connectionHeaders...)

// userAgent names the gateway to the authorization server.
const userAgent = "caddy-oauth-cc"

// check refuses what an endpoint could not understand or what would endanger the
// credential. Its errors name the option and never quote a secret.
func (r grantRequest) check() error {
	if r.issuer != "" {
		if err := checkIssuer(r.issuer, r.insecureHTTP); err != nil {
			return err
		}
	} else if err := checkEndpoint(r.endpoint, r.insecureHTTP); err != nil {
		return err
	}
	if err := checkClientAuth(r); err != nil {
		return err
	}
	if slices.Contains(r.scopes, "") || slices.Contains(r.audience, "") {
		return errors.New("scope, audience: a value is empty; remove it")
	}
	for _, resource := range r.resource {
		if u, err := url.Parse(resource); err != nil || !u.IsAbs() || strings.Contains(resource, "#") {
			// RFC 8707 §2
			return fmt.Errorf("resource: %q is not an absolute URI without fragment; write one such as https://api.example.com/", resource)
		}
	}
	for name := range r.params {
		if name == "" || strings.ContainsAny(name, "{}") {
			return fmt.Errorf("param: %q can't be the name of a parameter, which has no placeholders; write param <name> <value>", name)
		}
		if option, ok := optionParams[name]; ok {
			return fmt.Errorf("param: %s has an option of its own; use %s", name, option)
		}
	}
	return r.checkHeaders()
}

func (r grantRequest) checkHeaders() error {
	seen := make(map[string]bool)
	for name, values := range r.headers {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("request_header: %q is not a valid header name; use letters, digits and hyphens", name)
		}
		canonical := http.CanonicalHeaderKey(name)
		if seen[canonical] {
			return fmt.Errorf("request_header: %s is given in several spellings; use one", canonical)
		}
		seen[canonical] = true
		if slices.Contains(ownHeaders, canonical) {
			return fmt.Errorf("request_header: %s is written by the gateway itself; remove it (the body's type follows request_format)", canonical)
		}
		if canonical == "Authorization" && usesBasic(r.authMethod) {
			return fmt.Errorf("request_header: Authorization carries the credential of auth_method %s; use %s or %s", r.authMethod, authSecretPost, authNone)
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return fmt.Errorf("request_header: the value of %s has characters that a header can't carry; remove line breaks and control characters", canonical)
			}
		}
	}
	return nil
}

// checkEndpoint applies RFC 6749 §3.2: an absolute URL without fragment, over TLS.
// Its errors don't quote the URL, whose query and user info may be secret.
func checkEndpoint(endpoint string, insecureHTTP bool) error {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return errors.New("token_endpoint: not an absolute http or https URL; write one such as https://auth.example.com/oauth/token")
	case u.User != nil:
		return errors.New("token_endpoint: the URL has user info; use client_id and client_secret")
	case strings.Contains(endpoint, "#"):
		return errors.New("token_endpoint: the URL has a fragment; remove it")
	case u.Scheme == "http" && !insecureHTTP && !isLoopback(u.Hostname()):
		return errors.New("token_endpoint: http would show the credential to everyone on the way; use https, or set insecure_http")
	}
	return nil
}

func isLoopback(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") { // RFC 6761 §6.3
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// isCleartext reports whether the endpoint is reached without TLS. One that is discovered
// has the issuer's scheme.
func (r grantRequest) isCleartext() bool {
	return scheme(cmp.Or(r.issuer, r.endpoint)) == "http"
}

// scheme is a URL's, in lower case, or empty.
func scheme(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Scheme
}

// endpointName is the endpoint as logs may show it, without its query, or the issuer
// as long as the endpoint is not known.
func (r grantRequest) endpointName() string {
	u, err := url.Parse(cmp.Or(r.endpoint, r.issuer))
	if err != nil {
		return ""
	}
	return displayURL(u)
}

func displayURL(u *url.URL) string {
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	return shown.String()
}

// tokenClient talks to a token endpoint.
type tokenClient struct {
	transport  http.RoundTripper
	timeout    time.Duration // for one fetch, retries included
	defaultTTL time.Duration
}

// fetch asks for a token, again where that may help and has not been ruled out by
// the endpoint. resolve gives the request with its placeholders resolved; it is
// called once more when the endpoint refuses the client, in case the credential
// has been replaced meanwhile. Where the request names an issuer, d tells its endpoint.
func (c *tokenClient) fetch(ctx context.Context, resolve func(context.Context) (grantRequest, error), d *discovery) (grantedToken, *fetchError) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()

	request, err := resolve(ctx)
	if err != nil {
		failure := &fetchError{class: classRefused, unsent: true, detail: shortened(err.Error())}
		if ctx.Err() != nil {
			failure.class = classTimeout
		}
		return grantedToken{}, failure
	}
	resolvedAgain := false
	for retries := 0; ; {
		granted, failure := c.try(ctx, request, d)
		if failure == nil {
			return granted, nil
		}
		failure.asked = request.key()
		if failure.refusesClient() && !resolvedAgain {
			resolvedAgain = true
			if again, err := resolve(ctx); err == nil && again.key() != failure.asked {
				request = again
				continue
			}
		}
		if !failure.transient() || retries == maxRetries || failure.retryAfter > maxRetryWait {
			return grantedToken{}, failure
		}
		wait := max(failure.retryAfter, minRetryWait+rand.N(maxRetryWait-minRetryWait)) //nolint:gosec // jitter
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
			return grantedToken{}, failure
		}
		select {
		case <-time.After(wait):
			retries++
		case <-ctx.Done():
			return grantedToken{}, failure
		}
	}
}

// try asks the endpoint once, and once more where it wants a nonce of its own in the
// proof (RFC 9449 §8).
func (c *tokenClient) try(ctx context.Context, request grantRequest, d *discovery) (grantedToken, *fetchError) {
	var server *serverMetadata
	if request.issuer != "" {
		var failure *fetchError
		if server, failure = c.discover(ctx, request, d); failure != nil {
			return grantedToken{}, failure
		}
		request.endpoint = server.endpointFor(request)
	}
	granted, failure := c.send(ctx, request, "")
	if failure != nil && failure.code == "use_dpop_nonce" && failure.nonce != "" && request.proofs != nil {
		granted, failure = c.send(ctx, request, failure.nonce)
	}
	if failure != nil && server != nil {
		d.doubt(request.issuer)
		if names := server.authMethods; failure.refusesClient() && len(names) > 0 && !slices.Contains(names, request.standardAuthMethod()) {
			failure.hint = "the issuer's metadata has other methods of client authentication; use auth_method " + strings.Join(names, " or ")
		}
	}
	return granted, failure
}

// send sends one token request, with this nonce in its proof or the last one if it is empty.
func (c *tokenClient) send(ctx context.Context, request grantRequest, nonce string) (grantedToken, *fetchError) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout/2)
	defer cancel()

	params := request.endpointParams()
	sent := time.Now()
	assertion, err := request.assertionParams(sent)
	if err != nil {
		return grantedToken{}, &fetchError{class: classRefused, unsent: true, detail: "the client's assertion could not be signed"}
	}
	maps.Copy(params, assertion)
	mask := func(text string) string {
		return maskSecrets(request.mask(text), request.clientID, assertion.Get("client_assertion"))
	}
	vetting := &vettingTransport{next: c.transport, tokenType: typeBearer, mask: mask, now: time.Now}
	if request.proofs != nil {
		vetting.tokenType = typeDPoP
		vetting.next = proofTransport{next: c.transport, key: request.proofs, nonce: nonce}
	}
	client := &http.Client{
		Transport: request.roundTripper(vetting),
		// A 307 or 308 would send the credential to wherever it points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	config := clientcredentials.Config{
		ClientID:       request.clientID,
		ClientSecret:   request.sentSecret(),
		TokenURL:       request.endpoint,
		Scopes:         request.scopes,
		EndpointParams: params,
		AuthStyle:      authStyle(request.authMethod),
	}
	token, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	if err != nil {
		failure := asFetchError(ctx, err)
		failure.hint = request.hintFor(failure)
		return grantedToken{}, failure
	}
	granted := vetting.granted
	granted.value = token.AccessToken
	granted.sent = sent
	if !granted.lifetimeKnown {
		granted.lifetime = c.defaultTTL
	}
	granted.missingScope = missingScope(request.scopes, granted)
	return granted, nil
}

func (r grantRequest) endpointParams() url.Values {
	params := url.Values{}
	maps.Copy(params, r.params)
	if len(r.audience) > 0 {
		params["audience"] = r.audience
	}
	if len(r.resource) > 0 {
		params["resource"] = r.resource
	}
	return params
}

// roundTripper stacks what x/oauth2 can't do, each one concern, above next.
func (r grantRequest) roundTripper(next http.RoundTripper) http.RoundTripper {
	next = headerTransport{next: next, headers: r.headers}
	if r.format == formatJSON {
		next = jsonTransport{next}
	}
	if r.authMethod == authSecretBasicRaw {
		next = rawBasicTransport{next: next, id: r.clientID, secret: r.clientSecret}
	}
	return next
}

// headerTransport sets the request's header fields: those the user asked for, and
// an Accept that keeps servers from answering errors with HTML.
type headerTransport struct {
	next    http.RoundTripper
	headers map[string][]string
}

func (t headerTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	for name, values := range t.headers {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	return t.next.RoundTrip(req)
}

// jsonTransport turns the form that x/oauth2 writes into a JSON object with the
// same members, for endpoints that take nothing else.
type jsonTransport struct {
	next http.RoundTripper
}

func (t jsonTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	form, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	values, err := url.ParseQuery(string(form))
	if err != nil {
		return nil, err
	}
	members := make(map[string]any, len(values))
	for name, list := range values {
		if members[name] = list; len(list) == 1 {
			members[name] = list[0]
		}
	}
	body, err := json.Marshal(members)
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Set("Content-Type", "application/json")
	req.ContentLength = int64(len(body))
	req.Body = io.NopCloser(bytes.NewReader(body))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	return t.next.RoundTrip(req)
}

// dialError is a connection that could not be established.
type dialError struct {
	text string
}

func (e *dialError) Error() string { return e.text }

// asFetchError finds out what became of a token request. The library's own error
// texts can hold the URL with its query and whatever the peer sent.
func asFetchError(ctx context.Context, err error) *fetchError {
	if failure, ok := errors.AsType[*fetchError](err); ok {
		return failure
	}
	failure := &fetchError{class: classUnreachable, detail: networkDetail(err)}
	_, dialing := errors.AsType[*dialError](err)
	var timeout net.Error
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || !dialing && errors.As(err, &timeout) && timeout.Timeout() {
		failure.class = classTimeout
	}
	return failure
}

// networkDetail describes an error of the network by the types that are known to
// say nothing of the peer's bytes.
func networkDetail(err error) string {
	if dial, ok := errors.AsType[*dialError](err); ok {
		return dial.Error()
	}
	if verification, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return certificateDetail(verification)
	}
	if record, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return record.Msg
	}
	if alert, ok := errors.AsType[tls.AlertError](err); ok {
		return alert.Error()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Error()
	}
	var timeout net.Error
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		return "the endpoint speaks plain HTTP on this port, and not TLS"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "abandoned, since its configuration is no longer in use"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed before the answer was complete"
	default:
		return "no readable HTTP answer, be it from the endpoint or from a proxy before it"
	}
}

// certificateDetail leaves out what a hostile certificate could say.
func certificateDetail(err *tls.CertificateVerificationError) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "the certificate is signed by an unknown authority; trust its CA with transport { tls_trust_pool … }"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "the certificate is for another host name"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "the certificate has expired or is not valid yet"
	}
	return "the certificate could not be verified"
}
