// Package gateway lets a connection in, relays it and ends it.
//
// ServeHTTP is the whole story: admit decides (path, route, origin, token, rules, headers: admit.go), then the request is refused, or
// goes to its agent as plain HTTP (httpproxy.go), or becomes a session: registered under the limits (session.go), the agent dialled and
// its 101 checked (upstream.go), the client answered, and frames relayed both ways (package relay) until one of the sides, or the gateway, has a reason to end it (outcome.go). Every outcome is one word, one log line and one counter.
//
// Each room is entered once and nothing reaches back into one: expiry and drain end a session with a reason.
package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"runtime/debug"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/relay"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// Gateway is one gateway: New compiles it, Listen binds it, Run serves. Its methods may be called from any goroutine.
type Gateway struct {
	config   *config.Config
	log      *slog.Logger
	keys     *auth.Keys
	auth     *auth.Verifier
	routes   []*route
	excluded []exclusion
	headers  headerRules
	relays   relay.Rules
	certs    *certificates // nil without TLS
	dialer   *dialer
	proxy    *httputil.ReverseProxy
	sessions *sessions
	metrics  *metrics

	public, admin net.Listener // set by Listen
}

// New compiles a configuration that config.Load has found good. It reads the certificate files, starts nothing and touches no network.
func New(c *config.Config, log *slog.Logger) (*Gateway, error) {
	keys := auth.NewKeys(auth.Options{Log: log})
	verifier, err := auth.New(c.Authentication, keys)
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		config:  c,
		log:     log,
		keys:    keys,
		auth:    verifier,
		headers: newHeaderRules(c),
		relays: relay.Rules{
			MaxMessage: c.Limits.MaxMessageBytes, PingInterval: c.Session.PingInterval, StallTimeout: c.Session.StallTimeout,
			IdleTimeout: c.Session.IdleTimeout,
		},
		dialer:   newDialer(c.Limits.HandshakeTimeout),
		sessions: newSessions(c.Limits),
	}
	if g.routes, err = newRoutes(c); err != nil {
		return nil, err
	}
	for _, pattern := range c.Authentication.Authorization.ExcludePaths {
		g.excluded = append(g.excluded, newExclusion(pattern))
	}
	if c.TLS.Enabled() {
		if g.certs, err = newCertificates(c.TLS); err != nil {
			return nil, err
		}
	}
	g.proxy = newProxy(newTransport(g.dialer, g.dialer.net.DialContext), quiet(log))
	g.metrics = newMetrics(g)
	return g, nil
}

// ServeHTTP is the way of one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := &stallWriter{ResponseWriter: w, rc: http.NewResponseController(w)}
	x := &exchange{w: answer, r: r, start: time.Now()}
	defer g.abort(x)
	// After a chunked body net/http has forgotten a Content-Length that stood beside it, and of a request in HTTP/1.0 it has forgotten the
	// Transfer-Encoding: what another server on the way made of the two, nobody knows (RFC 9112 §6.1). And whoever asked for a tunnel may go
	// on as if it had one (RFC 9931). So nothing that follows is read as a request.
	answer.last = len(r.TransferEncoding) > 0 || r.ProtoMajor != 1 || r.ProtoMinor == 0 || wantsUpgrade(r)
	if r.ContentLength != 0 {
		answer.rc.SetReadDeadline(time.Now().Add(g.config.Limits.HandshakeTimeout)) // for a body that nobody here wants; stallReader has its own
	}
	var err error
	x.pass, err = g.admit(r.Context(), r, nil)
	switch {
	case err != nil:
		g.refuse(x, outcome.RefusalOf(err))
	case x.pass.probe != "":
		g.answerProbe(x)
	case x.pass.upgrade:
		g.connect(x)
	default:
		g.forward(x)
	}
}

// exchange is one request on its way through the gateway.
type exchange struct {
	w     http.ResponseWriter
	r     *http.Request
	start time.Time
	pass  *pass
	code  int // of the agent's answer to plain HTTP
}

// connect makes a session of an admitted handshake. Authenticate before dialling, dial before answering 101: so every failure still has an
// honest status.
func (g *Gateway) connect(x *exchange) {
	s := g.newSession(x)
	if refusal := g.sessions.add(s); refusal != nil {
		g.refuse(x, refusal)
		return
	}
	begun := false
	defer func() {
		if !begun {
			g.sessions.remove(s)
		}
	}()
	dialled := time.Now()
	a, err := g.dialer.handshake(x.r.Context(), x.pass, x.r)
	g.metrics.dialled(time.Since(dialled), err)
	if err != nil {
		g.sessions.free(s)
		g.refuse(x, outcome.RefusalOf(err))
		return
	}
	if a.StatusCode != http.StatusSwitchingProtocols {
		g.sessions.free(s)
		g.passOn(x, a)
		return
	}
	joined, err := g.accept(x, s, a)
	if err != nil {
		a.conn.Close()
		g.sessions.free(s)
		g.refuse(x, &outcome.Refusal{Reason: outcome.ClientLost, Err: err})
		return
	}
	begun = true
	g.metrics.handshake(x.pass.reason)
	joined.Launch(func(e *outcome.Ending) { g.over(s, e) }) // the handler returns, so that nothing of net/http stays; sessions waits for the relay
}

