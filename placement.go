package oauthcc

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// checkPlacement refuses a configuration in which a handler after this one gives the
// request that is proxied another method or path than its proof is for. It sees what is
// written beside this handler and within that; whatever else changes them is noticed with
// the first request.
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
					return fmt.Errorf("dpop: %s after oauth_cc, but a proof is for what the request is in oauth_cc; put oauth_cc after it, just before reverse_proxy", change)
				}
			}
		}
	}
	return nil
}

// siblingRoutes are the lists of routes of which one has the handler that ctx is for.
func siblingRoutes(ctx caddy.Context) []caddyhttp.RouteList {
	for _, module := range slices.Backward(ctx.Modules()) {
		if lists := routesOf(module); lists != nil {
			return lists
		}
	}
	return nil
}

// routesAround are the lists of routes around the handler that ctx is for, at all depths.
func routesAround(ctx caddy.Context) []caddyhttp.RouteList {
	modules := ctx.Modules()
	lists := make([]caddyhttp.RouteList, 0, len(modules))
	for _, module := range modules {
		lists = append(lists, routesOf(module)...)
	}
	return lists
}

// routesOf are the lists of routes of a module that has some.
func routesOf(module caddy.Module) []caddyhttp.RouteList {
	switch module := module.(type) {
	case *caddyhttp.Subroute:
		return withErrors(module.Routes, module.Errors)
	case *caddyhttp.App:
		var lists []caddyhttp.RouteList
		for _, server := range module.Servers {
			lists = append(lists, withErrors(server.Routes, server.Errors)...)
			for named := range maps.Values(server.NamedRoutes) {
				lists = append(lists, caddyhttp.RouteList{*named})
			}
		}
		return lists
	}
	return nil
}

func withErrors(routes caddyhttp.RouteList, errors *caddyhttp.HTTPErrorConfig) []caddyhttp.RouteList {
	if errors == nil {
		return []caddyhttp.RouteList{routes}
	}
	return []caddyhttp.RouteList{routes, errors.Routes}
}

func hasMatchers(route caddyhttp.Route) bool {
	return len(route.MatcherSetsRaw) > 0 || len(route.MatcherSets) > 0
}

// placedHandler is what is of interest in the configuration of a handler.
type placedHandler struct {
	Name           string              `json:"handler"`
	DPoP           string              `json:"dpop"`
	Rewrite        requestChange       `json:"rewrite"`         // of reverse_proxy
	HandleResponse json.RawMessage     `json:"handle_response"` // likewise
	Routes         caddyhttp.RouteList `json:"routes"`          // of subroute
	requestChange
}

// requestChange holds the options of a rewrite with which that changes more than the query.
type requestChange struct {
	Method          string            `json:"method"`
	URI             string            `json:"uri"`
	StripPathPrefix string            `json:"strip_path_prefix"`
	StripPathSuffix string            `json:"strip_path_suffix"`
	PathRegexp      []json.RawMessage `json:"path_regexp"`
}

func readHandler(raw json.RawMessage) placedHandler {
	var h placedHandler
	_ = json.Unmarshal(raw, &h) // what can't be read is Caddy's to complain of
	return h
}

// changeBeforeProxy describes the first change to a request on its way through routes to a
// reverse_proxy, or is empty. pending is one that was made before.
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

// describe tells what is changed, or is empty.
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
