package endpoint

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// What a provider says names the cause. Nothing of it is taken for another server's words, or another cause.
func TestHintsForWhatProvidersSay(t *testing.T) {
	const mayNot = "the client may not be allowed to use the client-credentials grant; have it turned on for this client at the authorization server"
	const mayBeWrong = "the id or the secret may be wrong, or the endpoint may want them sent in another way; --try-methods finds out which"
	for _, test := range []struct {
		name, method string
		status       int
		said, want   string
	}{
		{"Auth0, no such API", AuthSecretPost, 403, `{"error":"access_denied","error_description":"Service not enabled within domain: https://api.example.com"}`,
			"Auth0 has no API with this identifier; compare audience with the API's Identifier there, to the last slash"},
		{"Auth0, no audience", AuthSecretPost, 403, `{"error":"access_denied","error_description":"No audience parameter was provided, and no default audience has been configured"}`,
			"Auth0 needs to know the API; set audience to the API's Identifier there"},
		{"Auth0, no client grant", AuthSecretPost, 403, `{"error":"access_denied","error_description":"Client is not authorized to access \"https://api.example.com\". You need to create a \"client-grant\" associated to this API."}`,
			"the API is right, but the application may not have tokens for it; authorize the application for this API in Auth0 (a client grant)"},
		{"Auth0, no client grant, in newer words", AuthSecretPost, 403, `{"error":"access_denied","error_description":"Client \"x\" is not authorized to access resource server \"https://api.example.com\"."}`,
			"the API is right, but the application may not have tokens for it; authorize the application for this API in Auth0 (a client grant)"},
		{"Auth0, wrong secret", AuthSecretPost, 401, `{"error":"access_denied","error_description":"Unauthorized"}`, mayBeWrong},
		{"Auth0, grant", AuthSecretPost, 403, `{"error":"unauthorized_client","error_description":"Grant type 'client_credentials' not allowed for the client."}`, mayNot},
		{"another access_denied", AuthSecretPost, 403, `{"error":"access_denied","error_description":"your account is closed"}`, ""},
		{"another 403", AuthSecretPost, 403, `{"message":"Client is not authorized to access the requested URL"}`, mayBeWrong},

		{"Keycloak, wrong secret", AuthSecretBasic, 401, `{"error":"unauthorized_client","error_description":"Invalid client or Invalid client credentials"}`, mayBeWrong},
		{"Keycloak, wrong secret, in older words", AuthSecretBasic, 401, `{"error":"unauthorized_client","error_description":"Invalid client secret"}`, mayBeWrong},
		{"Keycloak, wrong secret, with 400", AuthSecretBasic, 400, `{"error":"unauthorized_client","error_description":"Invalid client credentials"}`, mayBeWrong},
		{"Keycloak, no service account", AuthSecretBasic, 401, `{"error":"unauthorized_client","error_description":"Client not enabled to retrieve service account"}`,
			"the client has no service account in Keycloak; turn on Service accounts roles for it there"},
		{"Keycloak, public client", AuthSecretBasic, 401, `{"error":"unauthorized_client","error_description":"Public client not allowed to retrieve service account"}`,
			"the client is a public one in Keycloak; turn on Client authentication and Service accounts roles for it there"},

		{"Okta, policy", AuthSecretBasic, 400, `{"error":"access_denied","error_description":"Policy evaluation failed for this request, please check the policy configurations."}`,
			"no access policy of this authorization server lets the client have these scopes; in Okta, assign the client to a policy with a rule for the grant type Client Credentials and the scopes"},
		{"Okta, scope", AuthSecretBasic, 400, `{"error":"invalid_scope","error_description":"One or more scopes are not configured for the authorization server resource."}`,
			"this authorization server has no such scope; add it there in Okta, or compare scope and the authorization server in token_endpoint"},
		{"Okta, no scope", AuthSecretBasic, 400, `{"error":"invalid_scope","error_description":"The authorization server resource does not have any configured default scopes, 'scope' must be provided."}`,
			"no scope was asked for, and the endpoint may need one; set scope to what the API's documentation names"},
		{"Okta, id", AuthSecretBasic, 401, `{"errorCode":"invalid_client","errorSummary":"Invalid value for 'client_id' parameter.","errorLink":"invalid_client","errorId":"oae1","errorCauses":[]}`,
			"the endpoint does not know this client_id; compare it, and the host of token_endpoint, with the page of the client there"},
		{"Okta, org authorization server", AuthSecretBasic, 401, `{"error":"invalid_client","error_description":"Client Credentials requests to the Org Authorization Server must use the private_key_jwt token_endpoint_auth_method."}`,
			"the endpoint speaks of another method of client authentication; try auth_method private_key_jwt, or find out with --try-methods"},

		{"PingOne, method", AuthSecretPost, 401, `{"error":"invalid_client","error_description":"Request denied: Unsupported authentication method (Correlation ID: 1)"}`,
			"the client is to use another method than auth_method has; write the one that it has at the authorization server, or find out with --try-methods"},
		{"PingOne, method without a secret", AuthNone, 401, `{"error":"invalid_client","error_description":"Request denied: Unsupported authentication method (Correlation ID: 1)"}`,
			"the client is to use another method than auth_method has; write the one that it has at the authorization server"},
		{"PingOne, scopes of two resources", AuthSecretBasic, 400, `{"error":"invalid_scope","error_description":"May not request scopes for multiple resources"}`,
			"the scopes are of several resources; ask for those of one, and have another oauth_cc for the other"},

		{"Cognito, grant", AuthSecretBasic, 400, `{"error":"invalid_grant"}`, mayNot},
		{"another grant's parameters", AuthPrivateKeyJWT, 400, `{"error":"invalid_grant"}`, ""},
		{"Cognito, client", AuthSecretBasic, 400, `{"error":"unauthorized_client"}`, mayNot},

		{"Entra ID, no such application", AuthSecretPost, 400, `{"error":"unauthorized_client","error_description":"AADSTS700016: Application with identifier '1' was not found in the directory '2'."}`,
			"there is no such application in this tenant; compare client_id with the Application (client) ID, and the tenant in the endpoint's URL with the directory (tenant) ID in Entra ID"},
		{"Entra ID, application disabled", AuthSecretPost, 400, `{"error":"unauthorized_client","error_description":"AADSTS7000112: Application '1'(gateway) is disabled."}`,
			"the application is disabled in Entra ID; have it enabled there"},
		{"Entra ID, no service principal", AuthSecretPost, 401, `{"error":"unauthorized_client","error_description":"AADSTS7000229: The client application 1 is missing service principal in the tenant 2."}`,
			"the application has no service principal in this tenant; have an administrator consent to it in Entra ID"},
		{"Entra ID, scope without .default", AuthSecretPost, 400, `{"error":"invalid_scope","error_description":"AADSTS1002012: The provided value for scope https://graph.microsoft.com/User.Read.All is not valid."}`,
			"a client without a user can't choose permissions; set scope to the API's Application ID URI with /.default after it, and give the permissions to the app registration in Entra ID"},
		{"Entra ID, scope, older code", AuthSecretPost, 400, `{"error":"invalid_scope","error_description":"AADSTS70011: The provided request must include a 'scope' input parameter."}`,
			"a client without a user can't choose permissions; set scope to the API's Application ID URI with /.default after it, and give the permissions to the app registration in Entra ID"},
		{"Entra ID, tenant of no form", AuthSecretPost, 400, `{"error":"invalid_request","error_description":"AADSTS900023: Specified tenant identifier 'x' is neither a valid DNS name, nor a valid external domain."}`,
			"there is no such tenant; compare the tenant in the endpoint's URL with the directory (tenant) ID in Entra ID"},
		{"Entra ID, no federated credential", AuthPrivateKeyJWT, 401, `{"error":"invalid_client","error_description":"AADSTS7002138: No matching federated identity record found for presented assertion subject 'system:serviceaccount:Shop:gateway'."}`,
			"no federated credential of the app registration is for this assertion; compare its issuer, subject and audience with those of the federated credential in Entra ID, to the last slash and with the same capitals"},
		{"Entra ID, audience", AuthPrivateKeyJWT, 401, `{"error":"invalid_client","error_description":"AADSTS700023: Client assertion audience claim does not match Realm issuer."}`,
			"Entra ID does not call itself what aud is in the client's assertion; remove audience from the block of signing_key, or set it to the URL of the token endpoint"},
		{"Entra ID, another code", AuthSecretPost, 400, `{"error":"invalid_request","error_description":"AADSTS70011999: ?"}`,
			"a parameter may be missing or not be as the endpoint wants it; compare scope, audience, resource and param with the API's documentation"},
	} {
		_, failure := askOnce(t, servertest.Answer{Status: test.status, Body: test.said}, requestOf(t, test.method))
		if failure.Hint != test.want {
			t.Errorf("%s: got the hint\n%q, want\n%q", test.name, failure.Hint, test.want)
		}
	}
}