// newSession is a session for an admitted handshake, not yet registered.
func (g *Gateway) newSession(x *exchange) *session {
	s := &session{route: x.pass.route.name, remote: x.r.RemoteAddr, addr: x.pass.addr, start: x.start}
	if id := x.pass.identity; id != nil {
		s.issuer, s.subject = id.Issuer, id.Subject
	}
	s.deadline = g.deadline(x.pass.identity)
	return s
}

// deadline is when a caller's right to a connection ends; zero: never. id may be nil.
func (g *Gateway) deadline(id *auth.Identity) time.Time {
	if id == nil || id.Deadline.IsZero() || !g.config.Session.CloseOnTokenExpiry {
		return time.Time{}
	}
	return id.Deadline.Add(g.config.Session.ExpiryGrace)
}

// accept takes the client's connection over, answers 101 and joins the two sides. After an error the client's connection is closed.
func (g *Gateway) accept(x *exchange, s *session, a *answer) (*relay.Relay, error) {
	conn, buffered, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return nil, err
	}
	early := make([]byte, buffered.Reader.Buffered()) // a client may send frames without waiting for the 101
	io.ReadFull(buffered.Reader, early)

	conn.SetDeadline(time.Now().Add(g.config.Limits.HandshakeTimeout))
	if err := writeSwitch(conn, a.Header, x.pass.protocol, s.id); err != nil {
		conn.Close()
		return nil, err
	}
	joined, err := relay.New(conn, a.conn, early, a.rest, reservedBits(a.Header), g.relays)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if e := s.begin(joined); e != nil { // ended while the agent was dialled: the 101 is out, so a Close says it
		joined.End(e)
	}
	return joined, nil
}

// writeSwitch answers the handshake: the agent's own headers, its choice of subprotocol as the client must see it, and the session's id.
func writeSwitch(w io.Writer, agent http.Header, p protocols, id string) error {
	h := http.Header{}
	copyEndToEnd(h, agent)
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", "websocket")
	h.Set("X-Gateway-Session", id)
	h.Del("Content-Length")
	if chosen := p.answer(agent.Get("Sec-WebSocket-Protocol")); chosen != "" {
		h.Set("Sec-WebSocket-Protocol", chosen)
	}
	b := bufio.NewWriterSize(w, 1024)
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	h.Write(b)
	b.WriteString("\r\n")
	return b.Flush()
}

// over counts a session that has ended and writes its line.
func (g *Gateway) over(s *session, e *outcome.Ending) {
	defer g.sessions.remove(s) // last: who waits for the sessions waits for their log lines, too
	g.sessions.free(s)
	moved := s.counts()
	lasted := time.Since(s.start)
	g.metrics.over(e, lasted)
	g.log.LogAttrs(context.Background(), slog.LevelInfo, "ended",
		slog.String("session", s.id), slog.String("route", s.route), slog.String("subject", s.subject), slog.String("issuer", s.issuer),
		slog.String("reason", string(e.Reason)), slog.Int("status", http.StatusSwitchingProtocols), slog.Int("code", e.Code),
		slog.Float64("duration", lasted.Seconds()),
		slog.Uint64("bytes_in", moved.BytesIn), slog.Uint64("bytes_out", moved.BytesOut),
		slog.Uint64("messages_in", moved.MessagesIn), slog.Uint64("messages_out", moved.MessagesOut),
		slog.String("remote", s.remote), slog.String("err", e.Detail))
}

// passOn gives the client an agent's own answer to the handshake.
func (g *Gateway) passOn(x *exchange, a *answer) {
	defer a.conn.Close()
	defer context.AfterFunc(x.r.Context(), func() { a.conn.Close() })()
	a.conn.SetDeadline(time.Now().Add(bodyStall)) // nobody waits longer for the body of a refusal
	h := x.w.Header()
	copyEndToEnd(h, a.Header)
	x.w.WriteHeader(a.StatusCode)
	rc := http.NewResponseController(x.w)
	_, err := io.Copy(flushing{x.w, rc}, a.Body)
	g.report(x, outcome.UpstreamRefused, a.StatusCode, outcome.Line(err))
	if err != nil {
		panic(http.ErrAbortHandler) // a body that broke off must not look whole
	}
}

// flushing writes and flushes at once.
type flushing struct {
	io.Writer
	rc *http.ResponseController
}

func (f flushing) Write(b []byte) (int, error) {
	n, err := f.Writer.Write(b)
	f.rc.Flush()
	return n, err
}

