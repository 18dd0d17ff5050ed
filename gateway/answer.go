package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/altairalabs/omnia-gateway/gateway/handshake"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/internal/headers"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// exchange is one request on its way through the gateway.
type exchange struct {
	w       http.ResponseWriter
	r       *http.Request
	start   time.Time
	policy  *policy.Policy // for all of it
	pass    *policy.Pass
	session string       // the id, once it is a session
	upload  *stallReader // the body on its way to the agent; nil before
	code    int          // the status of the agent's answer to plain HTTP; 0 while there is none
	body    *agentBody   // of that answer
}

// newExchange prepares a request, which p will judge.
func newExchange(w http.ResponseWriter, r *http.Request, p *policy.Policy) *exchange {
	answer := &answerWriter{ResponseWriter: w, old: !r.ProtoAtLeast(1, 1)}
	// Of a request in HTTP/1.0 net/http has forgotten the Transfer-Encoding, and what another
	// server on the way made of it is unknown (RFC 9112 §6.1). And a client that asked for a
	// tunnel may go on as if it had one (RFC 9931). So nothing that follows is read as a request.
	answer.last = r.ProtoMajor != 1 || answer.old || wantsTunnel(r)
	client := clientOf(r)
	if client != nil {
		client.tell(r)
	}
	if len(r.TransferEncoding) > 0 {
		answer.last = answer.last || client == nil
		answer.chunked = client
	}
	if r.ContentLength != 0 {
		// For a body that no room reads; stallReader has its own.
		http.NewResponseController(w).SetReadDeadline(time.Now().Add(p.Config().Limits.HandshakeTimeout))
	}
	return &exchange{w: answer, r: r, start: time.Now(), policy: p}
}

// wantsTunnel reports whether a client may take an answer for a tunnel. Clients that offer h2c
// wait for the answer, and send it with every request.
func wantsTunnel(r *http.Request) bool {
	return slices.ContainsFunc(headers.List(r.Header["Upgrade"]), func(s string) bool { return s != "h2c" })
}

// refuse answers a request that does not get through, and reports it.
func (g *Gateway) refuse(x *exchange, refusal *outcome.Refusal) {
	if g.reject(x, refusal) {
		return
	}
	g.answerRefusal(x, refusal)
	g.report(x, refusal.Reason, refusal.Reason.Status(), refusal.Text())
}

// problem is the body of a refusal (RFC 9457): status and word, and nothing of the request.
type problem struct {
	Status int            `json:"status"`
	Title  string         `json:"title"`
	Reason outcome.Reason `json:"reason"`
}

func newProblem(code int, reason outcome.Reason) problem {
	return problem{code, http.StatusText(code), reason}
}

func (g *Gateway) answerRefusal(x *exchange, refusal *outcome.Refusal) {
	code := refusal.Reason.Status()
	g.answerProblem(x, code, refusal, newProblem(code, refusal.Reason))
}

