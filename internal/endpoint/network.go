package endpoint

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/mask"
)

// This file turns network errors into Errors. Their own texts must not be logged: x/oauth2 puts the URL
// with its query into them, net/http anything that the peer sent, and crypto/x509 the words of a
// certificate.

// DialError means that a connection could not be established. A transport returns it so that a timeout
// of the connection counts as unreachable, and not as a timeout of the endpoint.
type DialError struct {
	Text string // for the log
}

func (e *DialError) Error() string { return e.Text }

// ProxyError means that a proxy did not connect to an https endpoint. A transport returns it: net/http
// only has the proxy's words, which can be anything.
type ProxyError struct {
	Status int // of the answer to CONNECT
}

func (e *ProxyError) Error() string {
	return fmt.Sprintf("a proxy did not connect to the endpoint, but answered with status %d", e.Status)
}

// asError classifies the error of a token request.
func asError(ctx context.Context, err error) *Error {
	if failure, ok := errors.AsType[*Error](err); ok {
		return failure
	}
	failure := &Error{Class: ClassUnreachable, Detail: mask.FirstRunes(networkDetail(err), maxDetail)}
	if proxy, ok := errors.AsType[*ProxyError](err); ok && proxy.Status == http.StatusProxyAuthRequired {
		// Another try would only bring the gateway closer to being locked out by the proxy.
		failure.Class, failure.Status = classForStatus(proxy.Status), proxy.Status
		return failure
	}
	_, dialing := errors.AsType[*DialError](err)
	var timeout net.Error
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || !dialing && errors.As(err, &timeout) && timeout.Timeout() {
		failure.Class = ClassTimeout
	}
	return failure
}

// networkDetail describes a network error. It uses only the text of types that are known not to contain
// the peer's bytes. Unknown types get a general description.
func networkDetail(err error) string {
	if dial, ok := errors.AsType[*DialError](err); ok {
		return dial.Error()
	}
	if proxy, ok := errors.AsType[*ProxyError](err); ok {
		return proxy.Error()
	}
	if verification, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return certificateDetail(verification)
	}
	if record, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return record.Msg
	}
	if alert, ok := errors.AsType[tls.AlertError](err); ok {
		return alert.Error()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok { // addresses and the system's words
		return op.Error()
	}
	var timeout net.Error
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		return "the endpoint speaks plain HTTP on this port, and not TLS"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "abandoned, since its configuration is no longer in use"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed before the answer was complete"
	default:
		return "no readable HTTP answer, be it from the endpoint or from a proxy before it"
	}
}

// certificateDetail describes why a certificate is not trusted, without the certificate's own words.
func certificateDetail(err *tls.CertificateVerificationError) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "the certificate is signed by an unknown authority; trust its CA with transport { tls_trust_pool … }"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "the certificate is for another host name"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "the certificate has expired or is not valid yet"
	}
	return "the certificate could not be verified"
}
