package oauthcc

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

func TestNoRequestWaitsWhileTheEndpointIsHealthy(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		expiresIn   string
		takes       time.Duration
		least, most int // token requests in a minute
	}{
		{"2", 300 * time.Millisecond, 43, 51},
		{"2", 0, 43, 51},
		{"10", time.Second, 9, 11},
		{"60", 5 * time.Second, 2, 3},
		{"3600", 5 * time.Second, 1, 1},
		{"2.0", 0, 43, 51},
		{`"2"`, 0, 43, 51},
	} {
		t.Run(test.expiresIn+" "+test.takes.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newVirtualGateway(t, new(Handler))
				g.endpoint.expiresIn, g.endpoint.takes = test.expiresIn, test.takes
				if a := g.mustGet(); a.from != statusFetched || a.waited != test.takes {
					t.Errorf("the first request got %+v", a)
				}
				seen := make(map[string]int)
				g.load(10*time.Millisecond, time.Minute, func(a virtualAnswer) {
					g.wantServed(a)
					seen[a.from]++
				})
				if n := g.endpoint.count(); n < test.least || n > test.most {
					t.Errorf("%d token requests, want %d to %d", n, test.least, test.most)
				}
				if test.most > 1 && test.takes > 0 && (seen[statusFresh] == 0 || seen[statusStale] == 0) || seen[statusFetched] != 0 {
					t.Errorf("tokens were %v", seen)
				}
				for _, entry := range g.logs.FilterMessage("token obtained").All()[1:] {
					if why := entry.ContextMap()["trigger"]; why != string(tokencache.TriggerAhead) {
						t.Errorf("a token was obtained because of %q", why)
					}
				}
			})
		})
	}
}

func TestUnusedTokenLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		g.endpoint.takes = time.Second
		g.mustGet()
		time.Sleep(24 * time.Hour)
		if n := g.endpoint.count(); n != 1 {
			t.Errorf("%d token requests", n)
		}
		if a := g.mustGet(); a.from != statusFetched || a.token != "token-2" {
			t.Errorf("got %+v", a)
		}
	})
}

func TestRefreshAheadOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, &Handler{RefreshAhead: "off"})
		g.endpoint.expiresIn, g.endpoint.takes = "100", 900*time.Millisecond
		g.mustGet()
		time.Sleep(89100*time.Millisecond - time.Nanosecond)
		if a := g.mustGet(); a.from != statusFresh || a.token != "token-1" {
			t.Errorf("got %+v", a)
		}
		time.Sleep(time.Nanosecond)
		if a := g.mustGet(); a.from != statusFetched || a.waited != 900*time.Millisecond {
			t.Errorf("got %+v", a)
		}
	})
}

// Also who joins a fetch that goes on waits for its token.
func TestWhoJoinsAFetchWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		g.endpoint.expiresIn = "100"
		g.mustGet()
		g.endpoint.takes = 700 * time.Millisecond
		time.Sleep(89800 * time.Millisecond)
		if a := g.mustGet(); a.from != statusStale || a.waited != 0 {
			t.Errorf("while the token may be used, a request got %+v", a)
		}
		time.Sleep(300 * time.Millisecond)
		if a := g.mustGet(); a.from != statusFetched || a.waited != 400*time.Millisecond || a.token != "token-2" {
			t.Errorf("when the token is due, a request got %+v", a)
		}
	})
}

// Two configurations that share a token can have it renewed at different times.
func TestRefreshAheadIsTheConfigurationsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := newVirtualGateway(t, &Handler{RefreshAhead: "1m"})
		early := newVirtualGateway(t, &Handler{RefreshAhead: "30m"})
		if early.tokens.source.grant != late.tokens.source.grant {
			t.Fatal("two tokens")
		}
		early.endpoint = late.endpoint
		early.tokens.client.Transport = late.endpoint
		late.mustGet()
		time.Sleep(50 * time.Minute)
		if a := late.mustGet(); a.from != statusFresh {
			t.Errorf("got %+v", a)
		}
		if a := early.mustGet(); a.from != statusStale {
			t.Errorf("got %+v", a)
		}
		synctest.Wait()
		for _, g := range []*virtualGateway{late, early} {
			if a := g.mustGet(); a.token != "token-2" || a.from != statusFresh {
				t.Errorf("got %+v", a)
			}
		}
	})
}

