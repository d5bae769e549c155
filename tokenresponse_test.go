package oauthcc

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"
)

// cannedAnswer is a token endpoint without a network, which always says the same.
type cannedAnswer struct {
	status int         // 0: 200
	header http.Header // nil: the content type of JSON
	body   string
}

func (c cannedAnswer) RoundTrip(req *http.Request) (*http.Response, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	if c.header == nil {
		c.header = withType("application/json")
	}
	return &http.Response{
		StatusCode: c.status,
		Header:     c.header.Clone(),
		Body:       io.NopCloser(strings.NewReader(c.body)),
		Request:    req,
	}, nil
}

func withType(value string) http.Header {
	return http.Header{"Content-Type": {value}}
}

// cannedRequest has a credential in every place that can hold one.
var cannedRequest = grantRequest{
	endpoint:     "https://auth.example.com/token?key=query-canary",
	clientID:     "app",
	clientSecret: "secret-canary",
	authMethod:   authSecretBasic,
	format:       formatForm,
	params:       map[string][]string{"api_key": {"param-canary"}},
	headers:      map[string][]string{"X-Key": {"header-canary"}},
}

// cannedTTL is how long a token lives that tells nothing about it.
const cannedTTL = 7 * time.Minute

// askOnce sends one token request.
func askOnce(t testing.TB, endpoint http.RoundTripper, request grantRequest) (grantedToken, *fetchError) {
	client := &tokenClient{transport: endpoint, timeout: time.Minute, defaultTTL: cannedTTL}
	return client.send(t.Context(), request, "")
}

// grantOf is what the answer grants.
func grantOf(t testing.TB, answer cannedAnswer) grantedToken {
	t.Helper()
	granted, failure := askOnce(t, answer, cannedRequest)
	if failure != nil {
		t.Fatalf("%.100q: %v %s", answer.body, failure, failure.said)
	}
	return granted
}

// failureOf is what makes the answer useless.
func failureOf(t testing.TB, answer cannedAnswer) *fetchError {
	t.Helper()
	granted, failure := askOnce(t, answer, cannedRequest)
	if failure == nil {
		t.Fatalf("%.100q: granted %q", answer.body, granted.value)
	}
	return failure
}

