package gateway

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/altairalabs/omnia-gateway/internal/buildinfo"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// metrics are the gateway's Prometheus metrics. Every label has a bounded set of values: outcome
// words, directions, issuers of the configuration, registered close codes. Nothing that a client
// writes becomes one.
type metrics struct {
	registry   *prometheus.Registry
	handshakes *prometheus.CounterVec
	requests   *prometheus.CounterVec
	endings    *prometheus.CounterVec
	renewals   *prometheus.CounterVec
	lasted     prometheus.Histogram
	dials      *prometheus.HistogramVec
	reloads    *prometheus.CounterVec
	certs      *prometheus.CounterVec
}

func newMetrics(g *Gateway, logDropped func() uint64) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "omnia_gateway_" + name, Help: help}, labels)
	}
	m := &metrics{
		registry:   prometheus.NewRegistry(),
		handshakes: counter("handshakes_total", "WebSocket handshakes by outcome.", "outcome"),
		requests:   counter("requests_total", "Plain HTTP requests by outcome.", "outcome"),
		endings:    counter("sessions_ended_total", "Ended sessions by reason and close code.", "reason", "code"),
		renewals:   counter("renewals_total", "Sessions that a renewal was about, by outcome.", "outcome"),
		reloads:    counter("config_reloads_total", "Times the configuration was loaded again.", "result"),
		certs:      counter("certificate_reloads_total", "Times the certificate files were read again.", "result"),
		lasted: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "omnia_gateway_session_seconds", Help: "How long ended sessions have lasted.",
			Buckets: []float64{1, 10, 60, 300, 900, 3600, 4 * 3600, 24 * 3600},
		}),
		dials: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "omnia_gateway_upstream_dial_seconds", Help: "From dialling an agent to its answer to the handshake.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"result"}),
	}
	m.registry.MustRegister(m.handshakes, m.requests, m.endings, m.renewals, m.lasted, m.dials, m.reloads, m.certs, live{g},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if logDropped != nil {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "omnia_gateway_log_lines_dropped_total", Help: "Lines of the log that were never written.",
		}, func() float64 { return float64(logDropped()) }))
	}
	return m
}

func (m *metrics) handshake(r outcome.Reason) { m.handshakes.WithLabelValues(string(r)).Inc() }
func (m *metrics) request(r outcome.Reason)   { m.requests.WithLabelValues(string(r)).Inc() }

func (m *metrics) over(e *outcome.Ending, lasted time.Duration) {
	m.endings.WithLabelValues(string(e.Reason), codeLabel(e.Code)).Inc()
	m.lasted.Observe(lasted.Seconds())
}

// renewed counts a session that was renewed, or was refused that.
func (m *metrics) renewed(refusal *outcome.Refusal) {
	word := outcome.Renewal
	if refusal != nil {
		word = refusal.Reason
	}
	m.renewals.WithLabelValues(string(word)).Inc()
}

func (m *metrics) dialled(took time.Duration, err error) {
	m.dials.WithLabelValues(result(err)).Observe(took.Seconds())
}

func (m *metrics) reloaded(err error)            { m.reloads.WithLabelValues(result(err)).Inc() }
func (m *metrics) certificateReloaded(err error) { m.certs.WithLabelValues(result(err)).Inc() }

func result(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}

// codeLabel keeps the codes that applications make up (RFC 6455 §7.4.2) from becoming thousands
// of time series.
func codeLabel(code int) string {
	switch {
	case code == 0:
		return "none"
	case code < 1015, code == 3000, code == 3003, code == 3008:
		return strconv.Itoa(code)
	}
	return "other"
}

// live collects what is counted elsewhere, at the moment of the scrape: so a session that is
// open for days shows what it moves, and moving it costs no metric.
type live struct{ g *Gateway }

