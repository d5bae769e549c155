package oauthcc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/check"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// target describes the handler's grant to the check. before are the maps before the handler, and given the values of
// the request's placeholders, by name.
func (h *Handler) target(before passedMaps, given map[string]string) check.Target {
	t := check.Target{
		GrantKey: h.tokens.key, Template: h.request.template(), Bound: h.carrier.prover != nil, Client: h.tokens.client,
		Notes: h.reporter.certificates.notes(time.Now()),
	}
	t.Template.ClientID = h.reporter.public.ClientID
	if t.Template.Endpoint == "" && t.Template.Issuer == "" { // it is in the key's file
		t.Template.Endpoint = h.reporter.public.Endpoint
	}
	client := []string{h.TokenEndpoint, h.Issuer, h.ClientID, h.ClientSecret, h.AuthMethod}
	if h.ClientAssertion != nil {
		client = append(client, "client_assertion", h.ClientAssertion.Value)
	}
	if h.SigningKey != nil {
		client = append(client, "signing_key", h.SigningKey.File)
	}
	if h.Grant != nil {
		client = append(client, "grant", h.Grant.Issuer)
	}
	var values []string
	if h.tokens.table != nil {
		stub := stubRequest{before: before, given: given}
		t.Inputs = stub.inputs(h.request.placeholders)
		values, t.Missing, t.Unfit = stub.values(&h.request)
		for _, name := range t.Missing {
			if slices.Contains(before.unclear, name) {
				t.Notes = append(t.Notes, fmt.Sprintf("the request decides which map sets {%s}; give what comes out of it", name))
			}
		}
		// Other maps can make another grant of the same options, and of another client.
		t.GrantKey = endpoint.NewGrantKey([]string{string(t.GrantKey[:]), fmt.Sprint(t.Unfit)}, values, t.Missing)
		client = h.request.withValues(client, values)
	}
	t.ClientKey = endpoint.NewGrantKey(client)
	t.Resolve = func(ctx context.Context) (endpoint.Request, error) { return h.request.resolveWithin(ctx, values) }
	return t
}

// withValues puts values in the place of the request's placeholders in options, and leaves the other placeholders.
func (q *tokenRequest) withValues(options, values []string) []string {
	repl := caddy.NewEmptyReplacer()
	for i, value := range values {
		repl.Set(q.placeholders[i].name, value)
	}
	replaced := make([]string, len(options))
	for i, option := range options {
		replaced[i] = repl.ReplaceKnown(option, "")
	}
	return replaced
}

// stubRequest stands for a request. The check knows some of its placeholders.
type stubRequest struct {
	before passedMaps
	given  map[string]string
}

// inputs lists all placeholders that can be given.
func (s stubRequest) inputs(placeholders []requestPlaceholder) []string {
	var names []string
	for _, p := range placeholders {
		names = appendNew(names, s.before.inputs(p.name)...)
	}
	return names
}

// values returns what the placeholders stand for in this request. missing are those that have to be given as well.
func (s stubRequest) values(q *tokenRequest) (values, missing []string, err error) {
	for _, p := range q.placeholders {
		missing = appendNew(missing, s.before.missing(p.name, s.given)...)
	}
	if missing != nil {
		return nil, missing, nil
	}
	repl := s.replacer(func(name string) { missing = appendNew(missing, name) })
	if values, err = q.values(repl); missing != nil { // in what came out of a map
		return nil, missing, nil
	}
	return values, nil, s.explain(err, repl)
}

// replacer returns a replacer as the handler would find it. A placeholder that is given has that value, even if a map
// sets it. unknown is called for a placeholder without a value, and for one of which it is unclear which map sets it.
func (s stubRequest) replacer(unknown func(name string)) *caddy.Replacer {
	repl := caddy.NewReplacer()
	for name, value := range s.given {
		repl.Set(name, value)
	}
	repl.Map(func(name string) (any, bool) { // before those of the maps
		if isStaticPlaceholder(name) || s.before.setter(name) != nil {
			return nil, false
		}
		unknown(name)
		return nil, true
	})
	r := new(http.Request).WithContext(context.WithValue(context.Background(), caddy.ReplacerCtxKey, repl))
	for _, m := range s.before.maps {
		_ = m.ServeHTTP(nil, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })) // only adds to repl
	}
	return repl
}

// explain says which map has left a placeholder empty.
func (s stubRequest) explain(err error, repl *caddy.Replacer) error {
	e, ok := errors.AsType[*missingValueError](err)
	if !ok {
		return err
	}
	name := e.placeholder.name
	_, isGiven := s.given[name]
	value, _ := repl.GetString(name)
	if m := s.before.setter(name); m != nil && !isGiven && value == "" {
		return fmt.Errorf("%w: the map of %s has no output for this value, or an empty one", err, m.Source)
	}
	return err
}

// appendNew appends the names that are not in the list yet.
func appendNew(list []string, names ...string) []string {
	for _, name := range names {
		if !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}
