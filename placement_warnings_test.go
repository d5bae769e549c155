package oauthcc

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

const (
	warnedHidden    = "a handler after oauth_cc answers in place of a rejection, so that the token is not renewed; use an intercept before oauth_cc instead"
	warnedUnhealthy = "a rejected token counts as a failure of the upstream, which then gets no requests, not even with a new token; remove the status from unhealthy_status"
	warnedElsewhere = "handle_response sends the token to another upstream; remove it there with header_up -<header>"
	warnedChosen    = "a client can choose the upstream that gets the token; have a map list the upstreams, or write the domain after the placeholder"
)

// placementWarning is a log entry about a placement.
type placementWarning struct {
	Level, Msg, Route, Handler, Option, Upstream, To string
	Status                                           []int
	Header, Chosen                                   []string
}

// placementWarningsIn finds them in the log.
func placementWarningsIn(g *gatewaytest.Gateway) (found []placementWarning) {
	for line := range strings.Lines(g.Logs.All()) {
		var entry placementWarning
		if json.Unmarshal([]byte(line), &entry) == nil && slices.Contains([]string{warnedHidden, warnedUnhealthy, warnedElsewhere, warnedChosen}, entry.Msg) {
			found = append(found, entry)
		}
	}
	return found
}

// short is the warning without the gateway's address.
func (w placementWarning) short(t *testing.T, g *gatewaytest.Gateway) string {
	var parts []string
	switch w.Msg {
	case warnedHidden:
		parts = []string{"hidden", w.Handler, w.Option, fmt.Sprint(w.Status)}
	case warnedUnhealthy:
		parts = []string{"unhealthy", w.Handler, fmt.Sprint(w.Status)}
	case warnedElsewhere:
		parts = []string{"elsewhere", w.Handler, w.To, fmt.Sprint(w.Header)}
	case warnedChosen:
		parts = []string{"chosen", w.Handler, fmt.Sprint(w.Chosen)}
	}
	host, _, _ := strings.Cut(g.Addr, ":")
	route, ok := strings.CutPrefix(w.Route, g.Addr+" "+host)
	if !ok || w.Level != "warn" {
		t.Errorf("%s for the route %q, of the site %s", w.Level, w.Route, g.Addr)
	}
	return strings.Join(append(parts, "at"+route), " ")
}

// placements replaces the beginnings of the directive, of the API's proxy and of what handles a rejection, and what
// answers a client.
var placements = strings.NewReplacer(
	"D{", "oauth_cc https://auth.example.com/token {\nauth_method none\n",
	"B{", "reverse_proxy localhost:1 {\n",
	"@401{", "@rejected status 401\nhandle_response @rejected {\n",
	"ok{}", "respond fine 503\n",
)

func wantWarnings(t *testing.T, tests map[string]struct{ site, want string }) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var want []string
			if test.want != "" {
				want = strings.Split(test.want, "; ")
			}
			g := gatewaytest.Start(t, placements.Replace(test.site))
			var got []string
			for _, warning := range placementWarningsIn(g) {
				got = append(got, warning.short(t, g))
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("warns of\n%q, want\n%q", got, want)
			}
		})
	}
}

