package oauthcc

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/textproto"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/dpop"
)

// placementWalk goes the ways of requests through a configuration and visits the handlers that pass their answers
// on: reverse_proxy and intercept. Where it can't tell whether requests with a token get there, it doesn't visit.
type placementWalk struct {
	named   map[string]*caddyhttp.Route // of the server
	place   []string                    // which requests get where the walk is
	invokes []string                    // the named routes that lead there
	visit   func(place []string, h placedHandler, t placedToken)
}

// placedToken is what an oauth_cc puts into requests.
type placedToken struct {
	fields   []string // the header fields of token and proof
	statuses []int    // of rejections; empty for none
}

// taggedRequests are requests that have come through an oauth_cc.
type taggedRequests struct {
	placedToken
	matched []caddyhttp.Route   // with matchers, of which some or all have let them through
	groups  map[string]struct{} // in which they can't come to another route
}

// app walks through all servers.
func (w *placementWalk) app(app *caddyhttp.App) {
	for _, name := range slices.Sorted(maps.Keys(app.Servers)) {
		server := app.Servers[name]
		w.named = server.NamedRoutes
		w.at(strings.Join(server.Listen, ","), func() {
			w.routes(server.Routes, nil)
			if server.Errors != nil {
				w.at("handle_errors", func() { w.routes(server.Errors.Routes, nil) })
			}
			for _, name := range slices.Sorted(maps.Keys(server.NamedRoutes)) {
				w.at("&("+name+")", func() { w.routes(caddyhttp.RouteList{*server.NamedRoutes[name]}, nil) })
			}
		})
	}
}

// at does something at a place below the current one.
func (w *placementWalk) at(place string, do func()) {
	before := w.place
	if place != "" {
		w.place = append(slices.Clip(before), place)
	}
	do()
	w.place = before
}

// routes walks through a list of routes, and returns what comes out of it.
func (w *placementWalk) routes(routes caddyhttp.RouteList, in []taggedRequests) []taggedRequests {
	for _, route := range routes {
		var entering, out []taggedRequests
		for _, requests := range in {
			enters := requests.enters(route)
			if enters {
				entering = append(entering, requests)
			}
			if !enters || hasMatchers(route) { // not all may match
				out = append(out, requests)
			}
		}
		for _, requests := range w.route(route, entering) {
			if !slices.ContainsFunc(out, requests.isOf) && !route.Terminal {
				out = append(out, requests.through(route))
			}
		}
		in = out
	}
	return in
}

// route walks through the handlers of a route.
func (w *placementWalk) route(route caddyhttp.Route, in []taggedRequests) []taggedRequests {
	w.at(describeMatchers(route), func() {
		for _, raw := range route.HandlersRaw {
			in = w.handler(readHandler(raw), in)
		}
	})
	return in
}

// handler walks through a handler.
func (w *placementWalk) handler(h placedHandler, in []taggedRequests) []taggedRequests {
	switch h.Name {
	case "oauth_cc":
		token := h.token()
		tagged := taggedRequests{placedToken: token}
		in = slices.DeleteFunc(slices.Clone(in), tagged.isOf) // it replaces their token
		if len(w.invokes) == 0 {                              // else the named route is walked through on its own
			in = append(in, tagged)
		}
	case "subroute":
		return w.routes(h.Routes, in)
	case "invoke":
		w.invoked(h.NamedRoute, func(routes caddyhttp.RouteList) { in = w.routes(routes, in) })
	case "reverse_proxy", "intercept":
		for _, requests := range in {
			w.visit(w.place, h, requests.placedToken)
		}
		for _, response := range h.HandleResponse {
			w.routes(response.Routes, nil)
		}
		if h.Name == "reverse_proxy" && !slices.ContainsFunc(h.HandleResponse, func(r caddyhttp.ResponseHandler) bool { return w.passesOn(r) }) {
			return nil
		}
	}
	return in
}

// invoked calls do with a named route, unless that is how the walk has come there.
func (w *placementWalk) invoked(name string, do func(caddyhttp.RouteList)) {
	route := w.named[name]
	if route == nil || slices.Contains(w.invokes, name) {
		return
	}
	w.invokes = append(w.invokes, name)
	w.at("&("+name+")", func() { do(caddyhttp.RouteList{*route}) })
	w.invokes = w.invokes[:len(w.invokes)-1]
}

