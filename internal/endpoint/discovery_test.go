package endpoint

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// issuerRequest is a token request whose endpoint has to be discovered.
func issuerRequest() Request {
	r := cannedRequest
	r.Issuer, r.Endpoint = servertest.Issuer, ""
	return r
}

// fetchBy runs one fetch.
func fetchBy(t testing.TB, server http.RoundTripper, request Request, d *Discovery) (Granted, *Error) {
	client := &Client{Transport: server, Timeout: 10 * time.Second, DefaultTTL: cannedTTL}
	return client.Fetch(t.Context(), func(context.Context) (Request, error) { return request, nil }, d)
}

func TestMetadataIsLookedForInBothPlaces(t *testing.T) {
	for issuer, want := range map[string][]string{
		"https://auth.example.com":         {"https://auth.example.com/.well-known/oauth-authorization-server", "https://auth.example.com/.well-known/openid-configuration"},
		"https://auth.example.com/":        {"https://auth.example.com/.well-known/oauth-authorization-server", "https://auth.example.com/.well-known/openid-configuration"},
		"https://auth.example.com:8443/a":  {"https://auth.example.com:8443/.well-known/oauth-authorization-server/a", "https://auth.example.com:8443/a/.well-known/openid-configuration"},
		"https://auth.example.com/a/b/":    {"https://auth.example.com/.well-known/oauth-authorization-server/a/b", "https://auth.example.com/a/b/.well-known/openid-configuration"},
		"http://localhost:1/realms/a%2Fb":  {"http://localhost:1/.well-known/oauth-authorization-server/realms/a%2Fb", "http://localhost:1/realms/a%2Fb/.well-known/openid-configuration"},
		"https://[::1]:8443/oauth2/defaul": {"https://[::1]:8443/.well-known/oauth-authorization-server/oauth2/defaul", "https://[::1]:8443/oauth2/defaul/.well-known/openid-configuration"},
	} {
		if got := metadataURLs(issuer); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", issuer, got, want)
		}
	}
}

func TestEndpointIsDiscovered(t *testing.T) {
	found := servertest.Answer{Body: servertest.Document(nil)}
	for name, test := range map[string]struct {
		at    map[string]http.RoundTripper
		asked string
	}{
		"RFC 8414":                        {map[string]http.RoundTripper{servertest.RFC8414Place: found}, "8414 token"},
		"OpenID Connect alone":            {map[string]http.RoundTripper{servertest.OIDCPlace: found}, "8414 oidc token"},
		"both":                            {map[string]http.RoundTripper{servertest.RFC8414Place: found, servertest.OIDCPlace: found}, "8414 token"},
		"a page in place of the first":    {map[string]http.RoundTripper{servertest.RFC8414Place: servertest.Answer{Body: "<html>"}, servertest.OIDCPlace: found}, "8414 oidc token"},
		"a redirect in place of it":       {map[string]http.RoundTripper{servertest.RFC8414Place: servertest.Status(302, "Location", servertest.Issuer), servertest.OIDCPlace: found}, "8414 oidc token"},
		"another issuer's in its place":   {map[string]http.RoundTripper{servertest.RFC8414Place: servertest.Answer{Body: servertest.Document(map[string]any{"issuer": "https://auth.example.com"})}, servertest.OIDCPlace: found}, "8414 oidc token"},
		"an error in its place":           {map[string]http.RoundTripper{servertest.RFC8414Place: servertest.Status(500), servertest.OIDCPlace: found}, "8414 oidc token"},
		"the endpoint's query is kept":    {map[string]http.RoundTripper{servertest.RFC8414Place: servertest.Answer{Body: servertest.Document(map[string]any{"token_endpoint": servertest.Endpoint + "?a=b"})}}, "8414 token?a=b"},
		"no answer in its place":          {map[string]http.RoundTripper{servertest.RFC8414Place: servertest.Func(func(*http.Request) (*http.Response, error) { return nil, io.EOF }), servertest.OIDCPlace: found}, "8414 oidc token"},
		"a byte order mark before it":     {map[string]http.RoundTripper{servertest.RFC8414Place: servertest.Answer{Body: "\xef\xbb\xbf" + servertest.Document(nil)}}, "8414 token"},
		"text/plain":                      {map[string]http.RoundTripper{servertest.RFC8414Place: servertest.Answer{Body: servertest.Document(nil), Header: servertest.WithType("text/plain")}}, "8414 token"},
		"other members of other types":    {map[string]http.RoundTripper{servertest.RFC8414Place: servertest.Answer{Body: servertest.Document(map[string]any{"mtls_endpoint_aliases": []string{}, "token_endpoint_auth_methods_supported": "private_key_jwt"})}}, "8414 token"},
		"no use is made of other members": {map[string]http.RoundTripper{servertest.RFC8414Place: servertest.Answer{Body: servertest.Document(map[string]any{"jwks_uri": "x", "token_endpoint_auth_methods_supported": []string{"a"}})}}, "8414 token"},
	} {
		t.Run(name, func(t *testing.T) {
			server := &servertest.Discovery{At: test.at}
			server.At[servertest.Endpoint], server.At[servertest.Endpoint+"?a=b"] = servertest.AnyToken, servertest.AnyToken
			granted, failure := fetchBy(t, server, issuerRequest(), new(Discovery))
			if failure != nil || granted.Value != "tok-1" {
				t.Fatalf("got %v, %+v", granted, failure)
			}
			if asked := server.Since(); asked != test.asked {
				t.Errorf("asked %s, want %s", asked, test.asked)
			}
		})
	}
}