func TestHiddenRejectionsAreWarnedOf(t *testing.T) {
	const byRoutes, byStatus = "hidden reverse_proxy handle_response [401] at", "hidden reverse_proxy replace_status [401] at"
	wantWarnings(t, map[string]struct{ site, want string }{
		"a page of one's own":                {"D{\n}\nB{\n@401{\nok{}\n}\n}", byRoutes},
		"for a class":                        {"D{\n}\nB{\n@a status 4xx\nhandle_response @a {\nok{}\n}\n}", byRoutes},
		"for all answers":                    {"D{\n}\nB{\nhandle_response {\nok{}\n}\n}", byRoutes},
		"for a challenge":                    {"D{\n}\nB{\n@a header WWW-Authenticate *\nhandle_response @a {\nok{}\n}\n}", byRoutes},
		"for some rejections":                {"D{\n}\nB{\n@a {\nstatus 401\nheader Content-Type text/html*\n}\nhandle_response @a {\nok{}\n}\n}", byRoutes},
		"status replaced":                    {"D{\n}\nB{\n@a status 401\nreplace_status @a 502\n}", byStatus},
		"all statuses replaced":              {"D{\n}\nB{\nreplace_status 502\n}", byStatus},
		"copied with another status":         {"D{\n}\nB{\n@401{\ncopy_response 502\n}\n}", byRoutes},
		"an error":                           {"D{\n}\nB{\n@401{\nerror 401\n}\n}", byRoutes},
		"nothing":                            {"D{\n}\nB{\n@401{\nheader A b\n}\n}", byRoutes},
		"another upstream":                   {"D{\n}\nB{\n@401{\nreverse_proxy localhost:2 {\nheader_up -Authorization\n}\n}\n}", byRoutes},
		"of the statuses configured":         {"D{\nretry_status 401 403 302\n}\nB{\n@a status 403 3xx\nhandle_response @a {\nok{}\n}\n}", "hidden reverse_proxy handle_response [403 302] at"},
		"successes besides":                  {"D{\n}\nB{\n@b status 2xx\nhandle_response @b {\ncopy_response\n}\n@401{\nok{}\n}\n}", byRoutes},
		"by an intercept after it":           {"route {\nD{\n}\nintercept {\n@401{\nok{}\n}\n}\nB{\n}\n}", "hidden intercept handle_response [401] at"},
		"status replaced by an intercept":    {"route {\nD{\n}\nintercept {\n@a status 401\nreplace_status @a 502\n}\nB{\n}\n}", "hidden intercept replace_status [401] at"},
		"in a handle":                        {"D{\n}\nhandle_path /v1/* {\nB{\n@401{\nok{}\n}\n}\n}", byRoutes + " /v1/*"},
		"in several handles":                 {"D{\n}\nhandle /a/* {\nB{\n@401{\nok{}\n}\n}\n}\nhandle {\nB{\n@401{\nok{}\n}\n}\n}", byRoutes + "; " + byRoutes + " /a/*"},
		"of a handle with it":                {"handle /a/* {\nroute {\nD{\n}\n}\nB{\n@401{\nok{}\n}\n}\n}", byRoutes + " /a/*"},
		"for the same requests":              {"@a path /a/* /b\nD{\n}\nreverse_proxy @a localhost:1 {\n@401{\nok{}\n}\n}", byRoutes + " /a/*,/b"},
		"for requests with the same matcher": {"@a method GET\noauth_cc @a https://auth.example.com/token {\nauth_method none\n}\nreverse_proxy @a localhost:1 {\n@401{\nok{}\n}\n}", byRoutes},
		"for some of all":                    {"oauth_cc /a/* https://auth.example.com/token {\nauth_method none\n}\nB{\n@401{\nok{}\n}\n}", byRoutes},
		"behind leave that is asked for":     {"route {\nD{\n}\nforward_auth localhost:2 {\nuri /leave\n}\nB{\n@401{\nok{}\n}\n}\n}", byRoutes},
		"behind files":                       {"D{\n}\nhandle /static/* {\nfile_server\n}\nhandle {\nB{\n@401{\nok{}\n}\n}\n}", byRoutes},

		"nothing handled":                    {"D{\n}\nB{\n}", ""},
		"another status":                     {"D{\n}\nB{\n@a status 5xx 403\nhandle_response @a {\nok{}\n}\n}", ""},
		"retry_status off":                   {"D{\nretry_status off\n}\nB{\n@401{\nok{}\n}\n}", ""},
		"another retry_status":               {"D{\nretry_status 403\n}\nB{\n@401{\nok{}\n}\n}", ""},
		"passed on":                          {"D{\n}\nB{\n@401{\nheader A b\ncopy_response\n}\n}", ""},
		"passed on for all answers":          {"D{\n}\nB{\nhandle_response {\ncopy_response_headers\ncopy_response\n}\n}", ""},
		"passed on in a route":               {"D{\n}\nB{\n@401{\nhandle /a {\nok{}\n}\nhandle {\ncopy_response\n}\n}\n}", ""},
		"passed on with that status":         {"D{\n}\nB{\n@401{\nrespond gone 401\n}\n}", ""},
		"with another of retry_status":       {"D{\nretry_status 401 403\n}\nB{\n@a status 401\nreplace_status @a 403\n}", ""},
		"with a status from the answer":      {"D{\n}\nB{\nhandle_response {\nrespond \"{rp.header.X}\" {rp.status_code}\n}\n}", ""},
		"replaced by one from the answer":    {"D{\n}\nB{\nreplace_status {rp.header.X-Status}\n}", ""},
		"passed on by the first that fits":   {"D{\n}\nB{\n@401{\ncopy_response\n}\nhandle_response {\nok{}\n}\n}", ""},
		"for files that the API names":       {"D{\n}\nB{\n@a header X-Accel-Redirect *\nhandle_response @a {\nrewrite {rp.header.X-Accel-Redirect}\nfile_server\n}\n}", ""},
		"an intercept before it":             {"intercept {\n@401{\nok{}\n}\n}\nD{\n}\nB{\n}", ""},
		"an intercept that adds a header":    {"route {\nD{\n}\nintercept {\n@401{\nheader A b\n}\n}\nB{\n}\n}", ""},
		"leave is asked for":                 {"route {\nD{\n}\nforward_auth localhost:2 {\nuri /leave\n@401{\nredir * /login\n}\n}\nB{\n}\n}", ""},
		"a proxy before it":                  {"route {\nreverse_proxy /a localhost:1 {\n@401{\nok{}\n}\n}\nD{\n}\nB{\n}\n}", ""},
		"another handle's":                   {"handle /a/* {\nD{\n}\nB{\n}\n}\nhandle {\nB{\n@401{\nok{}\n}\n}\n}", ""},
		"another handle's, in a group":       {"handle {\nhandle /a/* {\nD{\n}\n}\nhandle {\nB{\n@401{\nok{}\n}\n}\n}\n}", ""},
		"for other requests, perhaps":        {"oauth_cc /a/* https://auth.example.com/token {\nauth_method none\n}\nreverse_proxy /b/* localhost:1 {\n@401{\nok{}\n}\n}", ""},
		"on an error route":                  {"D{\n}\nB{\n}\nhandle_errors {\nB{\n@401{\nok{}\n}\n}\n}", ""},
		"by the directive in the answer":     {"B{\n@401{\nroute {\nD{\n}\nreverse_proxy localhost:2\n}\n}\n}", ""},
		"by a proxy that nothing comes past": {"route {\nD{\n}\nB{\n}\nreverse_proxy localhost:2 {\n@401{\nok{}\n}\n}\n}", ""},
	})
}

