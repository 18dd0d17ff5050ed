package relay

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Conn is a TCP connection that a relay can take over, as it is or with TLS over it. Listener and
// dialer make one of every connection, because TLS keeps the connection it was begun with.
//
// Until a relay takes it over, it is its TCPConn. Then Read never blocks: link.read calls it inside
// the callback of a raw read, and it reports "would block" as a temporary error, after which
// crypto/tls resumes where it was; so a connection that waits for bytes holds no buffer for them.
// Write blocks, but only while the peer takes bytes: a peer that takes none for stall is given up.
type Conn struct {
	*net.TCPConn
	raw     syscall.RawConn
	relayed bool // set once, before the relay's goroutines start

	// Owned by the direction that reads. The descriptor is known after the first read; only inside
	// the callback of a raw read is it certain that the number still means this connection.
	fd uintptr

	// Owned by the direction that writes.
	out     []byte // what Write has still to write
	armed   bool   // a write deadline is set
	wrote   bool   // bytes went out since the deadline was set
	outErr  error
	flush   func(fd uintptr) bool // tryWrite, bound once
	stalled time.Duration

	// Written by cut, read by the direction that writes: no Write lasts longer (Unix nanoseconds;
	// 0: there is no such time).
	cutoff atomic.Int64
}

// stall is how long a peer may take no byte before it counts as dead, unless Rules say otherwise.
const stall = 30 * time.Second

// NewConn returns a connection over c, which belongs to it from then on.
func NewConn(c *net.TCPConn) (*Conn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := &Conn{TCPConn: c, raw: raw}
	w.flush = w.tryWrite
	return w, nil
}

// wouldBlock is what Read says in relay mode when nothing is there. crypto/tls keeps its state
// after a temporary error.
type wouldBlock struct{}

func (wouldBlock) Error() string   { return "nothing to read yet" }
func (wouldBlock) Timeout() bool   { return false }
func (wouldBlock) Temporary() bool { return true }

