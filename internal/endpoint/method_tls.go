package endpoint

import (
	"fmt"
	"time"

	"golang.org/x/oauth2"
)

// tlsClientAuth is tls_client_auth: the certificate of the TLS connection is the credential, and the
// body has the id (RFC 8705 §2). For a client, self_signed_tls_client_auth is the same: only the
// server has to know whether it trusts an authority or the certificate itself.
type tlsClientAuth struct{}

func (tlsClientAuth) traits() Method {
	return Method{
		name: AuthTLS, registered: AuthTLS, synonyms: []string{"self_signed_tls_client_auth"},
		Credential: CredentialCertificate,
	}
}

func (tlsClientAuth) check(r Request) error {
	switch {
	case r.ClientSecret != "":
		return fmt.Errorf("client_secret: auth_method %s uses the client certificate in transport, and no secret; remove it", AuthTLS)
	case !r.HasCertificate:
		return fmt.Errorf("transport: auth_method %s needs a client certificate; write transport { tls_client_auth <certificate> <key> }", AuthTLS)
	case r.IsCleartext():
		return fmt.Errorf("auth_method: %s needs TLS; use an https URL", AuthTLS)
	}
	return nil
}

// authenticate does nothing about the certificate, which is in the transport.
func (tlsClientAuth) authenticate(Request, time.Time) (clientAuth, error) {
	return clientAuth{style: oauth2.AuthStyleInParams}, nil
}

func (tlsClientAuth) refusalHint(Request, *Error) string {
	return "the client certificate was not accepted for this client_id; check what the server has registered, such as its subject"
}
