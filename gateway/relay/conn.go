package relay

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"
)

// Conn is a TCP connection that a relay can take over, as it is or with TLS over it. Listener and
// dialer make one of every connection, because TLS keeps the connection it was begun with.
//
// Until a relay takes it over, it is its TCPConn. If a lane takes it over, Go's poller gives it
// up: Read and Write never block then, and only the lane's goroutine calls them.
type Conn struct {
	*net.TCPConn // nil once a lane has it

	socket   *socket   // nil until a lane has it
	patience *patience // nil once a relay has the connection, which has a patience of its own
}

// NewConn returns a connection over c, which belongs to it from then on. Until a relay takes it
// over, a Write fails when the peer takes no byte for stall.
func NewConn(c *net.TCPConn, stall time.Duration) *Conn {
	holdLess(c)
	return &Conn{TCPConn: c, patience: &patience{tcp: c, stall: stall}}
}

// bufSize is how much of a side is read at a time.
const bufSize = 64 << 10

// backlogs are buffers for what has to wait, for its sink or for its time: a read's worth, and what
// TLS and the gateway put around it.
var backlogs = sync.Pool{New: func() any { b := make([]byte, 0, bufSize+4<<10); return &b }}

// wouldBlock is what Read says when nothing is there. crypto/tls keeps its state after a temporary
// error, and goes on there with the next Read.
type wouldBlock struct{}

func (wouldBlock) Error() string   { return "nothing to read yet" }
func (wouldBlock) Timeout() bool   { return false }
func (wouldBlock) Temporary() bool { return true }

// Read reads from the connection.
func (c *Conn) Read(b []byte) (int, error) {
	if c.socket != nil {
		return c.socket.read(b)
	}
	return c.TCPConn.Read(b)
}

// Write writes to the connection. In a lane it keeps what the peer does not take at once.
func (c *Conn) Write(b []byte) (int, error) {
	if c.socket != nil {
		return c.socket.write(b)
	}
	if c.patience != nil {
		return c.patience.write(b)
	}
	return c.TCPConn.Write(b)
}

// Close closes the connection.
func (c *Conn) Close() error {
	if c.socket != nil {
		return c.socket.close()
	}
	return c.TCPConn.Close()
}

// CloseWrite tells the peer that nothing more will come.
func (c *Conn) CloseWrite() error {
	if c.socket != nil {
		return c.socket.closeWrite()
	}
	return c.TCPConn.CloseWrite()
}

// SetDeadline sets both deadlines. In a lane nothing waits, so there is none.
func (c *Conn) SetDeadline(t time.Time) error {
	if c.socket != nil {
		return nil
	}
	if err := c.TCPConn.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline sets the time at which a Read that waits gives up.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.socket != nil {
		return nil
	}
	return c.TCPConn.SetReadDeadline(t)
}

// SetWriteDeadline sets the time at which a Write that waits gives up.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if c.socket != nil {
		return nil
	}
	if c.patience != nil {
		return c.patience.until(t)
	}
	return c.TCPConn.SetWriteDeadline(t)
}

// link is one side of a relay. It hides whether there is TLS.
type link struct {
	tcp  *Conn
	conn net.Conn // tcp itself, or the *tls.Conn over it
}

// newLink takes over a connection that listener or dialer has made: a Conn, TLS over one, or
// either with something between that has done its part before the handshake and names what is
// under it by NetConn, as crypto/tls does.
func newLink(c net.Conn) (link, error) {
	tcp, err := connOf(c)
	if err != nil {
		return link{}, err
	}
	tcp.patience = nil
	if _, ok := c.(*tls.Conn); ok {
		return link{tcp, c}, nil
	}
	return link{tcp, tcp}, nil
}

// connOf returns the Conn that a connection is made of.
func connOf(c net.Conn) (*Conn, error) {
	for {
		over, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = over.NetConn()
	}
	tcp, ok := c.(*Conn)
	if !ok {
		return nil, fmt.Errorf("relay over %T", c)
	}
	return tcp, nil
}

// tls reports whether there is TLS over the connection.
func (l *link) tls() bool { return l.conn != net.Conn(l.tcp) }

// Fresh reports whether the peer of a connection that the dialer has made, and that was not used
// yet, has neither closed it nor sent anything. Over TLS bytes may have come: session tickets
// follow the handshake of TLS 1.3 (RFC 8446 §4.6.1). It never waits, and knows only what the
// system tells: on Linux all of this, elsewhere nothing, so that every connection counts as fresh.
func Fresh(c net.Conn) bool {
	tcp, err := connOf(c)
	if err != nil {
		return false
	}
	if hung, _ := hungUp(tcp.TCPConn); hung {
		return false
	}
	_, secure := c.(*tls.Conn)
	return secure || unreadOf(tcp.TCPConn) == 0
}

// CloseWrite tells the peer of a connection that listener or dialer has made, and no relay has
// taken over, that nothing more will come.
func CloseWrite(c net.Conn) {
	if l, err := newLink(c); err == nil {
		l.closeWrite()
	}
}

// closeWrite tells the peer that nothing more will come: TLS close_notify and FIN.
func (l *link) closeWrite() {
	if c, ok := l.conn.(*tls.Conn); ok {
		c.CloseWrite()
	}
	l.tcp.CloseWrite()
}
