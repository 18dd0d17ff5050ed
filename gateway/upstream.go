package gateway

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/altairalabs/omnia-gateway/gateway/handshake"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/gateway/relay"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// alertWait is how long check waits for an alert that an agent may send after a TLS handshake.
const alertWait = 500 * time.Millisecond

// Bounds of an agent's answer: the bytes of its head, and how many interim answers (RFC 9110
// §15.2) may come before it.
const (
	maxAnswerHead = 64 << 10
	maxInterim    = 32
)

var errInterim = errors.New("too many interim answers")

// dialer makes connections to agents. It uses no proxy from the environment, follows no redirect
// and asks an agent once.
type dialer struct {
	net     net.Dialer
	lookup  func(ctx context.Context, network, host string) ([]netip.Addr, error)
	dead    *deadAddresses
	tls     *tls.Config
	timeout time.Duration // for connection, TLS and the agent's answer together
	stall   time.Duration // how long an agent may take no byte of plain HTTP
	buffers buffers
}

// buffers are for handshakes with agents. net/http makes new ones for each client's connection and
// leaves them to the handler that takes the connection over; when that is done they serve the next
// handshake.
type buffers struct{ readers, writers sync.Pool }

func (b *buffers) reader(from io.Reader) *bufio.Reader {
	if r, ok := b.readers.Get().(*bufio.Reader); ok {
		r.Reset(from)
		return r
	}
	return bufio.NewReader(from)
}

func (b *buffers) writer(to io.Writer) *bufio.Writer {
	if w, ok := b.writers.Get().(*bufio.Writer); ok {
		w.Reset(to)
		return w
	}
	return bufio.NewWriter(to)
}

// keep takes buffers that are not used any more.
func (b *buffers) keep(r *bufio.Reader, w *bufio.Writer) {
	r.Reset(nil)
	w.Reset(nil)
	b.readers.Put(r)
	b.writers.Put(w)
}

// control is asked about an address before it is dialled, after its name was resolved.
type control func(network, address string, c syscall.RawConn) error

// notThisMachine refuses addresses of the gateway's own machine and of its link. A client
// chooses the names of a template: localhost would be any port of this machine, and
// 169.254.169.254 the credentials of the cloud.
func notThisMachine(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if a := ap.Addr().Unmap(); a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsMulticast() {
		return fmt.Errorf("%s is of this machine or its link, and a name in path or host has chosen it; "+
			"upstream.allowLoopback would allow that", a)
	}
	return nil
}

func newDialer(timeout, stall time.Duration, control control, t *tls.Config, dead *deadAddresses) *dialer {
	return &dialer{
		// Plain HTTP has no other limit. A relay asks for the system's probes where it sends no
		// Pings.
		net:     net.Dialer{Timeout: timeout, Control: control, KeepAlive: -1},
		lookup:  net.DefaultResolver.LookupNetIP,
		dead:    dead,
		tls:     t,
		timeout: timeout,
		stall:   stall,
	}
}

