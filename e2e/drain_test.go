package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// drained asks for a drain or takes it back, and holds the answer to a status.
func (g *gateway) drained(method string, status int) (sessions int) {
	g.t.Helper()
	var answer struct{ Sessions int }
	if code := g.command(method, "/drain", "", &answer); code != status {
		g.t.Errorf("%s /drain: %d, want %d", method, code, status)
	}
	return answer.Sessions
}

func (g *gateway) readiness() int {
	code, _ := g.ask("/readyz")
	return code
}

func TestDrainWithoutExitCanBeUndone(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, answering).URL).with("session.drainTimeout", "1s").with("session.drainCode", 1012))
	bearer := i.bearer(t)
	if g.drained("DELETE", 200); g.readiness() != 200 {
		t.Error("nothing was undone, and the gateway is not ready")
	}
	s := g.connect(t, "/my-agent/ws", bearer)
	if n := g.drained("POST", 202); n != 1 {
		t.Errorf("%d live sessions", n)
	}
	if g.readiness() != 503 {
		t.Error("ready in a drain")
	}
	if word := s.closed(1012); word != "drain" {
		t.Errorf("reason %q", word)
	}
	g.awaitLine("msg", "ended", "reason", "drain", "code", 1012)
	g.drained("POST", 202) // again: nothing changes
	g.refused(t, 503, "drain", "/my-agent/ws", bearer)
	if code := g.plainHTTP(t, bearer); code != 200 {
		t.Errorf("plain HTTP in a drain: %d", code)
	}
	if g.drained("DELETE", 200); g.readiness() != 200 {
		t.Error("the drain is undone, and the gateway is not ready")
	}
	g.connect(t, "/my-agent/ws", bearer).echoes("again")
}

// answering is an agent for both: it answers plain HTTP and echoes a WebSocket.
func answering(v *visit) {
	if v.r.Header.Get("Upgrade") != "" {
		v.echo()
		return
	}
	io.WriteString(v, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
}

// plainHTTP returns the status of a plain request.
func (g *gateway) plainHTTP(t *testing.T, bearer string) int {
	t.Helper()
	s := g.dial(t)
	defer s.Close()
	s.say("GET /my-agent/x HTTP/1.1\r\nHost: gateway.test\r\n" + bearer + "\r\n\r\n")
	return s.answer().StatusCode
}

func TestUndoneDrainKeepsTheSessionsThatWereNotTold(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL).with("session.drainTimeout", "10m").with("session.drainDelay", "2s"))
	s := g.connect(t, "/my-agent/ws", i.bearer(t))
	g.drained("POST", 202)
	late := g.connect(t, "/my-agent/ws", i.bearer(t)) // in the delay
	if g.readiness() != 503 {
		t.Error("ready in the delay of a drain")
	}
	g.drained("DELETE", 200)
	s.echoes("still here")
	late.echoes("me too")
}

func TestSIGTERMEndsADrainWithoutExit(t *testing.T) {
	i := newIssuer(t)
	file := plain(i, newAgent(t, nil).URL).with("session.drainTimeout", "10m").write(t)
	g := startFile(t, file)
	g.awaitReady()
	sockets := []*socket{g.connect(t, "/my-agent/ws", i.bearer(t)), g.connect(t, "/my-agent/ws", i.bearer(t))}
	g.drained("POST", 202) // over ten minutes
	reloaded := plain(i, "http://127.0.0.1:1").with("session.drainTimeout", "2s")
	text, err := os.ReadFile(reloaded.with("listen", "127.0.0.1:0").write(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := g.command("POST", "/reload", "", nil); code != 200 {
		t.Fatalf("reload: %d", code)
	}
	g.cmd.Process.Signal(syscall.SIGTERM)
	eventually(t, "leaving for good", func() bool { return g.command("DELETE", "/drain", "", nil) == 409 })
	for _, s := range sockets {
		s.closed(1001)
	}
	<-g.ended
	if code := g.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit %d", code)
	}
}

func TestSocketsAreTakenInTheDelayAfterSIGTERM(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL).with("session.drainDelay", "1s").with("session.drainTimeout", "1s"))
	began := time.Now()
	g.cmd.Process.Signal(syscall.SIGTERM)
	eventually(t, "unready", func() bool { return g.readiness() == 503 })
	s := g.connect(t, "/my-agent/ws", i.bearer(t))
	s.echoes("taken")
	s.closed(1001)
	<-g.ended
	if took := time.Since(began); took < time.Second {
		t.Errorf("ended after %v", took)
	}
}

