package endpoint

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// This file makes assertions: JWTs that a client signs, to authenticate (RFC 7523 §2.2) or as the grant itself
// (§2.1, grant_jwt.go).

// AssertionOptions say how a client makes its assertions.
type AssertionOptions struct {
	File     string        // with the private key; empty if the client's secret signs
	Alg      string        // empty for the key's own, or HS256 for a secret
	KeyID    string        // the kid of the header; empty for the key's own
	Audience string        // the aud; empty for the issuer, or the token endpoint without an issuer
	Typ      string        // the typ of the header
	Lifetime time.Duration // from iat to exp, at least a second
	Chain    bool          // the header has all certificates of the file, and not only the thumbprints of the key's own
}

// Defaults of the option signing_key. The typ comes from draft-ietf-oauth-rfc7523bis: a JWT of this
// type can't be taken for one that was signed for another purpose.
const (
	defaultAssertionTyp      = "client-authentication+jwt"
	defaultAssertionLifetime = time.Minute
)

// Complete applies the defaults of Typ and Lifetime, and refuses values that make no sense.
func (o *AssertionOptions) Complete() error {
	if o.Typ == "" {
		o.Typ = defaultAssertionTyp
	}
	if strings.ContainsAny(o.Typ, "{}") {
		return fmt.Errorf("signing_key: typ: %q is no media type, and placeholders can't be used in it; write one such as JWT", o.Typ)
	}
	return completeLifetime("signing_key", &o.Lifetime)
}

// completeLifetime applies the default of an assertion's lifetime, and refuses values that make no sense.
func completeLifetime(option string, lifetime *time.Duration) error {
	switch {
	case *lifetime == 0:
		*lifetime = defaultAssertionLifetime
	case *lifetime < 0:
		return fmt.Errorf("%s: lifetime: must be longer than zero, such as %s", option, defaultAssertionLifetime)
	case *lifetime < time.Second:
		return fmt.Errorf("%s: lifetime: times in an assertion are in whole seconds; use at least 1s, such as %s", option, defaultAssertionLifetime)
	}
	return nil
}

// hmacAlgs lists the algorithms of client_secret_jwt, each with the least length of a secret in bytes
// (RFC 7518 §3.2).
var hmacAlgs = []struct {
	alg       jose.SignatureAlgorithm
	leastSize int
}{{jose.HS256, 32}, {jose.HS384, 48}, {jose.HS512, 64}}

// checkHMAC refuses an algorithm and a secret with which go-jose would not sign.
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
	return fmt.Errorf("signing_key: alg %s does not fit auth_method %s, which signs with the client_secret; use %s", alg, AuthSecretJWT, joinAlgs(names))
}

// Assertion makes the assertions of a client, together with its Request. The zero Assertion is for
// methods that don't sign.
type Assertion struct {
	file     string      // of the key
	key      *PrivateKey // nil if the client's secret signs
	alg      string      // empty only in the zero Assertion
	keyID    string
	audience string // empty for the issuer, or the token endpoint without an issuer
	typ      string
	lifetime time.Duration
	chain    bool   // the header has the key's certificates
	named    string // the certificate that the header names; empty for none
}

// NewAssertion combines complete options with the key. key is nil if the client's secret signs.
func NewAssertion(options AssertionOptions, key *PrivateKey) Assertion {
	a := Assertion{
		file: options.File, key: key, alg: options.Alg, keyID: options.KeyID, audience: options.Audience,
		typ: options.Typ, lifetime: options.Lifetime, chain: options.Chain, named: key.thumbprint(),
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

// fields returns what distinguishes one way to make assertions from another, for Request.Key.
func (a Assertion) fields() []string {
	hash := ""
	if a.key != nil {
		hash = a.key.publicHash
	}
	fields := []string{a.file, hash, a.alg, a.keyID, a.audience, a.typ, a.lifetime.String()}
	if a.named != "" {
		fields = append(fields, a.named, strconv.FormatBool(a.chain))
	}
	return fields
}

// assertionClaims are the claims of an assertion (RFC 7523 §3). aud is a single string: with a list, one
// server could use the assertion at another.
type assertionClaims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	ID       string `json:"jti"`
	IssuedAt int64  `json:"iat"`
	Expiry   int64  `json:"exp"`

	// Entra ID, which knows keys by their certificates, documents it. Others can refuse it if clocks differ.
	NotBefore int64 `json:"nbf,omitempty"`
}

// sign makes the client's assertion for one attempt. The next attempt needs another, as a server may accept each
// jti only once.
func (a Assertion) sign(r Request, now time.Time) (string, error) {
	claims := assertionClaims{
		Issuer: r.ClientID, Subject: r.ClientID, Audience: cmp.Or(a.audience, r.Issuer, r.Endpoint), ID: rand.Text(),
		IssuedAt: now.Unix(), Expiry: now.Add(a.lifetime).Unix(),
	}
	if a.named != "" {
		claims.NotBefore = claims.IssuedAt
	}
	return a.signClaims(a.typ, r.ClientSecret, claims)
}

// signClaims makes a JWT with the key, or with the secret if there is no key.
func (a Assertion) signClaims(typ, secret string, claims any) (string, error) {
	var key any = []byte(secret) // OpenID Connect Core 1.0 §10.1: its bytes are the key
	if a.key != nil {
		key = a.key.signer
	}
	options := new(jose.SignerOptions).WithType(jose.ContentType(typ))
	if a.keyID != "" {
		options.WithHeader("kid", a.keyID)
	}
	a.key.nameCertificate(options, a.chain)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(a.alg), Key: key}, options)
	if err != nil {
		return "", err
	}
	return jwt.Signed(signer).Claims(claims).Serialize()
}
