package relay

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// lasting are rules of which no time passes while a test runs; each test sets the one that it is
// about.
var lasting = Rules{MaxMessage: 1 << 20, closeGrace: wstest.Patience / 2, replyWait: wstest.Patience / 2, linger: time.Minute}

// bothWays runs a test with a session in a lane, with one in a lane that reads no payload which it
// need not read, and with one that has goroutines of its own.
func bothWays(t *testing.T, test func(t *testing.T, lasting Rules)) {
	t.Helper()
	for name, long := range map[string]uint64{"lanes": long, "lanes, payload unseen": 1} {
		t.Run(name, func(t *testing.T) {
			lasting := lasting
			lasting.Lanes, lasting.long = running(t), long
			test(t, lasting)
		})
	}
	t.Run("goroutines", func(t *testing.T) { test(t, lasting) })
}

// running returns lanes that run until the end of the test. They must be empty then.
func running(t testing.TB) *Lanes {
	t.Helper()
	l, err := NewLanes()
	if err != nil {
		t.Fatal(err)
	}
	run(t, l)
	return l
}

// run runs lanes until the end of the test.
func run(t testing.TB, l *Lanes) {
	t.Helper()
	over := make(chan struct{})
	go func() {
		l.Run()
		close(over)
	}()
	t.Cleanup(func() {
		l.Close()
		<-over
		left(t, l)
	})
}

// ownPing is the payload of the gateway's own Pings.
var ownPing = string(binary.BigEndian.AppendUint64(nil, pingMark))

// joined is a relay between a client and an agent that a test plays.
type joined struct {
	*Relay
	t             *testing.T
	client, agent *wstest.Peer
	ended         chan *outcome.Ending
}

// join starts a relay. Both sides are plain, or both are TLS.
func join(t *testing.T, rules Rules, version uint16, earlyUp, earlyDown []byte) *joined {
	t.Helper()
	j := prepare(t, rules, version, earlyUp, earlyDown)
	j.begin()
	return j
}

// prepare makes a relay that has still to begin.
func prepare(t *testing.T, rules Rules, version uint16, earlyUp, earlyDown []byte) *joined {
	t.Helper()
	client, outerClient := connect(t, version, true)
	agent, outerAgent := connect(t, version, false)
	r, err := New(client, agent, earlyUp, earlyDown, 0, rules)
	if err != nil {
		t.Fatal(err)
	}
	return &joined{
		Relay: r, t: t,
		client: wstest.NewPeer(t, outerClient, true), agent: wstest.NewPeer(t, outerAgent, false),
		ended: make(chan *outcome.Ending, 1),
	}
}

func (j *joined) begin() { j.Launch(func(e *outcome.Ending) { j.ended <- e }) }

// over waits for the end of the relay, which needs both ends to hang up.
func (j *joined) over(reason outcome.Reason, code int, detail string) {
	j.t.Helper()
	j.client.Close()
	j.agent.Close()
	j.overBy(reason, code, detail)
}

// overBy waits for the end of a relay that ends by itself.
func (j *joined) overBy(reason outcome.Reason, code int, detail string) {
	j.t.Helper()
	select {
	case e := <-j.ended:
		if e.Reason != reason || e.Code != code || !strings.Contains(e.Detail, detail) || detail == "" && e.Detail != "" {
			j.t.Errorf("ended as %s with code %d, %q; want %s, %d, %q", e.Reason, e.Code, e.Detail, reason, code, detail)
		}
	case <-time.After(wstest.Patience):
		j.t.Fatal("the relay has not ended")
	}
}

