package relay

import (
	"crypto/tls"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// soak returns how long a test goes on: quick, or long in `make soak`.
func soak(t *testing.T, quick, long time.Duration) time.Duration {
	t.Helper()
	if os.Getenv("OMNIA_SOAK_MB") != "" {
		return long
	}
	return quick
}

// TestChaos runs relays over plain sockets and TLS, in lanes and with goroutines, which are ended,
// cut, reset, closed and half-closed at random while messages of every size go both ways: what
// arrives is a beginning of what was sent, and all of it when the sender closed in good order.
func TestChaos(t *testing.T) {
	for _, driver := range []string{"lanes", "goroutines"} {
		t.Run(driver, func(t *testing.T) {
			rules := lasting
			rules.MaxMessage, rules.PingInterval = 1<<20, time.Second
			rules.closeGrace, rules.linger, rules.replyWait = 300*time.Millisecond, 20*time.Millisecond, 5*time.Second
			if driver == "lanes" {
				rules.Lanes = running(t)
			}
			before := runtime.NumGoroutine()
			until := time.Now().Add(soak(t, 2500*time.Millisecond, 30*time.Second))
			var relays atomic.Int64
			var wg sync.WaitGroup
			for n := range 12 {
				wg.Go(func() {
					src := rand.New(rand.NewPCG(uint64(until.UnixNano()), uint64(n)))
					for time.Now().Before(until) && !t.Failed() {
						if rules.Lanes != nil {
							scatter(src, rules.Lanes)
						}
						chaos(t, src, rules)
						relays.Add(1)
					}
				})
			}
			wg.Wait()
			t.Logf("%d relays", relays.Load())
			wstest.Eventually(t, "no goroutine left", func() bool { return runtime.NumGoroutine() <= before+runtime.GOMAXPROCS(0)+1 })
		})
	}
}

var chaosSeed = maphash.MakeSeed()

// noise is what messages are cut from.
var noise = func() []byte {
	b := make([]byte, 1<<17)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}()

// chaos runs one relay to its end.
func chaos(t *testing.T, src *rand.Rand, rules Rules) {
	versions := []uint16{0, tls.VersionTLS12, tls.VersionTLS13}
	version := versions[src.IntN(3)]
	if src.IntN(3) == 0 { // what goes to the agent is held every few milliseconds
		rules.FromClient = Pace{
			MessagesPerSecond: 20_000, MessagesBurst: 100, CountBinary: true,
			BytesPerSecond: 64 << 20, BytesBurst: 100_000,
		}
	}
	rules.long = [...]uint64{1, 5000, long}[src.IntN(3)]
	client, outerClient := connect(t, version, true)
	agent, outerAgent := connect(t, versions[src.IntN(3)], false)
	r, err := New(client, agent, nil, nil, 0, rules)
	if err != nil {
		t.Error(err)
		return
	}
	ended := make(chan *outcome.Ending, 1)
	r.Launch(func(e *outcome.Ending) { ended <- e })

	sides := [2]*chaotic{newChaotic(outerClient, true, src.Uint64()), newChaotic(outerAgent, false, src.Uint64())}
	way := src.IntN(7)
	graceful := way < 2
	var wg sync.WaitGroup
	for i, s := range sides {
		wg.Go(func() { s.hears(sides[1-i]) })
		wg.Go(func() { s.sends(graceful && way == i) })
	}
	pause := time.Duration(src.IntN(20)) * time.Millisecond
	time.Sleep(pause) // how long it runs before it is ended is a part of the chaos
	s := sides[src.IntN(2)]
	switch way {
	case 2:
		r.End(outcome.End(outcome.Drain, ""))
	case 3:
		r.End(outcome.End(outcome.Expired, ""))
		r.Cut()
	case 4:
		under(s.Conn).SetLinger(0)
		s.Conn.Close()
	case 5:
		s.Conn.Close()
	case 6:
		under(s.Conn).CloseWrite()
	}
	select {
	case <-ended:
	case <-time.After(2 * wstest.Patience):
		t.Errorf("way %d: the relay has not ended", way)
	}
	outerClient.Close()
	outerAgent.Close()
	wg.Wait()
	for i, s := range sides {
		if s.fault != nil {
			t.Errorf("way %d, side %d: %v", way, i, s.fault)
		}
	}
	if graceful {
		if sent, got := sides[way].sent.Load(), sides[1-way].got; sent != got {
			t.Errorf("side %d sent %d messages and closed, the other got %d", way, sent, got)
		}
	}
}

// chaotic is a side that sends messages of every size, and compares those that come.
type chaotic struct {
	*wstest.Peer
	seed    uint64
	masked  bool
	sums    chan uint64 // of the messages that it sends, in order
	sent    atomic.Int64
	got     int64
	fault   error
	answers chan []byte   // to what hears has read, for sends to write between two messages
	quit    chan struct{} // by sends
}

func newChaotic(c net.Conn, masked bool, seed uint64) *chaotic {
	c.SetDeadline(time.Now().Add(2 * wstest.Patience))
	return &chaotic{
		Peer: wstest.NewPeer(nil, c, masked), seed: seed, masked: masked,
		sums: make(chan uint64, 1<<16), answers: make(chan []byte, 64), quit: make(chan struct{}),
	}
}

// under is the TCP connection of a peer.
func under(c net.Conn) *net.TCPConn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return c.(*net.TCPConn)
}

