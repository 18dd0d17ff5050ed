package gateway

import (
	"net"
	"syscall"
)

// listenConfig returns how listeners are bound. Accepted sockets take the options of their
// listener, so that the probes that find a dead peer need not be set on each: with four system
// calls. A connection is accepted when its client has sent something, or after a second: in HTTP
// and TLS the client speaks first, and until then the connection would only be waited for.
func listenConfig() *net.ListenConfig {
	return &net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			for _, o := range [...]struct{ level, name, value int }{
				{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
				{syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 15}, // seconds; these are what Go would set
				{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, 15},
				{syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, 9},
				{syscall.IPPROTO_TCP, syscall.TCP_DEFER_ACCEPT, 1}, // second
			} {
				syscall.SetsockoptInt(int(fd), o.level, o.name, o.value) // as Go: without them it works, too
			}
		})
	}}
}
