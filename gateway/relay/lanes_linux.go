package relay

import (
	"cmp"
	"container/heap"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// Lanes move sessions: one lane for each processor, each with one goroutine and one epoll set. A
// session belongs to one lane at a time, with both of its sockets, so nothing of it needs a lock; a
// session on which nothing happens has no goroutine, no buffer and no timer of Go's, only a place
// in the lane's epoll set and in its heap. Only as many lanes are used as are needed (spread).
//
// A lane never waits for a session. It reads a bounded piece of each that has something, one after
// the other, and what a socket does not take waits in a buffer and stops the other side.
type Lanes struct {
	all    []*lane
	next   atomic.Uint32
	spread *spread
}

// NewLanes returns lanes that the caller must Run, and Close when no relay is left.
func NewLanes() (*Lanes, error) { return newLanes(runtime.GOMAXPROCS(0)) }

func newLanes(n int) (*Lanes, error) {
	l := &Lanes{spread: newSpread(n)}
	start := time.Now()
	for range n {
		lane, err := newLane(l, start)
		if err != nil {
			l.Close()
			return nil, err
		}
		l.all = append(l.all, lane)
	}
	return l, nil
}

// Run moves sessions until Close.
func (l *Lanes) Run() {
	var wg sync.WaitGroup
	for _, lane := range l.all {
		wg.Go(lane.run)
	}
	wg.Wait()
}

// Close ends Run. No relay may be left.
func (l *Lanes) Close() {
	for _, lane := range l.all {
		lane.close()
	}
}

// runner returns the lane for a new session.
func (l *Lanes) runner(r *Relay) runner {
	if !inLanes {
		return newThreads(r)
	}
	ride := &ride{Relay: r, number: l.next.Add(1), at: never, place: -1}
	ride.lane.Store(l.of(ride))
	return ride
}

// of returns the lane that a session belongs to at the moment.
func (l *Lanes) of(r *ride) *lane { return l.all[l.spread.place(r.number)] }

// lane is one goroutine that moves sessions.
type lane struct {
	// Immutable.
	lanes *Lanes
	fd    int       // of the epoll set
	file  *os.File  // the same, by which Go's poller wakes the goroutine, so that no thread waits for it
	start time.Time // from which all lanes count

	busy atomic.Int64 // nanoseconds for which it has worked

	// Owned by the lane's goroutine.
	events []syscall.EpollEvent
	found  int     // events of the last look
	by     []*seat // by descriptor
	queue  []*ride // sessions with something to do
	turn   []*ride // those of this round
	aboard int     // sessions that it watches
	timers timers
	armed  time.Duration

	// What was read in this round: something that may be gathered, something that may not.
	patient, urgent bool

	woken bool // by a time that has come, or by another goroutine
	now   time.Duration
	buf   [bufSize]byte
	pipes pipes

	mu     sync.Mutex
	inbox  []*ride // sessions of which other goroutines want something; if there are any, the lane does not wait
	closed bool
}

// seat is one side of a session in its lane.
type seat struct {
	*socket
	ride *ride
	link link
	to   *way // the way whose sink this side is
	from *way // the way whose source this side is

	flows bool  // so much has come from it at once that more is likely
	says  burst // what has come from it in small pieces
}

// ride is a session in its lane. It is the machine's port.
type ride struct {
	*Relay
	number uint32
	lane   atomic.Pointer[lane] // changed by that lane alone

	// Owned by the lane's goroutine.
	client, agent seat
	aboard        bool // the lane watches them
	over          bool
	queued        bool
	at            time.Duration // as in the heap, which messages need not touch for it; never: it is not there
	place         int           // in the heap, by the time when it is to be looked at; -1: it is not there

	called bool // it is in the inbox; guarded by lane.mu
}

func newLane(lanes *Lanes, start time.Time) (*lane, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil { // so that os.NewFile gives it to Go's poller
		syscall.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	l := &lane{
		lanes: lanes, fd: fd, file: os.NewFile(uintptr(fd), "epoll"), start: start,
		events: make([]syscall.EpollEvent, 128), armed: never,
	}
	if err := l.file.SetReadDeadline(time.Time{}); err != nil { // Go's poller has not taken the set
		l.close()
		return nil, err
	}
	return l, nil
}

// edges is EPOLLET: an event tells of a change, not of a state, so that a session that is not read
// for a while costs nothing.
const edges = 1 << 31

// watch lets the set report a descriptor, until that is closed.
func (l *lane) watch(fd int, what uint32) error {
	event := syscall.EpollEvent{Events: what, Fd: int32(fd)}
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(l.fd, syscall.EPOLL_CTL_ADD, fd, &event))
}

// forget is the opposite of watch.
func (l *lane) forget(fd int) { syscall.EpollCtl(l.fd, syscall.EPOLL_CTL_DEL, fd, nil) }

// close ends run.
func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.file.Close()
}

