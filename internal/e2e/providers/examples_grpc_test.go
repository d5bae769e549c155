package providers

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// largestMessage is what servers take, with its prefix. The example's replay_buffer is for that.
const largestMessage = 4<<20 + 5

func testGRPC(t *testing.T) {
	t.Run("h2c", func(t *testing.T) {
		_, _, env := partnerEnv(t)
		api := httptest.NewUnstartedServer(grpcAPI(t))
		api.Config.Protocols = new(http.Protocols)
		api.Config.Protocols.SetUnencryptedHTTP2(true)
		api.Start()
		t.Cleanup(api.Close)
		env["API"] = "h2c://" + api.Listener.Addr().String()
		testGRPCCall(startExample(t, "grpc", exampleRun{env: env}))
	})
	t.Run("TLS", func(t *testing.T) {
		partner, _, env := partnerEnv(t)
		endpoint, api := httptest.NewTLSServer(partner), httptest.NewUnstartedServer(grpcAPI(t))
		t.Cleanup(endpoint.Close)
		api.EnableHTTP2 = true
		api.StartTLS()
		t.Cleanup(api.Close)
		env["TOKEN_ENDPOINT"], env["API"] = endpoint.URL, api.URL
		testGRPCCall(startExample(t, "grpc", exampleRun{env: env, trust: api.Certificate()}))
	})
}

// grpcAPI does not take token-1.
func grpcAPI(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if n, err := io.Copy(io.Discard, r.Body); n != largestMessage || err != nil || r.ProtoMajor != 2 {
			t.Errorf("the API got %d bytes, %v, by %s", n, err, r.Proto)
		}
		w.Header().Set("Content-Type", "application/grpc")
		if gatewaytest.Bearer(r) == "token-1" {
			w.Header().Set("Grpc-Status", "16")
			return
		}
		_ = http.NewResponseController(w).Flush()
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}
}

// testGRPCCall calls as a client without TLS does.
func testGRPCCall(g *gatewaytest.Gateway) {
	g.T.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	req := gatewaytest.ClientRequest(g.T, http.MethodPost, g.URL("/"), strings.NewReader(strings.Repeat("x", largestMessage)))
	a, err := gatewaytest.Exchange(&http.Client{Transport: transport}, req)
	if err != nil || a.Status != http.StatusOK || a.Trailer.Get("Grpc-Status") != "0" {
		g.T.Errorf("got %d %v, trailers %v, %v", a.Status, a.Header, a.Trailer, err)
	}
}
