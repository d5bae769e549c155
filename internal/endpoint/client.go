package endpoint

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/dpop"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/mask"
)

// Client gets tokens from token endpoints. It keeps nothing from one fetch to the next. It is safe for
// concurrent use if its transport is.
type Client struct {
	Transport  http.RoundTripper
	Timeout    time.Duration // of one fetch, including retries
	DefaultTTL time.Duration // the lifetime of a token if it is unknown
}

// Fetch asks for a token. It asks again if that may help, unless the endpoint wants to be left alone.
// It returns either a token or the error of the last try.
//
// resolve returns the request with its placeholders resolved. The request must have passed Check. If
// the endpoint refuses the credential, resolve is called once more, as the credential may have been
// replaced. An error of the first call is a failure of class refused, or timeout if ctx has ended, with
// the error's text as its detail.
//
// d finds the endpoint if the request names an issuer. Otherwise d can be nil.
func (c *Client) Fetch(ctx context.Context, resolve func(context.Context) (Request, error), d *Discovery) (Granted, *Error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()

	request, err := resolve(ctx)
	if err != nil {
		failure := &Error{Class: ClassRefused, Unsent: true, Detail: mask.FirstRunes(err.Error(), maxDetail)}
		if ctx.Err() != nil {
			failure.Class = ClassTimeout
		}
		return Granted{}, failure
	}
	resolvedAgain := false
	for retries := 0; ; {
		granted, failure := c.try(ctx, request, d)
		if failure == nil {
			return granted, nil
		}
		failure.Asked = request.Key()
		if request.refusesCredential(failure) && !resolvedAgain {
			// Not counted as a retry: it is another request. The same one again would only bring the
			// client closer to being locked out.
			resolvedAgain = true
			if again, err := resolve(ctx); err == nil && again.Key() != failure.Asked {
				request = again
				continue
			}
		}
		if !failure.IsTransient() || retries == maxRetries || !waitToRetry(ctx, failure.RetryAfter) {
			return Granted{}, failure
		}
		retries++
	}
}

// Retries within one fetch: at most maxRetries after the first try. Each comes after a wait between
// minRetryWait and maxRetryWait. There are none if the endpoint asks to be left alone for longer.
// Requests wait for all of this, so it is short.
const (
	maxRetries   = 2
	minRetryWait = 200 * time.Millisecond
	maxRetryWait = time.Second
)

// maxDetail bounds the text of an error in a Detail, in characters. It can quote a value of any length, or
// name a host of any length.
const maxDetail = 500

type retryTraceKey struct{}

// WithRetryTrace returns a context for Fetch. With it, Fetch calls retrying before it waits to try again, similar to
// the hooks of net/http/httptrace. retrying must return immediately.
func WithRetryTrace(ctx context.Context, retrying func()) context.Context {
	return context.WithValue(ctx, retryTraceKey{}, retrying)
}

// waitToRetry waits as long as the endpoint asks to be left alone, and at least for a random time, so
// that not all clients come back at once. If there is no time for a retry, it reports false
// immediately.
func waitToRetry(ctx context.Context, retryAfter time.Duration) bool {
	if retryAfter > maxRetryWait {
		return false
	}
	wait := max(retryAfter, minRetryWait+rand.N(maxRetryWait-minRetryWait)) //nolint:gosec // jitter
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
		return false
	}
	if retrying, ok := ctx.Value(retryTraceKey{}).(func()); ok {
		retrying()
	}
	select {
	case <-time.After(wait):
		return true
	case <-ctx.Done():
		return false
	}
}

// try asks the endpoint once, and once more if it wants its own nonce in the proof (RFC 9449 §8). That
// is not a retry: only the answer to a first request can bring the nonce.
func (c *Client) try(ctx context.Context, request Request, d *Discovery) (Granted, *Error) {
	var server *metadata
	if request.Issuer != "" {
		var failure *Error
		if server, failure = c.discover(ctx, request, d); failure != nil {
			return Granted{}, failure
		}
		request.Endpoint = server.endpointFor(request)
	}
	granted, failure := c.send(ctx, request, "")
	if failure != nil && failure.Code == "use_dpop_nonce" && failure.nonce != "" && request.Proofs != nil {
		granted, failure = c.send(ctx, request, failure.nonce)
	}
	if failure != nil && server != nil {
		d.doubt(request.Issuer)
		// What the server says about itself is more reliable than a guess from its refusal.
		// Those of assertions that others make are not all registered, and the hint about the assertion says more.
		if names := server.authMethods; request.ClientAssertionType == "" && failure.RefusesClient() && len(names) > 0 && !slices.Contains(names, request.Method().registered) {
			failure.Hint = "the issuer's metadata has other methods of client authentication; use auth_method " + strings.Join(names, " or ")
		}
	}
	return granted, failure
}

