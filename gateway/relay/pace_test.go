package relay

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// many returns so many frames in one piece.
func many(frame []byte, n int) []byte { return bytes.Repeat(frame, n) }

// counts returns how many of the frames a side has heard since the last call.
func (f *fake) counts(frame []byte) int { return strings.Count(f.hears(), string(frame)) }

func TestMessagesAboveTheBurstWait(t *testing.T) {
	w, client, agent := newWorld(t, Rules{FromClient: Pace{MessagesPerSecond: 10, MessagesBurst: 5}})
	hello, ping := client.text("hello"), rawws.Make(rawws.Fin|rawws.Ping, []byte("ping"), true)
	client.say(ping, many(hello, 5), ping, many(hello, 15))
	if got, want := agent.hears(), string(ping)+string(many(hello, 5))+string(ping); got != want {
		t.Fatalf("at once %q, want a burst and the Pings", got)
	}
	if w.m.reads(&w.m.up, w.now) {
		t.Error("a client above its pace is read")
	}
	for n := range 15 {
		w.passes(100*time.Millisecond - time.Millisecond)
		if got := agent.counts(hello); got != 0 {
			t.Fatalf("message %d is too early", n)
		}
		if w.passes(time.Millisecond + 10); agent.counts(hello) != 1 {
			t.Fatalf("message %d is not there", n)
		}
	}
	if !w.m.reads(&w.m.up, w.now) {
		t.Error("nothing waits, and the client is not read")
	}
	w.passes(time.Hour) // and a burst is no more than that
	client.say(many(hello, 9))
	if got := agent.counts(hello); got != 5 {
		t.Errorf("after a rest %d at once", got)
	}
}

// An event of the other way, after the time of a message has come, does not take the tick for it
// away.
func TestOtherWayDoesNotPutAMessageOff(t *testing.T) {
	w, client, agent := newWorld(t, Rules{FromClient: Pace{MessagesPerSecond: 1}})
	client.say(many(client.text("hello"), 2))
	w.now = 2 * time.Second
	agent.say(agent.text("hello"))
	if next := w.m.next(); next > w.now {
		t.Errorf("the next look is at %s, and it is %s", next, w.now)
	}
}

func TestBurstIsOneSecondByDefault(t *testing.T) {
	for _, tt := range []struct {
		pace Pace
		want int
	}{
		{Pace{MessagesPerSecond: 3}, 3}, {Pace{MessagesPerSecond: 2.5}, 3}, {Pace{MessagesPerSecond: 0.1}, 1},
		{Pace{BytesPerSecond: 110}, 10}, {Pace{BytesPerSecond: 55}, 5},
		{Pace{BytesPerSecond: 1}, 0}, {Pace{}, 20}, {Pace{MessagesBurst: 1, CountBinary: true, BytesBurst: 1}, 20},
		{Pace{MessagesPerSecond: 4, BytesPerSecond: 33}, 3},
	} {
		_, client, agent := newWorld(t, Rules{FromClient: tt.pace})
		hello := client.text("hello") // 11 bytes
		client.say(many(hello, 20))
		if got := agent.counts(hello); got != tt.want {
			t.Errorf("%+v: %d at once, want %d", tt.pace, got, tt.want)
		}
	}
}

func TestBinaryMessagesCountWhereTheyAreToldTo(t *testing.T) {
	for _, counts := range []bool{false, true} {
		_, client, agent := newWorld(t, Rules{FromClient: Pace{MessagesPerSecond: 5, CountBinary: counts}})
		audio, text := rawws.Make(rawws.Fin|rawws.Binary, []byte("audio"), true), client.text("hello")
		client.say(many(text, 3), many(audio, 10), many(text, 3))
		heard := agent.hears()
		n, m := strings.Count(heard, string(audio)), strings.Count(heard, string(text))
		if want := [2]int{10, 5}; !counts && [2]int{n, m} != want {
			t.Errorf("%d binary and %d text messages at once, want %v", n, m, want)
		}
		if want := [2]int{2, 3}; counts && [2]int{n, m} != want {
			t.Errorf("%d binary and %d text messages at once, want %v", n, m, want)
		}
	}
}

