package tokencache

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// upstream is one that closes some of its paths to everybody, and accepts one token.
type upstream struct {
	g *Grant
	s *fetchStub

	revoked  atomic.Uint64 // tokens up to this generation are not accepted
	closed   func(Subject) bool
	takes    time.Duration
	exempt   func() bool  // nil, or whether the request needs no token
	rejected atomic.Int64 // requests whose client got the rejection
}

// send is a request as a handler sends it: with a replay if there is another token.
func (u *upstream) send(t *testing.T, subject Subject) (accepted bool) {
	t.Helper()
	token, sent := mustGetToken(t, u.g, u.s), time.Now()
	accepts := func(token *Token) bool {
		time.Sleep(u.takes)
		return token.Generation > u.revoked.Load() && !u.closed(subject) || u.exempt != nil && u.exempt()
	}
	if accepts(token) {
		u.g.NoteAccepted(token, sent, func() Subject { return subject })
		return true
	}
	renewed, err := u.g.RenewRejected(t.Context(), Rejection{Token: token, Subject: subject}, u.s)
	switch {
	case err != nil:
	case accepts(renewed):
		u.g.NoteCured()
		u.g.NoteAccepted(renewed, sent, func() Subject { return subject })
		return true
	default:
		u.g.NoteUncured(Rejection{Token: renewed, Subject: subject})
	}
	u.rejected.Add(1)
	return false
}

func newUpstream(t *testing.T) *upstream {
	return &upstream{g: newTestGrant(t), s: &fetchStub{lifetime: 24 * time.Hour}, closed: func(s Subject) bool { return s >= 100 }}
}

// One client that asks for what nobody may have is no reason for token requests, and keeps nobody from
// a cure.
func TestClosedPathIsNotTheTokensFault(t *testing.T) {
	for name, test := range map[string]struct {
		subject func(n int) Subject // of the closed request
		every   int                 // open ones after each
		rarely  int                 // or after so many of them; 0 for each
		most    int64               // token requests in ten minutes
	}{
		"the same path":                 {func(int) Subject { return 100 }, 3, 0, 3},
		"the same path, one in between": {func(int) Subject { return 100 }, 1, 0, 3},
		"the same path, few others":     {func(int) Subject { return 100 }, 1, 30, 15},
		"the same path, no others":      {func(int) Subject { return 100 }, 0, 0, 15},
		"some paths":                    {func(n int) Subject { return Subject(100 + n%10) }, 3, 0, 3},
		"always another":                {func(n int) Subject { return Subject(100 + n) }, 3, 0, 3},
		"the same path as others":       {func(int) Subject { return 1 }, 3, 0, 15},
		"requests that can't be told":   {func(int) Subject { return 0 }, 3, 0, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := newUpstream(t)
				closed := u.closed
				closedNow := false
				u.closed = func(s Subject) bool { return closedNow || closed(s) }
				n := 0
				load := func(d time.Duration) {
					for end := time.Now().Add(d); time.Now().Before(end); n++ {
						closedNow = true
						u.send(t, test.subject(n))
						closedNow = false
						time.Sleep(100 * time.Millisecond)
						if n%max(1, test.rarely) != 0 {
							continue
						}
						for i := range test.every {
							u.send(t, Subject(i+1))
							time.Sleep(10 * time.Millisecond)
						}
					}
				}
				load(10 * time.Minute)
				if got := u.s.calls.Load(); got > test.most {
					t.Errorf("%d token requests", got)
				}
				if test.every == 0 {
					return
				}
				for range 10 {
					u.revoked.Store(u.g.newest.Generation)
					u.rejected.Store(0)
					lost := 0
					for i := range 5 {
						closedNow = true
						u.send(t, test.subject(n))
						closedNow = false
						if !u.send(t, Subject(i+1)) {
							lost++
						}
					}
					if lost > 0 {
						t.Errorf("%d requests got the rejection of a revoked token", lost)
					}
					load(20 * time.Second)
				}
			})
		})
	}
}

// The first rejection of a revoked token has it renewed at once, whatever closed paths have done.
func TestRevokedTokenIsRenewedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t)
		u.send(t, 1)
		for range 100 {
			u.send(t, 100)
			time.Sleep(100 * time.Millisecond)
			u.send(t, 1)
		}
		time.Sleep(forcedSpacing)
		u.send(t, 100)
		u.revoked.Store(u.g.newest.Generation)
		if !u.send(t, 1) {
			t.Error("the rejection passed")
		}
	})
}

// What was refused with two tokens may be allowed later.
func TestRefusedSubjectIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t)
		u.send(t, 1)
		u.send(t, 100)
		if !u.g.evidence.refused.has(100) {
			t.Fatal("it is not remembered")
		}
		u.closed = func(Subject) bool { return false }
		if !u.send(t, 100) || u.g.evidence.refused.has(100) {
			t.Error("it is remembered")
		}
		for s := range Subject(100) {
			u.g.evidence.refused.add(s)
		}
		if n := len(*u.g.evidence.refused.list.Load()); n != maxSubjects || !u.g.evidence.refused.has(99) || u.g.evidence.refused.has(0) {
			t.Errorf("%d are remembered", n)
		}
	})
}

