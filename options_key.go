package oauthcc

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/help"
)

// This file checks the options about what the client signs, or has signed by somebody else.

// mayFindEndpointInKey reports whether the file of the signing key may name the token endpoint.
func (h *Handler) mayFindEndpointInKey() bool {
	return h.Grant != nil && h.SigningKey != nil && h.SigningKey.File != ""
}

// defaultAuthMethod is the method where none is configured.
func (h *Handler) defaultAuthMethod() string {
	switch {
	case h.ClientAssertion != nil:
		return endpoint.AuthPrivateKeyJWT
	case h.Grant != nil:
		return endpoint.AuthNone
	}
	return endpoint.AuthSecretBasic
}

// provisionGrant checks what to ask with.
func (h *Handler) provisionGrant() error {
	if h.Grant == nil {
		return nil
	}
	switch {
	case h.Grant.Type != endpoint.GrantJWTBearer:
		return fmt.Errorf("grant: unknown type %q; use %s, or leave the option out for the client-credentials grant", h.Grant.Type, endpoint.GrantJWTBearer)
	case h.SigningKey == nil || h.SigningKey.File == "":
		return fmt.Errorf("signing_key: missing; grant %s needs the file with the private key: signing_key <file>", endpoint.GrantJWTBearer)
	case h.AuthMethod == endpoint.AuthSecretJWT:
		return fmt.Errorf("auth_method: with grant %s the signing_key is for the grant, so the client can't sign with its secret; use another method", endpoint.GrantJWTBearer)
	}
	if h.Grant.ScopeClaim && len(h.Scopes) == 0 {
		return errors.New("grant: scope_claim: there is no scope; write scope <scope...>, or remove scope_claim")
	}
	h.request.grant = &endpoint.JWTGrant{
		Issuer: h.Grant.Issuer, Subject: h.Grant.Subject, Audience: h.Grant.Audience, ScopeClaim: h.Grant.ScopeClaim,
		Claims: h.Grant.Claims, Typ: h.SigningKey.Typ, Lifetime: time.Duration(h.Grant.Lifetime),
	}
	return h.request.grant.Complete()
}

// provisionClientAssertion checks the assertion that somebody else has made. It is read by resolve.
func (h *Handler) provisionClientAssertion() error {
	if h.ClientAssertion == nil {
		return nil
	}
	h.request.assertionType = cmp.Or(h.ClientAssertion.Type, endpoint.AssertionTypeJWT)
	switch {
	case h.ClientAssertion.Value == "":
		return errors.New("client_assertion: missing; name the file that it is in: client_assertion {file./path/to/file}")
	case strings.Contains(h.ClientAssertion.Value, "{") && !onePlaceholder.MatchString(h.ClientAssertion.Value):
		return errors.New("client_assertion: a placeholder has something beside it; write one placeholder alone, such as {file./path/to/file}, or a JWT")
	case h.AuthMethod != endpoint.AuthPrivateKeyJWT:
		return fmt.Errorf("client_assertion: auth_method %s does not send one; use %s, or leave auth_method out", h.AuthMethod, endpoint.AuthPrivateKeyJWT)
	case h.SigningKey != nil && h.Grant == nil:
		return errors.New("client_assertion: signing_key is given as well, and the client sends one assertion; remove one of them")
	}
	return endpoint.CheckAssertionType(h.request.assertionType)
}

// onePlaceholder matches a placeholder that is all of a value.
var onePlaceholder = regexp.MustCompile(`^\{[^{}]+\}$`)