// answerProblem answers with a status, and the headers that belong to a refusal.
func (g *Gateway) answerProblem(x *exchange, code int, refusal *outcome.Refusal, problem any) {
	reason := refusal.Reason
	h := x.w.Header()
	if c := reason.Challenge(); c != "" {
		h.Set("WWW-Authenticate", c+x.pass.Hint)
	}
	if s := refusal.RetryAfter(); s != "" {
		h.Set("Retry-After", s)
	}
	switch reason {
	case outcome.BadMethod:
		h.Set("Allow", cmp.Or(x.pass.Allow, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))
	case outcome.BadVersion: // RFC 6455 §4.2.2, RFC 9110 §15.5.22
		h["Sec-WebSocket-Version"], h["Upgrade"] = []string{handshake.Version}, []string{"websocket"}
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/problem+json")
	x.pass.CORS.Tell(h) // so that a page can read the word
	body, _ := json.Marshal(problem)
	x.w.WriteHeader(code)
	x.w.Write(append(body, '\n'))
}

// answerHeader returns the headers with which an agent's answer goes on to the client.
func (x *exchange) answerHeader(resp *http.Response) http.Header {
	h := policy.EndToEnd(resp.Header)
	if resp.StatusCode == http.StatusUpgradeRequired { // it has to name one (RFC 9110 §15.5.22)
		h["Upgrade"] = []string{"websocket"} // the only one that the gateway lets through
	}
	h.Set("X-Gateway-Session", x.session)
	x.pass.CORS.Tell(h)
	return h
}

// passOn gives the client an agent's own answer to the handshake.
func (g *Gateway) passOn(x *exchange, a *answer) {
	defer a.conn.Close()
	defer context.AfterFunc(x.r.Context(), func() { a.conn.Close() })()
	a.conn.SetDeadline(time.Now().Add(bodyStall)) // no client waits longer for the body of a refusal
	maps.Copy(x.w.Header(), x.answerHeader(a.Response))
	x.w.WriteHeader(a.StatusCode)
	_, err := io.Copy(flushing{x.w, http.NewResponseController(x.w)}, a.Body)
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

// answerProbe answers /healthz or /readyz on the public listener.
func (g *Gateway) answerProbe(x *exchange) {
	code, text := http.StatusOK, "ok\n"
	if x.pass.Probe == "/readyz" && !g.ready() {
		code, text = http.StatusServiceUnavailable, "not ready\n"
	}
	x.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	x.w.Header().Set("Cache-Control", "no-store")
	x.w.WriteHeader(code)
	io.WriteString(x.w, text)
	g.metrics.request(outcome.Probe)
}

// answerMetadata tells an OAuth client where to get a token (RFC 9728 §3). It is for every page,
// too.
func (g *Gateway) answerMetadata(x *exchange) {
	h := x.w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Cache-Control", "no-store") // it repeats the Host
	if x.r.Method == http.MethodOptions {
		h.Set("Access-Control-Allow-Methods", "GET, HEAD")
		h.Set("Access-Control-Allow-Headers", "*")
		h.Set("Access-Control-Max-Age", "86400")
		x.w.WriteHeader(http.StatusNoContent)
	} else {
		h.Set("Content-Type", "application/json")
		x.w.Write(append(x.pass.Metadata, '\n'))
	}
	g.metrics.request(x.pass.Reason)
}

// report writes the one log line of a request that became no WebSocket session, and counts it.
func (g *Gateway) report(x *exchange, reason outcome.Reason, code int, detail string, more ...slog.Attr) {
	message := "refused"
	if reason == x.pass.Reason || reason == outcome.UpstreamRefused || x.code != 0 {
		message = "answered"
	}
	if handshake.Wanted(x.r) {
		g.metrics.handshake(reason)
	} else {
		g.metrics.request(reason)
	}
	g.log.LogAttrs(context.Background(), slog.LevelInfo, message, append(append(x.facts(message == "refused"), more...),
		slog.String("reason", string(reason)), slog.Int("status", code),
		slog.Float64("duration", time.Since(x.start).Seconds()), slog.String("err", detail))...)
}

// facts returns what the log says of a request: as far as it got, and never its query.
func (x *exchange) facts(refused bool) []slog.Attr {
	p := x.pass
	attrs := make([]slog.Attr, 0, 16)
	add := func(a slog.Attr) {
		if a.Value.String() != "" {
			attrs = append(attrs, a)
		}
	}
	add(slog.String("session", x.session))
	add(slog.String("route", p.Route))
	add(slog.String("agent", p.Agent))
	if p.Identity != nil {
		add(slog.String("subject", p.Identity.Subject))
		add(slog.String("issuer", p.Identity.Issuer))
	}
	if refused { // for the operator who must find out what the client asked for
		add(slog.String("method", outcome.Clip(x.r.Method)))
		add(slog.String("path", outcome.Clip(p.Path)))
	}
	if p.Client.IsValid() {
		add(slog.String("client", p.Client.String()))
	}
	add(slog.String("remote", x.r.RemoteAddr))
	return attrs
}

// abort reports a handler that gives up. net/http then closes the connection. Of
// http.ErrAbortHandler, which is how a handler gives up on purpose, the reason was reported
// before.
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