// An endpoint whose expires_in is 0 for a token that does not end would be asked with each request.
func TestTTLSaysHowLongATokenLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, &Handler{TTL: caddy.Duration(20 * time.Minute), RefreshAhead: "off"})
		g.endpoint.expiresIn = "0"
		for range 19 {
			g.mustGet()
			time.Sleep(time.Minute)
		}
		if n := g.endpoint.count(); n != 1 {
			t.Errorf("%d tokens in 19 minutes", n)
		}
		time.Sleep(time.Minute)
		if a := g.mustGet(); a.token != "token-2" || a.from != statusFetched {
			t.Errorf("got %+v", a)
		}
		if n := g.logs.FilterLevelExact(zapcore.WarnLevel).Len(); n != 0 {
			t.Errorf("%d warnings", n)
		}
	})
}

// outages are the ways in which an endpoint can be down.
var outages = []struct {
	name    string
	down    http.RoundTripper
	refused bool
	tries   int // of one fetch
	status  int // without a token
	code    string
}{
	{"a reset", servertest.Dying, false, 3, 503, "unreachable"},
	{"a hang", servertest.Hanging, false, 2, 504, "timeout"},
	{"503", servertest.Status(503), false, 3, 503, "server_error"},
	{"429 with a short Retry-After", servertest.Status(429, "Retry-After", "1"), false, 3, 503, "server_error"},
	{"no token", servertest.Answer{Body: "{}"}, false, 1, 502, "invalid_response"},
	{"400", servertest.Status(400), true, 1, 502, "refused"},
	{"invalid_client", servertest.Answer{Status: 401, Body: `{"error":"invalid_client"}`}, true, 1, 502, "invalid_client"},
	{"403 without a word", servertest.Answer{Status: 403}, true, 1, 502, "refused"},
	{"a redirect", servertest.Status(301, "Location", "https://auth.example.com/token/"), false, 1, 502, "invalid_response"},
	{"404", servertest.Answer{Status: 404, Header: servertest.WithType("text/html"), Body: "<html>"}, false, 1, 502, "invalid_response"},
	{"407 of a proxy", servertest.Answer{Status: 407}, false, 1, 502, "invalid_response"},
	{"200 with an error", servertest.Answer{Body: `{"error":"invalid_scope"}`}, true, 1, 502, "invalid_scope"},
}

func TestOutageWithAValidTokenIsNoticedByNobody(t *testing.T) {
	t.Parallel()
	for _, outage := range outages {
		t.Run(outage.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newVirtualGateway(t, &Handler{RefreshAhead: "30m"})
				g.mustGet()
				time.Sleep(40 * time.Minute)
				down := time.Now()
				g.endpoint.becomes(outage.down)
				g.load(80*time.Millisecond, 6*time.Minute, g.wantServed)
				fetches := g.wantPauses(down, 5, 10, 20, 40, 60, 60)
				if n := len(g.endpoint.tries(down)); n < (fetches-1)*outage.tries || n > (fetches+1)*outage.tries {
					t.Errorf("%d tries in %d fetches", n, fetches)
				}
				warnings := g.logs.FilterMessage("token not renewed; the current token stays in use")
				if n := warnings.Len(); n < fetches-1 || n > fetches {
					t.Errorf("%d warnings of %d fetches", n, fetches)
				}
				for _, entry := range warnings.All() {
					if next, ok := entry.ContextMap()["next_try"].(time.Duration); !ok || next < 4*time.Second || next > 72*time.Second {
						t.Errorf("logged %v", entry.ContextMap())
					}
				}

				g.endpoint.becomes(nil)
				recovered := time.Now()
				g.load(80*time.Millisecond, 75*time.Second, g.wantServed)
				if a := g.mustGet(); a.token == "token-1" || len(g.endpoint.tries(recovered)) > outage.tries {
					t.Errorf("got %+v after %d tries", a, len(g.endpoint.tries(recovered)))
				}
			})
		})
	}
}

