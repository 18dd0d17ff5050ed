package relay

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// source is what a side still has to say.
type source uint8

const (
	speaking source = iota // its frames pass
	closed                 // it has sent its Close; nothing that follows is parsed
	broken                 // it has violated the protocol; nothing that follows is parsed
	gone                   // its stream has ended
)

// sink is what a side still hears.
type sink uint8

const (
	listening sink = iota
	told           // it has its Close, and gets nothing more
	dead           // it takes nothing more: a write has failed, or a frame to it will never end
)

// machine decides what becomes of one session: which bytes go on, what the gateway puts between
// them, what silence means, and how both sides are closed. It is driven by events (came, went,
// gone, took, failed, tick, end), and acts through a port. It does no I/O, starts no goroutine,
// holds no lock and reads no clock, so a test can run it through any schedule; one goroutine at a
// time may call it.
//
// A session is two ways, and each joins a source to a sink:
//
//	source            sink          what happens on the way            it ends by
//	speaking          listening     frames pass, the sink is pinged    Close, violation, EOF, end
//	speaking          dead          frames are read and dropped        the other way, end
//	closed            told or dead  read slowly, nothing is parsed     answer to the Close, end
//	closed then gone  told or dead  the other way decides              answer to the Close, end
//	broken            any           end was called with the violation
//
// After end:
//
//	speaking or gone  listening     the frame under way may finish, then the sink is told
//	speaking          told          frames are read and dropped, slowly, until the source's Close
//	closed, broken    told or dead  the source may close its socket within linger
//	gone              told or dead  the way is over
//
// When both ways are over, or the cutoff has passed, the machine is over.
type machine struct {
	// Immutable.
	rules Rules
	port  port
	grid  grid // of the Pings

	up   way // client → agent
	down way // agent → client
	now  time.Duration
	over bool // nothing more will happen: the driver closes both sockets

	moved    time.Duration // when a data frame last moved, either way
	first    *way          // the way on which the first Close came
	code     int           // of that Close
	closedAt time.Duration // when it came
	ending   *outcome.Ending
	cutoff   time.Duration // until when the sides may take to close
}

// port is how a machine acts on its sides. No method waits.
type port interface {
	// write gives bytes to the sink of a way. The port keeps what the side does not take at once,
	// and then reports that it is full: the machine takes nothing more from the source until took
	// says that all is out. After an error the side gets nothing more.
	write(w *way, b []byte) (full bool, err error)
	// shut tells the sink of a way that nothing more will come.
	shut(w *way)
	// unsent returns how many bytes the peer's system has acknowledged so far, from any beginning,
	// and how many are still on their way to it.
	unsent(w *way) (acked, left int64)
}

// way is one direction of a session.
type way struct {
	// Immutable.
	m        *machine
	other    *way
	from, to outcome.Side
	// how much later than it could the sink is pinged, so that sessions that fell silent together
	// are not pinged together
	jitter time.Duration

	src    source
	dst    sink
	walk   walker
	carry  []byte        // bytes that came and did not go on yet
	begun  []byte        // where they are kept, if they are the beginning of a head or a control frame
	hold   *[]byte       // where they are kept, if they have to wait for their pace
	held   bool          // they have to, until rest; the source is not read
	hungBy time.Duration // until when they may, because the source's side has hung up; never: it has not
	full   bool          // the sink has not taken all that was written; the source is not read
	rest   time.Duration // the source is not read before this time
	bulk   bool          // of what it has not taken, a part is data
	fullAt time.Duration // since when it is full
	heard  time.Duration // when the source was last heard
	took   time.Duration // when the sink last took bytes that had to wait
	looked time.Duration // when the system was last asked about that

	// What the gateway has put in, or will when the frame under way has ended.
	wantPing bool
	notice   []byte // waits for the end of a message
	own      [2 + 4 + 8]byte

	// The gateway's own Ping to the sink.
	asking bool          // it is not answered yet
	idle   bool          // nothing was written since, and all before it was taken: an answer means that all is
	pinged time.Duration // when it was sent
	behind bool          // when it was sent, or the other side's Close was, the sink had not taken all that came before
	acked  int64         // what the sink's system had acknowledged when this was last looked at

	owes time.Duration // when the oldest Ping that the sink has not answered was passed on, of either sender; 0: none

	lingerBy time.Duration // when the source must have closed its socket
	shut     bool

	bytes, messages uint64 // written to the sink
}

