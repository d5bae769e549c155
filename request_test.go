package oauthcc

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func TestClientTokenIsOverwritten(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, endpoint.options()+upstream.proxy())
	for name, lines := range map[string][]string{
		"none":                          {"X-Other: 1"},
		"one":                           {"Authorization: Bearer theirs"},
		"several":                       {"Authorization: Bearer theirs", "Authorization: Basic dTpw"},
		"lower case":                    {"authorization: Bearer theirs", "AUTHORIZATION: x"},
		"empty":                         {"Authorization:"},
		"named in Connection":           {"Connection: authorization, keep-alive"},
		"named in Connection, and sent": {"Connection: AUTHORIZATION", "Authorization: Bearer theirs"},
		"named in several Connections":  {"Connection: keep-alive", "Connection: Authorization ,authorization"},
	} {
		t.Run(name, func(t *testing.T) {
			if a := sendRaw(t, g.addr, "GET /", lines...); a.status != 200 {
				t.Fatalf("got %d %q", a.status, a.body)
			}
			if got := upstream.last(t).header["Authorization"]; !slices.Equal(got, []string{"Bearer token-1"}) {
				t.Errorf("the upstream got %q", got)
			}
		})
	}
}

func TestOtherConnectionOptionsKeepTheirMeaning(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, endpoint.options()+upstream.proxy())
	a := sendRaw(t, g.addr, "GET /", "Connection: X-Hop, authorization, X-Hop2", "Connection: X-Hop3",
		"X-Hop: 1", "X-Hop2: 2", "X-Hop3: 3", "X-End: 4")
	if a.status != 200 {
		t.Fatalf("got %d %q", a.status, a.body)
	}
	header := upstream.last(t).header
	if header.Get("X-End") != "4" || header.Get("X-Hop")+header.Get("X-Hop2")+header.Get("X-Hop3") != "" {
		t.Errorf("the upstream got %v", header)
	}
}

// trailersFrom is an API that tells which trailers came with a request, and rejects
// the token named by reject.
func trailersFrom(reject string, tell chan<- http.Header) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if reject != "" && bearer(r) == reject {
			rejectToken(w)
			return
		}
		tell <- r.Trailer.Clone()
	}
}

func TestTokenInTrailersIsRemoved(t *testing.T) {
	for _, protocol := range clientProtocols {
		for name, option := range map[string]string{"replays on": "", "replays off": "retry_status off"} {
			t.Run(protocol.name+", "+name, func(t *testing.T) {
				told := make(chan http.Header, 1)
				endpoint, upstream := startTokenServer(t), startScriptedAPI(t, trailersFrom("", told))
				_, base, client := protocol.start(t, endpoint.options("token_header X-Partner-Token", option)+proxyTo(upstream))
				req := clientRequest(t, http.MethodPost, base, io.MultiReader(strings.NewReader("body")))
				req.Trailer = http.Header{"X-Partner-Token": {"theirs"}, "X-Checksum": {"abc"}}
				if a := protocol.exchange(t, client, req); a.status != 200 {
					t.Fatalf("got %d %q", a.status, a.body)
				}
				trailer := awaitSignal(t, "trailers", told)
				if len(trailer) != 1 || trailer.Get("X-Checksum") != "abc" {
					t.Errorf("the upstream got the trailers %v", trailer)
				}
			})
		}
	}
}

