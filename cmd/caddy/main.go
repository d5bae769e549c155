// Command caddy is a standard Caddy with the oauth_cc handler plugged in, as
// xcaddy would build it:
//
//	xcaddy build --with github.com/caddy-oauth-cc/caddy-oauth-cc
package main

import (
	_ "time/tzdata"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-oauth-cc/caddy-oauth-cc"
)

func main() {
	caddycmd.Main()
}
