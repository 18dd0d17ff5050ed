package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway/policy"
	"github.com/altairalabs/omnia-gateway/gateway/relay"
	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// numbered is an agent that numbers its connections from 1, tells in X-Connection on which one it
// has answered, and counts what it is asked.
type numbered struct {
	addr  string
	pair  *tls.Certificate                         // nil: without TLS
	does  func(n int, c net.Conn, r *http.Request) // in the place of an answer, unless nil
	asked atomic.Int32
	gone  chan int // connections that the gateway has closed

	mu    sync.Mutex
	conns []net.Conn // all that were accepted
}

func newNumbered(t testing.TB, secure bool, does func(n int, c net.Conn, r *http.Request)) *numbered {
	t.Helper()
	a := &numbered{does: does, gone: make(chan int, 1000)}
	if secure {
		pair := wstest.KeyPair(t, 1, time.Now().Add(time.Hour))
		a.pair = &pair
	}
	a.addr = listening(t, a.serve)
	return a
}

func (a *numbered) serve(c net.Conn) {
	a.mu.Lock()
	a.conns = append(a.conns, c)
	n := len(a.conns)
	a.mu.Unlock()
	if a.pair != nil {
		c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*a.pair}})
	}
	br := bufio.NewReader(c)
	if r, err := http.ReadRequest(br); err == nil {
		a.asked.Add(1)
		if a.does != nil {
			a.does(n, c, r)
			return
		}
		numbers(n, c, r)
		io.Copy(io.Discard, br)
	}
	select {
	case a.gone <- n:
	default: // not looked at, in a benchmark
	}
}

// accepts waits until the agent has accepted as many connections as are known to be there, and
// fails the test if it has accepted another number.
func (a *numbered) accepts(t testing.TB, want int) {
	t.Helper()
	n := 0
	wstest.Eventually(t, "connections accepted", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		n = len(a.conns)
		return n >= want
	})
	if n != want {
		t.Errorf("%d connections, want %d", n, want)
	}
}

// numbers answers a handshake with the number of its connection.
func numbers(n int, c net.Conn, r *http.Request) {
	io.WriteString(c, rawws.Response(r, "X-Connection: "+strconv.Itoa(n)))
}

// pass is one for a handshake with the agent.
func (a *numbered) pass() *policy.Pass {
	p := offer(a.addr, nil)
	if a.pair != nil {
		p.Scheme = "https"
	}
	return p
}

// preparing reaches agents, with connections that are prepared.
func preparing(t testing.TB, most int, timeout, lasts time.Duration) *agents {
	d := newDialer(timeout, wstest.Patience, nil, &tls.Config{InsecureSkipVerify: true}, newDeadAddresses())
	a := &agents{dialer: d, prepared: newPrepared(d, most, lasts, &sync.WaitGroup{})}
	t.Cleanup(func() {
		a.prepared.close()
		a.prepared.openers.Wait()
	})
	return a
}

// asks has the agent asked for a WebSocket, waits for what is opened after that, and returns the
// number of its connection.
func (a *agents) asks(t testing.TB, agent *numbered) string {
	t.Helper()
	got, err := a.handshake(t.Context(), agent.pass())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { got.conn.Close() })
	a.prepared.openers.Wait()
	return got.Header.Get("X-Connection")
}

// heldBy returns the connections that are held, those to an agent in their order.
func heldBy(p *prepared) (all []net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, held := range p.held {
		for _, o := range held {
			all = append(all, o.Conn)
		}
	}
	return all
}

