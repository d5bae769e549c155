package requests

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func TestTokenIsBoundAndProven(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	g := gatewaytest.Start(t, gatewaytest.BoundOptions(server, upstream))
	gatewaytest.CheckAnswer(t, g.Get("/orders/1?page=2#x"), 200, "GET /orders/1?page=2 with token-1 ")
	gatewaytest.CheckAnswer(t, g.Post("/a%2Fb/%C3%A9;v=1/", "text/plain", "payload"), 200, "POST /a%2Fb/%C3%A9;v=1/ with token-1 payload")
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-1 ")
	server.WantNoErrors(t)
	upstream.WantNoErrors(t)
	if len(server.Proofs) != 1 || len(upstream.Proofs) != 3 || server.Proofs[0].Key != upstream.Proofs[2].Key {
		t.Errorf("proofs of %v and %v", server.Proofs, upstream.Proofs)
	}
}

func TestNonceIsUsedOnBothSides(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	server.Demand("s1")
	upstream.Demand("u1")
	g := gatewaytest.Start(t, gatewaytest.BoundOptions(server, upstream))
	gatewaytest.CheckAnswer(t, g.Post("/", "text/plain", "payload"), 200, "POST / with token-1 payload")
	if a := g.Get("/"); a.Status != 200 || a.Header.Get("DPoP-Nonce") != "" {
		t.Errorf("got %d with the nonce %q", a.Status, a.Header.Get("DPoP-Nonce"))
	}
	upstream.Demand("u2")
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-1 ")
	if got := server.Nonces(); got != ". s1" {
		t.Errorf("the endpoint got the nonces %s", got)
	}
	if got := upstream.Nonces(); got != ". u1 u1 u1 u2" {
		t.Errorf("the API got the nonces %s", got)
	}
	if n := len(g.Logs.With("token obtained")); n != 1 || server.Count() != 2 {
		t.Errorf("%d tokens for %d requests", n, server.Count())
	}
	if strings.Contains(g.Logs.All(), "refuses the DPoP proof") {
		t.Error("a nonce is no reason to complain")
	}
	server.WantNoErrors(t)
	upstream.WantNoErrors(t)
}

// The next nonce comes with an answer that needed none.
func TestNonceOfASuccessIsUsed(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	server.Offer, upstream.Offer = "s1", "u1"
	g := gatewaytest.Start(t, gatewaytest.BoundOptions(server, upstream))
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-1 ")
	server.Demand("s1")
	upstream.Demand("u1")
	upstream.Accepts(func(token string) bool { return token == "token-2" })
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-2 ")
	if got := server.Nonces() + ", " + upstream.Nonces(); got != ". s1, . u1 u1" {
		t.Errorf("got the nonces %s", got)
	}
}

// The nonces of a token endpoint and of an API are not interchangeable, also where both
// have the same origin (RFC 9449 §9).
func TestNoncesOfBothSidesAreKeptApart(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	server.URL = upstream.URL
	upstream.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			server.ServeHTTP(w, r)
			return
		}
		upstream.Serve(w, r)
	})
	server.Demand("s1")
	upstream.Demand("u1")
	upstream.Accepts(func(token string) bool { return token == "token-2" })
	g := gatewaytest.Start(t, gatewaytest.BoundOptions(server, upstream))
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-2 ")
	if got := server.Nonces() + ", " + upstream.Nonces(); got != ". s1 s1, . u1 u1" {
		t.Errorf("got the nonces %s", got)
	}
}

// A nonce may be wanted before the token is looked at, and again by who judges the next
// token: each attempt has its proof, and the body is sent each time.
func TestNonceAndRejectionInOneExchange(t *testing.T) {
	for name, option := range map[string]string{"replays on": "", "a small buffer": "replay_buffer 7B"} {
		t.Run(name, func(t *testing.T) {
			server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
			upstream.Demand("u1")
			upstream.Accepts(func(token string) bool {
				upstream.Demand("u-for-" + token) // rotates with each request
				return token == "token-2"
			})
			g := gatewaytest.Start(t, gatewaytest.BoundOptions(server, upstream, option))
			gatewaytest.CheckAnswer(t, g.Post("/", "text/plain", "payload"), 200, "POST / with token-2 payload")
			const want = "token-1 use_dpop_nonce, token-1 invalid_token, token-2 use_dpop_nonce, token-2"
			if got := upstream.Log(); got != want {
				t.Errorf("the API answered %s, want %s", got, want)
			}
			upstream.WantNoErrors(t)
			if n := server.Count(); n != 2 {
				t.Errorf("%d token requests", n)
			}
		})
	}
}