func TestSessionEndsAfterMaxDuration(t *testing.T) {
	i, codes := newIssuer(t), make(chan int, 1)
	g := start(t, plain(i, newAgent(t, closeAt(codes)).URL).with("session.maxDuration", "300ms"))
	if word := g.connect(t, "/my-agent/ws", i.bearer(t)).closed(1001); word != "max-duration" {
		t.Errorf("reason %q", word)
	}
	if code := <-codes; code != 1001 {
		t.Errorf("the agent got %d, want 1001", code)
	}
	g.awaitLine("msg", "ended", "reason", "max-duration", "code", 1001)
}

// Sessions end evenly over the drain, and one that is in the middle of a message of 10 MB, on its
// way to the agent or from it, has it whole before the Close. `make soak` has 2,000 sessions.
func TestDrainIsEvenAndCutsNoFrame(t *testing.T) {
	const size, large = 10 << 20, 10
	sessions := 300
	if os.Getenv("OMNIA_SOAK_MB") != "" {
		sessions = 2000
	}
	i, bigs := newIssuer(t), make(chan error, 2*large)
	a := newAgent(t, func(v *visit) {
		v.accept()
		switch v.r.URL.Path {
		case "/hears":
			f, err := rawws.Read(v.br)
			if err == nil && len(f.Payload) != size {
				err = fmt.Errorf("the agent got %v", f)
			}
			bigs <- err
		case "/says":
			b := rawws.Make(rawws.Fin|rawws.Binary, make([]byte, size), false)
			v.Write(b[:size/2])
			if f, err := rawws.Read(v.br); err != nil || f.Op() != rawws.Close {
				t.Errorf("the agent got %v %v, want a Close", f, err)
			}
			v.Write(b[size/2:])
		}
		v.echoFrames()
	})
	g := start(t, plain(i, a.URL).with("session.drainTimeout", "5s"))
	bearer, whole := i.bearer(t), rawws.Make(rawws.Fin|rawws.Binary, make([]byte, size), true)
	var mu sync.Mutex
	var closed []time.Time
	var wg sync.WaitGroup
	var ready sync.WaitGroup
	for n := range sessions {
		path := "/my-agent/ws"
		switch {
		case n < large:
			path = "/my-agent/hears"
		case n < 2*large:
			path = "/my-agent/says"
		}
		s := g.connect(t, path, bearer)
		s.SetDeadline(time.Now().Add(time.Minute))
		ready.Add(1)
		wg.Go(func() {
			rest := []byte(nil)
			switch path {
			case "/my-agent/hears":
				s.Write(whole[:size/2])
				rest = whole[size/2:]
			case "/my-agent/says":
				s.br.Peek(1)
			}
			ready.Done()
			f, err := rawws.Read(s.br)
			if path == "/my-agent/says" {
				if err == nil && !bytes.Equal(f.Payload, make([]byte, size)) {
					err = fmt.Errorf("the client got %v", f)
				}
				bigs <- err
				f, err = rawws.Read(s.br)
			}
			now := time.Now()
			if err != nil || f.Code() != 1001 {
				t.Errorf("got %v %v, want a Close 1001", f, err)
				return
			}
			mu.Lock()
			closed = append(closed, now)
			mu.Unlock()
			s.Write(rest)
			s.Write(rawws.MakeClose(1001, "", true))
			io.Copy(io.Discard, s.br)
		})
	}
	ready.Wait()
	begun := time.Now()
	g.cmd.Process.Signal(syscall.SIGTERM)
	wg.Wait()
	<-g.ended
	if code := g.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit %d", code)
	}
	for range 2 * large {
		if err := <-bigs; err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(begun); took > 5*time.Second+patience {
		t.Errorf("the drain of 5 s took %v", took)
	}
	var ended []time.Duration
	for _, at := range closed {
		ended = append(ended, at.Sub(begun))
	}
	slices.Sort(ended)
	if len(ended) != sessions || len(g.log.with("msg", "ended", "reason", "drain", "code", 1001)) != sessions {
		t.Fatalf("%d clients of %d got their Close", len(ended), sessions)
	}
	first, last := ended[0], ended[sessions-1]
	if last-first < 3*time.Second {
		t.Errorf("all got their Close within %v", last-first)
	}
	for quarter := range 4 {
		from, to := first+(last-first)*time.Duration(quarter)/4, first+(last-first)*time.Duration(quarter+1)/4
		n := 0
		for _, at := range ended {
			if at > from && at <= to {
				n++
			}
		}
		if n < sessions/4-sessions/10 || n > sessions/4+sessions/10 {
			t.Errorf("%d of %d sessions in the quarter of the drain after %v", n, sessions, from)
		}
	}
	t.Logf("%d sessions got their Close from %v to %v after SIGTERM, and the last frame of 10 MB was whole", sessions,
		first.Round(time.Millisecond), last.Round(time.Millisecond))
}
