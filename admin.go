package oauthcc

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/help"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokenlist"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// adminAPI lets operators list, renew and forget tokens on Caddy's admin endpoint, under Caddy's own rules of
// access:
//
//	GET    /oauth_cc/tokens               what is known about each token, or about those that match a filter
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

func (adminAPI) list(w http.ResponseWriter, r *http.Request) error {
	filter, err := tokenlist.ParseFilter(r.URL.Query())
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
	}
	all := namedHandlers()
	list := tokenlist.List{Tokens: []tokenlist.Token{}, Handlers: len(all)}
	now := time.Now()
	for _, h := range all {
		if !strings.HasPrefix(h.id, filter.IDPrefix) && !strings.HasPrefix(filter.IDPrefix, h.id) {
			continue
		}
		for _, g := range h.tokens.allGrants() {
			if !h.isAskedFor(filter, g) {
				continue
			}
			isFull := len(list.Tokens) == filter.Limit
			if isFull && len(filter.States) == 0 && !filter.Failing { // there can be many
				list.Omitted++
				continue
			}
			s := g.Snapshot()
			switch {
			case !filter.HasState(s.State(now, h.tokens.ahead)), !filter.HasFailing(s.History.Failing):
			case isFull:
				list.Omitted++
			default:
				list.Tokens = append(list.Tokens, h.named(g).describe(s, now))
			}
		}
	}
	return answerJSON(w, http.StatusOK, list)
}

// isAskedFor reports whether a filter has the values and the id of a grant.
func (h namedHandler) isAskedFor(f tokenlist.Filter, g *tokencache.Grant) bool {
	if len(f.Values) > 0 {
		unnamed := namedGrant{h: h.Handler, grant: g} // a name takes longer than all else, and there can be many
		if !f.HasValues(slices.Collect(maps.Values(unnamed.values()))) {
			return false
		}
	}
	return f.IDPrefix == "" || strings.HasPrefix(h.named(g).id, f.IDPrefix)
}

