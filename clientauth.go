package oauthcc

import (
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/oauth2"
)

// The client authentication methods: the names of the IANA registry "OAuth Token
// Endpoint Authentication Methods", and client_secret_basic_raw for the servers
// that take the bytes of id and secret as they are.
const (
	authSecretBasic    = "client_secret_basic"
	authSecretBasicRaw = "client_secret_basic_raw"
	authSecretPost     = "client_secret_post"
	authNone           = "none"
)

// authMethods lists the methods in the order in which messages name them.
var authMethods = []string{authSecretBasic, authSecretBasicRaw, authSecretPost, authNone}

// checkClientAuth refuses credentials that don't fit the method.
func checkClientAuth(method, id, secret string) error {
	switch method {
	case authSecretBasic, authSecretBasicRaw, authSecretPost:
		if id == "" {
			return fmt.Errorf("client_id: missing; auth_method %s needs one", method)
		}
		if secret == "" {
			return fmt.Errorf("client_secret: missing; auth_method %s needs one", method)
		}
	case authNone:
		if secret != "" {
			return fmt.Errorf("client_secret: auth_method %s sends no secret; remove it, or use %s or %s", method, authSecretBasic, authSecretPost)
		}
	default:
		return fmt.Errorf("auth_method: unknown method %q; use one of %s", method, strings.Join(authMethods, ", "))
	}
	if method == authSecretBasicRaw && strings.Contains(id, ":") {
		// RFC 7617 §2: the first colon ends the user-id.
		return fmt.Errorf("client_id: contains a colon, which %s can't send; use %s", authSecretBasicRaw, authSecretBasic)
	}
	return nil
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

// basicHint is for a client that was refused: servers disagree on whether Basic
// credentials are form-encoded, and only reserved characters show the difference.
func basicHint(method, id, secret string) string {
	if !usesBasic(method) || !strings.ContainsFunc(id+secret, isReservedInForm) {
		return ""
	}
	other := authSecretBasicRaw
	if method == authSecretBasicRaw {
		other = authSecretBasic
	}
	return "the credential has reserved characters, which servers decode differently; try auth_method " + other
}

// isReservedInForm reports whether form encoding changes the character.
func isReservedInForm(r rune) bool {
	unreserved := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.~", r)
	return !unreserved
}
