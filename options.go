package oauthcc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/certmagic"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/dpop"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/fleet"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/replay"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// provisionOptions applies defaults and refuses mistakes that can be seen without resolving placeholders.
func (h *Handler) provisionOptions() error {
	if h.TokenEndpoint == "" && h.Issuer == "" && !h.mayFindEndpointInKey() {
		return errors.New("token_endpoint: missing; give the URL of the token endpoint, such as https://auth.example.com/oauth/token, or the issuer")
	}
	if h.TokenEndpoint != "" && h.Issuer != "" {
		return errors.New("issuer: token_endpoint is given as well, and the issuer is there to discover it; keep one of them (signing_key's audience sets the aud of assertions)")
	}
	if err := h.provisionGrant(); err != nil {
		return err
	}
	if h.AuthMethod == "" {
		h.AuthMethod = h.defaultAuthMethod()
	}
	if err := h.provisionClientAssertion(); err != nil {
		return err
	}
	if err := h.provisionSigningKey(); err != nil {
		return err
	}
	if h.RequestFormat == "" {
		h.RequestFormat = endpoint.FormatForm
	}
	if h.RequestFormat != endpoint.FormatForm && h.RequestFormat != endpoint.FormatJSON {
		return fmt.Errorf("request_format: unknown format %q; use %s or %s", h.RequestFormat, endpoint.FormatForm, endpoint.FormatJSON)
	}
	if err := checkDuration("timeout", &h.Timeout, defaultTimeout); err != nil {
		return err
	}
	if err := h.provisionLifetime(); err != nil {
		return err
	}
	var err error
	if h.tokens.ahead, err = parseRefreshAhead(h.RefreshAhead); err != nil {
		return err
	}
	if err := h.provisionTokenHeader(); err != nil {
		return err
	}
	return h.provisionReplay()
}

// provisionLifetime checks what tokens live for.
func (h *Handler) provisionLifetime() error {
	switch {
	case h.TTL < 0:
		return errors.New("ttl: must be longer than zero, such as 1h")
	case h.TTL > 0 && h.DefaultTTL != 0:
		return errors.New("ttl: default_ttl is given as well, and with ttl it never counts; remove default_ttl")
	}
	return checkDuration("default_ttl", &h.DefaultTTL, defaultTTL)
}

func (h *Handler) provisionTokenHeader() error {
	header := TokenHeader{Name: "Authorization", Scheme: endpoint.TypeBearer}
	if h.TokenHeader != nil {
		header = *h.TokenHeader
	}
	if !httpguts.ValidHeaderFieldName(header.Name) {
		return fmt.Errorf("token_header: %q is not a valid header name; use letters, digits and hyphens", header.Name)
	}
	if header.Scheme != "" && !httpguts.ValidHeaderFieldName(header.Scheme) {
		return fmt.Errorf("token_header: %q is not a valid authentication scheme; use a single word such as Bearer", header.Scheme)
	}
	h.carrier.header = textproto.CanonicalMIMEHeaderKey(header.Name)
	if slices.Contains(endpoint.ConnectionHeaders, h.carrier.header) {
		return fmt.Errorf("token_header: %s belongs to the connection and would not reach the upstream; use another header", h.carrier.header)
	}
	if header.Scheme != "" {
		h.carrier.scheme = header.Scheme + " "
	}
	h.carrier.fields = []string{h.carrier.header}
	h.carrier.hasLookalikes = strings.Contains(h.carrier.header, "-") && !caddyDropsLookalikes()
	return nil
}

