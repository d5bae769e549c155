package oauthcc

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestTokenIsBoundAndProven(t *testing.T) {
	server, upstream := startBindingServer(t), startBoundAPI(t)
	g := startGateway(t, boundOptions(server, upstream))
	checkAnswer(t, g.get("/orders/1?page=2#x"), 200, "GET /orders/1?page=2 with token-1 ")
	checkAnswer(t, g.post("/a%2Fb/%C3%A9;v=1/", "text/plain", "payload"), 200, "POST /a%2Fb/%C3%A9;v=1/ with token-1 payload")
	checkAnswer(t, g.get("/"), 200, "GET / with token-1 ")
	server.wantNoErrors(t)
	upstream.wantNoErrors(t)
	if len(server.proofs) != 1 || len(upstream.proofs) != 3 || server.proofs[0].key != upstream.proofs[2].key {
		t.Errorf("proofs of %v and %v", server.proofs, upstream.proofs)
	}
}

func TestNonceIsUsedOnBothSides(t *testing.T) {
	server, upstream := startBindingServer(t), startBoundAPI(t)
	server.demand("s1")
	upstream.demand("u1")
	g := startGateway(t, boundOptions(server, upstream))
	checkAnswer(t, g.post("/", "text/plain", "payload"), 200, "POST / with token-1 payload")
	if a := g.get("/"); a.status != 200 || a.header.Get("DPoP-Nonce") != "" {
		t.Errorf("got %d with the nonce %q", a.status, a.header.Get("DPoP-Nonce"))
	}
	upstream.demand("u2")
	checkAnswer(t, g.get("/"), 200, "GET / with token-1 ")
	if got := server.nonces(); got != ". s1" {
		t.Errorf("the endpoint got the nonces %s", got)
	}
	if got := upstream.nonces(); got != ". u1 u1 u1 u2" {
		t.Errorf("the API got the nonces %s", got)
	}
	if n := len(g.logs.with("token obtained")); n != 1 || server.count() != 2 {
		t.Errorf("%d tokens for %d requests", n, server.count())
	}
	if strings.Contains(g.logs.all(), "refuses the DPoP proof") {
		t.Error("a nonce is no reason to complain")
	}
	server.wantNoErrors(t)
	upstream.wantNoErrors(t)
}

// The next nonce comes with an answer that needed none.
func TestNonceOfASuccessIsUsed(t *testing.T) {
	server, upstream := startBindingServer(t), startBoundAPI(t)
	server.offer, upstream.offer = "s1", "u1"
	g := startGateway(t, boundOptions(server, upstream))
	checkAnswer(t, g.get("/"), 200, "GET / with token-1 ")
	server.demand("s1")
	upstream.demand("u1")
	upstream.accepts(func(token string) bool { return token == "token-2" })
	checkAnswer(t, g.get("/"), 200, "GET / with token-2 ")
	if got := server.nonces() + ", " + upstream.nonces(); got != ". s1, . u1 u1" {
		t.Errorf("got the nonces %s", got)
	}
}

// The answer to a request that was sent before the nonce changed can come in between.
func TestNonceIsThatOfTheAnswerThatWantsIt(t *testing.T) {
	h := handlerInMemory(t, &Handler{DPoP: "https://api.example.com"})
	asked := 0
	h.client.transport = endpointFunc(func(req *http.Request) (*http.Response, error) {
		if asked++; asked == 1 {
			answer := cannedStatus(400, "Dpop-Nonce", "new")
			answer.body = `{"error":"use_dpop_nonce"}`
			return answer.RoundTrip(req)
		}
		return cannedAnswer{body: `{"access_token":"t","token_type":"DPoP","expires_in":3600}`}.RoundTrip(req)
	})
	var nonces []string
	h.client.transport = observed{h.client.transport, func(req *http.Request) {
		proof, _ := verifyProof(req, h.TokenEndpoint, "")
		nonces = append(nonces, proof.Nonce)
	}, func() { h.prover.key.servers.of("http://127.0.0.1").learn(http.Header{nonceHeader: {"old"}}) }}
	w := httptest.NewRecorder()
	err := h.ServeHTTP(w, requestInCaddy("GET", "/", nil), caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		proof, _ := verifyProof(r, "https://api.example.com/", "t")
		nonces = append(nonces, proof.Nonce)
		w.Header().Set("DPoP-Nonce", "new")
		if proof.Nonce != "new" {
			w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
			w.WriteHeader(http.StatusUnauthorized)
			h.prover.nonce.learn(http.Header{nonceHeader: {"old"}})
		}
		return nil
	}))
	if got := strings.Join(nonces, " "); err != nil || w.Code != 200 || got != " new  new" {
		t.Errorf("got %d, %v with the nonces %q", w.Code, err, got)
	}
}