func TestFragmentsAreOneMessage(t *testing.T) {
	_, client, agent := newWorld(t, Rules{FromClient: Pace{MessagesPerSecond: 2}})
	first, rest := rawws.Make(rawws.Text, []byte("a"), true), rawws.Make(rawws.Continuation, []byte("b"), true)
	last := rawws.Make(rawws.Fin|rawws.Continuation, []byte("c"), true)
	message := string(first) + string(many(rest, 30)) + string(last)
	client.say([]byte(message + message + message))
	if got := agent.hears(); got != message+message {
		t.Errorf("%d bytes at once, want two messages of %d", len(got), len(message))
	}
}

// A message that is larger than the burst passes piece by piece; a burst that is smaller than a
// frame's head, or a rate of less than a byte a moment, holds nothing for ever.
func TestLargeMessageWaitsButNotForEver(t *testing.T) {
	for _, pace := range []Pace{
		{BytesPerSecond: 1000}, {BytesPerSecond: 10_000, BytesBurst: 100},
		{BytesPerSecond: 10_000, BytesBurst: 20}, {BytesPerSecond: 1 << 20, BytesBurst: 2},
	} {
		w, client, agent := newWorld(t, Rules{FromClient: pace, PingInterval: time.Second, IdleTimeout: time.Second})
		message := client.text(strings.Repeat("x", 50_000))
		client.say(message)
		begun := w.now
		for len(agent.got) < len(message) && w.now < 3*time.Minute {
			w.passes(100 * time.Millisecond)
		}
		if w.m.ending != nil || !bytes.HasSuffix(agent.got, message) && !bytes.Contains(agent.got, message[:1000]) {
			t.Fatalf("%+v: %d bytes of %d after %s, ended %+v", pace, len(agent.got), len(message), w.now, w.m.ending)
		}
		if took := w.now - begun; pace.BytesPerSecond == 1000 && (took < 48*time.Second || took > 51*time.Second) {
			t.Errorf("%+v: it took %s", pace, took)
		}
	}
}

func TestPaceOfTheAgentIsItsOwn(t *testing.T) {
	w, client, agent := newWorld(t, Rules{FromAgent: Pace{MessagesPerSecond: 1}})
	client.say(many(client.text("in"), 50))
	agent.say(many(agent.text("out"), 3))
	if in, out := agent.counts(client.text("in")), client.counts(agent.text("out")); in != 50 || out != 1 {
		t.Errorf("%d in and %d out at once", in, out)
	}
	if w.passes(2100 * time.Millisecond); client.counts(agent.text("out")) != 2 {
		t.Error("two more do not come within two seconds")
	}
}

// What the client says is in the way of its Pongs, so nothing is known of it: it is not dead, the
// session is not idle, and the agent that hangs up is not told to blame the client.
func TestPacedSideIsNotSilent(t *testing.T) {
	w, client, agent := newWorld(t, Rules{
		FromClient: Pace{MessagesPerSecond: 0.01}, PingInterval: time.Second, IdleTimeout: 5 * time.Second,
	})
	client.say(many(client.text("hello"), 4))
	agent.say(rawws.Make(rawws.Fin|rawws.Ping, []byte("the agent's own"), false))
	for n := range 250 {
		w.passes(time.Second)
		agent.say(rawws.Make(rawws.Fin|rawws.Pong, []byte(ownPing), false))
		if w.m.ending != nil {
			t.Fatalf("ended as %+v after %d s", w.m.ending, n+1)
		}
	}
	if got := agent.counts(client.text("hello")); got != 3 {
		t.Errorf("%d messages in 250 s", got)
	}
	agent.hung = true
	agent.comes(1)
	w.ended(t, outcome.UpstreamLost, outcome.Neither, 1001, "")
}

func TestSilenceAfterThePaceCounts(t *testing.T) {
	w, client, agent := newWorld(t, Rules{FromClient: Pace{MessagesPerSecond: 1}, PingInterval: 10 * time.Second})
	client.say(many(client.text("hello"), 31))
	for range 60 {
		w.passes(time.Second)
		agent.say(rawws.Make(rawws.Fin|rawws.Pong, []byte(ownPing), false))
	}
	w.ended(t, outcome.DeadPeer, outcome.Client, 3008, "answers no Ping")
}

