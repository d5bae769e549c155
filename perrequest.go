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
	maphandler "github.com/caddyserver/caddy/v2/modules/caddyhttp/map"
)

// requestPlaceholder is one that makes the grant differ from request to request.
type requestPlaceholder struct {
	name     string
	option   string // the first that has it
	urlPart  bool   // it is a part of the token endpoint's URL
	wholeURL bool   // it is all of that URL
	secret   bool   // what it stands for is not shown to operators
}

// notePlaceholders finds the placeholders of the request in the options, and returns the
// token request with samples in their place, for what can be checked without a request.
func (h *Handler) notePlaceholders(ctx caddy.Context) (grantRequest, error) {
	mapped := sync.OnceValue(func() map[string][]string { return mappedPlaceholders(ctx) })
	note := func(use placeholderUse) (string, error) {
		if !isRequestPlaceholder(use.name) && mapped()[use.name] == nil {
			return "", unknownPlaceholder(use)
		}
		if err := checkRequestPlaceholder(use); err != nil {
			return "", err
		}
		if use.option == "token_endpoint" && use.whole && slices.ContainsFunc(mapped()[use.name], isComposed) {
			return "", fmt.Errorf("the map that sets {%s} puts what a client sent into the URL, who could have the credential sent anywhere; "+
				"have the map list whole URLs, or write that part into token_endpoint itself, such as https://auth.example.com/{http.request.header.X-Tenant}/token", use.name)
		}
		i := slices.IndexFunc(h.perRequest, func(p requestPlaceholder) bool { return p.name == use.name })
		if i < 0 {
			i = len(h.perRequest)
			h.perRequest = append(h.perRequest, requestPlaceholder{name: use.name, option: use.option})
		}
		p := &h.perRequest[i]
		p.urlPart = p.urlPart || use.option == "token_endpoint" && !use.whole
		p.wholeURL = p.wholeURL || use.option == "token_endpoint" && use.whole
		p.secret = p.secret || h.hides(use)
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

// hides reports whether what the placeholder stands for can be a credential: of the client,
// in a parameter, a header field or the endpoint's query, or of who has sent the request.
func (h *Handler) hides(use placeholderUse) bool {
	switch option, _, _ := strings.Cut(use.option, " "); option {
	case "client_secret", "param", "request_header":
		return true
	}
	_, query, _ := strings.Cut(h.TokenEndpoint, "?")
	name := strings.TrimPrefix(use.name, "http.auth.user.")
	return strings.Contains(query, "{"+use.name+"}") || credentialName.MatchString(name) || wholeQuery.MatchString(name)
}

// credentialName finds names that sound like credentials, rather too many than too few.
var credentialName = regexp.MustCompile(`(?i)auth|cookie|secret|pass|pwd|token|key|pin|session|jwt|bearer|cred|sig`)

// wholeQuery finds the placeholders that have all that is in a query.
var wholeQuery = regexp.MustCompile(`^http\.request\.(orig_)?uri(\.(prefixed_)?query)?$`)

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

// unfit are placeholders of requests that can't choose a grant, or all that begin so, and
// why.
var unfit = []struct{ name, reason string }{
	{"http.request.body", "would read the whole body"},
	{"http.request.body_base64", "would read the whole body"},
	{"http.request.uuid", "would make each request another grant"},
	{"http.request.duration", "would make each request another grant"},
	{"http.request.duration_ms", "would make each request another grant"},
	{"http.request.remote", "would make each request another grant"}, // with the port
	{"http.request.remote.port", "would make each request another grant"},
	{"http.response.", "has no value yet"},
	{"http.reverse_proxy.", "has no value yet"},
	{"http.error.", "has no value yet"},
	{"http.oauth_cc.", "has no value yet"},
}

func checkRequestPlaceholder(use placeholderUse) error {
	for _, u := range unfit {
		if use.name == u.name || strings.HasSuffix(u.name, ".") && strings.HasPrefix(use.name, u.name) {
			return fmt.Errorf("placeholder {%s} %s; use one that tells tenants apart, such as {http.request.header.X-Tenant} or {http.auth.user.id}", use.name, u.reason)
		}
	}
	if use.option == "token_endpoint" && use.whole && (strings.HasPrefix(use.name, "http.request.") || strings.HasPrefix(use.name, "http.regexp.")) {
		return fmt.Errorf("{%s} would let clients choose where the credential is sent; have a map choose the URL by it", use.name)
	}
	return nil
}

// domainEnd is how a host has to go on after a placeholder: with a domain, which is more
// than a top-level one that anybody can have names in, and no end of an IP address.
var domainEnd = regexp.MustCompile(`(?i)^((\.[a-z0-9-]+)+\.[a-z][a-z0-9-]*|\.(internal|local|localhost|test))(:[0-9]+)?$`)

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

// mappedPlaceholders are what map handlers beside and around this one set, each with all
// that it can be.
func mappedPlaceholders(ctx caddy.Context) map[string][]string {
	mapped := make(map[string][]string)
	for _, routes := range routesAround(ctx) {
		collectMapped(mapped, routes)
	}
	return mapped
}

func collectMapped(mapped map[string][]string, routes caddyhttp.RouteList) {
	for _, route := range routes {
		for _, raw := range route.HandlersRaw {
			var h struct {
				Name   string              `json:"handler"`
				Routes caddyhttp.RouteList `json:"routes"`
			}
			_ = json.Unmarshal(raw, &h) // what can't be read is Caddy's to complain of
			if h.Name == "map" {
				var m maphandler.Handler
				_ = json.Unmarshal(raw, &m)
				collectOutputs(mapped, m)
			}
			collectMapped(mapped, h.Routes)
		}
		for _, handler := range route.Handlers { // of routes that have been set up already
			switch handler := handler.(type) {
			case *caddyhttp.Subroute:
				collectMapped(mapped, handler.Routes)
			case *maphandler.Handler:
				collectOutputs(mapped, *handler)
			}
		}
	}
}

func collectOutputs(mapped map[string][]string, m maphandler.Handler) {
	for i, name := range m.Destinations {
		name = strings.Trim(name, "{}")
		outputs := append(mapped[name], "")
		for _, mapping := range m.Mappings {
			if i < len(mapping.Outputs) {
				outputs = append(outputs, caddy.ToString(mapping.Outputs[i]))
			}
		}
		if i < len(m.Defaults) {
			outputs = append(outputs, m.Defaults[i])
		}
		mapped[name] = outputs
	}
}

// isComposed reports whether what a map gives has something of the request in it: a
// placeholder, or what a regular expression has found.
func isComposed(output string) bool {
	for _, match := range outputParts.FindAllStringSubmatch(output, -1) {
		if !isStaticPlaceholder(match[1]) {
			return true
		}
	}
	return false
}

var outputParts = regexp.MustCompile(`\$|\{([^}]*)\}`)

// missingValueError is a placeholder of the request that can't be used with this request.
type missingValueError struct {
	placeholder requestPlaceholder
	reason      string
}

func (e *missingValueError) Error() string {
	return fmt.Sprintf("%s: placeholder {%s} %s", e.placeholder.option, e.placeholder.name, e.reason)
}

// maxValue bounds what a placeholder of the request stands for, in bytes: a client can send
// a lot, and grants that fail are remembered.
const maxValue = 8 << 10

// urlPart is what can stand in a URL without changing how the rest of it is read.
var urlPart = regexp.MustCompile(`^[A-Za-z0-9_~-]+([.]+[A-Za-z0-9_~-]+)*$`)

// requestValues are what the placeholders stand for in one request, in the order of
// perRequest. A value that is not there is an error: it must not make the grant another's.
func (h *Handler) requestValues(repl *caddy.Replacer) ([]string, error) {
	values := make([]string, len(h.perRequest))
	for i, p := range h.perRequest {
		value, _ := repl.Get(p.name)
		switch values[i] = caddy.ToString(value); {
		case len(values[i]) > maxValue:
			return nil, &missingValueError{p, fmt.Sprintf("has more than %d bytes", maxValue)}
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
