package endpoint

import (
	"cmp"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// hintFor returns what may help after a failed token request, or an empty string. Hints are about what
// servers disagree on and what users often get wrong. What is certain is in the detail.
//
// The most certain causes come first: what the answer says explicitly, then a body that the server may
// not have read, a wrong address, and at last the client's credential.
func (r Request) hintFor(f *Error) string {
	switch {
	case f.Status == http.StatusProxyAuthRequired:
		return proxyHint
	case f.seen.wantsTLS && r.IsCleartext():
		return "the endpoint speaks TLS on this port; use https"
	}
	if hint := r.entraHint(f); hint != "" {
		return hint
	}
	if hint := r.providerHint(f); hint != "" {
		return hint
	}
	switch f.Code {
	case "invalid_scope":
		return r.scopeHint()
	case "invalid_dpop_proof":
		return proofHint(f.seen.skew)
	}
	if r.refusesGrant(f) {
		return r.Grant.refusalHint(r, f)
	}
	if hint := r.grantHint(f); hint != "" {
		return hint
	}
	if hint := r.formatHint(f); hint != "" {
		return hint
	}
	if r.mayBeCredential(f) {
		return r.credentialHint(f)
	}
	switch f.Code {
	case "unauthorized_client", "unsupported_grant_type", "invalid_grant":
		return r.grantTypeHint(f)
	}
	return cmp.Or(r.urlHint(f), parameterHint(f), r.placeHint(f))
}

// proxyHint is for 407.
const proxyHint = "a proxy wants its own credential; write it into transport { network_proxy url http://<user>:<password>@<host>:<port> }, " +
	"or into the variable HTTPS_PROXY if the proxy comes from there"

// parameterHint is for invalid_request.
func parameterHint(f *Error) string {
	if f.Code != "invalid_request" {
		return ""
	}
	return "a parameter may be missing or not be as the endpoint wants it; compare scope, audience, resource and param with the API's documentation"
}

// scopeHint is for invalid_scope.
func (r Request) scopeHint() string {
	if len(r.Scopes) == 0 {
		return "no scope was asked for, and the endpoint may need one; set scope to what the API's documentation names"
	}
	return "asked for was " + r.secrets().Quote(strings.Join(r.Scopes, " ")) + "; check the spelling, and whether the client has been granted these scopes"
}

// proofHint is for invalid_dpop_proof.
func proofHint(skew time.Duration) string {
	if skew != 0 {
		return DescribeSkew(skew) + ", which may be why the proof was refused; set it right"
	}
	return "the proof was refused; check the clocks of both sides, and that the token endpoint's URL is the one by which the server knows it"
}

// placeHint is for an answer without a token, and without any words.
func (r Request) placeHint(f *Error) string {
	switch {
	case !f.lacksToken:
		return ""
	case r.ResponseFields["access_token"] != "":
		return "compare the path of response_field with an answer of the endpoint; it goes through objects by their members' names, to the letter"
	}
	return "the answer may have the token elsewhere; if so, name the place with response_field access_token <path>, such as data.accessToken"
}

// Hints about the format of the body.
const (
	wantsForm = "the endpoint may want a form, as OAuth has it; remove request_format json"
	wantsJSON = "the endpoint may want JSON; try request_format json"
)

// formatHint is for an endpoint that has not read the body, as it says itself. It does not have to say
// so if the body is JSON, which OAuth does not know.
func (r Request) formatHint(f *Error) string {
	if !r.mayBeUnread(f) {
		return ""
	}
	if r.Format == FormatJSON {
		if f.Code == "" && f.Status != http.StatusUnsupportedMediaType && credentialWords.MatchString(f.Said) {
			return "" // it has found a credential, or looked for it elsewhere
		}
		return wantsForm
	}
	if f.Status == http.StatusUnsupportedMediaType || unreadForm.MatchString(f.Said) {
		return wantsJSON
	}
	return ""
}

// unreadForm finds words of an endpoint that has not read a form: it speaks of JSON, or misses what was
// sent.
var unreadForm = regexp.MustCompile(`(?i)\bjson\b|\b(content|media)[- ]?type\b|` +
	`\bgrant[_ ]?type\b.*\b(missing|required|not (found|present|provided|set)|empty|blank|null)\b|\b(missing|requires?)\b.*\bgrant[_ ]?type\b`)

// mayBeUnread reports whether nothing in an answer shows that the endpoint has read the body.
func (r Request) mayBeUnread(f *Error) bool {
	unread := f.Status == http.StatusUnsupportedMediaType ||
		f.Code == "" && f.seen.noCode && !f.seen.isPage && (f.Status == http.StatusBadRequest || f.Status == http.StatusUnprocessableEntity)
	if r.Format == FormatJSON {
		// A server that expects a form finds no grant_type in JSON.
		return unread || f.Code == "invalid_request" || f.Code == "unsupported_grant_type"
	}
	return unread && !r.Method().formsOnly
}

// grantTypeHint is for a client that can't use the client-credentials grant: unauthorized_client,
// unsupported_grant_type, and the invalid_grant of servers such as Cognito.
func (r Request) grantTypeHint(f *Error) string {
	asked := r.only("grant_type")
	switch {
	case r.Grant != nil:
		return "the client may not be allowed to use the JWT bearer grant, or to act for this subject; have it allowed for this client at the authorization server"
	case f.Code == "invalid_grant" && (asked != "" || !r.Method().SendsSecret):
		return "" // it is about that grant's parameters, or an assertion
	case grantParams[asked] != "":
		return "the client may not be allowed to use the grant " + asked + "; have it turned on for this client at the authorization server"
	case asked != "":
		return "the endpoint may know the grant by another name than that of param grant_type, or not allow it to this client; remove that to ask for client_credentials"
	case f.Code == "unsupported_grant_type":
		return "the client may not be allowed to use the client-credentials grant, or the endpoint may know it by another name; have it turned on for this client, or set param grant_type as the API's documentation says"
	}
	return "the client may not be allowed to use the client-credentials grant; have it turned on for this client at the authorization server"
}

// urlHint is for an answer that may not come from a token endpoint.
func (r Request) urlHint(f *Error) string {
	isElsewhere := f.Status == http.StatusNotFound || f.Status == http.StatusMethodNotAllowed || f.Status == http.StatusGone
	if f.isOfFirewall() {
		return "the answer is a web page, perhaps of a firewall or a proxy before the endpoint; ask whether it lets this machine in"
	}
	// With another status, such as 502, a page says nothing about the address.
	isPage := f.seen.isPage && (f.Status < 300 || f.Status == http.StatusBadRequest)
	if f.Code != "" || !isElsewhere && !isPage {
		return ""
	}
	answer := "a web page"
	if !f.seen.isPage {
		answer = "no token endpoint"
	}
	if r.Issuer != "" {
		return "there may be " + answer + " at the URL that the issuer's metadata names; if it is out of date, use token_endpoint"
	}
	return "there may be " + answer + " at this URL; compare token_endpoint with the API's documentation, to the last slash"
}

// isOfFirewall reports whether the answer looks like one from a firewall before the endpoint.
func (e *Error) isOfFirewall() bool {
	return e.Code == "" && e.seen.isPage && e.Status == http.StatusForbidden
}
