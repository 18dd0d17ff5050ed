//go:build linux

package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/rpc"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// Load is the process that makes the load: all clients and the agent, so that their cost counts
// for neither proxy. Its methods are called over its standard input and output (net/rpc), one call
// at a time, and it ends with its input.
type Load struct {
	agent   string
	peers   []*peer                                // the open clients
	tickets map[string]chan tls.ClientSessionCache // by proxy; each cache belongs to one client at a time

	floods  sync.WaitGroup
	ebb     atomic.Bool
	flooded atomic.Int64 // bytes
}

// patience bounds each step of the load process.
const patience = 2 * time.Minute

// parallel is how many clients connect or leave at a time, if nothing else is said.
const parallel = 16

// serveLoad is the life of the load process.
func serveLoad() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go serveAgent(l)
	s := rpc.NewServer()
	if err := s.Register(&Load{agent: l.Addr().String(), tickets: map[string]chan tls.ClientSessionCache{}}); err != nil {
		return err
	}
	s.ServeConn(struct {
		io.Reader
		io.WriteCloser
	}{os.Stdin, os.Stdout})
	return nil
}

// None stands for no argument and for no result.
type None struct{}

// Agent returns the address on which the agent listens.
func (l *Load) Agent(_ None, addr *string) error {
	*addr = l.agent
	return nil
}

// Target is a proxy and the clients that connect to it.
type Target struct {
	Addr   string
	CA     []byte // DER of its certificate; none for plain
	Path   string // what the agent shall do
	Tokens []string
	Hybrid bool // offer the key exchange with ML-KEM too
	Resume bool // bring a ticket of the connection before, if there is one

	cache tls.ClientSessionCache
}

// Open connects a client with each token and returns the TLS parameters that the last of them
// agreed on. The clients of several Opens add up.
func (l *Load) Open(t Target, agreed *string) error { return l.open(t, parallel, agreed) }

// Storm connects a client with each token, all at once. It returns how long that took.
func (l *Load) Storm(t Target, took *time.Duration) error {
	begin := time.Now()
	err := l.open(t, len(t.Tokens), new(string))
	*took = time.Since(begin)
	return err
}

func (l *Load) open(t Target, atOnce int, agreed *string) error {
	peers := make([]*peer, len(t.Tokens))
	err := all(len(peers), atOnce, func(i int) (err error) {
		peers[i], err = connect(t, t.Tokens[i])
		return err
	})
	for _, p := range peers {
		if p != nil {
			l.peers = append(l.peers, p)
			*agreed = p.agreed()
		}
	}
	return err
}

// Handshakes connects a client with each token and closes again at once. It returns how many of
// them have resumed a TLS session.
func (l *Load) Handshakes(t Target, resumed *int) error {
	caches := l.tickets[t.Addr]
	if t.Resume && caches == nil {
		caches = make(chan tls.ClientSessionCache, parallel)
		for range parallel {
			caches <- tls.NewLRUClientSessionCache(1)
		}
		l.tickets[t.Addr] = caches
	}
	var n atomic.Int64
	err := all(len(t.Tokens), parallel, func(i int) error {
		t := t
		if t.Resume {
			t.cache = <-caches
			defer func() { caches <- t.cache }()
		}
		p, err := connect(t, t.Tokens[i])
		if err != nil {
			return err
		}
		if c, ok := p.Conn.(*tls.Conn); ok && c.ConnectionState().DidResume {
			n.Add(1)
		}
		return p.leave()
	})
	*resumed = int(n.Load())
	return err
}

// Close has every open client close its connection properly.
func (l *Load) Close(None, *None) error {
	peers := l.peers
	l.peers = nil
	return all(len(peers), parallel, func(i int) error { return peers[i].leave() })
}

// Messages is how many messages each client sends or gets, and the size of one.
type Messages struct {
	Number, Size int
	// Every is the time from one message, or question, to the next, at an hour of each client's
	// own; 0: the next one follows the answer at once.
	Every time.Duration
	// Questions are those that each client asks one after the other; Number are the messages of an
	// answer.
	Questions int
}

// Latency is how long answers took, from the moment at which a client wanted to send, even if it
// was still waiting for the answer before.
type Latency struct {
	P50, P99, P999 time.Duration
	Late           time.Duration // by how much clients at rest were woken too late, 99 of 100; no latency has it
}

