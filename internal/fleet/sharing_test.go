package fleet

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/storagetest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

func TestFleetSharesOneToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet := newFleet(t, storagetest.NewMemory(), 8, plain)
		fleet[0].endpoint.takes = 300 * time.Millisecond
		for _, a := range getAll(fleet) {
			if a.err != nil || a.token != "token-1" || a.waited > 800*time.Millisecond {
				t.Errorf("got %+v", a)
			}
		}
		if n := fleet[0].endpoint.count(); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
	})
}

func TestFleetRenewsAheadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet := newFleet(t, storagetest.NewMemory(), 8, plain)
		endpoint := fleet[0].endpoint
		endpoint.takes, endpoint.expiresIn = 300*time.Millisecond, "600"
		settle(t, fleet)
		load(fleet, 5*time.Second, time.Hour, func(a answer) {
			if a.err != nil || a.waited != 0 || a.token == "two-at-a-time" {
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
		fleet := newFleet(t, storagetest.NewMemory(), 8, plain)
		endpoint := fleet[0].endpoint
		endpoint.takes = 200 * time.Millisecond
		settle(t, fleet)
		for _, g := range fleet {
			g.accepts = func(token string) bool { return token != "token-1" }
		}
		load(fleet, 50*time.Millisecond, 5*time.Second, func(a answer) {
			if a.err != nil || a.token != "token-2" || a.waited > time.Second {
				t.Errorf("got %+v", a)
			}
		})
		wantTokenRequests(t, endpoint, 2)
	})
}

func TestTokenSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
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
		if a := restarted.mustGet(); a.from != fromFetch {
			t.Errorf("got %+v with a token that has expired", a)
		}
		wantTokenRequests(t, endpoint, 1)
	})
}

func TestStorageIsLeftAloneWhileTheTokenIsFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		g := newFleet(t, storage, 1, plain)[0]
		g.mustGet()
		synctest.Wait()
		storage.Becomes(func(operation string) error { t.Errorf("%s", operation); return nil }, nil)
		g.load(time.Second, 40*time.Minute, func(a answer) {
			if a.err != nil || a.waited != 0 {
				t.Errorf("got %+v", a)
			}
		})
		storage.Becomes(nil, nil)
	})
}

// A gateway that dies with the lock holds up nobody for long, nor makes the others ask all
// at once.
func TestDeadHolderOfTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		fleet := newFleet(t, storage, 8, plain)
		endpoint := fleet[0].endpoint
		endpoint.takes = 200 * time.Millisecond
		dieWithTheLock := func(sequence uint64) {
			if err := storage.Lock(t.Context(), fleet[0].recordKey(t).lockName(sequence, firstLock)); err != nil {
				t.Fatal(err)
			}
			storage.KillHolders()
		}
		dieWithTheLock(0)
		for _, a := range getAll(fleet) {
			if a.err != nil || a.waited > sharingPatience+300*time.Millisecond {
				t.Errorf("got %+v", a)
			}
		}
		wantTokenRequests(t, endpoint, 1)

		// Ahead of the expiry nobody waits at all.
		time.Sleep(56*time.Minute + 30*time.Second)
		dieWithTheLock(1)
		load(fleet, 100*time.Millisecond, 20*time.Second, func(a answer) {
			if a.err != nil || a.waited != 0 {
				t.Errorf("got %+v", a)
			}
		})
		wantTokenRequests(t, endpoint, 2)
	})
}

// A request that needs the token ends the patience of a fetch that nobody waited for.
func TestRequestEndsTheLongWaitForAnotherGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		g := newFleet(t, storage, 1, options{ahead: tokencache.RefreshAhead{Share: 0.5}})[0]
		g.endpoint.expiresIn = "100"
		g.mustGet()
		time.Sleep(60 * time.Second) // stale, until 90 s
		if err := storage.Lock(t.Context(), g.recordKey(t).lockName(1, firstLock)); err != nil {
			t.Fatal(err)
		}
		if a := g.mustGet(); a.from != fromStale {
			t.Fatalf("got %+v", a)
		}
		time.Sleep(time.Second)
		wantTokenRequests(t, g.endpoint, 1)
		g.accepts = func(token string) bool { return token != "token-1" }
		if a := g.mustGet(); a.token != "token-2" || a.waited != time.Second-signLook {
			t.Errorf("got %+v, want a wait of 0.8 s", a)
		}
	})
}