// A wait that the endpoint asks for is kept, however long the token lives.
func TestRetryAfterHoldsOffRenewals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, &Handler{RefreshAhead: "30m"})
		g.mustGet()
		time.Sleep(40 * time.Minute)
		down := time.Now()
		g.endpoint.becomes(servertest.Status(429, "Retry-After", "700"))
		g.load(50*time.Millisecond, 15*time.Minute, g.wantServed)
		if tries := g.endpoint.tries(down); len(tries) != 2 || tries[1].Sub(tries[0]) < 700*time.Second || tries[1].Sub(tries[0]) > 701*time.Second {
			t.Errorf("asked at %v", tries)
		}
		// Also past the token's expiry.
		time.Sleep(5*time.Minute + 30*time.Second)
		g.load(50*time.Millisecond, 10*time.Second, func(a virtualAnswer) {
			if a.status != 503 || a.retryAfter < 60 || a.waited != 0 {
				t.Errorf("got %+v", a)
			}
		})
		if tries := g.endpoint.tries(down); len(tries) != 2 {
			t.Errorf("asked at %v", tries)
		}
	})
}

func TestOutagePastExpiry(t *testing.T) {
	t.Parallel()
	for _, outage := range outages {
		t.Run(outage.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newVirtualGateway(t, new(Handler))
				g.mustGet()
				time.Sleep(2 * time.Hour)
				down := time.Now()
				g.endpoint.becomes(outage.down)
				lasts, pauses := time.Minute, []float64{1, 2, 4, 8, 10}
				if outage.refused {
					lasts, pauses = 15*time.Minute, []float64{15, 30, 60, 120, 240}
				}
				if outage.code == "timeout" {
					lasts = 2 * time.Minute
				}
				g.load(80*time.Millisecond, lasts, func(a virtualAnswer) {
					began := time.Now().Add(-a.waited).Sub(down)
					want, firstFetch := outage.status, began < 10*time.Second
					// Who waited for the first fetch was told of the timeout, and who came in
					// the last moment of a later one can be.
					if want == 504 && !firstFetch && (a.status == 503 || a.waited > 0) {
						want = 503
					}
					if a.status != want || a.from != statusNone || a.cause != outage.code || (a.retryAfter > 0) != (want != 502) {
						t.Errorf("got %+v", a)
					}
					if a.waited > time.Second && !firstFetch {
						t.Errorf("got %+v after %v of the outage", a, time.Since(down))
					}
				})
				g.wantPauses(down, pauses...)

				// The recovery is used within one interval.
				g.endpoint.becomes(nil)
				recovered, most := time.Now(), 22*time.Second
				if outage.refused {
					most = 6 * time.Minute
				}
				for g.get().status != 200 {
					time.Sleep(10 * time.Millisecond)
				}
				if took := time.Since(recovered); took > most {
					t.Errorf("recovered after %v", took)
				}
			})
		})
	}
}

// While a token lives a failed renewal is not due again for a while; once it has expired
// nobody waits for that.
func TestExpiryEndsThePauseOfRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		g.mustGet()
		g.endpoint.becomes(servertest.Dying)
		expiry := g.tokens.source.grant.Current().Expiry()
		// From then on there are pauses of 5, 10, 20 and 40 s, and the last outlasts the token.
		time.Sleep(time.Until(expiry) - 58*time.Second)
		for !g.tokens.source.grant.Snapshot().NextTry.After(expiry) {
			g.load(50*time.Millisecond, time.Second, g.wantServed)
		}
		g.endpoint.becomes(nil)
		time.Sleep(time.Until(expiry))
		if a := g.mustGet(); a.token != "token-2" || a.from != statusFetched {
			t.Errorf("got %+v", a)
		}
	})
}

