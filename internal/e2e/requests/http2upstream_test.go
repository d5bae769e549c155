package requests

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// An HTTP/2 transport reads a body, and then the trailers of its request, on a goroutine of its own. The race
// detector tells whether a replay writes there meanwhile.
func TestRequestsOverHTTP2AreReplayedWithTheirTrailers(t *testing.T) {
	api := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		switch {
		case gatewaytest.Bearer(r) == "token-1":
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, r.URL.RawQuery)
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
		default:
			fmt.Fprintf(w, "%s %s", r.Trailer.Get("X-Checksum"), body)
		}
	}
	encrypted := httptest.NewUnstartedServer(http.HandlerFunc(api))
	encrypted.EnableHTTP2 = true
	encrypted.StartTLS()
	t.Cleanup(encrypted.Close)
	for name, proxy := range map[string]string{
		"h2c": gatewaytest.ProxyTo(gatewaytest.StartScriptedAPI(t, api), gatewaytest.UpstreamProtocols[1].Option),
		"h2":  gatewaytest.ProxyTo(encrypted, "transport http {\ntls_insecure_skip_verify\nversions 2\n}"),
	} {
		for _, size := range []int{0, 10, 100 << 10} {
			t.Run(fmt.Sprint(name, " ", size), func(t *testing.T) {
				endpoint := gatewaytest.StartTokenServer(t)
				g := gatewaytest.Start(t, endpoint.Options()+proxy)
				var wait sync.WaitGroup
				for i := range 8 {
					wait.Go(func() {
						body := gatewaytest.NumberedText(size)
						path := []string{"/", "/?rejected"}[i%2] // an answer without a body ends at once
						req := gatewaytest.ClientRequest(t, http.MethodPost, g.URL(path), io.MultiReader(strings.NewReader(body)))
						req.Trailer = http.Header{"X-Checksum": {fmt.Sprint(i)}}
						a, err := gatewaytest.Exchange(gatewaytest.Client, req)
						if err != nil {
							t.Error(err)
							return
						}
						want := fmt.Sprint(i) + " " + body
						if first := gatewaytest.PassedTrailer(fmt.Sprint(i)) + " " + body; a.Body == first { // it had the new token at once
							want = first
						}
						gatewaytest.CheckAnswer(t, a, 200, want)
					})
				}
				wait.Wait()
			})
		}
	}
}