// observed tells of the requests before next, and of the answers behind it.
type observed struct {
	next   http.RoundTripper
	before func(*http.Request)
	after  func()
}

func (o observed) RoundTrip(req *http.Request) (*http.Response, error) {
	o.before(req)
	res, err := o.next.RoundTrip(req)
	o.after()
	return res, err
}

// The nonces of a token endpoint and of an API are not interchangeable, also where both
// have the same origin (RFC 9449 §9).
func TestNoncesOfBothSidesAreKeptApart(t *testing.T) {
	server, upstream := startBindingServer(t), startBoundAPI(t)
	server.URL = upstream.URL
	upstream.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			server.ServeHTTP(w, r)
			return
		}
		upstream.serve(w, r)
	})
	server.demand("s1")
	upstream.demand("u1")
	upstream.accepts(func(token string) bool { return token == "token-2" })
	g := startGateway(t, boundOptions(server, upstream))
	checkAnswer(t, g.get("/"), 200, "GET / with token-2 ")
	if got := server.nonces() + ", " + upstream.nonces(); got != ". s1 s1, . u1 u1" {
		t.Errorf("got the nonces %s", got)
	}
}

// A nonce may be wanted before the token is looked at, and again by who judges the next
// token: each attempt has its proof, and the body is sent each time.
func TestNonceAndRejectionInOneExchange(t *testing.T) {
	for name, option := range map[string]string{"replays on": "", "a small buffer": "replay_buffer 7B"} {
		t.Run(name, func(t *testing.T) {
			server, upstream := startBindingServer(t), startBoundAPI(t)
			upstream.demand("u1")
			upstream.accepts(func(token string) bool {
				upstream.demand("u-for-" + token) // rotates with each request
				return token == "token-2"
			})
			g := startGateway(t, boundOptions(server, upstream, option))
			checkAnswer(t, g.post("/", "text/plain", "payload"), 200, "POST / with token-2 payload")
			const want = "token-1 use_dpop_nonce, token-1 invalid_token, token-2 use_dpop_nonce, token-2"
			if got := upstream.log(); got != want {
				t.Errorf("the API answered %s, want %s", got, want)
			}
			upstream.wantNoErrors(t)
			if n := server.count(); n != 2 {
				t.Errorf("%d token requests", n)
			}
		})
	}
}

func TestUpstreamThatNeverTakesANonceIsAskedTwice(t *testing.T) {
	server, upstream := startBindingServer(t), startBoundAPI(t)
	n := 0
	upstream.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		upstream.demand(fmt.Sprint("u", n))
		upstream.serve(w, r)
	})
	g := startGateway(t, boundOptions(server, upstream))
	for range 2 {
		if a := g.post("/", "text/plain", "payload"); a.status != 401 || len(a.header["Www-Authenticate"]) != 2 || a.header["Dpop-Nonce"] != nil {
			t.Errorf("got %d %v", a.status, a.header)
		}
	}
	if n != 4 || server.count() != 1 {
		t.Errorf("%d requests and %d token requests", n, server.count())
	}
	told := g.logs.with("the upstream refuses the DPoP proof; the client gets the rejection")
	if len(told) != 1 || told[0]["error"] != "use_dpop_nonce" {
		t.Errorf("logged %v", told)
	}
}