// sends sends messages until the connection ends, or for a while and then a Close.
func (s *chaotic) sends(closes bool) {
	defer close(s.quit)
	src := rand.New(rand.NewPCG(s.seed, 1))
	for n := 0; !closes || n < 60; n++ {
		payload := noise[src.IntN(1000):][:src.IntN(1<<src.IntN(2+src.IntN(16)))]
		s.sums <- maphash.Bytes(chaosSeed, payload)
		first, rest := byte(rawws.Binary), payload
		var b []byte
		for src.IntN(3) == 0 && len(rest) > 0 {
			k := src.IntN(len(rest))
			b = rawws.Append(b, first, rest[:k], s.masked)
			b = rawws.Append(b, rawws.Fin|rawws.Ping, []byte("ping"), s.masked)
			first, rest = rawws.Continuation, rest[k:]
		}
		b = rawws.Append(b, rawws.Fin|first, rest, s.masked)
		for len(b) > 0 {
			k := min(len(b), 1+src.IntN(1<<17))
			if _, err := s.Write(b[:k]); err != nil {
				return
			}
			b = b[k:]
		}
		s.sent.Add(1)
		for more := true; more; {
			select {
			case b, ok := <-s.answers:
				if !ok {
					return
				}
				if s.Write(b); b[0] == rawws.Fin|rawws.Close {
					return
				}
			default:
				more = false
			}
		}
	}
	s.Write(s.CloseFrame(1000, "done"))
	for b := range s.answers {
		s.Write(b)
	}
}

// hears compares what comes with what the other side has sent.
func (s *chaotic) hears(other *chaotic) {
	defer close(s.answers)
	var message []byte
	for {
		f, err := rawws.Read(s.Reader)
		if err != nil {
			return
		}
		switch f.Op() {
		case rawws.Ping:
			select {
			case s.answers <- s.Frame(rawws.Fin|rawws.Pong, string(f.Payload)):
			default:
			}
			continue
		case rawws.Pong:
			continue
		case rawws.Close:
			select {
			case s.answers <- s.CloseFrame(max(f.Code(), 0), ""):
			case <-s.quit:
			}
			return
		}
		if message = append(message, f.Payload...); !f.Fin() {
			continue
		}
		if want := <-other.sums; maphash.Bytes(chaosSeed, message) != want {
			s.fault = fmt.Errorf("message %d of %d bytes is not what was sent", s.got, len(message))
			s.Conn.Close()
			return
		}
		s.got++
		message = message[:0]
	}
}
