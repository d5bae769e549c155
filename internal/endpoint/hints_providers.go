package endpoint

import "regexp"

// providerRefusal is a refusal in the words of a certain product, which name the cause. OAuth's code for it names
// another one, or many.
type providerRefusal struct {
	said   *regexp.Regexp
	hint   string
	guided bool // --try-methods helps as well
}

// providerRefusals are in the order of the products' names. Their words have to be so peculiar that no other server
// says them for another reason.
var providerRefusals = []providerRefusal{
	// Auth0
	{said: regexp.MustCompile(`\bService not enabled within domain\b`),
		hint: "Auth0 has no API with this identifier; compare audience with the API's Identifier there, to the last slash"},
	{said: regexp.MustCompile(`\bNo audience parameter was provided\b`),
		hint: "Auth0 needs to know the API; set audience to the API's Identifier there"},
	{said: regexp.MustCompile(`^access_denied Client .*\bis not authorized to access\b`),
		hint: "the API is right, but the application may not have tokens for it; authorize the application for this API in Auth0 (a client grant)"},

	// Keycloak
	{said: regexp.MustCompile(`\bClient not enabled to retrieve service account\b`),
		hint: "the client has no service account in Keycloak; turn on Service accounts roles for it there"},
	{said: regexp.MustCompile(`\bPublic client not allowed to retrieve service account\b`),
		hint: "the client is a public one in Keycloak; turn on Client authentication and Service accounts roles for it there"},

	// Okta
	{said: regexp.MustCompile(`^access_denied Policy evaluation failed for this request\b`),
		hint: "no access policy of this authorization server lets the client have these scopes; in Okta, assign the client to a policy with a rule for the grant type Client Credentials and the scopes"},
	{said: regexp.MustCompile(`\bscopes are not configured for the authorization server resource\b`),
		hint: "this authorization server has no such scope; add it there in Okta, or compare scope and the authorization server in token_endpoint"},
	{said: regexp.MustCompile(`\bInvalid value for 'client_id' parameter\b`),
		hint: "the endpoint does not know this client_id; compare it, and the host of token_endpoint, with the page of the client there"},

	// PingOne
	{said: regexp.MustCompile(`\bRequest denied: Unsupported authentication method\b`),
		hint: "the client is to use another method than auth_method has; write the one that it has at the authorization server", guided: true},
	{said: regexp.MustCompile(`\bMay not request scopes for multiple resources\b`),
		hint: "the scopes are of several resources; ask for those of one, and have another oauth_cc for the other"},
}

// providerHint is for refusals whose cause a provider's words name.
func (r Request) providerHint(f *Error) string {
	for _, refusal := range providerRefusals {
		if !refusal.said.MatchString(f.Said) {
			continue
		}
		if refusal.guided && r.Method().SendsSecret {
			return refusal.hint + orFindOut
		}
		return refusal.hint
	}
	return ""
}

// refusedSecret finds words with which Keycloak says unauthorized_client of a client whose secret is wrong.
var refusedSecret = regexp.MustCompile(`\b[Ii]nvalid client (secret|credentials|or Invalid client credentials)\b`)
