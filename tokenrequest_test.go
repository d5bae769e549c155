package oauthcc

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// endpointFunc is a token endpoint without a network.
type endpointFunc func(*http.Request) (*http.Response, error)

func (f endpointFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// wireRequest is a token request as it leaves the gateway.
type wireRequest struct {
	method, url string
	header      http.Header
	body        string
}

// onWire is what one fetch sends to an endpoint that answers so.
func onWire(t *testing.T, request grantRequest, answer cannedAnswer) []wireRequest {
	t.Helper()
	if err := request.check(); err != nil {
		t.Fatal(err)
	}
	var sent []wireRequest
	client := &tokenClient{timeout: time.Minute, transport: endpointFunc(func(req *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(req.Body)
		if err != nil || int64(len(body)) != req.ContentLength {
			t.Errorf("%d bytes and %v; announced were %d", len(body), err, req.ContentLength)
		}
		sent = append(sent, wireRequest{req.Method, req.URL.String(), req.Header.Clone(), string(body)})
		return answer.RoundTrip(req)
	})}
	_, _ = client.fetch(t.Context(), func(context.Context) (grantRequest, error) { return request, nil }, nil)
	return sent
}

// anyToken is an answer that ends a fetch at once.
var anyToken = cannedAnswer{body: `{"access_token":"tok-1","refresh_token":"never-used"}`}

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
		{method: authSecretBasic, authorization: asForm, body: "grant_type=client_credentials"},
		{method: authSecretBasicRaw, authorization: encode(id + ":" + secret), body: "grant_type=client_credentials"},
		{method: authSecretPost, body: "client_id=" + formID + "&client_secret=" + formSecret + "&grant_type=client_credentials"},
		{method: authTLS, body: "client_id=" + formID + "&grant_type=client_credentials"},
		{method: authNone, body: "client_id=" + formID + "&grant_type=client_credentials"},
		{method: authSecretBasic, format: formatJSON, authorization: asForm, json: map[string]any{"grant_type": "client_credentials"}},
		{method: authSecretBasicRaw, format: formatJSON, authorization: encode(id + ":" + secret), json: map[string]any{"grant_type": "client_credentials"}},
		{method: authSecretPost, format: formatJSON, json: map[string]any{"grant_type": "client_credentials", "client_id": id, "client_secret": secret}},
		{method: authTLS, format: formatJSON, json: map[string]any{"grant_type": "client_credentials", "client_id": id}},
		{method: authNone, format: formatJSON, json: map[string]any{"grant_type": "client_credentials", "client_id": id}},
	} {
		t.Run(test.method+test.format, func(t *testing.T) {
			request := grantRequest{endpoint: "https://auth.example.com/token?tenant=1", clientID: id, clientSecret: secret,
				authMethod: test.method, format: test.format}
			if !usesSecret(test.method) {
				request.clientSecret, request.certificate = "", true
			}
			sent := onWire(t, request, anyToken)
			if len(sent) != 1 {
				t.Fatalf("%d requests, want 1", len(sent))
			}
			got := sent[0]
			if got.method != http.MethodPost || got.url != request.endpoint {
				t.Errorf("sent %s %s", got.method, got.url)
			}
			if authorization := strings.Join(got.header["Authorization"], "|"); authorization != test.authorization {
				t.Errorf("Authorization %q, want %q", authorization, test.authorization)
			}
			wantType := "application/x-www-form-urlencoded"
			if test.format == formatJSON {
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
	request := grantRequest{
		endpoint: "https://auth.example.com/token", clientID: "app", clientSecret: "s3cret", authMethod: authSecretBasic,
		scopes: []string{"account-all:read", "data:manage"}, audience: []string{"https://a", "b c"}, resource: []string{"https://r/1", "urn:r:2"},
		params: map[string][]string{"grant_type": {"app_credentials"}, "tenant": {"1", "2"}, "empty": {""}},
	}
	want := url.Values{
		"grant_type": {"app_credentials"}, "scope": {"account-all:read data:manage"}, "audience": {"https://a", "b c"},
		"resource": {"https://r/1", "urn:r:2"}, "tenant": {"1", "2"}, "empty": {""},
	}
	got, err := url.ParseQuery(onWire(t, request, anyToken)[0].body)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("form %v, %v; want %v", got, err, want)
	}

	request.format = formatJSON
	const wantJSON = `{"audience":["https://a","b c"],"empty":"","grant_type":"app_credentials",` +
		`"resource":["https://r/1","urn:r:2"],"scope":"account-all:read data:manage","tenant":["1","2"]}`
	if got := onWire(t, request, anyToken)[0].body; got != wantJSON {
		t.Errorf("JSON %s, want %s", got, wantJSON)
	}
}

func TestHeadersAreSent(t *testing.T) {
	request := grantRequest{endpoint: "https://auth.example.com/token", clientID: "app", clientSecret: "s3cret", authMethod: authSecretPost}
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
			request.headers = test.headers
			got := onWire(t, request, anyToken)[0].header
			for name, want := range test.want {
				if !slices.Equal(got[name], want) {
					t.Errorf("%s: got %q, want %q", name, got[name], want)
				}
			}
		})
	}
}

