package faults

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func TestReloadInEveryStage(t *testing.T) {
	operated(t, nothing, func(t *testing.T, r *running) {
		if err := r.load("second"); err != nil {
			t.Error(err)
		}
	})
}

func TestReloadsOneAfterTheOther(t *testing.T) {
	operated(t, nothing, func(t *testing.T, r *running) {
		for i := range 5 {
			if err := r.load(fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestReloadThatFailsInEveryStage(t *testing.T) {
	operated(t, nothing, func(t *testing.T, r *running) {
		if err := r.load("second\n}\nhandle {\nrespond {\nno_such_option\n}"); err == nil {
			t.Error("a wrong configuration was loaded")
		}
	})
}

func TestReloadWithoutTheSites(t *testing.T) {
	operated(t, unasked, func(t *testing.T, _ *running) {
		if err := gatewaytest.Load("http://" + gatewaytest.FreeAddr(t) + " {\nrespond ok\n}\n"); err != nil {
			t.Error(err)
		}
	})
}

func TestShutdownInEveryStage(t *testing.T) {
	operated(t, unasked, func(t *testing.T, r *running) {
		stopped := make(chan error, 1)
		go func() { stopped <- caddy.Stop() }()
		t.Cleanup(func() {
			if err := gatewaytest.AwaitSignal(t, "the end of Caddy", stopped); err != nil {
				t.Error(err)
			}
		})
		for _, p := range r.plays {
			gatewaytest.Await(t, "nobody listens any more", func() bool {
				conn, err := net.Dial("tcp", p.addr())
				if err == nil {
					_ = conn.Close()
				}
				return err != nil
			})
		}
	})
}

// operated has an operator do something while requests are in every stage. None of them fails for it.
func operated(t *testing.T, left string, operate func(*testing.T, *running)) {
	if !gatewaytest.Apart(t) {
		return
	}
	const size = 60_000 // fits the replay buffer
	const start = 9_000
	const large = 300_000
	cured := gotFirst + then + gotRenewed
	sent := func(token string, size int) string { return fmt.Sprintf("POST / %s %d bytes", token, size) }
	accepted := fmt.Sprintf("200 %d bytes", size)
	var rows []row
	for _, over := range []protocol{h1, h2c, h2, h3} {
		for _, row := range []row{
			{name: "a token is fetched", endpoint: by(func(v *visit) { v.pause(); v.grant() }), ask: get,
				want: want{"200 GET with token-1", "GET / token-1", gotFirst, once, left}},
			{name: "a token is fetched for a body", endpoint: by(func(v *visit) { v.pause(); v.grant() }), ask: post(size),
				want: want{accepted, sent("token-1", size), gotFirst, once, left}},
			{name: "a token is refused", endpoint: by(func(v *visit) { v.pause(); v.w.WriteHeader(403) }), ask: get,
				want: want{"502 refused", nothing, failed("refused"), once, left}},
			{name: "the upstream works", upstream: by(func(v *visit) { v.drain(); v.pause(); v.say("done") }), ask: post(size),
				want: want{"200 done", sent("token-1", size), gotFirst, once, left}},
			{name: "a body is uploaded", upstream: by(func(v *visit) { v.readAndPause(start); v.drain(); v.say("done") }), ask: inPauses(start, size),
				want: want{"200 done", sent("token-1", size), gotFirst, once, left}},
			{name: "a body is uploaded, and will be rejected", upstream: by(func(v *visit) { v.readAndPause(start); v.reject() }, (*visit).accept),
				ask: inPauses(start, size), want: want{accepted, sent("token-1", size) + then + sent("token-2", size), cured, twice, left}},
			{name: "a replay waits for its token", endpoint: by((*visit).grant, func(v *visit) { v.pause(); v.grant() }), upstream: rejecting("token-1"),
				ask: post(size), want: want{accepted, sent("token-1", size) + then + sent("token-2", size), cured, twice, left}},
			{name: "a replay waits for what it will not get", endpoint: by((*visit).grant, func(v *visit) { v.pause(); v.w.WriteHeader(403) }),
				upstream: rejecting("token-1"), ask: post(size),
				want: want{"502 refused", sent("token-1", size), gotFirst + then + "no token obtained (rejected, refused)", twice, left}},
			{name: "a body is sent again", upstream: by((*visit).reject, func(v *visit) { v.drain(); v.pause(); v.say("done") }), ask: post(size),
				want: want{"200 done", sent("token-1", size) + then + sent("token-2", size), cured, twice, left}},
			{name: "the answer streams", upstream: by(func(v *visit) { v.sayInPauses(start, size) }), ask: get,
				want: want{accepted, "GET / token-1", gotFirst, once, left}},
			{name: "the answer to the second attempt streams", upstream: by((*visit).reject, func(v *visit) { v.sayInPauses(start, size) }), ask: get,
				want: want{accepted, "GET / token-1 | GET / token-2", cured, twice, left}},
			{name: "the answer will break off", upstream: by(func(v *visit) { v.say(numberedText(start)); v.wait(); v.breakOff() }), ask: pausing,
				want: want{"200 in part", "GET / token-1", gotFirst, once, left}},
		} {
			rows = append(rows, row.by(over))
		}
	}
	if left == nothing { // else there is nobody to renew the token for
		for _, over := range []protocol{h1, h2c, h2, h3} {
			rows = append(rows, row{
				name: "a large body is uploaded, and will be rejected", upstream: by(func(v *visit) { v.readAndPause(start); v.reject() }),
				ask: inPauses(start, large), want: want{"401 with a challenge", sent("token-1", large),
					gotFirst + then + unreplayable + then + gotRenewed, twice, left},
			}.by(over))
		}
	}
	group{rows: rows, operate: operate}.run(t)
}

func (p *play) addr() string {
	_, addr, _ := strings.Cut(p.url, "://")
	return addr
}

// readAndPause reads a part of the body, and pauses.
func (v *visit) readAndPause(n int64) {
	v.read(n)
	v.pause()
}

// sayInPauses answers with a text, a part of it before a pause.
func (v *visit) sayInPauses(start, size int) {
	text := numberedText(size)
	v.say(text[:start])
	v.pause()
	v.say(text[start:])
}

// inPauses sends a text, a part of it before the pause of the row.
func inPauses(start, size int) func(*play) []string {
	return func(p *play) []string {
		text := numberedText(size)
		return []string{p.send(p.request(http.MethodPost, "/", gatewaytest.InTwoParts(text[:start], text[start:], p.resumed)))}
	}
}

// pausing asks for a page, and has the row pause when it has got the beginning of the answer: HTTP/3 forgets what it has not
// delivered yet when an answer breaks off.
func pausing(p *play) []string {
	res, err := p.client.Do(p.request(http.MethodGet, "/", nil))
	p.signal()
	return []string{answered(res, err)}
}
