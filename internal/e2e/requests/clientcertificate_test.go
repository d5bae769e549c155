package requests

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
)

// certificateServer is a token endpoint that knows its clients by their certificates.
type certificateServer struct {
	*gatewaytest.TokenServer
	ca          *servertest.CA
	caFile, url string
	folder      string // of the gateway's files

	mu      sync.Mutex
	refused string // the name in the certificates that it refuses
	seen    []clientSeen
}

// clientSeen is what a request came with.
type clientSeen struct{ name, protocol string }

func startCertificateServer(t *testing.T) *certificateServer {
	s := &certificateServer{TokenServer: gatewaytest.StartTokenServer(t), ca: servertest.NewCA(t)}
	s.caFile = s.ca.File(t)
	s.SetAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		name := r.TLS.PeerCertificates[0].Subject.CommonName
		s.mu.Lock()
		s.seen = append(s.seen, clientSeen{name, r.Proto})
		refused := s.refused == name
		s.mu.Unlock()
		if refused {
			gatewaytest.RefuseClients(w, r, n)
			return
		}
		s.Grant(w)
	})
	server := s.ca.Unstarted(t, s.ca.Server(t, "127.0.0.1", time.Now().Add(time.Hour)), s.TokenServer, tls.RequireAndVerifyClientCert)
	server.EnableHTTP2 = true
	server.StartTLS()
	s.url = server.URL

	// The gateway's files are where a link leads to, as in a volume of Kubernetes.
	s.folder = filepath.Join(t.TempDir(), "..data")
	s.publish(t, s.issue(t, "old"))
	return s
}

// pair is a certificate with its key, in PEM.
type pair struct{ certificate, key string }

func (s *certificateServer) issue(t *testing.T, name string) pair {
	certificate, key := s.ca.ClientPair(t, name, time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour))
	return pair{certificate, key}
}

func (s *certificateServer) certificateFile() string { return filepath.Join(s.folder, "tls.crt") }

func (s *certificateServer) keyFile() string { return filepath.Join(s.folder, "tls.key") }

// publish puts both files in place at once.
func (s *certificateServer) publish(t *testing.T, p pair) {
	version := t.TempDir()
	servertest.WriteFile(t, filepath.Join(version, "tls.crt"), p.certificate)
	servertest.WriteFile(t, filepath.Join(version, "tls.key"), p.key)
	if err := os.Symlink(version, s.folder+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.folder+".new", s.folder); err != nil {
		t.Fatal(err)
	}
}

func (s *certificateServer) refuse(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = name
}

// all is what the requests came with.
func (s *certificateServer) all() []clientSeen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

func (s *certificateServer) last() clientSeen {
	all := s.all()
	return all[len(all)-1]
}

func (s *certificateServer) options(clientID, transport string) string {
	return "oauth_cc " + s.url + "/token {\nclient_id " + clientID + "\nauth_method tls_client_auth\n" +
		"transport {\ntls_trust_pool file " + s.caFile + "\n" +
		"tls_client_auth " + s.certificateFile() + " " + s.keyFile() + "\n" + transport + "\n}\n}\n"
}

// eachTenant sends requests, each with a grant of its own, until it is stopped. Each has to be served.
func eachTenant(t *testing.T, g *gatewaytest.Gateway) (stop func()) {
	var tenants atomic.Int64
	var ended atomic.Bool
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for !ended.Load() {
				req := gatewaytest.ClientRequest(t, http.MethodGet, g.URL("/"), nil)
				req.Header.Set("X-Tenant", fmt.Sprint("tenant-", tenants.Add(1)))
				if a, err := gatewaytest.Exchange(gatewaytest.Client, req); err != nil || a.Status != http.StatusOK {
					t.Errorf("got %d %s, %v", a.Status, a.Body, err)
					return
				}
			}
		})
	}
	return func() {
		ended.Store(true)
		wait.Wait()
	}
}