func TestHangStallsNobodyWhoseTokenLives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		g.endpoint.expiresIn = "100"
		g.mustGet()
		g.endpoint.becomes(servertest.Hanging)
		longest := time.Duration(0)
		g.load(20*time.Millisecond, 5*time.Minute, func(a virtualAnswer) {
			if longest = max(longest, a.waited); a.status != 200 && a.status != 503 {
				t.Errorf("got %+v", a)
			}
		})
		// It was known to hang before the token expired.
		if longest > outagePatience {
			t.Errorf("a request waited %v", longest)
		}
	})
}

func TestHangStallsClientsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, &Handler{RefreshAhead: "off"})
		g.endpoint.expiresIn = "100"
		g.mustGet()
		time.Sleep(101 * time.Second)
		g.endpoint.becomes(servertest.Hanging)
		start, timeouts, lastTimeout := time.Now(), 0, time.Duration(0)
		g.load(20*time.Millisecond, 5*time.Minute, func(a virtualAnswer) {
			switch a.status {
			case 200:
			case 504:
				timeouts++
				lastTimeout = time.Since(start)
			default:
				if a.waited > outagePatience || a.retryAfter == 0 {
					t.Errorf("got %+v", a)
				}
			}
		})
		if timeouts == 0 || lastTimeout > 20*time.Second {
			t.Errorf("%d timeouts, the last after %v", timeouts, lastTimeout)
		}
	})
}

// A token that the upstream rejects does not stay in use because it has not expired.
func TestRenewalAheadOfARejectedTokenFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, &Handler{RefreshAhead: "1m"})
		g.mustGet()
		g.endpoint.becomes(servertest.Dying)
		g.accepts(func(string) bool { return false }, nil)
		if a := g.get(); a.status != 503 {
			t.Errorf("got %+v", a)
		}
		time.Sleep(59*time.Minute + 10*time.Second)
		before := g.logs.Len()
		g.get()
		synctest.Wait()
		var ahead []string
		for _, entry := range g.logs.All()[before:] {
			if entry.ContextMap()["trigger"] == "ahead" {
				ahead = append(ahead, entry.Message)
			}
		}
		if len(ahead) != 1 || ahead[0] != "no token obtained" {
			t.Errorf("logged %q", ahead)
		}
	})
}

// A later fetch that times out is no news, even if clients wait for it to its end since the timeout is short.
func TestLaterTimeoutsAreUnavailability(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, &Handler{Timeout: caddy.Duration(500 * time.Millisecond)})
		g.endpoint.becomes(servertest.Hanging)
		for fetch, want := range []int{504, 503, 503} {
			a := g.get()
			if a.status != want || a.waited == 0 || a.cause != "timeout" {
				t.Errorf("fetch %d: got %+v, want %d", fetch+1, a, want)
			}
			time.Sleep(time.Duration(a.retryAfter) * time.Second)
		}
	})
}

// Who comes back when Retry-After says finds the gateway asking again.
func TestRetryAfterComesTrue(t *testing.T) {
	t.Parallel()
	for _, outage := range outages {
		if outage.status == 502 {
			continue
		}
		t.Run(outage.name, func(t *testing.T) {
			for round := range 25 {
				synctest.Test(t, func(t *testing.T) {
					g := newVirtualGateway(t, new(Handler))
					g.endpoint.becomes(outage.down)
					g.load(100*time.Millisecond, time.Duration(1+3*round)*time.Second, func(virtualAnswer) {})
					var wait time.Duration
					for wait == 0 {
						wait = time.Duration(g.get().retryAfter) * time.Second
					}
					g.endpoint.becomes(nil)
					time.Sleep(wait)
					if a := g.get(); a.status != 200 {
						t.Errorf("after %v: got %+v", wait, a)
					}
				})
			}
		})
	}
}

func TestLoadCostsNoMoreThanTheScheduledTries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		g.endpoint.becomes(servertest.Dying)
		start, failed := time.Now(), 0
		g.load(100*time.Microsecond, 20*time.Second, func(a virtualAnswer) {
			if a.status != 503 {
				t.Errorf("got %+v", a)
			}
			failed++
		})
		// Pauses of 1, 2, 4 and 8 s, fetches of three tries.
		fetches := g.wantPauses(start, 1, 2, 4)
		if n := g.endpoint.count(); n > 18 || fetches > 6 {
			t.Errorf("%d tries in %d fetches for %d requests", n, fetches, failed)
		}
	})
}

