// Package relay passes the frames of one WebSocket session between its client and its agent, and
// closes both sides when one of them, or the gateway, has a reason to end it.
//
// A Relay is two directions (pump) over two links. frame.go follows the frames in a stream of bytes
// and judges them; link.go is one side, with or without TLS; park.go takes the goroutines of a quiet
// session away until there is something to do.
package relay

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// Times that no operator needs to set.
const (
	closeGrace = 3 * time.Second
	replyWait  = 10 * time.Second
	linger     = time.Second
)

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
	// Lanes take care of the session while it is quiet; nil: it keeps its goroutines.
	Lanes *Lanes

	closeGrace time.Duration // how long, after the end, a side may take to accept its Close and to answer it
	replyWait  time.Duration // how long a side may be silent after the other has sent its Close, or go on when the other is gone by then
	linger     time.Duration // how long a peer may take to close its socket after Close went both ways
}

// Relay is one session's frames, on their way in two directions. A direction has a source and a
// destination; it is in one of these states:
//
//	source              destination     what the direction does         it ends by
//	open                open            frames pass, dst is pinged      Close, violation, end of stream, End
//	open                dead            reads and drops                 the other direction, End
//	closed              told, or dead   parses nothing                  the answer to the Close, End
//	closed, then gone   told, or dead   waits for the end               the other direction, End
//	broken              any             has called End already          finish
//
// A source is closed when its Close has come, gone when its socket has closed, and broken when it
// has violated the protocol (pump.gotClose, srcClosed, deaf). A destination is told when it has its
// Close, and dead when a write to it has failed (both pump.mute; the first also pump.closed).
//
// Each direction has one goroutine, which alone reads the source and alone writes the destination,
// so no lock is held while bytes move. To end a relay means to set an atomic and to wake both.
type Relay struct {
	// Immutable after Launch.
	rules Rules
	start time.Time // other times are what has passed since: a clock that is set must end no session
	up    pump      // client → agent
	down  pump      // agent → client
	done  func(*outcome.Ending)

	ended  chan struct{} // closed by End
	cutoff time.Time     // until when the sides may take to close; written before ended is closed

	// Atomics, written by both directions and by End.
	ending atomic.Pointer[outcome.Ending] // set once
	first  atomic.Pointer[closing]        // the first Close that passed through
	left   atomic.Int32                   // directions that are not over

	parking sync.Mutex // guards what of each pump belongs to parking
}

// closing is a Close that one side has sent.
type closing struct {
	code int
	at   time.Duration
}

// now is the time since the start.
func (r *Relay) now() time.Duration { return time.Since(r.start) }

// pump is one direction.
type pump struct {
	// Immutable.
	r        *Relay
	src, dst *link
	other    *pump
	toAgent  bool
	jitter   time.Duration // how much later than it could dst is asked, so that sessions that fell silent together are not asked together

	// Owned by the direction's goroutine.
	walk      walker
	carry     []byte        // bytes read and not yet passed on: the beginning of a head or a control frame
	early     []byte        // bytes that arrived together with the handshake
	own       [maxPing]byte // for a Ping, so that none is allocated
	mute      bool          // nothing more goes to dst: it has got its Close, or takes no bytes any more
	deaf      bool          // src has violated the protocol: what it sends is not even parsed
	gotClose  bool          // src has sent its Close
	srcClosed bool          // src has closed its socket
	wantPing  bool          // dst is to get a Ping when the frame under way has ended
	pinged    time.Duration
	awake     bool // the lanes do not take it
	often     int  // how often it was parked since the time in since
	since     time.Duration
	settled   time.Duration // when a message had last moved, when it was last parked

	// Guarded by Relay.parking.
	parked  bool        // it has no goroutine
	alarm   *time.Timer // resumes it when it is time to look around; nil until it is first parked
	watched bool        // the lanes know its descriptor

	// Atomics: written by the direction's goroutine, read by the other's and by Traffic.
	closed   atomic.Bool  // dst has got a Close
	heard    atomic.Int64 // when src was last heard, or busy
	moved    atomic.Int64 // when the last data frame moved
	bytes    atomic.Uint64
	messages atomic.Uint64
	asked    atomic.Bool // src has got a Ping of the gateway's own and has not answered it yet; set by the other direction
}

// busy stands for a time while what was read is passed on: src is not silent while dst keeps it
// waiting.
const busy = math.MaxInt64

// lastHeard is when src was last heard.
func (p *pump) lastHeard() time.Duration {
	if t := p.heard.Load(); t != busy {
		return time.Duration(t)
	}
	return p.r.now()
}

