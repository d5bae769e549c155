package providers

import (
	"net/http"
	"time"
)

// Stand-ins for companies whose token endpoints are for their own APIs.

var payPal = &providerSpec{
	name: "paypal", variables: "PAYPAL_", idName: "CLIENT_ID",
	path: "/v1/oauth2/token", lifetime: 32400 * time.Second,
	unknown: func(status int) *endpointRefusal {
		if status == http.StatusUnsupportedMediaType {
			return refuse(400, "unsupported_grant_type", "Grant Type is NULL")
		}
		return invalidRequest(status)
	},
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		switch {
		case s.flaw == "rate":
			return &endpointRefusal{429, `{"name":"RATE_LIMIT_REACHED","message":"Too many requests. Blocked due to rate limiting.","debug_id":"b1d1f06c7246c"}`}
		case !s.sentPlain(r, form):
			return refuse(401, "invalid_client", "Client Authentication failed")
		case !has(form, "grant_type", clientCredentials):
			return &unlikeDocumented
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{
			"scope": "https://uri.paypal.com/services/invoicing https://uri.paypal.com/services/applications/webhooks", "access_token": token,
			"token_type": "Bearer", "app_id": "APP-80W284485P519543T", "expires_in": 32400, "nonce": "2026-01-31T10:15:30ZJmDGVHxyGdcyPuOTQbTyqhrQFMHTvXrNgOaAmLw3Bqk",
		}
	},
	id: "AZyFUP6KC6JiLjKJb9E3mQa35jmjGRYhMdwVKKMG4-3gMdrntc3gJEMb2eEwRJQJnWtEJL5GJrWKsMn7", secret: "EEiChBEweUrDepUv4h3jXTUzjsiFqZgBHkU7qkXDJ_BxCnywfYzbxMFEXbAxKRuJeh4qgfstc3mt2i6D",
	mistakes: []pageMistake{
		{row: "the secret or the id, or they are of the sandbox and the host is not", replace: []string{"{env.PAYPAL_CLIENT_SECRET}", wrongSecret}},
		{row: "the request is JSON", replace: []string{"\t}\n\treverse_proxy", "\t\trequest_format json\n\t}\n\treverse_proxy"}},
		{row: "too many requests", flaw: "rate", retried: true},
	},
}

const zoomAccount = "8V6sBjLJNHWwftd5WmDetb"

var zoom = &providerSpec{
	name: "zoom", variables: "ZOOM_", idName: "CLIENT_ID",
	path: "/oauth/token", lifetime: time.Hour,
	unknown: func(status int) *endpointRefusal {
		return &endpointRefusal{status, `{"reason":"Bad Request","error":"invalid_request"}`}
	},
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		switch {
		case !s.sentPlain(r, form):
			return &endpointRefusal{400, `{"reason":"Invalid client_id or client_secret","error":"invalid_client"}`}
		case form.Get("grant_type") != "account_credentials", s.flaw == "app":
			return &endpointRefusal{400, `{"reason":"unsupported grant type","error":"unsupported_grant_type"}`}
		case !has(form, "grant_type", "account_credentials", "account_id", zoomAccount):
			return &unlikeDocumented
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{
			"access_token": token, "token_type": "bearer", "expires_in": 3600, "scope": "user:read:user:admin", "api_url": "https://api.zoom.us",
		}
	},
	id: "Sf5sfQ8qes9hFaxMCtRicK", secret: "XrhksdmnvSvK2puEJVmty5bscabYJMnJ",
	further: map[string]string{"ACCOUNT_ID": zoomAccount},
	mistakes: []pageMistake{
		{row: "the secret or the id", replace: []string{"{env.ZOOM_CLIENT_SECRET}", wrongSecret}},
		{row: "`param grant_type` is missing", replace: []string{"\t\tparam grant_type account_credentials\n", ""}},
		{row: "the app is no Server-to-Server OAuth app", flaw: "app"},
	},
}

