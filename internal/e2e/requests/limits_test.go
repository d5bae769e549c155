package requests

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// An endpoint can answer each of the token requests that are in progress with a header of megabytes.
func TestHeaderOfAnAnswerIsBounded(t *testing.T) {
	upstream, ca := gatewaytest.StartAPI(t), servertest.NewCA(t)
	for name, test := range map[string]struct {
		isHTTP2 bool
		kib     int
		option  string
		status  int
	}{
		"HTTP/1.1":            {false, 300, "", 503},
		"HTTP/2":              {true, 300, "", 503},
		"HTTP/1.1, fits":      {false, 200, "", 200},
		"HTTP/2, fits":        {true, 200, "", 200},
		"HTTP/1.1, as wanted": {false, 300, "max_response_header 512KiB", 200},
		"HTTP/2, as wanted":   {true, 300, "max_response_header 512KiB", 200},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if (r.ProtoMajor == 2) != test.isHTTP2 {
					t.Errorf("asked over %s", r.Proto)
				}
				w.Header().Set("X-Padding", strings.Repeat("p", test.kib<<10))
				_, _ = io.WriteString(w, `{"access_token":"token-1"}`)
			}))
			endpoint.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Server(t, "127.0.0.1", time.Now().Add(time.Hour))}}
			endpoint.EnableHTTP2 = test.isHTTP2
			endpoint.Config.ErrorLog = log.New(io.Discard, "", 0)
			endpoint.StartTLS()
			t.Cleanup(endpoint.Close)
			g := gatewaytest.Start(t, canarySite(endpoint.URL, "one", upstream, "transport {\ntls_trust_pool file "+ca.File(t)+"\n"+test.option+"\n}"))
			a := g.Get("/")
			if a.Status != test.status {
				t.Errorf("the client got %d %q, want %d", a.Status, a.Body, test.status)
			}
			if test.status == 503 {
				wantFailure(g, endpoint.URL, "unreachable")
			}
		})
	}
}