// copyEndToEnd copies an answer's headers but those that end at the gateway.
func copyEndToEnd(to, from http.Header) {
	gone := map[string]bool{}
	for _, name := range listed(from["Connection"]) {
		gone[fold(name)] = true
	}
	for name, values := range from {
		if f := fold(name); !hopByHop[f] && !gone[f] {
			to[name] = values
		}
	}
}

// forward lets plain HTTP through, for as long as the caller's right to it lasts: a stream of events is a connection too.
func (g *Gateway) forward(x *exchange) {
	if t := g.deadline(x.pass.identity); !t.IsZero() {
		ctx, cancel := context.WithDeadline(x.r.Context(), t)
		defer cancel()
		x.r = x.r.WithContext(ctx)
	}
	expired := func() bool { return errors.Is(x.r.Context().Err(), context.DeadlineExceeded) }
	detail := "the answer broke off" // unless roundTrip returns: httputil says this by panicking with http.ErrAbortHandler
	defer func() {
		if detail != "" && expired() {
			detail = "the answer was cut: the token has expired"
		}
		if x.code != 0 {
			g.report(x, x.pass.reason, x.code, detail)
		}
	}()
	if err := g.roundTrip(x); err != nil {
		if expired() {
			err = &outcome.Refusal{Reason: outcome.Expired, Detail: "while the agent was asked"}
		}
		g.refuse(x, outcome.RefusalOf(err))
		return
	}
	detail = ""
}

// refuse answers a request that does not get through, and says so.
func (g *Gateway) refuse(x *exchange, refusal *outcome.Refusal) {
	g.answerRefusal(x, refusal.Reason)
	g.report(x, refusal.Reason, refusal.Reason.Status(), refusal.Text())
}

// problem is the body of a refusal (RFC 9457): status and word, and nothing of the request.
type problem struct {
	Status int            `json:"status"`
	Title  string         `json:"title"`
	Reason outcome.Reason `json:"reason"`
}

func (g *Gateway) answerRefusal(x *exchange, reason outcome.Reason) {
	code := reason.Status()
	h := x.w.Header()
	if c := reason.Challenge(); c != "" {
		h.Set("WWW-Authenticate", c)
	}
	if s := reason.RetryAfter(); s != "" {
		h.Set("Retry-After", s)
	}
	if reason == outcome.BadMethod {
		h.Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/problem+json")
	body, _ := json.Marshal(problem{code, http.StatusText(code), reason})
	x.w.WriteHeader(code)
	x.w.Write(append(body, '\n'))
}

// wantsUpgrade says whether a request asks for a tunnel, right or wrong.
func wantsUpgrade(r *http.Request) bool { return len(r.Header["Upgrade"]) > 0 }

// report writes the one log line of a request that became no session, and counts it.
func (g *Gateway) report(x *exchange, reason outcome.Reason, code int, detail string) {
	p := x.pass
	attrs := make([]slog.Attr, 0, 8)
	if p.route != nil {
		attrs = append(attrs, slog.String("route", p.route.name))
	}
	if p.identity != nil {
		attrs = append(attrs, slog.String("subject", p.identity.Subject), slog.String("issuer", p.identity.Issuer))
	}
	attrs = append(attrs, slog.String("reason", string(reason)), slog.Int("status", code), slog.Float64("duration", time.Since(x.start).Seconds()),
		slog.String("remote", x.r.RemoteAddr), slog.String("err", detail))
	message := "refused"
	if reason == p.reason || reason == outcome.UpstreamRefused {
		message = "answered"
	}
	if wantsUpgrade(x.r) {
		g.metrics.handshake(reason)
	} else {
		g.metrics.request(reason)
	}
	g.log.LogAttrs(context.Background(), slog.LevelInfo, message, attrs...)
}

// abort says that a handler gives up. net/http then closes the connection; of http.ErrAbortHandler, which is how one gives up on purpose,
// it was said why before.
func (g *Gateway) abort(x *exchange) {
	v := recover()
	if v == nil {
		return
	}
	if v != http.ErrAbortHandler {
		g.log.Error("panic", slog.String("reason", string(outcome.InternalError)), slog.String("remote", x.r.RemoteAddr),
			slog.String("err", fmt.Sprintf("%v\n%s", v, debug.Stack())))
	}
	panic(http.ErrAbortHandler)
}

// answerProbe answers /healthz or /readyz on the public listener.
func (g *Gateway) answerProbe(x *exchange) {
	code, text := http.StatusOK, "ok\n"
	if x.pass.probe == "/readyz" && !g.ready() {
		code, text = http.StatusServiceUnavailable, "not ready\n"
	}
	x.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	x.w.Header().Set("Cache-Control", "no-store")
	x.w.WriteHeader(code)
	io.WriteString(x.w, text)
	g.metrics.request(outcome.Probe)
}

// ready says whether new connections are welcome.
func (g *Gateway) ready() bool { return g.auth.Ready() && !g.sessions.refusing() }
