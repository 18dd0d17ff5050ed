package relay

import (
	"sync"
	"time"
)

// threads drive a session where there are no lanes: a goroutine that reads and one that writes for
// each side, and a timer. The machine is called with the lock held; no I/O is done with it.
type threads struct {
	*Relay
	start time.Time
	board sync.Once

	mu     sync.Mutex
	ends   [2]*thread // client, agent
	timer  *time.Timer
	at     time.Duration // when it fires
	put    time.Duration // until when the last look that came too late was put off
	left   int           // goroutines
	closed bool
}

// thread is one side of a session with goroutines.
type thread struct {
	link link
	to   *way // the way whose sink this side is
	from *way // the way whose source this side is

	// Guarded by threads.mu.
	out   []byte // what waits to be written
	busy  int    // bytes that are being written
	sent  int64
	fin   bool
	fault error
	stir  *sync.Cond // something has changed for one of the two goroutines
}

func newThreads(r *Relay) *threads { return &threads{Relay: r, start: time.Now()} }

func (t *threads) now() time.Duration { return time.Since(t.start) }

// call does what other goroutines want.
func (t *threads) call() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.board.Do(t.begin)
	if t.left == 0 {
		return
	}
	defer t.mistake()
	t.heed(t.now())
	if t.cutting.Load() {
		t.m.over = true
	}
	t.after()
}

func (t *threads) begin() {
	t.ends = [2]*thread{
		{link: t.sides[0], to: &t.m.down, from: &t.m.up, stir: sync.NewCond(&t.mu)},
		{link: t.sides[1], to: &t.m.up, from: &t.m.down, stir: sync.NewCond(&t.mu)},
	}
	t.m.init(t.rules, t.rsv, t, t.now())
	t.timer = time.AfterFunc(time.Hour, t.tick)
	for _, s := range t.ends {
		t.left += 2
		go t.reads(s)
		go t.writes(s)
	}
}

// tick is called when the session's time has come, or late. Then the process may have been stopped,
// and what has come before is no silence: the goroutines that read it come first.
func (t *threads) tick() {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.mistake()
	if now := t.now(); now-t.at > tooLate && t.at > t.put {
		t.put = now + tooLate
		t.after()
		return
	}
	if !t.m.over {
		for _, s := range t.ends {
			if s.from.held {
				if hung, reset := hungUp(s.link.tcp.TCPConn); hung {
					t.m.hung(s.from, reset, t.now())
				}
			}
		}
		t.m.tick(t.now())
		t.after()
	}
}

// peek is how often a side that is not read is looked at, because nothing tells that it hangs up.
const peek = time.Second

// after looks at what an event has left.
func (t *threads) after() {
	t.publish()
	next := t.m.next()
	if t.m.up.held || t.m.down.held {
		next = min(next, t.now()+peek)
	}
	switch {
	case t.m.over && !t.closed:
		t.closed = true
		t.timer.Stop()
		for _, s := range t.ends {
			go s.link.conn.Close() // which ends the goroutines' reads and writes; TLS may wait a little for its goodbye
		}
	case next != never:
		t.at = max(next, t.put)
		t.timer.Reset(max(t.at-t.now(), 0))
	}
	for _, s := range t.ends {
		s.stir.Broadcast()
	}
}

// leave is called by each goroutine when it has ended, with the lock held. The last one tells.
func (t *threads) leave() {
	if t.left--; t.left == 0 {
		e := t.m.ending
		go t.done(e)
	}
}

// reads is the goroutine that reads a side.
func (t *threads) reads(s *thread) {
	buf := make([]byte, bufSize)
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.leave()
	for {
		for !t.m.over && s.from.src != gone && !t.m.reads(s.from, t.now()) {
			s.stir.Wait()
		}
		if t.m.over || s.from.src == gone {
			return
		}
		k := copy(buf, s.from.carry)
		var n int
		var err error
		t.guard(func() { t.apart(func() { n, err = s.link.conn.Read(buf[k:]) }) })
		if t.m.over {
			return
		}
		t.guard(func() {
			if n > 0 {
				t.m.came(s.from, buf[:k+n], t.now())
			}
			if err != nil {
				t.m.gone(s.from, textOf(err), t.now())
			}
			t.after()
		})
	}
}

// piece is how much is written at a time, so that the machine sees a slow side take something.
const piece = 16 << 10

// writes is the goroutine that writes to a side.
func (t *threads) writes(s *thread) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.leave()
	var spare []byte
	for {
		for !t.m.over && len(s.out) == 0 && !s.fin {
			s.stir.Wait()
		}
		if t.m.over {
			return
		}
		if len(s.out) == 0 {
			s.fin = false
			t.apart(s.link.closeWrite)
			continue
		}
		b := s.out
		s.out, s.busy = spare[:0], len(b)
		for len(b) > 0 && s.fault == nil && !t.m.over {
			var n int
			var err error
			t.apart(func() { n, err = s.link.conn.Write(b[:min(len(b), piece)]) })
			b = b[n:]
			s.busy, s.sent, s.fault = len(b), s.sent+int64(n), err
			t.guard(func() {
				if err != nil && !t.m.over {
					s.out = nil
					t.m.failed(s.to, t.now())
				} else if !t.m.over {
					t.m.took(s.to, len(b)+len(s.out) > 0, t.now())
				}
				t.after()
			})
		}
		spare = b[:0]
	}
}

// apart calls f without the lock.
func (t *threads) apart(f func()) {
	t.mu.Unlock()
	defer t.mu.Lock()
	f()
}

// guard calls f, and keeps a mistake in it from ending the other sessions.
func (t *threads) guard(f func()) {
	defer t.mistake()
	f()
}

func (t *threads) mistake() {
	v := recover()
	if v == nil {
		return
	}
	if t.failed {
		t.m.over = true
	}
	t.failed = true
	if !t.m.over {
		defer t.mistake()
		t.m.end(mistaken(v), t.now())
	}
	t.after()
}

func (t *threads) sink(w *way) *thread {
	if w == &t.m.up {
		return t.ends[1]
	}
	return t.ends[0]
}

// write is the machine's. What is written waits for the goroutine.
func (t *threads) write(w *way, b []byte) (full bool, err error) {
	s := t.sink(w)
	if s.fault != nil {
		return false, s.fault
	}
	s.out = append(s.out, b...)
	return true, nil
}

// shut is the machine's.
func (t *threads) shut(w *way) { t.sink(w).fin = true }

// unsent is the machine's. What the system holds counts as taken.
func (t *threads) unsent(w *way) (acked, left int64) {
	s := t.sink(w)
	return s.sent, int64(s.busy + len(s.out))
}