// The credential goes nowhere that is not known to be the issuer's token endpoint.
func TestHostileMetadataIsRefused(t *testing.T) {
	answer := func(members map[string]any) http.RoundTripper {
		return servertest.Answer{Body: servertest.Document(members)}
	}
	for name, test := range map[string]struct {
		at     http.RoundTripper
		class  Class
		detail string
		said   string
	}{
		"not there":                 {servertest.Status(404), ClassInvalidResponse, "there is no document", ""},
		"forbidden":                 {servertest.Status(403), ClassRefused, "there is no document", ""},
		"not well":                  {servertest.Status(503, "Retry-After", "3000"), ClassServerError, "there is no document", ""},
		"a redirect":                {servertest.Status(301, "Location", "https://elsewhere.example.com/a?canary"), ClassInvalidResponse, "redirects, which is not followed", "redirects to https://elsewhere.example.com/a"},
		"another issuer":            {answer(map[string]any{"issuer": "https://elsewhere.example.com"}), ClassInvalidResponse, "another issuer's; if it is the right server, set issuer to exactly", "issuer https://elsewhere.example.com"},
		"a slash more":              {answer(map[string]any{"issuer": servertest.Issuer + "/"}), ClassInvalidResponse, "another issuer's", "issuer " + servertest.Issuer + "/"},
		"other letters":             {answer(map[string]any{"issuer": strings.ToUpper(servertest.Issuer)}), ClassInvalidResponse, "another issuer's", ""},
		"no issuer":                 {answer(map[string]any{"issuer": nil}), ClassInvalidResponse, "another issuer's", ""},
		"no endpoint":               {answer(map[string]any{"token_endpoint": nil}), ClassInvalidResponse, "names no token_endpoint", ""},
		"an empty endpoint":         {answer(map[string]any{"token_endpoint": ""}), ClassInvalidResponse, "names no token_endpoint", ""},
		"an endpoint that is none":  {answer(map[string]any{"token_endpoint": 1}), ClassInvalidResponse, "not a JSON object", ""},
		"a path":                    {answer(map[string]any{"token_endpoint": "/token"}), ClassInvalidResponse, "no absolute https URL", "token_endpoint /token"},
		"an endpoint over http":     {answer(map[string]any{"token_endpoint": "http://auth.example.com/token"}), ClassInvalidResponse, "no absolute https URL", ""},
		"one on loopback":           {answer(map[string]any{"token_endpoint": "http://localhost/token"}), ClassInvalidResponse, "another scheme than the issuer's; both must be https", ""},
		"an endpoint over ftp":      {answer(map[string]any{"token_endpoint": "ftp://auth.example.com/token"}), ClassInvalidResponse, "no absolute https URL", ""},
		"user info":                 {answer(map[string]any{"token_endpoint": "https://a:b@auth.example.com/token?a=b"}), ClassInvalidResponse, "user info", "token_endpoint https://auth.example.com/token"},
		"a fragment":                {answer(map[string]any{"token_endpoint": servertest.Endpoint + "?a=b#a"}), ClassInvalidResponse, "fragment", "token_endpoint " + servertest.Endpoint},
		"a long endpoint":           {answer(map[string]any{"token_endpoint": servertest.Endpoint + "/" + strings.Repeat("a", 8<<10)}), ClassInvalidResponse, "of more than 8 KiB", ""},
		"a long alias":              {answer(map[string]any{"mtls_endpoint_aliases": map[string]string{"token_endpoint": servertest.Endpoint + "/" + strings.Repeat("a", 8<<10)}}), ClassInvalidResponse, "of more than 8 KiB", ""},
		"larger than 1 MiB":         {servertest.Answer{Body: servertest.Document(map[string]any{"padding": strings.Repeat("a", 1<<20)})}, ClassInvalidResponse, "larger than 1 MiB", ""},
		"empty":                     {servertest.Answer{Body: ""}, ClassInvalidResponse, "not a JSON object", ""},
		"null":                      {servertest.Answer{Body: "null"}, ClassInvalidResponse, "not a JSON object", ""},
		"a list":                    {servertest.Answer{Body: "[]"}, ClassInvalidResponse, "not a JSON object", ""},
		"a form":                    {servertest.Answer{Body: "issuer=" + servertest.Issuer, Header: servertest.WithType("application/x-www-form-urlencoded")}, ClassInvalidResponse, "not a JSON object", ""},
		"the credential in it":      {answer(map[string]any{"issuer": "https://app:secret-canary@auth.example.com"}), ClassInvalidResponse, "another issuer's", "issuer https://app:***@auth.example.com"},
		"its end before its length": {servertest.Func(cutOff), ClassUnreachable, "the connection was closed", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &servertest.Discovery{At: map[string]http.RoundTripper{servertest.RFC8414Place: test.at, servertest.OIDCPlace: test.at, servertest.Endpoint: servertest.AnyToken}}
				_, failure := fetchBy(t, server, issuerRequest(), new(Discovery))
				if failure == nil {
					t.Fatal("a token was obtained")
				}
				if failure.Class != test.class || !strings.Contains(failure.Detail, test.detail) || !strings.HasPrefix(failure.Detail, "reading the issuer's metadata at https://auth.example.com/") {
					t.Errorf("got %s, %q; want %s, %q", failure.Class, failure.Detail, test.class, test.detail)
				}
				if test.said != "" && failure.Said != test.said {
					t.Errorf("said %q, want %q", failure.Said, test.said)
				}
				if asked := server.Since(); strings.Contains(asked, "token") || !strings.HasPrefix(asked, "8414 oidc") {
					t.Errorf("asked %s", asked)
				}
			})
		})
	}
}