// New joins a client and an agent. Both connections are a *Conn or TLS over one; they belong to
// the relay from then on, unless it returns an error. earlyUp and earlyDown are bytes that came
// with the two handshakes; rsv are the reserved bits that the negotiated extensions use.
func New(client, agent net.Conn, earlyUp, earlyDown []byte, rsv byte, rules Rules) (*Relay, error) {
	c, err := newLink(client)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	a, err := newLink(agent)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	return newRelay(c, a, earlyUp, earlyDown, rsv, rules), nil
}

func newRelay(client, agent *link, earlyUp, earlyDown []byte, rsv byte, rules Rules) *Relay {
	rules.StallTimeout = cmp.Or(rules.StallTimeout, stall)
	rules.closeGrace = cmp.Or(rules.closeGrace, closeGrace)
	rules.replyWait = cmp.Or(rules.replyWait, replyWait)
	rules.linger = cmp.Or(rules.linger, linger)
	r := &Relay{rules: rules, start: time.Now(), ended: make(chan struct{})}
	join := func(p, other *pump, src, dst *link, early []byte, toAgent bool) {
		p.r, p.other, p.src, p.dst, p.early, p.toAgent = r, other, src, dst, early, toAgent
		p.jitter = rand.N(rules.PingInterval/10 + 1)
		p.walk = walker{fromClient: toAgent, rsv: rsv, max: uint64(rules.MaxMessage)}
		src.begin(rules.StallTimeout)
	}
	join(&r.up, &r.down, client, agent, earlyUp, true)
	join(&r.down, &r.up, agent, client, earlyDown, false)
	return r
}

// Launch moves frames until both sides are closed, and then calls done with the reason. It does
// not wait.
func (r *Relay) Launch(done func(*outcome.Ending)) {
	r.done = done
	r.left.Store(2)
	go r.up.run()
	go r.down.run()
}

// leave is called by each direction when it is over. The last one closes the door.
func (r *Relay) leave() {
	if r.left.Add(-1) > 0 {
		return
	}
	r.up.src.close()
	r.down.src.close()
	r.done(r.ending.Load())
}

// End ends the relay for a reason, from any goroutine. Only the first reason counts. It does not
// wait.
func (r *Relay) End(e *outcome.Ending) {
	if !r.ending.CompareAndSwap(nil, e) {
		return
	}
	r.cutoff = time.Now().Add(r.rules.closeGrace)
	close(r.ended)
	for _, p := range []*pump{&r.up, &r.down} {
		p.dst.cut(r.cutoff)
		p.wake()
	}
}

// Cut closes both sockets at once. The relay must have been ended before.
func (r *Relay) Cut() {
	r.parking.Lock() // a descriptor must not be closed while it goes into the lot
	defer r.parking.Unlock()
	r.up.src.drop()
	r.down.src.drop()
}

// Traffic returns what has moved so far: in from the client, out to it. It may be called at any
// time.
func (r *Relay) Traffic() outcome.Traffic {
	return outcome.Traffic{
		BytesIn: r.up.bytes.Load(), MessagesIn: r.up.messages.Load(),
		BytesOut: r.down.bytes.Load(), MessagesOut: r.down.messages.Load(),
	}
}

// run is a stretch of the life of one direction: from its start, or from when it was resumed,
// until it is parked or over.
func (p *pump) run() {
	if !p.forward() {
		p.r.leave()
	}
}

// forward passes on what comes until the relay has ended, and closes; or until the direction is
// parked, which it says.
func (p *pump) forward() (parked bool) {
	defer recovered(p.r.End)
	if early := p.early; early != nil {
		p.early = nil
		p.take(early)
	}
	p.lookAround()
	quiet := p.arm()
	for p.r.ending.Load() == nil {
		if p.srcClosed { // it has sent its Close, so the other direction decides when all is over
			<-p.r.ended
			break
		}
		b, err := p.src.read(p.carry, !quiet)
		switch {
		case err == nil:
			p.heard.Store(busy)
			p.take(b)
			p.heard.Store(int64(p.r.now()))
			if quiet { // unless it was a message
				quiet = p.arm()
			}
		case err == wouldBlock{}:
			if p.park() {
				return true
			}
			quiet = p.arm()
		case errors.Is(err, os.ErrDeadlineExceeded):
			p.lookAround()
			quiet = p.arm()
		default:
			p.lost(err)
		}
	}
	<-p.r.ended
	p.finish()
	return false
}

