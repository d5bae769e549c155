package endpoint

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// wireRequest is a token request as it leaves the gateway.
type wireRequest struct {
	method, url string
	header      http.Header
	body        string
}

// onWire is what one fetch sends to an endpoint that answers so.
func onWire(t *testing.T, request Request, answer servertest.Answer) []wireRequest {
	t.Helper()
	if err := request.Check(); err != nil {
		t.Fatal(err)
	}
	var sent []wireRequest
	client := &Client{Timeout: time.Minute, Transport: servertest.Func(func(req *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(req.Body)
		if err != nil || int64(len(body)) != req.ContentLength {
			t.Errorf("%d bytes and %v; announced were %d", len(body), err, req.ContentLength)
		}
		sent = append(sent, wireRequest{req.Method, req.URL.String(), req.Header.Clone(), string(body)})
		return answer.RoundTrip(req)
	})}
	_, _ = client.Fetch(t.Context(), func(context.Context) (Request, error) { return request, nil }, nil)
	return sent
}

func TestCredentialIsSentAsItsMethodSays(t *testing.T) {
	const id, secret = "app 1é", `a:b+c%d&e=f/g é\"z `
	encode := func(text string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(text)) }
	const formID, formSecret = "app+1%C3%A9", "a%3Ab%2Bc%25d%26e%3Df%2Fg+%C3%A9%5C%22z+"
	asForm := encode(formID + ":" + formSecret)
	for _, test := range []struct {
		method, format      string
		authorization, body string
		json                map[string]any
	}{
		{method: AuthSecretBasic, authorization: asForm, body: "grant_type=client_credentials"},
		{method: AuthSecretBasicRaw, authorization: encode(id + ":" + secret), body: "grant_type=client_credentials"},
		{method: AuthSecretPost, body: "client_id=" + formID + "&client_secret=" + formSecret + "&grant_type=client_credentials"},
		{method: AuthTLS, body: "client_id=" + formID + "&grant_type=client_credentials"},
		{method: AuthNone, body: "client_id=" + formID + "&grant_type=client_credentials"},
		{method: AuthSecretBasic, format: FormatJSON, authorization: asForm, json: map[string]any{"grant_type": "client_credentials"}},
		{method: AuthSecretBasicRaw, format: FormatJSON, authorization: encode(id + ":" + secret), json: map[string]any{"grant_type": "client_credentials"}},
		{method: AuthSecretPost, format: FormatJSON, json: map[string]any{"grant_type": "client_credentials", "client_id": id, "client_secret": secret}},
		{method: AuthTLS, format: FormatJSON, json: map[string]any{"grant_type": "client_credentials", "client_id": id}},
		{method: AuthNone, format: FormatJSON, json: map[string]any{"grant_type": "client_credentials", "client_id": id}},
	} {
		t.Run(test.method+test.format, func(t *testing.T) {
			request := Request{Endpoint: "https://auth.example.com/token?tenant=1", ClientID: id, ClientSecret: secret,
				AuthMethod: test.method, Format: test.format}
			if MethodNamed(test.method).Credential != CredentialSecret {
				request.ClientSecret, request.HasCertificate = "", true
			}
			sent := onWire(t, request, servertest.AnyToken)
			if len(sent) != 1 {
				t.Fatalf("%d requests, want 1", len(sent))
			}
			got := sent[0]
			if got.method != http.MethodPost || got.url != request.Endpoint {
				t.Errorf("sent %s %s", got.method, got.url)
			}
			if authorization := strings.Join(got.header["Authorization"], "|"); authorization != test.authorization {
				t.Errorf("Authorization %q, want %q", authorization, test.authorization)
			}
			wantType := "application/x-www-form-urlencoded"
			if test.format == FormatJSON {
				wantType = "application/json"
				var members map[string]any
				if err := json.Unmarshal([]byte(got.body), &members); err != nil || !maps.Equal(members, test.json) {
					t.Errorf("body %s, want %v", got.body, test.json)
				}
			} else if got.body != test.body {
				t.Errorf("body %q, want %q", got.body, test.body)
			}
			if types := got.header["Content-Type"]; !slices.Equal(types, []string{wantType}) {
				t.Errorf("content type %q, want %q", types, wantType)
			}
		})
	}
}

