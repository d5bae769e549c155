package endpoint

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/dpop"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// cannedRequest has a credential in every place that can hold one.
var cannedRequest = Request{
	Endpoint:     "https://auth.example.com/token?key=query-canary",
	ClientID:     "app",
	ClientSecret: "secret-canary",
	AuthMethod:   AuthSecretBasic,
	Format:       FormatForm,
	Params:       map[string][]string{"api_key": {"param-canary"}},
	Headers:      map[string][]string{"X-Key": {"header-canary"}},
}

// cannedTTL is how long a token lives that tells nothing about it.
const cannedTTL = 7 * time.Minute

// askOnce sends one token request.
func askOnce(t testing.TB, endpoint http.RoundTripper, request Request) (Granted, *Error) {
	client := &Client{Transport: endpoint, Timeout: time.Minute, DefaultTTL: cannedTTL}
	return client.send(t.Context(), request, "")
}

// grantOf is what the answer grants.
func grantOf(t testing.TB, answer servertest.Answer) Granted {
	t.Helper()
	granted, failure := askOnce(t, answer, cannedRequest)
	if failure != nil {
		t.Fatalf("%.100q: %v %s", answer.Body, failure, failure.Said)
	}
	return granted
}

// failureOf is what makes the answer useless.
func failureOf(t testing.TB, answer servertest.Answer) *Error {
	t.Helper()
	granted, failure := askOnce(t, answer, cannedRequest)
	if failure == nil {
		t.Fatalf("%.100q: granted %q", answer.Body, granted.Value)
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
			got := grantOf(t, servertest.Answer{Header: servertest.WithType(test.contentType), Body: test.body})
			if got.Value != "tok-1" || got.Scope != "a b" || !got.ScopeKnown || got.Lifetime != time.Minute {
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
		{"too many members", "application/json", `{` + strings.Repeat(`"a":1,`, maxMembers) + `"access_token":"tok-1"}`, "neither JSON nor a form"},
		{"a colon missing", "application/json", `{"access_token" "tok-1"}`, "neither JSON nor a form"},
		{"a comma too many", "application/json", `{"access_token":"tok-1",}`, "neither JSON nor a form"},
		{"a token too long", "application/json", `{"access_token":"` + strings.Repeat("x", MaxToken+1) + `"}`, "the answer's access_token has 65537 bytes"},
		{"a token too long, in a form", "text/plain", `access_token=` + strings.Repeat("x", MaxToken+1), "the answer's access_token has 65537 bytes"},
		{"deep", "application/json", strings.Repeat(`{"a":`, 200_000), "neither JSON nor a form"},
	} {
		t.Run(test.name, func(t *testing.T) {
			failure := failureOf(t, servertest.Answer{Header: servertest.WithType(test.contentType), Body: test.body})
			if failure.Class != ClassInvalidResponse || failure.ErrorCode() != "invalid_response" || failure.IsTransient() || failure.RefusesClient() {
				t.Errorf("got %+v", failure)
			}
			if !strings.Contains(failure.Detail, test.detail) || failure.Said != "" {
				t.Errorf("detail %q, said %q; want the detail %q alone", failure.Detail, failure.Said, test.detail)
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
		{`3153600000`, MaxLifetime},
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
			if got := grantOf(t, servertest.Answer{Body: `{"access_token":"tok-1"` + member + `}`}).Lifetime; got != test.want {
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
		granted := grantOf(t, servertest.Answer{Body: `{"access_token":"tok-1","expires_in":3600,"refresh_in":` + refreshIn + `}`})
		if granted.RefreshIn != want || granted.Lifetime != time.Hour {
			t.Errorf("%s: renewed in %v of %v, want %v", refreshIn, granted.RefreshIn, granted.Lifetime, want)
		}
	}
	form := servertest.Answer{Header: servertest.WithType("application/x-www-form-urlencoded"), Body: "access_token=tok-1&refresh_in=60"}
	if granted := grantOf(t, form); granted.RefreshIn != time.Minute {
		t.Errorf("in a form: renewed in %v", granted.RefreshIn)
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
		{"a hundred years", claims(3153600000, 0), "", MaxLifetime},
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
				if got := grantOf(t, servertest.Answer{Body: body}).Lifetime; got != test.want {
					t.Errorf("got %v, want %v", got, test.want)
				}
			})
		})
	}
}

// Whatever the answer and the token say: that is for endpoints that say it wrong.
func TestLifetimeIsThatOfTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, members := range []string{
			`"access_token":"tok-1"`, `"access_token":"tok-1","expires_in":0`, `"access_token":"tok-1","expires_in":-1`, `"access_token":"tok-1","expires_in":3600000`,
			`"access_token":"tok-1","expires_in":"never"`, `"access_token":"` + cannedJWT(`{"exp":946684700}`) + `"`,
		} {
			request := cannedRequest
			request.TTL = 2 * time.Hour
			granted, failure := askOnce(t, servertest.Answer{Body: `{` + members + `,"refresh_in":60}`}, request)
			if failure != nil || granted.Lifetime != 2*time.Hour || granted.LifetimeGuessed || !granted.LifetimeFixed || granted.AtEnd || granted.RefreshIn != time.Minute {
				t.Errorf("%s: got %+v, %v", members, granted, failure)
			}
		}
	})
}