// requestOf is a token request of a client that authenticates itself so.
func requestOf(t testing.TB, method string) grantRequest {
	t.Helper()
	request := cannedRequest
	switch method {
	case authSecretJWT:
		return secretRequest(t, SigningKey{})
	case authPrivateKeyJWT:
		return keyRequest(t, "P-256", SigningKey{})
	case authTLS:
		request.certificate, request.clientSecret = true, ""
	case authNone:
		request.clientSecret = ""
	}
	request.authMethod = method
	return request
}

func TestErrorIsNotAnsweredByAnotherGuess(t *testing.T) {
	for _, method := range authMethods {
		request := requestOf(t, method)
		for _, status := range []int{200, 400, 401, 403, 415} {
			if sent := onWire(t, request, cannedAnswer{status: status, body: `{"error":"invalid_client"}`}); len(sent) != 1 {
				t.Errorf("%s, %d: %d requests, want 1", method, status, len(sent))
			}
		}
	}
}

func TestHintNamesTheOtherBasic(t *testing.T) {
	for _, test := range []struct{ method, secret, want string }{
		{authSecretBasic, "a+b", authSecretBasicRaw},
		{authSecretBasic, "a b", authSecretBasicRaw},
		{authSecretBasicRaw, "a/b", authSecretBasic},
		{authSecretBasicRaw, "aäb", authSecretBasic},
		{authSecretBasic, "aZ09-_.~", ""},
		{authSecretPost, "a+b", ""},
	} {
		request := cannedRequest
		request.authMethod, request.clientSecret = test.method, test.secret
		_, failure := askOnce(t, cannedAnswer{status: 401, body: `{"error":"invalid_client"}`}, request)
		if !strings.HasSuffix(failure.hint, test.want) || (failure.hint == "") != (test.want == "") {
			t.Errorf("%s with %q: hint %q, want one for %q", test.method, test.secret, failure.hint, test.want)
		}
		if _, failure = askOnce(t, cannedAnswer{status: 400, body: `{"error":"invalid_scope"}`}, request); strings.Contains(failure.hint, "auth_method") {
			t.Errorf("hint %q for a scope", failure.hint)
		}
		// Some servers call a credential that they can't decode an invalid request.
		if _, failure = askOnce(t, cannedAnswer{status: 400, body: `{"error":"invalid_request"}`}, request); strings.Contains(failure.hint, "auth_method") != (test.want != "") {
			t.Errorf("%s with %q: hint %q for an invalid request", test.method, test.secret, failure.hint)
		}
	}
}

func TestRedirectIsNeverFollowed(t *testing.T) {
	thief := startTokenServer(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, method := range []string{authSecretBasic, authSecretPost} {
			endpoint := startTokenServer(t)
			endpoint.setAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
				http.Redirect(w, r, thief.URL+"/elsewhere?code=query-canary", status)
			})
			request := cannedRequest
			request.endpoint, request.authMethod = endpoint.URL+"/token", method
			_, failure := askOnce(t, caddyTransport(t, "{}"), request)
			if failure == nil || failure.class != classRefused || failure.status != status || failure.said != "redirects to "+thief.URL+"/elsewhere" {
				t.Errorf("%d: got %+v", status, failure)
			}
			if n := endpoint.count(); n != 1 {
				t.Errorf("%d: %d requests, want 1", status, n)
			}
		}
	}
	if n := thief.count(); n != 0 {
		t.Errorf("the credential went to another host %d times", n)
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

var (
	hanging = endpointFunc(func(req *http.Request) (*http.Response, error) {
		<-req.Context().Done()
		return nil, req.Context().Err()
	})
	dying = endpointFunc(func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")}
	})
)

// cannedStatus is an endpoint that answers so, with headers given as name, value, …
func cannedStatus(code int, header ...string) cannedAnswer {
	answer := cannedAnswer{status: code, header: withType("application/json"), body: `{}`}
	for pair := range slices.Chunk(header, 2) {
		answer.header.Set(pair[0], pair[1])
	}
	return answer
}

