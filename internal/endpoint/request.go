package endpoint

import (
	"cmp"
	"net/url"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/dpop"
)

// The formats of a token request's body. OAuth has only forms (RFC 6749 §4.4.2), but some endpoints
// accept only JSON.
const (
	FormatForm = "form"
	FormatJSON = "json"
)

// Request is one token request, by the client-credentials grant (RFC 6749 §4.4.2) or the JWT bearer grant (RFC
// 7523 §2.1), with all placeholders resolved. It must pass Check before it is sent. You can change a copy, but not the content of its maps and slices.
type Request struct {
	// Where to ask for a token. With an issuer, the issuer's metadata names the endpoint (RFC 8414).
	// Then Endpoint is empty, or the endpoint that was discovered.
	Issuer       string
	Endpoint     string
	InsecureHTTP bool // http is allowed, not only on this machine

	// Who asks, and with which credential. AuthMethod decides which fields are needed.
	ClientID       string
	ClientSecret   string
	AuthMethod     string    // one of MethodNames
	Assertion      Assertion // for methods that sign one
	HasCertificate bool      // the transport has a client certificate
	Certificate    string    // the client certificate in PEM; empty if it is not in a file
	CertificateKey []byte    // its private key in PEM; only Credential needs it
	Proofs         *dpop.Key // the key to which the token is bound; nil for a Bearer token

	// An assertion that somebody else has signed, instead of one by Assertion, and its type (RFC 7521 §4.2). Both
	// are empty without. Only the type tells that there is one: the assertion can come later.
	ClientAssertion     string
	ClientAssertionType string

	// What is asked for.
	Grant    *JWTGrant // what to ask with; nil for the client-credentials grant
	Scopes   []string
	Audience []string
	Resource []string            // URIs (RFC 8707)
	Params   map[string][]string // further parameters, by their names

	// TTL is the lifetime of the token, regardless of what the endpoint says; 0 for what the endpoint says.
	TTL time.Duration

	// ResponseFields are the paths to members that a JSON answer has in another place than OAuth's, by their names in
	// ResponseFieldNames. If there is a path, the member with OAuth's name is ignored.
	ResponseFields map[string]string

	// Hidden are values of a client's request that operators must not see, wherever they stand here.
	Hidden []string

	// How the request is written.
	Format  string              // FormatForm or FormatJSON; empty is a form
	Headers map[string][]string // further header fields, by their names
}

// IsCleartext reports whether the endpoint is reached without TLS. A discovered endpoint has the
// issuer's scheme.
func (r Request) IsCleartext() bool {
	return scheme(cmp.Or(r.Issuer, r.Endpoint)) == "http"
}

// scheme returns a URL's scheme in lower case, or an empty string.
func scheme(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Scheme
}

// Signs reports whether the client signs something for each attempt.
func (r Request) Signs() bool {
	return r.Method().Signs && r.ClientAssertionType == "" || r.Grant != nil
}

// ClientName returns the client for logs: by its identifier, or by the name that it gives itself in the grant.
func (r Request) ClientName() string {
	if r.ClientID == "" && r.Grant != nil {
		return r.Grant.Issuer
	}
	return r.ClientID
}

// GrantName returns the grant for operators. It is empty for the client-credentials grant.
func (r Request) GrantName() string {
	if r.Grant == nil {
		return ""
	}
	return GrantJWTBearer
}

// EndpointName returns the endpoint for logs, without its query, or the issuer as long as the endpoint is
// unknown. It is empty if that is not a URL.
func (r Request) EndpointName() string {
	u, err := url.Parse(cmp.Or(r.Endpoint, r.Issuer))
	if err != nil {
		return ""
	}
	return DisplayURL(u)
}

// DisplayURL returns a URL without the parts that can be secret: user info, query and fragment.
func DisplayURL(u *url.URL) string {
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	return shown.String()
}
