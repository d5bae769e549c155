package endpoint

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
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
	if problem := assertionProblem(value); problem != "" {
		return readyAssertion{}, errors.New("client_assertion: " + problem)
	}
	parts := strings.Split(value, ".")
	var header, claims map[string]json.RawMessage // each claim is read by itself, so that a wrong type does not hide the others
	if len(parts) != 3 || parts[2] == "" || !decodeObject(parts[0], &header) {
		return readyAssertion{}, errors.New("client_assertion: not a signed JWT, which has three parts with dots between them; give one that the endpoint trusts")
	}
	if !decodeObject(parts[1], &claims) {
		return readyAssertion{}, errors.New("client_assertion: the claims of the JWT can't be read; have whatever writes it write it anew")
	}
	var a readyAssertion
	_ = json.Unmarshal(claims["iss"], &a.issuer)
	_ = json.Unmarshal(claims["sub"], &a.subject)
	var list []string
	if json.Unmarshal(claims["aud"], &list) != nil { // RFC 7519 §4.1.3: a list, or a single one
		list = make([]string, 1)
		_ = json.Unmarshal(claims["aud"], &list[0])
	}
	a.audience = strings.Join(list, " ")
	if exp := claimedTime(claims["exp"]); exp != nil && math.Abs(*exp) < float64(1<<40) {
		a.expiry = time.Unix(int64(*exp), 0)
	}
	return a, nil
}

// assertionProblem says what a value is instead of a JWT, and what to do. It is empty for what may be one.
func assertionProblem(value string) string {
	switch {
	case len(value) > maxAssertion:
		return "has more than 64 KiB, which no assertion has; name the file that has just the JWT"
	case strings.HasPrefix(value, "/") || strings.HasPrefix(value, "./"):
		return "a path, and no JWT; to read the file, write {file./path/to/file}"
	case strings.HasPrefix(value, "{") || strings.HasPrefix(value, "["):
		return "JSON, and no JWT; have whatever writes it write the JWT alone"
	case strings.HasPrefix(value, string(byteOrderMark)):
		return "begins with a byte order mark; have whatever writes it write UTF-8 without one"
	case strings.HasPrefix(value, "Bearer "):
		return "begins with Bearer; have whatever writes it write the JWT alone"
	case environmentLine.MatchString(value):
		return "has the form NAME=value; keep the JWT alone in the file"
	case strings.ContainsFunc(value, func(r rune) bool { return !isInJWT(r) }):
		return "has characters that no JWT has, such as white space; have whatever writes it write the JWT alone"
	}
	return ""
}

// isInJWT reports whether a JWT can have the character (RFC 7515 §2 and §7.1).
func isInJWT(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r)
}

// decodeObject reads a part of a JWT that is a JSON object.
func decodeObject(part string, members *map[string]json.RawMessage) bool {
	text, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(text, members) == nil && *members != nil
}

// CheckClientAssertion refuses what is no signed JWT. Its errors don't quote it.
func CheckClientAssertion(value string) error {
	_, err := parseReadyAssertion(value)
	return err
}

// readyAuth sends the assertion that is ready. One that has ended is not sent: the endpoint could only refuse it, and
// some lock clients out that are refused often.
func (r Request) readyAuth(now time.Time) (clientAuth, error) {
	ready, err := parseReadyAssertion(r.ClientAssertion)
	if err != nil {
		return clientAuth{}, err
	}
	if !ready.expiry.IsZero() && !now.Before(ready.expiry) {
		return clientAuth{}, fmt.Errorf("client_assertion: it ended at %s, %s ago by this machine's clock; whatever writes it has to renew it",
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

// String lists whom an assertion is from and for, for operators.
func (a readyAssertion) String() string {
	shown := make([]string, 0, 3)
	for _, claim := range [][2]string{{"iss", a.issuer}, {"sub", a.subject}, {"aud", a.audience}} {
		value := strings.Map(func(r rune) rune {
			if unicode.IsPrint(r) {
				return r
			}
			return ' '
		}, mask.FirstRunes(claim[1], maxShownClaim))
		if value == "" {
			value = "(none)"
		}
		shown = append(shown, claim[0]+" "+value)
	}
	return strings.Join(shown, ", ")
}

// readyRefusalHint tells whom the assertion was from and for, which the endpoint has to expect.
func (r Request) readyRefusalHint(f *Error) string {
	ready, err := parseReadyAssertion(r.ClientAssertion)
	if err != nil {
		return ""
	}
	hint := "the client's assertion was refused; it had " + ready.String() + "; compare these with what the endpoint expects of this client"
	if f.seen.skew != 0 {
		hint += ", and note that " + DescribeSkew(f.seen.skew)
	}
	return hint
}