func TestAnswerIsReadWhateverItsType(t *testing.T) {
	const asJSON = `{"access_token":"tok-1","token_type":"Bearer","scope":"a b","expires_in":60}`
	const asForm = "access_token=tok-1&token_type=bearer&scope=a+b&expires_in=60"
	for _, test := range []struct{ name, contentType, body string }{
		{"JSON", "application/json", asJSON},
		{"JSON with a charset", "application/json; charset=utf-8", asJSON},
		{"JSON called text", "text/plain", asJSON},
		{"JSON called HTML", "text/html", asJSON},
		{"JSON called a form", "application/x-www-form-urlencoded", asJSON},
		{"JSON called something wrong", ";;;", asJSON},
		{"JSON without a type", "", asJSON},
		{"JSON after a byte order mark", "application/json", "\xef\xbb\xbf" + asJSON},
		{"JSON between blanks", "application/json", "\r\n\t " + asJSON + "\r\n"},
		{"JSON with strange members", "application/json", asJSON[:len(asJSON)-1] + `,"error":null,"x":{"y":[1]}}`},
		{"form", "application/x-www-form-urlencoded", asForm},
		{"form with a charset", "application/x-www-form-urlencoded;charset=UTF-8", asForm},
		{"form called text", "text/plain; charset=utf-8", asForm},
		{"form with a line break", "text/plain", asForm + "\r\n"},
		{"form without a type", "", asForm},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := grantOf(t, cannedAnswer{header: withType(test.contentType), body: test.body})
			if got.value != "tok-1" || got.scope != "a b" || !got.scopeKnown || got.lifetime != time.Minute {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestAnswerWithoutTokenIsInvalid(t *testing.T) {
	for _, test := range []struct{ name, contentType, body, detail string }{
		{"empty", "application/json", "", "empty"},
		{"blanks", "application/json", " \r\n", "empty"},
		{"HTML", "text/html", "<html><body>access_token=x</body></html>", "neither JSON nor a form"},
		{"HTML called JSON", "application/json", "<html>body-canary</html>", "neither JSON nor a form"},
		{"a form called HTML", "text/html", "access_token=tok-1", "neither JSON nor a form"},
		{"a form called JSON", "application/json", "access_token=tok-1", "neither JSON nor a form"},
		{"truncated", "application/json", `{"access_token":"tok-1","token_ty`, "neither JSON nor a form"},
		{"truncated, called text", "text/plain", `{"access_token":"tok-1","token_ty`, "neither JSON nor a form"},
		{"more after the end", "application/json", `{"access_token":"tok-1"}{"access_token":"tok-2"}`, "neither JSON nor a form"},
		{"an array", "application/json", `["tok-1"]`, "neither JSON nor a form"},
		{"a string", "application/json", `"tok-1"`, "neither JSON nor a form"},
		{"null", "application/json", `null`, "neither JSON nor a form"},
		{"bytes", "application/octet-stream", "\x00\x01\xff\xfe", "neither JSON nor a form"},
		{"a wrong form", "text/plain", "access_token=%zz", "neither JSON nor a form"},
		{"2 MiB", "application/json", `{"access_token":"` + strings.Repeat("x", 2<<20) + `"}`, "1 MiB"},
		{"2 MiB of blanks after a token", "application/json", `{"access_token":"tok-1"}` + strings.Repeat(" ", 2<<20), "1 MiB"},
		{"other members", "application/json", `{"id_token":"tok-1","refresh_token":"tok-2"}`, "no access_token"},
		{"nested", "application/json", `{"data":{"access_token":"tok-1"}}`, "no access_token"},
		{"deep", "application/json", strings.Repeat(`{"a":`, 200_000), "neither JSON nor a form"},
	} {
		t.Run(test.name, func(t *testing.T) {
			failure := failureOf(t, cannedAnswer{header: withType(test.contentType), body: test.body})
			if failure.class != classInvalidResponse || failure.errorCode() != "invalid_response" || failure.transient() || failure.refusesClient() {
				t.Errorf("got %+v", failure)
			}
			if !strings.Contains(failure.detail, test.detail) || failure.said != "" {
				t.Errorf("detail %q, said %q; want the detail %q alone", failure.detail, failure.said, test.detail)
			}
		})
	}
}

func TestLifetimeIsThatOfExpiresIn(t *testing.T) {
	for _, test := range []struct {
		expiresIn string // as it stands in JSON, empty for none
		want      time.Duration
	}{
		{`3600`, time.Hour},
		{`3599.0`, 3599 * time.Second},
		{`1.5`, 1500 * time.Millisecond},
		{`1e3`, 1000 * time.Second},
		{`"3600"`, time.Hour},
		{`" 3600 "`, time.Hour},
		{`"3599.0"`, 3599 * time.Second},
		{`"1E3"`, 1000 * time.Second},
		{`1`, time.Second},
		{`0.25`, time.Second},
		{`0`, time.Second},
		{`"0"`, time.Second},
		{`-0`, time.Second},
		{`-1`, time.Second},
		{`"-3600"`, time.Second},
		{`-1e18`, time.Second},
		{`1e-400`, time.Second},
		{`3153600000`, maxLifetime},
		{`3153600001`, cannedTTL},
		{`1e18`, cannedTTL},
		{`9223372036854775807`, cannedTTL},
		{`1e400`, cannedTTL},
		{`"1e400"`, cannedTTL},
		{``, cannedTTL},
		{`null`, cannedTTL},
		{`""`, cannedTTL},
		{`"null"`, cannedTTL},
		{`"soon"`, cannedTTL},
		{`"NaN"`, cannedTTL},
		{`"Inf"`, cannedTTL},
		{`"-Inf"`, cannedTTL},
		{`"0x10"`, cannedTTL},
		{`"1h"`, cannedTTL},
		{`"1 000"`, cannedTTL},
		{`"1,5"`, cannedTTL},
		{`"e"`, cannedTTL},
		{`true`, cannedTTL},
		{`{"seconds":3600}`, cannedTTL},
		{`[3600]`, cannedTTL},
	} {
		t.Run(test.expiresIn, func(t *testing.T) {
			member := ""
			if test.expiresIn != "" {
				member = `,"expires_in":` + test.expiresIn
			}
			if got := grantOf(t, cannedAnswer{body: `{"access_token":"tok-1"` + member + `}`}).lifetime; got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// cannedJWT is a token of three parts with that payload.
func cannedJWT(payload string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(payload)) + "." + encode([]byte("signature"))
}

func TestRefreshInIsRead(t *testing.T) {
	for refreshIn, want := range map[string]time.Duration{
		`1800`: 30 * time.Minute, `"1800"`: 30 * time.Minute, `1799.5`: 1799*time.Second + 500*time.Millisecond,
		`0`: 0, `-1`: 0, `null`: 0, `"soon"`: 0, `1e300`: 0, `{}`: 0, `true`: 0,
	} {
		granted := grantOf(t, cannedAnswer{body: `{"access_token":"tok-1","expires_in":3600,"refresh_in":` + refreshIn + `}`})
		if granted.refreshIn != want || granted.lifetime != time.Hour {
			t.Errorf("%s: renewed in %v of %v, want %v", refreshIn, granted.refreshIn, granted.lifetime, want)
		}
	}
	form := cannedAnswer{header: withType("application/x-www-form-urlencoded"), body: "access_token=tok-1&refresh_in=60"}
	if granted := grantOf(t, form); granted.refreshIn != time.Minute {
		t.Errorf("in a form: renewed in %v", granted.refreshIn)
	}
}

func TestLifetimeOfJWTIsTheShorterOfWhatIsTold(t *testing.T) {
	const now = 946684800 // when a synctest bubble begins
	claims := func(exp, iat int) string { return cannedJWT(fmt.Sprintf(`{"iat":%d,"exp":%d}`, now+iat, now+exp)) }
	exp := func(value string) string { return cannedJWT(`{"exp":` + value + `}`) }
	for _, test := range []struct {
		name, token, expiresIn string
		want                   time.Duration
	}{
		{"both agree", claims(600, 0), "600", 10 * time.Minute},
		{"the token alone", claims(600, 0), "", 10 * time.Minute},
		{"without iat", exp(fmt.Sprint(now + 600)), "", 10 * time.Minute},
		{"the token ends earlier", claims(300, 0), "600", 5 * time.Minute},
		{"expires_in ends earlier", claims(600, 0), "300", 5 * time.Minute},
		{"expires_in is not readable", claims(600, 0), `"soon"`, 10 * time.Minute},
		{"expires_in is too long", claims(600, 0), "1e18", 10 * time.Minute},
		{"expires_in is 0", claims(600, 0), "0", time.Second},
		{"issued a while ago", claims(300, -300), "", 5 * time.Minute},
		{"the gateway's clock is ahead", claims(300, -300), "600", 5 * time.Minute},
		{"the gateway's clock is behind", claims(900, 300), "900", 10 * time.Minute},
		{"expired for the gateway", claims(-100, -700), "600", time.Second},
		{"expires before it was issued", claims(600, 700), "600", time.Second},
		{"fractions", exp(fmt.Sprintf("%d.5", now+600)), "", 600*time.Second + 500*time.Millisecond},
		{"a hundred years", claims(3153600000, 0), "", maxLifetime},
		{"more than a hundred years", exp("1e18"), "600", 10 * time.Minute},
		{"more than a hundred years alone", exp("1e18"), "", cannedTTL},
		{"exp beyond all numbers", exp("1e400"), "", cannedTTL},
		{"exp far in the past", exp("-1e300"), "600", time.Second},
		{"exp is a string", exp(`"946685400"`), "", cannedTTL},
		{"exp is null", exp("null"), "", cannedTTL},
		{"no exp", cannedJWT(`{"iat":946684800}`), "", cannedTTL},
		{"payload is an array", cannedJWT(`[1]`), "", cannedTTL},
		{"payload is not JSON", cannedJWT("{"), "", cannedTTL},
		{"payload is not base64", "a.!.b", "", cannedTTL},
		{"no payload", "a..b", "", cannedTTL},
		{"dots", "..", "", cannedTTL},
		{"encrypted, in five parts", cannedJWT(`{"exp":946685400}`) + ".a.b", "", cannedTTL},
		{"two parts", "a." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":946685400}`)), "", cannedTTL},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if time.Now().Unix() != now {
					t.Fatal("a synctest bubble begins at another time")
				}
				body := `{"access_token":"` + test.token + `"}`
				if test.expiresIn != "" {
					body = `{"access_token":"` + test.token + `","expires_in":` + test.expiresIn + `}`
				}
				if got := grantOf(t, cannedAnswer{body: body}).lifetime; got != test.want {
					t.Errorf("got %v, want %v", got, test.want)
				}
			})
		})
	}
}

func TestLifetimeCountsFromWhenTheRequestWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := time.Now()
		slow := endpointFunc(func(req *http.Request) (*http.Response, error) {
			time.Sleep(5 * time.Second)
			return cannedAnswer{body: `{"access_token":"tok-1","expires_in":60}`}.RoundTrip(req)
		})
		granted, failure := askOnce(t, slow, cannedRequest)
		if failure != nil || !granted.sent.Equal(before) || granted.lifetime != time.Minute {
			t.Errorf("sent %v, lifetime %v, %v; want %v and a minute", granted.sent, granted.lifetime, failure, before)
		}
	})
}

