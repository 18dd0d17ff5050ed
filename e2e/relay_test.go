package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

func TestFirstFrameInTheSegmentOfTheHandshakeArrives(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL))
	s := g.dial(t)
	s.say(rawws.Request("gateway.test", "/my-agent/ws", i.bearer(t)) + string(rawws.Make(rawws.Fin|rawws.Text, []byte("early"), true)))
	if r := s.answer(); r.StatusCode != 101 {
		t.Fatalf("got %s", r.Status)
	}
	if f := s.frame(); string(f.Payload) != "early" {
		t.Errorf("got %v, want the echo of the early frame", f)
	}
}

func TestFrameInTheSegmentOfTheAgents101Arrives(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		io.WriteString(v, rawws.Response(v.r)+string(rawws.Make(rawws.Fin|rawws.Text, []byte("hello"), false)))
		v.echoFrames()
	})
	g := start(t, plain(i, a.URL))
	s := g.connect(t, "/my-agent/ws", i.bearer(t))
	if f := s.frame(); string(f.Payload) != "hello" {
		t.Errorf("got %v, want the agent's hello", f)
	}
	s.echoes("and on it goes")
}

// closeAt is an agent that answers the handshake and then hands the code of the Close it gets to
// the channel.
func closeAt(codes chan<- int) func(*visit) {
	return func(v *visit) {
		v.accept()
		codes <- v.closeCode()
	}
}

// closeCode reads on until the Close, answers it, and gives its code; -1 if there was none.
func (v *visit) closeCode() int {
	for {
		f, err := rawws.Read(v.br)
		if err != nil {
			return -1
		}
		if f.Op() == rawws.Close {
			v.Write(rawws.MakeClose(f.Code(), "", false))
			return f.Code()
		}
	}
}

func TestIllegalFrameOfTheClientEndsItWith1002(t *testing.T) {
	i, codes := newIssuer(t), make(chan int, 1)
	g := start(t, plain(i, newAgent(t, closeAt(codes)).URL))
	for name, frame := range rawws.Illegal(true) {
		t.Run(name, func(t *testing.T) {
			s := g.connect(t, "/my-agent/ws", i.bearer(t))
			s.say(string(frame))
			s.closed(1002)
			if code := <-codes; code != 1001 {
				t.Errorf("the agent got %d, want 1001", code)
			}
			if line := g.awaitLine("msg", "ended", "remote", s.LocalAddr().String()); line["reason"] != "protocol-error" {
				t.Errorf("the log says %v", line["reason"])
			}
		})
	}
}

func TestIllegalFrameOfTheAgentEndsItWith1002AndTheClientWith1011(t *testing.T) {
	i, codes := newIssuer(t), make(chan int, 1)
	illegal := rawws.Illegal(false)
	a := newAgent(t, func(v *visit) {
		v.accept()
		v.Write(illegal[v.r.Header.Get("X-Case")])
		codes <- v.closeCode()
	})
	g := start(t, plain(i, a.URL))
	for name := range illegal {
		t.Run(name, func(t *testing.T) {
			s := g.connect(t, "/my-agent/ws", i.bearer(t), "X-Case: "+name)
			if word := s.closed(1011); word != "protocol-error" {
				t.Errorf("reason %q", word)
			}
			if code := <-codes; code != 1002 {
				t.Errorf("the agent got %d, want 1002", code)
			}
		})
	}
}

func TestTextThatIsNoUTF8PassesUntouched(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL))
	g.connect(t, "/my-agent/ws", i.bearer(t)).echoes("\xff\xfe\xc3")
}

func TestFragmentsPingsAndPongsPassAsTheyAre(t *testing.T) {
	i := newIssuer(t)
	sent := [][]byte{
		rawws.Make(rawws.Text, []byte("first "), false),
		rawws.Make(rawws.Fin|rawws.Ping, []byte("between"), false),
		rawws.Make(rawws.Continuation, nil, false),
		rawws.Make(rawws.Fin|rawws.Pong, []byte("unasked"), false),
		rawws.Make(rawws.Fin|rawws.Continuation, []byte("last"), false),
	}
	heard := make(chan []rawws.Frame, 1)
	a := newAgent(t, func(v *visit) {
		v.accept()
		v.Write(bytes.Join(sent, nil))
		var frames []rawws.Frame
		for range sent {
			f, err := rawws.Read(v.br)
			if err != nil {
				break
			}
			frames = append(frames, f)
		}
		heard <- frames
		v.echoFrames()
	})
	g := start(t, plain(i, a.URL))
	s := g.connect(t, "/my-agent/ws", i.bearer(t))
	compare := func(side string, got rawws.Frame, want []byte) {
		t.Helper()
		w, _ := rawws.Read(bufio.NewReader(bytes.NewReader(want)))
		if got.First != w.First || !bytes.Equal(got.Payload, w.Payload) {
			t.Errorf("%s got %v, want %v", side, got, w)
		}
	}
	for _, want := range sent {
		f := s.frame()
		compare("the client", f, want)
		s.send(f.First, f.Payload)
	}
	for n, f := range <-heard {
		compare("the agent", f, sent[n])
		if !f.Masked {
			t.Error("the agent got an unmasked frame")
		}
	}
}

