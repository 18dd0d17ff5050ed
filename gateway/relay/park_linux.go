package relay

import (
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Lanes take care of quiet sessions: one epoll set over the sources of their directions, and one
// goroutine that sees which of them have bytes. A direction that is parked here has no goroutine,
// and so no stack, which is what a quiet session costs most.
type Lanes struct {
	after   time.Duration // for how long no message must have moved, either way
	settled atomic.Uint64 // directions parked so far after messages, not counting those in which only Pings and Pongs moved

	fd   int      // of the epoll set
	file *os.File // the same, to wait for it

	mu sync.Mutex
	by []*pump // which direction waits for a descriptor, by its number
}

// newLanes returns lanes that take a direction after a time without a message, either way.
func newLanes(after time.Duration) (*Lanes, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil { // so that os.NewFile gives it to the runtime's poller, and no thread waits for it
		syscall.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	l := &Lanes{after: after, fd: fd, file: os.NewFile(uintptr(fd), "epoll")}
	if err := l.file.SetReadDeadline(time.Time{}); err != nil { // the poller has not taken it
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close ends Run. No relay may be left.
func (l *Lanes) Close() { l.file.Close() }

// Run resumes directions that have bytes, until Close.
func (l *Lanes) Run() {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return // closed already
	}
	events, n := make([]syscall.EpollEvent, 128), 0
	look := func(uintptr) bool {
		n, err = syscall.EpollWait(l.fd, events, 0)
		return n > 0 || err == syscall.EINTR
	}
	for raw.Read(look) == nil {
		for _, e := range events[:max(n, 0)] {
			if p := l.take(int(e.Fd)); p != nil {
				p.resume()
			}
		}
	}
}

// take returns the direction that waits for a descriptor, and lets it wait no longer. It is nil
// when something else was quicker to resume it.
func (l *Lanes) take(fd int) *pump {
	l.mu.Lock()
	defer l.mu.Unlock()
	if fd >= len(l.by) {
		return nil
	}
	p := l.by[fd]
	l.by[fd] = nil
	return p
}

// oneShot is EPOLLONESHOT, for which package syscall has no name: a descriptor that was reported
// is not watched any more.
const oneShot = 1 << 30

// watch resumes p as soon as its source has bytes or has come to its end. The caller holds
// Relay.parking, which keeps p from being resumed before it is parked, and its source from being
// closed meanwhile.
func (l *Lanes) watch(p *pump) error {
	fd := p.src.descriptor()
	l.mu.Lock()
	for fd >= len(l.by) {
		l.by = append(l.by, nil)
	}
	l.by[fd] = p
	l.mu.Unlock()
	op := syscall.EPOLL_CTL_ADD
	if p.watched {
		op = syscall.EPOLL_CTL_MOD
	}
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | oneShot, Fd: int32(fd)}
	if err := syscall.EpollCtl(l.fd, op, fd, &event); err != nil {
		l.take(fd)
		return os.NewSyscallError("epoll_ctl", err)
	}
	p.watched = true
	return nil
}

// forget is called when something else than bytes has resumed p. The descriptor stays in the set,
// for one report at most.
func (l *Lanes) forget(p *pump) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if fd := p.src.descriptor(); l.by[fd] == p {
		l.by[fd] = nil
	}
}
