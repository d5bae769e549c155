package endpoint_test

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// A token endpoint is asked without Caddy: all that is needed is a transport.
func ExampleClient() {
	server := servertest.Func(func(req *http.Request) (*http.Response, error) {
		if _, secret, _ := req.BasicAuth(); secret != "s3cret" {
			return servertest.Answer{Status: 401, Body: `{"error":"invalid_client"}`}.RoundTrip(req)
		}
		return servertest.Answer{Body: `{"access_token":"token-1","token_type":"Bearer","expires_in":3600}`}.RoundTrip(req)
	})
	client := &endpoint.Client{Transport: server, Timeout: 10 * time.Second, DefaultTTL: time.Minute}

	// The request is made anew for each fetch, so that a secret which has been replaced is found.
	ask := func(secret string) {
		granted, failure := client.Fetch(context.Background(), func(context.Context) (endpoint.Request, error) {
			request := endpoint.Request{
				Endpoint: "https://auth.example.com/oauth/token",
				ClientID: "gateway", ClientSecret: secret, AuthMethod: endpoint.AuthSecretBasic,
				Scopes: []string{"orders:read"},
			}
			return request, request.Check()
		}, nil)
		if failure != nil {
			fmt.Printf("clients: %s\noperators: %s\n", failure, cmp.Or(failure.Detail, failure.Hint))
			return
		}
		fmt.Printf("Authorization: %s %s, for %s\n", endpoint.TypeBearer, granted.Value, granted.Lifetime)
	}
	ask("s3cret")
	ask("wrong one")
	ask("")

	// Output:
	// Authorization: Bearer token-1, for 1h0m0s
	// clients: no access token: invalid_client, HTTP status 401
	// operators: the credential has reserved characters, which servers decode differently; try auth_method client_secret_basic_raw, or find out with --try-methods
	// clients: no access token: refused
	// operators: client_secret: missing; auth_method client_secret_basic needs one
}
