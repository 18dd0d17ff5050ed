package relay

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// calm plays a session on which both sides behave: they answer Pings and Closes, and take bytes,
// though slowly and with pauses that are shorter than those which mean something. It is the
// machine's port, with the system's buffers.
type calm struct {
	m     machine
	src   *rand.Rand
	now   time.Duration
	sides [2]*polite // client, agent
	fault error

	threads bool // a read that has begun goes on when its sink is full
	stopped bool // the gateway's process is
}

// polite is one side.
type polite struct {
	c        *calm
	from, to *way
	masked   bool

	sent   [][]byte // all frames that it has sent, without answers to the gateway's Pings
	out    []byte   // what it has still to send
	in     []byte   // what has come from it and is not read yet
	closed bool     // it has sent its Close
	hung   bool     // it has closed its socket
	begun  bool     // a read of it has begun
	room   bool     // the system has room for it, which the driver has still to be told

	queue  []byte // what the gateway's system holds for it
	buffer int    // how much that is at most, before a write has to wait
	taken  int    // how much it has taken
	got    []byte // of that, what is not parsed yet
	frames [][]byte
	heard  bool          // it has got a Close
	asleep time.Duration // until when it takes nothing
	quiet  time.Duration // until when it begins no frame
	paused time.Duration // until when it sends nothing of a frame that it has begun
	owes   bool          // it has a Ping to answer
	open   bool
	slow   bool // it takes little at a time
}

func (c *calm) sink(w *way) *polite {
	if w == &c.m.up {
		return c.sides[1]
	}
	return c.sides[0]
}

func (c *calm) write(w *way, b []byte) (bool, error) {
	s := c.sink(w)
	s.queue = append(s.queue, b...)
	return len(s.queue) > s.buffer, nil
}

func (c *calm) shut(*way) {}

func (c *calm) unsent(w *way) (acked, left int64) {
	s := c.sink(w)
	return int64(s.taken), int64(len(s.queue))
}

func (c *calm) broken(format string, args ...any) {
	if c.fault == nil {
		c.fault = fmt.Errorf("at %v: %s", c.now, fmt.Sprintf(format, args...))
	}
}

// takes lets a side take n bytes, and answer what it hears.
func (s *polite) takes(n int) {
	c := s.c
	n = min(n, len(s.queue))
	if n == 0 {
		return
	}
	was := len(s.queue)
	s.got, s.queue, s.taken = append(s.got, s.queue[:n]...), s.queue[n:], s.taken+n
	// The system tells of room only when a third of its buffer is free.
	if was > s.buffer*2/3 && len(s.queue) <= s.buffer*2/3 && s.to.full {
		if s.room = c.stopped; !s.room {
			c.m.took(s.to, false, c.now)
		}
	} else if s.to.full && !c.stopped && c.src.IntN(3) == 0 {
		c.m.took(s.to, true, c.now)
	}
	for {
		r := bytes.NewReader(s.got)
		ahead := bufio.NewReaderSize(r, 16)
		f, err := rawws.Read(ahead)
		if err != nil {
			return
		}
		size := len(s.got) - r.Len() - ahead.Buffered()
		frame := s.got[:size:size]
		s.got = s.got[size:]
		if s.heard {
			c.broken("%v after a Close", f)
		}
		own := string(f.Payload) == ownPing || string(f.Payload) == notice
		if !own { // of two answers to them, the second goes on
			s.frames = append(s.frames, frame)
		}
		if f.Op() == rawws.Ping && !s.closed {
			s.owes = true
			s.says(rawws.Make(rawws.Fin|rawws.Pong, f.Payload, s.masked), !own)
		}
		if f.Op() == rawws.Close {
			s.heard = true
			s.closes(f.Code())
		}
	}
}

// says adds a frame to what it has to send, and to what the other side has to get, if kept.
func (s *polite) says(frame []byte, kept bool) {
	s.out = append(s.out, frame...)
	if kept {
		s.sent = append(s.sent, frame)
	}
}

func (s *polite) closes(code int) {
	if !s.closed {
		s.says(rawws.MakeClose(code, "", s.masked), true)
		s.closed = true
	}
}

// talks adds a frame.
func (s *polite) talks() {
	src, most := s.c.src, 1<<18
	if s.from.walk.pace != nil || s.other().slow {
		most = 4000
	}
	if s.closed || len(s.out)+len(s.in) > most {
		return
	}
	n := min([]int{0, 5, 300, 3000, 70_000}[src.IntN(5)], most)
	switch src.IntN(5) {
	case 0:
		s.says(rawws.Make(rawws.Fin|rawws.Ping, []byte("ping"), s.masked), true)
	default:
		first := byte(rawws.Text)
		if s.open {
			first = rawws.Continuation
		}
		if s.open = src.IntN(3) == 0; !s.open {
			first |= rawws.Fin
		}
		s.says(rawws.Make(first, bytes.Repeat([]byte{'a' + byte(src.IntN(26))}, n), s.masked), true)
	}
}