// An endpoint that does not know the grant may know another name for it.
func TestHintForAnUnknownGrantNamesParam(t *testing.T) {
	refusal := servertest.Answer{Status: 400, Body: `{"reason":"unsupported grant type","error":"unsupported_grant_type"}`}
	request := requestOf(t, AuthSecretBasic)
	_, failure := askOnce(t, refusal, request)
	if want := "the client may not be allowed to use the client-credentials grant, or the endpoint may know it by another name; have it turned on for this client, or set param grant_type as the API's documentation says"; failure.Hint != want {
		t.Errorf("got %q, want %q", failure.Hint, want)
	}
	request.Params = map[string][]string{"grant_type": {"account_credentials"}}
	_, failure = askOnce(t, refusal, request)
	if want := "the endpoint may know the grant by another name than that of param grant_type, or not allow it to this client; remove that to ask for client_credentials"; failure.Hint != want {
		t.Errorf("got %q, want %q", failure.Hint, want)
	}
	_, failure = askOnce(t, refusal, grantRequest(t, JWTGrant{Issuer: "app"}))
	if want := "the client may not be allowed to use the JWT bearer grant, or to act for this subject; have it allowed for this client at the authorization server"; failure.Hint != want {
		t.Errorf("got %q, want %q", failure.Hint, want)
	}
}