func TestTokenThatAHeaderCannotCarryIsRefused(t *testing.T) {
	for _, token := range []string{
		`"tok\r\nX-Injected: 1"`, `"tok\n"`, `"\rtok"`, `"tok 1"`, `" tok"`, `"tok "`, `"tok\t1"`, `"tok\u00001"`,
		`"tok\u007f"`, `"t\u00f6k"`, `"tok\u2028"`, `"t` + "\xff" + `k"`, `"\ud83d\ude00"`, `""`, `" "`, `null`, `123`,
		`true`, `["tok"]`, `{"value":"tok"}`,
	} {
		t.Run(token, func(t *testing.T) {
			failure := failureOf(t, cannedAnswer{body: `{"access_token":` + token + `,"token_type":"Bearer","expires_in":60}`})
			if failure.class != classInvalidResponse || !strings.Contains(failure.detail, "access_token") || failure.said != "" {
				t.Errorf("got %+v", failure)
			}
		})
	}
	const visible = "!#$%&'()*+,-./0123456789:;<=>?@AZ[]^_`az{|}~"
	if got := grantOf(t, cannedAnswer{body: `{"access_token":"` + visible + `"}`}).value; got != visible {
		t.Errorf("got %q, want %q", got, visible)
	}
}

func TestOnlyBearerTokensAreTaken(t *testing.T) {
	for tokenType, ok := range map[string]bool{
		`"Bearer"`: true, `"bearer"`: true, `"BEARER"`: true, `""`: true, `null`: true,
		`"mac"`: false, `"DPoP"`: false, `"N_A"`: false, `"Bearer "`: false, `"BearerToken"`: false, `"Basic"`: false,
		`1`: false, `true`: false, `["Bearer"]`: false, `{}`: false,
	} {
		t.Run(tokenType, func(t *testing.T) {
			_, failure := askOnce(t, cannedAnswer{body: `{"access_token":"tok-1","token_type":` + tokenType + `}`}, cannedRequest)
			switch {
			case ok && failure != nil:
				t.Errorf("refused: %v", failure)
			case !ok && (failure == nil || failure.class != classInvalidResponse || !strings.Contains(failure.detail, "token_type")):
				t.Errorf("got %+v", failure)
			}
		})
	}
	grantOf(t, cannedAnswer{body: `{"access_token":"tok-1"}`})
}

