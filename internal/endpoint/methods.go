package endpoint

import (
	"crypto/x509"
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

// The names of the client authentication methods in Request.AuthMethod. They come from the IANA registry
// "OAuth Token Endpoint Authentication Methods", except for client_secret_basic_raw, which is for
// servers that take the bytes of id and secret as they are.
const (
	AuthSecretBasic    = "client_secret_basic"
	AuthSecretBasicRaw = "client_secret_basic_raw"
	AuthSecretPost     = "client_secret_post"
	AuthSecretJWT      = "client_secret_jwt"
	AuthPrivateKeyJWT  = "private_key_jwt"
	AuthTLS            = "tls_client_auth"
	AuthNone           = "none"
)

// methods are all methods, in the order in which messages name them. To add one, write its type and add
// it here: the rest of the package asks the method, and does not compare names.
var methods = []method{
	secretBasic{}, secretBasicRaw{}, secretPost{}, secretJWT{}, privateKeyJWT{}, tlsClientAuth{}, noClientAuth{},
}

// method is a way for the client to authenticate at the token endpoint (RFC 6749 §2.3).
type method interface {
	// traits returns the method's names and properties.
	traits() Method

	// check refuses options that don't fit the method. checkClientAuth has already made sure that id
	// and secret are there if the traits ask for them.
	check(r Request) error

	// authenticate returns how a token request that is sent now carries the credential. The text of
	// its error is for the log, and quotes nothing.
	authenticate(r Request, now time.Time) (clientAuth, error)

	// refusalHint returns what may help a client that was refused, or an empty string. Servers disagree
	// on how to send a credential, about each method in another way.
	refusalHint(r Request, f *Error) string
}

// Method has the names and properties of a client authentication method. The zero Method is for an
// unknown name: it has no credential and signs nothing.
type Method struct {
	// Names: of the option, of the method in the registry, and of registered methods that are the same
	// for a client.
	name       string
	registered string
	synonyms   []string

	// Credential is how the client proves who it is.
	Credential Credential

	// SendsSecret means that the endpoint gets the client_secret itself. If it refuses the secret, it
	// may want it in another way.
	SendsSecret bool

	// Signs means that the client signs a JWT for each attempt, its assertion (RFC 7523 §2.2).
	Signs bool

	anonymous          bool // a client_id is not needed
	fillsAuthorization bool // the credential is in the Authorization header
	formsOnly          bool // it is not defined for JSON
}

// Credential is a kind of credential. Each is in another field of a Request.
type Credential int

const (
	CredentialNone        Credential = iota + 1 // anyone who knows the client_id can be the client, unless a grant is signed
	CredentialSecret                            // ClientSecret
	CredentialKey                               // the private key of Assertion
	CredentialCertificate                       // the certificate of the TLS connection, with CertificateKey
)

// clientAuth is how one token request carries the credential.
type clientAuth struct {
	// For x/oauth2. The style is never AuthStyleAutoDetect, which sends a second request after any
	// error.
	style  oauth2.AuthStyle
	secret string // empty to send none

	// What x/oauth2 can't do: further parameters, and a transport that changes the request.
	params url.Values
	wrap   func(next http.RoundTripper) http.RoundTripper // nil for none

	// Credentials in the request that Request.secrets does not know.
	sensitive []string
}

// MethodNames returns the values of auth_method, in the order in which messages name them.
func MethodNames() []string {
	names := make([]string, len(methods))
	for i, m := range methods {
		names[i] = m.traits().name
	}
	return names
}

// MethodNamed returns the method with this name, or the zero Method.
func MethodNamed(name string) Method { return methodNamed(name).traits() }

// Method returns the request's method, or the zero Method if its name is unknown.
func (r Request) Method() Method { return r.method().traits() }

func (r Request) method() method { return methodNamed(r.AuthMethod) }

// methodNamed returns the method with this name, or unknownMethod, so that callers need no nil check.
func methodNamed(name string) method {
	for _, m := range methods {
		if m.traits().name == name {
			return m
		}
	}
	return unknownMethod{}
}

// methodInMetadata returns our name for a method that a server names, or an empty string if it is
// unknown.
func methodInMetadata(named string) string {
	for _, m := range methods {
		if t := m.traits(); t.name == named || slices.Contains(t.synonyms, named) {
			return t.name
		}
	}
	return ""
}

// checkClientAuth refuses credentials that don't fit the method.
func checkClientAuth(r Request) error {
	m := r.method()
	if m == (unknownMethod{}) {
		return m.check(r)
	}
	t := m.traits()
	if r.ClientID == "" && !t.anonymous && r.ClientAssertionType == "" {
		return fmt.Errorf("client_id: missing; auth_method %s needs one", t.name)
	}
	if !utf8.ValidString(r.ClientID) {
		return errors.New("client_id: not UTF-8; write the file or the variable that it comes from in UTF-8")
	}
	if r.ClientSecret == "" && t.Credential == CredentialSecret {
		return fmt.Errorf("client_secret: missing; auth_method %s needs one", t.name)
	}
	return m.check(r)
}

var errNoCredential = errors.New("the client has no credential that nobody else has")

// Credential returns what only the client has, to derive keys from it. It is never empty: without a
// credential it returns an error, as everyone could derive the same keys from nothing.
func (r Request) Credential() ([]byte, error) {
	var credential []byte
	switch r.Method().Credential {
	case CredentialSecret:
		credential = []byte(r.ClientSecret)
	case CredentialCertificate:
		credential = r.CertificateKey
	case CredentialKey, CredentialNone:
	}
	if r.Assertion.key != nil { // it signs for the client, or for the grant
		key, err := x509.MarshalPKCS8PrivateKey(r.Assertion.key.signer)
		if err != nil {
			return nil, err
		}
		credential = append(slices.Clip(credential), key...)
	}
	if len(credential) == 0 {
		return nil, errNoCredential
	}
	return credential, nil
}

// unknownMethod is for unknown names. A request with it does not pass Check, and is not sent.
type unknownMethod struct{}

func (unknownMethod) traits() Method { return Method{} }

func (unknownMethod) check(r Request) error {
	return fmt.Errorf("auth_method: unknown method %q; use one of %s", r.AuthMethod, strings.Join(MethodNames(), ", "))
}

func (unknownMethod) authenticate(Request, time.Time) (clientAuth, error) {
	return clientAuth{}, errors.New("auth_method: unknown method")
}

func (unknownMethod) refusalHint(Request, *Error) string { return "" }
