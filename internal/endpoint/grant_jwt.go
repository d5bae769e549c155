package endpoint

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// This file asks with the JWT bearer grant: an assertion of the client's is what a token is granted for (RFC 7523
// §2.1).

// grantTypeJWT is the grant_type of the JWT bearer grant (RFC 7523 §2.1).
const grantTypeJWT = "urn:ietf:params:oauth:grant-type:jwt-bearer"

// defaultGrantTyp is the default of JWTGrant.Typ. Servers that know types of assertions at all know this one.
const defaultGrantTyp = "JWT"

// JWTGrant says for whom a token is asked by the JWT bearer grant. Request.Assertion signs with its key, and
// ignores what is for the client's own assertion: audience, typ and lifetime.
type JWTGrant struct {
	Issuer     string            // iss
	Subject    string            // sub; empty for none
	Audience   string            // aud; empty for the request's issuer, or the token endpoint without one
	ScopeClaim bool              // the scopes are a claim, not a parameter
	Claims     map[string]string // further claims
	Typ        string            // the typ of the header
	Lifetime   time.Duration     // from iat to exp, at least a second
}

// GrantJWTBearer is the name of the JWT bearer grant in the configuration.
const GrantJWTBearer = "jwt_bearer"

// ownClaims are the claims that a grant has by itself.
var ownClaims = []string{"iss", "sub", "aud", "exp", "iat", "nbf", "jti"}

// Complete applies the defaults of Typ and Lifetime, and refuses values that make no sense.
func (g *JWTGrant) Complete() error {
	g.Typ = cmp.Or(g.Typ, defaultGrantTyp)
	if err := completeLifetime("grant", &g.Lifetime); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(g.Claims)) {
		switch {
		case name == "" || strings.ContainsAny(name, "{}"):
			return fmt.Errorf("grant: claim: %q can't be the name of a claim, which has no placeholders; write claim <name> <value>", name)
		case slices.Contains(ownClaims, name):
			return fmt.Errorf("grant: claim: %s is written by the gateway itself; iss, sub, aud and the times come from issuer, subject, audience and lifetime", name)
		case name == "scope" && g.ScopeClaim:
			return errors.New("grant: claim: scope_claim writes the claim scope; remove one of them")
		}
	}
	return nil
}

// check refuses a grant that can't be asked for.
func (g *JWTGrant) check(r Request) error {
	switch {
	case g == nil:
		return nil
	case g.Issuer == "":
		return errors.New("grant: issuer: missing; give what the server knows as the issuer of the assertion, mostly the client's id")
	case r.Assertion.key == nil:
		return errors.New("signing_key: missing; grant jwt_bearer needs the file with the private key")
	case !utf8.ValidString(g.Issuer + g.Subject + g.audience(r) + strings.Join(r.Scopes, "") + strings.Join(slices.Collect(maps.Values(g.Claims)), "")):
		return errors.New("grant: a value is not UTF-8; write the file or the variable that it comes from in UTF-8")
	}
	for _, name := range []string{"grant_type", "assertion"} {
		if r.Params[name] != nil {
			return fmt.Errorf("param: %s is written by grant jwt_bearer; remove one of them", name)
		}
	}
	return nil
}

// sign makes the assertion for one attempt.
func (g *JWTGrant) sign(r Request, now time.Time) (string, error) {
	claims := make(map[string]any, len(g.Claims)+len(ownClaims))
	for name, value := range g.Claims {
		claims[name] = value
	}
	if g.ScopeClaim && len(r.Scopes) > 0 {
		claims["scope"] = strings.Join(r.Scopes, " ")
	}
	if g.Subject != "" {
		claims["sub"] = g.Subject
	}
	claims["iss"], claims["aud"] = g.Issuer, g.audience(r)
	claims["iat"], claims["exp"] = now.Unix(), now.Add(g.Lifetime).Unix()
	claims["jti"] = rand.Text()
	return r.Assertion.signClaims(g.Typ, "", claims)
}

func (g *JWTGrant) audience(r Request) string { return cmp.Or(g.Audience, r.Issuer, r.Endpoint) }

// shown lists whom the assertion is from and for, as operators may see it.
func (g *JWTGrant) shown(r Request) string {
	mask := func(claim string) string {
		for _, hidden := range r.Hidden {
			claim = strings.ReplaceAll(claim, hidden, "***")
		}
		return claim
	}
	audience := cmp.Or(g.Audience, r.Issuer, r.EndpointName())
	return readyAssertion{issuer: mask(g.Issuer), subject: mask(g.Subject), audience: mask(audience)}.String()
}

// fields returns what distinguishes one grant from another, for Request.Key.
func (g *JWTGrant) fields() []string {
	claims := make([]string, 0, 2*len(g.Claims))
	for _, name := range slices.Sorted(maps.Keys(g.Claims)) {
		claims = append(claims, name, g.Claims[name])
	}
	return append([]string{grantTypeJWT, g.Issuer, g.Subject, g.Audience, strconv.FormatBool(g.ScopeClaim), g.Typ, g.Lifetime.String()}, claims...)
}

// refusesGrant reports whether the endpoint refused the assertion that is the grant.
func (r Request) refusesGrant(f *Error) bool {
	return r.Grant != nil && f.Code == "invalid_grant"
}

// refusalHint is for invalid_grant, with which a server refuses an assertion (RFC 7521 §4.1.1).
func (g *JWTGrant) refusalHint(r Request, f *Error) string {
	if f.seen.skew != 0 {
		return DescribeSkew(f.seen.skew) + ", which may be why the assertion was refused; set it right"
	}
	return "the assertion of grant jwt_bearer was refused; it had " + g.shown(r) +
		"; check these, the clocks of both sides, whether the server has this key, and whether the client may act for this subject"
}