// take passes on what was read. Once the relay has ended only the rest of a frame goes on, with
// the Close right behind it.
func (p *pump) take(b []byte) {
	if p.r.ending.Load() != nil && !p.mute {
		if rest := p.walk.rest; rest > 0 && rest <= uint64(len(b)) { // so nothing is carried
			p.pass(b[:rest])
			b = b[rest:]
		}
		p.sayClose()
	}
	p.pass(b)
	p.src.release()
}

// pass forwards the bytes that may go on and acts on what stands between them. What is left over
// is carried to the next call.
func (p *pump) pass(b []byte) {
	n := len(b) - len(p.carry)
	p.bytes.Add(uint64(n))
	for {
		if p.gotClose || p.deaf {
			b = nil // RFC 6455 §5.5.1: nothing follows a Close
			break
		}
		before := p.walk.messages
		n, c, v := p.walk.walk(b)
		if n > 0 {
			p.write(b[:n])
			if p.walk.messages != before {
				p.messages.Add(p.walk.messages - before)
			}
		}
		b = b[n:]
		if v != nil {
			p.deaf = true
			p.r.End(outcome.Fault(v.reason, p.from(), ": "+v.detail))
			continue
		}
		if c.op == 0 {
			break
		}
		switch c.op {
		case opClose:
			p.gotClose = true
			p.r.first.CompareAndSwap(nil, &closing{c.code, p.r.now()})
			p.writeClose(b[:c.length])
		case opPong:
			if !p.asked.Swap(false) { // else the answer to the gateway's own Ping, which is not the other side's business
				p.write(b[:c.length])
			}
		}
		b = b[c.length:]
	}
	if p.walk.moved {
		p.walk.moved = false
		p.moved.Store(int64(p.r.now()))
	}
	p.carry = append(p.carry[:0], b...)
	if p.wantPing {
		p.ping()
	}
}

// from is the side that src belongs to.
func (p *pump) from() outcome.Side {
	if p.toAgent {
		return outcome.Client
	}
	return outcome.Agent
}

// write forwards. After an error dst gets nothing more; what it may still have to say, the other
// direction hears, and decides.
func (p *pump) write(b []byte) {
	if p.mute {
		return
	}
	err := p.dst.write(b)
	if err == nil {
		return
	}
	p.mute = true
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.r.End(outcome.Fault(outcome.DeadPeer, p.other.from(), " takes no bytes"))
	}
}

// writeClose gives dst its Close. When both sides have theirs, all is over.
func (p *pump) writeClose(frame []byte) {
	p.write(frame)
	p.mute = true
	p.closed.Store(true)
	if p.other.closed.Load() {
		p.r.End(&outcome.Ending{Reason: outcome.Closed, Code: p.r.first.Load().code})
		return
	}
	p.other.wake() // to wait for the answer with another patience
}

// ping puts a Ping in for dst, if this is a frame boundary; else it stays wanted.
func (p *pump) ping() {
	if p.wantPing = p.walk.rest > 0; p.wantPing {
		return
	}
	p.pinged = p.r.now() // before the write: the answer must be later
	p.other.asked.Store(true)
	p.write(appendPing(p.own[:0], p.toAgent))
}

// lookAround is what a direction does when its read deadline has passed: it was woken, or it is
// time to see whether dst is still there, which only this direction may ask.
func (p *pump) lookAround() {
	if p.r.ending.Load() != nil {
		return
	}
	now := p.r.now()
	if c := p.r.first.Load(); c != nil {
		if limit, ok := p.replyBy(c); ok && now >= limit {
			p.unanswered(outcome.DeadPeer, " did not answer the Close")
			return
		}
	} else if every := p.r.rules.PingInterval; every > 0 {
		switch heard := p.other.lastHeard(); {
		case now-heard < every:
		case p.pinged <= heard:
			p.ping()
		case now-p.pinged >= every:
			p.r.End(outcome.Fault(outcome.DeadPeer, p.other.from(), " answers no Ping"))
			return
		}
	}
	if idle := p.r.rules.IdleTimeout; idle > 0 && now-p.r.lastMoved() >= idle {
		p.r.End(outcome.End(outcome.Idle, ""))
	}
}

// lastMoved is when the last data frame moved, either way.
func (r *Relay) lastMoved() time.Duration {
	return time.Duration(max(r.up.moved.Load(), r.down.moved.Load()))
}

// never is later than anything.
const never = math.MaxInt64

