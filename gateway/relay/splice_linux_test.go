package relay

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// openPipes returns how many ends of pipes the process has.
func openPipes(t testing.TB) (n int) {
	t.Helper()
	const dir = "/proc/self/fd"
	fds, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

// unread returns how many bytes of a socket wait to be read.
func unread(t testing.TB, fd int) int {
	t.Helper()
	var n int32
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCINQ, uintptr(unsafe.Pointer(&n))); errno != 0 {
		t.Fatal(errno)
	}
	return int(n)
}

// byHand is a session in a lane that moves only when a test says so. Its client's connection holds
// only a little of what the client does not read.
type byHand struct {
	*joined
	lane   *lane
	ride   *ride
	before int // pipes, when it began
}

// holdsLittle lets the system keep a few KiB of what a connection has not read.
func holdsLittle(_, _ string, c syscall.RawConn) (err error) {
	c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10) })
	return err
}

func newByHand(t *testing.T, rules Rules) *byHand {
	t.Helper()
	h := &byHand{before: openPipes(t)}
	lanes, err := newLanes(1)
	if err != nil {
		t.Fatal(err)
	}
	l := lanes.all[0]
	h.lane, rules.Lanes = l, lanes
	client, outerClient := tcpBy(t, &net.Dialer{Control: holdsLittle})
	agent, outerAgent := tcp(t)
	if err := client.SetWriteBuffer(1); err != nil { // as little as there can be
		t.Fatal(err)
	}
	r, err := New(client, agent, nil, nil, 0, rules)
	if err != nil {
		t.Fatal(err)
	}
	h.ride = r.run.(*ride)
	h.joined = &joined{
		Relay: r, t: t, ended: make(chan *outcome.Ending, 1),
		client: wstest.NewPeer(t, outerClient, true), agent: wstest.NewPeer(t, outerAgent, false),
	}
	h.begin()
	t.Cleanup(func() {
		left(t, rules.Lanes)
		l.close()
		if n := openPipes(t); n > h.before { // a lane without sessions keeps none
			t.Errorf("%d ends of pipes are left", n-h.before)
		}
	})
	return h
}

// until moves the session until something holds.
func (h *byHand) until(what string, ok func() bool) {
	h.t.Helper()
	for end := time.Now().Add(wstest.Patience); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			h.t.Fatalf("never: %s", what)
		}
		h.lane.found, h.lane.woken = eventsNow(h.lane.fd, h.lane.events), true
		h.lane.round()
	}
}

// stopped has the agent send a frame whose end lies in a pipe, because the client does not read.
func (h *byHand) stopped() (frame []byte) {
	h.t.Helper()
	frame = rawws.Make(rawws.Fin|rawws.Binary, noise[:40<<10], false)
	h.agent.Say(frame[:1000])
	h.until("the frame has begun", func() bool { return h.ride.m.down.bytes > 0 })
	h.agent.Say(frame[1000:])
	wstest.Eventually(h.t, "all has come", func() bool { return unread(h.t, h.ride.agent.fd) == len(frame)-1000 })
	h.until("the end of the frame lies in a pipe", func() bool {
		return h.ride.m.down.bytes == uint64(len(frame)) && h.ride.client.pipe != nil
	})
	if w := &h.ride.m.down; !w.full || !w.bulk || w.messages != 1 {
		h.t.Errorf("the way is full: %t, with data: %t; %d messages have passed", w.full, w.bulk, w.messages)
	}
	if _, left := h.ride.unsent(&h.ride.m.down); left < int64(h.ride.client.pipe.n) {
		h.t.Errorf("%d bytes are on their way, of which %d lie in the pipe", left, h.ride.client.pipe.n)
	}
	return frame
}

// ends moves the session until it is over.
func (h *byHand) ends(reason outcome.Reason, code int, detail string) {
	h.t.Helper()
	h.until("the session is over", func() bool { return h.ride.over })
	h.overBy(reason, code, detail)
	if n := h.lane.pipes.made - len(h.lane.pipes.spare); n != 0 {
		h.t.Errorf("%d pipes are open that nothing lies in", n)
	}
}

var unseen = func() Rules {
	rules := lasting
	rules.long = 1
	return rules
}()

// hears lets the client read n bytes, which it returns, and both sides hang up then.
func (h *byHand) hears(n int) <-chan []byte {
	got := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(h.client.Reader, int64(n)))
		h.client.Close()
		h.agent.Close()
		got <- b
	}()
	return got
}

