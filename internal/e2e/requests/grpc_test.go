package requests

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

const grpcType = "application/grpc+proto"

// grpcAPI takes any token but token-1, and answers with the body that it got and its status in the trailers.
func grpcAPI(reject http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", grpcType)
		if gatewaytest.Bearer(r) == "token-1" {
			reject(w, r)
			return
		}
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = w.Write(body)
		_ = http.NewResponseController(w).Flush() // else it has a length, and then no trailers
		w.Header().Set("Grpc-Status", "0")
	}
}

// unauthenticated answers with the status UNAUTHENTICATED in the header: "trailers-only".
func unauthenticated(w http.ResponseWriter, _ *http.Request) {
	header := w.Header()
	header.Set("Grpc-Status", "16")
	header.Set("Grpc-Message", "who is this?")
	header.Set("Grpc-Status-Details-Bin", "CBASDHdobyBpcyB0aGlzPw")
	header.Set("X-Rejected", "yes")
}

func TestUnauthenticatedGRPCCallIsReplayed(t *testing.T) {
	for _, protocol := range gatewaytest.ClientProtocols {
		for _, way := range gatewaytest.UpstreamProtocols {
			t.Run(protocol.Name+", "+way.Name, func(t *testing.T) {
				endpoint := gatewaytest.StartTokenServer(t)
				upstream := gatewaytest.StartScriptedAPI(t, grpcAPI(func(w http.ResponseWriter, r *http.Request) {
					unauthenticated(w, r)
					w.Header().Set("Trailer", "X-Announced")
					w.WriteHeader(http.StatusOK)
					w.Header().Set("X-Announced", "rejected")
					w.Header().Set(http.TrailerPrefix+"X-Late", "rejected")
				}))
				_, base, client := protocol.Start(t, endpoint.Options()+gatewaytest.ProxyTo(upstream, way.Option))
				req := gatewaytest.ClientRequest(t, http.MethodPost, base, strings.NewReader("message"))
				req.Header.Set("Content-Type", grpcType)
				req.Header.Set("Te", "trailers")
				a := protocol.Exchange(t, client, req)
				gatewaytest.CheckAnswer(t, a, 200, "message")
				if got := a.Trailer.Get("Grpc-Status"); len(a.Trailer) != 1 || got != "0" {
					t.Errorf("the trailers are %v", a.Trailer)
				}
				for _, name := range []string{"Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin", "X-Rejected"} {
					if got := a.Header.Get(name); got != "" {
						t.Errorf("%s of the rejection reached the client: %q", name, got)
					}
				}
				gatewaytest.WantFetched(t, endpoint, 2)
			})
		}
	}
}

func TestGRPCRejectionIsJudgedByItsHeader(t *testing.T) {
	// says answers with these fields and HTTP 200.
	says := func(fields ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(fields); i += 2 {
				w.Header().Set(fields[i], fields[i+1])
			}
		}
	}
	for _, test := range []struct {
		name, options string
		reject        http.HandlerFunc
		replayed      bool
	}{
		{"trailers-only", "", unauthenticated, true},
		{"without a codec", "", says("Content-Type", "application/grpc", "Grpc-Status", "16"), true},
		{"in capitals, with a parameter", "", says("Content-Type", "Application/GRPC;x=y", "Grpc-Status", "16"), true},
		{"gRPC-Web", "", says("Content-Type", "application/grpc-web-text+proto", "Grpc-Status", "16"), true},
		{"another type", "", says("Content-Type", "application/json", "Grpc-Status", "16"), false},
		{"PERMISSION_DENIED", "", says("Grpc-Status", "7"), false},
		{"OK", "", says("Grpc-Status", "0"), false},
		{"invalid_token", "", says("Grpc-Status", "16", "Www-Authenticate", `Bearer error="invalid_token"`), true},
		{"insufficient_scope", "", says("Grpc-Status", "16", "Www-Authenticate", `Bearer error="insufficient_scope"`), false},
		{"401 beside another status", "retry_status 403 401", unauthenticated, true},
		{"401 not listed", "retry_status 403", unauthenticated, false},
		{"off", "retry_status off", unauthenticated, false},
		{"with an HTTP status of its own", "", func(w http.ResponseWriter, r *http.Request) {
			unauthenticated(w, r)
			w.WriteHeader(http.StatusServiceUnavailable)
		}, false},
		{"in the trailers", "", func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush()
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "16")
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, grpcAPI(test.reject))
			g := gatewaytest.Start(t, endpoint.Options(test.options)+gatewaytest.ProxyTo(upstream))
			a := g.Post("/", grpcType, "message")
			if replayed := a.Body == "message"; replayed != test.replayed {
				t.Errorf("replayed: %t, want %t; the client got %d %v %v", replayed, test.replayed, a.Status, a.Header, a.Trailer)
			}
			want := 1
			if test.replayed {
				want = 2
			}
			gatewaytest.WantFetched(t, endpoint, want)
		})
	}
}

