package endpoint

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/dpop"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// saidBy returns the endpoint's words when it says something in a description.
func saidBy(t *testing.T, request Request, description string, further map[string]any) string {
	t.Helper()
	members := map[string]any{"error": "invalid_request", "error_description": description}
	maps.Copy(members, further)
	body, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	_, failure := askOnce(t, servertest.Answer{Status: 400, Body: string(body)}, request)
	if failure == nil {
		t.Fatal("no failure")
	}
	return strings.TrimPrefix(failure.Said, "invalid_request ")
}

func TestShortValuesAreMaskedWhereTheyStandAlone(t *testing.T) {
	request := cannedRequest
	request.Endpoint = "https://auth.example.com/token?sig=a%2Fb9&k3y&v=2&flag=true&pin=4711"
	request.Params = map[string][]string{"api_key": {"zx81", "api"}, "mode": {"true"}, "grant_type": {"password"}}
	request.Headers = map[string][]string{"X-Key": {"q7w"}, "X-Version": {"1"}}
	for said, want := range map[string]string{
		"no a/b9, a%2fb9 or A%2Fb9":      "no ***, *** or ***",
		"no k3y, zx81 or q7w, nor cTd3":  "no ***, *** or ***, nor cTd3",
		"the pin 4711 is true for api 1": "the pin *** is true for api 1",
		"47110 zx812 q7ws":               "47110 zx812 q7ws",
		"password is not supported":      "password is not supported",
	} {
		if got := saidBy(t, request, said, nil); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
}

func TestCredentialsOfAHeaderAreMaskedWithoutTheirScheme(t *testing.T) {
	request := cannedRequest
	request.AuthMethod = AuthSecretPost
	basic := base64.StdEncoding.EncodeToString([]byte("gateway:k3Jq8"))
	request.Headers = map[string][]string{"Authorization": {"Basic " + basic}, "X-Key": {"ApiKey t6mN2"}}
	for said, want := range map[string]string{
		"no " + basic + " here":  "no *** here",
		"no gateway:k3Jq8 here":  "no *** here",
		"the password is k3jq8 ": "the password is ***",
		"no value t6mN2 here":    "no value *** here",
		"Basic is no scheme":     "Basic is no scheme",
	} {
		if got := saidBy(t, request, said, nil); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
}

// HTTP Basic can be cut off anywhere, also in the name of the client.
func TestPartOfHTTPBasicIsMasked(t *testing.T) {
	request := cannedRequest
	request.ClientID, request.ClientSecret = "app", "k3Jq8ZpW1xVbT6mN"
	sent := base64.StdEncoding.EncodeToString([]byte("app:k3Jq8ZpW1xVbT6mN"))
	for from := range len(sent) - 8 {
		if got := saidBy(t, request, "Basic "+sent[from:from+8]+" is wrong", nil); got != "Basic *** is wrong" {
			t.Errorf("%q: %q", sent[from:from+8], got)
		}
	}
}

// A refusal can have tokens, and a token's answer others.
func TestTokensOfAnAnswerAreMasked(t *testing.T) {
	for _, name := range []string{"access_token", "refresh_token", "id_token", "registrationAccessToken", "client_secret", "client-assertion", "device_secret"} {
		const token = "k3Jq8ZpW1xVbT6mN"
		for place, further := range map[string]map[string]any{
			"at the top": {name: token}, "in an object": {"data": map[string]any{name: token}}, "in a list": {"all": []any{map[string]any{name: token}}},
		} {
			if got := saidBy(t, cannedRequest, "issued: K3JQ8ZPW1XVB, azNKcThacFcxeFZi", further); got != "issued: ***, ***" {
				t.Errorf("%s %s: %q", name, place, got)
			}
		}
		form := servertest.Answer{Status: 400, Header: servertest.WithType("text/plain"), Body: "error=odd&error_description=issued:+" + token + "&" + name + "=" + token}
		if said := failureOf(t, form).Said; said != "odd issued: ***" {
			t.Errorf("%s in a form: %q", name, said)
		}
		granted := grantOf(t, servertest.Answer{Body: `{"access_token":"abc","` + name + `2":"x","refresh_token":"` + token + `","scope":"a ` + token + ` b"}`})
		if granted.Scope != "a *** b" {
			t.Errorf("%s: the scope is %q", name, granted.Scope)
		}
	}
	if got := saidBy(t, cannedRequest, "the token_type is bearer", map[string]any{"token_type": "bearer", "a_token": 3, "token": "bearer"}); got != "the token_type is ***" {
		t.Errorf("got %q", got) // somebody calls it a token
	}
}

// echoTransport answers with what is in a request, in an error's description.
type echoTransport func(*http.Request) string

func (e echoTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := json.Marshal(map[string]string{"error": "invalid_request", "error_description": e(req)})
	if err != nil {
		return nil, err
	}
	return servertest.Answer{Status: 400, Body: string(body)}.RoundTrip(req)
}

// Nobody keeps them, but they can be used for some time.
func TestProofsAndAssertionsAreMaskedInPart(t *testing.T) {
	key, err := dpop.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, take := range map[string]func(*http.Request) string{
		"proof": func(r *http.Request) string { return r.Header.Get(dpop.Header) },
		"assertion": func(r *http.Request) string {
			_ = r.ParseForm()
			return r.PostForm.Get("client_assertion")
		},
	} {
		for part, cut := range map[string]func(string) string{
			"the end":          func(jwt string) string { return jwt[len(jwt)-40:] },
			"the middle":       func(jwt string) string { return jwt[len(jwt)/3 : len(jwt)/2] },
			"in capitals":      strings.ToUpper,
			"quoted-printable": servertest.Echoes["quoted-printable"],
			"in base64":        servertest.Echoes["in base64"],
		} {
			request := requestOf(t, AuthSecretJWT)
			request.Proofs = key
			var sent string
			_, failure := askOnce(t, echoTransport(func(r *http.Request) string {
				sent = take(r)
				return "no client has " + cut(sent) + ", sorry"
			}), request)
			if run := servertest.LeakedRun(failure.Said, sent, "no client has *** sorry"); sent == "" || run != "" {
				t.Errorf("%s, %s: %q shows %q of %q", name, part, failure.Said, run, sent)
			}
		}
	}
}

// The name of a server, of a client and of what is asked for is no secret, also if a secret has it.
func TestWhatIsAskedForStaysReadable(t *testing.T) {
	request := cannedRequest
	request.Endpoint = "https://auth.shop.example.com/oauth2/token?for=auth.shop.example.com"
	request.ClientID, request.ClientSecret = "shop-gateway", "shop-gateway-k3Jq8ZpW1xVb"
	request.Scopes, request.Audience = []string{"orders:read", "orders:write"}, []string{"https://api.example.com/"}
	request.Params = map[string][]string{"realm": {"orders-realm"}, "resource_url": {"https://api.example.com/"}, "client_name": {"shop-gateway"}}
	for _, said := range []string{
		"shop-gateway may not ask auth.shop.example.com for orders:write",
		"https://auth.shop.example.com/oauth2/token is no audience, https://api.example.com/ is",
		"unknown client shop-gateway, see https://shop.example.com/clients",
		"client_secret_basic is not allowed for client_credentials",
	} {
		if got := saidBy(t, request, said, nil); got != said {
			t.Errorf("%q became %q", said, got)
		}
	}
	if got := saidBy(t, request, "wrong: shop-gateway-k3Jq8ZpW1xVb", nil); got != "wrong: ***" {
		t.Errorf("got %q", got)
	}
}

func TestTokensInAnAnswerAreBounded(t *testing.T) {
	body := []byte(`[` + strings.Repeat(`{"token":"abcdefgh"},`, 1000) + strings.Repeat(`[`, 1000) + `{"token":"deep"}` + strings.Repeat(`]`, 1001))
	if tokens := tokensIn(body, ""); len(tokens) != maxTokens || slices.Contains(tokens, "deep") {
		t.Errorf("%d tokens", len(tokens))
	}
}
