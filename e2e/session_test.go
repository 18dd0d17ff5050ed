package e2e

import (
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// inSeconds is a claim exp so far from now.
func inSeconds(n float64) float64 { return float64(time.Now().UnixMilli())/1000 + n }

func TestExpiredTokenClosesWith3000(t *testing.T) {
	i, codes := newIssuer(t), make(chan int, 1)
	g := start(t, plain(i, newAgent(t, closeAt(codes)).URL).with("authentication.jwt.clockSkew", "1s"))
	exp := inSeconds(1)
	s := g.connect(t, "/my-agent/ws", i.bearer(t, "exp", exp))
	if word := s.closed(3000); word != "expired" {
		t.Errorf("reason %q", word)
	}
	if now := inSeconds(0); now < exp+1 {
		t.Errorf("closed %v s before exp + clockSkew", exp+1-now)
	}
	if code := <-codes; code != 1001 {
		t.Errorf("the agent got %d, want 1001", code)
	}
	if line := g.awaitLine("msg", "ended"); line["reason"] != "expired" || line["code"] != 3000.0 || line["subject"] != "alice" {
		t.Errorf("the log says %v", line)
	}
	g.refused(t, 401, "expired", "/my-agent/ws", i.bearer(t, "exp", exp))
}

func TestExpiryGraceKeepsASessionBeyondItsToken(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL).with("authentication.jwt.clockSkew", "0s").with("session.expiryGrace", "1s"))
	exp := inSeconds(1)
	s := g.connect(t, "/my-agent/ws", i.bearer(t, "exp", exp))
	s.closed(3000)
	if now := inSeconds(0); now < exp+1 {
		t.Errorf("closed %v s before exp + expiryGrace", exp+1-now)
	}
}

func TestSessionOutlivesItsTokenIfSoConfigured(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL).with("authentication.jwt.clockSkew", "0s").with("session.closeOnTokenExpiry", false))
	exp := inSeconds(0.5)
	s := g.connect(t, "/my-agent/ws", i.bearer(t, "exp", exp))
	eventually(t, "expired", func() bool { return inSeconds(0) > exp+0.2 })
	s.echoes("still here")
}

func TestLostClientIsToldToTheAgentAs1001(t *testing.T) {
	i, codes := newIssuer(t), make(chan int, 1)
	g := start(t, plain(i, newAgent(t, closeAt(codes)).URL))
	s := g.connect(t, "/my-agent/ws", i.bearer(t))
	s.Close()
	if code := <-codes; code != 1001 {
		t.Errorf("the agent got %d, want 1001", code)
	}
	g.awaitLine("msg", "ended", "reason", "client-lost", "code", 1001)
}

func TestLostAgentIsToldToTheClientAs1001(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, func(v *visit) { v.accept() }).URL))
	s := g.connect(t, "/my-agent/ws", i.bearer(t))
	if word := s.closed(1001); word != "upstream-lost" {
		t.Errorf("reason %q", word)
	}
	g.awaitLine("msg", "ended", "reason", "upstream-lost", "code", 1001)
}

func TestIdleSessionEndsWith1000(t *testing.T) {
	i, codes := newIssuer(t), make(chan int, 1)
	g := start(t, plain(i, newAgent(t, closeAt(codes)).URL).with("session.idleTimeout", "300ms"))
	s := g.connect(t, "/my-agent/ws", i.bearer(t))
	if word := s.closed(1000); word != "idle" {
		t.Errorf("reason %q", word)
	}
	if code := <-codes; code != 1001 {
		t.Errorf("the agent got %d, want 1001", code)
	}
}

