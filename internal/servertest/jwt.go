package servertest

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// LongSecret is long enough for each of the HMAC algorithms.
var LongSecret = strings.Repeat("s3cret-canary-é", 5)

// SigningAlgs are all that an assertion can be signed with.
var SigningAlgs = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	jose.HS256, jose.HS384, jose.HS512,
}

// OpenJWT verifies a JWT and returns its protected header and its claims.
func OpenJWT(t testing.TB, text string, key any) (header, claims map[string]any) {
	t.Helper()
	parsed, err := jose.ParseSigned(text, SigningAlgs)
	if err != nil {
		t.Fatalf("%.60q: %v", text, err)
	}
	payload, err := parsed.Verify(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(text, ".")
	protected, err := base64.RawURLEncoding.DecodeString(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(protected, &header); err != nil {
		t.Fatal(err)
	}
	return header, claims
}
