package faults

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// Whatever a token endpoint answers, clients get a token's page or a failure that says nothing, and the endpoint is
// asked no more often than it can bear.
func TestEndpointAnswers(t *testing.T) {
	invalid := want{"502 invalid_response", nothing, failed("invalid_response"), once, nothing}
	refused := want{"502 refused", nothing, failed("refused"), once, nothing}
	ailing := want{"503 server_error to be retried", nothing, failed("server_error"), thrice, nothing}
	group{rows: []row{
		// No token.
		{name: "empty", endpoint: says(200, "application/json", ""), ask: get, want: invalid},
		{name: "white space", endpoint: says(200, "application/json", " \r\n\t"), ask: get, want: invalid},
		{name: "no content", endpoint: says(204, "application/json", ""), ask: get, want: invalid},
		{name: "HTML", endpoint: says(200, "text/html", "<html>body-canary</html>"), ask: get, want: invalid},
		{name: "JSON cut short", endpoint: json200(`{"access_token":"canary","expir`), ask: get, want: invalid},
		{name: "JSON twice", endpoint: json200(`{"access_token":"canary"}{"access_token":"canary"}`), ask: get, want: invalid},
		{name: "array", endpoint: json200(`[{"access_token":"canary"}]`), ask: get, want: invalid},
		{name: "string", endpoint: json200(`"canary"`), ask: get, want: invalid},
		{name: "null", endpoint: json200(`null`), ask: get, want: invalid},
		{name: "deeply nested", endpoint: json200(strings.Repeat("[", 900_000)), ask: get, want: invalid},
		{name: "deeply nested member", endpoint: json200(`{"x":` + strings.Repeat(`{"x":`, 100_000) + `1` + strings.Repeat("}", 100_001)), ask: get, want: invalid},
		{name: "UTF-16", endpoint: json200("\xff\xfe{\x00}\x00"), ask: get, want: invalid},
		{name: "a byte more than 1 MiB", endpoint: json200(padded(1<<20 + 1)), ask: get, want: invalid},
		{name: "form as an image", endpoint: says(200, "image/png", "access_token=canary"), ask: get, want: invalid},
		{name: "no access_token", endpoint: json200(`{"id_token":"canary"}`), ask: get, want: invalid},
		{name: "access_token is empty", endpoint: json200(`{"access_token":""}`), ask: get, want: invalid},
		{name: "access_token is a number", endpoint: json200(`{"access_token":17}`), ask: get, want: invalid},
		{name: "access_token is an object", endpoint: json200(`{"access_token":{"value":"canary"}}`), ask: get, want: invalid},
		{name: "line break in the token", endpoint: json200(`{"access_token":"t\r\nX-Injected: canary"}`), ask: get, want: invalid},
		{name: "space in the token", endpoint: json200(`{"access_token":"t canary"}`), ask: get, want: invalid},
		{name: "NUL in the token", endpoint: json200(`{"access_token":"canary\u0000"}`), ask: get, want: invalid},
		{name: "DEL in the token", endpoint: json200(`{"access_token":"canary\u007f"}`), ask: get, want: invalid},
		{name: "umlaut in the token", endpoint: json200(`{"access_token":"tökencanary"}`), ask: get, want: invalid},
		{name: "a MAC token", endpoint: json200(`{"access_token":"canary","token_type":"mac"}`), ask: get, want: invalid},
		{name: "a token for no API", endpoint: json200(`{"access_token":"canary","token_type":"N_A"}`), ask: get, want: invalid},
		{name: "gzip that unpacks to 64 MiB", endpoint: zipped(bytes.Repeat([]byte(" "), 64<<20)), ask: get, want: invalid},

		// Refusals.
		{name: "error beside a token", endpoint: json200(`{"access_token":"canary","error":"invalid_scope"}`), ask: get,
			want: want{"502 invalid_scope", nothing, failed("invalid_scope"), once, nothing}},
		{name: "error that is an object", endpoint: json200(`{"access_token":"canary","error":{"about":"canary"}}`), ask: get, want: refused},
		{name: "error that repeats the secret", endpoint: says(401, "application/json",
			`{"error":"invalid_client","error_description":"s3cret-canary is wrong\r\n"}`), ask: get,
			want: want{"502 invalid_client", nothing, failed("invalid_client"), once, nothing}},
		{name: "400", endpoint: says(400, "text/plain", "body-canary"), ask: get, want: refused},
		{name: "401 with a challenge of 60 KiB", endpoint: by(func(v *visit) {
			v.w.Header().Set("Www-Authenticate", strings.Repeat("a,", 30<<10))
			v.w.WriteHeader(http.StatusUnauthorized)
		}), ask: get, want: refused},
		{name: "403", endpoint: says(403, "", ""), ask: each(get, get),
			want: want{"502 refused | 502 refused", nothing, failed("refused"), once, nothing}},
		{name: "404", endpoint: says(404, "text/html", "body-canary"), ask: get, want: invalid},
		{name: "418", endpoint: says(418, "text/html", "body-canary"), ask: get, want: invalid},
		{name: "redirect that keeps the method", endpoint: redirects(307), ask: get, want: invalid},
		{name: "redirect to a GET", endpoint: redirects(303), ask: get, want: invalid},
		{name: "redirect in a circle", endpoint: redirects(308), ask: get, want: invalid},

		// Not well.
		{name: "500", endpoint: says(500, "application/json", `{"error":"canary`), ask: get, want: ailing},
		{name: "500 with a token", endpoint: says(500, "application/json", `{"access_token":"canary"}`), ask: get, want: ailing},
		{name: "408", endpoint: says(408, "", ""), ask: get, want: ailing},
		{name: "429", endpoint: says(429, "", ""), ask: get, want: ailing},
		{name: "503 for half a minute", endpoint: unavailable("30"), ask: each(get, get),
			want: want{"503 server_error to be retried | 503 server_error to be retried", nothing, failed("server_error"), once, nothing}},
		{name: "503 for a century", endpoint: unavailable("3155760000"), ask: get,
			want: want{"503 server_error to be retried", nothing, failed("server_error"), once, nothing}},
		{name: "503 for less than no time", endpoint: unavailable("-1"), ask: get, want: ailing},
		{name: "503 until a date long ago", endpoint: unavailable("Thu, 01 Jan 1970 00:00:00 GMT"), ask: get, want: ailing},
		{name: "503 for a number without end", endpoint: unavailable(strings.Repeat("9", 10_000)), ask: get,
			want: want{"503 server_error to be retried", nothing, failed("server_error"), thriceAtMost, nothing}},
		{name: "well at the third try", endpoint: by((*visit).breakOff, fails(502), (*visit).grant), ask: get,
			want: want{"200 GET with token-1", "GET / token-1", gotFirst, thrice, nothing}},
	}}.run(t)
}

