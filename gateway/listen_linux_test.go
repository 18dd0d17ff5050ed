package gateway

import (
	"context"
	"crypto/tls"
	"net"
	"syscall"
	"testing"

	"github.com/altairalabs/omnia-gateway/gateway/relay"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

func TestAcceptedSocketsAreProbed(t *testing.T) {
	l, err := listenConfig().Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("GET")); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]struct{ level, name, want int }{
		"SO_KEEPALIVE":  {syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
		"TCP_KEEPIDLE":  {syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 15},
		"TCP_KEEPINTVL": {syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, 15},
		"TCP_KEEPCNT":   {syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, 9},
		"TCP_NODELAY":   {syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1},
	} {
		raw.Control(func(fd uintptr) {
			if got, err := syscall.GetsockoptInt(int(fd), o.level, o.name); got != o.want || err != nil {
				t.Errorf("%s is %d, %v, want %d", name, got, err, o.want)
			}
		})
	}
}

// A client that says nothing does not take the gateway's time, for a second.
func TestSilentConnectionsAreAcceptedLater(t *testing.T) {
	l, err := listenConfig().Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	accept := func(want net.Conn) {
		t.Helper()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if c.RemoteAddr().String() != want.LocalAddr().String() {
			t.Errorf("%v was accepted, not %v", c.RemoteAddr(), want.LocalAddr())
		}
	}
	silent, speaks := dial(), dial()
	if _, err := speaks.Write([]byte("GET")); err != nil {
		t.Fatal(err)
	}
	accept(speaks)
	accept(silent) // it is not forgotten: its time to begin is bounded, too
}

// A relay asks for probes itself, where it sends no Pings.
func TestAgentsOfPlainHTTPAreProbed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := newDialer(wstest.Patience, wstest.Patience, nil, &tls.Config{}, newDeadAddresses())
	for want, connect := range []func(context.Context, string, string) (net.Conn, error){d.connect, d.probed} {
		c, err := connect(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.(*relay.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			if got, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE); got != want || err != nil {
				t.Errorf("SO_KEEPALIVE is %d, %v, want %d", got, err, want)
			}
		})
	}
}
