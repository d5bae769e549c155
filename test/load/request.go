package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
)

// client sends the requests of one worker, one after the other.
type client interface {
	// exchange sends a request and reads the whole answer. The context has a deadline.
	exchange(ctx context.Context) (answer, error)
	close()
}

// answer is what a client looks at.
type answer struct {
	status int
	length int64 // of the body
}

// lengthField tells the API how long the body has to be. The gateways pass it on.
const lengthField = "X-Body-Length"

// fields are what a service sends to another: the gateway handles each of them.
func (s shape) fields() http.Header {
	fields := http.Header{
		"User-Agent":      {"orders/4.2.1 (linux; x86_64)"},
		"Accept":          {"application/json"},
		"Accept-Language": {"en-GB,en;q=0.8"},
		"Accept-Encoding": {"gzip, deflate, br"},
		"Cache-Control":   {"no-cache"},
		"Cookie":          {"session=4d1f6c0e9a7b4a7db2f9c21e8a5d3b60; region=eu-central"},
		"Origin":          {"https://shop.example"},
		"Referer":         {"https://shop.example/orders?page=2"},
		"Traceparent":     {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		"X-Request-Id":    {"7f3f0d52-8a3c-4c5a-9d53-0d4d6c1b8e11"},
		lengthField:       {strconv.Itoa(s.body)},
	}
	if s.body > 0 {
		fields.Set("Content-Type", "application/json")
	}
	return fields
}

func (s shape) path() string { return "/" + strconv.Itoa(s.answer) }

// payload is the body. Nobody looks at what is in it.
func (s shape) payload() []byte { return bytes.Repeat([]byte("0123456789abcdef"), s.body/16) }

// wire is the request as HTTP/1.1 writes it.
func (s shape) wire(host string) []byte {
	var text bytes.Buffer
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\nHost: %s\r\n", s.method, s.path(), host)
	fields, payload := s.fields(), s.payload()
	switch {
	case s.chunked:
		fields.Set("Transfer-Encoding", "chunked")
	case s.body > 0:
		fields.Set("Content-Length", strconv.Itoa(s.body))
	}
	_ = fields.Write(&text) // to memory
	text.WriteString("\r\n")
	if !s.chunked {
		text.Write(payload)
		return text.Bytes()
	}
	const size = 32 << 10
	for len(payload) > 0 {
		chunk := payload[:min(size, len(payload))]
		fmt.Fprintf(&text, "%x\r\n%s\r\n", len(chunk), chunk)
		payload = payload[len(chunk):]
	}
	text.WriteString("0\r\n\r\n")
	return text.Bytes()
}
