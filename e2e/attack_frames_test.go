package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// Chapter H: frames. Those that break RFC 6455 are in relay_test.go; here are the ones that are
// legal and mean no good.

// announced is the head of a frame with 2^40 bytes, of which only the first comes.
func announced(masked bool) []byte {
	head := []byte{rawws.Fin | rawws.Binary, 127, 0, 0, 1, 0, 0, 0, 0, 0}
	if masked {
		head[1] |= 0x80
		head = append(head, 1, 2, 3, 4)
	}
	return append(head, 'x')
}

// listener is an agent that accepts and reads, but never sends.
func listener(v *visit) { v.accept(); io.Copy(io.Discard, v.br) }

func TestH07EmptyFragmentsCountAgainstTheMessage(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, listener).URL).with("limits.maxMessageBytes", 100_000))
	gone := g.leftovers()
	s := g.connect(t, "/my-agent/ws", i.bearer(t))
	flood := bytes.Repeat(rawws.Make(rawws.Continuation, nil, true), 100_000)
	go s.Write(append(rawws.Make(rawws.Text, nil, true), flood...)) // refused long before its end
	if word := s.closed(1009); word != "message-too-big" {
		t.Errorf("reason %q", word)
	}
	gone()
}

func TestH10AnnouncedFrameThatNeverComesDoesNotPinASession(t *testing.T) {
	t.Parallel()
	illegal := func(masked bool) []byte { return rawws.Make(rawws.Fin|7, nil, masked) }
	type peer struct {
		says  []byte // once the session is open
		drips bool   // and then a byte now and then
		goes  bool   // and then hangs up
	}
	cases := []struct {
		name          string
		client, agent peer
		reason        string
	}{
		{"too long to begin with", peer{says: []byte{rawws.Fin | rawws.Binary, 0x80 | 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
			1, 2, 3, 4, 'x'}}, peer{}, "message-too-big"},
		{"the client breaks the rules, the agent has announced", peer{says: illegal(true)}, peer{says: announced(false)}, "protocol-error"},
		{"the agent breaks the rules, the client has announced", peer{says: announced(true)}, peer{says: illegal(false)}, "protocol-error"},
		{"the agent breaks the rules, the client drips", peer{says: announced(true), drips: true}, peer{says: illegal(false)},
			"protocol-error"},
		{"the client breaks the rules, the agent drips", peer{says: illegal(true)}, peer{says: announced(false), drips: true},
			"protocol-error"},
		{"the agent announces and hangs up", peer{}, peer{says: announced(false), goes: true}, "upstream-lost"},
		{"the client announces, the agent hangs up", peer{says: announced(true)}, peer{goes: true}, "upstream-lost"},
		{"the agent announces, the client hangs up", peer{goes: true}, peer{says: announced(false)}, "client-lost"},
		{"both drip, the token expires", peer{says: announced(true), drips: true}, peer{says: announced(false), drips: true}, "expired"},
	}
	act := func(p peer, c net.Conn) {
		c.Write(p.says)
		for _, err := c.Write(nil); p.drips && err == nil; _, err = c.Write([]byte{'x'}) {
			time.Sleep(100 * time.Millisecond) // between two drops
		}
	}
	opened := make(chan bool)
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		n, _ := strconv.Atoi(v.r.Header.Get("X-Case"))
		v.accept()
		<-opened
		if cases[n].agent.goes {
			act(cases[n].agent, v)
			return
		}
		go act(cases[n].agent, v)
		io.Copy(io.Discard, v.br)
	})
	g := start(t, plain(i, a.URL).with("limits.maxMessageBytes", 1<<41).with("authentication.jwt.clockSkew", "0s"))
	gone := g.leftovers()
	sockets := make([]*socket, len(cases))
	for n, c := range cases {
		exp := inSeconds(3600)
		if c.reason == "expired" {
			exp = inSeconds(1)
		}
		sockets[n] = g.connect(t, "/my-agent/ws", i.bearer(t, "exp", exp), fmt.Sprintf("X-Case: %d", n))
	}
	began := time.Now()
	close(opened)
	for n, c := range cases {
		if c.agent.says != nil && c.agent.says[0] == announced(false)[0] {
			sockets[n].frameHead() // so the announcement has arrived
		}
		go act(c.client, sockets[n].Conn)
		if c.client.goes {
			sockets[n].Close()
		}
	}
	for n, c := range cases {
		if line := g.awaitLine("msg", "ended", "remote", sockets[n].LocalAddr().String()); line["reason"] != c.reason {
			t.Errorf("%s: ended as %v, want %s", c.name, line["reason"], c.reason)
		}
	}
	gone()
	if took := time.Since(began); took > 12*time.Second {
		t.Errorf("the sessions were pinned for %v", took)
	}
	eventually(t, "closed at the agent", func() bool { return a.live.Load() == 0 })
}

// frameHead reads the head of a frame and one byte of its payload.
func (s *socket) frameHead() {
	s.t.Helper()
	if _, _, _, err := rawws.ReadHead(s.br); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.br.ReadByte(); err != nil {
		s.t.Fatal(err)
	}
}

func TestH10DrainIsNotHeldUpByUnfinishedFrames(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) { v.accept(); v.Write(announced(false)); io.Copy(io.Discard, v.br) })
	g := start(t, plain(i, a.URL).with("limits.maxMessageBytes", 1<<41).with("session.drainTimeout", "8s"))
	for range 20 {
		s := g.connect(t, "/my-agent/ws", i.bearer(t))
		s.say(string(announced(true)))
		s.frameHead()
	}
	began := time.Now()
	g.cmd.Process.Signal(syscall.SIGTERM)
	<-g.ended
	if took := time.Since(began); took > 12*time.Second {
		t.Errorf("the drain of 8 s took %v", took)
	}
}

