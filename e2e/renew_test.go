package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/redistest"
)

// renewed is the answer to a renewal.
type renewed struct {
	Status   int
	Reason   string
	Sessions []struct {
		Session, Route, Reason string
		Expires                time.Time
	}
}

// renew asks the gateway to renew sessions of the token's user.
func (g *gateway) renew(t *testing.T, token, query string) (answer renewed) {
	t.Helper()
	s := g.dial(t)
	defer s.Close()
	s.say("POST /.gateway/renew" + query + " HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer " + token + "\r\n\r\n")
	r := s.answer()
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
		t.Errorf("the answer to a renewal: %v", err)
	}
	answer.Status = r.StatusCode
	return answer
}

// isSoak reports whether long tests were asked for.
func isSoak() bool { return os.Getenv("OMNIA_SOAK_SECONDS") != "" }

// slowest remembers the longest of many times.
type slowest struct{ atomic.Int64 }

func (s *slowest) saw(d time.Duration) {
	for {
		if was := s.Load(); int64(d) <= was || s.CompareAndSwap(was, int64(d)) {
			return
		}
	}
}

// A token of 5 s is renewed every 3 s for 30 s (in the quick form: 4 s, 1.5 s, 7 s) while data
// flows over a WebSocket, both ways, and over a stream of events: each byte arrives, in order, and
// none waits for a renewal. With replicas, WebSocket and stream are at two of them, and the
// renewals go to each in turn.
func TestRenewedSessionsLoseNoByte(t *testing.T) {
	t.Run("one gateway", func(t *testing.T) {
		renewsWithoutLoss(t, func(s settings) []*gateway { return []*gateway{start(t, s)} })
	})
	t.Run("three replicas", func(t *testing.T) {
		renewsWithoutLoss(t, func(s settings) []*gateway {
			redis := redistest.Start(t)
			return startReplicas(t, s, 3, func(int) string { return redis.Addr })
		})
	})
}

func renewsWithoutLoss(t *testing.T, run func(s settings) []*gateway) {
	life, every, length := 4*time.Second, 1500*time.Millisecond, 7*time.Second
	if isSoak() {
		life, every, length = 5*time.Second, 3*time.Second, 30*time.Second
	}
	const event = "data: %d %d\n\n" // its number, and when it was sent
	i := newIssuer(t)
	a := newAgent(t, func(v *visit) {
		if v.r.Header.Get("Upgrade") != "" {
			v.echo()
			return
		}
		io.WriteString(v, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			if _, err := fmt.Fprintf(v, event, n, time.Now().UnixNano()); err != nil {
				return
			}
			<-tick.C
		}
	})
	all := run(plain(i, a.URL).with("authentication.jwt.clockSkew", "0s"))
	first, last := all[0], all[len(all)-1]
	token := func() string { return i.token(t, "exp", inSeconds(life.Seconds())) }
	began := time.Now()
	done := make(chan struct{})
	var wg sync.WaitGroup

	socket := first.connect(t, "/my-agent/ws", "Authorization: Bearer "+token())
	socket.SetDeadline(began.Add(length + patience))
	var echo, late slowest
	var echoes, events atomic.Int64
	wg.Go(func() {
		payload := []byte(strings.Repeat("x", 2000))
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			sent := time.Now()
			message := fmt.Appendf(nil, "%d %s", n, payload)
			socket.Write(rawws.Make(rawws.Fin|rawws.Text, message, true))
			f, err := rawws.Read(socket.br)
			if err != nil || string(f.Payload) != string(message) {
				t.Errorf("message %d: got %v, %v", n, f, err)
				return
			}
			echo.saw(time.Since(sent))
			echoes.Add(1)
			time.Sleep(2 * time.Millisecond)
		}
	})
	stream := last.dial(t)
	stream.SetDeadline(began.Add(length + patience))
	stream.say("GET /my-agent/events HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer " + token() + "\r\n\r\n")
	resp, err := http.ReadResponse(stream.br, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v, %v", resp, err)
	}
	wg.Go(func() {
		body := bufio.NewReader(resp.Body)
		for n := 0; ; n++ {
			var number int
			var sent int64
			line, err := body.ReadString('\n')
			fmt.Sscanf(line, event, &number, &sent)
			if _, e := body.ReadString('\n'); err != nil || e != nil || number != n {
				t.Errorf("event %d: got %q, %v, %v", n, line, err, e)
				return
			}
			late.saw(time.Since(time.Unix(0, sent)))
			events.Add(1)
			select {
			case <-done:
				return
			default:
			}
		}
	})
	renewals := 0
	for next := began.Add(every); next.Before(began.Add(length)); next = next.Add(every) {
		time.Sleep(time.Until(next))
		r := all[renewals%len(all)].renew(t, token(), "")
		if renewals++; r.Status != 200 || len(r.Sessions) != 2 || r.Sessions[0].Reason+r.Sessions[1].Reason != "" {
			t.Errorf("renewal %d: %+v", renewals, r)
		}
	}
	close(done)
	wg.Wait()
	worst := max(time.Duration(echo.Load()), time.Duration(late.Load()))
	if least := int64(length / (50 * time.Millisecond)); worst > time.Second || echoes.Load() < least || events.Load() < least {
		t.Errorf("%d messages and %d events, the slowest took %v", echoes.Load(), events.Load(), worst)
	}
	t.Logf("%d renewals: %d messages, the slowest was back after %v; %d events, the latest came after %v", renewals, echoes.Load(),
		time.Duration(echo.Load()), events.Load(), time.Duration(late.Load()))

	// and without a renewal both end with the token
	if word := socket.closed(3000); word != "expired" {
		t.Errorf("reason %q", word)
	}
	io.Copy(io.Discard, stream)
	last.awaitLine("msg", "answered", "route", "/my-agent", "err", "the answer was cut: expired")
}