func TestSilentClientIsAskedAndGivenUpWith3008(t *testing.T) {
	i, codes := newIssuer(t), make(chan int, 1)
	a := newAgent(t, func(v *visit) {
		v.accept()
		for {
			f, err := rawws.Read(v.br)
			if err != nil {
				return
			}
			switch f.Op() {
			case rawws.Ping:
				v.Write(rawws.Make(rawws.Fin|rawws.Pong, f.Payload, false))
			case rawws.Close:
				codes <- f.Code()
				return
			}
		}
	})
	g := start(t, plain(i, a.URL).with("session.pingInterval", "200ms"))
	s := g.connect(t, "/my-agent/ws", i.bearer(t))
	for range 3 { // as long as the Pings are answered, nothing happens
		f := s.frame()
		if f.Op() != rawws.Ping {
			t.Fatalf("got %v, want a Ping", f)
		}
		s.send(rawws.Fin|rawws.Pong, f.Payload)
	}
	if word := s.closed(3008); word != "dead-peer" { // closed reads on over the Ping that is not answered
		t.Errorf("reason %q", word)
	}
	if code := <-codes; code != 1001 {
		t.Errorf("the agent got %d, want 1001", code)
	}
}

func TestSIGTERMDrainsAThousandSessions(t *testing.T) {
	i := newIssuer(t)
	a := newAgent(t, nil)
	g := start(t, plain(i, a.URL).with("session.drainTimeout", "15s"))
	const sessions = 1000
	bearer := i.bearer(t)
	sockets := make([]*socket, sessions)
	for n := range sockets {
		sockets[n] = g.connect(t, "/my-agent/ws", bearer)
		sockets[n].SetDeadline(time.Now().Add(time.Minute))
	}
	if live := g.metric("omnia_gateway_connections"); live != sessions {
		t.Fatalf("%v connections, want %d", live, sessions)
	}

	var wg sync.WaitGroup
	var mu sync.Mutex
	var first time.Time
	codes := map[int]int{}
	for _, s := range sockets {
		wg.Go(func() {
			f, err := rawws.Read(s.br)
			mu.Lock()
			if first.IsZero() {
				first = time.Now()
			}
			if err == nil {
				codes[f.Code()]++
			}
			mu.Unlock()
			if err == nil {
				s.Write(rawws.MakeClose(f.Code(), "", true))
			}
		})
	}
	began := time.Now()
	g.cmd.Process.Signal(syscall.SIGTERM)
	eventually(t, "unready", func() bool { code, _ := g.ask("/readyz"); return code == http.StatusServiceUnavailable })
	unready := time.Now()
	if r := g.refused(t, 503, "drain", "/my-agent/ws", bearer); r.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	<-g.ended
	took := time.Since(began)
	wg.Wait()
	if codes[1001] != sessions {
		t.Errorf("Close codes %v, want 1001 for all %d", codes, sessions)
	}
	if !unready.Before(first) {
		t.Errorf("the first Close came %v before /readyz was 503", unready.Sub(first))
	}
	if took > 15*time.Second {
		t.Errorf("the drain took %v, more than its 15 s", took)
	}
	if code := g.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit %d", code)
	}
	t.Logf("drained in %v; /readyz was 503 %v before the first Close", took, first.Sub(unready))
}

func TestDrainIsDoneAtOnceWhenNoSessionIsLeft(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL).with("session.drainTimeout", "10m"))
	g.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-g.ended:
	case <-time.After(patience):
		t.Error("still draining, with nothing to drain")
	}
}

func TestInterruptDrainsWithinASecondOrSo(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL).with("session.drainTimeout", "10m"))
	s := g.connect(t, "/my-agent/ws", i.bearer(t))
	g.cmd.Process.Signal(syscall.SIGINT)
	s.closed(1001)
	select {
	case <-g.ended:
	case <-time.After(patience):
		t.Error("SIGINT waits for drainTimeout")
	}
}

func TestSecondSignalEndsEverything(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL).with("session.drainTimeout", "10m"))
	for range 50 {
		g.connect(t, "/my-agent/ws", i.bearer(t))
	}
	g.cmd.Process.Signal(syscall.SIGTERM)
	g.awaitLine("msg", "draining")
	g.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-g.ended:
	case <-time.After(patience):
		t.Error("the second signal changed nothing")
	}
}