// The Close keeps its place after the messages, and costs nothing.
func TestCloseOfAPacedSideComesAfterItsMessages(t *testing.T) {
	w, client, agent := newWorld(t, Rules{FromClient: Pace{MessagesPerSecond: 1, BytesPerSecond: 1 << 20}})
	client.say(many(client.text("hello"), 3), rawws.MakeClose(1000, "bye", true))
	w.passes(2100 * time.Millisecond)
	if want := string(many(client.text("hello"), 3)) + string(rawws.MakeClose(1000, "bye", true)); agent.hears() != want {
		t.Error("not all of it has come after two seconds")
	}
	agent.say(rawws.MakeClose(1000, "", false))
	w.ended(t, outcome.Closed, outcome.Neither, 1000, "")
}

// The answer to the agent's Close stands after messages that wait. So they wait no longer, and
// neither does what the client says until it answers.
func TestCloseLiftsThePaceOfTheOtherSide(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer bool // it has come before the Close that it answers
		full   bool // the agent takes nothing for a moment
	}{{"the answer comes later", false, false}, {"the answer waits", true, false}, {"the agent is slow", true, true}} {
		t.Run(tt.name, func(t *testing.T) {
			w, client, agent := newWorld(t, Rules{FromClient: Pace{MessagesPerSecond: 0.01}})
			said, answer := many(client.text("hello"), 4), rawws.MakeClose(1001, "", true)
			if tt.answer {
				said = append(said, answer...)
			}
			client.say(said)
			if tt.full {
				agent.room = 0
				w.m.up.wantPing = true
				w.m.up.atBoundary()
			}
			agent.say(rawws.MakeClose(1001, "restart", false))
			if tt.full {
				w.passes(time.Second)
				agent.takes(1 << 20)
			}
			if !tt.answer {
				client.say(answer)
			}
			w.ended(t, outcome.Closed, outcome.Neither, 1001, "")
			if got := agent.counts(client.text("hello")); got != 4 {
				t.Errorf("%d messages of 4", got)
			}
		})
	}
}

// What a side that has hung up has said passes at its pace for a moment, and then ends with it.
func TestSideThatHasHungUpDoesNotWaitForItsPace(t *testing.T) {
	for _, tt := range []struct {
		name    string
		reset   bool
		arrives int
	}{{"it ended its stream", false, 3}, {"it was reset", true, 1}} {
		for n, reason := range []outcome.Reason{outcome.ClientLost, outcome.UpstreamLost} {
			t.Run(tt.name+", "+string(reason), func(t *testing.T) {
				pace := Pace{MessagesPerSecond: 1}
				w, client, agent := newWorld(t, Rules{FromClient: pace, FromAgent: pace, PingInterval: 25 * time.Second})
				f, other := client, agent
				if n == 1 {
					f, other = agent, client
				}
				f.say(many(f.text("hello"), 100), rawws.MakeClose(1000, "bye", f.masked))
				w.m.hung(f.from, tt.reset, w.now)
				if !tt.reset {
					w.passes(closeGrace - 1)
					if w.m.ending != nil {
						t.Fatalf("ended too early as %+v", w.m.ending)
					}
					w.m.hung(f.from, false, w.now) // which puts nothing off
				}
				w.passes(1)
				w.ended(t, reason, outcome.Neither, 1001, "hung up while messages waited")
				if got := other.counts(f.text("hello")); got != tt.arrives {
					t.Errorf("%d messages, want %d", got, tt.arrives)
				}
			})
		}
	}
}

