package oauthcc

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
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
// client_id, client_secret, client_assertion, grant, scopes, audience, resource, params and
// request_headers. They are resolved whenever a token is fetched, so a rotated secret
// needs no reload. A literal brace is written \{.
//
// Placeholders of the request, {http.*} and those that a map handler sets, can be used in the
// same options but issuer. Each combination of their values is a grant of its own then,
// with a token of its own. A placeholder that is empty fails the request.
//
// The handler sets two placeholders on each request, for logs and error routes:
//
//   - `{http.oauth_cc.status}` says where the request's token came from: `fresh` (the cache), `stale` (the cache,
//     while the next one is due or being fetched), `fetched` (this request waited for it), `replayed` (a renewed
//     one, after the upstream rejected the first) or `none`.
//   - `{http.oauth_cc.error}` says why there was no token: an error code registered for OAuth, such as
//     `invalid_client`, or `refused`, `unreachable`, `timeout`, `server_error`, `invalid_response`.
type Handler struct {
	// The URL of the token endpoint (RFC 6749 §3.2): absolute, https, without user
	// info and fragment. http is accepted for loopback hosts. Redirects are never
	// followed. Required, unless there is an issuer, or a signing_key that is the key file of a
	// Google service account, which names it.
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
	// resolver, timeouts, as in reverse_proxy's HTTP transport. The files of the client
	// certificate are read at every token request, except with HTTP/3; a pair that can't be
	// used leaves the one before in use.
	Transport *reverseproxy.HTTPTransport `json:"transport,omitempty"`

	// Allow a token endpoint with cleartext http that is not on a loopback host.
	// The credential can then be read by anyone on the way. Default: false.
	InsecureHTTP bool `json:"insecure_http,omitempty"`

	// The client identifier issued by the authorization server. Required unless
	// auth_method is `none` or there is a client_assertion.
	ClientID string `json:"client_id,omitempty"`

	// The client's secret. Give it as a placeholder, {env.*} or {file.*}, to keep it out of the configuration.
	ClientSecret string `json:"client_secret,omitempty"`

	// How the client authenticates at the token endpoint: `client_secret_basic`
	// (HTTP Basic, id and secret form-encoded, RFC 6749 §2.3.1),
	// `client_secret_basic_raw` (HTTP Basic with both as they are, which some
	// servers expect), `client_secret_post` (both in the body), `client_secret_jwt` and
	// `private_key_jwt` (an assertion signed with the secret or with signing_key, RFC 7523
	// §2.2), `tls_client_auth` (the client certificate in transport, RFC 8705 §2) or
	// `none` (the client_id alone). Default: `client_secret_basic`; `private_key_jwt` with a
	// client_assertion, else `none` with grant `jwt_bearer`.
	AuthMethod string `json:"auth_method,omitempty"`

	// How the client's assertions are made; required with `private_key_jwt`, unless there is a
	// client_assertion, and with grant `jwt_bearer`. Optional with `client_secret_jwt`.
	SigningKey *SigningKey `json:"signing_key,omitempty"`

	// An assertion that somebody else has signed for the client, instead of signing_key: the
	// projected token of a Kubernetes service account, a JWT-SVID, or what a signer beside the
	// gateway writes. Not with storage.
	ClientAssertion *ClientAssertion `json:"client_assertion,omitempty"`

	// Another grant than client-credentials, which asks for the token. Default: client-credentials.
	Grant *Grant `json:"grant,omitempty"`

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
	// `client_credentials`, for another grant, such as `password`, or for servers that
	// call it otherwise. In a value that is JSON, a placeholder of the request stands in a
	// string and is escaped.
	Params map[string][]string `json:"params,omitempty"`

	// Further header fields of the token request.
	RequestHeaders map[string][]string `json:"request_headers,omitempty"`

	// Where the endpoint's JSON answer has `access_token`, `expires_in` or `token_type`, for logins
	// that look like OAuth: the names of the members that lead there, joined by dots, such as
	// `data.accessToken`. With a path, the member that OAuth has is ignored. A path goes through
	// objects, not through lists, and a name has letters, digits, hyphens, underscores and blanks. An
	// answer that is a form is read as OAuth has it. Default: none.
	ResponseFields map[string]string `json:"response_fields,omitempty"`

	// How long a token is used when neither `expires_in` nor the token itself, as a
	// JWT, tells its lifetime. Default: `5m`.
	DefaultTTL caddy.Duration `json:"default_ttl,omitempty"`

	// How long a token lives, whatever the endpoint and the token itself say: for endpoints that
	// say it wrong, such as 0 for tokens that don't expire, or milliseconds. `refresh_in` still
	// counts. Not with default_ttl. Default: what they say.
	TTL caddy.Duration `json:"ttl,omitempty"`

	// How long before its expiry a token is renewed: a duration such as `2m` (at most half of
	// the lifetime), a share of the lifetime such as `25%` (up to 90%), or `off`. The first
	// request after that time starts the renewal and does not wait for it. The time is moved
	// by up to a fifth for each token, so that gateways don't renew at the same time. If the
	// endpoint recommends an earlier time with `refresh_in`, that counts. Default: a quarter
	// of the lifetime, at most `5m`.
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

	// The statuses with which the upstream rejects a token, from 300 to 599: some APIs
	// redirect to a login page. Such a response is held, the token renewed and the
	// request sent once more, unless its `WWW-Authenticate` challenge says that the
	// token was not at fault. 401 stands for the gRPC status UNAUTHENTICATED as well,
	// where it is in the header. An empty list turns this off. Default: `[401]`.
	RetryStatus []int `json:"retry_status,omitzero"`

	// How much of the request bodies is kept in memory so that a rejected request
	// can be sent again.
	ReplayBuffer *ReplayBuffer `json:"replay_buffer,omitempty"`

	// The status for the client when the upstream's final answer still has a status of
	// retry_status. Its `WWW-Authenticate` and `Location` are removed, as they are meant
	// for the gateway. A gRPC call gets the gRPC status that stands for it, without the
	// message. Default: off, the upstream's answer passes through.
	MaskRejection int `json:"mask_rejection,omitempty"`

	// Proxy the request without a token when none can be had, instead of answering
	// with an error. Default: false.
	AllowWithoutToken bool `json:"allow_without_token,omitempty"`

	// How many tokens are kept when placeholders of the request make the grant differ from
	// request to request. Beyond that, the least recently used are dropped. Refused without
	// such placeholders. Default: 10000.
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

	// Set by Provision, each with a job of its own.
	carrier    carrier            // puts tokens into requests
	rejections rejectionRules     // says what counts as a rejected token
	request    tokenRequest       // says what to ask the endpoint for
	tokens     tokenAccess        // leads to the tokens in the process's cache
	reporter   reporter           // tells operators what happens
	keeper     *tokencache.Keeper // keeps the token renewed; nil without prefetch

	running atomic.Bool // whether its configuration runs
	holds   struct {    // what Cleanup gives back to the process
		grant, proofKey, metrics bool
	}
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
	// Bytes to keep of one request's body. If more was read before the upstream
	// rejected the request, it is not sent again. Default: 1 MiB.
	PerRequest int64 `json:"per_request,omitempty"`

	// Bytes to keep over all requests of this handler. Default: 64 MiB, or the size
	// per request if that is larger.
	Total int64 `json:"total,omitempty"`
}

