package oauthcc

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// checkPlacement refuses a configuration in which a handler after this one changes the method or the path of the
// request. The DPoP proof would then be for another request (RFC 9449 §4.2). It sees handlers in the same list of
// routes and below it. Other changes are noticed with the first request, see exchange.noticeRewrite.
func checkPlacement(ctx caddy.Context) error {
	for _, routes := range siblingRoutes(ctx) {
		for i, route := range routes {
			for j, raw := range route.HandlersRaw {
				if h := readHandler(raw); h.Name != "oauth_cc" || h.DPoP == "" {
					continue
				}
				after := caddyhttp.RouteList{{HandlersRaw: route.HandlersRaw[j+1:]}}
				if !hasMatchers(route) {
					after = append(after, routes[i+1:]...) // all requests that get there come from here
				}
				if change := changeBeforeProxy(after, ""); change != "" {
					return fmt.Errorf("dpop: %s after oauth_cc, but a proof is for the request as it is in oauth_cc; put oauth_cc after it, just before reverse_proxy", change)
				}
			}
		}
	}
	return nil
}

// requestChange has the options by which a rewrite changes more than the query.
type requestChange struct {
	Method          string            `json:"method"`
	URI             string            `json:"uri"`
	StripPathPrefix string            `json:"strip_path_prefix"`
	StripPathSuffix string            `json:"strip_path_suffix"`
	PathRegexp      []json.RawMessage `json:"path_regexp"`
}

// changeBeforeProxy describes the first change of a request on its way through routes to a reverse_proxy. It is empty
// without one. pending describes a change that was made before.
func changeBeforeProxy(routes caddyhttp.RouteList, pending string) string {
	for _, route := range routes {
		change := pending
		for _, raw := range route.HandlersRaw {
			found := ""
			switch h := readHandler(raw); h.Name {
			case "rewrite":
				if described := h.describe(); change == "" && described != "" {
					change = "rewrite changes " + described
				}
			case "subroute":
				found = changeBeforeProxy(h.Routes, change)
			case "reverse_proxy":
				if h.HandleResponse != nil {
					continue // as forward_auth does, it asks for leave and lets the request go on
				}
				if found = change; found == "" && h.Rewrite.describe() != "" {
					found = "reverse_proxy changes " + h.Rewrite.describe()
				}
			}
			if found != "" {
				return found
			}
		}
		if !hasMatchers(route) {
			pending = change // otherwise it may not have come to it
		}
	}
	return ""
}

// describe says what is changed. It is empty if nothing is.
func (c requestChange) describe() string {
	path, _, _ := strings.Cut(c.URI, "?")
	switch {
	case c.Method != "" && c.Method != "{http.request.method}":
		return "the method"
	case c.StripPathPrefix != "", c.StripPathSuffix != "", len(c.PathRegexp) > 0,
		path != "" && path != "{http.request.uri}" && path != "{http.request.uri.path}":
		return "the path"
	}
	return ""
}
