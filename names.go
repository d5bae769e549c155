package oauthcc

import (
	"unicode/utf8"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/mask"
)

// Grants are named in the log, in events and in spans by their endpoint and client. Where clients choose a part of
// either, each of their requests can be a line of log. So no more is shown of that part than by the Admin API.

const (
	// maxShownURL is how much is shown of an endpoint that is chosen as a whole, in characters.
	maxShownURL = 256

	// maxShownScopes is how much is shown of a list of scopes, in characters.
	maxShownScopes = 500
)

// nameLimits bound the parts of a grant's name, in characters. 0 is for a part that no client chooses.
type nameLimits struct {
	endpoint, clientID int
}

// noteNameLimits sets the limits. A limit is the length of what is written in the options, plus maxShown for each
// placeholder of the request. sampled has a sample of one character for each placeholder; uses counts the
// placeholders by option.
func (q *tokenRequest) noteNameLimits(sampled endpoint.Request, uses map[string]int) {
	limit := func(name string, uses int) int {
		if uses == 0 {
			return 0
		}
		return utf8.RuneCountInString(name) + uses*(maxShown-1)
	}
	clientUses := uses["client_id"]
	if sampled.ClientID == "" {
		clientUses = uses["grant.issuer"]
	}
	q.names = nameLimits{limit(sampled.EndpointName(), uses["token_endpoint"]), limit(sampled.ClientName(), clientUses)}
	for _, p := range q.placeholders {
		if p.wholeURL {
			q.names.endpoint = maxShownURL
		}
	}
}

// shownName returns the endpoint and the client of a resolved request, as operators see them.
func (q *tokenRequest) shownName(r endpoint.Request) (endpoint, clientID string) {
	return cutName(r.EndpointName(), q.names.endpoint), cutName(r.ClientName(), q.names.clientID)
}

func cutName(name string, limit int) string {
	if limit == 0 {
		return name
	}
	return mask.FirstRunes(name, limit)
}
