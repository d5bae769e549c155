package providers

import (
	"cmp"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// providerSpec describes one of the documented providers: what its token endpoint
// demands, how it answers and how its API does.
type providerSpec struct {
	name      string // of its page, and of its example if it has one
	variables string // prefix of the environment variables
	idName    string
	path      string // of the token endpoint
	mediaType string // of a token request; empty: a form
	apiType   string // of the API's bodies; empty: JSON
	lifetime  time.Duration

	// vet returns why a token request is refused, or nil.
	vet func(s *providerStandIn, r *http.Request, body string) *endpointRefusal

	// unknown is its refusal of a request that is none of a token; nil: as OAuth has it.
	unknown func(status int) *endpointRefusal

	// granted is the answer with a token.
	granted func(token string) map[string]any

	// A request with a wrong secret, as the log of the example tells it.
	refusedError string
	refusedSaid  string
	refusedHint  string

	// For the page.
	id, secret string            // as the provider makes them
	further    map[string]string // variables, without the prefix
	warning    string            // about each token
	mistakes   []pageMistake

	// Of a page with several Caddyfiles, the one that this is for; empty if there is one.
	heading string

	// Of clients that send a signed assertion.
	signed string                                                   // the parameter that it is in
	key    string                                                   // that signs it, of servertest.Keys
	files  func(t testing.TB, s *providerStandIn) map[string]string // that the client reads, by the paths that the page has
}

// endpointRefusal is an error answer of a token endpoint.
type endpointRefusal struct {
	status int
	body   string
}

// invalidRequest is how OAuth refuses what a token endpoint does not know.
func invalidRequest(status int) *endpointRefusal {
	return &endpointRefusal{status, `{"error":"invalid_request"}`}
}

const providerID = "gateway+1/é"

// The secret has what form encoding changes and what a Caddyfile or a replacer could
// take for its own.
const providerSecret = `s&cr=t+%2F 100%/é{env.HOME}`

// providerStandIn is a provider's token endpoint and API in the test.
type providerStandIn struct {
	*providerSpec
	id, secret, scope string
	endpoint, api     *httptest.Server

	// Set before the first request; the functions may be nil.
	instead  func(w http.ResponseWriter, n int) bool // answers the nth token request, or returns false
	change   func(members map[string]any)            // of an answer that grants
	onReject func()                                  // before the API answers 401
	life     time.Duration                           // of a token
	patience time.Duration                           // of the API, once a token has expired
	flaw     string                                  // of the client at the provider
	known    *x509.Certificate                       // of the client

	mu       sync.Mutex
	asked    int                  // token requests
	refusal  *endpointRefusal     // the last one
	at       time.Time            // what its clock shows; zero: the time
	fine     *tokenRequest        // the last one that was granted
	expiry   map[string]time.Time // of the tokens that were not revoked
	signings []string             // the assertions that it got
	rejected int                  // requests to the API
	accepted []acceptedRequest
}

type acceptedRequest struct {
	token, uri, body string
}

// tokenRequest is one that can be sent again.
type tokenRequest struct {
	header http.Header
	body   string
	at     time.Time
}

func startProvider(t testing.TB, p *providerSpec) *providerStandIn {
	s := &providerStandIn{
		providerSpec: p, id: providerID, secret: providerSecret, scope: "*",
		life:   p.lifetime,
		expiry: make(map[string]time.Time),
	}
	start := func(serve http.HandlerFunc) *httptest.Server {
		server := httptest.NewUnstartedServer(serve)
		server.EnableHTTP2 = true
		server.StartTLS()
		t.Cleanup(server.Close)
		return server
	}
	s.endpoint, s.api = start(s.serveToken), start(s.serveAPI)
	return s
}

// start runs the provider's example against the stand-in, with replacements in it.
func (s *providerStandIn) start(t *testing.T, replace ...string) *gatewaytest.Gateway {
	t.Helper()
	return startExample(t, s.name, s.run(s.secret, replace...))
}

func (s *providerStandIn) run(secret string, replace ...string) exampleRun {
	return exampleRun{
		env: map[string]string{
			s.variables + "TOKEN_ENDPOINT": s.endpoint.URL + s.path,
			s.variables + "API":            s.api.URL,
			s.variables + s.idName:         s.id,
			s.variables + s.secretName():   secret,
		},
		replace: replace,
		trust:   s.api.Certificate(),
	}
}

func (s *providerStandIn) secretName() string { return strings.Replace(s.idName, "ID", "SECRET", 1) }

func (s *providerStandIn) sentBasic(r *http.Request, credential string) bool {
	return slices.Equal(r.Header["Authorization"], []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(credential))})
}