// Whoever takes the token for as long as it says must not give it to others.
func TestTTLIsPartOfTheKeys(t *testing.T) {
	without, short, long, same := cannedRequest, cannedRequest, cannedRequest, cannedRequest
	short.TTL, long.TTL, same.TTL = time.Minute, time.Hour, time.Hour
	for _, key := range []func(Request) GrantKey{Request.Key, func(r Request) GrantKey { return r.PortableKey([]string{"a", "b"}) }} {
		if key(without) == key(short) || key(short) == key(long) || key(long) != key(same) {
			t.Error("the lifetimes are not told apart")
		}
	}
	if n := len(without.Fields()); n != len(short.Fields())-1 {
		t.Errorf("%d fields without, so that gateways that don't know the option have another key", n)
	}
}

func TestLifetimeCountsFromWhenTheRequestWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := time.Now()
		slow := servertest.Func(func(req *http.Request) (*http.Response, error) {
			time.Sleep(5 * time.Second)
			return servertest.Answer{Body: `{"access_token":"tok-1","expires_in":60}`}.RoundTrip(req)
		})
		granted, failure := askOnce(t, slow, cannedRequest)
		if failure != nil || !granted.Sent.Equal(before) || granted.Lifetime != time.Minute {
			t.Errorf("sent %v, lifetime %v, %v; want %v and a minute", granted.Sent, granted.Lifetime, failure, before)
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
			failure := failureOf(t, servertest.Answer{Body: `{"access_token":` + token + `,"token_type":"Bearer","expires_in":60}`})
			if failure.Class != ClassInvalidResponse || !strings.Contains(failure.Detail, "access_token") || failure.Said != "" {
				t.Errorf("got %+v", failure)
			}
		})
	}
	longest := `{` + strings.Repeat(`"a":1,`, maxMembers-1) + `"access_token":"` + strings.Repeat("x", MaxToken) + `"}`
	if got := grantOf(t, servertest.Answer{Body: longest}).Value; len(got) != MaxToken {
		t.Errorf("got %d bytes, want %d", len(got), MaxToken)
	}
	const visible = "!#$%&'()*+,-./0123456789:;<=>?@AZ[]^_`az{|}~"
	if got := grantOf(t, servertest.Answer{Body: `{"access_token":"` + visible + `"}`}).Value; got != visible {
		t.Errorf("got %q, want %q", got, visible)
	}
}

