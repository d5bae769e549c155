package endpoint

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// This file has the methods that send the client's secret itself (RFC 6749 §2.3.1). Servers disagree on
// where they look for it, and on whether id and secret are form-encoded for HTTP Basic.

// secretBasic is client_secret_basic: id and secret, form-encoded, in the Authorization header.
type secretBasic struct{}

func (secretBasic) traits() Method {
	return Method{
		name: AuthSecretBasic, registered: AuthSecretBasic,
		Credential: CredentialSecret, SendsSecret: true, fillsAuthorization: true,
	}
}

func (secretBasic) check(Request) error { return nil }

func (secretBasic) authenticate(r Request, _ time.Time) (clientAuth, error) {
	return clientAuth{style: oauth2.AuthStyleInHeader, secret: r.ClientSecret}, nil
}

func (secretBasic) refusalHint(r Request, f *Error) string {
	return basicHint(r, f, AuthSecretBasicRaw)
}

// secretBasicRaw is client_secret_basic_raw: HTTP Basic with the bytes as they are, without OAuth's
// form-encoding. That is how HTTP defines it (RFC 7617 §2). Servers call it client_secret_basic.
type secretBasicRaw struct{}

func (secretBasicRaw) traits() Method {
	t := secretBasic{}.traits()
	t.name = AuthSecretBasicRaw
	return t
}

func (secretBasicRaw) check(r Request) error {
	if strings.Contains(r.ClientID, ":") {
		// RFC 7617 §2: the first colon ends the user-id.
		return fmt.Errorf("client_id: contains a colon, which %s can't send; use %s", AuthSecretBasicRaw, AuthSecretBasic)
	}
	return nil
}

func (secretBasicRaw) authenticate(r Request, now time.Time) (clientAuth, error) {
	a, err := secretBasic{}.authenticate(r, now)
	a.wrap = func(next http.RoundTripper) http.RoundTripper {
		return rawBasicTransport{next: next, id: r.ClientID, secret: r.ClientSecret}
	}
	return a, err
}

func (secretBasicRaw) refusalHint(r Request, f *Error) string {
	return basicHint(r, f, AuthSecretBasic)
}

// rawBasicTransport writes HTTP Basic again, without the form-encoding of x/oauth2.
type rawBasicTransport struct {
	next       http.RoundTripper
	id, secret string
}

func (t rawBasicTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.SetBasicAuth(t.id, t.secret)
	return t.next.RoundTrip(req)
}

// secretPost is client_secret_post: id and secret as parameters, in the body.
type secretPost struct{}

func (secretPost) traits() Method {
	return Method{
		name: AuthSecretPost, registered: AuthSecretPost,
		Credential: CredentialSecret, SendsSecret: true,
	}
}

func (secretPost) check(Request) error { return nil }

func (secretPost) authenticate(r Request, _ time.Time) (clientAuth, error) {
	return clientAuth{style: oauth2.AuthStyleInParams, secret: r.ClientSecret}, nil
}

func (secretPost) refusalHint(r Request, f *Error) string {
	return cmp.Or(otherMethodHint(r, f), headerHint(f))
}

// basicHint is for HTTP Basic. other is the name of the method that encodes the credential in the other
// way.
func basicHint(r Request, f *Error, other string) string {
	if hint := otherMethodHint(r, f); hint != "" {
		return hint
	}
	switch {
	case !f.seen.wantsBasic && missingCredential.MatchString(f.Said):
		return "the endpoint may look for the credential in the body alone; try auth_method " + AuthSecretPost
	case r.hasReserved():
		return "the credential has reserved characters, which servers decode differently; try auth_method " + other
	}
	return ""
}

// missingCredential finds words with which an endpoint says that it has not found a credential.
var missingCredential = regexp.MustCompile(`(?i)client[_ ]?(id|secret|credentials?)\b.*\b(missing|required|not (found|present|provided|set)|empty|blank)|` +
	`(missing|requires?|no|provide)\b.*\bclient[_ ]?(id|secret|credentials?)\b`)

// headerHint is for a credential in the body if the endpoint wants it in the header.
func headerHint(f *Error) string {
	switch {
	case f.seen.wantsBasic && f.Status == http.StatusUnauthorized:
		return "the endpoint asks for HTTP Basic and may not look into the body; try auth_method " + AuthSecretBasic
	case missingHeader.MatchString(f.Said):
		return "the endpoint looks for the credential in the header Authorization; try auth_method " + AuthSecretBasic
	}
	return ""
}

// missingHeader finds words with which an endpoint says that it has not found the header.
var missingHeader = regexp.MustCompile(`(?i)\b(missing|no|requires?)\b.{0,20}\bauthorization header\b|\bauthorization header\b.{0,20}\b(missing|required|not (found|present|provided|set))\b`)

// otherMethodHint is for an endpoint that names another method than the client's. The method none is
// left out, as its name is a plain word.
func otherMethodHint(r Request, f *Error) string {
	own := r.Method().registered
	for _, m := range methods {
		if t := m.traits(); t.Credential != CredentialNone && t.name != own && strings.Contains(f.Said, t.name) {
			return "the endpoint speaks of another method of client authentication; try auth_method " + t.name
		}
	}
	return ""
}