func TestParametersAreSent(t *testing.T) {
	request := Request{
		Endpoint: "https://auth.example.com/token", ClientID: "app", ClientSecret: "s3cret", AuthMethod: AuthSecretBasic,
		Scopes: []string{"account-all:read", "data:manage"}, Audience: []string{"https://a", "b c"}, Resource: []string{"https://r/1", "urn:r:2"},
		Params: map[string][]string{"grant_type": {"app_credentials"}, "tenant": {"1", "2"}, "empty": {""}},
	}
	want := url.Values{
		"grant_type": {"app_credentials"}, "scope": {"account-all:read data:manage"}, "audience": {"https://a", "b c"},
		"resource": {"https://r/1", "urn:r:2"}, "tenant": {"1", "2"}, "empty": {""},
	}
	got, err := url.ParseQuery(onWire(t, request, servertest.AnyToken)[0].body)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("form %v, %v; want %v", got, err, want)
	}

	request.Format = FormatJSON
	const wantJSON = `{"audience":["https://a","b c"],"empty":"","grant_type":"app_credentials",` +
		`"resource":["https://r/1","urn:r:2"],"scope":"account-all:read data:manage","tenant":["1","2"]}`
	if got := onWire(t, request, servertest.AnyToken)[0].body; got != wantJSON {
		t.Errorf("JSON %s, want %s", got, wantJSON)
	}
}

