package requests

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// bystander is a server that must not get a token, such as that of error pages.
type bystander struct {
	*httptest.Server

	mu    sync.Mutex
	asked int
	seen  string // a token that it got
}

func startBystander(t *testing.T) *bystander {
	b := new(bystander)
	b.Server = gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.asked++
		if text := fmt.Sprint(r.Header, r.Trailer, r.URL); strings.Contains(text, "token-") {
			b.seen = text
		}
		_, _ = io.WriteString(w, "a page")
	})
	return b
}

// leaks is what a site does with requests after the token was used, in every way that Caddy has. Each has the
// token's header in it, which must be the client's own or empty.
func leaks(b *bystander) string {
	return `log {
		output oauth_cc_test
		format json
	}
	log_append appended {http.request.header.Authorization}
	vars copied {http.request.header.Authorization}
	header {
		>X-Deferred "{http.request.header.Authorization}{vars.copied}"
		-X-Nothing
	}
	tracing {
		span_attributes {
			token {http.request.header.Authorization}
		}
	}
	handle_errors {
		log_append appended_to_error {http.request.header.Authorization}
		header X-Error-Page "{http.request.header.Authorization}{http.error.message}"
		@page path /page*
		handle @page {
			` + gatewaytest.ProxyTo(b.Server, "header_up X-Copy {http.request.header.Authorization}") + `
		}
		handle {
			templates {
				mime text/plain
			}
			header Content-Type text/plain
			respond "{http.request.header.Authorization} {{.Req.Header}} {{.OriginalReq.Header}} {{placeholder \"http.request.header.Authorization\"}} {http.oauth_cc.status}" {err.status_code}
		}
	}
`
}

// Whichever way a request leaves the gateway, what runs after the upstream has not got the token.
func TestTokenLeavesWithTheUpstream(t *testing.T) {
	page := startBystander(t)
	upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		switch strings.TrimPrefix(r.URL.Path, "/page") {
		case "/status/500":
			w.WriteHeader(http.StatusInternalServerError)
		case "/rejected":
			gatewaytest.RejectToken(w)
		case "/revoked":
			if gatewaytest.Bearer(r) == "token-1" {
				gatewaytest.RejectToken(w)
			}
		case "/hints":
			w.WriteHeader(http.StatusEarlyHints)
		case "/early":
			gatewaytest.AnswerEarly(w, r)
			gatewaytest.RejectToken(w)
		case "/reset", "/aborted":
			if strings.HasSuffix(r.URL.Path, "/aborted") {
				w.Header().Set("Content-Length", "1000")
				_, _ = io.WriteString(w, "a part")
				_ = http.NewResponseController(w).Flush()
			}
			panic(http.ErrAbortHandler)
		case "/switched":
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			_, _ = io.CopyN(conn, conn, 4)
		}
	})
	proxy := gatewaytest.ProxyTo(upstream)
	after := func(directives string) string { return "route {\n%s\n" + directives + "\n" + proxy + "}\n" }
	intercept := func(routes string) string {
		return "intercept {\n@failed status 4xx 5xx 2xx\nhandle_response @failed {\n" + routes + "\n}\n}\n%s\n" + proxy
	}
	ways := map[string]string{
		"passes":                             "%s\n" + proxy,
		"error":                              after("error 503"),
		"error in a handle":                  "%s\nhandle {\nerror 503\n}\n",
		"abort":                              after("abort"),
		"respond":                            after("respond 500"),
		"error in an intercept outside":      intercept("error 503"),
		"proxy in an intercept outside":      intercept(gatewaytest.ProxyTo(page.Server)),
		"respond in an intercept outside":    intercept(`respond "{http.request.header.Authorization}" 500`),
		"error in an intercept inside":       "route {\n%s\nintercept {\nhandle_response {\nerror 503\n}\n}\n" + proxy + "}\n",
		"error in handle_response":           "%s\n" + gatewaytest.ProxyTo(upstream, "handle_response {\nerror 503\n}"),
		"an outer route":                     "handle_path /page/* {\nrewrite * /page{path}\n%s\n" + proxy + "}\nhandle {\n%[1]s\n" + proxy + "}\n",
		"rewritten":                          after("rewrite * {path}?a=b"),
		"request_body":                       after("request_body {\nmax_size 1\n}"),
		"no upstream":                        "%s\nreverse_proxy 127.0.0.1:1\n",
		"dial timeout":                       "%s\n" + gatewaytest.ProxyTo(upstream, "transport http {\nresponse_header_timeout 1ns\n}"),
		"retries":                            "%s\n" + gatewaytest.ProxyTo(upstream, "to 127.0.0.1:1", "lb_retries 3", "lb_try_interval 1ms", "lb_policy first"),
		"templates and encode":               "templates\nencode\n%s\n" + proxy,
		"a header of the client's, replaced": "request_header Authorization client\n%s\n" + proxy,
	}
	paths := []string{"/", "/status/500", "/rejected", "/revoked", "/hints", "/early", "/reset", "/aborted", "/switched"}
	var sites, names []string
	for name, way := range ways {
		for _, options := range []string{"", "retry_status off"} {
			endpoint := gatewaytest.StartTokenServer(t)
			sites = append(sites, leaks(page)+fmt.Sprintf(way, endpoint.Options(options)))
			names = append(names, name+" "+options)
		}
	}
	gateways := gatewaytest.StartSites(t, sites...)
	var all sync.WaitGroup
	for i, g := range gateways {
		all.Go(func() {
			for _, path := range paths {
				for _, request := range []string{"GET /page" + path, "POST " + path} {
					if answer := exchangeRaw(t, g.Addr, request); strings.Contains(answer, "token-") {
						t.Errorf("%s: %s: the client got a token: %q", names[i], request, answer)
					}
				}
			}
		})
	}
	all.Wait()
	gatewaytest.Stop(t) // what is logged at the end is logged
	for line := range strings.Lines(gateways[0].Logs.All()) {
		if strings.Contains(line, "Bearer token-") {
			t.Errorf("the log has a token: %s", line)
		}
	}
	page.mu.Lock()
	defer page.mu.Unlock()
	if page.seen != "" || page.asked == 0 {
		t.Errorf("the server of error pages was asked %d times, and got %s", page.asked, page.seen)
	}
}

