package servers

import (
	"strings"
	"testing"
)

const orders = "https://api.test.example/"

func TestClientSecretsAtOIDCProvider(t *testing.T) {
	plain := oidcProvider.issuers[plainIssuer]
	testSites(t,
		site{name: "basic", issuer: plain, client: basicClient, options: "scope orders:read"},
		site{name: "post", issuer: plain, client: postClient},
		site{name: "basic with reserved characters", issuer: plain, client: reservedBasicClient},
		site{name: "post with reserved characters", issuer: plain, client: reservedPostClient},
	)
}

// RFC 8707: the resource makes the token a JWT with that audience.
func TestResourceIndicator(t *testing.T) {
	plain := oidcProvider.issuers[plainIssuer]
	testSites(t,
		site{name: "basic", issuer: plain, client: basicClient, resource: orders, options: "scope orders:read orders:write"},
		site{name: "post", issuer: plain, client: postClient, resource: orders},
	)
}

func TestClientSecretsAtFosite(t *testing.T) {
	opaque, jwt := fosite.issuers[opaqueIssuer], fosite.issuers[jwtIssuer]
	testSites(t,
		site{name: "basic", issuer: opaque, client: basicClient, options: "scope orders:read"},
		site{name: "post", issuer: opaque, client: postClient},
		site{name: "basic with reserved characters", issuer: opaque, client: reservedBasicClient},
		site{name: "post with reserved characters", issuer: opaque, client: reservedPostClient},
		site{name: "basic with others than ASCII", issuer: opaque, client: unicodeBasicClient},
		site{name: "post with others than ASCII", issuer: opaque, client: unicodePostClient},
		site{name: "basic, JWT", issuer: jwt, client: basicClient, jwt: true},
		site{name: "post, JWT", issuer: jwt, client: postClient, jwt: true},
	)
}

// Both servers decode Basic credentials, so that they don't know those that were not
// encoded. The log says what to do.
func TestRawBasicWithReservedCharactersIsRefused(t *testing.T) {
	for name, issuer := range map[string]*issuer{
		"oidc-provider": oidcProvider.issuers[plainIssuer], "fosite": fosite.issuers[opaqueIssuer],
	} {
		t.Run(name, func(t *testing.T) {
			raw := *reservedSecretClient
			raw.method = "client_secret_basic_raw"
			s := startSites(t, site{issuer: issuer, client: &raw})[0]
			if hint, _ := s.wantRefusal(t)["hint"].(string); !strings.Contains(hint, "try auth_method client_secret_basic, or find out with --try-methods; see https://") {
				t.Errorf("the hint is %q", hint)
			}
		})
	}
}