// Neither a client nor an agent that takes no bytes can hold a session for longer than
// stallTimeout and the time to close, nor make the gateway hold what they do not take.
func TestH11PeersThatNeverReadAreGivenUp(t *testing.T) {
	t.Parallel()
	i, over := newIssuer(t), make(chan struct{})
	defer close(over)
	a := newAgent(t, func(v *visit) {
		v.accept()
		switch v.r.URL.Path {
		case "/streams":
			for b := rawws.Make(rawws.Fin|rawws.Binary, make([]byte, 64<<10), false); ; {
				if _, err := v.Write(b); err != nil {
					return
				}
			}
		case "/echoes":
			v.echoFrames()
		case "/never-reads":
			<-over
		}
	})
	g := start(t, plain(i, a.URL).with("session.stallTimeout", "10s"))
	gone, memory := g.leftovers(), g.metric("process_resident_memory_bytes")
	bearer := i.bearer(t)
	open := func(path string, flood []byte) *socket {
		s := g.connect(t, "/my-agent"+path, bearer)
		s.SetDeadline(time.Now().Add(time.Minute))
		if flood != nil {
			go func() {
				for {
					if _, err := s.Write(flood); err != nil {
						return
					}
				}
			}()
		}
		return s
	}
	began := time.Now()
	message := rawws.Make(rawws.Fin|rawws.Binary, make([]byte, 64<<10), true)
	pings := bytes.Repeat(rawws.Make(rawws.Fin|rawws.Ping, make([]byte, 125), true), 100)
	open("/streams", nil)
	open("/echoes", message)
	open("/echoes", pings) // H08
	reads := open("/never-reads", message)
	if word := reads.closed(3008); word != "dead-peer" {
		t.Errorf("reason %q", word)
	}
	eventually(t, "ended", func() bool { return len(g.log.with("msg", "ended", "reason", "dead-peer", "code", 3008)) == 4 })
	if took := time.Since(began); took < 9*time.Second || took > 25*time.Second {
		t.Errorf("given up after %v", took)
	}
	if grown := g.metric("process_resident_memory_bytes") - memory; grown > 64<<20 {
		t.Errorf("four sessions took %v MB", grown/(1<<20))
	}
	gone()
}

// A side that has said its Close and does not hear the other's may not keep the session open,
// nor may the other by talking on.
func TestH10CloseWithoutAnAnswerEndsTheSession(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		v.accept()
		if v.r.URL.Path == "/closes-and-goes" {
			v.Write(rawws.MakeClose(1008, "go away", false))
			rawws.Read(v.br)
			return
		}
		io.Copy(io.Discard, v.br) // and never answers a Close
	})
	g := start(t, plain(i, a.URL))
	gone := g.leftovers()

	silent := g.connect(t, "/my-agent/ws", i.bearer(t))
	silent.send(rawws.Fin|rawws.Close, []byte{3, 232})
	talks := g.connect(t, "/my-agent/closes-and-goes", i.bearer(t))
	if f := talks.frame(); f.Code() != 1008 {
		t.Fatalf("got %v", f)
	}
	for talking := true; talking; {
		_, err := talks.Write(rawws.Make(rawws.Fin|rawws.Text, []byte("still here"), true))
		talking = err == nil
		time.Sleep(50 * time.Millisecond) // talks on, slowly
	}
	silent.hungUp()
	g.awaitLine("msg", "ended", "reason", "dead-peer", "code", 1008, "err", "client did not answer the Close")
	g.awaitLine("msg", "ended", "reason", "dead-peer", "code", 3008, "err", "agent did not answer the Close")
	gone()
}

func TestH12HalfClosedSocketsEndTheSession(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		v.accept()
		if v.r.URL.Path == "/half" {
			v.Conn.(*net.TCPConn).CloseWrite()
		}
		io.Copy(io.Discard, v.br)
	})
	g := start(t, plain(i, a.URL))
	gone := g.leftovers()
	s := g.connect(t, "/my-agent/ws", i.bearer(t))
	s.Conn.(*net.TCPConn).CloseWrite()
	if word := s.closed(1001); word != "client-lost" {
		t.Errorf("reason %q", word)
	}
	s = g.connect(t, "/my-agent/half", i.bearer(t))
	if word := s.closed(1001); word != "upstream-lost" {
		t.Errorf("reason %q", word)
	}

	s = g.dial(t) // before there is a session
	s.say(rawws.Request("gateway.test", "/my-agent/ws", "X-No: token"))
	s.Conn.(*net.TCPConn).CloseWrite()
	s.hungUp()
	gone()
}

// What is not finished is not kept: bytes go on as they come, so an unfinished message costs no
// more than the kernel's buffers.
func TestH06UnfinishedMessagesAreNotBuffered(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, listener)
	g := start(t, plain(i, a.URL))
	memory := g.metric("process_resident_memory_bytes")
	const sessions, size = 20, 8 << 20
	frame := rawws.Make(rawws.Binary, make([]byte, size), true)
	for range sessions {
		s := g.connect(t, "/my-agent/ws", i.bearer(t))
		s.say(string(frame[:len(frame)-1]))
	}
	eventually(t, "moved", func() bool { return g.metric(`omnia_gateway_bytes_total{direction="in"}`) >= sessions*size })
	if grown := g.metric("process_resident_memory_bytes") - memory; grown > sessions*size/4 {
		t.Errorf("%d unfinished messages of %d MB took %v MB", sessions, size>>20, grown/(1<<20))
	}
}
