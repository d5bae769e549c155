package tokenlist

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// DefaultLimit is how many tokens are listed at the most, unless the filter says otherwise.
const DefaultLimit = 1000

// Filter says which tokens are listed.
type Filter struct {
	Limit    int      // how many at the most
	States   []string // one of them; any if there is none
	Values   []string // each is a part of what a placeholder of the request stands for, in capitals or not
	Failing  bool     // only those whose last fetch failed
	IDPrefix string
}

// ParseFilter reads a filter from the query of a request.
func ParseFilter(query url.Values) (Filter, error) {
	f := Filter{Limit: DefaultLimit, States: query["state"], Values: query["value"], IDPrefix: query.Get("id")}
	if text := query.Get("limit"); text != "" {
		var err error
		if f.Limit, err = strconv.Atoi(text); err != nil {
			return f, errLimit
		}
	}
	for _, text := range query["failing"] {
		if text != "true" {
			return f, errFailing
		}
		f.Failing = true
	}
	return f, f.Check()
}

var (
	errFailing = errors.New("failing: not a way to filter; write true, or leave it out")
	errLimit   = errors.New("limit: not a number of tokens; write one such as 100")
)

// Check reports what is wrong with the filter.
func (f Filter) Check() error {
	if f.Limit < 0 {
		return errLimit
	}
	states := states()
	for _, state := range f.States {
		if !slices.Contains(states, state) {
			return fmt.Errorf("state: there is no state %q; write %s or %s", state, strings.Join(states[:len(states)-1], ", "), states[len(states)-1])
		}
	}
	return nil
}

// states are the names of the states that a token can have.
func states() (names []string) {
	for state := tokencache.StateNone; state <= tokencache.StateExpired; state++ {
		names = append(names, state.String())
	}
	return names
}

// Query writes the filter as ParseFilter reads it.
func (f Filter) Query() url.Values {
	query := url.Values{"limit": {strconv.Itoa(f.Limit)}}
	for name, values := range map[string][]string{"state": f.States, "value": f.Values} {
		if len(values) > 0 {
			query[name] = values
		}
	}
	if f.Failing {
		query.Set("failing", "true")
	}
	if f.IDPrefix != "" {
		query.Set("id", f.IDPrefix)
	}
	return query
}

// HasState reports whether tokens in this state are asked for.
func (f Filter) HasState(state tokencache.TokenState) bool {
	return len(f.States) == 0 || slices.Contains(f.States, state.String())
}

// HasFailing reports whether tokens are asked for whose last fetch failed, or did not.
func (f Filter) HasFailing(failing bool) bool { return failing || !f.Failing }

// HasValues reports whether tokens with these values are asked for. If values are asked for, a token without any is
// not listed.
func (f Filter) HasValues(values []string) bool {
	for _, part := range f.Values {
		part = strings.ToLower(part)
		if !slices.ContainsFunc(values, func(value string) bool { return value != "" && strings.Contains(strings.ToLower(value), part) }) {
			return false
		}
	}
	return true
}
