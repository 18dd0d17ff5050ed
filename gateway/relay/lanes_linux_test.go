package relay

import (
	"syscall"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
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
	l, err := newLane()
	if err != nil {
		t.Fatal(err)
	}
	l.close()
	r := &ride{lane: l}
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

func TestLaneWakesOnceForManyPings(t *testing.T) {
	const now = 12345678 * time.Microsecond
	times := map[time.Duration]bool{}
	for n := range 9000 { // as many sessions, of which the Pings are spread over three seconds
		at := now + 30*time.Second + time.Duration(n)*time.Second/3000
		late := coarse(at, now) - at
		if late < 0 || late > 100*time.Millisecond {
			t.Fatalf("%s too late", late)
		}
		times[coarse(at, now)] = true
	}
	if len(times) > 50 {
		t.Errorf("it is woken %d times", len(times))
	}
	for _, wait := range []time.Duration{-time.Second, 0, 1, 63, 64, time.Millisecond, 20 * time.Millisecond, time.Second, time.Hour} {
		if late := coarse(now+wait, now) - (now + wait); late < 0 || late > max(wait, 0)/64 {
			t.Errorf("after %s it is %s too late", wait, late)
		}
	}
	if coarse(never, now) != never {
		t.Error("never has come")
	}
}
