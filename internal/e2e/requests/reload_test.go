package requests

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func TestReloadUnderLoadFailsNoRequest(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	handlers := endpoint.Options() + upstream.Proxy()
	g := gatewaytest.Start(t, gatewaytest.ReloadRoute("first", handlers))
	gatewaytest.MustProbe(t, g)
	answered, stop := gatewaytest.ProbeLoad(t, g, "GET / with token-1")
	underLoad := func() {
		before := answered.Load()
		gatewaytest.Await(t, "requests are answered after a reload", func() bool { return answered.Load() >= before+8 || t.Failed() })
	}
	for i := range 15 {
		g.Reload(gatewaytest.ReloadRoute(i, handlers))
		underLoad()
		if err := g.TryReload(gatewaytest.ReloadRoute(i, handlers, "reload_probe fail")); err == nil {
			t.Error("a wrong configuration was loaded")
		}
		underLoad()
	}
	stop()
	gatewaytest.WantFetched(t, endpoint, 1)
	gatewaytest.WantNoPanicLogged(t, g)
}

func TestFetchInProgressServesBothConfigurations(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	asked, release := make(chan struct{}, 10), make(chan struct{})
	endpoint.SetAnswer(func(w http.ResponseWriter, _ *http.Request, _ int) {
		asked <- struct{}{}
		<-release
		endpoint.Grant(w)
	})
	handlers := endpoint.Options() + upstream.Proxy()
	g := gatewaytest.Start(t, gatewaytest.ReloadRoute("old", handlers))
	before := gatewaytest.StartProbe(t, g)
	<-asked
	g.Reload(gatewaytest.ReloadRoute("new", handlers))
	if err := g.TryReload(gatewaytest.ReloadRoute("newer", handlers, "reload_probe fail")); err == nil {
		t.Error("a wrong configuration was loaded")
	}
	after := gatewaytest.StartProbe(t, g)
	close(release)
	for mark, answers := range map[string]<-chan gatewaytest.Answer{"old": before, "new": after} {
		a := <-answers
		gatewaytest.WantProbed(t, a, 200, "GET / with token-1")
		if got := a.Header.Get("X-Reload"); got != mark {
			t.Errorf("answered by the %s configuration, want the %s", got, mark)
		}
	}
	gatewaytest.WantFetched(t, endpoint, 1)
}

func TestReloadKeepsTheTokenAsLongAsTheGrantIsTheSame(t *testing.T) {
	t.Setenv("OAUTH_CC_TEST_SCOPE", "read")
	for name, test := range map[string]struct {
		options string
		replace [2]string
		kept    bool
	}{
		"nothing":          {kept: true},
		"timeout":          {options: "timeout 3s", kept: true},
		"default_ttl":      {options: "default_ttl 3m", kept: true},
		"retry_status":     {options: "retry_status off", kept: true},
		"replay_buffer":    {options: "replay_buffer 1KiB", kept: true},
		"ttl":              {options: "ttl 3m"},
		"response_field":   {options: "response_field token_type kind"},
		"client_secret":    {replace: [2]string{"s3cret-canary", "another"}},
		"client_id":        {replace: [2]string{"client_id app", "client_id other"}},
		"auth_method":      {options: "auth_method client_secret_post"},
		"request_format":   {options: "request_format json"},
		"scope":            {options: "scope read"},
		"scope, resolved":  {options: "scope {env.OAUTH_CC_TEST_SCOPE}"},
		"audience":         {options: "audience a"},
		"resource":         {options: "resource https://api.example.com/"},
		"param":            {options: "param a b"},
		"request_header":   {options: "request_header X-A b"},
		"endpoint":         {replace: [2]string{"/token", "/other"}},
		"way to connect":   {options: "transport {\ndial_timeout 4s\n}"},
		"where it is from": {replace: [2]string{"client_id app", "client_id {env.OAUTH_CC_TEST_ID}"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OAUTH_CC_TEST_ID", "app")
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
			old := endpoint.Options() + upstream.Proxy()
			changed := endpoint.Options(test.options) + upstream.Proxy()
			if test.replace[0] != "" {
				changed = strings.Replace(changed, test.replace[0], test.replace[1], 1)
			}
			g := gatewaytest.Start(t, gatewaytest.ReloadRoute("old", old))
			gatewaytest.MustProbe(t, g)
			tokens := 1
			for _, site := range []string{changed, old} {
				g.Reload(gatewaytest.ReloadRoute("next", site))
				if !test.kept {
					tokens++
				}
				for range 2 {
					gatewaytest.WantProbed(t, gatewaytest.MustProbe(t, g), 200, fmt.Sprintf("GET / with token-%d", tokens))
				}
				gatewaytest.WantFetched(t, endpoint, tokens)
			}
		})
	}
}

// Caddy cleans a configuration up while its last requests are still being served.
func TestReplayAfterAReload(t *testing.T) {
	for name, test := range map[string]struct {
		reject bool
		body   string
		tokens int
	}{
		"accepted": {body: "GET / with token-1", tokens: 1},
		"rejected": {reject: true, body: "GET / with token-2", tokens: 2},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartGatedAPI(t)
			handlers := endpoint.Options() + upstream.Proxy
			g := gatewaytest.Start(t, gatewaytest.ReloadRoute("old", handlers))
			gatewaytest.MustProbe(t, g)
			answers := upstream.Hold(t, g)
			g.Reload(gatewaytest.ReloadRoute("new", handlers))
			if test.reject {
				upstream.Revoke("token-1")
			}
			close(upstream.Release)
			a := <-answers
			gatewaytest.WantProbed(t, a, 200, test.body)
			if a.Header.Get("X-Reload") != "old" {
				t.Errorf("answered by %q", a.Header.Get("X-Reload"))
			}
			gatewaytest.WantProbed(t, gatewaytest.MustProbe(t, g), 200, test.body)
			gatewaytest.WantFetched(t, endpoint, test.tokens)
			gatewaytest.WantNoPanicLogged(t, g)
		})
	}
}
