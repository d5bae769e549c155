package providers

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Stand-ins for the authorization servers that protect APIs of many parties.

// The scope of the pages whose API is the reader's own.
const orders = "orders.read"

var cognito = &providerSpec{
	name: "aws-cognito", variables: "COGNITO_", idName: "CLIENT_ID",
	path: "/oauth2/token", lifetime: time.Hour,
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		scope := form.Get("scope")
		switch {
		case !s.sentPlain(r, form):
			return &endpointRefusal{400, `{"error":"invalid_client"}`}
		case s.flaw == "flow":
			return &endpointRefusal{400, `{"error":"unauthorized_client"}`}
		case s.flaw == "grant":
			return &endpointRefusal{400, `{"error":"invalid_grant"}`}
		case scope != "orders/read":
			return &endpointRefusal{400, `{"error":"invalid_scope"}`}
		case !has(form, "grant_type", clientCredentials, "scope", scope):
			return &unlikeDocumented
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{"access_token": token, "expires_in": 3600, "token_type": "Bearer"}
	},
	id: "ujzde8gxd6ncf10epf91dhodzd", secret: "oc9is0j8ht9lgmxg9edn581u33xtplpft75v2seh60kvj50ce9u",
	mistakes: []pageMistake{
		{row: "the secret or the id, or the app client is another pool's", replace: []string{"{env.COGNITO_CLIENT_SECRET}", wrongSecret}},
		{row: "the scope, or its resource server", replace: []string{"orders/read", "read"}},
		{row: "the app client may not use the grant", flaw: "flow"},
		{row: "the grant or the scopes of the app client are incomplete, as some tools leave them", flaw: "grant"},
	},
}

var okta = &providerSpec{
	name: "okta", variables: "OKTA_", idName: "CLIENT_ID",
	path: "/oauth2/default/v1/token", lifetime: time.Hour,
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		id, _, _ := r.BasicAuth()
		switch {
		case s.flaw == "rate":
			return &endpointRefusal{429, `{"errorCode":"E0000047","errorSummary":"API call exceeded rate limit due to too many requests.","errorLink":"E0000047","errorId":"oaeQx5wUzR3TTyYYWaXxcg1Bg","errorCauses":[]}`}
		case id != s.id:
			return &endpointRefusal{401, `{"errorCode":"invalid_client","errorSummary":"Invalid value for 'client_id' parameter.","errorLink":"invalid_client","errorId":"oae06YVQDq4Qz2WEuP3dU14XQ","errorCauses":[]}`}
		case !s.sentPlain(r, form):
			return refuse(401, "invalid_client", "The client secret supplied for a confidential client is invalid.")
		case s.flaw == "grant":
			return refuse(400, "unauthorized_client", "The client is not authorized to use the provided grant type. Configured grant types: [authorization_code].")
		case form.Get("scope") == "":
			return refuse(400, "invalid_scope", "The authorization server resource does not have any configured default scopes, 'scope' must be provided.")
		case form.Get("scope") != orders:
			return refuse(400, "invalid_scope", "One or more scopes are not configured for the authorization server resource.")
		case s.flaw == "policy":
			return refuse(401, "access_denied", "Policy evaluation failed for this request, please check the policy configurations.")
		case !has(form, "grant_type", clientCredentials, "scope", orders):
			return &unlikeDocumented
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{"token_type": "Bearer", "expires_in": 3600, "access_token": token, "scope": orders}
	},
	id: "0oa1b2c3d4e5F6g7H5d7", secret: "xWyQHP5Fe7ftGWUedYWv_TNV6EuXAUybFykRhHdp-3uiZrBB9HfkEBMti6D9MtXC",
	mistakes: []pageMistake{
		{row: "the secret", replace: []string{"{env.OKTA_CLIENT_SECRET}", wrongSecret}},
		{row: "the id, or the org in the URL", replace: []string{"{env.OKTA_CLIENT_ID}", "0oaOther"}},
		{row: "the app may not use the grant", flaw: "grant"},
		{row: "there is no such scope at this authorization server", replace: []string{orders, "orders:read"}},
		{row: "no scope is asked for, and none is a default", replace: []string{"\t\tscope " + orders + "\n", ""}},
		{row: "no rule of an access policy allows it", flaw: "policy"},
		{row: "too many requests", flaw: "rate", retried: true},
	},
}

