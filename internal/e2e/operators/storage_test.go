package operators

import (
	"errors"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func TestStorageModuleOfTheOption(t *testing.T) {
	endpoint, upstream, root := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t), t.TempDir()
	site := endpoint.Options("storage file_system "+root) + upstream.Proxy()
	g := gatewaytest.Start(t, site)
	if a := g.Get("/"); a.Body != "GET / with token-1" {
		t.Fatalf("got %+v", a)
	}
	gatewaytest.AwaitRecords(t, root, 1)
	for path, content := range gatewaytest.Stored(t, root) {
		for _, secret := range []string{"token-1", "s3cret-canary", "app", strings.TrimPrefix(endpoint.URL, "http://")} {
			if strings.Contains(path+content, secret) {
				t.Errorf("%s has %q", path, secret)
			}
		}
	}

	// Another process would have nothing but the storage.
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	g.Reload(site)
	if a := g.Get("/"); a.Body != "GET / with token-1" {
		t.Errorf("got %+v", a)
	}
	if n := endpoint.Count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	if len(g.Logs.With("token found in the storage")) != 1 {
		t.Error("the log does not say where the token comes from")
	}

	// A revoked token is replaced in the storage as well.
	upstream.Revoke("token-1")
	if a := g.Get("/"); a.Body != "GET / with token-2" {
		t.Errorf("got %+v", a)
	}
	gatewaytest.AwaitRecords(t, root, 1)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	g.Reload(site)
	if a := g.Get("/"); a.Body != "GET / with token-2" || endpoint.Count() != 2 {
		t.Errorf("got %+v after %d token requests", a, endpoint.Count())
	}
}

// Without a module it is the storage that Caddy keeps its certificates in.
func TestStorageOfCaddy(t *testing.T) {
	endpoint, upstream, root := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t), t.TempDir()
	site := endpoint.Options("storage") + upstream.Proxy()
	g := &gatewaytest.Gateway{T: t, Addr: gatewaytest.FreeAddr(t), Logs: new(gatewaytest.Logs)}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	for range 2 {
		config, err := gatewaytest.Adapt("{\nadmin off\nauto_https off\npersist_config off\ndefault_bind 127.0.0.1\nstorage file_system " + root + "\n}\nhttp://" + g.Addr + " {\n" + site + "}\n")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(caddy.Load(config, true), gatewaytest.AwaitOldListeners(g.Addr)); err != nil {
			t.Fatal(err)
		}
		if a := g.Get("/"); a.Body != "GET / with token-1" {
			t.Errorf("got %+v", a)
		}
		gatewaytest.AwaitRecords(t, root, 1)
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if n := endpoint.Count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

// Each tenant's token is shared under the tenant's own credential.
func TestStorageOfManyTenants(t *testing.T) {
	endpoint, upstream, root := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t), t.TempDir()
	site := `oauth_cc ` + endpoint.URL + ` {
		client_id {http.request.header.X-Tenant}
		client_secret secret-of-{http.request.header.X-Tenant}
		storage file_system ` + root + "\n}\n" + upstream.Proxy()
	g := gatewaytest.Start(t, site)
	tokens := make(map[string]string)
	for range 2 {
		for _, tenant := range []string{"one", "two"} {
			a := g.Do(gatewaytest.TenantRequest(t, g, tenant))
			if tokens[tenant] == "" {
				tokens[tenant] = a.Body
			}
			if a.Status != 200 || a.Body != tokens[tenant] {
				t.Errorf("%s got %+v, want %q", tenant, a, tokens[tenant])
			}
		}
		gatewaytest.AwaitRecords(t, root, 2)
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
		g.Reload(site)
	}
	if n := endpoint.Count(); n != 2 || tokens["one"] == tokens["two"] {
		t.Errorf("%d token requests for %v, want 2", n, tokens)
	}
}
