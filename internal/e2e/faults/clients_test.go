package faults

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// protocol is how a client speaks to the gateway.
type protocol int

const (
	h1 protocol = iota
	h2c
	h2
	h3
)

var protocolNames = map[protocol]string{h1: "h1", h2c: "h2c", h2: "h2", h3: "h3"}

// connect returns the URL of a site, and a client for it.
func (p protocol) connect(t testing.TB, ca *servertest.CA) (string, *http.Client) {
	t.Helper()
	addr := gatewaytest.FreeAddr(t)
	trusted := x509.NewCertPool()
	trusted.AddCert(ca.Certificate)
	secure := &tls.Config{RootCAs: trusted}
	if p == h3 {
		transport := &http3.Transport{TLSClientConfig: secure}
		t.Cleanup(func() { _ = transport.Close() })
		return "https://" + addr, &http.Client{Transport: transport, Timeout: time.Minute}
	}
	var open sync.Map
	transport := &http.Transport{TLSClientConfig: secure, Protocols: new(http.Protocols), DisableCompression: true, ExpectContinueTimeout: time.Minute}
	transport.Protocols.SetHTTP1(p == h1)
	transport.Protocols.SetUnencryptedHTTP2(p == h2c)
	transport.Protocols.SetHTTP2(p == h2)
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		tracked := &trackedConn{conn, &open}
		open.Store(tracked, true)
		return tracked, nil
	}
	t.Cleanup(func() { // the gateway waits for them when it stops
		for conn := range open.Range {
			_ = conn.(net.Conn).Close()
		}
	})
	t.Cleanup(transport.CloseIdleConnections)
	scheme := "http://"
	if p == h2 {
		scheme = "https://"
	}
	return scheme + addr, &http.Client{Transport: transport, Timeout: time.Minute}
}

// trackedConn is a connection that is among the open ones until it is closed.
type trackedConn struct {
	net.Conn
	open *sync.Map
}

func (c *trackedConn) Close() error {
	c.open.Delete(c)
	return c.Conn.Close()
}

// send makes a request and tells what came of it.
func (p *play) send(req *http.Request) string {
	res, err := p.client.Do(req)
	if err == nil && res.ProtoMajor != map[protocol]int{h1: 1, h2c: 2, h2: 2, h3: 3}[p.row.over] {
		p.t.Errorf("spoke %s, want %s", res.Proto, protocolNames[p.row.over])
	}
	return answered(res, err)
}

func (p *play) request(method, path string, body io.Reader) *http.Request {
	req, err := http.NewRequest(method, p.url+path, body)
	if err != nil {
		panic(err)
	}
	return req
}

// textRequest has a text as its body.
func textRequest(p *play, method, path string, size int) *http.Request {
	return p.request(method, path, strings.NewReader(numberedText(size)))
}

// get asks for a page.
func get(p *play) []string { return path("/")(p) }

// path asks for the page there.
func path(path string) func(*play) []string {
	return func(p *play) []string { return []string{p.send(p.request(http.MethodGet, path, nil))} }
}

// post sends a text whose length is announced.
func post(size int) func(*play) []string {
	return func(p *play) []string { return []string{p.send(textRequest(p, http.MethodPost, "/", size))} }
}

// chunked sends a text whose length is not announced.
func chunked(size int) func(*play) []string {
	return func(p *play) []string {
		return []string{p.send(p.request(http.MethodPost, "/", io.MultiReader(strings.NewReader(numberedText(size)))))}
	}
}

// byteByByte sends a text in as many writes as it has bytes.
func byteByByte(size int) func(*play) []string {
	return func(p *play) []string {
		return []string{p.send(p.request(http.MethodPost, "/", iotest.OneByteReader(strings.NewReader(numberedText(size)))))}
	}
}

// with sends a request with further header fields.
func with(method string, size int, fields ...string) func(*play) []string {
	return func(p *play) []string {
		req := textRequest(p, method, "/", size)
		if size == 0 {
			req = p.request(method, "/", nil)
		}
		for pair := range slices.Chunk(fields, 2) {
			req.Header.Add(pair[0], pair[1])
		}
		return []string{p.send(req)}
	}
}

// each asks one after the other.
func each(asks ...func(*play) []string) func(*play) []string {
	return func(p *play) (lines []string) {
		for _, ask := range asks {
			lines = append(lines, ask(p)...)
		}
		return lines
	}
}

// atOnce asks so many times at once, and counts like answers.
func atOnce(n int, ask func(*play) []string) func(*play) []string {
	return func(p *play) (lines []string) {
		var mu sync.Mutex
		var wait sync.WaitGroup
		counts := make(map[string]int)
		for range n {
			wait.Go(func() {
				line := listed(ask(p))
				mu.Lock()
				defer mu.Unlock()
				counts[line]++
			})
		}
		wait.Wait()
		for _, line := range slices.Sorted(maps.Keys(counts)) {
			lines = append(lines, fmt.Sprintf("%d times %s", counts[line], line))
		}
		return lines
	}
}

// leaving asks, and is gone when the row pauses, which it does until the gateway has noticed.
func leaving(method string, body func(gone <-chan struct{}) io.Reader) func(*play) []string {
	return func(p *play) []string {
		ctx, leave := context.WithCancel(context.Background())
		defer leave()
		var reader io.Reader
		if body != nil {
			reader = body(ctx.Done())
		}
		answer := make(chan string, 1)
		go func() { answer <- p.send(p.request(method, "/", reader).WithContext(ctx)) }()
		gatewaytest.AwaitSignal(p.t, "the pause of the row", p.paused)
		leave()
		got := <-answer
		p.awaitServed(1)
		close(p.resumed)
		return []string{got}
	}
}

// crowdLeaving is so many who leave at once, when all of them have reached the gateway. Over HTTP/3 a server never sees a
// request whose client leaves before that.
func crowdLeaving(n int) func(*play) []string {
	return func(p *play) []string {
		ctx, leave := context.WithCancel(context.Background())
		defer leave()
		probes := make(chan string, n)
		answers := make(chan []string, 1)
		go func() {
			answers <- atOnce(n, func(p *play) []string {
				req, id := p.request(http.MethodGet, "/", nil).WithContext(ctx), gatewaytest.NewProbe()
				req.Header.Set("X-Probe", id)
				probes <- id
				return []string{p.send(req)}
			})(p)
		}()
		for range n {
			id := <-probes
			gatewaytest.Await(p.t, "a request reaches the gateway", func() bool { return gatewaytest.ProbeReached(id) })
		}
		gatewaytest.AwaitSignal(p.t, "the pause of the row", p.paused)
		leave()
		got := <-answers
		p.awaitServed(n)
		close(p.resumed)
		return got
	}
}

// settled waits until all that is to be logged is.
func settled(p *play) []string {
	gatewaytest.Await(p.t, "all is logged", func() bool { return sorted(p.logged()) == sorted(p.want.log) })
	return nil
}

// text is a body whose length is announced.
func text(size int) func(<-chan struct{}) io.Reader {
	return func(<-chan struct{}) io.Reader { return strings.NewReader(numberedText(size)) }
}

// unended is a body of which so much comes, and no more until the client has gone.
func unended(size int) func(<-chan struct{}) io.Reader {
	return func(gone <-chan struct{}) io.Reader { return stuckAfter(size, gone) }
}

// stuckAfter is a body of which so much comes, and then an error when broken is closed.
func stuckAfter(size int, broken <-chan struct{}) io.Reader {
	return io.MultiReader(strings.NewReader(numberedText(size)), readerFunc(func([]byte) (int, error) {
		<-broken
		return 0, io.ErrUnexpectedEOF
	}))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