// A queue that is short enough arrives whole, with its Close.
func TestSideThatHasHungUpIsHeardWhileThatIsQuick(t *testing.T) {
	w, client, agent := newWorld(t, Rules{FromClient: Pace{MessagesPerSecond: 1}})
	client.say(many(client.text("hello"), 3), rawws.MakeClose(1000, "bye", true))
	client.hung = true
	w.m.hung(client.from, false, w.now)
	w.passes(2100 * time.Millisecond)
	if want := string(many(client.text("hello"), 3)) + string(rawws.MakeClose(1000, "bye", true)); agent.hears() != want {
		t.Error("not all of it has come after two seconds")
	}
	client.say()
	agent.say(rawws.MakeClose(1000, "", false))
	w.ended(t, outcome.Closed, outcome.Neither, 1000, "")
}

// When the session ends, the frame under way may finish, and no other begins.
func TestEndLiftsThePace(t *testing.T) {
	w, client, agent := newWorld(t, Rules{FromClient: Pace{BytesPerSecond: 1000}})
	message := client.text(strings.Repeat("x", 30_000))
	client.say(message, client.text("next"))
	w.m.end(outcome.End(outcome.Drain, ""), w.now)
	heard := agent.hears()
	if !strings.HasPrefix(heard, string(message)) || len(heard) > len(message)+20 {
		t.Errorf("the agent got %d bytes of a frame of %d", len(heard), len(message))
	}
	client.say(rawws.MakeClose(1001, "", true))
	agent.say(rawws.MakeClose(1001, "", false))
	if w.passes(closeGrace); !w.m.over {
		t.Error("it is not over")
	}
}

// Nothing is read of a side that waits for its pace, and its end is noticed all the same.
func TestPacedSideThatIsGoneEndsTheSession(t *testing.T) {
	slow := Pace{MessagesPerSecond: 0.01}
	cases := []struct {
		name   string
		play   func(j *joined)
		reason outcome.Reason
		code   int
		detail string
	}{
		{"the client ends its stream", func(j *joined) {
			j.client.Conn.(*net.TCPConn).CloseWrite()
			j.agent.HearsClose(1001, "client-lost")
		}, outcome.ClientLost, 1001, "waited for its pace"},
		{"the client is reset", func(j *joined) {
			j.client.Conn.(*net.TCPConn).SetLinger(0)
			j.client.Close()
			j.agent.HearsClose(1001, "client-lost")
		}, outcome.ClientLost, 1001, "waited for its pace"},
		{"the client gives its Close up", func(j *joined) {
			j.client.Say(j.client.CloseFrame(1000, ""))
			j.client.Close()
			j.agent.HearsClose(1001, "client-lost")
		}, outcome.ClientLost, 1001, "waited for its pace"},
		{"the agent closes", func(j *joined) {
			j.agent.Say(j.agent.CloseFrame(4001, "enough"))
			j.client.HearsClose(4001, "enough")
			j.client.Say(j.client.CloseFrame(4001, ""))
			for range 99 {
				j.agent.Hears(rawws.Fin|rawws.Text, "hello")
			}
			j.agent.HearsClose(4001, "")
		}, outcome.Closed, 4001, ""},
	}
	bothWays(t, func(t *testing.T, rules Rules) {
		rules.FromClient, rules.closeGrace = slow, 500*time.Millisecond
		for _, tt := range cases {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				j := join(t, rules, 0, nil, nil)
				j.client.Say(many(j.client.Frame(rawws.Fin|rawws.Text, "hello"), 100))
				j.agent.Hears(rawws.Fin|rawws.Text, "hello")
				tt.play(j)
				j.over(tt.reason, tt.code, tt.detail)
			})
		}
	})
}