func TestEndings(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		cases := []struct {
			name   string
			rules  func(*Rules)
			play   func(j *joined, client, agent *wstest.Peer)
			reason outcome.Reason
			code   int
			detail string
		}{
			{"the client closes", nil, func(_ *joined, client, agent *wstest.Peer) {
				client.Say(client.CloseFrame(1000, "bye"))
				agent.HearsClose(1000, "bye")
				agent.Say(agent.CloseFrame(1000, ""))
				client.HearsClose(1000, "")
			}, outcome.Closed, 1000, ""},
			{"the agent closes", nil, func(_ *joined, client, agent *wstest.Peer) {
				agent.Say(agent.CloseFrame(1001, "restart"))
				client.HearsClose(1001, "restart")
				client.Say(client.CloseFrame(1001, "restart"))
				agent.HearsClose(1001, "restart")
			}, outcome.Closed, 1001, ""},
			{"a Close without a code", nil, func(_ *joined, client, agent *wstest.Peer) {
				client.Say(client.CloseFrame(0, ""))
				agent.HearsClose(0, "")
				agent.Say(agent.CloseFrame(0, ""))
				client.HearsClose(0, "")
			}, outcome.Closed, 0, ""},
			{"a Close right after a message", nil, func(_ *joined, client, agent *wstest.Peer) {
				client.Say(append(client.Frame(rawws.Fin|rawws.Text, "last"), client.CloseFrame(4000, "app")...))
				agent.Hears(rawws.Fin|rawws.Text, "last")
				agent.HearsClose(4000, "app")
				agent.Say(append(agent.Frame(rawws.Fin|rawws.Text, "last"), agent.CloseFrame(4000, "")...))
				client.Hears(rawws.Fin|rawws.Text, "last")
				client.HearsClose(4000, "")
			}, outcome.Closed, 4000, ""},
			{"the side that closes may be sent more until the answer", nil, func(_ *joined, client, agent *wstest.Peer) {
				client.Say(client.CloseFrame(1000, ""))
				agent.HearsClose(1000, "")
				agent.Say(agent.Frame(rawws.Fin|rawws.Text, "one more"), agent.CloseFrame(1000, ""))
				client.Hears(rawws.Fin|rawws.Text, "one more")
				client.HearsClose(1000, "")
			}, outcome.Closed, 1000, ""},
			{"nothing follows a Close", func(r *Rules) { r.linger = 20 * time.Millisecond }, func(_ *joined, client, agent *wstest.Peer) {
				client.Say(append(client.CloseFrame(1000, ""), client.Frame(rawws.Fin|rawws.Text, "too late")...))
				agent.HearsClose(1000, "")
				agent.Say(agent.CloseFrame(1000, ""))
				client.HearsClose(1000, "")
				agent.HungUp()
			}, outcome.Closed, 1000, ""},
			{"the client hangs up", nil, func(_ *joined, client, agent *wstest.Peer) {
				client.Close()
				agent.HearsClose(1001, "client-lost")
			}, outcome.ClientLost, 1001, ""},
			{"the agent hangs up", nil, func(_ *joined, client, agent *wstest.Peer) {
				agent.Close()
				client.HearsClose(1001, "upstream-lost")
			}, outcome.UpstreamLost, 1001, ""},
			{"the agent hangs up in the middle of a frame", nil, func(j *joined, client, agent *wstest.Peer) {
				agent.Say([]byte{rawws.Fin | rawws.Binary, 100, 1, 2, 3})
				agent.Close()
				b, err := io.ReadAll(client.Reader)
				if err != nil || len(b) != 5 {
					j.t.Errorf("the client got % x, %v: want half a frame, and no Close in it", b, err)
				}
			}, outcome.UpstreamLost, 1001, ""},
			{"the client hangs up after its Close", nil, func(_ *joined, client, agent *wstest.Peer) {
				client.Say(client.CloseFrame(1000, ""))
				client.Close()
				agent.HearsClose(1000, "")
				agent.Say(agent.CloseFrame(1000, ""))
			}, outcome.Closed, 1000, ""},
			{"the agent hangs up instead of answering", nil, func(_ *joined, client, agent *wstest.Peer) {
				client.Say(client.CloseFrame(1000, ""))
				agent.HearsClose(1000, "")
				agent.Close()
				client.HearsClose(1001, "upstream-lost")
			}, outcome.UpstreamLost, 1001, "agent hung up instead of answering the Close"},
			{"the agent does not answer", func(r *Rules) { r.replyWait = 50 * time.Millisecond },
				func(_ *joined, client, agent *wstest.Peer) {
					client.Say(client.CloseFrame(1000, "bye"))
					agent.HearsClose(1000, "bye")
					client.HearsClose(3008, "dead-peer")
				}, outcome.DeadPeer, 3008, "agent did not answer the Close"},
			{"the client does not answer", func(r *Rules) { r.replyWait = 50 * time.Millisecond },
				func(_ *joined, client, agent *wstest.Peer) {
					agent.Say(agent.CloseFrame(1011, "broken"))
					client.HearsClose(1011, "broken")
					agent.HearsClose(1001, "dead-peer")
				}, outcome.DeadPeer, 1011, "client did not answer the Close"},
			{"the client breaks the protocol", nil, func(_ *joined, client, agent *wstest.Peer) {
				client.Say(append(client.Frame(rawws.Fin|rawws.Text, "good"), rawws.Make(rawws.Fin|rawws.Text, []byte("bad"), false)...))
				agent.Hears(rawws.Fin|rawws.Text, "good")
				agent.HearsClose(1001, "protocol-error")
				client.HearsClose(1002, "protocol-error")
			}, outcome.ProtocolError, 1002, "client: unmasked frame"},
			{"the agent breaks the protocol", nil, func(_ *joined, client, agent *wstest.Peer) {
				agent.Say(rawws.Make(rawws.Fin|rawws.Text, []byte("bad"), true))
				agent.HearsClose(1002, "protocol-error")
				client.HearsClose(1011, "protocol-error")
			}, outcome.ProtocolError, 1011, "agent: masked frame"},
			{"the client's message is too big", nil, func(_ *joined, client, agent *wstest.Peer) {
				client.Say(rawws.Head(nil, rawws.Fin|rawws.Binary, 1<<20+1, []byte{1, 2, 3, 4}))
				agent.HearsClose(1001, "message-too-big")
				client.HearsClose(1009, "message-too-big")
			}, outcome.MessageTooBig, 1009, "client"},
			{"the agent's message is too big", nil, func(_ *joined, client, agent *wstest.Peer) {
				agent.Say(rawws.Head(nil, rawws.Fin|rawws.Binary, 1<<20+1, nil))
				agent.HearsClose(1009, "message-too-big")
				client.HearsClose(1011, "message-too-big")
			}, outcome.MessageTooBig, 1011, "agent"},
			{"the token expires", nil, func(j *joined, client, agent *wstest.Peer) {
				j.End(outcome.End(outcome.Expired, ""))
				j.End(outcome.End(outcome.Drain, "")) // only the first reason counts
				client.HearsClose(3000, "expired")
				agent.HearsClose(1001, "expired")
				client.HungUp() // without having answered: the server closes first
			}, outcome.Expired, 3000, ""},
			{"nothing moves", func(r *Rules) { r.IdleTimeout = 50 * time.Millisecond }, func(_ *joined, client, agent *wstest.Peer) {
				client.HearsClose(1000, "idle")
				agent.HearsClose(1001, "idle")
			}, outcome.Idle, 1000, ""},
		}
		for _, tt := range cases {
			for name, version := range map[string]uint16{"plain": 0, "TLS": tls.VersionTLS13} {
				t.Run(tt.name+"/"+name, func(t *testing.T) {
					t.Parallel()
					rules := lasting
					if tt.rules != nil {
						tt.rules(&rules)
					}
					j := join(t, rules, version, nil, nil)
					tt.play(j, j.client, j.agent)
					j.over(tt.reason, tt.code, tt.detail)
				})
			}
		}
	})
}

