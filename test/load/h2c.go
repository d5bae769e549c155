package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
)

// streamsPerConn is how many workers share a connection, since sharing is what HTTP/2 is for.
const streamsPerConn = 4

// h2cClient sends a worker's requests as streams of a connection.
type h2cClient struct {
	transport *http.Transport
	request   *http.Request
	body      []byte
}

func newH2CClients(addr string, s shape, n int) []client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	payload := s.payload()
	clients := make([]client, n)
	var transport *http.Transport
	for i := range clients {
		if i%streamsPerConn == 0 {
			transport = &http.Transport{Protocols: protocols, DisableCompression: true}
		}
		request, err := http.NewRequest(s.method, "http://"+addr+s.path(), http.NoBody)
		if err != nil {
			panic(err) // an address that the system gave
		}
		request.Header = s.fields()
		if s.body > 0 {
			request.ContentLength = int64(s.body)
		}
		if s.chunked {
			request.ContentLength = -1
		}
		clients[i] = &h2cClient{transport, request, payload}
	}
	return clients
}

func (c *h2cClient) close() { c.transport.CloseIdleConnections() }

func (c *h2cClient) exchange(ctx context.Context) (got answer, err error) {
	request := c.request.WithContext(ctx)
	if len(c.body) > 0 {
		request.Body = io.NopCloser(bytes.NewReader(c.body))
	}
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return got, err
	}
	defer response.Body.Close()
	got.status = response.StatusCode
	got.length, err = io.Copy(io.Discard, response.Body) // which compares it with the length in the header
	return got, err
}

var _ client = (*h2cClient)(nil)
