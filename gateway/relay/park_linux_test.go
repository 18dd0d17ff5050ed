package relay

import (
	"crypto/tls"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// parkingLot is one in which every direction is parked that finds nothing to read. At the end of
// the test it must be empty.
func parkingLot(t testing.TB) *Lanes {
	t.Helper()
	l, err := newLanes(0)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		l.Run()
		close(over)
	}()
	t.Cleanup(func() {
		l.Close()
		<-over
		if n := l.holds(); n > 0 {
			t.Errorf("%d directions are left in the lot", n)
		}
	})
	return l
}

// holds is how many directions wait in the lot.
func (l *Lanes) holds() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.by {
		if p != nil {
			n++
		}
	}
	return n
}

// isParked says whether nobody runs p.
func (p *pump) isParked() bool {
	p.r.parking.Lock()
	defer p.r.parking.Unlock()
	return p.parked
}

func TestQuietSessionIsParkedUntilThereIsSomethingToDo(t *testing.T) {
	message := func(from, to *wstest.Peer) {
		from.Say(from.Frame(rawws.Fin|rawws.Text, "hello"))
		to.Hears(rawws.Fin|rawws.Text, "hello")
	}
	for name, story := range map[string]func(j *joined) (reason outcome.Reason, code int){
		"the client speaks": func(j *joined) (outcome.Reason, int) { message(j.client, j.agent); return "", 0 },
		"the agent speaks":  func(j *joined) (outcome.Reason, int) { message(j.agent, j.client); return "", 0 },
		"half a message": func(j *joined) (outcome.Reason, int) {
			frame := j.client.Frame(rawws.Fin|rawws.Text, "in parts")
			for i := range frame {
				j.client.Say(frame[i : i+1])
				wstest.Eventually(j.t, "parked inside a frame", j.up.isParked)
			}
			j.agent.Hears(rawws.Fin|rawws.Text, "in parts")
			return "", 0
		},
		"the client hangs up": func(j *joined) (outcome.Reason, int) {
			j.client.Close()
			j.agent.HearsClose(1001, "client-lost")
			return outcome.ClientLost, 1001
		},
		"the agent hangs up": func(j *joined) (outcome.Reason, int) {
			j.agent.Close()
			j.client.HearsClose(1001, "upstream-lost")
			return outcome.UpstreamLost, 1001
		},
		"it is ended": func(j *joined) (outcome.Reason, int) {
			j.End(outcome.End(outcome.Drain, ""))
			return outcome.Drain, 1001
		},
		"it is cut": func(j *joined) (outcome.Reason, int) {
			j.End(outcome.End(outcome.Drain, ""))
			j.Cut()
			return outcome.Drain, 1001
		},
	} {
		for kind, version := range map[string]uint16{"plain": 0, "TLS": tls.VersionTLS13} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				rules := lasting
				rules.Lanes = parkingLot(t)
				j := join(t, rules, version, nil, nil)
				parked := func() bool { return j.up.isParked() && j.down.isParked() }
				wstest.Eventually(t, "parked at first", parked)
				reason, code := story(j)
				if reason == "" {
					wstest.Eventually(t, "parked again", parked)
					if n := rules.Lanes.holds(); n != 2 {
						t.Errorf("the lot holds %d directions, want both", n)
					}
					message(j.client, j.agent)
					message(j.agent, j.client)
					j.client.Close()
					j.agent.HearsClose(1001, "client-lost")
					reason, code = outcome.ClientLost, 1001
				}
				j.over(reason, code, "")
			})
		}
	}
}

// Pings go on while a session is parked, and do not count as life in it.
func TestParkedSessionIsPinged(t *testing.T) {
	rules := lasting
	rules.PingInterval = 200 * time.Millisecond
	rules.Lanes = parkingLot(t)
	j := join(t, rules, 0, nil, nil)
	j.agent.Say(j.agent.Frame(rawws.Fin|rawws.Text, "hello"))
	j.client.Hears(rawws.Fin|rawws.Text, "hello")
	wstest.Eventually(t, "settled", func() bool { return rules.Lanes.settled.Load() == 2 })
	keepsPonging(j.agent)
	for range 3 {
		j.client.Hears(rawws.Fin|rawws.Ping, "omnia-gw")
		j.client.Say(j.client.Frame(rawws.Fin|rawws.Pong, "omnia-gw"))
		wstest.Eventually(t, "parked again", j.up.isParked)
	}
	if n := rules.Lanes.settled.Load(); n != 2 {
		t.Errorf("settled %d times, want once for each direction", n)
	}
	j.client.Hears(rawws.Fin|rawws.Ping, "omnia-gw")
	j.client.HearsClose(3008, "dead-peer")
	j.over(outcome.DeadPeer, 3008, "client answers no Ping")
}

