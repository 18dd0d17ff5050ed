package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/altairalabs/omnia-gateway/gateway/handshake"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/gateway/session"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// bodyStall is how long either side of a plain HTTP exchange may take no byte, or the client give
// none of a body it has begun.
const bodyStall = 60 * time.Second

// newProxy streams plain HTTP (REST, SSE, uploads) to the agent named by a pass.
func newProxy(k *keeper, l *log.Logger) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{Transport: k, FlushInterval: -1, ErrorLog: l}
}

// transfer is a plain HTTP exchange as a session: what ends it, and what it has moved.
type transfer struct {
	cancel  context.CancelCauseFunc
	rc      *http.ResponseController
	in, out atomic.Uint64

	mu        sync.Mutex
	answering bool            // its answer is being written
	stream    bool            // which is a stream of events, and has no end of its own
	awaits    *outcome.Ending // ends it if it becomes a stream
}

// ended is the cause of a context that a session's end has cancelled.
type ended struct{ *outcome.Ending }

// Error is for the context.
func (e ended) Error() string { return string(e.Reason) }

// End cancels the exchange. A drain and session.maxDuration end only streams: any other answer may
// come to its own end.
func (t *transfer) End(e *outcome.Ending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if (e.Reason == outcome.Drain || e.Reason == outcome.MaxDuration) && !t.stream {
		t.awaits = e
		return
	}
	t.end(e)
}

// Cut cancels the exchange, a drain or not.
func (t *transfer) Cut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end(outcome.End(outcome.Drain, ""))
}

// end cancels the exchange, and a write of its answer that waits for the client. t.mu is held.
func (t *transfer) end(e *outcome.Ending) {
	t.cancel(ended{e})
	if t.answering {
		t.rc.SetWriteDeadline(time.Unix(1, 0))
	}
}

// Traffic returns the bytes of both bodies so far.
func (t *transfer) Traffic() outcome.Traffic {
	return outcome.Traffic{BytesIn: t.in.Load(), BytesOut: t.out.Load()}
}

// answers is told that an answer begins.
func (t *transfer) answers(stream bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answering, t.stream = true, stream
	if stream && t.awaits != nil {
		t.end(t.awaits)
	}
}

// over is told that nothing more is written: what comes on this connection later is not to be cut.
func (t *transfer) over() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answering = false
}

// forward lets plain HTTP through, for as long as the caller's right to it lasts: a stream of
// events is a connection too.
func (g *Gateway) forward(x *exchange) {
	s, refusal := g.register(x, session.HTTP, nil)
	if refusal != nil {
		g.refuse(x, refusal)
		return
	}
	defer g.remove(s)
	ctx, cancel := context.WithCancelCause(x.r.Context())
	defer cancel(nil)
	t := &transfer{cancel: cancel, rc: http.NewResponseController(x.w)}
	defer t.over()
	if e := s.Begin(t); e != nil { // ended before it began
		t.End(e)
	}
	r := x.r // its context ends when the client goes away
	x.r = r.WithContext(ctx)
	end := func() *outcome.Ending { // why the gateway has ended it, or nil
		if e, ok := context.Cause(ctx).(ended); ok {
			return e.Ending
		}
		return nil
	}
	detail := "the answer broke off" // unless roundTrip returns: httputil says this by panicking with http.ErrAbortHandler
	defer func() {
		if e := end(); e != nil && detail != "" {
			detail = "the answer was cut: " + string(e.Reason)
		}
		if x.code == 0 {
			return
		}
		reason := x.pass.Reason
		switch {
		case end() != nil || detail == "":
		case x.upload.broke():
			detail = "the body of the request broke off while the agent answered"
		case x.body.err != nil && r.Context().Err() == nil:
			reason, detail = outcome.UpstreamLost, "the agent hung up while it answered: "+outcome.Line(x.body.err)
		}
		g.free(s)
		g.report(x, reason, x.code, detail)
	}()
	if err := g.roundTrip(x, t); err != nil {
		if e := end(); e != nil {
			err = outcome.Refuse(e.Reason, "while the agent was asked")
		}
		g.free(s)
		g.refuse(x, outcome.RefusalOf(err))
		return
	}
	if t.over(); end() != nil {
		panic(http.ErrAbortHandler) // perhaps not all of the answer was written
	}
	detail = ""
}

// roundTrip lets plain HTTP through to the agent and leaves the status of its answer in x. The
// error is why there was none: an *outcome.Refusal that is still to be answered.
func (g *Gateway) roundTrip(x *exchange, t *transfer) (err error) {
	r, p := x.r, x.pass
	agents, err := g.fleet.to(p, x.policy.Config())
	if err != nil {
		return err
	}
	w := &countingWriter{ResponseWriter: x.w, n: &t.out}
	body := &stallReader{ReadCloser: r.Body, rc: t.rc, stall: g.stall, n: &t.in}
	x.upload = body
	proxy := *agents.proxy
	proxy.Rewrite = func(pr *httputil.ProxyRequest) {
		out := pr.Out
		out.URL = &url.URL{Scheme: p.Scheme, Host: p.Addr, Opaque: p.Target}
		out.Host = p.AgentHost
		out.Header = handshake.Spelled(p.Header) // set here, after everything that the client's Connection header could take away
		out.Trailer = nil
		if len(out.Header["User-Agent"]) == 0 {
			out.Header["User-Agent"] = []string{""}
		}
	}
	proxy.ModifyResponse = func(resp *http.Response) error {
		if resp.StatusCode < 200 { // 101, or a number that is no status
			resp.Body.Close()
			return outcome.Refuse(outcome.UpstreamBadHandshake,
				fmt.Sprintf("status %d to a request that asked for no upgrade", resp.StatusCode))
		}
		resp.Header = x.answerHeader(resp)
		media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
		t.answers(media == "text/event-stream")
		x.code = resp.StatusCode
		x.body = &agentBody{ReadCloser: resp.Body}
		resp.Body = x.body
		if r.ContentLength != 0 && !body.answers() {
			// Before it writes an answer net/http reads what is left of the body, and the agent
			// would not get it. What comes after the answer is no request.
			t.rc.EnableFullDuplex()
			resp.Header["Connection"] = []string{"close"}
		}
		return nil
	}
	proxy.ErrorHandler = func(_ http.ResponseWriter, req *http.Request, e error) {
		switch {
		case errors.As(e, new(*outcome.Refusal)):
			err = e
		case body.broke() && clientOf(r).reads():
			err = outcome.Refuse(outcome.BadBody, "the body of the request is not well-formed")
		case body.broke():
			err = outcome.Refuse(outcome.ClientLost, "the body of the request broke off")
		default:
			err = refusedBy(r.Context(), e, faultOf(e))
		}
	}
	interim := 0
	in := r.Clone(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error {
		if interim++; interim > maxInterim { // httputil passes them on, as many as come
			return errInterim
		}
		return nil
	}}))
	if r.Body != nil && r.Body != http.NoBody {
		in.Body = body
	}
	proxy.ServeHTTP(w, in)
	return err
}