// Where a provider's words about an assertion name the cause, the hint does, and not all that can be wrong with one.
func TestHintsForWhatProvidersSayOfAssertions(t *testing.T) {
	grant := grantRequest(t, JWTGrant{Issuer: "app", Subject: "u@example.com"})
	exchange := requestOf(t, AuthNone)
	exchange.Params = map[string][]string{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}}
	secret := requestOf(t, AuthSecretPost)
	ofEnterprise := requestOf(t, AuthSecretPost)
	ofEnterprise.Params = map[string][]string{"box_subject_type": {"enterprise"}}
	ended := requestOf(t, AuthNone)
	ended.Params = map[string][]string{"grant_type": exchange.Params["grant_type"], "subject_token": {endedJWT}}
	const general = "the assertion of grant jwt_bearer was refused; it had iss app, sub u@example.com, aud "
	for _, test := range []struct {
		name    string
		request Request
		code    string
		words   string
		want    string // how the hint begins
	}{
		{"Box, aud", grant, "invalid_grant", "Please check the 'aud' claim.", "Box calls itself otherwise; set audience of grant jwt_bearer to https://api.box.com/oauth2/token"},
		{"Box, exp", grant, "invalid_grant", "Please check the 'exp' claim.", "the assertion was not within its time at Box"},
		{"Box, clock", grant, "invalid_grant", "Current date time must be before the expiration date time listed in the 'exp' claim.", "the assertion was not within its time at Box"},
		{"Box, iss", grant, "invalid_grant", "Please check the 'iss' claim.", "Box wants the app's Client ID as iss"},
		{"Box, sub", grant, "invalid_grant", "Please check the 'sub' claim.", "Box does not know whom the token is for"},
		{"Box, no such key", grant, "invalid_grant", "'kid' invalid, unable to lookup correct key.", "the app has no public key with this ID in Box"},
		{"Box, another key", grant, "invalid_grant", "Signature verification error. The public key identified by 'kid' must correspond to the private key used for signing.", "Box has another public key under this ID"},
		{"Box, not authorized", grant, "unauthorized_client", "This app is not authorized by the enterprise", "the app is not authorized in this enterprise"},
		{"Box, not authorized, in newer words", secret, "unauthorized_client", "This app is not authorized by the enterprise admin.", "the app is not authorized in this enterprise"},
		{"Box, not authorized, and the word is a parameter's", ofEnterprise, "unauthorized_client", "This app is not authorized by the enterprise admin.", "the app is not authorized in this enterprise"},
		{"Box, user, and the word is a parameter's", ofEnterprise, "invalid_request", "Cannot obtain user token based on the enterprise configuration for your app", "the app may not have tokens of users"},
		{"Box, user", grant, "unauthorized_client", "Cannot obtain token based on the enterprise configuration for your app", "the app may not have tokens of users"},
		{"Box, user, in newer words", grant, "invalid_request", "Cannot obtain user token based on the enterprise configuration for your app", "the app may not have tokens of users"},
		{"Box, grant", grant, "invalid_request", "The grant type is unauthorized for this client_id", "the app has another authentication method in Box"},
		{"Box, subject", secret, "invalid_grant", "Grant credentials are invalid", "the id and the secret are of different apps, or the app may not have tokens for this subject"},

		{"DocuSign, consent", grant, "consent_required", "", "nobody has consented to these scopes for this user"},
		{"DocuSign, key", grant, "invalid_grant", "no_valid_keys_or_signatures", "DocuSign can't verify the assertion"},
		{"DocuSign, app", grant, "invalid_grant", "issuer_not_found", "there is no such integration key in this environment"},
		{"DocuSign, user", grant, "invalid_grant", "user_not_found", "there is no such user in this environment"},

		{"Google, key", grant, "invalid_grant", "Invalid JWT Signature.", "Google does not take this key"},
		{"Google, account", grant, "invalid_grant", "Invalid grant: account not found", "there is no such service account any more"},
		{"Google, time", grant, "invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.", "the assertion was not within its time at Google"},
		{"Google, aud", grant, "invalid_grant", "Invalid JWT: Failed audience check.", "Google calls itself otherwise"},
		{"Google, no scope", grant, "invalid_scope", "Empty or missing scope not allowed.", "Google found no scopes in the assertion"},
		{"Google, scope", grant, "invalid_scope", "Invalid OAuth scope or ID token audience provided.", "Google has no such scope"},
		{"Google, delegation", grant, "unauthorized_client", "Client is unauthorized to retrieve access tokens using this method, or client not authorized for any of the scopes requested.", "the service account may not act for this user"},

		{"Google, pool", exchange, "invalid_target", `The target service indicated by the "audience" parameters is invalid. This might either be because the pool or provider is disabled or deleted or because it doesn't exist.`, "there is no such workload identity pool or provider"},
		{"Google, name of the pool", exchange, "invalid_request", `Invalid value for "audience". This value should be the full resource name of the Identity Provider. See https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token for the list of possible formats.`, "set audience to //iam.googleapis.com/projects/<number>/"},
		{"Google, issuer", exchange, "invalid_grant", "The issuer in ID Token https://cluster.example.com does not match the expected one in config: https://other.example.com.", "the token of param subject_token is from another issuer"},
		{"Google, issuer, in older words", exchange, "invalid_grant", "The issuer in ID Token https://cluster.example.com does not match the expected ones: https://other.example.com", "the token of param subject_token is from another issuer"},
		{"Google, audience of the token", exchange, "invalid_grant", "The audience in ID Token [api] does not match the expected audience.", "the token of param subject_token is for somebody else"},
		{"Google, token has ended", exchange, "invalid_grant", "ID Token issued at 1764000000 is stale to sign-in.", "the token of param subject_token has ended"},
		{"Google, token has ended, as can be seen", ended, "invalid_grant", "ID Token issued at 1764000000 is stale to sign-in.", "the subject token has ended at 2025-11-24T16:00:00Z; "},
		{"Google, condition", exchange, "unauthorized_client", "The given credential is rejected by the attribute condition.", "the provider of the workload identity pool does not let this workload in"},
		{"Google, signature", exchange, "invalid_grant", "Unable to verify the ID Token signature.", "Google can't find the key that signed the token"},
		{"Google, issuer's keys", exchange, "invalid_grant", "Error connecting to the given credential's issuer.", "Google can't find the key that signed the token"},

		{"Salesforce, app", grant, "invalid_client_id", "client identifier invalid", "Salesforce does not know this consumer key"},
		{"Salesforce, app, with a secret", secret, "invalid_client_id", "client identifier invalid", "Salesforce does not know this consumer key"},
		{"Salesforce, user", grant, "invalid_grant", "user hasn't approved this consumer", "the user may not use the app"},
		{"Salesforce, not approved", grant, "invalid_app_access", "user is not admin approved to access this app", "the app is for users that an admin has approved"},
		{"Salesforce, aud", grant, "invalid_grant", "audience is invalid", "the endpoint calls itself otherwise"},
		{"Salesforce, no user", secret, "invalid_grant", "no client credentials user enabled", "the app has no user to act as"},
		{"Salesforce, domain", secret, "invalid_grant", "request not supported on this domain", "Salesforce grants this on the org's own domain only"},
		{"Salesforce, signature or time", grant, "invalid_grant", "invalid assertion", general},

		{"another server, signature", grant, "invalid_grant", "the token has an invalid JWT signature", general},
		{"another server, user", grant, "invalid_grant", "user_not_found_in_realm", general},
		{"another server, aud", grant, "invalid_grant", "the audience is invalid for this tenant", general},
	} {
		body := `{"error":` + quoted(test.code) + `,"error_description":` + quoted(test.words) + `}`
		_, failure := askOnce(t, servertest.Answer{Status: 400, Body: body}, test.request)
		if !strings.HasPrefix(failure.Hint, test.want) {
			t.Errorf("%s: got the hint\n%q, want\n%q", test.name, failure.Hint, test.want)
		}
	}
}

