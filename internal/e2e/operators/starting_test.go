package operators

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// slowApp is an app of Caddy's that does not start before the test lets it.
type slowApp struct{}

var slowStart chan struct{}

func init() {
	caddy.RegisterModule(slowApp{})
}

func (slowApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "oauth_cc_slow_test", New: func() caddy.Module { return new(slowApp) }}
}

func (slowApp) Start() error {
	<-slowStart
	return nil
}

func (slowApp) Stop() error { return nil }

// startSlowly loads a configuration that does not run yet. It returns what lets that happen,
// and waits for it. Whether its site is served before is up to chance.
func startSlowly(t *testing.T, options, site string) (g *gatewaytest.Gateway, finish func()) {
	t.Helper()
	g = gatewaytest.Start(t, "")
	gatewaytest.Stop(t)
	slowStart = make(chan struct{})
	start := sync.OnceFunc(func() { close(slowStart) })
	t.Cleanup(start) // or Caddy could not be stopped
	config, err := gatewaytest.Adapt("{\n" + options + "\nauto_https off\npersist_config off\ndefault_bind 127.0.0.1\n}\nhttp://" + g.Addr + " {\n" + site + "\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	config = []byte(strings.Replace(string(config), `"apps":{`, `"apps":{"oauth_cc_slow_test":{},`, 1))
	loaded := make(chan error, 1)
	go func() { loaded <- caddy.Load(config, true) }()
	return g, func() {
		t.Helper()
		start()
		if err := <-loaded; err != nil {
			t.Error(err)
		}
	}
}

func answers(url string) bool {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	_, err = gatewaytest.Exchange(gatewaytest.Client, req)
	return err == nil
}

// The admin endpoint is there before anything else.
func TestAdminIsNotReadyBeforeTheConfigurationRuns(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	admin := gatewaytest.FreeAddr(t)
	g, finish := startSlowly(t, "admin "+admin, endpoint.Options("prefetch")+upstream.Proxy())
	g.Admin = admin
	t.Cleanup(func() {
		g.Admin = ""
		g.Reload("")
	})
	ready := "http://" + admin + "/oauth_cc/ready"
	gatewaytest.Await(t, "the admin endpoint answers", func() bool { return answers(ready) })
	for range 3 {
		if a := g.Ask(http.MethodGet, "ready"); a.Status != http.StatusServiceUnavailable || !strings.Contains(a.Body, `"starting":true`) {
			t.Errorf("before it runs: %d %s", a.Status, a.Body)
		}
	}
	finish()
	gatewaytest.Await(t, "it is ready", func() bool { return g.Ask(http.MethodGet, "ready").Status == http.StatusOK })
}

// A Caddy that waits to be given a configuration has nothing to send traffic to.
func TestAdminIsNotReadyWithoutSites(t *testing.T) {
	g := gatewaytest.StartWithAdmin(t, "")
	config := `{"admin":{"listen":"` + g.Admin + `","config":{"persist":false}}}`
	if err := caddy.Load([]byte(config), true); err != nil {
		t.Fatal(err)
	}
	if a := g.Ask(http.MethodGet, "ready"); a.Status != http.StatusServiceUnavailable || !strings.Contains(a.Body, `"starting":true`) {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}