// A message that can't be sent again fails, and the next one has a new token.
func TestGRPCMessageLargerThanTheBufferIsNotReplayed(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, grpcAPI(unauthenticated))
	g := gatewaytest.Start(t, endpoint.Options("replay_buffer 64KiB")+gatewaytest.ProxyTo(upstream))
	if a := g.Post("/", grpcType, strings.Repeat("x", 64<<10+1)); a.Header.Get("Grpc-Status") != "16" {
		t.Errorf("got %d %v, want the upstream's status", a.Status, a.Header)
	}
	gatewaytest.Await(t, "renewal in the background", func() bool { return endpoint.Count() == 2 })
	gatewaytest.Await(t, "the new token in use", func() bool { return g.Post("/", grpcType, "message").Body == "message" })
}

// It has the HTTP status of a success, and is no success for the metrics.
func TestGRPCRejectionIsCounted(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", grpcType)
		unauthenticated(w, r)
	})
	g := gatewaytest.Start(t, gatewaytest.Monitored(endpoint.Options()+gatewaytest.ProxyTo(upstream)))
	if a := g.Post("/", grpcType, "message"); a.Status != 200 || a.Header.Get("Grpc-Message") != "who is this?" {
		t.Errorf("got %d %v, want the upstream's answer", a.Status, a.Header)
	}
	if n := len(g.Logs.With(uncuredMessage)); n != 1 {
		t.Errorf("%d warnings, want 1", n)
	}
	gatewaytest.WantSamples(t, endpoint, gatewaytest.Scrape(g), map[string]float64{`upstream_rejections_total outcome="uncured"`: 1})
}

// The statuses are those of gRPC's "HTTP to gRPC Status Code Mapping".
func TestMaskedGRPCRejection(t *testing.T) {
	for mask, want := range map[int]string{
		400: "13", 401: "16", 403: "7", 404: "12", 429: "14", 431: "13", 500: "2", 502: "14", 503: "14", 504: "14",
	} {
		t.Run(strconv.Itoa(mask), func(t *testing.T) {
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", grpcType)
				unauthenticated(w, r)
				w.Header().Set("WWW-Authenticate", "Bearer")
				if r.URL.Path == "/401" {
					w.WriteHeader(http.StatusUnauthorized)
				}
			})
			g := gatewaytest.Start(t, endpoint.Options("mask_rejection "+strconv.Itoa(mask))+gatewaytest.ProxyTo(upstream))
			for path, status := range map[string]int{"/": 200, "/401": mask} {
				a := g.Post(path, grpcType, "message")
				if got := a.Header["Grpc-Status"]; a.Status != status || len(got) != 1 || got[0] != want {
					t.Errorf("%s: got %d, gRPC status %q; want %d, %s", path, a.Status, got, status, want)
				}
				for _, name := range []string{"Grpc-Message", "Grpc-Status-Details-Bin", "WWW-Authenticate"} {
					if got := a.Header.Get(name); got != "" {
						t.Errorf("%s: %s is %q", path, name, got)
					}
				}
				if a.Header.Get("X-Rejected") != "yes" {
					t.Errorf("%s: the rest of the header is gone: %v", path, a.Header)
				}
			}
		})
	}
}
