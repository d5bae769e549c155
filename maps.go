package oauthcc

import (
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	maphandler "github.com/caddyserver/caddy/v2/modules/caddyhttp/map"
)

// passedMaps are the map handlers that requests pass on their way to a handler, in that order. They serve the check,
// which has no requests: Caddy itself runs them for all others.
type passedMaps struct {
	maps    []*maphandler.Handler
	unclear []string // placeholders that one or the other map sets, as the request decides
}

// setter returns the map that sets a placeholder. It is nil if there is none, if it isn't clear which, or if the maps
// go in a circle, which has no end in Caddy either. Like the replacer, it takes the first.
func (p passedMaps) setter(name string) *maphandler.Handler {
	i := slices.IndexFunc(p.maps, func(m *maphandler.Handler) bool { return slices.Contains(m.Destinations, name) })
	if i < 0 || slices.Contains(p.unclear, name) || p.isCircular(name) {
		return nil
	}
	return p.maps[i]
}

// isCircular reports whether what a placeholder stands for can depend on itself.
func (p passedMaps) isCircular(name string) bool {
	reached := p.needs(name)
	for i := 0; i < len(reached) && !slices.Contains(reached, name); i++ {
		reached = appendNew(reached, p.needs(reached[i])...)
	}
	return slices.Contains(reached, name)
}

// needs returns the placeholders of the request in the maps of a placeholder.
func (p passedMaps) needs(name string) []string {
	mapped := make(map[string][]string)
	var list []string
	for _, m := range p.maps {
		if slices.Contains(m.Destinations, name) {
			collectOutputs(mapped, *m)
			list = appendNew(list, placeholdersIn(m.Source)...)
		}
	}
	for _, output := range mapped[name] {
		list = appendNew(list, placeholdersIn(output)...)
	}
	return list
}

// inputs returns the placeholders of the request that a placeholder can come from by the maps, and itself as the
// last.
func (p passedMaps) inputs(name string) []string {
	seen := make(map[string]bool)
	var list []string
	var visit func(name string)
	visit = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		visitAll(p.needs(name), visit)
		list = append(list, name)
	}
	visit(name)
	return list
}

// missing returns the placeholders without a value that a map needs to give one to this placeholder: those that it
// goes by.
func (p passedMaps) missing(name string, given map[string]string) []string {
	seen := make(map[string]bool)
	var list []string
	var visit func(name string)
	visit = func(name string) {
		if _, isGiven := given[name]; isGiven || seen[name] {
			return
		}
		seen[name] = true
		m := p.setter(name)
		if m == nil {
			list = append(list, name)
			return
		}
		visitAll(placeholdersIn(m.Source), visit)
	}
	visit(name)
	return list
}

func visitAll(names []string, visit func(name string)) {
	for _, name := range names {
		visit(name)
	}
}

// mapWalk goes through a configuration that has been set up, in the order of requests, and finds the maps before
// each handler. It knows Caddy's own handlers that have routes, but not reverse_proxy and intercept, whose routes
// are for responses.
type mapWalk struct {
	named   map[string]*caddyhttp.Route // of the server
	invokes []string                    // the named routes that lead to where the walk is
	passed  []placedMap
	found   map[*Handler]passedMaps
	order   []*Handler // the keys of found
}

// placedMap is a map with the routes that lead to it, the outermost first.
type placedMap struct {
	handler *maphandler.Handler
	trail   []*caddyhttp.Route
	skipped bool // a request that has failed may not have come this far
}

// findMaps finds the maps before each handler. The handlers are in the order in which the walk comes to them, by the
// names of the servers. Those that it does not come to are missing.
func findMaps(app *caddyhttp.App) (found map[*Handler]passedMaps, order []*Handler) {
	w := mapWalk{found: make(map[*Handler]passedMaps)}
	for _, name := range slices.Sorted(maps.Keys(app.Servers)) {
		server := app.Servers[name]
		w.named, w.passed = server.NamedRoutes, nil
		w.routesAndErrors(server.Routes, server.Errors, nil)
	}
	return w.found, w.order
}

