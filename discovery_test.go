package oauthcc

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const (
	testIssuer   = "https://auth.example.com/tenant"
	rfc8414Place = "https://auth.example.com/.well-known/oauth-authorization-server/tenant"
	oidcPlace    = "https://auth.example.com/tenant/.well-known/openid-configuration"
	testEndpoint = "https://auth.example.com/tenant/token"
)

// document is an authorization server's metadata.
func document(members map[string]any) string {
	all := map[string]any{"issuer": testIssuer, "token_endpoint": testEndpoint}
	for name, value := range members {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	text, err := json.Marshal(all)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// discoveryServer answers by URL, and notes what it was asked.
type discoveryServer struct {
	mu    sync.Mutex
	at    map[string]http.RoundTripper // 404 elsewhere
	asked []string
}

func (s *discoveryServer) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	url := req.URL.String()
	s.asked = append(s.asked, req.Method+" "+url)
	answer := s.at[url]
	s.mu.Unlock()
	if answer == nil {
		answer = cannedAnswer{status: 404, body: "<html>", header: withType("text/html")}
	}
	return answer.RoundTrip(req)
}

func (s *discoveryServer) becomes(url string, answer http.RoundTripper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at[url] = answer
}

// since forgets what was asked, and returns it.
func (s *discoveryServer) since() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := strings.Join(s.asked, "\n")
	s.asked = nil
	return strings.NewReplacer("GET "+rfc8414Place, "8414", "GET "+oidcPlace, "oidc", "POST "+testEndpoint, "token", "\n", " ").Replace(asked)
}

// issuerRequest is a token request whose endpoint is to be discovered.
func issuerRequest() grantRequest {
	r := cannedRequest
	r.issuer, r.endpoint = testIssuer, ""
	return r
}

// fetchBy runs one fetch.
func fetchBy(t testing.TB, server http.RoundTripper, request grantRequest, d *discovery) (grantedToken, *fetchError) {
	client := &tokenClient{transport: server, timeout: 10 * time.Second, defaultTTL: cannedTTL}
	return client.fetch(t.Context(), func(context.Context) (grantRequest, error) { return request, nil }, d)
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
	found := cannedAnswer{body: document(nil)}
	for name, test := range map[string]struct {
		at    map[string]http.RoundTripper
		asked string
	}{
		"RFC 8414":                        {map[string]http.RoundTripper{rfc8414Place: found}, "8414 token"},
		"OpenID Connect alone":            {map[string]http.RoundTripper{oidcPlace: found}, "8414 oidc token"},
		"both":                            {map[string]http.RoundTripper{rfc8414Place: found, oidcPlace: found}, "8414 token"},
		"a page in place of the first":    {map[string]http.RoundTripper{rfc8414Place: cannedAnswer{body: "<html>"}, oidcPlace: found}, "8414 oidc token"},
		"a redirect in place of it":       {map[string]http.RoundTripper{rfc8414Place: cannedStatus(302, "Location", testIssuer), oidcPlace: found}, "8414 oidc token"},
		"another issuer's in its place":   {map[string]http.RoundTripper{rfc8414Place: cannedAnswer{body: document(map[string]any{"issuer": "https://auth.example.com"})}, oidcPlace: found}, "8414 oidc token"},
		"an error in its place":           {map[string]http.RoundTripper{rfc8414Place: cannedStatus(500), oidcPlace: found}, "8414 oidc token"},
		"the endpoint's query is kept":    {map[string]http.RoundTripper{rfc8414Place: cannedAnswer{body: document(map[string]any{"token_endpoint": testEndpoint + "?a=b"})}}, "8414 token?a=b"},
		"no answer in its place":          {map[string]http.RoundTripper{rfc8414Place: endpointFunc(func(*http.Request) (*http.Response, error) { return nil, io.EOF }), oidcPlace: found}, "8414 oidc token"},
		"a byte order mark before it":     {map[string]http.RoundTripper{rfc8414Place: cannedAnswer{body: "\xef\xbb\xbf" + document(nil)}}, "8414 token"},
		"text/plain":                      {map[string]http.RoundTripper{rfc8414Place: cannedAnswer{body: document(nil), header: withType("text/plain")}}, "8414 token"},
		"other members of other types":    {map[string]http.RoundTripper{rfc8414Place: cannedAnswer{body: document(map[string]any{"mtls_endpoint_aliases": []string{}, "token_endpoint_auth_methods_supported": "private_key_jwt"})}}, "8414 token"},
		"no use is made of other members": {map[string]http.RoundTripper{rfc8414Place: cannedAnswer{body: document(map[string]any{"jwks_uri": "x", "token_endpoint_auth_methods_supported": []string{"a"}})}}, "8414 token"},
	} {
		t.Run(name, func(t *testing.T) {
			server := &discoveryServer{at: test.at}
			server.at[testEndpoint], server.at[testEndpoint+"?a=b"] = anyToken, anyToken
			granted, failure := fetchBy(t, server, issuerRequest(), new(discovery))
			if failure != nil || granted.value != "tok-1" {
				t.Fatalf("got %v, %+v", granted, failure)
			}
			if asked := server.since(); asked != test.asked {
				t.Errorf("asked %s, want %s", asked, test.asked)
			}
		})
	}
}

