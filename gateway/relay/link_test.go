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
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

// sides are the kinds of link there are.
var sides = []struct {
	name    string
	version uint16
	server  bool
}{
	{"plain", 0, true},
	{"TLS 1.2 to a client", tls.VersionTLS12, true},
	{"TLS 1.3 to a client", tls.VersionTLS13, true},
	{"TLS 1.2 to an agent", tls.VersionTLS12, false},
	{"TLS 1.3 to an agent", tls.VersionTLS13, false},
}

// pour writes size bytes that depend on seed in chunks of random sizes, and gives their hash.
func pour(w io.Writer, seed uint64, size int) (sum [32]byte, err error) {
	src := rand.NewChaCha8([32]byte{byte(seed)})
	sizes := rand.New(rand.NewPCG(seed, 1))
	h := sha256.New()
	for size > 0 {
		b := make([]byte, min(size, 1+sizes.IntN(1<<sizes.IntN(18))))
		src.Read(b)
		h.Write(b)
		if _, err := w.Write(b); err != nil {
			return sum, err
		}
		size -= len(b)
	}
	return [32]byte(h.Sum(nil)), nil
}

func TestBytesArriveIntactBothWays(t *testing.T) {
	const size = 4 << 20
	for _, side := range sides {
		t.Run(side.name, func(t *testing.T) {
			l, peer := newLinkOver(t, side.version, side.server)
			l.tcp.SetReadDeadline(time.Now().Add(wstest.Patience))
			var wg sync.WaitGroup
			defer wg.Wait()
			var fromPeer, fromLink, atPeer [32]byte
			wg.Go(func() {
				var err error
				if fromPeer, err = pour(peer, 1, size); err != nil {
					t.Errorf("peer writes: %v", err)
				}
			})
			wg.Go(func() {
				var err error
				if fromLink, err = pour(l.conn, 2, size); err != nil {
					t.Errorf("link writes: %v", err)
				}
			})
			wg.Go(func() {
				h := sha256.New()
				if _, err := io.CopyN(h, peer, size); err != nil {
					t.Errorf("peer reads: %v", err)
				}
				atPeer = [32]byte(h.Sum(nil))
			})
			h := sha256.New()
			var carry []byte
			for got := 0; got < size; {
				b, err := l.read(carry, true)
				if err != nil {
					t.Fatalf("after %d bytes: %v", got, err)
				}
				if !bytes.HasPrefix(b, carry) || len(b) == len(carry) {
					t.Fatalf("%d bytes behind a carry of %d", len(b), len(carry))
				}
				got += len(b) - len(carry)
				k := rand.IntN(min(len(b), 150)) // hold some back
				h.Write(b[:len(b)-k])
				carry = append(carry[:0], b[len(b)-k:]...)
				l.release()
			}
			h.Write(carry)
			wg.Wait()
			if [32]byte(h.Sum(nil)) != fromPeer {
				t.Error("what the link read is not what the peer wrote")
			}
			if atPeer != fromLink {
				t.Error("what the peer read is not what the link wrote")
			}
		})
	}
}

func TestDeadlineWakesAReadAndLosesNothing(t *testing.T) {
	const size = 1 << 20
	for _, side := range sides {
		t.Run(side.name, func(t *testing.T) {
			l, peer := newLinkOver(t, side.version, side.server)
			sent := make(chan [32]byte, 1)
			go func() {
				sum, err := pour(peer, 3, size)
				if err != nil {
					t.Error(err)
				}
				sent <- sum
			}()
			read := make(chan struct{})
			var waker sync.WaitGroup
			waker.Go(func() {
				for tick := time.NewTicker(50 * time.Microsecond); ; {
					select {
					case <-read:
						tick.Stop()
						return
					case <-tick.C:
						l.tcp.SetReadDeadline(time.Unix(1, 0))
					}
				}
			})
			h := sha256.New()
			for got := 0; got < size; {
				b, err := l.read(nil, true)
				if errors.Is(err, os.ErrDeadlineExceeded) {
					l.tcp.SetReadDeadline(time.Now().Add(wstest.Patience))
					continue
				}
				if err != nil {
					t.Fatalf("after %d bytes: %v", got, err)
				}
				got += len(b)
				h.Write(b)
				l.release()
			}
			if [32]byte(h.Sum(nil)) != <-sent {
				t.Error("what was read is not what was written")
			}
			for { // now that nothing comes any more
				if _, err := l.read(nil, true); errors.Is(err, os.ErrDeadlineExceeded) {
					break
				} else if err != nil {
					t.Fatalf("got %v, want to be woken", err)
				}
			}
			close(read)
			waker.Wait()
		})
	}
}