func TestWhatTheGatewaySaysComesAfterWhatLiesInAPipe(t *testing.T) {
	h := newByHand(t, unseen)
	frame := h.stopped()
	h.Notify("soon")
	h.until("the notice waits", func() bool { return len(h.ride.client.out) > 0 })
	h.End(outcome.End(outcome.Drain, ""))
	h.until("a Close waits", func() bool { return h.ride.m.down.dst == told })
	if h.ride.client.pipe == nil {
		t.Fatal("the pipe is empty already")
	}
	want := append(append(frame, textFrame("soon", false)...), closeFrame(1001, "drain", false)...)
	got := h.hears(len(want))
	h.ends(outcome.Drain, 1001, "")
	if b := <-got; !bytes.Equal(b, want) {
		t.Errorf("the client got %d bytes, want %d", len(b), len(want))
	}
}

func TestClientThatStoppedInALongFrameGoesOn(t *testing.T) {
	h := newByHand(t, unseen)
	frame := h.stopped()
	next := append(h.agent.Frame(rawws.Fin|rawws.Text, "next"), h.agent.CloseFrame(1000, "")...)
	h.agent.Say(next)
	want := append(frame, next...)
	got := h.hears(len(want))
	h.ends(outcome.ClientLost, 1000, "client hung up instead of answering the Close")
	if b := <-got; !bytes.Equal(b, want) {
		t.Errorf("the client got %d bytes, want %d", len(b), len(want))
	}
	if c := (outcome.Traffic{BytesOut: uint64(len(want)), MessagesOut: 2}); h.Traffic() != c {
		t.Errorf("counted %+v, want %+v", h.Traffic(), c)
	}
}

func TestClientThatStopsInALongFrameForGoodIsDead(t *testing.T) {
	rules := unseen
	rules.StallTimeout, rules.closeGrace = 100*time.Millisecond, 50*time.Millisecond
	h := newByHand(t, rules)
	h.stopped()
	began := time.Now()
	h.ends(outcome.DeadPeer, 3008, "client takes no bytes")
	if took := time.Since(began); took > wstest.Patience/2 {
		t.Errorf("only after %s", took)
	}
	h.agent.HearsClose(1001, "dead-peer")
}

// Bytes of one session never reach another: a pipe that is not empty is closed.
func TestPipeOfASessionThatIsOverIsNotUsedAgain(t *testing.T) {
	for name, tt := range map[string]struct {
		end    func(h *byHand)
		reason outcome.Reason
	}{
		"cut": {func(h *byHand) {
			h.End(outcome.End(outcome.Drain, ""))
			h.Cut()
		}, outcome.Drain},
		"reset": {func(h *byHand) {
			under(h.client.Conn).SetLinger(0)
			h.client.Close()
			h.agent.Close()
		}, outcome.ClientLost},
	} {
		t.Run(name, func(t *testing.T) {
			h := newByHand(t, unseen)
			h.stopped()
			tt.end(h)
			h.ends(tt.reason, 1001, "")
			if n := openPipes(t); n != h.before {
				t.Errorf("%d ends of pipes are left", n-h.before)
			}
		})
	}
}

// Long frames pass byte for byte, and where there are no pipes by reads and writes.
func TestLongFramesPassWithAndWithoutPipes(t *testing.T) {
	for _, tt := range []struct {
		name               string
		noSplice, noSpared bool
		want               int // pipes, while frames pass
	}{{"with", false, false, 1}, {"not supported", true, false, 0}, {"no descriptor to spare", false, true, 0}} {
		t.Run(tt.name, func(t *testing.T) {
			before := openPipes(t)
			t.Cleanup(func() {
				if n := openPipes(t) - before; n > 0 {
					t.Errorf("%d ends of pipes are left", n)
				}
			})
			rules := lasting
			l, err := NewLanes()
			if err != nil {
				t.Fatal(err)
			}
			if tt.noSplice {
				for _, lane := range l.all {
					lane.pipes.after = never
				}
			}
			run(t, l)
			rules.Lanes = l
			j := prepare(t, rules, 0, nil, nil)
			lift := func() {}
			if tt.noSpared {
				lift = noDescriptors(t)
			}
			j.begin()
			for n := range 20 {
				payload := string(noise[n*1000:][:100_000])
				j.client.Say(j.client.Frame(rawws.Fin|rawws.Binary, payload))
				j.agent.Hears(rawws.Fin|rawws.Binary, payload)
				j.agent.Say(j.agent.Frame(rawws.Binary, payload), j.agent.Frame(rawws.Fin|rawws.Continuation, payload[:n]))
				j.client.Hears(rawws.Binary, payload)
				j.client.Hears(rawws.Fin|rawws.Continuation, payload[:n])
			}
			lift()
			if n := openPipes(t) - before; n != 2*tt.want {
				t.Errorf("%d ends of pipes, want %d", n, 2*tt.want)
			}
			j.client.Close()
			j.agent.HearsClose(1001, "client-lost")
			j.over(outcome.ClientLost, 1001, "")
		})
	}
}

