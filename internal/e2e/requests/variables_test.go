package requests

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// A request gets the connection that becomes free first, and its own is dialled on in the background,
// where Caddy reads the request's variables without a lock. A race ends the whole process at times, and
// under the race detector it fails the test.
func TestReplayLeavesTheVariablesOfADialAlone(t *testing.T) {
	const clients, requestsOfEach = 16, 50
	for name, site := range map[string]string{
		"plain":         "route {\n%s\n}",
		"traced":        "route {\ntracing\n%s\n}",
		"handle_errors": "error /* 500\nhandle_errors {\nroute {\n%s\n}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_TRACES_EXPORTER", "none")
			endpoint, upstream := gatewaytest.StartBindingServer(t), startNonceForEach(t)
			g := gatewaytest.Start(t, "")
			g.Logging = gatewaytest.LittleLog
			g.Reload("log\n" + fmt.Sprintf(site, endpoint.Options("dpop "+upstream.URL)+
				"vars proof {http.request.header.DPoP}\n"+upstream.proxy("header_up X-Proof {http.vars.proof}")))
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}, Timeout: gatewaytest.Patience}
			defer client.CloseIdleConnections()
			var wait sync.WaitGroup
			for range clients {
				wait.Go(func() {
					for range requestsOfEach {
						req, _ := http.NewRequest(http.MethodGet, g.URL("/"), nil)
						req.Header.Set("X-Id", rand.Text())
						if a, err := gatewaytest.Exchange(client, req); err != nil || a.Body != "the proof of this attempt" {
							t.Errorf("got %d %q, %v", a.Status, a.Body, err)
							return
						}
					}
				})
			}
			wait.Wait()
		})
	}
}

// nonceForEach is an API that wants a nonce of its own for each request, so that each is sent twice. It wants
// X-Proof to be that of the same attempt.
type nonceForEach struct {
	*httptest.Server
	asked sync.Map // by X-Id
}

func startNonceForEach(t *testing.T) *nonceForEach {
	a := new(nonceForEach)
	a.Server = gatewaytest.StartScriptedAPI(t, a.ServeHTTP)
	return a
}

func (a *nonceForEach) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if proof := r.Header.Get("DPoP"); proof == "" || r.Header.Get("X-Proof") != proof {
		http.Error(w, "the proof of another attempt", http.StatusBadRequest)
		return
	}
	if _, asked := a.asked.LoadOrStore(r.Header.Get("X-Id"), true); !asked {
		w.Header().Set("DPoP-Nonce", rand.Text())
		w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_, _ = io.WriteString(w, "the proof of this attempt")
}

// proxy keeps few connections, so that others are dialled all the time.
func (a *nonceForEach) proxy(options string) string {
	return gatewaytest.ProxyTo(a.Server, options, "transport http {\nkeepalive_idle_conns_per_host 2\n}")
}
