package oauthcc

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// maxResponse bounds what is read of a token response, in bytes.
const maxResponse = 1 << 20

// byteOrderMark is what some servers put before JSON, and RFC 8259 §8.1 lets be ignored.
var byteOrderMark = []byte("\xef\xbb\xbf")

// maxLifetime is the longest lifetime that is believed. What claims more tells
// nothing, and default_ttl applies.
const maxLifetime = 100 * 365 * 24 * time.Hour

// maxRetryAfter bounds a Retry-After: an endpoint can't be told apart from a
// broken one that would silence the gateway for ever.
const maxRetryAfter = time.Hour

// grantedToken is what the endpoint granted.
type grantedToken struct {
	value         string
	sent          time.Time // when the request was sent, from which the lifetime counts
	lifetime      time.Duration
	lifetimeKnown bool
	atEnd         bool          // it is said to live for less than a second, if at all
	refreshIn     time.Duration // when the endpoint wants the token renewed, 0 if it doesn't say
	scope         string        // as answered
	scopeKnown    bool          // the answer has a scope; without, it is as asked (RFC 6749 §5.1)
	missingScope  string        // asked, but not granted
	sequence      uint64        // see sharedToken
	adopted       bool          // another gateway has got it
	skew          time.Duration // how far the endpoint's clock is ahead of ours; 0 up to mostSkew
}

// failureClass is the kind of a failed fetch. Its text is the error code where the
// endpoint gave none that is registered.
type failureClass string

const (
	classRefused         failureClass = "refused"
	classUnreachable     failureClass = "unreachable"
	classTimeout         failureClass = "timeout"
	classServerError     failureClass = "server_error"
	classInvalidResponse failureClass = "invalid_response"
)

// fetchError tells why there is no token. Its text holds nothing of what the
// endpoint said and nothing of the inside of the gateway, since error routes can show
// it to clients.
type fetchError struct {
	class      failureClass
	code       string        // error code registered for OAuth, if the endpoint gave one
	status     int           // HTTP status of the answer, 0 without
	detail     string        // in our words, for the log alone
	said       string        // the endpoint's words, made safe, likewise
	hint       string        // what may help
	seen       symptoms      // of the answer, from which the hint comes
	retryAfter time.Duration // as the endpoint asked, 0 without
	unsent     bool          // nothing was sent; the configuration is at fault
	queued     bool          // nor asked for, since other fetches had their turn all the time
	nonce      string        // that the answer brought for the next DPoP proof (RFC 9449 §8)
	asked      grantKey      // what was sent
}

// Error implements error.
func (e *fetchError) Error() string {
	if e.status != 0 {
		return fmt.Sprintf("no access token: %s, HTTP status %d", e.errorCode(), e.status)
	}
	return "no access token: " + e.errorCode()
}

// errorCode is the endpoint's error code if it is a registered one, otherwise the
// class of the failure.
func (e *fetchError) errorCode() string {
	if e.code != "" {
		return e.code
	}
	return string(e.class)
}

// transient reports whether the same request may succeed a moment later.
func (e *fetchError) transient() bool {
	return e.class == classUnreachable || e.class == classTimeout || e.class == classServerError
}

// refusesClient reports whether it is the client that was refused: by its error
// code, or by a status without any code, as some servers do with an empty body.
func (e *fetchError) refusesClient() bool {
	if e.code != "" {
		return e.code == "invalid_client"
	}
	return e.status == http.StatusUnauthorized || e.status == http.StatusForbidden
}

// registeredErrors are the codes of the IANA registry "OAuth Extensions Error" and
// of RFC 6749 §5.2 that a token endpoint can answer a client-credentials request
// with. Any other text stays out of placeholders.
var registeredErrors = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type",
	"invalid_scope", "invalid_target", "invalid_authorization_details", "invalid_dpop_proof", "use_dpop_nonce",
	"access_denied", "server_error", "temporarily_unavailable",
}

// The types of access tokens (RFC 6750 §6.1.1, RFC 9449 §5).
const (
	typeBearer = "Bearer"
	typeDPoP   = "DPoP"
)

// vettingTransport lets x/oauth2 see only answers that it can't misread, and keeps
// of them what the library drops. It serves one request.
type vettingTransport struct {
	next      http.RoundTripper
	tokenType string              // that was asked for
	mask      func(string) string // replaces credentials in a text
	now       func() time.Time
	granted   grantedToken
}

func (t *vettingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode < 200 {
		// A switch of protocols hands over the connection, which nothing bounds.
		return nil, &fetchError{class: classInvalidResponse, status: res.StatusCode, detail: "the endpoint switches protocols"}
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxResponse+1))
	if err != nil && res.StatusCode < 400 {
		return nil, err
	}
	answer, failure := t.vet(res, body)
	if failure != nil {
		failure.status = res.StatusCode
		failure.retryAfter = retryAfter(res.Header, t.now())
		failure.nonce = nonceIn(res.Header)
		failure.seen = examine(res, body, answer.errorCode, t.now())
		return nil, failure
	}
	t.granted.skew = clockSkew(res.Header, t.now())
	normalized, err := json.Marshal(map[string]string{"access_token": answer.accessToken, "token_type": "Bearer"})
	if err != nil {
		return nil, err
	}
	res.Header = http.Header{"Content-Type": {"application/json"}}
	res.ContentLength = int64(len(normalized))
	res.Body = io.NopCloser(bytes.NewReader(normalized))
	return res, nil
}

