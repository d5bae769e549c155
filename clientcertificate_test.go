package oauthcc

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/fleet"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/gatewaytest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/storagetest"
)

// certificateFolder has the files of a client certificate, and the CA that signs it.
type certificateFolder struct {
	t   *testing.T
	ca  *servertest.CA
	dir string
}

func newCertificateFolder(t *testing.T) certificateFolder {
	return certificateFolder{t: t, ca: servertest.NewCA(t), dir: t.TempDir()}
}

func (f certificateFolder) certificateFile() string { return filepath.Join(f.dir, "tls.crt") }

func (f certificateFolder) keyFile() string { return filepath.Join(f.dir, "tls.key") }

// put puts a certificate there that lives as long, from now on.
func (f certificateFolder) put(life time.Duration) {
	certificate, key := f.ca.ClientPair(f.t, "app", time.Now(), time.Now().Add(life))
	servertest.WriteFile(f.t, f.certificateFile(), certificate)
	servertest.WriteFile(f.t, f.keyFile(), key)
}

// client is the configuration of a client that is known by the certificate.
func (f certificateFolder) client() *Handler {
	return &Handler{
		TokenEndpoint: "https://127.0.0.1/token", AuthMethod: endpoint.AuthTLS,
		Transport: &reverseproxy.HTTPTransport{TLS: &reverseproxy.TLSConfig{
			ClientCertificateFile: f.certificateFile(), ClientCertificateKeyFile: f.keyFile(),
		}},
	}
}

// The endpoint no longer accepts the certificate, and only then the files are replaced.
func TestReplacedCertificateEndsThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newCertificateFolder(t)
		f.put(365 * 24 * time.Hour)
		g := newVirtualGateway(t, f.client())
		g.endpoint.becomes(servertest.Answer{Status: 401, Body: `{"error":"invalid_client"}`})
		g.load(100*time.Millisecond, 3*time.Minute, func(a virtualAnswer) {
			if a.status != http.StatusBadGateway || a.waited != 0 {
				t.Errorf("got %+v", a)
			}
		})
		if n := g.endpoint.count(); n < 4 || n > 5 { // after 15, 30, 60 and 120 s
			t.Errorf("asked %d times", n)
		}
		g.endpoint.becomes(nil)
		f.put(365 * 24 * time.Hour)
		if a := g.mustGet(); a.waited != 0 {
			t.Errorf("got %+v", a)
		}
	})
}

// Tokens are valid for an hour: the next token request is far away.
func TestUnusableCertificateIsToldOfWithoutARequest(t *testing.T) {
	for name, test := range map[string]struct {
		meanwhile func(f certificateFolder, g *virtualGateway)
		want      int // warnings
	}{
		"it stays so":        {func(certificateFolder, *virtualGateway) {}, 1},
		"it was in progress": {func(f certificateFolder, _ *virtualGateway) { f.put(48 * time.Hour) }, 0},
		"the configuration ends": {func(_ certificateFolder, g *virtualGateway) {
			if err := g.Cleanup(); err != nil {
				t.Error(err)
			}
		}, 0},
		"a request is being made": {func(_ certificateFolder, g *virtualGateway) {
			g.request.resolving <- struct{}{}
			time.AfterFunc(time.Minute, func() { <-g.request.resolving })
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newCertificateFolder(t)
				f.put(365 * 24 * time.Hour)
				g := newVirtualGateway(t, f.client())
				told := func() int {
					return g.logs.FilterMessage("the client certificate can't be used; the previous one stays in use").Len()
				}
				servertest.WriteFile(t, f.keyFile(), "not a key")
				g.mustGet()
				before := g.request.certificate.inUse.Load()
				time.Sleep(4 * time.Second)
				if told() != 0 {
					t.Error("told too early")
				}
				test.meanwhile(f, g)
				time.Sleep(10 * time.Minute)
				if n := told(); n != test.want {
					t.Errorf("told %d times, want %d", n, test.want)
				}
				if isNew := g.request.certificate.inUse.Load() != before; isNew != (name == "it was in progress") {
					t.Errorf("another certificate is in use: %t", isNew)
				}
			})
		})
	}
}

// A fetch that is refused with the certificate before is made again with the one that has come meanwhile.
func TestCertificateReplacedDuringAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newCertificateFolder(t)
		f.put(365 * 24 * time.Hour)
		g := newVirtualGateway(t, f.client())
		g.endpoint.becomes(servertest.Func(func(req *http.Request) (*http.Response, error) {
			f.put(365 * 24 * time.Hour)
			g.endpoint.becomes(nil)
			return servertest.Answer{Status: 401, Body: `{"error":"invalid_client"}`}.RoundTrip(req)
		}))
		if a := g.mustGet(); a.waited != 0 {
			t.Errorf("got %+v", a)
		}
	})
}