var (
	descConnections = prometheus.NewDesc("omnia_gateway_connections", "Open WebSocket connections.", nil, nil)
	descRequests    = prometheus.NewDesc("omnia_gateway_requests_in_flight", "Plain HTTP exchanges under way, streams among them.", nil,
		nil)
	descBytes = prometheus.NewDesc("omnia_gateway_bytes_total", "WebSocket bytes by direction: in from clients, out to them.",
		[]string{"direction"}, nil)
	descMessages = prometheus.NewDesc("omnia_gateway_messages_total", "WebSocket messages by direction: in from clients, out to them.",
		[]string{"direction"}, nil)
	descKeysAge = prometheus.NewDesc("omnia_gateway_jwks_age_seconds", "Since the issuer's keys were last fetched.",
		[]string{"issuer"}, nil)
	descKeys      = prometheus.NewDesc("omnia_gateway_jwks_keys", "Usable keys of the issuer.", []string{"issuer"}, nil)
	descRefreshes = prometheus.NewDesc("omnia_gateway_jwks_refreshes_total", "Fetches of the issuer's keys.",
		[]string{"issuer", "result"}, nil)
	descClientKeys = prometheus.NewDesc("omnia_gateway_client_keys", "Client keys in use.", nil, nil)
	descClientFile = prometheus.NewDesc("omnia_gateway_client_keys_reads_total", "Times the file of client keys was read again.",
		[]string{"result"}, nil)
	descRemembered = prometheus.NewDesc("omnia_gateway_remembered_tokens", "Verified tokens that are remembered.", nil, nil)
	descTokenBytes = prometheus.NewDesc("omnia_gateway_remembered_tokens_bytes",
		"Memory of the verified tokens that are remembered, about.", nil, nil)
	descReady  = prometheus.NewDesc("omnia_gateway_ready", "1 when new connections are welcome.", nil, nil)
	descConfig = prometheus.NewDesc("omnia_gateway_config_in_use",
		"1 when the configuration and the operators' tokens are in use, 0 when their files hold what could not be loaded.", nil, nil)
	descCertificate = prometheus.NewDesc("omnia_gateway_certificate_expiry_seconds", "When the certificate ends, in seconds since 1970.",
		nil, nil)
	descCluster = prometheus.NewDesc("omnia_gateway_cluster_connected",
		"1 when Redis is connected, 0 when this replica goes on alone.", nil, nil)
	descReplicas = prometheus.NewDesc("omnia_gateway_cluster_replicas", "Live replicas, this one among them.", nil, nil)
	descChanges  = prometheus.NewDesc("omnia_gateway_cluster_changes", "Changes that all replicas share.", nil, nil)
	descPending  = prometheus.NewDesc("omnia_gateway_cluster_changes_pending", "Changes of this replica that Redis does not have yet.",
		nil, nil)
	descNotShared = prometheus.NewDesc("omnia_gateway_cluster_changes_refused_total",
		"Changes that are not shared because there are too many.", nil, nil)
	descRevocations = prometheus.NewDesc("omnia_gateway_revocations", "Revocations in force.", nil, nil)

	descBuild = prometheus.NewDesc("omnia_gateway_build_info", "Version and commit of the gateway.",
		[]string{"version", "revision"}, nil)
)

// Describe is for the registry.
func (live) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descConnections, descRequests, descBytes, descMessages, descKeysAge, descKeys, descRefreshes, descClientKeys,
		descClientFile, descRemembered, descTokenBytes,
		descReady, descConfig, descCertificate, descCluster, descReplicas, descChanges, descPending, descNotShared, descRevocations,
		descBuild,
	} {
		c <- d
	}
}

// Collect is for the registry.
func (l live) Collect(c chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	open, requests, moved := l.g.sessions.Totals()
	gauge(descConnections, float64(open))
	gauge(descRequests, float64(requests))
	counter(descBytes, moved.BytesIn, "in")
	counter(descBytes, moved.BytesOut, "out")
	counter(descMessages, moved.MessagesIn, "in")
	counter(descMessages, moved.MessagesOut, "out")
	for _, i := range l.g.policy.Load().Issuers() {
		if !i.Fetched.IsZero() {
			gauge(descKeysAge, time.Since(i.Fetched).Seconds(), i.Issuer)
		}
		gauge(descKeys, float64(i.Keys), i.Issuer)
		counter(descRefreshes, i.Refreshes-i.Failures, i.Issuer, "ok")
		counter(descRefreshes, i.Failures, i.Issuer, "error")
	}
	if keys, ok := l.g.policy.Load().Verifier().ClientKeys(); ok {
		gauge(descClientKeys, float64(keys.Keys))
		counter(descClientFile, keys.Reads-keys.Failures, "ok")
		counter(descClientFile, keys.Failures, "error")
	}
	tokens, bytes := l.g.policy.Load().Remembered()
	gauge(descRemembered, float64(tokens))
	gauge(descTokenBytes, float64(bytes))
	ready := 0.0
	if l.g.ready() {
		ready = 1
	}
	gauge(descReady, ready)
	inUse := 1.0
	if _, failed := l.g.reloads.state(); failed != nil || l.g.operators.problem() != nil {
		inUse = 0
	}
	gauge(descConfig, inUse)
	if l.g.certs != nil {
		gauge(descCertificate, float64(l.g.certs.expiry().Unix()))
	}
	if l.g.replicas != nil {
		s := l.g.replicas.State()
		connected := 0.0
		if s.Connected {
			connected = 1
		}
		gauge(descCluster, connected)
		gauge(descReplicas, float64(len(s.Replicas)))
		gauge(descChanges, float64(s.Changes))
		gauge(descPending, float64(s.Pending))
		counter(descNotShared, s.Refused)
	}
	gauge(descRevocations, float64(l.g.revoked.Len()))
	made := buildinfo.Read()
	gauge(descBuild, 1, made.Version, made.Revision)
}
