package deployments

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// gateway is a Caddy that runs as a process with the Caddyfile of an example.
type gateway struct {
	*gatewaytest.Process
	endpoint *gatewaytest.TokenServer
	upstream *gatewaytest.API

	caddyfile           string // where it is now
	replace             []string
	site, probes, admin string // where it listens
	log                 *output
}

// start runs a Caddyfile with stand-ins for the partner, on ports of the system's choice and on loopback alone. replace
// has what else is elsewhere here, such as the folder of the secret.
func start(t *testing.T, endpoint *gatewaytest.TokenServer, text string, replace ...string) *gateway {
	t.Helper()
	addrs := gatewaytest.FreeAddrs(t, 3)
	g := &gateway{endpoint: endpoint, upstream: gatewaytest.StartAPI(t), site: addrs[0], probes: addrs[1], admin: addrs[2], log: new(output)}
	port := func(addr string) string { return strings.TrimPrefix(addr, "127.0.0.1") }
	g.replace = append(replace,
		"https://auth.partner.example/oauth/token", endpoint.URL+"/oauth/token",
		"https://api.partner.example", g.upstream.URL,
		":8080", port(g.site), ":9091", port(g.probes), "localhost:2019", g.admin)
	g.Process = gatewaytest.CaddyProcess(t, "run", "--config", "Caddyfile")
	g.caddyfile = filepath.Join(g.Home, "Caddyfile")
	g.write(t, text)
	g.Env = append(g.Env, "CADDY_ADMIN="+g.admin)
	g.Stderr = g.log
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = g.Process.Process.Kill()
		_ = g.Wait()
		if t.Failed() {
			t.Log(g.log)
		}
	})
	return g
}

var globalOptions = regexp.MustCompile(`(?m)^\{\n`)

// write puts a Caddyfile in the place of the one that the gateway has read.
func (g *gateway) write(t *testing.T, text string) {
	t.Helper()
	if formatted := string(caddyfile.Format([]byte(text))); formatted != text {
		t.Errorf("caddy fmt makes it\n%s", formatted)
	}
	text = strings.NewReplacer(g.replace...).Replace(text)
	const bind = "{\n\tdefault_bind 127.0.0.1\n"
	if options := globalOptions.FindStringIndex(text); options != nil {
		text = text[:options[0]] + bind + text[options[1]:]
	} else {
		text = bind + "}\n" + text
	}
	servertest.WriteFile(t, g.caddyfile, text)
}

// awaitAnswer sends requests until one has that status.
func (g *gateway) awaitAnswer(t *testing.T, status int) gatewaytest.Answer {
	t.Helper()
	var answer gatewaytest.Answer
	gatewaytest.Await(t, "a request is answered with "+http.StatusText(status), func() bool {
		var err error
		answer, err = gatewaytest.Exchange(gatewaytest.Client, gatewaytest.ClientRequest(t, http.MethodGet, "http://"+g.site+"/orders/1", nil))
		return err == nil && answer.Status == status
	})
	return answer
}

// operate asks the admin endpoint until it answers with that status.
func (g *gateway) operate(t *testing.T, method, path string, status int) string {
	t.Helper()
	var answer gatewaytest.Answer
	gatewaytest.Await(t, method+" "+path, func() bool {
		var err error
		answer, err = gatewaytest.Exchange(gatewaytest.Client, gatewaytest.ClientRequest(t, method, "http://"+g.admin+path, nil))
		return err == nil && answer.Status == status
	})
	return answer.Body
}

// forgetToken has the gateway without a token.
func (g *gateway) forgetToken(t *testing.T) {
	t.Helper()
	var list gatewaytest.TokenList
	gatewaytest.DecodeStrictly(t, g.operate(t, http.MethodGet, "/oauth_cc/tokens", http.StatusOK), &list)
	if len(list.Tokens) != 1 {
		t.Fatalf("there are %d tokens: %+v", len(list.Tokens), list)
	}
	g.operate(t, http.MethodDelete, "/oauth_cc/tokens/"+list.Tokens[0].ID, http.StatusNoContent)
}

// output collects what a process writes while it runs.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// with returns the entries of a logger with a message.
func (o *output) with(logger, message string) []map[string]any {
	var found []map[string]any
	for line := range strings.Lines(o.String()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["logger"] == logger && entry["msg"] == message {
			found = append(found, entry)
		}
	}
	return found
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// volume is a folder whose files are replaced as Kubernetes does it: all at once, by a link.
type volume struct {
	folder   string
	versions int
}

func newVolume(t *testing.T, name, content string) *volume {
	t.Helper()
	v := &volume{folder: t.TempDir()}
	v.set(t, name, content)
	if err := os.Symlink(filepath.Join("..data", name), filepath.Join(v.folder, name)); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *volume) set(t *testing.T, name, content string) {
	t.Helper()
	v.versions++
	version := "..version" + strings.Repeat("i", v.versions)
	if err := os.Mkdir(filepath.Join(v.folder, version), 0o700); err != nil {
		t.Fatal(err)
	}
	servertest.WriteFile(t, filepath.Join(v.folder, version, name), content)
	link := filepath.Join(v.folder, "..data_tmp")
	if err := os.Symlink(version, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link, filepath.Join(v.folder, "..data")); err != nil {
		t.Fatal(err)
	}
}

// wantsSecret is an endpoint that grants nothing without this secret.
func wantsSecret(endpoint *gatewaytest.TokenServer, secret string) {
	endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		if _, sent, _ := r.BasicAuth(); sent != secret {
			gatewaytest.RefuseClients(w, r, n)
			return
		}
		endpoint.Grant(w)
	})
}