func TestUnhealthyRejectionsAreWarnedOf(t *testing.T) {
	wantWarnings(t, map[string]struct{ site, want string }{
		"the status":          {"D{\n}\nB{\nfail_duration 10s\nunhealthy_status 401 5xx\n}", "unhealthy reverse_proxy [401] at"},
		"its class":           {"D{\nretry_status 401 403 302\n}\nB{\nfail_duration 10s\nunhealthy_status 4xx\n}", "unhealthy reverse_proxy [401 403] at"},
		"hidden as well":      {"D{\n}\nB{\nfail_duration 10s\nunhealthy_status 401\n@401{\nok{}\n}\n}", "hidden reverse_proxy handle_response [401] at; unhealthy reverse_proxy [401] at"},
		"others":              {"D{\n}\nB{\nfail_duration 10s\nunhealthy_status 403 5xx\n}", ""},
		"health checks off":   {"D{\n}\nB{\nunhealthy_status 401\n}", ""},
		"retry_status off":    {"D{\nretry_status off\n}\nB{\nfail_duration 10s\nunhealthy_status 401\n}", ""},
		"leave is asked for":  {"route {\nD{\n}\nforward_auth localhost:2 {\nuri /leave\nfail_duration 10s\nunhealthy_status 401\n}\nB{\n}\n}", ""},
		"a failed connection": {"D{\n}\nB{\nfail_duration 10s\n}", ""},
	})
}

