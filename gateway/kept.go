package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/headers"
)

const (
	maxKeptBody = 64 << 10         // of a request that may be sent once more
	lessonLasts = 10 * time.Minute // since it was last confirmed
	maxLessons  = 1024             // agents that close connections early

	// leastIdle is the least that is taken for an agent's idle time: a second, which begins at
	// the agent a little sooner. What closes a connection sooner is a request, and a client may
	// send it.
	leastIdle = 900 * time.Millisecond
)

// keeper carries plain HTTP to agents, over connections that it keeps between requests.
//
// An agent that closes an idle connection may do so while a request is on its way to it, and
// then nothing tells whether the agent has acted on the request. So a connection is not used
// again when it was idle for almost as long as its agent keeps one (see lessons). Where that was
// not known, net/http sends a request once more if RFC 9110 §9.2.2 allows it, and keeper sees to
// it that this is on a new connection. Any other request is sent again only if no byte of it was
// written.
type keeper struct {
	*http.Transport
	lessons *lessons
}

// newKeeper keeps connections that connect makes for up to idle.
func newKeeper(d *dialer, idle time.Duration, connect func(ctx context.Context, network, address string) (net.Conn, error)) *keeper {
	k := &keeper{lessons: newLessons(idle)}
	k.Transport = &http.Transport{
		Proxy: nil, // an HTTP_PROXY in the environment must not see identities
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := connect(ctx, network, address)
			if err != nil {
				return nil, &unreached{err}
			}
			return &keptConn{Conn: c, addr: address, lessons: k.lessons}, nil
		},
		// TLS is below a keptConn, so that the alert by which TLS ends is no byte of an answer.
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := connect(ctx, network, address)
			if err != nil {
				return nil, &unreached{err}
			}
			ctx, cancel := context.WithTimeout(ctx, d.timeout)
			defer cancel()
			host, _, _ := net.SplitHostPort(address)
			t, err := d.secure(ctx, c, host)
			if err != nil {
				return nil, &unreached{err}
			}
			return &keptConn{Conn: t, addr: address, lessons: k.lessons}, nil
		},
		DisableCompression:     true, // bytes pass as they are
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        idle,
		MaxResponseHeaderBytes: maxAnswerHead,
	}
	if idle == 0 {
		k.MaxIdleConnsPerHost = -1 // none; 0 would be a default
	}
	return k
}

// unreached is why there is no connection to an agent.
type unreached struct{ error }

func (u *unreached) Unwrap() error { return u.error }

// RoundTrip sends a request to its agent, twice at most.
func (k *keeper) RoundTrip(r *http.Request) (*http.Response, error) {
	r, err := repeatable(r)
	if err != nil {
		return nil, err
	}
	sent := 0
	var last atomic.Pointer[use]
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) {
			if last.Load().wrote() {
				sent++
			}
			c := got.Conn.(*keptConn)
			limit := k.lessons.limit(c.addr)
			k.lessons.survived(c.addr, got.IdleTime)
			u := c.take(got.IdleTime)
			last.Store(u)
			if sent == 2 || u.again() && (sent > 0 || got.IdleTime >= limit) || got.IdleTime > limit {
				c.Close() // before a byte is written, so that net/http takes the next one
			}
		},
		Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
			last.Load().restore(http.Header(header))
			return nil
		},
		PutIdleConn: func(err error) {
			if err == nil {
				last.Load().over()
			}
		},
	}))
	resp, err := k.Transport.RoundTrip(r)
	// If the agent closes a connection at the moment at which it is taken, net/http does not look
	// whether a byte was written.
	for err != nil && sent < 2 && last.Load().again() && !last.Load().wrote() && r.Context().Err() == nil {
		if r.GetBody != nil {
			body, spent := r.GetBody()
			if spent != nil {
				break
			}
			next := *r
			next.Body = body
			r = &next
		}
		resp, err = k.Transport.RoundTrip(r)
	}
	u := last.Load()
	if err != nil && u.hungUp() {
		return nil, fmt.Errorf("the agent hung up: %w (%w)", io.ErrUnexpectedEOF, err) // in the middle of a line, say
	}
	if u != nil && err == nil {
		u.restore(resp.Header)
		withoutTrailers(resp)
		if after, ok := announced(resp.Header); ok {
			k.lessons.learn(u.conn.addr, after)
		}
	}
	return resp, err
}