// The credential goes nowhere that is not known to be the issuer's token endpoint.
func TestHostileMetadataIsRefused(t *testing.T) {
	answer := func(members map[string]any) http.RoundTripper { return cannedAnswer{body: document(members)} }
	for name, test := range map[string]struct {
		at     http.RoundTripper
		class  failureClass
		detail string
		said   string
	}{
		"not there":                 {cannedStatus(404), classRefused, "there is no document", ""},
		"forbidden":                 {cannedStatus(403), classRefused, "there is no document", ""},
		"not well":                  {cannedStatus(503, "Retry-After", "3000"), classServerError, "there is no document", ""},
		"a redirect":                {cannedStatus(301, "Location", "https://elsewhere.example.com/a?canary"), classRefused, "redirects, which is not followed", "redirects to https://elsewhere.example.com/a"},
		"another issuer":            {answer(map[string]any{"issuer": "https://elsewhere.example.com"}), classInvalidResponse, "another issuer's; if it is the right server, set issuer to exactly", "issuer https://elsewhere.example.com"},
		"a slash more":              {answer(map[string]any{"issuer": testIssuer + "/"}), classInvalidResponse, "another issuer's", "issuer " + testIssuer + "/"},
		"other letters":             {answer(map[string]any{"issuer": strings.ToUpper(testIssuer)}), classInvalidResponse, "another issuer's", ""},
		"no issuer":                 {answer(map[string]any{"issuer": nil}), classInvalidResponse, "another issuer's", ""},
		"no endpoint":               {answer(map[string]any{"token_endpoint": nil}), classInvalidResponse, "names no token_endpoint", ""},
		"an empty endpoint":         {answer(map[string]any{"token_endpoint": ""}), classInvalidResponse, "names no token_endpoint", ""},
		"an endpoint that is none":  {answer(map[string]any{"token_endpoint": 1}), classInvalidResponse, "not a JSON object", ""},
		"a path":                    {answer(map[string]any{"token_endpoint": "/token"}), classInvalidResponse, "no absolute https URL", "token_endpoint /token"},
		"an endpoint over http":     {answer(map[string]any{"token_endpoint": "http://auth.example.com/token"}), classInvalidResponse, "no absolute https URL", ""},
		"one on loopback":           {answer(map[string]any{"token_endpoint": "http://localhost/token"}), classInvalidResponse, "another scheme than the issuer's; both must be https", ""},
		"an endpoint over ftp":      {answer(map[string]any{"token_endpoint": "ftp://auth.example.com/token"}), classInvalidResponse, "no absolute https URL", ""},
		"user info":                 {answer(map[string]any{"token_endpoint": "https://a:b@auth.example.com/token?a=b"}), classInvalidResponse, "user info", "token_endpoint https://auth.example.com/token"},
		"a fragment":                {answer(map[string]any{"token_endpoint": testEndpoint + "?a=b#a"}), classInvalidResponse, "fragment", "token_endpoint " + testEndpoint},
		"larger than 1 MiB":         {cannedAnswer{body: document(map[string]any{"padding": strings.Repeat("a", 1<<20)})}, classInvalidResponse, "larger than 1 MiB", ""},
		"empty":                     {cannedAnswer{body: ""}, classInvalidResponse, "not a JSON object", ""},
		"null":                      {cannedAnswer{body: "null"}, classInvalidResponse, "another issuer's", ""},
		"a list":                    {cannedAnswer{body: "[]"}, classInvalidResponse, "not a JSON object", ""},
		"a form":                    {cannedAnswer{body: "issuer=" + testIssuer, header: withType("application/x-www-form-urlencoded")}, classInvalidResponse, "not a JSON object", ""},
		"the credential in it":      {answer(map[string]any{"issuer": "https://app:secret-canary@auth.example.com"}), classInvalidResponse, "another issuer's", "issuer https://app:***@auth.example.com"},
		"its end before its length": {endpointFunc(cutOff), classUnreachable, "the connection was closed", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &discoveryServer{at: map[string]http.RoundTripper{rfc8414Place: test.at, oidcPlace: test.at, testEndpoint: anyToken}}
				_, failure := fetchBy(t, server, issuerRequest(), new(discovery))
				if failure == nil {
					t.Fatal("a token was obtained")
				}
				if failure.class != test.class || !strings.Contains(failure.detail, test.detail) || !strings.HasPrefix(failure.detail, "reading the issuer's metadata at https://auth.example.com/") {
					t.Errorf("got %s, %q; want %s, %q", failure.class, failure.detail, test.class, test.detail)
				}
				if test.said != "" && failure.said != test.said {
					t.Errorf("said %q, want %q", failure.said, test.said)
				}
				if asked := server.since(); strings.Contains(asked, "token") || !strings.HasPrefix(asked, "8414 oidc") {
					t.Errorf("asked %s", asked)
				}
			})
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

// The failure that says most is the one that is told.
func TestFailureOfDiscoveryIsTheOneThatSaysMost(t *testing.T) {
	other := cannedAnswer{body: document(map[string]any{"issuer": "https://elsewhere.example.com"})}
	for name, test := range map[string]struct {
		first, second http.RoundTripper
		status        int
	}{
		"not there, not well":  {cannedStatus(404), cannedStatus(503), 503},
		"not well, not there":  {cannedStatus(502), cannedStatus(404), 502},
		"another's, not there": {other, cannedStatus(404), 200},
		"not there, another's": {cannedStatus(404), other, 200},
		"moved, not there":     {cannedStatus(302, "Location", "/a"), cannedStatus(404), 302},
		"neither is there":     {cannedStatus(410), cannedStatus(404), 404},
		"not well, no answer":  {cannedStatus(503, "Retry-After", "600"), hanging, 503},
		"another's, no answer": {other, hanging, 200},
		"not there, no answer": {cannedStatus(404), hanging, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			server := &discoveryServer{at: map[string]http.RoundTripper{rfc8414Place: test.first, oidcPlace: test.second}}
			_, failure := fetchBy(t, server, issuerRequest(), new(discovery))
			if failure == nil || failure.status != test.status {
				t.Errorf("%s: got %+v", name, failure)
			}
		})
	}
}

func TestDiscoveryIsTriedAgainWithinAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		steps := &scriptedEndpoint{steps: []http.RoundTripper{cannedStatus(503), cannedStatus(503), cannedAnswer{body: document(nil)}, anyToken}}
		granted, failure := fetchBy(t, steps, issuerRequest(), new(discovery))
		if failure != nil || granted.value != "tok-1" || len(steps.asked) != 4 {
			t.Errorf("got %v, %v after %d requests", granted, failure, len(steps.asked))
		}
	})
}

// Only what the server says of itself is used of it: no credential and no header of the
// token request is sent to read it.
func TestNoCredentialIsSentToReadMetadata(t *testing.T) {
	var header http.Header
	_, _ = fetchBy(t, endpointFunc(func(req *http.Request) (*http.Response, error) {
		if req.Method == http.MethodGet {
			header = req.Header.Clone()
			return cannedAnswer{body: document(nil)}.RoundTrip(req)
		}
		return anyToken.RoundTrip(req)
	}), issuerRequest(), new(discovery))
	if want := (http.Header{"Accept": {"application/json"}, "User-Agent": {userAgent}}); fmt.Sprint(header) != fmt.Sprint(want) {
		t.Errorf("sent %v", header)
	}
}

func TestAliasIsForClientsWithACertificate(t *testing.T) {
	const alias = "https://mtls.example.com/token"
	server := &discoveryServer{at: map[string]http.RoundTripper{
		rfc8414Place: cannedAnswer{body: document(map[string]any{"mtls_endpoint_aliases": map[string]string{"token_endpoint": alias}})},
		testEndpoint: anyToken, alias: anyToken,
	}}
	for method, asked := range map[string]string{authSecretBasic: "8414 token", authTLS: "8414 POST " + alias, authPrivateKeyJWT: "8414 POST " + alias} {
		request := requestOf(t, method)
		request.issuer, request.endpoint = testIssuer, ""
		request.certificate = method != authSecretBasic
		if _, failure := fetchBy(t, server, request, new(discovery)); failure != nil {
			t.Errorf("%s: %v %s", method, failure, failure.detail)
		}
		if got := server.since(); got != asked {
			t.Errorf("%s: asked %s", method, got)
		}
	}
}

