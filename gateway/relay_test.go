package gateway

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// lasting are rules of which no time passes while a test runs; each test sets the one that it is about.
var lasting = relayRules{maxMessage: 1 << 20, closeGrace: patience / 2, replyWait: patience / 2, linger: time.Minute}

// bothWays runs a test with directions that wait in their goroutines, and again with directions that are parked whenever they wait.
func bothWays(t *testing.T, test func(t *testing.T, lasting relayRules)) {
	t.Helper()
	t.Run("waiting", func(t *testing.T) { test(t, lasting) })
	t.Run("parked", func(t *testing.T) {
		lasting := lasting
		lasting.lot = parkingLot(t)
		test(t, lasting)
	})
}

// joined is a relay between a client and an agent that a test plays.
type joined struct {
	*relay
	t             *testing.T
	client, agent *end
	ended         chan *outcome.Ending
}

// join starts a relay. Both sides are plain, or both are TLS.
func join(t *testing.T, rules relayRules, version uint16, earlyUp, earlyDown []byte) *joined {
	t.Helper()
	j := prepare(t, rules, version, earlyUp, earlyDown)
	j.begin()
	return j
}

// prepare makes a relay that has still to begin.
func prepare(t *testing.T, rules relayRules, version uint16, earlyUp, earlyDown []byte) *joined {
	t.Helper()
	client, outerClient := newLinkOver(t, version, true)
	agent, outerAgent := newLinkOver(t, version, false)
	return &joined{
		relay: newRelay(client, agent, earlyUp, earlyDown, 0, rules), t: t,
		client: newEnd(t, outerClient, true), agent: newEnd(t, outerAgent, false),
		ended: make(chan *outcome.Ending, 1),
	}
}

func (j *joined) begin() { j.launch(func(e *outcome.Ending) { j.ended <- e }) }

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
	case <-time.After(patience):
		j.t.Fatal("the relay has not ended")
	}
}

