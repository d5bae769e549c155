// Package oauthcc makes a Caddy gateway an OAuth 2.0 client-credentials client:
// it obtains access tokens from a token endpoint (RFC 6749 §4.4), caches them,
// attaches them to the requests that pass through and renews them, so that
// neither the gateway's clients nor their requests ever hold a credential.
package oauthcc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// Defaults of the options; the field comments of Handler repeat them for users.
const (
	defaultTimeout      = 10 * time.Second
	defaultTTL          = 5 * time.Minute
	defaultReplayBuffer = 1 << 20
	defaultReplayTotal  = 64 << 20
	defaultMaxTokens    = 10000
)

// Handler is a middleware that attaches an OAuth 2.0 access token to every
// request, obtained with the client-credentials grant. A token that the upstream
// rejects is renewed and the request sent once more, unseen by the client.
//
// The placeholders {env.*}, {file.*} and {system.*} can be used in token_endpoint, issuer,
// client_id, client_secret, scopes, audience, resource, params and
// request_headers. They are resolved at every token request, so a rotated secret
// needs no reload. A literal brace is written \{.
//
// Placeholders of the request, {http.*} and those that a map handler sets, can be used in the
// same options but issuer. Each combination of their values is a grant of its own then,
// with a token of its own. A placeholder that is empty fails the request.
//
// Placeholders it sets on each request, for logs and error routes:
//
// Placeholder | Description
// ------------|-------------
// `{http.oauth_cc.status}` | Where the request's token came from: `fresh` (the cache), `stale` (the cache, while the next one is due or being fetched), `fetched` (this request waited for it), `replayed` (a renewed one, after the upstream rejected the first) or `none`
// `{http.oauth_cc.error}` | Why there was no token: an error code registered for OAuth, such as `invalid_client`, or `refused`, `unreachable`, `timeout`, `server_error`, `invalid_response`
type Handler struct {
	// The URL of the token endpoint (RFC 6749 §3.2): absolute, https, without user
	// info and fragment. http is accepted for loopback hosts. Redirects are never
	// followed. Required, unless there is an issuer.
	TokenEndpoint string `json:"token_endpoint,omitempty"`

	// The authorization server's issuer identifier, instead of token_endpoint: the endpoint
	// is then discovered in the server's metadata (RFC 8414, else OpenID Connect Discovery
	// 1.0), which has to name exactly this issuer and an endpoint of the same scheme. The
	// metadata is read with the first token, and again after an hour or when the endpoint
	// fails. With a client certificate in transport, `mtls_endpoint_aliases` is used.
	// https, without query and fragment; http is accepted for loopback hosts.
	Issuer string `json:"issuer,omitempty"`

	// How long one fetch of a token may take as a whole, retries included.
	// Each try gets half of it. Default: `10s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How to connect to the token endpoint: TLS trust, client certificate, proxy,
	// resolver, timeouts, as in reverse_proxy's HTTP transport.
	Transport *reverseproxy.HTTPTransport `json:"transport,omitempty"`

	// Allow a token endpoint with cleartext http that is not on a loopback host.
	// The credential can then be read by anyone on the way. Default: false.
	InsecureHTTP bool `json:"insecure_http,omitempty"`

	// The client identifier issued by the authorization server. Required unless
	// auth_method is `none`.
	ClientID string `json:"client_id,omitempty"`

	// The client's secret. Best given as a placeholder, {env.*} or {file.*}.
	ClientSecret string `json:"client_secret,omitempty"`

	// How the client authenticates at the token endpoint: `client_secret_basic`
	// (HTTP Basic, id and secret form-encoded, RFC 6749 §2.3.1),
	// `client_secret_basic_raw` (HTTP Basic with both as they are, which some
	// servers expect), `client_secret_post` (both in the body), `client_secret_jwt` and
	// `private_key_jwt` (an assertion signed with the secret or with signing_key, RFC 7523
	// §2.2), `tls_client_auth` (the client certificate in transport, RFC 8705 §2) or
	// `none` (the client_id alone). Default: `client_secret_basic`.
	AuthMethod string `json:"auth_method,omitempty"`

	// How the client's assertions are made; required with `private_key_jwt`, optional
	// with `client_secret_jwt`.
	SigningKey *SigningKey `json:"signing_key,omitempty"`

	// How the token request's body is written: `form` (RFC 6749) or `json`, an
	// object with the same members. A parameter with several values becomes an
	// array. Default: `form`.
	RequestFormat string `json:"request_format,omitempty"`

	// The scopes to ask for, sent joined by spaces. Default: none, which leaves
	// the choice to the server.
	Scopes []string `json:"scopes,omitempty"`

	// Values of the `audience` parameter that some servers expect.
	Audience []string `json:"audience,omitempty"`

	// Values of the `resource` parameter (RFC 8707): absolute URIs without
	// fragment.
	Resource []string `json:"resource,omitempty"`

	// Further parameters of the token request. `grant_type` replaces
	// `client_credentials`, for servers that call it otherwise.
	Params map[string][]string `json:"params,omitempty"`

	// Further header fields of the token request.
	RequestHeaders map[string][]string `json:"request_headers,omitempty"`

	// How long a token is used when neither `expires_in` nor the token itself, as a
	// JWT, tells its lifetime. Default: `5m`.
	DefaultTTL caddy.Duration `json:"default_ttl,omitempty"`

	// How long before it expires a token is renewed, by the first request that uses it
	// then and without that having to wait: a duration such as `2m`, though half of the
	// lifetime at the most; a share of the lifetime such as `25%`, up to 90%; or `off`.
	// Moved by up to a fifth from one token to the next, so that the gateways of a
	// fleet don't renew at once. If the endpoint recommends a time with `refresh_in`,
	// the earlier one holds. Default: a quarter of the lifetime, `5m` at the most.
	RefreshAhead string `json:"refresh_ahead,omitempty"`

	// Get the first token when the configuration has started, without delaying or
	// failing that, and keep it renewed while there are no requests. Default: false, a
	// token that is not used expires, and the next request waits for another.
	Prefetch bool `json:"prefetch,omitempty"`

	// The request header that carries the token upstream. What the client sent
	// under that name is removed. Default: `Authorization` with the scheme
	// `Bearer`.
	TokenHeader *TokenHeader `json:"token_header,omitempty"`

	// Pass a request that brings its own token header on untouched, without a
	// token of the gateway's. Default: false.
	KeepClientAuthorization bool `json:"keep_client_authorization,omitempty"`

	// The statuses with which the upstream rejects a token. Such a response is
	// held, the token renewed and the request sent once more, unless its
	// `WWW-Authenticate` challenge says that the token was not at fault. An empty
	// list turns this off. Default: `[401]`.
	RetryStatus []int `json:"retry_status,omitzero"`

	// How much of the request bodies is kept in memory so that a rejected request
	// can be sent again.
	ReplayBuffer *ReplayBuffer `json:"replay_buffer,omitempty"`

	// What the upstream in the end still answers with a status of retry_status reaches
	// the client with this one, without its `WWW-Authenticate` challenge, which is meant
	// for the gateway. Default: off, the upstream's answer passes through.
	MaskRejection int `json:"mask_rejection,omitempty"`

	// Proxy the request without a token when none can be had, instead of answering
	// with an error. Default: false.
	AllowWithoutToken bool `json:"allow_without_token,omitempty"`

	// How many tokens are kept when placeholders of the request make the grant differ from
	// request to request. When there are more, those that were not used for longest go.
	// Without such placeholders it is refused. Default: 10000.
	MaxTokens int `json:"max_tokens,omitempty"`

	// Share tokens with other gateways that use the same storage, where they are encrypted with
	// the client's credential: a storage module, or an empty object for the storage that
	// Caddy is configured with. Not with dpop, nor with auth_method `none`. Default: off.
	StorageRaw json.RawMessage `json:"storage,omitempty" caddy:"namespace=caddy.storage inline_key=module"`

	// Bind the token to a key of this process and prove its possession with each request
	// (DPoP, RFC 9449): the origin by which the upstream knows itself, such as
	// `https://api.example.com`. A proof is for the method and the path that the request
	// has in this handler, so nothing after it may change them. Tokens that are not bound
	// are refused. Default: off.
	DPoP string `json:"dpop,omitempty"`

	// What can be derived from the options, set up by Provision.
	retryStatus []int
	headerName  string   // canonical
	ownHeaders  []string // that no client can send: headerName, and that of the proof
	scheme      string   // with a trailing space, or empty
	replayLimit int64
	budget      *replayBudget

	refreshAhead    refreshAhead
	hasPlaceholders bool
	resolving       chan struct{} // holds one element while placeholders are resolved
	lookedInVain    atomic.Pointer[time.Time]

	assertions    *SigningKey // with defaults
	signingKey    *keyFile    // nil without
	prover        *prover     // nil without dpop
	holdsProofKey bool

	client         *tokenClient
	trust          []string // see grantKey
	certificateKey []byte
	sharing        *sharing // nil without storage

	perRequest []requestPlaceholder
	fetching   chan struct{} // holds an element for each fetch of a grant that differs from request to request

	key        grantKey
	source     *grantSource // nil if the grant differs from request to request
	table      *grantTable  // nil if it does not
	acquired   bool
	held       atomic.Pointer[heldToken]
	ctx        caddy.Context
	public     grantRequest // what may be told of the token request
	labels     metricLabels
	metrics    *grantMetrics // nil until it is provisioned
	counted    bool
	keeper     *keeper          // nil without prefetch
	events     *caddyevents.App // nil without Caddy's configuration, as is eventQueue
	eventQueue *eventQueue
	running    atomic.Bool // its configuration runs
	logger     *zap.Logger
}

