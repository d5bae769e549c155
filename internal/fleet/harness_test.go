package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/servertest"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// Spacings of tokencache, for which a test has to wait.
const (
	forcedSpacing = 5 * time.Second // between two renewals of a rejected token
	lookSpacing   = time.Second     // between two looks for another gateway's token
)

// tokenEndpoint is a token endpoint in memory, for the virtual time of a bubble.
type tokenEndpoint struct {
	mu        sync.Mutex
	takes     time.Duration
	expiresIn string            // of the tokens, as JSON
	down      http.RoundTripper // nil: it grants
	asked     int
	granted   int
	flying    int
}

func (e *tokenEndpoint) RoundTrip(req *http.Request) (*http.Response, error) {
	e.mu.Lock()
	e.asked++
	e.flying++
	takes, down, expiresIn := e.takes, e.down, e.expiresIn
	if down == nil {
		e.granted++
	}
	value := fmt.Sprintf("token-%d", e.granted)
	if e.flying > 1 {
		value = "two-at-a-time"
	}
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.flying--
		e.mu.Unlock()
	}()
	if down != nil {
		return down.RoundTrip(req)
	}
	select {
	case <-time.After(takes):
		return servertest.Answer{Body: fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":%s}`, value, expiresIn)}.RoundTrip(req)
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
}

// becomes makes the endpoint do that from now on; nil lets it grant.
func (e *tokenEndpoint) becomes(down http.RoundTripper) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = down
}

// count is how often the endpoint was asked.
func (e *tokenEndpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked
}

func wantTokenRequests(t *testing.T, e *tokenEndpoint, want int) {
	t.Helper()
	if n := e.count(); n != want {
		t.Errorf("%d token requests, want %d", n, want)
	}
}

// quietSource is the part of a source that is about what goes on around a fetch: nothing.
type quietSource struct{}

func (quietSource) Trace(ctx, _ context.Context) (context.Context, func(tokencache.Outcome)) {
	return ctx, func(tokencache.Outcome) {}
}

func (quietSource) ChangedSince(context.Context, *endpoint.Error) bool { return false }
func (quietSource) HasNewer(context.Context, *tokencache.Token) bool   { return false }
func (quietSource) Report(tokencache.Outcome)                          {}
func (quietSource) Waited(time.Duration)                               {}

// options are what the gateways of a fleet have in common.
type options struct {
	timeout time.Duration // 0 for the option's default
	ahead   tokencache.RefreshAhead
}

var plain options

// defaultTimeout is that of the handler's option.
const defaultTimeout = 10 * time.Second

// gateway is one process of a fleet in memory: with a cache of its own, and nothing but the
// storage in common with the others. It is the source of its tokens.
type gateway struct {
	quietSource
	options
	t        *testing.T
	endpoint *tokenEndpoint
	client   *endpoint.Client
	request  func() endpoint.Request // what a token request would say now
	grant    *tokencache.Grant
	sharing  *Sharing
	logs     *observer.ObservedLogs  // of sharing
	accepts  func(token string) bool // nil: the API accepts all
}

// newGateway makes one in the bubble of the test.
func newGateway(t *testing.T, storage certmagic.Storage, o options, at *tokenEndpoint) *gateway {
	t.Helper()
	if o.timeout == 0 {
		o.timeout = defaultTimeout
	}
	core, logs := observer.New(zapcore.DebugLevel)
	request := endpoint.Request{
		Endpoint: "http://127.0.0.1/token", ClientID: t.Name(), ClientSecret: "secret", AuthMethod: endpoint.AuthSecretBasic, Format: endpoint.FormatForm,
	}
	g := &gateway{
		options: o, t: t, endpoint: at,
		client:  &endpoint.Client{Transport: at, Timeout: o.timeout},
		request: func() endpoint.Request { return request },
		grant:   tokencache.NewGrant(),
		sharing: New(storage, o.timeout, o.ahead, []string{"tls", "certificate"}, zap.New(core)),
		logs:    logs,
	}
	t.Cleanup(g.sharing.Stop)
	return g
}

// newFleet makes gateways that share tokens, as processes of their own would.
func newFleet(t *testing.T, storage certmagic.Storage, size int, o options) []*gateway {
	t.Helper()
	at := &tokenEndpoint{expiresIn: "3600"}
	var fleet []*gateway
	for range size {
		fleet = append(fleet, newGateway(t, storage, o, at))
	}
	return fleet
}

// Limit implements tokencache.Source.
func (g *gateway) Limit() time.Duration { return g.timeout }

// Fetch implements tokencache.Source as the handler does, without placeholders.
func (g *gateway) Fetch(ctx context.Context, task tokencache.Task) tokencache.Fetched {
	ctx, cancel := context.WithTimeout(ctx, g.Limit())
	defer cancel()
	request := g.request()
	return g.sharing.Fetch(ctx, task, &request, func(ctx context.Context) tokencache.Fetched {
		granted, failure := g.client.Fetch(ctx, func(context.Context) (endpoint.Request, error) {
			request = g.request()
			return request, nil
		}, new(endpoint.Discovery))
		return tokencache.Fetched{Granted: tokencache.Offer{Granted: granted}, Failure: failure, Endpoint: request.EndpointName(), ClientID: request.ClientID}
	})
}

