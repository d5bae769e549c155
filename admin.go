package oauthcc

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// adminAPI lets operators look at the tokens, renew and forget them, under Caddy's own
// rules of access to its admin endpoint:
//
//	GET    /oauth_cc/tokens               what is known of each token
//	POST   /oauth_cc/tokens/{id}/refresh  fetches another one, and ends a pause
//	DELETE /oauth_cc/tokens/{id}          forgets it, and ends a pause
//	GET    /oauth_cc/ready                whether there is a token for each static grant
//
// Nothing in it is secret.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.oauth_cc",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes implements caddy.AdminRouter.
func (a adminAPI) Routes() []caddy.AdminRoute {
	route := func(pattern string, handler caddy.AdminHandlerFunc, methods ...string) caddy.AdminRoute {
		return caddy.AdminRoute{Pattern: pattern, Handler: allowMethods(handler, methods...)}
	}
	return []caddy.AdminRoute{
		route("/oauth_cc/tokens", a.list, http.MethodGet, http.MethodHead),
		route("/oauth_cc/tokens/{id}", a.drop, http.MethodDelete),
		route("/oauth_cc/tokens/{id}/refresh", a.refresh, http.MethodPost),
		route("/oauth_cc/ready", a.ready, http.MethodGet, http.MethodHead),
	}
}

// allowMethods answers all other methods with 405 (RFC 9110 §15.5.6).
func allowMethods(handler caddy.AdminHandlerFunc, methods ...string) caddy.AdminHandler {
	return caddy.AdminHandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if !slices.Contains(methods, r.Method) {
			w.Header().Set("Allow", strings.Join(methods, ", "))
			return caddy.APIError{
				HTTPStatus: http.StatusMethodNotAllowed,
				Err:        fmt.Errorf("use %s", strings.Join(methods, " or ")),
			}
		}
		return handler(w, r)
	})
}

// defaultListed is how many tokens are listed if it is not said how many are wanted.
const defaultListed = 1000

// tokenList is what is told of all tokens.
type tokenList struct {
	Tokens  []tokenStatus `json:"tokens"`
	Omitted int           `json:"omitted,omitempty"` // more than were asked for
}

// tokenStatus is what is told of a token, or of a grant that has none.
type tokenStatus struct {
	ID         string            `json:"id"`
	Endpoint   string            `json:"endpoint,omitempty"`
	Issuer     string            `json:"issuer,omitempty"`
	ClientID   string            `json:"client_id,omitempty"`
	AuthMethod string            `json:"auth_method"`
	Scopes     []string          `json:"scopes,omitempty"`
	Audience   []string          `json:"audience,omitempty"`
	Resource   []string          `json:"resource,omitempty"`
	Values     map[string]string `json:"values,omitempty"` // of the placeholders of the request

	State      string     `json:"state"`                 // fresh, stale, expired or none
	Token      string     `json:"token,omitempty"`       // the name of it that logs use
	Generation uint64     `json:"generation,omitempty"`  // counts the tokens of this grant
	Shared     bool       `json:"shared,omitempty"`      // another gateway has got it
	ObtainedAt *time.Time `json:"obtained_at,omitempty"` // when it was asked for
	StaleFrom  *time.Time `json:"stale_from,omitempty"`  // then it is renewed ahead
	ExpiresAt  *time.Time `json:"expires_at,omitempty"`

	Requests      uint64        `json:"requests"` // that were given a token
	Fetches       uint64        `json:"fetches"`
	FailedFetches uint64        `json:"failed_fetches"`
	Fetching      bool          `json:"fetching,omitempty"`
	LastError     *failedStatus `json:"last_error,omitempty"` // also of a failure that is over
	NextTry       *time.Time    `json:"next_try,omitempty"`   // in a pause after a failure
}

// failedStatus is what is told of a fetch that failed.
type failedStatus struct {
	Error  string    `json:"error"`            // as {http.oauth_cc.error}
	Status int       `json:"status,omitempty"` // HTTP status of the answer
	At     time.Time `json:"at"`
}

func (adminAPI) list(w http.ResponseWriter, r *http.Request) error {
	limit := defaultListed
	if text := r.URL.Query().Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 0 {
			return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: errors.New("limit: not a number of tokens; write one such as 100")}
		}
	}
	list := tokenList{Tokens: []tokenStatus{}}
	now := time.Now()
	for _, named := range namedGrants() {
		if len(list.Tokens) == limit {
			list.Omitted++
			continue
		}
		list.Tokens = append(list.Tokens, named.status(now))
	}
	return answerJSON(w, http.StatusOK, list)
}

