package main

import (
	"fmt"
	"net/http"
	"path"
	"strings"
)

// shape is a kind of request, and how long its answer has to be.
type shape struct {
	name    string
	method  string
	body    int  // bytes
	chunked bool // the body's length is not announced
	answer  int  // bytes
}

// The lengths of the API's answers, which are also the paths by which it knows them.
const (
	smallAnswer = 200
	largeAnswer = 64 << 10
)

var (
	getSmall    = shape{name: "get-small", method: http.MethodGet, answer: smallAnswer}
	get64K      = shape{name: "get-64k", method: http.MethodGet, answer: largeAnswer}
	post1K      = shape{name: "post-1k", method: http.MethodPost, body: 1 << 10, answer: smallAnswer}
	post1M      = shape{name: "post-1m", method: http.MethodPost, body: 1 << 20, answer: smallAnswer}
	postChunked = shape{name: "post-1m-chunked", method: http.MethodPost, body: 1 << 20, chunked: true, answer: smallAnswer}
)

// protocol is what client and gateway speak.
type protocol string

const (
	http1 protocol = "h1"
	h2c   protocol = "h2c"
)

// testCase is a shape over a protocol.
type testCase struct {
	shape
	protocol protocol
}

func (c testCase) name() string { return c.shape.name + "-" + string(c.protocol) }

func allCases() (cases []testCase) {
	for _, s := range []shape{getSmall, get64K, post1K, post1M, postChunked} {
		cases = append(cases, testCase{s, http1}, testCase{s, h2c})
	}
	return cases
}

// clients are as many as there are workers.
func (c testCase) clients(addr string, workers int) []client {
	if c.protocol == h2c {
		return newH2CClients(addr, c.shape, workers)
	}
	return newHTTP1Clients(addr, c.shape, workers)
}

// choose picks those whose names match one of the patterns. A pattern that matches nothing is an error:
// the run would be a long one without what was asked for.
func choose[T any](option, patterns string, all []T, name func(T) string) (chosen []T, err error) {
	if patterns == "" {
		return nil, nil
	}
	split := strings.Split(patterns, ",")
	used := make([]bool, len(split))
	for _, candidate := range all {
		matches := false
		for i, pattern := range split {
			matched, err := path.Match(pattern, name(candidate))
			if err != nil {
				return nil, fmt.Errorf("%s: %q: %w", option, pattern, err)
			}
			used[i] = used[i] || matched
			matches = matches || matched
		}
		if matches {
			chosen = append(chosen, candidate)
		}
	}
	for i, pattern := range split {
		if !used[i] {
			names := make([]string, len(all))
			for i, candidate := range all {
				names[i] = name(candidate)
			}
			return nil, fmt.Errorf("%s: nothing is called %q; there are %s", option, pattern, strings.Join(names, ", "))
		}
	}
	return chosen, nil
}