// waits makes l tell each time that it has found nothing to read and is about to wait, and whether
// it holds a buffer then.
func (l *link) waits() <-chan bool {
	c := make(chan bool, 64)
	try := l.try
	l.try = func(fd uintptr) bool {
		done := try(fd)
		if !done {
			c <- l.buf != nil
		}
		return done
	}
	return c
}

// blocks makes w tell that a Write waits for the peer.
func (w *Conn) blocks() <-chan struct{} {
	c := make(chan struct{}, 1)
	flush := w.flush
	w.flush = func(fd uintptr) bool {
		done := flush(fd)
		if !done {
			select {
			case c <- struct{}{}:
			default:
			}
		}
		return done
	}
	return c
}

func TestWaitingReadHoldsNoBuffer(t *testing.T) {
	for _, side := range sides {
		t.Run(side.name, func(t *testing.T) {
			l, peer := newLinkOver(t, side.version, side.server)
			waits := l.waits()
			var wg sync.WaitGroup
			wg.Go(func() {
				for got := 0; got < len("firstsecond"); l.release() {
					b, err := l.read(nil, true)
					if err != nil {
						t.Error(err)
						return
					}
					got += len(b)
				}
			})
			for _, text := range []string{"first", "second"} {
				// Of a link to an agent in TLS 1.3 this may be the wait behind a session ticket;
				// the text is read all the same.
				if held := <-waits; held {
					t.Error("a buffer is held while nothing comes")
				}
				if _, err := io.WriteString(peer, text); err != nil {
					t.Fatal(err)
				}
			}
			wg.Wait()
		})
	}
}

func TestEndOfTheStreamComesBehindItsLastBytes(t *testing.T) {
	for _, side := range sides {
		t.Run(side.name, func(t *testing.T) {
			l, peer := newLinkOver(t, side.version, side.server)
			go func() {
				peer.Write(bytes.Repeat([]byte("x"), 100_000))
				peer.Close()
			}()
			for got := 0; ; {
				b, err := l.read(nil, true)
				if err == io.EOF && got == 100_000 {
					return
				}
				if err != nil {
					t.Fatalf("after %d bytes: %v", got, err)
				}
				got += len(b)
				l.release()
			}
		})
	}
}

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

// crypto/tls reads the beginning of an alert along with the last bytes of TLS 1.2, and gives them
// together with what keeps it from reading the rest.
func TestBytesBeforeHalfAnAlertAreNotLost(t *testing.T) {
	w, peer := tcp(t)
	g := &gathered{Conn: peer}
	inside, outside := handshaken(t, w, g, tls.VersionTLS12, true, nil)
	l, err := newLink(inside)
	if err != nil {
		t.Fatal(err)
	}
	w.relayed, w.stalled = true, stall
	waits := l.waits()
	g.keep = true
	io.WriteString(outside, "last words")
	outside.CloseWrite()
	peer.SetWriteDeadline(time.Time{}) // it has left one that has passed
	all := g.out.Bytes()
	var wg sync.WaitGroup
	wg.Go(func() {
		b, err := l.read(nil, true)
		if err != nil || string(b) != "last words" {
			t.Errorf("got %q, %v", b, err)
		}
		l.release()
		if _, err := l.read(nil, true); err != io.EOF {
			t.Errorf("got %v, want EOF", err)
		}
	})
	<-waits
	peer.Write(all[:len(all)-5])
	<-waits
	peer.Write(all[len(all)-5:])
	wg.Wait()
}