// SigningKey tells how client assertions are made (RFC 7523 §2.2 and §3): JWTs that
// the client signs to authenticate itself, a new one for each attempt.
type SigningKey struct {
	// The file with the private key, for auth_method `private_key_jwt` and grant `jwt_bearer`: PEM
	// (PKCS #8, PKCS #1 or SEC 1), a JWK, or the JSON key file of a Google service account. It is
	// read again when it changes; a key that can't be used leaves the one before in use. Without a
	// file the client_secret signs, with auth_method `client_secret_jwt`.
	File string `json:"file,omitempty"`

	// The file with the certificate of the key, in PEM; it can be the same file. Its thumbprints are in the
	// header of assertions then, as `x5t` and `x5t#S256` (RFC 7515 §4.1.7 and §4.1.8). It is read again with
	// the key, and has to fit it. Default: none.
	Certificate string `json:"certificate,omitempty"`

	// Have the certificate itself in the header as well, with all others in its file, as `x5c` (RFC 7515
	// §4.1.6). Default: false.
	X5C bool `json:"x5c,omitempty"`

	// The signature algorithm (RFC 7518 §3.1, RFC 8037 §3.1): RS256, RS384, RS512, PS256,
	// PS384, PS512, ES256, ES384, ES512 or EdDSA, as fits the key; HS256, HS384 or HS512
	// with a secret. Default: the JWK's `alg`, or RS256, ES256, ES384, ES512, EdDSA by
	// the kind of the key; HS256 with a secret.
	Alg string `json:"alg,omitempty"`

	// The `kid` by which the server knows the key. Default: the JWK's, else none. As in
	// audience, {env.*}, {file.*} and {system.*} can be used.
	KeyID string `json:"key_id,omitempty"`

	// The `aud` of the client's assertion. Default: the issuer if that is configured, else the
	// token endpoint.
	Audience string `json:"audience,omitempty"`

	// The `typ` of assertions; servers that know no other want `JWT`. Default:
	// `client-authentication+jwt` for the client's, and `JWT` for that of grant `jwt_bearer`.
	Typ string `json:"typ,omitempty"`

	// How long the client's assertion is valid, at least a second. Default: `1m`.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`
}

// ClientAssertion is a JWT with which the client authenticates (RFC 7521 §4.2), made by somebody
// else. It is read for each fetch of a token, and one that has ended is not sent.
type ClientAssertion struct {
	// The assertion. Give it as {file.*}. That file can be missing while the configuration is
	// loaded; until the assertion is there, fetches fail. A new assertion alone does not cause a token request.
	Value string `json:"value,omitempty"`

	// Its `client_assertion_type`, a URI. Default:
	// `urn:ietf:params:oauth:client-assertion-type:jwt-bearer`.
	Type string `json:"type,omitempty"`
}

