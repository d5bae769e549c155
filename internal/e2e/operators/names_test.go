package operators

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// The longest line of the handler's log, the longest value of an event's data and that of a span's attribute.
const (
	mostLogged = 2 << 10
	mostNamed  = 300
)

// Each request with a name of its own is a line in the log, an event and a span. The name can have 8 KiB.
func TestNamesThatClientsChooseAreCut(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	long := strings.Repeat("n", 8000)
	for name, test := range map[string]struct {
		options string // of a handler with tenants
		fails   bool
		answer  gatewaytest.EndpointAnswer
	}{
		"client_id":          {options: "token_endpoint " + endpoint.URL + "/token\nclient_id {header.X-Name}"},
		"part of client_id":  {options: "token_endpoint " + endpoint.URL + "/token\nclient_id a-{header.X-Name}-{header.X-Name}-z"},
		"path":               {options: "token_endpoint " + endpoint.URL + "/{header.X-Name}/token\nclient_id app"},
		"host":               {options: "token_endpoint http://{header.X-Name}.localhost/token\nclient_id app", fails: true},
		"URL":                {options: "token_endpoint {vars.url}\nclient_id app\ninsecure_http"},
		"scope":              {options: "token_endpoint " + endpoint.URL + "/token\nclient_id app\nscope {header.X-Name} more", answer: gatewaytest.Says(200, "application/json", `{"access_token":"token-1","scope":""}`)},
		"scope, refused":     {options: "token_endpoint " + endpoint.URL + "/token\nclient_id app\nscope {header.X-Name}", fails: true, answer: gatewaytest.Says(400, "application/json", `{"error":"invalid_scope"}`)},
		"resource":           {options: "token_endpoint " + endpoint.URL + "/token\nclient_id app\nresource {header.X-Name}", fails: true},
		"audience":           {options: "token_endpoint " + endpoint.URL + "/token\nclient_id app\naudience {header.X-Name}", fails: true, answer: gatewaytest.Says(400, "application/json", `{"error":"invalid_target","error_description":"`+long+`"}`)},
		"client_id, refused": {options: "token_endpoint " + endpoint.URL + "/token\nclient_id {header.X-Name}", fails: true, answer: gatewaytest.Says(401, "application/json", `{"error":"invalid_client","error_description":"no client `+long+`"}`)},
	} {
		t.Run(name, func(t *testing.T) {
			spans := gatewaytest.CollectSpans(t)
			endpoint.SetAnswer(test.answer)
			upstream.Revoke("token-1")
			g := gatewaytest.StartWithEvents(t, "tracing {\nspan gateway\n}\nroute {\nvars url "+endpoint.URL+"/"+long+"\noauth_cc {\nclient_secret s3cret-canary\n"+test.options+"\n}\n"+upstream.Proxy()+"}\n")
			req := gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil)
			req.Header.Set("X-Name", long)
			if a := g.Do(req); (a.Status >= 500) != test.fails {
				t.Errorf("got %d %q", a.Status, a.Body)
			}
			lines := 0
			for line := range strings.Lines(g.Logs.All()) {
				var entry map[string]any
				if json.Unmarshal([]byte(line), &entry) != nil || entry["logger"] != "http.handlers.oauth_cc" {
					continue
				}
				if lines++; len(line) > mostLogged {
					t.Errorf("logged %d bytes: %.300s…", len(line), line)
				}
			}
			if lines == 0 {
				t.Error("nothing was logged")
			}
			names := []string{eventObtained}
			if test.fails {
				names = []string{eventFailed}
			}
			for _, name := range names {
				for _, event := range gatewaytest.AwaitEvents(t, name, 1) {
					wantShort(t, name, event.Data)
				}
			}
			for _, event := range gatewaytest.EventsNamed(eventRejected) {
				wantShort(t, eventRejected, event.Data)
			}
			gatewaytest.Await(t, "the span", func() bool { return len(spans.Named(gatewaytest.FetchSpan)) > 0 })
			for _, span := range spans.Named(gatewaytest.FetchSpan) {
				wantShort(t, "the span", gatewaytest.AttributesOf(span))
			}
		})
	}
}

func wantShort(t *testing.T, what string, data map[string]any) {
	t.Helper()
	for key, value := range data {
		if text := fmt.Sprint(value); len(text) > mostNamed {
			t.Errorf("%s has %s of %d bytes", what, key, len(text))
		}
	}
}

// Of what a client chooses as much is shown as by the Admin API: 64 characters. What the configuration says is never cut.
func TestNamesAreCutToThePoint(t *testing.T) {
	endpoint, upstream := gatewaytest.StartTokenServer(t), gatewaytest.StartAPI(t)
	written := strings.Repeat("w", 100)
	g := gatewaytest.Start(t, "oauth_cc "+endpoint.URL+"/"+written+"/{header.X-Path}/token {\nclient_id "+written+"-{header.X-Name}\nclient_secret s3cret-canary\n}\n"+upstream.Proxy())
	for _, test := range []struct{ name, path, wantName, wantPath string }{
		{"acme", "a", written + "-acme", "/" + written + "/a/token"},
		{strings.Repeat("ä", 64), strings.Repeat("b", 64), written + "-" + strings.Repeat("ä", 64), "/" + written + "/" + strings.Repeat("b", 64) + "/token"},
		{strings.Repeat("ä", 65), strings.Repeat("b", 999), written + "-" + strings.Repeat("ä", 64), "/" + written + "/" + strings.Repeat("b", 64+len("/token"))},
	} {
		gatewaytest.SendLines(t, http.MethodGet, g.URL("/"), "", "X-Name: "+test.name, "X-Path: "+test.path)
		entries := g.Logs.With("token obtained")
		entry := entries[len(entries)-1]
		if entry["client_id"] != test.wantName || entry["endpoint"] != endpoint.URL+test.wantPath {
			t.Errorf("logged client_id %q (%d characters), endpoint %q", entry["client_id"], utf8.RuneCountInString(fmt.Sprint(entry["client_id"])), entry["endpoint"])
		}
	}
}
