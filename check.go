package oauthcc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// checksAtOnce is how many grants are asked for at a time.
const checksAtOnce = 4

// resultNotChecked is the result of a check that could not be made, beside those of fetches.
const resultNotChecked = "not_checked"

// checkResult is what came of the check of one grant. The help of the command describes
// the members.
type checkResult struct {
	Endpoint      string `json:"endpoint,omitempty"` // without its query
	Issuer        string `json:"issuer,omitempty"`
	ClientID      string `json:"client_id,omitempty"`
	AuthMethod    string `json:"auth_method"`
	RequestFormat string `json:"request_format"`
	Result        string `json:"result"`
	Status        int    `json:"status,omitempty"`

	TokenType  string `json:"token_type,omitempty"`
	Lifetime   int64  `json:"lifetime_seconds,omitempty"`
	DefaultTTL int64  `json:"default_ttl_seconds,omitempty"`
	Scope      string `json:"scope,omitempty"`
	Missing    string `json:"missing_scope,omitempty"`
	ClockSkew  int64  `json:"clock_skew_seconds,omitempty"`

	Detail          string `json:"detail,omitempty"`
	EndpointMessage string `json:"endpoint_message,omitempty"`
	Hint            string `json:"hint,omitempty"`
	RetryAfter      int64  `json:"retry_after_seconds,omitempty"`
	AcceptedMethod  string `json:"accepted_auth_method,omitempty"`
	AcceptedFormat  string `json:"accepted_request_format,omitempty"`

	MissingValues []string `json:"missing_values,omitempty"`
	Notes         []string `json:"notes,omitempty"`

	refused bool // the endpoint does not accept the credential
}

func (r checkResult) failed() bool { return r.Result != resultOK && r.Result != resultNotChecked }

func (r *checkResult) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// checker asks the endpoints of handlers for tokens.
type checker struct {
	values     map[string]string // what placeholders of the request stand for
	tryMethods bool
}

// all checks handlers, those with the same grant once. The results are in their order.
func (c checker) all(ctx context.Context, list []*Handler) ([]checkResult, error) {
	if len(list) == 0 {
		return nil, errors.New("the configuration has no oauth_cc handler")
	}
	if err := c.checkValues(list); err != nil {
		return nil, err
	}
	seen := make(map[grantKey]bool)
	list = slices.DeleteFunc(list, func(h *Handler) bool {
		known := seen[h.key]
		seen[h.key] = true
		return known
	})
	results := make([]checkResult, len(list))
	byCredential := make(map[grantKey][]int)
	for i, h := range list {
		key := newGrantKey([]string{h.TokenEndpoint, h.Issuer, h.ClientID, h.ClientSecret, h.AuthMethod})
		byCredential[key] = append(byCredential[key], i)
	}
	turn := make(chan struct{}, checksAtOnce)
	var wait sync.WaitGroup
	for _, places := range byCredential {
		wait.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			refused := false
			for _, i := range places {
				if refused {
					results[i] = refusedBefore(list[i])
					continue
				}
				results[i] = c.check(ctx, list[i])
				refused = results[i].refused
			}
		})
	}
	wait.Wait()
	if ctx.Err() != nil {
		return nil, errors.New("interrupted")
	}
	return results, nil
}