// provisionSigningKey checks how assertions are made. The key itself is read by resolve.
func (h *Handler) provisionSigningKey() error {
	method := endpoint.MethodNamed(h.AuthMethod)
	signsForClient := method.Signs && h.ClientAssertion == nil
	needsFile := method.Credential == endpoint.CredentialKey && signsForClient || h.Grant != nil
	if h.SigningKey == nil {
		if needsFile {
			return fmt.Errorf("signing_key: missing; auth_method %s needs the file with the private key", h.AuthMethod)
		}
		return h.request.assertions.Complete()
	}
	switch {
	case !signsForClient && h.Grant == nil:
		return fmt.Errorf("signing_key: auth_method %s signs nothing; use %s, or remove it", h.AuthMethod, endpoint.AuthPrivateKeyJWT)
	case needsFile && h.SigningKey.File == "":
		return fmt.Errorf("signing_key: no file; auth_method %s needs that of the private key: signing_key <file>", h.AuthMethod)
	case !needsFile && h.SigningKey.File != "":
		return fmt.Errorf("signing_key: auth_method %s signs with the client_secret; remove the file, or use %s", h.AuthMethod, endpoint.AuthPrivateKeyJWT)
	case !signsForClient && h.SigningKey.Audience != "":
		return errors.New("signing_key: audience is for an assertion that the client doesn't send; write it into the block of grant")
	case !signsForClient && h.SigningKey.Lifetime != 0:
		return errors.New("signing_key: lifetime is for an assertion that the client doesn't send; write it into the block of grant")
	}
	if err := h.SigningKey.checkCertificate(); err != nil {
		return err
	}
	h.request.assertions = endpoint.AssertionOptions{
		File: h.SigningKey.File, Alg: h.SigningKey.Alg, KeyID: h.SigningKey.KeyID, Audience: h.SigningKey.Audience,
		Typ: h.SigningKey.Typ, Lifetime: time.Duration(h.SigningKey.Lifetime), Chain: h.SigningKey.X5C,
	}
	if err := h.request.assertions.Complete(); err != nil {
		return err
	}
	if h.SigningKey.File == "" {
		return nil
	}
	p := placeholders{repl: caddy.NewReplacer()}
	h.request.keyFile = &endpoint.KeyFile{
		Path: p.value("signing_key", h.SigningKey.File), Alg: h.SigningKey.Alg,
		Certificate:   p.value("signing_key.certificate", h.SigningKey.Certificate),
		NamesEndpoint: h.TokenEndpoint == "" && h.Issuer == "",
		NamesIssuer:   h.Grant != nil && h.Grant.Issuer == "" && h.ClientID == "",
		InsecureHTTP:  h.InsecureHTTP,
	}
	if p.err == nil && h.request.keyFile.IsReadableByAll() {
		help.Write(h.reporter.logger.Check(zapcore.WarnLevel, "every user of this machine can read the signing key; take the right away with chmod o-r"), "",
			zap.String("signing_key", h.request.keyFile.Path))
	}
	return p.err
}

// checkCertificate refuses a certificate that has no key.
func (k *SigningKey) checkCertificate() error {
	switch {
	case k.Certificate != "" && k.File == "":
		return errors.New("signing_key: certificate: the client signs with its secret, which has no certificate; remove it")
	case k.X5C && k.Certificate == "":
		return errors.New("signing_key: x5c: no certificate; write certificate <file> x5c")
	}
	return nil
}

// noAssertionYetError says that the client's assertion is not in its file, or only a part of it. Whoever makes it may not
// have done so yet.
type noAssertionYetError struct{ error }

// resolveClientAssertion returns the assertion that somebody else has made, without white space around it.
func (q *tokenRequest) resolveClientAssertion(request standIn) (string, error) {
	written := q.h.ClientAssertion.Value
	p := placeholders{repl: caddy.NewReplacer(), request: request}
	value := strings.TrimSpace(p.perRequest("client_assertion", written))
	err := p.err
	isFile := strings.HasPrefix(written, "{"+filePlaceholder)
	if err == nil && value == "" {
		err = errors.New("client_assertion: empty; have whatever makes it write the JWT")
		if !isFile { // it comes from a client's request, and others may be fine
			err = unfitValueError{err}
		}
	}
	if err == nil && isFile {
		err = endpoint.CheckClientAssertion(value)
	}
	if err != nil && isFile {
		return "", noAssertionYetError{err}
	}
	return value, err
}
