package deployments

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

const (
	withSecret         = deploy + "kubernetes/secret/"
	withServiceAccount = deploy + "kubernetes/service-account/"
)

func TestPodServesFromItsFirstTokenOn(t *testing.T) {
	gatewaytest.Parallel(t)
	m := readManifest(t, withSecret+"gateway.yaml")
	c := m.deployment.Spec.Template.Spec.Containers[0]
	endpoint := gatewaytest.StartTokenServer(t)
	unavailable := gatewaytest.Says(http.StatusServiceUnavailable, "text/plain", "later")
	endpoint.SetAnswer(unavailable)
	secret := newVolume(t, "secret", "s3cret")
	pod := start(t, endpoint, m.configMap.Data["Caddyfile"], "/run/secrets/partner", secret.folder)

	// The token endpoint is down: the pod lives, and gets no traffic yet.
	c.Startup.await(t, pod.probes, http.StatusServiceUnavailable)
	c.Liveness.await(t, pod.probes, http.StatusOK)
	endpoint.SetAnswer(nil)
	c.Startup.await(t, pod.probes, http.StatusOK)
	c.Readiness.await(t, pod.probes, http.StatusOK)
	if a := pod.awaitAnswer(t, http.StatusOK); !strings.HasSuffix(a.Body, "with token-1") {
		t.Errorf("answered %q", a.Body)
	}

	// It is down again, and there is no token left: that takes out no pod.
	endpoint.SetAnswer(unavailable)
	pod.forgetToken(t)
	c.Startup.await(t, pod.probes, http.StatusServiceUnavailable)
	c.Readiness.await(t, pod.probes, http.StatusOK)
	c.Liveness.await(t, pod.probes, http.StatusOK)
	if a := pod.awaitAnswer(t, http.StatusServiceUnavailable); a.Header.Get("Retry-After") == "" {
		t.Errorf("the client is not told when to come back: %v", a.Header)
	}
}

// The startup probe needs no prefetch: it has the token fetched by itself.
func TestStartupProbeFetchesTheFirstToken(t *testing.T) {
	gatewaytest.Parallel(t)
	m := readManifest(t, withSecret+"gateway.yaml")
	text := strings.Replace(m.configMap.Data["Caddyfile"], "\t\tprefetch\n", "", 1)
	pod := start(t, gatewaytest.StartTokenServer(t), text, "/run/secrets/partner", newVolume(t, "secret", "s3cret").folder)
	c := m.deployment.Spec.Template.Spec.Containers[0]
	c.Liveness.await(t, pod.probes, http.StatusOK)
	c.Startup.await(t, pod.probes, http.StatusOK)
	if n := pod.endpoint.Count(); n != 1 {
		t.Errorf("%d token requests", n)
	}
}

// A Service sends requests for some time after a pod was told to stop.
func TestPodServesForAWhileAfterSIGTERM(t *testing.T) {
	gatewaytest.Parallel(t)
	m := readManifest(t, withSecret+"gateway.yaml")
	// Longer than this test takes on any machine.
	text := strings.Replace(m.configMap.Data["Caddyfile"], "shutdown_delay 5s", "shutdown_delay 1h", 1)
	pod := start(t, gatewaytest.StartTokenServer(t), text, "/run/secrets/partner", newVolume(t, "secret", "s3cret").folder)
	pod.awaitAnswer(t, http.StatusOK)
	if err := pod.Process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	gatewaytest.Await(t, "it is going to stop", func() bool { return len(pod.log.with("http", "shutdown scheduled")) > 0 })
	pod.awaitAnswer(t, http.StatusOK)
	m.deployment.Spec.Template.Spec.Containers[0].Readiness.await(t, pod.probes, http.StatusOK)
}

func TestPodUsesAReplacedSecret(t *testing.T) {
	gatewaytest.Parallel(t)
	m := readManifest(t, withSecret+"gateway.yaml")
	endpoint := gatewaytest.StartTokenServer(t)
	wantsSecret(endpoint, "first")
	secret := newVolume(t, "secret", "first")
	pod := start(t, endpoint, m.configMap.Data["Caddyfile"], "/run/secrets/partner", secret.folder)
	pod.awaitAnswer(t, http.StatusOK)
	wantsSecret(endpoint, "second")
	pod.forgetToken(t)
	pod.awaitAnswer(t, http.StatusBadGateway)
	secret.set(t, "secret", "second")
	pod.awaitAnswer(t, http.StatusOK)
}

