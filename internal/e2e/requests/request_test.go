package requests

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func TestClientTokenIsOverwritten(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, endpoint.Options()+upstream.Proxy())
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
			if a := gatewaytest.SendRaw(t, g.Addr, "GET /", lines...); a.Status != 200 {
				t.Fatalf("got %d %q", a.Status, a.Body)
			}
			if got := upstream.Last(t).Header["Authorization"]; !slices.Equal(got, []string{"Bearer token-1"}) {
				t.Errorf("the upstream got %q", got)
			}
		})
	}
}

func TestOtherConnectionOptionsKeepTheirMeaning(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, endpoint.Options()+upstream.Proxy())
	a := gatewaytest.SendRaw(t, g.Addr, "GET /", "Connection: X-Hop, authorization, X-Hop2", "Connection: X-Hop3",
		"X-Hop: 1", "X-Hop2: 2", "X-Hop3: 3", "X-End: 4")
	if a.Status != 200 {
		t.Fatalf("got %d %q", a.Status, a.Body)
	}
	header := upstream.Last(t).Header
	if header.Get("X-End") != "4" || header.Get("X-Hop")+header.Get("X-Hop2")+header.Get("X-Hop3") != "" {
		t.Errorf("the upstream got %v", header)
	}
}

// trailersFrom is an API that tells which trailers came with a request, and rejects
// the token named by reject.
func trailersFrom(reject string, tell chan<- http.Header) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if reject != "" && gatewaytest.Bearer(r) == reject {
			gatewaytest.RejectToken(w)
			return
		}
		tell <- r.Trailer.Clone()
	}
}

func TestTokenInTrailersIsRemoved(t *testing.T) {
	for _, protocol := range gatewaytest.ClientProtocols {
		for name, option := range map[string]string{"replays on": "", "replays off": "retry_status off"} {
			t.Run(protocol.Name+", "+name, func(t *testing.T) {
				told := make(chan http.Header, 1)
				endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, trailersFrom("", told))
				_, base, client := protocol.Start(t, endpoint.Options("token_header X-Partner-Token", option)+gatewaytest.ProxyTo(upstream))
				req := gatewaytest.ClientRequest(t, http.MethodPost, base, io.MultiReader(strings.NewReader("body")))
				req.Trailer = http.Header{"X-Partner-Token": {"theirs"}, "X-Checksum": {"abc"}}
				if a := protocol.Exchange(t, client, req); a.Status != 200 {
					t.Fatalf("got %d %q", a.Status, a.Body)
				}
				trailer := gatewaytest.AwaitSignal(t, "trailers", told)
				if len(trailer) != 1 || trailer.Get("X-Checksum") != gatewaytest.PassedTrailer("abc") {
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
	for _, test := range []struct{ name, option, reject, passed string }{
		{"first attempt", "", "", gatewaytest.PassedTrailer("abc")},
		{"replay", "", "token-1", "abc"},
		{"replays off", "retry_status off", "", gatewaytest.PassedTrailer("abc")},
	} {
		t.Run(test.name, func(t *testing.T) {
			told := make(chan http.Header, 1)
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, trailersFrom(test.reject, told))
			g := gatewaytest.Start(t, endpoint.Options(test.option)+gatewaytest.ProxyTo(upstream))
			if a := gatewaytest.SendRaw(t, g.Addr, "POST /", body); a.Status != 200 {
				t.Fatalf("got %d %q", a.Status, a.Body)
			}
			trailer := gatewaytest.AwaitSignal(t, "trailers", told)
			if len(trailer) != 1 || trailer.Get("X-Checksum") != test.passed {
				t.Errorf("the upstream got the trailers %v", trailer)
			}
		})
	}
}

// HTTP/2 allows trailers after a body that is announced to be empty.
func TestTokenInTrailersOfAnEmptyBodyIsRemoved(t *testing.T) {
	told := make(chan http.Header, 1)
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, trailersFrom("", told))
	g := gatewaytest.Start(t, endpoint.Options("token_header X-Partner-Token")+gatewaytest.ProxyTo(upstream))

	conn := gatewaytest.DialFor(t, g.Addr)
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
	send(false, ":method", "POST", ":scheme", "http", ":authority", g.Addr, ":path", "/",
		"content-length", "0", "trailer", "x-partner-token, x-checksum")
	send(true, "x-partner-token", "theirs", "x-checksum", "abc")

	trailer := gatewaytest.AwaitSignal(t, "trailers", told)
	if trailer.Get("X-Checksum") != gatewaytest.PassedTrailer("abc") || trailer.Get("X-Partner-Token") != "" {
		t.Errorf("the upstream got the trailers %v", trailer)
	}
}

func TestClientAuthorizationIsKeptOnRequest(t *testing.T) {
	var seen gatewaytest.AttemptLog
	endpoint := gatewaytest.StartTokenServer(t)
	upstream := gatewaytest.StartScriptedAPI(t, seen.Observe(func(w http.ResponseWriter, r *http.Request) {
		if gatewaytest.Bearer(r) == "theirs" {
			gatewaytest.RejectToken(w)
		}
	}))
	g := gatewaytest.Start(t, endpoint.Options("keep_client_authorization")+gatewaytest.ProxyTo(upstream))

	req := gatewaytest.ClientRequest(t, http.MethodPost, g.URL("/"), io.MultiReader(strings.NewReader("body")))
	req.Header["Authorization"] = []string{"Bearer theirs", "Basic dTpw"}
	req.Trailer = http.Header{"Authorization": {"Bearer trailing"}}
	if a := g.Do(req); a.Status != 401 || a.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("got %d with %v, want the upstream's own 401", a.Status, a.Header)
	}
	if got := seen.All()[0].Header["Authorization"]; !slices.Equal(got, []string{"Bearer theirs", "Basic dTpw"}) {
		t.Errorf("the upstream got %q", got)
	}
	if n := endpoint.Count(); n != 0 {
		t.Errorf("%d token requests for a request that brought its own", n)
	}
	gatewaytest.SendRaw(t, g.Addr, "GET /", "Authorization:")
	g.Get("/")
	if got := seen.Tokens(); got != "theirs token-1 token-1" {
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
			var seen gatewaytest.AttemptLog
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, seen.Observe(func(http.ResponseWriter, *http.Request) {}))
			g := gatewaytest.Start(t, endpoint.Options(test.option)+gatewaytest.ProxyTo(upstream))
			gatewaytest.SendRaw(t, g.Addr, "GET /", test.name+": theirs", "X-Stays: yes", "Connection: "+test.name)
			header := seen.All()[0].Header
			if got := header[test.name]; !slices.Equal(got, []string{test.want}) || header.Get("X-Stays") != "yes" {
				t.Errorf("the upstream got %v", header)
			}
		})
	}
}

