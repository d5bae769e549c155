package faults

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// peer is a server's end of a connection that a script holds. The connection is closed when the script ends, and at
// the latest when the row is over.
type peer struct {
	*net.TCPConn
	at     *server
	n      int // counts the connections of the server from 1
	reader *bufio.Reader
}

func newPeer(s *server, conn *net.TCPConn, n int) *peer {
	go func() {
		<-s.play.over
		_ = conn.Close()
	}()
	return &peer{TCPConn: conn, at: s, n: n, reader: bufio.NewReader(conn)}
}

// holding has a script do this with each connection.
func holding(turns ...func(*peer)) script {
	return script{hold: func(p *peer) { turns[min(p.n, len(turns))-1](p) }}
}

// hear reads a request.
func (p *peer) hear() {
	r, err := http.ReadRequest(p.reader)
	if err != nil {
		return
	}
	v := p.at.visitedBy(nil, r)
	defer v.end()
	v.drain()
}

func (p *peer) say(format string, args ...any) { fmt.Fprintf(p, format, args...) }

// reset ends the connection as a crash would.
func (p *peer) reset() {
	_ = p.SetLinger(0)
	_ = p.Close()
}

// resetUnheard is reset before the request is read.
func (p *peer) resetUnheard() {
	p.at.visitedBy(nil, nil).end()
	p.reset()
}

// leaveUnheard closes the connection before the request is read. The system resets it then if there was anything to read.
func (p *peer) leaveUnheard() { p.at.visitedBy(nil, nil).end() }

// stay keeps the connection until the other side has gone, or the row is over.
func (p *peer) stay() { _, _ = io.Copy(io.Discard, p) }

// drip writes a text byte by byte.
func (p *peer) drip(text string) {
	for _, b := range []byte(text) {
		if _, err := p.Write([]byte{b}); err != nil {
			return
		}
		gatewaytest.Pass(time.Millisecond)
	}
}

// flood writes until nobody takes any more.
func (p *peer) flood(text string) {
	text = strings.Repeat(text, 1+(32<<10)/len(text))
	for {
		if _, err := io.WriteString(p, text); err != nil {
			return
		}
	}
}

// granting is a token endpoint's whole answer.
func granting(token string) string {
	body := `{"access_token":"` + token + `","token_type":"Bearer","expires_in":3600}`
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}