var apigee = &providerSpec{
	name: "apigee", variables: "PARTNER_", idName: "CLIENT_ID",
	path: "/oauth2/accesstoken", lifetime: time.Hour,
	warning: "the token has an unusual token_type, and is used as a Bearer token",
	unknown: func(status int) *endpointRefusal {
		return &endpointRefusal{status, `{"ErrorCode":"invalid_request","Error":"The request is missing a required parameter : grant_type"}`}
	},
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		switch {
		case s.flaw == "spike":
			return &endpointRefusal{429, `{"fault":{"faultstring":"Spike arrest violation. Allowed rate : 10ps","detail":{"errorcode":"policies.ratelimit.SpikeArrestViolation"}}}`}
		case !s.sentPlain(r, form) && s.flaw == "no response":
			return &endpointRefusal{401, `{"fault":{"faultstring":"Invalid client identifier {0}","detail":{"errorcode":"oauth.v2.InvalidClientIdentifier"}}}`}
		case !s.sentPlain(r, form):
			return &endpointRefusal{401, `{"ErrorCode":"invalid_client","Error":"ClientId is Invalid"}`}
		case !has(form, "grant_type", clientCredentials):
			return &unlikeDocumented
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{
			"issued_at": "1788308575457", "application_name": "ce1e94a2-9c3e-42fa-a2c6-1ee01815476b", "scope": "", "status": "approved",
			"api_product_list": "[Orders]", "expires_in": "3599", "developer.email": "dev@example.com", "organization_id": "0",
			"token_type": "BearerToken", "client_id": "GrEgU6TDUHL7BJvWpqxn7XYSiByd7iae", "access_token": token,
			"organization_name": "acme", "refresh_token_expires_in": "0", "refresh_count": "0",
		}
	},
	id: "GrEgU6TDUHL7BJvWpqxn7XYSiByd7iae", secret: "SZsDkdfU7A9JUuQr",
	mistakes: []pageMistake{
		{row: "the key or the secret, or the app is not approved", replace: []string{"{env.PARTNER_CLIENT_SECRET}", wrongSecret}},
		{row: "the same, where the policy has `GenerateResponse` off", replace: []string{"{env.PARTNER_CLIENT_SECRET}", wrongSecret}, flaw: "no response"},
		{row: "too many requests for a Spike Arrest policy", flaw: "spike", retried: true},
	},
}

var ups = &providerSpec{
	name: "ups", variables: "UPS_", idName: "CLIENT_ID",
	path: "/security/v1/oauth/token", lifetime: 14399 * time.Second,
	unknown: upsMissing,
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form := formOf(body)
		switch {
		case r.Header["Authorization"] == nil:
			return upsMissing(400)
		case !s.sentPlain(r, form):
			return &endpointRefusal{401, `{"response":{"errors":[{"code":"10401","message":"ClientId is Invalid"}]}}`}
		case !has(form, "grant_type", clientCredentials):
			return &unlikeDocumented
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{
			"token_type": "Bearer", "issued_at": "1788308575457", "client_id": "WucFmktEaszxMwrcvpymaxAfGtJTnrJ3afs6fjBPcBbvvSqf", "access_token": token,
			"scope": "", "expires_in": "14399", "refresh_count": "0", "status": "approved",
		}
	},
	id: "WucFmktEaszxMwrcvpymaxAfGtJTnrJ3afs6fjBPcBbvvSqf", secret: "PK82jUX4QA2wYHjuYRTjc67XJSDYW5JiK2JN765b6VP5XVWTqfbciSzgA7EMdSbS",
	mistakes: []pageMistake{
		{row: "the secret or the id", replace: []string{"{env.UPS_CLIENT_SECRET}", wrongSecret}},
		{row: "the credential is in the body", replace: []string{"\t}\n\treverse_proxy", "\t\tauth_method client_secret_post\n\t}\n\treverse_proxy"}},
	},
}

// upsMissing is how UPS refuses a token request that is not one.
func upsMissing(status int) *endpointRefusal {
	return &endpointRefusal{status, `{"response":{"errors":[{"code":"10400","message":"Invalid/Missing Authorization Header"}]}}`}
}

var ebay = &providerSpec{
	name: "ebay", variables: "EBAY_", idName: "CLIENT_ID",
	path: "/identity/v1/oauth2/token", lifetime: 2 * time.Hour,
	warning: "the token has an unusual token_type, and is used as a Bearer token",
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		const scope = "https://api.ebay.com/oauth/api_scope"
		form := formOf(body)
		switch {
		case !s.sentPlain(r, form):
			return refuse(401, "invalid_client", "client authentication failed")
		case form.Get("scope") != scope:
			return refuse(400, "invalid_scope", "The requested scope is invalid, unknown, malformed, or exceeds the scope granted to the client")
		case !has(form, "grant_type", clientCredentials, "scope", scope):
			return &unlikeDocumented
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{"access_token": token, "expires_in": 7200, "token_type": "Application Access Token"}
	},
	id: "AcmeInc-gateway-PRD-a1b2c3d4e-5f6a7b8c", secret: "PRD-1b2c3d4e5f6a-7b8c-4d9e-8f0a-1b2c",
	mistakes: []pageMistake{
		{row: "the secret or the id, or the keyset is of the sandbox and the host is not", replace: []string{"{env.EBAY_CLIENT_SECRET}", wrongSecret}},
		{row: "a scope that the keyset does not have", replace: []string{"oauth/api_scope", "oauth/api_scope/buy.marketplace.insights"}},
		{row: "no scope", replace: []string{"\t\tscope https://api.ebay.com/oauth/api_scope\n", ""}},
	},
}