// each calls do with all handlers in a list of routes, at all depths.
func (w *placementWalk) each(routes caddyhttp.RouteList, do func(placedHandler)) {
	for _, route := range routes {
		for _, raw := range route.HandlersRaw {
			h := readHandler(raw)
			do(h)
			w.each(h.Routes, do)
			if h.Name == "invoke" {
				w.invoked(h.NamedRoute, func(routes caddyhttp.RouteList) { w.each(routes, do) })
			}
		}
	}
}

// passesOn reports whether requests go on behind reverse_proxy after its handle_response.
func (w *placementWalk) passesOn(r caddyhttp.ResponseHandler) bool {
	return r.StatusCode == "" && !w.answers(r.Routes)
}

// answers reports whether one of Caddy's handlers that answer is in the routes.
func (w *placementWalk) answers(routes caddyhttp.RouteList) (found bool) {
	w.each(routes, func(h placedHandler) {
		switch h.Name {
		case "static_response", "copy_response", "file_server", "reverse_proxy", "error":
			found = true
		}
	})
	return found
}

// enters reports whether it is certain that some of the requests get into the route.
func (r taggedRequests) enters(route caddyhttp.Route) bool {
	if _, taken := r.groups[route.Group]; taken && route.Group != "" {
		return false
	}
	return !hasMatchers(route) || !slices.ContainsFunc(r.matched, func(other caddyhttp.Route) bool { return !haveSameMatchers(route, other) })
}

// through returns the requests with the route that they have come through.
func (r taggedRequests) through(route caddyhttp.Route) taggedRequests {
	if hasMatchers(route) {
		r.matched = append(slices.Clip(r.matched), route)
	}
	if route.Group != "" {
		r.groups = maps.Clone(r.groups)
		if r.groups == nil {
			r.groups = make(map[string]struct{})
		}
		r.groups[route.Group] = struct{}{}
	}
	return r
}

// isOf reports whether others have the same token.
func (r taggedRequests) isOf(other taggedRequests) bool {
	return r.fields[0] == other.fields[0]
}

// token says what the oauth_cc puts into requests. Its options may not have been checked yet.
func (h placedHandler) token() placedToken {
	token := placedToken{fields: []string{"Authorization"}, statuses: h.RetryStatus}
	if h.TokenHeader != nil {
		token.fields[0] = textproto.CanonicalMIMEHeaderKey(h.TokenHeader.Name)
	}
	if h.DPoP != "" {
		token.fields = append(token.fields, dpop.Header)
	}
	if h.RetryStatus == nil {
		token.statuses = []int{http.StatusUnauthorized}
	}
	return token
}

// upstreams lists the addresses of a reverse_proxy, as far as they are written.
func (h placedHandler) upstreams() string {
	dials := make([]string, len(h.Upstreams))
	for i, upstream := range h.Upstreams {
		dials[i] = upstream.Dial
	}
	return strings.Join(dials, ",")
}

func haveSameMatchers(a, b caddyhttp.Route) bool {
	return reflect.DeepEqual(a.MatcherSetsRaw, b.MatcherSetsRaw) && reflect.DeepEqual(a.MatcherSets, b.MatcherSets)
}

// describeMatchers names the hosts of a route and the paths, each separated by commas. It is empty without any.
func describeMatchers(route caddyhttp.Route) string {
	var hosts caddyhttp.MatchHost
	var paths caddyhttp.MatchPath
	for _, set := range route.MatcherSetsRaw {
		hosts = append(hosts, valuesOf(set["host"])...)
		paths = append(paths, valuesOf(set["path"])...)
	}
	for _, set := range route.MatcherSets { // of a route that has been set up already
		for _, matcher := range set {
			switch matcher := matcher.(type) {
			case *caddyhttp.MatchHost:
				hosts = append(hosts, *matcher...)
			case *caddyhttp.MatchPath:
				paths = append(paths, *matcher...)
			}
		}
	}
	return strings.TrimSpace(strings.Join(hosts, ",") + " " + strings.Join(paths, ","))
}

// valuesOf reads the values of a matcher, if it has a list of them.
func valuesOf(matcher json.RawMessage) (values []string) {
	_ = json.Unmarshal(matcher, &values) // what can't be read is Caddy's to complain of
	return values
}