func (t *vettingTransport) vet(res *http.Response, body []byte) (tokenAnswer, *fetchError) {
	var answer tokenAnswer
	parsed := len(body) <= maxResponse && answer.parse(body, res.Header.Get("Content-Type"))
	if res.StatusCode < 200 || res.StatusCode > 299 || parsed && answer.hasError {
		return answer, t.refusal(res, answer)
	}
	invalid := &fetchError{class: classInvalidResponse}
	switch {
	case len(body) > maxResponse:
		invalid.detail = "the answer is larger than 1 MiB"
	case len(bytes.TrimSpace(body)) == 0:
		invalid.detail = "the answer is empty"
	case !parsed:
		invalid.detail = "the answer is neither JSON nor a form"
	case answer.accessToken == "":
		invalid.detail = "the answer has no access_token"
	case strings.ContainsFunc(answer.accessToken, func(r rune) bool { return r <= ' ' || r > '~' }):
		invalid.detail = "the access_token has characters that a header can't carry"
	case !t.isAsked(answer.tokenType):
		invalid.detail = "the token_type is not " + t.tokenType
		if t.tokenType == typeDPoP {
			invalid.detail += ": the endpoint has not bound the token to the gateway's key; have DPoP turned on for the client there"
		}
		invalid.said = t.quote(answer, answer.tokenType)
	default:
		t.granted.scope, t.granted.scopeKnown = answer.scope, answer.scopeKnown
		lifetime, known := answer.lifetime(t.now())
		t.granted.lifetime, t.granted.lifetimeKnown = max(lifetime, time.Second), known
		t.granted.atEnd = known && lifetime < time.Second
		t.granted.refreshIn, _ = parseSeconds(answer.refreshIn)
		return answer, nil
	}
	return answer, invalid
}

// isAsked reports whether a token is of the type that was asked for. Without a type it is
// taken for a Bearer token, and never for a bound one.
func (t *vettingTransport) isAsked(tokenType string) bool {
	return strings.EqualFold(tokenType, t.tokenType) || tokenType == "" && t.tokenType == typeBearer
}

// refusal classifies an answer that is an error, by its status and its code.
func (t *vettingTransport) refusal(res *http.Response, answer tokenAnswer) *fetchError {
	e := &fetchError{class: classForStatus(res.StatusCode), said: t.quote(answer, strings.TrimSpace(answer.errorCode+" "+answer.errorDescription))}
	if slices.Contains(registeredErrors, answer.errorCode) {
		e.code = answer.errorCode
	}
	switch status := res.StatusCode; {
	case status >= 300 && status <= 399:
		e.detail = "the endpoint redirects, which is not followed; set token_endpoint to the final URL"
		if location, err := res.Location(); err == nil {
			e.said = t.quote(answer, "redirects to "+displayURL(location))
		}
	case status < 300 && (e.code == "server_error" || e.code == "temporarily_unavailable"):
		e.class = classServerError
	}
	return e
}

// classForStatus tells a server that is not well from one that refuses.
func classForStatus(status int) failureClass {
	if status >= 500 || status == http.StatusRequestTimeout || status == http.StatusTooManyRequests {
		return classServerError
	}
	return classRefused
}

func (t *vettingTransport) quote(answer tokenAnswer, text string) string {
	return quote(func(text string) string { return maskSecrets(t.mask(text), "", answer.accessToken) }, text)
}

// maxQuoted bounds what is looked at of a peer's words, in bytes. It is more than what is shown,
// since masks can be shorter than what they hide.
const maxQuoted = 4 << 10

// quote makes a peer's words fit for a log: printable, at most 200 characters, no
// credential and no token, be it one that was sent or any JWT.
func quote(mask func(string) string, text string) string {
	if len(text) > maxQuoted {
		// Up to a whole word: half of a credential would not be recognised.
		text = text[:strings.LastIndexAny(text[:maxQuoted], " \t\r\n")+1]
	}
	text = anyJWT.ReplaceAllLiteralString(mask(strings.ToValidUTF8(text, "")), "***")
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
	return firstRunes(text, 200)
}

// shortened is a text of ours that can quote a value of any length.
func shortened(text string) string { return firstRunes(text, 500) }

// firstRunes cuts a text off after so many characters.
func firstRunes(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most])
	}
	return text
}

// anyJWT finds a JWT, or the beginning of one: a client's assertion or proof can come back
// in an error. It starts with {", in base64url.
var anyJWT = regexp.MustCompile(`eyJ[\w-]+(\.[\w-]*)*`)

// tokenAnswer holds the members of a token response (RFC 6749 §5.1 and §5.2).
type tokenAnswer struct {
	accessToken      string
	tokenType        string
	expiresIn        string // the number as it stands, empty if there is none
	refreshIn        string // likewise: refresh_in, by which some servers recommend when to renew
	scope            string
	scopeKnown       bool
	hasError         bool
	errorCode        string
	errorDescription string
}

