package deployments

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// Whatever comes to the port of the probes, the admin endpoint is asked for nothing but whether there are tokens, and
// nothing of its words gets out.
func TestProbesReachNothingElse(t *testing.T) {
	gatewaytest.Parallel(t)
	m := readManifest(t, withSecret+"gateway.yaml")
	endpoint := gatewaytest.StartTokenServer(t)
	endpoint.SetAnswer(gatewaytest.Says(http.StatusServiceUnavailable, "text/plain", "later"))
	pod := start(t, endpoint, m.configMap.Data["Caddyfile"], "/run/secrets/partner", newVolume(t, "secret", "s3cret").folder)
	const host = "Host: 10.0.0.7:9091"

	// What is missing is for operators.
	startup := m.deployment.Spec.Template.Spec.Containers[0].Startup
	startup.await(t, pod.probes, http.StatusServiceUnavailable)
	if status, body := pod.sendRaw(t, []string{"GET /ready HTTP/1.1", host}); status == http.StatusServiceUnavailable && body != "not ready" {
		t.Errorf("answered %s", body)
	}
	endpoint.SetAnswer(nil)
	startup.await(t, pod.probes, http.StatusOK)

	requests := map[string][]string{ // the lines of each
		"as a kubelet":              {"GET /ready HTTP/1.1", host},
		"a query":                   {"GET /ready?id=/config/&/../config/ HTTP/1.1", host},
		"a query with a question":   {"GET /ready??x=1 HTTP/1.1", host},
		"another path of ours":      {"GET /oauth_cc/tokens HTTP/1.1", host},
		"that path itself":          {"GET /oauth_cc/ready HTTP/1.1", host},
		"the configuration":         {"GET /config/ HTTP/1.1", host},
		"dots":                      {"GET /ready/../config/ HTTP/1.1", host},
		"dots in escapes":           {"GET /ready/%2e%2e/config/ HTTP/1.1", host},
		"dots and slash in escapes": {"GET /ready%2f..%2fconfig%2f HTTP/1.1", host},
		"escaped twice":             {"GET /ready/%252e%252e/config/ HTTP/1.1", host},
		"dots before":               {"GET /config/../ready HTTP/1.1", host},
		"dots in escapes before":    {"GET /config/%2e%2e/ready HTTP/1.1", host},
		"two slashes":               {"GET //ready HTTP/1.1", host},
		"two slashes and a host":    {"GET //localhost:2019/ready HTTP/1.1", host},
		"a backslash":               {`GET /ready\..\config HTTP/1.1`, host},
		"a slash behind":            {"GET /ready/ HTTP/1.1", host},
		"a segment behind":          {"GET /ready/config HTTP/1.1", host},
		"a parameter":               {"GET /ready;/../config/ HTTP/1.1", host},
		"capitals":                  {"GET /READY HTTP/1.1", host},
		"an escaped letter":         {"GET /%72eady HTTP/1.1", host},
		"a NUL":                     {"GET /ready%00/config HTTP/1.1", host},
		"a line break":              {"GET /ready%0d%0aX:%20y HTTP/1.1", host},
		"a fragment":                {"GET /ready#/config/ HTTP/1.1", host},
		"the root":                  {"GET / HTTP/1.1", host},
		"no path":                   {"GET ? HTTP/1.1", host},
		"an absolute URL":           {"GET http://localhost:2019/config/ HTTP/1.1", host},
		"an absolute URL, allowed":  {"GET http://localhost:2019/ready HTTP/1.1", host},
		"the admin's host":          {"GET /config/ HTTP/1.1", "Host: localhost:2019"},
		"the admin's host, allowed": {"GET /ready HTTP/1.1", "Host: localhost:2019"},
		"an origin":                 {"GET /ready HTTP/1.1", host, "Origin: http://localhost:2019"},
		"a stranger's origin":       {"GET /ready HTTP/1.1", host, "Origin: https://evil.example"},
		"another method":            {"POST /ready HTTP/1.1", host, "Content-Length: 0"},
		"a configuration":           {"POST /load HTTP/1.1", host, "Content-Type: application/json", "Content-Length: 2", "", "{}"},
		"a configuration to ready":  {"POST /ready HTTP/1.1", host, "Content-Type: application/json", "Content-Length: 2", "", "{}"},
		"a body":                    {"GET /ready HTTP/1.1", host, "Content-Length: 33", "", "GET /config/ HTTP/1.1\r\nHost: x\r\n\r\n"},
		"a body in chunks":          {"GET /ready HTTP/1.1", host, "Transfer-Encoding: chunked", "", "2\r\n{}\r\n0\r\n"},
		"a stop":                    {"POST /stop HTTP/1.1", host, "Content-Length: 0"},
		"HEAD":                      {"HEAD /ready HTTP/1.1", host},
		"PUT":                       {"PUT /ready HTTP/1.1", host, "Content-Length: 0"},
		"DELETE":                    {"DELETE /ready HTTP/1.1", host},
		"OPTIONS":                   {"OPTIONS * HTTP/1.1", host},
		"TRACE":                     {"TRACE /ready HTTP/1.1", host},
		"CONNECT":                   {"CONNECT localhost:2019 HTTP/1.1", "Host: localhost:2019"},
		"an own method":             {"get /ready HTTP/1.1", host},
		"headers for the method":    {"GET /ready HTTP/1.1", host, "X-HTTP-Method-Override: POST", "X-Method-Override: DELETE"},
		"headers for the path":      {"GET /ready HTTP/1.1", host, "X-Original-URL: /config/", "X-Rewrite-URL: /config/", "X-Forwarded-Prefix: /config"},
		"headers for the host":      {"GET /live HTTP/1.1", host, "X-Forwarded-Host: localhost:2019", "Forwarded: host=localhost:2019"},
		"a placeholder":             {"GET /ready?{http.request.header.X} HTTP/1.1", host, "X: /config/"},
		"a websocket":               {"GET /ready HTTP/1.1", host, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"},
		"HTTP/2":                    {"GET /ready HTTP/1.1", host, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"},
		"an expectation":            {"GET /ready HTTP/1.1", host, "Expect: 100-continue"},
		"a range":                   {"GET /ready HTTP/1.1", host, "Range: bytes=0-1"},
		"liveness":                  {"GET /live HTTP/1.1", host},
		"dots from liveness":        {"GET /live/../config/ HTTP/1.1", host},
	}
	before := len(pod.log.with("admin.api", "received request"))
	for name, lines := range requests {
		t.Run(name, func(t *testing.T) {
			status, body := pod.sendRaw(t, lines)
			said := fmt.Sprint(status, " ", body)
			fine := []string{"200 ready", "200 live", "503 not ready", "404 "}
			if status == http.StatusBadRequest && strings.HasPrefix(body, "400 Bad Request") || lines[0] == "OPTIONS * HTTP/1.1" && body == "" {
				return // Go's server answers that itself
			}
			if !slices.Contains(fine, said) || said == "200 ready" && !strings.HasPrefix(lines[0], "GET ") {
				t.Errorf("answered %s", said)
			}
		})
	}

	// The log has everything that got to the admin endpoint; this is the last of it.
	pod.operate(t, http.MethodGet, "/oauth_cc/tokens", http.StatusOK)
	var received []map[string]any
	gatewaytest.Await(t, "the log has it all", func() bool {
		received = pod.log.with("admin.api", "received request")[before:]
		return len(received) > 0 && received[len(received)-1]["uri"] == "/oauth_cc/tokens"
	})
	if len(received) < 10 {
		t.Errorf("the admin endpoint got %d requests: what is tried does not get there", len(received))
	}
	for _, entry := range received[:len(received)-1] {
		if entry["method"] != http.MethodGet || entry["uri"] != "/oauth_cc/ready" || entry["host"] != pod.admin {
			t.Errorf("the admin endpoint got %v %v for %v", entry["method"], entry["uri"], entry["host"])
		}
		if header, _ := entry["headers"].(map[string]any); !slices.Equal(slices.Sorted(maps.Keys(header)), []string{"Accept-Encoding", "User-Agent"}) {
			t.Errorf("the admin endpoint got a header of the request: %v", header)
		}
	}
}

// sendRaw sends a request as it is.
func (g *gateway) sendRaw(t *testing.T, lines []string) (status int, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", g.probes)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "Connection: ") }) {
		lines = slices.Insert(slices.Clone(lines), 1, "Connection: close")
	}
	text := strings.Join(lines, "\r\n") + "\r\n"
	if !slices.Contains(lines, "") {
		text += "\r\n"
	}
	if _, err := io.WriteString(conn, text+"\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: strings.Fields(lines[0])[0]})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return res.StatusCode, string(content)
}