// init begins a session.
func (m *machine) init(rules Rules, rsv byte, p port, now time.Duration) {
	m.rules, m.port, m.now, m.moved = rules, p, now, now
	m.grid = gridOf(rules.PingInterval)
	join := func(w, other *way, from, to outcome.Side) {
		w.m, w.other, w.from, w.to = m, other, from, to
		w.jitter = rand.N(rules.PingInterval/10 + 1)
		w.walk = walker{fromClient: from == outcome.Client, rsv: rsv, max: uint64(rules.MaxMessage)}
		w.heard, w.pinged, w.took, w.hungBy = now, now, now, never
	}
	join(&m.up, &m.down, outcome.Client, outcome.Agent)
	join(&m.down, &m.up, outcome.Agent, outcome.Client)
	m.up.walk.pace, m.down.walk.pace = newPace(rules.FromClient), newPace(rules.FromAgent)
}

// came takes what the source has sent. b begins with the bytes of w.carry.
func (m *machine) came(w *way, b []byte, now time.Duration) {
	m.now, w.heard = now, now
	if w.src != speaking || m.ending != nil && w.dst != listening {
		w.slow(len(b) - len(w.carry))
	}
	w.pour(b)
	m.settle()
}

// streams reports whether long frames come from the source of a way, and their payload may go on
// unseen: to the sink, but not through the machine.
func (m *machine) streams(w *way) bool {
	return w.walk.frame >= m.rules.long && w.src == speaking && w.dst == listening && w.walk.pace == nil
}

// unseen returns how many bytes may go on unseen, all of them payload of the frame under way. There
// are none when a head comes next, or so little payload that to read it costs no more.
func (m *machine) unseen(w *way) int {
	if !m.streams(w) || w.walk.rest <= m.rules.long/2 {
		return 0
	}
	return int(min(w.walk.rest, math.MaxInt32))
}

// room returns how much is best read of a source that streams, when nothing may go on unseen: what
// is left of the frame under way and the next head, but not the payload after that.
func (m *machine) room(w *way) int {
	const glimpse = 256
	return int(min(w.walk.rest+glimpse, bufSize))
}

// went takes note that n of the bytes that unseen allows have left the source for the sink. full
// and err are what write would have returned for them.
func (m *machine) went(w *way, n int, full bool, err error, now time.Duration) {
	m.now, w.heard = now, now
	messages := w.walk.messages
	w.walk.skip(n)
	w.wrote(full, err)
	w.passed(n, w.walk.messages-messages)
	w.atBoundary()
	w.noted()
	m.settle()
}

// pour passes on what may go on, and keeps the rest.
func (w *way) pour(b []byte) {
	if w.walk.pace != nil {
		w.walk.pace.at(w.m.now)
	}
	for w.atBoundary(); w.src == speaking; w.atBoundary() {
		messages := w.walk.messages
		n, c, v := w.walk.walk(b, w.inserts())
		w.pass(b[:n], w.walk.messages-messages)
		b = b[n:]
		switch {
		case v != nil:
			w.src = broken
			w.m.endFor(outcome.Fault(v.reason, w.from, ": "+v.detail))
			continue
		case c.op == opClose:
			w.closes(b[:c.length], c.code)
		case c.op == opPong && !w.other.asking:
			w.pass(b[:c.length], 0)
		case c.op == opPong:
			// The answer to the gateway's own Ping is not the other side's business.
			w.other.asking = false
		case n == 0:
			w.keep(b)
			w.noted()
			return
		}
		b = b[c.length:]
	}
	w.keep(nil) // RFC 6455 §5.5.1: nothing follows a Close
	w.noted()
}

// keep keeps what does not go on yet: the beginning of a head or a control frame, or all that has
// to wait for its pace. That is as much as was read at once.
func (w *way) keep(b []byte) {
	p := w.walk.pace
	if w.held = p != nil && p.wait > 0 && len(b) > 0; w.held {
		w.rest = w.m.now + p.wait
		if w.carry = b; w.hold == nil { // else it lies there already
			w.hold = backlogs.Get().(*[]byte)
			w.carry = append((*w.hold)[:0], b...)
		}
		return
	}
	w.begun = append(w.begun[:0], b...)
	w.carry = w.begun
	if w.hold != nil {
		backlogs.Put(w.hold)
		w.hold = nil
	}
}

// resume goes on with what was held, if its time has come.
func (w *way) resume() {
	if !w.held || w.full || w.m.now < w.rest {
		return
	}
	// The time in which the source was not read is no silence of its side.
	w.heard = w.m.now
	if w.other.owes > 0 {
		w.other.owes = w.m.now
	}
	w.pour(w.carry)
}