func TestEndings(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting relayRules) {
		cases := []struct {
			name   string
			rules  func(*relayRules)
			play   func(j *joined, client, agent *end)
			reason outcome.Reason
			code   int
			detail string
		}{
			{"the client closes", nil, func(_ *joined, client, agent *end) {
				client.say(client.close(1000, "bye"))
				agent.hearsClose(1000, "bye")
				agent.say(agent.close(1000, ""))
				client.hearsClose(1000, "")
			}, outcome.Closed, 1000, ""},
			{"the agent closes", nil, func(_ *joined, client, agent *end) {
				agent.say(agent.close(1001, "restart"))
				client.hearsClose(1001, "restart")
				client.say(client.close(1001, "restart"))
				agent.hearsClose(1001, "restart")
			}, outcome.Closed, 1001, ""},
			{"a Close without a code", nil, func(_ *joined, client, agent *end) {
				client.say(client.close(0, ""))
				agent.hearsClose(0, "")
				agent.say(agent.close(0, ""))
				client.hearsClose(0, "")
			}, outcome.Closed, 0, ""},
			{"a Close right behind a message", nil, func(_ *joined, client, agent *end) {
				client.say(append(client.make(rawws.Fin|rawws.Text, "last"), client.close(4000, "app")...))
				agent.hears(rawws.Fin|rawws.Text, "last")
				agent.hearsClose(4000, "app")
				agent.say(append(agent.make(rawws.Fin|rawws.Text, "last"), agent.close(4000, "")...))
				client.hears(rawws.Fin|rawws.Text, "last")
				client.hearsClose(4000, "")
			}, outcome.Closed, 4000, ""},
			{"the side that closes may be sent more until the answer", nil, func(_ *joined, client, agent *end) {
				client.say(client.close(1000, ""))
				agent.hearsClose(1000, "")
				agent.say(agent.make(rawws.Fin|rawws.Text, "one more"), agent.close(1000, ""))
				client.hears(rawws.Fin|rawws.Text, "one more")
				client.hearsClose(1000, "")
			}, outcome.Closed, 1000, ""},
			{"nothing follows a Close", func(r *relayRules) { r.linger = 20 * time.Millisecond }, func(_ *joined, client, agent *end) {
				client.say(append(client.close(1000, ""), client.make(rawws.Fin|rawws.Text, "too late")...))
				agent.hearsClose(1000, "")
				agent.say(agent.close(1000, ""))
				client.hearsClose(1000, "")
				agent.hungUp()
			}, outcome.Closed, 1000, ""},
			{"the client hangs up", nil, func(_ *joined, client, agent *end) {
				client.Close()
				agent.hearsClose(1001, "client-lost")
			}, outcome.ClientLost, 1001, ""},
			{"the agent hangs up", nil, func(_ *joined, client, agent *end) {
				agent.Close()
				client.hearsClose(1014, "upstream-lost")
			}, outcome.UpstreamLost, 1014, ""},
			{"the agent hangs up in the middle of a frame", nil, func(_ *joined, client, agent *end) {
				agent.say([]byte{rawws.Fin | rawws.Binary, 100, 1, 2, 3})
				agent.Close()
				b, err := io.ReadAll(client.br)
				if err != nil || len(b) != 5 {
					client.t.Errorf("the client got % x, %v: want half a frame, and no Close in it", b, err)
				}
			}, outcome.UpstreamLost, 1014, ""},
			{"the client hangs up behind its Close", nil, func(_ *joined, client, agent *end) {
				client.say(client.close(1000, ""))
				client.Close()
				agent.hearsClose(1000, "")
				agent.say(agent.close(1000, ""))
			}, outcome.Closed, 1000, ""},
			{"the agent hangs up instead of answering", nil, func(_ *joined, client, agent *end) {
				client.say(client.close(1000, ""))
				agent.hearsClose(1000, "")
				agent.Close()
				client.hearsClose(1000, "")
			}, outcome.Closed, 1000, "agent hung up instead of answering the Close"},
			{"the agent does not answer", func(r *relayRules) { r.replyWait = 50 * time.Millisecond }, func(_ *joined, client, agent *end) {
				client.say(client.close(1000, "bye"))
				agent.hearsClose(1000, "bye")
				client.hearsClose(1000, "")
			}, outcome.Closed, 1000, "agent did not answer the Close"},
			{"the client does not answer", func(r *relayRules) { r.replyWait = 50 * time.Millisecond }, func(_ *joined, client, agent *end) {
				agent.say(agent.close(1011, "broken"))
				client.hearsClose(1011, "broken")
				agent.hearsClose(1011, "")
			}, outcome.Closed, 1011, "client did not answer the Close"},
			{"the client breaks the protocol", nil, func(_ *joined, client, agent *end) {
				client.say(append(client.make(rawws.Fin|rawws.Text, "good"), rawws.Make(rawws.Fin|rawws.Text, []byte("bad"), false)...))
				agent.hears(rawws.Fin|rawws.Text, "good")
				agent.hearsClose(1002, "protocol-error")
				client.hearsClose(1002, "protocol-error")
			}, outcome.ProtocolError, 1002, "client: unmasked frame"},
			{"the agent breaks the protocol", nil, func(_ *joined, client, agent *end) {
				agent.say(rawws.Make(rawws.Fin|rawws.Text, []byte("bad"), true))
				agent.hearsClose(1002, "protocol-error")
				client.hearsClose(1002, "protocol-error")
			}, outcome.ProtocolError, 1002, "agent: masked frame"},
			{"the client's message is too big", nil, func(_ *joined, client, agent *end) {
				client.say(rawws.Head(nil, rawws.Fin|rawws.Binary, 1<<20+1, []byte{1, 2, 3, 4}))
				agent.hearsClose(1009, "message-too-big")
				client.hearsClose(1009, "message-too-big")
			}, outcome.MessageTooBig, 1009, "client"},
			{"the token expires", nil, func(j *joined, client, agent *end) {
				j.end(outcome.End(outcome.Expired, ""))
				j.end(outcome.End(outcome.Drain, "")) // only the first reason counts
				client.hearsClose(3000, "expired")
				agent.hearsClose(3000, "expired")
				client.hungUp() // without having answered: the server closes first
			}, outcome.Expired, 3000, ""},
			{"nothing moves", func(r *relayRules) { r.idleTimeout = 50 * time.Millisecond }, func(_ *joined, client, agent *end) {
				client.hearsClose(1001, "idle")
				agent.hearsClose(1001, "idle")
			}, outcome.Idle, 1001, ""},
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
	bothWays(t, func(t *testing.T, lasting relayRules) {
		j := prepare(t, lasting, 0, nil, nil)
		try := j.down.src.try
		j.down.src.try = func(fd uintptr) bool {
			if try(fd) {
				panic("a mistake of ours")
			}
			return false
		}
		j.begin()
		j.agent.say(j.agent.make(rawws.Fin|rawws.Text, "x"))
		j.agent.hearsClose(1011, "internal-error")
		j.over(outcome.InternalError, 1011, "panic: a mistake of ours")
	})
}

func TestBothSidesCloseAtOnce(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting relayRules) {
		for range 50 {
			j := join(t, lasting, 0, nil, nil)
			var wg sync.WaitGroup
			wg.Go(func() { j.client.Write(j.client.close(1000, "client")) })
			wg.Go(func() { j.agent.Write(j.agent.close(1001, "agent")) })
			j.agent.hearsClose(1000, "client")
			j.client.hearsClose(1001, "agent")
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
	bothWays(t, func(t *testing.T, lasting relayRules) {
		up, down := rawws.Make(rawws.Fin|rawws.Text, []byte("early up"), true), rawws.Make(rawws.Fin|rawws.Text, []byte("early down"), false)
		j := join(t, lasting, 0, up[:5], append(down, 0x81)) // and a head in two parts
		j.client.say(up[5:])
		j.agent.say([]byte{1, 'x'})
		j.agent.hears(rawws.Fin|rawws.Text, "early up")
		j.client.hears(rawws.Fin|rawws.Text, "early down")
		j.client.hears(rawws.Fin|rawws.Text, "x")
		j.client.say(j.client.close(1000, ""))
		j.agent.hearsClose(1000, "")
		j.agent.say(j.agent.close(1000, ""))
		j.over(outcome.Closed, 1000, "")
	})
}

// The direction that must notice the time may be just about to set its deadline when the Close passes in the other one.
func TestCloseAmongEarlyBytesIsWaitedForNoLonger(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting relayRules) {
		rules := lasting
		rules.replyWait = 5 * time.Millisecond
		for range 300 {
			j := join(t, rules, 0, rawws.MakeClose(1000, "", true), nil)
			j.client.hearsClose(1000, "")
			j.over(outcome.Closed, 1000, "agent did not answer")
		}
	})
}