func TestLimitsOfConnections(t *testing.T) {
	for _, tt := range []struct {
		limit, reason string
		status        int
		other         []any // claims of a user who is still admitted; nil: no user is
	}{
		{"maxConnections", "too-many-connections", 503, nil},
		{"maxConnectionsPerUser", "too-many-user-connections", 429, []any{"sub", "bob"}},
		{"maxConnectionsPerIP", "too-many-address-connections", 429, nil},
	} {
		t.Run(tt.limit, func(t *testing.T) {
			i, a := newIssuer(t), newAgent(t, nil)
			g := start(t, plain(i, a.URL).with("limits."+tt.limit, 2))
			first := g.connect(t, "/my-agent/ws", i.bearer(t))
			g.connect(t, "/my-agent/ws", i.bearer(t))
			a.request(t)
			a.request(t)
			if r := g.refused(t, tt.status, tt.reason, "/my-agent/ws", i.bearer(t)); r.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			a.untouched(t)
			if tt.other != nil {
				g.connect(t, "/my-agent/ws", i.bearer(t, tt.other...)).echoes("I am another")
			}
			first.send(rawws.Fin|rawws.Close, []byte{3, 232})
			first.closed(1000)
			g.awaitLine("msg", "ended", "remote", first.LocalAddr().String())
			g.connect(t, "/my-agent/ws", i.bearer(t)).echoes("there is room again")
		})
	}
}

func TestQuietSessionsHaveNoGoroutines(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("sessions are not parked on this system")
	}
	i := newIssuer(t)
	g := startSecure(t, plain(i, newAgent(t, nil).URL), true)
	before := g.held()
	sockets := make([]*socket, 100)
	for n := range sockets {
		sockets[n] = g.connect(t, "/my-agent/ws", i.bearer(t))
		sockets[n].echoes("before")
	}
	for range 2 {
		eventually(t, "parked", func() bool { return g.held().goroutines < before.goroutines+len(sockets)/4 })
		for _, s := range sockets {
			s.echoes("after")
		}
	}
	if n := g.metric("omnia_gateway_connections"); n != float64(len(sockets)) {
		t.Errorf("%v sessions are open", n)
	}
}

func TestSlowHandshakeIsGivenUp(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL).with("limits.handshakeTimeout", "300ms"))
	for name, text := range map[string]string{"nothing": "", "half a head": "GET /my-agent/ws HTTP/1.1\r\nHost: gate"} {
		t.Run(name, func(t *testing.T) {
			s := g.dial(t)
			s.say(text)
			s.hungUp()
		})
	}
}

func TestTooLongHeadIsRefused(t *testing.T) {
	i, a := newIssuer(t), newAgent(t, nil)
	g := start(t, plain(i, a.URL).with("limits.maxHeaderBytes", 8192).with("limits.maxTokenBytes", 4096))
	s, r := g.handshake(t, "/my-agent/ws", i.bearer(t), "X-Long: "+strings.Repeat("x", 9000))
	if r.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %s", r.Status)
	}
	s.hungUp()
	a.untouched(t)
	g.connect(t, "/my-agent/ws", i.bearer(t), "X-Long: "+strings.Repeat("x", 4000)).echoes("short enough")
}

func TestSilentAgentIs504(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, func(v *visit) { io.Copy(io.Discard, v.br) }).URL).with("limits.upstreamTimeout", "300ms"))
	g.refused(t, 504, "upstream-timeout", "/my-agent/ws", i.bearer(t))
}

func TestSessionsAreShownToOperators(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL))
	s, r := g.handshake(t, "/my-agent/ws", i.bearer(t))
	s.echoes("12345")
	id := r.Header.Get("X-Gateway-Session")
	eventually(t, "shown", func() bool {
		_, body := g.ask("/sessions")
		for _, want := range []string{`"session": "` + id + `"`, `"subject": "alice"`, `"route": "/my-agent"`, `"messages_in": 1`,
			`"messages_out": 1`, `"bytes_in": 11`, `"bytes_out": 7`} {
			if !strings.Contains(body, want) {
				return false
			}
		}
		return id != ""
	})
	if n := g.metric(`omnia_gateway_messages_total{direction="in"}`); n != 1 {
		t.Errorf("messages in: %v", n)
	}
}
