package oauthcc

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// newFleet makes gateways that share tokens, as processes of their own would: each has a
// cache of its own.
func newFleet(t *testing.T, storage *memoryStorage, size int, options func() *Handler) []*virtualGateway {
	t.Helper()
	var fleet []*virtualGateway
	for range size {
		g := newVirtualGateway(t, options())
		if len(fleet) > 0 {
			g.endpoint = fleet[0].endpoint
			g.client.transport = g.endpoint
		}
		g.share(storage)
		fleet = append(fleet, g)
	}
	return fleet
}

// share gives the gateway a cache of its own and the storage.
func (g *virtualGateway) share(storage *memoryStorage) {
	g.source = &grantSource{h: g.Handler, grant: newCachedGrant()}
	shared := newSharedStorage(storage, g.logger)
	g.sharing = &sharing{
		storage: shared, timeout: time.Duration(g.Timeout), stale: g.refreshAhead, trust: g.trust, now: time.Now, sweeper: newSweeper(shared),
	}
}

// sharedKey is that of the gateway's token.
func (g *virtualGateway) sharedKey(t *testing.T) sharedKey {
	t.Helper()
	r, err := g.resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := r.sharedKey(g.trust...)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func plain() *Handler { return new(Handler) }

func TestFleetSharesOneToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet := newFleet(t, newMemoryStorage(), 8, plain)
		fleet[0].endpoint.takes = 300 * time.Millisecond
		answers := make(chan virtualAnswer, len(fleet))
		for _, g := range fleet {
			go func() { answers <- g.get() }()
		}
		for range fleet {
			if a := <-answers; a.status != 200 || a.token != "token-1" || a.waited > 800*time.Millisecond {
				t.Errorf("got %+v", a)
			}
		}
		if n := fleet[0].endpoint.count(); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
	})
}

// load has all gateways of a fleet serve one request in each interval.
func load(fleet []*virtualGateway, every, lasts time.Duration, got func(virtualAnswer)) {
	var wait sync.WaitGroup
	var mu sync.Mutex
	for _, g := range fleet {
		wait.Go(func() {
			g.load(every, lasts, func(a virtualAnswer) {
				mu.Lock()
				defer mu.Unlock()
				got(a)
			})
		})
	}
	wait.Wait()
}

// settle has the fleet get its first token, and lets it be stored.
func settle(t *testing.T, fleet []*virtualGateway) {
	t.Helper()
	for _, g := range fleet {
		g.mustGet()
		synctest.Wait()
	}
}

func wantTokenRequests(t *testing.T, e *virtualEndpoint, want int) {
	t.Helper()
	if n := e.count(); n != want {
		t.Errorf("%d token requests, want %d", n, want)
	}
}

func TestFleetRenewsAheadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet := newFleet(t, newMemoryStorage(), 8, plain)
		endpoint := fleet[0].endpoint
		endpoint.takes, endpoint.expiresIn = 300*time.Millisecond, "600"
		settle(t, fleet)
		load(fleet, 5*time.Second, time.Hour, func(a virtualAnswer) {
			if a.status != 200 || a.waited != 0 || a.token == "two-at-a-time" {
				t.Errorf("got %+v", a)
			}
		})
		// Renewed after about three quarters of its life, moved by up to a fifth of the
		// quarter; the gateway that is the first to find it stale is an early one.
		if n := endpoint.count(); n < 7 || n > 10 {
			t.Errorf("%d token requests in six lifetimes", n)
		}
	})
}

func TestRejectedTokenIsReplacedByOneGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet := newFleet(t, newMemoryStorage(), 8, plain)
		endpoint := fleet[0].endpoint
		endpoint.takes = 200 * time.Millisecond
		settle(t, fleet)
		for _, g := range fleet {
			g.accepts(func(token string) bool { return token != "token-1" }, nil)
		}
		load(fleet, 50*time.Millisecond, 5*time.Second, func(a virtualAnswer) {
			if a.status != 200 || a.token != "token-2" || a.waited > time.Second {
				t.Errorf("got %+v", a)
			}
		})
		wantTokenRequests(t, endpoint, 2)
	})
}