func TestMistakeInOneDirectionEndsBothSides(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		j := prepare(t, lasting, 0, nil, nil)
		j.sides[1].conn = mistaking{j.sides[1].conn}
		j.begin()
		j.agent.Say(j.agent.Frame(rawws.Fin|rawws.Text, "x"))
		j.agent.HearsClose(1001, "internal-error")
		j.over(outcome.InternalError, 1011, "panic: a mistake of ours")
	})
}

// mistaking is a connection that panics when it has read something.
type mistaking struct{ net.Conn }

func (m mistaking) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	if n > 0 {
		panic("a mistake of ours")
	}
	return n, err
}

func TestBothSidesCloseAtOnce(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		for range 50 {
			j := join(t, lasting, 0, nil, nil)
			var wg sync.WaitGroup
			wg.Go(func() { j.client.Write(j.client.CloseFrame(1000, "client")) })
			wg.Go(func() { j.agent.Write(j.agent.CloseFrame(1001, "agent")) })
			j.agent.HearsClose(1000, "client")
			j.client.HearsClose(1001, "agent")
			wg.Wait()
			j.client.Close()
			j.agent.Close()
			if e := <-j.ended; e.Reason != outcome.Closed || e.Code != 1000 && e.Code != 1001 || e.Detail != "" {
				t.Fatalf("ended as %+v", e)
			}
		}
	})
}

