package oauthcc

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// startScriptedAPI runs an API of which the test writes every answer, over HTTP/1.1 and
// h2c. Its handlers end with the connection, whatever a test leaves behind.
func startScriptedAPI(t testing.TB, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := httptest.NewUnstartedServer(handler)
	s.Config.Protocols = protocols
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func proxyTo(s *httptest.Server, options ...string) string {
	return "reverse_proxy " + s.Listener.Addr().String() + " {\n" + strings.Join(options, "\n") + "\n}\n"
}

// dialAnew is a reverse_proxy option: each attempt has a connection of its own. Otherwise
// one that is being dialled when another becomes free is dialled on in the background, where
// Caddy reads the request's variables without a lock.
const dialAnew = "transport http {\nkeepalive off\n}"

// overH2C is a reverse_proxy option.
const overH2C = "transport http {\nversions h2c\n}"

// upstreamProtocols are the ways to an upstream that most tests are run over.
var upstreamProtocols = []struct{ name, option string }{{"HTTP/1.1 upstream", ""}, {"h2c upstream", overH2C}}

// bearer is the token that a request carries.
func bearer(r *http.Request) string {
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
}

// rejectToken answers like an API that does not know the token.
func rejectToken(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	w.WriteHeader(http.StatusUnauthorized)
}

// answerEarly lets an HTTP/1.1 server answer before it has read the body. It does not
// get such a connection ready for another request reliably.
func answerEarly(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Connection", "close")
	}
}

// acceptOnly is an API that rejects all tokens but one and tells what it got.
func acceptOnly(token string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		switch {
		case bearer(r) != token:
			rejectToken(w)
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
		default:
			_, _ = w.Write(body)
		}
	}
}

// attemptLog collects what an API was sent, rejected requests included.
type attemptLog struct {
	mu   sync.Mutex
	list []servedRequest
}

// observe notes each request before handler answers it.
func (a *attemptLog) observe(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.list = append(a.list, servedRequest{method: r.Method, uri: r.URL.RequestURI(), host: r.Host, header: r.Header.Clone()})
		a.mu.Unlock()
		handler(w, r)
	}
}

func (a *attemptLog) all() []servedRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]servedRequest(nil), a.list...)
}

// tokens lists the tokens in the order in which they came.
func (a *attemptLog) tokens() string {
	var list []string
	for _, request := range a.all() {
		list = append(list, strings.TrimPrefix(request.header.Get("Authorization"), "Bearer "))
	}
	return strings.Join(list, " ")
}

// sendRaw sends a request as it is written, with a Host, and reads the answer.
func sendRaw(t testing.TB, addr, requestLine string, lines ...string) answer {
	t.Helper()
	text := requestLine + " HTTP/1.1\r\nHost: " + addr + "\r\n" + strings.Join(lines, "\r\n")
	if !strings.Contains(text, "\r\n\r\n") {
		text += "\r\n\r\n"
	}
	conn := dialFor(t, addr)
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("reading the answer's body: %v", err)
	}
	return answer{res.StatusCode, string(body), res.Header, res.Trailer}
}

// dialFor connects for as long as the test runs, with a deadline.
func dialFor(t testing.TB, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// clientProtocol is a way in which clients talk to the gateway.
type clientProtocol struct {
	name, version string
	encrypted     bool
}

var clientProtocols = []clientProtocol{
	{"HTTP/1.1", "HTTP/1.1", false}, {"h2c", "HTTP/2.0", false}, {"HTTP/2", "HTTP/2.0", true},
}

// start runs a gateway and gives its URL and a client that speaks the protocol.
func (p clientProtocol) start(t testing.TB, site string) (*gateway, string, *http.Client) {
	t.Helper()
	g := startGateway(t, site)
	transport := &http.Transport{Protocols: new(http.Protocols), ExpectContinueTimeout: patience, DisableCompression: true}
	transport.Protocols.SetHTTP1(p.version == "HTTP/1.1")
	transport.Protocols.SetUnencryptedHTTP2(p.version != "HTTP/1.1" && !p.encrypted)
	transport.Protocols.SetHTTP2(p.encrypted)
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() }) // the gateway waits for it when it stops
		}
		return conn, err
	}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: patience}
	if !p.encrypted {
		return g, g.url(""), client
	}
	certificate := httptest.NewTLSServer(nil)
	defer certificate.Close()
	transport.TLSClientConfig = certificate.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	key, err := x509.MarshalPKCS8PrivateKey(certificate.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	files := make([]string, 2)
	for i, block := range []pem.Block{
		{Type: "CERTIFICATE", Bytes: certificate.Certificate().Raw}, {Type: "PRIVATE KEY", Bytes: key},
	} {
		files[i] = filepath.Join(t.TempDir(), fmt.Sprint(i))
		if err := os.WriteFile(files[i], pem.EncodeToMemory(&block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	base := "https://" + freeAddr(t)
	if err := loadCaddyfile(base + " {\ntls " + strings.Join(files, " ") + "\n" + site + "\n}\n"); err != nil {
		t.Fatal(err)
	}
	return g, base, client
}

// exchange sends a request and checks that it went by the protocol.
func (p clientProtocol) exchange(t testing.TB, client *http.Client, req *http.Request) answer {
	t.Helper()
	res, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer res.Body.Close()
	if res.Proto != p.version {
		t.Fatalf("spoke %s, want %s", res.Proto, p.version)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	return answer{res.StatusCode, string(body), res.Header, res.Trailer}
}

func clientRequest(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// inTwoParts is a body of which the second part is sent when c is closed.
func inTwoParts(first, second string, c <-chan struct{}) io.Reader {
	reader, writer := io.Pipe()
	go func() {
		_, _ = io.WriteString(writer, first)
		select {
		case <-c:
			_, _ = io.WriteString(writer, second)
			_ = writer.Close()
		case <-time.After(patience):
			_ = writer.CloseWithError(errors.New("nobody asked for the second part"))
		}
	}()
	return reader
}

// awaitSignal waits for a channel to be closed or to receive.
func awaitSignal[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	var value T
	select {
	case value = <-c:
	case <-time.After(patience):
		t.Fatalf("%s: not within %s", what, patience)
	}
	return value
}

func checkAnswer(t testing.TB, got answer, status int, body string) {
	t.Helper()
	if got.status != status || got.body != body {
		t.Errorf("got %d with %s, want %d with %s", got.status, excerpt(got.body), status, excerpt(body))
	}
}

// excerpt keeps failure messages readable.
func excerpt(body string) string {
	if len(body) > 80 {
		return fmt.Sprintf("%q… (%d bytes)", body[:80], len(body))
	}
	return fmt.Sprintf("%q", body)
}

// numberedText is a body of which every part is different.
func numberedText(size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "%d,", i)
	}
	return b.String()[:size]
}
