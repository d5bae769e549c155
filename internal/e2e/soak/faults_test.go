package soak

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/storagetest"
)

// fault is something that goes wrong for a while.
type fault struct {
	kind  string // "who: what"
	begin func() (end func())
}

// Lanes of faults. There is one of each lane at a time.
const (
	ofEndpoint = iota
	ofAPI
	ofOthers
	lanes
)

// faults are all there are, by lane.
func (s *soak) faults() [lanes][]fault {
	endpoint := func(kind string) fault {
		return fault{"endpoint: " + kind, func() func() { return s.endpoint.begins(kind) }}
	}
	return [lanes][]fault{
		ofEndpoint: {
			{"endpoint: refused", func() func() {
				s.refuse()
				return func() { s.refuse = s.endpoint.listen() }
			}},
			endpoint("reset"), endpoint("503"), endpoint("429"), endpoint("hang"), endpoint("drip"), endpoint("garbage"),
		},
		ofAPI: {
			{"API: revokes all tokens", func() func() {
				s.endpoint.revokeAll()
				return func() {}
			}},
			{"API: rejects a tenant", func() func() {
				s.api.rejects("tenants/" + tenants[0])
				return func() { s.api.rejects("") }
			}},
			{"API: takes new tokens late", func() func() {
				s.endpoint.takesLate(700 * time.Millisecond)
				return func() { s.endpoint.takesLate(0) }
			}},
			{"API: breaks answers off", func() func() {
				s.api.breaksOff(true)
				return func() { s.api.breaksOff(false) }
			}},
		},
		ofOthers: {
			{"clients: leave", func() func() {
				s.leaving.Store(true)
				return func() { s.leaving.Store(false) }
			}},
			{"storage: fails", func() func() {
				s.storage.Becomes(storagetest.Every(errors.New("the storage is broken")), nil)
				return func() { s.storage.Becomes(nil, nil) }
			}},
			{"storage: hangs", func() func() {
				over := make(chan struct{})
				s.storage.Becomes(func(string) error {
					<-over // whatever its context says
					return errors.New("the storage has hung")
				}, nil)
				return func() {
					s.storage.Becomes(nil, nil)
					close(over)
				}
			}},
			{"operator: rotates the secret", func() func() {
				s.reloading.Lock()
				defer s.reloading.Unlock()
				before := s.secret
				s.rotated++
				s.secret = fmt.Sprintf("s3cret-canary-%d", s.rotated)
				s.endpoint.takes(before, s.secret)
				servertest.WriteFile(s.t, s.secretFile, s.secret)
				s.endpoint.takes(s.secret)
				return func() {}
			}},
		},
	}
}

// play has the faults of a lane happen until stop is closed, with pauses between them. With once, each of a list
// happens, for a short time.
func (s *soak) play(lane int, random *rand.Rand, once []fault, stop <-chan struct{}) {
	pass := func(d time.Duration) (goOn bool) {
		select {
		case <-time.After(d):
			return true
		case <-stop:
			return false
		}
	}
	happen := func(f fault, takes time.Duration) (goOn bool) {
		over := s.incidents.begin(f.kind)
		end := f.begin()
		goOn = pass(takes)
		end()
		over()
		return goOn
	}
	if once != nil {
		for _, f := range once {
			happen(f, 300*time.Millisecond)
			pass(100 * time.Millisecond)
		}
		return
	}
	faults := s.faults()[lane]
	between := func(least, most time.Duration) time.Duration { return least + upTo(most-least, random) }
	for pass(between(time.Second, 6*time.Second)) {
		if !happen(faults[random.IntN(len(faults))], between(500*time.Millisecond, 5*time.Second)) {
			return
		}
	}
}

func upTo(most time.Duration, random *rand.Rand) time.Duration {
	return time.Duration(random.Int64N(int64(most)))
}

// incidents is the log of what went wrong, and of reloads.
type incidents struct {
	mu    sync.Mutex
	log   []*incident
	count map[string]int
}

type incident struct {
	kind       string
	began, end time.Time // end is zero while it lasts
}

func (i *incidents) begin(kind string) (end func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	entry := &incident{kind: kind, began: time.Now()}
	i.log = append(i.log, entry)
	i.count[kind]++
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		entry.end = time.Now()
	}
}

// between lists what went wrong in that time, or had ended by less than grace before.
func (i *incidents) between(from, to time.Time, grace time.Duration) (found []incident) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, entry := range i.log {
		if entry.began.Before(to) && (entry.end.IsZero() || entry.end.Add(grace).After(from)) {
			found = append(found, *entry)
		}
	}
	return found
}

// forget forgets what ended before then.
func (i *incidents) forget(then time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.log = slices.DeleteFunc(i.log, func(entry *incident) bool { return !entry.end.IsZero() && entry.end.Before(then) })
}

// sharedStorage is the storage of the configuration.
type sharedStorage struct{}

var theStorage *storagetest.Memory

func (*sharedStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.oauth_cc_test_soak", New: func() caddy.Module { return new(sharedStorage) }}
}

func (*sharedStorage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (*sharedStorage) CertMagicStorage() (certmagic.Storage, error) { return theStorage, nil }

// writeSecret puts the first secret into the file.
func (s *soak) writeSecret(t testing.TB) {
	s.secret, s.secretFile = "s3cret-canary-0", filepath.Join(t.TempDir(), "secret")
	servertest.WriteFile(t, s.secretFile, s.secret)
	s.endpoint.takes(s.secret)
}

// Interface guards
var (
	_ caddy.StorageConverter = (*sharedStorage)(nil)
	_ caddyfile.Unmarshaler  = (*sharedStorage)(nil)
)
