package oauthcc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/dpop"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/help"
)

// changeLookup bounds a look for a replaced credential. After a look that failed, it is also the time until the next.
const changeLookup = time.Second

// tokenRequest is what a configuration asks an endpoint for. Its placeholders are resolved at each fetch, since files
// and variables change.
type tokenRequest struct {
	// Set by Provision.
	h             *Handler           // whose options are read
	grant         *endpoint.JWTGrant // as it is written; nil for the client-credentials grant
	assertionType string             // of an assertion that somebody else makes; empty without
	assertions    endpoint.AssertionOptions
	keyFile       *endpoint.KeyFile    // of signing_key; nil without
	certificate   *clientCertificate   // of transport; nil if it is not in a file
	proofs        *dpop.Key            // nil without dpop
	trust         string               // how the endpoint is trusted: the options of TLS, in JSON
	placeholders  []requestPlaceholder // of the request; nil if the grant is the same for all
	names         nameLimits           // where operators see the grant
	varies        bool                 // placeholders or files can stand for something else by now

	resolving  chan struct{}             // holds one element while placeholders are resolved
	lookFailed atomic.Pointer[time.Time] // when placeholders could last not be resolved
}

// resolve returns the token request with its placeholders resolved. It does not check the outcome. request resolves
// the placeholders of the request.
func (q *tokenRequest) resolve(request standIn) (endpoint.Request, error) {
	p := placeholders{repl: caddy.NewReplacer(), request: request}
	r := q.template()
	r.Issuer = p.value("issuer", r.Issuer)
	r.Endpoint = p.perRequest("token_endpoint", r.Endpoint)
	r.ClientID = p.perRequest("client_id", r.ClientID)
	r.ClientSecret = p.perRequest("client_secret", r.ClientSecret)
	r.Scopes = p.values("scope", r.Scopes)
	r.Audience = p.values("audience", r.Audience)
	r.Resource = p.values("resource", r.Resource)
	r.Params = p.valuesByName("param", r.Params)
	r.Headers = p.valuesByName("request_header", r.Headers)
	assertions := q.assertions
	assertions.KeyID = p.value("signing_key.key_id", assertions.KeyID)
	assertions.Audience = p.value("signing_key.audience", assertions.Audience)
	if q.grant != nil {
		r.Grant = q.resolveGrant(&p)
	}
	if p.err != nil {
		return r, p.err
	}
	if q.keyFile != nil {
		if err := q.sign(&r, assertions); err != nil {
			return r, err
		}
	} else if r.Signs() {
		r.Assertion = endpoint.NewAssertion(assertions, nil)
	}
	if q.certificate != nil {
		var err error
		if r, err = q.withCertificate(r); err != nil {
			return r, err
		}
	}
	if q.h.ClientAssertion != nil {
		var err error
		r.ClientAssertion, err = q.resolveClientAssertion(request)
		return r, err
	}
	return r, nil
}

// sign has a request signed with the key in the file.
func (q *tokenRequest) sign(r *endpoint.Request, assertions endpoint.AssertionOptions) error {
	key, news, err := q.keyFile.Read()
	if err != nil {
		return err
	}
	o := &q.h.reporter
	if news != nil {
		help.Write(o.logger.Check(zapcore.WarnLevel, "the signing key can't be used; the previous key stays in use"), "", o.grantFields(zap.Error(news))...)
	}
	if certificate := key.Certificate(); certificate != nil {
		o.certificates.put(newCertificate(certificateOfKey, q.keyFile.Certificate, certificate))
	}
	r.Assertion = endpoint.NewAssertion(assertions, key)
	completeFromKey(r, key)
	return nil
}

// withCertificate adds the client certificate to a request.
func (q *tokenRequest) withCertificate(r endpoint.Request) (endpoint.Request, error) {
	pair, stale, err := q.certificate.look()
	if err != nil {
		return r, err
	}
	o := &q.h.reporter
	if stale != nil && !q.certificate.isStopped() {
		help.Write(o.logger.Check(zapcore.WarnLevel, "the client certificate can't be used; the previous one stays in use"), "", o.grantFields(zap.Error(stale))...)
	}
	if left, ok := q.certificate.files.Settling(); ok {
		q.certificate.lookAgainAfter(left, q.lookAtCertificate)
	}
	o.certificates.put(newCertificate(certificateOfClient, q.certificate.files.CertificatePath, pair.TLS.Leaf))
	r.Certificate, r.CertificateKey = pair.Certificate, pair.Key
	return r, nil
}

