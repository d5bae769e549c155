package oauthcc

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
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

// startSlowly loads a configuration whose site is served before it runs. It returns what lets
// that happen, and waits for it.
func startSlowly(t *testing.T, options, site string) (g *gateway, finish func()) {
	t.Helper()
	stopCaddy(t)
	g = startGateway(t, "")
	stopCaddy(t)
	slowStart = make(chan struct{})
	config, err := adapt("{\n" + options + "\nauto_https off\npersist_config off\ndefault_bind 127.0.0.1\n}\nhttp://" + g.addr + " {\n" + site + "\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	config = []byte(strings.Replace(string(config), `"apps":{`, `"apps":{"oauth_cc_slow_test":{},`, 1))
	loaded := make(chan error)
	go func() { loaded <- caddy.Load(config, true) }()
	return g, func() {
		t.Helper()
		close(slowStart)
		if err := <-loaded; err != nil {
			t.Error(err)
		}
	}
}

func (g *gateway) answers(url string) bool {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	_, err = exchangeWith(testClient, req)
	return err == nil
}

// The admin endpoint is there before anything else.
func TestAdminIsNotReadyBeforeTheConfigurationRuns(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	admin := freeAddr(t)
	g, finish := startSlowly(t, "admin "+admin, endpoint.options("prefetch")+upstream.proxy())
	g.admin = admin
	t.Cleanup(func() {
		g.admin = ""
		g.reload("")
	})
	ready := "http://" + admin + "/oauth_cc/ready"
	awaitCondition(t, "the admin endpoint answers", func() bool { return g.answers(ready) })
	for range 3 {
		if a := g.ask(http.MethodGet, "ready"); a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, `"starting":true`) {
			t.Errorf("before it runs: %d %s", a.status, a.body)
		}
	}
	finish()
	awaitCondition(t, "it is ready", func() bool { return g.ask(http.MethodGet, "ready").status == http.StatusOK })
}

// What fails while a configuration starts is not tried again for some time.
func TestEventsOfAStartAreKept(t *testing.T) {
	endpoint, upstream := startTokenServer(t), startAPI(t)
	endpoint.setAnswer(refuseClients)
	seenEvents.mu.Lock()
	seenEvents.events, seenEvents.hold = nil, nil
	seenEvents.mu.Unlock()
	g, finish := startSlowly(t, "admin off\nevents {\non oauth_cc.token_failed oauth_cc_test\n}", endpoint.options()+upstream.proxy())
	awaitCondition(t, "the endpoint is asked", func() bool { return g.answers(g.url("/")) && endpoint.count() > 0 })
	finish()
	if event := awaitEvents(t, eventFailed, 1)[0]; event.Data["error"] != "invalid_client" {
		t.Errorf("data %v", event.Data)
	}
}

// A Caddy that waits to be given a configuration has nothing to send traffic to.
func TestAdminIsNotReadyWithoutSites(t *testing.T) {
	g := startGatewayWithAdmin(t, "")
	config := `{"admin":{"listen":"` + g.admin + `","config":{"persist":false}}}`
	if err := caddy.Load([]byte(config), true); err != nil {
		t.Fatal(err)
	}
	if a := g.ask(http.MethodGet, "ready"); a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, `"starting":true`) {
		t.Errorf("%d %s", a.status, a.body)
	}
}