// Echo has each client send text messages, and get each of them back.
func (l *Load) Echo(m Messages, took *Latency) error {
	message := rawws.Make(rawws.Fin|rawws.Text, make([]byte, m.Size), true)
	return l.timed(m.Number, m.Every, took, func(p *peer) error {
		if _, err := p.Write(message); err != nil {
			return err
		}
		return p.skip(rawws.Text, m.Size)
	})
}

// Flood has each client send binary messages as fast as they are taken, until Ebb.
func (l *Load) Flood(m Messages, _ *None) error {
	message := rawws.Make(rawws.Fin|rawws.Binary, make([]byte, m.Size), true)
	for _, p := range l.peers {
		p.SetDeadline(time.Now().Add(patience))
		l.floods.Go(func() {
			for ebb := false; !ebb; ebb = l.ebb.Load() {
				if _, err := p.Write(message); err != nil {
					return // Ebb returns too little
				}
				l.flooded.Add(int64(len(message)))
			}
		})
	}
	return nil
}

// Ebb ends Flood, and returns how many bytes were taken.
func (l *Load) Ebb(_ None, took *int64) error {
	l.ebb.Store(true)
	l.floods.Wait()
	l.ebb.Store(false)
	*took = l.flooded.Swap(0)
	return nil
}

// timed has clients do something again and again, at the same time as all others, and measures
// how long each time took.
func (l *Load) timed(times int, every time.Duration, took *Latency, do func(*peer) error) error {
	var lasted, late []time.Duration
	var mu sync.Mutex
	err := l.each(func(p *peer) error {
		mine, slept := make([]time.Duration, 0, times), make([]time.Duration, 0, times)
		next := time.Now().Add(rand.N(every + 1))
		for range times {
			begin := next
			if wait := time.Until(next); wait > 0 {
				time.Sleep(wait)
				begin = time.Now()
				slept = append(slept, begin.Sub(next))
			}
			next = next.Add(every)
			if every == 0 {
				begin = time.Now()
			}
			if err := do(p); err != nil {
				return err
			}
			mine = append(mine, time.Since(begin))
		}
		mu.Lock()
		defer mu.Unlock()
		lasted, late = append(lasted, mine...), append(late, slept...)
		return nil
	})
	slices.Sort(lasted)
	slices.Sort(late)
	*took = Latency{P50: share(lasted, 0.5), P99: share(lasted, 0.99), P999: share(lasted, 0.999), Late: share(late, 0.99)}
	return err
}

// share returns the value that is not exceeded by such a share of sorted values; 0 of none.
func share(sorted []time.Duration, of float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(of*float64(len(sorted))))]
}

// Send has each client send binary messages as fast as they are taken, until the agent says that
// it has them all.
func (l *Load) Send(m Messages, _ *None) error {
	message := rawws.Make(rawws.Fin|rawws.Binary, make([]byte, m.Size), true)
	last := rawws.Make(rawws.Fin|rawws.Text, []byte("last"), true)
	return l.each(func(p *peer) error {
		for range m.Number {
			if _, err := p.Write(message); err != nil {
				return err
			}
		}
		if _, err := p.Write(last); err != nil {
			return err
		}
		return p.skip(rawws.Text, len("last"))
	})
}

// Receive has the agent send binary messages to each client as fast as they are taken.
func (l *Load) Receive(m Messages, _ *None) error {
	order := rawws.Make(rawws.Fin|rawws.Text, fmt.Appendf(nil, "%d", m.Number), true)
	return l.each(func(p *peer) error {
		if _, err := p.Write(order); err != nil {
			return err
		}
		for range m.Number {
			if err := p.skip(rawws.Binary, m.Size); err != nil {
				return err
			}
		}
		return nil
	})
}

// Ask has each client send questions, each of which the agent answers with many small messages.
func (l *Load) Ask(m Messages, took *Latency) error {
	question := rawws.Make(rawws.Fin|rawws.Text, fmt.Appendf(nil, "%d", m.Number), true)
	return l.timed(m.Questions, m.Every, took, func(p *peer) error {
		if _, err := p.Write(question); err != nil {
			return err
		}
		for range m.Number {
			if err := p.skip(rawws.Text, m.Size); err != nil {
				return err
			}
		}
		return nil
	})
}