// What has come of a side that waits for its pace is read when the pace is lifted, although
// nothing more comes.
func TestSideIsReadOnWhenItsPaceIsLifted(t *testing.T) {
	bothWays(t, func(t *testing.T, rules Rules) {
		t.Run("the agent closes", func(t *testing.T) {
			rules.FromClient = Pace{MessagesPerSecond: 0.01}
			j := join(t, rules, 0, nil, nil)
			const n = 60
			text := strings.Repeat("x", 5000)
			j.client.Say(many(j.client.Frame(rawws.Fin|rawws.Text, text), n), j.client.CloseFrame(1001, ""))
			j.agent.Hears(rawws.Fin|rawws.Text, text)
			j.agent.Say(j.agent.CloseFrame(1001, "restart"))
			for range n - 1 {
				j.agent.Hears(rawws.Fin|rawws.Text, text)
			}
			j.agent.HearsClose(1001, "")
			j.client.HearsClose(1001, "restart")
			j.over(outcome.Closed, 1001, "")
		})
		t.Run("the gateway ends it", func(t *testing.T) {
			rules.FromClient = Pace{BytesPerSecond: 1000}
			j := join(t, rules, 0, nil, nil)
			text := strings.Repeat("x", 300_000)
			j.client.Say(j.client.Frame(rawws.Fin|rawws.Text, text))
			if _, err := j.agent.Reader.Peek(500); err != nil {
				t.Fatal(err)
			}
			j.End(outcome.End(outcome.Drain, ""))
			j.client.HearsClose(1001, "drain")
			j.agent.Hears(rawws.Fin|rawws.Text, text)
			j.agent.HearsClose(1001, "drain")
			j.over(outcome.Drain, 1001, "")
		})
	})
}

func TestPaceHoldsOverSockets(t *testing.T) {
	bothWays(t, func(t *testing.T, rules Rules) {
		rules.FromClient = Pace{MessagesPerSecond: 50, MessagesBurst: 5}
		rules.FromAgent = Pace{BytesPerSecond: 400_000, BytesBurst: 40_000}
		j := join(t, rules, 0, nil, nil)
		hello := j.client.Frame(rawws.Fin|rawws.Text, "hello")
		large := j.agent.Frame(rawws.Fin|rawws.Binary, strings.Repeat("x", 200_000))
		begun := time.Now()
		j.client.Say(many(hello, 25))
		go j.agent.Write(large)
		got := make(chan time.Duration, 2)
		for _, side := range []struct {
			peer *wstest.Peer
			want []byte
		}{{j.agent, many(hello, 25)}, {j.client, large}} {
			go func() {
				b := make([]byte, len(side.want))
				if _, err := io.ReadFull(side.peer.Reader, b); err != nil || !bytes.Equal(b, side.want) {
					t.Errorf("not what was sent: %v", err)
				}
				got <- time.Since(begun)
			}()
		}
		for range 2 { // each needs 400 ms
			if took := <-got; took < 390*time.Millisecond {
				t.Errorf("all came within %s", took)
			}
		}
		j.client.Say(j.client.CloseFrame(1000, ""))
		j.agent.HearsClose(1000, "")
		j.agent.Say(j.agent.CloseFrame(1000, ""))
		j.client.HearsClose(1000, "")
		j.over(outcome.Closed, 1000, "")
	})
}

// BenchmarkPacedWay is what limits cost a session that keeps them: the machine's work for a
// message each way, without and with all of them. It fails when a frame allocates.
func BenchmarkPacedWay(b *testing.B) {
	ample := Pace{MessagesPerSecond: 1e9, CountBinary: true, BytesPerSecond: 1e15, BytesBurst: 1 << 40}
	for _, kind := range []struct {
		name string
		pace Pace
	}{{"without", Pace{}}, {"with", ample}} {
		b.Run(kind.name, func(b *testing.B) {
			var m machine
			m.init(Rules{MaxMessage: 1 << 20, FromClient: kind.pace, FromAgent: kind.pace}, 0, hole{}, 0)
			there := rawws.Make(rawws.Fin|rawws.Text, make([]byte, 128), true)
			back := rawws.Make(rawws.Fin|rawws.Text, make([]byte, 128), false)
			now := time.Duration(0)
			trip := func() {
				now += 20 * time.Microsecond
				m.came(&m.up, there, now)
				m.came(&m.down, back, now)
			}
			if n := mallocs(1000, trip); n > 0.01 {
				b.Errorf("%.3f allocations for a message each way", n)
			}
			for b.Loop() {
				trip()
			}
		})
	}
}

// hole is a port that takes everything.
type hole struct{}

func (hole) write(*way, []byte) (bool, error) { return false, nil }
func (hole) shut(*way)                        {}
func (hole) unsent(*way) (acked, left int64)  { return 0, 0 }
