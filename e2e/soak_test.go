package e2e

import (
	"bufio"
	"crypto/subtle"
	"crypto/tls"
	"fmt"
	"hash/maphash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// soakMegabytes is how much each of 200 sessions moves each way; `make soak` moves 50.
func soakMegabytes(t *testing.T) int64 {
	s := os.Getenv("OMNIA_SOAK_MB")
	if s == "" {
		return 1
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 {
		t.Fatalf("OMNIA_SOAK_MB=%q: want a number of megabytes", s)
	}
	return n
}

// Two hundred sessions at once, frames of every size up to 1 MiB both ways, whole and in
// fragments, Pings between the fragments, the last frame glued to the Close: every frame arrives
// as it was sent, and nothing is left over. Lanes move them, and goroutines.
func TestEveryByteOfTwoHundredSessionsArrives(t *testing.T) {
	soakBoth(t)
	t.Run("goroutines", func(t *testing.T) {
		withGoroutines(t)
		soakBoth(t)
	})
}

// soakBoth is the test over plain connections and over TLS.
func soakBoth(t *testing.T) {
	const sessions = 200
	size := soakMegabytes(t) << 20
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "TLS"}[secure], func(t *testing.T) {
			i := newIssuer(t)
			sums := newSums()
			a := newAgent(t, func(v *visit) {
				v.accept()
				sums.both("agent", v.r.Header.Get("X-Soak"), v.Conn, v.br, size, false)
			})
			g := startSecure(t, plain(i, a.URL), secure)
			before := g.held()
			bearer := i.bearer(t)
			began := time.Now()
			var wg sync.WaitGroup
			for n := range sessions {
				wg.Go(func() {
					c := g.connect(t, "/my-agent/ws", bearer, fmt.Sprintf("X-Soak: %d", n))
					c.SetDeadline(time.Now().Add(10 * time.Minute))
					sums.both("client", strconv.Itoa(n), c.Conn, c.br, size, true)
					c.Close()
				})
			}
			wg.Wait()
			took := time.Since(began)
			eventually(t, "gone", func() bool { return a.live.Load() == 0 })
			for n := range sessions {
				sums.compare(t, strconv.Itoa(n))
			}
			g.holdsNoMoreThan(before)
			for _, line := range g.log.with("msg", "ended") {
				if line["reason"] != "closed" || line["code"] != 1000.0 {
					t.Errorf("a session ended as %v %v", line["reason"], line["code"])
				}
			}
			t.Logf("%d sessions moved %d MB each way in %v", sessions, size>>20, took.Round(time.Millisecond))
		})
	}
}

// sums are what both ends of all sessions have sent and heard.
type sums struct {
	seed  maphash.Seed
	block []byte    // random payload, of which frames take slices
	keys  [8]keyPad // masking keys

	mu    sync.Mutex
	sent  map[string]string // "client 7" → hash and counts of what it sent
	heard map[string]string
}

// keyPad is a masking key and its repetition.
type keyPad struct {
	key [4]byte
	pad []byte
}

const maxPayload = 1 << 20

func newSums() *sums {
	s := &sums{seed: maphash.MakeSeed(), block: make([]byte, 2*maxPayload), sent: map[string]string{}, heard: map[string]string{}}
	random := rand.NewChaCha8([32]byte{1})
	random.Read(s.block)
	for n := range s.keys {
		k := &s.keys[n]
		random.Read(k.key[:])
		k.pad = make([]byte, maxPayload)
		for j := range k.pad {
			k.pad[j] = k.key[j%4]
		}
	}
	return s
}

func (s *sums) note(to map[string]string, name, sum string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	to[name] = sum
}

func (s *sums) compare(t *testing.T, session string) {
	t.Helper()
	for from, to := range map[string]string{"client ": "agent ", "agent ": "client "} {
		if sent, heard := s.sent[from+session], s.heard[to+session]; sent != heard || sent == "" {
			t.Errorf("session %s: the %ssent %s, the %sgot %s", session, from, sent, to, heard)
		}
	}
}

