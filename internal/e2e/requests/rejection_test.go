package requests

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

const uncuredMessage = "the upstream rejected the renewed token as well; the client gets the rejection"

// rejectWith is an API that rejects token-1 with a status and challenges.
func rejectWith(status int, challenges ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if gatewaytest.Bearer(r) == "token-2" {
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
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, rejectWith(401, test.challenges...))
			g := gatewaytest.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream))
			a, n := g.Get("/"), endpoint.Count()
			if test.replayed {
				gatewaytest.CheckAnswer(t, a, 200, "accepted")
				if n != 2 {
					t.Errorf("%d token requests, want 2", n)
				}
				return
			}
			gatewaytest.CheckAnswer(t, a, 401, "rejected")
			if got := a.Header["Www-Authenticate"]; fmt.Sprint(got) != fmt.Sprint(test.challenges) || n != 1 {
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
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, rejectWith(test.status, test.challenge))
			g := gatewaytest.Start(t, endpoint.Options(test.options)+gatewaytest.ProxyTo(upstream))
			a, body := g.Get("/"), "rejected"
			if test.want == 200 {
				body = "accepted"
			}
			gatewaytest.CheckAnswer(t, a, test.want, body)
			if got := a.Header.Get("WWW-Authenticate") != ""; got != test.wantChallenge {
				t.Errorf("the client got a challenge: %t, want %t", got, test.wantChallenge)
			}
			if n := endpoint.Count(); n != test.requests {
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
			endpoint := gatewaytest.StartTokenServer(t)
			upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("WWW-Authenticate", test.challenge)
				w.Header().Set("X-From", gatewaytest.Bearer(r))
				http.Error(w, "rejected "+gatewaytest.Bearer(r), http.StatusUnauthorized)
			})
			g := gatewaytest.Start(t, endpoint.Options(test.options)+gatewaytest.ProxyTo(upstream))
			a := g.Post("/", "text/plain", "payload")
			gatewaytest.CheckAnswer(t, a, test.want, "rejected token-2\n")
			if got := a.Header["X-From"]; len(got) != 1 || got[0] != "token-2" {
				t.Errorf("X-From is %q, want the second rejection's", got)
			}
			if got := len(a.Header["Www-Authenticate"]); got != 1 && test.want == 401 {
				t.Errorf("the client got %d challenges", got)
			}
			g.GetConcurrently(50, test.want)
			if n := endpoint.Count(); n != 2 {
				t.Errorf("%d token requests, want 2", n)
			}
			if n := len(g.Logs.With(uncuredMessage)); n != 1 {
				t.Errorf("%d warnings, want 1", n)
			}
		})
	}
}

func TestTokenOfAReplayIsTakenAwayFromAnErrorRoute(t *testing.T) {
	var seen gatewaytest.AttemptLog
	endpoint, errorPages := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, seen.Observe(func(http.ResponseWriter, *http.Request) {}))
	upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if gatewaytest.Bearer(r) != "token-1" {
			panic(http.ErrAbortHandler)
		}
		gatewaytest.RejectToken(w)
	})
	g := gatewaytest.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream)+"handle_errors {\n"+gatewaytest.ProxyTo(errorPages)+"}\n")
	g.Get("/")
	if all := seen.All(); len(all) != 1 || all[0].Header["Authorization"] != nil || endpoint.Count() != 2 {
		t.Errorf("the error route got %v after %d token requests", all, endpoint.Count())
	}
}

func TestConcurrentRejectionsCauseOneRenewal(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "rejected", http.StatusUnauthorized)
	})
	g := gatewaytest.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream))
	g.GetConcurrently(50, 401)
	if n := endpoint.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
	if n := len(g.Logs.With(uncuredMessage)); n != 1 {
		t.Errorf("%d warnings, want 1", n)
	}
}

func TestIdenticalTokenIsNotSentAgain(t *testing.T) {
	var seen gatewaytest.AttemptLog
	endpoint := gatewaytest.StartTokenServer(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		_, _ = io.WriteString(w, `{"access_token":"always","token_type":"Bearer","expires_in":3600}`)
	})
	upstream := gatewaytest.StartScriptedAPI(t, seen.Observe(rejectWith(401, "Bearer")))
	g := gatewaytest.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream))
	gatewaytest.CheckAnswer(t, g.Post("/", "text/plain", "payload"), 401, "rejected")
	if got := seen.Tokens(); got != "always" || endpoint.Count() != 2 {
		t.Errorf("the upstream got %q after %d token requests", got, endpoint.Count())
	}
}