// Whoever hung up behind its Close takes nothing any more: a side that goes on sending is not waited for.
func TestSideThatSendsOnAfterTheOtherIsGoneIsNotWaitedFor(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting relayRules) {
		rules := lasting
		rules.replyWait, rules.closeGrace = 50*time.Millisecond, 50*time.Millisecond
		j := join(t, rules, 0, nil, nil)
		j.client.say(j.client.close(1000, ""))
		j.client.Close()
		began := time.Now()
		j.agent.keepsSending(strings.Repeat("x", 1000))
		j.overBy(outcome.Closed, 1000, "agent did not answer the Close")
		if took := time.Since(began); took > patience/2 {
			t.Errorf("only after %s", took)
		}
	})
}

func TestSideThatIsStillSendingIsNotCutByTheOthersClose(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting relayRules) {
		rules := lasting
		rules.replyWait, rules.pingInterval = 300*time.Millisecond, 300*time.Millisecond
		j := join(t, rules, 0, nil, nil)
		j.agent.say(j.agent.close(1000, ""))
		j.client.hearsClose(1000, "")
		for began := time.Now(); time.Since(began) < 3*rules.replyWait; {
			j.client.say(j.client.make(rawws.Fin|rawws.Text, "still sending"))
			j.agent.hears(rawws.Fin|rawws.Text, "still sending")
		}
		j.client.say(j.client.close(1000, ""))
		j.agent.hearsClose(1000, "")
		j.over(outcome.Closed, 1000, "")
	})
}

// keepsPonging answers Pings in the background, so that this side is never the one that is given up. The other frames come out of the
// channel, which is closed at the end of the stream.
func (e *end) keepsPonging() <-chan rawws.Frame {
	frames := make(chan rawws.Frame, 64)
	go func() {
		defer close(frames)
		for {
			f, err := rawws.Read(e.br)
			switch {
			case err != nil:
				return
			case f.Op() == rawws.Ping:
				e.Write(e.make(rawws.Fin|rawws.Pong, string(f.Payload)))
			default:
				frames <- f
			}
		}
	}()
	return frames
}

// keepsSending sends messages until it cannot.
func (e *end) keepsSending(payload string) {
	frame := e.make(rawws.Fin|rawws.Binary, payload)
	for {
		if _, err := e.Write(frame); err != nil {
			return
		}
	}
}

