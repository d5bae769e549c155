package oauthcc

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// acceptsAfter makes the API take each token as late as this, if ever it was granted.
func (g *virtualGateway) acceptsAfter(late time.Duration, rejects http.HandlerFunc) {
	g.accepts(func(token string) bool {
		g.endpoint.mu.Lock()
		defer g.endpoint.mu.Unlock()
		granted, ok := g.endpoint.granted[token]
		return ok && time.Since(granted) >= late
	}, rejects)
}

// An API can learn of a new token later than the gateway does. While the one before lives, no client
// notices, and it takes one token request for each lifetime.
func TestNewTokenThatIsTakenLate(t *testing.T) {
	bare := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }
	for name, test := range map[string]struct {
		late    time.Duration
		rejects http.HandlerFunc
		ahead   string
		most    int // token requests
	}{
		"a moment":        {100 * time.Millisecond, nil, "", 16},
		"2 s":             {2 * time.Second, nil, "", 16},
		"2 s, bare":       {2 * time.Second, bare, "", 16},
		"6 s":             {6 * time.Second, nil, "", 16},
		"14 s":            {14 * time.Second, nil, "50%", 34},
		"2 s, half of it": {2 * time.Second, nil, "50%", 34},
		"2 s, not ahead":  {2 * time.Second, nil, "off", 12},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newVirtualGateway(t, &Handler{RefreshAhead: test.ahead})
				g.endpoint.expiresIn = "60"
				g.mustGet()
				time.Sleep(test.late)
				g.acceptsAfter(test.late, test.rejects)
				g.load(50*time.Millisecond, 10*time.Minute, func(a virtualAnswer) {
					if a.status != 200 {
						t.Errorf("got %+v", a)
					}
				})
				if n := g.endpoint.count(); n > test.most {
					t.Errorf("%d token requests in ten minutes", n)
				}
			})
		})
	}
}

// Only the answer to the token before tells that it is the new one which the API does not take. A revocation, and a path
// that is closed to all, have both rejected.
func TestFallbackIsToldWhenItHasHelped(t *testing.T) {
	const told = "the upstream does not take the new token yet"
	for name, test := range map[string]struct {
		taken  string // the only token that the API takes
		path   string
		status int // of its answer to the token, for that path
		want   bool
	}{
		"it helps":                 {"token-1", "/", 200, true},
		"it helps, nothing there":  {"token-1", "/gone", 404, true},
		"it helps, too few scopes": {"token-1", "/admin", 403, true},
		"both are revoked":         {"token-3", "/", 200, false},
		"an API that is not well":  {"token-1", "/broken", 503, false},
		"no token is taken":        {"", "/closed", 401, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := namedApp(t, new(Handler))
				g.mustGet()
				time.Sleep(57 * time.Minute)
				g.mustGet() // has it renewed
				synctest.Wait()
				g.rejectPath(test.path, func(w http.ResponseWriter, r *http.Request) {
					switch {
					case gatewaytest.Bearer(r) != test.taken:
						w.WriteHeader(401)
					case test.status == 403:
						w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope"`)
						w.WriteHeader(403)
					default:
						w.WriteHeader(test.status)
					}
				})
				if a := g.send(httptest.NewRequest(http.MethodGet, test.path, nil)); a.status != test.status {
					t.Errorf("got %+v", a)
				}
				if got := strings.Contains(g.log(), told); got != test.want {
					t.Errorf("it is told: %t", got)
				}
			})
		})
	}
}

// What can't be cured is not asked for again and again: 0, 10, 30 and 70 s after the first rejection,
// then once a minute, whatever the rejections say and whether they can be replayed or not.
func TestTokensThatAreNeverTaken(t *testing.T) {
	bare := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }
	for name, test := range map[string]struct {
		rejects http.HandlerFunc
		body    string
	}{
		"invalid_token":               {nil, ""},
		"bare":                        {bare, ""},
		"invalid_token, large bodies": {nil, strings.Repeat("x", 2<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newVirtualGateway(t, new(Handler))
				g.accepts(func(string) bool { return false }, test.rejects)
				counts := []int{0}
				for minute := range 10 {
					for range 120 {
						a := g.send(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(test.body)))
						if a.status != 401 {
							t.Fatalf("got %+v", a)
						}
						time.Sleep(500 * time.Millisecond)
					}
					counts = append(counts, g.endpoint.count())
					if n := counts[minute+1] - counts[minute]; minute == 0 && n > 6 || minute > 0 && n > 1 {
						t.Errorf("%d token requests in minute %d", n, minute+1)
					}
				}
			})
		})
	}
}