func TestEarlyBytesComeFirst(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		up, down := rawws.Make(rawws.Fin|rawws.Text, []byte("early up"), true), rawws.Make(rawws.Fin|rawws.Text, []byte("early down"),
			false)
		j := join(t, lasting, 0, up[:5], append(down, 0x81)) // and a head in two parts
		j.client.Say(up[5:])
		j.agent.Say([]byte{1, 'x'})
		j.agent.Hears(rawws.Fin|rawws.Text, "early up")
		j.client.Hears(rawws.Fin|rawws.Text, "early down")
		j.client.Hears(rawws.Fin|rawws.Text, "x")
		j.client.Say(j.client.CloseFrame(1000, ""))
		j.agent.HearsClose(1000, "")
		j.agent.Say(j.agent.CloseFrame(1000, ""))
		j.over(outcome.Closed, 1000, "")
	})
}

// The direction that must notice the time may be just about to set its deadline when the Close
// passes in the other one.
func TestCloseAmongEarlyBytesIsWaitedForNoLonger(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		rules := lasting
		rules.replyWait = 5 * time.Millisecond
		for range 300 {
			j := join(t, rules, 0, rawws.MakeClose(1000, "", true), nil)
			j.client.HearsClose(3008, "dead-peer")
			j.over(outcome.DeadPeer, 3008, "agent did not answer")
		}
	})
}

// A side that hung up after its Close takes nothing any more: a side that goes on sending is not
// waited for.
func TestSideThatSendsOnAfterTheOtherIsGoneIsNotWaitedFor(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		rules := lasting
		rules.replyWait, rules.closeGrace = 50*time.Millisecond, 50*time.Millisecond
		j := join(t, rules, 0, nil, nil)
		j.client.Say(j.client.CloseFrame(1000, ""))
		j.client.Close()
		began := time.Now()
		keepsSending(j.agent, strings.Repeat("x", 1000))
		j.overBy(outcome.DeadPeer, 3008, "agent did not answer the Close")
		if took := time.Since(began); took > wstest.Patience/2 {
			t.Errorf("only after %s", took)
		}
	})
}

func TestSideThatIsStillSendingIsNotCutByTheOthersClose(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		rules := lasting
		rules.replyWait, rules.PingInterval = 300*time.Millisecond, 300*time.Millisecond
		j := join(t, rules, 0, nil, nil)
		j.agent.Say(j.agent.CloseFrame(1000, ""))
		j.client.HearsClose(1000, "")
		for began := time.Now(); time.Since(began) < 3*rules.replyWait; {
			j.client.Say(j.client.Frame(rawws.Fin|rawws.Text, "still sending"))
			j.agent.Hears(rawws.Fin|rawws.Text, "still sending")
		}
		j.client.Say(j.client.CloseFrame(1000, ""))
		j.agent.HearsClose(1000, "")
		j.over(outcome.Closed, 1000, "")
	})
}