// HTTP/2 libraries refuse to send a trailer of that name; HTTP/1.1 has no such rule.
func TestAuthorizationTrailerIsRemoved(t *testing.T) {
	const body = "Transfer-Encoding: chunked\r\nTrailer: X-Checksum, authorization\r\n\r\n4\r\nbody\r\n0\r\n" +
		"X-Checksum: abc\r\nauthorization: Bearer theirs\r\n\r\n"
	for _, test := range []struct{ name, option, reject string }{
		{"first attempt", "", ""},
		{"replay", "", "token-1"},
		{"replays off", "retry_status off", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			told := make(chan http.Header, 1)
			endpoint, upstream := startTokenServer(t), startScriptedAPI(t, trailersFrom(test.reject, told))
			g := startGateway(t, endpoint.options(test.option)+proxyTo(upstream))
			if a := sendRaw(t, g.addr, "POST /", body); a.status != 200 {
				t.Fatalf("got %d %q", a.status, a.body)
			}
			trailer := awaitSignal(t, "trailers", told)
			if len(trailer) != 1 || trailer.Get("X-Checksum") != "abc" {
				t.Errorf("the upstream got the trailers %v", trailer)
			}
		})
	}
}

// HTTP/2 allows trailers after a body that is announced to be empty.
func TestTokenInTrailersOfAnEmptyBodyIsRemoved(t *testing.T) {
	told := make(chan http.Header, 1)
	endpoint, upstream := startTokenServer(t), startScriptedAPI(t, trailersFrom("", told))
	g := startGateway(t, endpoint.options("token_header X-Partner-Token")+proxyTo(upstream))

	conn := dialFor(t, g.addr)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	var block strings.Builder
	encoder := hpack.NewEncoder(&block)
	send := func(end bool, fields ...string) {
		block.Reset()
		for i := 0; i < len(fields); i += 2 {
			_ = encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		if err := framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true, EndStream: end,
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	send(false, ":method", "POST", ":scheme", "http", ":authority", g.addr, ":path", "/",
		"content-length", "0", "trailer", "x-partner-token, x-checksum")
	send(true, "x-partner-token", "theirs", "x-checksum", "abc")

	trailer := awaitSignal(t, "trailers", told)
	if trailer.Get("X-Checksum") != "abc" || trailer.Get("X-Partner-Token") != "" {
		t.Errorf("the upstream got the trailers %v", trailer)
	}
}

func TestClientAuthorizationIsKeptOnRequest(t *testing.T) {
	var seen attemptLog
	endpoint := startTokenServer(t)
	upstream := startScriptedAPI(t, seen.observe(func(w http.ResponseWriter, r *http.Request) {
		if bearer(r) == "theirs" {
			rejectToken(w)
		}
	}))
	g := startGateway(t, endpoint.options("keep_client_authorization")+proxyTo(upstream))

	req := clientRequest(t, http.MethodPost, g.url("/"), io.MultiReader(strings.NewReader("body")))
	req.Header["Authorization"] = []string{"Bearer theirs", "Basic dTpw"}
	req.Trailer = http.Header{"Authorization": {"Bearer trailing"}}
	if a := g.do(req); a.status != 401 || a.header.Get("WWW-Authenticate") == "" {
		t.Errorf("got %d with %v, want the upstream's own 401", a.status, a.header)
	}
	if got := seen.all()[0].header["Authorization"]; !slices.Equal(got, []string{"Bearer theirs", "Basic dTpw"}) {
		t.Errorf("the upstream got %q", got)
	}
	if n := endpoint.count(); n != 0 {
		t.Errorf("%d token requests for a request that brought its own", n)
	}
	sendRaw(t, g.addr, "GET /", "Authorization:")
	g.get("/")
	if got := seen.tokens(); got != "theirs token-1 token-1" {
		t.Errorf("the upstream got %q", got)
	}
}

func TestTokenHeader(t *testing.T) {
	for _, test := range []struct{ option, name, want string }{
		{"token_header x-partner-token", "X-Partner-Token", "token-1"},
		{"token_header X-Partner-Token Token", "X-Partner-Token", "Token token-1"},
		{"token_header Authorization DPoP", "Authorization", "DPoP token-1"},
		{"", "Authorization", "Bearer token-1"},
	} {
		t.Run(test.option, func(t *testing.T) {
			var seen attemptLog
			endpoint, upstream := startTokenServer(t), startScriptedAPI(t, seen.observe(func(http.ResponseWriter, *http.Request) {}))
			g := startGateway(t, endpoint.options(test.option)+proxyTo(upstream))
			sendRaw(t, g.addr, "GET /", test.name+": theirs", "X-Stays: yes", "Connection: "+test.name)
			header := seen.all()[0].header
			if got := header[test.name]; !slices.Equal(got, []string{test.want}) || header.Get("X-Stays") != "yes" {
				t.Errorf("the upstream got %v", header)
			}
		})
	}
}

func TestTwoSitesShareOneGrant(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, "")
	site := endpoint.options() + upstream.proxy()
	addrs := []string{g.addr, freeAddr(t)}
	if err := loadCaddyfile("http://" + addrs[0] + " {\n" + site + "}\nhttp://" + addrs[1] + " {\n" + site + "}\n"); err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		a := g.do(clientRequest(t, http.MethodGet, "http://"+addr+"/", nil))
		checkAnswer(t, a, 200, "GET / with token-1")
	}
	if n := endpoint.count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	upstream.revoke("token-1")
	for _, addr := range addrs {
		a := g.do(clientRequest(t, http.MethodGet, "http://"+addr+"/", nil))
		checkAnswer(t, a, 200, "GET / with token-2")
	}
	if n := endpoint.count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

func TestOnlyMatchingRequestsGetAToken(t *testing.T) {
	var seen attemptLog
	endpoint, upstream := startTokenServer(t), startScriptedAPI(t, seen.observe(func(http.ResponseWriter, *http.Request) {}))
	options := strings.Replace(endpoint.options(), "oauth_cc", "oauth_cc /api/*", 1)
	g := startGateway(t, options+proxyTo(upstream))
	g.get("/public")
	if n := endpoint.count(); n != 0 {
		t.Errorf("%d token requests for a request that does not match", n)
	}
	g.get("/api/orders")
	if got := seen.tokens(); got != " token-1" {
		t.Errorf("the upstream got the tokens %q", got)
	}
}

func TestClientProtocols(t *testing.T) {
	body := numberedText(300 << 10)
	for _, protocol := range clientProtocols {
		for _, way := range upstreamProtocols {
			t.Run(protocol.name+", "+way.name, func(t *testing.T) {
				var seen attemptLog
				endpoint, upstream := startTokenServer(t), startScriptedAPI(t, seen.observe(acceptOnly("token-2")))
				_, base, client := protocol.start(t, endpoint.options()+proxyTo(upstream, way.option))
				a := protocol.exchange(t, client, clientRequest(t, http.MethodPut, base+"/a?b=c", strings.NewReader(body)))
				checkAnswer(t, a, 200, body)
				checkAnswer(t, protocol.exchange(t, client, clientRequest(t, http.MethodGet, base, nil)), 200, "")
				if got := seen.tokens(); got != "token-1 token-2 token-2" {
					t.Errorf("the upstream got the tokens %q", got)
				}
			})
		}
	}
}

func TestStatusPlaceholderTellsWhereTheTokenCameFrom(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, "header >X-Token {http.oauth_cc.status}\nlog\nlog_append token_status {http.oauth_cc.status}\n"+
		endpoint.options("allow_without_token")+upstream.proxy())
	for i, want := range []string{statusFetched, statusFresh, statusReplayed, statusNone} {
		switch want {
		case statusReplayed:
			upstream.revoke("token-1")
		case statusNone:
			endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
				http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
			})
			// Another client, for which there is no token yet.
			options := strings.Replace(endpoint.options("allow_without_token"), "client_id app", "client_id other", 1)
			g.reload("header >X-Token {http.oauth_cc.status}\nlog\nlog_append token_status {http.oauth_cc.status}\n" + options + upstream.proxy())
		}
		if got := g.get("/").header.Get("X-Token"); got != want {
			t.Errorf("request %d: status is %q, want %q", i, got, want)
		}
		awaitCondition(t, "an access log entry that tells "+want, func() bool {
			return strings.Contains(g.logs.all(), `"token_status":"`+want+`"`)
		})
	}
}