// An API that is not well, and rejects some requests for that, is not cured when it fails in another way.
func TestFailuresOfTheAPIAreNoCure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		g.mustGet()
		n := 0
		g.accepts(func(string) bool { return false }, func(w http.ResponseWriter, _ *http.Request) {
			n++
			w.WriteHeader(map[bool]int{true: 503, false: 401}[n%2 == 0])
		})
		for range 600 {
			g.get()
			time.Sleep(time.Second)
		}
		if n := g.endpoint.count(); n > 1+4+9 {
			t.Errorf("%d token requests in ten minutes", n)
		}
	})
}

// A cure brings the spacing back.
func TestCureEndsTheSpacing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		g.accepts(func(string) bool { return false }, nil)
		for range 600 {
			g.get()
			time.Sleep(time.Second)
		}
		revoke := func() {
			last := fmt.Sprintf("token-%d", g.endpoint.count())
			g.accepts(func(token string) bool { return token != last }, nil)
		}
		revoke()
		time.Sleep(time.Minute)
		g.mustGet()
		for range 5 {
			time.Sleep(5 * time.Second)
			revoke()
			g.mustGet()
		}
	})
}

// A client whose requests are never accepted must not keep others from a cure.
func TestForbiddenPathDoesNotDelayACure(t *testing.T) {
	forbidden := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, &Handler{RetryStatus: []int{401, 403}})
		g.rejectPath("/closed", forbidden)
		revoked := ""
		g.accepts(func(token string) bool { return token != revoked }, forbidden)
		last := g.mustGet().token
		for round := range 20 {
			for range 100 {
				if a := g.send(httptest.NewRequest(http.MethodGet, "/closed", nil)); a.status != 403 {
					t.Fatalf("got %+v", a)
				}
				time.Sleep(100 * time.Millisecond)
				if a := g.get(); a.status != 200 {
					t.Fatalf("round %d: got %+v", round, a)
				}
				last = g.mustGet().token
			}
			g.mu.Lock()
			revoked = last
			g.mu.Unlock()
		}
		if n := g.endpoint.count(); n > 20+3 {
			t.Errorf("%d token requests for 19 revocations", n)
		}
	})
}

// Nor does it have each new token renewed, as one that may not be taken yet.
func TestForbiddenPathRenewsNoNewTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, &Handler{RetryStatus: []int{401, 403}})
		g.endpoint.expiresIn = "60"
		g.rejectPath("/closed", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) })
		for range 10 * 60 {
			g.send(httptest.NewRequest(http.MethodGet, "/closed", nil))
			for range 5 {
				time.Sleep(200 * time.Millisecond)
				g.mustGet()
			}
		}
		if n := g.endpoint.count(); n > 16+4 {
			t.Errorf("%d token requests in ten minutes", n)
		}
	})
}

// Nor do requests that are hard to tell from those of a revoked token: each for another path, or with a body
// that can't be sent again. They come rarely enough that each could have the token renewed.
func TestRareForbiddenRequestsRenewNothing(t *testing.T) {
	for name, request := range map[string]func(n int) *http.Request{
		"always another": func(n int) *http.Request {
			return httptest.NewRequest(http.MethodGet, fmt.Sprintf("/closed/%d", n), nil)
		},
		"an upload": func(int) *http.Request {
			return httptest.NewRequest(http.MethodPost, "/closed", strings.NewReader(strings.Repeat("x", 2<<20)))
		},
		"always another upload": func(n int) *http.Request {
			return httptest.NewRequest(http.MethodPost, fmt.Sprintf("/closed/%d", n), strings.NewReader(strings.Repeat("x", 2<<20)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newVirtualGateway(t, &Handler{RetryStatus: []int{401, 403}})
				g.mustGet()
				for n := range 100 {
					r := request(n)
					g.rejectPath(r.URL.Path, func(w http.ResponseWriter, r *http.Request) {
						_, _ = io.Copy(io.Discard, r.Body)
						w.WriteHeader(403)
					})
					if a := g.send(r); a.status != 403 {
						t.Fatalf("got %+v", a)
					}
					for range 6 {
						time.Sleep(time.Second)
						g.mustGet()
					}
				}
				if n := g.endpoint.count(); n > 3 {
					t.Errorf("%d token requests in ten minutes", n)
				}
				// And keep nobody from a cure for more than one request.
				revoked := g.mustGet().token
				g.accepts(func(token string) bool { return token != revoked }, nil)
				g.get()
				g.mustGet()
			})
		})
	}
}

