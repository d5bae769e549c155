package oauthcc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"golang.org/x/net/http2"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// clientCertificate is the certificate that the gateway shows to the token endpoint, from the files that transport
// names. Caddy's transport reads them once.
type clientCertificate struct {
	files     endpoint.CertificateFiles // only look uses it
	fixed     bool                      // the certificate can't be replaced
	transport *endpointTransport        // nil until it is provisioned

	inUse atomic.Pointer[endpoint.ClientCertificate] // nil until the first look

	// The look that tells why the files can't be used. Token requests can be a day apart.
	mu      sync.Mutex
	again   *time.Timer // nil without
	stopped bool
}

// newClientCertificate returns nil if the transport, which can be nil, has no certificate in a file.
func newClientCertificate(t *reverseproxy.HTTPTransport, timeout time.Duration) *clientCertificate {
	if t == nil || t.TLS == nil || t.TLS.ClientCertificateFile == "" || t.TLS.ClientCertificateKeyFile == "" {
		return nil
	}
	return &clientCertificate{
		files: endpoint.CertificateFiles{
			CertificatePath: t.TLS.ClientCertificateFile, KeyPath: t.TLS.ClientCertificateKeyFile,
			Patience: min(changeLookup/2, timeout/4), // so that the look and the fetch around it don't time out as well
		},
		fixed: slices.Equal(t.Versions, []string{"3"}), // Caddy gives nobody access to how its HTTP/3 connections are made
	}
}

// look reads the files. From then on, the transport uses what it returns. One caller at a time may look. stale says,
// once, why that is not the pair in the files.
func (c *clientCertificate) look() (pair *endpoint.ClientCertificate, stale, err error) {
	before := c.inUse.Load()
	if c.fixed && before != nil {
		return before, nil, nil
	}
	pair, stale, err = c.files.Read()
	if err != nil || pair == before {
		return pair, stale, err
	}
	c.inUse.Store(pair)
	if c.transport != nil {
		if err := c.transport.renew(); err != nil {
			return nil, nil, fmt.Errorf("transport: %w", err)
		}
	}
	return pair, stale, nil
}

// lookAgainAfter has f called later, unless that is planned already.
func (c *clientCertificate) lookAgainAfter(wait time.Duration, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.again != nil || c.stopped {
		return
	}
	c.again = time.AfterFunc(wait, func() {
		c.mu.Lock()
		stopped := c.stopped
		c.again = nil
		c.mu.Unlock()
		if !stopped {
			f()
		}
	})
}

// stop stops the timer for the next look. c can be nil.
func (c *clientCertificate) stop() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	if c.again != nil {
		c.again.Stop()
	}
}

func (c *clientCertificate) isStopped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopped
}

// showFrom has the transport show the certificate that is in use at each handshake.
func (c *clientCertificate) showFrom(t *endpointTransport) {
	c.transport = t
	if c.fixed {
		return
	}
	config := t.current.Load().Transport.TLSClientConfig
	config.Certificates, config.GetClientCertificate = nil, c.forServer
}

// forServer returns the certificate, or an empty one if the server says that it would not accept it, like
// crypto/tls does with Certificates.
func (c *clientCertificate) forServer(server *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	pair := c.inUse.Load()
	if isAccepted := server.SupportsCertificate(&pair.TLS) == nil; isAccepted {
		return &pair.TLS, nil
	}
	return new(tls.Certificate), nil
}

// endpointTransport is Caddy's HTTP transport for requests of the gateway's own.
type endpointTransport struct {
	current atomic.Pointer[connections]
}

// connections are those that are made with one certificate.
type connections struct {
	*reverseproxy.HTTPTransport
	retired atomic.Bool // no further requests are wanted
}

// newEndpointTransport uses a transport that is provisioned.
func newEndpointTransport(t *reverseproxy.HTTPTransport) *endpointTransport {
	transport := new(endpointTransport)
	transport.current.Store(&connections{HTTPTransport: t})
	return transport
}

// RoundTrip puts a replacer into the request's context, with which the transport resolves the placeholders of its
// options.
func (t *endpointTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	c := t.current.Load()
	res, err := c.HTTPTransport.RoundTrip(req.WithContext(
		context.WithValue(req.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer())))
	if err != nil {
		c.requestEnded()
		if dial, ok := errors.AsType[reverseproxy.DialError](err); ok {
			return nil, &endpoint.DialError{Text: dial.Error()}
		}
		return nil, err
	}
	res.Body = answerBody{res.Body, c}
	return res, nil
}

// answerBody is the body of an answer. The request ends when it is closed.
type answerBody struct {
	io.ReadCloser
	connections *connections
}

func (b answerBody) Close() error {
	err := b.ReadCloser.Close()
	b.connections.requestEnded()
	return err
}

// retire closes the connections when they have nothing to do: the idle ones now.
func (c *connections) retire() {
	c.retired.Store(true)
	c.Transport.CloseIdleConnections()
}

// requestEnded is called after each request. Without it, a connection over HTTP/2 that was in use when the certificate
// was replaced would stay open.
func (c *connections) requestEnded() {
	if c.retired.Load() {
		c.Transport.CloseIdleConnections()
	}
}

// renew has requests from now on use new connections: a certificate is shown only when one is made. The connections
// before are closed when they have nothing to do. To close the idle ones is not enough: over HTTP/2, a connection
// that is in use would be used for further requests.
func (t *endpointTransport) renew() error {
	before := t.current.Load()
	next := *before.HTTPTransport
	next.Transport = before.Transport.Clone()
	if _, speaksHTTP2 := before.Transport.TLSNextProto["h2"]; speaksHTTP2 {
		// What it has leads to the connections before. This is how Caddy makes it: what Protocols has, which is
		// for h2c, would turn off HTTP/1.1 over TLS if net/http made it.
		next.Transport.TLSNextProto = nil
		if err := http2.ConfigureTransport(next.Transport); err != nil { //nolint:staticcheck // as Caddy does
			return err
		}
	}
	t.current.Store(&connections{HTTPTransport: &next})
	before.retire()
	return nil
}

// close closes the connections when they have nothing to do. Nil if the transport was never provisioned.
func (t *endpointTransport) close() {
	if t != nil {
		t.current.Load().retire()
	}
}