// A fetch that nobody waits for is in no hurry.
func TestRenewalAheadOutlastsAnotherGatewaysFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet := newFleet(t, storagetest.NewMemory(), 2, options{ahead: tokencache.RefreshAhead{Share: 0.5}})
		endpoint := fleet[0].endpoint
		settle(t, fleet)
		endpoint.takes = 4 * time.Second
		time.Sleep(50 * time.Minute)
		load(fleet, 100*time.Millisecond, 10*time.Second, func(a answer) {
			if a.waited != 0 {
				t.Errorf("got %+v", a)
			}
		})
		wantTokenRequests(t, endpoint, 2)
	})
}

// An upstream that takes new tokens late costs no gateway of a fleet an answer, nor the endpoint a
// request: all use the token before for that long, whoever got the new one.
func TestNewTokenOfAFleetIsTakenLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet := newFleet(t, storagetest.NewMemory(), 4, plain)
		endpoint := fleet[0].endpoint
		endpoint.expiresIn = "60"
		settle(t, fleet)
		time.Sleep(2 * time.Second)
		var mu sync.Mutex
		granted := map[string]time.Time{fleet[0].mustGet().token: {}}
		for _, g := range fleet {
			g.accepts = func(token string) bool {
				mu.Lock()
				defer mu.Unlock()
				if _, ok := granted[token]; !ok {
					granted[token] = time.Now()
				}
				return time.Since(granted[token]) >= 2*time.Second
			}
		}
		load(fleet, 50*time.Millisecond, 10*time.Minute, func(a answer) {
			if a.err != nil {
				t.Errorf("got %+v", a)
			}
		})
		if n := endpoint.count(); n > 18 { // one each 36 to 42 s
			t.Errorf("%d token requests in ten minutes", n)
		}
	})
}

func TestLockThatIsNeverReleasedDelaysOneRenewalOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		fleet := newFleet(t, storage, 3, plain)
		accepted := "token-1"
		for _, g := range fleet {
			g.mustGet()
			g.accepts = func(token string) bool { return token == accepted }
		}
		storage.Becomes(func(operation string) error {
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
		storage := storagetest.NewMemory()
		fleet := newFleet(t, storage, 8, plain)
		for _, g := range fleet {
			g.mustGet()
			g.accepts = func(token string) bool { return token == "token-2" }
		}
		if err := storage.Lock(t.Context(), fleet[0].recordKey(t).lockName(1, firstLock)); err != nil {
			t.Fatal(err)
		}
		fleet[0].endpoint.takes = 500 * time.Millisecond
		for _, a := range getAll(fleet) {
			if a.err != nil || a.token != "token-2" || a.waited > sharingPatience {
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
				storage := storagetest.NewMemory()
				fleet := newFleet(t, storage, 32, plain)
				endpoint := fleet[0].endpoint
				endpoint.takes = takes
				for _, a := range getAll(fleet) {
					if a.err != nil || a.waited > takes+time.Second {
						t.Errorf("got %+v", a)
					}
				}
				wantTokenRequests(t, endpoint, 1)

				// The signs of life of that time are none.
				time.Sleep(2 * time.Hour)
				endpoint.takes = 0
				if err := storage.Lock(t.Context(), fleet[0].recordKey(t).lockName(1, firstLock)); err != nil {
					t.Fatal(err)
				}
				storage.KillHolders()
				if a := fleet[0].mustGet(); a.waited > sharingPatience {
					t.Errorf("got %+v", a)
				}
			})
		})
	}
}

// Without the credential, nobody can make signs of life.
func TestSignsOfLifeAreTheFleetsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		g := newFleet(t, storage, 1, plain)[0]
		name := g.recordKey(t).lockName(0, firstLock)
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
					_ = storage.Store(t.Context(), signPath(name), []byte{recordFormat, 0, 0, 0, 0, 0, 0, 0, 0, n})
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

