package endpoint

import (
	"net/http"
	"slices"
	"strings"
)

// OtherWays returns the request with the secret sent in other ways, the most likely first. It leaves out those that
// make no difference to the endpoint. There are at most five, as an endpoint may count each try and lock the client
// out. Forms come before JSON, which OAuth does not have. Each request passes Check.
func (r Request) OtherWays(failure *Error) []Request {
	asked := []Request{r}
	for _, format := range r.formatsToTry(failure) {
		for _, name := range secretMethods(format) {
			other := r
			other.AuthMethod, other.Format = name, format
			if other.Check() == nil && !slices.ContainsFunc(asked, other.isSentLike) {
				asked = append(asked, other)
			}
		}
	}
	return asked[1:]
}

// formatsToTry returns the formats that the endpoint may take.
func (r Request) formatsToTry(f *Error) []string {
	switch {
	case f.Status == http.StatusUnsupportedMediaType && r.Format == FormatJSON:
		return []string{FormatForm}
	case f.Status == http.StatusUnsupportedMediaType:
		return []string{FormatJSON}
	case r.mayWantOtherFormat(f):
		return []string{FormatForm, FormatJSON}
	}
	return []string{r.Format}
}

// secretMethods returns the methods that send the secret, the most likely first.
func secretMethods(format string) []string {
	var header, body []string
	for _, m := range methods {
		switch t := m.traits(); {
		case !t.SendsSecret:
		case t.fillsAuthorization:
			header = append(header, t.name)
		default:
			body = append(body, t.name)
		}
	}
	if format == FormatJSON { // a server that expects JSON usually expects the secret in it
		return append(body, header...)
	}
	return append(header, body...)
}

// MayBeSentOtherwise reports whether the endpoint may want the secret in another way. In a body that it
// can't read, it finds no secret at all.
func (r Request) MayBeSentOtherwise(f *Error) bool {
	return r.Method().SendsSecret && !f.Unsent && (r.mayBeCredential(f) || f.Code == "unauthorized_client" || r.mayWantOtherFormat(f))
}

// mayWantOtherFormat reports whether the endpoint may not have read the body. Some refuse a body that they
// can't read with 400 or 401, as they refuse a client that they don't know.
func (r Request) mayWantOtherFormat(f *Error) bool {
	if f.Status != http.StatusBadRequest && f.Status != http.StatusUnauthorized {
		return r.mayBeUnread(f)
	}
	switch f.Code {
	case "", "invalid_request", "invalid_client", "unauthorized_client", "unsupported_grant_type":
		return !f.seen.isPage
	}
	return false // it has read the parameter that it does not like
}

// isSentLike reports whether two requests of the same client send the credential in the same way.
// Methods with the same registered name only differ in how they encode reserved characters. Without
// such characters they are the same.
func (r Request) isSentLike(other Request) bool {
	same := r.AuthMethod == other.AuthMethod || r.Method().registered == other.Method().registered && !r.hasReserved()
	return r.Format == other.Format && same
}

// hasReserved reports whether form encoding changes the credential.
func (r Request) hasReserved() bool {
	return strings.ContainsFunc(r.ClientID+r.ClientSecret, isReservedInForm)
}

// isReservedInForm reports whether form encoding changes the character.
func isReservedInForm(r rune) bool {
	unreserved := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.~", r)
	return !unreserved
}