func TestPodUsesTheTokenOfItsServiceAccount(t *testing.T) {
	gatewaytest.Parallel(t)
	text := readManifest(t, withServiceAccount+"configmap.yaml").configMap.Data["Caddyfile"]
	source := projected(t)
	endpoint := gatewaytest.StartTokenServer(t)
	tokens := newVolume(t, source.Token.Path, assertion("first"))
	wants := func(assertion string) {
		endpoint.SetAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
			form, _ := url.ParseQuery(endpoint.Recorded()[n-1].Body)
			if form.Get("client_assertion") != assertion {
				gatewaytest.RefuseClients(w, r, n)
				return
			}
			endpoint.Grant(w)
		})
	}
	wants(assertion("first"))
	pod := start(t, endpoint, text, "/var/run/secrets/tokens", tokens.folder)
	pod.awaitAnswer(t, http.StatusOK)
	wants(assertion("second"))
	tokens.set(t, source.Token.Path, assertion("second"))
	pod.forgetToken(t)
	pod.awaitAnswer(t, http.StatusOK)
}

// assertion is a JWT in form only: nobody here looks at its signature.
func assertion(signature string) string { return "eyJhbGciOiJSUzI1NiJ9.e30." + signature }

// projected is the token that the pod with a service account has.
func projected(t *testing.T) (source struct {
	Token struct {
		Path, Audience string
		Expires        int `yaml:"expirationSeconds"`
	} `yaml:"serviceAccountToken"`
}) {
	t.Helper()
	for _, v := range readManifest(t, withServiceAccount+"deployment.yaml").deployment.Spec.Template.Spec.Volumes {
		for _, s := range v.Projected.Sources {
			return s
		}
	}
	t.Fatal("the pod has no token")
	return source
}

// What one object calls another is there.
func TestManifestFitsTogether(t *testing.T) {
	m := readManifest(t, withSecret+"gateway.yaml")
	pod := m.deployment.Spec.Template
	c := pod.Spec.Containers[0]

	ports := make(map[string]int)
	for _, p := range c.Ports {
		ports[p.Name] = p.Number
	}
	text := m.configMap.Data["Caddyfile"]
	for name, number := range ports {
		if !strings.Contains(text, fmt.Sprintf("\nhttp://:%d {\n", number)) {
			t.Errorf("no site for the port %s", name)
		}
	}
	wantPort := func(what, name string) {
		t.Helper()
		if ports[name] == 0 {
			t.Errorf("%s: the container has no port %q", what, name)
		}
	}
	for what, p := range map[string]probe{"startup": c.Startup, "readiness": c.Readiness, "liveness": c.Liveness} {
		wantPort(what, p.HTTPGet.Port)
		if p.Period == 0 || p.Timeout == 0 || p.Threshold == 0 {
			t.Errorf("the %s probe leaves something open: %+v", what, p)
		}
	}
	if c.Startup.HTTPGet.Path == c.Readiness.HTTPGet.Path || c.Readiness.HTTPGet.Path != c.Liveness.HTTPGet.Path {
		t.Errorf("probes ask for %s, %s and %s", c.Startup.HTTPGet.Path, c.Readiness.HTTPGet.Path, c.Liveness.HTTPGet.Path)
	}
	wantPort("the service", m.service.Spec.Ports[0].TargetPort)
	wantPort("the policy", m.networkPolicy.Spec.Ingress[0].Ports[0].Port)
	if len(m.networkPolicy.Spec.Ingress) != 1 || m.networkPolicy.Spec.Ingress[0].Ports[0].Port == c.Startup.HTTPGet.Port {
		t.Errorf("others than the kubelet reach the probes: %+v", m.networkPolicy.Spec.Ingress)
	}

	for what, labels := range map[string]map[string]string{
		"the deployment": m.deployment.Spec.Selector.MatchLabels,
		"the service":    m.service.Spec.Selector,
		"the policy":     m.networkPolicy.Spec.PodSelector.MatchLabels,
	} {
		if len(labels) != 1 || labels["app"] != pod.Metadata.Labels["app"] {
			t.Errorf("%s is about pods with %v, but there are those with %v", what, labels, pod.Metadata.Labels)
		}
	}

	volumes := make(map[string]podVolume)
	for _, v := range pod.Spec.Volumes {
		volumes[v.Name] = v
		if v.ConfigMap.Name != "" && v.ConfigMap.Name != m.configMap.Metadata.Name {
			t.Errorf("there is no ConfigMap %s", v.ConfigMap.Name)
		}
	}
	for _, mount := range c.Mounts {
		if _, ok := volumes[mount.Name]; !ok {
			t.Errorf("there is no volume %s", mount.Name)
		}
	}
	wantMounted(t, text, c.Mounts)

	var delay, grace int
	if _, err := fmt.Sscanf(text[strings.Index(text, "shutdown_delay"):], "shutdown_delay %ds\n\tgrace_period %ds", &delay, &grace); err != nil || delay+grace >= pod.Spec.GracePeriod {
		t.Errorf("%d and %d s, of %d: %v", delay, grace, pod.Spec.GracePeriod, err)
	}

	s := c.SecurityContext
	if s.Escalation == nil || *s.Escalation || !s.ReadOnlyRootFS || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) || !pod.Spec.SecurityContext.NonRoot {
		t.Errorf("the container may do more than it needs: %+v", s)
	}
}