func (h *Handler) provisionReplay() error {
	h.rejections.statuses = h.RetryStatus
	if h.RetryStatus == nil {
		h.rejections.statuses = []int{http.StatusUnauthorized}
	}
	for _, status := range h.rejections.statuses {
		if !isRejectionStatus(status) {
			return fmt.Errorf("retry_status: %d is not a status of a rejection; use one from 300 to 599", status)
		}
	}
	if h.MaskRejection != 0 && !isErrorStatus(h.MaskRejection) {
		return fmt.Errorf("mask_rejection: %d is not a status of an error; use one from 400 to 599", h.MaskRejection)
	}
	if h.MaskRejection != 0 && len(h.rejections.statuses) == 0 {
		return errors.New("mask_rejection: without retry_status nothing counts as a rejection; name the statuses in retry_status")
	}
	buffer := ReplayBuffer{PerRequest: defaultReplayBuffer, Total: defaultReplayTotal}
	if h.ReplayBuffer != nil {
		if len(h.rejections.statuses) == 0 && h.DPoP == "" {
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
	h.rejections.bodyLimit = buffer.PerRequest
	h.rejections.bodyBudget = &replay.Budget{Limit: buffer.Total}
	return nil
}

// maxAnswerHeader bounds the header of an endpoint's answer, in bytes. Without it, that would be 10 MiB, for each
// of the token requests that are in progress.
const maxAnswerHeader = 256 << 10

func (h *Handler) provisionTransport(ctx caddy.Context) error {
	if h.Transport == nil {
		h.Transport = new(reverseproxy.HTTPTransport)
	}
	if h.Transport.ProxyProtocol != "" {
		return errors.New("transport: proxy_protocol needs a client's connection, which a token request doesn't have; remove it")
	}
	if h.Transport.KeepAlive == nil {
		// Token requests are rare: the server would have closed an idle connection by the next one, and net/http
		// logs what a peer sends on it unasked.
		h.Transport.KeepAlive = &reverseproxy.KeepAlive{Enabled: new(bool)}
	}
	if h.Transport.MaxResponseHeaderSize == 0 {
		h.Transport.MaxResponseHeaderSize = maxAnswerHeader
	}
	if err := h.Transport.Provision(ctx); err != nil {
		return fmt.Errorf("transport: %w", err)
	}
	h.Transport.Transport.OnProxyConnectResponse = checkProxyAnswer
	h.tokens.transport = newEndpointTransport(h.Transport)
	if h.request.certificate != nil {
		h.request.certificate.showFrom(h.tokens.transport)
	}
	h.tokens.client = &endpoint.Client{
		Transport:  h.tokens.transport,
		Timeout:    time.Duration(h.Timeout),
		DefaultTTL: time.Duration(h.DefaultTTL),
	}
	return nil
}

// checkProxyAnswer fails a connection to an https endpoint that a proxy did not make.
func checkProxyAnswer(_ context.Context, _ *url.URL, _ *http.Request, res *http.Response) error {
	if res.StatusCode != http.StatusOK {
		return &endpoint.ProxyError{Status: res.StatusCode}
	}
	return nil
}

// proofKeys holds the process's DPoP key as long as a configuration uses it. Tokens that survive a reload are bound
// to it.
var proofKeys = caddy.NewUsagePool()

// proofKeyName is the key in the pool.
const proofKeyName = "dpop"

func acquireProofKey() (*dpop.Key, error) {
	value, _, err := proofKeys.LoadOrNew(proofKeyName, func() (caddy.Destructor, error) { return dpop.NewKey() })
	if err != nil {
		return nil, err
	}
	return value.(*dpop.Key), nil
}

func releaseProofKey() error {
	_, err := proofKeys.Delete(proofKeyName)
	return err
}

// provisionProofs sets up DPoP: it acquires the key that tokens are bound to.
func (h *Handler) provisionProofs(ctx caddy.Context) error {
	if h.DPoP == "" {
		return nil
	}
	if h.TokenHeader != nil {
		return errors.New("dpop: the token travels in Authorization with the scheme DPoP (RFC 9449 §7.1); remove token_header")
	}
	p := placeholders{repl: caddy.NewReplacer()}
	origin, err := dpop.ParseOrigin(p.value("dpop", h.DPoP))
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
	h.holds.proofKey = true
	h.request.proofs, h.carrier.prover = key, dpop.NewProver(key, origin)
	h.carrier.scheme = endpoint.TypeDPoP + " "
	h.carrier.fields = append(h.carrier.fields, dpop.Header)
	return nil
}

// provisionStorage sets up the sharing of tokens with other gateways.
func (h *Handler) provisionStorage(ctx caddy.Context) error {
	if h.StorageRaw == nil || string(h.StorageRaw) == "null" {
		return nil
	}
	credential := endpoint.MethodNamed(h.AuthMethod).Credential
	switch {
	case h.ClientAssertion != nil:
		return errors.New("storage: tokens are encrypted with the client's credential, and with client_assertion the gateway has none that lasts; remove storage")
	case h.DPoP != "":
		return errors.New("storage: with dpop tokens are bound to a key of this process and useless to others; remove one of them")
	case credential == endpoint.CredentialNone && h.Grant == nil:
		return fmt.Errorf("storage: tokens are encrypted with the client's credential, and auth_method %s has none; remove storage", h.AuthMethod)
	case credential == endpoint.CredentialCertificate && h.request.certificate == nil:
		return errors.New("storage: tokens are encrypted with the key of the client certificate, which has to be in a file; write transport { tls_client_auth <certificate> <key> }")
	}
	storage, err := h.loadStorage(ctx)
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	h.tokens.sharing = fleet.New(storage, time.Duration(h.Timeout), h.tokens.ahead, []string{h.request.trust}, h.reporter.logger)
	return nil
}

// loadStorage returns the storage that the option names, or Caddy's own.
func (h *Handler) loadStorage(ctx caddy.Context) (certmagic.Storage, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(h.StorageRaw, &members); err != nil {
		return nil, errors.New("not a storage module; write an object with its name in the member module, or {} for Caddy's storage")
	}
	if len(members) == 0 {
		return ctx.Storage(), nil
	}
	module, err := ctx.LoadModule(h, "StorageRaw")
	if err != nil {
		return nil, err
	}
	converter, ok := module.(caddy.StorageConverter)
	if !ok {
		return nil, errors.New("the module is no storage")
	}
	return converter.CertMagicStorage()
}

// parseRefreshAhead reads the option's value.
func parseRefreshAhead(text string) (tokencache.RefreshAhead, error) {
	switch percent, isPercent := strings.CutSuffix(text, "%"); {
	case text == "":
		return tokencache.RefreshAhead{}, nil
	case text == "off":
		return tokencache.RefreshAhead{Off: true}, nil
	case isPercent:
		value, err := strconv.ParseFloat(percent, 64)
		if err == nil && value > 0 && value <= 100*tokencache.MaxAheadShare {
			return tokencache.RefreshAhead{Share: value / 100}, nil
		}
	default:
		value, err := caddy.ParseDuration(text)
		if err == nil && value > 0 {
			return tokencache.RefreshAhead{Time: value}, nil
		}
	}
	return tokencache.RefreshAhead{}, fmt.Errorf("refresh_ahead: %q is not a time ahead of the expiry; use a duration such as 2m, "+
		"a share of the lifetime such as 25%%, up to %.0f%%, or off", text, 100*tokencache.MaxAheadShare)
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

// isRejectionStatus reports whether an API can reject a token with the status. Some redirect to a login page.
func isRejectionStatus(status int) bool {
	return status >= 300 && status <= 599
}
