package requests

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

func init() {
	caddy.RegisterModule(panickingBody{})
	httpcaddyfile.RegisterHandlerDirective("panicking_body", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		h.NextArg()
		after, err := strconv.ParseInt(h.Val(), 10, 64)
		return panickingBody{After: after}, err
	})
}

// panickingBody is a handler with which reading the body panics after so many bytes.
type panickingBody struct {
	After int64 `json:"after,omitempty"`
}

func (panickingBody) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.panicking_body", New: func() caddy.Module { return new(panickingBody) }}
}

func (p panickingBody) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(r.Body, p.After), panics{}), r.Body}
	return next.ServeHTTP(w, r)
}

type panics struct{}

func (panics) Read([]byte) (int, error) { panic("the body panics") }

// A transport reads the body on a goroutine of its own, where a panic would end the process.
func TestPanicOfTheBodyEndsItsRequestAlone(t *testing.T) {
	for name, more := range map[string]string{
		"recorded": "", "past the buffer": "replay_buffer 10KiB", "sent once": "retry_status off",
	} {
		for _, way := range gatewaytest.UpstreamProtocols {
			t.Run(name+", "+way.Name, func(t *testing.T) {
				endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, gatewaytest.AcceptOnly("token-1"))
				g := gatewaytest.Start(t, `route {
					@panics path /panics
					panicking_body @panics 100000
					`+endpoint.Options(more)+gatewaytest.ProxyTo(upstream, way.Option)+`
				}`)
				req := gatewaytest.ClientRequest(t, http.MethodPost, g.URL("/panics"), io.MultiReader(strings.NewReader(gatewaytest.NumberedText(200_000))))
				req.Trailer = http.Header{"X-Checksum": {"abc"}}
				if a, err := gatewaytest.Exchange(gatewaytest.Client, req); err == nil && a.Status < 500 {
					t.Errorf("got %d", a.Status)
				}
				gatewaytest.Await(t, "the panic in the log", func() bool { return strings.Contains(g.Logs.All(), "the body panics") })
				gatewaytest.CheckAnswer(t, g.Post("/", "text/plain", "still here"), 200, "still here")
			})
		}
	}
}