// Gateways whose certificates are replaced one after the other each get a token, and share one again in the end.
func TestFleetWhoseCertificateIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newCertificateFolder(t), certificateFolder{t: t, dir: t.TempDir()}
		second.ca = first.ca
		copyPair := func() {
			for from, to := range map[string]string{first.certificateFile(): second.certificateFile(), first.keyFile(): second.keyFile()} {
				content, err := os.ReadFile(from)
				if err != nil {
					t.Fatal(err)
				}
				servertest.WriteFile(t, to, string(content))
			}
		}
		first.put(365 * 24 * time.Hour)
		copyPair()
		folders := []certificateFolder{first, second}
		storage := storagetest.NewMemory()
		gateways := newFleet(t, storage, 2, func() *Handler {
			h := folders[0].client()
			folders = folders[1:]
			return h
		})
		for _, g := range gateways { // on machines of their own, the files have the same names
			g.tokens.sharing = fleet.New(storage, time.Duration(g.Timeout), g.tokens.ahead, []string{"tls"}, g.reporter.logger)
		}
		asked := gateways[0].endpoint
		settle(t, gateways)
		wantTokenRequests(t, asked, 1)

		expire := func() { time.Sleep(time.Hour + time.Second) }
		first.put(365 * 24 * time.Hour)
		expire()
		settle(t, gateways)
		wantTokenRequests(t, asked, 3)
		copyPair()
		expire()
		settle(t, gateways)
		wantTokenRequests(t, asked, 4)
		for _, g := range gateways {
			for _, entry := range g.logs.All() {
				if entry.Level > 0 {
					t.Errorf("logged %v", entry)
				}
			}
		}
	})
}

// Over HTTP/2, the connection before may never be idle.
func TestConnectionInUseIsNotUsedForTheNextCertificate(t *testing.T) {
	f := newCertificateFolder(t)
	f.put(24 * time.Hour)
	began, hold, seen := make(chan struct{}, 1), make(chan struct{}), make(chan string, 2)
	server := f.ca.Unstarted(t, f.ca.Server(t, "127.0.0.1", time.Now().Add(time.Hour)), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			began <- struct{}{}
			<-hold
		}
		seen <- r.Proto + " " + string(r.TLS.PeerCertificates[0].Raw)
	}), tls.RequireAndVerifyClientCert)
	server.EnableHTTP2 = true
	server.StartTLS()
	h := f.client()
	h.Transport.TLS.InsecureSkipVerify = true
	h.Transport.KeepAlive = &reverseproxy.KeepAlive{}
	h = handlerInMemory(t, h)
	get := func(path string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Error(err)
			return
		}
		res, err := h.tokens.transport.RoundTrip(req)
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	slow := make(chan struct{})
	go func() {
		defer close(slow)
		get("/slow")
	}()
	<-began
	before := h.request.certificate.inUse.Load()
	f.put(24 * time.Hour)
	if _, err := h.request.resolveWithin(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	get("/")
	after := h.request.certificate.inUse.Load()
	if got := <-seen; before == after || got != "HTTP/2.0 "+string(after.TLS.Certificate[0]) {
		t.Errorf("the certificate before is shown, or another protocol used: %.9q", got)
	}
	close(hold)
	<-slow
	if got := <-seen; got != "HTTP/2.0 "+string(before.TLS.Certificate[0]) {
		t.Errorf("the request in progress has come with %.9q", got)
	}
}

// Each certificate's connection is in use when the next one comes, and the last one's when the configuration ends.
func TestConnectionsOfReplacedCertificatesAreClosed(t *testing.T) {
	f := newCertificateFolder(t)
	f.put(24 * time.Hour)
	hold := make(chan struct{})
	opened, closed := make(chan struct{}, 10), make(chan struct{}, 10)
	server := f.ca.Unstarted(t, f.ca.Server(t, "127.0.0.1", time.Now().Add(time.Hour)), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-hold
	}), tls.RequireAndVerifyClientCert)
	server.EnableHTTP2 = true
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened <- struct{}{}
		}
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}
	server.StartTLS()
	h := f.client()
	h.Transport.TLS.InsecureSkipVerify = true
	h.Transport.KeepAlive = &reverseproxy.KeepAlive{IdleConnTimeout: caddy.Duration(time.Hour)}
	h = handlerInMemory(t, h)
	var answers []*http.Response
	for range 5 {
		f.put(24 * time.Hour)
		if _, err := h.request.resolveWithin(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		answers = append(answers, roundTrip(t, h.tokens.transport, server.URL))
	}
	if err := h.Cleanup(); err != nil {
		t.Error(err)
	}
	close(hold)
	for _, res := range answers {
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.ProtoMajor != 2 {
			t.Errorf("%s, %v", res.Proto, err)
		}
		res.Body.Close()
	}
	if len(opened) != len(answers) {
		t.Errorf("%d connections for %d certificates", len(opened), len(answers))
	}
	for range answers {
		gatewaytest.AwaitSignal(t, "the end of a connection", closed)
	}
}

