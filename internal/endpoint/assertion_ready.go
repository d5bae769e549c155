package endpoint

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode"

	"golang.org/x/oauth2"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/mask"
)

// This file is about assertions that somebody else has signed, such as Kubernetes for a service account. Who has
// made one also says whom it is for and until when, and has to renew it.

// readyAssertion has the claims of an assertion that matter here. Those that can't be read are zero.
type readyAssertion struct {
	issuer, subject string
	audience        string // separated by spaces
	expiry          time.Time
}

// maxAssertion bounds an assertion, in bytes. Servers take no form of many times its size.
const maxAssertion = 64 << 10

// CheckAssertionType refuses a client_assertion_type that is no absolute URI (RFC 7521 §4.2).
func CheckAssertionType(name string) error {
	if u, err := url.Parse(name); err == nil && u.IsAbs() && !strings.ContainsAny(name, "{} ") {
		return nil
	}
	return fmt.Errorf("client_assertion: the type is not a URI; write one such as %s, or leave it out for that", AssertionTypeJWT)
}

// parseReadyAssertion reads an assertion. It is not verified: that is what the endpoint does. The errors don't quote
// it.
func parseReadyAssertion(value string) (readyAssertion, error) {
	var a readyAssertion
	parts := strings.Split(value, ".")
	switch {
	case len(value) > maxAssertion:
		return a, errors.New("client_assertion: has more than 64 KiB, which no assertion has; name the file that has just the JWT")
	case strings.HasPrefix(value, "/") || strings.HasPrefix(value, "./"):
		return a, errors.New("client_assertion: a path, and no JWT; to read the file, write {file./path/to/file}")
	case strings.HasPrefix(value, "{") || strings.HasPrefix(value, "["):
		return a, errors.New("client_assertion: JSON, and no JWT; have whatever writes it write the JWT alone")
	case len(parts) != 3 || parts[2] == "":
		return a, errors.New("client_assertion: not a signed JWT, which has three parts with dots between them; give one that the endpoint trusts")
	}
	var claims map[string]json.RawMessage // each is read by itself, so that a wrong type does not hide the others
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		return a, errors.New("client_assertion: the claims of the JWT can't be read; have whatever writes it write it anew")
	}
	_ = json.Unmarshal(claims["iss"], &a.issuer)
	_ = json.Unmarshal(claims["sub"], &a.subject)
	var list []string
	if json.Unmarshal(claims["aud"], &list) != nil { // RFC 7519 §4.1.3: a list, or a single one
		list = make([]string, 1)
		_ = json.Unmarshal(claims["aud"], &list[0])
	}
	a.audience = strings.Join(list, " ")
	if exp := claimedTime(claims["exp"]); exp != nil && *exp > 0 && *exp < float64(1<<40) {
		a.expiry = time.Unix(int64(*exp), 0)
	}
	return a, nil
}

// readyAuth sends the assertion that is ready. One that has ended is not sent: the endpoint could only refuse it, and
// some lock clients out that are refused often.
func (r Request) readyAuth(now time.Time) (clientAuth, error) {
	ready, err := parseReadyAssertion(r.ClientAssertion)
	if err != nil {
		return clientAuth{}, err
	}
	if !ready.expiry.IsZero() && !now.Before(ready.expiry) {
		return clientAuth{}, fmt.Errorf("client_assertion: it ended at %s, %s ago; whatever writes it has to renew it",
			ready.expiry.UTC().Format(time.RFC3339), now.Sub(ready.expiry).Truncate(time.Second))
	}
	return clientAuth{
		style:     oauth2.AuthStyleInParams, // for the client_id
		params:    url.Values{"client_assertion_type": {r.ClientAssertionType}, "client_assertion": {r.ClientAssertion}},
		sensitive: []string{r.ClientAssertion},
	}, nil
}

// maxShownClaim bounds what a hint has of a claim, in characters.
const maxShownClaim = 200

// showClaims lists whom an assertion is from and for. Neither is secret.
func showClaims(issuer, subject, audience string) string {
	var shown []string
	for _, claim := range [][2]string{{"iss", issuer}, {"sub", subject}, {"aud", audience}} {
		value := strings.Map(func(r rune) rune {
			if unicode.IsPrint(r) {
				return r
			}
			return ' '
		}, mask.FirstRunes(claim[1], maxShownClaim))
		if value != "" {
			shown = append(shown, claim[0]+" "+value)
		}
	}
	return strings.Join(shown, ", ")
}

// readyRefusalHint tells whom the assertion was from and for, which the endpoint has to expect.
func (r Request) readyRefusalHint(f *Error) string {
	ready, err := parseReadyAssertion(r.ClientAssertion)
	if err != nil {
		return ""
	}
	hint := "the client's assertion was refused; it had " + showClaims(ready.issuer, ready.subject, ready.audience) + "; compare these with what the endpoint expects of this client"
	if f.seen.skew != 0 {
		hint += ", and note that " + DescribeSkew(f.seen.skew)
	}
	return hint
}