// A named route is left like any other.
func TestTokenLeavesANamedRoute(t *testing.T) {
	page, endpoint := startBystander(t), gatewaytest.StartTokenServer(t)
	g := gatewaytest.Start(t, "")
	for _, inside := range []string{"error 503", "oauth_cc_here\nerror 503"} {
		named := strings.ReplaceAll(inside, "oauth_cc_here", endpoint.Options())
		outside := ""
		if named == inside {
			outside = endpoint.Options()
		}
		addr := gatewaytest.FreeAddr(t)
		if err := gatewaytest.Load("&(named) {\nroute {\n" + named + "\n}\n}\nhttp://" + addr + " {\n" + leaks(page) + outside + "invoke named\n}\n"); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/page", "/"} {
			if answer := exchangeRaw(t, addr, "GET "+path); !strings.HasPrefix(answer, "HTTP/1.1 ") || strings.Contains(answer, "token-") {
				t.Errorf("the client got %q", answer)
			}
		}
	}
	page.mu.Lock()
	defer page.mu.Unlock()
	if strings.Contains(g.Logs.All(), "Bearer token-") || page.seen != "" || page.asked != 2 {
		t.Errorf("the log has a token, or the server of error pages, which was asked %d times: %s", page.asked, page.seen)
	}
}

// exchangeRaw sends a request that can be upgraded, and returns all that comes back.
func exchangeRaw(t *testing.T, addr, request string) string {
	conn := gatewaytest.DialFor(t, addr)
	defer conn.Close()
	head, body := "Connection: close\r\n", ""
	if strings.HasPrefix(request, http.MethodPost) {
		head, body = head+"Content-Length: 5\r\n", "hello"
	}
	if strings.HasSuffix(request, "/switched") {
		head = "Connection: Upgrade\r\nUpgrade: echo\r\n"
	}
	if _, err := io.WriteString(conn, request+" HTTP/1.1\r\nHost: "+addr+"\r\n"+head+"\r\n"+body); err != nil {
		return ""
	}
	if strings.HasSuffix(request, "/switched") {
		// Taken for a message, or for another request after an answer that switches nothing.
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+addr+"\r\nConnection: close\r\n\r\n")
	}
	answer, _ := io.ReadAll(bufio.NewReader(conn))
	return string(answer)
}