// Whatever comes first, a 401, a renewal and then a refusal that is about the request: the token is
// cured.
func TestRefusalOfTheReplayIsJudgedLikeAnyOther(t *testing.T) {
	for code, status := range map[string]int{"insufficient_scope": 403, "invalid_request": 400} {
		t.Run(code, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newVirtualGateway(t, &Handler{RetryStatus: []int{401, 403, 400}})
				g.mustGet()
				g.rejectPath("/scope", func(w http.ResponseWriter, r *http.Request) {
					if gatewaytest.Bearer(r) == "token-1" {
						gatewaytest.RejectToken(w)
						return
					}
					w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer error=%q", code))
					w.WriteHeader(status)
				})
				before := rejectionCounts(t, g)
				if a := g.send(httptest.NewRequest(http.MethodGet, "/scope", nil)); a.status != status || a.token != "token-2" {
					t.Fatalf("got %+v", a)
				}
				after := rejectionCounts(t, g)
				if after[rejectionUncured] != before[rejectionUncured] || after[rejectionPassed] != before[rejectionPassed]+1 {
					t.Errorf("counted %v after %v", after, before)
				}
				if n := g.logs.FilterMessageSnippet("renewed token as well").Len(); n != 0 {
					t.Errorf("logged %d times", n)
				}
				// So the next one is not put off.
				g.mustGet()
				time.Sleep(5 * time.Second)
				g.accepts(func(token string) bool { return token != "token-2" }, nil)
				if a := g.mustGet(); a.token != "token-3" {
					t.Errorf("got %+v", a)
				}
			})
		})
	}
}

// While a token lives every request gets it, whatever the endpoint does.
func TestLiveTokenIsNeverWithheld(t *testing.T) {
	retryAfter := servertest.Answer{Status: 429, Header: http.Header{"Retry-After": {"30"}}, Body: "{}"}
	for outage, down := range map[string]http.RoundTripper{
		"dies": servertest.Dying, "503": servertest.Status(503), "429": retryAfter, "401": servertest.Status(401), "hangs": servertest.Hanging,
	} {
		for options, h := range map[string]func() *Handler{
			"":        func() *Handler { return new(Handler) },
			"off":     func() *Handler { return &Handler{RefreshAhead: "off"} },
			"kept":    func() *Handler { return new(Handler) },
			"tenants": func() *Handler { return &Handler{Scopes: []string{"{" + tenantPlaceholder + "}"}} },
		} {
			t.Run(outage+" "+options, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					g := newVirtualGateway(t, h())
					g.endpoint.expiresIn = "15"
					if options == "kept" {
						keeper := tokencache.NewKeeper()
						keeper.Begin(g.tokens.source.grant, g.tokens.ahead, g.tokens.source)
						defer keeper.Stop()
					}
					for range 4 {
						g.endpoint.becomes(nil)
						time.Sleep(10 * time.Minute) // the longest pause
						token := g.as(t.Context(), "a", nil).token
						g.endpoint.becomes(down)
						g.endpoint.mu.Lock()
						expiry := g.endpoint.granted[token].Add(15 * time.Second)
						g.endpoint.mu.Unlock()
						for time.Now().Before(expiry) {
							start := time.Now()
							a := g.as(t.Context(), "a", nil)
							if a.status != 200 {
								t.Fatalf("got %+v %v before the expiry", a, expiry.Sub(start))
							}
							if a.from != statusFresh && a.from != statusStale {
								t.Fatalf("got %+v", a)
							}
							time.Sleep(20 * time.Millisecond)
						}
						if a := g.as(t.Context(), "a", nil); a.status == 200 {
							t.Fatalf("got %+v after the expiry", a)
						}
					}
				})
			})
		}
	}
}

