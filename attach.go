package oauthcc

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/dpop"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// carrier puts tokens into requests and takes them out again.
type carrier struct {
	header string   // canonical name of the field that carries the token
	scheme string   // before the token, with a trailing space; or empty
	fields []string // canonical names of the fields that no client can send: header, and that of the proof

	hasLookalikes bool // Caddy lets fields come that look like header

	prover        *dpop.Prover // nil without dpop
	toldRewritten atomic.Bool  // that the path changes after the proof for it was made
}

// preparedToken is a token with what this configuration makes of it.
type preparedToken struct {
	token     *tokencache.Token
	header    string            // value of the token's header field
	hash      string            // of the token, for proofs; empty without dpop
	staleFrom tokencache.Moment // from then on it is renewed in the background
}

func (c *carrier) prepare(t *tokencache.Token, ahead tokencache.RefreshAhead) preparedToken {
	prepared := preparedToken{token: t, header: t.Bearer, staleFrom: ahead.StaleFrom(t)}
	if c.scheme != tokencache.BearerScheme {
		prepared.header = c.scheme + t.Value
	}
	if c.prover != nil {
		prepared.hash = dpop.HashToken(t.Value)
	}
	return prepared
}

// field is memory for the values of the token's header field. Each attempt has its own: header operations change
// values in place, and a transport may still read those of the attempt before.
type field [1]string

// attach sets the token's header field and that of the proof, with this nonce or the last one if it is
// empty.
func (c *carrier) attach(r *http.Request, prepared preparedToken, nonce string, values *field) error {
	values[0] = prepared.header
	r.Header[c.header] = values[:]
	if c.prover == nil {
		return nil
	}
	if err := c.prover.Prove(r, prepared.hash, nonce); err != nil {
		return caddyhttp.Error(http.StatusInternalServerError, err)
	}
	return nil
}

// tokenlessWriter is the way of an answer out of oauth_cc. Handlers before it, such as header, can use placeholders of
// the request while they write an answer. By then the token is off the request.
type tokenlessWriter struct {
	caddyhttp.ResponseWriterWrapper
	carrier  *carrier
	request  *http.Request
	detached bool // the token is off the request, for good
}

func (c *carrier) tokenless(w http.ResponseWriter, r *http.Request) tokenlessWriter {
	return tokenlessWriter{ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, carrier: c, request: r}
}

// WriteHeader implements http.ResponseWriter. After an informational answer the request can still be sent again.
func (w *tokenlessWriter) WriteHeader(status int) {
	if status < 100 || status > 199 || status == http.StatusSwitchingProtocols {
		w.detach()
		w.ResponseWriter.WriteHeader(status)
		return
	}
	header := w.request.Header
	attached := make(http.Header, len(w.carrier.fields))
	for _, name := range w.carrier.fields {
		if values, ok := header[name]; ok {
			attached[name] = values
		}
	}
	w.carrier.detach(header)
	defer maps.Copy(header, attached)
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *tokenlessWriter) Write(data []byte) (int, error) {
	w.detach() // the status may have been left out
	return w.ResponseWriter.Write(data)
}

// ReadFrom implements io.ReaderFrom.
func (w *tokenlessWriter) ReadFrom(r io.Reader) (int64, error) {
	w.detach()
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError implements the flushing of http.ResponseController.
func (w *tokenlessWriter) FlushError() error {
	w.detach()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// detach takes token and proof off the request, once: the answer begins, and no attempt follows.
func (w *tokenlessWriter) detach() {
	if !w.detached {
		w.detached = true
		w.carrier.detach(w.request.Header)
	}
}

// detach takes token and proof away from a request.
func (c *carrier) detach(header http.Header) {
	for _, name := range c.fields {
		delete(header, name)
	}
}

// detachAtEnd takes token and proof away from a request when the handlers after this one are done with it:
// whatever runs then may send it elsewhere. attached is the header that r had before them, which other requests
// of Caddy's can share.
func (c *carrier) detachAtEnd(r *http.Request, attached http.Header) {
	c.detach(attached)
	c.detach(r.Header)
}

// hasClientToken reports whether the client has sent a token of its own.
func (c *carrier) hasClientToken(r *http.Request) bool {
	return slices.ContainsFunc(r.Header[c.header], func(value string) bool { return value != "" })
}

// removeClientToken takes away what the client has sent in the token's place; its trailers are filtered as they
// come. Proxy-Authorization stays: it is for a proxy, as which reverse_proxy takes it away. A client that names the
// token's header field in Connection would have the proxy strip our token as well (RFC 9110 §7.6.1).
func (c *carrier) removeClientToken(r *http.Request) {
	c.detach(r.Header)
	if c.hasLookalikes {
		c.removeLookalikes(r.Header)
	}
	lines := r.Header["Connection"]
	if !slices.ContainsFunc(lines, c.namesOwn) {
		return
	}
	var kept []string
	for _, line := range lines {
		var options strings.Builder
		for option := range strings.SplitSeq(line, ",") {
			if !c.isOwn(option) {
				options.WriteString(option)
				options.WriteByte(',')
			}
		}
		if options.Len() > 0 {
			kept = append(kept, strings.TrimSuffix(options.String(), ","))
		}
	}
	if len(kept) == 0 {
		delete(r.Header, "Connection")
		return
	}
	r.Header["Connection"] = kept
}

// caddyDropsLookalikes reports whether Caddy takes away header fields such as X_Api_Token and X.Api.Token, which are the
// same variable as X-Api-Token behind CGI, WSGI, PHP and their like. It does so from v2.11.5 on, and has since had an
// option for those that are to stay.
func caddyDropsLookalikes() bool {
	return caddy.StrictUnmarshalJSON([]byte(`{"expected_dot_headers":[]}`), new(caddyhttp.Server)) == nil
}

// hyphens makes the names of lookalikes equal.
var hyphens = strings.NewReplacer("_", "-", ".", "-")

// removeLookalikes takes away what looks like the token's header field.
func (c *carrier) removeLookalikes(header http.Header) {
	for name := range header {
		if len(name) == len(c.header) && strings.EqualFold(hyphens.Replace(name), c.header) {
			delete(header, name)
		}
	}
}

// namesOwn reports whether a line of Connection has the name of a field that no client can send.
func (c *carrier) namesOwn(line string) bool {
	for option := range strings.SplitSeq(line, ",") {
		if c.isOwn(option) {
			return true
		}
	}
	return false
}

func (c *carrier) isOwn(name string) bool {
	name = strings.TrimSpace(name)
	return slices.ContainsFunc(c.fields, func(own string) bool { return strings.EqualFold(name, own) })
}

// Interface guards
var (
	_ http.ResponseWriter = (*tokenlessWriter)(nil)
	_ io.ReaderFrom       = (*tokenlessWriter)(nil)
)
