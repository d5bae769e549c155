package endpoint

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// AssertionTypeJWT is the client_assertion_type of a JWT (RFC 7523 §2.2).
const AssertionTypeJWT = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// jwtMethod is the common part of the two methods that send a JWT instead of a secret (RFC 7523 §2.2).
// assertion.go signs it, for each attempt.
type jwtMethod struct{}

// checkFormat applies RFC 7521 §4.2.
func (jwtMethod) checkFormat(r Request) error {
	if r.Format == FormatJSON {
		return fmt.Errorf("request_format: auth_method %s is defined for forms alone (RFC 7521 §4.2); use %s", r.AuthMethod, FormatForm)
	}
	return nil
}

func (jwtMethod) authenticate(r Request, now time.Time) (clientAuth, error) {
	assertion, err := r.Assertion.sign(r, now)
	if err != nil {
		return clientAuth{}, errors.New("the client's assertion could not be signed")
	}
	return clientAuth{
		style:     oauth2.AuthStyleInParams, // for the client_id
		params:    url.Values{"client_assertion_type": {AssertionTypeJWT}, "client_assertion": {assertion}},
		sensitive: []string{assertion},
	}, nil
}

// refusalHint lists what servers disagree on about assertions. If a clock is wrong, it names only that,
// as it is certain.
func (jwtMethod) refusalHint(r Request, f *Error) string {
	if f.seen.skew != 0 {
		return DescribeSkew(f.seen.skew) + ", which may be why the client's assertion was refused; set it right"
	}
	tries := []string{"the clocks of both sides"}
	if r.Assertion.audience == "" && r.Issuer != "" {
		tries = append(tries, "signing_key's audience (older servers want the token endpoint's URL)")
	} else if r.Assertion.audience == "" {
		tries = append(tries, "signing_key's audience (newer servers want the issuer)")
	}
	if r.Assertion.typ != "JWT" {
		tries = append(tries, "signing_key's typ (older servers want JWT)")
	}
	if r.Assertion.key != nil {
		tries = append(tries, "whether the server has the public key under this key_id")
	}
	return "the client's assertion was refused; check " + strings.Join(tries, ", ")
}

// secretJWT is client_secret_jwt: the secret signs, by HMAC.
type secretJWT struct{ jwtMethod }

func (secretJWT) traits() Method {
	return Method{
		name: AuthSecretJWT, registered: AuthSecretJWT,
		Credential: CredentialSecret, Signs: true, formsOnly: true,
	}
}

func (m secretJWT) check(r Request) error {
	if err := m.checkFormat(r); err != nil {
		return err
	}
	return checkHMAC(r.Assertion.alg, r.ClientSecret)
}

// privateKeyJWT is private_key_jwt: a private key signs, the client's own or that of somebody who has made the
// assertion for it (assertion_ready.go).
type privateKeyJWT struct{ jwtMethod }

func (privateKeyJWT) traits() Method {
	return Method{
		name: AuthPrivateKeyJWT, registered: AuthPrivateKeyJWT,
		Credential: CredentialKey, Signs: true, formsOnly: true,
	}
}

func (m privateKeyJWT) check(r Request) error {
	switch {
	case r.ClientSecret != "" && r.ClientAssertionType != "":
		return errors.New("client_secret: client_assertion is what the client authenticates with; remove one of them")
	case r.ClientSecret != "":
		return fmt.Errorf("client_secret: auth_method %s signs with signing_key and has no secret; remove it, or use %s", AuthPrivateKeyJWT, AuthSecretJWT)
	case r.ClientAssertion != "":
		if _, err := parseReadyAssertion(r.ClientAssertion); err != nil {
			return err
		}
	}
	return m.checkFormat(r)
}

// authenticate takes the assertion that is ready, if there is one.
func (m privateKeyJWT) authenticate(r Request, now time.Time) (clientAuth, error) {
	if r.ClientAssertionType != "" {
		return r.readyAuth(now)
	}
	return m.jwtMethod.authenticate(r, now)
}

func (m privateKeyJWT) refusalHint(r Request, f *Error) string {
	if r.ClientAssertionType != "" {
		return r.readyRefusalHint(f)
	}
	return m.jwtMethod.refusalHint(r, f)
}