func TestCompressedFramesPassOnceNegotiated(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		v.accept("Sec-WebSocket-Extensions: permessage-deflate")
		v.echoFrames()
	})
	g := start(t, plain(i, a.URL))
	s := g.connect(t, "/my-agent/ws", i.bearer(t), "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
	s.send(rawws.Fin|0x40|rawws.Text, []byte("not really deflate, but no side looks"))
	if f := s.frame(); f.First != rawws.Fin|0x40|rawws.Text {
		t.Errorf("got %v, want RSV1 kept", f)
	}
	s.send(rawws.Fin|0x20|rawws.Text, []byte("RSV2 was not negotiated"))
	s.closed(1002)
}

func TestMessageOverTheLimitEndsWith1009(t *testing.T) {
	i, codes := newIssuer(t), make(chan int, 1)
	a := newAgent(t, closeAt(codes))
	g := start(t, plain(i, a.URL).with("limits.maxMessageBytes", 1000))
	for name, frames := range map[string][][]byte{
		"one frame": {rawws.Make(rawws.Fin|rawws.Binary, make([]byte, 1001), true)},
		"fragments": {rawws.Make(rawws.Binary, make([]byte, 600), true), rawws.Make(rawws.Fin|rawws.Continuation, make([]byte, 401), true)},
		"announced": {{rawws.Fin | rawws.Binary, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			s := g.connect(t, "/my-agent/ws", i.bearer(t))
			s.say(string(bytes.Join(frames, nil)))
			if word := s.closed(1009); word != "message-too-big" {
				t.Errorf("reason %q", word)
			}
			if code := <-codes; code != 1001 {
				t.Errorf("the agent got %d, want 1001", code)
			}
		})
	}
}

func TestCloseOfEitherSidePassesUnchanged(t *testing.T) {
	i, got := newIssuer(t), make(chan rawws.Frame, 1)
	a := newAgent(t, func(v *visit) {
		v.accept()
		for {
			f, err := rawws.Read(v.br)
			if err != nil {
				return
			}
			if f.Op() == rawws.Text { // asked to begin the Close itself
				code, reason, _ := strings.Cut(string(f.Payload), " ")
				n, _ := strconv.Atoi(code)
				v.Write(rawws.MakeClose(n, reason, false))
				continue
			}
			got <- f
			if v.r.Header.Get("X-Begins") == "" {
				v.Write(rawws.Make(rawws.Fin|rawws.Close, f.Payload, false))
			}
			return
		}
	})
	g := start(t, plain(i, a.URL))
	for _, tt := range []struct {
		code   int
		reason string
	}{{0, ""}, {1000, "done"}, {1001, ""}, {1014, "bad gateway"}, {3000, "application's own"}, {4999, strings.Repeat("r", 123)}} {
		want := rawws.MakeClose(tt.code, tt.reason, false)[2:]

		s := g.connect(t, "/my-agent/ws", i.bearer(t))
		s.send(rawws.Fin|rawws.Close, want)
		if f := s.frame(); !bytes.Equal(f.Payload, want) {
			t.Errorf("client began with %d %q and got %v back", tt.code, tt.reason, f)
		}
		s.hungUp()
		if f := <-got; !bytes.Equal(f.Payload, want) {
			t.Errorf("client began with %d %q, the agent got %v", tt.code, tt.reason, f)
		}
		line := g.awaitLine("msg", "ended", "remote", s.LocalAddr().String())
		if line["reason"] != "closed" || line["code"] != float64(tt.code) {
			t.Errorf("the log says %v %v, want closed %d", line["reason"], line["code"], tt.code)
		}

		s = g.connect(t, "/my-agent/ws", i.bearer(t), "X-Begins: agent")
		s.text(fmt.Sprintf("%d %s", tt.code, tt.reason))
		if f := s.frame(); !bytes.Equal(f.Payload, want) {
			t.Errorf("agent began with %d %q, the client got %v", tt.code, tt.reason, f)
		}
		s.send(rawws.Fin|rawws.Close, want)
		s.hungUp()
		if f := <-got; !bytes.Equal(f.Payload, want) {
			t.Errorf("agent began with %d %q and got %v back", tt.code, tt.reason, f)
		}
	}
}
