package oauthcc

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// siblingRoutes returns the lists of routes of the module that loads this handler.
func siblingRoutes(ctx caddy.Context) []caddyhttp.RouteList {
	for _, module := range slices.Backward(ctx.Modules()) {
		if lists := routesOf(module); lists != nil {
			return lists
		}
	}
	return nil
}

// routesAround returns the lists of routes around this handler, at all depths.
func routesAround(ctx caddy.Context) []caddyhttp.RouteList {
	modules := ctx.Modules()
	lists := make([]caddyhttp.RouteList, 0, len(modules))
	for _, module := range modules {
		lists = append(lists, routesOf(module)...)
	}
	return lists
}

// routesOf returns the lists of routes that a module has.
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

// placedHandler is the part of a handler's configuration that matters here.
type placedHandler struct {
	Name string `json:"handler"`

	// Of oauth_cc.
	DPoP        string       `json:"dpop"`
	RetryStatus []int        `json:"retry_status"`
	TokenHeader *TokenHeader `json:"token_header"`

	// Of reverse_proxy, the first also of intercept.
	HandleResponse []caddyhttp.ResponseHandler `json:"handle_response"`
	Rewrite        requestChange               `json:"rewrite"`
	Upstreams      []placedUpstream            `json:"upstreams"`
	Dynamic        upstreamSource              `json:"dynamic_upstreams"`
	Headers        requestHeaders              `json:"headers"`
	HealthChecks   struct {
		Passive struct {
			FailDuration    caddy.Duration `json:"fail_duration"`
			UnhealthyStatus []int          `json:"unhealthy_status"`
		} `json:"passive"`
	} `json:"health_checks"`

	Routes         caddyhttp.RouteList  `json:"routes"`      // of subroute
	NamedRoute     string               `json:"name"`        // of invoke
	StatusCode     caddyhttp.WeakString `json:"status_code"` // of handlers that answer
	requestHeaders                      // of headers
	requestChange                       // of rewrite
}

type placedUpstream struct {
	Dial string `json:"dial"`
}

// upstreamSource is where a reverse_proxy looks for its upstreams.
type upstreamSource struct {
	Name    string           `json:"name"`    // of a domain
	Sources []upstreamSource `json:"sources"` // of which it is made up
}

// requestHeaders are operations on the header of a request that take fields away.
type requestHeaders struct {
	Request struct {
		Delete []string            `json:"delete"`
		Set    map[string][]string `json:"set"`
	} `json:"request"`
}

func readHandler(raw json.RawMessage) placedHandler {
	var h placedHandler
	_ = json.Unmarshal(raw, &h) // what can't be read is Caddy's to complain of
	return h
}
