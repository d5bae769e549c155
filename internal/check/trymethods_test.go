package check

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// way returns how a request carries the secret, such as "post json".
func way(t *testing.T, req *http.Request, body []byte) string {
	t.Helper()
	format, secret := "form", req.PostFormValue("client_secret")
	if req.Header.Get("Content-Type") == "application/json" {
		var members map[string]string
		if err := json.Unmarshal(body, &members); err != nil {
			t.Error(err)
		}
		format, secret = "json", members["client_secret"]
	}
	id, password, ok := req.BasicAuth()
	switch {
	case !ok && secret != "":
		return "post " + format
	case ok && secret == "" && id+password == awkward.ClientID+awkward.ClientSecret:
		return "raw " + format
	case ok && secret == "":
		return "basic " + format
	}
	t.Errorf("the secret is in no place, or in several: %v %s", req.Header, body)
	return ""
}

// waysEndpoint is an endpoint that answers each way to send the secret with what refuse says. An empty status grants.
func waysEndpoint(t *testing.T, refuse func(way string) servertest.Answer) (e *tokenEndpoint, ways *[]string) {
	ways = new([]string)
	e = new(tokenEndpoint)
	e.answer = func(req *http.Request) http.RoundTripper {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		w := way(t, req, body)
		*ways = append(*ways, w)
		if answer := refuse(w); answer.Status != 0 {
			return answer
		}
		return nil
	}
	return e, ways
}

// plain is a client whose credential is the same in each encoding, awkward one whose is not.
var (
	plain   = endpoint.Request{ClientID: "app", ClientSecret: "s3cret-canary"}
	awkward = endpoint.Request{ClientID: "the app", ClientSecret: "s3cret+canary"}
)

var (
	invalidClient = servertest.Answer{Status: http.StatusUnauthorized, Body: `{"error":"invalid_client"}`}
	badRequest    = servertest.Answer{Status: http.StatusBadRequest, Body: `{"error":"invalid_request","error_description":"grant_type is required"}`}
	wrongType     = servertest.Answer{Status: http.StatusUnsupportedMediaType, Body: `{}`}
	wrongScope    = servertest.Answer{Status: http.StatusBadRequest, Body: `{"error":"invalid_scope"}`}
)