// Whatever a request that joins a renewal would wait for, time is left for the endpoint.
func TestRequestThatJoinsLateLeavesTimeForTheEndpoint(t *testing.T) {
	for _, joins := range []time.Duration{2 * time.Second, 4700 * time.Millisecond, 7 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			storage := storagetest.NewMemory()
			g := newFleet(t, storage, 1, options{ahead: tokencache.RefreshAhead{Share: 0.5}})[0]
			g.endpoint.expiresIn = "100"
			g.mustGet()
			synctest.Wait()
			time.Sleep(60 * time.Second)
			for _, rank := range []lockRank{firstLock, secondLock} {
				if err := storage.Lock(t.Context(), g.recordKey(t).lockName(1, rank)); err != nil {
					t.Fatal(err)
				}
			}
			living, die := context.WithCancel(t.Context())
			key := g.recordKey(t)
			var signs sync.WaitGroup
			signs.Go(func() {
				for living.Err() == nil {
					storage.Put(signPath(key.lockName(1, firstLock)), key.makeSign(time.Now()))
					storage.Put(signPath(key.lockName(1, secondLock)), key.makeSign(time.Now()))
					time.Sleep(signInterval)
				}
			})
			g.mustGet() // has the token renewed
			time.Sleep(joins)
			g.endpoint.takes = 2 * time.Second
			g.accepts = func(token string) bool { return token != "token-1" }
			if a := g.get(); a.err != nil || a.token != "token-2" {
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
		storage := storagetest.NewMemory()
		fleet := newFleet(t, storage, 2, plain)
		told, other := fleet[0], fleet[1]
		endpoint := told.endpoint
		endpoint.becomes(servertest.Answer{Status: 429, Header: http.Header{"Retry-After": {"3600"}}})
		isTold := func(a answer) bool {
			failure, ok := errors.AsType[*tokencache.UnavailableError](a.err)
			return ok && failure.Cause.IsTransient() && failure.Cause.Status == 429
		}
		if a := told.get(); !isTold(a) {
			t.Fatalf("got %+v", a)
		}
		synctest.Wait()
		loads := storage.Count("load")
		for range 100 {
			if a := told.get(); !isTold(a) || a.waited > 0 {
				t.Fatalf("got %+v", a)
			}
		}
		if n := storage.Count("load") - loads; n > 1 {
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

// A gateway that fails while another succeeds gets the other's token.
func TestFailedFetchLooksOnceMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		fleet := newFleet(t, storage, 2, plain)
		for _, rank := range []lockRank{firstLock, secondLock} { // so that both ask
			if err := storage.Lock(t.Context(), fleet[0].recordKey(t).lockName(0, rank)); err != nil {
				t.Fatal(err)
			}
		}
		fleet[1].client.Transport = servertest.Func(func(req *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return servertest.Status(403).RoundTrip(req)
		})
		for _, a := range getAll(fleet) {
			if a.err != nil || a.token != "token-1" {
				t.Errorf("got %+v", a)
			}
		}
	})
}

// The next holder of the lock looks for the token, and would ask the endpoint if it was not there yet.
func TestTokenIsStoredBeforeTheLockIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		g := newFleet(t, storage, 1, plain)[0]
		storage.Becomes(func(operation string) error {
			if operation == "unlock" && storage.All()[g.recordKey(t).path()] == nil {
				t.Error("the lock is released, and there is no token")
			}
			return nil
		}, nil)
		g.mustGet()
		synctest.Wait()
		if n := storage.Count("unlock"); n != 1 {
			t.Errorf("unlocked %d times", n)
		}
	})
}

// With little time for all there is little to wait for others, but the lock still holds.
func TestFleetWithShortTimeout(t *testing.T) {
	for _, timeout := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			storage := storagetest.NewMemory()
			storage.Slows(5 * time.Millisecond)
			fleet := newFleet(t, storage, 8, options{timeout: timeout})
			fleet[0].endpoint.takes = 50 * time.Millisecond
			for _, a := range getAll(fleet) {
				if a.err != nil {
					t.Errorf("got %+v", a)
				}
			}
			wantTokenRequests(t, fleet[0].endpoint, 1)
			synctest.Wait()
		})
	}
}

// Signs of life are deleted when the gateway has its token.
func TestSignsOfLifeDoNotStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := storagetest.NewMemory()
		g := newFleet(t, storage, 1, plain)[0]
		g.endpoint.takes = 2 * time.Second
		g.mustGet()
		time.Sleep(time.Minute)
		if storage.Count("store") < 5 {
			t.Errorf("stored %d times", storage.Count("store"))
		}
		if n := len(storage.All()); n != 2 { // the token and the sweeper's mark
			t.Errorf("%d values stay", n)
		}
		g.accepts = func(token string) bool { return token != "token-1" }
		g.endpoint.becomes(servertest.Func(func(req *http.Request) (*http.Response, error) {
			time.Sleep(2 * time.Second)
			return servertest.Status(401).RoundTrip(req)
		}))
		g.get()
		time.Sleep(time.Minute)
		if n := len(storage.All()); n != 2 {
			t.Errorf("%d values stay", n)
		}
	})
}

// A fetch that requests have waited for since long before its turn looks into the storage all
// the same.
func TestFetchThatWasQueuedLooksIntoTheStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet := newFleet(t, storagetest.NewMemory(), 2, plain)
		fleet[0].mustGet()
		synctest.Wait()
		wanted := make(chan time.Time, 1)
		wanted <- time.Now().Add(-5 * time.Second)
		late := fleet[1]
		turn := late.sharing.newTurn(late.recordKey(t), tokencache.Task{Wanted: wanted})
		found := turn.await(t.Context())
		if found == nil || found.Value != "token-1" || turn.held != nil {
			t.Errorf("found %+v", found)
		}
	})
}
