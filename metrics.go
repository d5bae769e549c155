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

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/endpoint"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/tokencache"
)

// The labels of all metrics.
const (
	endpointLabel = "endpoint"
	clientIDLabel = "client_id"
)

// certificateLabel is for what a certificate is used.
const certificateLabel = "certificate"

// dynamicClientID is the client_id of a handler with tenants. Their ids come from requests, and no client of the
// gateway may be able to make more series.
const dynamicClientID = "dynamic"

// rejectionOutcome says what became of a request whose token the upstream rejected.
type rejectionOutcome uint8

const (
	notRejected            rejectionOutcome = iota
	rejectionCured                          // sent once more, and not rejected again
	rejectionUncured                        // sent once more and rejected again, or there is no other token
	rejectionPassed                         // another token would not help, or is not due yet
	rejectionNotReplayable                  // the body can't be sent again, or the request may have been carried out
)

// rejectionLabels are the values of the label outcome.
var rejectionLabels = [...]string{
	rejectionCured: "cured", rejectionUncured: "uncured", rejectionPassed: "passed", rejectionNotReplayable: "not_replayable",
}

// durationBuckets have limits just above 1, 5 and 10 seconds, so that fetches which are cancelled at these times
// are not counted as longer ones.
var durationBuckets = []float64{.01, .025, .05, .1, .25, .5, 1.1, 2.5, 5.5, 11, 30}

// metrics belong to the process. Each configuration has a registry of its own, and the metrics are in all of
// them, so that counts survive a reload.
var metrics = newCollector()

// collector is what a registry collects from. Gauges are read from the grants when a registry is scraped, so
// that a configuration that failed to load can't leave wrong ones behind.
type collector struct {
	requests, fetches, rejections *prometheus.CounterVec
	fetchDuration, waitDuration   *prometheus.HistogramVec
	lastSuccess                   *prometheus.GaugeVec
	expiry, tokens, certificates  *prometheus.Desc // read when they are collected
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
		rejections:   counter("upstream_rejections_total", "Requests whose token the upstream rejected, by what became of them: cured, uncured, passed or not_replayable.", "outcome"),
		expiry:       prometheus.NewDesc(name("token_expiry_timestamp_seconds"), "When the token expires.", labels(), nil),
		tokens:       prometheus.NewDesc(name("tokens"), "Tokens that are held, expired ones included.", labels(), nil),
		certificates: prometheus.NewDesc(name("certificate_expiry_timestamp_seconds"), "When the certificate in use expires, by what it is for.", labels(certificateLabel), nil),
	}
}

// counted lists the metrics that count events as they happen.
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
	descs <- c.certificates
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
	for labels, expiry := range certificateExpiries() {
		found <- prometheus.MustNewConstMetric(c.certificates, prometheus.GaugeValue, float64(expiry.Unix()), labels.endpoint, labels.clientID, labels.use)
	}
}

// holding sums up the tokens of the grants with the same labels.
type holding struct {
	tokens   int
	dynamic  bool
	earliest time.Time // expiry of the tokens in use and of those that can't be renewed; zero if there is none
	latest   time.Time // expiry of all tokens
}

// holdings looks at each grant of the running configuration, once.
func holdings(now time.Time) map[metricLabels]*holding {
	all := make(map[metricLabels]*holding)
	seen := make(map[endpoint.GrantKey]bool)
	for _, h := range handlers.running() {
		if seen[h.tokens.key] {
			continue
		}
		seen[h.tokens.key] = true
		held := all[h.reporter.labels]
		if held == nil {
			held = &holding{dynamic: h.tokens.table != nil}
			all[h.reporter.labels] = held
		}
		for _, g := range h.tokens.allGrants() {
			held.add(g.Snapshot(), now)
		}
	}
	return all
}

func (h *holding) add(s tokencache.Snapshot, now time.Time) {
	if s.Token == nil {
		return
	}
	h.tokens++
	expiry := s.Token.Expiry()
	if expiry.After(h.latest) {
		h.latest = expiry
	}
	if (expiry.After(now) || !s.NextTry.IsZero()) && (h.earliest.IsZero() || expiry.Before(h.earliest)) {
		h.earliest = expiry
	}
}

// expiry is the expiry to report: the earliest among tokens in use and tokens whose renewal fails. Unused tokens
// expire without harm. For tenants it is the latest, since with many of them one is always about to expire.
func (h *holding) expiry() time.Time {
	if h.dynamic || h.earliest.IsZero() {
		return h.latest
	}
	return h.earliest
}

// usualResults are the results that a fetch usually has.
var usualResults = []string{
	tokencache.ResultOK, "invalid_client", string(endpoint.ClassRefused), string(endpoint.ClassUnreachable), string(endpoint.ClassTimeout), string(endpoint.ClassServerError), string(endpoint.ClassInvalidResponse),
}

// metricLabels are the labels of all metrics. They come from the configuration alone.
type metricLabels struct {
	endpoint string // host and path
	clientID string
}

