package endpoint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/dpop"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/mask"
)

// MaxResponse bounds how much of an answer is read, in bytes. A token has a few KiB.
const MaxResponse = 1 << 20

// MaxToken is the length of the longest token that is taken, in bytes. Servers take no header field of that
// length, most not even of an eighth of it. And a gateway can keep tokens for many tenants.
const MaxToken = 64 << 10

// The types of access tokens (RFC 6750 §6.1.1, RFC 9449 §5).
const (
	TypeBearer = "Bearer"
	TypeDPoP   = "DPoP"
)

// vettingTransport passes only answers that x/oauth2 can't misread, and keeps what the library drops. It
// serves one request.
//
// The library gets a token and nothing else. Everything that is wrong becomes an *Error here. The library would put
// the body into its errors, and accept any token type and an error with status 200.
type vettingTransport struct {
	next      http.RoundTripper
	tokenType string            // the type that was asked for
	fields    map[string]string // where the answer has what, as in Request.ResponseFields
	secrets   mask.Secrets      // of the request
	now       func() time.Time

	refreshToken string // that was sent; empty with other grants

	// What the answer says about its token; the caller adds the rest.
	granted Granted
	scope   string // the endpoint can put anything into it, even the credential
}

func (t *vettingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode < 200 {
		// After a switch of protocols the body is the connection, which may never end.
		return nil, &Error{Class: ClassInvalidResponse, Status: res.StatusCode, Detail: "the endpoint switches protocols"}
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, MaxResponse+1))
	// The status of a refusal is enough, even if its body is cut off.
	if err != nil && res.StatusCode < 400 {
		return nil, err
	}
	answer, failure := t.vet(res, body)
	if failure != nil {
		failure.Status = res.StatusCode
		failure.RetryAfter = retryAfter(res.Header, t.now())
		failure.nonce = dpop.NonceIn(res.Header)
		failure.seen = examine(res, body, answer.errorCode, t.now())
		return nil, failure
	}
	// The library only gets what it can't misread.
	t.granted, t.scope = grantedBy(answer, res.Header, t.now()), answer.scope
	t.granted.Scope = t.quote(body, answer, answer.scope)
	t.granted.UnusualType = t.unusualType(body, answer)
	t.granted.RefreshTokenReplaced = t.refreshToken != "" && answer.refreshToken != "" && answer.refreshToken != t.refreshToken
	normalized, err := json.Marshal(map[string]string{"access_token": answer.accessToken, "token_type": "Bearer"})
	if err != nil {
		return nil, err
	}
	res.Header = http.Header{"Content-Type": {"application/json"}}
	res.ContentLength = int64(len(normalized))
	res.Body = io.NopCloser(bytes.NewReader(normalized))
	return res, nil
}

// vet reads an answer, and returns what is wrong with it, or nil if its token can be used. The order of
// the cases matters: each relies on those before.
func (t *vettingTransport) vet(res *http.Response, body []byte) (tokenAnswer, *Error) {
	var answer tokenAnswer
	parsed := len(body) <= MaxResponse && answer.parse(body, res.Header.Get("Content-Type"), t.fields)
	if res.StatusCode < 200 || res.StatusCode > 299 || parsed && answer.hasError {
		return answer, t.refusal(res, answer, body)
	}
	invalid := &Error{Class: ClassInvalidResponse}
	switch {
	case len(body) > MaxResponse:
		invalid.Detail = "the answer is larger than 1 MiB"
	case len(bytes.TrimSpace(body)) == 0:
		invalid.Detail = "the answer is empty"
	case !parsed:
		invalid.Detail = "the answer is neither JSON nor a form"
	case answer.accessToken == "":
		invalid.Detail = "the answer has no access_token"
		if path := t.fields["access_token"]; path != "" {
			// Where tokens are elsewhere, so are errors. The wrong password must not be sent again soon.
			invalid.Class = ClassRefused
			invalid.Detail += " at " + path
		}
		invalid.Said = t.quote(body, answer, answer.words(body)) // some servers refuse with status 200
		invalid.lacksToken = invalid.Said == ""
	case len(answer.accessToken) > MaxToken:
		invalid.Detail = fmt.Sprintf("the answer's access_token has %d bytes; one of more than 64 KiB fits into no header", len(answer.accessToken))
	case strings.ContainsFunc(answer.accessToken, func(r rune) bool { return r <= ' ' || r > '~' }):
		invalid.Detail = "the access_token has characters that a header can't carry"
	case !t.takes(answer.tokenType):
		invalid.Detail = "the token_type is not " + t.tokenType
		switch {
		case t.tokenType == TypeDPoP:
			invalid.Detail += ": the endpoint has not bound the token to the gateway's key; have DPoP turned on for the client there"
		case strings.EqualFold(strings.TrimSpace(answer.tokenType), typeNone):
			invalid.Detail += ": what the endpoint has issued is no access token; ask for one with param requested_token_type urn:ietf:params:oauth:token-type:access_token"
		}
		invalid.Said = t.quote(body, answer, answer.tokenType)
	default:
		return answer, nil
	}
	return answer, invalid
}