func TestErrorInA200IsAnError(t *testing.T) {
	for _, test := range []struct {
		name, contentType, member, code string // without a code there is a token
	}{
		{"registered", "", `"error":"invalid_scope"`, "invalid_scope"},
		{"of the server's own", "", `"error":"ouch"`, "refused"},
		{"empty", "", `"error":""`, ""},
		{"null", "", `"error":null`, ""},
		{"false", "", `"error":false`, ""},
		{"zero", "", `"error":0`, ""},
		{"true", "", `"error":true`, "refused"},
		{"a number", "", `"error":42`, "refused"},
		{"an object", "", `"error":{"code":"invalid_client"}`, "refused"},
		{"an empty object", "", `"error":{}`, "refused"},
		{"a list", "", `"error":["invalid_client"]`, "refused"},
		{"description alone", "", `"error_description":"all is well"`, ""},
		{"form", "text/plain", "&error=invalid_scope", "invalid_scope"},
		{"empty in a form", "text/plain", "&error=", ""},
		{"temporary", "", `"error":"temporarily_unavailable"`, "temporarily_unavailable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer := cannedAnswer{body: `{"access_token":"tok-1",` + test.member + `}`}
			if test.contentType != "" {
				answer = cannedAnswer{header: withType(test.contentType), body: "access_token=tok-1" + test.member}
			}
			if test.code == "" {
				grantOf(t, answer)
				return
			}
			if failure := failureOf(t, answer); failure.errorCode() != test.code || failure.status != 200 {
				t.Errorf("got %q (%+v), want %q", failure.errorCode(), failure, test.code)
			}
		})
	}
}

