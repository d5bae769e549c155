package check

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/help"
)

// Results of a check. Any other result is an error code: the endpoint's, or an endpoint.Class.
const (
	resultGranted    = "ok"
	resultNotChecked = "not_checked"
)

// Result is the outcome of the check of one grant. The command's help describes its members, and
// programs read them, so their names and their order are fixed. A member without a value is omitted.
type Result struct {
	// What was asked, and the outcome.
	Endpoint      string `json:"endpoint,omitempty"` // without its query
	Issuer        string `json:"issuer,omitempty"`
	ClientID      string `json:"client_id,omitempty"`
	AuthMethod    string `json:"auth_method"`
	Grant         string `json:"grant,omitempty"` // empty for the client-credentials grant
	RequestFormat string `json:"request_format"`
	Result        string `json:"result"`
	Status        int    `json:"status,omitempty"`

	// With a token. Times are in whole seconds.
	TokenType  string `json:"token_type,omitempty"`          // Bearer or DPoP
	Lifetime   int64  `json:"lifetime_seconds,omitempty"`    // 0 if it is unknown
	DefaultTTL int64  `json:"default_ttl_seconds,omitempty"` // used instead of an unknown lifetime
	Scope      string `json:"scope,omitempty"`               // granted, as far as known
	Missing    string `json:"missing_scope,omitempty"`       // asked and not granted
	ClockSkew  int64  `json:"clock_skew_seconds,omitempty"`  // also with a failure

	// With a failure. The accepted ones are what the endpoint accepted instead.
	Detail          string `json:"detail,omitempty"`           // in our words
	EndpointMessage string `json:"endpoint_message,omitempty"` // in the endpoint's words, masked
	Hint            string `json:"hint,omitempty"`             // what may help
	RetryAfter      int64  `json:"retry_after_seconds,omitempty"`
	AcceptedMethod  string `json:"accepted_auth_method,omitempty"`
	AcceptedFormat  string `json:"accepted_request_format,omitempty"`
	Help            string `json:"help,omitempty"` // address of what the documentation says about the result

	// With any outcome.
	MissingValues []string `json:"missing_values,omitempty"` // names of placeholders
	Notes         []string `json:"notes,omitempty"`

	refused bool // the endpoint refused the client
}

// failed reports whether a token was asked for and not granted.
func (r Result) failed() bool { return r.Result != resultGranted && r.Result != resultNotChecked }

// remark adds a note for the user.
func (r *Result) remark(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// newCheckResult starts the result of a request.
func newCheckResult(request endpoint.Request) Result {
	return Result{
		Endpoint: shownEndpoint(request), Issuer: request.Issuer, ClientID: request.ClientName(),
		AuthMethod: request.AuthMethod, Grant: request.GrantName(), RequestFormat: request.Format,
	}
}

// newUncheckedResult starts the result of a request that is not sent.
func newUncheckedResult(request endpoint.Request) Result {
	r := newCheckResult(request)
	r.Result, r.Help = resultNotChecked, help.Address(resultNotChecked)
	return r
}

// refusedBefore is for a grant whose client was refused for another grant. Each further try could
// bring the client closer to being locked out.
func refusedBefore(t Target) Result {
	r := newUncheckedResult(t.Template)
	r.remark("the same client was refused just now")
	return r
}

// uncheckedResult is for a grant whose placeholders have no values.
func uncheckedResult(t Target) Result {
	r := newUncheckedResult(t.Template)
	r.MissingValues = t.Missing
	r.remark("the grant differs from request to request; to check it, add --value %s=…", strings.Join(t.Missing, "=… --value "))
	r.Notes = append(r.Notes, t.Notes...)
	return r
}

// unfitResult is for a grant whose placeholders have values that can't be used.
func unfitResult(request endpoint.Request, err error) Result {
	r := newCheckResult(request)
	r.Result, r.Detail = string(endpoint.ClassRefused), err.Error()
	r.Help = help.Address(r.Result)
	return r
}

// succeed records what is known about a token.
func (r *Result) succeed(t Target, request endpoint.Request, granted endpoint.Granted) {
	r.Result, r.TokenType = resultGranted, endpoint.TypeBearer
	if t.Bound {
		r.TokenType = endpoint.TypeDPoP
	}
	// An answer without scope grants what was asked (RFC 6749 §5.1).
	r.Scope, r.Missing = strings.Join(request.Scopes, " "), granted.MissingScope
	if granted.ScopeKnown {
		r.Scope = granted.Scope
	}
	if granted.LifetimeFixed {
		r.remark("the lifetime is what ttl says")
	}
	if granted.LifetimeGuessed {
		r.DefaultTTL = wholeSeconds(granted.Lifetime)
		r.remark("the lifetime is unknown; default_ttl %s is used", granted.Lifetime)
	} else {
		r.Lifetime = wholeSeconds(granted.Lifetime)
	}
	if r.Missing != "" {
		r.remark("fewer scopes were granted than asked for; missing: %s", r.Missing)
	}
	if granted.UnusualType != "" {
		r.remark("the endpoint calls the token's type %s; it is used as a Bearer token", granted.UnusualType)
	}
	if granted.RefreshTokenReplaced {
		r.remark("the endpoint has replaced the refresh token, and may not take the configured one again; have rotation turned off for this client")
	}
	if granted.AtEnd {
		r.remark("the token has expired already when it is granted; %s", granted.AtEndHint)
	}
	r.remarkSkew(granted.Skew)
}

// fail records why there is no token.
func (r *Result) fail(failure *endpoint.Error) {
	r.Result, r.Status, r.refused = failure.ErrorCode(), failure.Status, failure.RefusesClient()
	r.Detail, r.EndpointMessage, r.Hint = failure.Detail, failure.Said, failure.Hint
	r.RetryAfter = wholeSeconds(failure.RetryAfter)
	r.Help = help.Address(r.Result)
	r.remarkSkew(failure.ClockSkew())
}

// accept records the way in which the endpoint accepted the secret, in the words of the configuration.
func (r *Result) accept(request, accepted endpoint.Request) {
	r.AcceptedMethod, r.AcceptedFormat = accepted.AuthMethod, accepted.Format
	r.Hint = "accepted with auth_method " + accepted.AuthMethod
	if accepted.Format != request.Format {
		r.Hint += " and request_format " + accepted.Format
	}
	r.Hint += "; write that"
}

// remarkSkew adds a note if the clocks differ, unless the hint says so already.
func (r *Result) remarkSkew(skew time.Duration) {
	if r.ClockSkew = int64(skew / time.Second); skew != 0 && !strings.Contains(r.Hint, endpoint.DescribeSkew(skew)) {
		r.remark("%s; assertions, proofs and the lifetimes of JWTs depend on it", endpoint.DescribeSkew(skew))
	}
}

// wholeSeconds returns a time in seconds. The lifetime of a JWT can have fractions.
func wholeSeconds(d time.Duration) int64 { return int64(math.Round(d.Seconds())) }

// shownEndpoint returns the endpoint without its query, which can be secret. It also works with
// unresolved placeholders, where the endpoint is not a URL yet.
func shownEndpoint(r endpoint.Request) string {
	if strings.Contains(r.Endpoint, "{") {
		shown, _, _ := strings.Cut(r.Endpoint, "?")
		return shown
	}
	return r.EndpointName()
}