func TestHeadersAreSent(t *testing.T) {
	request := Request{Endpoint: "https://auth.example.com/token", ClientID: "app", ClientSecret: "s3cret", AuthMethod: AuthSecretPost}
	for _, test := range []struct {
		name    string
		headers map[string][]string
		want    map[string][]string
	}{
		{"the gateway's own", nil, map[string][]string{"Accept": {"application/json"}, "User-Agent": {"caddy-oauth-cc"}, "Authorization": nil}},
		{"others", map[string][]string{"x-api-key": {"k"}, "Authorization": {"Api-Key 1"}}, map[string][]string{"X-Api-Key": {"k"}, "Authorization": {"Api-Key 1"}}},
		{"several values", map[string][]string{"X-A": {"1", "2"}}, map[string][]string{"X-A": {"1", "2"}}},
		{"instead", map[string][]string{"accept": {"*/*"}, "USER-AGENT": {"mine"}}, map[string][]string{"Accept": {"*/*"}, "User-Agent": {"mine"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			request.Headers = test.headers
			got := onWire(t, request, servertest.AnyToken)[0].header
			for name, want := range test.want {
				if !slices.Equal(got[name], want) {
					t.Errorf("%s: got %q, want %q", name, got[name], want)
				}
			}
		})
	}
}

// requestOf is a token request of a client that authenticates itself so.
func requestOf(t testing.TB, method string) Request {
	t.Helper()
	request := cannedRequest
	switch method {
	case AuthSecretJWT:
		return secretRequest(t, AssertionOptions{})
	case AuthPrivateKeyJWT:
		return keyRequest(t, "P-256", AssertionOptions{})
	case AuthTLS:
		request.HasCertificate, request.ClientSecret = true, ""
	case AuthNone:
		request.ClientSecret = ""
	}
	request.AuthMethod = method
	return request
}

func TestErrorIsNotAnsweredByAnotherGuess(t *testing.T) {
	for _, method := range MethodNames() {
		request := requestOf(t, method)
		for _, status := range []int{200, 400, 401, 403, 415} {
			if sent := onWire(t, request, servertest.Answer{Status: status, Body: `{"error":"invalid_client"}`}); len(sent) != 1 {
				t.Errorf("%s, %d: %d requests, want 1", method, status, len(sent))
			}
		}
	}
}

func TestHintNamesTheOtherBasic(t *testing.T) {
	for _, test := range []struct{ method, secret, want string }{
		{AuthSecretBasic, "a+b", AuthSecretBasicRaw},
		{AuthSecretBasic, "a b", AuthSecretBasicRaw},
		{AuthSecretBasicRaw, "a/b", AuthSecretBasic},
		{AuthSecretBasicRaw, "aäb", AuthSecretBasic},
		{AuthSecretBasic, "aZ09-_.~", ""},
		{AuthSecretPost, "a+b", ""},
	} {
		request := cannedRequest
		request.AuthMethod, request.ClientSecret = test.method, test.secret
		_, failure := askOnce(t, servertest.Answer{Status: 401, Body: `{"error":"invalid_client"}`}, request)
		want := "the id or the secret may be wrong, or the endpoint may want them sent in another way; --try-methods finds out which"
		if test.want != "" {
			want = "the credential has reserved characters, which servers decode differently; try auth_method " + test.want + ", or find out with --try-methods"
		}
		if failure.Hint != want {
			t.Errorf("%s with %q: hint %q, want one for %q", test.method, test.secret, failure.Hint, test.want)
		}
		if _, failure = askOnce(t, servertest.Answer{Status: 400, Body: `{"error":"invalid_scope"}`}, request); strings.Contains(failure.Hint, "auth_method") {
			t.Errorf("hint %q for a scope", failure.Hint)
		}
		// Some servers call a credential that they can't decode an invalid request.
		if _, failure = askOnce(t, servertest.Answer{Status: 400, Body: `{"error":"invalid_request"}`}, request); strings.Contains(failure.Hint, "auth_method") != (test.want != "") {
			t.Errorf("%s with %q: hint %q for an invalid request", test.method, test.secret, failure.Hint)
		}
	}
}

// scriptedEndpoint does one thing after the other, and the last one again and again.
// It notes when it was asked and when that ended.
type scriptedEndpoint struct {
	steps         []http.RoundTripper
	asked, gaveUp []time.Time
}

func (s *scriptedEndpoint) RoundTrip(req *http.Request) (*http.Response, error) {
	step := s.steps[min(len(s.asked), len(s.steps)-1)]
	s.asked = append(s.asked, time.Now())
	res, err := step.RoundTrip(req)
	s.gaveUp = append(s.gaveUp, time.Now())
	return res, err
}

func TestOnlyWhatMayPassIsTriedAgain(t *testing.T) {
	for _, test := range []struct {
		name  string
		steps []http.RoundTripper
		want  int    // requests
		code  string // empty: a token
	}{
		{"a token", []http.RoundTripper{servertest.AnyToken}, 1, ""},
		{"one reset", []http.RoundTripper{servertest.Dying, servertest.AnyToken}, 2, ""},
		{"two resets", []http.RoundTripper{servertest.Dying, servertest.Dying, servertest.AnyToken}, 3, ""},
		{"three resets", []http.RoundTripper{servertest.Dying, servertest.Dying, servertest.Dying, servertest.AnyToken}, 3, "unreachable"},
		{"one hang", []http.RoundTripper{servertest.Hanging, servertest.AnyToken}, 2, ""},
		{"408", []http.RoundTripper{servertest.Status(408), servertest.AnyToken}, 2, ""},
		{"429", []http.RoundTripper{servertest.Status(429), servertest.AnyToken}, 2, ""},
		{"500", []http.RoundTripper{servertest.Status(500), servertest.AnyToken}, 2, ""},
		{"503", []http.RoundTripper{servertest.Status(503), servertest.Status(502), servertest.AnyToken}, 3, ""},
		{"503 for ever", []http.RoundTripper{servertest.Status(503)}, 3, "server_error"},
		{"server_error in a 200", []http.RoundTripper{servertest.Answer{Body: `{"error":"server_error"}`}}, 3, "server_error"},
		{"different failures", []http.RoundTripper{servertest.Status(500), servertest.Dying, servertest.Status(400)}, 3, "refused"},
		{"a refusal after a failure", []http.RoundTripper{servertest.Status(503), servertest.Status(400), servertest.AnyToken}, 2, "refused"},
		{"400", []http.RoundTripper{servertest.Status(400), servertest.AnyToken}, 1, "refused"},
		{"401", []http.RoundTripper{servertest.Status(401), servertest.AnyToken}, 1, "refused"},
		{"403", []http.RoundTripper{servertest.Status(403), servertest.AnyToken}, 1, "refused"},
		{"404", []http.RoundTripper{servertest.Status(404), servertest.AnyToken}, 1, "invalid_response"},
		{"407", []http.RoundTripper{servertest.Status(407), servertest.AnyToken}, 1, "invalid_response"},
		{"a redirect", []http.RoundTripper{servertest.Status(307, "Location", "/"), servertest.AnyToken}, 1, "invalid_response"},
		{"an answer that is none", []http.RoundTripper{servertest.Answer{Body: "<html>"}, servertest.AnyToken}, 1, "invalid_response"},
		{"Retry-After: 1", []http.RoundTripper{servertest.Status(503, "Retry-After", "1"), servertest.AnyToken}, 2, ""},
		{"Retry-After: 2", []http.RoundTripper{servertest.Status(503, "Retry-After", "2"), servertest.AnyToken}, 1, "server_error"},
		{"Retry-After: 0", []http.RoundTripper{servertest.Status(429, "Retry-After", "0"), servertest.AnyToken}, 2, ""},
		{"Retry-After as a date", []http.RoundTripper{servertest.Status(429, "Retry-After", "Sat, 01 Jan 2000 01:00:00 GMT"), servertest.AnyToken}, 1, "server_error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				endpoint := &scriptedEndpoint{steps: test.steps}
				client := &Client{Transport: endpoint, Timeout: 10 * time.Second}
				start := time.Now()
				_, failure := client.Fetch(t.Context(), func(context.Context) (Request, error) { return cannedRequest, nil }, nil)
				code := ""
				if failure != nil {
					code = failure.ErrorCode()
				}
				if len(endpoint.asked) != test.want || code != test.code {
					t.Errorf("%d requests, %q; want %d, %q", len(endpoint.asked), code, test.want, test.code)
				}
				if taken := time.Since(start); taken > client.Timeout {
					t.Errorf("took %v", taken)
				}
				for i, asked := range endpoint.asked {
					if took := endpoint.gaveUp[i].Sub(asked); took > client.Timeout/2 {
						t.Errorf("try %d took %v", i, took)
					}
					if i == 0 {
						continue
					}
					if wait := asked.Sub(endpoint.gaveUp[i-1]); wait < minRetryWait || wait > maxRetryWait {
						t.Errorf("waited %v before try %d", wait, i)
					}
				}
			})
		})
	}
}

