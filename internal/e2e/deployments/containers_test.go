package deployments

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

const (
	docker  = deploy + "docker/"
	compose = deploy + "compose/"
)

// composeFile is what the example uses of a Compose file. Any other field is an error.
type composeFile struct {
	Services map[string]struct {
		Build, Image, Restart string
		ReadOnly              bool     `yaml:"read_only"`
		CapDrop               []string `yaml:"cap_drop"`
		SecurityOpt           []string `yaml:"security_opt"`
		Tmpfs, Ports          []string
		MemLimit              string `yaml:"mem_limit"`
		Environment           map[string]string
		Volumes               []struct {
			Type, Source, Target string
			ReadOnly             bool `yaml:"read_only"`
			Bind                 struct {
				Create *bool `yaml:"create_host_path"`
			}
		}
		Healthcheck struct {
			Test              []string
			Interval, Timeout string
			StartPeriod       string `yaml:"start_period"`
			StartInterval     string `yaml:"start_interval"`
		}
	}
}

func readCompose(t *testing.T) composeFile {
	t.Helper()
	var c composeFile
	decodeStrictly(t, compose+"compose.yaml", read(t, compose+"compose.yaml"), &c)
	return c
}

// Both containers are run alike.
func TestContainerIsHealthyFromItsFirstTokenOn(t *testing.T) {
	for name, example := range map[string]struct {
		caddyfile string
		check     []string
	}{
		"docker":  {docker + "Caddyfile", dockerHealthcheck(t)},
		"compose": {compose + "config/Caddyfile", readCompose(t).Services["gateway"].Healthcheck.Test[1:]},
	} {
		t.Run(name, func(t *testing.T) {
			gatewaytest.Parallel(t)
			endpoint := gatewaytest.StartTokenServer(t)
			endpoint.SetAnswer(gatewaytest.Says(http.StatusServiceUnavailable, "text/plain", "later"))
			secrets := t.TempDir()
			servertest.WriteFile(t, filepath.Join(secrets, "partner"), "first")
			g := start(t, endpoint, read(t, example.caddyfile), "/run/secrets", secrets)
			check, err := url.Parse(example.check[len(example.check)-1])
			if err != nil || check.Host != "127.0.0.1:2019" || !slices.Equal(example.check[:3], []string{"wget", "-qO", "/dev/null"}) {
				t.Fatalf("the health check is %q: %v", example.check, err)
			}
			g.operate(t, http.MethodGet, check.Path, http.StatusServiceUnavailable)
			wantsSecret(endpoint, "first")
			g.operate(t, http.MethodGet, check.Path, http.StatusOK)
			if a := g.awaitAnswer(t, http.StatusOK); !strings.HasSuffix(a.Body, "with token-1") {
				t.Errorf("answered %q", a.Body)
			}

			// A file that is replaced in its folder is seen.
			wantsSecret(endpoint, "second")
			g.forgetToken(t)
			g.awaitAnswer(t, http.StatusBadGateway)
			servertest.WriteFile(t, filepath.Join(secrets, "partner"), "second")
			g.awaitAnswer(t, http.StatusOK)
		})
	}
}

var (
	versionArg  = regexp.MustCompile(`(?m)^ARG CADDY_VERSION=(\S+)$`)
	copied      = regexp.MustCompile(`(?m)^COPY ([^- ]\S*) (\S+)$`)
	healthcheck = regexp.MustCompile(`(?ms)^HEALTHCHECK .*?CMD (\[.*?\])$`)
	userOfImage = regexp.MustCompile(`(?m)^USER (\d+):(\d+)$`)
)

func dockerHealthcheck(t *testing.T) (command []string) {
	t.Helper()
	found := healthcheck.FindStringSubmatch(read(t, docker+"Dockerfile"))
	if found == nil {
		t.Fatal("the Dockerfile has no health check")
	}
	if err := json.Unmarshal([]byte(found[1]), &command); err != nil {
		t.Fatal(err)
	}
	return command
}

// The image has the newest Caddy that the module is tested with.
func TestImageHasTheCaddyOfTheModule(t *testing.T) {
	if got := versionArg.FindStringSubmatch(read(t, docker+"Dockerfile")); got == nil || got[1] != caddyVersion(t) {
		t.Errorf("the Dockerfile has Caddy %q, test/go.mod %s", got, caddyVersion(t))
	}
}

// caddyVersion is what test/go.mod requires.
func caddyVersion(t *testing.T) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^\tgithub.com/caddyserver/caddy/v2 v(\S+)$`).FindStringSubmatch(read(t, repository+"test/go.mod"))
	if found == nil {
		t.Fatal("test/go.mod requires no Caddy")
	}
	return found[1]
}

func TestComposeAndDockerFitTogether(t *testing.T) {
	dockerfile := read(t, docker+"Dockerfile")
	for _, file := range copied.FindAllStringSubmatch(dockerfile, -1) {
		wantExisting(t, docker+file[1])
	}
	user := userOfImage.FindStringSubmatch(dockerfile)
	if user == nil || user[1] == "0" {
		t.Errorf("the image runs as %q", user)
	}
	g := readCompose(t).Services["gateway"]
	wantExisting(t, compose+g.Build+"/Dockerfile")
	if !g.ReadOnly || !slices.Equal(g.CapDrop, []string{"ALL"}) {
		t.Errorf("the container may do more than it needs: %+v", g)
	}
	targets := make(map[string]string)
	for _, v := range g.Volumes {
		targets[v.Target] = v.Source
		if v.Type != "bind" || !v.ReadOnly || v.Bind.Create == nil || *v.Bind.Create {
			t.Errorf("%s is mounted as %+v", v.Target, v)
		}
	}
	wantExisting(t, compose+targets["/etc/caddy"]+"/Caddyfile")
	if strings.TrimSpace(read(t, compose+".gitignore")) != strings.TrimPrefix(targets["/run/secrets"], "./")+"/" {
		t.Errorf("git sees the secrets in %s", targets["/run/secrets"])
	}
	// The two Caddyfiles differ in their first line, which says what each is for.
	_, baked, _ := strings.Cut(read(t, docker+"Caddyfile"), "\n")
	if _, mounted, _ := strings.Cut(read(t, compose+"config/Caddyfile"), "\n"); mounted != baked {
		t.Errorf("got\n%s\nwant\n%s", mounted, baked)
	}
	if text := read(t, compose+"compose.yaml"); user != nil && !strings.Contains(text, "-o "+user[1]+" ") {
		t.Errorf("the secret does not belong to the user %s of the image", user[1])
	}
	pod := readManifest(t, withSecret+"gateway.yaml").deployment.Spec.Template.Spec.Containers[0]
	if g.Environment["GOMEMLIMIT"] != pod.Env[0].Value {
		t.Errorf("GOMEMLIMIT is %s and %s", g.Environment["GOMEMLIMIT"], pod.Env[0].Value)
	}
}

func wantExisting(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}
