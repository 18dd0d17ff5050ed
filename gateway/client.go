package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// clientConn is a client's connection for as long as net/http reads requests from it.
//
// It looks at the lines that go by. After a chunked body net/http has forgotten a Content-Length
// that stood beside Transfer-Encoding, and how that was spelled. A server in front of the gateway
// may have taken the body for another one, and what follows it for a request of its own (RFC 9112
// §6.1, §6.3). So a connection is kept after a chunked request only if there was nothing in it
// that could be read in two ways.
type clientConn struct {
	net.Conn // a relay.Conn, TLS over one, or one from a load balancer

	mu    sync.Mutex
	lines lines
	known int   // lines with a Content-Length that net/http has told of
	last  error // of the last read
}

// clientKey is the one value that a context carries: net/http has no other way from a request to
// its connection.
type clientKey struct{}

// withClient makes the connection known to its requests.
func withClient(ctx context.Context, c net.Conn) context.Context {
	switch c := c.(type) {
	case *clientConn:
		return context.WithValue(ctx, clientKey{}, c)
	case *secureConn:
		return context.WithValue(ctx, clientKey{}, c.clientConn)
	}
	return ctx
}

// clientOf returns the connection of a request, or nil if the gateway's own listener has not made
// it.
func clientOf(r *http.Request) *clientConn {
	c, _ := r.Context().Value(clientKey{}).(*clientConn)
	return c
}

func (c *clientConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines.read(b[:n])
	c.last = err
	return n, err
}

// CloseWrite is what net/http does before it hangs up.
func (c *clientConn) CloseWrite() error {
	if c, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// tell is told of a request, before the next one is read.
func (c *clientConn) tell(r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known += len(r.Header["Content-Length"])
}

// reads reports whether the last read from the client succeeded: it has not gone away, and has not
// stopped in the middle.
func (c *clientConn) reads() bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last == nil
}

// clear reports whether every line so far that may say how long a body is was one that net/http
// has told of, or the usual one of a chunked body. A line of a body that only looks like another
// makes it false, too.
func (c *clientConn) clear() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines.lengths == c.known && c.lines.odd == 0
}

// lines finds lines about the length of a body in all that a client sends, whether they are in a
// head or not.
type lines struct {
	begin    []byte // of the line, without white space in front of it
	indented bool   // there was some
	skip     bool   // the rest of the line does not matter

	lengths int // lines that begin with Content-Length
	odd     int // lines that begin with Transfer-Encoding and are not the usual one
}

// The names for which lines are looked at, and what follows the second one where it is usual.
const (
	lengthName = "content-length"
	codingName = "transfer-encoding"
	usual      = ": chunked\r"
)

// read takes the next bytes.
func (l *lines) read(b []byte) {
	for len(b) > 0 {
		if l.skip {
			i := bytes.IndexByte(b, '\n')
			if i < 0 {
				return
			}
			b = b[i:]
		}
		l.next(b[0])
		b = b[1:]
	}
}

func (l *lines) next(c byte) {
	switch {
	case c == '\n':
		if rest, ok := l.after(codingName); ok && !l.skip && (rest != usual || l.indented) {
			l.odd++
		}
		l.begin, l.indented, l.skip = l.begin[:0], false, false
		return
	case len(l.begin) == 0 && (c == ' ' || c == '\t'):
		l.indented = true
		return
	}
	l.begin = append(l.begin, c)
	if _, ok := l.after(lengthName); ok {
		l.lengths++
		l.skip = true
	} else if rest, ok := l.after(codingName); ok {
		if l.skip = !strings.HasPrefix(usual, rest); l.skip {
			l.odd++
		}
	} else {
		l.skip = !l.before(lengthName) && !l.before(codingName)
	}
}

// before reports whether the line may still begin with a name.
func (l *lines) before(name string) bool {
	return len(l.begin) < len(name) && strings.EqualFold(string(l.begin), name[:len(l.begin)])
}

// after returns what follows a name with which the line begins.
func (l *lines) after(name string) (rest string, ok bool) {
	if len(l.begin) < len(name) || !strings.EqualFold(string(l.begin[:len(name)]), name) {
		return "", false
	}
	return string(l.begin[len(name):]), true
}

// secureConn is a clientConn over TLS.
type secureConn struct {
	*clientConn
	tls     *tls.Conn
	timeout time.Duration // for the handshake
	log     *slog.Logger
}

// ConnectionState makes the handshake. net/http asks for it first of all, in the goroutine of the
// connection. After an error it finds the connection closed.
func (c *secureConn) ConnectionState() tls.ConnectionState {
	c.SetDeadline(time.Now().Add(c.timeout))
	if err := c.tls.Handshake(); err != nil {
		c.log.Debug("TLS handshake", "remote", c.RemoteAddr().String(), "err", err.Error())
		plain, ok := errors.AsType[tls.RecordHeaderError](err)
		if ok && plain.Conn != nil && httpMethod(plain.RecordHeader[:]) {
			io.WriteString(plain.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
		}
		c.Close()
	}
	c.SetDeadline(time.Time{})
	return c.tls.ConnectionState()
}

// httpMethod reports whether the first bytes of a connection are those of an HTTP request.
func httpMethod(b []byte) bool {
	for _, method := range []string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "PATCH", "DELET"} {
		if bytes.HasPrefix(b, []byte(method)) {
			return true
		}
	}
	return false
}
