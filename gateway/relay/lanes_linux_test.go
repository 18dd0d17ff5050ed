package relay

import (
	"bytes"
	"container/heap"
	"crypto/tls"
	"io"
	"math"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// left fails the test if a session, or what it had, is left in a lane.
func left(t testing.TB, l *Lanes) {
	t.Helper()
	for _, lane := range l.all {
		for fd, s := range lane.by {
			if s != nil {
				t.Errorf("descriptor %d is left in a lane", fd)
			}
		}
		if n := len(lane.timers); n > 0 {
			t.Errorf("%d timers are left in a lane", n)
		}
		if n := lane.pipes.made - len(lane.pipes.spare); n > 0 {
			t.Errorf("%d pipes are left in a lane", n)
		}
	}
}

// runningOn is running with a number of lanes.
func runningOn(t testing.TB, n int) *Lanes {
	t.Helper()
	l, err := newLanes(n)
	if err != nil {
		t.Fatal(err)
	}
	run(t, l)
	return l
}

// noDescriptors lets the process have no more descriptors, until lift is called.
func noDescriptors(t *testing.T) (lift func()) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 3, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	return func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) }
}

func TestLaneTakesASessionWithoutADescriptorToSpare(t *testing.T) {
	rules := lasting
	rules.Lanes = running(t)
	j := prepare(t, rules, 0, nil, nil)
	defer noDescriptors(t)()
	j.begin()
	for range 3 {
		j.client.Say(j.client.Frame(rawws.Fin|rawws.Text, "hello"))
		j.agent.Hears(rawws.Fin|rawws.Text, "hello")
		j.agent.Say(j.agent.Frame(rawws.Fin|rawws.Text, "hello"))
		j.client.Hears(rawws.Fin|rawws.Text, "hello")
	}
	j.client.Close()
	j.agent.HearsClose(1001, "client-lost")
	j.over(outcome.ClientLost, 1001, "")
	if s := j.sides[0].tcp.socket; s == nil || s.kept == nil {
		t.Error("there was a second descriptor")
	}
}

func TestCallAfterTheLanesAreClosedIsIgnored(t *testing.T) {
	lanes, err := NewLanes()
	if err != nil {
		t.Fatal(err)
	}
	lanes.Close()
	r := lanes.runner(nil).(*ride)
	l := r.lane.Load()
	r.call()
	if r.called || len(l.inbox) > 0 {
		t.Error("a session waits for a lane that is closed")
	}
}

// Without Pings nothing else tells a silent agent from one that is gone, and no Ping is sent to one
// that waits for its pace.
func TestAgentIsProbedBySystemOrGateway(t *testing.T) {
	for _, tt := range []struct {
		every time.Duration
		pace  Pace
		want  bool
	}{{0, Pace{}, true}, {time.Hour, Pace{}, false}, {time.Hour, Pace{MessagesPerSecond: 1}, true}} {
		rules := lasting
		rules.PingInterval, rules.FromAgent = tt.every, tt.pace
		j := prepare(t, rules, 0, nil, nil)
		agent := j.sides[1].tcp
		if err := agent.SetKeepAlive(false); err != nil {
			t.Fatal(err)
		}
		j.begin()
		raw, err := agent.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			got, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
			if got == 1 != tt.want || err != nil {
				t.Errorf("Pings every %s, pace %+v: SO_KEEPALIVE is %d, %v", tt.every, tt.pace, got, err)
			}
		})
		j.client.Close()
		j.agent.HearsClose(1001, "client-lost")
		j.over(outcome.ClientLost, 1001, "")
	}
}

// Pings of many sessions are due at the same time, and messages must not wait for all of them.
func TestRoundLooksAfterFewOfManyTimers(t *testing.T) {
	lanes, err := newLanes(1)
	if err != nil {
		t.Fatal(err)
	}
	defer lanes.Close()
	l := lanes.all[0]
	for range 3 * maxTicks {
		r := lanes.runner(&Relay{}).(*ride)
		r.client.socket, r.agent.socket = &socket{}, &socket{}
		r.m.init(Rules{PingInterval: time.Hour}, 0, r, 0)
		r.at = 0
		heap.Push(&l.timers, r)
	}
	for round := range 4 {
		due := 0
		for _, timer := range l.timers {
			if timer.at == 0 {
				due++
			}
		}
		if want := (3 - round) * maxTicks; due != want || l.unfinished() != (want > 0) {
			t.Fatalf("after %d rounds %d sessions are due, want %d; unfinished: %t", round, due, want, l.unfinished())
		}
		l.round()
	}
	if len(l.timers) != 3*maxTicks {
		t.Errorf("%d sessions of %d are left", len(l.timers), 3*maxTicks)
	}
}

// A process may be stopped for a while, with what its sessions have got meanwhile not read.
func TestSessionIsNotIdleBecauseItsLaneHasStoppedForAWhile(t *testing.T) {
	for _, version := range []uint16{0, tls.VersionTLS13} {
		lanes, err := newLanes(1) // the test is its goroutine
		if err != nil {
			t.Fatal(err)
		}
		defer lanes.Close()
		l := lanes.all[0]
		rules := lasting
		rules.Lanes, rules.IdleTimeout = lanes, time.Minute
		j := join(t, rules, version, nil, nil)
		l.woken = true
		l.round()
		j.client.Say(j.client.Frame(rawws.Fin|rawws.Text, "still here"))
		l.start = l.start.Add(-2 * rules.IdleTimeout)
		l.round()
		j.agent.Hears(rawws.Fin|rawws.Text, "still here")
		j.client.Close()
		j.agent.Close()
		wstest.Eventually(t, "the session is over", func() bool {
			l.found = eventsNow(l.fd, l.events)
			l.round()
			return j.m.over
		})
		j.overBy(outcome.ClientLost, 1001, "")
		left(t, lanes)
	}
}