// 2,000 sessions whose expiries are spread over 20 s (in the quick form: 400 over 4 s): each ends
// within a second after its expiry and none before, each client gets 3000 and each agent 1001, and
// nothing is left over.
func TestEachSessionEndsAtItsOwnExpiry(t *testing.T) {
	sessions, spread, head := 400, 4*time.Second, 5*time.Second
	if isSoak() {
		sessions, spread, head = 2000, 20*time.Second, 20*time.Second
	}
	i, told := newIssuer(t), make(chan int, sessions)
	g := start(t, plain(i, newAgent(t, closeAt(told)).URL).with("authentication.jwt.clockSkew", "0s").with("session.pingInterval", "0s"))
	before := g.held()
	first := time.Now().Add(head)
	var late slowest
	var early atomic.Int64
	var wg sync.WaitGroup
	for n := range sessions {
		due := first.Add(spread * time.Duration(n) / time.Duration(sessions)).Truncate(time.Millisecond)
		s := g.connect(t, "/my-agent/ws", i.bearer(t, "exp", float64(due.UnixMilli())/1000))
		s.SetDeadline(due.Add(patience))
		wg.Go(func() {
			f, err := rawws.Read(s.br)
			now := time.Now()
			if err != nil || f.Op() != rawws.Close || f.Code() != 3000 || string(f.Payload[2:]) != "expired" {
				t.Errorf("session %d: got %v, %v", n, f, err)
				return
			}
			if now.Before(due) {
				early.Add(1)
			}
			late.saw(now.Sub(due))
			s.Write(rawws.MakeClose(3000, "", true))
			s.hungUp()
		})
	}
	wg.Wait()
	worst := time.Duration(late.Load())
	if early.Load() > 0 || worst > time.Second {
		t.Errorf("%d sessions ended before their expiry, and the latest %v after it", early.Load(), worst)
	}
	for range sessions {
		if code := <-told; code != 1001 {
			t.Fatalf("an agent got %d, want 1001", code)
		}
	}
	g.holdsNoMoreThan(before)
	t.Logf("%d sessions over %v: the latest ended %v after its expiry", sessions, spread, worst)
}

