package relay

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// gathered is a connection whose writes can be kept back, so that they can be cut otherwise.
type gathered struct {
	net.Conn
	keep bool
	out  bytes.Buffer
}

func (g *gathered) Write(b []byte) (int, error) {
	if g.keep {
		return g.out.Write(b)
	}
	return g.Conn.Write(b)
}

// over starts a relay between a client whose TLS a test has made, and a plain agent.
func over(t *testing.T, client net.Conn, rules Rules) (agent *wstest.Peer, ended chan *outcome.Ending) {
	t.Helper()
	c, peer := tcp(t)
	r, err := New(client, c, nil, nil, 0, rules)
	if err != nil {
		t.Fatal(err)
	}
	ended = make(chan *outcome.Ending, 1)
	r.Launch(func(e *outcome.Ending) { ended <- e })
	return wstest.NewPeer(t, peer, false), ended
}

// crypto/tls reads the beginning of an alert along with the last bytes of TLS 1.2, and gives them
// together with what keeps it from reading the rest.
func TestBytesBeforeHalfAnAlertAreNotLost(t *testing.T) {
	rules := lasting
	rules.Lanes = running(t) // without lanes crypto/tls waits for the rest of the alert
	c, peer := tcp(t)
	g := &gathered{Conn: peer}
	inside, outside := handshaken(t, c, g, tls.VersionTLS12, true, nil)
	g.keep = true
	outside.Write(rawws.Make(rawws.Fin|rawws.Text, []byte("last words"), true))
	outside.CloseWrite()
	peer.SetWriteDeadline(time.Time{}) // it has left one that has passed
	all := g.out.Bytes()
	agent, ended := over(t, inside, rules)
	peer.Write(all[:len(all)-5])
	agent.Hears(rawws.Fin|rawws.Text, "last words")
	peer.Write(all[len(all)-5:])
	agent.HearsClose(1001, "client-lost")
	agent.Close()
	peer.Close()
	if e := <-ended; e.Reason != outcome.ClientLost || e.Detail != "" {
		t.Errorf("ended as %+v", e)
	}
}

// A KeyUpdate (RFC 8446 §4.6.3) that asks for one in return is answered by crypto/tls in the
// middle of a read. crypto/tls sends none itself, so the client's records are made by hand here.
func TestKeyUpdateIsAnsweredDuringRelay(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		c, peer := tcp(t)
		var keyLog bytes.Buffer
		inside, outside := handshaken(t, c, peer, tls.VersionTLS13, true, &keyLog)
		if suite := outside.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
			t.Fatalf("the records below are for AES-128, not for %s", tls.CipherSuiteName(suite))
		}
		client := newRecords(t, keyLog.String())
		agent, ended := over(t, inside, lasting)
		say := func(text string) []byte {
			return client.seal(23, string(rawws.Make(rawws.Fin|rawws.Text, []byte(text), true)))
		}
		peer.Write(say("before"))
		agent.Hears(rawws.Fin|rawws.Text, "before")
		update := client.seal(22, "\x18\x00\x00\x01\x01") // key_update, update_requested
		for i := range update {
			peer.Write(update[i : i+1])
		}
		client.update()
		peer.Write(say("after"))
		agent.Hears(rawws.Fin|rawws.Text, "after")
		agent.Say(agent.Frame(rawws.Fin|rawws.Text, "in new keys"))
		if f, err := io.ReadAll(io.LimitReader(outside, 13)); err != nil || string(f[2:]) != "in new keys" {
			t.Errorf("the client got %q, %v", f, err)
		}
		peer.Close()
		agent.HearsClose(1001, "client-lost")
		agent.Close()
		<-ended
	})
}

// records seals what a client of TLS 1.3 sends after its handshake, in TLS_AES_128_GCM_SHA256.
type records struct {
	t      *testing.T
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// newRecords finds the client's secret in a key log.
func newRecords(t *testing.T, keyLog string) *records {
	for line := range strings.Lines(keyLog) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(f[2])
			if err != nil {
				t.Fatal(err)
			}
			r := &records{t: t, secret: secret}
			r.keys()
			return r
		}
	}
	t.Fatal("no secret of the client in the key log")
	return nil
}

// expand is HKDF-Expand-Label without a context (RFC 8446 §7.1).
func (r *records) expand(label string, length int) []byte {
	label = "tls13 " + label
	info := fmt.Sprintf("%c%c%c%s%c", 0, length, len(label), label, 0)
	b, err := hkdf.Expand(sha256.New, r.secret, info, length)
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

func (r *records) keys() {
	block, err := aes.NewCipher(r.expand("key", 16))
	if err != nil {
		r.t.Fatal(err)
	}
	if r.aead, err = cipher.NewGCM(block); err != nil {
		r.t.Fatal(err)
	}
	r.iv, r.seq = r.expand("iv", 12), 0
}

// update goes on to the next keys.
func (r *records) update() {
	r.secret = r.expand("traffic upd", 32)
	r.keys()
}

// seal makes a record of a content type (RFC 8446 §5.2).
func (r *records) seal(kind byte, content string) []byte {
	plain := append([]byte(content), kind)
	head := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(plain)+r.aead.Overhead()))
	nonce := bytes.Clone(r.iv)
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^r.seq)
	r.seq++
	return r.aead.Seal(head, nonce, plain, head)
}

// A client that takes 30 KB/s from an agent that floods it lives for ever: much less is taken than
// would make its socket writable, and no Ping gets through for a long time.
func TestSlowButSteadyReaderLives(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		version uint16
		message int
	}{{"plain", 0, 1000}, {"plain, long messages", 0, 10 * long}, {"TLS", tls.VersionTLS13, 1000}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rules := lasting
			rules.Lanes = running(t)
			rules.StallTimeout, rules.PingInterval = 3*time.Second, time.Second
			slow(t, rules, tt.version, tt.message, soak(t, 8*time.Second, 3*time.Minute))
		})
	}
}

// slow runs a session whose client reads 30 KB/s of messages of one size, and expects it to live
// for a time.
func slow(t *testing.T, rules Rules, version uint16, message int, lives time.Duration) {
	c, peer := tcpBy(t, &net.Dialer{Control: wstest.Ethernet})
	peer.SetReadBuffer(16 << 10) // else the window opens in steps that take seconds
	inside, outside := net.Conn(c), net.Conn(peer)
	if version != 0 {
		inside, outside = handshaken(t, c, peer, version, true, nil)
	}
	peer.SetDeadline(time.Time{})
	agent, ended := over(t, inside, rules)
	agent.SetDeadline(time.Time{})
	go keepsSending(agent, strings.Repeat("x", message))
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	buf := make([]byte, 3000)
	for began := time.Now(); time.Since(began) < lives; <-tick.C {
		if _, err := io.ReadFull(outside, buf); err != nil {
			t.Fatalf("after %s: %v, ended as %+v", time.Since(began), err, <-ended)
		}
	}
	select {
	case e := <-ended:
		t.Errorf("ended as %+v", e)
	default:
	}
	peer.Close()
	agent.Close()
	<-ended
}
