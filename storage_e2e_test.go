package oauthcc

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// stored reads all files below a folder.
func stored(t *testing.T, root string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		files[path] = string(content)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return files
}

// awaitRecords waits until so many tokens are in the storage, and nothing is being written.
func awaitRecords(t *testing.T, root string, want int) {
	t.Helper()
	awaitCondition(t, "the tokens are stored", func() bool {
		files := stored(t, root)
		return files[filepath.Join(root, sweepMark)] != "" && len(files) == want+1 // and no lock
	})
}

func TestStorageModuleOfTheOption(t *testing.T) {
	endpoint, upstream, root := startTokenServer(t), startAPI(t), t.TempDir()
	site := endpoint.options("storage file_system "+root) + upstream.proxy()
	g := startGateway(t, site)
	if a := g.get("/"); a.body != "GET / with token-1" {
		t.Fatalf("got %+v", a)
	}
	awaitRecords(t, root, 1)
	for path, content := range stored(t, root) {
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
	g.reload(site)
	if a := g.get("/"); a.body != "GET / with token-1" {
		t.Errorf("got %+v", a)
	}
	if n := endpoint.count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	if len(g.logs.with("token found in the storage")) != 1 {
		t.Error("the log does not say where the token comes from")
	}

	// A revoked token is replaced in the storage as well.
	upstream.revoke("token-1")
	if a := g.get("/"); a.body != "GET / with token-2" {
		t.Errorf("got %+v", a)
	}
	awaitRecords(t, root, 1)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	g.reload(site)
	if a := g.get("/"); a.body != "GET / with token-2" || endpoint.count() != 2 {
		t.Errorf("got %+v after %d token requests", a, endpoint.count())
	}
}

// Without a module it is the storage that Caddy keeps its certificates in.
func TestStorageOfCaddy(t *testing.T) {
	endpoint, upstream, root := startTokenServer(t), startAPI(t), t.TempDir()
	site := endpoint.options("storage") + upstream.proxy()
	g := &gateway{t: t, addr: freeAddr(t), logs: new(logLines)}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	for range 2 {
		config, err := adapt("{\nadmin off\nauto_https off\npersist_config off\ndefault_bind 127.0.0.1\nstorage file_system " + root + "\n}\nhttp://" + g.addr + " {\n" + site + "}\n")
		if err != nil {
			t.Fatal(err)
		}
		if err := caddy.Load(config, true); err != nil {
			t.Fatal(err)
		}
		if a := g.get("/"); a.body != "GET / with token-1" {
			t.Errorf("got %+v", a)
		}
		awaitRecords(t, root, 1)
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if n := endpoint.count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

// Each tenant's token is shared under the tenant's own credential.
func TestStorageOfManyTenants(t *testing.T) {
	endpoint, upstream, root := startTokenServer(t), startAPI(t), t.TempDir()
	site := `oauth_cc ` + endpoint.URL + ` {
		client_id {http.request.header.X-Tenant}
		client_secret secret-of-{http.request.header.X-Tenant}
		storage file_system ` + root + "\n}\n" + upstream.proxy()
	g := startGateway(t, site)
	tokens := make(map[string]string)
	for range 2 {
		for _, tenant := range []string{"one", "two"} {
			a := g.do(tenantRequest(t, g, tenant))
			if tokens[tenant] == "" {
				tokens[tenant] = a.body
			}
			if a.status != 200 || a.body != tokens[tenant] {
				t.Errorf("%s got %+v, want %q", tenant, a, tokens[tenant])
			}
		}
		awaitRecords(t, root, 2)
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
		g.reload(site)
	}
	if n := endpoint.count(); n != 2 || tokens["one"] == tokens["two"] {
		t.Errorf("%d token requests for %v, want 2", n, tokens)
	}
}

func tenantRequest(t *testing.T, g *gateway, tenant string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, g.url("/"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Tenant", tenant)
	return req
}