func TestFailureIsClassifiedByStatusAndCode(t *testing.T) {
	code := func(code string) string { return `{"error":"` + code + `","error_description":"no"}` }
	for _, test := range []struct {
		status         int
		body, code     string
		class          failureClass
		refusesClient  bool
		allowedToRetry bool
	}{
		{status: 301, code: "refused", class: classRefused},
		{status: 302, code: "refused", class: classRefused},
		{status: 304, code: "refused", class: classRefused},
		{status: 307, body: `{"access_token":"tok-1"}`, code: "refused", class: classRefused},
		{status: 400, body: code("invalid_request"), code: "invalid_request", class: classRefused},
		{status: 400, body: code("invalid_scope"), code: "invalid_scope", class: classRefused},
		{status: 400, body: code("unauthorized_client"), code: "unauthorized_client", class: classRefused},
		{status: 400, body: code("unsupported_grant_type"), code: "unsupported_grant_type", class: classRefused},
		{status: 400, body: code("invalid_client"), code: "invalid_client", class: classRefused, refusesClient: true},
		{status: 400, body: "<html>", code: "refused", class: classRefused},
		{status: 400, body: `{"access_token":"tok-1"}`, code: "refused", class: classRefused},
		{status: 401, body: code("invalid_client"), code: "invalid_client", class: classRefused, refusesClient: true},
		{status: 401, body: code("invalid_scope"), code: "invalid_scope", class: classRefused},
		{status: 401, code: "refused", class: classRefused, refusesClient: true},
		{status: 401, body: "Unauthorized", code: "refused", class: classRefused, refusesClient: true},
		{status: 403, code: "refused", class: classRefused, refusesClient: true},
		{status: 403, body: code("access_denied"), code: "access_denied", class: classRefused},
		{status: 404, body: "not here", code: "refused", class: classRefused},
		{status: 415, code: "refused", class: classRefused},
		{status: 408, code: "server_error", class: classServerError, allowedToRetry: true},
		{status: 429, body: code("slow_down"), code: "server_error", class: classServerError, allowedToRetry: true},
		{status: 500, code: "server_error", class: classServerError, allowedToRetry: true},
		{status: 502, body: "<html>", code: "server_error", class: classServerError, allowedToRetry: true},
		{status: 503, body: code("temporarily_unavailable"), code: "temporarily_unavailable", class: classServerError, allowedToRetry: true},
		{status: 599, code: "server_error", class: classServerError, allowedToRetry: true},
		{status: 200, body: code("invalid_client"), code: "invalid_client", class: classRefused, refusesClient: true},
		{status: 200, body: code("server_error"), code: "server_error", class: classServerError, allowedToRetry: true},
		{status: 204, code: "invalid_response", class: classInvalidResponse},
		{status: 101, code: "invalid_response", class: classInvalidResponse},
	} {
		t.Run(fmt.Sprint(test.status, test.body), func(t *testing.T) {
			failure := failureOf(t, cannedAnswer{status: test.status, body: test.body})
			if failure.status != test.status || failure.errorCode() != test.code || failure.class != test.class {
				t.Errorf("got %d %s (%s), want %d %s (%s)",
					failure.status, failure.errorCode(), failure.class, test.status, test.code, test.class)
			}
			if failure.refusesClient() != test.refusesClient || failure.transient() != test.allowedToRetry {
				t.Errorf("refuses the client %t, transient %t; want the opposite of one", failure.refusesClient(), failure.transient())
			}
		})
	}
}