// keepsPonging answers Pings in the background, so that this side is never the one that is given
// up. The other frames come out of the channel, which is closed at the end of the stream.
func keepsPonging(e *wstest.Peer) <-chan rawws.Frame {
	frames := make(chan rawws.Frame, 64)
	go func() {
		defer close(frames)
		for {
			f, err := rawws.Read(e.Reader)
			switch {
			case err != nil:
				return
			case f.Op() == rawws.Ping:
				e.Write(e.Frame(rawws.Fin|rawws.Pong, string(f.Payload)))
			default:
				frames <- f
			}
		}
	}()
	return frames
}

// keepsSending sends messages until it cannot.
func keepsSending(e *wstest.Peer, payload string) {
	frame := e.Frame(rawws.Fin|rawws.Binary, payload)
	for {
		if _, err := e.Write(frame); err != nil {
			return
		}
	}
}

func TestSilentSideIsAskedAndGivenUp(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		rules := lasting
		rules.PingInterval = 250 * time.Millisecond
		t.Run("client", func(t *testing.T) {
			j := join(t, rules, 0, nil, nil)
			keepsPonging(j.agent)
			j.client.Hears(rawws.Fin|rawws.Ping, ownPing)
			j.client.HearsClose(3008, "dead-peer")
			j.over(outcome.DeadPeer, 3008, "client answers no Ping")
		})
		t.Run("agent", func(t *testing.T) {
			j := join(t, rules, 0, nil, nil)
			keepsPonging(j.client)
			j.agent.Hears(rawws.Fin|rawws.Ping, ownPing)
			j.agent.HearsClose(1001, "dead-peer")
			j.over(outcome.DeadPeer, 3008, "agent answers no Ping")
		})
	})
}

func TestOnlyTheAnswerToTheGatewaysOwnPingIsKeptBack(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		rules := lasting
		rules.PingInterval = 200 * time.Millisecond
		j := join(t, rules, 0, nil, nil)
		atAgent := keepsPonging(j.agent)
		for range 2 { // silence, then an answer: as often as one likes
			j.client.Hears(rawws.Fin|rawws.Ping, ownPing)
			j.client.Say(j.client.Frame(rawws.Fin|rawws.Pong, ownPing), j.client.Frame(rawws.Fin|rawws.Pong, "of its own"))
			if f := <-atAgent; f.Op() != rawws.Pong || string(f.Payload) != "of its own" {
				t.Fatalf("the agent got %v", f)
			}
		}
		j.client.Close()
		if f := <-atAgent; f.Code() != 1001 {
			t.Errorf("the agent got %v", f)
		}
		j.over(outcome.ClientLost, 1001, "")
	})
}

// The agent takes several ping intervals for one frame, while the client only listens. No Ping may
// be written into the frame, the rest of it must not wait, and a client that was not asked is not
// dead.
func TestPingWaitsForTheEndOfALongFrame(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		rules := lasting
		rules.PingInterval = 200 * time.Millisecond
		payload := strings.Repeat("slow", 8)
		frame := rawws.Make(rawws.Fin|rawws.Text, []byte(payload), false)
		j := join(t, rules, 0, nil, frame[:3]) // which begins before a side can be asked
		tick := time.NewTicker(rules.PingInterval / 8)
		defer tick.Stop()
		for _, b := range frame[3:] {
			j.agent.Say([]byte{b})
			<-tick.C
		}
		j.client.Hears(rawws.Fin|rawws.Text, payload)
		j.client.Hears(rawws.Fin|rawws.Ping, ownPing)
		j.client.Close()
		j.agent.HearsClose(1001, "client-lost")
		j.over(outcome.ClientLost, 1001, "")
	})
}