// run is the lane's goroutine.
func (l *lane) run() {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return // closed already
	}
	// What came while it worked is found when Go's poller wakes it for that, so it looks once each
	// time, unless it could not take all.
	look := func(uintptr) bool {
		if l.found = eventsNow(l.fd, l.events); l.found == 0 && !l.unfinished() {
			return false
		}
		more := l.found == len(l.events)
		l.round()
		if l.patient && !l.urgent && !l.unfinished() {
			pauseNow(gatherFor)
		}
		return more || l.unfinished()
	}
	for {
		if err := raw.Read(look); err != nil {
			if !os.IsTimeout(err) {
				return
			}
			l.woken = true
			l.round()
		}
		if l.unfinished() {
			runtime.Gosched() // a flood must not keep handshakes from the processor
		}
	}
}

// unfinished reports whether a round has left something to do.
func (l *lane) unfinished() bool { return len(l.queue) > 0 || l.due() }

// due reports whether a session's time has come.
func (l *lane) due() bool { return len(l.timers) > 0 && l.timers[0].at <= l.now }

// arm wakes the lane in time for the first timer. A time that is too early is left: it costs one
// round, and to move it with each message would cost more.
func (l *lane) arm() {
	if len(l.timers) == 0 || l.timers[0].at >= l.armed || l.due() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.inbox) == 0 {
		l.armed = l.timers[0].at
		l.file.SetReadDeadline(l.start.Add(l.armed))
	}
}

// maxTicks is how many sessions of which the time has come are looked at in a round. Many may get
// their Pings at the same time (grid), and messages must not wait for all of them.
const maxTicks = 64

// round does what there is to do, a bounded piece for each session.
func (l *lane) round() {
	l.now = time.Since(l.start)
	if l.woken {
		l.woken = false
		l.answer()
	}
	for i := range l.events[:l.found] {
		l.event(&l.events[i])
	}
	l.found = 0
	for ticks := 0; ticks < maxTicks && l.due(); ticks++ {
		late := l.now - l.timers[0].at
		heap.Pop(&l.timers).(*ride).tick(late)
	}
	l.turn, l.queue = l.queue, l.turn[:0]
	l.patient, l.urgent = false, false
	for i, r := range l.turn {
		l.turn[i] = nil
		r.queued = false
		if !r.change() {
			r.move()
		}
	}
	l.arm()
	end := time.Since(l.start)
	l.busy.Add(int64(end - l.now))
	l.lanes.spread.weigh(l.lanes.all, end)
}

// event notes what the set has reported.
func (l *lane) event(e *syscall.EpollEvent) {
	fd := int(e.Fd)
	if fd >= len(l.by) || l.by[fd] == nil {
		return // closed in this round
	}
	s := l.by[fd]
	if e.Events&(syscall.EPOLLIN|syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
		s.readable = true
	}
	if e.Events&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
		s.hung = true
	}
	if e.Events&(syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
		s.reset = true
	}
	s.ride.enqueue()
}