func (s *providerStandIn) serveToken(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.asked++
	n := s.asked
	if assertion := formOf(string(body)).Get(s.signed); s.signed != "" && assertion != "" {
		s.signings = append(s.signings, assertion)
	}
	s.mu.Unlock()
	if s.instead != nil && s.instead(w, n) {
		return
	}
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat))
	if refused := s.vetRequest(r, string(body)); refused != nil {
		s.mu.Lock()
		s.refusal = refused
		s.mu.Unlock()
		w.WriteHeader(refused.status)
		_, _ = io.WriteString(w, refused.body)
		return
	}
	token, expiry := fmt.Sprintf("%s-token-%d", s.name, n), time.Now().Add(s.life)
	if s.providerSpec == myParcel {
		token = providerJWT(expiry, n)
	}
	s.mu.Lock()
	s.fine = &tokenRequest{r.Header.Clone(), string(body), time.Now()}
	s.expiry[token] = expiry
	s.mu.Unlock()
	answer := s.granted(token)
	if s.change != nil {
		s.change(answer)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// vetRequest refuses what none of the providers documents, then what this one does
// not.
func (s *providerStandIn) vetRequest(r *http.Request, body string) *endpointRefusal {
	unknown := s.unknown
	if unknown == nil {
		unknown = invalidRequest
	}
	switch {
	case r.Method != http.MethodPost:
		return unknown(http.StatusMethodNotAllowed)
	case r.URL.RequestURI() != s.path || "https://"+r.Host != s.endpoint.URL:
		return unknown(http.StatusNotFound)
	case !slices.Equal(r.Header["Content-Type"], []string{cmp.Or(s.mediaType, formType)}):
		return unknown(http.StatusUnsupportedMediaType)
	case !slices.Equal(r.Header["Accept"], []string{"application/json"}):
		return unknown(http.StatusNotAcceptable)
	case r.Header["Cookie"] != nil || r.Header["X-Forwarded-For"] != nil:
		return unknown(http.StatusBadRequest)
	}
	if refused := s.vet(s, r, body); refused != &unlikeDocumented {
		return refused
	}
	return unknown(http.StatusBadRequest)
}

// unlikeDocumented is what vet returns for parameters that the provider's documentation does not have.
var unlikeDocumented endpointRefusal

const (
	formType = "application/x-www-form-urlencoded"
	jsonType = "application/json"
)

func providerJWT(exp time.Time, n int) string {
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	return part(`{"alg":"RS256","typ":"JWT"}`) + "." + part(fmt.Sprintf(`{"jti":"%d","exp":%d}`, n, exp.Unix())) + "." + part("signature")
}

func (s *providerStandIn) serveAPI(w http.ResponseWriter, r *http.Request) {
	token := ""
	if lines := r.Header["Authorization"]; len(lines) == 1 {
		token, _ = strings.CutPrefix(lines[0], "Bearer ")
	}
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	valid := time.Now().Before(s.expiry[token].Add(s.patience))
	if !valid {
		s.rejected++
	}
	s.mu.Unlock()
	apiType := cmp.Or(s.apiType, jsonType)
	w.Header().Set("Content-Type", apiType)
	switch {
	case "https://"+r.Host != s.api.URL:
		w.WriteHeader(http.StatusMisdirectedRequest)
	case !valid:
		if s.onReject != nil {
			s.onReject()
		}
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"errors":[{"status":"401","title":"Unauthorized"}]}`)
	case err != nil || r.Method != http.MethodGet && r.Header.Get("Content-Type") != apiType:
		w.WriteHeader(http.StatusUnsupportedMediaType)
	default:
		s.mu.Lock()
		s.accepted = append(s.accepted, acceptedRequest{token, r.URL.RequestURI(), string(body)})
		s.mu.Unlock()
		fmt.Fprintf(w, `{"data":{"path":%q}}`, r.URL.RequestURI())
	}
}

func (s *providerStandIn) tokenRequests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// judged are the last refusal, and the last token request that was granted; nil if there was none.
func (s *providerStandIn) judged() (*endpointRefusal, *tokenRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refusal, s.fine
}

func (s *providerStandIn) apiRequests() (accepted []acceptedRequest, rejected int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.accepted), s.rejected
}

// revoke makes the API reject the tokens that were granted so far.
func (s *providerStandIn) revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.expiry)
}

// hasNoCredentials checks what was logged, at the level of debugging.
func (s *providerStandIn) hasNoCredentials(t testing.TB, logs string, secrets ...string) {
	t.Helper()
	var hidden []string
	for _, secret := range append(secrets, s.secret) {
		if secret == "" {
			continue // the client has none
		}
		quoted, _ := json.Marshal(secret)
		hidden = append(hidden, secret, url.QueryEscape(secret), strings.Trim(string(quoted), `"`),
			base64.StdEncoding.EncodeToString([]byte(s.id+":"+secret)),
			base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(s.id)+":"+url.QueryEscape(secret))))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, assertion := range s.signings {
		hidden = append(hidden, assertion[strings.LastIndex(assertion, ".")+1:])
	}
	for _, text := range slices.AppendSeq(hidden, maps.Keys(s.expiry)) {
		if strings.Contains(logs, text) {
			t.Errorf("the log contains %q", text)
		}
	}
}

// formOf are the parameters of a token request, or nil.
func formOf(body string) url.Values {
	form, err := url.ParseQuery(body)
	if err != nil {
		return nil
	}
	return form
}

// has reports whether the request has these parameters, as pairs, and no others.
func has(form url.Values, pairs ...string) bool {
	want := make(url.Values)
	for i := 0; i < len(pairs); i += 2 {
		want.Add(pairs[i], pairs[i+1])
	}
	return reflect.DeepEqual(form, want)
}

// clientCredentials is what all of these call the grant.
const clientCredentials = "client_credentials"

// sentPlain reports whether the credential is in the header and nowhere else. The ids and secrets of the pages have no
// characters that form encoding changes.
func (s *providerStandIn) sentPlain(r *http.Request, form url.Values) bool {
	return s.sentBasic(r, s.id+":"+s.secret) && !form.Has("client_id") && !form.Has("client_secret")
}

// sentPost reports whether the credential is in the body and nowhere else.
func (s *providerStandIn) sentPost(r *http.Request, form url.Values) bool {
	return r.Header["Authorization"] == nil && slices.Equal(form["client_id"], []string{s.id}) && slices.Equal(form["client_secret"], []string{s.secret})
}

// refuse is a refusal with that text in its description.
func refuse(status int, code, description string) *endpointRefusal {
	return &endpointRefusal{status, fmt.Sprintf(`{"error":%q,"error_description":%q}`, code, description)}
}
