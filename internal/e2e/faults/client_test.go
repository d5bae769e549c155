package faults

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// Clients leave, stop or are slow at any moment of a request, over every protocol. Nobody else notices, and nothing is
// kept for them.
func TestClientFaults(t *testing.T) {
	const size = 60_000 // fits the replay buffer
	const start = 9_000
	const large = 300_000
	cured := gotFirst + then + gotRenewed
	wholeBody := func(token string, size int) string { return fmt.Sprintf("POST / %s %d bytes", token, size) }
	accepted := fmt.Sprintf("200 %d bytes", size)
	waits := by((*visit).pause)
	grantsLate := by(func(v *visit) { v.pause(); v.grant() })
	renewsLate := by((*visit).grant, func(v *visit) { v.pause(); v.grant() })
	var rows []row
	for _, over := range []protocol{h1, h2c, h2, h3} {
		for _, row := range []row{
			// It sends a body.
			{name: "body", upstream: rejecting("token-1"), ask: post(size),
				want: want{accepted, wholeBody("token-1", size) + then + wholeBody("token-2", size), cured, twice, nothing}},
			{name: "body of unknown length", upstream: rejecting("token-1"), ask: chunked(size),
				want: want{accepted, wholeBody("token-1", size) + then + wholeBody("token-2", size), cured, twice, nothing}},
			{name: "body byte by byte", upstream: rejecting("token-1"), ask: byteByByte(500),
				want: want{"200 500 bytes", wholeBody("token-1", 500) + then + wholeBody("token-2", 500), cured, twice, nothing}},
			{name: "body as large as the buffer", upstream: rejecting("token-1"), ask: post(bufferSize), want: want{"200 65536 bytes",
				wholeBody("token-1", bufferSize) + then + wholeBody("token-2", bufferSize), cured, twice, nothing}},
			{name: "body a byte larger than the buffer", upstream: rejecting("token-1"), ask: chunked(bufferSize + 1), want: want{"401 with a challenge",
				wholeBody("token-1", bufferSize+1), gotFirst + then + unreplayable + then + gotRenewed, twice, nothing}},
			{name: "body of which one half follows the rejection", upstream: rejectingEarly(start, false), ask: inHalves(start, size),
				want: want{accepted, "POST / token-1 in part" + then + wholeBody("token-2", size), cured, twice, nothing}},
			{name: "crowd of bodies that share the buffer", upstream: by((*visit).accept), ask: atOnce(8, post(large)),
				want: want{fmt.Sprintf("8 times 200 %d bytes", large), strings.Repeat(wholeBody("token-1", large)+then, 7) + wholeBody("token-1", large),
					gotFirst, once, nothing}},

			// It leaves.
			{name: "leaves while a token is fetched", endpoint: grantsLate, ask: each(leaving(http.MethodGet, nil), settled, get),
				want: want{"no answer | 200 GET with token-1", "GET / token-1", gotFirst, once, nothing}},
			{name: "crowd leaves while a token is fetched", site: "reload_probe", endpoint: grantsLate, ask: each(crowdLeaving(30), settled, get),
				want: want{"30 times no answer | 200 GET with token-1", "GET / token-1", gotFirst, once, nothing}},
			{name: "leaves in its body", upstream: by(func(v *visit) { v.read(start); v.pause(); v.drain() }), ask: leaving(http.MethodPost, unended(start)),
				want: want{"no answer", "POST / token-1 in part", gotFirst, once, nothing}},
			{name: "leaves in a body larger than the buffer", upstream: by(func(v *visit) { v.read(large); v.pause(); v.drain() }),
				ask: leaving(http.MethodPost, unended(large)), want: want{"no answer", "POST / token-1 in part", gotFirst, once, nothing}},
			{name: "leaves while the upstream works", upstream: by(func(v *visit) { v.drain(); v.pause(); v.hang() }), ask: leaving(http.MethodPost, text(size)),
				want: want{"no answer", wholeBody("token-1", size), gotFirst, once, nothing}},
			{name: "leaves while the upstream does not read", upstream: waits, ask: leaving(http.MethodPost, text(size)),
				want: want{"no answer", "POST / token-1 unread", gotFirst, once, nothing}},
			{name: "leaves while the token is renewed", endpoint: renewsLate, upstream: rejecting("token-1"), ask: each(leaving(http.MethodPost, text(size)), settled, get),
				want: want{"no answer | 200 GET with token-2", wholeBody("token-1", size) + then + "GET / token-2", cured, twice, nothing}},
			{name: "leaves in the second attempt", upstream: by((*visit).reject, func(v *visit) { v.drain(); v.pause(); v.hang() }),
				ask:  leaving(http.MethodPost, text(size)),
				want: want{"no answer", wholeBody("token-1", size) + then + wholeBody("token-2", size), cured, twice, nothing}},
			{name: "leaves in the body of the second attempt", upstream: by(func(v *visit) { v.early(); v.read(start); gatewaytest.RejectToken(v.w) },
				func(v *visit) { v.read(start); v.pause(); v.drain() }), ask: leaving(http.MethodPost, unended(start)),
				want: want{"no answer", "POST / token-1 in part | POST / token-2 in part", cured, twice, nothing}},
			{name: "leaves in the answer", upstream: by(func(v *visit) { v.drain(); v.say(numberedText(start)); v.hang() }), ask: leavingInAnswer(start),
				want: want{"200 in part", "GET / token-1", gotFirst, once, nothing}},
			{name: "leaves in the answer to the second attempt", upstream: by((*visit).reject,
				func(v *visit) { v.drain(); v.say(numberedText(start)); v.hang() }), ask: leavingInAnswer(start),
				want: want{"200 in part", "GET / token-1 | GET / token-2", cured, twice, nothing}},

			// What it sends is not for the upstream.
			{name: "brings a token of its own", ask: with(http.MethodPost, size, "Authorization", "Bearer canary", "Authorization", "Basic canary"),
				want: want{accepted, wholeBody("token-1", size), gotFirst, once, nothing}},
			{name: "brings a header of 8 KiB", ask: with(http.MethodPost, size, "X-Large", strings.Repeat("x", 8<<10)),
				want: want{accepted, wholeBody("token-1", size), gotFirst, once, nothing}},
		} {
			rows = append(rows, row.by(over))
		}
	}
	// Over HTTP/3 a client can break off its body, and still be there for the answer.
	for _, over := range []protocol{h1, h2c, h2} {
		rows = append(rows, row{name: "body that it breaks off", ask: breakingOff(start),
			want: want{"no answer", "POST / token-1 in part", gotFirst, once, nothing}}.by(over))
	}
	// Over HTTP/1.1 the gateway can't know that a client has gone as long as it does not read its body.
	for _, over := range []protocol{h2c, h2, h3} {
		for _, row := range []row{
			{name: "leaves with a body while a token is fetched", endpoint: grantsLate, ask: each(leaving(http.MethodPost, text(size)), settled, get),
				want: want{"no answer | 200 GET with token-1", "GET / token-1", gotFirst, once, nothing}},
			{name: "leaves in its body while the token is renewed", endpoint: renewsLate, upstream: rejectingEarly(start, false),
				ask:  each(leaving(http.MethodPost, unended(start)), settled, get),
				want: want{"no answer | 200 GET with token-2", "POST / token-1 in part | GET / token-2", cured, twice, nothing}},
		} {
			rows = append(rows, row.by(over))
		}
	}
	rows = append(rows, row{name: "body that it breaks off", ask: breakingOff(start),
		want: want{"502", "POST / token-1 in part", gotFirst, once, nothing}}.by(h3))
	group{rows: rows, global: "order reload_probe first"}.run(t)
}