// encoding/json takes a member of a struct in any case. The names of metadata are exact (RFC 8414 §2), and another spelling
// must not take their place.
func TestMembersOfMetadataHaveExactNames(t *testing.T) {
	named := func(issuer, endpoint string) string { return fmt.Sprintf("%s:%q,", issuer, endpoint) }
	right := named(`"issuer"`, servertest.Issuer) + named(`"token_endpoint"`, servertest.Endpoint)
	elsewhere := "https://elsewhere.example.com/token"
	for name, test := range map[string]struct {
		members string // each with a comma behind it
		want    string // endpoint and alias, or what is wrong
	}{
		"as they are":                  {right, servertest.Endpoint + " "},
		"another issuer behind it":     {right + named(`"ISSUER"`, "https://elsewhere.example.com"), servertest.Endpoint + " "},
		"another issuer before it":     {named(`"Issuer"`, "https://elsewhere.example.com") + right, servertest.Endpoint + " "},
		"the issuer in other letters":  {named(`"ISSUER"`, servertest.Issuer) + named(`"token_endpoint"`, servertest.Endpoint), "another issuer's"},
		"another endpoint behind it":   {right + named(`"Token_Endpoint"`, elsewhere), servertest.Endpoint + " "},
		"one that is no text":          {right + `"TOKEN_ENDPOINT":1,`, servertest.Endpoint + " "},
		"the endpoint in others":       {named(`"issuer"`, servertest.Issuer) + named(`"Token_Endpoint"`, elsewhere), "names no token_endpoint"},
		"the aliases in others":        {right + `"MTLS_endpoint_aliases":{` + strings.TrimSuffix(named(`"token_endpoint"`, elsewhere), ",") + "},", servertest.Endpoint + " "},
		"an alias in others":           {right + `"mtls_endpoint_aliases":{` + strings.TrimSuffix(named(`"TOKEN_endpoint"`, elsewhere), ",") + "},", servertest.Endpoint + " "},
		"an alias behind one as it is": {right + `"mtls_endpoint_aliases":{` + named(`"token_endpoint"`, servertest.Endpoint+"/mtls") + strings.TrimSuffix(named(`"Token_Endpoint"`, elsewhere), ",") + "},", servertest.Endpoint + " " + servertest.Endpoint + "/mtls"},
	} {
		t.Run(name, func(t *testing.T) {
			body := "{" + strings.TrimSuffix(test.members, ",") + "}"
			m, failure := vetMetadata(&http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(body))}, issuerRequest())
			switch {
			case failure != nil && !strings.Contains(failure.Detail, test.want):
				t.Errorf("got %s", failure.Detail)
			case failure == nil && m.endpoint+" "+m.mtlsEndpoint != test.want:
				t.Errorf("got %s %s, want %s", m.endpoint, m.mtlsEndpoint, test.want)
			}
		})
	}
}