func TestUpstreamThatNeverTakesANonceIsAskedTwice(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	n := 0
	upstream.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		upstream.Demand(fmt.Sprint("u", n))
		upstream.Serve(w, r)
	})
	g := gatewaytest.Start(t, gatewaytest.BoundOptions(server, upstream))
	for range 2 {
		if a := g.Post("/", "text/plain", "payload"); a.Status != 401 || len(a.Header["Www-Authenticate"]) != 2 || a.Header["Dpop-Nonce"] != nil {
			t.Errorf("got %d %v", a.Status, a.Header)
		}
	}
	if n != 4 || server.Count() != 1 {
		t.Errorf("%d requests and %d token requests", n, server.Count())
	}
	told := g.Logs.With("the upstream refuses the DPoP proof; the client gets the rejection")
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
			server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
			server.SetAnswer(func(w http.ResponseWriter, _ *http.Request, n int) {
				if test.nonce != "" {
					w.Header().Set("DPoP-Nonce", fmt.Sprint(test.nonce, n))
				}
				w.WriteHeader(http.StatusBadRequest)
				_, _ = io.WriteString(w, `{"error":"use_dpop_nonce"}`)
			})
			g := gatewaytest.Start(t, gatewaytest.BoundOptions(server, upstream)+"handle_errors {\nrespond {http.oauth_cc.error} {err.status_code}\n}\n")
			gatewaytest.CheckAnswer(t, g.Get("/"), 502, "use_dpop_nonce")
			gatewaytest.CheckAnswer(t, g.Get("/"), 502, "use_dpop_nonce")
			if n := server.Count(); n != test.asked {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

// A proof that is refused is not the token's fault.
func TestRefusedProofIsNoReasonToRenew(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	upstream.Origin = "https://api.example.com"
	options := server.Options("dpop "+upstream.URL, "mask_rejection") + gatewaytest.ProxyTo(upstream.Server)
	g := gatewaytest.Start(t, options)
	for range 2 {
		if a := g.Get("/"); a.Status != 502 || a.Header.Get("WWW-Authenticate") != "" {
			t.Errorf("got %d %v", a.Status, a.Header)
		}
	}
	if got := upstream.Log(); got != "token-1 invalid_dpop_proof, token-1 invalid_dpop_proof" || server.Count() != 1 {
		t.Errorf("the API answered %s", got)
	}
	told := g.Logs.With("the upstream refuses the DPoP proof; the client gets the rejection")
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
		server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "DPoP token-2" {
				w.Header().Set("WWW-Authenticate", challenge)
				w.WriteHeader(http.StatusUnauthorized)
			}
		})
		g := gatewaytest.Start(t, server.Options("dpop "+upstream.URL)+gatewaytest.ProxyTo(upstream))
		if got := fmt.Sprint(g.Get("/").Status, " ", server.Count()); got != want {
			t.Errorf("%s: got %s, want %s", challenge, got, want)
		}
	}
}

// An upstream that answers otherwise may have done what the request asks for.
func TestOnlyARefusalAsksForANonce(t *testing.T) {
	for status, want := range map[int]int{401: 2, 500: 1, 503: 1, 409: 1, 400: 1, 403: 1} {
		var seen gatewaytest.AttemptLog
		server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartScriptedAPI(t, seen.Observe(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
			w.Header().Set("DPoP-Nonce", "n1")
			w.WriteHeader(status)
		}))
		for _, option := range []string{"", "retry_status off"} {
			g := gatewaytest.Start(t, server.Options("dpop "+upstream.URL, option)+gatewaytest.ProxyTo(upstream))
			before := strings.Count(seen.Tokens(), "token-")
			a := g.Post("/", "text/plain", "an order")
			if n := strings.Count(seen.Tokens(), "token-") - before; a.Status != status || a.Header.Get("DPoP-Nonce") != "" || n != want {
				t.Errorf("%d, %q: got %d, sent %d times, want %d", status, option, a.Status, n, want)
			}
		}
	}
}

// Nor is a refusal enough if another upstream has answered before: that one may have done it.
func TestRequestThatMayBeDoneIsNotSentAgainWithANonce(t *testing.T) {
	var seen gatewaytest.AttemptLog
	server, done := gatewaytest.StartBindingServer(t), gatewaytest.StartScriptedAPI(t, seen.Observe(func(http.ResponseWriter, *http.Request) {}))
	refusing := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
		w.Header().Set("DPoP-Nonce", "n1")
		w.WriteHeader(http.StatusUnauthorized)
	})
	g := gatewaytest.Start(t, server.Options("dpop "+done.URL)+gatewaytest.ProxyTo(done, "handle_response {", gatewaytest.ProxyTo(refusing), "}"))
	if a := g.Post("/", "text/plain", ""); a.Status != 401 || len(seen.All()) != 1 {
		t.Errorf("got %d, sent %d times", a.Status, len(seen.All()))
	}
}