// lookAtCertificate looks at the client certificate between token requests. If placeholders are being resolved, those
// who do that look. It comes back a second later, since they may have read the files too early to tell.
func (q *tokenRequest) lookAtCertificate() {
	select {
	case q.resolving <- struct{}{}:
		_, _ = q.withCertificate(endpoint.Request{}) // the files have had a usable pair, so there is no error
		<-q.resolving
	default:
		q.certificate.lookAgainAfter(changeLookup, q.lookAtCertificate)
	}
}

// resolveGrant returns the grant with its placeholders resolved.
func (q *tokenRequest) resolveGrant(p *placeholders) *endpoint.JWTGrant {
	grant := *q.grant
	grant.Issuer = p.perRequest("grant.issuer", grant.Issuer)
	grant.Subject = p.perRequest("grant.subject", grant.Subject)
	grant.Audience = p.perRequest("grant.audience", grant.Audience)
	grant.Claims = make(map[string]string, len(q.grant.Claims))
	for _, name := range slices.Sorted(maps.Keys(q.grant.Claims)) { // the same order whenever it is done
		grant.Claims[name] = p.perRequest("grant.claim "+name, q.grant.Claims[name])
	}
	return &grant
}

// completeFromKey adds to a grant what the key's file says, and what it has by default.
func completeFromKey(r *endpoint.Request, key *endpoint.PrivateKey) {
	if r.Grant == nil {
		return
	}
	account, tokenEndpoint := key.ServiceAccount()
	r.Grant.Issuer = cmp.Or(r.Grant.Issuer, account, r.ClientID)
	if r.Issuer == "" {
		r.Endpoint = cmp.Or(r.Endpoint, tokenEndpoint)
	}
}

// template is the token request as it is written, with placeholders and without the signing key.
func (q *tokenRequest) template() endpoint.Request {
	h := q.h
	r := endpoint.Request{
		Issuer: h.Issuer, Endpoint: h.TokenEndpoint, InsecureHTTP: h.InsecureHTTP,
		ClientID: h.ClientID, ClientSecret: h.ClientSecret, AuthMethod: h.AuthMethod,
		Format: h.RequestFormat, Scopes: h.Scopes, Audience: h.Audience, Resource: h.Resource,
		Params: h.Params, Headers: h.RequestHeaders, TTL: time.Duration(h.TTL), ResponseFields: h.ResponseFields,
		HasCertificate: hasClientCertificate(h.Transport),
	}
	r.Grant, r.ClientAssertionType = q.grant, q.assertionType
	if h.ClientAssertion != nil {
		r.ClientAssertion = h.ClientAssertion.Value
	}
	if r.Signs() {
		r.Assertion = endpoint.NewAssertion(q.assertions, nil)
	}
	r.Proofs = q.proofs
	return r
}

func hasClientCertificate(t *reverseproxy.HTTPTransport) bool {
	return t != nil && t.TLS != nil && (t.TLS.ClientCertificateFile != "" || t.TLS.ClientCertificateAutomate != "")
}

// grantKey identifies the token of this configuration. It covers the token request, how the endpoint is reached and
// trusted, the client certificate, and where the values are read from. So handlers that share a token also share a
// credential that is rotated, or a scope that changes in a file. Of a secret and a signing key, only the place
// counts. If they are replaced there, the token stays in use, also after a reload.
func (q *tokenRequest) grantKey(r endpoint.Request) (endpoint.GrantKey, error) {
	written := q.template()
	r.ClientSecret, r.Assertion = written.ClientSecret, written.Assertion
	transport, err := json.Marshal(q.h.Transport)
	if err != nil {
		return endpoint.GrantKey{}, fmt.Errorf("transport: %w", err)
	}
	groups := slices.Concat(r.Fields(), written.Fields(), [][]string{{string(transport), r.Certificate}})
	if q.placeholders != nil {
		groups = append(groups, []string{strconv.Itoa(q.h.MaxTokens)})
	}
	if assertion := q.h.ClientAssertion; assertion != nil {
		groups = append(groups, []string{"client_assertion", assertion.Value})
	}
	if key := q.h.SigningKey; key != nil && key.Certificate != "" {
		groups = append(groups, []string{"certificate", key.Certificate})
	}
	return endpoint.NewGrantKey(groups...), nil
}

