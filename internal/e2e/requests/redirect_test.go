package requests

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// loginRedirect is an API that sends whoever has another token than token-2 to a login page.
func loginRedirect(status int, page string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if gatewaytest.Bearer(r) == "token-2" {
			_, _ = w.Write(body)
			return
		}
		w.Header().Set("Location", "https://login.example.com/?return=/orders")
		w.Header().Set("Set-Cookie", "state=1")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, page)
	}
}

// Some APIs answer an expired token with a redirect to a page where people log in.
func TestLoginRedirectIsARejectionOnRequest(t *testing.T) {
	for _, status := range []int{300, 301, 302, 303, 307, 308, 399} {
		for name, page := range map[string]string{"a page": "<a>log in</a>", "a long page": strings.Repeat("x", 256<<10)} {
			t.Run(fmt.Sprintf("%d with %s", status, name), func(t *testing.T) {
				endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, loginRedirect(status, page))
				g := gatewaytest.Start(t, endpoint.Options(fmt.Sprintf("retry_status 401 %d", status))+gatewaytest.ProxyTo(upstream))
				a := g.Post("/orders", "text/plain", "payload")
				gatewaytest.CheckAnswer(t, a, 200, "payload")
				if a.Header.Get("Location") != "" || a.Header.Get("Set-Cookie") != "" {
					t.Errorf("the client got %v of the redirect", a.Header)
				}
				gatewaytest.WantFetched(t, endpoint, 2)
			})
		}
	}
}

func TestOtherRedirectsReachTheClient(t *testing.T) {
	for name, options := range map[string]string{"by default": "", "of another status": "retry_status 401 303", "with a mask": "mask_rejection"} {
		t.Run(name, func(t *testing.T) {
			endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartScriptedAPI(t, loginRedirect(302, "log in"))
			g := gatewaytest.Start(t, endpoint.Options(options)+gatewaytest.ProxyTo(upstream))
			res, err := gatewaytest.Client.Transport.RoundTrip(gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if res.StatusCode != 302 || res.Header.Get("Location") == "" {
				t.Errorf("got %d with %v", res.StatusCode, res.Header)
			}
			gatewaytest.WantFetched(t, endpoint, 1)
		})
	}
}

// Where the login page is tells clients nothing but how the partner works.
func TestMaskedLoginRedirectLeadsNowhere(t *testing.T) {
	endpoint := gatewaytest.StartTokenServer(t)
	upstream := gatewaytest.StartScriptedAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "https://login.example.com/")
		w.WriteHeader(http.StatusFound)
	})
	g := gatewaytest.Start(t, endpoint.Options("retry_status 302", "mask_rejection")+gatewaytest.ProxyTo(upstream))
	a := g.Get("/")
	gatewaytest.CheckAnswer(t, a, 502, "")
	if a.Header.Get("Location") != "" {
		t.Errorf("the client got %v", a.Header)
	}
}
