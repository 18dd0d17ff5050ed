package gateway

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/altairalabs/omnia-gateway/gateway/relay"
)

// steady is a listener that an error of accept(2) does not end. Its Accept returns an error only
// when the listener was closed: every other one says something about one connection
// (ECONNABORTED, EPROTO, ENETDOWN and the others that accept(2) lists under "treat them like
// EAGAIN"), or about the moment (EMFILE, ENFILE, ENOBUFS, ENOMEM), and must not end the sessions
// that are open.
type steady struct {
	net.Listener
	log *slog.Logger

	closed chan struct{}
	once   sync.Once // closes it

	// Owned by the goroutine of Accept.
	told    time.Time // when an error was last logged
	untold  int       // errors since then
	pausing time.Duration
}

const (
	firstPause = 5 * time.Millisecond // after an error of accept(2); doubled for each that follows
	longPause  = time.Second          // and never longer than this
	tellEvery  = 10 * time.Second     // how often errors of accept(2) are logged
)

func newSteady(l net.Listener, log *slog.Logger) *steady {
	return &steady{Listener: l, log: log, closed: make(chan struct{})}
}

// Accept waits for the next connection.
func (l *steady) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err == nil {
			l.pausing = 0
			return c, nil
		}
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		l.tell(err)
		l.pausing = min(max(2*l.pausing, firstPause), longPause)
		select {
		case <-time.After(l.pausing):
		case <-l.closed:
		}
	}
}

// Close ends Accept.
func (l *steady) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		close(l.closed)
		err = l.Listener.Close()
	})
	return err
}

// tell logs an error, but not each of thousands.
func (l *steady) tell(err error) {
	if l.untold++; time.Since(l.told) < tellEvery {
		return
	}
	l.log.Warn("connection not accepted; trying again", "err", err.Error(), "times", l.untold)
	l.told, l.untold = time.Now(), 0
}

// listener makes a clientConn of each accepted connection, or a secureConn if it has a
// certificate; a relay.Conn is under both.
type listener struct {
	*steady
	tls       *tls.Config   // nil: plain
	timeout   time.Duration // for a TLS handshake
	stall     time.Duration // how long a client of plain HTTP may take no byte
	balancers balancers
}

// Accept waits for the next connection. Handshakes that have begun come first: when many clients
// come at once, each that is accepted later holds memory for a shorter time.
func (l *listener) Accept() (net.Conn, error) {
	runtime.Gosched()
	c, err := l.steady.Accept()
	if err != nil {
		return nil, err
	}
	client := l.balancers.over(relay.NewConn(c.(*net.TCPConn), l.stall))
	if l.tls == nil {
		return &clientConn{Conn: client}, nil
	}
	secure := tls.Server(client, l.tls)
	return &secureConn{&clientConn{Conn: secure}, secure, l.timeout, l.log}, nil
}
