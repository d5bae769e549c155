package oauthcc

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
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
func startSlowly(t *testing.T, options, site string) (g *gateway, finish func()) {
	t.Helper()
	g = startGateway(t, "")
	stopCaddy(t)
	slowStart = make(chan struct{})
	start := sync.OnceFunc(func() { close(slowStart) })
	t.Cleanup(start) // or Caddy could not be stopped
	config, err := adapt("{\n" + options + "\nauto_https off\npersist_config off\ndefault_bind 127.0.0.1\n}\nhttp://" + g.addr + " {\n" + site + "\n}\n")
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
	h := provisionedConfig(t, configWithClient("client_id app", "client_secret x"))
	h.events, h.eventQueue = new(caddyevents.App), newEventQueue()
	if err := h.events.Provision(h.ctx); err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 2)
	h.emit(eventFailed, func() map[string]any { return nil }) // a request came early
	if err := h.events.On(eventFailed, toldOf(told)); err != nil {
		t.Fatal(err)
	}
	go h.tellEvents() // now it runs
	select {
	case name := <-told:
		if name != eventFailed {
			t.Errorf("told of %s", name)
		}
	case <-time.After(patience):
		t.Error("told of nothing")
	}
}

// toldOf is a handler of events.
type toldOf chan<- string

func (c toldOf) Handle(_ context.Context, event caddy.Event) error {
	c <- event.Name()
	return nil
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
