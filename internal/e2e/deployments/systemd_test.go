package deployments

import (
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

const systemd = deploy + "systemd/"

// credentialsFolder is where systemd puts the credentials of caddy.service.
const credentialsFolder = "/run/credentials/caddy.service"

// reload has another process read the Caddyfile and hand it to the gateway, as an operator does in a shell.
func (g *gateway) reload(t *testing.T, status int) *gatewaytest.Process {
	t.Helper()
	p := gatewaytest.CaddyProcess(t, "reload", "--config", g.caddyfile, "--address", g.admin)
	p.Env = slices.DeleteFunc(p.Env, func(v string) bool { return strings.HasPrefix(v, "CREDENTIALS_DIRECTORY=") })
	p.RunTo(t, status)
	return p
}

func TestServiceReloadsWithItsCredential(t *testing.T) {
	gatewaytest.Parallel(t)
	loaded := regexp.MustCompile(`(?m)^LoadCredential=(\w+):(/\S+)$`).FindStringSubmatch(read(t, systemd+"oauth-cc.conf"))
	if loaded == nil {
		t.Fatal("the drop-in loads no credential")
	}
	folder := t.TempDir()
	servertest.WriteFile(t, filepath.Join(folder, loaded[1]), "s3cret")
	endpoint := gatewaytest.StartTokenServer(t)
	wantsSecret(endpoint, "s3cret")
	text := read(t, systemd+"Caddyfile")
	g := start(t, endpoint, text, credentialsFolder, folder)
	g.awaitAnswer(t, http.StatusOK)

	changed := strings.Replace(text, "client_id gateway\n", "client_id gateway\n\t\tscope orders\n", 1)
	g.write(t, changed)
	g.reload(t, 0)
	g.awaitAnswer(t, http.StatusOK)
	gatewaytest.Await(t, "the new configuration asks for its token", func() bool { return endpoint.Count() == 2 })

	// With the variable in place of the path, the process that reloads would look for /partner.
	g.write(t, strings.Replace(text, credentialsFolder, "{$CREDENTIALS_DIRECTORY}", 1))
	gatewaytest.Await(t, "the reload says what it did not find", func() bool { // that before can still reset connections
		return strings.Contains(g.reload(t, 1).Errors.String(), "{file./"+loaded[1]+"}")
	})
	g.awaitAnswer(t, http.StatusOK) // it goes on with what it has
}
