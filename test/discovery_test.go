package servers

import "testing"

func TestDiscovery(t *testing.T) {
	plain, secure := oidcProvider.issuers[plainIssuer], oidcProvider.issuers[secureIssuer]
	rfc8414, oidcOnly := oidcProvider.issuers[rfc8414Issuer], oidcProvider.issuers[oidcOnlyIssuer]
	testSites(t,
		site{name: "both documents, http", issuer: plain, client: basicClient, discover: true},
		site{name: "both documents, https", issuer: secure, client: basicClient, discover: true},
		site{name: "RFC 8414, below a path", issuer: rfc8414, client: basicClient, discover: true},
		site{name: "OpenID Connect, below a path", issuer: oidcOnly, client: postClient, discover: true},
		// The audience is the issuer.
		site{name: "private_key_jwt", issuer: oidcOnly, client: es256Client, discover: true},
		site{name: "client_secret_jwt", issuer: rfc8414, client: secretJWTClient, discover: true},
		// The endpoint is the one for clients with a certificate (RFC 8705 §5).
		site{name: "tls_client_auth", issuer: secure, client: tlsClient, discover: true},
		site{name: "private_key_jwt with a certificate", issuer: rfc8414, client: boundES256Client, discover: true},
		site{name: "DPoP", issuer: oidcOnly, client: dpopBasicClient, discover: true},
	)
}