// A rejected token stays uncured if the proof of the next one is refused.
func TestRejectionBeforeARefusedProofIsUncured(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		code := "invalid_dpop_proof"
		if r.Header.Get("Authorization") == "DPoP token-1" {
			code = "invalid_token"
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("DPoP error=%q", code))
		w.WriteHeader(http.StatusUnauthorized)
	})
	g := gatewaytest.Start(t, gatewaytest.Monitored(server.Options("dpop "+upstream.URL)+gatewaytest.ProxyTo(upstream)))
	if a := g.Get("/"); a.Status != 401 || server.Count() != 2 {
		t.Errorf("got %d with %d token requests", a.Status, server.Count())
	}
	gatewaytest.WantSamples(t, server.TokenServer, gatewaytest.Scrape(g), map[string]float64{
		`upstream_rejections_total outcome="uncured"`: 1, `upstream_rejections_total outcome="passed"`: 0,
	})
}

// A token that is not bound is of use to whoever steals it, so it is not used.
func TestBearerTokenIsNoSubstituteForABoundOne(t *testing.T) {
	for _, answer := range []string{
		`{"access_token":"stolen-canary","token_type":"Bearer","expires_in":60}`,
		`{"access_token":"stolen-canary","expires_in":60}`,
		`{"access_token":"stolen-canary","token_type":"","expires_in":60}`,
		`{"access_token":"stolen-canary","token_type":"N_A","expires_in":60}`,
	} {
		server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
		server.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { _, _ = io.WriteString(w, answer) })
		g := gatewaytest.Start(t, gatewaytest.BoundOptions(server, upstream))
		if a := g.Get("/"); a.Status != 502 || upstream.Log() != "" {
			t.Errorf("%s: got %d", answer, a.Status)
		}
		told := g.Logs.With("no token obtained")
		if len(told) != 1 || told[0]["error"] != "invalid_response" || !strings.Contains(fmt.Sprint(told[0]["detail"]), "has not bound the token to the gateway's key") {
			t.Errorf("logged %v", told)
		}
	}
}

func TestBoundTokenIsOfAnyCase(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	server.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		_, _ = io.WriteString(w, `{"access_token":"token-1","token_type":"dpop","expires_in":60}`)
	})
	g := gatewaytest.Start(t, gatewaytest.BoundOptions(server, upstream))
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-1 ")
}

// What a client sends in the proof's place does not get through, and can't have the
// gateway's taken away.
func TestClientsProofIsRemoved(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	g := gatewaytest.Start(t, gatewaytest.BoundOptions(server, upstream))
	for _, lines := range [][]string{
		{"DPoP: theirs"},
		{"DPoP: theirs", "dpop: theirs too", "Authorization: DPoP theirs"},
		{"Connection: dpop, authorization, keep-alive"},
	} {
		if a := gatewaytest.SendRaw(t, g.Addr, "GET /", lines...); a.Status != 200 {
			t.Errorf("%q: got %d", lines, a.Status)
		}
	}
	upstream.WantNoErrors(t)
	const trailers = "Transfer-Encoding: chunked\r\nTrailer: X-Checksum, DPoP\r\n\r\n4\r\nbody\r\n0\r\nX-Checksum: abc\r\nDPoP: theirs\r\n\r\n"
	told := make(chan http.Header, 1)
	upstream.Config.Handler = trailersFrom("", told)
	if a := gatewaytest.SendRaw(t, g.Addr, "POST /", trailers); a.Status != 200 {
		t.Fatalf("got %d", a.Status)
	}
	if trailer := gatewaytest.AwaitSignal(t, "trailers", told); len(trailer) != 1 || trailer.Get("X-Checksum") != gatewaytest.PassedTrailer("abc") {
		t.Errorf("the upstream got the trailers %v", trailer)
	}
}

func TestProofIsTakenAwayFromAnErrorRoute(t *testing.T) {
	server := gatewaytest.StartBindingServer(t)
	var seen gatewaytest.AttemptLog
	errorPages := gatewaytest.StartScriptedAPI(t, seen.Observe(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "sorry") }))
	g := gatewaytest.Start(t, server.Options("dpop https://api.example.com")+"reverse_proxy "+gatewaytest.FreeAddr(t)+"\nhandle_errors {\n"+gatewaytest.ProxyTo(errorPages)+"}\n")
	g.Get("/")
	if all := seen.All(); len(all) != 1 || all[0].Header["Dpop"] != nil || all[0].Header["Authorization"] != nil {
		t.Errorf("the error route got %v", all)
	}
}

