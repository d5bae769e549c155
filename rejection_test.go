package oauthcc

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

const uncuredMessage = "the upstream rejected the renewed token as well; the client gets the rejection"

// rejectWith is an API that rejects token-1 with a status and challenges.
func rejectWith(status int, challenges ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if bearer(r) == "token-2" {
			_, _ = io.WriteString(w, "accepted")
			return
		}
		w.Header()["Www-Authenticate"] = challenges
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "rejected")
	}
}

func TestRejectionIsJudgedByItsChallenges(t *testing.T) {
	for _, test := range []struct {
		name       string
		challenges []string
		replayed   bool
	}{
		{"invalid_token", []string{`Bearer realm="a", error="invalid_token"`}, true},
		{"invalid_token, not quoted", []string{`bearer error=invalid_token`}, true},
		{"none", nil, true},
		{"Basic", []string{`Basic realm="a, error=\"insufficient_scope\""`}, true},
		{"Bearer without error", []string{`Bearer realm="a"`}, true},
		{"another scheme's error", []string{`DPoP error="insufficient_scope"`}, true},
		{"a proof's error, though there is none", []string{`Bearer error="invalid_dpop_proof"`}, true},
		{"insufficient_scope", []string{`Bearer error="insufficient_scope", scope="a b"`}, false},
		{"invalid_request", []string{`Bearer error=invalid_request`}, false},
		{"several in a line", []string{`Basic realm="a", Bearer realm="b", error="insufficient_scope"`}, false},
		{"several in a line, the token at fault", []string{`Digest nonce="x=,", Bearer realm="b", error="invalid_token", Basic realm="c"`}, true},
		{"several lines", []string{`Basic realm="a"`, `Negotiate YII=`, `Bearer error="invalid_request"`}, false},
		{"several lines, the token at fault", []string{`Bearer error="insufficient_scope"`, `Bearer error="invalid_token"`}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			endpoint, upstream := startTokenServer(t), startScriptedAPI(t, rejectWith(401, test.challenges...))
			g := startGateway(t, endpoint.options()+proxyTo(upstream))
			a, n := g.get("/"), endpoint.count()
			if test.replayed {
				checkAnswer(t, a, 200, "accepted")
				if n != 2 {
					t.Errorf("%d token requests, want 2", n)
				}
				return
			}
			checkAnswer(t, a, 401, "rejected")
			if got := a.header["Www-Authenticate"]; fmt.Sprint(got) != fmt.Sprint(test.challenges) || n != 1 {
				t.Errorf("the client got %q after %d token requests", got, n)
			}
		})
	}
}

func TestRetryStatusAndMask(t *testing.T) {
	const scope = `Bearer error="insufficient_scope"`
	for _, test := range []struct {
		name, options string
		status        int
		challenge     string
		want          int
		wantChallenge bool
		requests      int
	}{
		{"403 is an answer like any other", "", 403, "Bearer", 403, true, 1},
		{"403 on request", "retry_status 403 401", 403, "Bearer", 200, false, 2},
		{"401 beside 403", "retry_status 403 401", 401, "Bearer", 200, false, 2},
		{"401 not listed", "retry_status 403", 401, "Bearer", 401, true, 1},
		{"off", "retry_status off", 401, "Bearer", 401, true, 1},
		{"masked", "mask_rejection", 401, scope, 502, false, 1},
		{"masked with a status", "mask_rejection 503", 401, scope, 503, false, 1},
		{"masked only if it is a rejection", "mask_rejection", 403, "Bearer", 403, true, 1},
		{"masked 403", "mask_rejection\nretry_status 403", 403, scope, 502, false, 1},
		{"cured needs no mask", "mask_rejection", 401, "Bearer", 200, false, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			endpoint, upstream := startTokenServer(t), startScriptedAPI(t, rejectWith(test.status, test.challenge))
			g := startGateway(t, endpoint.options(test.options)+proxyTo(upstream))
			a, body := g.get("/"), "rejected"
			if test.want == 200 {
				body = "accepted"
			}
			checkAnswer(t, a, test.want, body)
			if got := a.header.Get("WWW-Authenticate") != ""; got != test.wantChallenge {
				t.Errorf("the client got a challenge: %t, want %t", got, test.wantChallenge)
			}
			if n := endpoint.count(); n != test.requests {
				t.Errorf("%d token requests, want %d", n, test.requests)
			}
		})
	}
}