// One that can't be meant is refused by those who would use it.
func TestHostileAliasIsRefused(t *testing.T) {
	server := &discoveryServer{at: map[string]http.RoundTripper{
		rfc8414Place: cannedAnswer{body: document(map[string]any{"mtls_endpoint_aliases": map[string]string{"token_endpoint": "http://localhost/token"}})},
		testEndpoint: anyToken,
	}}
	request := requestOf(t, authTLS)
	request.issuer, request.endpoint = testIssuer, ""
	_, failure := fetchBy(t, server, request, new(discovery))
	if failure == nil || failure.class != classInvalidResponse || !strings.Contains(failure.detail, "another scheme") {
		t.Errorf("got %+v", failure)
	}
	if _, failure = fetchBy(t, server, issuerRequest(), new(discovery)); failure != nil {
		t.Errorf("without a certificate: %v %s", failure, failure.detail)
	}
}

func TestHintNamesTheMethodsOfTheMetadata(t *testing.T) {
	server := &discoveryServer{at: map[string]http.RoundTripper{
		rfc8414Place: cannedAnswer{body: document(map[string]any{"token_endpoint_auth_methods_supported": []string{"private_key_jwt", "evil", "private_key_jwt", "client_secret_post", "self_signed_tls_client_auth"}})},
		testEndpoint: cannedAnswer{status: 401, body: `{"error":"invalid_client"}`},
	}}
	_, failure := fetchBy(t, server, issuerRequest(), new(discovery))
	if !strings.HasSuffix(failure.hint, "use auth_method private_key_jwt or client_secret_post or tls_client_auth") {
		t.Errorf("the hint is %q", failure.hint)
	}
	post := issuerRequest()
	post.authMethod = authSecretPost
	if _, failure = fetchBy(t, server, post, new(discovery)); failure.hint != "" {
		t.Errorf("the hint is %q", failure.hint)
	}
}