// Tokens that come in odd ways are used all the same.
func TestOddTokens(t *testing.T) {
	fine := want{"200 GET with odd | 200 GET with odd", "GET / odd | GET / odd", gotFirst, once, nothing}
	atEnd := want{"200 GET with odd", "GET / odd", gotFirst + then + "the token has expired already when it is granted (miss)", once, nothing}
	const token = `{"access_token":"odd","token_type":"Bearer"`
	years := 10 * 365 * 24 * time.Hour
	group{rows: []row{
		// The clock of the endpoint, and what it says about time.
		{name: "expires_in is 0", endpoint: json200(token + `,"expires_in":0}`), ask: get, want: atEnd},
		{name: "expires_in is negative", endpoint: json200(token + `,"expires_in":-3600}`), ask: get, want: atEnd},
		{name: "expires_in is 1", endpoint: json200(token + `,"expires_in":1}`), ask: get,
			want: want{"200 GET with odd", "GET / odd", gotFirst, once, nothing}},
		{name: "expires_in is huge", endpoint: json200(token + `,"expires_in":99999999999999}`), ask: each(get, get), want: fine},
		{name: "expires_in has no end", endpoint: json200(token + `,"expires_in":` + strings.Repeat("9", 10_000) + `}`), ask: each(get, get), want: fine},
		{name: "expires_in is 1e300", endpoint: json200(token + `,"expires_in":1e300}`), ask: each(get, get), want: fine},
		{name: "expires_in is a string", endpoint: json200(token + `,"expires_in":"600"}`), ask: each(get, get), want: fine},
		{name: "expires_in is a word", endpoint: json200(token + `,"expires_in":"soon"}`), ask: each(get, get), want: fine},
		{name: "expires_in is a fraction", endpoint: json200(token + `,"expires_in":599.5}`), ask: each(get, get), want: fine},
		{name: "expires_in is an array", endpoint: json200(token + `,"expires_in":[600]}`), ask: each(get, get), want: fine},
		{name: "expires_in is null", endpoint: json200(token + `,"expires_in":null}`), ask: each(get, get), want: fine},
		{name: "refresh_in is negative", endpoint: json200(token + `,"expires_in":600,"refresh_in":-5}`), ask: each(get, get), want: fine},
		{name: "refresh_in is after the end", endpoint: json200(token + `,"expires_in":600,"refresh_in":6000}`), ask: each(get, get), want: fine},
		{name: "Date is years ago", endpoint: dated(-years, token+`,"expires_in":600}`), ask: each(get, get), want: fine},
		{name: "Date is years ahead", endpoint: dated(years, token+`,"expires_in":600}`), ask: each(get, get), want: fine},
		{name: "Date is no date", endpoint: by(func(v *visit) {
			v.w.Header().Set("Date", "yesterday")
			v.say(token + `}`)
		}), ask: each(get, get), want: fine},
		{name: "a JWT that has expired", endpoint: json200(`{"access_token":"` + jwt(time.Now().Add(-years)) + `","expires_in":600}`),
			upstream: by(telling), ask: get, want: want{"200 a JWT", "GET /", gotFirst + then + "the token has expired already when it is granted (miss)", once, nothing}},
		{name: "a JWT for ten thousand years", endpoint: json200(`{"access_token":"` + jwt(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)) + `"}`),
			upstream: by(telling), ask: get, want: want{"200 a JWT", "GET /", gotFirst, once, nothing}},

		// Its form.
		{name: "JSON as HTML", endpoint: says(200, "text/html", token+`}`), ask: each(get, get), want: fine},
		{name: "after a byte order mark", endpoint: json200("\xef\xbb\xbf" + token + `}`), ask: each(get, get), want: fine},
		{name: "a form as text", endpoint: says(200, "text/plain", "access_token=odd&expires_in=600"), ask: each(get, get), want: fine},
		{name: "with status 201", endpoint: says(201, "application/json", token+`}`), ask: each(get, get), want: fine},
		{name: "with a refresh token", endpoint: json200(token + `,"refresh_token":"canary"}`), ask: each(get, get), want: fine},
		{name: "among a thousand members", endpoint: json200(token + strings.Repeat(`,"canary":"canary"`, 1000) + `}`), ask: each(get, get), want: fine},
		{name: "1 MiB", endpoint: json200(padded(1 << 20)), ask: each(get, get), want: fine},
		{name: "zipped", endpoint: zipped([]byte(token + `}`)), ask: each(get, get), want: fine},
		{name: "with a cookie", endpoint: by(func(v *visit) {
			v.w.Header().Set("Set-Cookie", "session=canary")
			v.say(token + `}`)
		}), ask: each(get, get), want: fine},
		{name: "after interim answers", endpoint: by(func(v *visit) {
			v.w.WriteHeader(http.StatusProcessing)
			v.w.WriteHeader(http.StatusEarlyHints)
			v.say(token + `}`)
		}), ask: each(get, get), want: fine},
		{name: "of an unusual type", endpoint: json200(`{"access_token":"odd","token_type":"Canary"}`), ask: get,
			want: want{"200 GET with odd", "GET / odd", gotFirst + then + "the token has an unusual token_type (miss)", once, nothing}},
		{name: "for fewer scopes", options: "scope one two", endpoint: json200(token + `,"scope":"two"}`), ask: get,
			want: want{"200 GET with odd", "GET / odd", gotFirst + then + "the endpoint granted fewer scopes than asked for (miss)", once, nothing}},
	}}.run(t)
}

