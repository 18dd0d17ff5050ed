package relay

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// System calls on sockets that are non-blocking. They return at once, so Go's scheduler is not
// told of them: to be told costs more than the call, and wakes a thread of the runtime on a
// process that was idle.

// readNow reads what is there: wouldBlock{} when that is nothing, io.EOF at the end of the stream.
func readNow(fd int, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.EAGAIN:
			return 0, wouldBlock{}
		case errno != 0:
			return 0, os.NewSyscallError("read", errno)
		case n == 0:
			return 0, io.EOF
		}
		return int(n), nil
	}
}

// writeNow writes as much as the socket takes, which may be nothing.
func writeNow(fd int, b []byte) (n int, err error) {
	for n < len(b) {
		m, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[n])), uintptr(len(b)-n))
		switch {
		case errno == syscall.EINTR:
		case errno == syscall.EAGAIN:
			return n, nil
		case errno != 0:
			return n, os.NewSyscallError("write", errno)
		default:
			n += int(m)
		}
	}
	return n, nil
}

// newPipe returns the ends of a pipe that holds so many bytes and never blocks.
func newPipe(size int) (r, w int, err error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_NONBLOCK|syscall.O_CLOEXEC); err != nil {
		return 0, 0, os.NewSyscallError("pipe2", err)
	}
	const setPipeSize = 1031 // F_SETPIPE_SZ, for which package syscall has no name
	if _, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fds[0]), setPipeSize, uintptr(size)); errno != 0 {
		syscall.Close(fds[0])
		syscall.Close(fds[1])
		return 0, 0, os.NewSyscallError("fcntl", errno)
	}
	return fds[0], fds[1], nil
}

// spliceNow moves n bytes at most from one descriptor to another, of which one is that of a pipe.
// Its error is an errno, EAGAIN too; at the end of a stream it moves nothing.
func spliceNow(from, to, n int) (int, error) {
	const flags = 1 | 2 // SPLICE_F_MOVE and SPLICE_F_NONBLOCK, for which package syscall has no names
	for {
		got, _, errno := syscall.RawSyscall6(syscall.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), flags)
		switch errno {
		case 0:
			return int(got), nil
		case syscall.EINTR:
			continue
		}
		return 0, errno
	}
}

// unsentOf returns how many bytes of a socket its peer's system has not acknowledged (SIOCOUTQ).
func unsentOf(fd int) int {
	var n int32
	if _, _, errno := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return 0
	}
	return int(n)
}

const (
	// notSentLowat is TCP_NOTSENT_LOWAT, for which package syscall has no name.
	notSentLowat = 25
	// lowat is how many bytes that the system has not sent yet it keeps for each side. With less,
	// a stream waits for its slow side more often, and each time what is left of a read is copied:
	// at 128 KiB streams over TLS cost 5 % more.
	lowat = 512 << 10
)

// holdLess bounds what the system keeps of bytes that it has not sent yet. The rest waits at its
// source, a Close and a Ping have less before them, and a slow reader is seen to take bytes.
func holdLess(c *net.TCPConn) {
	controlled(c, func(fd int) { syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, notSentLowat, lowat) })
}

// unsentBy returns how many bytes of a connection its peer's system has not acknowledged.
func unsentBy(c *net.TCPConn) (n int) {
	controlled(c, func(fd int) { n = unsentOf(fd) })
	return n
}

// hungUp reports whether the peer of a connection has closed its end, and whether the connection
// was reset, also when there is more to read first (TCP_INFO).
func hungUp(c *net.TCPConn) (hung, reset bool) {
	controlled(c, func(fd int) {
		state, err := syscall.GetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_INFO)
		if err != nil {
			return
		}
		const ( // include/net/tcp_states.h; for the states after the gateway's own FIN it is too late
			tcpClose     = 7
			tcpCloseWait = 8
		)
		state &= 0xff // tcpi_state is the first byte
		reset = state == tcpClose
		hung = reset || state == tcpCloseWait
	})
	return hung, reset
}

// unreadOf returns how many bytes of a connection have come and were not read (SIOCINQ).
func unreadOf(c *net.TCPConn) (unread int) {
	controlled(c, func(fd int) {
		var n int32
		if _, _, errno := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCINQ, uintptr(unsafe.Pointer(&n))); errno == 0 {
			unread = int(n)
		}
	})
	return unread
}

// controlled calls f with the descriptor of a connection, unless that is closed.
func controlled(c *net.TCPConn, f func(fd int)) {
	if raw, err := c.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}

// eventsNow returns what an epoll set has to report, without waiting.
func eventsNow(fd int, events []syscall.EpollEvent) int {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(fd),
		uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// duplicate returns another descriptor of the same socket.
func duplicate(fd int) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("dup", errno)
	}
	return int(n), nil
}

// pauseNow waits for d, and about 50 µs more, which the system adds. The processor is not given to
// other goroutines meanwhile: that would cost more than so short a time is worth.
func pauseNow(d time.Duration) {
	t := syscall.NsecToTimespec(int64(d))
	syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
}