func (s *polite) other() *polite { return s.c.sink(s.from) }

// works does what a side does at a time.
func (s *polite) works(talks bool) {
	src := s.c.src
	now := s.c.now
	if talks && src.IntN(20) == 0 {
		s.quiet = now + time.Duration(src.IntN(150))*time.Second
	}
	if talks && now >= s.quiet && src.IntN(3) == 0 {
		s.talks()
	}
	if len(s.out) > 0 && (now >= s.paused || !talks) {
		k := len(s.out)
		if !s.owes && src.IntN(2) == 0 {
			k = 1 + src.IntN(k)
			s.paused = now + time.Duration(src.IntN(5))*time.Second
		}
		s.owes = s.owes && k < len(s.out)
		s.in, s.out = append(s.in, s.out[:k]...), s.out[k:]
	}
	if now < s.asleep {
		return
	}
	if talks && src.IntN(12) == 0 {
		s.asleep = now + time.Duration(src.IntN(10))*time.Second
	}
	if s.slow {
		s.takes(1 + src.IntN(100))
	} else {
		s.takes(1 + src.IntN(1<<17))
	}
}

// move is the driver's.
func (c *calm) move() {
	for again := true; again; {
		again = false
		for _, s := range c.sides {
			reads := c.m.reads(s.from, c.now)
			if len(s.in) == 0 {
				s.begun = s.begun || c.threads && reads
				if s.hung && s.from.src != gone && c.m.reads(s.from, c.now) {
					c.m.gone(s.from, "", c.now)
				}
				continue
			}
			if !s.begun && !reads {
				continue
			}
			again, s.begun = true, false
			if n := min(c.m.unseen(s.from), len(s.in)); n > 0 && !c.threads && c.src.IntN(2) == 0 {
				b := s.in[:n]
				s.in = s.in[n:]
				full, err := c.write(s.from, b)
				c.m.went(s.from, n, full, err, c.now)
				continue
			}
			n := min(len(s.in), bufSize-len(s.from.carry))
			b := append(slices.Clone(s.from.carry), s.in[:n]...)
			s.in = s.in[n:]
			c.m.came(s.from, b, c.now)
		}
	}
}

// passes lets time go by.
func (c *calm) passes(d time.Duration) {
	for end := c.now + d; !c.m.over; {
		next := c.m.next()
		if next > end {
			c.now = end
			return
		}
		c.now = max(c.now, next)
		c.m.tick(c.now)
		c.move()
		if after := c.m.next(); after <= c.now && c.fault == nil {
			c.broken("the next look is at %v", after)
			return
		}
	}
}

// stops lets the process be stopped for a while, and go on.
func (c *calm) stops() {
	c.stopped = true
	for range 1 + c.src.IntN(60) {
		for _, s := range c.sides {
			s.works(true)
		}
		c.now += time.Duration(c.src.IntN(3000)) * time.Millisecond
	}
	c.stopped = false
	for _, s := range c.sides {
		if s.room {
			s.room = false
			c.m.took(s.to, false, c.now)
		}
	}
	c.move()
	c.m.tick(c.now)
}

// step lets both sides do something, and then a little time go by.
func (c *calm) step(talks bool) {
	if talks && c.src.IntN(50) == 0 {
		c.m.notify(notice, c.now)
	}
	for _, s := range c.sides {
		s.works(talks)
	}
	c.move()
	d := time.Duration(c.src.IntN(200)) * time.Millisecond
	if c.src.IntN(3) == 0 {
		d = time.Duration(c.src.IntN(5)) * time.Second
	}
	c.passes(d)
}