// An endpoint that grants a client no token while it has one costs no client anything.
func TestOneTokenAtATime(t *testing.T) {
	for _, retryAfter := range []string{"none", "what is left", "a second"} {
		t.Run("Retry-After: "+retryAfter, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newVirtualGateway(t, new(Handler))
				g.endpoint.expiresIn = "15"
				var living time.Time
				grants := g.endpoint
				g.tokens.client.Transport = servertest.Func(func(req *http.Request) (*http.Response, error) {
					if left := time.Until(living); left > 0 {
						answer := servertest.Answer{Status: 429, Body: "{}"}
						switch retryAfter {
						case "what is left":
							answer.Header = http.Header{"Retry-After": {fmt.Sprint(1 + int(left.Seconds()))}}
						case "a second":
							answer.Header = http.Header{"Retry-After": {"1"}}
						}
						return answer.RoundTrip(req)
					}
					living = time.Now().Add(15*time.Second + 5*time.Millisecond)
					return grants.RoundTrip(req)
				})
				g.load(20*time.Millisecond, 5*time.Minute, func(a virtualAnswer) {
					if a.status != 200 {
						t.Errorf("got %+v", a)
					}
				})
			})
		})
	}
}

// Whatever runs after the upstream has answered can't send the token elsewhere.
func TestTokenLeavesWithTheUpstream(t *testing.T) {
	for name, h := range map[string]func() *Handler{
		"":             func() *Handler { return new(Handler) },
		"retry off":    func() *Handler { return &Handler{RetryStatus: []int{}} },
		"own header":   func() *Handler { return &Handler{TokenHeader: &TokenHeader{Name: "X-Token"}} },
		"with a proof": func() *Handler { return &Handler{DPoP: "https://api.example.com"} },
	} {
		for ending, next := range map[string]func(w http.ResponseWriter, r *http.Request) error{
			"an answer":   func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(200); return nil },
			"an error":    func(http.ResponseWriter, *http.Request) error { return caddyhttp.Error(502, nil) },
			"a rejection": func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(401); return nil },
			"another header": func(w http.ResponseWriter, r *http.Request) error {
				r.Header = r.Header.Clone()
				return nil
			},
			"an abort": func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) },
		} {
			t.Run(name+" "+ending, func(t *testing.T) {
				g := handlerInMemory(t, h())
				if g.DPoP != "" {
					g.tokens.client.Transport = servertest.Answer{Body: `{"access_token":"token-1","token_type":"DPoP","expires_in":60}`}
				}
				r := requestInCaddy(http.MethodGet, "/", nil)
				outer := *r // as a handler before this one may have
				sent := false
				func() {
					defer func() {
						if reason := recover(); reason != nil && reason != http.ErrAbortHandler {
							panic(reason)
						}
					}()
					_ = g.ServeHTTP(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
						sent = sent || strings.Contains(fmt.Sprint(r.Header), "token")
						return next(w, r)
					}))
				}()
				if !sent {
					t.Error("the upstream got no token")
				}
				for _, header := range []http.Header{r.Header, outer.Header} {
					if len(header) != 0 {
						t.Errorf("left are %v", header)
					}
				}
			})
		}
	}
}

// rejectionCounts are the rejections that were counted, by outcome.
func rejectionCounts(t *testing.T, g *virtualGateway) map[rejectionOutcome]float64 {
	t.Helper()
	counts := make(map[rejectionOutcome]float64)
	for outcome, counter := range g.reporter.metrics.rejections {
		if counter == nil { // that of no rejection
			continue
		}
		var metric dto.Metric
		if err := counter.Write(&metric); err != nil {
			t.Fatal(err)
		}
		counts[rejectionOutcome(outcome)] = metric.GetCounter().GetValue()
	}
	return counts
}
