package gateway

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/pprof"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/altairalabs/omnia-gateway/config"
)

// adminHandler serves operators. It does not ask who reads, so it belongs on loopback or behind a
// network policy; pages of other origins are kept out all the same (guard.go), and what changes
// state needs a right (operator.go).
func (g *Gateway) adminHandler() http.Handler {
	r := g.metricsHandler()
	r.Get("/sessions", g.answerSessions)
	r.Delete("/sessions", g.change(g.answerEnd))
	r.Delete("/sessions/{id}", g.change(g.answerEndOne))
	r.Get("/revocations", g.answerRevocations)
	r.Post("/revocations", g.change(g.answerRevoke))
	r.Get("/revocations/{id}", g.answerRevocation)
	r.Delete("/revocations/{id}", g.change(g.answerLift))
	r.Post("/reload", g.change(g.answerReload))
	r.Post("/check", g.change(g.answerCheck))
	r.Post("/drain", g.change(g.answerDrain))
	r.Delete("/drain", g.change(g.answerUndrain))
	if g.config.Admin.Profiling {
		r.HandleFunc("/debug/pprof/*", pprof.Index)
		r.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		r.HandleFunc("/debug/pprof/profile", pprof.Profile)
		r.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		r.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return guarded(g.config.Admin.Hosts, r)
}

// metricsHandler serves probes and Prometheus: nothing that changes state, and no client's name.
func (g *Gateway) metricsHandler() chi.Router {
	r := chi.NewRouter()
	r.Use(middleware.GetHead) // RFC 9110 §9.1; a load balancer may probe so
	r.Get("/healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	r.Get("/readyz", g.answerReady)
	r.Method(http.MethodGet, "/metrics", promhttp.HandlerFor(g.metrics.registry, promhttp.HandlerOpts{}))
	return r
}

// readiness is the body of /readyz.
type readiness struct {
	Ready    bool            `json:"ready"`
	Draining bool            `json:"draining"`
	Config   configSummary   `json:"config"`
	Issuers  []issuerSummary `json:"issuers"`
	Cluster  *clusterSummary `json:"cluster,omitempty"` // absent: this gateway stands alone
}

// configSummary says which configuration is in use.
type configSummary struct {
	Loaded   time.Time       `json:"loaded"`
	Problems config.Problems `json:"problems,omitempty"` // why the files that are there now are not in use
}

// issuerSummary says how things stand with an issuer's keys.
type issuerSummary struct {
	Issuer  string     `json:"issuer"`
	KeysURL string     `json:"keysUrl,omitempty"`
	Keys    int        `json:"keys"`
	Skipped int        `json:"skipped"`
	Fetched *time.Time `json:"fetched,omitempty"` // absent: never
	Error   string     `json:"error,omitempty"`
}

func (g *Gateway) answerReady(w http.ResponseWriter, _ *http.Request) {
	body := readiness{Ready: g.ready(), Draining: g.sessions.Leaving(), Issuers: []issuerSummary{}}
	loaded, failed := g.reloads.state()
	body.Config.Loaded = loaded
	if err := errors.Join(failed, g.operators.problem()); err != nil {
		body.Config.Problems = problemsOf(err)
	}
	for _, i := range g.policy.Load().Issuers() {
		s := issuerSummary{Issuer: i.Issuer, KeysURL: i.KeysURL, Keys: i.Keys, Skipped: i.Skipped, Error: i.LastError}
		if !i.Fetched.IsZero() {
			s.Fetched = &i.Fetched
		}
		body.Issuers = append(body.Issuers, s)
	}
	body.Cluster = g.clusterSummary()
	code := http.StatusOK
	if !body.Ready {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, body)
}

// sessionSummary is one live session, as /sessions shows it.
type sessionSummary struct {
	Session     string     `json:"session"`
	Replica     string     `json:"replica,omitempty"` // whose it is, where those of all are shown
	Kind        string     `json:"kind"`              // websocket or http
	Route       string     `json:"route"`
	Agent       string     `json:"agent,omitempty"` // the label that {agent} took
	Issuer      string     `json:"issuer,omitempty"`
	Subject     string     `json:"subject,omitempty"`
	Client      string     `json:"client"` // the address that limits see
	Remote      string     `json:"remote"` // the peer's, with its port
	Start       time.Time  `json:"start"`
	Expires     *time.Time `json:"expires,omitempty"` // absent: never, or after the year 9999, for which RFC 3339 has no text
	BytesIn     uint64     `json:"bytes_in"`
	BytesOut    uint64     `json:"bytes_out"`
	MessagesIn  uint64     `json:"messages_in"`
	MessagesOut uint64     `json:"messages_out"`
}

// answerSessions answers GET /sessions: with this gateway's, or with those of all replicas, that
// all filters of the query name.
func (g *Gateway) answerSessions(w http.ResponseWriter, r *http.Request) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	everywhere := query["cluster"]
	delete(query, "cluster")
	n, known := filtersOf(query)
	var all []sessionSummary
	switch {
	case err != nil || !known:
		writeProblem(w, http.StatusBadRequest, "the query may have cluster, issuer, subject, agent and route, each once and not empty")
		return
	case everywhere == nil, slices.Equal(everywhere, []string{"false"}):
		all = g.summaries()
	case slices.Equal(everywhere, []string{"true"}):
		var missing []string
		if all, missing = g.allSummaries(r.Context()); len(missing) > 0 {
			w.Header().Set("X-Gateway-Missing-Replicas", strings.Join(missing, ", "))
		}
	default:
		writeProblem(w, http.StatusBadRequest, "cluster is true or false")
		return
	}
	all = slices.DeleteFunc(all, func(s sessionSummary) bool { return !n.name(s.Session, s.Issuer, s.Subject, s.Agent, s.Route) })
	writeJSON(w, http.StatusOK, all)
}

// summaries returns the live sessions of this gateway, the longest first.
func (g *Gateway) summaries() []sessionSummary {
	all := []sessionSummary{}
	for _, s := range g.sessions.List() {
		c := s.Traffic()
		out := sessionSummary{
			Session: s.ID, Kind: s.Kind.String(), Route: s.Case.Route, Agent: s.Case.Agent, Issuer: s.Issuer(), Subject: s.Subject(),
			Client: s.Client.String(), Remote: s.Remote, Start: s.Start,
			BytesIn: c.BytesIn, BytesOut: c.BytesOut, MessagesIn: c.MessagesIn, MessagesOut: c.MessagesOut,
		}
		out.Expires = stampOf(s.Deadline())
		all = append(all, out)
	}
	return all
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.Encode(v)
}