func TestRetriesKeepToTheTimeout(t *testing.T) {
	for _, test := range []struct {
		name    string
		timeout time.Duration
		step    http.RoundTripper
		want    int // requests
		code    string
	}{
		{"a hang", 10 * time.Second, servertest.Hanging, 2, "timeout"},
		{"a hang, too short for a second try", 300 * time.Millisecond, servertest.Hanging, 1, "timeout"},
		{"a reset, too short for a second try", 200 * time.Millisecond, servertest.Dying, 1, "unreachable"},
		{"Retry-After, too short for a second try", 900 * time.Millisecond, servertest.Status(503, "Retry-After", "1"), 1, "server_error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				endpoint := &scriptedEndpoint{steps: []http.RoundTripper{test.step}}
				client := &Client{Transport: endpoint, Timeout: test.timeout}
				start := time.Now()
				_, failure := client.Fetch(t.Context(), func(context.Context) (Request, error) { return cannedRequest, nil }, nil)
				if failure == nil || failure.ErrorCode() != test.code || len(endpoint.asked) != test.want {
					t.Errorf("%d requests, %v; want %d, %s", len(endpoint.asked), failure, test.want, test.code)
				}
				if taken := time.Since(start); taken > test.timeout {
					t.Errorf("took %v of %v", taken, test.timeout)
				}
				if took := endpoint.gaveUp[0].Sub(endpoint.asked[0]); took > test.timeout/2 {
					t.Errorf("the first try took %v", took)
				}
			})
		})
	}
}