// cutOff is an answer that ends before it is complete.
func cutOff(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: make(http.Header), Request: req,
		Body: io.NopCloser(io.MultiReader(strings.NewReader(`{"issuer":`), failingReader{}))}, nil
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// The more useful failure is reported.
func TestFailureOfDiscoveryIsTheOneThatSaysMost(t *testing.T) {
	other := servertest.Answer{Body: servertest.Document(map[string]any{"issuer": "https://elsewhere.example.com"})}
	for name, test := range map[string]struct {
		first, second http.RoundTripper
		status        int
	}{
		"not there, not well":  {servertest.Status(404), servertest.Status(503), 503},
		"not well, not there":  {servertest.Status(502), servertest.Status(404), 502},
		"another's, not there": {other, servertest.Status(404), 200},
		"not there, another's": {servertest.Status(404), other, 200},
		"moved, not there":     {servertest.Status(302, "Location", "/a"), servertest.Status(404), 302},
		"neither is there":     {servertest.Status(410), servertest.Status(404), 404},
		"not well, no answer":  {servertest.Status(503, "Retry-After", "600"), servertest.Hanging, 503},
		"another's, no answer": {other, servertest.Hanging, 200},
		"not there, no answer": {servertest.Status(404), servertest.Hanging, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			server := &servertest.Discovery{At: map[string]http.RoundTripper{servertest.RFC8414Place: test.first, servertest.OIDCPlace: test.second}}
			_, failure := fetchBy(t, server, issuerRequest(), new(Discovery))
			if failure == nil || failure.Status != test.status {
				t.Errorf("%s: got %+v", name, failure)
			}
		})
	}
}

func TestDiscoveryIsTriedAgainWithinAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		steps := &scriptedEndpoint{steps: []http.RoundTripper{servertest.Status(503), servertest.Status(503), servertest.Answer{Body: servertest.Document(nil)}, servertest.AnyToken}}
		granted, failure := fetchBy(t, steps, issuerRequest(), new(Discovery))
		if failure != nil || granted.Value != "tok-1" || len(steps.asked) != 4 {
			t.Errorf("got %v, %v after %d requests", granted, failure, len(steps.asked))
		}
	})
}

// Only what the server says of itself is used of it: no credential and no header of the
// token request is sent to read it.
func TestNoCredentialIsSentToReadMetadata(t *testing.T) {
	var header http.Header
	_, _ = fetchBy(t, servertest.Func(func(req *http.Request) (*http.Response, error) {
		if req.Method == http.MethodGet {
			header = req.Header.Clone()
			return servertest.Answer{Body: servertest.Document(nil)}.RoundTrip(req)
		}
		return servertest.AnyToken.RoundTrip(req)
	}), issuerRequest(), new(Discovery))
	if want := (http.Header{"Accept": {"application/json"}, "User-Agent": {userAgent}}); fmt.Sprint(header) != fmt.Sprint(want) {
		t.Errorf("sent %v", header)
	}
}