// connect makes a relay.Conn to an agent.
func (d *dialer) connect(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.reach(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return relay.NewConn(c.(*net.TCPConn), d.stall), nil
}

// probed is connect for plain HTTP: only the system's probes notice that an agent is gone from
// which no byte is due.
func (d *dialer) probed(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.connect(ctx, network, address)
	if err == nil {
		c.(*relay.Conn).SetKeepAliveConfig(net.KeepAliveConfig{Enable: true})
	}
	return c, err
}

// dial connects to an agent; the connection is a relay.Conn, or TLS over one.
func (d *dialer) dial(ctx context.Context, scheme, host string) (net.Conn, error) {
	u := url.URL{Host: host}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	c, err := d.connect(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil || scheme != "https" {
		return c, err
	}
	return d.secure(ctx, c, u.Hostname())
}

// check dials an agent and hangs up. An agent that wants another certificate of the gateway says
// so after the handshake, so it is listened to for a moment.
func (d *dialer) check(ctx context.Context, scheme, host string) error {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	c, err := d.dial(ctx, scheme, host)
	if err != nil {
		return err
	}
	defer c.Close()
	if scheme == "https" {
		c.SetReadDeadline(time.Now().Add(alertWait))
		if _, err := c.Read(make([]byte, 1)); refusedTLS(err) {
			return err
		}
	}
	return nil
}

// secure makes TLS of a connection to an agent of a name. After an error the connection is closed.
func (d *dialer) secure(ctx context.Context, c net.Conn, name string) (net.Conn, error) {
	config := d.tls.Clone()
	config.ServerName = cmp.Or(config.ServerName, name)
	t := tls.Client(c, config)
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return t, nil
}

// refusedTLS reports whether err is the agent's alert that it does not want this TLS. In TLS 1.3
// it comes after the handshake where the agent does not accept the gateway's certificate.
func refusedTLS(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// answer is an agent's answer to a handshake. Of a 101 that was found correct, rest are the
// bytes that followed it; any other answer has its body. conn is the caller's to close.
type answer struct {
	*http.Response
	conn    net.Conn
	rest    []byte
	buffers *buffers // for what the client's connection leaves
}

// unanswered is why an agent that was asked over a connection has sent no byte of an answer.
type unanswered struct{ error }

func (u *unanswered) Unwrap() error { return u.error }

// handshake dials the agent of p and asks it for a WebSocket. The error is an *outcome.Refusal. It
// is bounded by the dialer's timeout and ctx.
func (d *dialer) handshake(ctx context.Context, p *policy.Pass) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	conn, err := d.dial(ctx, p.Scheme, p.Addr)
	if err != nil {
		return nil, refusedBy(ctx, err, outcome.UpstreamUnreachable)
	}
	return d.ask(ctx, conn, p)
}

// ask asks the agent of p, over a connection to it, for a WebSocket with the client's own key, and
// checks its 101 (RFC 6455 §4.1). The error is an *outcome.Refusal, and an *unanswered if no byte
// of an answer came. After an error the connection is closed. It is bounded by ctx.
func (d *dialer) ask(ctx context.Context, conn net.Conn, p *policy.Pass) (_ *answer, err error) {
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	interrupt := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer interrupt()

	out := http.Request{
		Method: http.MethodGet,
		URL:    &url.URL{Opaque: p.Target},
		Host:   p.AgentHost,
		Header: p.Header.Clone(),
	}
	h := out.Header
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	if len(h["User-Agent"]) == 0 {
		h["User-Agent"] = []string{""} // else net/http would name itself
	}
	out.Header = handshake.Spelled(h)
	bw := d.buffers.writer(conn)
	if err = out.Write(bw); err == nil {
		err = bw.Flush()
	}
	if err != nil {
		return nil, refusedBy(ctx, &unanswered{err}, outcome.UpstreamUnreachable)
	}
	seen := &heads{}
	head := &io.LimitedReader{R: io.TeeReader(conn, seen), N: maxAnswerHead}
	br := d.buffers.reader(head)
	resp, err := readAnswer(br, &out)
	if err != nil && head.N == maxAnswerHead {
		err = &unanswered{err}
	}
	switch {
	case refusedTLS(err):
		return nil, refusedBy(ctx, err, outcome.UpstreamUnreachable)
	case err != nil:
		return nil, refusedBy(ctx, err, outcome.UpstreamBadHandshake)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		if !interrupt() {
			return nil, refusedBy(ctx, ctx.Err(), outcome.UpstreamTimeout)
		}
		head.N = math.MaxInt64 // the body may be as long as it likes
		seen.restoreLast(resp.Header)
		return &answer{Response: resp, conn: conn}, nil
	}
	if why := handshake.AnswerFault(resp.Header, h); why != "" {
		return nil, outcome.Refuse(outcome.UpstreamBadHandshake, why)
	}
	if !interrupt() {
		return nil, refusedBy(ctx, ctx.Err(), outcome.UpstreamTimeout)
	}
	rest, _ := br.Peek(br.Buffered())
	a := &answer{Response: resp, conn: conn, rest: slices.Clone(rest), buffers: &d.buffers}
	d.buffers.keep(br, bw)
	return a, nil
}

// readAnswer reads the final answer's head, past a few interim ones.
func readAnswer(br *bufio.Reader, req *http.Request) (*http.Response, error) {
	for range maxInterim {
		resp, err := http.ReadResponse(br, req)
		if err != nil {
			return nil, err
		}
		switch {
		case resp.StatusCode >= 200, resp.StatusCode == http.StatusSwitchingProtocols:
			return resp, nil
		case resp.StatusCode < 100:
			return nil, fmt.Errorf("%d is no status", resp.StatusCode)
		}
	}
	return nil, errInterim
}

// refusedBy returns the word for a failure to reach the agent: the client went away, time ran
// out, or another cause.
func refusedBy(ctx context.Context, err error, reason outcome.Reason) *outcome.Refusal {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		reason = outcome.ClientLost
	case ctx.Err() != nil, errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		reason = outcome.UpstreamTimeout
	}
	return &outcome.Refusal{Reason: reason, Err: err}
}