func TestHandshakeUsesAConnectionThatWasOpenedBefore(t *testing.T) {
	for _, secure := range []bool{false, true} {
		agent := newNumbered(t, secure, nil)
		a := preparing(t, 3, wstest.Patience, time.Hour)
		if got := a.asks(t, agent); got != "1" {
			t.Errorf("https %t: answered on connection %s", secure, got)
		}
		for range 2 {
			held := heldBy(a.prepared)
			got, err := a.handshake(t.Context(), agent.pass())
			if err != nil {
				t.Fatal(err)
			}
			defer got.conn.Close()
			if len(held) != 3 || got.conn != held[2] {
				t.Errorf("https %t: %d held, and the newest was not used", secure, len(held))
			}
			a.prepared.openers.Wait()
		}
		if held := len(heldBy(a.prepared)); held != 3 {
			t.Errorf("https %t: %d held", secure, held)
		}
		agent.accepts(t, 6)
	}
}

func TestNothingIsPreparedUnlessTheOperatorWants(t *testing.T) {
	agent := newNumbered(t, false, nil)
	a := preparing(t, config.Default().Upstream.Prepared, wstest.Patience, time.Hour)
	if one, two := a.asks(t, agent), a.asks(t, agent); one != "1" || two != "2" {
		t.Errorf("answered on connections %s and %s", one, two)
	}
	agent.accepts(t, 2)
}

func TestConnectionThatTheAgentHasClosedIsNotUsed(t *testing.T) {
	for name, does := range map[string]func(net.Conn){
		"closes": func(c net.Conn) { c.Close() },
		"resets": func(c net.Conn) {
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		},
		"answers before it is asked": func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
			c.Close()
		},
	} {
		for _, secure := range []bool{false, true} {
			agent := newNumbered(t, secure, nil)
			a := preparing(t, 2, wstest.Patience, time.Hour)
			a.asks(t, agent)
			agent.accepts(t, 3)
			agent.mu.Lock()
			for _, c := range agent.conns[1:] {
				does(c)
			}
			agent.mu.Unlock()
			wstest.Eventually(t, "noticed", func() bool { return !slices.ContainsFunc(heldBy(a.prepared), relay.Fresh) })
			agent.accepts(t, 3) // and no more before the next handshake
			if got := a.asks(t, agent); got != "4" || agent.asked.Load() != 2 {
				t.Errorf("it %s, https %t: answered on connection %s, asked %d times", name, secure, got, agent.asked.Load())
			}
			if left := heldBy(a.prepared); len(left) != 2 || !relay.Fresh(left[0]) || !relay.Fresh(left[1]) {
				t.Errorf("it %s, https %t: %d connections held, or not fresh", name, secure, len(left))
			}
		}
	}
}

// Connections 2 and 3 are prepared.
func TestAgentThatHangsUpAPreparedConnectionIsAskedOnceMore(t *testing.T) {
	hangsUp := func(int, net.Conn, *http.Request) {}
	for _, tt := range []struct {
		name    string
		does    func(n int, c net.Conn, r *http.Request) // from the second handshake on
		timeout time.Duration
		asked   int32
		want    outcome.Reason // "": answered
	}{
		{"on prepared ones", func(n int, c net.Conn, r *http.Request) {
			if n > 3 {
				numbers(n, c, r)
			}
		}, wstest.Patience, 2, ""},
		{"always", hangsUp, wstest.Patience, 2, outcome.UpstreamBadHandshake},
		{"after a byte", func(_ int, c net.Conn, _ *http.Request) { io.WriteString(c, "H") }, wstest.Patience, 1,
			outcome.UpstreamBadHandshake},
		{"never, and does not answer", func(_ int, c net.Conn, _ *http.Request) { io.Copy(io.Discard, c) }, 200 * time.Millisecond, 1,
			outcome.UpstreamTimeout},
	} {
		for _, secure := range []bool{false, true} {
			agent := newNumbered(t, secure, func(n int, c net.Conn, r *http.Request) {
				if n > 1 {
					tt.does(n, c, r)
					return
				}
				numbers(n, c, r)
				io.Copy(io.Discard, c)
			})
			a := preparing(t, 2, wstest.Patience, time.Hour)
			a.asks(t, agent)
			agent.accepts(t, 3)
			agent.asked.Store(0)
			a.dialer.timeout = tt.timeout
			got, err := a.handshake(t.Context(), agent.pass())
			if err == nil {
				got.conn.Close()
			}
			var reason outcome.Reason
			if err != nil {
				reason = outcome.RefusalOf(err).Reason
			}
			if reason != tt.want || agent.asked.Load() != tt.asked {
				t.Errorf("%s, https %t: %v; asked %d times, want %d", tt.name, secure, err, agent.asked.Load(), tt.asked)
			}
			if err != nil && strings.Contains(err.Error(), "dial") {
				t.Errorf("%s, https %t: not the agent's fault: %v", tt.name, secure, err)
			}
		}
	}
}