// answer looks after the sessions of which other goroutines want something, and lets the lane wait
// again.
func (l *lane) answer() {
	l.mu.Lock()
	l.armed = never
	l.file.SetReadDeadline(time.Time{})
	called := l.inbox
	l.inbox = nil
	for _, r := range called {
		r.called = false
	}
	l.mu.Unlock()
	l.now = time.Since(l.start) // no earlier than the time that the lane has told which a session came from
	for _, r := range called {
		r.asked()
	}
}

// call makes the lane look after the session, from any goroutine.
func (r *ride) call() {
	l := r.lane.Load()
	l.mu.Lock()
	for l != r.lane.Load() { // it has changed lanes just now
		l.mu.Unlock()
		l = r.lane.Load()
		l.mu.Lock()
	}
	defer l.mu.Unlock()
	if r.called || l.closed {
		return
	}
	r.called = true
	if l.inbox = append(l.inbox, r); len(l.inbox) == 1 {
		l.file.SetReadDeadline(longAgo) // Go's poller wakes the lane without a system call
	}
}

// longAgo is a time that has passed.
var longAgo = time.Unix(1, 0)

func (r *ride) enqueue() {
	if !r.queued {
		r.queued = true
		l := r.lane.Load()
		l.queue = append(l.queue, r)
	}
}

// asked begins the session, ends it or cuts it, as other goroutines want.
func (r *ride) asked() {
	if r.over {
		return
	}
	defer r.mistake()
	if !r.aboard {
		if err := r.board(); err != nil {
			r.leave(outcome.End(outcome.InternalError, err.Error()))
			return
		}
	}
	r.heed(r.now())
	if r.cutting.Load() {
		r.leave(r.m.ending)
		return
	}
	r.after()
}

// board takes the session into its lane.
func (r *ride) board() error {
	l := r.lane.Load()
	if r.agent.socket == nil {
		if err := r.take(); err != nil {
			return fmt.Errorf("take a socket into a lane: %w", err)
		}
	}
	for _, s := range r.seats() {
		if err := l.watch(s.fd, syscall.EPOLLIN|syscall.EPOLLOUT|syscall.EPOLLRDHUP|edges); err != nil {
			return fmt.Errorf("watch a socket: %w", err)
		}
		for s.fd >= len(l.by) {
			l.by = append(l.by, make([]*seat, 256)...)
		}
		l.by[s.fd] = s
	}
	r.aboard = true
	l.aboard++
	r.enqueue()
	return nil
}

// take takes both sockets from Go's poller.
func (r *ride) take() error {
	r.client = seat{ride: r, link: r.sides[0], to: &r.m.down, from: &r.m.up}
	r.agent = seat{ride: r, link: r.sides[1], to: &r.m.up, from: &r.m.down}
	r.m.init(r.rules, r.rsv, r, r.now())
	for _, s := range r.seats() {
		sock, err := s.link.tcp.take()
		if err != nil {
			return err
		}
		s.socket = sock
	}
	return nil
}

// change reports whether the session belongs to another lane now, and takes it there. Only a
// session on which something happens changes.
func (r *ride) change() bool {
	l := r.lane.Load()
	to := l.lanes.of(r)
	if to == l || !r.aboard {
		return false
	}
	if r.client.pipe != nil || r.agent.pipe != nil { // pipes are the lane's: another time
		return false
	}
	l.mu.Lock()
	if r.called || l.closed { // likewise
		l.mu.Unlock()
		return false
	}
	r.unboard()
	for _, s := range r.seats() {
		l.forget(s.fd)
	}
	l.tidy()
	r.lane.Store(to)
	l.mu.Unlock()
	r.call()
	return true
}

// unboard takes the session out of its lane.
func (r *ride) unboard() {
	l := r.lane.Load()
	if r.place >= 0 {
		heap.Remove(&l.timers, r.place)
	}
	for _, s := range r.seats() {
		if s.socket != nil && s.fd >= 0 && s.fd < len(l.by) {
			l.by[s.fd] = nil
		}
	}
	if r.aboard {
		r.aboard = false
		l.aboard--
	}
}