// TokenHeader tells in which request header the token travels upstream.
type TokenHeader struct {
	// The name of the header field.
	Name string `json:"name,omitempty"`

	// The authentication scheme before the token. Empty: the token stands alone.
	Scheme string `json:"scheme,omitempty"`
}

// ReplayBuffer bounds the memory for replaying request bodies.
type ReplayBuffer struct {
	// Bytes to keep of one request's body. A request of which more was read when
	// the upstream rejected it is not sent again. Default: 1 MiB.
	PerRequest int64 `json:"per_request,omitempty"`

	// Bytes to keep over all requests of this handler. Default: 64 MiB, or the size
	// per request if that is larger.
	Total int64 `json:"total,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.oauth_cc",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision checks the options, resolves their placeholders once to see that they
// can be, sets up the way to the token endpoint and joins the token cache.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.ctx, h.logger = ctx, ctx.Logger()
	if err := h.provisionOptions(); err != nil {
		return err
	}
	if err := h.provisionProofs(ctx); err != nil {
		return err
	}
	request, err := h.notePlaceholders(ctx)
	if err != nil {
		return err
	}
	if err := h.provisionMaxTokens(); err != nil {
		return err
	}
	if h.key, err = h.grantKey(request); err != nil {
		return err
	}
	h.hasPlaceholders = request.key() != h.template().key()
	h.resolving = make(chan struct{}, 1)
	if h.Transport != nil && h.Transport.TLS != nil && request.isCleartext() {
		return errors.New("transport: TLS options have no effect on an http token_endpoint or issuer; use https")
	}
	if err := h.provisionTransport(ctx); err != nil {
		return err
	}
	if err := h.provisionStorage(ctx); err != nil {
		return err
	}
	if err := h.joinCache(); err != nil {
		return err
	}
	h.public = h.publicRequest(request)
	if err := h.provisionMetrics(ctx, request); err != nil {
		return err
	}
	if h.Prefetch {
		h.keeper = newKeeper()
	}
	return h.enterDirectory(ctx)
}

// joinCache acquires the token of the configuration from the cache, or the table of tokens.
func (h *Handler) joinCache() (err error) {
	if h.perRequest == nil {
		var grant *cachedGrant
		if grant, err = acquireGrant(h.key, newCachedGrant); err == nil {
			h.source, h.acquired = &grantSource{h: h, grant: grant}, true
		}
		return err
	}
	if h.table, err = acquireGrant(h.key, func() *grantTable { return newGrantTable(h.MaxTokens) }); err == nil {
		h.fetching, h.acquired = make(chan struct{}, maxFetches), true
	}
	return err
}

// provisionMaxTokens checks the options that have to do with the number of grants.
func (h *Handler) provisionMaxTokens() error {
	switch {
	case h.MaxTokens < 0:
		return fmt.Errorf("max_tokens: must be greater than zero, such as %d", defaultMaxTokens)
	case h.MaxTokens > 0 && h.perRequest == nil:
		return errors.New("max_tokens: there is one token, since no option has a placeholder of the request; remove max_tokens")
	case h.Prefetch && h.perRequest != nil:
		return fmt.Errorf("prefetch: without a request nobody knows what {%s} stands for; remove prefetch", h.perRequest[0].name)
	case h.MaxTokens == 0:
		h.MaxTokens = defaultMaxTokens
	}
	return nil
}

// Cleanup stops the prefetching, leaves the token cache, which keeps the token as long
// as another configuration uses it, and closes idle connections to the token endpoint.
func (h *Handler) Cleanup() error {
	handlers.remove(h)
	h.keeper.end()
	h.sharing.end()
	var errs []error
	if h.acquired {
		h.acquired = false // requests that outlive the configuration still use the grant
		errs = append(errs, releaseGrant(h.key))
	}
	if h.holdsProofKey {
		h.holdsProofKey = false
		errs = append(errs, releaseProofKey())
	}
	if h.counted {
		h.counted = false // as they use the metrics
		errs = append(errs, releaseMetrics(h.labels))
	}
	if h.Transport != nil {
		errs = append(errs, h.Transport.Cleanup())
	}
	return errors.Join(errs...)
}

// provisionOptions applies defaults and refuses what can't be meant. What depends
// on placeholders is left to resolve.
func (h *Handler) provisionOptions() error {
	if h.TokenEndpoint == "" && h.Issuer == "" {
		return errors.New("token_endpoint: missing; give the URL of the token endpoint, such as https://auth.example.com/oauth/token, or the issuer")
	}
	if h.TokenEndpoint != "" && h.Issuer != "" {
		return errors.New("issuer: token_endpoint is given as well, and the issuer is there to discover it; keep one of them (signing_key's audience sets the aud of assertions)")
	}
	if h.AuthMethod == "" {
		h.AuthMethod = authSecretBasic
	}
	if err := h.provisionSigningKey(); err != nil {
		return err
	}
	if h.RequestFormat == "" {
		h.RequestFormat = formatForm
	}
	if h.RequestFormat != formatForm && h.RequestFormat != formatJSON {
		return fmt.Errorf("request_format: unknown format %q; use %s or %s", h.RequestFormat, formatForm, formatJSON)
	}
	if err := checkDuration("timeout", &h.Timeout, defaultTimeout); err != nil {
		return err
	}
	if err := checkDuration("default_ttl", &h.DefaultTTL, defaultTTL); err != nil {
		return err
	}
	var err error
	if h.refreshAhead, err = parseRefreshAhead(h.RefreshAhead); err != nil {
		return err
	}
	if err := h.provisionTokenHeader(); err != nil {
		return err
	}
	return h.provisionReplay()
}

// provisionSigningKey checks how assertions are made. The key itself is read by resolve.
func (h *Handler) provisionSigningKey() error {
	if h.SigningKey == nil {
		if h.AuthMethod == authPrivateKeyJWT {
			return fmt.Errorf("signing_key: missing; auth_method %s needs the file with the private key", authPrivateKeyJWT)
		}
		h.assertions = new(SigningKey)
		return h.assertions.provision()
	}
	switch {
	case !usesAssertion(h.AuthMethod):
		return fmt.Errorf("signing_key: auth_method %s signs nothing; use %s, or remove it", h.AuthMethod, authPrivateKeyJWT)
	case h.AuthMethod == authPrivateKeyJWT && h.SigningKey.File == "":
		return fmt.Errorf("signing_key: no file; auth_method %s needs that of the private key: signing_key <file>", authPrivateKeyJWT)
	case h.AuthMethod == authSecretJWT && h.SigningKey.File != "":
		return fmt.Errorf("signing_key: auth_method %s signs with the client_secret; remove the file, or use %s", authSecretJWT, authPrivateKeyJWT)
	}
	options := *h.SigningKey
	h.assertions = &options
	if err := h.assertions.provision(); err != nil {
		return err
	}
	if h.SigningKey.File == "" {
		return nil
	}
	p := placeholders{repl: caddy.NewReplacer()}
	h.signingKey = &keyFile{path: p.value("signing_key", h.SigningKey.File), alg: h.SigningKey.Alg}
	if p.err == nil && h.signingKey.isReadableByAll() {
		h.logger.Warn("every user of this machine can read the signing key; take the right away with chmod o-r",
			zap.String("signing_key", h.signingKey.path))
	}
	return p.err
}

// provisionProofs acquires the key that tokens are bound to.
func (h *Handler) provisionProofs(ctx caddy.Context) error {
	if h.DPoP == "" {
		return nil
	}
	if h.TokenHeader != nil {
		return errors.New("dpop: the token travels in Authorization with the scheme DPoP (RFC 9449 §7.1); remove token_header")
	}
	p := placeholders{repl: caddy.NewReplacer()}
	origin, err := parseOrigin(p.value("dpop", h.DPoP))
	if err = cmp.Or(p.err, err); err != nil {
		return err
	}
	if err := checkPlacement(ctx); err != nil {
		return err
	}
	key, err := acquireProofKey()
	if err != nil {
		return fmt.Errorf("dpop: making a key: %w", err)
	}
	h.holdsProofKey = true
	h.prover = &prover{key: key, origin: origin, nonce: key.resources.of(origin)}
	h.scheme = typeDPoP + " "
	h.ownHeaders = append(h.ownHeaders, proofHeader)
	return nil
}

func (h *Handler) provisionTokenHeader() error {
	header := TokenHeader{Name: "Authorization", Scheme: typeBearer}
	if h.TokenHeader != nil {
		header = *h.TokenHeader
	}
	if !httpguts.ValidHeaderFieldName(header.Name) {
		return fmt.Errorf("token_header: %q is not a valid header name; use letters, digits and hyphens", header.Name)
	}
	if header.Scheme != "" && !httpguts.ValidHeaderFieldName(header.Scheme) {
		return fmt.Errorf("token_header: %q is not a valid authentication scheme; use a single word such as Bearer", header.Scheme)
	}
	h.headerName = textproto.CanonicalMIMEHeaderKey(header.Name)
	if slices.Contains(connectionHeaders, h.headerName) {
		return fmt.Errorf("token_header: %s belongs to the connection and would not reach the upstream; use another header", h.headerName)
	}
	if header.Scheme != "" {
		h.scheme = header.Scheme + " "
	}
	h.ownHeaders = []string{h.headerName}
	return nil
}

// connectionHeaders are not forwarded by a proxy (RFC 9110 §7.6.1) or are written
// by the HTTP library from other sources.
var connectionHeaders = []string{
	"Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

func (h *Handler) provisionReplay() error {
	h.retryStatus = h.RetryStatus
	if h.RetryStatus == nil {
		h.retryStatus = []int{http.StatusUnauthorized}
	}
	for _, status := range h.retryStatus {
		if !isErrorStatus(status) {
			return fmt.Errorf("retry_status: %d is not a status of a rejection; use one from 400 to 599", status)
		}
	}
	if h.MaskRejection != 0 && !isErrorStatus(h.MaskRejection) {
		return fmt.Errorf("mask_rejection: %d is not a status of an error; use one from 400 to 599", h.MaskRejection)
	}
	if h.MaskRejection != 0 && len(h.retryStatus) == 0 {
		return errors.New("mask_rejection: without retry_status nothing counts as a rejection; name the statuses in retry_status")
	}
	buffer := ReplayBuffer{PerRequest: defaultReplayBuffer, Total: defaultReplayTotal}
	if h.ReplayBuffer != nil {
		if len(h.retryStatus) == 0 && h.DPoP == "" {
			return errors.New("replay_buffer: without retry_status no request is sent again; name the statuses in retry_status, or remove it")
		}
		if h.ReplayBuffer.PerRequest < 0 || h.ReplayBuffer.Total < 0 {
			return errors.New("replay_buffer: sizes must be greater than zero; to never replay, use retry_status off")
		}
		if h.ReplayBuffer.PerRequest > 0 {
			buffer.PerRequest = h.ReplayBuffer.PerRequest
		}
		buffer.Total = max(buffer.Total, buffer.PerRequest)
		if h.ReplayBuffer.Total > 0 {
			buffer.Total = h.ReplayBuffer.Total
		}
		if buffer.Total < buffer.PerRequest {
			return errors.New("replay_buffer: the total is smaller than the size per request; make it at least as large")
		}
	}
	h.replayLimit = buffer.PerRequest
	h.budget = &replayBudget{limit: buffer.Total}
	return nil
}

func (h *Handler) provisionTransport(ctx caddy.Context) error {
	if h.Transport == nil {
		h.Transport = new(reverseproxy.HTTPTransport)
	}
	if h.Transport.ProxyProtocol != "" {
		return errors.New("transport: proxy_protocol needs a client's connection, which a token request doesn't have; remove it")
	}
	if h.Transport.KeepAlive == nil {
		// Token requests are rare: an idle connection would mostly be found closed, and
		// net/http logs what a peer sends on it unasked.
		h.Transport.KeepAlive = &reverseproxy.KeepAlive{Enabled: new(bool)}
	}
	if err := h.Transport.Provision(ctx); err != nil {
		return fmt.Errorf("transport: %w", err)
	}
	h.client = &tokenClient{
		transport:  endpointTransport{h.Transport},
		timeout:    time.Duration(h.Timeout),
		defaultTTL: time.Duration(h.DefaultTTL),
	}
	return nil
}

// endpointTransport is Caddy's HTTP transport for requests that no client's request
// stands behind.
type endpointTransport struct {
	*reverseproxy.HTTPTransport
}

// RoundTrip gives the transport the replacer that it looks for in the request's
// context, for placeholders in its own options.
func (t endpointTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := t.HTTPTransport.RoundTrip(req.WithContext(
		context.WithValue(req.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer())))
	if dial, ok := errors.AsType[reverseproxy.DialError](err); ok {
		return nil, &dialError{text: dial.Error()}
	}
	return res, err
}

func checkDuration(option string, d *caddy.Duration, fallback time.Duration) error {
	if *d < 0 {
		return fmt.Errorf("%s: must be longer than zero, such as %s", option, fallback)
	}
	if *d == 0 {
		*d = caddy.Duration(fallback)
	}
	return nil
}

func isErrorStatus(status int) bool {
	return status >= 400 && status <= 599
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
