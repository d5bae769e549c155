package faults

import (
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// What a token endpoint does to a connection, byte by byte.
func TestEndpointConnections(t *testing.T) {
	const header = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	const body = `{"access_token":"canary","expires_in":3600}`
	const short = "timeout 400ms" // each try has half of it, and then no time is left for another
	gone := want{"503 unreachable to be retried", nothing, failed("unreachable"), thrice, nothing}
	invalid := want{"502 invalid_response", nothing, failed("invalid_response"), once, nothing}
	hung := want{"504 timeout to be retried", nothing, failed("timeout"), onceAtMost, nothing}
	unreached := want{"503 unreachable to be retried", nothing, failed("unreachable"), never, unasked}
	group{rows: []row{
		// The connection ends.
		{name: "reset before the request is read", endpoint: holding((*peer).resetUnheard), ask: get, want: gone},
		{name: "closed before the request is read", endpoint: holding(func(p *peer) { p.leaveUnheard() }), ask: get, want: gone},
		{name: "reset when the header is read", endpoint: saying("", (*peer).reset), ask: get, want: gone},
		{name: "closed without an answer", endpoint: saying("", nil), ask: get, want: gone},
		{name: "reset in the status line", endpoint: saying("HTTP/1.1 2", (*peer).reset), ask: get, want: gone},
		{name: "closed in the header", endpoint: saying(header+"X-Canary: ca", nil), ask: get, want: gone},
		{name: "reset after the header", endpoint: saying(header+"Content-Length: 43\r\n\r\n", (*peer).reset), ask: get, want: gone},
		{name: "closed in the body", endpoint: saying(header+"Content-Length: 99\r\n\r\n"+body, nil), ask: get, want: gone},
		{name: "reset in the body", endpoint: saying(header+"Content-Length: 43\r\n\r\n"+body[:9], (*peer).reset), ask: get, want: gone},
		{name: "closed between chunks", endpoint: saying(header+"Transfer-Encoding: chunked\r\n\r\n2b\r\n"+body+"\r\n", nil), ask: get, want: gone},
		{name: "well at the third try", endpoint: holding((*peer).resetUnheard, (*peer).leaveUnheard, grantingOnce("token-1")), ask: get,
			want: want{"200 GET with token-1", "GET / token-1", gotFirst, thrice, nothing}},

		// It is not HTTP.
		{name: "garbage", endpoint: saying("canary canary\r\n\r\n", nil), ask: get, want: gone},
		{name: "another protocol's greeting", endpoint: saying("SSH-2.0-canary\r\n", nil), ask: get, want: gone},
		{name: "a body without a header", endpoint: saying(body, nil), ask: get, want: gone},
		{name: "frames of HTTP/2", endpoint: saying("\x00\x00\x00\x04\x00\x00\x00\x00\x00", nil), ask: get, want: gone},
		{name: "a status that is none", endpoint: saying("HTTP/1.1 abc OK\r\n\r\n", nil), ask: get, want: gone},
		{name: "a length below zero", endpoint: saying(header+"Content-Length: -1\r\n\r\n"+body, nil), ask: get, want: gone},
		{name: "two lengths", endpoint: saying(header+"Content-Length: 43\r\nContent-Length: 9\r\n\r\n"+body, nil), ask: get, want: gone},
		{name: "a chunk of no size", endpoint: saying(header+"Transfer-Encoding: chunked\r\n\r\ncanary\r\n"+body, nil), ask: get, want: gone},
		{name: "a length that is too small", endpoint: saying(header+"Content-Length: 9\r\n\r\n"+body, nil), ask: get, want: invalid},
		{name: "a switch of protocols", endpoint: saying("HTTP/1.1 101 canary\r\nConnection: Upgrade\r\nUpgrade: canary\r\n\r\n", nil), ask: get, want: invalid},
		{name: "a switch of protocols that stays", endpoint: saying("HTTP/1.1 101 canary\r\nConnection: Upgrade\r\nUpgrade: canary\r\n\r\n", (*peer).stay),
			ask: get, want: invalid},

		// It has no end.
		{name: "a status line without an end", endpoint: flooding("HTTP/1.1 200 ", "canary"), ask: get, want: gone},
		{name: "a header without an end", endpoint: flooding(header, "X-Canary: "+strings.Repeat("canary", 1000)+"\r\n"), ask: get, want: gone},
		{name: "a header field without an end", endpoint: flooding(header+"X-Canary: ", "canary"), ask: get, want: gone},
		{name: "interim answers without an end", endpoint: flooding("", "HTTP/1.1 103 canary\r\nX-Canary: "+strings.Repeat("canary", 1000)+"\r\n\r\n"), ask: get, want: gone},
		{name: "a body without an end", endpoint: flooding(header+"\r\n", "canary"), ask: get, want: invalid},
		{name: "chunks without an end", endpoint: flooding(header+"Transfer-Encoding: chunked\r\n\r\n", "40\r\n"+strings.Repeat(" ", 64)+"\r\n"), ask: get, want: invalid},
		{name: "a chunk extension without an end", endpoint: flooding(header+"Transfer-Encoding: chunked\r\n\r\n1;", "canary"), ask: get, want: gone},
		{name: "trailers without an end", endpoint: flooding(header+"Transfer-Encoding: chunked\r\n\r\n2b\r\n"+body+"\r\n0\r\n", "X-Canary: canary\r\n"),
			ask: get, want: gone},

		// It is slow.
		{name: "byte by byte", endpoint: holding(func(p *peer) {
			p.hear()
			p.drip(granting("odd"))
		}), ask: get, want: want{"200 GET with odd", "GET / odd", gotFirst, once, nothing}},
		{name: "byte by byte without an end", options: short, endpoint: holding(func(p *peer) {
			p.hear()
			p.drip(header + "\r\n" + strings.Repeat(" ", 1<<20))
		}), ask: get, want: hung},
		{name: "no answer", options: short, endpoint: saying("", (*peer).stay), ask: get, want: hung},
		{name: "no connection is accepted", options: short, endpoint: holding(func(p *peer) { <-p.at.play.over }), ask: get, want: hung},
		{name: "stuck in the header", options: short, endpoint: saying(header, (*peer).stay), ask: get, want: hung},
		{name: "stuck in the body", options: short, endpoint: saying(header+"\r\n"+body[:9], (*peer).stay), ask: get, want: hung},
		{name: "stuck after a refusal", options: "timeout 4s", endpoint: saying("HTTP/1.1 400 Bad\r\n\r\n"+`{"error":"canary`, (*peer).stay), ask: get,
			want: want{"502 refused", nothing, failed("refused"), once, nothing}},

		// Connections that are kept.
		{name: "closed while it was kept", options: "transport {\nkeepalive 1m\ndial_timeout 1m\n}", upstream: rejecting("first"),
			endpoint: holding(grantingOnce("first"), grantingOnce("second")), ask: get, want: want{"200 GET with second",
				"GET / first | GET / second", gotFirst + then + gotRenewed, twice, nothing}},
		{name: "an answer too many", options: "transport {\nkeepalive 1m\ndial_timeout 1m\n}", upstream: rejecting("first"), endpoint: holding(func(p *peer) {
			p.hear()
			p.say("%s", granting("first")+granting("planted"))
			p.hear()
		}, grantingOnce("second")), ask: get, want: want{"200 GET with second", "GET / first | GET / second", gotFirst + then + gotRenewed, twice, nothing}},

		// There is no connection.
		{name: "nobody listens", prepare: func(p *play) { p.endpoint = "http://" + gatewaytest.FreeAddr(p.t) + "/token" }, ask: get, want: unreached},
		{name: "it speaks no TLS", prepare: func(p *play) { p.endpoint = "https://" + p.token.addr + "/token" },
			endpoint: holding(func(p *peer) { p.hear() }), ask: get, want: unreached},
		{name: "its certificate is not trusted", prepare: func(p *play) {
			p.endpoint = "https://" + servertest.NewCA(p.t).Serve(p.t, "127.0.0.1", time.Now().Add(time.Hour), p.token) + "/token"
		}, ask: get, want: unreached},
		{name: "its certificate has expired", prepare: func(p *play) {
			ca := servertest.NewCA(p.t)
			p.endpoint = "https://" + ca.Serve(p.t, "127.0.0.1", time.Now().Add(-time.Hour), p.token) + "/token"
			p.options = "transport {\ntls_trust_pool file " + ca.File(p.t) + "\n}"
		}, ask: get, want: unreached},
	}}.run(t)
}

// saying is a server that hears a request, writes a text, and then does something else than to close the connection.
func saying(text string, last func(*peer)) script {
	return holding(func(p *peer) {
		p.hear()
		p.say("%s", text)
		if last != nil {
			last(p)
		}
	})
}

// flooding is a server whose answer goes on for as long as somebody reads it.
func flooding(start, text string) script {
	return holding(func(p *peer) {
		p.hear()
		p.say("%s", start)
		p.flood(text)
	})
}

// grantingOnce grants a token, and closes the connection.
func grantingOnce(token string) func(*peer) {
	return func(p *peer) {
		p.hear()
		p.say("%s", granting(token))
	}
}

// rejecting is an upstream that rejects these tokens.
func rejecting(tokens ...string) script {
	return script{answer: func(v *visit) {
		if v.has(tokens...) {
			v.reject()
			return
		}
		v.accept()
	}}
}
