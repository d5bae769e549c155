package oauthcc

import (
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
)

func init() {
	caddy.RegisterModule(new(redisStandIn))
}

// redisStandIn takes the options of the Redis module that the example uses, and keeps
// everything in memory.
type redisStandIn struct {
	Address   []string `json:"address,omitempty"`
	Password  string   `json:"password,omitempty"`
	KeyPrefix string   `json:"key_prefix,omitempty"`
}

// standInsByPrefix are the storages, which outlive configurations.
var standInsByPrefix sync.Map

func (*redisStandIn) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.redis", New: func() caddy.Module { return new(redisStandIn) }}
}

func (s *redisStandIn) CertMagicStorage() (certmagic.Storage, error) {
	storage, _ := standInsByPrefix.LoadOrStore(s.KeyPrefix, newMemoryStorage())
	return storage.(*memoryStorage), nil
}

func (s *redisStandIn) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	for d.NextBlock(0) {
		option := d.Val()
		if !d.NextArg() {
			return d.ArgErr()
		}
		switch option {
		case "address":
			s.Address = []string{d.Val()}
		case "password":
			s.Password = d.Val()
		case "key_prefix":
			s.KeyPrefix = d.Val()
		default:
			return d.Errf("unknown option %s", option)
		}
	}
	return nil
}

// testFleetExample runs a gateway, and another one after it, which has nothing but the
// storage.
func testFleetExample(t *testing.T, name string, env map[string]string, stored func()) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	grantOnlyTo(endpoint, "gateway", "a-secret")
	env["TOKEN_ENDPOINT"], env["CLIENT_SECRET"], env["API"] = endpoint.URL, "a-secret", upstream.URL
	run := exampleRun{env: env}
	for range 2 {
		g := startExample(t, name, run)
		if a := g.get("/"); a.status != 200 || a.body != "GET / with token-1" {
			t.Errorf("got %d %q", a.status, a.body)
		}
		stored()
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if n := endpoint.count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

func testFleet(t *testing.T) {
	root := t.TempDir()
	testFleetExample(t, "fleet", map[string]string{"STORAGE": root}, func() { awaitRecords(t, root, 1) })
}

func testFleetRedis(t *testing.T) {
	storage := newMemoryStorage()
	standInsByPrefix.Store("gateways", storage)
	testFleetExample(t, "fleet-redis", map[string]string{"REDIS_PASSWORD": "a-password"}, func() {
		awaitCondition(t, "the token is stored", func() bool { return storage.count("unlock") == 1 && storage.count("list") == 1 })
	})
}
