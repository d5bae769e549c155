package endpoint

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Granted is a token that the endpoint granted, with what the endpoint said about it.
type Granted struct {
	Value string // fit for a header field

	// How long the token lives. That is at least a second. An answer that says less is probably from
	// a server whose clock is wrong; it sets AtEnd.
	Sent            time.Time // when the request was sent; the lifetime counts from then
	Lifetime        time.Duration
	LifetimeGuessed bool          // it is Client.DefaultTTL, as neither expires_in nor the token itself tells it
	LifetimeFixed   bool          // from Request.TTL
	AtEnd           bool          // it should live for less than a second
	AtEndHint       string        // why that may be; empty if it lives longer
	RefreshIn       time.Duration // after which the endpoint wants the token renewed; 0 if it doesn't say

	// What the token is for.
	Scope        string // as answered, fit for a log
	ScopeKnown   bool   // the answer has a scope; without one, it is as asked (RFC 6749 §5.1)
	MissingScope string // asked, but not granted; separated by spaces

	// UnusualType is the token_type that the endpoint gives a token which is used as a Bearer token, fit for
	// a log. It is empty for Bearer, for DPoP, and without a type.
	UnusualType string

	// RefreshTokenReplaced means that the endpoint has answered a refresh token with another one, which is
	// not kept. It may not take the first one again (RFC 6749 §6).
	RefreshTokenReplaced bool

	// Skew is how far the endpoint's clock is ahead of ours. It is 0 for up to half a minute.
	Skew time.Duration
}

// MaxLifetime is the longest lifetime that is believed. A longer one counts as unknown.
const MaxLifetime = 100 * 365 * 24 * time.Hour

// parseSeconds reads an expires_in: an integer, a float, or either as a string. It reports false if it
// is not a number, or more than MaxLifetime.
func parseSeconds(text string) (time.Duration, bool) {
	text = strings.TrimSpace(text)
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return !strings.ContainsRune("0123456789+-.eE", r) }) {
		return 0, false
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || seconds > MaxLifetime.Seconds() {
		return 0, false
	}
	return time.Duration(max(seconds, 0) * float64(time.Second)), true
}

// JWTLifetime reads a token's own lifetime if the token is a JWT (RFC 9068). The JWT is not verified,
// as a wrong lifetime only makes the gateway renew too early; the API decides about the token. The
// lifetime is the smaller of exp - iat and exp - now, so clocks that differ only shorten it.
// JWTLifetime reports false for any other token, and for more than MaxLifetime.
func JWTLifetime(token string, now time.Time) (time.Duration, bool) {
	exp, iat := jwtTimes(token)
	if exp == nil {
		return 0, false
	}
	seconds := *exp - float64(now.UnixMilli())/1000
	if iat != nil {
		seconds = min(seconds, *exp-*iat)
	}
	if seconds > MaxLifetime.Seconds() {
		return 0, false
	}
	return time.Duration(max(seconds, 0) * float64(time.Second)), true
}

// jwtTimes reads the claims exp and iat of a JWT, in seconds since 1970. Each is nil if it can't be read.
func jwtTimes(token string) (exp, iat *float64) {
	_, rest, _ := strings.Cut(token, ".") // header, payload, signature (RFC 7515 §3.1)
	encoded, signature, isJWT := strings.Cut(rest, ".")
	if !isJWT || strings.Contains(signature, ".") {
		return nil, nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return nil, nil
	}
	var claims map[string]json.RawMessage // a struct would take names in any case (RFC 7519 §10.1.1)
	if err := json.Unmarshal(payload, &claims); err != nil {
		return nil, nil
	}
	return claimedTime(claims["exp"]), claimedTime(claims["iat"])
}

// claimedTime reads a claim by itself, so that a wrong type does not hide the other.
func claimedTime(claim json.RawMessage) *float64 {
	var seconds *float64
	if err := json.Unmarshal(claim, &seconds); err != nil {
		return nil
	}
	return seconds
}

// atEndHint says why a token may be at its end when it is granted. Clocks only matter if the token's own
// exp says so: expires_in counts from the answer.
func atEndHint(a tokenAnswer, skew time.Duration, sameClock bool) string {
	told, isTold := parseSeconds(a.expiresIn)
	saysExpiresIn := isTold && told < time.Second
	exp, iat := jwtTimes(a.accessToken)
	hasLived := exp != nil && iat != nil && *exp-*iat >= 1
	switch {
	case hasLived && (saysExpiresIn || sameClock):
		return "the endpoint hands out a token that it has kept until its end"
	case saysExpiresIn:
		return "expires_in says so; if the token lives longer, set ttl"
	case exp != nil && iat != nil && !hasLived:
		return "its exp and iat say so; if the token lives longer, set ttl"
	case skew != 0:
		return "its exp says so, and " + DescribeSkew(skew) + "; set it right"
	}
	return "its exp says so; compare the clocks of this machine and the endpoint"
}

// missingScope lists the scopes that were asked for and are not in the one that the endpoint answered. A
// wildcard, asked or granted, stands for any scopes. Some servers write a comma between scopes: a list with
// commas is granted as a whole, or by its parts.
func missingScope(asked []string, answered string) string {
	// Whether it was granted, of each scope that was asked for and of its parts. The answer can have half a
	// million scopes, so each is looked up once, and none is kept.
	granted := make(map[string]bool)
	for _, list := range asked {
		for scope := range strings.FieldsSeq(list) {
			granted[scope] = false
			for part := range strings.SplitSeq(scope, ",") {
				granted[part] = false
			}
		}
	}
	for scope := range strings.FieldsSeq(answered) {
		for part := range strings.SplitSeq(scope, ",") {
			if part == "*" {
				return ""
			}
			note(granted, part)
		}
		note(granted, scope)
	}
	var missing []string
	for _, list := range asked {
		for scope := range strings.FieldsSeq(list) {
			if scope != "*" && !granted[scope] && !areGranted(scope, granted) {
				missing = append(missing, scope)
			}
		}
	}
	return strings.Join(missing, " ")
}

// note notes that a scope was granted, if it was asked for.
func note(granted map[string]bool, scope string) {
	if _, isAsked := granted[scope]; isAsked {
		granted[scope] = true
	}
}

// areGranted reports whether all parts of a list with commas were granted. A list without parts was not.
func areGranted(list string, granted map[string]bool) bool {
	hasParts := false
	for part := range strings.SplitSeq(list, ",") {
		if part == "" {
			continue
		}
		if hasParts = true; !granted[part] {
			return false
		}
	}
	return hasParts
}