// repeatable returns r so that net/http sends it once more where that is allowed, and only there:
// it asks GetBody for the body, and takes a method for idempotent that is safe, and any other one
// by its Idempotency-Key or X-Idempotency-Key. A header without values is not sent.
func repeatable(r *http.Request) (*http.Request, error) {
	out := *r
	allowed := len(r.Header["Idempotency-Key"]) > 0 || len(r.Header["X-Idempotency-Key"]) > 0
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		allowed = true
	case http.MethodPut, http.MethodDelete:
		if !allowed {
			out.Header = maps.Clone(r.Header)
			out.Header["X-Idempotency-Key"] = []string{}
		}
		allowed = true
	}
	switch {
	case r.Body == nil || r.Body == http.NoBody:
	case allowed && r.ContentLength > 0 && r.ContentLength <= maxKeptBody:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, fmt.Errorf("read the body of the request: %w", err)
		}
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		out.Body, _ = out.GetBody()
	default:
		body := &unread{ReadCloser: r.Body}
		out.Body = body
		out.GetBody = func() (io.ReadCloser, error) {
			if body.asked.Load() {
				return nil, errSpent
			}
			return &unread{ReadCloser: r.Body}, nil
		}
	}
	return &out, nil
}

var errSpent = fmt.Errorf("the agent hung up, and the body of the request was not kept: %w", io.ErrUnexpectedEOF)

// unread is a body that another request can have as long as nothing was asked of this one.
type unread struct {
	io.ReadCloser
	asked atomic.Bool
}

func (b *unread) Read(p []byte) (int, error) {
	b.asked.Store(true)
	return b.ReadCloser.Read(p)
}

func (b *unread) Close() error {
	if !b.asked.Load() {
		return nil
	}
	return b.ReadCloser.Close()
}

// keptConn is a connection to an agent that learns when the agent closes it.
type keptConn struct {
	net.Conn
	addr    string
	lessons *lessons

	mu     sync.Mutex
	uses   int           // requests that it was given to
	rested time.Duration // how long it had been idle before the last of them
	wrote  bool          // a byte of that request was written
	silent bool          // no byte has come since then
	idle   time.Time     // since when it is idle; zero: it is not
	ended  bool          // the agent has closed it
	heads  heads         // of the answers to that request
}

// use is the time in which one request has a connection.
type use struct {
	conn *keptConn
	n    int
}

// take gives the connection to a request.
func (c *keptConn) take(rested time.Duration) *use {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uses++
	c.rested, c.silent, c.wrote, c.idle, c.heads = rested, true, false, time.Time{}, heads{}
	return &use{c, c.uses}
}

// again reports whether another request had the connection before.
func (u *use) again() bool { return u != nil && u.n > 1 }

// wrote reports whether a byte of the request was written.
func (u *use) wrote() bool {
	if u == nil {
		return false
	}
	u.conn.mu.Lock()
	defer u.conn.mu.Unlock()
	return u.conn.uses != u.n || u.conn.wrote
}

// hungUp reports whether the agent has closed the connection in the time of this request.
func (u *use) hungUp() bool {
	if u == nil {
		return false
	}
	u.conn.mu.Lock()
	defer u.conn.mu.Unlock()
	return u.conn.uses == u.n && u.conn.ended
}

// restore puts what net/http has forgotten of an answer into its headers, unless the next request
// has the connection already.
func (u *use) restore(to http.Header) {
	u.conn.mu.Lock()
	defer u.conn.mu.Unlock()
	if u.conn.uses == u.n {
		u.conn.heads.restore(to)
	}
}

