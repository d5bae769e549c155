package endpoint

import (
	"cmp"
	"fmt"
	"time"

	"golang.org/x/oauth2"
)

// noClientAuth is none: the body has the id, if there is one. It is for endpoints that know the client
// by something else, such as a header field or another parameter.
type noClientAuth struct{}

func (noClientAuth) traits() Method {
	return Method{name: AuthNone, registered: AuthNone, Credential: CredentialNone, anonymous: true}
}

func (noClientAuth) check(r Request) error {
	if r.ClientSecret != "" {
		return fmt.Errorf("client_secret: auth_method %s sends no secret; remove it, or use %s or %s", AuthNone, AuthSecretBasic, AuthSecretPost)
	}
	return nil
}

func (noClientAuth) authenticate(Request, time.Time) (clientAuth, error) {
	return clientAuth{style: oauth2.AuthStyleInParams}, nil
}

func (noClientAuth) refusalHint(r Request, f *Error) string {
	return cmp.Or(otherMethodHint(r, f), headerHint(f))
}