func TestMetadataIsReadAgainWhenItMayHaveChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &discoveryServer{at: map[string]http.RoundTripper{oidcPlace: cannedAnswer{body: document(nil)}, testEndpoint: anyToken}}
		d := new(discovery)
		fetch := func(want string) {
			t.Helper()
			if _, failure := fetchBy(t, server, issuerRequest(), d); failure != nil {
				t.Fatal(failure, failure.detail)
			}
			if asked := server.since(); asked != want {
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

		// It is gone, and what is known is used on.
		server.becomes(oidcPlace, nil)
		time.Sleep(metadataLife)
		fetch("oidc 8414 token")
		if stale := d.news.Swap(nil); stale == nil || stale.status != 404 {
			t.Errorf("told %v", stale)
		}
		time.Sleep(metadataSpacing - time.Second)
		fetch("token")
		time.Sleep(time.Second)
		fetch("oidc 8414 token")

		// It is back, and names another endpoint.
		const moved = "https://auth.example.com/v2/token"
		server.becomes(oidcPlace, cannedAnswer{body: document(map[string]any{"token_endpoint": moved})})
		server.becomes(moved, anyToken)
		time.Sleep(metadataSpacing)
		fetch("oidc POST " + moved)
	})
}

// An endpoint that has moved away is looked for anew, though not with every fetch.
func TestMetadataIsDoubtedWhenTheEndpointFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &discoveryServer{at: map[string]http.RoundTripper{rfc8414Place: cannedAnswer{body: document(nil)}, testEndpoint: anyToken}}
		d := new(discovery)
		fetch := func(want string) {
			t.Helper()
			_, _ = fetchBy(t, server, issuerRequest(), d)
			if asked := server.since(); asked != want {
				t.Errorf("asked %s, want %s", asked, want)
			}
		}
		fetch("8414 token")
		server.becomes(testEndpoint, cannedStatus(404))
		fetch("token")
		fetch("token") // it was read just now
		time.Sleep(metadataSpacing)
		fetch("8414 token")
		fetch("token")
		server.becomes(rfc8414Place, cannedStatus(503, "Retry-After", "60"))
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
		server := &discoveryServer{at: map[string]http.RoundTripper{rfc8414Place: cannedAnswer{body: document(nil)}, testEndpoint: anyToken}}
		d := new(discovery)
		_, _ = fetchBy(t, server, issuerRequest(), d)
		server.becomes(rfc8414Place, hanging)
		time.Sleep(metadataLife)
		start := time.Now()
		if _, failure := fetchBy(t, server, issuerRequest(), d); failure != nil || time.Since(start) != 2500*time.Millisecond {
			t.Errorf("got %v after %v", failure, time.Since(start))
		}
		server.since()
		start = time.Now()
		if _, failure := fetchBy(t, server, issuerRequest(), new(discovery)); failure == nil || failure.class != classTimeout || time.Since(start) > 10*time.Second {
			t.Errorf("got %v after %v", failure, time.Since(start))
		}
		if asked := server.since(); strings.Contains(asked, "oidc") {
			t.Errorf("asked %s of a server that does not answer", asked)
		}
	})
}

// startIssuer is a token server with metadata.
func startIssuer(t testing.TB) *tokenServer {
	s := startTokenServer(t)
	s.setAnswer(func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.URL.Path == "/token" {
			s.grant(w)
			return
		}
		fmt.Fprintf(w, `{"issuer":%q,"token_endpoint":%q}`, s.URL, s.URL+"/token")
	})
	return s
}

func TestIssuerIsAllThatAGatewayNeeds(t *testing.T) {
	server, upstream := startIssuer(t), startAPI(t)
	site := "oauth_cc {\nissuer " + server.URL + "\nclient_id app\nclient_secret s3cret-canary\n}\n" + upstream.proxy()
	g := startGateway(t, site)
	g.getConcurrently(20, 200)
	if n := server.count(); n != 2 {
		t.Errorf("%d requests to the server, want one for the metadata and one for the token", n)
	}
	if told := g.logs.with("token obtained"); len(told) != 1 || told[0]["endpoint"] != server.URL+"/token" {
		t.Errorf("logged %v", told)
	}
	// What is known of the server survives a reload with its token.
	g.reload(site + "header X-New 1\n")
	upstream.revoke("token-1")
	checkAnswer(t, g.get("/"), 200, "GET / with token-2")
	if n := server.count(); n != 3 {
		t.Errorf("%d requests to the server", n)
	}
}

