package gateway

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
)

// Times of the relay that nobody needs to configure.
const (
	closeGrace = 3 * time.Second
	replyWait  = 10 * time.Second
	linger     = time.Second
)

// relayRules are what is asked of an open connection.
type relayRules struct {
	maxMessage   int64
	pingInterval time.Duration // 0: no Ping
	idleTimeout  time.Duration // 0: none
	closeGrace   time.Duration // how long, once a session has ended, a side may take to accept its Close and to answer it
	replyWait    time.Duration // how long a side may be silent after the other has sent its Close, or may go on when the other is gone by then
	linger       time.Duration // how long a peer may take to close its socket after Close went both ways
}

func newRelayRules(c *config.Config) relayRules {
	return relayRules{c.Limits.MaxMessageBytes, c.Session.PingInterval, c.Session.IdleTimeout, closeGrace, replyWait, linger}
}

// relay is two directions over two links, each with one goroutine that alone reads its source and alone writes its destination. So there
// is no lock: whoever wants something of a direction (a Ping, an end) says so in an atomic and wakes it through its read deadline.
type relay struct {
	rules  relayRules
	start  time.Time               // other times are kept as what has passed since: a clock that is set must end nobody
	up     pump                    // client → agent
	down   pump                    // agent → client
	over   chan struct{}           // closed by end
	ending atomic.Pointer[ending]  // set once, by end
	cutoff time.Time               // until when the sides may take to close; written before over is closed
	first  atomic.Pointer[closing] // the first Close that passed through
}

// closing is a Close that one side has sent.
type closing struct {
	code int
	at   time.Time
}

// pump is one direction.
type pump struct {
	r        *relay
	src, dst *link
	other    *pump
	toAgent  bool
	walk     walker
	carry    []byte        // bytes read and not yet passed on: the beginning of a head or a control frame
	early    []byte        // bytes that arrived together with the handshake
	own      [maxPing]byte // for a Ping: to allocate one takes more stack than all else does

	mute      bool // nothing more goes to dst: it has got its Close, or takes no bytes any more
	deaf      bool // src has violated the protocol: what it sends is not even parsed
	gotClose  bool // src has sent its Close
	srcClosed bool // src has closed its socket
	heard     time.Time

	closed   atomic.Bool  // dst has got a Close
	wantPing atomic.Bool  // the other direction asks for a Ping to dst
	pinged   atomic.Int64 // when the gateway's last Ping to src went out, since the relay's start
	bytes    atomic.Uint64
	messages atomic.Uint64
	moved    atomic.Int64 // when the last data frame moved, since the relay's start
}

// newRelay joins client and agent. earlyUp and earlyDown are bytes that came with the two handshakes. rsv are the reserved bits that the
// negotiated extensions use.
func newRelay(client, agent *link, earlyUp, earlyDown []byte, rsv byte, rules relayRules) *relay {
	r := &relay{rules: rules, start: time.Now(), over: make(chan struct{})}
	join := func(p, other *pump, src, dst *link, early []byte, toAgent bool) {
		p.r, p.other, p.src, p.dst, p.early, p.toAgent, p.heard = r, other, src, dst, early, toAgent, r.start
		p.walk = walker{fromClient: toAgent, rsv: rsv, max: uint64(rules.maxMessage)}
		src.wire.SetDeadline(time.Time{})
		src.wire.relay = true
	}
	join(&r.up, &r.down, client, agent, earlyUp, true)
	join(&r.down, &r.up, agent, client, earlyDown, false)
	return r
}

// run moves frames until both sides are closed, and gives the reason. It returns when both goroutines have.
func (r *relay) run() *ending {
	var wg sync.WaitGroup
	wg.Go(r.down.run)
	r.up.run()
	wg.Wait()
	r.up.src.conn.Close()
	r.down.src.conn.Close()
	return r.ending.Load()
}

// end ends the relay for a reason, from any goroutine. Only the first reason counts. It does not wait.
func (r *relay) end(e *ending) {
	if !r.ending.CompareAndSwap(nil, e) {
		return
	}
	r.cutoff = time.Now().Add(r.rules.closeGrace)
	close(r.over)
	for _, p := range []*pump{&r.up, &r.down} {
		p.dst.wire.cut(r.cutoff)
		p.wake()
	}
}

