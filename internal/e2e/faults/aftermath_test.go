package faults

import (
	"encoding/json"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// unasked is for a row after which nothing can be asked of its site.
const unasked = "its site can't tell"

const aftermathPath = "/aftermath"

// checkAftermath fails if something of the row is left in the gateway. A body as large as the whole replay buffer is
// rejected, and has to be sent again: that needs each byte of the buffer, a token endpoint that is asked again, and
// connections that work.
func (p *play) checkAftermath() {
	p.t.Helper()
	if p.want.left == unasked {
		return
	}
	arrived, renewed := make(chan struct{}), make(chan struct{})
	p.token.becomes(script{answer: (*visit).grant})
	first := make(chan struct{}, 1) // has what marks the request that is rejected
	p.api.becomes(script{answer: func(v *visit) {
		select {
		case <-first:
			v.drain()
			close(arrived)
			<-renewed
			gatewaytest.RejectToken(v.w)
		default:
			v.accept()
		}
	}})
	p.renew()
	// A connection that ended with the row can still be in the pool of reverse_proxy.
	gatewaytest.Await(p.t, "requests are answered again", func() bool {
		return strings.HasPrefix(p.send(p.request(http.MethodGet, aftermathPath, nil)), "200 ")
	})
	first <- struct{}{}
	answers := make(chan string, 1)
	go func() { answers <- p.send(textRequest(p, http.MethodPost, aftermathPath, bufferSize)) }()
	select {
	case <-arrived:
		p.renew() // the request is sent again with this token
		close(renewed)
	case a := <-answers:
		p.t.Errorf("afterwards a request is answered %s, before it reaches the upstream", a)
		return
	}
	if got := <-answers; got != "200 65536 bytes" {
		p.t.Errorf("afterwards a body as large as the replay buffer is answered %s", got)
	}
}

// renew has an operator renew the row's token, in a pause as well.
func (p *play) renew() {
	p.t.Helper()
	ask := gatewaytest.Operator(p.t)
	gatewaytest.Await(p.t, "an operator gets another token", func() bool {
		var list struct{ Tokens []gatewaytest.TokenStatus }
		if err := json.Unmarshal(ask(http.MethodGet, "").Body.Bytes(), &list); err != nil {
			p.t.Fatal(err)
		}
		for _, token := range list.Tokens {
			if token.Endpoint == p.endpoint {
				return ask(http.MethodPost, "/"+token.ID+"/refresh").Code == http.StatusOK
			}
		}
		return false
	})
}

// checkGoroutines fails if the test leaves more goroutines than there were.
func checkGoroutines(t *testing.T) {
	t.Helper()
	// Some are there for good once a Caddy has run.
	if err := gatewaytest.Load("http://" + gatewaytest.FreeAddr(t) + " {\nrespond ok\n}\n"); err != nil {
		t.Fatal(err)
	}
	gatewaytest.Stop(t)
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		gatewaytest.Await(t, "no more goroutines than before", func() bool { return runtime.NumGoroutine() <= before })
	})
}

// busyGoroutines counts those that run the module's code.
func busyGoroutines() int {
	buffer := make([]byte, 8<<20)
	count := 0
	for stack := range strings.SplitSeq(string(buffer[:runtime.Stack(buffer, true)]), "\n\n") {
		for line := range strings.Lines(stack) {
			const module = "github.com/caddy-oauth-cc/caddy-oauth-cc"
			if ours, ok := strings.CutPrefix(strings.TrimPrefix(line, "created by "), module); ok &&
				!strings.HasPrefix(ours, "/internal/e2e/") && !strings.HasPrefix(ours, "/internal/gatewaytest") && !strings.HasPrefix(ours, "/internal/storagetest") {
				count++
				break
			}
		}
	}
	return count
}

// awaitIdle waits until the module does no more than before.
func awaitIdle(t *testing.T, before int) {
	t.Helper()
	if t.Failed() {
		return
	}
	gatewaytest.Await(t, "all that the rows have begun has ended", func() bool { return busyGoroutines() <= before })
}

// checkLog looks for what no row may ever leave in the log.
func (r *running) checkLog(t *testing.T) {
	t.Helper()
	for line := range strings.Lines(r.g.Logs.All()) {
		for _, word := range []string{"panic", "canary", "token-1", "token-2"} {
			if word == "canary" && strings.Contains(line, `"logger":"http.log.access`) {
				continue // it has the headers of the upstream's answers
			}
			if strings.Contains(line, word) {
				t.Errorf("logged %s: %s", word, line)
			}
		}
	}
}
