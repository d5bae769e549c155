package scenarios

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

const (
	fleetSize = 8

	// fleetPause is the time between two requests of a client, on average.
	fleetPause = 120 * time.Millisecond

	// fleetLifetime is that of tokens which are renewed ahead: from fleetAhead on, and a
	// good while before they expire.
	fleetLifetime  = 16 * time.Second
	fleetAhead     = fleetLifetime * 18 / 100 // nine tenths, less six tenths and a fifth of that
	fleetAheadTime = "refresh_ahead 60%"
)

// budget counts the token requests from now on.
type budget struct {
	f     *fleetOfProcesses
	asked int
	began time.Time
}

func (f *fleetOfProcesses) budget() budget { return budget{f, f.asked(), time.Now()} }

// renewals is how many renewals ahead there was time for.
func (b budget) renewals() int { return int(time.Since(b.began) / fleetAhead) }

// want checks how many token requests there were.
func (b budget) want(what string, least, most int) {
	b.f.t.Helper()
	got := b.f.asked() - b.asked
	b.f.t.Logf("%s: %d token requests, %v", what, got, time.Since(b.began).Round(time.Millisecond))
	if got < least || got > most {
		b.f.t.Errorf("%s: %d token requests, want %d to %d", what, got, least, most)
	}
}

func TestScenarioFleetSharesTokens(t *testing.T) {
	gatewaytest.Parallel(t)
	isBusy(t)
	f := newFleetOfProcesses(t, fleetSize, t.TempDir(), "storage", fleetAheadTime)
	f.grantFor(fleetLifetime)
	all := f.budget()
	f.startAll()
	stop := f.load(fleetPause)
	f.allServe(1)

	renewals := int(gatewaytest.Lasting(3, 15))
	f.await("tokens are renewed", func() bool { return f.newest() > renewals })
	f.check(1)

	// One gateway has a new token already, which is revoked with all before it. None of its
	// requests is on its way with an older one, but others still use that.
	f.await("a token is used besides an older one", func() bool {
		newest := f.newest()
		old := 0
		for _, m := range f.members {
			if !m.serves(newest) {
				old++
			}
		}
		return old > 0 && f.member(f.holder(newest)).serves(newest)
	})
	f.grantFor(time.Hour)
	renewed := all.asked + f.newest() // one request for each
	f.revokeAll()
	all.want("lifetimes", 1+renewals, 1+all.renewals())
	if f.asked() != renewed {
		t.Errorf("%d token requests for %d tokens", f.asked(), renewed)
	}
	revoked := f.budget()
	f.allServe(1)
	revoked.want("revocation of two tokens", 1, 1)

	gatewaytest.Pass(forcedSpacing) // who has just replaced a rejected token leaves the endpoint alone for so long
	revoked = f.budget()
	f.revokeAll()
	f.allServe(1)
	revoked.want("revocation", 1, 1)

	// Whoever starts finds the token.
	restarted := f.budget()
	f.stopAll()
	f.startAll()
	f.allServe(1)
	restarted.want("restart of all", 0, 0)
	stop()
	f.check(1)
}

// Some servers have one token for each client: that it is renewed is its end, before the
// others know the next.
func TestScenarioFleetWithOneTokenAtATime(t *testing.T) {
	gatewaytest.Parallel(t)
	isBusy(t)
	f := newFleetOfProcesses(t, fleetSize, t.TempDir(), "storage", fleetAheadTime)
	f.grantFor(fleetLifetime)
	f.single = true
	all := f.budget()
	f.startAll()
	stop := f.load(fleetPause)
	f.allServe(1)
	renewals := int(gatewaytest.Lasting(3, 15))
	f.await("tokens are renewed", func() bool { return f.newest() > renewals })
	f.allServe(1)
	stop()
	all.want("lifetimes", 1+renewals, 1+all.renewals())
	f.check(1)
}

func TestScenarioFleetOutlivesItsGateways(t *testing.T) {
	gatewaytest.Parallel(t)
	isBusy(t)
	f := newFleetOfProcesses(t, fleetSize, t.TempDir(), "storage", fleetAheadTime)
	f.grantFor(fleetLifetime)
	f.startAll()
	stop := f.load(fleetPause)
	f.allServe(1)
	for range int(gatewaytest.Lasting(1, 5)) {
		// One dies while it renews a token that can still be used, so nobody waits.
		waited, renewed := f.waited.Load(), f.budget()
		dead := f.killNextToAsk(func() {})
		f.grantFor(time.Hour)
		f.allServe(f.newest() + 1)
		if n := f.waited.Load() - waited; n > 0 {
			t.Errorf("%d requests waited for a token while there was one", n)
		}
		renewed.want("kill during a renewal", 2, 2)
		f.check(1)
		f.restart(dead)

		// Another dies while everyone waits for it to replace a rejected token. That has a
		// lock of its own: that of the first to die would be in the way for ten seconds, and
		// longer if a process lives that had it just before.
		revoked := f.budget()
		dead = f.killNextToAsk(f.revokeAll)
		f.allServe(1)
		revoked.want("kill while all wait", 2, 2)
		f.check(1)
		f.restart(dead)

		gatewaytest.Pass(forcedSpacing)
		f.grantFor(fleetLifetime)
		revoked = f.budget()
		f.revokeAll()
		f.allServe(1)
		revoked.want("revocation after that", 1, 1)
		f.check(1)
	}
	stop()
	f.check(1)
}