// cut closes both sockets at once.
func (r *relay) cut() {
	r.up.src.wire.Close()
	r.down.src.wire.Close()
}

// wake makes the direction look around: its read returns with a timeout.
func (p *pump) wake() { p.src.wire.SetReadDeadline(time.Unix(1, 0)) }

// run is the life of one direction: forward until the relay has ended, then close.
func (p *pump) run() {
	defer recovered(p.r.end)
	early := p.early
	p.early = nil
	p.take(early)
	p.arm(time.Now())
	for p.r.ending.Load() == nil {
		if p.srcClosed { // it has sent its Close, so the other direction decides when all is over
			<-p.r.over
			break
		}
		b, err := p.src.read(p.carry)
		switch {
		case err == nil:
			p.take(b)
			p.heard = time.Now() // not before: src is not silent while dst keeps it waiting
		case errors.Is(err, os.ErrDeadlineExceeded):
			p.lookAround()
			p.arm(time.Now()) // not from within: the two together would not fit into the smallest stack, which all else does
		default:
			p.lost(err)
		}
	}
	<-p.r.over
	p.finish()
}

// take passes on what was read. Once the relay has ended only the rest of a frame goes on, with the Close right behind it.
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

// pass forwards the bytes that may go on and acts on what stands between them. What is left over is carried to the next call.
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
			p.r.end(endingOf(v.reason, p.from()+": "+v.detail))
			continue
		}
		if c.op == 0 {
			break
		}
		switch c.op {
		case opClose:
			p.gotClose = true
			p.r.first.CompareAndSwap(nil, &closing{c.code, time.Now()})
			p.writeClose(b[:c.length])
		case opPong:
			p.walk.pong = 0 // the answer to the gateway's own Ping is not the other side's business
		}
		b = b[c.length:]
	}
	if p.walk.moved {
		p.walk.moved = false
		p.moved.Store(int64(time.Since(p.r.start)))
	}
	p.carry = append(p.carry[:0], b...)
	if p.wantPing.Load() {
		p.ping()
	}
}

// from names the source for the operator.
func (p *pump) from() string {
	if p.toAgent {
		return "client"
	}
	return "agent"
}

// write forwards. After an error dst gets nothing more; what it may still have to say, the other direction hears, and decides.
func (p *pump) write(b []byte) {
	if p.mute {
		return
	}
	_, err := p.dst.conn.Write(b)
	if err == nil {
		return
	}
	p.mute = true
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.r.end(endingOf(DeadPeer, p.other.from()+" takes no bytes"))
	}
}

// writeClose gives dst its Close. When both sides have theirs, all is over.
func (p *pump) writeClose(frame []byte) {
	p.write(frame)
	p.mute = true
	p.closed.Store(true)
	if p.other.closed.Load() {
		p.r.end(&ending{reason: Closed, code: p.r.first.Load().code})
		return
	}
	p.other.wake() // to wait for the answer with another patience
}

// ping puts a Ping in for dst, if this is a frame boundary; else it stays wanted.
func (p *pump) ping() {
	if p.walk.rest > 0 {
		return
	}
	p.other.pinged.Store(int64(time.Since(p.r.start))) // before the write: the answer must be later
	p.write(appendPing(p.own[:0], pingMark, p.toAgent))
	p.wantPing.Store(false)
}

// pingMark is the payload of the gateway's Pings, by which their Pongs are known.
const pingMark = 0x6f6d6e69612d6777 // "omnia-gw"

// lookAround is what a direction does when its read deadline has passed: it was woken, or its source has been silent for long.
func (p *pump) lookAround() {
	if p.r.ending.Load() != nil {
		return
	}
	if p.wantPing.Load() {
		p.ping()
	}
	now := time.Now()
	silent := now.Sub(p.heard)
	if c := p.r.first.Load(); c != nil {
		if limit, ok := p.replyBy(c); ok && !now.Before(limit) {
			p.r.end(&ending{reason: Closed, code: c.code, err: p.from() + " did not answer the Close"})
			return
		}
	} else if every := p.r.rules.pingInterval; every > 0 && silent >= every {
		switch pinged := p.lastPinged(); {
		case p.other.wantPing.Load(): // the other direction is in the middle of a frame: src was not asked yet
		case !pinged.After(p.heard):
			p.walk.pong = pingMark
			p.other.wantPing.Store(true)
			p.other.wake()
		case now.Sub(pinged) >= every:
			p.r.end(endingOf(DeadPeer, p.from()+" answers no Ping"))
			return
		}
	}
	if idle := p.r.rules.idleTimeout; idle > 0 && now.Sub(p.r.lastMoved()) >= idle {
		p.r.end(endingOf(Idle, ""))
	}
}