func TestEndpointThatNeverTakesANonceIsAskedTwice(t *testing.T) {
	for name, test := range map[string]struct {
		nonce string
		asked int
	}{"always another": {"n", 2}, "none": {"", 1}, "one that is none": {`"`, 1}} {
		t.Run(name, func(t *testing.T) {
			server, upstream := startBindingServer(t), startBoundAPI(t)
			server.setAnswer(func(w http.ResponseWriter, _ *http.Request, n int) {
				if test.nonce != "" {
					w.Header().Set("DPoP-Nonce", fmt.Sprint(test.nonce, n))
				}
				w.WriteHeader(http.StatusBadRequest)
				_, _ = io.WriteString(w, `{"error":"use_dpop_nonce"}`)
			})
			g := startGateway(t, boundOptions(server, upstream)+"handle_errors {\nrespond {http.oauth_cc.error} {err.status_code}\n}\n")
			checkAnswer(t, g.get("/"), 502, "use_dpop_nonce")
			checkAnswer(t, g.get("/"), 502, "use_dpop_nonce")
			if n := server.count(); n != test.asked {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

// A proof that is refused is not the token's fault.
func TestRefusedProofIsNoReasonToRenew(t *testing.T) {
	server, upstream := startBindingServer(t), startBoundAPI(t)
	upstream.origin = "https://api.example.com"
	options := server.options("dpop "+upstream.URL, "mask_rejection") + proxyTo(upstream.Server)
	g := startGateway(t, options)
	for range 2 {
		if a := g.get("/"); a.status != 502 || a.header.Get("WWW-Authenticate") != "" {
			t.Errorf("got %d %v", a.status, a.header)
		}
	}
	if got := upstream.log(); got != "token-1 invalid_dpop_proof, token-1 invalid_dpop_proof" || server.count() != 1 {
		t.Errorf("the API answered %s", got)
	}
	told := g.logs.with("the upstream refuses the DPoP proof; the client gets the rejection")
	if len(told) != 1 || told[0]["error"] != "invalid_dpop_proof" || told[0]["proof_origin"] != upstream.URL || !strings.Contains(fmt.Sprint(told[0]["hint"]), "dpop has the origin") {
		t.Errorf("logged %v", told)
	}
}

func TestChallengesOfDPoPAreJudged(t *testing.T) {
	for challenge, want := range map[string]string{
		`DPoP error="invalid_token"`:                                       "200 2",
		`DPoP error="insufficient_scope"`:                                  "401 1",
		`DPoP algs="ES256"`:                                                "200 2",
		`Bearer, DPoP error="invalid_token"`:                               "200 2",
		`DPoP error="insufficient_scope", Bearer error="invalid_token"`:    "401 1",
		`Bearer error="insufficient_scope", DPoP error="invalid_token"`:    "200 2",
		`Bearer error="invalid_token", DPoP error=invalid_dpop_proof`:      "401 1",
		`DPoP error="use_dpop_nonce"`:                                      "401 1",
		`Bearer realm="api", error="insufficient_scope", DPoP realm="api"`: "401 1",
	} {
		server, upstream := startBindingServer(t), startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "DPoP token-2" {
				w.Header().Set("WWW-Authenticate", challenge)
				w.WriteHeader(http.StatusUnauthorized)
			}
		})
		g := startGateway(t, server.options("dpop "+upstream.URL)+proxyTo(upstream))
		if got := fmt.Sprint(g.get("/").status, " ", server.count()); got != want {
			t.Errorf("%s: got %s, want %s", challenge, got, want)
		}
	}
}

// A token that is not bound is of use to whoever steals it, so it is not used.
func TestBearerTokenIsNoSubstituteForABoundOne(t *testing.T) {
	for _, answer := range []string{
		`{"access_token":"stolen-canary","token_type":"Bearer","expires_in":60}`,
		`{"access_token":"stolen-canary","expires_in":60}`,
		`{"access_token":"stolen-canary","token_type":"","expires_in":60}`,
		`{"access_token":"stolen-canary","token_type":"N_A","expires_in":60}`,
	} {
		server, upstream := startBindingServer(t), startBoundAPI(t)
		server.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { _, _ = io.WriteString(w, answer) })
		g := startGateway(t, boundOptions(server, upstream))
		if a := g.get("/"); a.status != 502 || upstream.log() != "" {
			t.Errorf("%s: got %d", answer, a.status)
		}
		told := g.logs.with("no token obtained")
		if len(told) != 1 || told[0]["error"] != "invalid_response" || !strings.Contains(fmt.Sprint(told[0]["detail"]), "has not bound the token to the gateway's key") {
			t.Errorf("logged %v", told)
		}
	}
}

func TestBoundTokenIsOfAnyCase(t *testing.T) {
	server, upstream := startBindingServer(t), startBoundAPI(t)
	server.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		_, _ = io.WriteString(w, `{"access_token":"token-1","token_type":"dpop","expires_in":60}`)
	})
	g := startGateway(t, boundOptions(server, upstream))
	checkAnswer(t, g.get("/"), 200, "GET / with token-1 ")
}