func TestSilentSideIsAskedAndGivenUp(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting relayRules) {
		rules := lasting
		rules.pingInterval = 250 * time.Millisecond
		t.Run("client", func(t *testing.T) {
			j := join(t, rules, 0, nil, nil)
			j.agent.keepsPonging()
			j.client.hears(rawws.Fin|rawws.Ping, "omnia-gw")
			j.client.hearsClose(3008, "dead-peer")
			j.over(outcome.DeadPeer, 3008, "client answers no Ping")
		})
		t.Run("agent", func(t *testing.T) {
			j := join(t, rules, 0, nil, nil)
			j.client.keepsPonging()
			j.agent.hears(rawws.Fin|rawws.Ping, "omnia-gw")
			j.agent.hearsClose(3008, "dead-peer")
			j.over(outcome.DeadPeer, 3008, "agent answers no Ping")
		})
	})
}

func TestOnlyTheAnswerToTheGatewaysOwnPingIsKeptBack(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting relayRules) {
		rules := lasting
		rules.pingInterval = 200 * time.Millisecond
		j := join(t, rules, 0, nil, nil)
		atAgent := j.agent.keepsPonging()
		for range 2 { // silence, then an answer: for as long as anybody likes
			j.client.hears(rawws.Fin|rawws.Ping, "omnia-gw")
			j.client.say(j.client.make(rawws.Fin|rawws.Pong, "omnia-gw"), j.client.make(rawws.Fin|rawws.Pong, "of its own"))
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

// The agent takes several ping intervals for one frame, while the client only listens. No Ping may be written into the frame, the rest of
// it must not wait, and a client that was not asked is not dead.
func TestPingWaitsForTheEndOfALongFrame(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting relayRules) {
		rules := lasting
		rules.pingInterval = 200 * time.Millisecond
		payload := strings.Repeat("slow", 8)
		frame := rawws.Make(rawws.Fin|rawws.Text, []byte(payload), false)
		j := join(t, rules, 0, nil, frame[:3]) // which begins before anybody can be asked
		tick := time.NewTicker(rules.pingInterval / 8)
		defer tick.Stop()
		for _, b := range frame[3:] {
			j.agent.say([]byte{b})
			<-tick.C
		}
		j.client.hears(rawws.Fin|rawws.Text, payload)
		j.client.hears(rawws.Fin|rawws.Ping, "omnia-gw")
		j.client.Close()
		j.agent.hearsClose(1001, "client-lost")
		j.over(outcome.ClientLost, 1001, "")
	})
}

// A stream's chunks hardly ever end where a frame ends.
func TestCloseIsPutIntoARunningStream(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting relayRules) {
		for name, version := range map[string]uint16{"plain": 0, "TLS": tls.VersionTLS13} {
			t.Run(name, func(t *testing.T) {
				j := join(t, lasting, version, nil, nil)
				payload := strings.Repeat("x", 100_001)
				go j.agent.keepsSending(payload)
				for range 3 {
					j.client.hears(rawws.Fin|rawws.Binary, payload)
				}
				j.end(outcome.End(outcome.Expired, ""))
				j.client.hearsClose(3000, "expired")
				j.over(outcome.Expired, 3000, "")
			})
		}
	})
}

func TestCloseNeverStandsInTheMiddleOfAFrame(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting relayRules) {
		long := rawws.Make(rawws.Fin|rawws.Binary, bytes.Repeat([]byte("x"), 1000), false)
		t.Run("the frame is finished", func(t *testing.T) {
			j := join(t, lasting, 0, nil, nil)
			j.agent.say(long[:500])
			if b, err := j.client.br.Peek(100); err != nil {
				t.Fatalf("%d bytes of the frame: %v", len(b), err)
			}
			j.client.say([]byte{0xff, 0xff})
			j.agent.hearsClose(1002, "protocol-error")
			j.agent.say(long[500:], j.agent.make(rawws.Fin|rawws.Text, "dropped"), j.agent.close(1002, ""))
			j.client.hears(rawws.Fin|rawws.Binary, strings.Repeat("x", 1000))
			if n := j.client.hearsClose(1002, "protocol-error"); n != 0 {
				t.Errorf("%d frames between the rest and the Close", n)
			}
			j.over(outcome.ProtocolError, 1002, "client: ")
		})
		t.Run("the frame is never finished", func(t *testing.T) {
			rules := lasting
			rules.closeGrace = 100 * time.Millisecond
			j := join(t, rules, 0, nil, nil)
			j.agent.say(long[:500])
			if b, err := j.client.br.Peek(100); err != nil {
				t.Fatalf("%d bytes of the frame: %v", len(b), err)
			}
			j.client.say([]byte{0xff, 0xff})
			j.agent.hearsClose(1002, "protocol-error")
			if b, err := io.ReadAll(j.client.br); err != nil || !bytes.Equal(b, long[:500]) {
				t.Errorf("the client got %d bytes, %v: want the 500 that there are", len(b), err)
			}
			j.overBy(outcome.ProtocolError, 1002, "client: ")
		})
	})
}

