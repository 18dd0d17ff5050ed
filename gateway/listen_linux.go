package gateway

import (
	"net"
	"os"
	"syscall"
)

// listenConfig returns how listeners are bound. Accepted sockets take the options of their
// listener, so that the probes that find a dead peer need not be set on each: with four system
// calls. A connection is accepted when its client has sent something, or after a second: in HTTP
// and TLS the client speaks first, and until then the connection would only be waited for.
func listenConfig() *net.ListenConfig {
	return &net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		for _, o := range [...]struct{ level, name, value int }{
			{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 15}, // seconds; these are what Go would set
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, 15},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, 9},
			{syscall.IPPROTO_TCP, syscall.TCP_DEFER_ACCEPT, 1}, // second
		} {
			set := func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), o.level, o.name, o.value) }
			if failed := c.Control(set); failed != nil {
				return failed
			}
			if err != nil {
				return os.NewSyscallError("setsockopt", err)
			}
		}
		return nil
	}}
}
