package providers

import (
	"cmp"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

const migratingPage = "docs/migrating.md"

// migration is a section of the page: what the configuration that is left has sent, and the other one has to send as well.
type migration struct {
	heading string
	basic   bool              // the credential is in the header; else in the body
	form    []string          // pairs, without grant_type and a credential in the body
	header  map[string]string // of the token request
	field   string            // of the request to the API; empty: Authorization
	written []string          // further things that the configuration that is left says, of which the values above follow
}

var migrations = []migration{
	{heading: "A cron job", basic: true, form: []string{"scope", "orders:read", "audience", "https://api.partner.example"}, written: []string{"curl -sf -u", "-d grant_type=client_credentials"}},
	{heading: "Envoy", form: []string{"scope", "orders:read orders:write", "audience", "https://api.partner.example"}, written: []string{"auth_type: URL_ENCODED_BODY"}},
	{
		heading: "Kong", form: []string{"scope", "orders:read orders:write", "audience", "https://api.partner.example", "tenant", "acme"},
		header: map[string]string{"X-Api-Version": "2"}, written: []string{"auth_method: client_secret_post", "grant_type: client_credentials"},
	},
	{heading: "KrakenD", basic: true, form: []string{"scope", "orders:read orders:write", "audience", "https://api.partner.example"}},
	{heading: "Tyk", basic: true, form: []string{"scope", "orders:read orders:write"}, field: "X-Partner-Token", written: []string{"X-Partner-Token"}},
	{heading: "Couper", form: []string{"scope", "orders:read orders:write"}, written: []string{`"client_secret_post"`, `"client_credentials"`}},
	{heading: "nginx with Lua", basic: true, form: []string{"scope", "orders:read"}, written: []string{`"Basic " .. ngx.encode_base64`, `grant_type = "client_credentials"`}},
	{heading: "Traefik", basic: true, form: []string{"scope", "orders:read orders:write"}, header: map[string]string{"X-Api-Version": "2"}},
}

// blocks are the configuration that is left, and the Caddyfile to write instead.
func (m migration) blocks(t *testing.T, sections map[string]string) (left, ours string) {
	t.Helper()
	blocks := regexp.MustCompile("(?s)```(\\w+)\n(.*?)```").FindAllStringSubmatch(sections[m.heading], -1)
	if len(blocks) != 2 || blocks[0][1] == "caddyfile" || blocks[1][1] != "caddyfile" {
		t.Fatalf("%s shows %d configurations", m.heading, len(blocks))
	}
	return blocks[0][2], blocks[1][2]
}

func TestMigratingLeavesNothingOut(t *testing.T) {
	text := readDocument(t, migratingPage)
	headings, sections := cutAt(text, "## ")
	var tested []string
	for _, m := range migrations {
		tested = append(tested, m.heading)
		left, ours := m.blocks(t, sections)
		written := append([]string{"https://auth.partner.example/oauth/token", "https://api.partner.example", "gateway"}, m.written...)
		if m.heading == "A cron job" || m.heading == "Traefik" { // where the API stands elsewhere
			written = slices.Delete(written, 1, 2)
		}
		for i := 0; i < len(m.form); i += 2 {
			written = append(written, m.form[i])
			written = append(written, strings.Fields(m.form[i+1])...)
		}
		for name, value := range m.header {
			written = append(written, name, value)
		}
		for _, what := range written {
			if !strings.Contains(left, what) {
				t.Errorf("%s: the configuration that is left does not have %q", m.heading, what)
			}
		}
		if formatted := caddyfile.Format([]byte(ours)); string(formatted) != ours {
			t.Errorf("%s: caddy fmt would write\n%s", m.heading, formatted)
		}
	}
	if !slices.Equal(tested, headings) {
		t.Errorf("the page has %q, and tests are for %q", headings, tested)
	}
	for _, document := range []string{migratingPage, "docs/operations.md"} {
		for _, link := range markdownLink.FindAllStringSubmatch(readDocument(t, document), -1) {
			if err := checkLink(document, link[1], link[2]); err != nil {
				t.Errorf("%s: %s: %v", document, link[0], err)
			}
		}
		if !strings.Contains(readDocument(t, "README.md"), "]("+document) {
			t.Errorf("the README does not lead to %s", document)
		}
	}
}

// unlike refuses what the configuration that is left would not have sent.
func (m migration) unlike(s *providerStandIn, r *http.Request, body string) *endpointRefusal {
	want := append([]string{"grant_type", clientCredentials}, m.form...)
	form, isSent := formOf(body), s.sentPlain
	if !m.basic {
		want, isSent = append(want, "client_id", s.id, "client_secret", s.secret), s.sentPost
	}
	if !isSent(r, form) || !has(form, want...) {
		return invalidRequest(http.StatusBadRequest)
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-") && r.Header.Get(name) != m.header[name] {
			return invalidRequest(http.StatusBadRequest)
		}
	}
	for name, value := range m.header {
		if r.Header.Get(name) != value {
			return invalidRequest(http.StatusBadRequest)
		}
	}
	return nil
}