// by is the row for clients of a protocol.
func (r row) by(p protocol) row {
	r.name, r.over = protocolNames[p]+", "+r.name, p
	return r
}

// inHalves sends a body of which the second half comes when the first attempt is over.
func inHalves(start, size int) func(*play) []string {
	return func(p *play) []string {
		text := numberedText(size)
		retried := make(chan struct{})
		go func() {
			defer close(retried)
			gatewaytest.Await(p.t, "the second attempt", func() bool { return p.api.count() == 2 })
		}()
		return []string{p.send(p.request(http.MethodPost, "/", gatewaytest.InTwoParts(text[:start], text[start:], retried)))}
	}
}

// breakingOff sends a part of a body, and then fails.
func breakingOff(start int) func(*play) []string {
	return func(p *play) []string {
		arrived := make(chan struct{})
		go func() {
			defer close(arrived)
			gatewaytest.Await(p.t, "the body", func() bool { return p.api.received() == start })
		}()
		return []string{p.send(p.request(http.MethodPost, "/", stuckAfter(start, arrived)))}
	}
}

// leavingInAnswer leaves when so much of the answer has come.
func leavingInAnswer(size int) func(*play) []string {
	return func(p *play) []string {
		res, err := p.client.Do(p.request(http.MethodGet, "/", nil))
		if err != nil {
			return []string{"no answer"}
		}
		part := make([]byte, size)
		_, err = io.ReadFull(res.Body, part)
		_ = res.Body.Close()
		if err != nil {
			return []string{"too little"}
		}
		return []string{fmt.Sprintf("%d %s", res.StatusCode, describedPart(string(part)))}
	}
}