// A type that names another way to use the token is refused. A type that is only another name is not.
func TestTokenTypeDecidesHowATokenCanBeUsed(t *testing.T) {
	for tokenType, unusual := range map[string]string{ // "-" if the token is refused
		`"Bearer"`: "", `"bearer"`: "", `"BEARER"`: "", `" Bearer "`: "", `""`: "", `null`: "",
		`"DPoP"`: "-", `"dpop"`: "-", `"PoP"`: "-", `"pop "`: "-", `"N_A"`: "-", `"n_a"`: "-", `"mac"`: "-", `"MAC"`: "-",
		`"BearerToken"`: "BearerToken", `"Application Access Token"`: "Application Access Token", `"Basic"`: "Basic", `"JWT"`: "JWT",
		`1`: "1", `true`: "true", `["Bearer"]`: `["Bearer"]`, `{}`: "{}",
		`"a\r\nb\u0000"`: "a  b ", `"secret-canary tok-1"`: "*** ***", `"` + strings.Repeat("x", 8<<10) + `"`: "(too long)",
		`"` + strings.Repeat("x y ", 1000) + `"`: strings.Repeat("x y ", 50),
	} {
		t.Run(fmt.Sprintf("%.40s", tokenType), func(t *testing.T) {
			granted, failure := askOnce(t, servertest.Answer{Body: `{"access_token":"tok-1","token_type":` + tokenType + `}`}, cannedRequest)
			switch {
			case unusual != "-" && (failure != nil || granted.UnusualType != unusual):
				t.Errorf("got %q, %v; want %q", granted.UnusualType, failure, unusual)
			case unusual == "-" && (failure == nil || failure.Class != ClassInvalidResponse || !strings.HasPrefix(failure.Detail, "the token_type is not Bearer")):
				t.Errorf("got %+v", failure)
			}
		})
	}
	grantOf(t, servertest.Answer{Body: `{"access_token":"tok-1"}`})
}

func TestOnlyBoundTokensAreTakenWhereTheyAreAskedFor(t *testing.T) {
	for tokenType, ok := range map[string]bool{`"DPoP"`: true, `"dpop"`: true, `"Bearer"`: false, `"BearerToken"`: false, `"PoP"`: false, `""`: false, `null`: false} {
		key, err := dpop.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		request := cannedRequest
		request.Proofs = key
		granted, failure := askOnce(t, servertest.Answer{Body: `{"access_token":"tok-1","token_type":` + tokenType + `}`}, request)
		if (failure == nil) != ok || granted.UnusualType != "" {
			t.Errorf("%s: got %+v, %v", tokenType, granted, failure)
		}
	}
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
			answer := servertest.Answer{Body: `{"access_token":"tok-1",` + test.member + `}`}
			if test.contentType != "" {
				answer = servertest.Answer{Header: servertest.WithType(test.contentType), Body: "access_token=tok-1" + test.member}
			}
			if test.code == "" {
				grantOf(t, answer)
				return
			}
			if failure := failureOf(t, answer); failure.ErrorCode() != test.code || failure.Status != 200 {
				t.Errorf("got %q (%+v), want %q", failure.ErrorCode(), failure, test.code)
			}
		})
	}
}

