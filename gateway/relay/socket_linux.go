package relay

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// socket is a connection in a lane: a descriptor that never blocks. Only the lane's goroutine uses
// it, except that take makes one.
type socket struct {
	fd   int
	kept *net.TCPConn // whose descriptor fd is, if there was no other to be had

	readable bool // there may be something to read
	hung     bool // the peer has closed its end, or the connection has failed: there is an end to read
	reset    bool // it has failed

	pipe   *pipe   // has payload that the peer has not taken yet; nil: there is none
	out    []byte  // what it has not taken either, and comes after that
	corked bool    // what is written waits in out for uncork
	base   *[]byte // the buffer that out lies in, to be given back
	sent   int64   // bytes that the system has taken
	fin    bool    // the peer is to be told that nothing more comes, once all is out
	fault  error   // why nothing more can be written
}

// take takes the socket of c away from Go's poller, which would be woken for everything that the
// lane is woken for. For that it needs a second descriptor for a moment; when there is none, the
// poller keeps the socket, and is woken.
func (c *Conn) take() (*socket, error) {
	raw, err := c.TCPConn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{readable: true}
	err = raw.Control(func(fd uintptr) {
		var err error
		if s.fd, err = duplicate(int(fd)); err != nil {
			s.fd, s.kept = int(fd), c.TCPConn
		}
	})
	if err != nil {
		return nil, err
	}
	if s.kept == nil {
		c.TCPConn.Close() // this descriptor of the two
	}
	c.TCPConn, c.socket = nil, s
	return s, nil
}

func (s *socket) read(b []byte) (int, error) {
	if !s.readable {
		return 0, wouldBlock{}
	}
	n, err := readNow(s.fd, b)
	if err != nil || n < len(b) && !s.hung {
		s.readable = false // an event will tell of more; but none comes once the end of the stream was told
	}
	return n, err
}

func (s *socket) write(b []byte) (int, error) {
	if s.fault != nil {
		return 0, s.fault
	}
	n := 0
	if !s.waits() && !s.corked {
		n, s.fault = writeNow(s.fd, b)
		s.sent += int64(n)
		if n == len(b) || s.fault != nil {
			return n, s.fault
		}
	}
	if s.base == nil {
		s.base = backlogs.Get().(*[]byte)
		s.out = *s.base
	}
	s.out = append(s.out, b[n:]...)
	return len(b), nil
}

// waits reports whether something waits for the peer.
func (s *socket) waits() bool { return s.pipe != nil || len(s.out) > 0 }

// maxRecord is how much a record of TLS holds at most (RFC 8446 §5.1).
const maxRecord = 16 << 10

// cork keeps what is written until uncork: the system gets the records of one write at once, and
// wakes the peer once.
func (s *socket) cork() { s.corked = !s.waits() }

// uncork writes what was kept.
func (s *socket) uncork() {
	if s.corked {
		s.corked = false
		s.flush()
	}
}

// flush writes what has waited for the peer. It reports whether some went out.
func (s *socket) flush() bool {
	before := s.sent
	if s.pipe != nil {
		s.unload()
	}
	if s.pipe == nil && s.fault == nil {
		n, err := writeNow(s.fd, s.out)
		s.sent, s.out, s.fault = s.sent+int64(n), s.out[n:], err
	}
	switch {
	case s.fault != nil:
		s.drop()
		return false
	case !s.waits():
		s.drop()
		if s.fin {
			s.closeWrite()
		}
	}
	return s.sent > before
}

// unload writes what lies in the pipe to the peer.
func (s *socket) unload() {
	n, err := s.pipe.empty(s.fd)
	s.sent += int64(n)
	if err == errors.ErrUnsupported {
		var b []byte
		if b, err = s.pipe.rest(); err == nil {
			s.out = append(b, s.out...)
		}
	}
	if s.fault = err; s.pipe.n == 0 {
		s.pipe.put()
		s.pipe = nil
	}
}

// drop forgets what has waited for the peer.
func (s *socket) drop() {
	if s.pipe != nil {
		s.pipe.close()
	}
	if s.base != nil {
		backlogs.Put(s.base)
	}
	s.pipe, s.out, s.base = nil, nil, nil
}

func (s *socket) closeWrite() error {
	if s.fin = s.waits(); s.fin {
		return nil
	}
	return os.NewSyscallError("shutdown", syscall.Shutdown(s.fd, syscall.SHUT_WR))
}

func (s *socket) close() error {
	s.drop()
	if s.fault == nil {
		s.fault = os.ErrClosed
	}
	fd := s.fd
	if fd < 0 {
		return os.ErrClosed
	}
	s.fd = -1
	if s.kept != nil {
		return s.kept.Close()
	}
	return os.NewSyscallError("close", syscall.Close(fd))
}
