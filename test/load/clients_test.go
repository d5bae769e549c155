package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// serve starts a server for both protocols.
func serve(t *testing.T, handler http.HandlerFunc) (addr string) {
	server := httptest.NewUnstartedServer(handler)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// connections are those that a server has seen.
type connections struct {
	mu    sync.Mutex
	addrs map[string]bool
}

func (c *connections) add(r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.addrs == nil {
		c.addrs = make(map[string]bool)
	}
	c.addrs[r.RemoteAddr] = true
}

func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.addrs)
}

// within is a context as exchange wants it.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// closing closes the clients at the end of the test.
func closing(t *testing.T, clients []client) []client {
	t.Cleanup(func() {
		for _, c := range clients {
			c.close()
		}
	})
	return clients
}

func TestEachCaseSendsWhatItsNameSays(t *testing.T) {
	for _, c := range allCases() {
		t.Run(c.name(), func(t *testing.T) {
			var from connections
			api := newAPI(nil)
			addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
				from.add(r)
				length := int64(c.body)
				if c.chunked {
					length = -1
				}
				if r.Method != c.method || r.ContentLength != length {
					t.Errorf("the server got %s with length %d, want %s with %d", r.Method, r.ContentLength, c.method, length)
				}
				if is2 := r.ProtoMajor == 2; is2 != (c.protocol == h2c) {
					t.Errorf("the server got %s", r.Proto)
				}
				if n := len(r.Header) + 1; n < 12 || n > 14 { // Host is not in there
					t.Errorf("the server got %d header fields: %v", n, r.Header)
				}
				api.ServeHTTP(w, r)
			})
			sender := closing(t, c.clients(addr, 1))[0]
			for range 3 {
				want := answer{200, int64(c.answer)}
				if got, err := sender.exchange(within(t)); err != nil || got != want {
					t.Fatalf("the client got %v, %v; want %v", got, err, want)
				}
			}
			if n := from.count(); n != 1 {
				t.Errorf("the client made %d connections", n)
			}
		})
	}
}

func TestWorkersHaveTheirConnections(t *testing.T) {
	for protocol, want := range map[protocol]int{http1: 16, h2c: 4} {
		var from connections
		addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
			from.add(r)
			newAPI(nil).ServeHTTP(w, r)
		})
		c := testCase{getSmall, protocol}
		for _, sender := range closing(t, c.clients(addr, 16)) {
			if _, err := sender.exchange(within(t)); err != nil {
				t.Fatal(err)
			}
		}
		if n := from.count(); n != want {
			t.Errorf("16 workers made %d connections over %s, want %d", n, protocol, want)
		}
	}
}

func TestAnEarlyAnswerIsAnAnswer(t *testing.T) {
	// net/http does not read so long a body to its end, and closes the connection.
	addr := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	sender := closing(t, newHTTP1Clients(addr, shape{method: http.MethodPost, body: 300 << 10}, 1))[0]
	for range 3 {
		if got, err := sender.exchange(within(t)); err != nil || got.status != http.StatusBadGateway {
			t.Fatalf("the client got %v, %v", got, err)
		}
	}
}

func TestBrokenAnswersAreErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                         "reading the status line",
		"HTTP/1.1 200 OK\r\n":      "reading the header",
		"HTTP/1.0 200 OK\r\n\r\n":  "no status line",
		"garbage\r\n\r\n":          "no status line",
		"HTTP/1.1 abc OK\r\n\r\n":  "no status",
		"HTTP/1.1 200 OK\r\n\r\nx": "an answer 200 without length",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": "an answer 200 without length",
		"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n":                "no length",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab":                 "a body of 2 instead of 3 bytes",
	} {
		_, _, err := readAnswer(bufio.NewReader(strings.NewReader(text)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestAnswersAreReadToTheirEnd(t *testing.T) {
	r := bufio.NewReader(strings.NewReader("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc" +
		"HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
	if got, persists, err := readAnswer(r); err != nil || got != (answer{200, 3}) || !persists {
		t.Errorf("the first: %v, %v, %v", got, persists, err)
	}
	if got, persists, err := readAnswer(r); err != nil || got != (answer{401, 0}) || persists {
		t.Errorf("the second: %v, %v, %v", got, persists, err)
	}
	if rest, _ := io.ReadAll(r); len(rest) > 0 {
		t.Errorf("%q is left", rest)
	}
}