func TestTokenThatGoesElsewhereIsWarnedOf(t *testing.T) {
	const accel, want = "@a header X-Accel-Redirect *\nhandle_response @a {\nrewrite {rp.header.X-Accel-Redirect}\n", "elsewhere reverse_proxy localhost:3 [Authorization] at"
	wantWarnings(t, map[string]struct{ site, want string }{
		"to a store":              {"D{\n}\nB{\n" + accel + "reverse_proxy localhost:3\n}\n}", want},
		"in a handle":             {"D{\n}\nB{\n" + accel + "handle /a {\nreverse_proxy localhost:3\n}\n}\n}", want},
		"in an answer's answer":   {"D{\n}\nB{\n" + accel + "reverse_proxy localhost:4 {\nheader_up -Authorization\n" + accel + "reverse_proxy localhost:3\n}\n}\n}\n}", want},
		"removed for some":        {"D{\n}\nB{\n" + accel + "request_header /a -Authorization\nreverse_proxy localhost:3\n}\n}", want},
		"another header removed":  {"D{\ntoken_header X-Api-Token\n}\nB{\n" + accel + "request_header -Authorization\nreverse_proxy localhost:3\n}\n}", "elsewhere reverse_proxy localhost:3 [X-Api-Token] at"},
		"without retries":         {"D{\nretry_status off\n}\nB{\n" + accel + "reverse_proxy localhost:3\n}\n}", want},
		"the proof as well":       {"D{\ndpop https://api.example.com\n}\nB{\n" + accel + "reverse_proxy localhost:3\n}\n}", "elsewhere reverse_proxy localhost:3 [Authorization Dpop] at"},
		"the proof left":          {"D{\ndpop https://api.example.com\n}\nB{\n" + accel + "reverse_proxy localhost:3 {\nheader_up -Authorization\n}\n}\n}", "elsewhere reverse_proxy localhost:3 [Dpop] at"},
		"by an intercept":         {"route {\nD{\n}\nintercept {\n" + strings.ReplaceAll(accel, "rp.", "resp.") + "reverse_proxy localhost:3\n}\n}\nB{\n}\n}", "elsewhere intercept localhost:3 [Authorization] at"},
		"of an inner directive":   {"B{\n" + accel + "route {\nD{\n}\nreverse_proxy localhost:2 {\n" + accel + "reverse_proxy localhost:3\n}\n}\n}\n}\n}", want},
		"removed by the proxy":    {"D{\n}\nB{\n" + accel + "reverse_proxy localhost:3 {\nheader_up -authorization\n}\n}\n}", ""},
		"removed by a pattern":    {"D{\n}\nB{\n" + accel + "reverse_proxy localhost:3 {\nheader_up -Auth*\n}\n}\n}", ""},
		"removed by the route":    {"D{\n}\nB{\n" + accel + "request_header -Authorization\nreverse_proxy localhost:3\n}\n}", ""},
		"replaced by the proxy":   {"D{\n}\nB{\n" + accel + "reverse_proxy localhost:3 {\nheader_up Authorization \"Bearer other\"\n}\n}\n}", ""},
		"replaced by another":     {"D{\n}\nB{\n" + accel + "route {\nD{\n}\nreverse_proxy localhost:3\n}\n}\n}", ""},
		"to the same upstream":    {"D{\n}\nB{\n@a status 404\nhandle_response @a {\nrewrite /other\nreverse_proxy localhost:1\n}\n}", ""},
		"an intercept before it":  {"intercept {\n" + strings.ReplaceAll(accel, "rp.", "resp.") + "reverse_proxy localhost:3\n}\n}\nD{\n}\nB{\n}", ""},
		"after leave was granted": {"route {\nD{\n}\nforward_auth localhost:2 {\nuri /leave\n}\nB{\n}\n}", ""},
		"files":                   {"D{\n}\nB{\n" + accel + "file_server\n}\n}", ""},
	})
}

