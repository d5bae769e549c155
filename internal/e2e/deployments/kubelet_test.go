package deployments

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
)

// probe is a probe of a container.
type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`

	Period    int `yaml:"periodSeconds"`
	Timeout   int `yaml:"timeoutSeconds"`
	Threshold int `yaml:"failureThreshold"`
}

// ask is one probe of a kubelet's: by the address of the pod, without keep-alive, within its timeout. It does not follow
// a redirect to another host. The status is 0 without an answer.
func (p probe) ask(t *testing.T, pod string) (status int, passed bool) {
	t.Helper()
	req := gatewaytest.ClientRequest(t, http.MethodGet, "http://"+pod+p.HTTPGet.Path, nil)
	req.Header.Set("User-Agent", "kube-probe/1.33")
	req.Header.Set("Accept", "*/*")
	kubelet := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		Timeout:   time.Duration(p.Timeout) * time.Second,
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			if next.URL.Hostname() != via[0].URL.Hostname() || len(via) >= 10 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	res, err := kubelet.Do(req)
	if err != nil {
		return 0, false
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 10<<10))
	return res.StatusCode, res.StatusCode >= 200 && res.StatusCode < 400
}

// await has the kubelet probe until it gets that status. A single probe can time out on a busy machine.
func (p probe) await(t *testing.T, pod string, want int) {
	t.Helper()
	gatewaytest.Await(t, fmt.Sprintf("the probe of %s gets %d", p.HTTPGet.Path, want), func() bool {
		status, passed := p.ask(t, pod)
		if passed && want >= 400 {
			t.Fatalf("the probe of %s passes with %d", p.HTTPGet.Path, status)
		}
		return status == want
	})
}