func TestErrorCodeIsRegisteredOrAClass(t *testing.T) {
	classes := []string{"refused", "unreachable", "timeout", "server_error", "invalid_response"}
	for _, code := range []string{"INVALID_CLIENT", "invalid_client ", "invalid_token", "body-canary", " ", `\u0000`, "unreachable!"} {
		for _, status := range []int{200, 302, 400, 401, 500} {
			failure := failureOf(t, cannedAnswer{status: status, body: `{"error":"` + code + `"}`})
			if got := failure.errorCode(); !slices.Contains(classes, got) {
				t.Errorf("%d with %q: %q", status, code, got)
			}
		}
	}
	for _, code := range registeredErrors {
		if got := failureOf(t, cannedAnswer{status: 400, body: `{"error":"` + code + `"}`}).errorCode(); got != code {
			t.Errorf("%q: %q", code, got)
		}
	}
}

func TestEndpointsWordsAreForTheLogAlone(t *testing.T) {
	for _, test := range []struct {
		name, want string
		answer     cannedAnswer
	}{
		{"code and description", "odd-canary it is because-canary", cannedAnswer{
			status: 400, body: `{"error":"odd-canary","error_description":"it is because-canary"}`}},
		{"form", "odd-canary because-canary", cannedAnswer{
			status: 400, header: withType("text/plain"), body: "error=odd-canary&error_description=because-canary"}},
		{"token type", "mac-canary", cannedAnswer{body: `{"access_token":"t","token_type":"mac-canary"}`}},
		{"redirect", "redirects to https://other.example.net/canary", cannedAnswer{
			status: 307, header: http.Header{"Location": {"https://user:pw@other.example.net/canary?code=query#fragment"}}}},
		{"relative redirect", "redirects to https://auth.example.com/login-canary", cannedAnswer{
			status: 302, header: http.Header{"Location": {"/login-canary?from=query"}}}},
		{"redirect to nowhere", "", cannedAnswer{status: 302, header: http.Header{"Location": {"://canary"}}}},
		{"body that is no answer", "", cannedAnswer{status: 500, body: "canary"}},
		{"error that is an object", "", cannedAnswer{status: 400, body: `{"error":{"text":"canary"}}`}},
		{"control characters", "a  b   c", cannedAnswer{
			status: 400, body: `{"error":"a\r\nb\u0000\u001b\u2028c"}`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			failure := failureOf(t, test.answer)
			if failure.said != test.want {
				t.Errorf("said %q, want %q", failure.said, test.want)
			}
			if text := failure.Error() + failure.detail + failure.hint + failure.errorCode(); strings.Contains(text, "canary") {
				t.Errorf("the endpoint's words are in %q", text)
			}
		})
	}
}

func TestEndpointsWordsArePrintableAndShort(t *testing.T) {
	for _, description := range []string{
		strings.Repeat("x", 1000), strings.Repeat("ä", 500_000), strings.Repeat(`\u0007\ud800`, 400), "\xff\xfe" + strings.Repeat("z", 300),
	} {
		said := failureOf(t, cannedAnswer{status: 400, body: `{"error":"invalid_request","error_description":"` + description + `"}`}).said
		if n := utf8.RuneCountInString(said); n == 0 || n > 200 {
			t.Errorf("%.20q: %d characters", description, n)
		}
		if !utf8.ValidString(said) || strings.ContainsFunc(said, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%.20q: said %q", description, said)
		}
	}
}

