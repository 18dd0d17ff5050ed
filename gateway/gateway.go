// Package gateway lets a connection in, relays it and ends it.
//
// ServeHTTP is the whole story. The policy decides (gateway/policy). Then the request is
// refused, or the gateway answers it itself, or it becomes a session (gateway/session): a
// WebSocket, for which the agent is dialled and its 101 checked (upstream.go), the client
// answered, and frames relayed both ways (relay); or a plain HTTP exchange (httpproxy.go). A
// session lasts until one of its sides, or the gateway, has a reason to end it. Every outcome is
// one word, one log line and one counter (answer.go).
//
// Each room is entered once and nothing reaches back into one: expiry and drain end a session
// with a reason, and a new policy is for the requests that come later.
package gateway

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/cluster"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/handshake"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/gateway/relay"
	"github.com/altairalabs/omnia-gateway/gateway/session"
	"github.com/altairalabs/omnia-gateway/internal/headers"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// Gateway is one gateway: New compiles it, Listen binds it, Run serves. Its methods may be called
// from any goroutine.
type Gateway struct {
	config    *config.Config // of the start: what a reload cannot change; the rest is the policy's
	log       *slog.Logger
	keys      *auth.Keys
	revoked   *auth.Revocations
	spent     *auth.Spent                   // logout tokens
	policy    atomic.Pointer[policy.Policy] // loaded once a request
	relays    relay.Rules                   // without what the configuration says
	stall     time.Duration                 // bodyStall
	certs     *certificates                 // nil without TLS
	operators *operators
	fleet     *fleet
	via       string // this process, in the header Via
	refused   *refused
	rejecting atomic.Int32 // clients that are being refused by a Close
	sessions  *session.Registry
	metrics   *metrics
	reloads   reloads
	replicas  *cluster.Cluster // nil: this gateway stands alone
	noted     sync.Map         // of route and kind: that something was removed has been logged

	public, admin net.Listener // set by Listen
	measures      net.Listener // likewise; nil: there is none
}

// Options are what a Gateway needs beside its configuration. The zero value is usable.
type Options struct {
	// Log takes the gateway's lines. It must not block. Nil: nothing is logged.
	Log *slog.Logger
	// LogDropped returns how many lines of the log were never written, for the metrics. Nil: no
	// metric.
	LogDropped func() uint64

	stall time.Duration // in the place of bodyStall
}

// New compiles a configuration that config.Load has found good. It reads the files that it names,
// starts nothing and uses no network.
func New(c *config.Config, o Options) (*Gateway, error) {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	stall := cmp.Or(o.stall, bodyStall)
	g := &Gateway{
		config:    c,
		log:       log,
		stall:     stall,
		fleet:     newFleet(stall, log),
		via:       "omnia-gateway-" + session.NewID()[:16],
		operators: &operators{file: c.Admin.TokenFile},
		refused:   newRefused(),
		sessions:  session.New(),
		spent:     auth.NewSpent(),
		reloads:   reloads{seen: contents(c.Sources.Files()), loaded: time.Now()},
	}
	g.keys = auth.NewKeys(auth.Options{Log: log, ClientKeysChanged: g.judgeClientKeys})
	var faults []error // of the files, so that all are told at once
	note := func(err error) { faults = append(faults, err) }
	var err error
	if g.revoked, err = auth.ReadRevocations(c.Revocations.File, c.Revocations.Max); err != nil {
		note(fmt.Errorf("revocations.file: %w", err))
	}
	p, err := policy.New(c, g.keys, g.revoked)
	note(err)
	_, err = g.operators.load()
	note(err)
	if c.TLS.Enabled() {
		g.certs, err = newCertificates(c.TLS)
		note(err)
	}
	note(g.fleet.prepare(c))
	if c.Cluster.Redis.Enabled() {
		g.replicas, err = g.newCluster(c)
		note(err)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	g.policy.Store(p)
	g.metrics = newMetrics(g, o.LogDropped)
	return g, nil
}

// ServeHTTP is the way of one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := newExchange(w, r, g.policy.Load())
	defer g.abort(x)
	var err error
	x.pass, err = g.admit(x.policy, r)
	if err == nil {
		g.noteRemoved(x.pass)
	}
	switch {
	case err != nil:
		g.refuse(x, outcome.RefusalOf(err))
	case x.pass.Probe != "":
		g.answerProbe(x)
	case x.pass.Reason == outcome.Preflight:
		x.pass.CORS.Preflight(x.w.Header(), r.Header)
		x.w.WriteHeader(http.StatusNoContent)
		g.report(x, outcome.Preflight, http.StatusNoContent, "")
	case x.pass.Own == policy.Renew:
		g.answerRenewal(x)
	case x.pass.Own == policy.Logout:
		g.answerLogout(x)
	case x.pass.Metadata != nil:
		g.answerMetadata(x)
	case x.pass.Upgrade:
		g.connect(x)
	default:
		g.forward(x)
	}
}