// scatter lets another number of lanes be in use from now on.
func scatter(src *rand.Rand, l *Lanes) { l.spread.width.Store(1 + src.Int32N(int32(len(l.all)))) }

func TestSpreadUsesAsManyLanesAsAreNeeded(t *testing.T) {
	for _, tt := range []struct {
		name   string
		shares [][]float64 // of looks, weighEvery apart
		again  int         // how often the last of them is repeated
		want   int32
	}{
		{"nothing to do", [][]float64{{0, 0, 0, 0}}, 100, 1},
		{"some work", [][]float64{{0.5, 0, 0, 0}}, 100, 1},
		{"one lane has too much", [][]float64{{0.7, 0, 0, 0}}, 0, 2},
		{"two have too much", [][]float64{{0.9, 0, 0, 0}, {0.5, 0.7, 0, 0}}, 0, 3},
		{"all have too much", [][]float64{{1, 1, 1, 1}}, 100, 4},
		{"a lane that is not in use any more has much to do", [][]float64{{0, 0.9, 0, 0}}, 0, 1},
		{"less, for a moment", [][]float64{{0.9, 0, 0, 0}, {0.1, 0.1, 0, 0}}, 20, 2},
		{"less", [][]float64{{0.9, 0, 0, 0}, {0.1, 0.1, 0, 0}}, 40, 1},
		{"less, and more again before it is sure", [][]float64{{0.9, 0, 0, 0}, {0, 0, 0, 0}, {0.3, 0.3, 0, 0}, {0, 0, 0, 0}}, 38, 2},
		{"as much as one lane less would have", [][]float64{{0.9, 0, 0, 0}, {0.2, 0.2, 0, 0}}, 100, 2},
	} {
		s := newSpread(4)
		for _, shares := range tt.shares {
			s.adapt(shares, weighEvery)
		}
		for range tt.again {
			s.adapt(tt.shares[len(tt.shares)-1], weighEvery)
		}
		if got := s.width.Load(); got != tt.want {
			t.Errorf("%s: %d lanes, want %d", tt.name, got, tt.want)
		}
	}
}

// TestSessionChangesLanes lets the lanes of a session change in the middle of messages, and while
// one side takes nothing.
func TestSessionChangesLanes(t *testing.T) {
	for _, version := range []uint16{0, tls.VersionTLS13} {
		lanes := runningOn(t, 3)
		rules := lasting
		rules.Lanes, rules.MaxMessage = lanes, 64<<20
		rules.long = math.MaxUint64 // a pipe would keep it where it is
		j := join(t, rules, version, nil, nil)
		ride := j.run.(*ride)
		payload := bytes.Repeat([]byte("message "), 2<<20) // more than the system takes for a side that does not read
		frame := j.client.Frame(rawws.Fin|rawws.Binary, string(payload))
		used := map[*lane]bool{}
		sent := make(chan error, 1)
		go func() {
			_, err := j.client.Conn.Write(frame)
			sent <- err
		}()
		got := make([]byte, len(frame))
		const piece = 1 << 16
		for at := 0; at < len(got); at += piece {
			lanes.spread.width.Store(1 + int32(at/piece)%3)
			if _, err := io.ReadFull(j.agent.Conn, got[at:min(at+piece, len(got))]); err != nil {
				t.Fatal(err)
			}
			used[ride.lane.Load()] = true
		}
		if err := <-sent; err != nil || !bytes.Equal(got, frame) {
			t.Errorf("version %x: what arrived is not what was sent, %v", version, err)
		}
		if len(used) < 2 {
			t.Errorf("version %x: it was in %d lanes", version, len(used))
		}
		j.client.Close()
		j.agent.HearsClose(1001, "client-lost")
		j.over(outcome.ClientLost, 1001, "")
	}
}

func TestLanesAreWeighed(t *testing.T) {
	lanes := []*lane{{}, {}, {}}
	s := newSpread(len(lanes))
	at := time.Duration(0)
	work := func(passed, busy time.Duration) int32 {
		at += passed
		lanes[0].busy.Add(int64(busy))
		s.weigh(lanes, at)
		return s.width.Load()
	}
	for i, step := range []struct {
		passed, busy time.Duration
		want         int32
	}{
		{time.Minute, time.Second, 1},
		{weighEvery / 2, weighEvery / 2, 1}, // too soon to tell
		{weighEvery / 2, weighEvery / 4, 2},
		{weighEvery, weighEvery / 2, 2},
		{weighEvery, weighEvery, 3},
		{time.Hour, 0, 2}, // no lane was awake to look
		{calmFor, 0, 1},
	} {
		if got := work(step.passed, step.busy); got != step.want {
			t.Errorf("step %d: %d lanes, want %d", i, got, step.want)
		}
	}
}
