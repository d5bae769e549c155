package oauthcc

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/help"
)

// warnOfPlacement warns of handlers after an oauth_cc that hide rejected tokens from it, or send its token
// elsewhere. The first handler of a configuration that is set up does that for all: Caddy forgets how a handler was
// written once it has set it up.
func (h *Handler) warnOfPlacement(ctx caddy.Context) {
	app := appAround(ctx)
	if app == nil || handlers.hasOneIn(app) {
		return
	}
	p := &placementWarnings{logger: h.reporter.logger}
	p.visit = p.look
	p.app(app)
}

// appAround returns the HTTP app of a configuration, or nil.
func appAround(ctx caddy.Context) *caddyhttp.App {
	for _, module := range ctx.Modules() {
		if app, ok := module.(*caddyhttp.App); ok {
			return app
		}
	}
	return nil
}

// placementWarnings logs what a walk finds.
type placementWarnings struct {
	placementWalk
	logger *zap.Logger
}

// look looks for what is wrong with a reverse_proxy or intercept that gets requests with a token.
func (p *placementWarnings) look(place []string, h placedHandler, t placedToken) {
	fields := []zap.Field{zap.String("route", strings.Join(place, " ")), zap.String("handler", h.Name)}
	if upstreams := h.upstreams(); upstreams != "" {
		fields = append(fields, zap.String("upstream", upstreams))
	}
	logger := p.logger.With(fields...)
	if !p.asksForLeave(h) {
		if option, statuses := p.hiddenBy(h, t.statuses); len(statuses) > 0 {
			help.Write(logger.Check(zapcore.WarnLevel, "a handler after oauth_cc answers in place of a rejection, so that the token is not renewed; use an intercept before oauth_cc instead"), "",
				zap.String("option", option), zap.Ints("status", statuses))
		}
		if statuses := h.unhealthy(t.statuses); len(statuses) > 0 {
			help.Write(logger.Check(zapcore.WarnLevel, "a rejected token counts as a failure of the upstream, which then gets no requests, not even with a new token; remove the status from unhealthy_status"), "",
				zap.Ints("status", statuses))
		}
	}
	if chosen := h.chosenByClients(); len(chosen) > 0 && len(h.Headers.leave(t.fields)) > 0 {
		help.Write(logger.Check(zapcore.WarnLevel, "a client can choose the upstream that gets the token; have a map list the upstreams, or write the domain after the placeholder"), "",
			zap.Strings("chosen", chosen))
	}
	for _, response := range h.HandleResponse {
		p.follow(response.Routes, t.fields, func(other placedHandler, carried []string) {
			if to := other.upstreams(); to == "" || to != h.upstreams() {
				help.Write(logger.Check(zapcore.WarnLevel, "handle_response sends the token to another upstream; remove it there with header_up -<header>"), "",
					zap.String("to", to), zap.Strings("header", carried))
			}
		})
	}
}

// asksForLeave reports whether a reverse_proxy is one as forward_auth makes it: if the answer is a success, the
// request goes on. What it rejects is not the token.
func (p *placementWarnings) asksForLeave(h placedHandler) bool {
	return h.Name == "reverse_proxy" && slices.ContainsFunc(h.HandleResponse, func(r caddyhttp.ResponseHandler) bool {
		return r.Match != nil && slices.ContainsFunc(r.Match.StatusCode, func(code int) bool { return code == 2 || code/100 == 2 }) && p.passesOn(r)
	})
}

// hiddenBy returns those of the statuses which are replaced by others, and the option that does the last of them.
func (p *placementWarnings) hiddenBy(h placedHandler, statuses []int) (option string, hidden []int) {
	for _, status := range statuses {
		for _, response := range h.HandleResponse {
			always, sometimes := matchesRejection(response.Match, status)
			if sometimes && p.hides(h, response, status, statuses) {
				hidden = append(hidden, status)
				option = "handle_response"
				if response.StatusCode != "" {
					option = "replace_status"
				}
				break
			}
			if always {
				break
			}
		}
	}
	return option, hidden
}

