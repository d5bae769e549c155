package requests

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// grantServer is a token endpoint for the JWT bearer grant, with the gateway's key in a file.
type grantServer struct {
	*gatewaytest.TokenServer
	file string

	mu       sync.Mutex
	accepted string // the kind of key that it knows
	subjects []string
}

func startGrantServer(t *testing.T) *grantServer {
	s := &grantServer{TokenServer: gatewaytest.StartTokenServer(t), file: filepath.Join(t.TempDir(), "key.pem"), accepted: "P-256"}
	servertest.WriteFile(t, s.file, servertest.PKCS8(t, servertest.Keys()["P-256"]))
	s.SetAnswer(func(w http.ResponseWriter, _ *http.Request, n int) {
		form, _ := url.ParseQuery(s.Recorded()[n-1].Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		assertion := form.Get("assertion")
		if form.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || !signedWith(assertion, s.accepted) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error":"invalid_grant","error_description":"not accepted: %s"}`, assertion)
			return
		}
		_, claims := servertest.OpenJWT(t, assertion, servertest.Keys()[s.accepted].Public())
		s.subjects = append(s.subjects, fmt.Sprint(claims["sub"]))
		s.Grant(w)
	})
	return s
}

func (s *grantServer) accept(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted = kind
}

// options are those of a gateway that asks for a subject.
func (s *grantServer) options(subject string, more ...string) string {
	return "oauth_cc " + s.URL + "/token {\nsigning_key " + s.file + "\ngrant jwt_bearer {\nissuer app\nsubject " + subject + "\n}\n" + strings.Join(more, "\n") + "\n}\n"
}

// Each user has a token of their own, and none gets another's.
func TestGrantForEachUser(t *testing.T) {
	server, upstream := startGrantServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.StartWithAdmin(t, server.options("{http.request.header.X-User}@example.com")+upstream.Proxy())
	as := func(user string) gatewaytest.Answer {
		req := gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil)
		if user != "" {
			req.Header.Set("X-User", user)
		}
		return g.Do(req)
	}
	for range 2 {
		gatewaytest.CheckAnswer(t, as("ada"), 200, "GET / with token-1")
		gatewaytest.CheckAnswer(t, as("grace"), 200, "GET / with token-2")
	}
	if got := strings.Join(server.subjects, " "); got != "ada@example.com grace@example.com" {
		t.Errorf("asked for %s", got)
	}
	for _, user := range []string{"", "ada, grace", "ada\tgrace"} {
		if a := as(user); a.Status == 200 {
			t.Errorf("%q got %s", user, a.Body)
		}
	}
	for _, token := range g.Tokens() {
		if token.ClientID != "app" || token.Grant != "jwt_bearer" || token.Subject != "{http.request.header.X-User}@example.com" || token.Values["http.request.header.X-User"] == "" {
			t.Errorf("listed %+v", token)
		}
	}
}

// Who a tenant is can be a secret of theirs. Operators don't see it, not even in what may help.
func TestGrantForASecretUserIsNotLogged(t *testing.T) {
	server, upstream := startGrantServer(t), gatewaytest.StartAPI(t)
	server.accept("P-384") // the gateway signs with another key
	g := gatewaytest.Start(t, server.options("{http.request.header.X-Auth-Key}")+upstream.Proxy())
	req := gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil)
	req.Header.Set("X-Auth-Key", "tenant-canary")
	if a := g.Do(req); a.Status != http.StatusBadGateway {
		t.Errorf("got %d %s", a.Status, a.Body)
	}
	for line := range strings.Lines(g.Logs.All()) {
		if strings.Contains(line, "oauth_cc") && strings.Contains(line, "tenant-canary") {
			t.Errorf("logged %s", line)
		}
	}
	if logged := g.Logs.With("no token obtained"); len(logged) != 1 || !strings.Contains(fmt.Sprint(logged[0]["hint"]), "sub ***, aud ") {
		t.Errorf("logged %v", logged)
	}
}

// Another process finds the token in the storage, if it has the key.
func TestGrantIsSharedThroughTheStorage(t *testing.T) {
	server, upstream, root := startGrantServer(t), gatewaytest.StartAPI(t), t.TempDir()
	site := server.options("ada", "storage file_system "+root) + upstream.Proxy()
	g := gatewaytest.Start(t, site)
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-1")
	gatewaytest.AwaitRecords(t, root, 1)
	for path, content := range gatewaytest.Stored(t, root) {
		if strings.Contains(path+content, "token-1") {
			t.Errorf("%s has the token", path)
		}
	}
	restart := func(site string) {
		t.Helper()
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
		g.Reload(site)
	}
	restart(site)
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-1")
	restart(server.options("grace", "storage file_system "+root) + upstream.Proxy())
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-2")
	servertest.WriteFile(t, server.file, servertest.PKCS8(t, servertest.Keys()["P-384"]))
	server.accept("P-384")
	restart(site)
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-3")
	gatewaytest.AwaitRecords(t, root, 3)
}

// The server forgets the old key before the gateway has the new one.
func TestReplacedKeyOfAGrantIsUsedAtOnce(t *testing.T) {
	server, upstream := startGrantServer(t), gatewaytest.StartAPI(t)
	g := gatewaytest.Start(t, server.options("ada")+upstream.Proxy())
	server.accept("P-384")
	if a := g.Get("/"); a.Status != http.StatusBadGateway {
		t.Errorf("got %d %s", a.Status, a.Body)
	}
	logged := g.Logs.With("no token obtained")
	if len(logged) != 1 || logged[0]["error"] != "invalid_grant" || logged[0]["endpoint_message"] != "invalid_grant not accepted: ***" ||
		!strings.Contains(fmt.Sprint(logged[0]["hint"]), "it had iss app, sub ada, aud "+server.URL+"/token; check these") {
		t.Errorf("logged %v", logged)
	}
	servertest.WriteFile(t, server.file+".next", servertest.PKCS8(t, servertest.Keys()["P-384"]))
	if err := os.Rename(server.file+".next", server.file); err != nil {
		t.Fatal(err)
	}
	gatewaytest.CheckAnswer(t, g.Get("/"), 200, "GET / with token-1")
}

// signedWith reports whether a key of that kind has signed a JWT.
func signedWith(text, kind string) bool {
	parsed, err := jose.ParseSigned(text, servertest.SigningAlgs)
	if err != nil {
		return false
	}
	_, err = parsed.Verify(servertest.Keys()[kind].Public())
	return err == nil
}