// HasNewer implements tokencache.Source.
func (g *gateway) HasNewer(ctx context.Context, last *tokencache.Token) bool {
	return g.sharing.HasNewer(ctx, g.request(), last)
}

// recordKey is that of the gateway's token.
func (g *gateway) recordKey(t *testing.T) recordKey {
	t.Helper()
	key, err := recordKeyFor(g.request(), g.sharing.trust)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Where a request's token came from, as {http.oauth_cc.status} has it.
const (
	fromCache  = "fresh"
	fromStale  = "stale"
	fromFetch  = "fetched"
	fromReplay = "replayed"
)

// answer is what a client of the gateway gets, and after which time.
type answer struct {
	token  string // that the API got last
	from   string
	err    error // nil if the API accepted the token
	waited time.Duration
}

// errRejected is the answer of the API to a request that is not sent again.
var errRejected = errors.New("the API rejected the token")

// get serves a request.
func (g *gateway) get() answer {
	began := time.Now()
	t, from, err := serve(g.grant, g, g.ahead, func(token string) bool { return g.accepts == nil || g.accepts(token) })
	a := answer{from: from, err: err, waited: time.Since(began)}
	if t != nil {
		a.token = t.Value
	}
	return a
}

// serve does what a handler does with a request and with the upstream's answer to it. It returns
// the token that the upstream got last, and where that came from.
func serve(grant *tokencache.Grant, src tokencache.Source, ahead tokencache.RefreshAhead, accepted func(token string) bool) (*tokencache.Token, string, error) {
	ctx, now := context.Background(), time.Now()
	t, from := grant.Current(), fromCache
	switch {
	case t != nil && !ahead.StaleFrom(t).Passed(now):
	case t.Timely(now):
		from = fromStale
		grant.RenewAhead(ctx, t, src)
	default:
		var err error
		if t, err = grant.Get(ctx, src); err != nil {
			return nil, "", err
		}
		from = fromFetch
	}
	for renewals := 0; !accepted(t.Value); renewals++ {
		// Another gateway's token can be as old as the one that was rejected.
		if renewals == 2 || renewals == 1 && !t.Adopted {
			grant.NoteUncured(tokencache.Rejection{Token: t})
			return t, from, errRejected
		}
		renewed, err := grant.RenewRejected(ctx, tokencache.Rejection{Token: t}, src)
		if errors.Is(err, tokencache.ErrNotRenewed) {
			return t, from, errRejected
		}
		if err != nil {
			return nil, "", err
		}
		t, from = renewed, fromReplay
	}
	if from == fromReplay {
		grant.NoteCured()
	}
	grant.NoteAccepted(t, now, func() tokencache.Subject { return 0 })
	return t, from, nil
}

func (g *gateway) mustGet() answer {
	g.t.Helper()
	a := g.get()
	if a.err != nil || a.token == "" || a.token == "two-at-a-time" {
		g.t.Fatalf("got %+v", a)
	}
	return a
}

// load sends requests for a while, one in each interval, and hands the answers on. None
// waits for the one before. It returns when all are answered.
func (g *gateway) load(every, lasts time.Duration, got func(answer)) {
	var wait sync.WaitGroup
	var mu sync.Mutex
	for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(every) {
		wait.Go(func() {
			a := g.get()
			mu.Lock()
			defer mu.Unlock()
			got(a)
		})
	}
	wait.Wait()
}

// load has all gateways of a fleet serve one request in each interval.
func load(fleet []*gateway, every, lasts time.Duration, got func(answer)) {
	var wait sync.WaitGroup
	var mu sync.Mutex
	for _, g := range fleet {
		wait.Go(func() {
			g.load(every, lasts, func(a answer) {
				mu.Lock()
				defer mu.Unlock()
				got(a)
			})
		})
	}
	wait.Wait()
}

// getAll has all gateways of a fleet serve a request at once.
func getAll(fleet []*gateway) []answer {
	answers := make(chan answer)
	for _, g := range fleet {
		go func() { answers <- g.get() }()
	}
	var all []answer
	for range fleet {
		all = append(all, <-answers)
	}
	return all
}

// settle has the fleet get its first token, and lets it be stored.
func settle(t *testing.T, fleet []*gateway) {
	t.Helper()
	for _, g := range fleet {
		g.mustGet()
		synctest.Wait()
	}
}

// storageNews are what the log says of the storage: the operation that fails, or that works
// again.
func (g *gateway) storageNews() []string {
	var news []string
	for _, entry := range g.logs.All() {
		operation, _ := entry.ContextMap()["operation"].(string)
		switch entry.Message {
		case "the storage fails; tokens are not shared with other gateways until it works again":
			if entry.Level != zapcore.WarnLevel {
				g.t.Errorf("%s at level %s", entry.Message, entry.Level)
			}
			news = append(news, operation+" fails")
		case "the storage works again":
			news = append(news, operation+" works")
		}
	}
	return news
}
