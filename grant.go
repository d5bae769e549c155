package oauthcc

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
)

// resolve replaces the placeholders, at Provision and again at every token request, since
// files and environment change. The outcome is not checked.
func (h *Handler) resolve(request standIn) (grantRequest, error) {
	p := placeholders{repl: caddy.NewReplacer(), request: request}
	r := h.template()
	r.issuer = p.value("issuer", r.issuer)
	r.endpoint = p.perRequest("token_endpoint", r.endpoint)
	r.clientID = p.perRequest("client_id", r.clientID)
	r.clientSecret = p.perRequest("client_secret", r.clientSecret)
	r.scopes = p.values("scope", r.scopes)
	r.audience = p.values("audience", r.audience)
	r.resource = p.values("resource", r.resource)
	r.params = p.named("param", r.params)
	r.headers = p.named("request_header", r.headers)
	assertions := *h.assertions
	assertions.KeyID = p.value("signing_key.key_id", assertions.KeyID)
	assertions.Audience = p.value("signing_key.audience", assertions.Audience)
	if p.err != nil {
		return r, p.err
	}
	if h.signingKey != nil {
		key, news, err := h.signingKey.read()
		if err != nil {
			return r, err
		}
		if news != nil {
			h.logger.Warn("the signing key can't be used; the one before is used on", h.named(zap.Error(news))...)
		}
		r.assertion = newClientAssertion(assertions, key)
	} else if usesAssertion(r.authMethod) {
		r.assertion = newClientAssertion(assertions, nil)
	}
	return r, nil
}

// template is the token request with its placeholders as they are written, and without
// the signing key.
func (h *Handler) template() grantRequest {
	r := grantRequest{
		issuer: h.Issuer, endpoint: h.TokenEndpoint, insecureHTTP: h.InsecureHTTP,
		clientID: h.ClientID, clientSecret: h.ClientSecret, authMethod: h.AuthMethod,
		format: h.RequestFormat, scopes: h.Scopes, audience: h.Audience, resource: h.Resource,
		params: h.Params, headers: h.RequestHeaders,
		certificate: hasClientCertificate(h.Transport), certificateKey: h.certificateKey,
	}
	if usesAssertion(h.AuthMethod) {
		r.assertion = newClientAssertion(*h.assertions, nil)
	}
	if h.prover != nil {
		r.proofs = h.prover.key
	}
	return r
}

func hasClientCertificate(t *reverseproxy.HTTPTransport) bool {
	return t != nil && t.TLS != nil && (t.TLS.ClientCertificateFile != "" || t.TLS.ClientCertificateAutomate != "")
}

// grantKey identifies the token of this configuration. Beside what the token
// request says it covers how the endpoint is reached and trusted, with which client
// certificate, and where the values are read from: two handlers share a token only as long
// as they would also share a rotated credential, or another scope from the same file.
func (h *Handler) grantKey(r grantRequest) (grantKey, error) {
	transport, err := json.Marshal(h.Transport)
	if err != nil {
		return grantKey{}, fmt.Errorf("transport: %w", err)
	}
	var certificate []byte
	if h.Transport != nil && h.Transport.TLS != nil && h.Transport.TLS.ClientCertificateFile != "" {
		if certificate, err = os.ReadFile(h.Transport.TLS.ClientCertificateFile); err != nil {
			return grantKey{}, fmt.Errorf("transport: %w", err)
		}
	}
	tls := []byte("null")
	if h.Transport != nil {
		if tls, err = json.Marshal(h.Transport.TLS); err != nil {
			return grantKey{}, fmt.Errorf("transport: %w", err)
		}
	}
	h.trust = []string{string(tls), string(certificate)}
	groups := slices.Concat(r.fields(), h.template().fields(), [][]string{{string(transport), string(certificate)}})
	if h.perRequest != nil {
		groups = append(groups, []string{strconv.Itoa(h.MaxTokens)})
	}
	return newGrantKey(groups...), nil
}
