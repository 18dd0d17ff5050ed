package relay

import (
	"bufio"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// newWorld returns a world in which nothing happens by chance.
func newWorld(t *testing.T, rules Rules) (w *world, client, agent *fake) {
	t.Helper()
	w = &world{}
	rules.MaxMessage, rules.StallTimeout = 1<<20, 30*time.Second
	rules.closeGrace, rules.replyWait, rules.linger, rules.long = closeGrace, replyWait, linger, long
	w.m.init(rules, 0, w, 0)
	w.m.up.jitter, w.m.down.jitter, w.m.grid = 0, 0, 1
	client = &fake{w: w, from: &w.m.up, to: &w.m.down, masked: true, room: 1 << 20}
	agent = &fake{w: w, from: &w.m.down, to: &w.m.up, room: 1 << 20}
	w.sides = [2]*fake{client, agent}
	t.Cleanup(func() {
		if w.fault != nil {
			t.Error(w.fault)
		}
	})
	return w, client, agent
}

// say delivers frames of a side.
func (f *fake) say(frames ...[]byte) {
	for _, b := range frames {
		f.script = append(f.script, b...)
	}
	for len(f.script) > 0 && f.w.m.reads(f.from, f.w.now) {
		f.comes(1 << 16)
	}
}

func (f *fake) text(s string) []byte { return rawws.Make(rawws.Fin|rawws.Text, []byte(s), f.masked) }

// hears returns what has come since the last call, and forgets it.
func (f *fake) hears() string {
	b := f.got
	f.got = nil
	return string(b)
}

// ended fails the test unless the session has ended so.
func (w *world) ended(t *testing.T, reason outcome.Reason, by outcome.Side, code int, detail string) {
	t.Helper()
	e := w.m.ending
	if e == nil {
		t.Fatal("it has not ended")
	}
	if e.Reason != reason || e.By != by || e.Code != code || !strings.Contains(e.Detail, detail) {
		t.Errorf("ended as %+v; want %s by %s, %d, %q", e, reason, by, code, detail)
	}
}

// A stream's reads hardly ever end where a frame ends, so a Ping has to find a boundary inside
// one.
func TestDuePingGoesInAtTheNextFrameOfABusyStream(t *testing.T) {
	w, client, agent := newWorld(t, Rules{PingInterval: 25 * time.Second})
	half := len(agent.text("half")) / 2
	agent.say(agent.text("half")[:half])
	w.passes(26 * time.Second) // the client is silent, and a frame to it is under way
	if !w.m.down.wantPing {
		t.Fatal("no Ping is due")
	}
	client.hears()
	agent.say(append(agent.text("half")[half:], agent.text("more")[:3]...))
	ping := string(appendPing(nil, false))
	if got := client.hears(); !strings.HasPrefix(got[half:], ping) && !strings.Contains(got, ping) {
		t.Errorf("got %q, want a Ping between the two frames", got)
	}
}

func TestClientThatLeftAPingUnansweredIsBlamedWhenTheAgentHangsUp(t *testing.T) {
	for _, tt := range []struct {
		name    string
		silence time.Duration
		answers bool
		reason  outcome.Reason
		by      outcome.Side
		code    int
	}{
		{"long ago", 6 * time.Second, false, outcome.DeadPeer, outcome.Client, 3008},
		{"just now", 4 * time.Second, false, outcome.UpstreamLost, outcome.Neither, 1001},
		{"answered", 9 * time.Second, true, outcome.UpstreamLost, outcome.Neither, 1001},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, client, agent := newWorld(t, Rules{PingInterval: 25 * time.Second})
			agent.say(rawws.Make(rawws.Fin|rawws.Ping, []byte("the agent's own"), false))
			if tt.answers {
				client.say(rawws.Make(rawws.Fin|rawws.Pong, []byte("the agent's own"), true))
			}
			w.passes(tt.silence)
			agent.hung = true
			agent.comes(1)
			w.ended(t, tt.reason, tt.by, tt.code, "")
		})
	}
}