// Read reads what is there.
func (w *Conn) Read(p []byte) (int, error) {
	if !w.relayed {
		return w.TCPConn.Read(p)
	}
	for {
		n, err := syscall.Read(int(w.fd), p)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return 0, wouldBlock{}
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// Write writes all of p.
func (w *Conn) Write(p []byte) (int, error) {
	if !w.relayed {
		return w.TCPConn.Write(p)
	}
	if w.armed {
		w.arm(0)
	}
	w.out, w.outErr = p, nil
	err := w.raw.Write(w.flush)
	if err == nil {
		err = w.outErr
	}
	n := len(p) - len(w.out)
	w.out = nil
	return n, err
}

// tryWrite writes until all is out or the peer takes no more. The deadline is set only then: most
// writes never need one.
func (w *Conn) tryWrite(fd uintptr) bool {
	for len(w.out) > 0 {
		n, err := syscall.Write(int(fd), w.out)
		switch {
		case n > 0:
			w.out, w.wrote = w.out[n:], true
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			if !w.armed || w.wrote {
				w.arm(w.stalled)
			}
			return false
		case err != nil:
			w.outErr = os.NewSyscallError("write", err)
			return true
		}
	}
	return true
}

// arm sets the write deadline to d from now, or to none for 0, and never later than the cutoff.
func (w *Conn) arm(d time.Duration) {
	for {
		var t time.Time
		cut := w.cutoff.Load()
		if d > 0 {
			t = time.Now().Add(d)
		}
		if cut != 0 && (t.IsZero() || cut < t.UnixNano()) {
			t = time.Unix(0, cut)
		}
		w.SetWriteDeadline(t)
		w.armed, w.wrote = !t.IsZero(), false
		if w.cutoff.Load() == cut { // else cut was called in between, and its deadline overwritten
			return
		}
	}
}

// cut lets no Write last beyond t. It may be called from any goroutine.
func (w *Conn) cut(t time.Time) {
	w.cutoff.Store(t.UnixNano())
	w.SetWriteDeadline(t)
}

// link is one side of a relayed connection. It hides what the side is made of: the rest of the
// package knows neither TCP nor TLS.
type link struct {
	tcp  *Conn
	conn net.Conn // tcp itself, or the *tls.Conn over it

	// Owned by the direction that reads.
	carry []byte         // what read puts in front
	buf   *[bufSize]byte // the buffer in use; nil while nothing moves
	n     int
	err   error
	wait  bool                  // for something to read
	try   func(fd uintptr) bool // tryRead, bound once
}

// newLink takes over a connection that listener or dialer has made: a Conn, TLS over one, or
// either with something between that has done its part before the handshake and names what is under
// it by NetConn, as crypto/tls does.
func newLink(c net.Conn) (*link, error) {
	under := c
	for {
		over, ok := under.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		under = over.NetConn()
	}
	tcp, ok := under.(*Conn)
	if !ok {
		return nil, fmt.Errorf("relay over %T", under)
	}
	l := &link{tcp: tcp, conn: tcp}
	if _, ok := c.(*tls.Conn); ok {
		l.conn = c
	}
	l.try = l.tryRead
	return l, nil
}

// begin enters relay mode: what was agreed about time for the handshake does not hold any more. A
// peer that takes no byte for stalled is given up.
func (l *link) begin(stalled time.Duration) {
	l.tcp.stalled = stalled
	l.tcp.SetDeadline(time.Time{})
	l.tcp.relayed = true
}

// tls reports whether there is TLS over the connection.
func (l *link) tls() bool { return l.conn != net.Conn(l.tcp) }

// readBy lets read wait until t; zero: without end. It also wakes a read that waits already.
func (l *link) readBy(t time.Time) { l.tcp.SetReadDeadline(t) }

// write writes all of b, or returns why the peer gets nothing more.
func (l *link) write(b []byte) error {
	_, err := l.conn.Write(b)
	return err
}

// cut lets no write last beyond t. It may be called from any goroutine.
func (l *link) cut(t time.Time) { l.tcp.cut(t) }

// closeWrite tells the peer that nothing more will come: TLS close_notify and FIN.
func (l *link) closeWrite() {
	if c, ok := l.conn.(*tls.Conn); ok {
		c.CloseWrite()
	}
	l.tcp.CloseWrite()
}

// close closes the connection, with a goodbye of TLS if there is none yet.
func (l *link) close() { l.conn.Close() }

// drop closes the connection at once, from any goroutine.
func (l *link) drop() { l.tcp.Close() }

// descriptor returns the number by which the system knows the connection. It is good until the
// connection is closed, which a caller must rule out.
func (l *link) descriptor() int { return int(l.tcp.fd) }

// bufSize is how much moves at a time. Buffers are held only while bytes move, so their number is
// that of busy sides, not of sessions.
const bufSize = 64 << 10

var bufs = sync.Pool{New: func() any { return new([bufSize]byte) }}

// read gives bytes behind carry, in a buffer that release gives back. Without an error there is at
// least one new byte. Until there is, it waits, holding a goroutine's stack and nothing else; or,
// unless wait, says wouldBlock. That, and an os.ErrDeadlineExceeded, leave the link as it was.
func (l *link) read(carry []byte, wait bool) ([]byte, error) {
	l.carry, l.wait = carry, wait
	if err := l.tcp.raw.Read(l.try); err != nil {
		return nil, err
	}
	if l.buf == nil {
		return nil, wouldBlock{}
	}
	if l.err != nil && l.n == len(carry) {
		l.release()
		return nil, l.err
	}
	return l.buf[:l.n], nil
}

// tryRead takes a buffer only when it is called, that is when there may be something to read, and
// gives it back if there was nothing.
func (l *link) tryRead(fd uintptr) bool {
	l.tcp.fd = fd
	l.buf = bufs.Get().(*[bufSize]byte)
	l.n = copy(l.buf[:], l.carry)
	m, err := l.conn.Read(l.buf[l.n:])
	if _, ok := err.(wouldBlock); ok {
		if m == 0 {
			l.release()
			return !l.wait
		}
		err = nil // of the alert behind the last bytes of TLS 1.2, which crypto/tls reads along with them; the next read says it again
	}
	l.n, l.err = l.n+m, err
	// crypto/tls gives one record of at most 16 KiB at a time. While a stream runs, gather what
	// has arrived into one write.
	for l.tls() && err == nil && m >= 8<<10 && bufSize-l.n >= 16<<10 {
		m, err = l.conn.Read(l.buf[l.n:]) // an error comes again with the next read
		l.n += m
	}
	return true
}

// release gives the buffer of the last read back.
func (l *link) release() {
	if l.buf != nil {
		bufs.Put(l.buf)
		l.buf = nil
	}
}