// admit asks p about a request, unless its client has to wait because its tokens were refused too
// often. The gateway's own probes never wait.
func (g *Gateway) admit(p *policy.Policy, r *http.Request) (*policy.Pass, error) {
	limit := p.Config().Limits.RefusedPerIP
	if limit == 0 {
		return p.Admit(r.Context(), r)
	}
	client := p.Client(r)
	if wait := g.refused.waits(client, limit); wait > 0 {
		if pass, ok := p.Tokenless(r); !ok {
			return pass, &outcome.Refusal{Reason: outcome.TooManyRefused, Wait: wait, Detail: "limits.refusedPerIP"}
		}
	}
	pass, err := p.Admit(r.Context(), r)
	if err != nil {
		if word := outcome.RefusalOf(err).Reason; word.Status() == http.StatusUnauthorized && word != outcome.NoToken {
			g.refused.add(client, limit)
		}
	}
	return pass, err
}

// noteRemoved logs the first header and the first parameter that a route's agent does not get, and
// the key of the configuration that allows it: an agent that needs it is mended in a minute.
func (g *Gateway) noteRemoved(pass *policy.Pass) {
	for _, r := range pass.Removed {
		if !r.Allowed() {
			continue
		}
		if _, known := g.noted.LoadOrStore([2]string{pass.Route, r.Kind}, true); !known {
			g.log.Info("removed", "route", pass.Route, "kind", r.Kind, "name", outcome.Clip(r.Name), "key", r.Key)
		}
	}
}

// connect makes a session of an admitted handshake. Authenticate before dialling, dial before
// answering 101: so every failure still has an honest status.
func (g *Gateway) connect(x *exchange) {
	ctx, stop := context.WithCancel(x.r.Context())
	defer stop()
	s, refusal := g.register(x, session.WebSocket, stop)
	if refusal != nil {
		g.refuse(x, refusal)
		return
	}
	begun := false
	defer func() {
		if !begun {
			g.remove(s)
		}
	}()
	a, err := g.dial(ctx, x, s)
	if err != nil {
		g.free(s)
		g.refuse(x, outcome.RefusalOf(err))
		return
	}
	if a.StatusCode != http.StatusSwitchingProtocols {
		g.free(s)
		g.passOn(x, a)
		return
	}
	joined, err := g.accept(x, s, a)
	if err != nil {
		a.conn.Close()
		g.free(s)
		g.refuse(x, &outcome.Refusal{Reason: outcome.ClientLost, Err: err})
		return
	}
	begun = true
	g.metrics.handshake(x.pass.Reason)
	// the handler returns, so that nothing of net/http stays; sessions wait for the relay
	joined.Launch(func(e *outcome.Ending) { g.over(s, e) })
}

// dial asks the agent for a WebSocket. A session that has ended meanwhile gets none.
func (g *Gateway) dial(ctx context.Context, x *exchange, s *session.Session) (*answer, error) {
	agents, err := g.fleet.to(x.pass, x.policy.Config())
	if err != nil {
		return nil, err
	}
	dialled := time.Now()
	a, err := agents.handshake(ctx, x.pass)
	g.metrics.dialled(time.Since(dialled), err)
	if e := s.Ending(); e != nil {
		if err == nil {
			a.conn.Close()
		}
		return nil, outcome.Refuse(e.Reason, strings.TrimSuffix("while the agent was asked: "+e.Detail, ": "))
	}
	return a, err
}

// register makes an admitted request a session, under the limits. stop may be nil.
func (g *Gateway) register(x *exchange, kind session.Kind, stop func()) (*session.Session, *outcome.Refusal) {
	via := headers.List(x.r.Header["Via"])
	if slices.ContainsFunc(via, func(hop string) bool { return strings.Contains(hop, g.via) }) {
		return nil, outcome.Refuse(outcome.UpstreamLoop, "the agent's address leads back to this gateway")
	}
	s := &session.Session{
		ID: session.NewID(), Kind: kind, Case: x.pass.Case,
		Remote: x.r.RemoteAddr, Client: x.pass.Client, Start: x.start, Expires: x.pass.Deadline, Stop: stop,
		MaxDuration: x.pass.Session.MaxDuration,
		Notice:      x.pass.Session.ExpiryNotice,
	}
	if refusal := g.add(x.r.Context(), s, x.policy); refusal != nil {
		return nil, refusal
	}
	x.session = s.ID
	x.pass.Header["Via"] = []string{strings.Join(append(via, "1.1 "+g.via), ", ")} // RFC 9110 §7.6.3
	x.pass.Header["X-Gateway-Session"] = []string{s.ID}                            // so that an agent's log can name it
	return s, nil
}