// With a token that the upstream never accepts, the endpoint is asked for another one
// only once in a while, whatever the load.
func TestUncuredRejectionPassesThrough(t *testing.T) {
	for name, test := range map[string]struct {
		options, challenge string
		want               int
	}{
		"invalid_token": {"", `Bearer error="invalid_token"`, 401},
		"bare":          {"", "Bearer", 401},
		"masked":        {"mask_rejection", "Bearer", 502},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint := startTokenServer(t)
			upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("WWW-Authenticate", test.challenge)
				w.Header().Set("X-From", bearer(r))
				http.Error(w, "rejected "+bearer(r), http.StatusUnauthorized)
			})
			g := startGateway(t, endpoint.options(test.options)+proxyTo(upstream, dialAnew))
			a := g.post("/", "text/plain", "payload")
			checkAnswer(t, a, test.want, "rejected token-2\n")
			if got := a.header["X-From"]; len(got) != 1 || got[0] != "token-2" {
				t.Errorf("X-From is %q, want the second rejection's", got)
			}
			if got := len(a.header["Www-Authenticate"]); got != 1 && test.want == 401 {
				t.Errorf("the client got %d challenges", got)
			}
			g.getConcurrently(50, test.want)
			if n := endpoint.count(); n != 2 {
				t.Errorf("%d token requests, want 2", n)
			}
			if n := len(g.logs.with(uncuredMessage)); n != 1 {
				t.Errorf("%d warnings, want 1", n)
			}
		})
	}
}

func TestTokenOfAReplayIsTakenAwayFromAnErrorRoute(t *testing.T) {
	var seen attemptLog
	endpoint, errorPages := startTokenServer(t), startScriptedAPI(t, seen.observe(func(http.ResponseWriter, *http.Request) {}))
	upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if bearer(r) != "token-1" {
			panic(http.ErrAbortHandler)
		}
		rejectToken(w)
	})
	g := startGateway(t, endpoint.options()+proxyTo(upstream)+"handle_errors {\n"+proxyTo(errorPages)+"}\n")
	g.get("/")
	if all := seen.all(); len(all) != 1 || all[0].header["Authorization"] != nil || endpoint.count() != 2 {
		t.Errorf("the error route got %v after %d token requests", all, endpoint.count())
	}
}

func TestConcurrentRejectionsCauseOneRenewal(t *testing.T) {
	endpoint := startTokenServer(t)
	upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "rejected", http.StatusUnauthorized)
	})
	g := startGateway(t, endpoint.options()+proxyTo(upstream, dialAnew))
	g.getConcurrently(50, 401)
	if n := endpoint.count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
	if n := len(g.logs.with(uncuredMessage)); n != 1 {
		t.Errorf("%d warnings, want 1", n)
	}
}

func TestIdenticalTokenIsNotSentAgain(t *testing.T) {
	var seen attemptLog
	endpoint := startTokenServer(t)
	endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		_, _ = io.WriteString(w, `{"access_token":"always","token_type":"Bearer","expires_in":3600}`)
	})
	upstream := startScriptedAPI(t, seen.observe(rejectWith(401, "Bearer")))
	g := startGateway(t, endpoint.options()+proxyTo(upstream))
	checkAnswer(t, g.post("/", "text/plain", "payload"), 401, "rejected")
	if got := seen.tokens(); got != "always" || endpoint.count() != 2 {
		t.Errorf("the upstream got %q after %d token requests", got, endpoint.count())
	}
}

// A request that was on its way when others renewed the token needs no renewal.
func TestNewerTokenInTheCacheIsUsed(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	endpoint := startTokenServer(t)
	upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" && bearer(r) == "token-1" {
			close(arrived)
			<-release
		}
		acceptOnly("token-2")(w, r)
	})
	g := startGateway(t, endpoint.options()+proxyTo(upstream))
	slow := make(chan answer)
	go func() { slow <- g.post("/slow", "text/plain", "payload") }()
	awaitSignal(t, "the slow request", arrived)
	checkAnswer(t, g.get("/"), 200, "")
	close(release)
	checkAnswer(t, awaitSignal(t, "the slow answer", slow), 200, "payload")
	if n := endpoint.count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