// A request that was on its way when others renewed the token needs no renewal.
func TestNewerTokenInTheCacheIsUsed(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	endpoint := gatewaytest.StartTokenServer(t)
	upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" && gatewaytest.Bearer(r) == "token-1" {
			close(arrived)
			<-release
		}
		gatewaytest.AcceptOnly("token-2")(w, r)
	})
	g := gatewaytest.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream))
	slow := make(chan gatewaytest.Answer)
	go func() { slow <- g.Post("/slow", "text/plain", "payload") }()
	gatewaytest.AwaitSignal(t, "the slow request", arrived)
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "")
	close(release)
	gatewaytest.CheckAnswer(t, gatewaytest.AwaitSignal(t, "the slow answer", slow), 200, "payload")
	if n := endpoint.Count(); n != 2 {
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
			var seen gatewaytest.AttemptLog
			endpoint := gatewaytest.StartTokenServer(t)
			endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, n int) {
				if n == 1 {
					endpoint.Grant(w)
					return
				}
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.answer)
			})
			upstream := gatewaytest.StartScriptedAPI(t, seen.Observe(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if gatewaytest.Bearer(r) != "" {
					w.Header().Set("X-Rejected", "yes")
					gatewaytest.RejectToken(w)
					return
				}
				_, _ = w.Write(body)
			}))
			// The error route gets the request as it came.
			g := gatewaytest.Start(t, "header >X-Token {http.oauth_cc.status}\nroute {\n"+endpoint.Options(test.options)+
				"request_header X-Changed yes\n"+gatewaytest.ProxyTo(upstream)+"}\nhandle_errors {\nheader X-Token {http.oauth_cc.status}\n"+
				"respond \"{err.status_code} {http.oauth_cc.error} {http.request.body} {http.request.header.X-Changed}\"\n}")
			a := g.Post("/", "text/plain", "payload")
			wantBody, wantTokens := fmt.Sprintf("%d invalid_client payload ", test.want), "token-1"
			switch {
			case test.want == 200:
				wantBody, wantTokens = "payload", "token-1 "
			case test.retryAfter:
				wantBody = "503 server_error payload "
			}
			gatewaytest.CheckAnswer(t, a, test.want, wantBody)
			if got := seen.Tokens(); got != wantTokens {
				t.Errorf("the upstream got the tokens %q, want %q", got, wantTokens)
			}
			if got := a.Header.Get("X-Token"); got != "none" {
				t.Errorf("status is %q", got)
			}
			if got := a.Header.Get("Retry-After") != ""; got != test.retryAfter {
				t.Errorf("Retry-After is %q", a.Header.Get("Retry-After"))
			}
			if a.Header.Get("X-Rejected")+a.Header.Get("WWW-Authenticate") != "" {
				t.Errorf("the client got the rejection's header: %v", a.Header)
			}
		})
	}
}

// While the first attempt still reads the client's body the error route may read it
// as well; what arrives there is whole.
func TestErrorRouteGetsTheWholeBodyAfterAFailedRenewal(t *testing.T) {
	first, second := gatewaytest.NumberedText(70<<10), strings.Repeat("second half, ", 5000)
	endpoint := gatewaytest.StartTokenServer(t)
	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, n int) {
		if n == 1 {
			endpoint.Grant(w)
			return
		}
		http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
	})
	upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, int64(len(first)))
		gatewaytest.AnswerEarly(w, r)
		gatewaytest.RejectToken(w)
	})
	fallingBack := make(chan struct{})
	fallback := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		close(fallingBack)
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})
	g := gatewaytest.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream)+"handle_errors {\n"+gatewaytest.ProxyTo(fallback)+"}")
	req := gatewaytest.ClientRequest(t, http.MethodPost, g.URL("/"), gatewaytest.InTwoParts(first, second, fallingBack))
	if a := g.Do(req); a.Body != first+second {
		t.Errorf("the fallback got %s", gatewaytest.Excerpt(a.Body))
	}
}

func TestErrorRouteGetsTheBodyWhenTheUpstreamIsDown(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	fallback := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})
	g := gatewaytest.Start(t, endpoint.Options()+"reverse_proxy "+gatewaytest.FreeAddr(t)+"\nhandle_errors {\n"+gatewaytest.ProxyTo(fallback)+"}")
	body := gatewaytest.NumberedText(3 * mebibyte)
	want := body
	if !gatewaytest.CaddySince(4) { // reverse_proxy closes the body, even if it could not connect
		body, want = body[:10<<10], "" // the server drops no more than 256 KiB of one that is closed
	}
	// The error route keeps the status of the error.
	if a := g.Post("/", "text/plain", body); a.Body != want {
		t.Errorf("got %d with %s", a.Status, gatewaytest.Excerpt(a.Body))
	}
}

// A token revoked under load: every request is accepted exactly once, with its own
// body.
func TestRevocationUnderLoadLosesNothing(t *testing.T) {
	const clients, each = 100, 2
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, endpoint.Options()+upstream.Proxy())
	g.Get("/")
	var sent atomic.Int32
	var wait sync.WaitGroup
	body := func(i int) string { return strings.Repeat(fmt.Sprintf("body %d, ", i), 1000+17*i) }
	for i := range clients {
		wait.Go(func() {
			for j := range each {
				if sent.Add(1) == clients*each/2 {
					upstream.Revoke("token-1")
				}
				id := i*each + j
				req, _ := http.NewRequest(http.MethodPost, g.URL(fmt.Sprintf("/%d", id)), strings.NewReader(body(id)))
				if a, err := gatewaytest.Exchange(gatewaytest.Client, req); err != nil || a.Status != 200 {
					t.Errorf("request %d: got %d, %v", id, a.Status, err)
				}
			}
		})
	}
	wait.Wait()
	if n := endpoint.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
	accepted := make(map[string]int)
	for _, request := range upstream.Accepted()[1:] {
		accepted[request.URI+" "+request.Body]++
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
