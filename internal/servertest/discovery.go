package servertest

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
)

// Where an issuer's metadata may be, and the token endpoint that it names.
const (
	Issuer       = "https://auth.example.com/tenant"
	RFC8414Place = "https://auth.example.com/.well-known/oauth-authorization-server/tenant"
	OIDCPlace    = "https://auth.example.com/tenant/.well-known/openid-configuration"
	Endpoint     = "https://auth.example.com/tenant/token"
)

// Document is the issuer's metadata, with other members. One that is nil is left out.
func Document(members map[string]any) string {
	all := map[string]any{"issuer": Issuer, "token_endpoint": Endpoint}
	for name, value := range members {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	text, err := json.Marshal(all)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// Discovery answers by URL, and notes what it was asked.
type Discovery struct {
	At map[string]http.RoundTripper // 404 elsewhere

	mu    sync.Mutex
	asked []string
}

func (s *Discovery) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	url := req.URL.String()
	s.asked = append(s.asked, req.Method+" "+url)
	answer := s.At[url]
	s.mu.Unlock()
	if answer == nil {
		answer = Answer{Status: 404, Body: "<html>", Header: WithType("text/html")}
	}
	return answer.RoundTrip(req)
}

// Becomes has something else at a URL from now on.
func (s *Discovery) Becomes(url string, answer http.RoundTripper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.At[url] = answer
}

// Since forgets what was asked, and returns it.
func (s *Discovery) Since() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := strings.Join(s.asked, "\n")
	s.asked = nil
	return strings.NewReplacer("GET "+RFC8414Place, "8414", "GET "+OIDCPlace, "oidc", "POST "+Endpoint, "token", "\n", " ").Replace(asked)
}
