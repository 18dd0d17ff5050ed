package relay

import (
	"crypto/tls"
	"net"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

func TestConnectionIsFreshUntilItsPeerSaysOrClosesSomething(t *testing.T) {
	closes := func(outside net.Conn) { outside.Close() }
	resets := func(outside net.Conn) {
		if over, ok := outside.(*tls.Conn); ok {
			outside = over.NetConn()
		}
		outside.(*net.TCPConn).SetLinger(0)
		outside.Close()
	}
	says := func(outside net.Conn) { outside.Write([]byte("HTTP/1.1 408 Request Timeout\r\n\r\n")) }
	for _, tt := range []struct {
		name    string
		version uint16
		does    func(outside net.Conn)
		fresh   bool
	}{
		{"closes", 0, closes, false},
		{"resets", 0, resets, false},
		{"says something", 0, says, false},
		{"says something and closes", 0, func(c net.Conn) { says(c); closes(c) }, false},
		{"TLS 1.2, closes", tls.VersionTLS12, closes, false},
		{"TLS 1.3, says something, as with a ticket", tls.VersionTLS13, says, true},
		{"TLS 1.3, closes", tls.VersionTLS13, closes, false},
		{"TLS 1.3, resets", tls.VersionTLS13, resets, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inside, outside := connect(t, tt.version, false)
			c, err := connOf(inside)
			if err != nil || !Fresh(inside) {
				t.Fatalf("not fresh at first, or %v", err)
			}
			tt.does(outside)
			wstest.Eventually(t, "something noticed", func() bool {
				hung, _ := hungUp(c.TCPConn)
				return hung || unreadOf(c.TCPConn) > 0
			})
			if Fresh(inside) != tt.fresh || c.patience == nil {
				t.Errorf("fresh: %t, patience: %v", !tt.fresh, c.patience)
			}
		})
	}
}