// What a client sends in the proof's place does not get through, and can't have the
// gateway's taken away.
func TestClientsProofIsRemoved(t *testing.T) {
	server, upstream := startBindingServer(t), startBoundAPI(t)
	g := startGateway(t, boundOptions(server, upstream))
	for _, lines := range [][]string{
		{"DPoP: theirs"},
		{"DPoP: theirs", "dpop: theirs too", "Authorization: DPoP theirs"},
		{"Connection: dpop, authorization, keep-alive"},
	} {
		if a := sendRaw(t, g.addr, "GET /", lines...); a.status != 200 {
			t.Errorf("%q: got %d", lines, a.status)
		}
	}
	upstream.wantNoErrors(t)
	const trailers = "Transfer-Encoding: chunked\r\nTrailer: X-Checksum, DPoP\r\n\r\n4\r\nbody\r\n0\r\nX-Checksum: abc\r\nDPoP: theirs\r\n\r\n"
	told := make(chan http.Header, 1)
	upstream.Config.Handler = trailersFrom("", told)
	if a := sendRaw(t, g.addr, "POST /", trailers); a.status != 200 {
		t.Fatalf("got %d", a.status)
	}
	if trailer := awaitSignal(t, "trailers", told); len(trailer) != 1 || trailer.Get("X-Checksum") != "abc" {
		t.Errorf("the upstream got the trailers %v", trailer)
	}
}

func TestProofIsTakenAwayFromAnErrorRoute(t *testing.T) {
	server := startBindingServer(t)
	var seen attemptLog
	errorPages := startScriptedAPI(t, seen.observe(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "sorry") }))
	g := startGateway(t, server.options("dpop https://api.example.com")+"reverse_proxy "+freeAddr(t)+"\nhandle_errors {\n"+proxyTo(errorPages)+"}\n")
	g.get("/")
	if all := seen.all(); len(all) != 1 || all[0].header["Dpop"] != nil || all[0].header["Authorization"] != nil {
		t.Errorf("the error route got %v", all)
	}
}

func TestHintForARefusedProof(t *testing.T) {
	server, upstream := startBindingServer(t), startBoundAPI(t)
	server.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_dpop_proof"}`)
	})
	g := startGateway(t, boundOptions(server, upstream))
	checkAnswer(t, g.get("/"), 502, "")
	if told := g.logs.with("no token obtained"); len(told) != 1 || !strings.Contains(fmt.Sprint(told[0]["hint"]), "clocks of both sides") {
		t.Errorf("logged %v", told)
	}
}