// send sends one token request. nonce is for its proof; empty for the server's last one. A single
// request gets half of the time, so that a request that hangs leaves time for another.
func (c *Client) send(ctx context.Context, request Request, nonce string) (Granted, *Error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout/2)
	defer cancel()

	sent := time.Now() // before the request, so that the token's lifetime is never too long
	auth, err := request.method().authenticate(request, sent)
	if err != nil {
		return Granted{}, &Error{Class: ClassRefused, Unsent: true, Detail: mask.FirstRunes(err.Error(), maxDetail)}
	}
	vetting := c.vettingFor(request, auth, nonce)
	scopes, params := request.Scopes, request.parameters(auth)
	if grant := request.Grant; grant != nil {
		assertion, err := grant.sign(request, sent)
		if err != nil {
			return Granted{}, &Error{Class: ClassRefused, Unsent: true, Detail: "the assertion of grant jwt_bearer could not be signed"}
		}
		vetting.secrets.Certain = append(vetting.secrets.Certain, assertion)
		params["grant_type"], params["assertion"] = []string{grantTypeJWT}, []string{assertion}
		if grant.ScopeClaim {
			scopes = nil
		}
	}
	client := &http.Client{
		Transport: request.roundTripper(vetting, auth),
		// With a 307 or 308, the client would send the credential to another address.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	config := clientcredentials.Config{
		ClientID:       request.ClientID,
		ClientSecret:   auth.secret,
		TokenURL:       request.Endpoint,
		Scopes:         scopes,
		EndpointParams: params,
		AuthStyle:      auth.style,
	}
	token, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	if err != nil {
		failure := asError(ctx, err)
		failure.Hint = request.hintFor(failure)
		return Granted{}, failure
	}
	granted := vetting.granted
	granted.Value = token.AccessToken
	granted.Sent = sent
	switch {
	case request.TTL > 0:
		granted.Lifetime, granted.LifetimeGuessed, granted.LifetimeFixed, granted.AtEnd = request.TTL, false, true, false
	case granted.LifetimeGuessed:
		granted.Lifetime = c.DefaultTTL
	}
	if granted.ScopeKnown { // without one, what was asked is granted (RFC 6749 §5.1)
		granted.MissingScope = missingScope(request.Scopes, vetting.scope)
	}
	return granted, nil
}

// vettingFor returns the transport of one request. It vets the answer, and adds a proof if the token is
// to be bound to a key.
func (c *Client) vettingFor(r Request, a clientAuth, nonce string) *vettingTransport {
	vetting := &vettingTransport{
		next:      c.Transport,
		tokenType: TypeBearer,
		fields:    r.ResponseFields,
		secrets:   r.secrets(),
		now:       time.Now,
	}
	vetting.secrets.Certain = append(vetting.secrets.Certain, a.sensitive...)
	if r.only("grant_type") == grantRefreshToken {
		vetting.refreshToken = r.only("refresh_token")
	}
	if r.Proofs != nil {
		vetting.tokenType = TypeDPoP
		vetting.next = dpop.Transport{Next: proofNoter{c.Transport, vetting}, Key: r.Proofs, Nonce: nonce}
	}
	return vetting
}

// parameters returns the parameters that x/oauth2 does not write by itself.
func (r Request) parameters(a clientAuth) url.Values {
	params := url.Values{}
	maps.Copy(params, r.Params)
	if len(r.Audience) > 0 {
		params["audience"] = r.Audience
	}
	if len(r.Resource) > 0 {
		params["resource"] = r.Resource
	}
	maps.Copy(params, a.params)
	return params
}
