package endpoint

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

func TestSecretThatComesFromAWrongFileIsSeen(t *testing.T) {
	for secret, want := range map[string]string{
		"\xff\xfes\x003\x00":             "is in UTF-16",
		"\xfe\xff\x00s\x003":             "is in UTF-16",
		"s\x003\x00c\x00":                "is in UTF-16",
		"\xef\xbb\xbfs3cret":             "begins with a byte order mark",
		"PARTNER_SECRET=s3cret":          "has the form NAME=value",
		"export PARTNER_SECRET=\"s3cret": "has the form NAME=value",
		"client_secret = s3cret":         "has the form NAME=value",
		"SECRET=s3cret":                  "has the form NAME=value",
		"s3cret\n":                       "begins or ends with white space",
		" s3cret":                        "begins or ends with white space",

		// These are what secrets look like.
		"s3cret":                   "",
		"YWJjZGVmZ2hpams=":         "",
		"QUJDREVGRw==":             "",
		"ABC=DEF":                  "",
		"aB3=dE9=":                 "",
		"A_B~c=d":                  "",
		"s3cr\xef\xbb\xbfet":       "",
		"correct horse":            "",
		"the secret: x=y":          "",
		strings.Repeat("x", 1<<16): "",
	} {
		request := cannedRequest
		request.ClientSecret = secret
		_, failure := askOnce(t, servertest.Answer{Status: 401, Body: `{"error":"invalid_client"}`}, request)
		isSeen := !strings.Contains(failure.Hint, "--try-methods")
		if isSeen != (want != "") || !strings.Contains(failure.Hint, want) {
			t.Errorf("%.20q: the hint is %q", secret, failure.Hint)
		}
		// A secret that is not refused is right, whatever it looks like.
		if _, failure = askOnce(t, servertest.Answer{Status: 400, Body: `{"error":"invalid_scope"}`}, request); strings.Contains(failure.Hint, "client_secret") {
			t.Errorf("%.20q: the hint for a scope is %q", secret, failure.Hint)
		}
	}
}

// A hint that guesses names the flag that finds out. What has been tried is no hint any more.
func TestHintThatGuessesNamesTryMethods(t *testing.T) {
	for _, test := range []struct{ method, said, want, after string }{
		{AuthSecretPost, `{"error":"invalid_client"}`, "the id or the secret may be wrong, or the endpoint may want them sent in another way; --try-methods finds out which", ""},
		{AuthSecretBasic, `{"error":"invalid_client","error_description":"use client_secret_post"}`,
			"the endpoint speaks of another method of client authentication; try auth_method client_secret_post, or find out with --try-methods",
			"the endpoint speaks of another method of client authentication; try auth_method client_secret_post"},
		{AuthSecretPost, `{"message":"no authorization header"}`,
			"the endpoint looks for the credential in the header Authorization; try auth_method client_secret_basic, or find out with --try-methods",
			"the endpoint looks for the credential in the header Authorization; try auth_method client_secret_basic"},
		{AuthSecretPost, `{"error":"invalid_client","error_description":"AADSTS7000222: it has ended"}`,
			"the secret has ended; make a new one for the app registration in Entra ID", "the secret has ended; make a new one for the app registration in Entra ID"},
	} {
		request := requestOf(t, test.method)
		_, failure := askOnce(t, servertest.Answer{Status: 401, Body: test.said}, request)
		if failure.Hint != test.want || failure.HintAfterTrying() != test.after || !request.MayBeSentOtherwise(failure) {
			t.Errorf("%s with %s: got %q, and %q after trying", test.method, test.said, failure.Hint, failure.HintAfterTrying())
		}
	}
	for _, method := range []string{AuthSecretJWT, AuthPrivateKeyJWT, AuthTLS, AuthNone} { // which have no other way
		request := requestOf(t, method)
		_, failure := askOnce(t, servertest.Answer{Status: 401, Body: `{"error":"invalid_client"}`}, request)
		if strings.Contains(failure.Hint, "--try-methods") || request.MayBeSentOtherwise(failure) {
			t.Errorf("%s: the hint is %q", method, failure.Hint)
		}
	}
}

func TestProxyIsNotTakenForAnIssuerWithoutMetadata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		proxy := servertest.Func(func(req *http.Request) (*http.Response, error) {
			asked++
			return servertest.Status(http.StatusProxyAuthRequired).RoundTrip(req)
		})
		_, failure := fetchBy(t, proxy, issuerRequest(), new(Discovery))
		if failure == nil || failure.Hint != proxyHint || failure.Class != ClassInvalidResponse || asked != 1 {
			t.Errorf("asked %d times, got %+v", asked, failure)
		}
	})
}
