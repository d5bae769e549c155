package providers

import (
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/storagetest"
)

// testFleetExample runs a gateway, and another one after it, which has nothing but the
// storage.
func testFleetExample(t *testing.T, name string, env map[string]string, stored func()) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	grantOnlyTo(endpoint, "gateway", "a-secret")
	env["TOKEN_ENDPOINT"], env["CLIENT_SECRET"], env["API"] = endpoint.URL, "a-secret", upstream.URL
	run := exampleRun{env: env}
	for range 2 {
		g := startExample(t, name, run)
		if a := g.Get("/"); a.Status != 200 || a.Body != "GET / with token-1" {
			t.Errorf("got %d %q", a.Status, a.Body)
		}
		stored()
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if n := endpoint.Count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

func testFleet(t *testing.T) {
	root := t.TempDir()
	testFleetExample(t, "fleet", map[string]string{"STORAGE": root}, func() { gatewaytest.AwaitRecords(t, root, 1) })
}

func testFleetRedis(t *testing.T) {
	address, storage := gatewaytest.FreeAddr(t), storagetest.NewMemory()
	standInsByPrefix.Store("gateways", storage)
	startRedis(t, address)
	testFleetExample(t, "fleet-redis", map[string]string{"REDIS_ADDRESS": address, "REDIS_PASSWORD": "a-password"}, func() { awaitStored(t, storage) })
}

func awaitStored(t *testing.T, storage *storagetest.Memory) {
	t.Helper()
	gatewaytest.Await(t, "the token is stored", func() bool { return storage.Count("unlock") == 1 && storage.Count("list") == 1 })
}

// The comment of the example tells of options that are not in it.
func TestRedisExampleNamesOptionsOfItsModule(t *testing.T) {
	named := 0
	for line := range strings.Lines(readExample(t, "fleet-redis")) {
		comment, ok := strings.CutPrefix(line, "#")
		if !ok {
			continue
		}
		for _, option := range regexp.MustCompile(`\b[a-z]+(_[a-z]+)+\b`).FindAllString(comment, -1) {
			if named++; adaptRedis("{\n"+option+" true\n}") != nil {
				t.Errorf("the module has no option %s", option)
			}
		}
	}
	if named == 0 {
		t.Error("the example names no options")
	}
}

func TestRedisExampleDoesNotLoadWithoutRedis(t *testing.T) {
	p := gatewaytest.CaddyProcess(t, "validate", "--config", "Caddyfile")
	address := gatewaytest.FreeAddr(t)
	p.Env = append(p.Env, "GATEWAY_ADDRESS="+gatewaytest.FreeAddr(t), "CLIENT_SECRET=a-secret", "REDIS_ADDRESS="+address)
	servertest.WriteFile(t, filepath.Join(p.Home, "Caddyfile"), readExample(t, "fleet-redis"))
	p.RunTo(t, 1)
	if log := p.Errors.String(); !strings.Contains(log, "storage: loading module 'redis'") || !strings.Contains(log, address) {
		t.Errorf("the error does not name Redis: %s", log)
	}
}

func TestRedisExampleGoesOnWhenAReloadFailsWithoutRedis(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	address, storage := gatewaytest.FreeAddr(t), storagetest.NewMemory()
	standInsByPrefix.Store("gateways", storage)
	run := exampleRun{env: map[string]string{
		"TOKEN_ENDPOINT": endpoint.URL, "CLIENT_SECRET": "a-secret", "API": upstream.URL, "REDIS_ADDRESS": address,
	}}
	stop := startRedis(t, address)
	g := startExample(t, "fleet-redis", run)
	wantToken := func(g *gatewaytest.Gateway, want string) {
		t.Helper()
		if a := g.Get("/"); a.Status != 200 || a.Body != "GET / with "+want {
			t.Errorf("got %d %q, want %s", a.Status, a.Body, want)
		}
	}
	wantToken(g, "token-1")
	awaitStored(t, storage)

	stop()
	storage.Becomes(storagetest.Every(errors.New("connection refused")), nil)
	if err := loadExample(t, "fleet-redis", run); err == nil || !strings.Contains(err.Error(), "storage: loading module 'redis'") {
		t.Errorf("the reload without Redis: %v", err)
	}
	wantToken(g, "token-1")
	upstream.Revoke("token-1")
	wantToken(g, "token-2")

	startRedis(t, address)
	storage.Becomes(nil, nil)
	if err := loadExample(t, "fleet-redis", run); err != nil {
		t.Errorf("the reload when Redis is back: %v", err)
	}
	wantToken(g, "token-2")
}