// parse reads the body as JSON, whatever its type says, and else as a form where
// its type allows that. It reports whether the body is either.
func (a *tokenAnswer) parse(body []byte, contentType string) bool {
	body = bytes.TrimPrefix(body, byteOrderMark)
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err == nil && members != nil {
		a.fromJSON(members)
		return true
	}
	switch mediaType, _, _ := mime.ParseMediaType(contentType); mediaType {
	case "", "application/x-www-form-urlencoded", "text/plain":
	default:
		return false
	}
	form, err := url.ParseQuery(strings.TrimSpace(string(body)))
	if err != nil || !form.Has("access_token") && !form.Has("error") {
		return false
	}
	a.accessToken, a.tokenType = form.Get("access_token"), form.Get("token_type")
	a.expiresIn, a.refreshIn = form.Get("expires_in"), form.Get("refresh_in")
	a.scope, a.scopeKnown = form.Get("scope"), form.Has("scope")
	a.errorCode, a.errorDescription = form.Get("error"), form.Get("error_description")
	a.hasError = a.errorCode != ""
	return true
}

func (a *tokenAnswer) fromJSON(members map[string]json.RawMessage) {
	text := func(name string) string {
		var s string
		_ = json.Unmarshal(members[name], &s)
		return s
	}
	a.accessToken = text("access_token")
	a.tokenType = text("token_type")
	if raw := members["token_type"]; a.tokenType == "" && present(raw) && string(raw) != `""` {
		a.tokenType = string(raw) // not a string
	}
	a.scope = text("scope")
	a.scopeKnown = strings.HasPrefix(string(members["scope"]), `"`)
	number := func(name string) string {
		if s := text(name); s != "" {
			return s
		}
		return string(members[name])
	}
	a.expiresIn, a.refreshIn = number("expires_in"), number("refresh_in")
	// An error of another type than a string is still an error, but for the values
	// with which a server says that there is none.
	a.hasError = present(members["error"]) && !slices.Contains([]string{`""`, "false", "0"}, string(members["error"]))
	a.errorCode, a.errorDescription = text("error"), text("error_description")
}

func present(raw json.RawMessage) bool {
	return len(raw) > 0 && string(raw) != "null"
}

// lifetime is the shorter of what expires_in and the token itself tell, counted
// from when the request was sent. It reports whether either told anything.
func (a *tokenAnswer) lifetime(now time.Time) (time.Duration, bool) {
	lifetime, known := parseSeconds(a.expiresIn)
	if own, ok := jwtLifetime(a.accessToken, now); ok && (!known || own < lifetime) {
		lifetime, known = own, true
	}
	return lifetime, known
}

// parseSeconds reads an expires_in: integer, float or either as a string.
func parseSeconds(text string) (time.Duration, bool) {
	text = strings.TrimSpace(text)
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return !strings.ContainsRune("0123456789+-.eE", r) }) {
		return 0, false
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || seconds > maxLifetime.Seconds() {
		return 0, false
	}
	return time.Duration(max(seconds, 0) * float64(time.Second)), true
}

// jwtLifetime reads the lifetime that a token tells of itself if it is a JWT
// (RFC 9068), unverified: the API judges the token, here it can only be renewed too
// early. The smaller of exp - iat and exp - now holds, so that clocks that disagree
// only shorten it.
func jwtLifetime(token string, now time.Time) (time.Duration, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return 0, false
	}
	var claims struct {
		Exp *float64        `json:"exp"`
		Iat json.RawMessage `json:"iat"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil || claims.Exp == nil {
		return 0, false
	}
	seconds := *claims.Exp - float64(now.UnixMilli())/1000
	var issued *float64
	if err := json.Unmarshal(claims.Iat, &issued); err == nil && issued != nil {
		seconds = min(seconds, *claims.Exp-*issued)
	}
	if seconds > maxLifetime.Seconds() {
		return 0, false
	}
	return time.Duration(max(seconds, 0) * float64(time.Second)), true
}

// missingScope lists what was asked and not granted. An answer without scope
// grants what was asked (RFC 6749 §5.1); a wildcard, asked or granted, stands for
// whatever there is.
func missingScope(asked []string, granted grantedToken) string {
	if !granted.scopeKnown {
		return ""
	}
	got := strings.Fields(granted.scope)
	if slices.Contains(got, "*") {
		return ""
	}
	var missing []string
	for scope := range strings.FieldsSeq(strings.Join(asked, " ")) {
		if scope != "*" && !slices.Contains(got, scope) {
			missing = append(missing, scope)
		}
	}
	return strings.Join(missing, " ")
}

// retryAfter reads a Retry-After of either form (RFC 9110 §10.2.3). A date counts from the
// endpoint's own, if it gives that, whatever the clock here says.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	seconds, err := strconv.ParseUint(value, 10, 64)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	if answered, err := http.ParseTime(header.Get("Date")); err == nil {
		now = answered
	}
	return min(max(date.Sub(now), 0), maxRetryAfter)
}