// Another gateway's token can have been revoked together with the one at hand. Only one that
// is fetched after the rejection tells.
func TestRejectionOfAnotherGatewaysTokenIsCured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet := newFleet(t, newMemoryStorage(), 2, plain)
		endpoint := fleet[0].endpoint
		settle(t, fleet)
		revoked := map[string]bool{"token-1": true}
		for _, g := range fleet {
			g.accepts(func(token string) bool { return !revoked[token] }, nil)
		}
		if a := fleet[0].mustGet(); a.token != "token-2" {
			t.Fatalf("got %+v", a)
		}
		synctest.Wait()
		revoked["token-2"] = true
		if a := fleet[1].mustGet(); a.token != "token-3" || a.from != statusReplayed {
			t.Errorf("got %+v", a)
		}
		wantTokenRequests(t, endpoint, 3)
		// Its body is kept for that, too.
		revoked["token-3"] = true
		time.Sleep(forcedSpacing)
		if a := fleet[0].send(httptest.NewRequest(http.MethodPost, "/", strings.NewReader("a body"))); a.status != 200 || a.token != "token-4" {
			t.Errorf("got %+v", a)
		}
		wantTokenRequests(t, endpoint, 4)
	})
}

// However many tokens of others there are, a request is sent three times at the most.
func TestRejectionOfOthersTokensEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet := newFleet(t, newMemoryStorage(), 2, plain)
		settle(t, fleet)
		attempts := 0
		fleet[1].accepts(func(string) bool { attempts++; return false }, nil)
		fleet[0].accepts(func(token string) bool { return token != "token-1" }, nil)
		fleet[0].mustGet()
		synctest.Wait()
		if a := fleet[1].get(); a.status != 401 || attempts != 3 {
			t.Errorf("got %+v after %d attempts, want 401 after 3", a, attempts)
		}
		wantTokenRequests(t, fleet[0].endpoint, 3)
	})
}

func TestTokenSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		fleet := newFleet(t, storage, 1, plain)
		fleet[0].mustGet()
		synctest.Wait()
		time.Sleep(20 * time.Minute)
		restarted := newFleet(t, storage, 1, plain)[0]
		if a := restarted.mustGet(); a.token != "token-1" || a.waited != 0 {
			t.Errorf("got %+v", a)
		}
		wantTokenRequests(t, restarted.endpoint, 0)
		// Its life goes on where it was.
		endpoint := restarted.endpoint
		time.Sleep(39*time.Minute + 51*time.Second)
		if a := restarted.mustGet(); a.from != statusFetched {
			t.Errorf("got %+v with a token that has expired", a)
		}
		wantTokenRequests(t, endpoint, 1)
	})
}

func TestStorageIsLeftAloneWhileTheTokenIsFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		g := newFleet(t, storage, 1, plain)[0]
		g.mustGet()
		synctest.Wait()
		storage.becomes(func(operation string) error { t.Errorf("%s", operation); return nil }, nil)
		g.load(time.Second, 40*time.Minute, g.wantServed)
		storage.becomes(nil, nil)
	})
}

// A gateway that dies with the lock holds up nobody for long, nor makes the others ask all
// at once.
func TestDeadHolderOfTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		fleet := newFleet(t, storage, 8, plain)
		endpoint := fleet[0].endpoint
		endpoint.takes = 200 * time.Millisecond
		dieWithTheLock := func(sequence uint64) {
			if err := storage.Lock(t.Context(), fleet[0].sharedKey(t).lock(sequence, false)); err != nil {
				t.Fatal(err)
			}
			storage.killHolders()
		}
		dieWithTheLock(0)
		answers := make(chan virtualAnswer, len(fleet))
		for _, g := range fleet {
			go func() { answers <- g.get() }()
		}
		for range fleet {
			if a := <-answers; a.status != 200 || a.waited > sharingPatience+300*time.Millisecond {
				t.Errorf("got %+v", a)
			}
		}
		wantTokenRequests(t, endpoint, 1)

		// Ahead of the expiry nobody waits at all.
		time.Sleep(56*time.Minute + 30*time.Second)
		dieWithTheLock(1)
		load(fleet, 100*time.Millisecond, 20*time.Second, func(a virtualAnswer) {
			if a.status != 200 || a.waited != 0 {
				t.Errorf("got %+v", a)
			}
		})
		wantTokenRequests(t, endpoint, 2)
	})
}