// both is one end of a session: it sends its stream and hears the other's, at the same time. Its
// own buffers in the kernel are small, else hundreds of sessions on one machine run into the
// kernel's bound for all of TCP, where connections stall for longer than peers may.
func (s *sums) both(end, session string, c net.Conn, br *bufio.Reader, size int64, masked bool) {
	name := end + " " + session
	tcp := c
	if t, ok := tcp.(*tls.Conn); ok {
		tcp = t.NetConn()
	}
	tcp.(*net.TCPConn).SetReadBuffer(128 << 10)
	tcp.(*net.TCPConn).SetWriteBuffer(128 << 10)
	var wg sync.WaitGroup
	wg.Go(func() { s.note(s.heard, name, s.hear(br)) })
	s.note(s.sent, name, s.send(c, size, masked))
	wg.Wait()
}

// send sends size bytes of payload in frames of random size and shape, then the Close, glued to
// the last frame.
func (s *sums) send(c net.Conn, size int64, masked bool) string {
	h := s.hash()
	w := bufio.NewWriterSize(c, 32<<10)
	put := func(first byte, payload []byte) {
		h.frame(first, int64(len(payload)))
		h.Write(payload)
		s.put(w, first, payload, masked)
	}
	for size > 0 {
		payload := s.slice(min(rand.Int64N(2<<rand.IntN(20)), size))
		size -= int64(len(payload))
		op := byte(rawws.Text + rand.IntN(2))
		for range rand.IntN(4) { // fragments before the last one
			k := rand.IntN(len(payload) + 1)
			put(op, payload[:k])
			payload, op = payload[k:], rawws.Continuation
			if rand.IntN(2) == 0 {
				put(rawws.Fin|rawws.Ping, s.slice(rand.Int64N(126)))
			}
		}
		put(rawws.Fin|op, payload)
		if size > 0 && rand.IntN(2) == 0 && w.Flush() != nil {
			return "broken"
		}
	}
	s.put(w, rawws.Fin|rawws.Close, []byte{3, 232}, masked)
	if w.Flush() != nil {
		return "broken"
	}
	return h.String()
}

func (s *sums) slice(n int64) []byte {
	at := rand.Int64N(int64(len(s.block)) - n)
	return s.block[at : at+n]
}

// put writes a frame; the writer keeps an error for its Flush.
func (s *sums) put(w *bufio.Writer, first byte, payload []byte, masked bool) {
	if !masked {
		head := rawws.Head(nil, first, len(payload), nil)
		w.Write(head)
		w.Write(payload)
		return
	}
	k := &s.keys[rand.IntN(len(s.keys))]
	w.Write(rawws.Head(nil, first, len(payload), k.key[:]))
	var chunk [16 << 10]byte
	for at := 0; at < len(payload); {
		n := subtle.XORBytes(chunk[:], payload[at:min(at+len(chunk), len(payload))], k.pad)
		w.Write(chunk[:n])
		at += n // a multiple of 4, but for the last
	}
}

// hear reads frames until the Close.
func (s *sums) hear(br *bufio.Reader) string {
	h := s.hash()
	var chunk [16 << 10]byte
	var pad [len(chunk)]byte
	for {
		first, size, key, err := rawws.ReadHead(br)
		if err != nil {
			return err.Error()
		}
		if first == rawws.Fin|rawws.Close {
			io.CopyN(io.Discard, br, size)
			return h.String()
		}
		h.frame(first, size)
		if key != nil {
			for j := range pad {
				pad[j] = key[j%4]
			}
		}
		for size > 0 {
			part := chunk[:min(size, int64(len(chunk)))]
			if _, err := io.ReadFull(br, part); err != nil {
				return err.Error()
			}
			if key != nil {
				subtle.XORBytes(part, part, pad[:])
			}
			h.Write(part)
			size -= int64(len(part))
		}
	}
}

// frameHash is a hash over frames and how many there were.
type frameHash struct {
	maphash.Hash
	frames int
}

func (s *sums) hash() *frameHash {
	h := &frameHash{}
	h.SetSeed(s.seed)
	return h
}

func (h *frameHash) frame(first byte, size int64) {
	h.frames++
	h.WriteByte(first)
	h.Write(append(strconv.AppendInt(nil, size, 10), ";"...))
}

func (h *frameHash) String() string { return fmt.Sprintf("%d frames, hash %016x", h.frames, h.Sum64()) }
