package oauthcc

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// requestWithCanaries has a secret in every place that can hold one, and no endpoint yet.
var requestWithCanaries = endpoint.Request{
	ClientID:     "app",
	ClientSecret: "secret-canary",
	AuthMethod:   endpoint.AuthSecretBasic,
	Format:       endpoint.FormatForm,
	Params:       map[string][]string{"api_key": {"param-canary"}},
	Headers:      map[string][]string{"X-Key": {"header-canary"}},
}

// failureOver is how a fetch over that transport fails.
func failureOver(t *testing.T, transport http.RoundTripper, timeout time.Duration, request endpoint.Request) *endpoint.Error {
	t.Helper()
	client := &endpoint.Client{Transport: transport, Timeout: timeout}
	_, failure := client.Fetch(t.Context(), func(context.Context) (endpoint.Request, error) { return request, nil }, nil)
	return failure
}

func TestRedirectIsNeverFollowed(t *testing.T) {
	thief := gatewaytest.StartTokenServer(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, method := range []string{endpoint.AuthSecretBasic, endpoint.AuthSecretPost} {
			server := gatewaytest.StartTokenServer(t)
			server.SetAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
				http.Redirect(w, r, thief.URL+"/elsewhere?code=query-canary", status)
			})
			request := requestWithCanaries
			request.Endpoint, request.AuthMethod = server.URL+"/token", method
			failure := failureOver(t, caddyTransport(t, "{}"), time.Minute, request)
			if failure == nil || failure.Class != endpoint.ClassInvalidResponse || failure.Status != status || failure.Said != "redirects to "+thief.URL+"/elsewhere" {
				t.Errorf("%d: got %+v", status, failure)
			}
			if n := server.Count(); n != 1 {
				t.Errorf("%d: %d requests, want 1", status, n)
			}
		}
	}
	if n := thief.Count(); n != 0 {
		t.Errorf("the credential went to another host %d times", n)
	}
}

// caddyTransport is the way to the endpoint that a configuration's transport makes.
func caddyTransport(t *testing.T, config string) http.RoundTripper {
	t.Helper()
	transport := new(reverseproxy.HTTPTransport)
	if err := json.Unmarshal([]byte(config), transport); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	if err := transport.Provision(ctx); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = transport.Cleanup()
		cancel()
	})
	return newEndpointTransport(transport)
}

// startResolver answers every question with: no such name.
func startResolver(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		packet := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(packet)
			if err != nil {
				return
			}
			packet[2] |= 0x80 // a response
			packet[3] = 0x83  // NXDOMAIN
			_, _ = conn.WriteTo(packet[:n], from)
		}
	}()
	return conn.LocalAddr().String()
}

// lastingFailure fails as it did before, without another connection: some failures take
// much of the peer and of the gateway.
type lastingFailure struct {
	next http.RoundTripper
	err  error
}

func (f *lastingFailure) RoundTrip(req *http.Request) (res *http.Response, err error) {
	if f.err == nil {
		res, f.err = f.next.RoundTrip(req)
	}
	return res, f.err
}