func TestTwoSitesShareOneGrant(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, "")
	site := endpoint.Options() + upstream.Proxy()
	addrs := []string{g.Addr, gatewaytest.FreeAddr(t)}
	if err := gatewaytest.Load("http://" + addrs[0] + " {\n" + site + "}\nhttp://" + addrs[1] + " {\n" + site + "}\n"); err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		a := g.Do(gatewaytest.ClientRequest(t, http.MethodGet, "http://"+addr+"/", nil))
		gatewaytest.CheckAnswer(t, a, 200, "GET / with token-1")
	}
	if n := endpoint.Count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	upstream.Revoke("token-1")
	for _, addr := range addrs {
		a := g.Do(gatewaytest.ClientRequest(t, http.MethodGet, "http://"+addr+"/", nil))
		gatewaytest.CheckAnswer(t, a, 200, "GET / with token-2")
	}
	if n := endpoint.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

func TestOnlyMatchingRequestsGetAToken(t *testing.T) {
	var seen gatewaytest.AttemptLog
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, seen.Observe(func(http.ResponseWriter, *http.Request) {}))
	options := strings.Replace(endpoint.Options(), "oauth_cc", "oauth_cc /api/*", 1)
	g := gatewaytest.Start(t, options+gatewaytest.ProxyTo(upstream))
	g.Get("/public")
	if n := endpoint.Count(); n != 0 {
		t.Errorf("%d token requests for a request that does not match", n)
	}
	g.Get("/api/orders")
	if got := seen.Tokens(); got != " token-1" {
		t.Errorf("the upstream got the tokens %q", got)
	}
}

func TestClientProtocols(t *testing.T) {
	body := gatewaytest.NumberedText(300 << 10)
	for _, protocol := range gatewaytest.ClientProtocols {
		for _, way := range gatewaytest.UpstreamProtocols {
			t.Run(protocol.Name+", "+way.Name, func(t *testing.T) {
				var seen gatewaytest.AttemptLog
				endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, seen.Observe(gatewaytest.AcceptOnly("token-2")))
				_, base, client := protocol.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream, way.Option))
				a := protocol.Exchange(t, client, gatewaytest.ClientRequest(t, http.MethodPut, base+"/a?b=c", strings.NewReader(body)))
				gatewaytest.CheckAnswer(t, a, 200, body)
				gatewaytest.CheckAnswer(t, protocol.Exchange(t, client, gatewaytest.ClientRequest(t, http.MethodGet, base, nil)), 200, "")
				if got := seen.Tokens(); got != "token-1 token-2 token-2" {
					t.Errorf("the upstream got the tokens %q", got)
				}
			})
		}
	}
}

func TestStatusPlaceholderTellsWhereTheTokenCameFrom(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, "header >X-Token {http.oauth_cc.status}\nlog\nlog_append token_status {http.oauth_cc.status}\n"+
		endpoint.Options("allow_without_token")+upstream.Proxy())
	for i, want := range []string{"fetched", "fresh", "replayed", "none"} {
		switch want {
		case "replayed":
			upstream.Revoke("token-1")
		case "none":
			endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
				http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
			})
			// Another client, for which there is no token yet.
			options := strings.Replace(endpoint.Options("allow_without_token"), "client_id app", "client_id other", 1)
			g.Reload("header >X-Token {http.oauth_cc.status}\nlog\nlog_append token_status {http.oauth_cc.status}\n" + options + upstream.Proxy())
		}
		if got := g.Get("/").Header.Get("X-Token"); got != want {
			t.Errorf("request %d: status is %q, want %q", i, got, want)
		}
		gatewaytest.Await(t, "an access log entry that tells "+want, func() bool {
			return strings.Contains(g.Logs.All(), `"token_status":"`+want+`"`)
		})
	}
}