func (adminAPI) drop(w http.ResponseWriter, r *http.Request) error {
	named, err := findGrant(r)
	if err != nil {
		return err
	}
	named.grant.Forget()
	for _, h := range handlers.running() {
		if h.tokens.key == named.h.tokens.key {
			h.keeper.Wake()
		}
	}
	named.h.reporter.logger.Info("token forgotten by an operator", named.h.reporter.grantFields(zap.String("id", named.id))...)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (adminAPI) refresh(w http.ResponseWriter, r *http.Request) error {
	named, err := findGrant(r)
	if err != nil {
		return err
	}
	if named.h.tokens.table != nil {
		return caddy.APIError{
			HTTPStatus: http.StatusConflict,
			Err:        errors.New("only a request tells what its placeholders stand for; DELETE the token, and the next such request fetches another"),
		}
	}
	_, err = named.grant.Refresh(r.Context(), named.h.tokens.source)
	if failure, ok := errors.AsType[*tokencache.UnavailableError](err); ok {
		return caddy.APIError{HTTPStatus: statusFor(failure, w.Header()), Err: failure}
	}
	if err != nil { // the operator did not wait
		return caddy.APIError{HTTPStatus: http.StatusGatewayTimeout, Err: err}
	}
	return answerJSON(w, http.StatusOK, named.status(time.Now()))
}

// readiness is the answer to GET /oauth_cc/ready.
type readiness struct {
	Ready    bool              `json:"ready"`
	Starting bool              `json:"starting,omitempty"` // no configuration with sites runs
	Missing  []tokenlist.Token `json:"missing,omitempty"`
}

// ready reports whether each static grant has a token. It also starts a fetch for each that is missing: a load
// balancer that waits for readiness would never send the request that fetches it.
func (adminAPI) ready(w http.ResponseWriter, r *http.Request) error {
	starting := !servesHTTP(caddy.ActiveContext())
	answer := readiness{Ready: !starting, Starting: starting}
	now := time.Now()
	var preparing sync.WaitGroup // they may look at files, or into a storage
	var missing []namedGrant
	for _, h := range namedHandlers() {
		if h.tokens.table != nil {
			continue // not looked at: probes come often, and there can be many
		}
		if g := h.tokens.source.grant; g.Live(now) == nil {
			preparing.Go(func() { g.Prepare(r.Context(), h.tokens.source) })
			missing = append(missing, h.named(g))
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

// servesHTTP reports whether the running configuration has sites.
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

// findGrant finds the grant by the id in the request's path.
func findGrant(r *http.Request) (namedGrant, error) {
	id := r.PathValue("id")
	for _, h := range namedHandlers() {
		if !strings.HasPrefix(id, h.id) {
			continue
		}
		for _, g := range h.tokens.allGrants() {
			if named := h.named(g); named.id == id {
				return named, nil
			}
		}
	}
	return namedGrant{}, caddy.APIError{
		HTTPStatus: http.StatusNotFound,
		Err:        errors.New("no such token; GET /oauth_cc/tokens lists the ids"),
	}
}

// namedGrant is a grant of the running configuration with the id that operators use.
type namedGrant struct {
	id    string
	h     *Handler
	grant *tokencache.Grant
}

// namedHandler is a handler whose grants have ids.
type namedHandler struct {
	*Handler
	id string
}

// namedHandlers lists the handlers with a grant of their own, in the order of the configuration.
func namedHandlers() []namedHandler {
	running := handlers.running()
	latest := make(map[endpoint.GrantKey]*Handler) // of a configuration and the one that takes over, the latter
	for _, h := range running {
		latest[h.tokens.key] = h
	}
	running = slices.DeleteFunc(running, func(h *Handler) bool { return latest[h.tokens.key] != h })
	same := make(map[string]int)
	for _, h := range running {
		same[h.publicID()]++
	}
	named := make([]namedHandler, 0, len(running))
	for _, h := range running {
		id := h.publicID()
		if same[id] > 1 {
			id += "-" + keyedName(h.tokens.key)
		}
		named = append(named, namedHandler{h, id})
	}
	return named
}

// named gives an id to a grant of the handler's.
func (h namedHandler) named(g *tokencache.Grant) namedGrant {
	id := h.id
	if g.Entry() != nil {
		id += "." + keyedName(g.Entry().Key())
	}
	return namedGrant{id: id, h: h.Handler, grant: g}
}

// publicID names the handler's grant by what is no secret. The grant key would not do: it covers the credential,
// which could be guessed from it. The id is the same after a restart.
func (h *Handler) publicID() string {
	r := h.reporter.public
	groups := [][]string{{r.Issuer, r.Endpoint, r.ClientID, r.AuthMethod, r.Format, h.DPoP}, r.Scopes, r.Audience, r.Resource}
	if r.Grant != nil {
		groups = append(groups, []string{r.GrantName(), r.Grant.Issuer, r.Grant.Subject})
	}
	key := endpoint.NewGrantKey(groups...)
	return hex.EncodeToString(key[:6])
}

// nameKey is a secret of the process, so that a grant key can't be guessed from its name.
var nameKey = sync.OnceValue(func() []byte {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return key
})

// keyedName names a grant for the time of the process. It does not reveal the key. It has 48 bits, so
// two grants hardly ever get the same name.
func keyedName(key endpoint.GrantKey) string {
	mac := hmac.New(sha256.New, nameKey())
	mac.Write(key[:])
	return hex.EncodeToString(mac.Sum(nil)[:6])
}

// values are the values of the request's placeholders by name, as far as operators may see them.
func (n namedGrant) values() map[string]string {
	if n.grant.Entry() == nil {
		return nil
	}
	values := make(map[string]string)
	for i, p := range n.h.request.placeholders {
		if !p.secret {
			values[p.name] = n.grant.Entry().Shown()[i]
		}
	}
	return values
}

// status describes the grant at now.
func (n namedGrant) status(now time.Time) tokenlist.Token {
	return n.describe(n.grant.Snapshot(), now)
}

// describe describes the grant by a snapshot of it.
func (n namedGrant) describe(s tokencache.Snapshot, now time.Time) tokenlist.Token {
	source := grantSource{h: n.h, grant: n.grant}
	public := source.public()
	status := tokenlist.Token{
		ID: n.id, Endpoint: public.Endpoint, Issuer: public.Issuer, ClientID: public.ClientID, AuthMethod: public.AuthMethod, Grant: public.GrantName(),
		Scopes: public.Scopes, Audience: public.Audience, Resource: public.Resource, Values: n.values(),
		State: s.State(now, n.h.tokens.ahead).String(), Requests: s.Uses, Fetches: s.History.Fetches, FailedFetches: s.History.Failures, Fetching: s.Fetching,
		Failing: s.History.Failing,
	}
	if public.Grant != nil {
		status.Subject = public.Grant.Subject
	}
	if t := s.Token; t != nil {
		status.Token, status.Generation, status.Shared = tokencache.Fingerprint(t.Value), t.Generation, t.Adopted
		status.ObtainedAt, status.StaleFrom, status.ExpiresAt = shownTime(t.Sent.Wall), shownTime(n.h.tokens.ahead.StaleFrom(t).Wall), shownTime(t.Expiry())
		if !s.RejectedSince.IsZero() {
			status.RejectedSince = shownTime(s.RejectedSince)
		}
	}
	if failure := s.History.LastFailure; failure != nil {
		status.LastError = &tokenlist.Failure{
			Error: failure.ErrorCode(), Status: failure.Status,
			Detail: failure.Detail, EndpointMessage: failure.Said, Hint: hintAfter(failure, s.History.KnownBefore),
			Help: help.Address(failure.ErrorCode()), At: *shownTime(s.History.FailedAt),
		}
	}
	if s.NextTry.After(now) {
		status.NextTry = shownTime(s.NextTry)
	}
	return status
}

func shownTime(t time.Time) *time.Time {
	t = t.UTC().Truncate(time.Millisecond)
	return &t
}

// Interface guard
var _ caddy.AdminRouter = adminAPI{}