func TestClientThatIsGoneHasNoAgentAskedAgain(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	agent := newNumbered(t, false, func(n int, c net.Conn, r *http.Request) {
		if n > 1 {
			leave()
		} else {
			numbers(n, c, r)
		}
		io.Copy(io.Discard, c)
	})
	a := preparing(t, 1, wstest.Patience, time.Hour)
	a.asks(t, agent)
	_, err := a.handshake(ctx, agent.pass())
	if err == nil || outcome.RefusalOf(err).Reason != outcome.ClientLost || strings.Contains(err.Error(), "dial") {
		t.Errorf("got %v", err)
	}
	if n := agent.asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

// Nothing is opened in the place of what is too old: only handshakes have connections opened.
func TestPreparedConnectionsDoNotGetOld(t *testing.T) {
	agent := newNumbered(t, false, nil)
	a := preparing(t, 3, wstest.Patience, 20*time.Millisecond)
	a.asks(t, agent)
	for range 3 {
		soon(t, agent.gone)
	}
	a.prepared.openers.Wait()
	if held := len(heldBy(a.prepared)); held != 0 {
		t.Errorf("%d held", held)
	}
	agent.accepts(t, 4)
}

// soon receives, or fails the test after a while.
func soon[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(wstest.Patience):
		t.Fatal("it does not happen")
	}
	return v
}

func TestFailureToPrepareIsNotRepeatedBeforeTheNextHandshake(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	agent := &numbered{addr: l.Addr().String(), gone: make(chan int, 1)}
	agent.does = func(n int, c net.Conn, r *http.Request) {
		l.Close() // so no later connection is accepted
		numbers(n, c, r)
		io.Copy(io.Discard, c)
	}
	attend(t, l, agent.serve)
	a := preparing(t, 5, wstest.Patience, time.Hour)
	a.asks(t, agent) // waits for the openers
	if n := len(heldBy(a.prepared)); n != 0 {
		t.Errorf("%d held", n)
	}
}

func TestOpenersEndWhenAWayIsGivenUp(t *testing.T) {
	stuck := make(chan bool, 1)
	var first atomic.Bool
	pair := wstest.KeyPair(t, 1, time.Now().Add(time.Hour))
	agent := &numbered{pair: &pair}
	agent.addr = listening(t, func(c net.Conn) {
		if !first.CompareAndSwap(false, true) {
			stuck <- true // and never answers the TLS handshake
			io.Copy(io.Discard, c)
			return
		}
		c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})
		asked(func(c net.Conn, r *http.Request) { numbers(1, c, r) })(c)
		io.Copy(io.Discard, c)
	})
	a := preparing(t, 1, 3*wstest.Patience, time.Hour)
	got, err := a.handshake(t.Context(), agent.pass())
	if err != nil {
		t.Fatal(err)
	}
	defer got.conn.Close()
	soon(t, stuck)
	a.prepared.close()
	over := make(chan bool)
	go func() {
		a.prepared.openers.Wait()
		close(over)
	}()
	soon(t, over)
}

