// Package relay passes the frames of one WebSocket session between its client and its agent, and
// closes both sides when one of them, or the gateway, has a reason to end it.
//
// What happens to a session is decided by a machine that does no I/O (machine.go, and keepalive.go
// for what silence means) over a walker that follows the frames in a stream of bytes (frame.go).
// Two drivers feed it: lanes on Linux (lanes_linux.go), goroutines elsewhere (threads.go).
package relay

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// Times that no operator needs to set.
const (
	stall      = 30 * time.Second
	closeGrace = 3 * time.Second
	replyWait  = 10 * time.Second
	linger     = time.Second
)

// long is how much payload a frame must have to go on unseen, and half of that is how much must
// come at once. With frames of 32 KiB that costs as much as to read and write them, with longer
// ones less (docs/performance.md).
const long = 40 << 10

// tooLate is how long after its time a look at a session has to take into account that its driver,
// or the whole process, was kept from working.
const tooLate = 100 * time.Millisecond

// Farewell is how long a relay that has been ended takes at most until both sides are closed.
const Farewell = closeGrace + linger

// Rules are what a relay asks of its two sides.
type Rules struct {
	// MaxMessage is how many bytes a message may have, over all its fragments.
	MaxMessage int64
	// PingInterval is how long a side may be silent before it is asked with a Ping, and how long
	// it may leave that Ping unanswered. 0: no Pings.
	PingInterval time.Duration
	// StallTimeout is how long a side may take no byte of what waits for it.
	StallTimeout time.Duration
	// IdleTimeout is how long a session may go without a data frame, either way. 0: for ever.
	IdleTimeout time.Duration
	// FromClient and FromAgent are how fast the sides may send.
	FromClient, FromAgent Pace
	// Lanes move the session; nil: it has goroutines of its own.
	Lanes *Lanes

	closeGrace time.Duration // how long, after the end, a side may take to accept its Close and to answer it
	replyWait  time.Duration // how long a side may be silent after the other has sent its Close, or go on when the other is gone by then
	linger     time.Duration // how long a peer may take to close its socket after Close went both ways
	long       uint64        // how much payload a frame must have to go on unseen, where the driver can do that
}

// Relay is one session: two sides, and the frames between them. Its methods may be called from any
// goroutine.
type Relay struct {
	// Immutable after Launch.
	rules Rules
	rsv   byte
	sides [2]link // client, agent
	run   runner
	done  func(*outcome.Ending)

	// Owned by the driver.
	m      machine
	ahead  [2][]byte // bytes that came with the handshakes
	failed bool      // the driver or the machine has made a mistake before

	// Atomics: what other goroutines want, and what the driver tells them.
	launched atomic.Bool
	wanted   atomic.Pointer[outcome.Ending] // set once
	cutting  atomic.Bool
	notice   atomic.Pointer[string]
	traffic  [4]atomic.Uint64
}

// runner is a driver's hold on a session.
type runner interface {
	// call makes the driver look at what other goroutines want. The first call begins the session.
	call()
}

// New joins a client and an agent. Both connections are a *Conn or TLS over one; they belong to
// the relay from Launch on. earlyUp and earlyDown are bytes that came with the two handshakes; rsv
// are the reserved bits that the negotiated extensions use.
func New(client, agent net.Conn, earlyUp, earlyDown []byte, rsv byte, rules Rules) (*Relay, error) {
	c, err := newLink(client)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	a, err := newLink(agent)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	rules.StallTimeout = cmp.Or(rules.StallTimeout, stall)
	rules.closeGrace = cmp.Or(rules.closeGrace, closeGrace)
	rules.replyWait = cmp.Or(rules.replyWait, replyWait)
	rules.linger = cmp.Or(rules.linger, linger)
	rules.long = cmp.Or(rules.long, long)
	r := &Relay{rules: rules, rsv: rsv, sides: [2]link{c, a}, ahead: [2][]byte{earlyUp, earlyDown}}
	if rules.Lanes != nil {
		r.run = rules.Lanes.runner(r)
	} else {
		r.run = newThreads(r)
	}
	return r, nil
}

// Launch moves frames until both sides are closed, and then calls done with the reason. It does
// not wait.
func (r *Relay) Launch(done func(*outcome.Ending)) {
	for _, s := range r.sides {
		s.tcp.SetDeadline(time.Time{}) // what was agreed about time for the handshake does not hold any more
	}
	// Only the system's probes notice that a silent agent is gone, if there are no Pings, and that
	// a side is gone while what it has sent waits for its pace.
	for i, needed := range [...]bool{
		newPace(r.rules.FromClient) != nil,
		newPace(r.rules.FromAgent) != nil || r.rules.PingInterval == 0,
	} {
		if needed {
			r.sides[i].tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true})
		}
	}
	r.done = done
	r.launched.Store(true)
	r.run.call()
}

// End ends the relay for a reason. Only the first reason counts. It does not wait.
func (r *Relay) End(e *outcome.Ending) {
	if r.wanted.CompareAndSwap(nil, e) {
		r.call()
	}
}

// Cut closes both sockets at once. The relay must have been ended before. It does not wait.
func (r *Relay) Cut() {
	r.cutting.Store(true)
	r.call()
}

// Notify sends the client a text message of the gateway's own, as soon as no message to the client
// is under way. It never delays a Close. A newer text replaces one that still waits. It does not
// wait.
func (r *Relay) Notify(text string) {
	r.notice.Store(&text)
	r.call()
}

// Traffic returns what has been passed on so far: in from the client, out to it.
func (r *Relay) Traffic() outcome.Traffic {
	return outcome.Traffic{
		BytesIn: r.traffic[0].Load(), MessagesIn: r.traffic[1].Load(),
		BytesOut: r.traffic[2].Load(), MessagesOut: r.traffic[3].Load(),
	}
}

// call tells the driver that something is wanted. Before Launch that waits.
func (r *Relay) call() {
	if r.launched.Load() {
		r.run.call()
	}
}

// heed does what other goroutines want of the machine.
func (r *Relay) heed(now time.Duration) {
	if e := r.wanted.Load(); e != nil && r.m.ending == nil {
		r.m.end(e, now)
	}
	if text := r.notice.Swap(nil); text != nil {
		r.m.notify(*text, now)
	}
	for i, w := range r.m.ways() {
		if b := r.ahead[i]; len(b) > 0 {
			r.ahead[i] = nil
			r.m.came(w, b, now)
		}
	}
}

// publish lets Traffic see the machine's counts.
func (r *Relay) publish() {
	for i, n := range [...]uint64{r.m.up.bytes, r.m.up.messages, r.m.down.bytes, r.m.down.messages} {
		if r.traffic[i].Load() != n {
			r.traffic[i].Store(n)
		}
	}
}

// textOf is an error as an ending's detail: the end of a stream needs no words.
func textOf(err error) string {
	if errors.Is(err, io.EOF) {
		return ""
	}
	return err.Error()
}

// mistaken is the ending for a panic.
func mistaken(v any) *outcome.Ending {
	return outcome.End(outcome.InternalError, fmt.Sprintf("panic: %v\n%s", v, debug.Stack()))
}
