package gateway

import (
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
)

// bodyStall is how long either side of a plain HTTP exchange may take no byte, or give none of a body it has begun.
const bodyStall = 60 * time.Second

// newTransport carries plain HTTP to agents. One for the whole gateway: idle connections are shared and reused.
func newTransport(d *dialer) *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // an HTTP_PROXY in the environment must not see identities
		DialContext:            d.net.DialContext,
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
		if resp.StatusCode == http.StatusSwitchingProtocols {
			resp.Body.Close()
			return &auth.Refusal{Reason: UpstreamBadHandshake, Detail: "101 to a request that asked for none"}
		}
		x.code = resp.StatusCode
		return nil
	}
	proxy.ErrorHandler = func(_ http.ResponseWriter, req *http.Request, e error) {
		if err = e; !errors.As(e, new(*auth.Refusal)) {
			err = refusedBy(r.Context(), e, UpstreamUnreachable)
		}
	}
	in := r.Clone(r.Context())
	if r.Body != nil && r.Body != http.NoBody {
		in.Body = &stallReader{r.Body, http.NewResponseController(x.w)}
	}
	proxy.ServeHTTP(x.w, in)
	return err
}

// stallWriter gives each write its own deadline: a client that takes nothing must not hold an answer for ever. Every answer has one, as
// the deadline of an earlier one on the same connection would still count.
type stallWriter struct {
	http.ResponseWriter
	rc *http.ResponseController
}

// WriteHeader is all that is written of an answer without a body.
func (w *stallWriter) WriteHeader(code int) {
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
	rc *http.ResponseController
}

func (r *stallReader) Read(b []byte) (int, error) {
	r.rc.SetReadDeadline(time.Now().Add(bodyStall))
	n, err := r.ReadCloser.Read(b)
	if err != nil {
		r.rc.SetReadDeadline(time.Time{}) // net/http reads on by itself, to notice a client that goes away
	}
	return n, err
}

// quiet is where net/http and httputil write what they have no other way to say.
func quiet(l *slog.Logger) *log.Logger { return slog.NewLogLogger(l.Handler(), slog.LevelDebug) }
