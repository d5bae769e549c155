package oauthcc

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// requestPlaceholder is one that makes the grant differ from request to request.
type requestPlaceholder struct {
	name    string
	option  string // the first that has it
	urlPart bool   // it is a part of the token endpoint's URL
}

// notePlaceholders finds the placeholders of the request in the options, and returns the
// token request with samples in their place, for what can be checked without a request.
func (h *Handler) notePlaceholders(ctx caddy.Context) (grantRequest, error) {
	mapped := sync.OnceValue(func() []string { return mappedPlaceholders(ctx) })
	note := func(use placeholderUse) (string, error) {
		if !isRequestPlaceholder(use.name) {
			if !slices.Contains(mapped(), use.name) {
				return "", unknownPlaceholder(use)
			}
		}
		if err := checkRequestPlaceholder(use); err != nil {
			return "", err
		}
		i := slices.IndexFunc(h.perRequest, func(p requestPlaceholder) bool { return p.name == use.name })
		if i < 0 {
			i = len(h.perRequest)
			h.perRequest = append(h.perRequest, requestPlaceholder{name: use.name, option: use.option})
		}
		if use.option == "token_endpoint" && !use.whole {
			h.perRequest[i].urlPart = true
		}
		return sampleFor(use), nil
	}
	r, err := h.resolve(note)
	if err != nil {
		return r, err
	}
	if err := checkEndpointTemplate(r.endpoint); err != nil {
		return r, err
	}
	r.endpoint = strings.ReplaceAll(r.endpoint, urlPartSample, "x")
	return r, r.check()
}

// urlPartSample stands for a part of a URL whose place matters. It is a character of
// Unicode's private use area.
const urlPartSample = "\ue000"

// sampleFor is a value that fits the option.
func sampleFor(use placeholderUse) string {
	switch {
	case use.option == "token_endpoint" && use.whole:
		return "https://auth.example.com/"
	case use.option == "token_endpoint":
		return urlPartSample
	case use.option == "resource" && use.whole:
		return "https://api.example.com/"
	case use.option == "client_secret":
		return strings.Repeat("x", 64) // long enough to sign with
	}
	return "x"
}

// unfit are placeholders of requests that can't choose a grant, and why.
var unfit = []struct{ prefix, reason string }{
	{"http.request.body", "would read the whole body"},
	{"http.request.uuid", "would make each request another grant"},
	{"http.request.duration", "would make each request another grant"},
	{"http.response.", "has no value yet"},
	{"http.reverse_proxy.", "has no value yet"},
	{"http.error.", "has no value yet"},
	{"http.oauth_cc.", "has no value yet"},
}

func checkRequestPlaceholder(use placeholderUse) error {
	for _, u := range unfit {
		if strings.HasPrefix(use.name, u.prefix) {
			return fmt.Errorf("placeholder {%s} %s; use one that tells tenants apart, such as {http.request.header.X-Tenant} or {http.auth.user.id}", use.name, u.reason)
		}
	}
	if use.option == "token_endpoint" && use.whole && strings.HasPrefix(use.name, "http.request.") {
		return fmt.Errorf("{%s} would let clients choose where the credential is sent; have a map choose the URL by it", use.name)
	}
	return nil
}

// domainEnd is how a host has to go on after a placeholder.
var domainEnd = regexp.MustCompile(`^(\.[a-zA-Z0-9-]+)+(:[0-9]+)?$`)

// checkEndpointTemplate refuses an endpoint in which a part that differs from request to
// request could change whose host it is.
func checkEndpointTemplate(endpoint string) error {
	if !strings.Contains(endpoint, urlPartSample) {
		return nil
	}
	_, rest, ok := strings.Cut(endpoint, "://")
	if !ok || strings.Contains(endpoint[:len(endpoint)-len(rest)], urlPartSample) {
		return errors.New("token_endpoint: the scheme can't differ from request to request; write https://, or have a map choose the whole URL")
	}
	authority := rest
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		authority = rest[:end]
	}
	last := strings.LastIndex(authority, urlPartSample)
	if last >= 0 && !domainEnd.MatchString(authority[last+len(urlPartSample):]) {
		return errors.New("token_endpoint: the host ends with a placeholder of the request, and whoever sets that could have the credential sent anywhere; " +
			"write the domain after it, such as https://{http.request.header.X-Tenant}.auth.example.com/token, or have a map choose the whole URL")
	}
	return nil
}

// mappedPlaceholders lists what map handlers beside and around this one set.
func mappedPlaceholders(ctx caddy.Context) []string {
	var names []string
	for _, routes := range routesAround(ctx) {
		names = append(names, mappedIn(routes)...)
	}
	return names
}

func mappedIn(routes caddyhttp.RouteList) []string {
	var names []string
	add := func(raw json.RawMessage, isMap bool) {
		var h struct {
			Name         string              `json:"handler"`
			Destinations []string            `json:"destinations"`
			Routes       caddyhttp.RouteList `json:"routes"`
		}
		_ = json.Unmarshal(raw, &h) // what can't be read is Caddy's to complain of
		if isMap || h.Name == "map" {
			for _, name := range h.Destinations {
				names = append(names, strings.Trim(name, "{}"))
			}
		}
		names = append(names, mappedIn(h.Routes)...)
	}
	for _, route := range routes {
		for _, raw := range route.HandlersRaw {
			add(raw, false)
		}
		for _, handler := range route.Handlers { // of routes that have been set up already
			if subroute, ok := handler.(*caddyhttp.Subroute); ok {
				names = append(names, mappedIn(subroute.Routes)...)
				continue
			}
			if module, ok := handler.(caddy.Module); ok && module.CaddyModule().ID == "http.handlers.map" {
				if raw, err := json.Marshal(handler); err == nil {
					add(raw, true)
				}
			}
		}
	}
	return names
}

// missingValueError is a placeholder of the request that can't be used with this request.
type missingValueError struct {
	placeholder requestPlaceholder
	reason      string
}

func (e *missingValueError) Error() string {
	return fmt.Sprintf("%s: placeholder {%s} %s", e.placeholder.option, e.placeholder.name, e.reason)
}

// urlPart is what can stand in a URL without changing how the rest of it is read.
var urlPart = regexp.MustCompile(`^[A-Za-z0-9_~-]+([.]+[A-Za-z0-9_~-]+)*$`)

// requestValues are what the placeholders stand for in one request, in the order of
// perRequest. A value that is not there is an error: it must not make the grant another's.
func (h *Handler) requestValues(repl *caddy.Replacer) ([]string, error) {
	values := make([]string, len(h.perRequest))
	for i, p := range h.perRequest {
		value, _ := repl.Get(p.name)
		switch values[i] = caddy.ToString(value); {
		case values[i] == "":
			return nil, &missingValueError{p, "is empty"}
		case p.urlPart && !urlPart.MatchString(values[i]):
			return nil, &missingValueError{p, "has characters that a part of the endpoint's URL can't have; letters, digits, hyphens, underscores and dots between them are allowed"}
		}
	}
	return values, nil
}

// standIn gives a request's values to the options.
func (h *Handler) standIn(values []string) standIn {
	return func(use placeholderUse) (string, error) {
		i := slices.IndexFunc(h.perRequest, func(p requestPlaceholder) bool { return p.name == use.name })
		if i < 0 || i >= len(values) {
			return "", unknownPlaceholder(use)
		}
		return values[i], nil
	}
}