// A stream's chunks hardly ever end where a frame ends.
func TestCloseIsPutIntoARunningStream(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		for name, version := range map[string]uint16{"plain": 0, "TLS": tls.VersionTLS13} {
			t.Run(name, func(t *testing.T) {
				j := join(t, lasting, version, nil, nil)
				payload := strings.Repeat("x", 100_001)
				go keepsSending(j.agent, payload)
				for range 3 {
					j.client.Hears(rawws.Fin|rawws.Binary, payload)
				}
				j.End(outcome.End(outcome.Expired, ""))
				j.client.HearsClose(3000, "expired")
				j.over(outcome.Expired, 3000, "")
			})
		}
	})
}

func TestCloseNeverStandsInTheMiddleOfAFrame(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		long := rawws.Make(rawws.Fin|rawws.Binary, bytes.Repeat([]byte("x"), 1000), false)
		t.Run("the frame is finished", func(t *testing.T) {
			j := join(t, lasting, 0, nil, nil)
			j.agent.Say(long[:500])
			if b, err := j.client.Reader.Peek(100); err != nil {
				t.Fatalf("%d bytes of the frame: %v", len(b), err)
			}
			j.client.Say([]byte{0xff, 0xff})
			j.agent.HearsClose(1001, "protocol-error")
			j.agent.Say(long[500:], j.agent.Frame(rawws.Fin|rawws.Text, "dropped"), j.agent.CloseFrame(1002, ""))
			j.client.Hears(rawws.Fin|rawws.Binary, strings.Repeat("x", 1000))
			if n := j.client.HearsClose(1002, "protocol-error"); n != 0 {
				t.Errorf("%d frames between the rest and the Close", n)
			}
			j.over(outcome.ProtocolError, 1002, "client: ")
		})
		t.Run("the frame is never finished", func(t *testing.T) {
			rules := lasting
			rules.closeGrace = 100 * time.Millisecond
			j := join(t, rules, 0, nil, nil)
			j.agent.Say(long[:500])
			if b, err := j.client.Reader.Peek(100); err != nil {
				t.Fatalf("%d bytes of the frame: %v", len(b), err)
			}
			j.client.Say([]byte{0xff, 0xff})
			j.agent.HearsClose(1001, "protocol-error")
			if b, err := io.ReadAll(j.client.Reader); err != nil || !bytes.Equal(b, long[:500]) {
				t.Errorf("the client got %d bytes, %v: want the 500 that there are", len(b), err)
			}
			j.overBy(outcome.ProtocolError, 1002, "client: ")
		})
	})
}

// fill sends messages until nothing on the way takes more.
func fill(e *wstest.Peer) {
	frame := e.Frame(rawws.Fin|rawws.Binary, strings.Repeat("x", 1<<18))
	for {
		e.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := e.Write(frame); err != nil {
			return
		}
	}
}

func TestCloseDoesNotWaitForASideThatTakesNothing(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		for name, version := range map[string]uint16{"plain": 0, "TLS": tls.VersionTLS13} {
			t.Run(name, func(t *testing.T) {
				rules := lasting
				rules.closeGrace = 200 * time.Millisecond
				j := prepare(t, rules, version, nil, nil)
				j.begin()
				fill(j.agent)
				began := time.Now()
				j.End(outcome.End(outcome.Drain, ""))
				j.agent.HearsClose(1001, "drain")
				j.overBy(outcome.Drain, 1001, "")
				if took := time.Since(began); took > wstest.Patience/2 {
					t.Errorf("ended after %s", took)
				}
			})
		}
	})
}

func TestSideThatTakesNothingIsDead(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		rules := lasting
		rules.StallTimeout = 50 * time.Millisecond
		rules.closeGrace = 100 * time.Millisecond
		j := prepare(t, rules, 0, nil, nil)
		j.begin()
		go keepsSending(j.agent, strings.Repeat("x", 1<<18))
		j.agent.HearsClose(1001, "dead-peer")
		j.overBy(outcome.DeadPeer, 3008, "client takes no bytes")
	})
}