// lift lets the source speak on without its pace, once resume is called.
func (w *way) lift() {
	w.walk.pace = nil
	if w.held {
		w.rest = 0
	}
}

// noted looks at what the walker has seen pass.
func (w *way) noted() {
	if w.walk.moved {
		w.walk.moved, w.m.moved = false, w.m.now
	}
	if w.walk.pinged {
		w.walk.pinged = false
		w.owing()
	}
	if w.walk.ponged {
		w.walk.ponged, w.other.owes = false, 0
	}
}

// owing notes that the sink has got a Ping.
func (w *way) owing() {
	if w.owes == 0 {
		w.owes = max(w.m.now, 1)
	}
}

// gone takes note that the source's stream has ended; detail is the operator's.
func (m *machine) gone(w *way, detail string, now time.Duration) {
	m.now = now
	m.goes(w, detail)
	m.settle()
}

// goes is gone, inside another event.
func (m *machine) goes(w *way, detail string) {
	was := w.src
	w.src, w.carry, w.held = gone, nil, false
	if m.ending == nil && was == speaking {
		m.lost(w, detail)
	}
}

// hung takes note that the source's side has hung up, though the end of its stream is not read
// yet. What it has said goes on, but what has to wait for its pace does so for closeGrace at most,
// and not at all if the connection was reset. The driver may say so again.
func (m *machine) hung(w *way, reset bool, now time.Duration) {
	m.now = now
	by := now
	if !reset {
		by += m.rules.closeGrace
	}
	w.hungBy = min(w.hungBy, by)
}

// lost ends a session of which one side has hung up without a Close.
func (m *machine) lost(w *way, detail string) {
	reason := outcome.ClientLost
	if w.from == outcome.Agent {
		reason = outcome.UpstreamLost
	}
	switch {
	case m.first != nil:
		m.unanswered(w, reason, " hung up instead of answering the Close")
	case w.from == outcome.Agent && w.owes > 0 && !w.other.waits() && m.now-w.owes >= m.rules.patience():
		m.endFor(outcome.Fault(outcome.DeadPeer, w.to,
			fmt.Sprintf(" had left a Ping unanswered for %.0f s when the agent hung up", (m.now-w.owes).Seconds())))
	default:
		m.endFor(outcome.End(reason, detail))
	}
}

// took takes note that the sink has taken bytes which had to wait for it. left reports whether
// more are waiting.
func (m *machine) took(w *way, left bool, now time.Duration) {
	m.now, w.took = now, now
	if w.bulk {
		m.moved = now
	}
	if !left && w.full {
		w.frees()
		w.resume()
	}
	m.settle()
}

// frees lets the source be read again. The time in which it was not is no silence of its side.
func (w *way) frees() {
	passed := func(since time.Duration) time.Duration { return w.m.now - max(since, w.fullAt) }
	w.heard += passed(w.heard)
	w.other.pinged += passed(w.other.pinged)
	if w.other.owes > 0 {
		w.other.owes += passed(w.other.owes)
	}
	w.full, w.bulk = false, false
}

// failed takes note that a write to the sink has failed. What the side may still have to say, the
// other way hears, and decides.
func (m *machine) failed(w *way, now time.Duration) {
	m.now = now
	w.fails()
	w.resume()
	m.settle()
}

// fails gives the sink up.
func (w *way) fails() {
	if w.dst = dead; w.full {
		w.frees()
	}
	w.m.hung(w.other, false, w.m.now)
}

// end ends the session for a reason. Only the first reason counts.
func (m *machine) end(e *outcome.Ending, now time.Duration) {
	m.now = now
	m.endFor(e)
	m.settle()
}

// notify puts a text message in for the client as soon as no message to it is under way. A newer
// one takes the place of one that still waits.
func (m *machine) notify(text string, now time.Duration) {
	m.now = now
	m.down.notice = textFrame(text, false)
	m.down.atBoundary()
	m.settle()
}

// endFor ends the session, inside another event.
func (m *machine) endFor(e *outcome.Ending) {
	if m.ending != nil {
		return
	}
	m.ending, m.cutoff = e, m.now+m.rules.closeGrace
	m.up.lift() // the frames under way may finish, and an answer to the Close stands after what waits
	m.down.lift()
	m.up.atBoundary()
	m.down.atBoundary()
}