// A failure long ago says nothing of the endpoint: who comes then waits for it.
func TestFailureIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		g.endpoint.becomes(servertest.Dying)
		g.load(100*time.Millisecond, time.Minute, func(virtualAnswer) {})
		time.Sleep(5 * time.Second) // a fetch in progress ends
		g.endpoint.becomes(nil)
		g.endpoint.takes = 4 * time.Second
		time.Sleep(outageMemory + 20*time.Second)
		if a := g.get(); a.status != 200 || a.waited != g.endpoint.takes {
			t.Errorf("got %+v", a)
		}
	})
}

func TestOddLifetimes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		expiresIn string
		lifetime  time.Duration
		most      int // token requests in 20 s
	}{
		{"1", time.Second, 34},
		{"2", 2 * time.Second, 18},
		{"10", 10 * time.Second, 5},
		{"0", time.Second, 34},
		{"-7", time.Second, 34},
		{"0.001", time.Second, 34},
		{"3153600000", endpoint.MaxLifetime, 1}, // a hundred years
		{"3153600001", 5 * time.Minute, 1},
		{"1e300", 5 * time.Minute, 1},
		{"", 5 * time.Minute, 1},
		{`"soon"`, 5 * time.Minute, 1},
	} {
		t.Run(test.expiresIn, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newVirtualGateway(t, new(Handler))
				g.endpoint.expiresIn, g.endpoint.takes = test.expiresIn, 50*time.Millisecond
				g.mustGet()
				g.accepts(func(token string) bool {
					g.endpoint.mu.Lock()
					defer g.endpoint.mu.Unlock()
					if age := time.Since(g.endpoint.granted[token]); age >= test.lifetime {
						t.Errorf("%s is used after %v", token, age)
					}
					return true
				}, nil)
				g.load(10*time.Millisecond, 20*time.Second, g.wantServed)
				if n := g.endpoint.count(); n > test.most {
					t.Errorf("%d token requests, want %d at the most", n, test.most)
				}
				told, wanted := g.logs.FilterMessageSnippet("expired already when it is granted").Len(), 0
				if test.expiresIn == "0" || test.expiresIn == "-7" || test.expiresIn == "0.001" {
					wanted = 1
				}
				if told != wanted {
					t.Errorf("told %d times that tokens have expired when granted", told)
				}
			})
		})
	}
}

// A clock that is set can be told from one that is not by what a time says of each.
// Requests that come seldom are no reason to start the pauses anew, nor to wait for an
// endpoint that hangs each time.
func TestSparseRequestsDoNotStartAnew(t *testing.T) {
	for _, every := range []time.Duration{80 * time.Second, 2 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			g := newVirtualGateway(t, new(Handler))
			g.endpoint.becomes(servertest.Status(400))
			g.load(every, time.Hour, func(virtualAnswer) {})
			if n := g.endpoint.count(); n > 20 {
				t.Errorf("a request every %v: %d token requests in an hour", every, n)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		g.endpoint.becomes(servertest.Hanging)
		stalled := 0
		g.load(65*time.Second, time.Hour, func(a virtualAnswer) {
			if a.waited > outagePatience {
				stalled++
			}
		})
		if stalled != 1 {
			t.Errorf("%d requests waited for the timeout", stalled)
		}
	})
}