func TestCancellationEndsAFetch(t *testing.T) {
	for name, step := range map[string]http.RoundTripper{"during a try": servertest.Hanging, "between tries": servertest.Dying} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(100*time.Millisecond, cancel)
				client := &Client{Transport: &scriptedEndpoint{steps: []http.RoundTripper{step}}, Timeout: 10 * time.Second}
				start := time.Now()
				_, failure := client.Fetch(ctx, func(context.Context) (Request, error) { return cannedRequest, nil }, nil)
				if taken := time.Since(start); failure == nil || taken != 100*time.Millisecond {
					t.Errorf("%v after %v", failure, taken)
				}
			})
		})
	}
}

func TestRefusedClientIsTriedOnceMoreWithAChangedCredential(t *testing.T) {
	refused := func(status int, code string) servertest.Answer {
		return servertest.Answer{Status: status, Body: `{"error":"` + code + `"}`}
	}
	for _, test := range []struct {
		name   string
		answer servertest.Answer
		again  bool
	}{
		{"401 invalid_client", refused(401, "invalid_client"), true},
		{"400 invalid_client", refused(400, "invalid_client"), true},
		{"200 invalid_client", refused(200, "invalid_client"), true},
		{"bare 401", servertest.Answer{Status: 401}, true},
		{"bare 403", servertest.Answer{Status: 403}, true},
		{"bare 400", servertest.Answer{Status: 400}, false},
		{"401 invalid_scope", refused(401, "invalid_scope"), false},
		{"400 unauthorized_client", refused(400, "unauthorized_client"), false},
	} {
		for _, resolved := range []struct {
			name    string
			secrets []string // one for each time; empty: an error
			sent    int      // requests, if the client is tried again
		}{
			{"changed", []string{"old", "new", "newer"}, 2},
			{"the same", []string{"old", "old", "new"}, 1},
			{"lost", []string{"old", "", "new"}, 1},
		} {
			t.Run(test.name+", "+resolved.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					endpoint := &scriptedEndpoint{steps: []http.RoundTripper{test.answer}}
					client := &Client{Transport: endpoint, Timeout: 10 * time.Second}
					calls := 0
					_, failure := client.Fetch(t.Context(), func(context.Context) (Request, error) {
						request := cannedRequest
						request.ClientSecret = resolved.secrets[calls]
						if calls++; request.ClientSecret == "" {
							return request, errors.New("no such file")
						}
						return request, nil
					}, nil)
					wantSent, wantCalls := 1, 1
					if test.again {
						wantSent, wantCalls = resolved.sent, 2
					}
					if len(endpoint.asked) != wantSent || calls != wantCalls {
						t.Errorf("%d requests, resolved %d times; want %d and %d", len(endpoint.asked), calls, wantSent, wantCalls)
					}
					if failure == nil || failure.Status != test.answer.Status {
						t.Errorf("got %v, want what the endpoint said", failure)
					}
					if last := endpoint.asked[len(endpoint.asked)-1]; !last.Equal(endpoint.asked[0]) {
						t.Errorf("waited %v", last.Sub(endpoint.asked[0]))
					}
				})
			})
		}
	}
}

func TestCredentialThatCannotBeResolvedIsNotSent(t *testing.T) {
	endpoint := &scriptedEndpoint{steps: []http.RoundTripper{servertest.AnyToken}}
	client := &Client{Transport: endpoint, Timeout: time.Minute}
	_, failure := client.Fetch(t.Context(), func(context.Context) (Request, error) {
		return Request{}, errors.New("client_secret: no such file")
	}, nil)
	if failure == nil || failure.Class != ClassRefused || !failure.Unsent || failure.Detail != "client_secret: no such file" {
		t.Errorf("got %v", failure)
	}
	if len(endpoint.asked) != 0 {
		t.Error("a token request was sent")
	}
}