// What a peer's system holds already is as good as taken, but not for ever.
func TestPingBehindDataThatIsTakenSlowlyKillsNoClient(t *testing.T) {
	w, client, agent := newWorld(t, Rules{PingInterval: 10 * time.Second})
	client.room = 0
	agent.say(agent.text(strings.Repeat("x", 60_000)))
	for range 60 {
		w.passes(5 * time.Second)
		client.takes(100)
		agent.say(rawws.Make(rawws.Fin|rawws.Pong, []byte(ownPing), false))
	}
	if w.m.ending != nil {
		t.Fatalf("a client that takes 20 bytes a second is dead: %+v", w.m.ending)
	}
	for range 8 {
		w.passes(5 * time.Second)
		agent.say(rawws.Make(rawws.Fin|rawws.Pong, []byte(ownPing), false))
	}
	w.ended(t, outcome.DeadPeer, outcome.Client, 3008, "takes no bytes")
}

// What is written after a Ping is not taken when that is answered.
func TestDataThatFollowsAPingAndIsTakenSlowlyKillsNoClient(t *testing.T) {
	w, client, agent := newWorld(t, Rules{PingInterval: 10 * time.Second})
	answers := func(f *fake) {
		if f.to.asking {
			f.say(rawws.Make(rawws.Fin|rawws.Pong, []byte(ownPing), f.masked))
		}
	}
	w.passes(10 * time.Second)
	answers(agent)
	client.room = 0
	agent.say(agent.text(strings.Repeat("x", 600)))
	w.m.down.full = false // the gateway's system has taken it
	answers(client)
	for range 12 {
		w.passes(5 * time.Second)
		client.got, client.queue = append(client.got, client.queue[:20]...), client.queue[20:]
		answers(agent)
	}
	if w.m.ending != nil {
		t.Errorf("a client that takes 4 bytes a second is given up: %+v", w.m.ending)
	}
}

// The next part of what waits has room in the system only when a third of its buffer is free.
func TestSideThatTakesDataSlowlyIsNotIdle(t *testing.T) {
	w, client, agent := newWorld(t, Rules{IdleTimeout: 5 * time.Second})
	client.room = 0
	agent.say(agent.text(strings.Repeat("x", 6000)))
	for range 28 {
		w.passes(time.Second)
		client.got, client.queue = append(client.got, client.queue[:100]...), client.queue[100:]
	}
	if w.m.ending != nil {
		t.Fatalf("a client that takes 100 bytes a second is idle: %+v", w.m.ending)
	}
	w.passes(20 * time.Second)
	w.ended(t, outcome.Idle, outcome.Neither, 1000, "")
}

// What a sink has taken before it stops says nothing about the time after that.
func TestSinkThatStopsIsDeadSoonAfterStallTimeout(t *testing.T) {
	w, client, agent := newWorld(t, Rules{})
	agent.say(agent.text("hello")) // nothing asks whether the client has got this
	client.room = 0
	agent.say(agent.text("hello"))
	if w.passes(29 * time.Second); w.m.ending != nil {
		t.Fatalf("ended too early: %+v", w.m.ending)
	}
	w.passes(9 * time.Second)
	w.ended(t, outcome.DeadPeer, outcome.Client, 3008, "takes no bytes")
}

func TestTimeForTheAnswerToACloseCountsFromTheLastByteTaken(t *testing.T) {
	w, client, agent := newWorld(t, Rules{})
	client.room = 0
	agent.say(agent.text(strings.Repeat("x", 2000)), rawws.MakeClose(1000, "", false))
	for range 20 {
		w.passes(9 * time.Second)
		client.takes(100)
	}
	if w.m.ending != nil {
		t.Fatalf("ended before the client has got the Close: %+v", w.m.ending)
	}
	client.takes(1 << 20)
	w.passes(9 * time.Second)
	if w.m.ending != nil {
		t.Fatalf("ended before the client had its 10 s: %+v", w.m.ending)
	}
	w.passes(3 * time.Second) // that all was taken may be seen a second late
	w.ended(t, outcome.DeadPeer, outcome.Client, 1000, "did not answer the Close")
	if f, err := rawws.Read(bufio.NewReader(strings.NewReader(agent.hears()))); err != nil || f.Code() != 1001 ||
		string(f.Payload[2:]) != "dead-peer" {
		t.Errorf("the agent is told %v, %v", f, err)
	}
}