// trustOf returns how a transport, which can be nil, trusts the endpoint.
func trustOf(t *reverseproxy.HTTPTransport) (string, error) {
	if t == nil {
		return "null", nil
	}
	tls, err := json.Marshal(t.TLS)
	return string(tls), err
}

// public is what operators may see of a token request: the resolved one, or for tenants the one that is written in
// the configuration.
func (q *tokenRequest) public(resolved endpoint.Request) endpoint.Request {
	r := resolved
	switch {
	case q.placeholders != nil:
		r = q.template()
		r.Endpoint, _, _ = strings.Cut(r.Endpoint, "?")
		if r.Endpoint == "" && r.Issuer == "" { // it is in the key's file
			r.Endpoint = resolved.EndpointName()
		}
	case r.Issuer == "":
		r.Endpoint = r.EndpointName()
	}
	var grant *endpoint.JWTGrant
	if r.Grant != nil {
		grant = &endpoint.JWTGrant{Issuer: r.Grant.Issuer, Subject: r.Grant.Subject}
	}
	return endpoint.Request{
		Grant: grant, Issuer: r.Issuer, Endpoint: r.Endpoint, ClientID: cmp.Or(r.ClientName(), resolved.ClientName()), AuthMethod: r.AuthMethod, Format: r.Format,
		HasCertificate: r.HasCertificate, Scopes: r.Scopes, Audience: r.Audience, Resource: r.Resource,
	}
}

// resolveWithin is resolve for as long as ctx lasts, and checks the outcome. values are what the placeholders
// of the request stand for. A file on a mount that hangs blocks one goroutine. Callers wait until ctx
// ends.
func (q *tokenRequest) resolveWithin(ctx context.Context, values []string) (endpoint.Request, error) {
	type resolved struct {
		request endpoint.Request
		err     error
	}
	done := make(chan resolved, 1)
	select {
	case q.resolving <- struct{}{}:
		go func() {
			request, err := q.resolve(q.standIn(values))
			request.Hidden = q.hidden(values)
			if err == nil {
				q.h.reporter.warnOfCertificates()
				err = q.check(request)
			}
			<-q.resolving // before the outcome is sent, so that the caller can look again immediately
			done <- resolved{request, err}
		}()
	case <-ctx.Done():
		return endpoint.Request{}, errResolving
	}
	select {
	case r := <-done:
		return r.request, r.err
	case <-ctx.Done():
		return endpoint.Request{}, errResolving
	}
}

// hidden are the values of the request's placeholders that operators must not see.
func (q *tokenRequest) hidden(values []string) (list []string) {
	for i, value := range values {
		if q.placeholders[i].secret {
			list = append(list, value)
		}
	}
	return list
}

// check checks a request whose placeholders are resolved.
func (q *tokenRequest) check(request endpoint.Request) error {
	err := request.Check()
	if err != nil && q.placeholders != nil {
		return unfitValueError{err}
	}
	return err
}

// unfitValueError says that a token request can't be sent because of a value from a client's request. Other tenants'
// requests may be fine.
type unfitValueError struct{ error }

var errResolving = errors.New("a placeholder could not be resolved in time; the file may be on a mount that hangs")

// changedSince reports whether the request would differ now from the one that failed. One caller at a time looks, as
// that reads files. After a look that failed there is none for a while, since Caddy logs each. All other callers get
// false.
func (q *tokenRequest) changedSince(ctx context.Context, values []string, failure *endpoint.Error) bool {
	if !q.varies || len(q.resolving) > 0 {
		return false
	}
	if at := q.lookFailed.Load(); at != nil && time.Since(*at) < changeLookup {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, changeLookup)
	defer cancel()
	request, err := q.resolveWithin(ctx, values)
	if err != nil {
		if _, ok := errors.AsType[unfitValueError](err); !ok {
			now := time.Now()
			q.lookFailed.Store(&now)
		}
		return false
	}
	return request.Key() != failure.Asked
}