// Grant is the JWT bearer grant (RFC 7523 §2.1): the client signs an assertion that says for whom it asks for a
// token. No user takes part. {env.*}, {file.*}, {system.*} and
// placeholders of the request can be used in issuer, subject, audience and the values of claims.
type Grant struct {
	// The kind of the grant: `jwt_bearer`.
	Type string `json:"type,omitempty"`

	// The `iss` of the assertion. Default: the account of a Google service account's key file, else
	// the client_id.
	Issuer string `json:"issuer,omitempty"`

	// The `sub` of the assertion: the user or the account that the token is for. Default: none.
	Subject string `json:"subject,omitempty"`

	// The `aud` of the assertion. Default: the handler's issuer if that is configured, else the
	// token endpoint.
	Audience string `json:"audience,omitempty"`

	// Write the scopes into the claim `scope` instead of the parameter. Default: false.
	ScopeClaim bool `json:"scope_claim,omitempty"`

	// Further claims, by name. Their values are strings.
	Claims map[string]string `json:"claims,omitempty"`

	// How long the assertion is valid, at least a second. Default: `1m`.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.oauth_cc",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision checks the options, resolves their placeholders once to see that they have values, sets up the
// way to the token endpoint and joins the process's token cache. It asks for no token.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.reporter.ctx, h.reporter.logger = ctx, ctx.Logger()
	if err := h.provisionOptions(); err != nil {
		return err
	}
	if err := h.provisionProofs(ctx); err != nil {
		return err
	}
	request, err := h.provisionRequest(ctx)
	if err != nil {
		return err
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
	h.reporter.public = h.request.public(request)
	h.reporter.warnOfCertificates()
	if err := h.provisionMetrics(ctx, request); err != nil {
		return err
	}
	if h.Prefetch {
		h.keeper = tokencache.NewKeeper()
	}
	if err := h.beginWhenStarted(ctx); err != nil {
		return err
	}
	h.warnOfPlacement(ctx)
	handlers.add(h)
	return nil
}

// provisionRequest finds out what the token request is, and returns it as far as it is known without a
// request of a client.
func (h *Handler) provisionRequest(ctx caddy.Context) (endpoint.Request, error) {
	q := &h.request
	q.h, q.resolving = h, make(chan struct{}, 1)
	request, err := q.resolveWithSamples(ctx)
	if err != nil {
		return request, err
	}
	if err := h.provisionMaxTokens(); err != nil {
		return request, err
	}
	if q.certificate = newClientCertificate(h.Transport, time.Duration(h.Timeout)); q.certificate != nil {
		if request, err = q.withCertificate(request); err != nil {
			return request, err
		}
	}
	if q.trust, err = trustOf(h.Transport); err != nil {
		return request, fmt.Errorf("transport: %w", err)
	}
	if h.tokens.key, err = q.grantKey(request); err != nil {
		return request, err
	}
	h.reporter.key = h.tokens.key
	q.varies = request.Key() != q.template().Key()
	if h.Transport != nil && h.Transport.TLS != nil && request.IsCleartext() {
		return request, errors.New("transport: TLS options have no effect on an http token_endpoint or issuer; use https")
	}
	return request, nil
}

// provisionMaxTokens checks the options that have to do with the number of grants.
func (h *Handler) provisionMaxTokens() error {
	switch {
	case h.MaxTokens < 0:
		return fmt.Errorf("max_tokens: must be greater than zero, such as %d", defaultMaxTokens)
	case h.MaxTokens > 0 && h.request.placeholders == nil:
		return errors.New("max_tokens: there is one token, since no option has a placeholder of the request; remove max_tokens")
	case h.Prefetch && h.request.placeholders != nil:
		return fmt.Errorf("prefetch: without a request nobody knows what {%s} stands for; remove prefetch", h.request.placeholders[0].name)
	case h.MaxTokens == 0:
		h.MaxTokens = defaultMaxTokens
	}
	return nil
}

// Cleanup stops the keeper, looks at the certificate and the sweep of the storage, gives back what Provision acquired, and closes idle
// connections to the token endpoint. The pool keeps the grant as long as another configuration uses it.
func (h *Handler) Cleanup() error {
	handlers.remove(h)
	h.keeper.Stop()
	h.request.certificate.stop()
	h.tokens.sharing.Stop()
	// Each is given back once. Requests in flight still use the grant and the metrics: their fields stay set.
	var errs []error
	if h.holds.grant {
		h.holds.grant = false
		errs = append(errs, releaseGrant(h.tokens.key))
	}
	if h.holds.proofKey {
		h.holds.proofKey = false
		errs = append(errs, releaseProofKey())
	}
	if h.holds.metrics {
		h.holds.metrics = false
		errs = append(errs, releaseMetrics(h.reporter.labels))
	}
	if h.Transport != nil {
		errs = append(errs, h.Transport.Cleanup())
	}
	h.tokens.transport.close()
	return errors.Join(errs...)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