// The token is about to expire, the upstream rejects it, and the endpoint is down: one
// schedule holds for both reasons to ask, and clients get one kind of answer.
func TestRejectedTokenDuringAnOutage(t *testing.T) {
	t.Parallel()
	for _, outage := range outages {
		t.Run(outage.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newVirtualGateway(t, &Handler{RefreshAhead: "50%"})
				g.mustGet()
				time.Sleep(40 * time.Minute)
				g.accepts(func(token string) bool { return token != "token-1" }, nil)
				g.endpoint.becomes(outage.down)
				down := time.Now()
				g.load(100*time.Millisecond, 5*time.Minute, func(a virtualAnswer) {
					late := outage.status == 504 && a.status == 503
					if a.status != outage.status && !late || a.cause != outage.code {
						t.Errorf("after %v: got %+v", time.Since(down), a)
					}
				})
				var last time.Time
				for _, entry := range g.logs.All() {
					took, _ := entry.ContextMap()["duration"].(time.Duration)
					if entry.ContextMap()["error"] == nil {
						continue
					}
					if pause := entry.Time.Add(-took).Sub(last); pause < 800*time.Millisecond || outage.refused && pause < 4*time.Second {
						t.Errorf("asked again after %v", pause)
					}
					last = entry.Time
				}
				if outage.refused && g.logs.FilterField(zap.String("error", outage.code)).Len() > 12 {
					t.Errorf("asked too often: %d", g.logs.Len())
				}
			})
		})
	}
}

// One path whose rejections no token cures must not keep others from being renewed.
func TestRejectionsDoNotHoldOffRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, &Handler{RefreshAhead: "50%", RetryStatus: []int{401, 403}})
		g.mustGet()
		time.Sleep(45 * time.Minute)
		g.endpoint.becomes(servertest.Status(400))
		g.rejectPath("/closed", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) })
		time.AfterFunc(9*time.Minute, func() { g.endpoint.becomes(nil) })
		for range 200 {
			_ = g.send(httptest.NewRequest(http.MethodGet, "/closed", nil))
			if a := g.get(); a.status != 200 || a.waited != 0 {
				t.Errorf("got %+v", a)
			}
			time.Sleep(5 * time.Second)
		}
	})
}

// A rejection that is not due to be judged anew passes, whatever failed in between.
func TestBareRejectionPassesOnceTheEndpointIsWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		g.mustGet()
		g.accepts(func(string) bool { return false }, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) })
		for _, wait := range []time.Duration{11, 21, 41} { // each uncured, so the next is due after 10, 20 and 40 seconds
			g.get()
			time.Sleep(wait * time.Second)
		}
		g.accepts(func(string) bool { return false }, nil)
		g.endpoint.becomes(servertest.Dying)
		if a := g.get(); a.status != 503 {
			t.Errorf("got %+v", a)
		}
		g.endpoint.becomes(nil)
		time.Sleep(7 * time.Second)
		g.accepts(func(string) bool { return false }, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) })
		if a := g.get(); a.status != 401 {
			t.Errorf("got %+v", a)
		}
	})
}

// Configurations that share a token can differ in how long they wait for one.
func TestTimeoutIsTheConfigurationsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		patient := newVirtualGateway(t, &Handler{Timeout: caddy.Duration(time.Minute)})
		hasty := newVirtualGateway(t, &Handler{Timeout: caddy.Duration(time.Second)})
		patient.endpoint.becomes(servertest.Hanging)
		go patient.get()
		synctest.Wait()
		if a := hasty.get(); a.status != 504 || a.waited != time.Second || a.retryAfter == 0 {
			t.Errorf("got %+v", a)
		}
		time.Sleep(time.Minute)
	})
}

func TestRecoveryStartsThePausesAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		for range 2 {
			g.endpoint.becomes(servertest.Dying)
			down := time.Now()
			g.load(100*time.Millisecond, time.Minute, func(virtualAnswer) {})
			g.wantPauses(down, 1, 2, 4, 8, 10)
			g.endpoint.becomes(nil)
			time.Sleep(12 * time.Second)
			g.mustGet()
			time.Sleep(time.Hour)
		}
	})
}

func TestWarningOfExpiredTokensComesWithEachChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newVirtualGateway(t, new(Handler))
		for _, expiresIn := range []string{"0", "0", "10", "0"} {
			g.endpoint.expiresIn = expiresIn
			g.mustGet()
			time.Sleep(time.Minute)
		}
		if told := g.logs.FilterMessageSnippet("expired already when it is granted").Len(); told != 2 {
			t.Errorf("told %d times", told)
		}
	})
}