// otherTypes are types of tokens that no API accepts as Bearer tokens. Some need a proof that their holder has a key.
// Others are no access tokens (RFC 8693 §2.2.1).
var otherTypes = []string{TypeDPoP, "PoP", "mac", typeNone}

// typeNone is the type of what an exchange has issued and is no access token.
const typeNone = "N_A"

// takes reports whether a token of this type can be used. A token that is to be bound must say that it
// is. Else, the type is often only another name for a Bearer token, or missing.
func (t *vettingTransport) takes(tokenType string) bool {
	tokenType = strings.TrimSpace(tokenType)
	if t.tokenType != TypeBearer {
		return strings.EqualFold(tokenType, t.tokenType)
	}
	return !slices.ContainsFunc(otherTypes, func(other string) bool { return strings.EqualFold(tokenType, other) })
}

// unusualType returns the type of a token that is used as a Bearer token and called otherwise.
func (t *vettingTransport) unusualType(body []byte, answer tokenAnswer) string {
	named := strings.TrimSpace(answer.tokenType)
	if named == "" || strings.EqualFold(named, t.tokenType) {
		return ""
	}
	return cmp.Or(t.quote(body, answer, named), "(too long)")
}

// refusal classifies an answer that is an error, by its status, or by its code if the status says
// nothing about the client.
func (t *vettingTransport) refusal(res *http.Response, answer tokenAnswer, body []byte) *Error {
	e := &Error{Class: classForStatus(res.StatusCode), Said: t.quote(body, answer, answer.words(body))}
	if i := slices.Index(registeredErrors, answer.errorCode); i >= 0 {
		e.Code = registeredErrors[i] // the other one can be a part of the answer, and keep all of it
	}
	if e.Class == ClassInvalidResponse {
		switch {
		case e.Code == "server_error" || e.Code == "temporarily_unavailable":
			e.Class = ClassServerError
		case e.Code != "" || res.StatusCode < 300:
			e.Class = ClassRefused
		}
	}
	if res.StatusCode >= 300 && res.StatusCode <= 399 {
		e.Detail = "the endpoint redirects, which is not followed; set token_endpoint to the final URL"
		if location, err := res.Location(); err == nil {
			e.Said = t.quote(body, answer, "redirects to "+DisplayURL(location))
		}
	}
	return e
}

// grantedBy returns what an answer says about its token.
func grantedBy(answer tokenAnswer, header http.Header, now time.Time) Granted {
	lifetime, known := answer.lifetime(now)
	refreshIn, _ := parseSeconds(answer.refreshIn)
	granted := Granted{
		Lifetime: max(lifetime, time.Second), LifetimeGuessed: !known, AtEnd: known && lifetime < time.Second, RefreshIn: refreshIn,
		ScopeKnown: answer.scopeKnown, Skew: clockSkew(header, now),
	}
	if granted.AtEnd {
		granted.AtEndHint = atEndHint(answer, granted.Skew, granted.Skew == 0 && header.Get("Date") != "")
	}
	return granted
}

// quote makes the endpoint's words fit for a log. A refusal can contain tokens as well, which are masked
// too. The result does not keep the answer in memory.
func (t *vettingTransport) quote(body []byte, answer tokenAnswer, text string) string {
	if text == "" {
		return ""
	}
	secrets := t.secrets
	secrets.Certain = slices.Concat(secrets.Certain, []string{answer.accessToken}, stringsIn(answer.noToken), tokensIn(body, lastName(t.fields["access_token"])))
	return strings.Clone(secrets.Quote(text))
}

// proofNoter has the proof of a request masked, which is made for this request alone.
type proofNoter struct {
	next    http.RoundTripper
	vetting *vettingTransport
}

func (t proofNoter) RoundTrip(req *http.Request) (*http.Response, error) {
	t.vetting.secrets.Certain = append(t.vetting.secrets.Certain, req.Header.Get(dpop.Header))
	return t.next.RoundTrip(req)
}