// Rest has the clients do nothing but answer Pings until they are closed.
func (l *Load) Rest(None, *None) error {
	for _, p := range l.peers {
		p.SetDeadline(time.Time{})
		p.rested = make(chan error, 1)
		go func() {
			_, err := p.next()
			p.rested <- err
		}()
	}
	return nil
}

// each has all open clients do something at the same time.
func (l *Load) each(do func(*peer) error) error {
	return all(len(l.peers), len(l.peers), func(i int) error {
		l.peers[i].SetDeadline(time.Now().Add(patience))
		return do(l.peers[i])
	})
}

// all calls do for 0 … n-1, at most so many at a time, and stops at errors.
func all(n, atOnce int, do func(int) error) error {
	var next atomic.Int64
	errs := make([]error, atOnce)
	var wg sync.WaitGroup
	for w := range atOnce {
		wg.Go(func() {
			for i := int(next.Add(1) - 1); i < n && errs[w] == nil; i = int(next.Add(1) - 1) {
				errs[w] = do(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// connect opens one client.
func connect(t Target, token string) (_ *peer, err error) {
	conn, err := net.Dial("tcp", t.Addr)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	conn.SetDeadline(time.Now().Add(patience))
	if len(t.CA) > 0 {
		ca, err := x509.ParseCertificate(t.CA)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		c := &tls.Config{
			RootCAs: roots, ServerName: "localhost", NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS13,
			DynamicRecordSizingDisabled: true, ClientSessionCache: t.cache,
		}
		if !t.Hybrid { // one group for all: OpenSSL knows the hybrid, which Go would choose, since 3.5 only
			c.CurvePreferences = []tls.CurveID{tls.X25519}
		}
		conn = tls.Client(conn, c)
	}
	if _, err := io.WriteString(conn, rawws.Request("localhost", t.Path, "Authorization: Bearer "+token)); err != nil {
		return nil, err
	}
	p := newPeer(conn, conn, t.Path, true)
	answer, err := http.ReadResponse(p.r, nil)
	if err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 256))
		return nil, fmt.Errorf("handshake: %s %s", answer.Status, body)
	}
	return p, nil
}

// The agent does one of these, by the path of the handshake.
const (
	pathEcho   = "/echo"   // gives every message back
	pathSink   = "/sink"   // takes binary messages in, gives others back
	pathAnswer = "/answer" // sends as many small text messages as the number in a text message says
	pathSource = "/source" // sends as many binary messages as the number in a text message says
	pathFlood  = "/flood"  // takes binary messages in, as another agent: that of the process for the flood
)

// streamSize is the size of a message in a stream, and answerSize that of one in an agent's
// answer.
const (
	streamSize = 64 << 10
	answerSize = 64
)

// serveAgent answers handshakes until the process ends.
func serveAgent(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if err := attend(conn); err != io.EOF && !errors.As(err, new(closed)) {
				fmt.Fprintln(os.Stderr, "bench: agent:", err)
			}
		}()
	}
}

// attend is the agent's side of one connection.
func attend(conn net.Conn) error {
	r := newReader(conn, pathEcho)
	request, err := http.ReadRequest(r)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(conn, rawws.Response(request)); err != nil {
		return err
	}
	path := request.URL.Path
	p := newPeer(conn, r, path, false)
	var in, out []byte
	for {
		f, err := p.next()
		if err != nil {
			return err
		}
		if (path == pathSink || path == pathFlood) && f.op == rawws.Binary {
			if _, err := p.r.Discard(f.size); err != nil {
				return err
			}
			continue
		}
		if in, err = p.payload(f, in); err != nil {
			return err
		}
		times := 1
		switch path {
		case pathSource, pathAnswer:
			if times, err = strconv.Atoi(string(in)); err != nil {
				return err
			}
			if out = rawws.Append(out[:0], rawws.Fin|rawws.Text, make([]byte, answerSize), false); path == pathSource {
				out = rawws.Append(out[:0], rawws.Fin|rawws.Binary, make([]byte, streamSize), false)
			}
		default:
			out = rawws.Append(out[:0], rawws.Fin|f.op, in, false)
		}
		for range times {
			if _, err := conn.Write(out); err != nil {
				return err
			}
		}
	}
}
