package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// bodyStall is how long either side of a plain HTTP exchange may take no byte, or give none of a body it has begun.
const bodyStall = 60 * time.Second

// newTransport carries plain HTTP to agents over connections that connect makes. One for the whole gateway: idle connections are shared
// and reused.
func newTransport(d *dialer, connect func(ctx context.Context, network, address string) (net.Conn, error)) *http.Transport {
	return &http.Transport{
		Proxy: nil, // an HTTP_PROXY in the environment must not see identities
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := connect(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return stallConn{c}, nil
		},
		TLSClientConfig:        d.tls.Clone(),
		TLSHandshakeTimeout:    d.timeout,
		DisableCompression:     true, // bytes pass as they are
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        60 * time.Second,
		MaxResponseHeaderBytes: maxAnswerHead,
	}
}

// newProxy streams plain HTTP (REST, SSE, uploads) to the agent named by a pass.
func newProxy(t *http.Transport, l *log.Logger) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{Transport: t, FlushInterval: -1, ErrorLog: l}
}

// roundTrip lets plain HTTP through to the agent and leaves the status of its answer in x. The error says why there was none, and is then
// an *auth.Refusal that is still to be answered.
func (g *Gateway) roundTrip(x *exchange) (err error) {
	r, p := x.r, x.pass
	rc := http.NewResponseController(x.w)
	body := &stallReader{ReadCloser: r.Body, rc: rc}
	proxy := *g.proxy
	proxy.Rewrite = func(pr *httputil.ProxyRequest) {
		out := pr.Out
		out.URL = &url.URL{Scheme: p.scheme, Host: p.host, Opaque: p.target}
		out.Host = r.Host
		out.Header = p.header // set here, behind everything that the client's Connection header could take away
		out.Trailer = nil
		if len(out.Header["User-Agent"]) == 0 {
			out.Header["User-Agent"] = []string{""}
		}
	}
	proxy.ModifyResponse = func(resp *http.Response) error {
		if resp.StatusCode < 200 { // 101, or a number that is no status
			resp.Body.Close()
			return &outcome.Refusal{Reason: outcome.UpstreamBadHandshake, Detail: fmt.Sprintf("status %d to a request that asked for no upgrade", resp.StatusCode)}
		}
		x.code = resp.StatusCode
		return nil
	}
	proxy.ErrorHandler = func(_ http.ResponseWriter, req *http.Request, e error) {
		switch {
		case errors.As(e, new(*outcome.Refusal)):
			err = e
		case body.broken.Load():
			err = &outcome.Refusal{Reason: outcome.ClientLost, Detail: "the body of the request broke off"}
		default:
			err = refusedBy(r.Context(), e, outcome.UpstreamUnreachable)
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
	proxy.ServeHTTP(x.w, in)
	rc.SetWriteDeadline(time.Now().Add(bodyStall)) // for the end of the body, which net/http writes when the handler has returned
	return err
}

// stallWriter gives each write its own deadline: a client that takes nothing must not hold an answer for ever. Every answer has one, as
// the deadline of an earlier one on the same connection would still count.
type stallWriter struct {
	http.ResponseWriter
	rc   *http.ResponseController
	last bool // the connection is closed behind this answer
}

// WriteHeader is all that is written of an answer without a body.
func (w *stallWriter) WriteHeader(code int) {
	h := w.Header()
	if code < 200 { // httputil passes an agent's interim answers on as they are
		h.Del("Connection")
	} else if w.last { // not sooner, as httputil clears all headers behind an interim answer
		h.Set("Connection", "close")
	}
	w.rc.SetWriteDeadline(time.Now().Add(bodyStall))
	w.ResponseWriter.WriteHeader(code)
}

func (w *stallWriter) Write(b []byte) (int, error) {
	w.rc.SetWriteDeadline(time.Now().Add(bodyStall))
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach Flush and Hijack.
func (w *stallWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// stallReader does the same for the request's body.
type stallReader struct {
	io.ReadCloser
	rc     *http.ResponseController
	broken atomic.Bool // the body has ended, and not as it should
}

func (r *stallReader) Read(b []byte) (int, error) {
	r.rc.SetReadDeadline(time.Now().Add(bodyStall))
	n, err := r.ReadCloser.Read(b)
	if err != nil {
		r.broken.Store(err != io.EOF)
		r.rc.SetReadDeadline(time.Time{}) // net/http reads on by itself, to notice a client that goes away
	}
	return n, err
}

// stallConn does it for the agent: while it takes no byte of a body, nobody would notice that the client has gone.
type stallConn struct{ net.Conn }

func (c stallConn) Write(b []byte) (int, error) {
	c.SetWriteDeadline(time.Now().Add(bodyStall))
	return c.Conn.Write(b)
}

// quiet is where net/http and httputil write what they have no other way to say.
func quiet(l *slog.Logger) *log.Logger { return slog.NewLogLogger(l.Handler(), slog.LevelDebug) }
