package tokenlist

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/table"
)

// Gateway is a running Caddy, by its admin endpoint.
type Gateway struct {
	address string // as the user has written it
	origin  string // of its URLs
	isTCP   bool
	client  http.Client
}

// NewGateway returns the gateway with this address of its admin endpoint, in the form that Caddy's own commands take.
// It does not connect to it.
func NewGateway(address string) (*Gateway, error) {
	if strings.Contains(address, "://") {
		return nil, fmt.Errorf("--address: %s is a URL; write host:port, such as localhost:2019, or unix//path", address)
	}
	parsed, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		return nil, fmt.Errorf("--address: %w", err)
	}
	if parsed.PortRangeSize() > 1 {
		return nil, fmt.Errorf("--address: %s has several ports; write one", address)
	}
	g := &Gateway{address: address, isTCP: !parsed.IsUnixNetwork() && !parsed.IsFdNetwork()}
	target := parsed.JoinHostPort(0)
	if g.isTCP {
		g.origin = "http://" + target
	} else {
		g.origin = "http://127.0.0.1"           // which Caddy takes for the host of a socket
		target, _, _ = strings.Cut(target, "|") // the rest is the permissions of the file
	}
	dialer := net.Dialer{Timeout: 10 * time.Second}
	g.client.Transport = &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, parsed.Network, target)
		},
	}
	return g, nil
}

// How long a gateway may take to answer.
const (
	usualLimit   = 30 * time.Second
	refreshLimit = 5 * time.Minute // more than two token requests take with any sensible timeout; the first can be under way
)

// answer is what the Admin API has answered.
type answer struct {
	status int
	body   []byte
	at     time.Time // by the gateway's clock
}

// do sends a request, and waits for the answer until that limit. An answer that is an error is one of type *apiError.
func (g *Gateway) do(ctx context.Context, limit time.Duration, method, path string, query url.Values) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	target := g.origin + "/oauth_cc/" + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return answer{}, err
	}
	if g.isTCP {
		req.Header.Set("Origin", g.origin)
	}
	res, err := g.client.Do(req)
	if err != nil {
		return answer{}, g.unreachable(req, limit, err)
	}
	defer res.Body.Close()
	a := answer{status: res.StatusCode, at: time.Now()}
	if at, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		a.at = at
	}
	if a.body, err = io.ReadAll(res.Body); err != nil {
		return answer{}, g.unreachable(req, limit, err)
	}
	if a.status >= 400 {
		return answer{}, g.failure(a)
	}
	return a, nil
}

// unreachable describes why there is no answer to a request.
func (g *Gateway) unreachable(req *http.Request, limit time.Duration, err error) error {
	switch ended := req.Context().Err(); {
	case errors.Is(ended, context.Canceled):
		return errInterrupted
	case ended != nil && req.Method == http.MethodGet:
		return fmt.Errorf("the gateway at %s has not answered for %s", g.address, limit)
	case ended != nil:
		return fmt.Errorf(`the gateway at %s has not answered for %s; if it still does what it was asked, "caddy oauth-cc tokens" shows that`, g.address, limit)
	}
	if failure, ok := errors.AsType[*url.Error](err); ok {
		err = failure.Err // without the URL, whose host is made up for a socket
	}
	return fmt.Errorf("no gateway answers at %s (see --address): %w", g.address, err)
}

var errInterrupted = errors.New("interrupted")

// apiError is an error that the Admin API has answered.
type apiError struct {
	status  int
	message string
}

func (e *apiError) Error() string { return fmt.Sprintf("%s (HTTP status %d)", e.message, e.status) }

// failure reads an answer that is an error.
func (g *Gateway) failure(a answer) error {
	var told struct{ Error string }
	if json.Unmarshal(a.body, &told) != nil || told.Error == "" {
		if a.status == http.StatusNotFound {
			return fmt.Errorf("the Caddy at %s has no oauth_cc", g.address)
		}
		told.Error = fmt.Sprintf("what answers at %s is no Caddy with oauth_cc", g.address)
	}
	return &apiError{a.status, table.Printable(told.Error)}
}

// list returns the tokens that a filter has, and the answer that they are in.
func (g *Gateway) list(ctx context.Context, f Filter) (List, answer, error) {
	a, err := g.do(ctx, usualLimit, http.MethodGet, "tokens", f.Query())
	if err != nil {
		return List{}, answer{}, err
	}
	var list List
	if err := json.Unmarshal(a.body, &list); err != nil || list.Tokens == nil {
		return List{}, answer{}, fmt.Errorf("what answers at %s is no Caddy with oauth_cc", g.address)
	}
	return list, a, nil
}

// find returns the token with this id, or the only one whose id begins so.
func (g *Gateway) find(ctx context.Context, id string) (Token, error) {
	if id == "" {
		return Token{}, errNoSuchToken
	}
	const shown = 3
	list, _, err := g.list(ctx, Filter{Limit: shown, IDPrefix: id})
	if err != nil {
		return Token{}, err
	}
	for _, t := range list.Tokens {
		if t.ID == id {
			return t, nil
		}
	}
	switch len(list.Tokens) {
	case 0:
		return Token{}, errNoSuchToken
	case 1:
		return list.Tokens[0], nil
	}
	var ids []string
	for _, t := range list.Tokens {
		ids = append(ids, table.Printable(t.ID))
	}
	if list.Omitted > 0 {
		ids = append(ids, "…")
	}
	return Token{}, fmt.Errorf("%d tokens have an id that begins with %s: %s; write more of it", len(list.Tokens)+list.Omitted, id, strings.Join(ids, ", "))
}

var errNoSuchToken = errors.New(`no such token; the list may have changed, see "caddy oauth-cc tokens"`)

// refresh has the gateway ask for another token, and returns what is known of it then.
func (g *Gateway) refresh(ctx context.Context, id string) (Token, time.Time, error) {
	a, err := g.do(ctx, refreshLimit, http.MethodPost, "tokens/"+url.PathEscape(id)+"/refresh", nil)
	if err != nil {
		return Token{}, time.Time{}, err
	}
	var t Token
	if err := json.Unmarshal(a.body, &t); err != nil {
		return Token{}, time.Time{}, fmt.Errorf("reading the answer of %s: %w", g.address, err)
	}
	return t, a.at, nil
}

// forget has the gateway forget a token.
func (g *Gateway) forget(ctx context.Context, id string) error {
	_, err := g.do(ctx, usualLimit, http.MethodDelete, "tokens/"+url.PathEscape(id), nil)
	return err
}
