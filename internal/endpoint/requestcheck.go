package endpoint

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
)

// Check refuses a request that an endpoint could not understand or that would endanger the credential.
// Its errors name the option, say what to do and never quote a secret.
func (r Request) Check() error {
	if r.Issuer != "" {
		if err := checkIssuer(r.Issuer, r.InsecureHTTP); err != nil {
			return err
		}
	} else if err := checkEndpoint(r.Endpoint, r.InsecureHTTP); err != nil {
		return err
	}
	if err := checkClientAuth(r); err != nil {
		return err
	}
	if err := r.Grant.check(r); err != nil {
		return err
	}
	if err := r.checkParameters(); err != nil {
		return err
	}
	if err := r.checkResponseFields(); err != nil {
		return err
	}
	return r.checkHeaders()
}

// checkIssuer applies RFC 8414 §2: an https URL without query and fragment. Over http, someone on the
// way could name another token endpoint and get the credential.
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
		return errors.New("issuer: over http anyone on the way could name another token endpoint; use https, or set insecure_http")
	}
	return nil
}

// checkEndpoint applies RFC 6749 §3.2: an absolute URL without fragment, over TLS. Its errors don't
// quote the URL, as its query and its user info can be secret.
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

// isLoopback reports whether the host is this machine, so that nobody can read along.
func isLoopback(host string) bool {
	// A trailing dot makes no difference: it only ends the name.
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") { // RFC 6761 §6.3
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// optionParams are the parameters that have their own option. A parameter that is set in two places
// would be sent twice, which RFC 6749 §3.2 forbids.
var optionParams = map[string]string{
	"client_id":             "client_id",
	"client_secret":         "client_secret",
	"client_assertion":      "client_assertion",
	"client_assertion_type": "client_assertion",
	"scope":                 "scope",
	"audience":              "audience",
	"resource":              "resource",
}

// checkParameters refuses scopes, audiences, resources and parameters that can't be sent.
func (r Request) checkParameters() error {
	if slices.Contains(r.Scopes, "") || slices.Contains(r.Audience, "") {
		return errors.New("scope, audience: a value is empty; remove it")
	}
	for _, resource := range r.Resource {
		if u, err := url.Parse(resource); err != nil || !u.IsAbs() || strings.Contains(resource, "#") {
			// RFC 8707 §2
			return fmt.Errorf("resource: %q is not an absolute URI without fragment; write one such as https://api.example.com/", resource)
		}
	}
	for name := range r.Params {
		if name == "" || strings.ContainsAny(name, "{}") {
			return fmt.Errorf("param: %q can't be the name of a parameter, which has no placeholders; write param <name> <value>", name)
		}
		if option, ok := optionParams[name]; ok {
			return fmt.Errorf("param: %s has an option of its own; use %s", name, option)
		}
	}
	return nil
}

// ConnectionHeaders are header fields that a proxy does not forward (RFC 9110 §7.6.1), or that the HTTP
// library writes from other sources.
var ConnectionHeaders = []string{
	"Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// ownHeaders are the header fields of a token request that come from other options or from the HTTP
// library.
var ownHeaders = append([]string{"Content-Type", "Content-Encoding", "Expect", "Dpop"}, ConnectionHeaders...)

// checkHeaders refuses header fields that can't be sent, or that other parts of the request need.
func (r Request) checkHeaders() error {
	seen := make(map[string]bool) // canonical names; of two spellings, one would be lost at random
	for name, values := range r.Headers {
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
		if canonical == "Authorization" && r.Method().fillsAuthorization {
			return fmt.Errorf("request_header: Authorization carries the credential of auth_method %s; use %s or %s", r.AuthMethod, AuthSecretPost, AuthNone)
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return fmt.Errorf("request_header: the value of %s has characters that a header can't carry; remove line breaks and control characters", canonical)
			}
		}
	}
	return nil
}