// Metadata that can't be had is a failed fetch like any other: paused, answered and logged.
func TestFailedDiscoveryIsAFailedFetch(t *testing.T) {
	server, upstream := startTokenServer(t), startAPI(t)
	server.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { http.NotFound(w, nil) })
	g := startGateway(t, "oauth_cc {\nissuer "+server.URL+"\nclient_id app\nclient_secret s3cret-canary\n}\n"+upstream.proxy())
	g.getConcurrently(20, 502)
	g.getConcurrently(20, 502)
	if n := server.count(); n != 2 {
		t.Errorf("asked %d times, want once for each place", n)
	}
	told := g.logs.with("no token obtained")
	if len(told) != 1 || told[0]["error"] != "refused" || told[0]["status"] != 404.0 || told[0]["endpoint"] != server.URL ||
		told[0]["detail"] != "reading the issuer's metadata at "+server.URL+"/.well-known/openid-configuration: there is no document" {
		t.Errorf("logged %v", told)
	}
}

func TestMetadataThatCannotBeReadAgainIsWarnedOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, &Handler{Issuer: testIssuer})
		server := &discoveryServer{at: map[string]http.RoundTripper{rfc8414Place: cannedAnswer{body: document(nil)}, testEndpoint: g.endpoint}}
		g.client.transport = server
		g.mustGet()
		server.becomes(rfc8414Place, nil)
		time.Sleep(2 * time.Hour)
		g.mustGet()
		told := g.logs.FilterMessage("the issuer's metadata could not be read again; what is known of it is used on").All()
		if len(told) != 1 || told[0].ContextMap()["issuer"] != testIssuer || told[0].ContextMap()["error"] != "refused" {
			t.Errorf("logged %v", told)
		}
	})
}

// Many grants of one issuer begin at once, and some of them just when the first has read.
func TestMetadataIsReadOnceForAll(t *testing.T) {
	for range 200 {
		server := &discoveryServer{at: map[string]http.RoundTripper{rfc8414Place: cannedAnswer{body: document(nil)}, testEndpoint: cannedAnswer{body: `{"access_token":"a","token_type":"Bearer"}`}}}
		d := new(discovery)
		var wait sync.WaitGroup
		for range 20 {
			wait.Go(func() {
				if _, failure := fetchBy(t, server, issuerRequest(), d); failure != nil {
					t.Error(failure)
				}
			})
		}
		wait.Wait()
		if n := strings.Count(server.since(), "8414"); n != 1 {
			t.Fatalf("the metadata was read %d times", n)
		}
	}
}

// FuzzMetadata: whatever a server says of itself, no endpoint comes of it that the
// credential may not be sent to.
func FuzzMetadata(f *testing.F) {
	f.Add([]byte(document(nil)))
	f.Add([]byte(document(map[string]any{"mtls_endpoint_aliases": map[string]string{"token_endpoint": "https://mtls.example.com/"}})))
	f.Add([]byte(document(map[string]any{"token_endpoint": "http://auth.example.com"})))
	f.Add([]byte(`{"issuer":"https://auth.example.com/tenant","issuer":"x"}`))
	client := new(tokenClient)
	f.Fuzz(func(t *testing.T, body []byte) {
		res, _ := cannedAnswer{body: string(body)}.RoundTrip(&http.Request{})
		request := issuerRequest()
		request.certificate = len(body)%2 == 0
		m, failure := client.vetMetadata(res, request)
		if (m == nil) == (failure == nil) {
			t.Fatalf("got %v and %v", m, failure)
		}
		if failure != nil {
			return
		}
		if endpoint := m.endpointFor(request); !strings.HasPrefix(strings.ToLower(endpoint), "https://") || m.issuer != testIssuer {
			t.Errorf("the endpoint %q in %+v", endpoint, m)
		}
	})
}
