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

// Handler is a middleware that adds an OAuth 2.0 access token to each request, for the `reverse_proxy` that follows. It
// gets the token from a token endpoint with the client-credentials grant (RFC 6749 §4.4), caches it and renews it before
// it expires. If the upstream rejects the token, the handler gets another one and sends the request again. Clients don't
// notice, and they need no credential.
//
// Most configurations only need `token_endpoint`, `client_id` and `client_secret`. Handlers with the same token request
// share one token, also across sites and configuration reloads.
//
// These placeholders are set on each request. You can use them in logs and error routes:
//
//   - `{http.oauth_cc.status}` is where the token came from: `fresh` (the cache), `stale` (the cache, while the next token
//     is being fetched or can't be had), `fetched` (the request waited for it), `replayed` (another token, after the
//     upstream rejected the first) or `none`.
//   - `{http.oauth_cc.error}` is why there is no token: an error code registered for OAuth, such as `invalid_client`;
//     otherwise `refused`, `unreachable`, `timeout`, `server_error` or `invalid_response`.
//
// The options `token_endpoint`, `issuer`, `client_id`, `client_secret`, `client_assertion`, `grant`, `scopes`,
// `audience`, `resource`, `params` and `request_headers` accept placeholders:
//
//   - `{env.*}`, `{file.*}` and `{system.*}` are resolved for each token request, so a new secret needs no reload. Each
//     must have a value when the configuration is loaded. Only a file in `client_assertion` may come later.
//   - `{http.*}` and the placeholders that a `map` handler sets differ from request to request. All of these options but
//     `issuer` accept them. Each combination of values has its own token, such as one for each tenant. If one of
//     these placeholders is empty, the request fails.
//
// A literal opening brace is written `\{`.
type Handler struct {
	// The URL of the token endpoint (RFC 6749 §3.2). It must be an absolute https URL without user info and fragment.
	// An http URL is only accepted for a loopback host, or with insecure_http. Redirects are not followed, so give the
	// final URL. Required, unless there is an issuer, or a signing_key with the key file of a Google service account,
	// which contains the URL.
	TokenEndpoint string `json:"token_endpoint,omitempty"`

	// The issuer identifier of the authorization server. Use it instead of token_endpoint if the server publishes
	// metadata (RFC 8414, otherwise OpenID Connect Discovery 1.0): the endpoint is then discovered. The metadata must
	// name exactly this issuer, and an endpoint with the same scheme. It is read with the first token, and again after an
	// hour or when the endpoint fails. If transport has a client certificate, the endpoint in `mtls_endpoint_aliases` is
	// used (RFC 8705 §5). The issuer must be an https URL without user info, query and fragment. An http URL is only
	// accepted for a loopback host, or with insecure_http.
	Issuer string `json:"issuer,omitempty"`

	// How long a fetch of a token may take, including retries. Each attempt gets half of it. Default: `10s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How to connect to the token endpoint: TLS trust, client certificate, proxy, resolver and timeouts. The options are
	// those of reverse_proxy's HTTP transport, except for `proxy_protocol`. The files of a client certificate are read
	// at each token request, except with HTTP/3. If the new files can't be used, the previous certificate stays in use.
	Transport *reverseproxy.HTTPTransport `json:"transport,omitempty"`

	// Allow http for a token endpoint or an issuer that is not on a loopback host. Anyone on the way can then read the
	// credential. Default: `false`.
	InsecureHTTP bool `json:"insecure_http,omitempty"`

	// The client identifier that the authorization server has issued. Required, unless auth_method is `none` or there is
	// a client_assertion.
	ClientID string `json:"client_id,omitempty"`

	// The secret of the client. Give it as a placeholder, `{file.*}` or `{env.*}`, so that it is not in the
	// configuration. Required by the methods that use one, see auth_method.
	ClientSecret string `json:"client_secret,omitempty"`

	// How the client authenticates at the token endpoint:
	//
	//   - `client_secret_basic`: HTTP Basic. The id and the secret are form-encoded (RFC 6749 §2.3.1).
	//   - `client_secret_basic_raw`: HTTP Basic. The id and the secret are sent as they are, which some servers expect.
	//   - `client_secret_post`: the id and the secret are in the body.
	//   - `client_secret_jwt`: a JWT, the assertion, that is signed with the secret (RFC 7523 §2.2).
	//   - `private_key_jwt`: an assertion that is signed with the key in signing_key, or a client_assertion.
	//   - `tls_client_auth`: the client certificate in transport (RFC 8705 §2).
	//   - `none`: the client_id alone, if there is one.
	//
	// Default: `private_key_jwt` if there is a client_assertion, otherwise `none` if there is a grant, otherwise
	// `client_secret_basic`.
	AuthMethod string `json:"auth_method,omitempty"`

	// The private key that signs assertions, and how they are made. Required with auth_method `private_key_jwt`, unless
	// there is a client_assertion, and with grant `jwt_bearer`. Optional with `client_secret_jwt`.
	SigningKey *SigningKey `json:"signing_key,omitempty"`

	// An assertion that somebody else has signed for the client, instead of a signing_key. Examples are the projected
	// token of a Kubernetes service account, a SPIFFE JWT-SVID, or the output of a signer beside the gateway. It can't be
	// combined with storage.
	ClientAssertion *ClientAssertion `json:"client_assertion,omitempty"`

	// The JWT bearer grant, to ask for a token for a certain user or account. Default: the client-credentials grant.
	Grant *Grant `json:"grant,omitempty"`

	// The format of the token request's body: `form` (RFC 6749 §4.4.2), or `json`, which is an object with the same
	// members. In JSON, a parameter with several values is an array. Default: `form`.
	RequestFormat string `json:"request_format,omitempty"`

	// The scopes to ask for. They are sent as one parameter, separated by spaces (RFC 6749 §3.3). Default: none, the
	// server chooses.
	Scopes []string `json:"scopes,omitempty"`

	// The values of the `audience` parameter, which some servers expect. Default: none.
	Audience []string `json:"audience,omitempty"`

	// The values of the `resource` parameter (RFC 8707 §2). They are absolute URIs without fragment. Default: none.
	Resource []string `json:"resource,omitempty"`

	// Further parameters of the token request. `grant_type` replaces `client_credentials`: for another grant such as
	// `password`, or for a server with its own name for the grant. If a value is JSON, a placeholder of the request must
	// be in one of its strings, and its content is escaped. Default: none.
	Params map[string][]string `json:"params,omitempty"`

	// Further header fields of the token request. Default: none.
	RequestHeaders map[string][]string `json:"request_headers,omitempty"`

	// Where a JSON answer of the endpoint has `access_token`, `expires_in` or `token_type`, for logins that look like
	// OAuth. A value is a path: names of members, separated by dots, such as `data.accessToken`. It goes through objects,
	// but not through arrays. A name consists of letters, digits, hyphens, underscores and spaces. If there is a path, the
	// member with OAuth's name is ignored. Answers that are forms are not affected. Default: none, as in OAuth
	// (RFC 6749 §5.1).
	ResponseFields map[string]string `json:"response_fields,omitempty"`

	// How long a token is used if its lifetime is unknown: the answer has no `expires_in`, and the token is not a JWT
	// that contains its lifetime. After that, requests have another token fetched. Until there is one, the token stays in
	// use, unless the upstream rejects it. Default: `5m`.
	DefaultTTL caddy.Duration `json:"default_ttl,omitempty"`

	// How long tokens live, regardless of what the endpoint and the token say. Use it if they are wrong, such as 0 for
	// tokens that don't expire, or milliseconds instead of seconds. The endpoint's `refresh_in` still counts. It can't be
	// combined with default_ttl. Default: what the endpoint and the token say.
	TTL caddy.Duration `json:"ttl,omitempty"`

	// How long before a token is due it is renewed. A token is due 10 seconds before its expiry, or in the last tenth of a
	// shorter life: then requests wait for the next one. The value is a duration such as `2m` (at most half of the lifetime
	// is used), a share of the lifetime such as `25%` (at most 90%), or `off`. The first request after that time starts the
	// renewal and does not wait for it. The time differs by up to a fifth for each token, so that gateways don't renew at
	// the same moment. If the endpoint recommends an earlier time (`refresh_in`), that time counts. Default: a quarter of
	// the lifetime, at most `5m`.
	RefreshAhead string `json:"refresh_ahead,omitempty"`

	// Get the first token when the configuration has started, and keep it renewed while there are no requests. If that
	// fails, the configuration runs all the same. It can't be combined with placeholders of the request. Default:
	// `false`: the first request gets the token, and a token that is not used expires.
	Prefetch bool `json:"prefetch,omitempty"`

	// The request header that carries the token to the upstream. If the client sent the same header, it is removed. It
	// can't be combined with dpop. Default: `Authorization` with the scheme `Bearer` (RFC 6750 §2.1).
	TokenHeader *TokenHeader `json:"token_header,omitempty"`

	// Let a request that already has the token header pass unchanged, without a token of the gateway. Default: `false`.
	KeepClientAuthorization bool `json:"keep_client_authorization,omitempty"`

	// The statuses with which the upstream rejects a token, from 300 to 599. Some APIs redirect to a login page. If an
	// answer has such a status, the token is renewed and the request is sent again, unless the `WWW-Authenticate` field
	// says that the token was not the cause (RFC 6750 §3.1). 401 also stands for the gRPC status UNAUTHENTICATED in the
	// header of an answer. An empty list turns this off. Default: `[401]`.
	RetryStatus []int `json:"retry_status,omitzero"`

	// How much memory is used to keep the bodies of requests, so that a request can be sent again. Refused if retry_status
	// is an empty list, unless dpop is set. Default: the defaults of its members.
	ReplayBuffer *ReplayBuffer `json:"replay_buffer,omitempty"`

	// The status that the client gets, from 400 to 599, if the upstream's final answer still has a status of
	// retry_status. The `WWW-Authenticate` and `Location` fields are removed, as they are meant for the gateway. A gRPC
	// call gets the corresponding gRPC status, without the message. Refused if retry_status is an empty list. Default: off,
	// the upstream's answer passes unchanged.
	MaskRejection int `json:"mask_rejection,omitempty"`

	// Proxy a request without a token if none can be had, instead of answering with an error. Default: `false`.
	AllowWithoutToken bool `json:"allow_without_token,omitempty"`

	// How many tokens are kept if options have placeholders of the request. If there are more, the least recently used
	// are dropped. Without such placeholders there is one token, and this option is refused. Default: 10000.
	MaxTokens int `json:"max_tokens,omitempty"`

	// Share tokens with other gateways that use the same storage. The tokens are encrypted with the client's credential.
	// The value is a storage module, or an empty object for the storage that Caddy is configured with. It can't be
	// combined with dpop, with client_assertion, or with auth_method `none` unless there is a grant. Default: off.
	StorageRaw json.RawMessage `json:"storage,omitempty" caddy:"namespace=caddy.storage inline_key=module"`

	// Bind tokens to a key of this process, and prove with each request that the gateway has the key (DPoP, RFC 9449).
	// The value is the origin by which the upstream knows itself, such as `https://api.example.com`. A proof is valid for
	// the method and the path that the request has in this handler, so later handlers must not change them. Tokens that
	// are not bound to the key are refused. It can't be combined with token_header or storage. Default: off.
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

// TokenHeader is the request header that carries the token to the upstream.
type TokenHeader struct {
	// The name of the header field. Required.
	Name string `json:"name,omitempty"`

	// The authentication scheme before the token, a single word. Default: none, the field contains the token alone.
	Scheme string `json:"scheme,omitempty"`
}

// ReplayBuffer limits the memory for request bodies that may have to be sent again. A request whose body does not fit is
// proxied as usual, but it can't be sent again.
type ReplayBuffer struct {
	// The maximum for the body of one request, in bytes. Default: 1048576 (1 MiB).
	PerRequest int64 `json:"per_request,omitempty"`

	// The maximum for all requests of this handler, in bytes. It must be at least per_request. A quarter of it is
	// reserved for bodies of up to 64 KiB. Default: 67108864 (64 MiB), or per_request if that is larger.
	Total int64 `json:"total,omitempty"`
}

// SigningKey is the key of the client, and says how the client's assertions are made (RFC 7523 §2.2 and §3). An
// assertion is a JWT that the client signs to authenticate. There is a new one for each attempt.
type SigningKey struct {
	// The file with the private key: PEM (PKCS #8, PKCS #1 or SEC 1), a JWK (RFC 7517), or the JSON key file of a Google
	// service account. It is read at each token request. If a new key can't be used, the previous key stays in use.
	// Required with auth_method `private_key_jwt` and with grant `jwt_bearer`. With auth_method `client_secret_jwt` the
	// client_secret signs, and a file is refused.
	File string `json:"file,omitempty"`

	// The file with the certificate of the key, in PEM. It can be the same file. The thumbprints of the certificate are
	// added to the header of assertions, as `x5t` and `x5t#S256` (RFC 7515 §4.1.7 and §4.1.8). The file is read together
	// with the key, and the certificate must belong to the key. Default: none.
	Certificate string `json:"certificate,omitempty"`

	// Add all certificates of the certificate file to the header of assertions, as `x5c` (RFC 7515 §4.1.6). Default:
	// `false`.
	X5C bool `json:"x5c,omitempty"`

	// The signature algorithm (RFC 7518 §3.1, RFC 8037 §3.1). For a private key: RS256, RS384, RS512, PS256, PS384,
	// PS512, ES256, ES384, ES512 or EdDSA, as fits the key. For a secret: HS256, HS384 or HS512. Default: the `alg` of
	// the JWK, otherwise RS256, ES256, ES384, ES512 or EdDSA, depending on the key; HS256 for a secret.
	Alg string `json:"alg,omitempty"`

	// The `kid` by which the server knows the key (RFC 7515 §4.1.4). `{env.*}`, `{file.*}` and `{system.*}` can be used.
	// Default: the `kid` of the key's file, otherwise none.
	KeyID string `json:"key_id,omitempty"`

	// The `aud` of the client's assertion (RFC 7523 §3). `{env.*}`, `{file.*}` and `{system.*}` can be used. Default:
	// the issuer if it is configured, otherwise the token endpoint.
	Audience string `json:"audience,omitempty"`

	// The `typ` of assertions (RFC 7515 §4.1.9). Older servers expect `JWT`. Default: `client-authentication+jwt` for
	// the client's assertion, `JWT` for the assertion of grant `jwt_bearer`.
	Typ string `json:"typ,omitempty"`

	// How long the client's assertion is valid, at least a second. Default: `1m`.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`
}

// ClientAssertion is a JWT with which the client authenticates (RFC 7521 §4.2), and which somebody else has made. It is
// read for each token request. An assertion that has expired is not sent.
type ClientAssertion struct {
	// The assertion. Give it as `{file.*}`. The file may be missing when the configuration is loaded; until it exists, no
	// token can be fetched. A new assertion alone does not cause a token request. Required.
	Value string `json:"value,omitempty"`

	// The `client_assertion_type`, a URI. Default: `urn:ietf:params:oauth:client-assertion-type:jwt-bearer`
	// (RFC 7523 §2.2).
	Type string `json:"type,omitempty"`
}

// Grant is the JWT bearer grant (RFC 7523 §2.1). The client signs an assertion that says for which user or account it
// asks for a token. The user takes no part in it. The issuer, the subject, the audience and the values of claims accept
// the same placeholders as `client_id`.
type Grant struct {
	// The kind of grant. Required. The only kind is `jwt_bearer`.
	Type string `json:"type,omitempty"`

	// The `iss` of the assertion. Default: the account of a Google service account's key file, otherwise the client_id.
	Issuer string `json:"issuer,omitempty"`

	// The `sub` of the assertion: the user or the account that the token is for. Default: none.
	Subject string `json:"subject,omitempty"`

	// The `aud` of the assertion. Default: the issuer of the handler if it is configured, otherwise the token endpoint.
	Audience string `json:"audience,omitempty"`

	// Send the scopes in the claim `scope` of the assertion instead of the parameter `scope`. Default: `false`.
	ScopeClaim bool `json:"scope_claim,omitempty"`

	// Further claims of the assertion, by name. The values are strings. Default: none.
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

// Provision checks the options, resolves their placeholders once to see that they have values, sets up the transport to
// the token endpoint and joins the process's token cache. It does not ask for a token.
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

// Cleanup stops the keeper, the timer that reads the client certificate again, and the sweep of the storage. It releases
// what Provision acquired, and closes idle connections to the token endpoint. The pool keeps the grant as long as another
// configuration uses it.
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
