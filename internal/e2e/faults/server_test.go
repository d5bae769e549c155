package faults

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// server stands in for a token endpoint or an upstream. What it does can be changed while it runs.
type server struct {
	play    *play
	addr    string
	http    http.Server
	conns   chan net.Conn // for http
	stopped chan struct{}

	mu     sync.Mutex
	script script
	visits []*visit
	held   int // connections that a script had
	tokens int // granted
}

// script is what a server does: answer requests, or hold whole connections. Nothing of it is the server's default.
type script struct {
	answer func(*visit)
	hold   func(*peer)
}

// visit is a request at a server.
type visit struct {
	w    http.ResponseWriter
	r    *http.Request
	n    int // counts the visits of the server from 1
	at   *server
	body recordedBody

	mu   sync.Mutex
	over bool
}

func startServer(t testing.TB, p *play, s script, byDefault func(*visit)) *server {
	t.Helper()
	if s.answer == nil {
		s.answer = byDefault
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := &server{play: p, addr: listener.Addr().String(), conns: make(chan net.Conn), stopped: make(chan struct{}), script: s}
	at.http = http.Server{Handler: at, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0)}
	at.http.Protocols.SetHTTP1(true)
	at.http.Protocols.SetUnencryptedHTTP2(true)
	var running sync.WaitGroup
	running.Go(func() { _ = at.http.Serve(handedOn{listener, at}) })
	running.Go(func() { at.accept(listener) })
	t.Cleanup(func() {
		close(at.stopped)
		_ = listener.Close()
		_ = at.http.Close()
		running.Wait()
	})
	return at
}

func (s *server) accept(listener net.Listener) {
	var holding sync.WaitGroup
	defer holding.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		hold := s.script.hold
		if hold != nil {
			s.held++
		}
		n := s.held
		s.mu.Unlock()
		if hold == nil {
			select {
			case s.conns <- conn:
			case <-s.stopped:
				_ = conn.Close()
			}
			continue
		}
		holding.Go(func() {
			defer conn.Close()
			hold(newPeer(s, conn.(*net.TCPConn), n))
		})
	}
}

// handedOn is a listener for the connections that no script holds.
type handedOn struct {
	net.Listener
	of *server
}

func (l handedOn) Accept() (net.Conn, error) {
	select {
	case conn := <-l.of.conns:
		return conn, nil
	case <-l.of.stopped:
		return nil, net.ErrClosed
	}
}

// becomes changes what the server does from now on.
func (s *server) becomes(next script) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = next
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	answer := s.script.answer
	s.mu.Unlock()
	v := s.visitedBy(w, r)
	defer v.end()
	answer(v)
}

// visitedBy notes a request. It is nil for a connection that ended before one was read.
func (s *server) visitedBy(w http.ResponseWriter, r *http.Request) *visit {
	v := &visit{w: w, r: r, at: s}
	if r != nil {
		v.body.ReadCloser = r.Body
		r.Body = &v.body
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.visits = append(s.visits, v)
	v.n = len(s.visits)
	return v
}

func (v *visit) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = true
}

// count is the number of requests so far, and of connections that ended without one.
func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.visits)
}

// forget forgets all requests so far.
func (s *server) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.visits = nil
}

// received is how much of bodies has come so far.
func (s *server) received() (size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.visits {
		v.body.mu.Lock()
		size += v.body.got.Len()
		v.body.mu.Unlock()
	}
	return size
}

// String lists the requests, but for those that look after the row.
func (s *server) String() string {
	s.mu.Lock()
	visits := s.visits
	s.mu.Unlock()
	var list []string
	for _, v := range visits {
		if v.r == nil || v.r.URL.Path != aftermathPath {
			list = append(list, v.String())
		}
	}
	return listed(list)
}

func (v *visit) String() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case !v.over:
		return "unfinished"
	case v.r == nil:
		return "unheard"
	}
	parts := []string{v.r.Method, v.r.URL.RequestURI()}
	if token := gatewaytest.Bearer(v.r); strings.Count(token, ".") < 2 && token != "" {
		parts = append(parts, token)
	}
	if body := v.body.String(); body != "" {
		parts = append(parts, body)
	}
	return strings.Join(parts, " ")
}

// grant answers with a new token.
func (v *visit) grant() { v.grantWith(`"expires_in":3600`) }

// grantWith answers with a new token that has further members.
func (v *visit) grantWith(members string) {
	v.drain()
	v.at.mu.Lock()
	v.at.tokens++
	n := v.at.tokens
	v.at.mu.Unlock()
	v.w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(v.w, `{"access_token":"token-%d","token_type":"Bearer",%s}`, n, members)
}

// has reports whether the request has one of the tokens.
func (v *visit) has(tokens ...string) bool { return slices.Contains(tokens, gatewaytest.Bearer(v.r)) }

// accept reads the body and answers with it, or tells what it got.
func (v *visit) accept() {
	body, err := io.ReadAll(v.r.Body)
	switch {
	case err != nil:
		v.w.WriteHeader(http.StatusBadRequest)
	case len(body) > 0:
		_, _ = v.w.Write(body)
	default:
		fmt.Fprintf(v.w, "%s with %s", v.r.Method, gatewaytest.Bearer(v.r))
	}
}

// reject reads the body and does not know the token.
func (v *visit) reject() {
	v.drain()
	gatewaytest.RejectToken(v.w)
}

func (v *visit) drain() { _, _ = io.Copy(io.Discard, v.r.Body) }

func (v *visit) read(n int64) { _, _ = io.CopyN(io.Discard, v.r.Body, n) }

// readByte reports whether there was one.
func (v *visit) readByte() bool {
	n, _ := v.r.Body.Read(make([]byte, 1))
	return n > 0
}

// early lets an HTTP/1.1 server answer before it has read the body.
func (v *visit) early() { gatewaytest.AnswerEarly(v.w, v.r) }

func (v *visit) say(text string) {
	_, _ = io.WriteString(v.w, text)
	_ = http.NewResponseController(v.w).Flush()
}

// pause waits for what else is to happen in the row.
func (v *visit) pause() { v.at.play.pause() }

// wait is for a visit with a client that says when the row pauses.
func (v *visit) wait() { v.at.play.wait() }

// hang waits until the other side has gone, or the row is over.
func (v *visit) hang() {
	select {
	case <-v.r.Context().Done():
	case <-v.at.play.over:
	}
}

// breakOff ends the connection, or the stream, in the middle of what it is doing.
func (v *visit) breakOff() { panic(http.ErrAbortHandler) }

// by answers each request in another way, and all further ones in the last.
func by(turns ...func(*visit)) script {
	return script{answer: func(v *visit) { turns[min(v.n, len(turns))-1](v) }}
}

// recordedBody is a body that remembers what was read.
type recordedBody struct {
	io.ReadCloser

	mu   sync.Mutex
	got  strings.Builder
	last error
}

func (b *recordedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.note(p[:n], err)
	return n, err
}

func (b *recordedBody) note(data []byte, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got.Write(data)
	b.last = err
}

func (b *recordedBody) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch got := b.got.String(); {
	case b.ReadCloser == http.NoBody:
		return ""
	case b.last == io.EOF:
		return described(got)
	case got == "":
		return "unread"
	default:
		return describedPart(got)
	}
}
