package relay

import (
	"syscall"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// left fails the test if a session is left in a lane.
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
	}
}

func TestLaneTakesASessionWithoutADescriptorToSpare(t *testing.T) {
	rules := lasting
	rules.Lanes = running(t)
	j := prepare(t, rules, 0, nil, nil)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 3, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
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