// grantMetrics are the metrics of one set of labels.
type grantMetrics struct {
	metricLabels
	fresh, stale, fetched, none prometheus.Counter // requests, by their token
	rejections                  [len(rejectionLabels)]prometheus.Counter
	duration, wait              prometheus.Observer

	// mu guards what follows. It is also held while a fetch is counted, so that Destruct leaves no series behind.
	mu      sync.Mutex
	fetches map[fetchLabels]prometheus.Counter
	ended   bool // no configuration uses the labels any more; fetches can still be in progress
}

// fetchLabels are the further labels of fetches.
type fetchLabels struct{ result, trigger string }

// counting holds the *grantMetrics of all configurations in this process. Without its lock, new metrics could be made
// while the last ones with the same labels are being removed, and their series would be lost.
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
		duration:     metrics.fetchDuration.WithLabelValues(l.endpoint, l.clientID),
		wait:         metrics.waitDuration.WithLabelValues(l.endpoint, l.clientID),
		fetches:      make(map[fetchLabels]prometheus.Counter),
	}
	for outcome := rejectionCured; int(outcome) < len(rejectionLabels); outcome++ {
		m.rejections[outcome] = metrics.rejections.WithLabelValues(l.endpoint, l.clientID, rejectionLabels[outcome])
	}
	// rate() misses the first event of a series that did not begin with 0.
	for _, trigger := range []tokencache.Trigger{tokencache.TriggerMiss, tokencache.TriggerAhead, tokencache.TriggerRejected} {
		for _, result := range usualResults {
			m.fetchesLocked(fetchLabels{result, string(trigger)})
		}
	}
	return m
}

// fetchesLocked returns the counter of fetches with these labels.
func (m *grantMetrics) fetchesLocked(l fetchLabels) prometheus.Counter {
	counter, ok := m.fetches[l]
	if !ok {
		counter = metrics.fetches.WithLabelValues(m.endpoint, m.clientID, l.result, l.trigger)
		m.fetches[l] = counter
	}
	return counter
}

// Destruct implements caddy.Destructor. It deletes the series, which no configuration uses any more. Each is named: to
// look for them among those of all others takes minutes if ten thousand configurations end.
func (m *grantMetrics) Destruct() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	for _, token := range []string{statusFresh, statusStale, statusFetched, statusNone} {
		metrics.requests.DeleteLabelValues(m.endpoint, m.clientID, token)
	}
	for outcome := rejectionCured; int(outcome) < len(rejectionLabels); outcome++ {
		metrics.rejections.DeleteLabelValues(m.endpoint, m.clientID, rejectionLabels[outcome])
	}
	for l := range m.fetches {
		metrics.fetches.DeleteLabelValues(m.endpoint, m.clientID, l.result, l.trigger)
	}
	metrics.fetchDuration.DeleteLabelValues(m.endpoint, m.clientID)
	metrics.waitDuration.DeleteLabelValues(m.endpoint, m.clientID)
	metrics.lastSuccess.DeleteLabelValues(m.endpoint, m.clientID)
	return nil
}

// count counts a fetch.
func (m *grantMetrics) count(o tokencache.Outcome) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return
	}
	m.fetchesLocked(fetchLabels{o.Result(), string(o.Trigger)}).Inc()
	if o.Failure == nil {
		metrics.lastSuccess.WithLabelValues(m.endpoint, m.clientID).SetToCurrentTime()
	}
	if !o.Granted.Adopted && (o.Failure == nil || !o.Failure.Unsent) {
		m.duration.Observe(o.Took.Seconds())
	}
}

// provisionMetrics registers the metrics with the configuration's registry and acquires those with the handler's
// labels.
func (h *Handler) provisionMetrics(ctx caddy.Context, request endpoint.Request) error {
	if registry := ctx.GetMetricsRegistry(); registry != nil {
		err := registry.Register(metrics)
		if _, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); err != nil && !ok { // by another handler
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	// Prometheus panics for a label that is not UTF-8. Provision has refused such values before.
	h.reporter.labels = metricLabels{endpoint: strings.ToValidUTF8(h.reporter.labelForEndpoint(), "?"), clientID: strings.ToValidUTF8(request.ClientID, "?")}
	if h.request.placeholders != nil {
		h.reporter.labels.clientID = dynamicClientID
	}
	counting.Lock()
	defer counting.Unlock()
	value, _, err := counting.pool.LoadOrNew(h.reporter.labels, func() (caddy.Destructor, error) { return newGrantMetrics(h.reporter.labels), nil })
	if err != nil {
		return err
	}
	h.reporter.metrics, h.holds.metrics = value.(*grantMetrics), true
	return nil
}

func releaseMetrics(labels metricLabels) error {
	counting.Lock()
	defer counting.Unlock()
	_, err := counting.pool.Delete(labels)
	return err
}

// labelForEndpoint is the host and the path of the endpoint or of the issuer.
func (o *reporter) labelForEndpoint() string {
	name := cmp.Or(o.public.Endpoint, o.public.Issuer)
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