// Without a token there is nothing to prove, and a client that brings its own proves that.
func TestRequestsWithoutTheGatewaysTokenHaveNoProofOfIts(t *testing.T) {
	server := startBindingServer(t)
	server.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusForbidden) })
	var seen attemptLog
	upstream := startScriptedAPI(t, seen.observe(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("DPoP-Nonce", "theirs")
		w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	g := startGateway(t, server.options("dpop "+upstream.URL, "allow_without_token", "keep_client_authorization")+proxyTo(upstream))
	if a := sendRaw(t, g.addr, "GET /", "DPoP: theirs"); a.status != 401 {
		t.Errorf("got %d", a.status)
	}
	if a := sendRaw(t, g.addr, "GET /", "DPoP: theirs", "Authorization: DPoP theirs"); a.status != 401 || a.header.Get("DPoP-Nonce") != "theirs" {
		t.Errorf("got %d %v", a.status, a.header)
	}
	all := seen.all()
	if len(all) != 2 || all[0].header["Dpop"] != nil || all[0].header["Authorization"] != nil || all[1].header.Get("DPoP") != "theirs" || all[1].header.Get("Authorization") != "DPoP theirs" {
		t.Errorf("the API got %v", all)
	}
}

// With retry_status off a rejected token is not renewed, but a nonce is used all the same.
func TestNonceIsUsedWithoutRetries(t *testing.T) {
	server, upstream := startBindingServer(t), startBoundAPI(t)
	upstream.demand("u1")
	g := startGateway(t, boundOptions(server, upstream, "retry_status off"))
	checkAnswer(t, g.post("/", "text/plain", "payload"), 200, "POST / with token-1 payload")
	upstream.accepts(func(string) bool { return false })
	if a := g.get("/"); a.status != 401 || server.count() != 1 {
		t.Errorf("got %d after %d token requests", a.status, server.count())
	}
}

// The body of a request that is too large to be sent again is what the nonce fails for;
// the next request has it.
func TestBodyThatCannotBeSentAgainFailsForANonceOnce(t *testing.T) {
	server, upstream := startBindingServer(t), startBoundAPI(t)
	upstream.demand("u1")
	serve := upstream.Config.Handler
	upstream.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		serve.ServeHTTP(w, r)
	})
	g := startGateway(t, boundOptions(server, upstream, "replay_buffer 3B"))
	if a := g.post("/", "text/plain", "payload"); a.status != 401 {
		t.Errorf("got %d %q", a.status, a.body)
	}
	checkAnswer(t, g.post("/", "text/plain", "payload"), 200, "POST / with token-1 payload")
	told := g.logs.with("the upstream refuses the DPoP proof; the client gets the rejection")
	if len(told) != 1 || !strings.Contains(fmt.Sprint(told[0]["hint"]), "body can't be sent again") {
		t.Errorf("logged %v", told)
	}
}

// Tokens are bound to a key that has to survive what they survive.
func TestReloadKeepsTheKeyAndItsNonces(t *testing.T) {
	server, upstream := startBindingServer(t), startBoundAPI(t)
	upstream.demand("u1")
	site := boundOptions(server, upstream)
	g := startGateway(t, site)
	checkAnswer(t, g.get("/"), 200, "GET / with token-1 ")
	upstream.log()
	g.reload(site + "header X-New 1\n")
	checkAnswer(t, g.get("/"), 200, "GET / with token-1 ")
	if got := upstream.log(); got != "token-1" {
		t.Errorf("the API answered %s", got)
	}
	g.reload("respond ok")
	awaitCondition(t, "the key is given up", func() bool {
		_, held := proofKeys.References(proofKeyName)
		return !held
	})
	g.reload(site)
	checkAnswer(t, g.get("/"), 200, "GET / with token-2 ")
	if upstream.proofs[0].key == upstream.proofs[len(upstream.proofs)-1].key {
		t.Error("the key was kept somewhere")
	}
}

// What changes the path before the directive is what a proof is for; what changes it
// after is an error that is told.
func TestProofIsForThePathThatTheUpstreamSees(t *testing.T) {
	const message = "the method or the path was changed after the DPoP proof for it was made, so the upstream refuses it; put oauth_cc after what changes them"
	for name, test := range map[string]struct {
		site  string // %s is the directive with its upstream
		fails bool
	}{
		"rewrite":           {"rewrite * /v1{uri}\n%s", false},
		"uri":               {"uri strip_prefix /a\n%s", false},
		"handle_path":       {"handle_path /a/* {\n%s\n}", false},
		"files after it":    {"%sX\nhandle /other {\nY\n}\nhandle {\nuri replace a b\nrespond 200\n}", false},
		"route, in order":   {"route {\nuri replace a b\n%s\n}", false},
		"query":             {"route {\n%sX\nuri query +a b\nY\n}", false},
		"route, too late":   {"route {\n%sX\nuri replace a b\nY\n}", true},
		"route, unseen":     {"route {\n%sX\n@all path *\nroute @all {\nuri replace a b\n}\nY\n}", true},
		"method, in order":  {"route {\nmethod POST\n%s\n}", false},
		"handle, no change": {"%sX\nhandle /a/* {\nY\n}", false},
	} {
		t.Run(name, func(t *testing.T) {
			server, upstream := startBindingServer(t), startBoundAPI(t)
			directive, proxy := server.options("dpop "+upstream.origin), proxyTo(upstream.Server)
			site := strings.NewReplacer("%sX", directive, "%s", directive+proxy, "Y", proxy).Replace(test.site)
			g := startGateway(t, site)
			for range 2 {
				if a := g.get("/a/b"); (a.status != 200) != test.fails {
					t.Errorf("got %d %q", a.status, a.body)
				}
			}
			if told := g.logs.with(message); (len(told) == 1) != test.fails || len(told) > 1 {
				t.Errorf("logged %v", told)
			}
		})
	}
}