// tidy closes the pipes of a lane that has no session any more.
func (l *lane) tidy() {
	if l.aboard == 0 {
		l.pipes.close()
	}
}

// now returns the time of the lane's round.
func (r *ride) now() time.Duration { return r.lane.Load().now }

func (r *ride) seats() [2]*seat { return [2]*seat{&r.client, &r.agent} }

// sink returns the side to which a way leads.
func (r *ride) sink(w *way) *seat {
	if w == &r.m.up {
		return &r.agent
	}
	return &r.client
}

// write is the machine's.
func (r *ride) write(w *way, b []byte) (full bool, err error) {
	s := r.sink(w)
	if len(b) > maxRecord && s.link.tls() {
		s.cork()
	}
	_, err = s.link.conn.Write(b)
	s.uncork()
	return s.waits(), cmp.Or(err, s.fault)
}

// shut is the machine's.
func (r *ride) shut(w *way) { r.sink(w).link.closeWrite() }

// unsent is the machine's.
func (r *ride) unsent(w *way) (acked, left int64) {
	s := r.sink(w)
	inside := int64(unsentOf(s.fd))
	left = inside + int64(len(s.out))
	if s.pipe != nil {
		left += int64(s.pipe.n)
	}
	return s.sent - inside, left
}

// tick is called when the session's time has come, or late. What has come before then, and was not
// read, is no silence.
func (r *ride) tick(late time.Duration) {
	defer r.mistake()
	if late > tooLate {
		r.client.readable, r.agent.readable = true, true
		r.move()
	}
	if r.over {
		return
	}
	r.m.tick(r.now())
	r.after()
}

// move does a bounded piece of what there is to do.
func (r *ride) move() {
	if r.over || !r.aboard {
		return
	}
	defer r.mistake()
	now := r.now()
	for _, s := range r.seats() {
		if s.waits() {
			went := s.flush()
			switch {
			case s.fault != nil:
				r.m.failed(s.to, now)
			case went:
				r.m.took(s.to, s.waits(), now)
			}
		}
	}
	for _, s := range r.seats() {
		if s.readable && r.m.reads(s.from, now) {
			r.read(s)
		}
		if s.hung {
			r.m.hung(s.from, s.reset, now)
		}
	}
	r.after()
}

// read takes a bounded piece of what has come from a side, and passes it on.
func (r *ride) read(s *seat) {
	w, l := s.from, r.lane.Load()
	if !s.flows || !r.plain() || !r.m.streams(w) || !l.pipes.any(l.now) {
		r.look(s, bufSize)
		return
	}
	if r.m.unseen(w) == 0 {
		r.look(s, r.m.room(w))
	}
	if n := r.m.unseen(w); n > 0 && s.flows && r.m.reads(w, l.now) {
		r.splice(s, min(n, spliceSize))
	}
}

// plain reports whether there is TLS on neither side.
func (r *ride) plain() bool { return !r.client.link.tls() && !r.agent.link.tls() }

// splice moves n bytes at most from a side to the other without reading them.
func (r *ride) splice(s *seat, n int) {
	l := r.lane.Load()
	p := l.pipes.get(l.now)
	if p == nil {
		s.flows = false
		return
	}
	l.urgent = true
	err := p.fill(s.fd, n)
	s.came(p.n, n)
	if s.readable = err == nil; p.n == 0 {
		p.put()
	} else {
		n, to := p.n, r.sink(s.from)
		to.pipe = p
		to.flush()
		r.m.went(s.from, n, to.waits(), to.fault, l.now)
	}
	r.ends(s, err)
}

