package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

// peersVariable is set where this program runs as the peers of another.
const peersVariable = "OAUTH_CC_LOAD_PEERS"

func isPeers() bool { return os.Getenv(peersVariable) != "" }

// servePeers serves the API and the token endpoint until the program that started it ends, or wants it to:
// then its standard input is closed.
func servePeers() error {
	listeners, err := inheritedListeners(peerListeners)
	if err != nil {
		return err
	}
	granted := newTokens()
	endpoint := newTokenEndpoint(granted)
	handlers := [peerListeners]http.Handler{newAPI(nil), newAPI(granted), endpoint.routes()}
	ended := make(chan error, len(handlers)+1)
	for i, handler := range handlers {
		// The gateways have HTTP/1.1 upstreams, as most have.
		server := &http.Server{Handler: handler, ReadHeaderTimeout: patience}
		go func() { ended <- server.Serve(listeners[i]) }()
	}
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		ended <- err
	}()
	return <-ended
}

// api answers with as many bytes as the path says, and takes any body.
type api struct {
	granted *tokens // nil if it asks for none
	answers map[string][]byte
}

func newAPI(granted *tokens) *api {
	a := &api{granted: granted, answers: make(map[string][]byte)}
	for _, length := range []int{smallAnswer, largeAnswer} {
		text := make([]byte, length)
		for i := range text {
			text[i] = "0123456789abcdef"[i%16]
		}
		a.answers["/"+strconv.Itoa(length)] = text
	}
	return a
}

// ServeHTTP reads the body first: an API that answers before makes the gateway's connection unusable,
// which is not what is measured.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	length, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		return // the gateway has ended the request
	}
	text, found := a.answers[r.URL.Path]
	switch {
	case a.granted != nil && !a.granted.accepts(r.Header.Get("Authorization")):
		w.Header().Set("Www-Authenticate", `Bearer error="invalid_token"`)
		http.Error(w, "Who are you?", http.StatusUnauthorized)
	case strconv.FormatInt(length, 10) != r.Header.Get(lengthField):
		http.Error(w, "The body is not complete.", http.StatusBadRequest)
	case !found:
		http.NotFound(w, r)
	default:
		header := w.Header()
		header.Set("Content-Type", "application/json")
		header.Set("Content-Length", strconv.Itoa(len(text)))
		header.Set("Cache-Control", "no-store")
		header.Set("X-Request-ID", r.Header.Get("X-Request-ID"))
		_, _ = w.Write(text) // a gateway that is gone is not the API's concern
	}
}

// conduct is how the token endpoint behaves.
type conduct struct {
	Lifetime int  // of tokens, in seconds
	Fails    bool // answers 503
	Hangs    bool // does not answer
}

// tokenEndpoint grants tokens, and does what the program wants.
type tokenEndpoint struct {
	granted *tokens

	mu      sync.Mutex
	conduct conduct
	changed chan struct{} // closed when conduct changes
	asked   int           // token requests
}

func newTokenEndpoint(granted *tokens) *tokenEndpoint {
	return &tokenEndpoint{granted: granted, changed: make(chan struct{})}
}

// routes are the endpoint itself, and what control.go calls.
func (e *tokenEndpoint) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", e.serveToken)
	mux.HandleFunc("PUT /conduct", e.change)
	mux.HandleFunc("POST /revocation", func(http.ResponseWriter, *http.Request) { e.granted.revokeAll() })
	mux.HandleFunc("GET /asked", func(w http.ResponseWriter, _ *http.Request) {
		e.mu.Lock()
		defer e.mu.Unlock()
		_, _ = fmt.Fprint(w, e.asked)
	})
	return mux
}

func (e *tokenEndpoint) change(w http.ResponseWriter, r *http.Request) {
	var wanted conduct
	if err := json.NewDecoder(r.Body).Decode(&wanted); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conduct = wanted
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *tokenEndpoint) serveToken(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	e.asked++
	current, changed := e.conduct, e.changed
	e.mu.Unlock()

	_, secret, _ := r.BasicAuth()
	switch {
	case current.Hangs:
		select {
		case <-changed:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler) // ends the connection without an answer
	case current.Fails:
		http.Error(w, "maintenance", http.StatusServiceUnavailable)
	case secret != clientSecret:
		http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{ // a gateway that is gone asks again
			"access_token": e.granted.grant(time.Duration(current.Lifetime) * time.Second),
			"token_type":   "Bearer",
			"expires_in":   current.Lifetime,
		})
	}
}
