package oauthcc

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/help"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/mask"

	maphandler "github.com/caddyserver/caddy/v2/modules/caddyhttp/map"
)

// requestPlaceholder is a placeholder of the request, which makes per-request grants.
type requestPlaceholder struct {
	name     string
	option   string // the first that has it
	urlPart  bool   // it is a part of a URL
	word     bool   // it is a part of another value
	wholeURL bool   // it is all of the token endpoint's URL
	secret   bool   // what it stands for is not shown to operators
}

// resolveWithSamples finds the placeholders of the request in the options, and returns the token request with
// samples in their place, for what can be checked without a request.
func (q *tokenRequest) resolveWithSamples(ctx caddy.Context) (endpoint.Request, error) {
	mapped := sync.OnceValue(func() map[string][]string { return mappedPlaceholders(ctx) })
	uses := make(map[string]int)
	r, err := q.resolve(func(use placeholderUse) (string, error) {
		if err := checkRequestPlaceholder(use, mapped); err != nil {
			return "", err
		}
		q.record(use)
		uses[use.option]++
		return sampleFor(use), nil
	})
	if missing, ok := errors.AsType[noAssertionYetError](err); ok {
		help.Write(q.h.reporter.logger.Check(zapcore.WarnLevel, "the client's assertion is not there; there are no tokens until it is"), "", zap.Error(missing))
		err = nil
	}
	if err != nil {
		return r, err
	}
	if err := checkEndpointTemplate(r.Endpoint); err != nil {
		return r, err
	}
	r.Endpoint = strings.ReplaceAll(r.Endpoint, urlPartSample, "x")
	q.noteNameLimits(r, uses)
	return r, r.Check()
}

// record takes note of a placeholder of the request, and of what it is used for.
func (q *tokenRequest) record(use placeholderUse) {
	i := slices.IndexFunc(q.placeholders, func(p requestPlaceholder) bool { return p.name == use.name })
	if i < 0 {
		i = len(q.placeholders)
		q.placeholders = append(q.placeholders, requestPlaceholder{name: use.name, option: use.option})
	}
	p := &q.placeholders[i]
	p.urlPart = p.urlPart || use.place.url
	p.word = p.word || use.place.word
	p.wholeURL = p.wholeURL || use.option == "token_endpoint" && use.place.whole
	p.secret = p.secret || q.hides(use)
}

// hides reports whether the placeholder's value can be a credential: the client's, in a parameter, a header
// field or the endpoint's query, or that of the sender of the request.
func (q *tokenRequest) hides(use placeholderUse) bool {
	switch option, _, _ := strings.Cut(use.option, " "); option {
	case "client_secret", "client_assertion", "param", "request_header", "grant.claim":
		return true
	}
	_, query, _ := strings.Cut(q.h.TokenEndpoint, "?")
	name := strings.TrimPrefix(use.name, "http.auth.user.")
	return strings.Contains(query, "{"+use.name+"}") || credentialName.MatchString(name) || wholeQuery.MatchString(name)
}

// credentialName finds names that sound like credentials, rather too many than too few.
var credentialName = regexp.MustCompile(`(?i)auth|cookie|secret|pass|pwd|token|key|pin|session|jwt|bearer|cred|sig`)

// wholeQuery finds the placeholders that have all that is in a query.
var wholeQuery = regexp.MustCompile(`^http\.request\.(orig_)?uri(\.(prefixed_)?query)?(_escaped)?$`)

// urlPartSample stands for a part of a URL whose place matters. It is a character of
// Unicode's private use area.
const urlPartSample = "\ue000"

// sampleFor is a value that fits the option.
func sampleFor(use placeholderUse) string {
	switch {
	case use.option == "token_endpoint" && use.place.whole:
		return "https://auth.example.com/"
	case use.option == "token_endpoint":
		return urlPartSample
	case use.option == "resource" && use.place.whole:
		return "https://api.example.com/"
	case use.option == "client_secret":
		return strings.Repeat("x", 64) // long enough to sign with
	case use.option == "client_assertion":
		return "e30.e30.eA" // a JWT without claims
	}
	return "x"
}

