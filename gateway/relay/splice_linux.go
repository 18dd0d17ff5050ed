package relay

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// The payload of long frames goes from one plain socket to the other without being copied: the
// system moves its pages from the source into a pipe, and from the pipe into the sink (splice(2)).
// A session has a pipe only while bytes lie in it.

const (
	// spliceSize is how much of a session is moved at a time, which takes as long as to read and
	// write bufSize. pipeSize has room for that: not each of its pages is full.
	spliceSize, pipeSize = 96 << 10, 128 << 10
	// mostPipes is how many pipes a lane has at most, and sparePipes how many empty ones it keeps.
	// A session that gets none is read and written.
	mostPipes, sparePipes = 16, 4
	// refused is how long a lane makes no pipe after the system has refused one.
	refused = time.Second
)

// pipes are those of one lane, which has none while it has no session. Only its goroutine uses
// them.
type pipes struct {
	spare []*pipe       // empty
	made  int           // that are open
	after time.Duration // when another may be made; never: the system does not splice
}

// pipe is a pipe that never blocks.
type pipe struct {
	home *pipes
	r, w int // descriptors
	n    int // bytes that lie in it
}

// any reports whether get is likely to return a pipe.
func (ps *pipes) any(now time.Duration) bool {
	return ps.after != never && (len(ps.spare) > 0 || ps.made < mostPipes && now >= ps.after)
}

// get returns an empty pipe, or nil if none can be had.
func (ps *pipes) get(now time.Duration) *pipe {
	if !ps.any(now) {
		return nil
	}
	if last := len(ps.spare) - 1; last >= 0 {
		p := ps.spare[last]
		ps.spare = ps.spare[:last]
		return p
	}
	r, w, err := newPipe(pipeSize)
	if err != nil {
		ps.after = now + refused
		return nil
	}
	ps.made++
	return &pipe{home: ps, r: r, w: w}
}

// close closes the empty pipes.
func (ps *pipes) close() {
	for _, p := range ps.spare {
		p.close()
	}
	ps.spare = nil
}

// put gives back a pipe, which is empty.
func (p *pipe) put() {
	if len(p.home.spare) == sparePipes {
		p.close()
		return
	}
	p.home.spare = append(p.home.spare, p)
}

func (p *pipe) close() {
	syscall.Close(p.r)
	syscall.Close(p.w)
	p.home.made--
}

// fill moves n bytes at most from a socket into the pipe, which is empty. Its errors are those of
// readNow. If the system does not splice, nothing is moved, and from then on sockets are read.
func (p *pipe) fill(fd, n int) (err error) {
	p.n, err = spliceNow(fd, p.w, n)
	switch {
	case unsupported(err):
		p.home.after = never
		return nil
	case err == syscall.EAGAIN:
		return wouldBlock{}
	case err == nil && p.n == 0:
		return io.EOF
	}
	return os.NewSyscallError("read", err)
}

// empty moves as much from the pipe into a socket as that takes, which may be nothing.
func (p *pipe) empty(fd int) (n int, err error) {
	for p.n > 0 {
		got, err := spliceNow(p.r, fd, p.n)
		n, p.n = n+got, p.n-got
		switch {
		case unsupported(err):
			p.home.after = never
			return n, errors.ErrUnsupported
		case got == 0 && err != syscall.EAGAIN:
			return n, os.NewSyscallError("write", err)
		case got == 0:
			return n, nil
		}
	}
	return n, nil
}

// rest takes all out of the pipe, for a socket that has to be written.
func (p *pipe) rest() ([]byte, error) {
	b := make([]byte, p.n)
	for p.n > 0 {
		n, err := readNow(p.r, b[len(b)-p.n:])
		if err != nil {
			return nil, err
		}
		p.n -= n
	}
	return b, nil
}

// unsupported reports whether an error of splice says that the system, or the sandbox around it,
// does not do that.
func unsupported(err error) bool {
	return err == syscall.EINVAL || err == syscall.ENOSYS || err == syscall.EPERM
}