// playCalm plays the session of a seed, and returns what was wrong with it first.
func playCalm(seed uint64) error {
	src := rand.New(rand.NewPCG(seed, 13))
	c := &calm{src: src, threads: src.IntN(3) == 0}
	rules := Rules{
		MaxMessage: 1 << 40, PingInterval: 25 * time.Second, StallTimeout: 30 * time.Second,
		closeGrace: closeGrace, replyWait: replyWait, linger: linger, long: long,
	}
	if src.IntN(2) == 0 {
		rules.long = 1
	}
	if src.IntN(2) == 0 {
		rules.IdleTimeout = time.Minute
	}
	pace := func() (p Pace) {
		switch src.IntN(4) {
		case 0:
			p = Pace{MessagesPerSecond: []float64{0.02, 0.5, 20}[src.IntN(3)], MessagesBurst: 1 + src.IntN(3)}
		case 1:
			p = Pace{BytesPerSecond: []int64{20, 1000, 100_000}[src.IntN(3)], BytesBurst: int64(src.IntN(2) * (1 + src.IntN(5000)))}
		}
		return p
	}
	rules.FromClient, rules.FromAgent = pace(), pace()
	c.m.init(rules, 0, c, 0)
	buffer := func() int { return []int{0, 500, 5000, 1 << 20}[src.IntN(4)] }
	c.sides = [2]*polite{
		{c: c, from: &c.m.up, to: &c.m.down, masked: true, buffer: buffer(), slow: src.IntN(3) == 0},
		{c: c, from: &c.m.down, to: &c.m.up, buffer: buffer(), slow: src.IntN(3) == 0},
	}
	for n := 20 + src.IntN(300); n > 0 && c.m.ending == nil && c.fault == nil; n-- {
		if src.IntN(40) == 0 {
			c.stops()
		} else {
			c.step(true)
		}
	}
	if c.m.ending != nil {
		if c.idles() {
			return nil
		}
		c.broken("it has ended as %+v before a side has closed", c.m.ending)
	}
	if agent := c.sides[1]; c.fault == nil && src.IntN(4) == 0 {
		return c.hangsUp(agent)
	}
	return c.closes()
}

// closes ends the session with a Close of one side, or of both.
func (c *calm) closes() error {
	for _, s := range c.sides {
		s.asleep = c.now // a Close has to be answered sooner than a Ping
		if c.src.IntN(2) == 0 {
			s.closes(1000)
		}
	}
	c.sides[c.src.IntN(2)].closes(1000)
	for n := 0; n < 100_000 && !c.m.over && c.fault == nil; n++ {
		c.step(false)
		for _, s := range c.sides {
			s.hung = s.heard && s.closed && len(s.out) == 0 && c.m.ending != nil
		}
	}
	e := c.m.ending
	switch {
	case c.fault != nil:
	case e == nil || !c.m.over:
		c.broken("it is not over: %+v", e)
	case c.idles():
	case e.Reason != outcome.Closed:
		c.broken("it has ended as %+v", e)
	default:
		for i, s := range c.sides {
			other := c.sides[1-i]
			if len(s.queue) == 0 && len(s.frames) != len(other.sent) { // else closeGrace has passed
				c.broken("side %d has got %d frames of %d", i, len(s.frames), len(other.sent))
			}
			for n := range min(len(s.frames), len(other.sent)) {
				if !bytes.Equal(s.frames[n], other.sent[n]) {
					c.broken("side %d, frame %d is another", i, n)
					break
				}
			}
		}
	}
	return c.fault
}

// idles reports whether the session has ended because nothing moves, and nothing does.
func (c *calm) idles() bool {
	const little = 200 // a few control frames
	for _, s := range c.sides {
		if len(s.in) > little && !s.from.full || len(s.queue) > s.buffer+little {
			return false
		}
	}
	return c.m.ending.Reason == outcome.Idle
}

// hangsUp ends the session without a Close.
func (c *calm) hangsUp(agent *polite) error {
	agent.closed, agent.hung, agent.asleep = true, true, c.now
	for n := 0; n < 100_000 && !c.m.over && c.fault == nil; n++ {
		for _, s := range c.sides {
			s.works(false)
		}
		answered := len(c.sides[0].queue) == 0 && len(c.sides[0].out) == 0
		c.move()
		if e := c.m.ending; e != nil {
			if answered && !c.idles() && e.Reason != outcome.UpstreamLost {
				c.broken("it has ended as %+v", e)
			}
			break
		}
		c.passes(time.Duration(c.src.IntN(200)) * time.Millisecond)
	}
	if c.m.ending == nil {
		c.broken("it is not over")
	}
	return c.fault
}

// TestSidesThatBehaveAreNotBlamed: a session ends with the Close of a side, and both have got all
// frames by then; or because the agent hangs up; or because no data has moved for a long time.
func TestSidesThatBehaveAreNotBlamed(t *testing.T) {
	schedules := uint64(500)
	if n, err := strconv.ParseUint(os.Getenv("OMNIA_SCHEDULES"), 10, 64); err == nil {
		schedules = n
	}
	first := rand.Uint64()
	for seed := first; seed < first+schedules; seed++ {
		if err := playCalm(seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
