package gatewaytest

import (
	"io"
	"net"
	"testing"
)

// StartPeer listens on loopback and leaves each connection to serve once a request, or
// its beginning, has been read. What serve leaves open is closed with the test.
func StartPeer(t *testing.T, serve func(conn *net.TCPConn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			go func() {
				if _, err := conn.Read(make([]byte, 64<<10)); err == nil {
					serve(conn.(*net.TCPConn))
				}
			}()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return listener.Addr().String()
}

// Saying is a peer that writes a text and then no more.
func Saying(text string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, text)
		_ = conn.CloseWrite()
	}
}

func Resetting(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// Switching is a peer that answers 101 and then holds the connection.
func Switching(conn *net.TCPConn) {
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: canary\r\n\r\n")
}
