package oauthcc

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// mostSkew is by how much the endpoint's clock may differ from ours before it is said: a
// Date header is in whole seconds, and the answer was on its way for some.
const mostSkew = 30 * time.Second

// symptoms are what an answer shows beside its status and its error code.
type symptoms struct {
	skew       time.Duration // how far the endpoint's clock is ahead of ours; 0 up to mostSkew
	isPage     bool          // it is HTML
	wantsBasic bool          // it has a challenge for HTTP Basic
	wantsTLS   bool          // it says that the port is for TLS
	noCode     bool          // it has no error code, but perhaps the name of its status
}

// examine finds the symptoms of an answer.
func examine(res *http.Response, body []byte, errorCode string, now time.Time) symptoms {
	s := symptoms{
		skew:     clockSkew(res.Header, now),
		isPage:   strings.HasPrefix(strings.ToLower(res.Header.Get("Content-Type")), "text/html"),
		wantsTLS: plainHTTPRefused.Match(body[:min(len(body), 1<<10)]),
		noCode:   errorCode == "" || strings.EqualFold(errorCode, http.StatusText(res.StatusCode)),
	}
	for _, line := range res.Header["Www-Authenticate"] {
		s.wantsBasic = s.wantsBasic || slices.ContainsFunc(parseChallenges(line), func(c challenge) bool { return strings.EqualFold(c.scheme, "Basic") })
	}
	return s
}

// plainHTTPRefused finds what Go, nginx and Apache say to plain HTTP where they speak TLS.
var plainHTTPRefused = regexp.MustCompile(`(?i)(HTTP request (was sent )?to an? HTTPS |plain HTTP request was sent to HTTPS|speaking plain HTTP to an SSL)`)

// clockSkew is how far the endpoint's clock is ahead of ours, by the Date of an answer that
// has just arrived, or 0 if that is not worth a word.
func clockSkew(header http.Header, now time.Time) time.Duration {
	date, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return 0
	}
	if skew := date.Sub(now); skew.Abs() > mostSkew {
		return skew.Round(time.Second)
	}
	return 0
}

// describeSkew tells which clock is wrong as seen from here. Nobody knows which of them is right.
func describeSkew(skew time.Duration) string {
	direction := "behind"
	if skew < 0 {
		direction = "ahead of"
	}
	return fmt.Sprintf("this machine's clock is %s %s the endpoint's", skew.Abs(), direction)
}

// hintFor tells what may help against a failed token request, or is empty. It names what
// servers disagree on and what is mostly got wrong; what is certain is in the detail.
func (r grantRequest) hintFor(f *fetchError) string {
	switch {
	case f.seen.wantsTLS && r.isCleartext():
		return "the endpoint speaks TLS on this port; use https"
	case f.code == "invalid_scope":
		return r.scopeHint()
	case f.code == "invalid_dpop_proof":
		return proofHint(f.seen.skew)
	}
	if hint := r.formatHint(f); hint != "" {
		return hint
	}
	if f.code == "unauthorized_client" || f.code == "unsupported_grant_type" {
		return r.grantTypeHint(f)
	}
	if hint := r.urlHint(f); hint != "" {
		return hint
	}
	if f.mayMeanClient() {
		if hint := r.refusalHint(f); hint != "" || f.code != "invalid_request" {
			return hint
		}
	}
	if f.code == "invalid_request" {
		return "a parameter may be missing or not be as the endpoint wants it; compare scope, audience, resource and param with the API's documentation"
	}
	return ""
}

// mayMeanClient reports whether it may be the client's credential that is not accepted. Some
// servers call one that they can't decode an invalid request, and firewalls refuse with a page.
func (e *fetchError) mayMeanClient() bool {
	if e.code == "invalid_request" {
		return e.said == e.code || credentialWords.MatchString(e.said)
	}
	return e.refusesClient() && !e.isOfFirewall()
}

func (e *fetchError) isOfFirewall() bool {
	return e.code == "" && e.seen.isPage && e.status == http.StatusForbidden
}

// credentialWords finds what an endpoint calls a credential.
var credentialWords = regexp.MustCompile(`(?i)client|secret|credential|authenticat|authoriz`)

func (r grantRequest) scopeHint() string {
	if len(r.scopes) == 0 {
		return "no scope was asked for, and the endpoint may need one; set scope to what the API's documentation names"
	}
	return "asked for was " + quote(r.mask, strings.Join(r.scopes, " ")) + "; check the spelling, and whether the client has been granted these scopes"
}

func proofHint(skew time.Duration) string {
	if skew != 0 {
		return describeSkew(skew) + ", which may be why the proof was refused; set it right"
	}
	return "the proof was refused; check the clocks of both sides, and that the token endpoint's URL is the one by which the server knows it"
}

// grantTypeHint is for a client that can't use the grant.
func (r grantRequest) grantTypeHint(f *fetchError) string {
	if asked := r.params["grant_type"]; len(asked) > 0 {
		return "the endpoint may know the grant by another name than that of param grant_type; remove it to ask for client_credentials"
	}
	hint := "the client may not be allowed to use the client-credentials grant; have it turned on for this client at the authorization server"
	if f.code == "unauthorized_client" && f.status == http.StatusUnauthorized && r.clientSecret != "" {
		hint += " (some servers answer so to a wrong secret as well)"
	}
	return hint
}

