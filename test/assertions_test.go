package servers

import (
	"net/http"
	"os"
	"testing"
)

func TestAssertionsAtOIDCProvider(t *testing.T) {
	plain := oidcProvider.issuers[plainIssuer]
	testSites(t,
		site{name: "HS256", issuer: plain, client: secretJWTClient},
		site{name: "RS256, PKCS #1", issuer: plain, client: rs256Client},
		site{name: "PS256, PKCS #8", issuer: plain, client: ps256Client},
		site{name: "ES256, SEC 1", issuer: plain, client: es256Client},
		site{name: "EdDSA, JWK", issuer: plain, client: eddsaClient},
		site{name: "ES256, with a resource", issuer: plain, client: es256Client, resource: orders},
		site{name: "HS256, with a resource", issuer: plain, client: secretJWTClient, resource: orders},
	)
}

// fosite wants its token endpoint as audience.
func TestAssertionsAtFosite(t *testing.T) {
	opaque, jwt := fosite.issuers[opaqueIssuer], fosite.issuers[jwtIssuer]
	testSites(t,
		site{name: "RS256", issuer: opaque, client: rs256Client},
		site{name: "PS256", issuer: opaque, client: ps256Client},
		site{name: "ES256", issuer: opaque, client: es256Client},
		site{name: "ES256, JWT", issuer: jwt, client: es256Client, jwt: true},
	)
}

// The server knows another key by that id, and gives no token for this one.
func TestAssertionSignedWithAnotherKeyIsRefused(t *testing.T) {
	impostor := *ps256Client
	impostor.key = &clientKey{id: ps256Client.key.id, file: rs256Client.key.file}
	for name, issuer := range map[string]*issuer{
		"oidc-provider": oidcProvider.issuers[plainIssuer], "fosite": fosite.issuers[opaqueIssuer],
	} {
		t.Run(name, func(t *testing.T) {
			startSites(t, site{issuer: issuer, client: &impostor})[0].wantRefusal(t)
		})
	}
}

// The audience is what servers look at; a typ or a lifetime that is not the default
// does no harm at those that don't.
func TestAudienceOfAssertions(t *testing.T) {
	plain, opaque := oidcProvider.issuers[plainIssuer], fosite.issuers[opaqueIssuer]
	fapi := oidcProvider.issuers[fapiIssuer]
	for _, test := range []struct {
		name    string
		client  *client
		issuer  *issuer
		options string
		refused bool
	}{
		{"HS256, by the issuer's name", secretJWTClient, plain, "audience " + plain.Issuer, false},
		{"HS256, for somebody else", secretJWTClient, plain, "audience https://auth.test.example", true},
		{"HS256, any typ, short", secretJWTClient, plain, "typ JWT\nlifetime 5s", false},
		{"ES256, by the issuer's name", es256Client, plain, "audience " + plain.Issuer, false},
		{"ES256, for somebody else", es256Client, plain, "audience https://auth.test.example", true},
		{"ES256, for the endpoint, any typ, short", es256Client, opaque, "audience " + opaque.TokenEndpoint + "\ntyp JWT\nlifetime 5s", false},
		{"ES256, at a server that wants its name", es256Client, fapi, "", true},
		{"ES256, by the name that the server wants", es256Client, fapi, "audience " + fapi.Issuer, false},
		{"ES256, at a server that wants the endpoint", es256Client, opaque, "audience " + opaque.Issuer, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := *test.client
			c.assertion = test.options
			s := startSites(t, site{issuer: test.issuer, client: &c})[0]
			if test.refused {
				s.wantRefusal(t)
				return
			}
			s.request(t, http.MethodGet, "")
		})
	}
}

// A key that is replaced in its file is used without a reload, also after the server
// refused the one before.
func TestReplacedSigningKeyIsUsed(t *testing.T) {
	wrong, err := os.ReadFile(boundES256Client.key.file)
	if err != nil {
		t.Fatal(err)
	}
	right, err := os.ReadFile(es256Client.key.file)
	if err != nil {
		t.Fatal(err)
	}
	c := *es256Client
	c.key = &clientKey{id: es256Client.key.id}
	if c.key.file, err = writeFile(t.TempDir(), "client.key", string(wrong)); err != nil {
		t.Fatal(err)
	}
	s := startSites(t, site{issuer: oidcProvider.issuers[plainIssuer], client: &c})[0]
	s.wantRefusal(t)
	if err := os.WriteFile(c.key.file+".new", right, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(c.key.file+".new", c.key.file); err != nil {
		t.Fatal(err)
	}
	awaitCondition(t, "the new key is used", func() bool {
		status, _, err := s.g.send(0, http.MethodGet, path, "")
		return err == nil && status == http.StatusOK
	})
}
