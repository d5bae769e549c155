package oauthcc

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// The labels of all metrics.
const (
	endpointLabel = "endpoint"
	clientIDLabel = "client_id"
)

// dynamicClientID stands for all clients of a handler whose grant differs from request to
// request, so that no client of the gateway can make more series.
const dynamicClientID = "dynamic"

// rejectionOutcome is what became of a request whose token the upstream rejected.
type rejectionOutcome uint8

const (
	notRejected            rejectionOutcome = iota
	rejectionCured                          // sent once more, and not rejected again
	rejectionUncured                        // sent once more in vain, or there is no other token
	rejectionPassed                         // another token would not help, or is not due yet
	rejectionNotReplayable                  // the body can't be sent again
)

// rejectionLabels are the values of the label outcome.
var rejectionLabels = [...]string{
	rejectionCured: "cured", rejectionUncured: "uncured", rejectionPassed: "passed", rejectionNotReplayable: "not_replayable",
}

// durationBuckets end a little after the times for which a fetch is waited for: what is given
// up after a second, or after the usual timeout, ought to be told from what takes longer.
var durationBuckets = []float64{.01, .025, .05, .1, .25, .5, 1.1, 2.5, 5.5, 11, 30}

// metrics are those of all configurations in this process. Each configuration has a
// registry of its own, and they are in all of them, so that counts outlive a reload.
var metrics = newCollector()

// collector is what a registry collects from.
type collector struct {
	requests, fetches, rejections *prometheus.CounterVec
	fetchDuration, waitDuration   *prometheus.HistogramVec
	lastSuccess                   *prometheus.GaugeVec
	expiry, tokens                *prometheus.Desc // read when they are collected
}

func newCollector() *collector {
	name := func(name string) string { return prometheus.BuildFQName("caddy", "oauth_cc", name) }
	labels := func(more ...string) []string { return append([]string{endpointLabel, clientIDLabel}, more...) }
	counter := func(what, help string, more ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name(what), Help: help}, labels(more...))
	}
	seconds := func(what, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name(what), Help: help, Buckets: durationBuckets,
		}, labels())
	}
	return &collector{
		requests:      counter("requests_total", "Requests, by the token that was there for them: fresh, stale, fetched while they waited, or none.", "token"),
		fetches:       counter("token_fetches_total", "Fetches of a token, by what came of them (ok, shared, or an error code) and why they were made.", "result", "trigger"),
		fetchDuration: seconds("token_fetch_duration_seconds", "How long fetches took that asked the token endpoint, with their retries."),
		waitDuration:  seconds("token_wait_duration_seconds", "How long requests waited for a token to be fetched."),
		lastSuccess: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: name("token_last_success_timestamp_seconds"), Help: "When a token was obtained the last time.",
		}, labels()),
		rejections: counter("upstream_rejections_total", "Requests whose token the upstream rejected, by what became of them: cured, uncured, passed or not_replayable.", "outcome"),
		expiry:     prometheus.NewDesc(name("token_expiry_timestamp_seconds"), "When the token expires.", labels(), nil),
		tokens:     prometheus.NewDesc(name("tokens"), "Tokens that are held, expired ones included.", labels(), nil),
	}
}