func TestPipesOfALaneAreFew(t *testing.T) {
	before := openPipes(t)
	ps := &pipes{}
	var got []*pipe
	for p := ps.get(0); p != nil; p = ps.get(0) {
		got = append(got, p)
	}
	if len(got) != mostPipes {
		t.Errorf("there are %d", len(got))
	}
	for _, p := range got {
		p.put()
	}
	if n := (openPipes(t) - before) / 2; n != sparePipes || ps.made != n {
		t.Errorf("%d are kept, and %d counted", n, ps.made)
	}
	if ps.get(0) != got[sparePipes-1] {
		t.Error("a new one is made while there are spare ones")
	}
	got[sparePipes-1].put()
	lift := noDescriptors(t)
	for range sparePipes {
		got = append(got, ps.get(0))
	}
	if ps.get(0) != nil {
		t.Error("there was a descriptor")
	}
	lift()
	if ps.any(refused-1) || !ps.any(refused) {
		t.Error("after it was refused a pipe, the lane tries too soon again, or too late")
	}
	for _, p := range got[mostPipes:] {
		p.put()
	}
	ps.close()
	if n := openPipes(t) - before; n != 0 || ps.made != 0 {
		t.Errorf("%d ends of pipes are left, and %d pipes counted", n, ps.made)
	}
}

// A file that is open for appending takes writes and no splice.
func TestBytesInAPipeAreWrittenWhereTheSystemDoesNotSplice(t *testing.T) {
	name := filepath.Join(t.TempDir(), "sink")
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ps := &pipes{}
	defer ps.close()
	p := ps.get(0)
	if p.n, err = writeNow(p.w, noise[:100_000]); err != nil {
		t.Fatal(err)
	}
	s := &socket{fd: int(f.Fd()), pipe: p}
	if n, err := s.write([]byte("after it")); n != 8 || err != nil {
		t.Fatal(n, err)
	}
	if !s.flush() || s.waits() || s.fault != nil || s.sent != 100_008 {
		t.Errorf("%d bytes went out, %v; more wait: %t", s.sent, s.fault, s.waits())
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != string(noise[:100_000])+"after it" {
		t.Errorf("%d bytes came, %v", len(b), err)
	}
	if ps.any(never) || ps.made != 1 {
		t.Errorf("splice is tried again, and %d pipes are left", ps.made)
	}
}

// A descriptor of inotify gives bytes to reads and none to splice.
func TestSourceIsReadWhereTheSystemDoesNotSplice(t *testing.T) {
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	ps := &pipes{}
	defer ps.close()
	p := ps.get(0)
	if err := p.fill(fd, 1000); err != nil || p.n != 0 {
		t.Errorf("%d bytes, %v", p.n, err)
	}
	if p.put(); ps.any(never) {
		t.Error("splice is tried again")
	}
}

// What a source that is spliced ends by is what it would be read as.
func TestSourceThatIsSplicedEndsAsOneThatIsRead(t *testing.T) {
	for _, tt := range []struct {
		name string
		does func(*net.TCPConn)
		want string
	}{
		{"nothing to read", func(*net.TCPConn) {}, wouldBlock{}.Error()},
		{"end of stream", func(c *net.TCPConn) { c.CloseWrite() }, io.EOF.Error()},
		{"reset", func(c *net.TCPConn) {
			c.SetLinger(0)
			c.Close()
		}, "read: connection reset by peer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ps := &pipes{}
			defer ps.close()
			var errs [2]error
			for i := range errs {
				c, peer := tcp(t)
				s, err := c.take()
				if err != nil {
					t.Fatal(err)
				}
				tt.does(peer)
				wstest.Eventually(t, "what the peer did has come", func() bool {
					p := ps.get(0)
					defer p.put()
					if i == 0 {
						s.readable = true
						_, errs[i] = s.read(make([]byte, 1))
					} else {
						errs[i] = p.fill(s.fd, 1)
					}
					return errs[i] != nil && errs[i].Error() == tt.want
				})
			}
		})
	}
}

func TestPipeIsClosedWhenItsSinkIsGone(t *testing.T) {
	before := openPipes(t)
	c, peer := tcp(t)
	s, err := c.take()
	if err != nil {
		t.Fatal(err)
	}
	peer.SetLinger(0)
	peer.Close()
	ps := &pipes{}
	wstest.Eventually(t, "the sink is gone", func() bool {
		s.pipe = ps.get(0)
		if s.pipe.n, err = writeNow(s.pipe.w, noise[:1000]); err != nil {
			t.Fatal(err)
		}
		s.flush()
		return s.fault != nil
	})
	if text := s.fault.Error(); text != "write: broken pipe" && text != "write: connection reset by peer" {
		t.Errorf("the fault is %s", text)
	}
	if n := openPipes(t) - before; s.waits() || ps.made != len(ps.spare) || n != 2*len(ps.spare) {
		t.Errorf("%d ends of pipes are left, and %d pipes counted", n, ps.made)
	}
	ps.close()
}
