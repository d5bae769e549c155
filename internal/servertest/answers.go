package servertest

import (
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
)

// Func is a server without a network.
type Func func(*http.Request) (*http.Response, error)

func (f Func) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// Answer is a server without a network, which always says the same.
type Answer struct {
	Status int         // 0: 200
	Header http.Header // nil: the content type of JSON
	Body   string
}

func (a Answer) RoundTrip(req *http.Request) (*http.Response, error) {
	if a.Status == 0 {
		a.Status = http.StatusOK
	}
	if a.Header == nil {
		a.Header = WithType("application/json")
	}
	return &http.Response{
		StatusCode: a.Status,
		Header:     a.Header.Clone(),
		Body:       io.NopCloser(strings.NewReader(a.Body)),
		Request:    req,
	}, nil
}

// WithType is the header of an answer of that type.
func WithType(value string) http.Header {
	return http.Header{"Content-Type": {value}}
}

// Status is an empty answer, with headers given as name, value, …
func Status(code int, header ...string) Answer {
	answer := Answer{Status: code, Header: WithType("application/json"), Body: `{}`}
	for pair := range slices.Chunk(header, 2) {
		answer.Header.Set(pair[0], pair[1])
	}
	return answer
}

// AnyToken is an answer that ends a fetch at once.
var AnyToken = Answer{Body: `{"access_token":"tok-1","refresh_token":"never-used"}`}

var (
	// Hanging says nothing for as long as it is waited for.
	Hanging = Func(func(req *http.Request) (*http.Response, error) {
		<-req.Context().Done()
		return nil, req.Context().Err()
	})

	// Dying breaks off the connection.
	Dying = Func(func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")}
	})
)
