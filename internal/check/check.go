package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
)

// checksAtOnce is how many clients are checked at the same time. Often all of them have the same
// authorization server, which a check must not flood.
const checksAtOnce = 4

// Target is a grant to check.
type Target struct {
	// Which grant it is, and of which client.
	GrantKey  endpoint.GrantKey // targets with the same key are checked once
	ClientKey endpoint.GrantKey // targets with the same key have the same credential at the same endpoint

	// What is asked for.
	Template endpoint.Request // with unresolved placeholders
	Bound    bool             // tokens are bound by DPoP

	// Placeholders of the request, on which the grant depends.
	Inputs  []string // names of all that can be given values
	Missing []string // names of those that still need one
	Notes   []string // on those that are missing
	Unfit   error    // why the values that were given can't be used

	// Resolve resolves all placeholders. It is not called if values are missing or unfit.
	Resolve func(context.Context) (endpoint.Request, error)

	// Client asks for the token, with the handler's transport and timeout.
	Client *endpoint.Client
}

// Checker asks token endpoints for tokens.
type Checker struct {
	Given      []string // names of the placeholders of the request that were given values
	TryMethods bool     // if a client is refused, try the other ways to send its secret
}

// All checks targets, each grant once, and returns the results in the targets' order. A refused token
// is a Result. It is an error if nothing could be checked: without targets, with values for unknown
// placeholders, or when ctx has ended.
func (c Checker) All(ctx context.Context, list []Target) ([]Result, error) {
	if len(list) == 0 {
		return nil, errors.New("the configuration has no oauth_cc handler")
	}
	if err := c.checkGiven(list); err != nil {
		return nil, err
	}
	list = distinct(list)
	results := make([]Result, len(list))          // each element is written by one goroutine, that of its client
	byClient := make(map[endpoint.GrantKey][]int) // indexes of list
	for i, t := range list {
		byClient[t.ClientKey] = append(byClient[t.ClientKey], i)
	}
	turn := make(chan struct{}, checksAtOnce) // holds an element for each client that is checked now
	var wait sync.WaitGroup
	for _, places := range byClient {
		wait.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			c.checkClient(ctx, list, places, results)
		})
	}
	wait.Wait()
	if ctx.Err() != nil { // the results would show timeouts that the endpoint did not cause
		return nil, errors.New("interrupted")
	}
	return results, nil
}

// distinct returns the first target of each grant. Several handlers of a configuration often have the
// same grant.
func distinct(list []Target) []Target {
	var first []Target
	seen := make(map[endpoint.GrantKey]bool)
	for _, t := range list {
		if !seen[t.GrantKey] {
			seen[t.GrantKey] = true
			first = append(first, t)
		}
	}
	return first
}

// checkClient checks the grants of one client, one after the other, until the client is refused. The
// other ways to send its secret are tried for one of them: each try may bring it closer to being locked
// out. places are their indexes in list and results.
func (c Checker) checkClient(ctx context.Context, list []Target, places []int, results []Result) {
	refused, tried := false, false
	for _, i := range places {
		if refused {
			results[i] = refusedBefore(list[i])
			continue
		}
		var askAgain func(*Result) // if the secret may be wanted otherwise
		results[i], askAgain = check(ctx, list[i])
		switch {
		case askAgain == nil || !c.TryMethods:
		case tried:
			results[i].remark("other ways to send the secret were tried for another grant of the client")
		default:
			tried = true
			askAgain(&results[i])
		}
		refused = results[i].refused
	}
}

// checkGiven refuses values for unknown placeholders, as the name may be misspelled.
func (c Checker) checkGiven(list []Target) error {
	var known []string
	for _, t := range list {
		for _, name := range t.Inputs {
			if !slices.Contains(known, name) {
				known = append(known, name)
			}
		}
	}
	for _, name := range c.Given {
		switch {
		case slices.Contains(known, name):
		case known == nil:
			return fmt.Errorf("--value: no grant depends on the placeholder {%s}, nor on any other of the request; remove it", name)
		default:
			return fmt.Errorf("--value: no grant depends on the placeholder {%s}; there is {%s}", name, strings.Join(known, "}, {"))
		}
	}
	return nil
}

// check asks for the token of one grant. The result shows the request as far as it is known: first with placeholders,
// later with the endpoint that the issuer names. askAgain tries the other ways to send the secret. It is nil if they
// can't help.
func check(ctx context.Context, t Target) (r Result, askAgain func(*Result)) {
	request := t.Template // until the placeholders are resolved
	switch {
	case t.Missing != nil:
		return uncheckedResult(t), nil
	case t.Unfit != nil:
		return unfitResult(request, t.Unfit), nil
	}
	resolve := func(ctx context.Context) (endpoint.Request, error) {
		resolved, err := t.Resolve(ctx)
		if err == nil {
			request = resolved
		}
		return resolved, err
	}
	server := new(endpoint.Discovery) // an empty one, so that the metadata is checked as well
	granted, failure := t.Client.Fetch(ctx, resolve, server)
	if discovered := server.EndpointFor(request); discovered != "" {
		request.Endpoint = discovered
	}
	r = newCheckResult(request)
	if failure == nil {
		r.succeed(t, request, granted)
		return r, nil
	}
	r.fail(failure)
	if request.MayBeSentOtherwise(failure) {
		askAgain = func(r *Result) { r.tryMethods(ctx, t.Client, request, failure) }
	}
	return r, askAgain
}

// tryMethods asks with the other ways to send the secret, until one is accepted.
func (r *Result) tryMethods(ctx context.Context, client *endpoint.Client, request endpoint.Request, failure *endpoint.Error) {
	var tried []string // with their error codes, so that users can compare
	unread := map[string]bool{request.Format: failure.Status == http.StatusUnsupportedMediaType}
	for _, other := range request.OtherWays(failure) {
		if unread[other.Format] {
			continue
		}
		_, failure := client.Fetch(ctx, func(context.Context) (endpoint.Request, error) { return other, nil }, new(endpoint.Discovery))
		if failure == nil {
			r.accept(request, other)
			return
		}
		tried = append(tried, fmt.Sprintf("%s with %s: %s", other.AuthMethod, other.Format, failure.ErrorCode()))
		if failure.IsTransient() {
			r.remark("tried as well: %s", strings.Join(tried, ", "))
			return // the endpoint has a problem of its own, and says nothing about the method
		}
		unread[other.Format] = failure.Status == http.StatusUnsupportedMediaType
	}
	if len(tried) > 0 {
		r.remark("tried as well: %s", strings.Join(tried, ", "))
	}
	if unread[endpoint.FormatForm] && unread[endpoint.FormatJSON] {
		r.Hint = "the endpoint takes neither a form nor JSON; compare token_endpoint with the API's documentation"
		return
	}
	r.Hint = cmp.Or(failure.HintAfterTrying(), "the id or the secret may be wrong")
}
