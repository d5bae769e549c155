package endpoint

import (
	"regexp"
	"strings"
	"time"
)

// This file has what is known of grants whose credential is a parameter. param grant_type names them.
const (
	grantPassword      = "password"                                        // RFC 6749 §4.3
	grantRefreshToken  = "refresh_token"                                   // RFC 6749 §6
	grantTokenExchange = "urn:ietf:params:oauth:grant-type:token-exchange" //nolint:gosec // its name (RFC 8693)
)

// grantParams are the parameters that have the credential of these grants.
var grantParams = map[string]string{grantPassword: "password", grantRefreshToken: "refresh_token", grantTokenExchange: "subject_token"}

// only returns the value of a parameter that has one, or an empty string.
func (r Request) only(param string) string {
	if values := r.Params[param]; len(values) == 1 {
		return values[0]
	}
	return ""
}

// refusesCredential reports whether another credential may be taken. A token that can't be exchanged is an
// invalid request (RFC 8693 §2.2.2).
func (r Request) refusesCredential(f *Error) bool {
	switch f.Code {
	case "invalid_grant":
		return true
	case "invalid_request":
		return r.only("grant_type") == grantTokenExchange
	}
	return f.RefusesClient() || r.isLogin(f)
}

// isLogin reports whether a login that looks like OAuth has refused its user. Such a user has no client.
func (r Request) isLogin(f *Error) bool {
	if f.Class != ClassRefused || f.Code != "" || r.AuthMethod != AuthNone || r.Params["grant_type"] != nil || r.Params["password"] == nil {
		return false
	}
	return f.RefusesClient() && !f.isOfFirewall() || loginWords.MatchString(f.Said)
}

// loginWords finds words with which a login speaks about its user.
var loginWords = regexp.MustCompile(`(?i)password|user|log[- ]?in|sign[- ]?in|credential|account|e-?mail`)

// grantHint is for the credential of a grant. What can be seen of it comes first.
func (r Request) grantHint(f *Error) string {
	grant := r.only("grant_type")
	switch {
	case f.Code == "invalid_target" && grant == grantTokenExchange:
		return "the endpoint has no token for this audience or resource, or wants one named; compare audience and resource with its documentation"
	case r.isLogin(f):
		grant = grantPassword
	case f.Code == "invalid_request" && grant == grantTokenExchange && !credentialWords.MatchString(f.Said):
	case f.Code != "invalid_grant":
		return ""
	}
	param := grantParams[grant]
	if hint := wrongFileHint(param, r.only(param)); hint != "" {
		return hint
	}
	switch grant {
	case grantPassword:
		return "the user name or the password may be wrong, or the account locked; a login that wants a second factor can't be used"
	case grantRefreshToken:
		return "the refresh token has ended, was revoked or belongs to another client, or the endpoint has replaced it when it was used (rotation); " +
			"put a new one where param refresh_token comes from; one that is replaced at each use can't be used here"
	case grantTokenExchange:
		if ended, ok := endOf(r.only("subject_token"), time.Now()); ok {
			return subjectEndedHint(ended)
		}
		return "the endpoint may not take the subject token, because of its issuer, its audience or its end; compare it, and param subject_token_type, with what the endpoint's documentation asks for"
	}
	return ""
}

// subjectEndedHint is for a subject token that can be seen to have ended.
func subjectEndedHint(ended time.Time) string {
	return "the subject token has ended at " + ended.UTC().Format(time.RFC3339) + "; see that what writes it to where param subject_token comes from still does"
}

// endOf returns when a JWT has ended. It reports false if it has not, or if nobody can tell.
func endOf(token string, now time.Time) (time.Time, bool) {
	exp, _ := jwtTimes(token)
	if exp == nil || *exp <= 0 || *exp > float64(now.Unix()) {
		return time.Time{}, false
	}
	return time.Unix(int64(*exp), 0), true
}

// namesType reports whether a parameter has the type of a grant or of a token. That is no secret, and servers name
// it in their messages.
func namesType(param string) bool {
	return param == "grant_type" || strings.HasSuffix(param, "_token_type")
}
