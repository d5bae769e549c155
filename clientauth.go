package oauthcc

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/oauth2"
)

// The client authentication methods: the names of the IANA registry "OAuth Token
// Endpoint Authentication Methods", and client_secret_basic_raw for the servers
// that take the bytes of id and secret as they are.
const (
	authSecretBasic    = "client_secret_basic"
	authSecretBasicRaw = "client_secret_basic_raw"
	authSecretPost     = "client_secret_post"
	authSecretJWT      = "client_secret_jwt"
	authPrivateKeyJWT  = "private_key_jwt"
	authTLS            = "tls_client_auth"
	authNone           = "none"
)

// authMethods lists the methods in the order in which messages name them.
var authMethods = []string{
	authSecretBasic, authSecretBasicRaw, authSecretPost, authSecretJWT, authPrivateKeyJWT, authTLS, authNone,
}

// checkClientAuth refuses credentials that don't fit the method.
func checkClientAuth(r grantRequest) error {
	if !slices.Contains(authMethods, r.authMethod) {
		return fmt.Errorf("auth_method: unknown method %q; use one of %s", r.authMethod, strings.Join(authMethods, ", "))
	}
	if r.clientID == "" && r.authMethod != authNone {
		return fmt.Errorf("client_id: missing; auth_method %s needs one", r.authMethod)
	}
	if !utf8.ValidString(r.clientID) {
		return errors.New("client_id: not UTF-8; write the file or the variable that it comes from in UTF-8")
	}
	if usesSecret(r.authMethod) != (r.clientSecret != "") {
		switch {
		case usesSecret(r.authMethod):
			return fmt.Errorf("client_secret: missing; auth_method %s needs one", r.authMethod)
		case r.authMethod == authNone:
			return fmt.Errorf("client_secret: auth_method %s sends no secret; remove it, or use %s or %s", authNone, authSecretBasic, authSecretPost)
		case r.authMethod == authPrivateKeyJWT:
			return fmt.Errorf("client_secret: auth_method %s signs with signing_key and has no secret; remove it, or use %s", authPrivateKeyJWT, authSecretJWT)
		default:
			return fmt.Errorf("client_secret: auth_method %s has no secret but the client certificate in transport; remove it", authTLS)
		}
	}
	if usesAssertion(r.authMethod) && r.format == formatJSON {
		return fmt.Errorf("request_format: auth_method %s is defined for forms alone (RFC 7521 §4.2); use %s", r.authMethod, formatForm)
	}
	switch r.authMethod {
	case authSecretBasicRaw:
		if strings.Contains(r.clientID, ":") {
			// RFC 7617 §2: the first colon ends the user-id.
			return fmt.Errorf("client_id: contains a colon, which %s can't send; use %s", authSecretBasicRaw, authSecretBasic)
		}
	case authSecretJWT:
		return checkHMAC(r.assertion.alg, r.clientSecret)
	case authTLS:
		return r.checkCertificate()
	}
	return nil
}

// checkCertificate applies RFC 8705 §2.
func (r grantRequest) checkCertificate() error {
	if !r.certificate {
		return fmt.Errorf("transport: auth_method %s needs a client certificate; write transport { tls_client_auth <certificate> <key> }", authTLS)
	}
	if r.isCleartext() {
		return fmt.Errorf("auth_method: %s needs TLS; use an https URL", authTLS)
	}
	return nil
}

// standardAuthMethod is the method as servers call it.
func (r grantRequest) standardAuthMethod() string {
	if r.authMethod == authSecretBasicRaw {
		return authSecretBasic
	}
	return r.authMethod
}

// usesSecret reports whether the method needs the client's secret.
func usesSecret(method string) bool {
	return usesBasic(method) || method == authSecretPost || method == authSecretJWT
}

// usesAssertion reports whether the client signs a JWT (RFC 7523 §2.2).
func usesAssertion(method string) bool {
	return method == authSecretJWT || method == authPrivateKeyJWT
}

// assertionParams are what a method adds to the parameters of one attempt.
func (r grantRequest) assertionParams(now time.Time) (url.Values, error) {
	if !usesAssertion(r.authMethod) {
		return nil, nil
	}
	assertion, err := r.assertion.sign(r, now)
	if err != nil {
		return nil, err
	}
	return url.Values{"client_assertion_type": {assertionType}, "client_assertion": {assertion}}, nil
}

// sentSecret is the secret as x/oauth2 is to send it.
func (r grantRequest) sentSecret() string {
	if usesAssertion(r.authMethod) {
		return ""
	}
	return r.clientSecret
}

// usesBasic reports whether the method occupies the Authorization header.
func usesBasic(method string) bool {
	return method == authSecretBasic || method == authSecretBasicRaw
}

// authStyle tells x/oauth2 where the credential goes. It is never left to
// auto-detection, which sends a second request after any error.
func authStyle(method string) oauth2.AuthStyle {
	if usesBasic(method) {
		return oauth2.AuthStyleInHeader
	}
	return oauth2.AuthStyleInParams
}

// rawBasicTransport sends HTTP Basic with id and secret as they are, where
// x/oauth2 form-encodes them as RFC 6749 §2.3.1 says.
type rawBasicTransport struct {
	next       http.RoundTripper
	id, secret string
}

func (t rawBasicTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.SetBasicAuth(t.id, t.secret)
	return t.next.RoundTrip(req)
}