func TestUpstreamOfAClientsChoiceIsWarnedOf(t *testing.T) {
	const start, end = "D{\n}\nreverse_proxy ", " {\n}"
	wantWarnings(t, map[string]struct{ site, want string }{
		"from a header":               {start + "{header.X-Upstream}" + end, "chosen reverse_proxy [{http.request.header.X-Upstream}] at"},
		"from the query, with a port": {start + "{query.to}:443" + end, "chosen reverse_proxy [{http.request.uri.query.to}:443] at"},
		"from the host":               {start + "{labels.0}:8080" + end, "chosen reverse_proxy [{http.request.host.labels.0}:8080] at"},
		"from a match":                {"@a path_regexp to ^/(.*)$\nD{\n}\nreverse_proxy @a {re.to.1}:80", "chosen reverse_proxy [{http.regexp.to.1}:80] at"},
		"one of several":              {start + "localhost:2 {cookie.to}:80 localhost:3" + end, "chosen reverse_proxy [{http.request.cookie.to}:80] at"},
		"the end of the host":         {start + "api.{header.X-Region}:80" + end, "chosen reverse_proxy [api.{http.request.header.X-Region}:80] at"},
		"the port":                    {start + "localhost:{header.X-Port}" + end, "chosen reverse_proxy [localhost:{http.request.header.X-Port}] at"},
		"the name of a domain":        {"D{\n}\nreverse_proxy {\ndynamic a {\nname {header.X-Upstream}\nport 80\n}\n}", "chosen reverse_proxy [{http.request.header.X-Upstream}] at"},
		"one of several sources":      {"D{\n}\nreverse_proxy {\ndynamic multi {\na api.example.com 80\nsrv {header.X-Upstream}\n}\n}", "chosen reverse_proxy [{http.request.header.X-Upstream}] at"},
		"without retries":             {"D{\nretry_status off\n}\nreverse_proxy {header.X-Upstream}", "chosen reverse_proxy [{http.request.header.X-Upstream}] at"},
		"where leave is asked for":    {"route {\nD{\n}\nforward_auth {header.X-Upstream} {\nuri /leave\n}\nB{\n}\n}", "chosen reverse_proxy [{http.request.header.X-Upstream}] at"},

		"the beginning of the host": {start + "{labels.0}.partner.example:443" + end, ""},
		"from a map":                {"map {host} {to} {\ndefault localhost:2\n}\n" + start + "{to}" + end, ""},
		"from the environment":      {start + "{env.UPSTREAM}" + end, ""},
		"before the directive":      {"route {\nreverse_proxy /a {header.X-Upstream}\nD{\n}\nB{\n}\n}", ""},
		"without the token":         {start + "{header.X-Upstream} {\nheader_up -Authorization\n}", ""},
	})
}

func logPlacements(t *testing.T) string {
	return gatewaytest.Start(t, placements.Replace("D{\n}\nhandle /files/* {\nB{\n@a header X-Accel-Redirect *\nhandle_response @a {\nreverse_proxy localhost:2\n}\n}\n}\n"+
		"handle /any/* {\nreverse_proxy {header.X-Upstream}\n}\n"+
		"handle {\nB{\nfail_duration 10s\nunhealthy_status 4xx\n@401{\nok{}\n}\n}\n}")).Logs.All()
}

// Named routes can invoke each other, though no request comes out of that.
func TestNamedRoutesInACircleAreWalkedThrough(t *testing.T) {
	sites := placements.Replace("&(a) {\nroute {\nD{\n}\ninvoke b\ninvoke b\n}\n}\n&(b) {\nroute {\ninvoke a\nB{\n@401{\ninvoke b\n}\n}\n}\n}\nhttp://localhost:8080 {\ninvoke a\n}\n")
	if err := validateCaddyfile(t, sites); err != nil {
		t.Error(err)
	}
}

// Each finding is logged once, however many handlers there are, and again when a configuration is loaded anew.
func TestPlacementsAreWarnedOfOnceForEachLoad(t *testing.T) {
	const bad = "D{\n}\nB{\n@401{\nok{}\n}\n}\n"
	g := gatewaytest.Start(t, "")
	first, second := gatewaytest.FreeAddr(t), gatewaytest.FreeAddr(t)
	sites := placements.Replace("&(hidden) {\nroute {\n" + bad + "}\n}\n&(proxy) {\nB{\n@401{\nok{}\n}\n}\n}\n" +
		"http://" + first + "/v1/* {\n" + bad + "}\n" +
		"http://" + second + " {\nhandle /named/* {\ninvoke hidden\n}\nhandle /proxy/* {\nD{\n}\ninvoke proxy\n}\n" +
		"handle_errors {\n" + bad + "}\n}\n")
	for range 2 {
		before := len(placementWarningsIn(g))
		if err := gatewaytest.Load(sites); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, warning := range placementWarningsIn(g)[before:] {
			got = append(got, strings.NewReplacer(first, "A", second, "B").Replace(warning.Route))
			if warning.Upstream != "localhost:1" {
				t.Errorf("the upstream is %q", warning.Upstream)
			}
		}
		slices.Sort(got)
		want := []string{
			"A 127.0.0.1 /v1/*",
			"B &(hidden)",
			"B 127.0.0.1 /proxy/* &(proxy)",
			"B handle_errors 127.0.0.1",
		}
		if !slices.Equal(got, want) {
			t.Errorf("warns of %q, want %q", got, want)
		}
	}
}
