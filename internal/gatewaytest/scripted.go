package gatewaytest

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

// StartScriptedAPI runs an API of which the test writes every answer, over HTTP/1.1 and
// h2c. Its handlers end with the connection, whatever a test leaves behind.
func StartScriptedAPI(t testing.TB, handler http.HandlerFunc) *httptest.Server {
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

func ProxyTo(s *httptest.Server, options ...string) string {
	return "reverse_proxy " + s.Listener.Addr().String() + " {\n" + strings.Join(options, "\n") + "\n}\n"
}

// overH2C is a reverse_proxy option.
const overH2C = "transport http {\nversions h2c\n}"

// UpstreamProtocols are the ways to an upstream that most tests are run over.
var UpstreamProtocols = []struct{ Name, Option string }{{"HTTP/1.1 upstream", ""}, {"h2c upstream", overH2C}}

// Bearer is the token that a request carries.
func Bearer(r *http.Request) string {
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
}

// RejectToken answers like an API that does not know the token.
func RejectToken(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	w.WriteHeader(http.StatusUnauthorized)
}

// AnswerEarly lets an HTTP/1.1 server answer before it has read the body. It does not
// get such a connection ready for another request reliably.
func AnswerEarly(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Connection", "close")
	}
}

// AcceptOnly is an API that rejects all tokens but one and tells what it got.
func AcceptOnly(token string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		switch {
		case Bearer(r) != token:
			RejectToken(w)
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
		default:
			_, _ = w.Write(body)
		}
	}
}

// AttemptLog collects what an API was sent, rejected requests included.
type AttemptLog struct {
	mu   sync.Mutex
	list []ServedRequest
}

// Observe notes each request before handler answers it.
func (a *AttemptLog) Observe(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.list = append(a.list, ServedRequest{Method: r.Method, URI: r.URL.RequestURI(), Host: r.Host, Header: r.Header.Clone()})
		a.mu.Unlock()
		handler(w, r)
	}
}

func (a *AttemptLog) All() []ServedRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]ServedRequest(nil), a.list...)
}

// Tokens lists the tokens in the order in which they came.
func (a *AttemptLog) Tokens() string {
	var list []string
	for _, request := range a.All() {
		list = append(list, strings.TrimPrefix(request.Header.Get("Authorization"), "Bearer "))
	}
	return strings.Join(list, " ")
}

// SendRaw sends a request as it is written, with a Host, and reads the answer.
func SendRaw(t testing.TB, addr, requestLine string, lines ...string) Answer {
	t.Helper()
	text := requestLine + " HTTP/1.1\r\nHost: " + addr + "\r\n" + strings.Join(lines, "\r\n")
	if !strings.Contains(text, "\r\n\r\n") {
		text += "\r\n\r\n"
	}
	conn := DialFor(t, addr)
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
	return Answer{res.StatusCode, string(body), res.Header, res.Trailer}
}

// DialFor connects for as long as the test runs, with a deadline.
func DialFor(t testing.TB, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// ClientProtocol is a way in which clients talk to the gateway.
type ClientProtocol struct {
	Name, Version string
	encrypted     bool
}

var ClientProtocols = []ClientProtocol{
	{"HTTP/1.1", "HTTP/1.1", false}, {"h2c", "HTTP/2.0", false}, {"HTTP/2", "HTTP/2.0", true},
}

// Start runs a gateway and gives its URL and a client that speaks the protocol.
func (p ClientProtocol) Start(t testing.TB, site string) (*Gateway, string, *http.Client) {
	t.Helper()
	g := Start(t, site)
	transport := &http.Transport{Protocols: new(http.Protocols), ExpectContinueTimeout: Patience, DisableCompression: true}
	transport.Protocols.SetHTTP1(p.Version == "HTTP/1.1")
	transport.Protocols.SetUnencryptedHTTP2(p.Version != "HTTP/1.1" && !p.encrypted)
	transport.Protocols.SetHTTP2(p.encrypted)
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() }) // the gateway waits for it when it stops
		}
		return conn, err
	}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: Patience}
	if !p.encrypted {
		return g, g.URL(""), client
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
	base := "https://" + FreeAddr(t)
	if err := Load(base + " {\ntls " + strings.Join(files, " ") + "\n" + site + "\n}\n"); err != nil {
		t.Fatal(err)
	}
	return g, base, client
}

// Exchange sends a request and checks that it went by the protocol.
func (p ClientProtocol) Exchange(t testing.TB, client *http.Client, req *http.Request) Answer {
	t.Helper()
	res, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer res.Body.Close()
	if res.Proto != p.Version {
		t.Fatalf("spoke %s, want %s", res.Proto, p.Version)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	return Answer{res.StatusCode, string(body), res.Header, res.Trailer}
}

func ClientRequest(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// InTwoParts is a body of which the second part is sent when c is closed.
func InTwoParts(first, second string, c <-chan struct{}) io.Reader {
	reader, writer := io.Pipe()
	go func() {
		_, _ = io.WriteString(writer, first)
		select {
		case <-c:
			_, _ = io.WriteString(writer, second)
			_ = writer.Close()
		case <-time.After(Patience):
			_ = writer.CloseWithError(errors.New("nobody asked for the second part"))
		}
	}()
	return reader
}

// AwaitSignal waits for a channel to be closed or to receive.
func AwaitSignal[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	var value T
	select {
	case value = <-c:
	case <-time.After(Patience):
		t.Fatalf("%s: not within %s", what, Patience)
	}
	return value
}

func CheckAnswer(t testing.TB, got Answer, status int, body string) {
	t.Helper()
	if got.Status != status || got.Body != body {
		t.Errorf("got %d with %s, want %d with %s", got.Status, Excerpt(got.Body), status, Excerpt(body))
	}
}

// Excerpt keeps failure messages readable.
func Excerpt(body string) string {
	if len(body) > 80 {
		return fmt.Sprintf("%q… (%d bytes)", body[:80], len(body))
	}
	return fmt.Sprintf("%q", body)
}

// NumberedText is a body of which every part is different.
func NumberedText(size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "%d,", i)
	}
	return b.String()[:size]
}