var auth0 = &providerSpec{
	name: "auth0", variables: "AUTH0_", idName: "CLIENT_ID",
	path: "/oauth/token", lifetime: 24 * time.Hour,
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		audience := form.Get("audience")
		switch {
		case !s.sentPost(r, form):
			return refuse(401, "access_denied", "Unauthorized")
		case s.flaw == "grant":
			return refuse(403, "unauthorized_client", "Grant type 'client_credentials' not allowed for the client.")
		case audience == "":
			return refuse(403, "access_denied", "No audience parameter was provided, and no default audience has been configured")
		case audience != "https://api.example.com/":
			return refuse(403, "access_denied", "Service not enabled within domain: "+audience)
		case s.flaw == "api":
			return refuse(403, "access_denied", `Client is not authorized to access "`+audience+`". You need to create a "client-grant" associated to this API.`)
		case !has(form, "grant_type", clientCredentials, "audience", audience, "client_id", s.id, "client_secret", s.secret):
			return &unlikeDocumented
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{"access_token": token, "scope": "read:orders", "expires_in": 86400, "token_type": "Bearer"}
	},
	id: "NjLgzRbe9pRAjSsyQzGhh8HFGGvfjgZx", secret: "yVAqjfmjqUqaH7Pmsuaj_CLzRNwiW8JRTVZdF939-V5MBBBBgGSBdnepEkhxQdga",
	mistakes: []pageMistake{
		{row: "the secret or the id", replace: []string{"{env.AUTH0_CLIENT_SECRET}", wrongSecret}},
		{row: "there is no API with this Identifier", replace: []string{"audience https://api.example.com/", "audience https://api.example.com"}},
		{row: "the application may not have tokens for the API", flaw: "api"},
		{row: "no audience, and the tenant has no default", replace: []string{"\t\taudience https://api.example.com/\n", ""}},
		{row: "the application may not use the grant", flaw: "grant"},
	},
}

var keycloak = &providerSpec{
	name: "keycloak", variables: "KEYCLOAK_", idName: "CLIENT_ID",
	path: "/realms/acme/protocol/openid-connect/token", lifetime: 5 * time.Minute,
	unknown: func(status int) *endpointRefusal {
		if status == http.StatusNotFound {
			return &endpointRefusal{status, `{"error":"Realm does not exist"}`}
		}
		return invalidRequest(status)
	},
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		id, _, _ := r.BasicAuth()
		switch {
		case id != s.id:
			return refuse(401, "invalid_client", "Invalid client or Invalid client credentials")
		case !s.sentPlain(r, form):
			return refuse(401, "unauthorized_client", "Invalid client or Invalid client credentials")
		case s.flaw == "service account":
			return refuse(401, "unauthorized_client", "Client not enabled to retrieve service account")
		case form.Has("scope") && form.Get("scope") != "orders":
			return refuse(400, "invalid_scope", "Invalid scopes: "+form.Get("scope"))
		case form.Has("scope") && !has(form, "grant_type", clientCredentials, "scope", "orders"):
			return &unlikeDocumented
		case !form.Has("scope") && !has(form, "grant_type", clientCredentials):
			return &unlikeDocumented
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{
			"access_token": token, "expires_in": 300, "refresh_expires_in": 0, "token_type": "Bearer",
			"not-before-policy": 0, "scope": "profile email",
		}
	},
	id: "gateway", secret: "ZsG7WkKbpKzjWLb2KvT9fW8sKzky3qLL",
	mistakes: []pageMistake{
		{row: "the secret", replace: []string{"{env.KEYCLOAK_CLIENT_SECRET}", wrongSecret}},
		{row: "the id, or the client is disabled", replace: []string{"{env.KEYCLOAK_CLIENT_ID}", "gatewy"}},
		{row: "the client has no service account", flaw: "service account"},
		{row: "a scope that the client does not have", replace: []string{"\t}\n\treverse_proxy", "\t\tscope order\n\t}\n\treverse_proxy"}},
		{row: "the realm", replace: []string{"/realms/acme/", "/realms/amce/"}},
	},
}