// A request that needs the token ends the patience of a fetch that nobody waited for.
func TestRequestEndsTheLongWaitForAnotherGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		g := newFleet(t, storage, 1, func() *Handler { return &Handler{RefreshAhead: "50%"} })[0]
		g.endpoint.expiresIn = "100"
		g.mustGet()
		time.Sleep(60 * time.Second) // stale, until 90 s
		if err := storage.Lock(t.Context(), g.sharedKey(t).lock(1, false)); err != nil {
			t.Fatal(err)
		}
		if a := g.mustGet(); a.from != statusStale {
			t.Fatalf("got %+v", a)
		}
		time.Sleep(time.Second)
		wantTokenRequests(t, g.endpoint, 1)
		g.accepts(func(token string) bool { return token != "token-1" }, nil)
		if a := g.mustGet(); a.token != "token-2" || a.waited != time.Second-signLook {
			t.Errorf("got %+v, want a wait of 0.8 s", a)
		}
	})
}

// A fetch that nobody waits for is in no hurry.
func TestRenewalAheadOutlastsAnotherGatewaysFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet := newFleet(t, newMemoryStorage(), 2, func() *Handler { return &Handler{RefreshAhead: "50%"} })
		endpoint := fleet[0].endpoint
		settle(t, fleet)
		endpoint.takes = 4 * time.Second
		time.Sleep(50 * time.Minute)
		load(fleet, 100*time.Millisecond, 10*time.Second, func(a virtualAnswer) {
			if a.waited != 0 {
				t.Errorf("got %+v", a)
			}
		})
		wantTokenRequests(t, endpoint, 2)
	})
}
func TestLockThatIsNeverReleasedDelaysOneRenewalOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		fleet := newFleet(t, storage, 3, plain)
		accepted := "token-1"
		for _, g := range fleet {
			g.mustGet()
			g.accepts(func(token string) bool { return token == accepted }, nil)
		}
		storage.becomes(func(operation string) error {
			if operation == "unlock" {
				return errors.New("no")
			}
			return nil
		}, nil)
		for _, accepted = range []string{"token-2", "token-3", "token-4"} {
			time.Sleep(forcedSpacing)
			for _, g := range fleet {
				if a := g.mustGet(); a.token != accepted || a.waited > time.Second {
					t.Errorf("got %+v", a)
				}
			}
		}
		if n := fleet[0].endpoint.count(); n != 4 {
			t.Errorf("%d token requests, want 4", n)
		}
	})
}

func TestDeadHolderCostsOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		fleet := newFleet(t, storage, 8, plain)
		for _, g := range fleet {
			g.mustGet()
			g.accepts(func(token string) bool { return token == "token-2" }, nil)
		}
		request, err := fleet[0].source.resolveWithin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		key, err := request.sharedKey(fleet[0].trust...)
		if err != nil {
			t.Fatal(err)
		}
		if err := storage.Lock(t.Context(), key.lock(1, false)); err != nil {
			t.Fatal(err)
		}
		fleet[0].endpoint.takes = 500 * time.Millisecond
		answers := make(chan virtualAnswer, len(fleet))
		for _, g := range fleet {
			go func() { answers <- g.get() }()
		}
		for range fleet {
			if a := <-answers; a.status != 200 || a.token != "token-2" || a.waited > sharingPatience {
				t.Errorf("got %+v", a)
			}
		}
		if n := fleet[0].endpoint.count(); n != 2 {
			t.Errorf("%d token requests, want 2", n)
		}
	})
}

