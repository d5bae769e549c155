package requests

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// upstreams are two APIs of one gateway, A and B. A request can reach both.
type upstreams struct {
	endpoint *gatewaytest.TokenServer
	a, b     *httptest.Server
	seen     gatewaytest.AttemptLog // by A
}

// startUpstreams has A answer with that status, and B accept no token but that.
func startUpstreams(t *testing.T, statusOfA int, accepted string) *upstreams {
	u := &upstreams{endpoint: gatewaytest.StartTokenServer(t)}
	u.a = gatewaytest.StartScriptedAPI(t, u.seen.Observe(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(statusOfA)
	}))
	u.b = gatewaytest.StartScriptedAPI(t, gatewaytest.AcceptOnly(accepted))
	return u
}

// site is a gateway's configuration with their addresses.
func (u *upstreams) site(lines string) string {
	return strings.NewReplacer(
		"OAUTH", u.endpoint.Options(), "UPSTREAM_A", u.a.Listener.Addr().String(), "UPSTREAM_B", u.b.Listener.Addr().String(),
	).Replace(lines)
}

// A handler can write 401 after an upstream has answered something else. What that one did must not be done
// twice.
func TestWhatAnUpstreamMayHaveDoneIsNotSentAgain(t *testing.T) {
	for name, test := range map[string]struct {
		a    int // status of the first upstream
		site string
	}{
		"another upstream rejects": {200, `OAUTH
			reverse_proxy UPSTREAM_A {
				@done status 2xx
				handle_response @done {
					request_header X-Done yes
					reverse_proxy UPSTREAM_B
				}
			}`},
		"another upstream rejects, without a route of its own": {200, `OAUTH
			route {
				reverse_proxy UPSTREAM_A {
					@done status 2xx
					handle_response @done {
						request_header X-Done yes
					}
				}
				reverse_proxy UPSTREAM_B
			}`},
		"another upstream rejects after an error": {500, `OAUTH
			reverse_proxy UPSTREAM_A {
				@failed status 5xx
				handle_response @failed {
					reverse_proxy UPSTREAM_B
				}
			}`},
		"copy_response": {500, `OAUTH
			reverse_proxy UPSTREAM_A {
				@failed status 500
				handle_response @failed {
					copy_response 401
				}
			}`},
		"respond in handle_response": {200, `OAUTH
			reverse_proxy UPSTREAM_A {
				handle_response {
					copy_response_headers
					respond 401
				}
			}`},
		"replace_status": {200, `OAUTH
			reverse_proxy UPSTREAM_A {
				@done status 200
				replace_status @done 401
			}`},
		"intercept": {200, `route {
				OAUTH
				intercept {
					@done status 200
					handle_response @done {
						respond 401
					}
				}
				reverse_proxy UPSTREAM_A {
				}
			}`},
		"intercept with another upstream": {204, `route {
				OAUTH
				intercept {
					@done status 204
					handle_response @done {
						reverse_proxy UPSTREAM_B
					}
				}
				reverse_proxy UPSTREAM_A {
				}
			}`},
		"buffered": {200, `OAUTH
			reverse_proxy UPSTREAM_A {
				request_buffers 1MiB
				handle_response {
					reverse_proxy UPSTREAM_B
				}
			}`},
		"after forward_auth": {200, `forward_auth UPSTREAM_A {
				uri /auth
			}
			OAUTH
			reverse_proxy UPSTREAM_A {
				handle_response {
					reverse_proxy UPSTREAM_B
				}
			}`},
		"another oauth_cc": {200, `route {
				OAUTH
				reverse_proxy UPSTREAM_A {
					handle_response {
						route {
							OAUTH
							reverse_proxy UPSTREAM_B
						}
					}
				}
			}`},
	} {
		for _, request := range []struct{ method, body string }{{"POST", "an order"}, {"DELETE", ""}, {"POST", ""}} {
			t.Run(name+", "+request.method+" "+request.body, func(t *testing.T) {
				u := startUpstreams(t, test.a, "none")
				g := gatewaytest.Start(t, u.site(test.site))
				g.Do(gatewaytest.ClientRequest(t, request.method, g.URL("/"), strings.NewReader(request.body)))
				n := 0
				for _, r := range u.seen.All() {
					if r.Method == request.method {
						n++
					}
				}
				if n != 1 {
					t.Errorf("the upstream got the request %d times", n)
				}
			})
		}
	}
}

// An upstream that was not reached has done nothing, and a safe request can be sent again whatever became of it.
func TestRejectionByTheOnlyUpstreamThatAnsweredIsCured(t *testing.T) {
	for name, test := range map[string]struct {
		method, site string
	}{
		"after one that can't be reached": {"POST", `OAUTH
			reverse_proxy ` + gatewaytest.FreeAddr(t) + ` UPSTREAM_B {
				lb_policy first
				lb_retries 1
				fail_duration 10s
			}`},
		"after forward_auth": {"POST", `forward_auth UPSTREAM_A {
				uri /auth
			}
			OAUTH
			reverse_proxy UPSTREAM_B`},
		"after another that rejects": {"POST", `OAUTH
			reverse_proxy UPSTREAM_B {
				@rejected status 401
				handle_response @rejected {
					reverse_proxy UPSTREAM_B
				}
			}`},
		"within handle": {"DELETE", `OAUTH
			handle {
				header X-Gateway yes
				handle_path /* {
					reverse_proxy UPSTREAM_B
				}
			}`},
		"by copy_response": {"PUT", `OAUTH
			reverse_proxy UPSTREAM_B {
				handle_response {
					copy_response_headers
					copy_response
				}
			}`},
		"behind tracing": {"POST", `route {
				tracing
				OAUTH
				reverse_proxy UPSTREAM_B
			}`},
		"before forward_auth, if the request is safe": {"GET", `route {
				OAUTH
				forward_auth UPSTREAM_A {
					uri /auth
				}
				reverse_proxy UPSTREAM_B
			}`},
	} {
		t.Run(name, func(t *testing.T) {
			u := startUpstreams(t, 200, "token-2")
			g := gatewaytest.Start(t, u.site(test.site))
			body := "an order"
			if test.method == http.MethodGet {
				body = ""
			}
			if name == "after another that rejects" {
				body = "" // the first reads it
			}
			gatewaytest.CheckAnswer(t, g.Do(gatewaytest.ClientRequest(t, test.method, g.URL("/"), strings.NewReader(body))), 200, body)
		})
	}
}