var pingOne = &providerSpec{
	name: "pingone", variables: "PINGONE_", idName: "CLIENT_ID",
	path: "/3f1c6a52-7d0b-4c1e-9a77-5b2f4e8d9c10/as/token", lifetime: time.Hour,
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		const correlation = " (Correlation ID: 6B1E2C52-9F3D-4E0B-8B7C-1C2D3E4F5A6B)"
		form := formOf(body)
		switch {
		case s.sentPost(r, form):
			return refuse(401, "invalid_client", "Request denied: Unsupported authentication method"+correlation)
		case !s.sentPlain(r, form):
			return refuse(401, "invalid_client", "Request denied: Invalid client credentials"+correlation)
		case strings.Contains(form.Get("scope"), " "):
			return refuse(400, "invalid_scope", "May not request scopes for multiple resources")
		case form.Get("scope") != orders:
			return refuse(400, "invalid_scope", "At least one scope must be granted")
		case !has(form, "grant_type", clientCredentials, "scope", orders):
			return &unlikeDocumented
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600, "scope": orders}
	},
	id: "0c6a52aa-7d0b-4c1e-9a77-5b2f4e8d9c10", secret: "3JxSqR5428n5r6BZ5qnK.HyYbb4tGsnWQ~yE5YyzfqgqGnxpGRR7aGTy5Tf7UhA4",
	mistakes: []pageMistake{
		{row: "the secret or the id, or the environment in the URL", replace: []string{"{env.PINGONE_CLIENT_SECRET}", wrongSecret}},
		{row: "the application has another Token Endpoint Authentication Method", replace: []string{"\t\tscope ", "\t\tauth_method client_secret_post\n\t\tscope "}},
		{row: "the application has none of the scopes", replace: []string{orders, "orders:read"}},
		{row: "the scopes are of two resources", replace: []string{"scope " + orders, "scope " + orders + " stock.read"}},
	},
}

var pingFederate = &providerSpec{
	name: "pingfederate", variables: "PINGFEDERATE_", idName: "CLIENT_ID",
	path: "/as/token.oauth2", lifetime: 2 * time.Hour,
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		switch {
		case !s.sentPlain(r, form):
			return &endpointRefusal{401, `{"error_description":"Invalid client or client credentials.","error":"invalid_client"}`}
		case form.Get("scope") != orders:
			return &endpointRefusal{400, `{"error_description":"The requested scope(s) must be blank or a subset of the provided scopes.","error":"invalid_scope"}`}
		case !has(form, "grant_type", clientCredentials, "scope", orders):
			return &unlikeDocumented
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 7199}
	},
	id: "gateway", secret: "X2nGmD4Sxf5YBFBZfYkkibjPF5TjR6QG",
	mistakes: []pageMistake{
		{row: "the secret or the id", replace: []string{"{env.PINGFEDERATE_CLIENT_SECRET}", wrongSecret}},
		{row: "a scope that the client does not have", replace: []string{orders, "orders:read"}},
	},
}

const (
	entraTenant      = "8d3f9c1e-52a4-4b7c-9c0e-1f2a3b4c5d6e"
	entraApplication = "b5e1f2a3-4c5d-4e6f-8a9b-0c1d2e3f4a5b"
)

// entraRefuses is a refusal with one of Entra ID's codes, and everything that comes with it.
func entraRefuses(status int, code, aadsts, words string) *endpointRefusal {
	const trace, correlation = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e800", "1f2e3d4c-5b6a-7988-9706-152433425160"
	const timestamp = "2026-01-31 10:15:30Z"
	return &endpointRefusal{status, fmt.Sprintf(`{"error":%q,"error_description":"AADSTS%s: %s Trace ID: %s Correlation ID: %s Timestamp: %s",`+
		`"error_codes":[%s],"timestamp":%q,"trace_id":%q,"correlation_id":%q,"error_uri":"https://login.microsoftonline.com/error?code=%s"}`,
		code, aadsts, words, trace, correlation, timestamp, aadsts, timestamp, trace, correlation, aadsts)}
}