func (adminAPI) drop(w http.ResponseWriter, r *http.Request) error {
	named, err := findGrant(r)
	if err != nil {
		return err
	}
	named.grant.drop()
	for _, h := range handlers.running() {
		if h.key == named.h.key {
			h.keeper.wake()
		}
	}
	named.h.logger.Info("an operator has the token forgotten", named.h.named(zap.String("id", named.id))...)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (adminAPI) refresh(w http.ResponseWriter, r *http.Request) error {
	named, err := findGrant(r)
	if err != nil {
		return err
	}
	if named.h.table != nil {
		return caddy.APIError{
			HTTPStatus: http.StatusConflict,
			Err:        errors.New("only a request tells what its placeholders stand for; DELETE the token, and the next such request fetches another"),
		}
	}
	_, err = named.grant.refresh(r.Context(), named.h.source)
	if failure, ok := errors.AsType[*unavailableError](err); ok {
		return caddy.APIError{HTTPStatus: failure.answer(w.Header()), Err: failure}
	}
	if err != nil { // nobody waits for the answer
		return caddy.APIError{HTTPStatus: http.StatusGatewayTimeout, Err: err}
	}
	return answerJSON(w, http.StatusOK, named.status(time.Now()))
}

// readiness is whether there are tokens.
type readiness struct {
	Ready    bool          `json:"ready"`
	Starting bool          `json:"starting,omitempty"` // no configuration with sites runs
	Missing  []tokenStatus `json:"missing,omitempty"`
}

// ready has tokens fetched that are missing, as a request would: traffic that waits for it
// would not come before.
func (adminAPI) ready(w http.ResponseWriter, r *http.Request) error {
	starting := !servesHTTP(caddy.ActiveContext())
	answer := readiness{Ready: !starting, Starting: starting}
	now := time.Now()
	var preparing sync.WaitGroup // they may look at files, or into a storage
	var missing []namedGrant
	for _, named := range namedGrants() {
		if named.h.table == nil && named.grant.usable(now) == nil {
			preparing.Go(func() { named.grant.prepare(r.Context(), named.h.source) })
			missing = append(missing, named)
		}
	}
	preparing.Wait()
	for _, named := range missing {
		answer.Ready = false
		answer.Missing = append(answer.Missing, named.status(now))
	}
	status := http.StatusOK
	if !answer.Ready {
		status = http.StatusServiceUnavailable
	}
	return answerJSON(w, status, answer)
}

// servesHTTP reports whether a configuration runs that has sites.
func servesHTTP(ctx caddy.Context) bool {
	_, err := ctx.AppIfConfigured("http")
	return ctx.Context != nil && err == nil
}

func answerJSON(w http.ResponseWriter, status int, value any) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(value)
}

// findGrant finds the grant of the request's path.
func findGrant(r *http.Request) (namedGrant, error) {
	id := r.PathValue("id")
	for _, named := range namedGrants() {
		if named.id == id {
			return named, nil
		}
	}
	return namedGrant{}, caddy.APIError{
		HTTPStatus: http.StatusNotFound,
		Err:        errors.New("no such token; GET /oauth_cc/tokens lists the ids"),
	}
}

// status is what is told of the grant.
func (n namedGrant) status(now time.Time) tokenStatus {
	source := grantSource{h: n.h, grant: n.grant}
	s, public := n.grant.state(), source.public()
	status := tokenStatus{
		ID: n.id, Endpoint: public.endpoint, Issuer: public.issuer, ClientID: public.clientID, AuthMethod: public.authMethod,
		Scopes: public.scopes, Audience: public.audience, Resource: public.resource, Values: n.values(),
		State: stateNone, Requests: s.uses, Fetches: s.history.fetches, FailedFetches: s.history.failures, Fetching: s.fetching,
	}
	if t := s.token; t != nil {
		status.State = n.h.tokenState(t, now)
		status.Token, status.Generation, status.Shared = fingerprint(t.value), t.generation, t.adopted
		status.ObtainedAt, status.StaleFrom, status.ExpiresAt = shownTime(t.sent.wall), shownTime(n.h.refreshAhead.staleFrom(t).wall), shownTime(t.expiry())
	}
	if failure := s.history.lastFailure; failure != nil {
		status.LastError = &failedStatus{Error: failure.errorCode(), Status: failure.status, At: *shownTime(s.history.failedAt)}
	}
	if s.failed != nil && s.failed.nextTry.After(now) {
		status.NextTry = shownTime(s.failed.nextTry)
	}
	return status
}

func shownTime(t time.Time) *time.Time {
	t = t.UTC().Truncate(time.Millisecond)
	return &t
}

// Interface guard
var _ caddy.AdminRouter = adminAPI{}