// lastMoved is when the last data frame moved, either way.
func (r *relay) lastMoved() time.Time {
	return r.start.Add(time.Duration(max(r.up.moved.Load(), r.down.moved.Load())))
}

// lastPinged is when the gateway's last Ping to src went out; the start if none has.
func (p *pump) lastPinged() time.Time { return p.r.start.Add(time.Duration(p.pinged.Load())) }

// arm sets the read deadline to the next time at which silence would mean something. It is not moved with every read, which would cost
// more than the read: when it passes, lookAround finds that bytes have come since and sets the next one.
func (p *pump) arm(now time.Time) {
	var next time.Time
	sooner := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	first := p.r.first.Load()
	if first != nil {
		if limit, ok := p.replyBy(first); ok {
			sooner(limit)
		}
	} else if every := p.r.rules.pingInterval; every > 0 {
		if p.other.wantPing.Load() {
			sooner(now.Add(every))
		} else {
			sooner(later(p.lastPinged(), p.heard).Add(every))
		}
	}
	if idle := p.r.rules.idleTimeout; idle > 0 {
		sooner(p.r.lastMoved().Add(idle))
	}
	p.src.wire.SetReadDeadline(next)
	// What came before the deadline was set. A Ping that is still wanted in the middle of a frame needs no look around: pass sees to it.
	if p.r.ending.Load() != nil || p.r.first.Load() != first || p.wantPing.Load() && p.walk.rest == 0 {
		p.wake()
	}
}

// replyBy is when src must have answered the other side's Close c, if it is src that has to: it may finish what it was sending first
// (RFC 6455 §5.5.1), as long as somebody takes it.
func (p *pump) replyBy(c *closing) (time.Time, bool) {
	since := c.at
	if !p.mute {
		since = later(c.at, p.heard)
	}
	return since.Add(p.r.rules.replyWait), !p.gotClose
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// lost is the end of src's stream.
func (p *pump) lost(err error) {
	p.srcClosed = true
	if p.gotClose {
		return
	}
	reason := UpstreamLost
	if p.toAgent {
		reason = ClientLost
	}
	detail := ""
	if !errors.Is(err, io.EOF) {
		detail = err.Error()
	}
	if c := p.r.first.Load(); c != nil { // it has got the other's Close and hung up instead of answering
		p.r.end(&ending{reason: Closed, code: c.code, err: p.from() + " hung up instead of answering the Close"})
		return
	}
	p.r.end(endingOf(reason, detail))
}

// finish closes one direction of a relay that has ended: dst gets its Close, at a frame boundary if src still delivers the rest of the
// frame; then src may answer its own Close and hang up.
func (p *pump) finish() {
	until := p.r.cutoff
	p.sayClose()
	for !p.mute && p.read(until) {
	}
	p.mute = true
	if !p.toAgent {
		closeWrite(p.dst) // RFC 6455 §7.1.1: the server closes first; that is the gateway here, and the agent on its own side
	}
	for !p.gotClose && !p.deaf && p.read(until) {
	}
	// A socket closed with unread bytes is reset, and a reset can overtake the Close in the peer's buffers. So listen on for a moment.
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
	e := p.r.ending.Load()
	word := ""
	if e.reason != Closed {
		word = string(e.reason)
	}
	p.write(closeFrame(e.code, word, p.toAgent))
	p.mute = true
}

// read takes what comes from src until a time, after the end. False when nothing more will come.
func (p *pump) read(until time.Time) bool {
	if p.srcClosed {
		return false
	}
	p.src.wire.SetReadDeadline(until)
	b, err := p.src.read(p.carry)
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

// closeWrite tells the peer that nothing more will come: TLS close_notify and FIN.
func closeWrite(l *link) {
	if c, ok := l.conn.(interface{ CloseWrite() error }); ok && l.conn != l.wire {
		c.CloseWrite()
	}
	l.wire.CloseWrite()
}