// killNextToAsk kills the gateway that sends the next token request after cause, while it
// waits for the answer and holds the lock.
func (f *fleetOfProcesses) killNextToAsk(cause func()) *fleetMember {
	f.t.Helper()
	asks := f.holdNext()
	cause()
	var name string
	f.await("a gateway asks for a token", func() bool {
		select {
		case name = <-asks:
		default:
		}
		return name != ""
	})
	m := f.member(name)
	m.kill()
	return m
}

// restart starts a gateway again, which then finds the token.
func (f *fleetOfProcesses) restart(m *fleetMember) {
	f.t.Helper()
	back := f.budget()
	if err := m.start(); err != nil {
		f.t.Fatalf("gateway %s: %v\n%s", m.name, err, m.logs.All())
	}
	f.allServe(1)
	back.want("restart of one", 0, 0)
}

func TestScenarioFleetWithFlakyStorage(t *testing.T) {
	gatewaytest.Parallel(t)
	isBusy(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	storage := fmt.Sprintf("storage oauth_cc_test_flaky %s %d{name}", t.TempDir(), seed%1e6)
	f := newFleetOfProcesses(t, fleetSize, t.TempDir(), storage, fleetAheadTime)
	f.grantFor(fleetLifetime)
	all := f.budget()
	f.startAll()
	stop := f.load(fleetPause)
	f.allServe(1)
	revocations := int(gatewaytest.Lasting(3, 20))
	for range revocations {
		gatewaytest.Pass(max(forcedSpacing, fleetLifetime/3))
		f.revokeAll()
		f.allServe(1)
		f.check(fleetSize)
	}
	stop()
	f.check(fleetSize)
	// Each gateway asks as often as it would alone, and no more.
	all.want("all", 1+revocations, fleetSize*(1+revocations+all.renewals()))
}

// TestScenarioFleetLosesItsStorage breaks a storage in ways that bind root as well.
func TestScenarioFleetLosesItsStorage(t *testing.T) {
	gatewaytest.Parallel(t)
	parent := t.TempDir()
	folder, whole, other := filepath.Join(parent, "storage"), filepath.Join(parent, "whole"), filepath.Join(parent, "other")
	for _, name := range []string{whole, other} {
		if err := os.Mkdir(name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	replaceWithLink(t, folder, whole)
	const size = 4
	f := newFleetOfProcesses(t, size, folder, "storage", fleetAheadTime)
	f.grantFor(fleetLifetime / 2)
	f.startAll()
	stop := f.load(fleetPause)
	f.allServe(1)
	f.check(1)
	f.wantFailing(0, false)

	// Nothing can be read, so each gets its own tokens, and a second one.
	servertest.WriteFile(t, folder, "not a folder")
	f.await("each gateway renews its tokens", func() bool {
		return f.each(func(m *fleetMember) bool { return len(m.logs.With("token obtained")) > 2 })
	})
	f.wantFailing(1, true)
	f.check(size)

	replaceWithLink(t, folder, whole)
	f.grantFor(time.Hour)
	f.await("each gateway notices that the storage works", func() bool {
		return f.each(func(m *fleetMember) bool { return m.told("the storage works again") > 0 })
	})
	mended := f.budget()
	f.revokeAll()
	f.allServe(1)
	// Each may think that its own token is the newest. Or one was being granted, and is not revoked.
	mended.want("revocation when it is mended", 0, size)
	revoke := func(what string, asked int) {
		t.Helper()
		gatewaytest.Pass(forcedSpacing)
		revoked := f.budget()
		f.revokeAll()
		f.allServe(1)
		revoked.want(what, asked, asked)
	}
	revoke("revocation after that", 1)

	// All is lost, which is as if it had never been there.
	replaceWithLink(t, folder, other)
	revoke("revocation with an empty storage", 1)
	f.wantFailing(1, false)

	// Nothing can be written.
	replaceWithLink(t, folder, filepath.Join(parent, "nowhere"))
	revoke("revocation with a storage that can't be written", size)
	f.wantFailing(2, true)

	replaceWithLink(t, folder, other)
	revoke("revocation when that is mended", 1)
	stop()
	f.wantFailing(2, false)
	f.check(size)
}

// wantFailing checks what each gateway has told of the storage: that it fails, once each time
// it did and so often at the most, and that it works again, once after that.
func (f *fleetOfProcesses) wantFailing(times int, now bool) {
	f.t.Helper()
	for _, m := range f.members {
		fails := m.told("the storage fails; tokens are not shared with other gateways until it works again")
		works := m.told("the storage works again")
		least := works
		if now {
			least++
		}
		if fails < least || fails > min(times, works+1) {
			f.t.Errorf("gateway %s told %d times that the storage fails, and %d times that it works", m.name, fails, works)
		}
	}
}

// replaceWithLink makes the name one for another folder, in one step.
func replaceWithLink(t *testing.T, name, to string) {
	t.Helper()
	if err := os.Symlink(to, name+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}