func TestAliasIsForClientsWithACertificate(t *testing.T) {
	const alias = "https://mtls.example.com/token"
	server := &servertest.Discovery{At: map[string]http.RoundTripper{
		servertest.RFC8414Place: servertest.Answer{Body: servertest.Document(map[string]any{"mtls_endpoint_aliases": map[string]string{"token_endpoint": alias}})},
		servertest.Endpoint:     servertest.AnyToken, alias: servertest.AnyToken,
	}}
	for method, asked := range map[string]string{AuthSecretBasic: "8414 token", AuthTLS: "8414 POST " + alias, AuthPrivateKeyJWT: "8414 POST " + alias} {
		request := requestOf(t, method)
		request.Issuer, request.Endpoint = servertest.Issuer, ""
		request.HasCertificate = method != AuthSecretBasic
		if _, failure := fetchBy(t, server, request, new(Discovery)); failure != nil {
			t.Errorf("%s: %v %s", method, failure, failure.Detail)
		}
		if got := server.Since(); got != asked {
			t.Errorf("%s: asked %s", method, got)
		}
	}
}

// An endpoint that must not get the credential is refused, for clients that would use it.
func TestHostileAliasIsRefused(t *testing.T) {
	server := &servertest.Discovery{At: map[string]http.RoundTripper{
		servertest.RFC8414Place: servertest.Answer{Body: servertest.Document(map[string]any{"mtls_endpoint_aliases": map[string]string{"token_endpoint": "http://localhost/token"}})},
		servertest.Endpoint:     servertest.AnyToken,
	}}
	request := requestOf(t, AuthTLS)
	request.Issuer, request.Endpoint = servertest.Issuer, ""
	_, failure := fetchBy(t, server, request, new(Discovery))
	if failure == nil || failure.Class != ClassInvalidResponse || !strings.Contains(failure.Detail, "another scheme") {
		t.Errorf("got %+v", failure)
	}
	if _, failure = fetchBy(t, server, issuerRequest(), new(Discovery)); failure != nil {
		t.Errorf("without a certificate: %v %s", failure, failure.Detail)
	}
}

func TestHintNamesTheMethodsOfTheMetadata(t *testing.T) {
	server := &servertest.Discovery{At: map[string]http.RoundTripper{
		servertest.RFC8414Place: servertest.Answer{Body: servertest.Document(map[string]any{"token_endpoint_auth_methods_supported": []string{"private_key_jwt", "evil", "private_key_jwt", "client_secret_post", "self_signed_tls_client_auth"}})},
		servertest.Endpoint:     servertest.Answer{Status: 401, Body: `{"error":"invalid_client"}`},
	}}
	_, failure := fetchBy(t, server, issuerRequest(), new(Discovery))
	if !strings.HasSuffix(failure.Hint, "use auth_method private_key_jwt or client_secret_post or tls_client_auth") {
		t.Errorf("the hint is %q", failure.Hint)
	}
	post := issuerRequest()
	post.AuthMethod = AuthSecretPost
	if _, failure = fetchBy(t, server, post, new(Discovery)); !strings.HasPrefix(failure.Hint, "the id or the secret may be wrong") {
		t.Errorf("the hint is %q", failure.Hint)
	}
}

func TestMetadataIsReadAgainWhenItMayHaveChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &servertest.Discovery{At: map[string]http.RoundTripper{servertest.OIDCPlace: servertest.Answer{Body: servertest.Document(nil)}, servertest.Endpoint: servertest.AnyToken}}
		d := new(Discovery)
		fetch := func(want string) {
			t.Helper()
			if _, failure := fetchBy(t, server, issuerRequest(), d); failure != nil {
				t.Fatal(failure, failure.Detail)
			}
			if asked := server.Since(); asked != want {
				t.Errorf("asked %s, want %s", asked, want)
			}
		}
		fetch("8414 oidc token")
		fetch("token")
		time.Sleep(metadataLife - time.Second)
		fetch("token")
		time.Sleep(time.Second)
		fetch("oidc token") // first where it was
		fetch("token")

		// It is gone, and the old one stays in use.
		server.Becomes(servertest.OIDCPlace, nil)
		time.Sleep(metadataLife)
		fetch("oidc 8414 token")
		if stale := d.TakeStaleReason(); stale == nil || stale.Status != 404 {
			t.Errorf("told %v", stale)
		}
		time.Sleep(metadataSpacing - time.Second)
		fetch("token")
		time.Sleep(time.Second)
		fetch("oidc 8414 token")

		// It is back, and names another endpoint.
		const moved = "https://auth.example.com/v2/token"
		server.Becomes(servertest.OIDCPlace, servertest.Answer{Body: servertest.Document(map[string]any{"token_endpoint": moved})})
		server.Becomes(moved, servertest.AnyToken)
		time.Sleep(metadataSpacing)
		fetch("oidc POST " + moved)
	})
}