// roundTrip makes a request. The caller closes the answer's body.
func roundTrip(t *testing.T, transport http.RoundTripper, url string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// The versions that Caddy was told of are spoken with each certificate.
func TestProtocolStaysWithTheNextCertificate(t *testing.T) {
	cleartext := httptest.NewUnstartedServer(http.NotFoundHandler())
	cleartext.Config.Protocols = new(http.Protocols)
	cleartext.Config.Protocols.SetHTTP1(true)
	cleartext.Config.Protocols.SetUnencryptedHTTP2(true)
	cleartext.Start()
	t.Cleanup(cleartext.Close)
	ca := servertest.NewCA(t)
	encrypted := func(speaksHTTP2 bool) string {
		server := ca.Unstarted(t, ca.Server(t, "127.0.0.1", time.Now().Add(time.Hour)), http.NotFoundHandler(), tls.NoClientCert)
		server.EnableHTTP2 = speaksHTTP2
		server.StartTLS()
		return server.URL
	}
	for name, test := range map[string]struct {
		versions, url, want string
	}{
		"h2c":                    {`["h2c","2"]`, cleartext.URL, "HTTP/2.0"},
		"h2c, over TLS":          {`["h2c","2"]`, encrypted(true), "HTTP/2.0"},
		"h2c, TLS with HTTP/1.1": {`["h2c","2"]`, encrypted(false), "HTTP/1.1"},
		"HTTP/2":                 {`["1.1","2"]`, encrypted(true), "HTTP/2.0"},
		"HTTP/1.1 only":          {`["1.1"]`, encrypted(true), "HTTP/1.1"},
		"cleartext":              {`["1.1","2"]`, cleartext.URL, "HTTP/1.1"},
	} {
		t.Run(name, func(t *testing.T) {
			transport := caddyTransport(t, `{"tls":{"insecure_skip_verify":true},"versions":`+test.versions+`}`).(*endpointTransport)
			t.Cleanup(transport.close)
			for range 3 {
				res := roundTrip(t, transport, test.url)
				res.Body.Close()
				if res.Proto != test.want {
					t.Errorf("got %s", res.Proto)
				}
				if err := transport.renew(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// A server that names the CAs it accepts is shown no certificate of another one, as Caddy does.
func TestCertificateIsShownToNobodyWhoDoesNotAcceptIt(t *testing.T) {
	f := newCertificateFolder(t)
	f.put(24 * time.Hour)
	h := handlerInMemory(t, f.client())
	other := servertest.NewCA(t)
	for _, test := range []struct {
		accepted [][]byte
		shown    int
	}{{nil, 1}, {[][]byte{f.ca.Certificate.RawSubject}, 1}, {[][]byte{append(slices.Clone(other.Certificate.RawSubject), 0)}, 0}} {
		got, err := h.Transport.Transport.TLSClientConfig.GetClientCertificate(&tls.CertificateRequestInfo{
			AcceptableCAs: test.accepted, SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, Version: tls.VersionTLS13,
		})
		if err != nil || len(got.Certificate) != test.shown {
			t.Errorf("%q: shows %d, %v", test.accepted, len(got.Certificate), err)
		}
	}
}

// With HTTP/3, Caddy keeps the certificate that it has read.
func TestCertificateOverHTTP3IsFixed(t *testing.T) {
	f := newCertificateFolder(t)
	f.put(24 * time.Hour)
	h := f.client()
	h.Transport.Versions = []string{"3"}
	h = handlerInMemory(t, h)
	one, err := h.request.resolveWithin(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	f.put(24 * time.Hour)
	if other, err := h.request.resolveWithin(t.Context(), nil); err != nil || other.Key() != one.Key() {
		t.Errorf("another certificate is taken, %v", err)
	}
}