// A KeyUpdate (RFC 8446 §4.6.3) that asks for one in return is answered by crypto/tls in the
// middle of a read, that is inside the callback of a raw read. crypto/tls sends none itself, so
// the client's records are made by hand here.
func TestKeyUpdateIsAnsweredDuringRelay(t *testing.T) {
	w, peer := tcp(t)
	var keyLog bytes.Buffer
	inside, outside := handshaken(t, w, peer, tls.VersionTLS13, true, &keyLog)
	if suite := outside.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Fatalf("the records below are for AES-128, not for %s", tls.CipherSuiteName(suite))
	}
	l, err := newLink(inside)
	if err != nil {
		t.Fatal(err)
	}
	w.relayed, w.stalled = true, stall
	waits := l.waits()
	client := newRecords(t, keyLog.String())

	read := make(chan string)
	go func() {
		for range 2 {
			b, err := l.read(nil, true)
			if err != nil {
				t.Errorf("read: %v", err)
			}
			read <- string(b)
			l.release()
		}
	}()
	<-waits
	peer.Write(client.seal(23, "before"))
	if got := <-read; got != "before" {
		t.Fatalf("got %q", got)
	}
	update := client.seal(22, "\x18\x00\x00\x01\x01") // key_update, update_requested
	<-waits
	peer.Write(update[:7])
	<-waits
	peer.Write(update[7:])
	client.update()
	<-waits
	peer.Write(client.seal(23, "after"))
	if got := <-read; got != "after" {
		t.Fatalf("got %q", got)
	}
	go l.conn.Write([]byte("in new keys"))
	got := make([]byte, 11)
	if _, err := io.ReadFull(outside, got); err != nil || string(got) != "in new keys" {
		t.Errorf("the client got %q, %v", got, err)
	}
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

func TestPeerThatTakesNoBytesIsGivenUp(t *testing.T) {
	for _, side := range sides {
		t.Run(side.name, func(t *testing.T) {
			l, peer := newLinkOver(t, side.version, side.server)
			l.tcp.stalled = 50 * time.Millisecond
			began := time.Now()
			for {
				if _, err := l.conn.Write(make([]byte, 1<<20)); errors.Is(err, os.ErrDeadlineExceeded) {
					break
				} else if err != nil {
					t.Fatalf("got %v, want a deadline", err)
				}
			}
			if time.Since(began) < l.tcp.stalled {
				t.Error("given up before its time")
			}
			peer.Close()
		})
	}
}

// The peer takes a little less often than the kernel would need to hold it all, for several times
// as long as it may be silent.
func TestSlowPeerIsNotGivenUp(t *testing.T) {
	w, peer := tcp(t)
	w.SetWriteBuffer(16 << 10)
	peer.SetReadBuffer(256 << 10)
	w.relayed, w.stalled = true, 300*time.Millisecond
	written := make(chan error, 1)
	go func() {
		_, err := w.Write(make([]byte, 2<<20))
		w.Close()
		written <- err
	}()
	began, buf := time.Now(), make([]byte, 128<<10)
	tick := time.NewTicker(w.stalled / 20)
	defer tick.Stop()
	for ; ; <-tick.C {
		if n, _ := io.ReadFull(peer, buf); n == 0 {
			break
		}
	}
	if err := <-written; err != nil {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	if time.Since(began) < 2*w.stalled {
		t.Fatalf("written in %s: the peer was not slow", time.Since(began))
	}
}

func TestCutEndsABlockedWrite(t *testing.T) {
	for _, side := range sides {
		t.Run(side.name, func(t *testing.T) {
			l, _ := newLinkOver(t, side.version, side.server)
			blocked := l.tcp.blocks()
			failed := make(chan error, 1)
			go func() {
				for {
					if _, err := l.conn.Write(make([]byte, 1<<20)); err != nil {
						failed <- err
						return
					}
				}
			}()
			<-blocked
			began := time.Now()
			l.tcp.cut(began.Add(50 * time.Millisecond))
			if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(began); took < 50*time.Millisecond || took > stall/2 {
				t.Errorf("ended after %s", took)
			}
			l.closeWrite() // TLS sets a deadline of its own; it must not wait for the peer either
			l.conn.Close()
			if took := time.Since(began); took > stall/2 {
				t.Errorf("closed after %s", took)
			}
		})
	}
}

// cut and arm run at the same time in different goroutines; whatever the order, the cutoff stands.
func TestCutWinsOverTheDeadlineOfAWrite(t *testing.T) {
	for range 50 {
		w, peer := tcp(t)
		narrow(w, peer)
		w.relayed, w.stalled = true, stall
		failed := make(chan error, 1)
		go func() {
			_, err := w.Write(make([]byte, 8<<20))
			failed <- err
		}()
		go peer.Read(make([]byte, 512<<10))
		w.cut(time.Now().Add(time.Millisecond))
		select {
		case err := <-failed:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("got %v", err)
			}
		case <-time.After(stall / 2):
			t.Fatal("a write outlasted the cutoff")
		}
		w.Close()
		peer.Close()
	}
}
