package gatewaytest

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// TokenStatus is what is told of a token, or of a grant that has none.
type TokenStatus struct {
	ID         string            `json:"id"`
	Endpoint   string            `json:"endpoint,omitempty"`
	Issuer     string            `json:"issuer,omitempty"`
	ClientID   string            `json:"client_id,omitempty"`
	AuthMethod string            `json:"auth_method"`
	Grant      string            `json:"grant"`
	Subject    string            `json:"subject"`
	Scopes     []string          `json:"scopes,omitempty"`
	Audience   []string          `json:"audience,omitempty"`
	Resource   []string          `json:"resource,omitempty"`
	Values     map[string]string `json:"values,omitempty"` // of the placeholders of the request

	State         string     `json:"state"`                 // fresh, stale, expired or none
	Token         string     `json:"token,omitempty"`       // the name of it that logs use
	Generation    uint64     `json:"generation,omitempty"`  // counts the tokens of this grant
	Shared        bool       `json:"shared,omitempty"`      // another gateway has got it
	ObtainedAt    *time.Time `json:"obtained_at,omitempty"` // when it was asked for
	StaleFrom     *time.Time `json:"stale_from,omitempty"`  // then it is renewed ahead
	ExpiresAt     *time.Time `json:"expires_at,omitempty"`
	RejectedSince *time.Time `json:"rejected_since,omitempty"` // by the upstream, which has accepted it for nothing since

	Requests      uint64        `json:"requests"` // that were given a token
	Fetches       uint64        `json:"fetches"`
	FailedFetches uint64        `json:"failed_fetches"`
	Fetching      bool          `json:"fetching,omitempty"`
	Failing       bool          `json:"failing,omitempty"`    // the last fetch failed
	LastError     *FailedStatus `json:"last_error,omitempty"` // also of a failure that is over
	NextTry       *time.Time    `json:"next_try,omitempty"`   // in a pause after a failure
}

// FailedStatus is what is told of a fetch that failed.
type FailedStatus struct {
	Error           string    `json:"error"`                      // as {http.oauth_cc.error}
	Status          int       `json:"status,omitempty"`           // HTTP status of the answer
	Detail          string    `json:"detail,omitempty"`           // in our words
	EndpointMessage string    `json:"endpoint_message,omitempty"` // in the endpoint's words, masked
	Hint            string    `json:"hint,omitempty"`             // what may help
	Help            string    `json:"help,omitempty"`             // address of what the documentation says about the error
	At              time.Time `json:"at"`
}

// TokenList is the answer to a request for tokens.
type TokenList struct {
	Tokens   []TokenStatus `json:"tokens"`
	Omitted  int           `json:"omitted"`  // more than were asked for
	Handlers int           `json:"handlers"` // of the running configuration
}

// Readiness is whether there are tokens.
type Readiness struct {
	Ready    bool          `json:"ready"`
	Starting bool          `json:"starting,omitempty"` // no configuration with sites runs
	Missing  []TokenStatus `json:"missing,omitempty"`
}

// Tokens is what the admin endpoint tells of the tokens.
func (g *Gateway) Tokens() []TokenStatus {
	g.T.Helper()
	a := g.Ask(http.MethodGet, "tokens")
	if a.Status != http.StatusOK || a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Cache-Control") != "no-store" {
		g.T.Fatalf("listing: %d %v %s", a.Status, a.Header, a.Body)
	}
	if !strings.Contains(a.Body, `"tokens":[`) {
		g.T.Errorf("no array: %s", a.Body)
	}
	var list TokenList
	DecodeStrictly(g.T, a.Body, &list)
	return list.Tokens
}

// Token is the only token there is.
func (g *Gateway) Token() TokenStatus {
	g.T.Helper()
	list := g.Tokens()
	if len(list) != 1 {
		g.T.Fatalf("%d tokens, want one: %+v", len(list), list)
	}
	return list[0]
}

// DecodeStrictly reads JSON that has no members but the known ones.
func DecodeStrictly(t testing.TB, body string, into any) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
}

// Operator asks the Admin API, also where the admin endpoint is off.
func Operator(t testing.TB) func(method, path string) *httptest.ResponseRecorder {
	t.Helper()
	info, err := caddy.GetModule("admin.api.oauth_cc")
	if err != nil {
		t.Fatal(err)
	}
	api := http.NewServeMux()
	for _, route := range info.New().(caddy.AdminRouter).Routes() {
		api.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			err := route.Handler.ServeHTTP(w, r)
			if failure, ok := errors.AsType[caddy.APIError](err); ok {
				w.WriteHeader(failure.HTTPStatus)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	return func(method, path string) *httptest.ResponseRecorder {
		answer := httptest.NewRecorder()
		api.ServeHTTP(answer, httptest.NewRequest(method, "/oauth_cc/tokens"+path, nil))
		return answer
	}
}

// ForgetTokens forgets all tokens as an operator would.
func ForgetTokens(t testing.TB) {
	t.Helper()
	ask := Operator(t)
	var list struct{ Tokens []TokenStatus }
	if err := json.Unmarshal(ask(http.MethodGet, "").Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	for _, token := range list.Tokens {
		ask(http.MethodDelete, "/"+token.ID)
	}
}
