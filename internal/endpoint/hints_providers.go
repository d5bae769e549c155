package endpoint

import (
	"regexp"
	"time"
)

// providerRefusal is a refusal in the words of a certain product, which name the cause. OAuth's code for it names
// another one, or many.
type providerRefusal struct {
	said   *regexp.Regexp
	hint   string
	guided bool // --try-methods helps as well
	timed  bool // a clock that is wrong is the cause, if one is
}

// providerRefusals are in the order of the products' names. Their words have to be so peculiar that no other server
// says them for another reason. A word that is the value of a param is masked in them.
var providerRefusals = []providerRefusal{
	// Auth0
	{said: regexp.MustCompile(`\bService not enabled within domain\b`),
		hint: "Auth0 has no API with this identifier; compare audience with the API's Identifier there, to the last slash"},
	{said: regexp.MustCompile(`\bNo audience parameter was provided\b`),
		hint: "Auth0 needs to know the API; set audience to the API's Identifier there"},
	{said: regexp.MustCompile(`^access_denied Client .*\bis not authorized to access\b`),
		hint: "the API is right, but the application may not have tokens for it; authorize the application for this API in Auth0 (a client grant)"},

	// Box
	{said: regexp.MustCompile(`\bPlease check the .aud. claim\b`),
		hint: "Box calls itself otherwise; set audience of grant jwt_bearer to https://api.box.com/oauth2/token"},
	{said: regexp.MustCompile(`\bPlease check the .exp. claim\b|\bmust be before the expiration date time listed in the .exp. claim`), timed: true,
		hint: "the assertion was not within its time at Box, which takes those that end within 60 s; set this machine's clock right, and lifetime of grant jwt_bearer to less than 60s"},
	{said: regexp.MustCompile(`\bPlease check the .iss. claim\b`),
		hint: "Box wants the app's Client ID as iss; compare client_id (or issuer of grant jwt_bearer) with the app's configuration in Box's Developer Console"},
	{said: regexp.MustCompile(`\bPlease check the .sub. claim\b`),
		hint: "Box does not know whom the token is for; set subject of grant jwt_bearer to the Enterprise ID, with claim box_sub_type enterprise, or to a User ID, with claim box_sub_type user"},
	{said: regexp.MustCompile(`\bkid.? invalid, unable to lookup correct key\b`),
		hint: "the app has no public key with this ID in Box; compare key_id of signing_key with the IDs under Add and Manage Public Keys in the Developer Console"},
	{said: regexp.MustCompile(`\bThe public key identified by .kid. must correspond to the private key\b`),
		hint: "Box has another public key under this ID; compare the file of signing_key with its key_id, both of which change when a key is made anew in the Developer Console"},
	{said: regexp.MustCompile(`^unauthorized_client This app is not authorized by the (enterprise|\*\*\*)`),
		hint: "the app is not authorized in this enterprise; have an admin authorize its Client ID in Box's Admin Console, and again after each change of its scopes or its access"},
	{said: regexp.MustCompile(`\bCannot obtain (\S+ )?token based on the (enterprise|\*\*\*) configuration for your app\b`),
		hint: "the app may not have tokens of users; in Box's Developer Console turn on Generate user access tokens and the access that the user needs, and have an admin authorize the app again. For the service account itself, ask for the enterprise"},
	{said: regexp.MustCompile(`\bThe grant type is unauthorized for this client_id\b`),
		hint: "the app has another authentication method in Box; compare grant with what the app was made for in the Developer Console (JWT or Client Credentials Grant)"},
	{said: regexp.MustCompile(`^invalid_grant Grant credentials are invalid\b`),
		hint: "the id and the secret are of different apps, or the app may not have tokens for this subject; compare param box_subject_id with the Enterprise ID in Box's Developer Console, and have an admin authorize the app"},

	// DocuSign
	{said: regexp.MustCompile(`^consent_required\b`),
		hint: "nobody has consented to these scopes for this user; have the user consent once in a browser, or an administrator for all. In DocuSign that is the page /oauth/auth with the scopes signature and impersonation"},
	{said: regexp.MustCompile(`\bno_valid_keys_or_signatures\b`), timed: true,
		hint: "DocuSign can't verify the assertion; in Apps and Keys, compare the RSA key pairs of the integration key with signing_key, and check this machine's clock"},
	{said: regexp.MustCompile(`\bissuer_not_found\b`),
		hint: "there is no such integration key in this environment; compare issuer of grant jwt_bearer with Apps and Keys in DocuSign. The host of token_endpoint and audience are account-d.docusign.com for developers, and account.docusign.com in production"},
	{said: regexp.MustCompile(`^invalid_grant user_not_found\b`),
		hint: "there is no such user in this environment, or none who is active; set subject of grant jwt_bearer to the User ID in DocuSign, which is neither the e-mail address nor the Account ID"},

	// Google Cloud, with the key of a service account
	{said: regexp.MustCompile(`^invalid_grant Invalid JWT Signature\b`),
		hint: "Google does not take this key: it was deleted or disabled, or is another account's; make a new one for the service account in Google Cloud (IAM & Admin, Service Accounts, Keys), and replace the file of signing_key"},
	{said: regexp.MustCompile(`^invalid_grant Invalid grant: account not found\b`),
		hint: "there is no such service account any more; compare client_email in the file of signing_key with the service accounts of the project in Google Cloud (IAM & Admin)"},
	{said: regexp.MustCompile(`\bInvalid JWT: Token must be a short-lived token\b`), timed: true,
		hint: "the assertion was not within its time at Google; set this machine's clock right, and lifetime of grant jwt_bearer to 1h at most"},
	{said: regexp.MustCompile(`\bInvalid JWT: Failed audience check\b`),
		hint: "Google calls itself otherwise; remove audience and token_endpoint, as both are in the key file"},
	{said: regexp.MustCompile(`\bEmpty or missing scope not allowed\b`),
		hint: "Google found no scopes in the assertion; set scope, and write scope_claim into the block of grant jwt_bearer"},
	{said: regexp.MustCompile(`\bInvalid OAuth scope or ID token audience provided\b`),
		hint: "Google has no such scope; compare scope with \"OAuth 2.0 Scopes for Google APIs\", to the last slash"},
	{said: regexp.MustCompile(`\bClient is unauthorized to retrieve access tokens using this method\b`),
		hint: "the service account may not act for this user with all of these scopes; in Google's Admin console (API controls, Domain-wide delegation) allow them to the account's Client ID, or remove subject to ask for the account itself"},

	// Google Cloud, with workload identity federation
	{said: regexp.MustCompile(`\bThe target service indicated by the "audience" parameters is invalid\b`),
		hint: "there is no such workload identity pool or provider, or it is disabled; compare audience with the name of the provider in Google Cloud (IAM & Admin, Workload Identity Federation), and the number in it with the project's"},
	{said: regexp.MustCompile(`\bThis value should be the full resource name of the Identity Provider\b`),
		hint: "set audience to //iam.googleapis.com/projects/<number>/locations/global/workloadIdentityPools/<pool>/providers/<provider>, with the number of the project and not its name"},
	{said: regexp.MustCompile(`\bThe issuer in ID Token\b.*\bdoes not match the expected\b`),
		hint: "the token of param subject_token is from another issuer than the provider of the pool has; compare Issuer (URL) of the provider in Google Cloud with iss in the token"},
	{said: regexp.MustCompile(`\bThe audience in ID Token\b.*\bdoes not match the expected\b`),
		hint: "the token of param subject_token is for somebody else; have it made for the audience https:, followed by what audience has here, or allow its audience in the provider of the pool in Google Cloud"},
	{said: regexp.MustCompile(`\bID Token issued at\b.*\bis stale to sign-in\b`), timed: true,
		hint: "the token of param subject_token has ended; have whatever writes it renew it in time, and check this machine's clock"},
	{said: regexp.MustCompile(`\bThe given credential is rejected by the attribute condition\b`),
		hint: "the provider of the workload identity pool does not let this workload in; compare its attribute condition in Google Cloud with the claims of the token of param subject_token, such as sub"},
	{said: regexp.MustCompile(`\bUnable to verify the ID Token signature\b|\bError connecting to the given credential's issuer\b`),
		hint: "Google can't find the key that signed the token of param subject_token; the issuer's keys have to be public at its /.well-known/openid-configuration, or be uploaded to the provider of the pool again after they have changed"},

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

	// Salesforce
	{said: regexp.MustCompile(`^invalid_client_id client identifier invalid\b`),
		hint: "Salesforce does not know this consumer key; compare client_id (or issuer of grant jwt_bearer) with the app's consumer key, and token_endpoint with the org. A new app needs some minutes until it is known"},
	{said: regexp.MustCompile(`\buser hasn't approved this consumer\b`),
		hint: "the user may not use the app; in Salesforce, set Permitted Users of the app to \"Admin approved users are pre-authorized\", add the user's profile or permission set to it, and compare subject with the Username, which is not always the e-mail address"},
	{said: regexp.MustCompile(`\buser is not admin approved to access this app\b`),
		hint: "the app is for users that an admin has approved, and this one is none; in Salesforce, add the user's profile or permission set to the app's policies"},
	{said: regexp.MustCompile(`^invalid_grant audience is invalid\b`),
		hint: "the endpoint calls itself otherwise; compare audience of grant jwt_bearer with its documentation. In Salesforce it is https://login.salesforce.com, and https://test.salesforce.com for a sandbox"},
	{said: regexp.MustCompile(`\bno client credentials user enabled\b`),
		hint: "the app has no user to act as; in Salesforce, edit the app's policies, and choose a Run As user for the Client Credentials Flow"},
	{said: regexp.MustCompile(`^invalid_grant request not supported on this domain\b`),
		hint: "Salesforce grants this on the org's own domain only; write https://<domain>.my.salesforce.com/services/oauth2/token as token_endpoint"},
}

// providerHint is for refusals whose cause a provider's words name.
func (r Request) providerHint(f *Error) string {
	for _, refusal := range providerRefusals {
		if !refusal.said.MatchString(f.Said) {
			continue
		}
		if refusal.timed && f.seen.skew != 0 {
			return DescribeSkew(f.seen.skew) + ", so the assertion was not within its time; set it right"
		}
		if ended, ok := endOf(r.only(grantParams[grantTokenExchange]), time.Now()); ok && refusal.timed {
			return subjectEndedHint(ended)
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