func TestCheckTriesMethods(t *testing.T) {
	const basic, raw, post = endpoint.AuthSecretBasic, endpoint.AuthSecretBasicRaw, endpoint.AuthSecretPost
	always := func(answer servertest.Answer) func(string) servertest.Answer {
		return func(string) servertest.Answer { return answer }
	}
	except := func(answer servertest.Answer, accepted string) func(string) servertest.Answer {
		return func(way string) servertest.Answer {
			if way == accepted {
				return servertest.Answer{}
			}
			return answer
		}
	}
	for name, test := range map[string]struct {
		client         endpoint.Request
		method, format string
		refuse         func(way string) servertest.Answer
		ways           []string
		hint           string
	}{
		"a form with the secret in the body": {plain, basic, "form", except(invalidClient, "post form"),
			[]string{"basic form", "post form"}, "accepted with auth_method client_secret_post; write that"},
		"a form with HTTP Basic": {plain, post, "form", except(invalidClient, "basic form"),
			[]string{"post form", "basic form"}, "accepted with auth_method client_secret_basic; write that"},
		"JSON, 401": {plain, basic, "form", except(invalidClient, "post json"),
			[]string{"basic form", "post form", "post json"}, "accepted with auth_method client_secret_post and request_format json; write that"},
		"JSON, 401, with HTTP Basic": {plain, post, "form", except(invalidClient, "basic json"),
			[]string{"post form", "basic form", "post json", "basic json"}, "accepted with auth_method client_secret_basic and request_format json; write that"},
		"JSON, 400": {plain, post, "form", except(badRequest, "post json"),
			[]string{"post form", "basic form", "post json"}, "accepted with auth_method client_secret_post and request_format json; write that"},
		"JSON, 400, without a code": {plain, post, "form", except(servertest.Answer{Status: 400, Body: `{"message":"who?"}`}, "post json"),
			[]string{"post form", "basic form", "post json"}, "accepted with auth_method client_secret_post and request_format json; write that"},
		// Another form would be refused as well.
		"JSON, 415": {plain, basic, "form", except(wrongType, "post json"),
			[]string{"basic form", "post json"}, "accepted with auth_method client_secret_post and request_format json; write that"},
		"neither a form nor JSON": {plain, basic, "form", always(wrongType),
			[]string{"basic form", "post json"}, "the endpoint takes neither a form nor JSON; compare token_endpoint with the API's documentation"},
		"a form, 415": {plain, post, "json", func(way string) servertest.Answer {
			switch way {
			case "post form":
				return servertest.Answer{}
			case "basic form":
				return invalidClient
			}
			return wrongType
		}, []string{"post json", "basic form", "post form"}, "accepted with auth_method client_secret_post and request_format form; write that"},
		"JSON, 415, and another secret": {plain, basic, "form", func(way string) servertest.Answer {
			if strings.HasSuffix(way, "form") {
				return wrongType
			}
			return invalidClient
		}, []string{"basic form", "post json", "basic json"}, "the id or the secret may be wrong"},
		"a form, 401": {plain, post, "json", except(invalidClient, "basic form"),
			[]string{"post json", "basic form"}, "accepted with auth_method client_secret_basic and request_format form; write that"},
		"no JSON": {plain, basic, "form", func(way string) servertest.Answer {
			if strings.HasSuffix(way, "json") {
				return wrongType
			}
			return invalidClient
		}, []string{"basic form", "post form", "post json"}, "the id or the secret may be wrong"},
		"no way":                           {plain, basic, "form", always(invalidClient), []string{"basic form", "post form", "post json", "basic json"}, "the id or the secret may be wrong"},
		"no way, of what can be encoded":   {awkward, basic, "form", always(invalidClient), []string{"basic form", "raw form", "post form", "post json", "basic json", "raw json"}, "the credential has reserved characters, which servers decode differently; try auth_method client_secret_basic_raw"},
		"no way, of raw bytes":             {awkward, raw, "json", always(invalidClient), []string{"raw json", "basic form", "raw form", "post form", "post json", "basic json"}, "the credential has reserved characters, which servers decode differently; try auth_method client_secret_basic"},
		"a refusal that is not about this": {plain, basic, "form", always(wrongScope), []string{"basic form"}, "no scope was asked for, and the endpoint may need one; set scope to what the API's documentation names"},
		"a client that is forbidden": {plain, basic, "form", always(servertest.Answer{Status: http.StatusForbidden, Body: `{}`}),
			[]string{"basic form", "post form"}, "the id or the secret may be wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			e, ways := waysEndpoint(t, test.refuse)
			request := test.client
			request.AuthMethod = test.method
			target := e.targetIn(test.format, request)
			r := mustCheck(t, Checker{TryMethods: true}, target)[0]
			if !slices.Equal(*ways, test.ways) || r.Hint != test.hint {
				t.Errorf("tried %q, want %q; the hint is %q, want %q", *ways, test.ways, r.Hint, test.hint)
			}
			found := ""
			if r.AcceptedMethod != "" {
				if found = "accepted with auth_method " + r.AcceptedMethod; r.AcceptedFormat != test.format {
					found += " and request_format " + r.AcceptedFormat
				}
				found += "; write that"
			}
			if isFound := strings.HasPrefix(test.hint, "accepted"); isFound != (found == test.hint) || r.Result == resultGranted {
				t.Errorf("got %+v", r)
			}
			// Unless told to, it does not try.
			*ways = nil
			if r = mustCheck(t, Checker{}, target)[0]; len(*ways) != 1 || r.AcceptedMethod != "" {
				t.Errorf("tried %q: got %+v", *ways, r)
			}
		})
	}
}

