package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// A client that sends thirty messages at once has its burst echoed at once, the others at its pace
// and in their order; binary messages among them do not wait for their own sake, and the agent is
// held to bytes.
func TestMessagesAboveThePaceWaitAndAllArrive(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL).with("limits", settings{
		"messagesPerSecond": 20, "messagesBurst": 10, "fromAgent": settings{"bytesPerSecond": 1 << 20},
	}))
	s := g.connect(t, "/my-agent/ws", i.bearer(t))
	var b []byte
	for n := range 30 {
		b = append(b, rawws.Make(rawws.Fin|rawws.Text, fmt.Append(nil, n), true)...)
	}
	begun := time.Now()
	s.Write(b)
	for n := range 30 {
		if f := s.frame(); string(f.Payload) != fmt.Sprint(n) {
			t.Fatalf("message %d is %v", n, f)
		}
		took := time.Since(begun)
		if least := time.Duration(n-9) * 50 * time.Millisecond; took < least-time.Millisecond {
			t.Errorf("message %d came back after %v, want at least %v", n, took, least)
		}
	}
	for range 100 {
		s.send(rawws.Fin|rawws.Binary, []byte("audio"))
	}
	begun = time.Now()
	for range 100 {
		s.frame()
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("binary messages took %v", took)
	}
	s.send(rawws.Fin|rawws.Ping, []byte("ping"))
	if f := s.frame(); f.Op() != rawws.Pong {
		t.Errorf("got %v, want a Pong", f)
	}
	s.send(rawws.Fin|rawws.Close, []byte{3, 232})
	s.closed(1000)
	g.awaitLine("msg", "ended", "reason", "closed", "messages_in", 130, "messages_out", 130)
}

// A message that is larger than the burst of bytes takes its time, and comes whole.
func TestMessageAboveTheBurstOfBytesComesInTheEnd(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL).with("limits", settings{"bytesPerSecond": 100_000, "bytesBurst": 10_000}).
		with("session.pingInterval", "100ms"))
	s := g.connect(t, "/my-agent/ws", i.bearer(t))
	text := strings.Repeat("x", 110_000)
	begun := time.Now()
	s.text(text)
	for {
		f := s.frame()
		if f.Op() == rawws.Ping {
			s.send(rawws.Fin|rawws.Pong, f.Payload)
			continue
		}
		if string(f.Payload) != text {
			t.Fatalf("got %v", f)
		}
		break
	}
	if took := time.Since(begun); took < 990*time.Millisecond {
		t.Errorf("110,000 bytes came back after %v", took)
	}
}

// What a route says of its own sessions counts there and nowhere else.
func TestRouteHasLimitsAndTimesOfItsOwn(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	own, other := route("/own", a.URL), route("/other", a.URL)
	own["limits"] = settings{"maxMessageBytes": 100, "messagesPerSecond": 0, "fromAgent": settings{"messagesPerSecond": 2}}
	own["session"] = settings{"idleTimeout": "0s", "maxDuration": "3s"}
	other["session"] = settings{"closeOnTokenExpiry": false, "maxDuration": "1500ms", "idleTimeout": "0s"}
	g := start(t, plain(i, a.URL).with("routes", []any{own, other, route("/third", a.URL)}).
		with("limits.messagesPerSecond", 1).with("session.idleTimeout", "300ms").with("authentication.jwt.clockSkew", "0s"))

	idle := g.connect(t, "/third/ws", i.bearer(t))
	if word := idle.closed(1000); word != "idle" {
		t.Errorf("on a route that says nothing: %s", word)
	}
	s := g.connect(t, "/own/ws", i.bearer(t))
	begun := time.Now()
	for n := range 4 { // the agent may say two at once, and two each second
		s.text(fmt.Sprint(n))
	}
	for range 4 {
		s.frame()
	}
	if took := time.Since(begun); took < 990*time.Millisecond {
		t.Errorf("four messages of the agent within %v", took)
	}
	s.text(strings.Repeat("x", 101))
	if word := s.closed(1009); word != "message-too-big" {
		t.Errorf("a message of 101 bytes: %s", word)
	}
	s = g.connect(t, "/other/ws", i.bearer(t, "exp", inSeconds(0.5)))
	s.text(strings.Repeat("x", 101))
	if f := s.frame(); len(f.Payload) != 101 {
		t.Errorf("the other route gave %v", f)
	}
	if word := s.closed(1001); word != "max-duration" {
		t.Errorf("the other route, beyond the token's end: %s", word)
	}
}