func TestManyHandshakesNeverHoldMoreThanIsWanted(t *testing.T) {
	agent := newNumbered(t, false, nil)
	a := preparing(t, 3, wstest.Patience, time.Hour)
	to := target{"http", agent.addr}
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() {
			got, err := a.handshake(t.Context(), agent.pass())
			if err != nil {
				t.Error(err)
				return
			}
			got.conn.Close()
			a.prepared.mu.Lock()
			defer a.prepared.mu.Unlock()
			if held, due := len(a.prepared.held[to]), a.prepared.due[to]; due < 0 || held+due > 3 {
				t.Errorf("%d held, %d due", held, due)
			}
		})
	}
	all.Wait()
	a.prepared.openers.Wait()
	if held := len(heldBy(a.prepared)); held != 3 {
		t.Errorf("%d held", held)
	}
}

func TestPreparedConnectionsAreClosedWhenTheirTimeIsOver(t *testing.T) {
	for name, ends := range map[string]func(r *running, c *config.Config){
		"a reload that wants none": func(r *running, c *config.Config) {
			next := *c
			next.Upstream.Prepared = 0
			save(r.t, &next)
			r.reloaded("/reload", "", 200)
		},
		"another certificate": func(r *running, c *config.Config) {
			r.fleet.replace(waysOf(c)[0], &tls.Config{}, [32]byte{1})
		},
		"a drain": func(r *running, _ *config.Config) { r.leave <- Departure{Window: wstest.Patience} },
		"the end": func(r *running, _ *config.Config) { r.cut() },
	} {
		t.Run(name, func(t *testing.T) {
			agent := newNumbered(t, false, nil)
			i := wstest.NewIssuer(t)
			c := i.Config(agent.addr)
			c.Upstream.Prepared = 3
			r := fromFile(t, c)
			r.connect("Authorization: Bearer " + i.Token())
			p := r.fleet.all[waysOf(c)[0]].prepared
			p.openers.Wait()
			if n := len(heldBy(p)); n != 3 {
				t.Fatalf("%d held", n)
			}
			ends(r, c)
			var gone []int
			for range 3 {
				gone = append(gone, soon(t, agent.gone))
			}
			if slices.Sort(gone); name != "the end" && !slices.Equal(gone, []int{2, 3, 4}) {
				t.Errorf("closed: %d", gone) // the session has 1
			}
			if p.fill(target{"http", agent.addr}); p.due[target{"http", agent.addr}] != 0 {
				t.Error("more are opened")
			}
		})
	}
}

func TestAddressThatAClientChoosesIsNotPrepared(t *testing.T) {
	agent := newNumbered(t, false, nil)
	i := wstest.NewIssuer(t)
	c := i.Config(agent.addr)
	c.Upstream.Prepared, c.Upstream.AllowLoopback = 3, true
	_, port, _ := net.SplitHostPort(agent.addr)
	c.Routes = append(c.Routes, config.Route{Path: "/at/{place}", Upstream: "http://{place}:" + port})
	r := run(t, c)
	e := r.dial()
	e.Say([]byte(rawws.Request("gateway.test", "/at/localhost", "Authorization: Bearer "+i.Token())))
	if resp := e.Answer(); resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp.Status)
	}
	r.fleet.openers.Wait()
	agent.accepts(t, 1)
	r.connect("Authorization: Bearer " + i.Token())
	r.fleet.openers.Wait()
	agent.accepts(t, 5) // one, and those that are prepared for the route whose agent has a fixed address
}

// Each handshake finds its connections prepared: the openers are waited for before the next. The
// CPU time is that of the gateway's dialer and of the agent.
func BenchmarkPreparedHandshake(b *testing.B) {
	for _, scheme := range []string{"http", "https"} {
		for _, most := range []int{0, 8} {
			b.Run(strings.Join([]string{scheme, map[int]string{0: "dialled", 8: "prepared"}[most]}, "/"), func(b *testing.B) {
				agent := newNumbered(b, scheme == "https", nil)
				a := preparing(b, most, wstest.Patience, time.Hour)
				var took []time.Duration
				before := cpuTime(b)
				for b.Loop() {
					began := time.Now()
					got, err := a.handshake(b.Context(), agent.pass())
					if err != nil {
						b.Fatal(err)
					}
					took = append(took, time.Since(began))
					got.conn.Close()
					a.prepared.openers.Wait()
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
				b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