// An endpoint that is slow is not made slower by a whole fleet, as long as the gateway that
// asks it is seen to live.
func TestFleetWaitsForASlowEndpoint(t *testing.T) {
	for _, takes := range []time.Duration{1500 * time.Millisecond, 3 * time.Second, 4500 * time.Millisecond} {
		t.Run(takes.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := newMemoryStorage()
				fleet := newFleet(t, storage, 32, plain)
				endpoint := fleet[0].endpoint
				endpoint.takes = takes
				answers := make(chan virtualAnswer, len(fleet))
				for _, g := range fleet {
					go func() { answers <- g.get() }()
				}
				for range fleet {
					if a := <-answers; a.status != 200 || a.waited > takes+time.Second {
						t.Errorf("got %+v", a)
					}
				}
				wantTokenRequests(t, endpoint, 1)

				// The signs of life of that time are none.
				time.Sleep(2 * time.Hour)
				endpoint.takes = 0
				if err := storage.Lock(t.Context(), fleet[0].sharedKey(t).lock(1, false)); err != nil {
					t.Fatal(err)
				}
				storage.killHolders()
				if a := fleet[0].mustGet(); a.waited > sharingPatience {
					t.Errorf("got %+v", a)
				}
			})
		})
	}
}

// Signs of life can't be made by who does not have the credential.
func TestSignsOfLifeAreTheFleetsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		g := newFleet(t, storage, 1, plain)[0]
		name := g.sharedKey(t).lock(0, false)
		if err := storage.Lock(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		var forging sync.WaitGroup
		forging.Go(func() {
			for n := byte(0); ; n++ {
				select {
				case <-done:
					return
				case <-time.After(signInterval):
					_ = storage.Store(t.Context(), signPath(name), []byte{storageFormat, 0, 0, 0, 0, 0, 0, 0, 0, n})
				}
			}
		})
		if a := g.mustGet(); a.waited > sharingPatience {
			t.Errorf("got %+v", a)
		}
		close(done)
		forging.Wait()
	})
}

// With an issuer the endpoint is not known when the token is looked for.
func TestTokenOfAnIssuerIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &discoveryServer{at: map[string]http.RoundTripper{rfc8414Place: cannedAnswer{body: document(nil)}, testEndpoint: anyToken}}
		storage := newMemoryStorage()
		fleet := newFleet(t, storage, 2, func() *Handler { return &Handler{Issuer: testIssuer} })
		for _, g := range fleet {
			g.client.transport = server
		}
		fleet[0].mustGet()
		synctest.Wait()
		server.since()
		if a := fleet[1].mustGet(); a.token != "tok-1" {
			t.Errorf("got %+v", a)
		}
		if asked := server.since(); asked != "" {
			t.Errorf("asked %s, though the token is in the storage", asked)
		}
	})
}

// Whatever a request that joins a renewal would wait for, time is left for the endpoint.
func TestRequestThatJoinsLateLeavesTimeForTheEndpoint(t *testing.T) {
	for _, joins := range []time.Duration{2 * time.Second, 4700 * time.Millisecond, 7 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			storage := newMemoryStorage()
			g := newFleet(t, storage, 1, func() *Handler { return &Handler{RefreshAhead: "50%"} })[0]
			g.endpoint.expiresIn = "100"
			g.mustGet()
			synctest.Wait()
			time.Sleep(60 * time.Second)
			for _, second := range []bool{false, true} {
				if err := storage.Lock(t.Context(), g.sharedKey(t).lock(1, second)); err != nil {
					t.Fatal(err)
				}
			}
			living, die := context.WithCancel(t.Context())
			key := g.sharedKey(t)
			var signs sync.WaitGroup
			signs.Go(func() {
				for living.Err() == nil {
					storage.put(signPath(key.lock(1, false)), key.makeSign(time.Now()))
					storage.put(signPath(key.lock(1, true)), key.makeSign(time.Now()))
					time.Sleep(signInterval)
				}
			})
			g.mustGet() // has the token renewed
			time.Sleep(joins)
			g.endpoint.takes = 2 * time.Second
			g.accepts(func(token string) bool { return token != "token-1" }, nil)
			if a := g.get(); a.status != 200 || a.token != "token-2" {
				t.Errorf("a request after %s got %+v", joins, a)
			}
			die()
			signs.Wait()
		})
	}
}

