package faults

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// Whatever an upstream does with a request, the client gets what it answered last, whole or visibly broken, and a
// request that may have had an effect is not sent again but for a rejection.
func TestUpstreamFaults(t *testing.T) {
	const size = 60_000 // fits the replay buffer
	const large = 300_000
	cured := gotFirst + then + gotRenewed
	both := func(size int) string {
		return fmt.Sprintf("POST / token-1 %d bytes | POST / token-2 %[1]d bytes", size)
	}
	answered := fmt.Sprintf("200 %d bytes", size)
	part := fmt.Sprintf("POST / token-1 in part | POST / token-2 %d bytes", size)
	broken := func(client, upstream string) want { return want{client, upstream, gotFirst, once, nothing} }
	group{rows: []row{
		// It rejects tokens, at any moment of a request.
		{name: "rejects after the body", upstream: rejecting("token-1"), ask: post(size),
			want: want{answered, both(size), cured, twice, nothing}},
		{name: "rejects after an unannounced body", upstream: rejecting("token-1"), ask: chunked(size),
			want: want{answered, both(size), cured, twice, nothing}},
		{name: "rejects a body sent byte by byte", upstream: rejecting("token-1"), ask: byteByByte(500),
			want: want{"200 500 bytes", both(500), cured, twice, nothing}},
		{name: "rejects in the middle of the body", upstream: rejectingEarly(9_000, false), ask: post(size),
			want: want{answered, part, cured, twice, nothing}},
		{name: "rejects in the middle, and reads on", upstream: rejectingEarly(9_000, true), ask: post(size),
			want: want{answered, both(size), cured, twice, nothing}},
		{name: "rejects before the body", upstream: rejectingEarly(0, false), ask: post(size),
			want: want{answered, strings.Replace(part, "in part", "unread", 1), cured, twice, nothing}},
		{name: "rejects with a page of 1 MiB", upstream: by(func(v *visit) {
			v.reject()
			v.say(strings.Repeat("canary ", 150_000))
		}, (*visit).accept), ask: post(size), want: want{answered, both(size), cured, twice, nothing}},
		{name: "rejects with a page that does not end", upstream: by(func(v *visit) {
			v.reject()
			v.say("canary")
			v.hang()
		}, (*visit).accept), ask: post(size), want: want{answered, both(size), cured, twice, nothing}},
		{name: "rejects, and breaks off", upstream: by(func(v *visit) {
			v.reject()
			v.say("canary")
			v.breakOff()
		}, (*visit).accept), ask: post(size), want: want{answered, both(size), cured, twice, nothing}},
		{name: "rejects after hints", upstream: by(func(v *visit) {
			v.w.WriteHeader(http.StatusEarlyHints)
			v.reject()
		}, (*visit).accept), ask: post(size), want: want{answered, both(size), cured, twice, nothing}},
		{name: "rejects every token", upstream: by((*visit).reject), ask: each(post(size), get),
			want: want{"401 with a challenge | 401 with a challenge", both(size) + " | GET / token-2",
				cured + then + uncured + then + noOther, twice, nothing}},
		{name: "rejects a body larger than the buffer", upstream: rejecting("token-1"), ask: post(large),
			want: want{"401 with a challenge", fmt.Sprintf("POST / token-1 %d bytes", large),
				gotFirst + then + unreplayable + then + gotRenewed, twice, nothing}},
		{name: "rejects by the request, not the token", upstream: by(challenging(403, `error="insufficient_scope"`)), options: "retry_status 401 403",
			ask: post(size), want: broken("403 with a challenge", fmt.Sprintf("POST / token-1 %d bytes", size))},
		{name: "rejects one of ten thousand challenges", upstream: by(challenging(401, strings.Repeat(`a="b", `, 1000)+`error="invalid_token"`), (*visit).accept),
			ask: post(size), want: want{answered, both(size), cured, twice, nothing}},
		{name: "rejects when retries are off", options: "retry_status off", upstream: by((*visit).reject), ask: post(size),
			want: want{"401 with a challenge", fmt.Sprintf("POST / token-1 %d bytes", size), gotFirst, once, unasked}},
		{name: "rejects, and is to be masked", options: "mask_rejection", upstream: by((*visit).reject), ask: get,
			want: want{"502", "GET / token-1 | GET / token-2", cured + then + uncured, twice, nothing}},
		{name: "rejects, and the endpoint is down", endpoint: by((*visit).grant, fails(503)), upstream: by((*visit).reject), ask: post(size),
			want: want{"503 server_error to be retried", fmt.Sprintf("POST / token-1 %d bytes", size),
				gotFirst + then + "no token obtained (rejected, server_error)", times{4, 4}, nothing}},
		{name: "rejects, and the endpoint refuses", endpoint: by((*visit).grant, fails(403)), upstream: by((*visit).reject), ask: post(size),
			want: want{"502 refused", fmt.Sprintf("POST / token-1 %d bytes", size), gotFirst + then + "no token obtained (rejected, refused)", twice, nothing}},
		{name: "rejects, and the endpoint has no other", endpoint: json200(`{"access_token":"odd"}`), upstream: by((*visit).reject), ask: post(size),
			want: want{"401 with a challenge", fmt.Sprintf("POST / odd %d bytes", size), gotFirst + then + gotRenewed + then + noOther, twice, nothing}},
		{name: "rejects, and there need not be a token", options: "allow_without_token", endpoint: by((*visit).grant, fails(403)),
			upstream: by((*visit).reject, (*visit).accept), ask: post(size), want: want{answered, fmt.Sprintf("POST / token-1 %d bytes | POST / %[1]d bytes", size),
				gotFirst + then + "no token obtained (rejected, refused)", twice, nothing}},
		{name: "rejects a crowd", upstream: rejecting("token-1"), ask: each(get, atOnce(8, get)), want: want{"200 GET with token-2 | 8 times 200 GET with token-2",
			"GET / token-1 | GET / token-2" + strings.Repeat(" | GET / token-2", 8), cured, twice, nothing}},

		// It fails.
		{name: "answers 500", upstream: by(fails(500)), ask: post(size), want: broken("500", "POST / token-1 unread")},
		{name: "answers 413 unread", upstream: by(func(v *visit) { v.early(); v.w.WriteHeader(413) }), ask: post(size),
			want: broken("413", "POST / token-1 unread")},
		{name: "accepts in the middle of the body", upstream: by(func(v *visit) {
			v.early()
			v.read(9_000)
			v.say("enough")
		}), ask: post(size), want: broken("200 enough", "POST / token-1 in part")},
		{name: "breaks off before its answer", upstream: by(func(v *visit) { v.drain(); v.breakOff() }), ask: post(size),
			want: broken("502", fmt.Sprintf("POST / token-1 %d bytes", size))},
		{name: "breaks off in the body of a request", upstream: by(func(v *visit) { v.read(9_000); v.breakOff() }), ask: post(size),
			want: broken("502", "POST / token-1 in part")},
		{name: "breaks off after its header", upstream: by(func(v *visit) { v.drain(); v.say(""); v.breakOff() }), ask: post(size),
			want: broken(headerOnly(), fmt.Sprintf("POST / token-1 %d bytes", size))},
		{name: "breaks off in its answer", upstream: by(func(v *visit) { v.drain(); v.say(numberedText(40_000)); v.breakOff() }), ask: post(size),
			want: broken("200 in part", fmt.Sprintf("POST / token-1 %d bytes", size))},
		{name: "breaks off in the answer to the second attempt", upstream: by((*visit).reject, func(v *visit) { v.drain(); v.say(numberedText(40_000)); v.breakOff() }),
			ask: post(size), want: want{"200 in part", both(size), cured, twice, nothing}},
		{name: "breaks off the second attempt", upstream: by((*visit).reject, func(v *visit) { v.read(9_000); v.breakOff() }), ask: post(size),
			want: want{"502", fmt.Sprintf("POST / token-1 %d bytes | POST / token-2 in part", size), cured, twice, nothing}},
		{name: "is not there", prepare: func(p *play) { p.site = "reverse_proxy /gone* " + gatewaytest.FreeAddr(p.t) }, ask: each(path("/gone"), get),
			want: broken("502 | 200 GET with token-1", "GET / token-1")},
		{name: "sends an answer by bytes", upstream: by(func(v *visit) {
			v.drain()
			for _, b := range []byte(numberedText(300)) {
				v.say(string(b))
			}
		}), ask: post(size), want: broken("200 300 bytes", fmt.Sprintf("POST / token-1 %d bytes", size))},
		{name: "reads by bytes", upstream: by(func(v *visit) {
			for v.readByte() {
			}
			v.say("read")
		}), ask: post(3_000), want: broken("200 read", "POST / token-1 3000 bytes")},
		{name: "is used again after a rejected upload", upstream: rejectingEarly(9_000, true), ask: each(post(size), post(size), get),
			want: want{answered + then + answered + then + "200 GET with token-2",
				both(size) + fmt.Sprintf(" | POST / token-2 %d bytes | GET / token-2", size), cured, twice, nothing}},
	}}.run(t)
}

// rejectingEarly is an upstream that rejects token-1 when so much of the body is read, and may read on.
func rejectingEarly(read int64, on bool) script {
	return script{answer: func(v *visit) {
		if !v.has("token-1") {
			v.accept()
			return
		}
		v.early()
		v.read(read)
		v.w.Header().Set("Www-Authenticate", `Bearer error="invalid_token"`)
		v.w.WriteHeader(http.StatusUnauthorized)
		v.say("")
		if on {
			v.drain()
		}
	}}
}

func challenging(status int, params string) func(*visit) {
	return func(v *visit) {
		v.drain()
		v.w.Header().Set("Www-Authenticate", "Bearer "+params)
		v.w.WriteHeader(status)
	}
}