// counted are the metrics that count.
func (c *collector) counted() []prometheus.Collector {
	return []prometheus.Collector{c.requests, c.fetches, c.rejections, c.fetchDuration, c.waitDuration, c.lastSuccess}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, counted := range c.counted() {
		counted.Describe(descs)
	}
	descs <- c.expiry
	descs <- c.tokens
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(found chan<- prometheus.Metric) {
	for _, counted := range c.counted() {
		counted.Collect(found)
	}
	for labels, held := range holdings(time.Now()) {
		found <- prometheus.MustNewConstMetric(c.tokens, prometheus.GaugeValue, float64(held.tokens), labels.endpoint, labels.clientID)
		if held.tokens > 0 {
			seconds := float64(held.expiry().UnixMilli()) / 1000
			found <- prometheus.MustNewConstMetric(c.expiry, prometheus.GaugeValue, seconds, labels.endpoint, labels.clientID)
		}
	}
}

// holding is what the grants with the same labels hold.
type holding struct {
	tokens   int
	dynamic  bool
	earliest time.Time // of the tokens that are in use or can't be renewed; zero if there is none
	latest   time.Time // of all
}

// holdings looks through the grants of the configuration that runs.
func holdings(now time.Time) map[metricLabels]*holding {
	all := make(map[metricLabels]*holding)
	seen := make(map[grantKey]bool)
	for _, h := range handlers.running() {
		if seen[h.key] {
			continue
		}
		seen[h.key] = true
		held := all[h.labels]
		if held == nil {
			held = &holding{dynamic: h.table != nil}
			all[h.labels] = held
		}
		for _, g := range h.grants() {
			held.add(g.state(), now)
		}
	}
	return all
}

func (h *holding) add(s grantState, now time.Time) {
	if s.token == nil {
		return
	}
	h.tokens++
	expiry := s.token.expiry()
	h.latest = later(h.latest, expiry)
	if (s.token.usable(now) || s.failed != nil) && (h.earliest.IsZero() || expiry.Before(h.earliest)) {
		h.earliest = expiry
	}
}

// expiry is that of the token of which it matters most. One that nobody has used for long
// has expired and is none of an operator's business, nor is the first of many tenants'.
func (h *holding) expiry() time.Time {
	if h.dynamic || h.earliest.IsZero() {
		return h.latest
	}
	return h.earliest
}

// usualResults are those that fetches most often have.
var usualResults = []string{
	resultOK, "invalid_client", string(classRefused), string(classUnreachable), string(classTimeout), string(classServerError), string(classInvalidResponse),
}

// metricLabels tell from which configuration a metric comes.
type metricLabels struct {
	endpoint string // host and path
	clientID string
}

// grantMetrics are the metrics with the same labels.
type grantMetrics struct {
	metricLabels
	fresh, stale, fetched, none prometheus.Counter // requests, by their token
	rejections                  [len(rejectionLabels)]prometheus.Counter
	fetches                     *prometheus.CounterVec
	duration, wait              prometheus.Observer

	mu    sync.Mutex
	ended bool // no configuration has them any more; fetches may still come to their end
}

// counting holds the *grantMetrics of all configurations in this process. The pool would let
// new ones be made while the last ones with the same labels come to their end.
var counting = struct {
	sync.Mutex
	pool *caddy.UsagePool
}{pool: caddy.NewUsagePool()}

func newGrantMetrics(l metricLabels) *grantMetrics {
	requests := func(token string) prometheus.Counter {
		return metrics.requests.WithLabelValues(l.endpoint, l.clientID, token)
	}
	m := &grantMetrics{
		metricLabels: l,
		fresh:        requests(statusFresh),
		stale:        requests(statusStale),
		fetched:      requests(statusFetched),
		none:         requests(statusNone),
		fetches:      metrics.fetches.MustCurryWith(l.labels()),
		duration:     metrics.fetchDuration.With(l.labels()),
		wait:         metrics.waitDuration.With(l.labels()),
	}
	for outcome := rejectionCured; int(outcome) < len(rejectionLabels); outcome++ {
		m.rejections[outcome] = metrics.rejections.WithLabelValues(l.endpoint, l.clientID, rejectionLabels[outcome])
	}
	// The first of a kind makes a rate only if the count began with 0.
	for _, trigger := range []trigger{triggerMiss, triggerAhead, triggerRejected} {
		for _, result := range usualResults {
			m.fetches.WithLabelValues(result, string(trigger))
		}
	}
	return m
}

func (l metricLabels) labels() prometheus.Labels {
	return prometheus.Labels{endpointLabel: l.endpoint, clientIDLabel: l.clientID}
}

// Destruct implements caddy.Destructor: what no configuration has any more is not counted
// any more.
func (m *grantMetrics) Destruct() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	for _, vec := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{metrics.requests, metrics.fetches, metrics.rejections, metrics.fetchDuration, metrics.waitDuration, metrics.lastSuccess} {
		vec.DeletePartialMatch(m.labels())
	}
	return nil
}

// count takes note of a fetch.
func (m *grantMetrics) count(o outcome) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return
	}
	m.fetches.WithLabelValues(o.result(), string(o.trigger)).Inc()
	if o.failure == nil {
		metrics.lastSuccess.With(m.labels()).SetToCurrentTime()
	}
	if !o.granted.adopted && (o.failure == nil || !o.failure.unsent) {
		m.duration.Observe(o.took.Seconds())
	}
}

// provisionMetrics has the handler's metrics counted, and registered where they are read.
func (h *Handler) provisionMetrics(ctx caddy.Context, request grantRequest) error {
	if registry := ctx.GetMetricsRegistry(); registry != nil {
		err := registry.Register(metrics)
		if _, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); err != nil && !ok { // by another handler
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	// Provision has refused what is no UTF-8, and a label must not be.
	h.labels = metricLabels{endpoint: strings.ToValidUTF8(h.endpointLabel(), "?"), clientID: strings.ToValidUTF8(request.clientID, "?")}
	if h.perRequest != nil {
		h.labels.clientID = dynamicClientID
	}
	counting.Lock()
	defer counting.Unlock()
	value, _, err := counting.pool.LoadOrNew(h.labels, func() (caddy.Destructor, error) { return newGrantMetrics(h.labels), nil })
	if err != nil {
		return err
	}
	h.metrics, h.counted = value.(*grantMetrics), true
	return nil
}

func releaseMetrics(labels metricLabels) error {
	counting.Lock()
	defer counting.Unlock()
	_, err := counting.pool.Delete(labels)
	return err
}

// endpointLabel is the endpoint's, or the issuer's, host and path.
func (h *Handler) endpointLabel() string {
	name := cmp.Or(h.public.endpoint, h.public.issuer)
	if _, rest, ok := strings.Cut(name, "://"); ok {
		return rest
	}
	return name
}

// Interface guards
var (
	_ prometheus.Collector = (*collector)(nil)
	_ caddy.Destructor     = (*grantMetrics)(nil)
)