// An endpoint can have asked one gateway alone to wait.
func TestPauseEndsWithAnotherGatewaysToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		fleet := newFleet(t, storage, 2, plain)
		told, other := fleet[0], fleet[1]
		endpoint := told.endpoint
		endpoint.becomes(cannedAnswer{status: 429, header: http.Header{"Retry-After": {"3600"}}})
		if a := told.get(); a.status != 503 {
			t.Fatalf("got %+v", a)
		}
		synctest.Wait()
		loads := storage.count("load")
		for range 100 {
			if a := told.get(); a.status != 503 || a.waited > 0 {
				t.Fatalf("got %+v", a)
			}
		}
		if n := storage.count("load") - loads; n > 1 {
			t.Errorf("%d loads for 100 requests at once", n)
		}
		endpoint.becomes(nil)
		other.mustGet()
		time.Sleep(lookSpacing)
		if a := told.mustGet(); a.token != "token-1" {
			t.Errorf("got %+v", a)
		}
		wantTokenRequests(t, endpoint, 2)
	})
}

// One that fails while another succeeds has that one's token.
func TestFailedFetchLooksOnceMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		fleet := newFleet(t, storage, 2, plain)
		for _, second := range []bool{false, true} { // so that both ask
			if err := storage.Lock(t.Context(), fleet[0].sharedKey(t).lock(0, second)); err != nil {
				t.Fatal(err)
			}
		}
		fleet[1].client.transport = endpointFunc(func(req *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return cannedStatus(403).RoundTrip(req)
		})
		answers := make(chan virtualAnswer, 2)
		for _, g := range fleet {
			go func() { answers <- g.get() }()
		}
		for range fleet {
			if a := <-answers; a.status != 200 || a.token != "token-1" {
				t.Errorf("got %+v", a)
			}
		}
	})
}

// With little time for all there is little to wait for others, but the lock still holds.
func TestFleetWithShortTimeout(t *testing.T) {
	for _, timeout := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			storage := newMemoryStorage()
			storage.slows(5 * time.Millisecond)
			fleet := newFleet(t, storage, 8, func() *Handler { return &Handler{Timeout: caddy.Duration(timeout)} })
			fleet[0].endpoint.takes = 50 * time.Millisecond
			answers := make(chan virtualAnswer, len(fleet))
			for _, g := range fleet {
				go func() { answers <- g.get() }()
			}
			for range fleet {
				if a := <-answers; a.status != 200 {
					t.Errorf("got %+v", a)
				}
			}
			wantTokenRequests(t, fleet[0].endpoint, 1)
			synctest.Wait()
		})
	}
}

// What shows that a gateway lives is of no use when it has its token.
func TestSignsOfLifeDoNotStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		g := newFleet(t, storage, 1, plain)[0]
		g.endpoint.takes = 2 * time.Second
		g.mustGet()
		time.Sleep(time.Minute)
		if storage.count("store") < 5 {
			t.Errorf("stored %d times", storage.count("store"))
		}
		if n := len(storage.all()); n != 2 { // the token and the sweeper's mark
			t.Errorf("%d values stay", n)
		}
		g.accepts(func(token string) bool { return token != "token-1" }, nil)
		g.endpoint.becomes(endpointFunc(func(req *http.Request) (*http.Response, error) {
			time.Sleep(2 * time.Second)
			return cannedStatus(401).RoundTrip(req)
		}))
		g.get()
		time.Sleep(time.Minute)
		if n := len(storage.all()); n != 2 {
			t.Errorf("%d values stay", n)
		}
	})
}

// A fetch that requests have waited for since long before its turn looks into the storage all
// the same.
func TestFetchThatWasQueuedLooksIntoTheStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet := newFleet(t, newMemoryStorage(), 2, plain)
		fleet[0].mustGet()
		synctest.Wait()
		wanted := make(chan time.Time, 1)
		wanted <- time.Now().Add(-5 * time.Second)
		late := fleet[1]
		turn, found := late.sharing.await(t.Context(), late.sharedKey(t), fetchTask{wanted: wanted})
		if found == nil || found.value != "token-1" || turn.lock != "" {
			t.Errorf("found %+v", found)
		}
	})
}