func TestFailureOfTheNetworkIsDescribedInOurWords(t *testing.T) {
	trust := func(issuer *servertest.CA) string {
		return fmt.Sprintf(`{"tls":{"ca":{"provider":"file","pem_files":[%q]}}}`, issuer.File(t))
	}
	ca := servertest.NewCA(t)
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	https := func(addr string) string { return "https://" + addr }
	http := func(addr string) string { return "http://" + addr }
	tests := []struct {
		name, address, transport string
		class                    endpoint.Class
		status                   int
		detail                   string
	}{
		{"refused", http(gatewaytest.FreeAddr(t)), "", endpoint.ClassUnreachable, 0, "connection refused"},
		{"no such name", "https://token.invalid", `{"resolver":{"addresses":["udp/` + startResolver(t) + `"]}}`, endpoint.ClassUnreachable, 0, "no such host"},
		{"reset", http(gatewaytest.StartPeer(t, gatewaytest.Resetting)), "", endpoint.ClassUnreachable, 0, "connection reset by peer"},
		{"closed", http(gatewaytest.StartPeer(t, gatewaytest.Saying(""))), "", endpoint.ClassUnreachable, 0, "connection was closed"},
		{"closed in the header", http(gatewaytest.StartPeer(t, gatewaytest.Saying("HTTP/1.1 200 OK\r\nX-Canary: canary"))), "", endpoint.ClassUnreachable, 0, "connection was closed"},
		{"closed in the body", http(gatewaytest.StartPeer(t, gatewaytest.Saying("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"canary\""))), "", endpoint.ClassUnreachable, 0, "connection was closed"},
		{"garbage", http(gatewaytest.StartPeer(t, gatewaytest.Saying("canary canary\r\n\r\n"))), "", endpoint.ClassUnreachable, 0, "no readable HTTP answer"},
		{"garbage in the status", http(gatewaytest.StartPeer(t, gatewaytest.Saying("HTTP/1.1 canary\r\n\r\n"))), "", endpoint.ClassUnreachable, 0, "no readable HTTP answer"},
		{"garbage in the header", http(gatewaytest.StartPeer(t, gatewaytest.Saying("HTTP/1.1 200 OK\r\ncanary\r\n\r\n"))), "", endpoint.ClassUnreachable, 0, "no readable HTTP answer"},
		{"garbage in a chunk", http(gatewaytest.StartPeer(t, gatewaytest.Saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ncanary\r\n"))), "", endpoint.ClassUnreachable, 0, "no readable HTTP answer"},
		{"garbage for a length", http(gatewaytest.StartPeer(t, gatewaytest.Saying("HTTP/1.1 200 OK\r\nContent-Length: canary\r\n\r\n"))), "", endpoint.ClassUnreachable, 0, "no readable HTTP answer"},
		{"garbage for TLS", https(gatewaytest.StartPeer(t, gatewaytest.Saying("canary canary canary\r\n"))), "", endpoint.ClassUnreachable, 0, "TLS handshake"},
		{"HTTP for TLS", https(gatewaytest.StartTokenServer(t).Listener.Addr().String()), "", endpoint.ClassUnreachable, 0, "plain HTTP"},
		{"TLS for HTTP", http(ca.Serve(t, "127.0.0.1", future, gatewaytest.StartTokenServer(t))), "", endpoint.ClassRefused, 400, ""},
		{"unknown authority", https(ca.Serve(t, "127.0.0.1", future, gatewaytest.StartTokenServer(t))), "", endpoint.ClassUnreachable, 0, "unknown authority; trust its CA"},
		{"another authority", https(ca.Serve(t, "127.0.0.1", future, gatewaytest.StartTokenServer(t))), trust(servertest.NewCA(t)), endpoint.ClassUnreachable, 0, "unknown authority; trust its CA"},
		{"another host", https(ca.Serve(t, "canary.example.com", future, gatewaytest.StartTokenServer(t))), trust(ca), endpoint.ClassUnreachable, 0, "another host name"},
		{"expired", https(ca.Serve(t, "127.0.0.1", past, gatewaytest.StartTokenServer(t))), trust(ca), endpoint.ClassUnreachable, 0, "expired"},
		{"a hang", http(gatewaytest.StartPeer(t, func(*net.TCPConn) {})), `{"response_header_timeout":100000000}`, endpoint.ClassTimeout, 0, "no answer in time"},
		{"a hang in TLS", https(gatewaytest.StartPeer(t, func(*net.TCPConn) {})), `{"tls":{"handshake_timeout":100000000}}`, endpoint.ClassTimeout, 0, "no answer in time"},
		{"a switch of protocols", http(gatewaytest.StartPeer(t, gatewaytest.Switching)), "", endpoint.ClassInvalidResponse, 101, ""},
		{"endless interim answers", http(gatewaytest.StartPeer(t, gatewaytest.Saying(strings.Repeat("HTTP/1.1 103 canary\r\nX: canary\r\n\r\n", 400_000)))), "", endpoint.ClassUnreachable, 0, "no readable HTTP answer"},
	}
	failures := make([]*endpoint.Error, len(tests))
	var wait sync.WaitGroup // all at once, since most of them are tried again after a pause
	for i, test := range tests {
		transport := &lastingFailure{next: caddyTransport(t, cmp.Or(test.transport, "{}"))}
		request := requestWithCanaries
		request.Endpoint = test.address + "/token?key=query-canary"
		wait.Go(func() { failures[i] = failureOver(t, transport, time.Minute, request) })
	}
	wait.Wait()
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			failure := failures[i]
			if failure == nil || failure.Class != test.class || failure.Status != test.status || !strings.Contains(failure.Detail, test.detail) {
				t.Fatalf("got %#v, want %s with %q", failure, test.class, test.detail)
			}
			if text := failure.Error() + failure.Detail + failure.Said + failure.Hint; strings.Contains(text, "canary") {
				t.Errorf("the peer's or the URL's words are in %q", text)
			}
			if failure.RefusesClient() {
				t.Error("counts as a refusal of the client")
			}
		})
	}
}

func TestHangIsATimeout(t *testing.T) {
	for name, text := range map[string]string{
		"before the header": "",
		"in the header":     "HTTP/1.1 200 OK\r\nX-A: canary\r\n",
		"in the body":       "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ncanary",
	} {
		t.Run(name, func(t *testing.T) {
			peer := gatewaytest.StartPeer(t, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, text) })
			request := requestWithCanaries
			request.Endpoint = "http://" + peer + "/token?key=query-canary"
			failure := failureOver(t, caddyTransport(t, "{}"), 300*time.Millisecond, request)
			if failure == nil || failure.Class != endpoint.ClassTimeout || failure.Detail != "no answer in time" || strings.Contains(failure.Error(), "canary") {
				t.Errorf("got %v", failure)
			}
		})
	}
}
