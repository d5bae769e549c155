package endpoint

import (
	"bytes"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"
)

// tokenAnswer has the members of a token response (RFC 6749 §5.1 and §5.2), as far as they could be
// read. vetting.go decides whether they make sense.
type tokenAnswer struct {
	// Of a token.
	accessToken string
	noToken     json.RawMessage // what is in its place and is no token; nil without
	tokenType   string          // raw JSON if it is not a string
	expiresIn   string          // the number as written, empty if there is none
	refreshIn   string          // the same for refresh_in, with which some servers recommend when to renew
	scope       string
	scopeKnown  bool // the answer has a scope

	refreshToken string // is not used

	// Of an error. If the member error is not a string, there is an error without a code.
	hasError         bool
	errorCode        string
	errorDescription string
}

// byteOrderMark is what some servers put before JSON. RFC 8259 §8.1 allows ignoring it.
var byteOrderMark = []byte("\xef\xbb\xbf")

// parse reads the body as JSON, whatever its content type, or else as a form if the type allows that.
// It reports whether the body is either. fields has the paths of members that JSON has elsewhere, by their names.
//
// OAuth has only JSON (RFC 6749 §5.1). Some servers still answer with a form, as drafts of it had;
// others call their JSON text. An HTML page can contain anything, so it is never read as a form.
func (a *tokenAnswer) parse(body []byte, contentType string, fields map[string]string) bool {
	body = bytes.TrimPrefix(body, byteOrderMark)
	if members, ok := answerPlaces(fields).findIn(body); ok {
		a.fromJSON(members)
		return true
	}
	switch mediaType, _, _ := strings.Cut(contentType, ";"); strings.ToLower(strings.TrimSpace(mediaType)) {
	case "", "application/x-www-form-urlencoded", "text/plain":
	default:
		return false
	}
	form, err := url.ParseQuery(strings.TrimSpace(string(body)))
	if err != nil || !form.Has("access_token") && !form.Has("error") {
		return false
	}
	a.fromForm(form)
	return true
}

// answerNames are the members that are read of a token response.
var answerNames = []string{"access_token", "token_type", "expires_in", "refresh_in", "refresh_token", "scope", "error", "error_description"}

// knownMembers reads the members of a JSON object that have these names, to the letter. It reports whether the body is
// an object, as place.findIn does.
func knownMembers(body []byte, names ...string) (map[string]json.RawMessage, bool) {
	p := new(place)
	for _, name := range names {
		p.lookFor(name, name)
	}
	return p.findIn(body)
}

// fromForm reads a form. An empty error counts as none.
func (a *tokenAnswer) fromForm(form url.Values) {
	a.accessToken, a.tokenType = form.Get("access_token"), form.Get("token_type")
	a.expiresIn, a.refreshIn = form.Get("expires_in"), form.Get("refresh_in")
	a.scope, a.scopeKnown, a.refreshToken = form.Get("scope"), form.Has("scope"), form.Get("refresh_token")
	a.errorCode, a.errorDescription = form.Get("error"), form.Get("error_description")
	a.hasError = a.errorCode != ""
}

// fromJSON reads each member by itself, so that a member of a wrong type does not affect the others.
func (a *tokenAnswer) fromJSON(members map[string]json.RawMessage) {
	text := func(name string) string {
		var s string
		_ = json.Unmarshal(members[name], &s)
		return s
	}
	if a.accessToken = text("access_token"); a.accessToken == "" {
		a.noToken = members["access_token"]
	}
	a.tokenType = text("token_type")
	if raw := members["token_type"]; a.tokenType == "" && present(raw) && string(raw) != `""` {
		a.tokenType = string(raw) // not a string
	}
	a.scope, a.refreshToken = text("scope"), text("refresh_token")
	a.scopeKnown = strings.HasPrefix(string(members["scope"]), `"`)
	number := func(name string) string { // some servers write numbers as strings
		if s := text(name); s != "" {
			return s
		}
		return string(members[name])
	}
	a.expiresIn, a.refreshIn = number("expires_in"), number("refresh_in")
	// An error that is not a string is still an error, except for the values with which servers say
	// that there is none.
	a.hasError = present(members["error"]) && !slices.Contains([]string{`""`, "false", "0"}, string(members["error"]))
	a.errorCode, a.errorDescription = text("error"), text("error_description")
}

// words returns what an error says, as the server wrote it: in OAuth's form, and in any other.
func (a *tokenAnswer) words(body []byte) string {
	var w words
	w.add(strings.TrimSpace(a.errorCode + " " + a.errorDescription))
	w.collectFrom(body)
	return w.String()
}

// present reports whether a member is there and is not null.
func present(raw json.RawMessage) bool {
	return len(raw) > 0 && string(raw) != "null"
}

// lifetime returns the shorter of expires_in and the token's own lifetime, and whether either is known.
// It counts from when the request was sent, so it can only be too short.
func (a *tokenAnswer) lifetime(now time.Time) (time.Duration, bool) {
	lifetime, known := parseSeconds(a.expiresIn)
	if own, ok := JWTLifetime(a.accessToken, now); ok && (!known || own < lifetime) {
		lifetime, known = own, true
	}
	return lifetime, known
}