func TestNothingIsCountedAfterTheEnd(t *testing.T) {
	w, client, agent := newWorld(t, Rules{})
	client.say(client.text("counted"))
	before := w.m.up.bytes
	w.m.end(outcome.End(outcome.Drain, ""), 0)
	client.say(client.text("dropped"))
	agent.say(agent.text("dropped"))
	if w.m.up.bytes != before || w.m.up.messages != 1 || w.m.down.bytes != 0 || w.m.down.messages != 0 {
		t.Errorf("counted %d and %d bytes", w.m.up.bytes, w.m.down.bytes)
	}
}

func TestFloodAfterTheEndIsDrainedSlowly(t *testing.T) {
	w, client, _ := newWorld(t, Rules{})
	w.m.end(outcome.End(outcome.Drain, ""), 0)
	read := 0
	for client.script = []byte(strings.Repeat(string(client.text(strings.Repeat("x", 1000))), 10_000)); !w.m.over; {
		before := len(client.script)
		for w.m.reads(client.from, w.now) {
			client.comes(1 << 16)
		}
		read += before - len(client.script)
		w.passes(10 * time.Millisecond)
	}
	if read < 64<<10 || read > 4<<20 {
		t.Errorf("%d bytes were read in %s after the end", read, w.now)
	}
}

func TestNotifyWaitsForTheEndOfAMessage(t *testing.T) {
	w, client, agent := newWorld(t, Rules{})
	agent.say(rawws.Make(rawws.Text, []byte("a mess"), false))
	w.m.notify("first", w.now)
	w.m.notify(notice, w.now)
	agent.say(rawws.Make(rawws.Fin|rawws.Ping, nil, false), rawws.Make(rawws.Fin|rawws.Continuation, []byte("age"), false),
		agent.text("next"))
	want := string(rawws.Make(rawws.Fin|rawws.Continuation, []byte("age"), false)) + string(agent.text(notice)) + string(agent.text("next"))
	if got := client.hears(); !strings.HasSuffix(got, want) || strings.Contains(got, "first") {
		t.Errorf("got %q", got)
	}
	w.m.notify(notice, w.now)
	if got := client.hears(); got != string(agent.text(notice)) {
		t.Errorf("between messages: got %q", got)
	}
}

// Sessions that fell silent together get their Pings within a tenth of the interval, but all at a
// few times, so that a lane is not woken for each of them.
func TestPingsOfManySessionsShareFewTimes(t *testing.T) {
	const sessions, every = 9000, 25 * time.Second
	times := map[time.Duration]int{}
	for n := range sessions {
		w := &world{now: time.Duration(n) * 100 * time.Microsecond}
		w.m.init(Rules{PingInterval: every}, 0, w, w.now)
		next := w.m.next()
		if wait := next - w.now; wait < every || wait > every+every/10+every/64 {
			t.Fatalf("the first Ping is due after %s", wait)
		}
		times[next]++
	}
	if len(times) > 20 {
		t.Errorf("the Pings of %d sessions are due at %d times", sessions, len(times))
	}
}

func TestGridDelaysNoPingByMuch(t *testing.T) {
	for _, interval := range []time.Duration{0, 1, 64, time.Millisecond, time.Second, 25 * time.Second, time.Hour} {
		g := gridOf(interval)
		for _, at := range []time.Duration{0, 1, 12345678 * time.Microsecond, time.Hour + 1} {
			late := g.after(at) - at
			if late < 0 || late > interval/64 || late > 500*time.Millisecond {
				t.Errorf("with %s a Ping that is due at %s is %s late", interval, at, late)
			}
		}
	}
}

