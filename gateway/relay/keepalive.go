package relay

import (
	"math"
	"math/bits"
	"time"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// never is later than anything.
const never = time.Duration(math.MaxInt64)

// patience is how long a client may leave a Ping unanswered before the agent's hanging up is
// blamed on it.
func (r *Rules) patience() time.Duration {
	const most = 5 * time.Second
	if half := r.PingInterval / 2; half > 0 {
		return min(half, most)
	}
	return most
}

// tick looks at what silence means. The driver calls it at the time that next has returned, or
// later.
func (m *machine) tick(now time.Duration) {
	m.now = now
	for _, w := range m.ways() {
		w.resume()
		if w.held {
			m.moved = now // a message waits, so the session is not idle
		}
		if now >= w.waitsBy() {
			m.goes(w, "hung up while messages waited for its pace")
		}
		if m.ending == nil {
			w.judge()
		}
	}
	if idle := m.rules.IdleTimeout; idle > 0 && m.ending == nil && now-m.moved >= idle && !m.up.drips() && !m.down.drips() {
		m.endFor(outcome.End(outcome.Idle, ""))
	}
	m.settle()
}

// judge looks at a way of a session that has not ended: whether the sink takes what is written,
// whether the source answers the other side's Close, and whether the sink answers a Ping.
func (w *way) judge() {
	m := w.m
	if w.full && m.now >= w.lookBy() && !w.progress() && m.now-w.took >= m.rules.StallTimeout {
		m.endFor(outcome.Fault(outcome.DeadPeer, w.to, " takes no bytes"))
		return
	}
	if m.first != nil {
		if w.src == speaking {
			if w.other.behind {
				w.other.progress()
			}
			if m.now >= w.answerBy() {
				m.unanswered(w, outcome.DeadPeer, " did not answer the Close")
			}
		}
		return
	}
	every := m.rules.PingInterval
	if every == 0 || w.dst != listening || w.wantPing || w.other.waits() {
		return
	}
	switch silent := m.now - w.other.heard; {
	case silent < every:
	case w.pinged <= w.other.heard:
		if m.now >= w.pingBy() {
			w.wantPing = true
			w.atBoundary()
		}
	case m.now < w.pongBy():
	case w.behind && w.progress():
		w.pinged = m.now // it takes what comes before the Ping
	case w.behind && m.now-w.took < m.rules.StallTimeout:
	default:
		m.endFor(outcome.Fault(outcome.DeadPeer, w.to, " answers no Ping"))
	}
}

// ping asks the sink for a sign of life.
func (w *way) ping() {
	w.wantPing, w.pinged = false, w.m.now
	if w.behind = false; w.asking || !w.idle {
		w.look()
	}
	w.asking = true
	w.owing()
	w.write(appendPing(w.own[:0], w.to == outcome.Agent))
	w.idle = !w.behind
}

// look notes what the sink has not taken yet, before something is written that it should answer.
func (w *way) look() {
	acked, left := w.m.port.unsent(w)
	w.acked, w.behind = acked, left > 0
	if w.behind {
		w.took = w.m.now
	}
}

// progress reports whether the sink has taken bytes since the last look, as the system sees it.
func (w *way) progress() bool {
	acked, left := w.m.port.unsent(w)
	grown := acked > w.acked
	w.acked, w.behind, w.looked = acked, left > 0, w.m.now
	if grown {
		w.took = w.m.now
		if w.bulk {
			w.m.moved = w.m.now
		}
	}
	return grown
}

// lookBy is when to look whether a sink that is full has taken something. A few looks within
// StallTimeout are how exact that is.
func (w *way) lookBy() time.Duration {
	stall := w.m.rules.StallTimeout
	return min(max(w.took, w.looked)+stall/4, w.took+stall)
}

// drips reports whether the sink has taken a part of what waits for it, as the system sees it: it
// may be long until the next part has room there.
func (w *way) drips() bool { return w.full && w.bulk && w.progress() }

// pingBy is when the sink is to be asked, if its side stays silent.
func (w *way) pingBy() time.Duration { return w.silentBy(max(w.pinged, w.other.heard)) }

// pongBy is when the sink must have answered the Ping. It is as late as the next Ping would be, so
// that one look is enough for both.
func (w *way) pongBy() time.Duration { return w.silentBy(w.pinged) }

// silentBy is when silence that began at a time has lasted long enough to mean something.
func (w *way) silentBy(since time.Duration) time.Duration {
	return w.m.grid.after(since + w.m.rules.PingInterval + w.jitter)
}

// grid is a distance of times at which all sessions send what Pings are due: a lane is then woken
// once for those of many, and a few times more for the answers. It is a power of two, in
// nanoseconds.
type grid time.Duration

// gridOf returns a grid that delays a Ping by a 64th of its interval at most, and by half a second
// at most.
func gridOf(interval time.Duration) grid {
	most := min(interval/64, 500*time.Millisecond)
	return grid(1) << max(bits.Len64(uint64(most))-1, 0)
}

// after returns the first time of the grid that is not before t.
func (g grid) after(t time.Duration) time.Duration {
	return (t + time.Duration(g) - 1) &^ (time.Duration(g) - 1)
}

// answerBy is when the source must have answered the other side's Close: it may finish what it was
// sending first (RFC 6455 §5.5.1), as long as its sink takes it, and it must have got the Close.
func (w *way) answerBy() time.Duration {
	m := w.m
	if w.waits() || w.other.full {
		return never // what is full takes bytes, or stalls; and then what is held goes on
	}
	since := max(m.closedAt, w.other.took)
	if w.dst == listening {
		since = max(since, w.heard)
	}
	return since + m.rules.replyWait
}

// waitsBy is until when bytes may wait for the pace of a source.
func (w *way) waitsBy() time.Duration {
	if !w.held || w.walk.pace == nil {
		return never
	}
	return w.hungBy
}

// unanswered ends the session because the source has not answered the other side's Close. The
// other side is told so, and not what it has said itself.
func (m *machine) unanswered(w *way, reason outcome.Reason, detail string) {
	e := outcome.Fault(reason, w.from, detail)
	if w.from == outcome.Client {
		e.Code = m.code // which the client has got already
	}
	m.endFor(e)
}

// next is when tick must be called, if nothing happens until then. It may be earlier than
// necessary.
func (m *machine) next() time.Duration {
	if m.over {
		return never
	}
	next := never
	for _, w := range m.ways() {
		if w.rest > m.now || w.held && !w.full { // a time that has passed counts until resume has seen it
			next = min(next, w.rest)
		}
		next = min(next, w.waitsBy())
		switch {
		case m.ending != nil:
			next = min(next, m.cutoff)
			if w.lingerBy > m.now {
				next = min(next, w.lingerBy)
			}
		case m.first != nil:
			if w.src == speaking {
				next = min(next, w.answerBy())
				if w.other.behind {
					next = min(next, m.now+m.rules.replyWait/10+1)
				}
			}
		case m.rules.PingInterval > 0 && w.dst == listening && !w.wantPing && !w.other.waits():
			next = min(next, w.pingAgain())
		}
		if w.full && m.ending == nil {
			next = min(next, w.lookBy())
		}
	}
	if idle := m.rules.IdleTimeout; idle > 0 && m.ending == nil {
		next = min(next, m.moved+idle)
	}
	return next
}

// pingAgain is when the sink is to be asked, or to be given up.
func (w *way) pingAgain() time.Duration {
	if w.pinged <= w.other.heard {
		return w.pingBy()
	}
	if by := w.pongBy(); by > w.m.now || !w.behind {
		return by
	}
	return w.took + w.m.rules.StallTimeout
}