// accept takes the client's connection over, answers 101 and joins the two sides. After an error
// the client's connection is closed.
func (g *Gateway) accept(x *exchange, s *session.Session, a *answer) (*relay.Relay, error) {
	conn, buffered, err := x.hijack()
	if err != nil {
		return nil, err
	}
	early := make([]byte, buffered.Reader.Buffered()) // a client may send frames without waiting for the 101
	io.ReadFull(buffered.Reader, early)

	conn.SetDeadline(time.Now().Add(x.policy.Config().Limits.HandshakeTimeout))
	h := policy.EndToEnd(a.Header)
	h.Set("X-Gateway-Session", s.ID)
	if chosen := x.pass.Protocols.Answer(h.Get("Sec-WebSocket-Protocol")); chosen != "" {
		h.Set("Sec-WebSocket-Protocol", chosen)
	}
	if err := writeSwitch(buffered.Writer, h); err != nil {
		conn.Close()
		return nil, err
	}
	a.buffers.keep(buffered.Reader, buffered.Writer)
	joined, err := relay.New(conn, a.conn, early, a.rest, handshake.ReservedBits(a.Header), g.rules(x.pass))
	if err != nil {
		conn.Close()
		return nil, err
	}
	if e := s.Begin(joined); e != nil { // ended just now: the 101 is out, so a Close says it
		joined.End(e)
	}
	return joined, nil
}

// hijack takes the client's connection over from net/http, as listener or TLS has made it.
func (x *exchange) hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if client := clientOf(x.r); client != nil {
		conn = client.Conn
	}
	return conn, buffered, nil
}

// rules returns the rules of a relay for an admitted request.
func (g *Gateway) rules(p *policy.Pass) relay.Rules {
	rules := g.relays
	rules.MaxMessage = p.Limits.MaxMessageBytes
	rules.PingInterval, rules.StallTimeout, rules.IdleTimeout = p.Session.PingInterval, p.Session.StallTimeout, p.Session.IdleTimeout
	rules.FromClient, rules.FromAgent = relay.Pace(p.Limits.FromClient()), relay.Pace(p.Limits.FromAgent)
	return rules
}

// writeSwitch answers a handshake with a 101.
func writeSwitch(b *bufio.Writer, h http.Header) error {
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", "websocket")
	h.Del("Content-Length")
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	handshake.Spelled(h).Write(b)
	b.WriteString("\r\n")
	return b.Flush()
}

// over counts a WebSocket session that has ended and writes its line.
func (g *Gateway) over(s *session.Session, e *outcome.Ending) {
	defer g.remove(s) // last: what waits for the sessions waits for their log lines, too
	g.free(s)
	moved := s.Traffic()
	lasted := time.Since(s.Start)
	g.metrics.over(e, lasted)
	g.log.LogAttrs(context.Background(), slog.LevelInfo, "ended",
		slog.String("session", s.ID), slog.String("route", s.Case.Route), slog.String("agent", s.Case.Agent),
		slog.String("subject", s.Subject()), slog.String("issuer", s.Issuer()),
		slog.String("reason", string(e.Reason)), slog.Int("status", http.StatusSwitchingProtocols), slog.Int("code", e.Code),
		slog.Float64("duration", lasted.Seconds()),
		slog.Uint64("bytes_in", moved.BytesIn), slog.Uint64("bytes_out", moved.BytesOut),
		slog.Uint64("messages_in", moved.MessagesIn), slog.Uint64("messages_out", moved.MessagesOut),
		slog.String("client", s.Client.String()), slog.String("remote", s.Remote), slog.String("err", e.Detail))
}

// Config returns the configuration in use. A reload replaces it; the value is not changed.
func (g *Gateway) Config() *config.Config { return g.policy.Load().Config() }

// ready reports whether new connections are welcome.
func (g *Gateway) ready() bool { return g.policy.Load().Ready() && !g.sessions.Leaving() }