// endedJWT has {"exp":1764000000} as its claims.
const endedJWT = "eyJhbGciOiJFUzI1NiJ9.eyJleHAiOjE3NjQwMDAwMDB9.c2lnbmF0dXJl"

func quoted(text string) string {
	quoted, _ := json.Marshal(text)
	return string(quoted)
}

// A clock that differs is certain, and what else could make an assertion too old or too new is not.
func TestHintsForProvidersNameTheClock(t *testing.T) {
	for _, words := range []string{
		"Please check the 'exp' claim.", "no_valid_keys_or_signatures", "ID Token issued at 1764000000 is stale to sign-in.",
		"Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.",
	} {
		answer := servertest.Answer{Status: 400, Body: `{"error":"invalid_grant","error_description":` + quoted(words) + `}`, Header: servertest.WithType("application/json")}
		answer.Header.Set("Date", time.Now().Add(10*time.Minute).UTC().Format(http.TimeFormat))
		_, failure := askOnce(t, answer, grantRequest(t, JWTGrant{Issuer: "app"}))
		if !strings.HasPrefix(failure.Hint, "this machine's clock is ") || !strings.HasSuffix(failure.Hint, " behind the endpoint's, so the assertion was not within its time; set it right") {
			t.Errorf("%s: got the hint\n%q", words, failure.Hint)
		}
	}
}
