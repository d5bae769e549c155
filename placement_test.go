package oauthcc

import (
	"strings"
	"testing"
)

// The placements of a directive D with a proxy P before an API, and what is said of those
// that can't work.
func TestPlacementThatSpoilsTheProofIsRefused(t *testing.T) {
	const directive = "oauth_cc https://auth.example.com/token {\nclient_id app\nclient_secret s3cret-canary\ndpop https://api.example.com\n}\n"
	for name, test := range map[string]struct{ site, says string }{
		"sorted by Caddy":                        {"rewrite * /v1{uri}\nuri strip_prefix /a\nmethod POST\nD\nP", ""},
		"around it":                              {"handle_path /a/* {\nD\nP\n}\nhandle_path /b/* {\nD\nP\n}", ""},
		"in order in a route":                    {"route {\nuri strip_prefix /a\nD\nP\n}", ""},
		"the query alone":                        {"route {\nD\nuri query +a b\nrewrite ?a=b\nrewrite {path}?a=b\nP\n}", ""},
		"the query alone, by the proxy":          {"D\nreverse_proxy localhost:1 {\nrewrite {path}?a=b\n}", ""},
		"files beside it":                        {"D\nhandle_path /static/* {\nfile_server\n}\nP", ""},
		"for other requests":                     {"route /a/* {\nD\nP\n}\nroute /b/* {\nuri strip_prefix /b\nP\n}", ""},
		"for some, then others":                  {"route {\noauth_cc_for_some\nuri strip_prefix /a\nfile_server\n}\nhandle {\nD\nP\n}", ""},
		"another's without proofs":               {"route {\noauth_cc https://auth.example.com/token {\nauth_method none\n}\nuri strip_prefix /a\nP\n}", ""},
		"leave is asked for after it":            {"route {\nD\nforward_auth localhost:1 {\nuri /leave\n}\nP\n}", ""},
		"the method it has":                      {"route {\nD\nmethod {method}\nP\n}", ""},
		"prefix in a route":                      {"route {\nD\nuri strip_prefix /a\nP\n}", "rewrite changes the path"},
		"suffix in a route":                      {"route {\nD\nuri strip_suffix /a\nP\n}", "rewrite changes the path"},
		"regular expression in a route":          {"route {\nD\nuri path_regexp /+ /\nP\n}", "rewrite changes the path"},
		"rewrite in a route":                     {"route {\nD\nrewrite * /v1{uri}\nP\n}", "rewrite changes the path"},
		"some rewritten":                         {"route {\nD\nroute /a/* {\nuri strip_prefix /a\nP\n}\nP\n}", "rewrite changes the path"},
		"method in a route":                      {"route {\nD\nmethod POST\nP\n}", "rewrite changes the method"},
		"handle_path after it":                   {"D\nhandle_path /a/* {\nP\n}", "rewrite changes the path"},
		"handle_path after it, nested":           {"D\nhandle /a/* {\nhandle_path /a/b/* {\nP\n}\n}", "rewrite changes the path"},
		"rewrite of the proxy":                   {"D\nreverse_proxy localhost:1 {\nrewrite /v1{uri}\n}", "reverse_proxy changes the path"},
		"method of the proxy":                    {"D\nreverse_proxy localhost:1 {\nmethod POST\n}", "reverse_proxy changes the method"},
		"in a route for some":                    {"route /a/* {\nD\nuri strip_prefix /a\nP\n}", "rewrite changes the path"},
		"on an error route":                      {"error 500\nhandle_errors {\nroute {\nD\nuri strip_prefix /a\nP\n}\n}", "rewrite changes the path"},
		"in a handle, as another matches before": {"handle /b/* {\nP\n}\nhandle {\nroute {\nD\nuri strip_prefix /a\nP\n}\n}", "rewrite changes the path"},
	} {
		t.Run(name, func(t *testing.T) {
			site := strings.NewReplacer("D\n", directive, "P\n", "reverse_proxy localhost:1\n", "oauth_cc_for_some\n", "").Replace(test.site + "\n")
			err := validateCaddyfile(t, "http://localhost:8080 {\n"+site+"}\n")
			switch {
			case test.says == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.says != "" && (err == nil || !strings.HasSuffix(err.Error(), "dpop: "+test.says+" after oauth_cc, but a proof is for the request as it is in oauth_cc; put oauth_cc after it, just before reverse_proxy")):
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestPlacementInANamedRouteIsChecked(t *testing.T) {
	const directive = "oauth_cc https://auth.example.com/token {\nauth_method none\ndpop https://api.example.com\n}\n"
	err := validateCaddyfile(t, "&(api) {\nroute {\n"+directive+"uri strip_prefix /a\nreverse_proxy localhost:1\n}\n}\nhttp://localhost:8080 {\ninvoke api\n}\n")
	if err == nil || !strings.Contains(err.Error(), "dpop: rewrite changes the path after oauth_cc") {
		t.Errorf("got %v", err)
	}
}