// next is when silence would mean something, or never.
func (p *pump) next() time.Duration {
	next := time.Duration(never)
	if first := p.r.first.Load(); first != nil {
		if limit, ok := p.replyBy(first); ok {
			next = limit
		}
	} else if every := p.r.rules.PingInterval; every > 0 {
		next = max(p.pinged, p.other.lastHeard()) + every + p.jitter
		if p.wantPing { // pass will see to it; there is nothing to look for meanwhile
			next = p.r.now() + every
		}
	}
	if idle := p.r.rules.IdleTimeout; idle > 0 {
		next = min(next, p.r.lastMoved()+idle)
	}
	return next
}

// arm sets the read deadline to the next time at which there may be something to do, and says
// whether the direction is quiet: then it need not wait for that time, but can be parked. The
// deadline is not moved with every read, which would cost more than the read: when it passes,
// lookAround finds that bytes have come since and arm sets the next one.
func (p *pump) arm() (quiet bool) {
	first := p.r.first.Load()
	next := p.next()
	if lot := p.r.rules.Lanes; lot != nil && first == nil && !p.awake {
		calm := p.r.lastMoved() + lot.after
		if p.often >= maxParked {
			calm = max(calm, p.since+lot.after)
		}
		if quiet = p.r.now() >= calm; quiet {
			next = never
		} else {
			next = min(next, calm)
		}
	}
	deadline := time.Time{}
	if next != never {
		deadline = p.r.start.Add(next)
	}
	p.src.readBy(deadline)
	if p.r.ending.Load() != nil || p.r.first.Load() != first { // it came before the deadline was set
		p.wake()
	}
	return quiet
}

// replyBy is when src must have answered the other side's Close c, if it is src that has to: it
// may finish what it was sending first (RFC 6455 §5.5.1), as long as somebody takes it.
func (p *pump) replyBy(c *closing) (time.Duration, bool) {
	since := c.at
	if !p.mute {
		since = max(since, p.lastHeard())
	}
	return since + p.r.rules.replyWait, !p.gotClose
}

// unanswered ends the relay because src has not answered the other side's Close. The other side is
// told so, and not what it has said itself.
func (p *pump) unanswered(reason outcome.Reason, detail string) {
	e := outcome.Fault(reason, p.from(), detail)
	if p.toAgent {
		e.Code = p.r.first.Load().code // which the client has got already
	}
	p.r.End(e)
}

// lost is the end of src's stream.
func (p *pump) lost(err error) {
	p.srcClosed = true
	if p.gotClose {
		return
	}
	reason := outcome.UpstreamLost
	if p.toAgent {
		reason = outcome.ClientLost
	}
	detail := ""
	if !errors.Is(err, io.EOF) {
		detail = err.Error()
	}
	if p.r.first.Load() != nil { // it has got the other's Close and hung up instead of answering
		p.unanswered(reason, " hung up instead of answering the Close")
		return
	}
	p.r.End(outcome.End(reason, detail))
}

// finish closes one direction of a relay that has ended: dst gets its Close, at a frame boundary
// if src still delivers the rest of the frame; then src may answer its own Close and hang up.
func (p *pump) finish() {
	until := p.r.cutoff
	p.sayClose()
	for !p.mute && p.read(until) {
	}
	p.mute = true
	if !p.toAgent {
		p.dst.closeWrite() // RFC 6455 §7.1.1: the server closes first; that is the gateway here, and the agent on its own side
	}
	for !p.gotClose && !p.deaf && p.read(until) {
	}
	// A socket closed with unread bytes is reset, and a reset can overtake the Close in the peer's
	// buffers. So listen on for a moment.
	if limit := time.Now().Add(p.r.rules.linger); limit.Before(until) {
		until = limit
	}
	for p.read(until) {
	}
}

// sayClose gives dst its Close, if this is a frame boundary; nothing goes to it after that.
func (p *pump) sayClose() {
	if p.mute || p.walk.rest > 0 {
		return
	}
	code, word := p.r.ending.Load().Told(p.other.from())
	p.write(closeFrame(code, word, p.toAgent))
	p.mute = true
}

// read takes what comes from src until a time, after the end. False when nothing more will come.
func (p *pump) read(until time.Time) bool {
	if p.srcClosed {
		return false
	}
	p.src.readBy(until)
	b, err := p.src.read(p.carry, true)
	switch {
	case err == nil:
		p.take(b)
		return true
	case errors.Is(err, os.ErrDeadlineExceeded):
		return time.Now().Before(until) // it may have been woken
	}
	p.srcClosed = true
	return false
}

// recovered keeps a mistake in one session from ending all the others.
func recovered(end func(*outcome.Ending)) {
	if v := recover(); v != nil {
		end(outcome.End(outcome.InternalError, fmt.Sprintf("panic: %v\n%s", v, debug.Stack())))
	}
}