func TestCutEndsARelayAtOnce(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		j := join(t, lasting, 0, nil, nil)
		j.End(outcome.End(outcome.Drain, ""))
		j.Cut()
		j.overBy(outcome.Drain, 1001, "")
	})
}

func TestRelayThatWasEndedBeforeItBeganSaysSo(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		j := prepare(t, lasting, 0, rawws.Make(rawws.Fin|rawws.Text, []byte("too late"), true), nil)
		j.End(outcome.End(outcome.Expired, ""))
		j.begin()
		j.client.HearsClose(3000, "expired")
		if n := j.agent.HearsClose(1001, "expired"); n != 0 {
			t.Errorf("%d frames went on after the end", n)
		}
		j.over(outcome.Expired, 3000, "")
	})
}

func TestTrafficIsCountedWhileItMoves(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		j := join(t, lasting, 0, nil, nil)
		up := append(j.client.Frame(rawws.Text, "a message "), j.client.Frame(rawws.Fin|rawws.Continuation, "in two parts")...)
		j.client.Say(up, j.client.Frame(rawws.Fin|rawws.Ping, ""))
		for range 3 {
			if _, err := rawws.Read(j.agent.Reader); err != nil {
				t.Fatal(err)
			}
		}
		j.agent.Say(j.agent.Frame(rawws.Fin|rawws.Text, "one"), j.agent.Frame(rawws.Fin|rawws.Text, "two"))
		j.client.Hears(rawws.Fin|rawws.Text, "one")
		j.client.Hears(rawws.Fin|rawws.Text, "two")
		want := outcome.Traffic{BytesIn: uint64(len(up) + 6), BytesOut: 10, MessagesIn: 1, MessagesOut: 2}
		wstest.Eventually(t, "all traffic in the counts", func() bool { return j.Traffic() == want })
		j.client.Close()
		j.agent.HearsClose(1001, "client-lost")
		j.over(outcome.ClientLost, 1001, "")
	})
}

// Idleness is about data: Pings and Pongs do not keep a session open.
func TestPingsDoNotKeepAnIdleSession(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		rules := lasting
		rules.IdleTimeout, rules.PingInterval = 800*time.Millisecond, 200*time.Millisecond
		j := join(t, rules, 0, nil, nil)
		keepsPonging(j.agent)
		for {
			f, err := rawws.Read(j.client.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if f.Op() == rawws.Close {
				break
			}
			j.client.Say(j.client.Frame(rawws.Fin|rawws.Pong, string(f.Payload)))
		}
		j.over(outcome.Idle, 1000, "")
	})
}

func TestRelayNeedsAConn(t *testing.T) {
	c, peer := tcp(t)
	for _, other := range []net.Conn{peer, tls.Client(peer, &tls.Config{InsecureSkipVerify: true})} {
		if _, err := New(c, other, nil, nil, 0, lasting); err == nil {
			t.Errorf("a relay over %T", other)
		}
		if _, err := New(other, c, nil, nil, 0, lasting); err == nil {
			t.Errorf("a relay over %T", other)
		}
	}
}

func TestNotifyReachesTheClientBetweenMessages(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting Rules) {
		j := prepare(t, lasting, 0, nil, nil)
		j.Notify("before it began")
		j.begin()
		j.client.Hears(rawws.Fin|rawws.Text, "before it began")
		j.agent.Say(j.agent.Frame(rawws.Text, "a mess"))
		j.client.Hears(rawws.Text, "a mess")
		j.Notify("soon")
		j.agent.Say(j.agent.Frame(rawws.Fin|rawws.Continuation, "age"))
		j.client.Hears(rawws.Fin|rawws.Continuation, "age")
		j.client.Hears(rawws.Fin|rawws.Text, "soon")
		j.client.Close()
		j.agent.HearsClose(1001, "client-lost")
		j.over(outcome.ClientLost, 1001, "")
	})
}