func TestFailureIsClassifiedByStatusAndCode(t *testing.T) {
	code := func(code string) string { return `{"error":"` + code + `","error_description":"no"}` }
	for _, test := range []struct {
		status         int
		body, code     string
		class          Class
		refusesClient  bool
		allowedToRetry bool
	}{
		{status: 301, code: "invalid_response", class: ClassInvalidResponse},
		{status: 302, code: "invalid_response", class: ClassInvalidResponse},
		{status: 304, code: "invalid_response", class: ClassInvalidResponse},
		{status: 307, body: `{"access_token":"tok-1"}`, code: "invalid_response", class: ClassInvalidResponse},
		{status: 302, body: code("invalid_client"), code: "invalid_client", class: ClassRefused, refusesClient: true},
		{status: 400, body: code("invalid_request"), code: "invalid_request", class: ClassRefused},
		{status: 400, body: code("invalid_scope"), code: "invalid_scope", class: ClassRefused},
		{status: 400, body: code("unauthorized_client"), code: "unauthorized_client", class: ClassRefused},
		{status: 400, body: code("unsupported_grant_type"), code: "unsupported_grant_type", class: ClassRefused},
		{status: 400, body: code("invalid_client"), code: "invalid_client", class: ClassRefused, refusesClient: true},
		{status: 400, body: "<html>", code: "refused", class: ClassRefused},
		{status: 400, body: `{"access_token":"tok-1"}`, code: "refused", class: ClassRefused},
		{status: 401, body: code("invalid_client"), code: "invalid_client", class: ClassRefused, refusesClient: true},
		{status: 401, body: code("invalid_scope"), code: "invalid_scope", class: ClassRefused},
		{status: 401, code: "refused", class: ClassRefused, refusesClient: true},
		{status: 401, body: "Unauthorized", code: "refused", class: ClassRefused, refusesClient: true},
		{status: 403, code: "refused", class: ClassRefused, refusesClient: true},
		{status: 403, body: code("access_denied"), code: "access_denied", class: ClassRefused},
		{status: 402, code: "invalid_response", class: ClassInvalidResponse},
		{status: 404, body: "not here", code: "invalid_response", class: ClassInvalidResponse},
		{status: 404, body: code("Not Found"), code: "invalid_response", class: ClassInvalidResponse},
		{status: 404, body: code("invalid_client"), code: "invalid_client", class: ClassRefused, refusesClient: true},
		{status: 404, body: code("temporarily_unavailable"), code: "temporarily_unavailable", class: ClassServerError, allowedToRetry: true},
		{status: 405, code: "invalid_response", class: ClassInvalidResponse},
		{status: 407, code: "invalid_response", class: ClassInvalidResponse},
		{status: 415, code: "invalid_response", class: ClassInvalidResponse},
		{status: 421, code: "invalid_response", class: ClassInvalidResponse},
		{status: 422, body: code("invalid_scope"), code: "invalid_scope", class: ClassRefused},
		{status: 451, code: "invalid_response", class: ClassInvalidResponse},
		{status: 408, code: "server_error", class: ClassServerError, allowedToRetry: true},
		{status: 429, body: code("slow_down"), code: "server_error", class: ClassServerError, allowedToRetry: true},
		{status: 500, code: "server_error", class: ClassServerError, allowedToRetry: true},
		{status: 502, body: "<html>", code: "server_error", class: ClassServerError, allowedToRetry: true},
		{status: 503, body: code("temporarily_unavailable"), code: "temporarily_unavailable", class: ClassServerError, allowedToRetry: true},
		{status: 599, code: "server_error", class: ClassServerError, allowedToRetry: true},
		{status: 200, body: code("invalid_client"), code: "invalid_client", class: ClassRefused, refusesClient: true},
		{status: 200, body: code("server_error"), code: "server_error", class: ClassServerError, allowedToRetry: true},
		{status: 204, code: "invalid_response", class: ClassInvalidResponse},
		{status: 101, code: "invalid_response", class: ClassInvalidResponse},
	} {
		t.Run(fmt.Sprint(test.status, test.body), func(t *testing.T) {
			failure := failureOf(t, servertest.Answer{Status: test.status, Body: test.body})
			if failure.Status != test.status || failure.ErrorCode() != test.code || failure.Class != test.class {
				t.Errorf("got %d %s (%s), want %d %s (%s)",
					failure.Status, failure.ErrorCode(), failure.Class, test.status, test.code, test.class)
			}
			if failure.RefusesClient() != test.refusesClient || failure.IsTransient() != test.allowedToRetry {
				t.Errorf("refuses the client %t, transient %t; want the opposite of one", failure.RefusesClient(), failure.IsTransient())
			}
		})
	}
}

func TestErrorCodeIsRegisteredOrAClass(t *testing.T) {
	classes := []string{"refused", "unreachable", "timeout", "server_error", "invalid_response"}
	for _, code := range []string{"INVALID_CLIENT", "invalid_client ", "invalid_token", "body-canary", " ", `\u0000`, "unreachable!"} {
		for _, status := range []int{200, 302, 400, 401, 500} {
			failure := failureOf(t, servertest.Answer{Status: status, Body: `{"error":"` + code + `"}`})
			if got := failure.ErrorCode(); !slices.Contains(classes, got) {
				t.Errorf("%d with %q: %q", status, code, got)
			}
		}
	}
	for _, code := range registeredErrors {
		if got := failureOf(t, servertest.Answer{Status: 400, Body: `{"error":"` + code + `"}`}).ErrorCode(); got != code {
			t.Errorf("%q: %q", code, got)
		}
	}
}