// A client or an agent that takes no bytes, while the other side sends as fast as it can, cannot
// hold its session beyond an expiry or a revocation, nor the gateway beyond its drain; nor does
// what it does not take pile up.
func TestStuckPeerDelaysNoEnding(t *testing.T) {
	const farewell = 4 * time.Second // of the relay: 3 s for the Close, 1 s until the sockets are closed
	flood := rawws.Make(rawws.Fin|rawws.Binary, make([]byte, 64<<10), false)
	masked := rawws.Make(rawws.Fin|rawws.Binary, make([]byte, 64<<10), true)
	pour := func(w io.Writer, b []byte) {
		for {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	}
	for _, stuck := range []string{"client", "agent"} {
		t.Run(stuck, func(t *testing.T) {
			t.Parallel()
			i, ended := newIssuer(t), make(chan struct{})
			a := newAgent(t, func(v *visit) {
				v.accept()
				if stuck == "client" {
					pour(v, flood)
				}
				<-ended
			})
			defer close(ended)
			g := start(t, plain(i, a.URL).with("authentication.jwt.clockSkew", "0s").with("session.drainTimeout", "5s"))
			const sessions = 20
			live := func(n float64) func() bool {
				return func() bool { return g.metric("omnia_gateway_connections") == n }
			}
			open := func(subject string, exp float64) {
				t.Helper()
				for range sessions {
					s := g.connect(t, "/my-agent/ws", i.bearer(t, "sub", subject, "exp", exp))
					s.SetDeadline(time.Time{})
					if stuck == "agent" {
						go pour(s, masked)
					}
				}
				eventually(t, "there", live(sessions))
			}
			gone := func(reason string, began float64) {
				t.Helper()
				eventually(t, "gone", live(0))
				if took := inSeconds(0) - began; took > farewell.Seconds()+1 {
					t.Errorf("the last one was there %.1f s after it was %s", took, reason)
				}
				eventually(t, "all in the log, as "+reason, func() bool {
					return len(g.log.with("msg", "ended", "reason", reason)) == sessions
				})
			}
			memory := g.metric("process_resident_memory_bytes")
			exp := inSeconds(3)
			open("alice", exp)
			eventually(t, "expired", func() bool { return inSeconds(0) > exp })
			if grown := (g.metric("process_resident_memory_bytes") - memory) / (1 << 20); grown > 100 {
				t.Errorf("%d stuck sessions take %.0f MB", sessions, grown)
			}
			gone("expired", exp)

			open("bob", inSeconds(3600))
			began := inSeconds(0)
			body := fmt.Sprintf(`{"issuer": %q, "subject": "bob"}`, i.URL)
			resp, err := http.Post("http://"+g.admin+"/revocations", "application/json", strings.NewReader(body))
			if err != nil || resp.StatusCode != http.StatusCreated {
				t.Fatal(resp, err)
			}
			resp.Body.Close()
			gone("revoked", began)

			open("carol", inSeconds(3600))
			began = inSeconds(0)
			g.cmd.Process.Signal(syscall.SIGTERM)
			<-g.ended
			if took := inSeconds(0) - began; took > 6 {
				t.Errorf("the drain took %.1f s, more than its 5 s", took)
			}
			if n := len(g.log.with("msg", "ended", "reason", "drain")); n != sessions {
				t.Errorf("%d of %d ended by the drain", n, sessions)
			}
		})
	}
}

// A client hears once before each expiry, between messages, and compression does not matter.
func TestClientIsToldBeforeItsTokenExpires(t *testing.T) {
	const text = `{"type":"token_expiring"}`
	i := newIssuer(t)
	next := make(chan []byte)
	a := newAgent(t, func(v *visit) {
		v.accept("Sec-WebSocket-Extensions: permessage-deflate")
		for b := range next {
			v.Write(b)
		}
		v.echoFrames()
	})
	g := start(t, plain(i, a.URL).with("authentication.jwt.clockSkew", "0s").with("session.expiryNotice",
		settings{"before": "3s", "text": text}))
	exp := inSeconds(4)
	s := g.connect(t, "/my-agent/ws", i.bearer(t, "exp", exp), "Sec-WebSocket-Extensions: permessage-deflate")
	next <- rawws.Make(0x40|rawws.Text, []byte("half"), false) // compressed, and not whole
	if f := s.frame(); f.First != 0x40|rawws.Text {
		t.Fatalf("got %v", f)
	}
	eventually(t, "less left than the notice is early", func() bool { return inSeconds(2.9) > exp })
	next <- rawws.Make(rawws.Continuation, []byte("and half"), false)
	next <- rawws.Make(rawws.Fin|rawws.Continuation, []byte("end"), false)
	for _, want := range []rawws.Frame{
		{First: rawws.Continuation, Payload: []byte("and half")}, {First: rawws.Fin | rawws.Continuation, Payload: []byte("end")},
		{First: rawws.Fin | rawws.Text, Payload: []byte(text)},
	} {
		if f := s.frame(); f.First != want.First || string(f.Payload) != string(want.Payload) {
			t.Fatalf("got %v, want %v", f, want)
		}
	}
	later := inSeconds(4)
	if r := g.renew(t, i.token(t, "exp", later), ""); r.Status != 200 {
		t.Fatalf("%+v", r)
	}
	if f := s.frame(); string(f.Payload) != text || inSeconds(3) < later {
		t.Errorf("got %v, %v s before the second expiry", f, later-inSeconds(0))
	}
	close(next)
	if word := s.closed(3000); word != "expired" {
		t.Errorf("reason %q", word)
	}
}

// Less than the time is left when the session begins: the client is told at once.
func TestClientWithLittleTimeIsToldAtOnce(t *testing.T) {
	i := newIssuer(t)
	g := start(t, plain(i, newAgent(t, nil).URL).with("session.expiryNotice", settings{"before": "60h", "text": "soon"}))
	s := g.connect(t, "/my-agent/ws", i.bearer(t))
	if f := s.frame(); f.First != rawws.Fin|rawws.Text || string(f.Payload) != "soon" {
		t.Errorf("got %v", f)
	}
	s.echoes("and nothing more")
	if n := g.metric(`omnia_gateway_messages_total{direction="out"}`); n > 1 {
		t.Errorf("%v messages to clients are counted, with the notice", n)
	}
}

// What the test adds to the programs of docs/sessions.md, which stand beside those of
// docs/clients.md.
const (
	renewJS = fetchJS + `stayRenewed(%[1]q, fetchToken, message => console.log('heard ' + message), code => console.log('end ' + code));
`
	renewPython = fetchPython + `async def hear(message, ws):
    if message == EXPIRING:
        hear.renewing = asyncio.create_task(renew(%[1]q.replace("ws", "http", 1).split("/my-agent")[0], fetch))
    else:
        print("heard", message, flush=True)


print("end", asyncio.run(stay_connected(%[1]q, fetch, hear)), flush=True)
`
)

// TestRenewingProgramsKeepTheirConnection runs the programs of docs/sessions.md with tokens of 5
// s: the first connection lives through three renewals, one of them after a token that could not
// be fetched. Then no token comes in time, and with the next one a second connection is made.
func TestRenewingProgramsKeepTheirConnection(t *testing.T) {
	const sessionsPage = "../docs/sessions.md"
	for name, tt := range map[string]struct {
		needs                  []string
		run                    func(t *testing.T, program string) *speaker
		connect, renew, append string
	}{
		"browser": {tab, inTab, "In a browser", "In JavaScript", renewJS},
		"Node":    {node, inFile("node", "program.js"), "In Node", "In JavaScript", renewJS},
		"Python":  {[]string{"websockets"}, inFile("python3", "program.py"), "In Python", "In Python", renewPython},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			needs(t, tt.needs...)
			i := newIssuer(t)
			var arrivals atomic.Int64
			a := newAgent(t, func(v *visit) {
				n := arrivals.Add(1)
				if v.r.Header.Get("Sec-WebSocket-Extensions") == "" {
					t.Error("the client offers no compression, beside which the notice is to be read")
				}
				v.accept("Sec-WebSocket-Extensions: permessage-deflate")
				v.Write(rawws.Make(rawws.Fin|rawws.Text, fmt.Appendf(nil, "%d", n), false))
				if n > 1 {
					v.Write(rawws.MakeClose(1009, "", false))
				}
				v.echoFrames()
			})
			g := start(t, plain(i, a.URL).with("authentication.jwt.clockSkew", "0s").with("session.expiryNotice",
				settings{"before": "4s", "text": `{"type":"token_expiring"}`}).
				with("routes", []any{settings{"path": "/my-agent", "upstream": a.URL, "allowedOrigins": []string{"*"}}}))
			var asked atomic.Int64
			tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Access-Control-Allow-Origin", "*")
				switch n := asked.Add(1); {
				case n == 2, n > 5 && arrivals.Load() == 1 && len(g.log.with("msg", "ended")) == 0:
					http.Error(w, "not now", http.StatusServiceUnavailable)
				default:
					io.WriteString(w, i.token(t, "exp", inSeconds(5)))
				}
			}))
			t.Cleanup(tokens.Close)
			program := snippet(t, clientsPage, tt.connect) + snippet(t, sessionsPage, tt.renew)
			said := tt.run(t, program+fmt.Sprintf(tt.append, "ws://"+g.public+"/my-agent/ws", tokens.URL))
			for _, want := range []string{"heard 1", "heard 2", "end 1009"} {
				line := said.next()
				for !strings.HasPrefix(line, "heard ") && !strings.HasPrefix(line, "end ") { // Chromium's own remarks
					line = said.next()
				}
				if line != want {
					t.Fatalf("the program says %q, want %q", line, want)
				}
			}
			eventually(t, "three renewals in the log", func() bool {
				return len(g.log.with("reason", "renewal", "status", 200)) >= 3
			})
			if line := g.awaitLine("msg", "ended", "reason", "expired"); line["duration"].(float64) < 7 {
				t.Errorf("the first connection lived for %v s, with tokens of 5 s", line["duration"])
			}
		})
	}
}