// formatHint is for an endpoint that may not have been able to read the body.
func (r grantRequest) formatHint(f *fetchError) string {
	unread := f.status == http.StatusUnsupportedMediaType ||
		f.code == "" && f.seen.noCode && !f.seen.isPage && (f.status == http.StatusBadRequest || f.status == http.StatusUnprocessableEntity)
	switch {
	case r.format == formatJSON && (unread || f.code == "invalid_request" || f.code == "unsupported_grant_type"):
		return "the endpoint may want a form, as OAuth has it; remove request_format json"
	case r.format == formatForm && unread && !usesAssertion(r.authMethod):
		return "the endpoint may want JSON; try request_format json"
	}
	return ""
}

// urlHint is for an answer that may not come from a token endpoint.
func (r grantRequest) urlHint(f *fetchError) string {
	isElsewhere := f.status == http.StatusNotFound || f.status == http.StatusMethodNotAllowed || f.status == http.StatusGone
	if f.isOfFirewall() {
		return "the answer is a web page, perhaps of a firewall or a proxy before the endpoint; ask whether it lets this machine in"
	}
	isPage := f.seen.isPage && (f.status < 300 || f.status == http.StatusBadRequest)
	if f.code != "" || !isElsewhere && !isPage {
		return ""
	}
	answer := "a web page"
	if !f.seen.isPage {
		answer = "no token endpoint"
	}
	if r.issuer != "" {
		return "there may be " + answer + " at the URL that the issuer's metadata names; if it is out of date, use token_endpoint"
	}
	return "there may be " + answer + " at this URL; compare token_endpoint with the API's documentation, to the last slash"
}

// missingCredential finds an endpoint's words for a credential that it has not found.
var missingCredential = regexp.MustCompile(`(?i)client[_ ]?(id|secret|credentials?)\b.*\b(missing|required|not (found|present|provided|set)|empty|blank)|` +
	`(missing|requires?|no|provide)\b.*\bclient[_ ]?(id|secret|credentials?)\b`)

// refusalHint is for a client that was refused: what servers disagree on.
func (r grantRequest) refusalHint(f *fetchError) string {
	switch {
	case usesAssertion(r.authMethod) && f.seen.skew != 0:
		return describeSkew(f.seen.skew) + ", which may be why the client's assertion was refused; set it right"
	case usesAssertion(r.authMethod):
		return assertionHint(r)
	case r.authMethod == authTLS:
		return "the client certificate was not accepted for this client_id; check what the server has registered, such as its subject"
	}
	if named := r.otherMethodIn(f.said); named != "" {
		return "the endpoint speaks of another method of client authentication; try auth_method " + named
	}
	switch {
	case strings.TrimSpace(r.clientSecret) != r.clientSecret:
		return "the client_secret begins or ends with white space; check the file or the variable that it comes from"
	case !usesBasic(r.authMethod) && f.seen.wantsBasic && f.status == http.StatusUnauthorized:
		return "the endpoint asks for HTTP Basic and may not look into the body; try auth_method " + authSecretBasic
	case usesBasic(r.authMethod) && !f.seen.wantsBasic && missingCredential.MatchString(f.said):
		return "the endpoint may look for the credential in the body alone; try auth_method " + authSecretPost
	case usesBasic(r.authMethod) && r.hasReserved():
		return "the credential has reserved characters, which servers decode differently; try auth_method " + r.otherBasic()
	}
	return ""
}

// otherMethodIn is a method of client authentication that a message names and that is not
// the client's.
func (r grantRequest) otherMethodIn(said string) string {
	for _, method := range authMethods {
		if method != authNone && method != r.standardAuthMethod() && strings.Contains(said, method) {
			return method
		}
	}
	return ""
}

// otherBasic is the method that sends the same, if it has no reserved characters.
func (r grantRequest) otherBasic() string {
	if r.authMethod == authSecretBasicRaw {
		return authSecretBasic
	}
	return authSecretBasicRaw
}

// hasReserved reports whether the credential shows whether it is form-encoded.
func (r grantRequest) hasReserved() bool {
	return strings.ContainsFunc(r.clientID+r.clientSecret, isReservedInForm)
}

// isReservedInForm reports whether form encoding changes the character.
func isReservedInForm(r rune) bool {
	unreserved := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.~", r)
	return !unreserved
}

// assertionHint is for a client whose assertion was refused: servers disagree on what
// they expect in it.
func assertionHint(r grantRequest) string {
	tries := []string{"the clocks of both sides"}
	if r.assertion.audience == "" && r.issuer != "" {
		tries = append(tries, "signing_key's audience (older servers want the token endpoint's URL)")
	} else if r.assertion.audience == "" {
		tries = append(tries, "signing_key's audience (newer servers want the issuer)")
	}
	if r.assertion.typ != "JWT" {
		tries = append(tries, "signing_key's typ (older servers want JWT)")
	}
	if r.assertion.key != nil {
		tries = append(tries, "whether the server has the public key under this key_id")
	}
	return "the client's assertion was refused; check " + strings.Join(tries, ", ")
}
