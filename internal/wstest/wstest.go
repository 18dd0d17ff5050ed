// Package wstest is what tests of several packages share: a peer that speaks WebSocket by hand,
// and a self-signed certificate. No program imports it.
package wstest

import (
	"bufio"
	"cmp"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/selfsigned"
)

// Patience is how long a test waits for what must happen at once.
const Patience = 10 * time.Second

// Eventually waits until ok reports true, for what no channel tells. It fails the test after
// Patience; what names the thing that was awaited.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(Patience); !ok(); <-tick.C {
		if time.Now().After(limit) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// KeyPair returns a self-signed certificate for 127.0.0.1 with its key.
func KeyPair(t testing.TB, serial int64, until time.Time) tls.Certificate {
	t.Helper()
	cert, key, err := selfsigned.New(serial, until)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// Ethernet is for net.Dialer.Control and net.ListenConfig.Control: it gives a socket the segments
// of an MTU of 1500. Those of loopback are larger than a small window, which then opens only when
// it is empty.
func Ethernet(_, _ string, c syscall.RawConn) (err error) {
	control := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1460) })
	return cmp.Or(control, err)
}

// Peer is the client or the agent of a session, as a test plays it.
type Peer struct {
	net.Conn
	// Reader holds what was read from the connection and not yet looked at.
	Reader *bufio.Reader

	t      testing.TB
	masked bool // it is the client
}

// NewPeer returns a peer that speaks over c: a client if masked, else an agent.
func NewPeer(t testing.TB, c net.Conn, masked bool) *Peer {
	return &Peer{Conn: c, Reader: bufio.NewReader(c), t: t, masked: masked}
}

// Say writes bytes as they are.
func (p *Peer) Say(b ...[]byte) {
	p.t.Helper()
	for _, b := range b {
		if _, err := p.Write(b); err != nil {
			p.t.Fatalf("write: %v", err)
		}
	}
}

// Frame returns a frame as this peer would send it.
func (p *Peer) Frame(first byte, payload string) []byte {
	return rawws.Make(first, []byte(payload), p.masked)
}

// CloseFrame returns a Close as this peer would send it.
func (p *Peer) CloseFrame(code int, reason string) []byte {
	return rawws.MakeClose(code, reason, p.masked)
}

// Answer reads the head of an HTTP answer.
func (p *Peer) Answer() *http.Response {
	p.t.Helper()
	resp, err := http.ReadResponse(p.Reader, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp
}

// Hears reads a frame and fails the test unless it is the one that is expected.
func (p *Peer) Hears(first byte, payload string) {
	p.t.Helper()
	f, err := rawws.Read(p.Reader)
	if err != nil {
		p.t.Fatalf("want opcode %d %q, got %v", first&0x0f, payload, err)
	}
	if f.First != first || string(f.Payload) != payload || f.Masked == p.masked {
		p.t.Fatalf("want opcode %d %.40q, got %v, masked %v", first&0x0f, payload, f, f.Masked)
	}
}

// HearsClose reads frames up to a Close, fails the test unless it is the one that is expected, and
// returns how many other frames came before it.
func (p *Peer) HearsClose(code int, reason string) (others int) {
	p.t.Helper()
	for ; ; others++ {
		f, err := rawws.Read(p.Reader)
		if err != nil {
			p.t.Fatalf("want Close %d %q, got %v", code, reason, err)
		}
		if f.Op() != rawws.Close {
			continue
		}
		if f.Code() != code || code != 0 && string(f.Payload[2:]) != reason || f.Masked == p.masked {
			p.t.Fatalf("want Close %d %q, got %v", code, reason, f)
		}
		return others
	}
}

// HungUp reads the end of the stream, and fails the test if something comes before it.
func (p *Peer) HungUp() {
	p.t.Helper()
	if f, err := rawws.Read(p.Reader); err != io.EOF {
		p.t.Fatalf("want the end of the stream, got %v %v", f, err)
	}
}
