package relay

import (
	"io"
	"os"
	"syscall"
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

// unsentOf returns how many bytes of a socket its peer's system has not acknowledged (SIOCOUTQ).
func unsentOf(fd int) int {
	var n int32
	if _, _, errno := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return 0
	}
	return int(n)
}

// notSentLowat is TCP_NOTSENT_LOWAT, for which package syscall has no name.
const notSentLowat = 25

// holdLess bounds what the system keeps of bytes that it has not sent yet. The rest waits at its
// source, a Close and a Ping have less before them, and a slow reader is seen to take bytes.
func holdLess(fd, bytes int) {
	n := int32(bytes)
	syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, uintptr(fd), syscall.IPPROTO_TCP, notSentLowat, uintptr(unsafe.Pointer(&n)), 4, 0)
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