// unfit lists placeholders of requests that can't choose a grant, with the reason. A name that ends with a dot
// stands for all that begin with it.
var unfit = []struct{ name, reason string }{
	{"http.request.body", "would read the whole body"},
	{"http.request.body_base64", "would read the whole body"},
	{"http.request.uuid", "would make each request another grant"},
	{"http.request.duration", "would make each request another grant"},
	{"http.request.duration_ms", "would make each request another grant"},
	{"http.time_until_shutdown", "would make each request another grant"},
	{"http.request.remote", "would make each request another grant"}, // with the port
	{"http.request.remote.port", "would make each request another grant"},
	{"http.response.", "has no value yet"},
	{"http.reverse_proxy.", "has no value yet"},
	{"http.error.", "has no value yet"},
	{"http.oauth_cc.", "has no value yet"},
}

// shorthandFile is what a Caddyfile makes of {file.*}, unless a slash follows.
const shorthandFile = "http.request.uri.path.file."

// checkRequestPlaceholder refuses placeholders that can't choose a grant, or that would let a client choose where the
// credential is sent. mapped returns the placeholders that a map sets, with all their possible values.
func checkRequestPlaceholder(use placeholderUse, mapped func() map[string][]string) error {
	if !isRequestPlaceholder(use.name) && mapped()[use.name] == nil {
		return unknownPlaceholder(use)
	}
	if file, ok := strings.CutPrefix(use.name, shorthandFile); ok && file != "base" && file != "ext" {
		return fmt.Errorf("placeholder {file.%s} is short for a part of the request's path in a Caddyfile; to read the file, write its path: {file./path/to/%s} or {file./%[1]s}", file, file)
	}
	for _, u := range unfit {
		if use.name == u.name || strings.HasSuffix(u.name, ".") && strings.HasPrefix(use.name, u.name) {
			return fmt.Errorf("placeholder {%s} %s; use one that tells tenants apart, such as {http.request.header.X-Tenant} or {http.auth.user.id}", use.name, u.reason)
		}
	}
	setter := "map"
	if strings.HasPrefix(use.name, "http.vars.") {
		setter = "vars"
	}
	isWholeURL := use.option == "token_endpoint" && use.place.whole
	switch {
	case isWholeURL && (strings.HasPrefix(use.name, "http.request.") || strings.HasPrefix(use.name, "http.regexp.")):
		return fmt.Errorf("{%s} would let clients choose where the credential is sent; have a map choose the URL by it", use.name)
	case isWholeURL && slices.ContainsFunc(mapped()[use.name], isComposed):
		return fmt.Errorf("the %s that sets {%s} puts what a client sent into the URL, so a client could have the credential sent anywhere; "+
			"have the map list whole URLs, or write that part into token_endpoint itself, such as https://auth.example.com/{http.request.header.X-Tenant}/token", setter, use.name)
	case use.place.whole && slices.ContainsFunc(mapped()[use.name], isComposedJSON):
		return fmt.Errorf("the %s that sets {%s} puts what a client sent into JSON, so a client could add JSON of its own; write the JSON into the option itself", setter, use.name)
	}
	return nil
}

// domainEnd matches what must follow a placeholder in a host: a domain in which not everyone can get a name, and
// not the end of an IP address.
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
		return errors.New("token_endpoint: the host ends with a placeholder of the request, so a client could have the credential sent anywhere; " +
			"write the domain after it, such as https://{http.request.header.X-Tenant}.auth.example.com/token, or have a map choose the whole URL")
	}
	return nil
}

// mappedPlaceholders returns the placeholders that map and vars handlers around this one set, each with all its
// possible values.
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
			switch h.Name {
			case "map":
				var m maphandler.Handler
				_ = json.Unmarshal(raw, &m)
				collectOutputs(mapped, m)
			case "vars":
				var vars caddyhttp.VarsMiddleware
				_ = json.Unmarshal(raw, &vars)
				collectVars(mapped, vars)
			}
			collectMapped(mapped, h.Routes)
		}
		for _, handler := range route.Handlers { // of routes that have been set up already
			switch handler := handler.(type) {
			case *caddyhttp.Subroute:
				collectMapped(mapped, handler.Routes)
			case *maphandler.Handler:
				collectOutputs(mapped, *handler)
			case *caddyhttp.VarsMiddleware:
				collectVars(mapped, *handler)
			}
		}
	}
}