// routesAndErrors goes through routes, and then through those for requests that have failed in them, wherever that
// was.
func (w *mapWalk) routesAndErrors(routes caddyhttp.RouteList, errors *caddyhttp.HTTPErrorConfig, trail []*caddyhttp.Route) {
	before := len(w.passed)
	w.routes(routes, trail)
	if errors == nil {
		return
	}
	passed := w.passed
	w.passed = slices.Clone(passed)
	for i := range w.passed[before:] {
		w.passed[before+i].trail, w.passed[before+i].skipped = trail, true
	}
	w.routes(errors.Routes, trail)
	w.passed = append(passed, w.passed[len(passed):]...)
}

func (w *mapWalk) routes(routes caddyhttp.RouteList, trail []*caddyhttp.Route) {
	for i := range routes {
		w.route(&routes[i], trail)
	}
}

func (w *mapWalk) route(route *caddyhttp.Route, trail []*caddyhttp.Route) {
	trail = append(slices.Clip(trail), route)
	for _, handler := range route.Handlers {
		switch handler := handler.(type) {
		case *maphandler.Handler:
			w.passed = append(w.passed, placedMap{handler: handler, trail: trail})
		case *Handler:
			w.arrive(handler, trail)
		case *caddyhttp.Subroute:
			w.routesAndErrors(handler.Routes, handler.Errors, trail)
		case *caddyhttp.Invoke:
			if named := w.named[handler.Name]; named != nil && !slices.Contains(w.invokes, handler.Name) {
				w.invokes = append(w.invokes, handler.Name)
				w.route(named, trail)
				w.invokes = w.invokes[:len(w.invokes)-1]
			}
		}
	}
}

// arrive takes note of the maps before a handler. A handler in a named route can have several ways to it.
func (w *mapWalk) arrive(h *Handler, trail []*caddyhttp.Route) {
	now := mapsOn(trail, w.passed)
	if before, again := w.found[h]; again {
		now.unclear = append(now.unclear, before.unclear...)
		if !slices.Equal(before.maps, now.maps) {
			for _, m := range slices.Concat(before.maps, now.maps) {
				now.unclear = append(now.unclear, m.Destinations...)
			}
		}
	} else {
		w.order = append(w.order, h)
	}
	w.found[h] = now
}

// mapsOn picks the maps that requests on a trail pass. A map that only some of them pass is among them: without it,
// the others would have no value. It is unclear what they have if another map after it has another.
func mapsOn(trail []*caddyhttp.Route, passed []placedMap) passedMaps {
	var on passedMaps
	set := make(map[string]bool) // and whether it is sure that it was
	for _, m := range passed {
		passes, sure := m.isOn(trail)
		if !passes {
			continue
		}
		for _, name := range m.handler.Destinations {
			switch wasSure, again := set[name]; {
			case !again:
				set[name] = sure
			case !wasSure:
				on.unclear = append(on.unclear, name)
			}
		}
		on.maps = append(on.maps, m.handler)
	}
	return on
}

// isOn reports whether requests on a trail can have passed the map, and whether it is sure that they have.
func (m placedMap) isOn(trail []*caddyhttp.Route) (passes, sure bool) {
	shared := 0
	for shared < min(len(trail), len(m.trail)) && trail[shared] == m.trail[shared] {
		shared++
	}
	sure = !m.skipped
	for _, aside := range m.trail[shared:] {
		inGroup := func(r *caddyhttp.Route) bool { return aside.Group != "" && r.Group == aside.Group }
		if aside.Terminal || slices.ContainsFunc(trail, inGroup) {
			return false, false
		}
		isSame := func(r *caddyhttp.Route) bool { return haveSameMatchers(*aside, *r) }
		sure = sure && aside.Group == "" && (!hasMatchers(*aside) || slices.ContainsFunc(trail, isSame))
	}
	return true, sure
}

// placeholdersIn lists the placeholders in a map's source or output. The outputs of regular expressions have none.
func placeholdersIn(text string) []string {
	var names []string
	for _, match := range outputParts.FindAllStringSubmatch(text, -1) {
		if name := match[1]; name != "" && !isStaticPlaceholder(name) {
			names = append(names, name)
		}
	}
	return names
}