func TestFailedRenewalIsAnsweredAsSuch(t *testing.T) {
	for _, test := range []struct {
		name, options, answer string
		status, want          int
		retryAfter            bool
	}{
		{"endpoint down", "", `{}`, 503, 503, true},
		{"refused", "", `{"error":"invalid_client"}`, 401, 502, false},
		{"allow_without_token", "allow_without_token", `{"error":"invalid_client"}`, 401, 200, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var seen attemptLog
			endpoint := startTokenServer(t)
			endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, n int) {
				if n == 1 {
					endpoint.grant(w)
					return
				}
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.answer)
			})
			upstream := startScriptedAPI(t, seen.observe(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if bearer(r) != "" {
					w.Header().Set("X-Rejected", "yes")
					rejectToken(w)
					return
				}
				_, _ = w.Write(body)
			}))
			// The error route gets the request as it came.
			g := startGateway(t, "header >X-Token {http.oauth_cc.status}\nroute {\n"+endpoint.options(test.options)+
				"request_header X-Changed yes\n"+proxyTo(upstream)+"}\nhandle_errors {\nheader X-Token {http.oauth_cc.status}\n"+
				"respond \"{err.status_code} {http.oauth_cc.error} {http.request.body} {http.request.header.X-Changed}\"\n}")
			a := g.post("/", "text/plain", "payload")
			wantBody, wantTokens := fmt.Sprintf("%d invalid_client payload ", test.want), "token-1"
			switch {
			case test.want == 200:
				wantBody, wantTokens = "payload", "token-1 "
			case test.retryAfter:
				wantBody = "503 server_error payload "
			}
			checkAnswer(t, a, test.want, wantBody)
			if got := seen.tokens(); got != wantTokens {
				t.Errorf("the upstream got the tokens %q, want %q", got, wantTokens)
			}
			if got := a.header.Get("X-Token"); got != statusNone {
				t.Errorf("status is %q", got)
			}
			if got := a.header.Get("Retry-After") != ""; got != test.retryAfter {
				t.Errorf("Retry-After is %q", a.header.Get("Retry-After"))
			}
			if a.header.Get("X-Rejected")+a.header.Get("WWW-Authenticate") != "" {
				t.Errorf("the client got the rejection's header: %v", a.header)
			}
		})
	}
}

// While the first attempt still reads the client's body the error route may read it
// as well; what arrives there is whole.
func TestErrorRouteGetsTheWholeBodyAfterAFailedRenewal(t *testing.T) {
	first, second := numberedText(70<<10), strings.Repeat("second half, ", 5000)
	endpoint := startTokenServer(t)
	endpoint.setAnswer(func(w http.ResponseWriter, _ *http.Request, n int) {
		if n == 1 {
			endpoint.grant(w)
			return
		}
		http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
	})
	upstream := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, int64(len(first)))
		answerEarly(w, r)
		rejectToken(w)
	})
	fallingBack := make(chan struct{})
	fallback := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		close(fallingBack)
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})
	g := startGateway(t, endpoint.options()+proxyTo(upstream)+"handle_errors {\n"+proxyTo(fallback)+"}")
	req := clientRequest(t, http.MethodPost, g.url("/"), inTwoParts(first, second, fallingBack))
	if a := g.do(req); a.body != first+second {
		t.Errorf("the fallback got %s", excerpt(a.body))
	}
}

func TestErrorRouteGetsTheBodyWhenTheUpstreamIsDown(t *testing.T) {
	endpoint := startTokenServer(t)
	fallback := startScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})
	g := startGateway(t, endpoint.options()+"reverse_proxy "+freeAddr(t)+"\nhandle_errors {\n"+proxyTo(fallback)+"}")
	body := numberedText(3 * mebibyte)
	// The error route keeps the status of the error.
	if a := g.post("/", "text/plain", body); a.body != body {
		t.Errorf("got %d with %s", a.status, excerpt(a.body))
	}
}

// A token revoked under load: every request is accepted exactly once, with its own
// body.
func TestRevocationUnderLoadLosesNothing(t *testing.T) {
	const clients, each = 100, 2
	endpoint, upstream := startTokenServer(t), startAPI(t)
	g := startGateway(t, endpoint.options()+upstream.proxy())
	g.get("/")
	var sent atomic.Int32
	var wait sync.WaitGroup
	body := func(i int) string { return strings.Repeat(fmt.Sprintf("body %d, ", i), 1000+17*i) }
	for i := range clients {
		wait.Go(func() {
			for j := range each {
				if sent.Add(1) == clients*each/2 {
					upstream.revoke("token-1")
				}
				id := i*each + j
				req, _ := http.NewRequest(http.MethodPost, g.url(fmt.Sprintf("/%d", id)), strings.NewReader(body(id)))
				if a, err := exchangeWith(testClient, req); err != nil || a.status != 200 {
					t.Errorf("request %d: got %d, %v", id, a.status, err)
				}
			}
		})
	}
	wait.Wait()
	if n := endpoint.count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
	accepted := make(map[string]int)
	for _, request := range upstream.served[1:] {
		accepted[request.uri+" "+request.body]++
	}
	for id := range clients * each {
		if n := accepted[fmt.Sprintf("/%d %s", id, body(id))]; n != 1 {
			t.Errorf("request %d was accepted %d times", id, n)
		}
	}
	if len(accepted) != clients*each {
		t.Errorf("%d different requests were accepted, want %d", len(accepted), clients*each)
	}
}