// faultOf returns the word for an agent that has given no answer to plain HTTP: it was not reached,
// or it hung up, or what it sent is no HTTP.
func faultOf(err error) outcome.Reason {
	var unreached *unreached
	var network *net.OpError
	switch {
	case errors.As(err, &unreached), refusedTLS(err):
		return outcome.UpstreamUnreachable
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &network):
		return outcome.UpstreamLost
	}
	return outcome.UpstreamBadHandshake
}

// agentBody is the body of an agent's answer. It remembers how it ended.
type agentBody struct {
	io.ReadCloser
	err error // that ended it, if it was no io.EOF
}

func (b *agentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// countingWriter counts the bytes of an answer's body.
type countingWriter struct {
	http.ResponseWriter
	n *atomic.Uint64
}

func (w *countingWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.n.Add(uint64(n))
	return n, err
}

// Unwrap lets http.ResponseController reach Flush.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// answerWriter keeps from the client what ends at the gateway.
type answerWriter struct {
	http.ResponseWriter
	old     bool        // the client speaks HTTP/1.0, which has no interim answers
	last    bool        // the connection is closed after this answer
	chunked *clientConn // it is closed as well if the framing on it was not clear; nil: not asked
}

// WriteHeader is all that is written of an answer without a body.
func (w *answerWriter) WriteHeader(code int) {
	h := w.Header()
	handshake.Spell(h) // an agent may answer plain HTTP with the version that it wants
	if code < 200 {    // httputil passes an agent's interim answers on as they are
		if w.old { // it would take the first one for the answer (RFC 9110 §15.2)
			return
		}
		keep := policy.EndToEnd(h)
		maps.DeleteFunc(h, func(name string, _ []string) bool { return keep[name] == nil })
		w.ResponseWriter.WriteHeader(code)
		return
	}
	if w.last || w.chunked != nil && !w.chunked.clear() { // not sooner, because httputil clears all headers after an interim answer
		h["Connection"] = []string{"close"}
	}
	if h.Get("Upgrade") != "" {
		h.Add("Connection", "Upgrade") // RFC 9110 §7.8
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or net/http guesses one, and a client that must not guess would believe it
	}
	w.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController reach Flush and Hijack.
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// stallReader gives each read of a request's body its own deadline: a client that sends nothing
// must not hold its agent for ever.
type stallReader struct {
	io.ReadCloser
	rc    *http.ResponseController
	stall time.Duration
	n     *atomic.Uint64 // bytes so far

	mu       sync.Mutex
	answered bool // the agent's answer has begun
	closed   bool // no read follows: the deadline is net/http's again
	whole    bool // all of the body was read
	broken   bool // it has ended, and not as it should
}

func (r *stallReader) Read(b []byte) (int, error) {
	if !r.begin() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := r.ReadCloser.Read(b)
	r.n.Add(uint64(n))
	if err != nil {
		r.end(err)
	}
	return n, err
}

// begin gives a read its deadline. It reports whether there may be one.
func (r *stallReader) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.rc.SetReadDeadline(time.Now().Add(r.stall))
	}
	return !r.closed
}

// end is told that a read was the last.
func (r *stallReader) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.whole = r.whole || err == io.EOF
	r.broken = !r.closed && err != io.EOF && err != http.ErrBodyReadAfterClose // which net/http may read as it gives an agent up
	switch {
	case r.broken: // and net/http must not wait for what is left of it
		r.rc.SetReadDeadline(time.Unix(1, 0))
	case !r.closed || r.whole:
		r.rc.SetReadDeadline(time.Time{}) // net/http reads on by itself, to notice a client that goes away
	}
}

// answers is told that the agent's answer begins. It reports whether the body was read to its end
// before that.
func (r *stallReader) answers() (whole bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answered = true
	return r.whole
}

// broke reports whether the body has ended in a way that it should not.
func (r *stallReader) broke() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.broken
}

// Close ends a read that is under way if the agent has answered: its answer is over, and the client
// need not send the rest to be told so.
func (r *stallReader) Close() error {
	r.mu.Lock()
	if r.answered && !r.whole && !r.closed {
		r.rc.SetReadDeadline(time.Unix(1, 0))
	}
	r.closed = r.closed || r.answered
	r.mu.Unlock()
	return r.ReadCloser.Close()
}

// quiet is where net/http and httputil write what they have no other way to say.
func quiet(l *slog.Logger) *log.Logger { return slog.NewLogLogger(l.Handler(), slog.LevelDebug) }