func TestCloseDoesNotWaitForASideThatTakesNothing(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting relayRules) {
		for name, version := range map[string]uint16{"plain": 0, "TLS": tls.VersionTLS13} {
			t.Run(name, func(t *testing.T) {
				rules := lasting
				rules.closeGrace = 200 * time.Millisecond
				j := prepare(t, rules, version, nil, nil)
				blocked := j.down.dst.wire.blocks()
				j.begin()
				go j.agent.keepsSending(strings.Repeat("x", 1<<18))
				<-blocked
				began := time.Now()
				j.end(outcome.End(outcome.Drain, ""))
				j.agent.hearsClose(1001, "drain")
				j.overBy(outcome.Drain, 1001, "")
				if took := time.Since(began); took > patience/2 {
					t.Errorf("ended after %s", took)
				}
			})
		}
	})
}

func TestSideThatTakesNothingIsDead(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting relayRules) {
		rules := lasting
		rules.closeGrace = 100 * time.Millisecond
		j := prepare(t, rules, 0, nil, nil)
		j.down.dst.wire.stalled = 50 * time.Millisecond
		j.begin()
		go j.agent.keepsSending(strings.Repeat("x", 1<<18))
		j.agent.hearsClose(3008, "dead-peer")
		j.overBy(outcome.DeadPeer, 3008, "client takes no bytes")
	})
}

func TestCutEndsARelayAtOnce(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting relayRules) {
		j := join(t, lasting, 0, nil, nil)
		j.end(outcome.End(outcome.Drain, ""))
		j.cut()
		j.overBy(outcome.Drain, 1001, "")
	})
}

func TestRelayThatWasEndedBeforeItBeganSaysSo(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting relayRules) {
		j := prepare(t, lasting, 0, rawws.Make(rawws.Fin|rawws.Text, []byte("too late"), true), nil)
		j.end(outcome.End(outcome.Expired, ""))
		j.begin()
		j.client.hearsClose(3000, "expired")
		if n := j.agent.hearsClose(3000, "expired"); n != 0 {
			t.Errorf("%d frames went on after the end", n)
		}
		j.over(outcome.Expired, 3000, "")
	})
}

func TestTrafficIsCountedWhileItMoves(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting relayRules) {
		j := join(t, lasting, 0, nil, nil)
		s := &session{relay: j.relay}
		up := append(j.client.make(rawws.Text, "a message "), j.client.make(rawws.Fin|rawws.Continuation, "in two parts")...)
		j.client.say(up, j.client.make(rawws.Fin|rawws.Ping, ""))
		for range 3 {
			if _, err := rawws.Read(j.agent.br); err != nil {
				t.Fatal(err)
			}
		}
		j.agent.say(j.agent.make(rawws.Fin|rawws.Text, "one"), j.agent.make(rawws.Fin|rawws.Text, "two"))
		j.client.hears(rawws.Fin|rawws.Text, "one")
		j.client.hears(rawws.Fin|rawws.Text, "two")
		want := outcome.Traffic{BytesIn: uint64(len(up) + 6), BytesOut: 10, MessagesIn: 1, MessagesOut: 2}
		eventually(t, "all traffic in the counts", func() bool { return s.counts() == want })
		j.client.Close()
		j.agent.hearsClose(1001, "client-lost")
		j.over(outcome.ClientLost, 1001, "")
	})
}

// Idleness is about data: Pings and Pongs do not keep a session open.
func TestPingsDoNotKeepAnIdleSession(t *testing.T) {
	bothWays(t, func(t *testing.T, lasting relayRules) {
		rules := lasting
		rules.idleTimeout, rules.pingInterval = 800*time.Millisecond, 200*time.Millisecond
		j := join(t, rules, 0, nil, nil)
		j.agent.keepsPonging()
		for {
			f, err := rawws.Read(j.client.br)
			if err != nil {
				t.Fatal(err)
			}
			if f.Op() == rawws.Close {
				break
			}
			j.client.say(j.client.make(rawws.Fin|rawws.Pong, string(f.Payload)))
		}
		j.over(outcome.Idle, 1001, "")
	})
}

func TestLinkNeedsAWire(t *testing.T) {
	_, peer := tcp(t)
	for _, c := range []net.Conn{peer, tls.Client(peer, &tls.Config{InsecureSkipVerify: true})} {
		if _, err := newLink(c); err == nil {
			t.Errorf("a link over %T", c)
		}
	}
}