// An answer to a request that was sent before the rejection says nothing of what came after.
func TestLateAcceptanceIsNoEvidence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t)
		u.send(t, 1)
		token, sent := mustGetToken(t, u.g, u.s), time.Now()
		time.Sleep(time.Second)
		u.g.mu.Lock()
		u.g.evidence.noteRejection(token, &Rejection{Subject: 1}, time.Now())
		u.g.mu.Unlock()
		u.g.NoteAccepted(token, sent, func() Subject { return 2 })
		if u.g.evidence.mixed || !u.g.evidence.doubted {
			t.Errorf("it counts: %+v", &u.g.evidence)
		}
		u.g.NoteAccepted(token, time.Now(), func() Subject { return 2 })
		if !u.g.evidence.mixed || u.g.evidence.doubted {
			t.Errorf("it does not count: %+v", &u.g.evidence)
		}
	})
}

// Nor do rare ones on paths that are always new keep others from a cure.
func TestRevokedTokenIsRenewedAmidRareRejections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t)
		lost := 0
		for n := range 200 {
			u.send(t, Subject(100+n))
			for range 7 {
				time.Sleep(time.Second)
				u.send(t, 1)
			}
			if n%10 == 9 {
				u.revoked.Store(u.g.newest.Generation)
				if !u.send(t, 1) {
					lost++
				}
			}
		}
		if lost > 0 {
			t.Errorf("%d requests got the rejection of a revoked token", lost)
		}
		// In 1400 s, one for each revocation, and one a minute.
		if n := u.s.calls.Load(); n > 20+1400/60+4 {
			t.Errorf("%d token requests", n)
		}
	})
}

// What needs no token is accepted with every token. So acceptances keep a revoked token in use for a while, and
// not for as long as it lives.
func TestAcceptancesHideARevocationForAWhile(t *testing.T) {
	const public, order, closed = 1, 2, 100
	for name, revoke := range map[string]func(t *testing.T, u *upstream){
		"a closed path was asked for": func(t *testing.T, u *upstream) {
			for i := range Subject(3) {
				u.send(t, closed+i)
				u.send(t, public)
			}
			u.revoked.Store(u.g.newest.Generation)
		},
		"the next token as well": func(_ *testing.T, u *upstream) { u.revoked.Store(u.g.newest.Generation + 1) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := newUpstream(t)
				needsNone := false
				u.exempt = func() bool { return needsNone }
				u.send(t, order)
				revoke(t, u)
				revokedAt := time.Now()
				for ; time.Since(revokedAt) < time.Hour; time.Sleep(100 * time.Millisecond) {
					needsNone = true
					u.send(t, public)
					needsNone = false
					if u.send(t, order) {
						break
					}
				}
				if after := time.Since(revokedAt); after > lastResort {
					t.Errorf("it was renewed after %v", after)
				}
			})
		})
	}
	// A path that is always closed causes a token request in each hour at the most.
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t)
		u.send(t, order)
		for start := time.Now(); time.Since(start) < 12*time.Hour; time.Sleep(time.Second) {
			u.send(t, closed)
			u.send(t, order)
		}
		u.s.wantCalls(t, 1+1+4+10) // 5, 15, 35, 75 min after the first, then each hour
	})
}

// When a renewal has cured, the next token is renewed for a closed path as soon as the first one was.
func TestCureShortensTheWaitForTheLastResort(t *testing.T) {
	const order, closed = 1, 100
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t)
		load := func(d time.Duration) (fetches int64) {
			before := u.s.calls.Load()
			for start := time.Now(); time.Since(start) < d; time.Sleep(time.Second) {
				u.send(t, closed)
				u.send(t, order)
			}
			return u.s.calls.Load() - before
		}
		u.send(t, order)
		load(4 * time.Hour)
		u.revoked.Store(u.g.newest.Generation)
		if !u.send(t, order) {
			t.Fatal("the rejection of a revoked token passed")
		}
		if n := load(lastResort + time.Minute); n != 1 {
			t.Errorf("%d token requests after a cure, want 1", n)
		}
	})
}

// Several requests for closed paths can be rejected before one that was sent after the first can be accepted.
func TestAcceptancesTakeTheirTime(t *testing.T) {
	for name, subject := range map[string]func(n int) Subject{
		"the same path":  func(int) Subject { return 100 },
		"always another": func(n int) Subject { return Subject(100 + n) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := newUpstream(t)
				u.takes = 300 * time.Millisecond
				var requests sync.WaitGroup
				for n := range 10 * 60 * 10 {
					requests.Go(func() { u.send(t, subject(n)) })
					requests.Go(func() { u.send(t, 1) })
					time.Sleep(100 * time.Millisecond)
				}
				requests.Wait()
				if n := u.s.calls.Load(); n > 3 {
					t.Errorf("%d token requests in ten minutes", n)
				}
				time.Sleep(forcedSpacing)
				u.revoked.Store(u.g.newest.Generation)
				rejected := u.rejected.Load()
				for range 20 {
					requests.Go(func() { u.send(t, 1) })
					time.Sleep(100 * time.Millisecond)
				}
				requests.Wait()
				if n := u.rejected.Load() - rejected; n > 6 { // in 0.6 s
					t.Errorf("%d requests got the rejection of a revoked token", n)
				}
			})
		})
	}
}