// The endpoint accepts both certificates for a while, which is how certificates are rotated.
func TestClientCertificateIsReplacedUnderLoad(t *testing.T) {
	ways := map[string]func(t *testing.T, s *certificateServer, p pair, meanwhile func()){
		"the certificate first": func(t *testing.T, s *certificateServer, p pair, meanwhile func()) {
			servertest.WriteFile(t, s.certificateFile(), p.certificate)
			meanwhile()
			servertest.WriteFile(t, s.keyFile(), p.key)
		},
		"the key first": func(t *testing.T, s *certificateServer, p pair, meanwhile func()) {
			servertest.WriteFile(t, s.keyFile(), p.key)
			meanwhile()
			servertest.WriteFile(t, s.certificateFile(), p.certificate)
		},
		"by a link": func(t *testing.T, s *certificateServer, p pair, _ func()) { s.publish(t, p) },
	}
	for name, test := range map[string]struct{ protocol, transport string }{
		"HTTP/1.1":                 {"HTTP/1.1", "versions 1.1"},
		"HTTP/2":                   {"HTTP/2.0", ""},
		"HTTP/1.1 with keep-alive": {"HTTP/1.1", "versions 1.1\nkeepalive 1m"},
		"HTTP/2 with keep-alive":   {"HTTP/2.0", "keepalive 1m"},
		"name with a placeholder":  {"HTTP/2.0", "keepalive 1m\ntls_server_name {env.OAUTH_CC_TEST_NAME}"}, // Caddy makes such connections itself
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OAUTH_CC_TEST_NAME", "127.0.0.1")
			s, upstream := startCertificateServer(t), gatewaytest.StartAPI(t)
			g := gatewaytest.Start(t, s.options("{header.X-Tenant}", test.transport)+upstream.Proxy())
			stop := eachTenant(t, g)
			defer stop()
			more := func(what string) {
				t.Helper()
				n := len(s.all())
				gatewaytest.Await(t, what, func() bool { return len(s.all()) > n+8 })
			}
			used := "old"
			for next, replace := range ways {
				more("token requests before " + next)
				replace(t, s, s.issue(t, next), func() { more("token requests in the middle of " + next) })
				gatewaytest.Await(t, "the new certificate is shown, "+next, func() bool { return s.last().name == next })
				s.refuse(used) // also for requests in progress
				more("token requests after " + next)
				used = next
			}
			if last := s.last(); last.protocol != test.protocol {
				t.Errorf("asked with %s", last.protocol)
			}
		})
	}
}

func TestCertificateExpiryIsInTheMetrics(t *testing.T) {
	s, upstream := startCertificateServer(t), gatewaytest.StartAPI(t)
	config := gatewaytest.Monitored(s.options("app", "") + upstream.Proxy())
	g := gatewaytest.Start(t, config)
	name := fmt.Sprintf("certificate_expiry_timestamp_seconds{certificate=\"client\",client_id=\"app\",endpoint=\"%s/token\"}", strings.TrimPrefix(s.url, "https://"))
	want := func(when string, left time.Duration) {
		t.Helper()
		got := time.Until(time.Unix(int64(gatewaytest.Scrape(g)[name]), 0))
		if off := got - left; off < -time.Hour || off > time.Hour {
			t.Errorf("%s: expires in %v", when, got)
		}
	}
	want("at first", 24*time.Hour)
	certificate, key := s.ca.ClientPair(t, "new", time.Now(), time.Now().Add(1000*time.Hour))
	s.publish(t, pair{certificate, key})
	g.Get("/")
	want("replaced", 1000*time.Hour)
	g.Reload(config)
	want("after a reload", 1000*time.Hour)
	g.Reload(gatewaytest.Monitored(upstream.Proxy()))
	if value, ok := gatewaytest.Scrape(g)[name]; ok {
		t.Errorf("%v is left", value)
	}
}