// An endpoint that has moved away is looked for anew, though not with every fetch.
func TestMetadataIsDoubtedWhenTheEndpointFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &servertest.Discovery{At: map[string]http.RoundTripper{servertest.RFC8414Place: servertest.Answer{Body: servertest.Document(nil)}, servertest.Endpoint: servertest.AnyToken}}
		d := new(Discovery)
		fetch := func(want string) {
			t.Helper()
			_, _ = fetchBy(t, server, issuerRequest(), d)
			if asked := server.Since(); asked != want {
				t.Errorf("asked %s, want %s", asked, want)
			}
		}
		fetch("8414 token")
		server.Becomes(servertest.Endpoint, servertest.Status(404))
		fetch("token")
		fetch("token") // it was read just now
		time.Sleep(metadataSpacing)
		fetch("8414 token")
		fetch("token")
		server.Becomes(servertest.RFC8414Place, servertest.Status(503, "Retry-After", "60"))
		time.Sleep(metadataSpacing)
		fetch("8414 oidc token")
		fetch("token")
		time.Sleep(metadataSpacing)
		fetch("8414 oidc token")
	})
}

// Metadata that hangs leaves time to ask the endpoint that is known.
func TestHangingMetadataDoesNotKeepFromATokenWhenItIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &servertest.Discovery{At: map[string]http.RoundTripper{servertest.RFC8414Place: servertest.Answer{Body: servertest.Document(nil)}, servertest.Endpoint: servertest.AnyToken}}
		d := new(Discovery)
		_, _ = fetchBy(t, server, issuerRequest(), d)
		server.Becomes(servertest.RFC8414Place, servertest.Hanging)
		time.Sleep(metadataLife)
		start := time.Now()
		if _, failure := fetchBy(t, server, issuerRequest(), d); failure != nil || time.Since(start) != 2500*time.Millisecond {
			t.Errorf("got %v after %v", failure, time.Since(start))
		}
		server.Since()
		start = time.Now()
		if _, failure := fetchBy(t, server, issuerRequest(), new(Discovery)); failure == nil || failure.Class != ClassTimeout || time.Since(start) > 10*time.Second {
			t.Errorf("got %v after %v", failure, time.Since(start))
		}
		if asked := server.Since(); strings.Contains(asked, "oidc") {
			t.Errorf("asked %s of a server that does not answer", asked)
		}
	})
}

// Many grants of one issuer begin at once, and some of them just when the first has read.
func TestMetadataIsReadOnceForAll(t *testing.T) {
	for range 200 {
		server := &servertest.Discovery{At: map[string]http.RoundTripper{servertest.RFC8414Place: servertest.Answer{Body: servertest.Document(nil)}, servertest.Endpoint: servertest.Answer{Body: `{"access_token":"a","token_type":"Bearer"}`}}}
		d := new(Discovery)
		var wait sync.WaitGroup
		for range 20 {
			wait.Go(func() {
				if _, failure := fetchBy(t, server, issuerRequest(), d); failure != nil {
					t.Error(failure)
				}
			})
		}
		wait.Wait()
		if n := strings.Count(server.Since(), "8414"); n != 1 {
			t.Fatalf("the metadata was read %d times", n)
		}
	}
}

// FuzzMetadata: whatever a server says of itself, no endpoint comes of it that the
// credential may not be sent to.
func FuzzMetadata(f *testing.F) {
	f.Add([]byte(servertest.Document(nil)))
	f.Add([]byte(servertest.Document(map[string]any{"mtls_endpoint_aliases": map[string]string{"token_endpoint": "https://mtls.example.com/"}})))
	f.Add([]byte(servertest.Document(map[string]any{"token_endpoint": "http://auth.example.com"})))
	f.Add([]byte(`{"issuer":"https://auth.example.com/tenant","issuer":"x"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		res, _ := servertest.Answer{Body: string(body)}.RoundTrip(&http.Request{})
		request := issuerRequest()
		request.HasCertificate = len(body)%2 == 0
		m, failure := vetMetadata(res, request)
		if (m == nil) == (failure == nil) {
			t.Fatalf("got %v and %v", m, failure)
		}
		if failure != nil {
			return
		}
		if endpoint := m.endpointFor(request); !strings.HasPrefix(strings.ToLower(endpoint), "https://") || m.issuer != servertest.Issuer {
			t.Errorf("the endpoint %q in %+v", endpoint, m)
		}
	})
}