// says is an endpoint that answers with that.
func says(status int, contentType, body string) script {
	return by(func(v *visit) {
		v.w.Header().Set("Content-Type", contentType)
		v.w.WriteHeader(status)
		v.say(body)
	})
}

func json200(body string) script { return says(http.StatusOK, "application/json", body) }

func fails(status int) func(*visit) { return func(v *visit) { v.w.WriteHeader(status) } }

func unavailable(retryAfter string) script {
	return by(func(v *visit) {
		v.w.Header().Set("Retry-After", retryAfter)
		v.w.WriteHeader(http.StatusServiceUnavailable)
	})
}

// redirects is an endpoint that redirects to itself.
func redirects(status int) script {
	return by(func(v *visit) { http.Redirect(v.w, v.r, "/token?code=canary", status) })
}

// dated is an endpoint whose clock differs by so much.
func dated(by time.Duration, body string) script {
	return script{answer: func(v *visit) {
		v.w.Header().Set("Date", time.Now().Add(by).UTC().Format(http.TimeFormat))
		v.say(body)
	}}
}

func zipped(body []byte) script {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write(body)
	_ = w.Close()
	return by(func(v *visit) {
		v.w.Header().Set("Content-Encoding", "gzip")
		v.say(packed.String())
	})
}

// padded is an answer with a token, of that size.
func padded(size int) string {
	const start, end = `{"access_token":"odd","padding":"`, `"}`
	return start + strings.Repeat("x", size-len(start)-len(end)) + end
}

// jwt is a token that tells when it expires.
func jwt(exp time.Time) string {
	encode := func(part string) string { return base64.RawURLEncoding.EncodeToString([]byte(part)) }
	return encode(`{"alg":"none"}`) + "." + encode(fmt.Sprintf(`{"exp":%d}`, exp.Unix())) + ".c2lnbmF0dXJl"
}

// telling is an upstream that says what kind of token it got.
func telling(v *visit) {
	if strings.Count(gatewaytest.Bearer(v.r), ".") == 2 {
		v.say("a JWT")
		return
	}
	v.accept()
}