// A peer that sends Pings without a pause costs a goroutine, not one for each of them.
func TestDirectionIsNotParkedAllTheTime(t *testing.T) {
	rules := lasting
	rules.Lanes = parkingLot(t)
	rules.Lanes.after = 10 * time.Minute
	j := prepare(t, rules, 0, nil, nil)
	j.start = j.start.Add(-time.Hour) // for so long nothing has moved
	j.begin()
	for range 10 * maxParked {
		j.client.Say(j.client.Frame(rawws.Fin|rawws.Ping, "now"))
		j.agent.Hears(rawws.Fin|rawws.Ping, "now")
	}
	j.client.Close()
	j.agent.HearsClose(1001, "client-lost")
	j.over(outcome.ClientLost, 1001, "")
	if n := j.up.often; n == 0 || n > maxParked {
		t.Errorf("parked %d times, want %d at most", n, maxParked)
	}
}

// Every message finds both directions parked, or on their way there, or on their way back.
func TestNothingIsLostOnTheWayIntoTheLotAndBack(t *testing.T) {
	const sessions, messages = 16, 300
	for name, version := range map[string]uint16{"plain": 0, "TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			rules := lasting
			rules.Lanes = parkingLot(t)
			var all []*joined
			var wg sync.WaitGroup
			for range sessions {
				j := join(t, rules, version, nil, nil)
				for _, way := range [][2]*wstest.Peer{{j.client, j.agent}, {j.agent, j.client}} {
					said, pace := make(chan string, messages), make(chan struct{}, 1) // pace: at most two are under way
					wg.Go(func() {
						defer close(said)
						for range messages {
							text := strings.Repeat("x", rand.IntN(3000))
							said <- text
							if _, err := way[0].Write(way[0].Frame(rawws.Fin|rawws.Text, text)); err != nil {
								t.Errorf("write: %v", err)
								return
							}
							pace <- struct{}{}
						}
					})
					wg.Go(func() {
						for text := range said {
							f, err := rawws.Read(way[1].Reader)
							if err != nil || string(f.Payload) != text {
								t.Errorf("got %v, %v; want %d bytes", f, err, len(text))
								way[1].Close()
								return
							}
							<-pace
						}
					})
				}
				all = append(all, j)
			}
			wg.Wait()
			for _, j := range all {
				j.client.Close()
				j.agent.HearsClose(1001, "client-lost")
				j.over(outcome.ClientLost, 1001, "")
			}
		})
	}
}

func TestLotThatTakesNobodyLeavesTheGoroutines(t *testing.T) {
	rules := lasting
	rules.Lanes = &Lanes{fd: -1}
	j := join(t, rules, 0, nil, nil)
	for range 3 {
		j.client.Say(j.client.Frame(rawws.Fin|rawws.Text, "hello"))
		j.agent.Hears(rawws.Fin|rawws.Text, "hello")
	}
	j.agent.Close()
	j.client.HearsClose(1001, "upstream-lost")
	j.over(outcome.UpstreamLost, 1001, "")
	if !j.up.awake || !j.down.awake || rules.Lanes.holds() > 0 {
		t.Error("something was parked")
	}
}

// What it costs to wake a session up: a round trip through one whose directions are parked before
// each message, beside one that waits.
func BenchmarkRoundTrip(b *testing.B) {
	for _, kind := range []struct {
		name    string
		version uint16
	}{{"plain", 0}, {"TLS", tls.VersionTLS13}} {
		for _, parked := range []bool{false, true} {
			name := kind.name + "/waiting"
			if parked {
				name = kind.name + "/parked"
			}
			b.Run(name, func(b *testing.B) {
				rules := lasting
				if parked {
					rules.Lanes = parkingLot(b)
				}
				client, outerClient := newLinkOver(b, kind.version, true)
				agent, outerAgent := newLinkOver(b, kind.version, false)
				over := make(chan *outcome.Ending, 1)
				newRelay(client, agent, nil, nil, 0, rules).Launch(func(e *outcome.Ending) { over <- e })
				there, back := rawws.Make(rawws.Fin|rawws.Text, make([]byte, 128), true), rawws.Make(rawws.Fin|rawws.Text, make([]byte, 128), false)
				buf := make([]byte, len(there))
				for b.Loop() {
					outerClient.Write(there)
					io.ReadFull(outerAgent, buf)
					outerAgent.Write(back)
					io.ReadFull(outerClient, buf[:len(back)])
				}
				outerClient.Close()
				outerAgent.Close()
				<-over
			})
		}
	}
}
