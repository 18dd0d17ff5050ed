package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startPiped starts a gateway whose log goes into a pipe that the test reads up to the line
// "listening", and no further.
func startPiped(t *testing.T, s settings) (*gateway, *os.File) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	g := &gateway{t: t, log: newLogLines(), ended: make(chan struct{})}
	g.cmd = exec.Command(binary, "serve", "--config", s.write(t))
	g.cmd.Env, g.cmd.Stderr = environment(), writer
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	go func() { g.cmd.Wait(); close(g.ended) }()
	t.Cleanup(func() {
		g.cmd.Process.Kill()
		<-g.ended
	})
	reader.SetReadDeadline(time.Now().Add(patience))
	for lines := bufio.NewReader(reader); g.public == ""; {
		text, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		var line struct{ Msg, Public, Admin string }
		if json.Unmarshal([]byte(text), &line); line.Msg == "listening" {
			g.public, g.admin = line.Public, line.Admin
		}
	}
	g.awaitReady()
	return g, reader
}

// endsInTime ends a gateway with SIGTERM and returns its exit status.
func (g *gateway) endsInTime(t *testing.T, limit time.Duration) {
	t.Helper()
	start := time.Now()
	g.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-g.ended:
	case <-time.After(patience):
		t.Fatal("the process does not end")
	}
	if took := time.Since(start); took > limit || g.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("it took %s to end: %v", took, g.cmd.ProcessState)
	}
}

// flood makes more log lines than the pipe and the queue of lines hold.
func (g *gateway) flood(t *testing.T, n int) {
	t.Helper()
	s := g.dial(t)
	go io.WriteString(s, strings.Repeat("GET /my-agent/"+strings.Repeat("x", 200)+" HTTP/1.1\r\nHost: gateway.test\r\n\r\n", n))
	for range n {
		resp := s.answer()
		io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != 401 {
			t.Fatal(resp.Status)
		}
	}
}

func TestK11LogThatIsNotReadHoldsUpNothing(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, (*visit).echo)
	g, reader := startPiped(t, plain(i, a.URL))
	s := g.connect(t, "/my-agent/ws", i.bearer(t))
	g.flood(t, 6000)
	s.echoes("still here")
	if n := g.metric("omnia_gateway_log_lines_dropped_total"); n < 100 {
		t.Errorf("%v lines are counted as dropped", n)
	}
	// With room again the log goes on, and reports what it lost.
	found := make(chan error, 1)
	go func() {
		for lines := bufio.NewScanner(reader); lines.Scan(); {
			if strings.Contains(lines.Text(), "log lines dropped") {
				found <- nil
				return
			}
		}
		found <- fmt.Errorf("the log does not report what it lost")
	}()
	if err := <-found; err != nil {
		t.Error(err)
	}
	g.flood(t, 6000) // and stalls again
	g.endsInTime(t, 5*time.Second)
}

func TestK12LogWhoseReaderHasDiedEndsNothing(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, (*visit).echo)
	g, reader := startPiped(t, plain(i, a.URL))
	s := g.connect(t, "/my-agent/ws", i.bearer(t))
	reader.Close()
	g.flood(t, 100)
	s.echoes("still here")
	g.endsInTime(t, 5*time.Second)
}

// What an agent sends without being asked is no line of the log, and not in one.
func TestBytesAfterAnAnswerAreNotInTheLog(t *testing.T) {
	i, gone := newIssuer(t), make(chan struct{})
	a := newAgent(t, func(v *visit) {
		io.WriteString(v, "HTTP/1.1 204 No Content\r\n\r\nsecret")
		io.Copy(io.Discard, v.br) // until the gateway gives the connection up, which it logs first
		close(gone)
	})
	g := start(t, plain(i, a.URL))
	g.one(t, 204, plainRequest("GET", "/my-agent/x", i.bearer(t)))
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("the connection is still kept")
	}
	g.stop()
	if strings.Contains(g.log.text(), "secret") {
		t.Errorf("%s", g.log.text())
	}
}