// wantMounted wants the folders of the files in a Caddyfile mounted.
func wantMounted(t *testing.T, text string, mounts []volumeMount) {
	t.Helper()
	found := 0
	for rest := text; ; found++ {
		_, after, ok := strings.Cut(rest, "{file.")
		if !ok {
			break
		}
		var name string
		name, rest, _ = strings.Cut(after, "}")
		if !slices.ContainsFunc(mounts, func(m volumeMount) bool { return m.Path == path.Dir(name) && m.ReadOnly && m.Patch == "" }) {
			t.Errorf("%s is not mounted", name)
		}
	}
	if found == 0 {
		t.Errorf("no file in\n%s", text)
	}
}

// The patches change what is there, and the rest of the Caddyfile is the same.
func TestServiceAccountReplacesTheSecret(t *testing.T) {
	base := readManifest(t, withSecret+"gateway.yaml")
	config := readManifest(t, withServiceAccount+"configmap.yaml").configMap
	patch := readManifest(t, withServiceAccount+"deployment.yaml").deployment
	account := readManifest(t, withServiceAccount+"serviceaccount.yaml").serviceAccount
	k := readManifest(t, withServiceAccount+"kustomization.yaml").kustomization
	if len(k.Patches) != 2 || k.Patches[0].Path != "configmap.yaml" || k.Patches[1].Path != "deployment.yaml" ||
		!slices.Equal(k.Resources, []string{"../secret", "serviceaccount.yaml"}) {
		t.Errorf("the kustomization has %+v", k)
	}
	if r := readManifest(t, withSecret+"kustomization.yaml").kustomization.Resources; !slices.Equal(r, []string{"gateway.yaml"}) {
		t.Errorf("that with a secret has %q", r)
	}
	if config.Metadata.Name != base.configMap.Metadata.Name || patch.Metadata.Name != base.deployment.Metadata.Name {
		t.Errorf("the patches are for %s and %s", config.Metadata.Name, patch.Metadata.Name)
	}
	if pod := patch.Spec.Template.Spec; pod.ServiceAccount != account.Metadata.Name {
		t.Errorf("there is no service account %s", pod.ServiceAccount)
	}
	want := strings.Replace(base.configMap.Data["Caddyfile"],
		"\t\tclient_id gateway\n\t\tclient_secret {file./run/secrets/partner/secret}\n",
		"\t\tclient_assertion {file./var/run/secrets/tokens/partner}\n", 1)
	if got := config.Data["Caddyfile"]; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	c := patch.Spec.Template.Spec.Containers[0]
	if c.Name != base.deployment.Spec.Template.Spec.Containers[0].Name {
		t.Errorf("the patch is for the container %s", c.Name)
	}
	wantMounted(t, config.Data["Caddyfile"], c.Mounts)
	if source := projected(t); source.Token.Expires < 600 || source.Token.Audience == "" { // less is refused
		t.Errorf("the pod has %+v", source)
	}
	for _, mount := range base.deployment.Spec.Template.Spec.Containers[0].Mounts {
		deleted := slices.ContainsFunc(c.Mounts, func(m volumeMount) bool { return m.Path == mount.Path && m.Patch == "delete" })
		if deleted != (mount.Name == "partner") {
			t.Errorf("%s: deleted is %t", mount.Path, deleted)
		}
	}
}
