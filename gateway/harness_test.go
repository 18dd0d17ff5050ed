package gateway

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// patience is how long a test waits for what must happen at once.
const patience = 10 * time.Second

// tcp is a TCP connection over loopback: the wire is the gateway's end of it.
func tcp(t testing.TB) (*wire, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	outside, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	inside, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWire(inside.(*net.TCPConn))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { outside.Close(); w.Close() })
	outside.SetDeadline(time.Now().Add(patience))
	return w, outside.(*net.TCPConn)
}

// narrow makes the kernel hold little of what the peer does not read.
func narrow(w *wire, peer *net.TCPConn) {
	w.SetWriteBuffer(4 << 10)
	peer.SetReadBuffer(4 << 10)
}

// newLinkOver is the gateway's end of a connection and the peer's: plain for version 0, else TLS in that version, in which the gateway is
// the server, or, as towards an agent, the client.
func newLinkOver(t testing.TB, version uint16, server bool) (*link, net.Conn) {
	t.Helper()
	w, peer := tcp(t)
	inside, outside := net.Conn(w), net.Conn(peer)
	if version != 0 {
		inside, outside = handshaken(t, w, peer, version, server, nil)
	}
	l, err := newLink(inside)
	if err != nil {
		t.Fatal(err)
	}
	w.relay = true
	return l, outside
}

// handshaken puts TLS over both ends. The client writes its secrets to keyLog, if that is not nil.
func handshaken(t testing.TB, w *wire, peer net.Conn, version uint16, server bool, keyLog io.Writer) (inside, outside *tls.Conn) {
	t.Helper()
	pair := newKeyPair(t, 1, time.Now().Add(time.Hour))
	asServer := &tls.Config{Certificates: []tls.Certificate{pair}, DynamicRecordSizingDisabled: true}
	asClient := &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, DynamicRecordSizingDisabled: true, KeyLogWriter: keyLog}
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

// newKeyPair is a self-signed certificate for 127.0.0.1 with its key.
func newKeyPair(t testing.TB, serial int64, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// writePair writes a certificate and its key into a folder, as tls.crt and tls.key.
func writePair(t testing.TB, dir string, pair tls.Certificate) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "tls.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}))
	writeFile(t, filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func writeFile(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for what no channel tells.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(limit) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// end is the client or the agent of a relay, as a test plays it.
type end struct {
	net.Conn
	t      *testing.T
	br     *bufio.Reader
	masked bool // it is the client
}

func newEnd(t *testing.T, c net.Conn, masked bool) *end {
	return &end{Conn: c, t: t, br: bufio.NewReader(c), masked: masked}
}

// say writes bytes as they are.
func (e *end) say(b ...[]byte) {
	e.t.Helper()
	for _, b := range b {
		if _, err := e.Write(b); err != nil {
			e.t.Fatalf("write: %v", err)
		}
	}
}

// make is a frame as this end would send it.
func (e *end) make(first byte, payload string) []byte {
	return rawws.Make(first, []byte(payload), e.masked)
}

// close is a Close as this end would send it.
func (e *end) close(code int, reason string) []byte { return rawws.MakeClose(code, reason, e.masked) }

// hears reads a frame and says whether it is the one that is expected.
func (e *end) hears(first byte, payload string) {
	e.t.Helper()
	f, err := rawws.Read(e.br)
	if err != nil {
		e.t.Fatalf("want opcode %d %q, got %v", first&0x0f, payload, err)
	}
	if f.First != first || string(f.Payload) != payload || f.Masked == e.masked {
		e.t.Fatalf("want opcode %d %.40q, got %v, masked %v", first&0x0f, payload, f, f.Masked)
	}
}

// hearsClose reads frames up to a Close, and says how many others there were.
func (e *end) hearsClose(code int, reason string) (others int) {
	e.t.Helper()
	for ; ; others++ {
		f, err := rawws.Read(e.br)
		if err != nil {
			e.t.Fatalf("want Close %d %q, got %v", code, reason, err)
		}
		if f.Op() != rawws.Close {
			continue
		}
		if f.Code() != code || code != 0 && string(f.Payload[2:]) != reason || f.Masked == e.masked {
			e.t.Fatalf("want Close %d %q, got %v", code, reason, f)
		}
		return others
	}
}

// hungUp reads the end of the stream.
func (e *end) hungUp() {
	e.t.Helper()
	if f, err := rawws.Read(e.br); err != io.EOF {
		e.t.Fatalf("want the end of the stream, got %v %v", f, err)
	}
}