func TestHintForARefusedProof(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	server.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_dpop_proof"}`)
	})
	g := gatewaytest.Start(t, gatewaytest.BoundOptions(server, upstream))
	gatewaytest.CheckAnswer(t, g.Get("/"), 502, "")
	if told := g.Logs.With("no token obtained"); len(told) != 1 || !strings.Contains(fmt.Sprint(told[0]["hint"]), "clocks of both sides") {
		t.Errorf("logged %v", told)
	}
}

// Without a token there is nothing to prove, and a client that brings its own proves that.
func TestRequestsWithoutTheGatewaysTokenHaveNoProofOfIts(t *testing.T) {
	server := gatewaytest.StartBindingServer(t)
	server.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusForbidden) })
	var seen gatewaytest.AttemptLog
	upstream := gatewaytest.StartScriptedAPI(t, seen.Observe(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("DPoP-Nonce", "theirs")
		w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	g := gatewaytest.Start(t, server.Options("dpop "+upstream.URL, "allow_without_token", "keep_client_authorization")+gatewaytest.ProxyTo(upstream))
	if a := gatewaytest.SendRaw(t, g.Addr, "GET /", "DPoP: theirs"); a.Status != 401 {
		t.Errorf("got %d", a.Status)
	}
	if a := gatewaytest.SendRaw(t, g.Addr, "GET /", "DPoP: theirs", "Authorization: DPoP theirs"); a.Status != 401 || a.Header.Get("DPoP-Nonce") != "theirs" {
		t.Errorf("got %d %v", a.Status, a.Header)
	}
	all := seen.All()
	if len(all) != 2 || all[0].Header["Dpop"] != nil || all[0].Header["Authorization"] != nil || all[1].Header.Get("DPoP") != "theirs" || all[1].Header.Get("Authorization") != "DPoP theirs" {
		t.Errorf("the API got %v", all)
	}
}

// With retry_status off a rejected token is not renewed, but a nonce is used all the same.
func TestNonceIsUsedWithoutRetries(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	upstream.Demand("u1")
	g := gatewaytest.Start(t, gatewaytest.BoundOptions(server, upstream, "retry_status off"))
	gatewaytest.CheckAnswer(t, g.Post("/", "text/plain", "payload"), 200, "POST / with token-1 payload")
	upstream.Accepts(func(string) bool { return false })
	if a := g.Get("/"); a.Status != 401 || server.Count() != 1 {
		t.Errorf("got %d after %d token requests", a.Status, server.Count())
	}
}

// The body of a request that is too large to be sent again is what the nonce fails for;
// the next request has it.
func TestBodyThatCannotBeSentAgainFailsForANonceOnce(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	upstream.Demand("u1")
	serve := upstream.Config.Handler
	upstream.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		serve.ServeHTTP(w, r)
	})
	g := gatewaytest.Start(t, gatewaytest.BoundOptions(server, upstream, "replay_buffer 3B"))
	if a := g.Post("/", "text/plain", "payload"); a.Status != 401 {
		t.Errorf("got %d %q", a.Status, a.Body)
	}
	gatewaytest.CheckAnswer(t, g.Post("/", "text/plain", "payload"), 200, "POST / with token-1 payload")
	told := g.Logs.With("the upstream refuses the DPoP proof; the client gets the rejection")
	if len(told) != 1 || !strings.Contains(fmt.Sprint(told[0]["hint"]), "body can't be sent again") {
		t.Errorf("logged %v", told)
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
			server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
			directive, proxy := server.Options("dpop "+upstream.Origin), gatewaytest.ProxyTo(upstream.Server)
			site := strings.NewReplacer("%sX", directive, "%s", directive+proxy, "Y", proxy).Replace(test.site)
			g := gatewaytest.Start(t, site)
			for range 2 {
				if a := g.Get("/a/b"); (a.Status != 200) != test.fails {
					t.Errorf("got %d %q", a.Status, a.Body)
				}
			}
			if told := g.Logs.With(message); (len(told) == 1) != test.fails || len(told) > 1 {
				t.Errorf("logged %v", told)
			}
		})
	}
}

// Many requests may find out at once that the nonce has changed.
func TestConcurrentRequestsUseTheNewNonce(t *testing.T) {
	server, upstream := gatewaytest.StartBindingServer(t), gatewaytest.StartBoundAPI(t)
	g := gatewaytest.Start(t, gatewaytest.BoundOptions(server, upstream))
	for i := range 5 {
		upstream.Demand(fmt.Sprint("u", i))
		g.GetConcurrently(30, 200)
	}
	upstream.WantNoErrors(t)
}
