package gatewaytest

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// TokenServer is a stand-in for a token endpoint: it grants token-1, token-2, … to
// whoever asks.
type TokenServer struct {
	*httptest.Server

	mu       sync.Mutex
	requests []RecordedRequest
	granted  int
	Answer   func(w http.ResponseWriter, r *http.Request, n int) // nil: grant
	Lifetime int                                                 // seconds
	Takes    time.Duration

	flying, mostFlying int // requests at a time
}

type RecordedRequest struct {
	at     time.Time
	Method string
	Header http.Header
	Body   string
}

func StartTokenServer(t testing.TB) *TokenServer {
	s := &TokenServer{Lifetime: 3600}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *TokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.requests = append(s.requests, RecordedRequest{time.Now(), r.Method, r.Header.Clone(), string(body)})
	s.flying++
	s.mostFlying = max(s.mostFlying, s.flying)
	n, answer, takes := len(s.requests), s.Answer, s.Takes
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.flying--
	}()
	if takes > 0 {
		<-time.After(takes)
	}
	if answer != nil {
		answer(w, r, n)
		return
	}
	s.Grant(w)
}

// Grant answers with a new token.
func (s *TokenServer) Grant(w http.ResponseWriter) {
	s.mu.Lock()
	s.granted++
	n, lifetime := s.granted, s.Lifetime
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":%d}`, n, lifetime)
}

// SetAnswer replaces what the endpoint does; n counts the requests from 1.
func (s *TokenServer) SetAnswer(answer func(w http.ResponseWriter, r *http.Request, n int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Answer = answer
}

// SetLifetime is for the tokens that are granted from now on.
func (s *TokenServer) SetLifetime(seconds int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Lifetime = seconds
}

// MostAtATime is the largest number of requests that were under way at once.
func (s *TokenServer) MostAtATime() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mostFlying
}

func (s *TokenServer) Recorded() []RecordedRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Count is the number of token requests so far.
func (s *TokenServer) Count() int { return len(s.Recorded()) }

// Options are those of a gateway that uses the endpoint.
func (s *TokenServer) Options(more ...string) string {
	return "oauth_cc " + s.URL + "/token {\nclient_id app\nclient_secret s3cret-canary\n" + strings.Join(more, "\n") + "\n}\n"
}

func WantFetched(t testing.TB, endpoint *TokenServer, want int) {
	t.Helper()
	if n := endpoint.Count(); n != want {
		t.Errorf("%d token requests, want %d", n, want)
	}
}

// KeyServer is a token endpoint that knows one public key, and a gateway's key file.
type KeyServer struct {
	*TokenServer
	File string

	mu       sync.Mutex
	accepted string
}

func StartKeyServer(t *testing.T) *KeyServer {
	s := &KeyServer{TokenServer: StartTokenServer(t), File: filepath.Join(t.TempDir(), "key.pem"), accepted: "P-256"}
	servertest.WriteFile(t, s.File, servertest.PKCS8(t, servertest.Keys()["P-256"]))
	s.SetAnswer(func(w http.ResponseWriter, _ *http.Request, n int) {
		sent := s.Recorded()[n-1]
		form, _ := url.ParseQuery(sent.Body)
		s.mu.Lock()
		key := servertest.Keys()[s.accepted].Public()
		s.mu.Unlock()
		parsed, err := jose.ParseSigned(form.Get("client_assertion"), servertest.SigningAlgs)
		if err == nil {
			_, err = parsed.Verify(key)
		}
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
			return
		}
		s.Grant(w)
	})
	return s
}

func (s *KeyServer) Accept(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted = kind
}

func (s *KeyServer) Options(more ...string) string {
	return "oauth_cc " + s.URL + "/token {\nclient_id app\nauth_method private_key_jwt\n" +
		"signing_key " + s.File + "\n" + strings.Join(more, "\n") + "\n}\n"
}

func RefuseClients(w http.ResponseWriter, _ *http.Request, _ int) {
	http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
}

type EndpointAnswer = func(w http.ResponseWriter, r *http.Request, n int)

// Says is an endpoint that answers with that.
func Says(status int, contentType, body string) EndpointAnswer {
	return func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}