func TestEndpointsWordsAreForTheLogAlone(t *testing.T) {
	for _, test := range []struct {
		name, want string
		answer     servertest.Answer
	}{
		{"code and description", "odd-finch it is because-finch", servertest.Answer{
			Status: 400, Body: `{"error":"odd-finch","error_description":"it is because-finch"}`}},
		{"form", "odd-finch because-finch", servertest.Answer{
			Status: 400, Header: servertest.WithType("text/plain"), Body: "error=odd-finch&error_description=because-finch"}},
		{"token type", "mac", servertest.Answer{Body: `{"access_token":"t","token_type":"mac"}`}},
		{"redirect", "redirects to https://other.example.net/finch", servertest.Answer{
			Status: 307, Header: http.Header{"Location": {"https://user:pw@other.example.net/finch?code=query#fragment"}}}},
		{"relative redirect", "redirects to https://auth.example.com/login-finch", servertest.Answer{
			Status: 302, Header: http.Header{"Location": {"/login-finch?from=query"}}}},
		{"redirect to nowhere", "", servertest.Answer{Status: 302, Header: http.Header{"Location": {"://finch"}}}},
		{"body that is no answer", "", servertest.Answer{Status: 500, Body: "finch"}},
		{"error that is an object", "", servertest.Answer{Status: 400, Body: `{"error":{"text":"finch"}}`}},
		{"control characters", "a  b   c", servertest.Answer{
			Status: 400, Body: `{"error":"a\r\nb\u0000\u001b\u2028c"}`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			failure := failureOf(t, test.answer)
			if failure.Said != test.want {
				t.Errorf("said %q, want %q", failure.Said, test.want)
			}
			if text := failure.Error() + failure.Detail + failure.Hint + failure.ErrorCode(); strings.Contains(text, "finch") {
				t.Errorf("the endpoint's words are in %q", text)
			}
		})
	}
}

func TestEndpointsWordsArePrintableAndShort(t *testing.T) {
	for _, description := range []string{
		strings.Repeat("x", 1000), strings.Repeat("ä", 500_000), strings.Repeat(`\u0007\ud800`, 400), "\xff\xfe" + strings.Repeat("z", 300),
	} {
		said := failureOf(t, servertest.Answer{Status: 400, Body: `{"error":"invalid_request","error_description":"` + description + `"}`}).Said
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
	request.ClientID, request.ClientSecret = id, secret
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
		"the token that it grants": "token-canary",
	} {
		t.Run(name, func(t *testing.T) {
			description, err := json.Marshal("before " + leak + " after")
			if err != nil {
				t.Fatal(err)
			}
			body := `{"error":"invalid_request","access_token":"token-canary","error_description":` +
				string(description) + `}`
			_, failure := askOnce(t, servertest.Answer{Status: 400, Body: body}, request)
			if failure == nil || failure.Said != "invalid_request before *** after" {
				t.Errorf("got %+v", failure)
			}
		})
	}
}