func collectOutputs(mapped map[string][]string, m maphandler.Handler) {
	for i, name := range m.Destinations {
		name = strings.Trim(name, "{}")
		outputs := append(mapped[name], "")
		for _, mapping := range m.Mappings {
			if i >= len(mapping.Outputs) {
				continue
			}
			output := caddy.ToString(mapping.Outputs[i])
			if mapping.InputRegexp != "" {
				output = strings.ReplaceAll(output, "{", `\{`) // it has no placeholders
			}
			outputs = append(outputs, output)
		}
		if i < len(m.Defaults) {
			outputs = append(outputs, m.Defaults[i])
		}
		mapped[name] = outputs
	}
}

// collectVars adds what a vars handler sets, by its placeholders.
func collectVars(mapped map[string][]string, vars caddyhttp.VarsMiddleware) {
	for name, value := range vars {
		name = "http.vars." + name
		mapped[name] = append(mapped[name], strings.ReplaceAll(caddy.ToString(value), "$", "")) // that is a letter like any other there
	}
}

// isComposedJSON reports whether what a map gives is JSON and has something of the request in it.
func isComposedJSON(output string) bool {
	text := outputParts.ReplaceAllLiteralString(strings.ReplaceAll(output, `\{`, placeMark), "x")
	return looksLikeJSON(strings.ReplaceAll(text, placeMark, "{")) && isComposed(output)
}

// isComposed reports whether what a map gives has something of the request in it: a
// placeholder, or what a regular expression has found.
func isComposed(output string) bool {
	for _, match := range outputParts.FindAllStringSubmatch(strings.ReplaceAll(output, `\{`, ""), -1) {
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

// values returns what the placeholders stand for in one request, in the order of q.placeholders. A missing
// value is an error: it must not select another tenant's grant.
func (q *tokenRequest) values(repl *caddy.Replacer) ([]string, error) {
	values := make([]string, len(q.placeholders))
	for i, p := range q.placeholders {
		value, _ := repl.Get(p.name)
		switch values[i] = caddy.ToString(value); {
		case len(values[i]) > maxValue:
			return nil, &missingValueError{p, fmt.Sprintf("has more than %d bytes", maxValue)}
		case values[i] == "":
			return nil, &missingValueError{p, "is empty"}
		case !utf8.ValidString(values[i]):
			return nil, &missingValueError{p, "is not UTF-8"} // JSON would make the same of different values
		}
		if err := p.checkFit(values[i]); err != nil {
			return nil, &missingValueError{p, err.Error()}
		}
	}
	return values, nil
}

// standIn gives a request's values to the options.
func (q *tokenRequest) standIn(values []string) standIn {
	return func(use placeholderUse) (string, error) {
		i := slices.IndexFunc(q.placeholders, func(p requestPlaceholder) bool { return p.name == use.name })
		if i < 0 || i >= len(values) {
			return "", unknownPlaceholder(use)
		}
		return values[i], nil
	}
}

// maxShown is how much is kept of what a placeholder of the request stands for, to tell
// operators whose token it is. In characters.
const maxShown = 64

// shownValues are what the placeholders of a request stand for, as far as operators may see it.
func shownValues(placeholders []requestPlaceholder, values []string) []string {
	shown := make([]string, len(values))
	for i, p := range placeholders {
		if !p.secret {
			shown[i] = strings.Clone(mask.FirstRunes(p.shown(values[i]), maxShown))
		}
	}
	return shown
}

// shown returns what operators may see of a value: a URL without query and user info.
func (p requestPlaceholder) shown(value string) string {
	if !p.wholeURL {
		return value
	}
	u, err := url.Parse(value)
	if err != nil {
		return ""
	}
	return endpoint.DisplayURL(u)
}