// look reads what has come from a side, as far as there is room, for the machine to look at.
func (r *ride) look(s *seat, room int) {
	w, l := s.from, r.lane.Load()
	buf := l.buf[:room]
	k := copy(buf, w.carry)
	n, err := s.receive(buf[k:])
	s.came(n, room-k)
	passed := w.bytes
	if n > 0 {
		r.m.came(w, buf[:k+n], l.now)
	}
	r.sink(w).says.end()
	if s.says.read(n, l.now) || n > 0 && w.bytes == passed { // of an answer to the gateway's own Ping nothing goes on
		l.patient = true
	} else {
		l.urgent = true
	}
	r.ends(s, err)
}

// ends takes note of an error of a side that was read.
func (r *ride) ends(s *seat, err error) {
	if err != nil && err != (wouldBlock{}) {
		r.m.gone(s.from, textOf(err), r.now())
	}
}

// came notes how much has come, of what there was room for. A long frame that comes in small
// pieces is read: each piece would keep a whole page of the system's in a pipe.
func (s *seat) came(n, room int) {
	s.flows = uint64(n) >= min(uint64(room), s.ride.rules.long/2)
}

// receive reads what is there, as far as there is room for it.
func (s *seat) receive(b []byte) (n int, err error) {
	if !s.link.tls() {
		return s.read(b)
	}
	s.readable = true // crypto/tls may hold bytes of its own
	for err == nil && len(b)-n >= 512 {
		var m int
		m, err = s.link.conn.Read(b[n:])
		n += m
	}
	// crypto/tls may still hold bytes, unless it has asked the socket for more in vain. An error
	// that came with bytes comes again.
	s.readable = err == nil || err != (wouldBlock{}) && n > 0
	if n > 0 {
		err = nil
	}
	return n, err
}

// after looks at what an event has left: the session may be over, have more to read, or want to be
// looked at earlier.
func (r *ride) after() {
	if r.over {
		return
	}
	r.publish()
	if r.m.over {
		r.leave(r.m.ending)
		return
	}
	for _, s := range r.seats() {
		if s.readable && r.m.reads(s.from, r.now()) { // no event of the socket tells that it does not have to wait any more
			r.enqueue()
		}
	}
	if next := r.m.next(); next < r.at {
		l := r.lane.Load()
		if r.at = next; r.place < 0 {
			heap.Push(&l.timers, r)
		} else {
			l.timers[r.place].at = next
			heap.Fix(&l.timers, r.place)
		}
	}
}

// leave closes both sides and tells that the session is over.
func (r *ride) leave(e *outcome.Ending) {
	r.over = true
	r.publish()
	r.unboard()
	for _, s := range r.sides {
		s.conn.Close()
	}
	r.lane.Load().tidy()
	if e == nil {
		e = outcome.End(outcome.InternalError, "cut before it was ended")
	}
	go r.done(e) // it may wait for the log
}

// mistake keeps a mistake in one session from ending all the others: it closes both sides with the
// word, or without one if that is a mistake, too.
func (r *ride) mistake() {
	v := recover()
	if v == nil {
		return
	}
	e := mistaken(v)
	if r.over || r.failed {
		if !r.over {
			r.leave(r.m.ending)
		}
		return
	}
	r.failed = true
	defer r.mistake()
	r.m.end(e, r.now())
	r.enqueue()
	r.after()
}

// timers is a heap of sessions by the time at which they want to be looked at. The times lie beside
// each other: the sessions themselves are all over the memory.
type timers []timer

type timer struct {
	at   time.Duration
	ride *ride
}

func (h timers) Len() int           { return len(h) }
func (h timers) Less(i, j int) bool { return h[i].at < h[j].at }
func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].ride.place, h[j].ride.place = i, j
}

// Push is heap.Interface's.
func (h *timers) Push(x any) {
	r := x.(*ride)
	r.place = len(*h)
	*h = append(*h, timer{r.at, r})
}

// Pop is heap.Interface's.
func (h *timers) Pop() any {
	last := len(*h) - 1
	r := (*h)[last].ride
	(*h)[last] = timer{}
	*h = (*h)[:last]
	r.at, r.place = never, -1
	return r
}