func TestCredentialsAreMaskedInEveryForm(t *testing.T) {
	const id, secret = "app 1", `s3c"r\t: +%&<é`
	request := cannedRequest
	request.clientID, request.clientSecret = id, secret
	encode := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	for name, leak := range map[string]string{
		"raw":                      secret,
		"as a form":                "s3c%22r%5Ct%3A+%2B%25%26%3C%C3%A9",
		"in a path":                "s3c%22r%5Ct:%20+%25&%3C%C3%A9",
		"in JSON":                  `s3c\"r\\t: +%&<é`,
		"in JSON for HTML":         `s3c\"r\\t: +%\u0026\u003cé`,
		"in base64":                encode(secret),
		"in HTTP Basic":            encode(id + ":" + secret),
		"in HTTP Basic, form":      encode("app+1:s3c%22r%5Ct%3A+%2B%25%26%3C%C3%A9"),
		"of a parameter":           "param-canary",
		"of a header":              "header-canary",
		"of the endpoint's query":  "query-canary",
		"the endpoint's query":     "key=query-canary",
		"the token that it grants": "token-canary",
	} {
		t.Run(name, func(t *testing.T) {
			description, err := json.Marshal("before " + leak + " after")
			if err != nil {
				t.Fatal(err)
			}
			body := `{"error":"invalid_request","access_token":"token-canary","error_description":` +
				string(description) + `}`
			_, failure := askOnce(t, cannedAnswer{status: 400, body: body}, request)
			if failure == nil || failure.said != "invalid_request before *** after" {
				t.Errorf("got %+v", failure)
			}
		})
	}
}

func TestSecretThatHoldsAnotherIsMaskedAsAWhole(t *testing.T) {
	request := cannedRequest
	request.params = map[string][]string{"key": {"secret"}, "all": {"*", "-"}}
	request.headers = map[string][]string{"X-Key": {"secret-and-more"}}
	if got := request.mask("secret-and-more, secret, *-*"); got != "***, ***, *-*" {
		t.Errorf("got %q", got)
	}
	request.clientSecret = "*"
	if got := len(request.mask(strings.Repeat("*", 1<<20))); got > 3<<20 {
		t.Errorf("1 MiB became %d bytes", got)
	}
}

func TestRetryAfterIsReadAndBounded(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"":                               0,
		"0":                              0,
		"1":                              time.Second,
		" 120 ":                          2 * time.Minute,
		"3600":                           time.Hour,
		"3601":                           time.Hour,
		"31536000":                       time.Hour,
		"9223372036854775807":            time.Hour,
		"99999999999999999999999999999":  time.Hour,
		"-1":                             0,
		"1.5":                            0,
		"1e3":                            0,
		"soon":                           0,
		"120, 240":                       0,
		"Sun, 01 Mar 2026 12:00:30 GMT":  30 * time.Second,
		"Sunday, 01-Mar-26 12:00:30 GMT": 30 * time.Second,
		"Sun Mar  1 12:00:30 2026":       30 * time.Second,
		"Sun, 01 Mar 2026 11:00:00 GMT":  0,
		"Mon, 01 Mar 2027 12:00:00 GMT":  time.Hour,
		"Fri, 31 Dec 9999 23:59:59 GMT":  time.Hour,
		"Sat, 01 Jan 0000 00:00:00 GMT":  0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
	for answered, want := range map[string]time.Duration{
		"Sun, 01 Mar 2026 11:59:50 GMT": 40 * time.Second,
		"Sun, 01 Mar 2026 12:00:25 GMT": 5 * time.Second,
		"Sun, 01 Mar 2026 12:00:35 GMT": 0,
		"today":                         30 * time.Second,
	} {
		header := http.Header{"Retry-After": {"Sun, 01 Mar 2026 12:00:30 GMT"}, "Date": {answered}}
		if got := retryAfter(header, now); got != want {
			t.Errorf("a date in an answer of %q: got %v, want %v", answered, got, want)
		}
	}
	answer := cannedAnswer{status: 503, header: http.Header{"Retry-After": {"120"}}}
	if got := failureOf(t, answer).retryAfter; got != 2*time.Minute {
		t.Errorf("a 503 with 120: got %v", got)
	}
}

