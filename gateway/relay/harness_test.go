package relay

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

// tcp is a TCP connection over loopback: Conn is the gateway's end of it.
func tcp(t testing.TB) (*Conn, *net.TCPConn) {
	t.Helper()
	return tcpBy(t, &net.Dialer{})
}

// tcpBy is tcp, and the peer dials as d says.
func tcpBy(t testing.TB, d *net.Dialer) (*Conn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	outside, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	inside, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	w := NewConn(inside.(*net.TCPConn), wstest.Patience)
	t.Cleanup(func() { outside.Close(); w.Close() })
	outside.SetDeadline(time.Now().Add(wstest.Patience))
	return w, outside.(*net.TCPConn)
}

// connect returns the gateway's end of a connection and the peer's: plain for version 0, else TLS
// in that version, in which the gateway is the server, or, as towards an agent, the client.
func connect(t testing.TB, version uint16, server bool) (inside, outside net.Conn) {
	t.Helper()
	c, peer := tcp(t)
	if version == 0 {
		return c, peer
	}
	return handshaken(t, c, peer, version, server, nil)
}

// keyPair returns the certificate of every peer in these tests.
func keyPair(t testing.TB) tls.Certificate {
	t.Helper()
	theKeyPair.once.Do(func() { theKeyPair.Certificate = wstest.KeyPair(t, 1, time.Now().Add(time.Hour)) })
	return theKeyPair.Certificate
}

var theKeyPair struct {
	once sync.Once
	tls.Certificate
}

// handshaken puts TLS over both ends. The client writes its secrets to keyLog, if that is not nil.
func handshaken(t testing.TB, w *Conn, peer net.Conn, version uint16, server bool, keyLog io.Writer) (inside, outside *tls.Conn) {
	t.Helper()
	asServer := &tls.Config{Certificates: []tls.Certificate{keyPair(t)}, DynamicRecordSizingDisabled: true}
	asClient := &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, DynamicRecordSizingDisabled: true,
		KeyLogWriter: keyLog}
	if server {
		inside, outside = tls.Server(w, asServer), tls.Client(peer, asClient)
	} else {
		inside, outside = tls.Client(w, asClient), tls.Server(peer, asServer)
	}
	failed := make(chan error, 1)
	go func() { failed <- outside.Handshake() }()
	if err := inside.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	return inside, outside
}
