package oauthcc_test

import (
	"fmt"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	oauthcc "github.com/caddy-oauth-cc/caddy-oauth-cc"
)

// A program that writes a configuration for Caddy itself can fill in a Handler.
func ExampleHandler() {
	handler := oauthcc.Handler{
		TokenEndpoint: "https://auth.partner.example/oauth/token",
		ClientID:      "{env.PARTNER_CLIENT_ID}",
		ClientSecret:  "{file./run/secrets/partner}",
		Scopes:        []string{"orders.read"},
	}
	var warnings []caddyconfig.Warning
	fmt.Println(string(caddyconfig.JSONModuleObject(&handler, "handler", "oauth_cc", &warnings)))
	// Output: {"client_id":"{env.PARTNER_CLIENT_ID}","client_secret":"{file./run/secrets/partner}","handler":"oauth_cc","scopes":["orders.read"],"token_endpoint":"https://auth.partner.example/oauth/token"}
}