// A signature is no secret that could be sent otherwise.
func TestNoWayIsTriedForAClientThatSendsNoSecret(t *testing.T) {
	e := &tokenEndpoint{answer: func(*http.Request) http.RoundTripper { return invalidClient }}
	options := endpoint.AssertionOptions{}
	if err := options.Complete(); err != nil {
		t.Fatal(err)
	}
	r := mustCheck(t, Checker{TryMethods: true}, e.targetOf(endpoint.Request{
		ClientID: "app", ClientSecret: strings.Repeat("s3cret", 6), AuthMethod: endpoint.AuthSecretJWT, Assertion: endpoint.NewAssertion(options, nil),
	}))[0]
	if e.wantAsked(t, 1); r.AcceptedMethod != "" || r.Notes != nil {
		t.Errorf("got %+v", r)
	}
}

// An endpoint that is not well has not judged the method, so that what may help is still open.
func TestNoFurtherMethodIsTriedAtAnEndpointThatIsNotWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for format, refusal := range map[string]servertest.Answer{
			"form": {Status: http.StatusUnprocessableEntity, Body: `{"message":"can't be processed as JSON"}`},
			"json": invalidClient,
		} {
			e := new(tokenEndpoint)
			e.answer = func(*http.Request) http.RoundTripper {
				if e.asked == 1 {
					return refusal
				}
				return servertest.Status(http.StatusServiceUnavailable, "Retry-After", "60")
			}
			request := plain
			request.AuthMethod = endpoint.AuthSecretPost
			target := e.targetIn(format, request)
			r := mustCheck(t, Checker{TryMethods: true}, target)[0]
			e.wantAsked(t, 2)
			if want := []string{"tried as well: client_secret_basic with form: server_error"}; !slices.Equal(r.Notes, want) || r.AcceptedMethod != "" {
				t.Errorf("got %+v, want the notes %q", r, want)
			}
			e.asked = 0
			if want := mustCheck(t, Checker{}, target)[0].Hint; r.Hint != want {
				t.Errorf("the hint is %q, want %q", r.Hint, want)
			}
		}
	})
}

// What was tried is told in the words of the configuration.
func TestCheckTellsWhatWasTried(t *testing.T) {
	e, _ := waysEndpoint(t, func(way string) servertest.Answer {
		if strings.HasSuffix(way, "json") {
			return badRequest
		}
		return invalidClient
	})
	request := plain
	request.AuthMethod = endpoint.AuthSecretBasic
	r := mustCheck(t, Checker{TryMethods: true}, e.targetOf(request))[0]
	want := fmt.Sprint([]string{"tried as well: client_secret_post with form: invalid_client, client_secret_post with json: invalid_request, " +
		"client_secret_basic with json: invalid_request"})
	if got := fmt.Sprint(r.Notes); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Each try may bring the client closer to being locked out, and what is found out for one grant holds for the others.
func TestMethodsAreTriedOnceForAClient(t *testing.T) {
	for name, answer := range map[string]servertest.Answer{
		"by a code":  {Status: http.StatusBadRequest, Body: `{"error":"unauthorized_client"}`},
		"by a word":  {Status: http.StatusBadRequest, Body: `{"message":"authentication failed"}`},
		"by nothing": {Status: http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			e, ways := waysEndpoint(t, func(string) servertest.Answer { return answer })
			request := awkward
			request.AuthMethod = endpoint.AuthSecretBasic
			var targets []Target
			for _, scope := range []string{"a", "b", "c"} {
				request.Scopes = []string{scope}
				targets = append(targets, e.targetOf(request))
			}
			results := mustCheck(t, Checker{TryMethods: true}, targets...)
			want := []string{"basic form", "raw form", "post form", "post json", "basic json", "raw json", "basic form", "basic form"}
			if !slices.Equal(*ways, want) {
				t.Errorf("asked %q, want %q", *ways, want)
			}
			for _, r := range results[1:] {
				if want := []string{"other ways to send the secret were tried for another grant of the client"}; !slices.Equal(r.Notes, want) || !r.failed() {
					t.Errorf("got %+v, want the notes %q", r, want)
				}
			}
		})
	}
}