// settle closes what can be closed once the session has ended.
func (m *machine) settle() {
	if m.ending == nil || m.over {
		return
	}
	for _, w := range m.ways() {
		if w.held {
			w.pour(w.carry)
		}
		if w.src == gone && w.dst == listening && w.walk.rest > 0 {
			w.dst = dead // a Close never stands inside a frame, and this one will not end
		}
		if w.dst == listening || w.full {
			continue
		}
		if !w.shut {
			w.shut = true
			if w.to == outcome.Client {
				// RFC 6455 §7.1.1: the server closes first; that is the gateway here, and the
				// agent on its own side.
				m.port.shut(w)
			}
		}
		// A socket closed with unread bytes is reset, and a reset can overtake the Close in the
		// peer's buffers. So listen on for a moment.
		if w.lingerBy == 0 && (w.src == closed || w.src == broken) {
			w.lingerBy = min(m.now+m.rules.linger, m.cutoff)
		}
	}
	m.over = m.now >= m.cutoff || m.up.finished() && m.down.finished()
}

// finished reports whether nothing more will happen on a way of a session that has ended.
func (w *way) finished() bool {
	return !w.full && w.dst != listening && (w.src == gone || w.lingerBy > 0 && w.m.now >= w.lingerBy)
}

func (m *machine) ways() [2]*way { return [2]*way{&m.up, &m.down} }

// reads reports whether the driver may read the source of a way.
func (m *machine) reads(w *way, now time.Duration) bool {
	return w.src != gone && !w.waits() && now >= w.rest && !m.over
}

// waits reports whether the source is not read, for a reason that is not its own: silence means
// nothing then.
func (w *way) waits() bool { return w.full || w.held }

// slow keeps a side that sends what goes nowhere, after its Close or the end, from keeping the
// gateway busy.
func (w *way) slow(n int) {
	const perSecond = 1 << 20
	w.rest = w.m.now + time.Duration(n)*(time.Second/perSecond)
}

// inserts reports whether something is to be put in at the next boundary.
func (w *way) inserts() bool {
	return w.dst == listening && (w.m.ending != nil || w.wantPing || w.notice != nil)
}

// atBoundary puts in what has waited for the end of the frame under way.
func (w *way) atBoundary() {
	if !w.inserts() || w.walk.rest > 0 {
		return
	}
	if e := w.m.ending; e != nil {
		code, word := e.Told(w.to)
		w.write(closeFrame(code, word, w.to == outcome.Agent))
		w.told()
		return
	}
	if w.wantPing {
		w.ping()
	}
	if w.notice != nil && !w.walk.open {
		w.write(w.notice)
		w.notice = nil
	}
}

// pass writes what comes from the source, and counts it; messages are those that end in it.
func (w *way) pass(b []byte, messages uint64) {
	if len(b) == 0 || w.dst != listening {
		return
	}
	w.write(b)
	w.passed(len(b), messages)
}

// passed counts n bytes that were written to the sink, unless it is dead.
func (w *way) passed(n int, messages uint64) {
	w.bulk = w.full && (w.bulk || w.walk.moved)
	if w.m.ending == nil && w.dst == listening {
		w.bytes += uint64(n)
		w.messages += messages
	}
}

// write gives bytes to the sink.
func (w *way) write(b []byte) {
	if w.dst == listening {
		w.wrote(w.m.port.write(w, b))
	}
}

// wrote takes note of what has become of bytes for the sink.
func (w *way) wrote(full bool, err error) {
	w.idle = false
	switch {
	case err != nil:
		w.fails()
	case full && !w.full:
		w.full, w.fullAt, w.took = true, w.m.now, w.m.now
	}
}

// told notes that the sink has got a Close.
func (w *way) told() {
	if w.dst == listening {
		w.dst = told
	}
	w.wantPing, w.notice = false, nil
}

// closes passes the source's Close on. When both sides have sent theirs, the session ends.
func (w *way) closes(frame []byte, code int) {
	m := w.m
	w.src = closed
	if m.ending != nil {
		return
	}
	if m.first == nil {
		m.first, m.code, m.closedAt = w, code, m.now
		w.look() // the time for the answer counts from when the sink has got what comes before the Close
	}
	w.pass(frame, 0)
	w.told()
	if m.first != w {
		m.endFor(&outcome.Ending{Reason: outcome.Closed, Code: m.code})
		return
	}
	w.other.lift() // its answer stands after what waits
	w.other.resume()
}
