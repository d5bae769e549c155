package endpoint

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// readyJWT is an assertion that somebody has signed.
func readyJWT(t testing.TB, claims map[string]any) string {
	t.Helper()
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode(text) + "." + encode([]byte("signature"))
}

// readyRequest is a token request with an assertion that is ready.
func readyRequest(assertion string) Request {
	return Request{
		Endpoint: "https://auth.example.com/token", AuthMethod: AuthPrivateKeyJWT,
		ClientAssertion: assertion, ClientAssertionType: AssertionTypeJWT,
	}
}

func TestReadyAssertionIsSentAsItIs(t *testing.T) {
	assertion := readyJWT(t, map[string]any{"sub": "system:serviceaccount:shop:gateway"})
	for _, kind := range []string{AssertionTypeJWT, "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"} {
		request := readyRequest(assertion)
		request.ClientAssertionType = kind
		form := sentAssertion(t, onWire(t, request, servertest.AnyToken)[0])
		if form.Get("client_assertion") != assertion || form.Get("client_assertion_type") != kind || form.Has("client_id") || len(form) != 3 {
			t.Errorf("sent %v", form)
		}
		request.ClientID = "app"
		if form = sentAssertion(t, onWire(t, request, servertest.AnyToken)[0]); form.Get("client_id") != "app" || len(form) != 4 {
			t.Errorf("sent %v", form)
		}
	}
}

func TestWhatIsNoAssertionIsRefusedWithARemedy(t *testing.T) {
	for value, want := range map[string]string{
		"/var/run/secrets/token":      "to read the file, write {file./path/to/file}",
		`{"access_token":"canary"}`:   "JSON, and no JWT",
		"canary":                      "not a signed JWT",
		"a.b.":                        "not a signed JWT",
		"a.b.c.d.e":                   "not a signed JWT",
		"e30.canary.c":                "the claims of the JWT can't be read",
		"e30.bnVsbA.c":                "the claims of the JWT can't be read",
		"a.e30.c":                     "not a signed JWT",
		"\xef\xbb\xbfe30.e30.eA":      "begins with a byte order mark",
		"Bearer e30.e30.eA":           "begins with Bearer",
		"CLIENT_ASSERTION=e30.e30.eA": "has the form NAME=value",
		"e30.e30.eA\n# canary":        "characters that no JWT has",
		"e30.e3\n0.eA":                "characters that no JWT has",
		"e30.e30.==":                  "characters that no JWT has",
		strings.Repeat("x", 70_000):   "has more than 64 KiB",
	} {
		if err := readyRequest(value).Check(); err == nil || !strings.HasPrefix(err.Error(), "client_assertion: ") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%.30s: got %v", value, err)
		}
	}
	secret := readyRequest(readyJWT(t, nil))
	secret.ClientSecret = "x"
	if err := secret.Check(); err == nil || !strings.Contains(err.Error(), "client_secret: client_assertion is what the client authenticates with") {
		t.Errorf("got %v", err)
	}
	for name, isType := range map[string]bool{AssertionTypeJWT: true, "https://example.com/type": true, "jwt-spiffe": false, "": false, "urn:{env.X}": false} {
		if err := CheckAssertionType(name); (err == nil) != isType {
			t.Errorf("%q: got %v", name, err)
		}
	}
}

func TestReadyAssertionThatHasEndedIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := time.Now().Add(-90 * time.Second).UTC()
		request := readyRequest(readyJWT(t, map[string]any{"exp": ended.Unix()}))
		client := &Client{Timeout: time.Minute, Transport: servertest.Func(func(*http.Request) (*http.Response, error) {
			t.Error("it was sent")
			return nil, io.EOF
		})}
		_, failure := client.Fetch(t.Context(), func(context.Context) (Request, error) { return request, nil }, nil)
		want := "client_assertion: it ended at " + ended.Format(time.RFC3339) + ", 1m30s ago by this machine's clock; whatever writes it has to renew it"
		if failure == nil || failure.Detail != want || failure.Class != ClassRefused || !failure.Unsent {
			t.Errorf("got %+v", failure)
		}
	})
	for name, exp := range map[string]any{"text": "soon", "none": nil, "huge": 1e300} {
		if _, failure := askOnce(t, servertest.AnyToken, readyRequest(readyJWT(t, map[string]any{"exp": exp}))); failure != nil {
			t.Errorf("%s: got %v", name, failure)
		}
	}
}

// A new assertion is worth another try, but not another token.
func TestReadyAssertionIsNoPartOfTheGrant(t *testing.T) {
	a, b := readyRequest(readyJWT(t, map[string]any{"iat": 1})), readyRequest(readyJWT(t, map[string]any{"iat": 2}))
	if a.Key() == b.Key() {
		t.Error("a new assertion does not end a pause")
	}
	if NewGrantKey(a.Fields()...) != NewGrantKey(b.Fields()...) {
		t.Error("a new assertion makes another grant")
	}
	if _, err := a.Credential(); err == nil {
		t.Error("an assertion that ends is taken as what tokens are encrypted with")
	}
}

// What has been replaced since is tried at once.
func TestRefusedAssertionIsReadOnceMore(t *testing.T) {
	old, renewed := readyJWT(t, map[string]any{"iat": 1}), readyJWT(t, map[string]any{"iat": 2})
	var sent []string
	client := &Client{Timeout: time.Minute, Transport: servertest.Func(func(req *http.Request) (*http.Response, error) {
		body, _ := io.ReadAll(req.Body)
		form := sentAssertion(t, wireRequest{body: string(body)})
		if sent = append(sent, form.Get("client_assertion")); sent[len(sent)-1] == old {
			return servertest.Answer{Status: 401, Body: `{"error":"invalid_client"}`}.RoundTrip(req)
		}
		return servertest.AnyToken.RoundTrip(req)
	})}
	current := old
	_, failure := client.Fetch(t.Context(), func(context.Context) (Request, error) {
		request := readyRequest(current)
		current = renewed
		return request, nil
	}, nil)
	if failure != nil || len(sent) != 2 {
		t.Errorf("got %v after %d requests", failure, len(sent))
	}
}

func TestRefusedReadyAssertionTellsWhomItWasFrom(t *testing.T) {
	claims := map[string]any{"iss": "https://kubernetes.example.com", "sub": "system:serviceaccount:shop:gateway\n", "aud": []string{"api://exchange", "b"}}
	request := readyRequest(readyJWT(t, claims))
	const shown = "iss https://kubernetes.example.com, sub system:serviceaccount:shop:gateway , aud api://exchange b"
	for answer, want := range map[string]string{
		`{"error":"invalid_client"}`: "the client's assertion was refused; it had " + shown,
		`{"error":"invalid_request","error_description":"AADSTS700213: No matching federated identity record found for presented assertion subject"}`:         "no federated credential of the app registration is for this assertion",
		`{"error":"invalid_client","error_description":"AADSTS700024: Client assertion is not within its valid time range. ` + request.ClientAssertion + `"}`: "not within its time",
	} {
		_, failure := askOnce(t, servertest.Answer{Status: 400, Body: answer}, request)
		if failure == nil || !strings.Contains(failure.Hint, want) {
			t.Errorf("%s: the hint is %q", answer, failure.Hint)
		}
		if strings.Contains(answer, "700213") && !strings.Contains(failure.Hint, shown) {
			t.Errorf("the hint is %q", failure.Hint)
		}
		if strings.Contains(failure.Said, request.ClientAssertion[:60]) {
			t.Errorf("the log has the assertion: %s", failure.Said)
		}
	}
}