// over makes the connection idle, unless the next request has it already: net/http tells that a
// connection is idle after it became so.
func (u *use) over() {
	u.conn.mu.Lock()
	defer u.conn.mu.Unlock()
	if u.conn.uses == u.n {
		u.conn.idle = time.Now()
	}
}

func (c *keptConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	c.heads.Write(b[:n])
	c.mu.Unlock()
	if after, ok := c.closedAfter(n, err); ok && after >= leastIdle {
		c.lessons.survived(c.addr, after)
		c.lessons.learn(c.addr, after)
	}
	return n, err
}

// closedAfter returns after how long the agent has closed an idle connection, if what was just
// read may tell that. A byte that nothing asked for tells it too, as a 408 does.
func (c *keptConn) closedAfter(n int, err error) (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	hungUp := n == 0 && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET))
	c.ended = c.ended || hungUp
	switch {
	case !c.idle.IsZero() && (n > 0 || hungUp):
		after := time.Since(c.idle)
		c.idle = time.Time{}
		return after, true
	case c.uses > 1 && c.silent && hungUp: // while a request was on its way
		c.silent = false
		return c.rested, true
	}
	c.silent = c.silent && n == 0
	return 0, false
}

func (c *keptConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if n > 0 {
		c.mu.Lock()
		c.wrote = true
		c.mu.Unlock()
	}
	return n, err
}

// lessons are the agents that close idle connections before the gateway would: after how long,
// by their own word (Keep-Alive: timeout) or as it was seen.
type lessons struct {
	most time.Duration // how long the gateway keeps a connection

	mu     sync.Mutex
	byAddr map[string]lesson
}

type lesson struct {
	after time.Duration
	last  time.Time // when it was confirmed
}

func newLessons(most time.Duration) *lessons {
	return &lessons{most: most, byAddr: map[string]lesson{}}
}

// within returns how long a connection may be idle that its agent closes after a time. A request
// and the end of the connection may cross, so there is a margin: a second, or half of the time.
func within(after time.Duration) time.Duration { return max(after-time.Second, after/2) }

// learn is told that an agent closes idle connections after a time. Of several times the
// shortest counts, because an address may have several agents.
func (l *lessons) learn(addr string, after time.Duration) {
	if within(after) >= l.most {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	known, ok := l.byAddr[addr]
	switch {
	case ok && now.Sub(known.last) < lessonLasts && after > 2*known.after:
		return // does not confirm it
	case ok && now.Sub(known.last) < lessonLasts:
		after = min(after, known.after)
	case !ok && len(l.byAddr) >= maxLessons:
		makeRoom(l.byAddr, maxLessons, func(known lesson) bool { return now.Sub(known.last) >= lessonLasts })
	}
	l.byAddr[addr] = lesson{after, now}
}

// makeRoom makes room for one more in m, which may have most: it removes what is old, or else any.
func makeRoom[K comparable, V any](m map[K]V, most int, old func(V) bool) {
	maps.DeleteFunc(m, func(_ K, v V) bool { return old(v) })
	for k := range m {
		if len(m) < most {
			return
		}
		delete(m, k)
	}
}

// survived is told that a connection to an agent was idle for a time, and open until then. That
// refutes a lesson of less than half of it; the margin is for a close that is still on its way.
func (l *lessons) survived(addr string, idle time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known, ok := l.byAddr[addr]; ok && idle > 2*known.after {
		delete(l.byAddr, addr)
	}
}

// limit returns for how long a connection to an agent may have been idle to be used again.
func (l *lessons) limit(addr string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known, ok := l.byAddr[addr]; ok && time.Since(known.last) < lessonLasts {
		return within(known.after)
	}
	return l.most
}

// announced returns how long an agent says that it keeps an idle connection.
func announced(h http.Header) (time.Duration, bool) {
	for _, p := range headers.List(h["Keep-Alive"]) {
		name, value, _ := strings.Cut(p, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "timeout") {
			continue
		}
		seconds, err := strconv.ParseUint(strings.Trim(value, ` "`), 10, 31)
		return time.Duration(seconds) * time.Second, err == nil
	}
	return 0, false
}