func TestOnlyWhatMayPassIsTriedAgain(t *testing.T) {
	for _, test := range []struct {
		name  string
		steps []http.RoundTripper
		want  int    // requests
		code  string // empty: a token
	}{
		{"a token", []http.RoundTripper{anyToken}, 1, ""},
		{"one reset", []http.RoundTripper{dying, anyToken}, 2, ""},
		{"two resets", []http.RoundTripper{dying, dying, anyToken}, 3, ""},
		{"three resets", []http.RoundTripper{dying, dying, dying, anyToken}, 3, "unreachable"},
		{"one hang", []http.RoundTripper{hanging, anyToken}, 2, ""},
		{"408", []http.RoundTripper{cannedStatus(408), anyToken}, 2, ""},
		{"429", []http.RoundTripper{cannedStatus(429), anyToken}, 2, ""},
		{"500", []http.RoundTripper{cannedStatus(500), anyToken}, 2, ""},
		{"503", []http.RoundTripper{cannedStatus(503), cannedStatus(502), anyToken}, 3, ""},
		{"503 for ever", []http.RoundTripper{cannedStatus(503)}, 3, "server_error"},
		{"server_error in a 200", []http.RoundTripper{cannedAnswer{body: `{"error":"server_error"}`}}, 3, "server_error"},
		{"different failures", []http.RoundTripper{cannedStatus(500), dying, cannedStatus(400)}, 3, "refused"},
		{"a refusal after a failure", []http.RoundTripper{cannedStatus(503), cannedStatus(400), anyToken}, 2, "refused"},
		{"400", []http.RoundTripper{cannedStatus(400), anyToken}, 1, "refused"},
		{"401", []http.RoundTripper{cannedStatus(401), anyToken}, 1, "refused"},
		{"403", []http.RoundTripper{cannedStatus(403), anyToken}, 1, "refused"},
		{"404", []http.RoundTripper{cannedStatus(404), anyToken}, 1, "refused"},
		{"a redirect", []http.RoundTripper{cannedStatus(307, "Location", "/"), anyToken}, 1, "refused"},
		{"an answer that is none", []http.RoundTripper{cannedAnswer{body: "<html>"}, anyToken}, 1, "invalid_response"},
		{"Retry-After: 1", []http.RoundTripper{cannedStatus(503, "Retry-After", "1"), anyToken}, 2, ""},
		{"Retry-After: 2", []http.RoundTripper{cannedStatus(503, "Retry-After", "2"), anyToken}, 1, "server_error"},
		{"Retry-After: 0", []http.RoundTripper{cannedStatus(429, "Retry-After", "0"), anyToken}, 2, ""},
		{"Retry-After as a date", []http.RoundTripper{cannedStatus(429, "Retry-After", "Sat, 01 Jan 2000 01:00:00 GMT"), anyToken}, 1, "server_error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				endpoint := &scriptedEndpoint{steps: test.steps}
				client := &tokenClient{transport: endpoint, timeout: 10 * time.Second}
				start := time.Now()
				_, failure := client.fetch(t.Context(), func(context.Context) (grantRequest, error) { return cannedRequest, nil }, nil)
				code := ""
				if failure != nil {
					code = failure.errorCode()
				}
				if len(endpoint.asked) != test.want || code != test.code {
					t.Errorf("%d requests, %q; want %d, %q", len(endpoint.asked), code, test.want, test.code)
				}
				if taken := time.Since(start); taken > client.timeout {
					t.Errorf("took %v", taken)
				}
				for i, asked := range endpoint.asked {
					if took := endpoint.gaveUp[i].Sub(asked); took > client.timeout/2 {
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
		{"a hang", 10 * time.Second, hanging, 2, "timeout"},
		{"a hang, too short for a second try", 300 * time.Millisecond, hanging, 1, "timeout"},
		{"a reset, too short for a second try", 200 * time.Millisecond, dying, 1, "unreachable"},
		{"Retry-After, too short for a second try", 900 * time.Millisecond, cannedStatus(503, "Retry-After", "1"), 1, "server_error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				endpoint := &scriptedEndpoint{steps: []http.RoundTripper{test.step}}
				client := &tokenClient{transport: endpoint, timeout: test.timeout}
				start := time.Now()
				_, failure := client.fetch(t.Context(), func(context.Context) (grantRequest, error) { return cannedRequest, nil }, nil)
				if failure == nil || failure.errorCode() != test.code || len(endpoint.asked) != test.want {
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
	for name, step := range map[string]http.RoundTripper{"during a try": hanging, "between tries": dying} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(100*time.Millisecond, cancel)
				client := &tokenClient{transport: &scriptedEndpoint{steps: []http.RoundTripper{step}}, timeout: 10 * time.Second}
				start := time.Now()
				_, failure := client.fetch(ctx, func(context.Context) (grantRequest, error) { return cannedRequest, nil }, nil)
				if taken := time.Since(start); failure == nil || taken != 100*time.Millisecond {
					t.Errorf("%v after %v", failure, taken)
				}
			})
		})
	}
}

func TestRefusedClientIsTriedOnceMoreWithAChangedCredential(t *testing.T) {
	refused := func(status int, code string) cannedAnswer {
		return cannedAnswer{status: status, body: `{"error":"` + code + `"}`}
	}
	for _, test := range []struct {
		name   string
		answer cannedAnswer
		again  bool
	}{
		{"401 invalid_client", refused(401, "invalid_client"), true},
		{"400 invalid_client", refused(400, "invalid_client"), true},
		{"200 invalid_client", refused(200, "invalid_client"), true},
		{"bare 401", cannedAnswer{status: 401}, true},
		{"bare 403", cannedAnswer{status: 403}, true},
		{"bare 400", cannedAnswer{status: 400}, false},
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
					client := &tokenClient{transport: endpoint, timeout: 10 * time.Second}
					calls := 0
					_, failure := client.fetch(t.Context(), func(context.Context) (grantRequest, error) {
						request := cannedRequest
						request.clientSecret = resolved.secrets[calls]
						if calls++; request.clientSecret == "" {
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
					if failure == nil || failure.status != test.answer.status {
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
	endpoint := &scriptedEndpoint{steps: []http.RoundTripper{anyToken}}
	client := &tokenClient{transport: endpoint, timeout: time.Minute}
	_, failure := client.fetch(t.Context(), func(context.Context) (grantRequest, error) {
		return grantRequest{}, errors.New("client_secret: no such file")
	}, nil)
	if failure == nil || failure.class != classRefused || !failure.unsent || failure.detail != "client_secret: no such file" {
		t.Errorf("got %v", failure)
	}
	if len(endpoint.asked) != 0 {
		t.Error("a token request was sent")
	}
}

// caddyTransport is the way to the endpoint that a configuration's transport makes.
func caddyTransport(t *testing.T, config string) http.RoundTripper {
	t.Helper()
	transport := new(reverseproxy.HTTPTransport)
	if err := json.Unmarshal([]byte(config), transport); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	if err := transport.Provision(ctx); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = transport.Cleanup()
		cancel()
	})
	return endpointTransport{transport}
}

// startPeer listens on loopback and leaves each connection to serve once a request, or
// its beginning, has been read. What serve leaves open is closed with the test.
func startPeer(t *testing.T, serve func(conn *net.TCPConn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			go func() {
				if _, err := conn.Read(make([]byte, 64<<10)); err == nil {
					serve(conn.(*net.TCPConn))
				}
			}()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return listener.Addr().String()
}

// saying is a peer that writes a text and then no more.
func saying(text string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, text)
		_ = conn.CloseWrite()
	}
}

func resetting(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// startResolver answers every question with: no such name.
func startResolver(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		packet := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(packet)
			if err != nil {
				return
			}
			packet[2] |= 0x80 // a response
			packet[3] = 0x83  // NXDOMAIN
			_, _ = conn.WriteTo(packet[:n], from)
		}
	}()
	return conn.LocalAddr().String()
}

func TestFailureOfTheNetworkIsDescribedInOurWords(t *testing.T) {
	trust := func(issuer *testCA) string {
		file := filepath.Join(t.TempDir(), "ca.pem")
		writeFile(t, file, string(issuer.pem))
		return fmt.Sprintf(`{"tls":{"ca":{"provider":"file","pem_files":[%q]}}}`, file)
	}
	ca := newTestCA(t)
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	https := func(addr string) string { return "https://" + addr }
	http := func(addr string) string { return "http://" + addr }
	for _, test := range []struct {
		name, endpoint, transport string
		class                     failureClass
		status                    int
		detail                    string
	}{
		{"refused", http(freeAddr(t)), "", classUnreachable, 0, "connection refused"},
		{"no such name", "https://token.invalid", `{"resolver":{"addresses":["udp/` + startResolver(t) + `"]}}`, classUnreachable, 0, "no such host"},
		{"reset", http(startPeer(t, resetting)), "", classUnreachable, 0, "connection reset by peer"},
		{"closed", http(startPeer(t, saying(""))), "", classUnreachable, 0, "connection was closed"},
		{"closed in the header", http(startPeer(t, saying("HTTP/1.1 200 OK\r\nX-Canary: canary"))), "", classUnreachable, 0, "connection was closed"},
		{"closed in the body", http(startPeer(t, saying("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"canary\""))), "", classUnreachable, 0, "connection was closed"},
		{"garbage", http(startPeer(t, saying("canary canary\r\n\r\n"))), "", classUnreachable, 0, "no readable HTTP answer"},
		{"garbage in the status", http(startPeer(t, saying("HTTP/1.1 canary\r\n\r\n"))), "", classUnreachable, 0, "no readable HTTP answer"},
		{"garbage in the header", http(startPeer(t, saying("HTTP/1.1 200 OK\r\ncanary\r\n\r\n"))), "", classUnreachable, 0, "no readable HTTP answer"},
		{"garbage in a chunk", http(startPeer(t, saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ncanary\r\n"))), "", classUnreachable, 0, "no readable HTTP answer"},
		{"garbage for a length", http(startPeer(t, saying("HTTP/1.1 200 OK\r\nContent-Length: canary\r\n\r\n"))), "", classUnreachable, 0, "no readable HTTP answer"},
		{"garbage for TLS", https(startPeer(t, saying("canary canary canary\r\n"))), "", classUnreachable, 0, "TLS handshake"},
		{"HTTP for TLS", https(startTokenServer(t).Listener.Addr().String()), "", classUnreachable, 0, "plain HTTP"},
		{"TLS for HTTP", http(ca.serve(t, "127.0.0.1", future)), "", classRefused, 400, ""},
		{"unknown authority", https(ca.serve(t, "127.0.0.1", future)), "", classUnreachable, 0, "unknown authority; trust its CA"},
		{"another authority", https(ca.serve(t, "127.0.0.1", future)), trust(newTestCA(t)), classUnreachable, 0, "unknown authority; trust its CA"},
		{"another host", https(ca.serve(t, "canary.example.com", future)), trust(ca), classUnreachable, 0, "another host name"},
		{"expired", https(ca.serve(t, "127.0.0.1", past)), trust(ca), classUnreachable, 0, "expired"},
		{"a hang", http(startPeer(t, func(*net.TCPConn) {})), `{"response_header_timeout":100000000}`, classTimeout, 0, "no answer in time"},
		{"a hang in TLS", https(startPeer(t, func(*net.TCPConn) {})), `{"tls":{"handshake_timeout":100000000}}`, classTimeout, 0, "no answer in time"},
		{"a switch of protocols", http(startPeer(t, switching)), "", classInvalidResponse, 101, ""},
		{"endless interim answers", http(startPeer(t, saying(strings.Repeat("HTTP/1.1 103 canary\r\nX: canary\r\n\r\n", 400_000)))), "", classUnreachable, 0, "no readable HTTP answer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.transport == "" {
				test.transport = "{}"
			}
			request := cannedRequest
			request.endpoint = test.endpoint + "/token?key=query-canary"
			_, failure := askOnce(t, caddyTransport(t, test.transport), request)
			if failure == nil || failure.class != test.class || failure.status != test.status || !strings.Contains(failure.detail, test.detail) {
				t.Fatalf("got %#v, want %s with %q", failure, test.class, test.detail)
			}
			if text := failure.Error() + failure.detail + failure.said + failure.hint; strings.Contains(text, "canary") {
				t.Errorf("the peer's or the URL's words are in %q", text)
			}
			if failure.refusesClient() {
				t.Error("counts as a refusal of the client")
			}
		})
	}
}

// switching is a peer that answers 101 and then holds the connection.
func switching(conn *net.TCPConn) {
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: canary\r\n\r\n")
}

func TestHangIsATimeout(t *testing.T) {
	for name, text := range map[string]string{
		"before the header": "",
		"in the header":     "HTTP/1.1 200 OK\r\nX-A: canary\r\n",
		"in the body":       "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ncanary",
	} {
		t.Run(name, func(t *testing.T) {
			peer := startPeer(t, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, text) })
			client := &tokenClient{transport: caddyTransport(t, "{}"), timeout: 300 * time.Millisecond}
			request := cannedRequest
			request.endpoint = "http://" + peer + "/token?key=query-canary"
			_, failure := client.fetch(t.Context(), func(context.Context) (grantRequest, error) { return request, nil }, nil)
			if failure == nil || failure.class != classTimeout || failure.detail != "no answer in time" || strings.Contains(failure.Error(), "canary") {
				t.Errorf("got %v", failure)
			}
		})
	}
}