func TestScopesThatWereNotGranted(t *testing.T) {
	for _, test := range []struct {
		asked        []string
		member, want string // a member of the answer
	}{
		{[]string{"a", "b"}, ``, ""},
		{[]string{"a", "b"}, `"scope":null`, ""},
		{[]string{"a", "b"}, `"scope":"b a c"`, ""},
		{[]string{"a b", "c"}, `"scope":"c  b"`, "a"},
		{[]string{"a", "b"}, `"scope":""`, "a b"},
		{[]string{"a"}, `"scope":"A"`, "a"},
		{[]string{"a"}, `"scope":["a"]`, ""}, // no telling what was granted
		{[]string{"*"}, `"scope":"a b"`, ""},
		{nil, `"scope":"none"`, ""},
	} {
		request := cannedRequest
		request.scopes = test.asked
		granted, failure := askOnce(t, cannedAnswer{body: `{` + test.member + strings.Repeat(",", min(1, len(test.member))) + `"access_token":"tok-1"}`}, request)
		if failure != nil || granted.missingScope != test.want {
			t.Errorf("%q with %s: got %q, %v; want %q", test.asked, test.member, granted.missingScope, failure, test.want)
		}
	}
}

func FuzzTokenAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"access_token":"tok-1","token_type":"Bearer","expires_in":3600,"scope":"a"}`,
		`{"access_token":"` + cannedJWT(`{"exp":946685400,"iat":946684800}`) + `","expires_in":"1e400"}`,
		`{"access_token":"t","expires_in":-1e300}`, `{"access_token":"t\r\nX: y"}`, `{"error":{"a":[1]},"access_token":"t"}`,
		"\xef\xbb\xbf{}", "access_token=tok-1&expires_in=3600", "error=invalid_client&error_description=%00", `null`, `[]`,
		`{"scope":`, `{"scope":1,"access_token":"a..b"}`,
	} {
		f.Add(200, "application/json", []byte(seed))
		f.Add(401, "text/plain", []byte(seed))
	}
	f.Fuzz(func(t *testing.T, status int, mediaType string, body []byte) {
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		vetting := &vettingTransport{mask: cannedRequest.mask, now: func() time.Time { return now }}
		res := &http.Response{StatusCode: status, Header: withType(mediaType), Request: &http.Request{URL: &url.URL{}}}
		answer, failure := vetting.vet(res, body)
		if failure != nil {
			if utf8.RuneCountInString(failure.said) > 200 || strings.ContainsFunc(failure.said, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("said %q", failure.said)
			}
			return
		}
		if status < 200 || status > 299 {
			t.Errorf("status %d granted a token", status)
		}
		if answer.accessToken == "" || strings.ContainsFunc(answer.accessToken, func(r rune) bool { return r < '!' || r > '~' }) {
			t.Errorf("granted %q", answer.accessToken)
		}
		if got := vetting.granted.lifetime; got < time.Second || got > maxLifetime {
			t.Errorf("lifetime %v", got)
		}
	})
}

// An endpoint can send a lot, and masking takes its time.
func TestNoMoreIsMaskedThanMayBeShown(t *testing.T) {
	for text, want := range map[string]int{
		strings.Repeat("word ", 1<<18): maxQuoted / 5 * 5,
		strings.Repeat("a", 1<<20):     0,
		"short":                        5,
	} {
		quote(func(text string) string {
			if len(text) != want {
				t.Errorf("%d bytes are masked, want %d", len(text), want)
			}
			return text
		}, text)
	}
}

func TestMasksWhatAServerHasDecoded(t *testing.T) {
	for secret, repeated := range map[string]string{"ab%41cd12345678": "no client with abAcd12345678", "p+ss+word+1234": "no client with p ss word 1234"} {
		if got := maskSecrets(repeated, "app", secret); got != "no client with ***" {
			t.Errorf("%q", got)
		}
	}
	r := grantRequest{clientID: "app", clientSecret: "s3cret-canary", params: map[string][]string{"grant_type": {"client_credentials"}, "key": {"param-canary"}}}
	if got := r.mask("client_credentials is not allowed for param-canary"); got != "client_credentials is not allowed for ***" {
		t.Errorf("%q", got)
	}
}
