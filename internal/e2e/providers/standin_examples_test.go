package providers

import (
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"time"
)

var patientsKnowBest = &providerSpec{
	name: "patients-know-best", variables: "PKB_", idName: "CLIENT_ID",
	path: "/api/oauth/token", lifetime: 10 * time.Minute,
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		if !s.sentBasic(r, s.id+":"+s.secret) {
			return &endpointRefusal{401, `{"error":"unauthorized","error_description":"Full authentication is required to access this resource"}`}
		}
		return onlyGrantType(body)
	},
	granted: func(token string) map[string]any {
		return map[string]any{
			"access_token": token, "token_type": "bearer", "expires_in": 600,
			"scope": "none", "jti": "24eb74c3-ad03-4c4f-a93d-786cf47b6c2f",
		}
	},
	refusedError: "refused",
	refusedSaid:  "unauthorized Full authentication is required to access this resource",
	refusedHint:  "try auth_method client_secret_basic, or find out with --try-methods",

	id: "acme-gateway", secret: "5Jw0xq2Zb7Tn",
	mistakes: []pageMistake{
		{row: "the secret or the id", replace: []string{"{env.PKB_CLIENT_SECRET}", wrongSecret}},
		{row: "another `auth_method`", replace: []string{"client_secret_basic_raw", "client_secret_post"}},
	},
}

var genesysCloud = &providerSpec{
	name: "genesys-cloud", variables: "GENESYS_", idName: "CLIENT_ID",
	path: "/oauth/token", lifetime: 24 * time.Hour,
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		if !s.sentBasic(r, s.id+":"+s.secret) {
			return &endpointRefusal{401, `{"error":"invalid_client","description":"authentication failed","error_description":"authentication failed"}`}
		}
		return onlyGrantType(body)
	},
	granted: func(token string) map[string]any {
		return map[string]any{"access_token": token, "token_type": "bearer", "expires_in": 86400}
	},
	refusedError: "invalid_client",
	refusedSaid:  "invalid_client authentication failed",
	refusedHint:  "try auth_method client_secret_basic, or find out with --try-methods",

	id: "6f1b2d7e-0c55-4a0e-9d5e-7f80e222f828", secret: "rY2pqZTFH8AeGVu3cRSTneQj",
	mistakes: []pageMistake{
		{row: "the secret, or the id", replace: []string{"{env.GENESYS_CLIENT_SECRET}", wrongSecret}},
		{row: "the credential is in the body", replace: []string{"client_secret_basic_raw", "client_secret_post"}},
	},
}

var myParcel = &providerSpec{
	name: "myparcel", variables: "MYPARCEL_", idName: "CLIENT_ID",
	path: "/access-token", mediaType: jsonType,
	apiType: "application/vnd.api+json", lifetime: time.Hour, // as the token says itself
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		var members map[string]any
		if err := json.Unmarshal([]byte(body), &members); err != nil || r.Header["Authorization"] != nil {
			return &endpointRefusal{400, `{"error":"invalid_request"}`}
		}
		if members["client_id"] == s.id && members["client_secret"] != s.secret {
			return &endpointRefusal{401, `{"error":"invalid_client","error_description":"Client authentication failed"}`}
		}
		if !reflect.DeepEqual(members, map[string]any{
			"grant_type": "client_credentials", "client_id": s.id, "client_secret": s.secret, "scope": s.scope,
		}) {
			return &endpointRefusal{400, `{"error":"invalid_request"}`}
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 86400}
	},
	refusedError: "invalid_client",
	refusedSaid:  "invalid_client Client authentication failed",

	id: "6f1b2d7e-0c55-4a0e-9d5e-a8940f1f836f", secret: "uXKuFFF3hMnvfGbuFe6JEtAp",
	mistakes: []pageMistake{
		{row: "the secret", replace: []string{"{env.MYPARCEL_CLIENT_SECRET}", wrongSecret}},
	},
}

var applixure = &providerSpec{
	name: "applixure", variables: "APPLIXURE_", idName: "KEY_ID",
	path: "/oauth2/token", lifetime: time.Hour,
	vet: func(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
		form, err := url.ParseQuery(body)
		if err != nil || !slices.Equal(form["grant_type"], []string{"client_credentials"}) || len(form["scope"]) > 1 {
			return &endpointRefusal{400, `{"error":"invalid_request"}`}
		}
		inBody := slices.Equal(form["client_id"], []string{s.id}) && slices.Equal(form["client_secret"], []string{s.secret})
		inHeader := s.sentBasic(r, url.QueryEscape(s.id)+":"+url.QueryEscape(s.secret)) && !form.Has("client_id") && !form.Has("client_secret")
		if !inHeader && (!inBody || r.Header["Authorization"] != nil) {
			return &endpointRefusal{401, `{"error":"invalid_client","error_description":"Unknown API key"}`}
		}
		if s.flaw == "scope" {
			return &endpointRefusal{400, `{"error":"invalid_scope","error_description":"account-data:manage is not for you"}`}
		}
		for _, name := range []string{"grant_type", "scope", "client_id", "client_secret"} {
			form.Del(name)
		}
		if len(form) > 0 {
			return &endpointRefusal{400, `{"error":"invalid_request"}`}
		}
		return nil
	},
	granted: func(token string) map[string]any {
		return map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600}
	},
	refusedError: "invalid_client",
	refusedSaid:  "invalid_client Unknown API key",
	refusedHint:  "try auth_method client_secret_basic_raw, or find out with --try-methods",

	id: "6f1b2d7e-0c55-4a0e-9d5e-62248b483b7f", secret: "HBbkaHVEBvYjCyAwh7xaw2x7",
	mistakes: []pageMistake{
		{row: "the key", replace: []string{"{env.APPLIXURE_KEY_SECRET}", wrongSecret}},
		{row: "a scope that the key does not have", flaw: "scope"},
	},
}

// onlyGrantType refuses a form that holds anything else.
func onlyGrantType(body string) *endpointRefusal {
	form, err := url.ParseQuery(body)
	if err != nil || !reflect.DeepEqual(form, url.Values{"grant_type": {"client_credentials"}}) {
		return &endpointRefusal{400, `{"error":"invalid_request","error_description":"unexpected parameters"}`}
	}
	return nil
}
