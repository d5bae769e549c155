package endpoint

import (
	"testing"

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