func TestMigratingAsksAsBefore(t *testing.T) {
	_, sections := cutAt(readDocument(t, migratingPage), "## ")
	for _, m := range migrations {
		t.Run(m.heading, func(t *testing.T) {
			_, text := m.blocks(t, sections)
			s := startProvider(t, &providerSpec{
				name: "partner", path: "/oauth/token", lifetime: time.Hour, vet: m.unlike,
				granted: func(token string) map[string]any {
					return map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600}
				},
			})
			s.id, s.secret = "gateway", "s3cret-0f-the-partner"
			api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				token, _ := strings.CutPrefix(r.Header.Get(cmp.Or(m.field, "Authorization")), "Bearer ")
				s.mu.Lock()
				_, isGranted := s.expiry[token]
				s.mu.Unlock()
				if !isGranted {
					gatewaytest.RejectToken(w)
				}
			}))
			t.Cleanup(api.Close)
			secret := filepath.Join(t.TempDir(), "partner")
			servertest.WriteFile(t, secret, s.secret)
			t.Setenv("PARTNER_SECRET", s.secret)
			g := gatewaytest.Start(t, "")
			g.Addr = gatewaytest.FreeAddr(t) // a reload that keeps the address can reset a new connection
			for old, with := range map[string]string{
				"gateway.example.com {":                     "http://" + g.Addr + " {",
				"oauth_cc https://auth.partner.example":     "oauth_cc " + s.endpoint.URL,
				"reverse_proxy https://api.partner.example": "reverse_proxy " + api.URL,
			} {
				if strings.Count(text, old) != 1 {
					t.Fatalf("the Caddyfile does not have %q once", old)
				}
				text = strings.Replace(text, old, with, 1)
			}
			text = strings.ReplaceAll(text, "{file./run/secrets/partner}", "{file."+secret+"}")
			config, err := gatewaytest.Adapt("{\nauto_https off\ndefault_bind 127.0.0.1\n}\n" + text)
			if err != nil {
				t.Fatal(err)
			}
			config = forTest(t, config, api.Certificate())
			if err := errors.Join(caddy.Load(config, true), gatewaytest.AwaitOldListeners(string(config))); err != nil {
				t.Fatal(err)
			}
			var wait sync.WaitGroup
			for range 5 {
				wait.Go(func() {
					req, _ := http.NewRequest(http.MethodGet, g.URL("/v1/orders"), nil)
					if a, err := gatewaytest.Exchange(gatewaytest.Client, req); err != nil || a.Status != 200 {
						t.Errorf("got %d, %v", a.Status, err)
					}
				})
			}
			wait.Wait()
			if refused, _ := s.judged(); refused != nil || s.tokenRequests() != 1 {
				t.Errorf("%d token requests, refused with %+v", s.tokenRequests(), refused)
			}
			s.revoke()
			if a := g.Get("/v1/orders"); a.Status != 200 || s.tokenRequests() != 2 {
				t.Errorf("after a revocation: %d, and %d token requests", a.Status, s.tokenRequests())
			}
			if m.field == "" { // else reverse_proxy logs it, as the page says
				s.hasNoCredentials(t, g.Logs.All())
			}
		})
	}
}
