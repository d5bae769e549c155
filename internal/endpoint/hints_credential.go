package endpoint

import (
	"cmp"
	"net/http"
	"regexp"
	"strings"
)

// This file has the hints about a credential that was refused. Most of them guess how the endpoint wants
// it; such a hint also names --try-methods, the flag of the check that finds out. A hint without it is
// about a cause that is there to be seen.

// Ends of the hints that guess.
const (
	findOutWhich = "; --try-methods finds out which"
	orFindOut    = ", or find out with --try-methods"
)

// credentialHint is for a failure that may be about the credential.
func (r Request) credentialHint(f *Error) string {
	if hint := r.secretHint(); hint != "" {
		return hint
	}
	hint := cmp.Or(r.method().refusalHint(r, f), parameterHint(f))
	if f.Code == "unauthorized_client" && !refusedSecret.MatchString(f.Said) {
		hint = r.grantTypeHint(f) + " (some servers answer so to a wrong secret as well)"
	}
	switch {
	case !r.Method().SendsSecret:
		return hint
	case hint != "":
		return hint + orFindOut
	case f.saysNothing():
		return "the endpoint does not say what is wrong, and may want the secret or the whole body in another way" + findOutWhich
	}
	return "the id or the secret may be wrong, or the endpoint may want them sent in another way" + findOutWhich
}

// HintAfterTrying returns the hint for someone who has tried the other ways to send the secret. It is
// empty if that was all that the hint could say.
func (e *Error) HintAfterTrying() string {
	if strings.HasSuffix(e.Hint, findOutWhich) || e.Hint == wantsForm || e.Hint == wantsJSON {
		return ""
	}
	return strings.TrimSuffix(e.Hint, orFindOut)
}

// HintAfterGrants returns the hint for a client that has got tokens before. How the endpoint wants the credential is
// no cause to guess at then.
func (e *Error) HintAfterGrants() string {
	if strings.HasSuffix(e.Hint, findOutWhich) || strings.HasSuffix(e.Hint, orFindOut) {
		return "the endpoint has taken this client's credential before; it may have been replaced or have ended there, or be another one now where client_secret comes from; --try-methods tells whether it is taken in any way"
	}
	return e.Hint
}

// mayBeCredential reports whether the failure may be about the credential. Some servers answer
// invalid_request if they can't decode it, unauthorized_client if it is wrong, or 400 without any code.
func (r Request) mayBeCredential(f *Error) bool {
	switch {
	case f.isOfFirewall():
		return false
	case f.Code == "invalid_request":
		return f.Said == f.Code || credentialWords.MatchString(f.Said)
	case f.Code == "unauthorized_client":
		refused := f.Status == http.StatusUnauthorized || refusedSecret.MatchString(f.Said)
		return refused && r.ClientSecret != "" && r.Params["grant_type"] == nil
	case f.Code == "access_denied":
		return f.Status == http.StatusUnauthorized // as Auth0 does
	case f.Code == "" && f.Status == http.StatusBadRequest:
		return !f.seen.isPage && (credentialWords.MatchString(f.Said) || f.saysNothing() && r.Method().SendsSecret)
	}
	return f.RefusesClient()
}

// credentialWords finds words with which an endpoint speaks about a credential.
var credentialWords = regexp.MustCompile(`(?i)client|secret|credential|authenticat|authoriz`)

// saysNothing reports whether a 400 has no words but the name of its status.
func (e *Error) saysNothing() bool {
	return e.Code == "" && e.Status == http.StatusBadRequest && (e.Said == "" || strings.EqualFold(e.Said, http.StatusText(e.Status)))
}

// secretHint is for a secret with something that no server gives out.
func (r Request) secretHint() string { return wrongFileHint("client_secret", r.ClientSecret) }

// wrongFileHint is for a credential with something that no server gives out, which comes from the file or the
// variable that the credential is in. It is looked at after a refusal only: what looks wrong can be right.
func wrongFileHint(name, credential string) string {
	switch {
	case strings.HasPrefix(credential, "\xff\xfe"), strings.HasPrefix(credential, "\xfe\xff"), strings.Contains(credential, "\x00"):
		return "the " + name + " is in UTF-16; write the file that it comes from in UTF-8"
	case strings.HasPrefix(credential, string(byteOrderMark)):
		return "the " + name + " begins with a byte order mark; save the file that it comes from as UTF-8 without one"
	case environmentLine.MatchString(credential):
		return "the " + name + " has the form NAME=value, as a line of an environment file; keep the value alone in the file that it comes from"
	case strings.TrimSpace(credential) != credential:
		return "the " + name + " begins or ends with white space; check the file or the variable that it comes from"
	}
	return ""
}

// environmentLine finds a line of an environment file. Names are in capitals there; else they speak of a
// secret, as any letters before a = can also be those of a secret itself.
var environmentLine = regexp.MustCompile(`^\s*(export\s+)?([A-Z][A-Z0-9]*(_[A-Z0-9]+)+|(?i:\w*secret\w*))\s*=\s*[^\s=]`)