// matchesRejection reports whether rejections with the status match always, and whether some do. Of matchers without
// a status, those for other header fields than a challenge are for other answers.
func matchesRejection(m *caddyhttp.ResponseMatcher, status int) (always, sometimes bool) {
	if m == nil {
		return true, true
	}
	if m.StatusCode == nil {
		_, isOfRejections := m.Headers["Www-Authenticate"]
		return len(m.Headers) == 0, len(m.Headers) == 0 || isOfRejections
	}
	matches := slices.ContainsFunc(m.StatusCode, func(code int) bool { return caddyhttp.StatusCodeMatches(status, code) })
	return matches && len(m.Headers) == 0, matches
}

// hides reports whether an answer with the status is replaced by one with none of the statuses.
func (p *placementWarnings) hides(h placedHandler, r caddyhttp.ResponseHandler, status int, statuses []int) bool {
	isSeen := func(code caddyhttp.WeakString, otherwise int) bool {
		if code == "" {
			return slices.Contains(statuses, otherwise)
		}
		number, err := strconv.Atoi(code.String())
		return err != nil || number == 0 || slices.Contains(statuses, number) // a placeholder may stand for it
	}
	if r.StatusCode != "" {
		return !isSeen(r.StatusCode, status)
	}
	if h.Name == "intercept" && !p.answers(r.Routes) {
		return false // the answer passes
	}
	seen := false
	p.each(r.Routes, func(h placedHandler) {
		switch h.Name {
		case "copy_response":
			seen = seen || isSeen(h.StatusCode, status)
		case "static_response", "file_server":
			seen = seen || isSeen(h.StatusCode, http.StatusOK)
		}
	})
	return !seen
}

// unhealthy returns the statuses that passive health checks count as failures.
func (h placedHandler) unhealthy(statuses []int) (counted []int) {
	passive := h.HealthChecks.Passive
	if passive.FailDuration == 0 {
		return nil // they are off
	}
	for _, status := range statuses {
		if slices.ContainsFunc(passive.UnhealthyStatus, func(code int) bool { return caddyhttp.StatusCodeMatches(status, code) }) {
			counted = append(counted, status)
		}
	}
	return counted
}

// follow follows the header fields of a token through routes, and calls found for each reverse_proxy that sends some
// of them on. It returns those that are left in the end.
func (p *placementWarnings) follow(routes caddyhttp.RouteList, carried []string, found func(placedHandler, []string)) []string {
	for _, route := range routes {
		left := carried
		for _, raw := range route.HandlersRaw {
			switch h := readHandler(raw); h.Name {
			case "headers":
				left = h.requestHeaders.leave(left)
			case "oauth_cc":
				own := h.token().fields
				left = slices.DeleteFunc(slices.Clone(left), func(field string) bool { return slices.Contains(own, field) })
			case "subroute":
				left = p.follow(h.Routes, left, found)
			case "invoke":
				p.invoked(h.NamedRoute, func(routes caddyhttp.RouteList) { left = p.follow(routes, left, found) })
			case "reverse_proxy":
				if sent := h.Headers.leave(left); len(sent) > 0 {
					found(h, sent)
				}
				for _, response := range h.HandleResponse {
					p.follow(response.Routes, left, found)
				}
			}
		}
		if !hasMatchers(route) {
			carried = left // otherwise some may not have come through it
		}
	}
	return carried
}

// leave returns those of the fields that the operations don't take away.
func (o requestHeaders) leave(fields []string) []string {
	return slices.DeleteFunc(slices.Clone(fields), func(field string) bool {
		return slices.ContainsFunc(o.Request.Delete, func(pattern string) bool { return matchesField(pattern, field) }) ||
			slices.ContainsFunc(slices.Collect(maps.Keys(o.Request.Set)), func(name string) bool { return strings.EqualFold(name, field) })
	})
}

// matchesField reports whether the pattern of a header field to delete matches the field. It can begin and end with an
// asterisk.
func matchesField(pattern, field string) bool {
	pattern, field = strings.ToLower(pattern), strings.ToLower(field)
	part, ends := strings.CutPrefix(pattern, "*")
	part, begins := strings.CutSuffix(part, "*")
	switch {
	case begins && ends:
		return strings.Contains(field, part)
	case begins:
		return strings.HasPrefix(field, part)
	case ends:
		return strings.HasSuffix(field, part)
	}
	return part == field
}
