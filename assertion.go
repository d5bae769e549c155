package oauthcc

import (
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// assertionType is the client_assertion_type of a JWT (RFC 7523 §2.2).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// Defaults of signing_key.
const (
	defaultAssertionTyp      = "client-authentication+jwt"
	defaultAssertionLifetime = time.Minute
)

// SigningKey tells how client assertions are made (RFC 7523 §2.2 and §3): JWTs that
// the client signs to authenticate itself, a new one for each attempt.
type SigningKey struct {
	// The file with the private key, for auth_method `private_key_jwt`: PEM (PKCS #8,
	// PKCS #1 or SEC 1) or a JWK. It is read again when it changes; a key that can't be
	// used leaves the one before in use. Without a file the client_secret signs, with
	// auth_method `client_secret_jwt`.
	File string `json:"file,omitempty"`

	// The signature algorithm (RFC 7518 §3.1, RFC 8037 §3.1): RS256, RS384, RS512, PS256,
	// PS384, PS512, ES256, ES384, ES512 or EdDSA, as fits the key; HS256, HS384 or HS512
	// with a secret. Default: the JWK's `alg`, or RS256, ES256, ES384, ES512, EdDSA by
	// the kind of the key; HS256 with a secret.
	Alg string `json:"alg,omitempty"`

	// The `kid` by which the server knows the key. Default: the JWK's, else none. As in
	// audience, {env.*}, {file.*} and {system.*} can be used.
	KeyID string `json:"key_id,omitempty"`

	// The `aud` of the assertion. Default: the issuer if that is configured, else the
	// token endpoint.
	Audience string `json:"audience,omitempty"`

	// The `typ` of the assertion; servers that know no other want `JWT`. Default:
	// `client-authentication+jwt`.
	Typ string `json:"typ,omitempty"`

	// How long after it is made an assertion expires, at least a second. Default: `1m`.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`
}

// provision applies defaults and refuses what can't be meant.
func (s *SigningKey) provision() error {
	if s.Typ == "" {
		s.Typ = defaultAssertionTyp
	}
	if strings.ContainsAny(s.Typ, "{}") {
		return fmt.Errorf("signing_key: typ: %q is no media type, and placeholders can't be used in it; write one such as JWT", s.Typ)
	}
	if err := checkDuration("signing_key: lifetime", &s.Lifetime, defaultAssertionLifetime); err != nil {
		return err
	}
	if time.Duration(s.Lifetime) < time.Second {
		return fmt.Errorf("signing_key: lifetime: times in an assertion are in whole seconds; use at least 1s, such as %s", defaultAssertionLifetime)
	}
	return nil
}

// hmacAlgs lists the algorithms of client_secret_jwt, and the least length of a secret
// for each, in bytes (RFC 7518 §3.2).
var hmacAlgs = []struct {
	alg       jose.SignatureAlgorithm
	leastSize int
}{{jose.HS256, 32}, {jose.HS384, 48}, {jose.HS512, 64}}

// checkHMAC refuses what go-jose could not sign with.
func checkHMAC(alg, secret string) error {
	var names []jose.SignatureAlgorithm
	for _, known := range hmacAlgs {
		names = append(names, known.alg)
		if string(known.alg) != alg {
			continue
		}
		if len(secret) < known.leastSize {
			return fmt.Errorf("client_secret: %s needs one of %d bytes or more (RFC 7518 §3.2); have the authorization server issue a longer one, or use another auth_method", alg, known.leastSize)
		}
		return nil
	}
	return fmt.Errorf("signing_key: alg %s does not fit auth_method %s, which signs with the client_secret; use %s", alg, authSecretJWT, joinAlgs(names))
}

// clientAssertion is all that an assertion is made of.
type clientAssertion struct {
	file     string      // of the key
	key      *signingKey // nil: the client's secret
	alg      string
	keyID    string
	audience string // empty: the issuer, or else the token endpoint
	typ      string
	lifetime time.Duration
}

// newClientAssertion combines the options with the key, if there is one.
func newClientAssertion(options SigningKey, key *signingKey) clientAssertion {
	a := clientAssertion{
		file: options.File, key: key, alg: options.Alg, keyID: options.KeyID, audience: options.Audience,
		typ: options.Typ, lifetime: time.Duration(options.Lifetime),
	}
	switch {
	case key == nil && a.alg == "":
		a.alg = string(jose.HS256)
	case key != nil && a.alg == "":
		a.alg = string(key.alg)
	}
	if key != nil && a.keyID == "" {
		a.keyID = key.keyID
	}
	return a
}

// fields are what distinguishes one way to make assertions from another.
func (a clientAssertion) fields() []string {
	name := ""
	if a.key != nil {
		name = a.key.name
	}
	return []string{a.file, name, a.alg, a.keyID, a.audience, a.typ, a.lifetime.String()}
}

// assertionClaims are those of RFC 7523 §3. aud is a single string: a list would let one
// server use the assertion at another.
type assertionClaims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	ID       string `json:"jti"`
	IssuedAt int64  `json:"iat"`
	Expiry   int64  `json:"exp"`
}

// sign makes an assertion for one attempt.
func (a clientAssertion) sign(r grantRequest, now time.Time) (string, error) {
	var key any = []byte(r.clientSecret)
	if a.key != nil {
		key = a.key.signer
	}
	options := new(jose.SignerOptions).WithType(jose.ContentType(a.typ))
	if a.keyID != "" {
		options.WithHeader("kid", a.keyID)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(a.alg), Key: key}, options)
	if err != nil {
		return "", err
	}
	audience := a.audience
	switch {
	case audience != "":
	case r.issuer != "":
		audience = r.issuer
	default:
		audience = r.endpoint
	}
	return jwt.Signed(signer).Claims(assertionClaims{
		Issuer: r.clientID, Subject: r.clientID, Audience: audience, ID: rand.Text(),
		IssuedAt: now.Unix(), Expiry: now.Add(a.lifetime).Unix(),
	}).Serialize()
}