// entraKnows refuses applications that are not there, or not now.
func entraKnows(s *providerStandIn, form url.Values) *endpointRefusal {
	switch {
	case form.Get("client_id") != s.id:
		return entraRefuses(400, "unauthorized_client", "700016", "Application with identifier '"+form.Get("client_id")+"' was not found in the directory 'Acme'. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You may have sent your authentication request to the wrong tenant.")
	case s.flaw == "disabled":
		return entraRefuses(400, "unauthorized_client", "7000112", "Application '"+s.id+"'(gateway) is disabled.")
	}
	return nil
}

// entraScope refuses scopes other than that of the API.
func entraScope(scope string) *endpointRefusal {
	switch {
	case !strings.HasSuffix(scope, "/.default"):
		return entraRefuses(400, "invalid_scope", "1002012", "The provided value for scope "+scope+" is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI).")
	case scope != "https://graph.microsoft.com/.default":
		return entraRefuses(400, "invalid_resource", "500011", "The resource principal named "+strings.TrimSuffix(scope, "/.default")+" was not found in the tenant named Acme. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant.")
	}
	return nil
}

var entraID = &providerSpec{
	name: "entra-id", heading: "With a client secret", variables: "ENTRA_", idName: "CLIENT_ID",
	path: "/" + entraTenant + "/oauth2/v2.0/token", lifetime: 3599 * time.Second,
	unknown: func(status int) *endpointRefusal {
		if status == http.StatusNotFound {
			return entraRefuses(400, "invalid_request", "90002", "Tenant '9d3f9c1e-52a4-4b7c-9c0e-1f2a3b4c5d6e' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud.")
		}
		return invalidRequest(status)
	},
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		scope := form.Get("scope")
		if refused := entraKnows(s, form); refused != nil {
			return refused
		}
		switch {
		case s.flaw == "ended":
			return entraRefuses(401, "invalid_client", "7000222", "The provided client secret keys for app '"+s.id+"' are expired. Visit the Azure portal to create new keys for your app: https://aka.ms/NewClientSecret, or consider using certificate credentials for added security: https://aka.ms/certCreds.")
		case !s.sentPost(r, form):
			return entraRefuses(401, "invalid_client", "7000215", "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '"+s.id+"'.")
		}
		if refused := entraScope(scope); refused != nil {
			return refused
		}
		if !has(form, "grant_type", clientCredentials, "scope", scope, "client_id", s.id, "client_secret", s.secret) {
			return &unlikeDocumented
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": token}
	},
	id: entraApplication, secret: "Uyj8Q~MMiba5YTgKZiD9n69pbs.puJr2PwsLC7id",
	mistakes: []pageMistake{
		{row: "the secret, such as the secret's ID in place of its value", replace: []string{"{env.ENTRA_CLIENT_SECRET}", wrongSecret}},
		{row: "the secret has expired", flaw: "ended"},
		{row: "the id, or the tenant is another one", replace: []string{"{env.ENTRA_CLIENT_ID}", "c5e1f2a3-4c5d-4e6f-8a9b-0c1d2e3f4a5b"}},
		{row: "the application is disabled", flaw: "disabled"},
		{row: "there is no such tenant", replace: []string{"/" + entraTenant + "/", "/9d3f9c1e-52a4-4b7c-9c0e-1f2a3b4c5d6e/"}},
		{row: "a scope without `/.default`", replace: []string{"graph.microsoft.com/.default", "graph.microsoft.com/User.Read.All"}},
		{row: "there is no such API in the tenant", replace: []string{"https://graph.microsoft.com/.default", "api://orders/.default"}},
	},
}