// checkValues refuses values that are of no use, since a name may be misspelled.
func (c checker) checkValues(list []*Handler) error {
	var known []string
	for _, h := range list {
		for _, p := range h.perRequest {
			if !slices.Contains(known, p.name) {
				known = append(known, p.name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.values)) {
		switch {
		case slices.Contains(known, name):
		case known == nil:
			return fmt.Errorf("--value: no option has the placeholder {%s}, nor any other of the request; remove it", name)
		default:
			return fmt.Errorf("--value: no option has the placeholder {%s}; there is {%s}", name, strings.Join(known, "}, {"))
		}
	}
	return nil
}

// check asks for a token with the handler's way to the endpoint, and past its cache and its
// storage.
func (c checker) check(ctx context.Context, h *Handler) checkResult {
	request := h.template() // until it is known what the placeholders stand for
	source := &grantSource{h: h}
	if h.table != nil {
		values, missing, err := c.valuesFor(h)
		if err != nil {
			return unaskedResult(request, missing, err)
		}
		source.values = values
	}
	resolve := func(ctx context.Context) (grantRequest, error) {
		resolved, err := source.resolveWithin(ctx)
		if err == nil {
			request = resolved
		}
		return resolved, err
	}
	server := new(discovery)
	granted, failure := h.client.fetch(ctx, resolve, server)
	if m := server.known(request.issuer); m != nil {
		request.endpoint = m.endpointFor(request)
	}
	r := newCheckResult(request)
	if failure == nil {
		r.succeed(h, request, granted)
		return r
	}
	r.fail(failure)
	switch {
	case !mayBeMethod(request, failure):
	case c.tryMethods:
		r.tryMethods(ctx, h.client, request, failure)
	case r.Hint == "":
		r.Hint = "the id or the secret may be wrong, or the endpoint may want them sent in another way; --try-methods finds out which"
	}
	return r
}

func newCheckResult(request grantRequest) checkResult {
	return checkResult{
		Endpoint: shownEndpoint(request), Issuer: request.issuer, ClientID: request.clientID,
		AuthMethod: request.authMethod, RequestFormat: request.format,
	}
}

// refusedBefore is for a grant whose client has been refused just now: each further try may
// count where an endpoint locks clients out.
func refusedBefore(h *Handler) checkResult {
	r := newCheckResult(h.template())
	r.Result = resultNotChecked
	r.note("the same client was refused just now")
	return r
}

// unaskedResult is for a grant for which there are no values, or none that can be used.
func unaskedResult(request grantRequest, missing []string, err error) checkResult {
	r := newCheckResult(request)
	if missing == nil {
		r.Result, r.Detail = string(classRefused), err.Error()
		return r
	}
	r.Result, r.MissingValues = resultNotChecked, missing
	r.note("the grant differs from request to request; to check it, add --value %s=…", strings.Join(missing, "=… --value "))
	return r
}

// valuesFor are what the handler's placeholders of the request stand for. missing are the
// names of those for which there is none.
func (c checker) valuesFor(h *Handler) (values, missing []string, err error) {
	repl := caddy.NewEmptyReplacer()
	for _, p := range h.perRequest {
		value, ok := c.values[p.name]
		if !ok {
			missing = append(missing, p.name)
		}
		repl.Set(p.name, value)
	}
	values, err = h.requestValues(repl)
	return values, missing, err
}

func (r *checkResult) succeed(h *Handler, request grantRequest, granted grantedToken) {
	r.Result, r.TokenType = resultOK, typeBearer
	if h.prover != nil {
		r.TokenType = typeDPoP
	}
	words := func(text string) string {
		return quote(func(text string) string { return maskSecrets(request.mask(text), "", granted.value) }, text)
	}
	r.Scope, r.Missing = strings.Join(request.scopes, " "), granted.missingScope
	if granted.scopeKnown {
		r.Scope = words(granted.scope)
	}
	if granted.lifetimeKnown {
		r.Lifetime = wholeSeconds(granted.lifetime)
	} else {
		r.DefaultTTL = wholeSeconds(granted.lifetime)
		r.note("the lifetime is unknown; default_ttl %s is used", granted.lifetime)
	}
	if r.Missing != "" {
		r.note("fewer scopes were granted than asked for; missing: %s", r.Missing)
	}
	if granted.atEnd {
		r.note("the token has expired already when it is granted; compare the clocks of this machine and the endpoint, and look at expires_in")
	}
	r.noteSkew(granted.skew)
}

func (r *checkResult) fail(failure *fetchError) {
	r.Result, r.Status, r.refused = failure.errorCode(), failure.status, failure.refusesClient()
	r.Detail, r.EndpointMessage, r.Hint = failure.detail, failure.said, failure.hint
	r.RetryAfter = wholeSeconds(failure.retryAfter)
	r.noteSkew(failure.seen.skew)
}

func (r *checkResult) noteSkew(skew time.Duration) {
	if r.ClockSkew = int64(skew / time.Second); skew != 0 && !strings.Contains(r.Hint, describeSkew(skew)) {
		r.note("%s; assertions, proofs and the lifetimes of JWTs depend on it", describeSkew(skew))
	}
}

func wholeSeconds(d time.Duration) int64 { return int64(math.Round(d.Seconds())) }

// shownEndpoint is the endpoint as it may be shown, also with placeholders that are not
// resolved, which make no URL.
func shownEndpoint(r grantRequest) string {
	if strings.Contains(r.endpoint, "{") {
		shown, _, _ := strings.Cut(r.endpoint, "?")
		return shown
	}
	return r.endpointName()
}

// mayBeMethod reports whether another way to send the secret may be what the endpoint wants.
func mayBeMethod(r grantRequest, failure *fetchError) bool {
	sendsSecret := usesBasic(r.authMethod) || r.authMethod == authSecretPost
	return sendsSecret && !failure.unsent && (failure.mayMeanClient() ||
		failure.code == "unauthorized_client" || r.formatHint(failure) != "")
}

// tryMethods asks with the other ways to send a secret, until one is accepted.
func (r *checkResult) tryMethods(ctx context.Context, client *tokenClient, request grantRequest, failure *fetchError) {
	var tried []string
	for _, other := range request.otherWays(failure) {
		_, failure := client.fetch(ctx, func(context.Context) (grantRequest, error) { return other, nil }, new(discovery))
		if failure == nil {
			r.AcceptedMethod, r.AcceptedFormat = other.authMethod, other.format
			r.Hint = "accepted with auth_method " + other.authMethod
			if other.format != request.format {
				r.Hint += " and request_format " + other.format
			}
			r.Hint += "; write that"
			return
		}
		tried = append(tried, fmt.Sprintf("%s with %s: %s", other.authMethod, other.format, failure.errorCode()))
		if failure.transient() {
			break // the endpoint is not well, and has not judged the method
		}
	}
	if len(tried) > 0 {
		r.note("tried as well: %s", strings.Join(tried, ", "))
	}
	if r.Hint == "" {
		r.Hint = "the id or the secret may be wrong"
	}
}

// otherWays are the same request with the secret sent in each other way that the endpoint
// can tell apart, and in another format if that may be what it wants.
func (r grantRequest) otherWays(failure *fetchError) []grantRequest {
	formats := []string{r.format}
	if r.formatHint(failure) != "" {
		formats = []string{formatForm, formatJSON}
	}
	asked := []grantRequest{r}
	for _, format := range formats {
		for _, method := range []string{authSecretBasic, authSecretBasicRaw, authSecretPost} {
			other := r
			other.authMethod, other.format = method, format
			if other.check() == nil && !slices.ContainsFunc(asked, other.isSentLike) {
				asked = append(asked, other)
			}
		}
	}
	return asked[1:]
}

// isSentLike reports whether two requests of the same client can't be told apart by how the
// credential is sent.
func (r grantRequest) isSentLike(other grantRequest) bool {
	same := r.authMethod == other.authMethod || usesBasic(r.authMethod) && usesBasic(other.authMethod) && !r.hasReserved()
	return r.format == other.format && same
}
