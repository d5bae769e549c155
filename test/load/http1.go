package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// http1Client writes the same bytes again and again. net/http would cost more than the gateway that is
// measured, with which it shares the cores.
type http1Client struct {
	addr    string
	request []byte

	conn     net.Conn // nil if there is none
	reader   *bufio.Reader
	deadline time.Time // of conn
}

// newHTTP1Clients makes clients with a connection each.
func newHTTP1Clients(addr string, s shape, n int) []client {
	request := s.wire(addr)
	clients := make([]client, n)
	for i := range clients {
		clients[i] = &http1Client{addr: addr, request: request, reader: bufio.NewReaderSize(nil, 16<<10)}
	}
	return clients
}

func (c *http1Client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

func (c *http1Client) exchange(ctx context.Context) (answer, error) {
	if err := c.connect(ctx); err != nil {
		return answer{}, err
	}
	_, sendErr := c.conn.Write(c.request)
	// A server can answer before it has read everything, and close.
	got, persists, err := readAnswer(c.reader)
	if err != nil {
		c.close()
		return answer{}, errors.Join(err, sendErr)
	}
	if sendErr != nil || !persists {
		c.close()
	}
	return got, nil
}

// connect makes sure that there is a connection with the context's deadline.
func (c *http1Client) connect(ctx context.Context) error {
	if c.conn == nil {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.addr)
		if err != nil {
			return err
		}
		c.conn, c.deadline = conn, time.Time{}
		c.reader.Reset(conn)
	}
	if deadline, _ := ctx.Deadline(); deadline != c.deadline {
		c.deadline = deadline
		return c.conn.SetDeadline(deadline)
	}
	return nil
}

// readAnswer reads an answer that announces its length, as those of the gateways do. One that is longer
// than it says is found out by the next.
func readAnswer(r *bufio.Reader) (got answer, persists bool, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return got, false, fmt.Errorf("reading the status line: %w", err)
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) || len(line) < len("HTTP/1.1 200\n") {
		return got, false, fmt.Errorf("no status line: %.40q", line)
	}
	if got.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return got, false, fmt.Errorf("no status: %.40q", line)
	}
	got.length, persists = -1, true
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return got, false, fmt.Errorf("reading the header: %w", err)
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if got.length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return got, false, fmt.Errorf("no length: %.40q", line)
			}
		case bytes.EqualFold(name, []byte("Connection")):
			persists = !bytes.EqualFold(value, []byte("close"))
		}
	}
	if got.length < 0 {
		return got, false, fmt.Errorf("an answer %d without length", got.status)
	}
	if n, err := r.Discard(int(got.length)); err != nil {
		return got, false, fmt.Errorf("a body of %d instead of %d bytes: %w", n, got.length, err)
	}
	return got, persists, nil
}

var _ client = (*http1Client)(nil)
