package requests

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// Some servers don't care how a method is written, and TRACK is what IIS calls TRACE.
func TestAnswerThatRepeatsTheRequestHasNoToken(t *testing.T) {
	for _, option := range []string{"", "retry_status off", "token_header X-Api-Key", "dpop https://api.example.com", "allow_without_token"} {
		t.Run(option, func(t *testing.T) {
			var seen gatewaytest.AttemptLog
			told := make(chan http.Header, 1)
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, seen.Observe(trailersFrom("", told)))
			g := gatewaytest.Start(t, endpoint.Options(option)+gatewaytest.ProxyTo(upstream))
			name := "Authorization"
			if strings.HasPrefix(option, "token_header") {
				name = "X-Api-Key"
			}
			for _, method := range []string{"TRACE", "trace", "Trace", "tRACE", "TRACK", "track", "Track"} {
				a := gatewaytest.SendRaw(t, g.Addr, method+" /", "aUTHORIZATION: Bearer theirs", "x-api-key: theirs", "Proxy-Authorization: Basic dTpw",
					"Connection: "+name, "Transfer-Encoding: chunked", "Trailer: X-Checksum, authorization, x-api-key\r\n\r\n4\r\nbody\r\n0\r\n"+
						"X-Checksum: abc\r\nAUTHORIZATION: Bearer theirs\r\nX-API-Key: theirs\r\n\r\n")
				if a.Status != 200 {
					t.Fatalf("%s: got %d %q", method, a.Status, a.Body)
				}
				trailer, served := gatewaytest.AwaitSignal(t, "trailers", told), seen.All()
				header := served[len(served)-1].Header
				if header[name] != nil || header["Dpop"] != nil || trailer[name] != nil {
					t.Errorf("%s: the upstream got %v, and the trailers %v", method, header, trailer)
				}
				if trailer.Get("X-Checksum") != gatewaytest.PassedTrailer("abc") {
					t.Errorf("%s: the upstream got the trailers %v", method, trailer)
				}
			}
			if n := endpoint.Count(); n != 0 {
				t.Errorf("%d token requests", n)
			}
		})
	}
}

// A request without a token is a request like any other otherwise: what is meant for the gateway does not reach the client.
func TestAnswerToTraceHasNothingForTheGateway(t *testing.T) {
	for options, status := range map[string]int{
		"": 401, "mask_rejection": 502, "dpop https://api.example.com": 401, "dpop https://api.example.com\nmask_rejection 503": 503, "dpop https://api.example.com\nretry_status off": 401,
	} {
		t.Run(options, func(t *testing.T) {
			endpoint, seen := gatewaytest.StartTokenServer(t), new(gatewaytest.AttemptLog)
			upstream := gatewaytest.StartScriptedAPI(t, seen.Observe(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
				w.Header().Set("DPoP-Nonce", "n1")
				w.WriteHeader(http.StatusUnauthorized)
			}))
			g := gatewaytest.Start(t, endpoint.Options(options)+gatewaytest.ProxyTo(upstream))
			a := g.Do(gatewaytest.ClientRequest(t, http.MethodTrace, g.URL("/"), nil))
			if a.Status != status || (a.Header.Get("WWW-Authenticate") != "") != (status == 401) || strings.Contains(options, "dpop") && a.Header.Get("DPoP-Nonce") != "" {
				t.Errorf("got %d with %v, want %d", a.Status, a.Header, status)
			}
			if n := len(seen.All()); n != 1 {
				t.Errorf("the upstream got %d requests", n)
			}
		})
	}
}

// A trailer need not be announced, and can be written in any way.
func TestClientTokenInUnannouncedTrailersIsRemoved(t *testing.T) {
	for _, option := range []string{"", "retry_status off", "dpop https://api.example.com"} {
		for name, announced := range map[string]string{"nothing": "", "another one": "Trailer: X-Checksum\r\n", "all": "Trailer: X-Checksum, AUTHORIZATION, dpop\r\n"} {
			for _, method := range []string{"GET", "POST", "TRACE"} {
				t.Run(strings.Join([]string{option, name, method}, ", "), func(t *testing.T) {
					told := make(chan http.Header, 1)
					endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, trailersFrom("", told))
					if strings.HasPrefix(option, "dpop") {
						endpoint.SetAnswer(gatewaytest.Says(200, "application/json", `{"access_token":"token-1","token_type":"DPoP"}`))
					}
					g := gatewaytest.Start(t, endpoint.Options(option)+gatewaytest.ProxyTo(upstream))
					a := gatewaytest.SendRaw(t, g.Addr, method+" /", "Transfer-Encoding: chunked\r\n"+announced+"\r\n4\r\nbody\r\n0\r\n"+
						"x-checksum: abc\r\nauthorization: Bearer theirs\r\nAUTHORIZATION: Bearer theirs\r\ndpop: theirs\r\n\r\n")
					if a.Status != 200 {
						t.Fatalf("got %d %q", a.Status, a.Body)
					}
					trailer := gatewaytest.AwaitSignal(t, "trailers", told)
					if trailer["Authorization"] != nil || strings.HasPrefix(option, "dpop") && trailer["Dpop"] != nil {
						t.Errorf("the upstream got the trailers %v", trailer)
					}
					if announced != "" && trailer.Get("X-Checksum") != gatewaytest.PassedTrailer("abc") {
						t.Errorf("the upstream got the trailers %v", trailer)
					}
				})
			}
		}
	}
}