func TestSecretThatHoldsAnotherIsMaskedAsAWhole(t *testing.T) {
	request := cannedRequest
	request.Params = map[string][]string{"key": {"secret"}, "all": {"*", "-"}}
	request.Headers = map[string][]string{"X-Key": {"secret-and-more"}}
	if got := request.secrets().Quote("secret-and-more, secret, *-*"); got != "***, ***, *-*" {
		t.Errorf("got %q", got)
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
	answer := servertest.Answer{Status: 503, Header: http.Header{"Retry-After": {"120"}}}
	if got := failureOf(t, answer).RetryAfter; got != 2*time.Minute {
		t.Errorf("a 503 with 120: got %v", got)
	}
}

// Clocks are only to blame where a time by the other clock is what counts.
func TestCauseOfATokenAtItsEndIsNotGuessed(t *testing.T) {
	const now = 946684800 // when a synctest bubble begins
	claims := func(iat, exp int) string { return cannedJWT(fmt.Sprintf(`{"iat":%d,"exp":%d}`, now+iat, now+exp)) }
	date := func(ahead time.Duration) string {
		return time.Unix(now, 0).Add(ahead).UTC().Format(http.TimeFormat)
	}
	for _, test := range []struct{ name, members, date, want string }{
		{"expires_in", `"access_token":"tok-1","expires_in":0`, "", "expires_in says so; if the token lives longer, set ttl"},
		{"expires_in, and clocks that differ", `"access_token":"tok-1","expires_in":0`, date(time.Hour), "expires_in says so; if the token lives longer, set ttl"},
		{"what is left of a token that was kept", `"access_token":"` + claims(-3600, 0) + `","expires_in":0`, "", "the endpoint hands out a token that it has kept until its end"},
		{"what is left of it, by the clock", `"access_token":"` + claims(-3600, 0) + `","expires_in":3600`, date(0), "the endpoint hands out a token that it has kept until its end"},
		{"its end, and nothing else", `"access_token":"` + claims(-3600, -1) + `"`, "", "its exp says so; compare the clocks of this machine and the endpoint"},
		{"its end by a clock that differs", `"access_token":"` + claims(-3600, 0) + `","expires_in":3600`, date(-time.Hour), "its exp says so, and this machine's clock is 1h0m0s ahead of the endpoint's; set it right"},
		{"no life at all", `"access_token":"` + claims(0, 0) + `"`, "", "its exp and iat say so; if the token lives longer, set ttl"},
		{"an hour", `"access_token":"tok-1","expires_in":3600`, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				header := servertest.WithType("application/json")
				if test.date != "" {
					header.Set("Date", test.date)
				}
				granted := grantOf(t, servertest.Answer{Header: header, Body: "{" + test.members + "}"})
				if granted.AtEndHint != test.want || granted.AtEnd != (test.want != "") {
					t.Errorf("got %q, want %q", granted.AtEndHint, test.want)
				}
			})
		})
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
		{[]string{"a", "b"}, `"scope":"a,b"`, ""},
		{[]string{"a", "b"}, `"scope":"a, c"`, "b"},
		{[]string{"a,b"}, `"scope":"a,b"`, ""},
		{[]string{"a,b", "c,d"}, `"scope":"a b c"`, "c,d"},
		{[]string{"a,"}, `"scope":"a"`, ""},
		{[]string{","}, `"scope":"a"`, ","},
		{[]string{"*"}, `"scope":"a b"`, ""},
		{[]string{"*,a"}, `"scope":"a"`, "*,a"},
		{[]string{"a,,b"}, `"scope":"b a"`, ""},
		{[]string{"a", "a,b"}, `"scope":"a,b"`, ""},
		{[]string{"a", "a,b"}, `"scope":"c,a"`, "a,b"},
		{[]string{"a"}, `"scope":"b,*"`, ""},
		{nil, `"scope":"none"`, ""},
	} {
		request := cannedRequest
		request.Scopes = test.asked
		granted, failure := askOnce(t, servertest.Answer{Body: `{` + test.member + strings.Repeat(",", min(1, len(test.member))) + `"access_token":"tok-1"}`}, request)
		if failure != nil || granted.MissingScope != test.want {
			t.Errorf("%q with %s: got %q, %v; want %q", test.asked, test.member, granted.MissingScope, failure, test.want)
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
		vetting := &vettingTransport{secrets: cannedRequest.secrets(), now: func() time.Time { return now }}
		res := &http.Response{StatusCode: status, Header: servertest.WithType(mediaType), Request: &http.Request{URL: &url.URL{}}}
		answer, failure := vetting.vet(res, body)
		if failure != nil {
			if utf8.RuneCountInString(failure.Said) > 200 || strings.ContainsFunc(failure.Said, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("said %q", failure.Said)
			}
			return
		}
		if status < 200 || status > 299 {
			t.Errorf("status %d granted a token", status)
		}
		if answer.accessToken == "" || strings.ContainsFunc(answer.accessToken, func(r rune) bool { return r < '!' || r > '~' }) {
			t.Errorf("granted %q", answer.accessToken)
		}
		if got := grantedBy(answer, res.Header, now).Lifetime; got < time.Second || got > MaxLifetime {
			t.Errorf("lifetime %v", got)
		}
	})
}

func TestNameOfTheGrantIsNotMasked(t *testing.T) {
	r := Request{ClientID: "app", ClientSecret: "s3cret-canary", Params: map[string][]string{"grant_type": {"client_credentials"}, "key": {"param-canary"}}}
	if got := r.secrets().Quote("client_credentials is not allowed for param-canary"); got != "client_credentials is not allowed for ***" {
		t.Errorf("%q", got)
	}
}