// A WebSocket comes over HTTP/2 as CONNECT, and reaches the upstream as GET.
func TestProofIsForTheMethodThatTheUpstreamSees(t *testing.T) {
	for _, test := range []struct {
		method, protocol string
		major            int
		want             string
	}{
		{"CONNECT", "websocket", 2, "GET"}, {"CONNECT", "websocket", 3, "GET"}, {"CONNECT", "", 2, "CONNECT"},
		{"CONNECT", "", 1, "CONNECT"}, {"GET", "websocket", 2, "GET"}, {"POST", "", 2, "POST"},
	} {
		r := httptest.NewRequest(test.method, "https://gateway.example.com/", nil)
		r.ProtoMajor = test.major
		if test.major == 2 && test.protocol != "" {
			r.Header[":protocol"] = []string{test.protocol}
		} else {
			r.Proto = test.protocol
		}
		if got := proofMethod(r); got != test.want {
			t.Errorf("%+v: got %s", test, got)
		}
	}
}

func TestOriginIsNormalized(t *testing.T) {
	for raw, want := range map[string]string{
		"https://API.example.com":       "https://api.example.com",
		"HTTPS://api.example.com:443/":  "https://api.example.com",
		"http://api.example.com:80":     "http://api.example.com",
		"http://api.example.com:443":    "http://api.example.com:443",
		"https://api.example.com:8443/": "https://api.example.com:8443",
		"https://[2001:DB8::1]":         "https://[2001:db8::1]",
		"https://[::1]:8443":            "https://[::1]:8443",
	} {
		if got, err := parseOrigin(raw); got != want || err != nil {
			t.Errorf("%s: got %s, %v", raw, got, err)
		}
	}
}

func TestProofTargetHasThePathAlone(t *testing.T) {
	for raw, want := range map[string]string{
		"/": "/", "": "/", "*": "/", "/a?b=c": "/a", "/a%2Fb/%C3%A9": "/a%2Fb/%C3%A9", "/é": "/%C3%A9", "/a//b/../c": "/a//b/../c",
	} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := proofTarget("https://api.example.com", u); got != "https://api.example.com"+want {
			t.Errorf("%s: got %s", raw, got)
		}
	}
}

func TestNonceIsVetted(t *testing.T) {
	for value, want := range map[string]bool{
		"eyJ7S_zG.eyJH0-Z.HX4w-7v": true, strings.Repeat("a", maxNonce): true, "!#~": true,
		"": false, "a b": false, `a"b`: false, `a\b`: false, "é": false, "a\tb": false, strings.Repeat("a", maxNonce+1): false,
	} {
		n := new(nonce)
		if got := n.learn(http.Header{nonceHeader: {value}}) != ""; got != want || (n.last() == value) != (want || value == "") {
			t.Errorf("%q: %t, kept %q", value, got, n.last())
		}
	}
	if n := new(nonce); n.learn(http.Header{}) != "" || n.last() != "" {
		t.Error("there was none")
	}
}

func TestNoncesAreKeptForABoundedNumberOfOrigins(t *testing.T) {
	n := new(nonces)
	first := n.of("https://0.example.com")
	if n.of("https://0.example.com") != first {
		t.Error("it is another one")
	}
	for i := range 3 * maxNonceOrigins {
		n.of(fmt.Sprintf("https://%d.example.com", i))
		if len(n.origin) > maxNonceOrigins {
			t.Fatalf("%d origins", len(n.origin))
		}
	}
}

// Many requests may find out at once that the nonce has changed.
func TestConcurrentRequestsUseTheNewNonce(t *testing.T) {
	server, upstream := startBindingServer(t), startBoundAPI(t)
	g := startGateway(t, boundOptions(server, upstream))
	for i := range 5 {
		upstream.demand(fmt.Sprint("u", i))
		g.getConcurrently(30, 200)
	}
	upstream.wantNoErrors(t)
}