// A side that has answered the last Ping, and got nothing since, has taken everything: its system
// need not be asked before the next one.
func TestSystemIsNotAskedAboutSidesThatOnlyGotPings(t *testing.T) {
	w, client, agent := newWorld(t, Rules{PingInterval: 25 * time.Second})
	pinged := func() (asked int) {
		before := w.asked
		w.passes(25 * time.Second)
		for _, f := range w.sides {
			if got := f.hears(); strings.IndexByte(got, rawws.Fin|rawws.Ping) < 0 {
				t.Fatalf("no Ping, but %q", got)
			}
			f.say(rawws.Make(rawws.Fin|rawws.Pong, []byte(ownPing), f.masked))
		}
		return w.asked - before
	}
	if n := pinged(); n != 2 {
		t.Errorf("before the first Pings the system was asked %d times", n)
	}
	if n := pinged(); n != 0 {
		t.Errorf("before the second ones it was asked %d times", n)
	}
	agent.say(agent.text("news"))
	if n := pinged(); n != 1 {
		t.Errorf("after a message to the client it was asked %d times", n)
	}
	client.room = 0
	agent.say(agent.text("more news"))
	w.passes(25 * time.Second)
	if client.takes(4); w.m.ending != nil {
		t.Errorf("a client that is slow to take a message is given up: %+v", w.m.ending)
	}
}

// A Ping may go to a side that is not read at the time, at the end of a frame that was under way.
// Its answer is read later, and another Ping goes out before the side is given up.
func TestAnswerThatIsReadLateIsNoSilence(t *testing.T) {
	w, client, agent := newWorld(t, Rules{PingInterval: 25 * time.Second})
	answers := func(f *fake) {
		if f.to.asking && w.m.reads(f.from, w.now) {
			f.say(rawws.Make(rawws.Fin|rawws.Pong, []byte(ownPing), f.masked))
		}
	}
	long := client.text(strings.Repeat("x", 100))
	client.say(long[:50])
	w.passes(26 * time.Second) // a Ping to the agent waits for the end of the frame
	client.room = 0
	agent.say(agent.text(strings.Repeat("x", 2000)))
	for range 10 {
		w.passes(10 * time.Second)
		client.takes(100)
	}
	client.say(long[50:])
	if !w.m.up.asking {
		t.Fatal("the agent has got no Ping")
	}
	for range 9 {
		w.passes(10 * time.Second)
		client.takes(100)
		client.say(client.text("hello"))
	}
	client.takes(1 << 20)
	for range 40 {
		answers(agent)
		answers(client)
		w.passes(5 * time.Second)
	}
	if w.m.ending != nil {
		t.Errorf("an agent that answers every Ping is given up: %+v", w.m.ending)
	}
}

// A client that is not read, because the agent takes nothing, may have answered.
func TestClientThatIsNotReadIsNotBlamedWhenTheAgentHangsUp(t *testing.T) {
	for _, tt := range []struct {
		name  string
		event func(w *world, agent *fake)
	}{
		{"while it is not read", func(*world, *fake) {}},
		{"after it has taken all", func(_ *world, agent *fake) { agent.takes(1 << 20) }},
		{"after a write has failed", func(w *world, agent *fake) { w.m.failed(agent.to, w.now) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, client, agent := newWorld(t, Rules{PingInterval: 25 * time.Second})
			agent.room = 0
			client.say(client.text("hello"))
			agent.say(rawws.Make(rawws.Fin|rawws.Ping, []byte("the agent's own"), false))
			client.script = rawws.Make(rawws.Fin|rawws.Pong, []byte("the agent's own"), true)
			w.passes(10 * time.Second)
			tt.event(w, agent)
			agent.hung = true
			agent.comes(1)
			w.ended(t, outcome.UpstreamLost, outcome.Neither, 1001, "")
		})
	}
}
