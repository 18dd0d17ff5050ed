package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/wstest"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// far is an address that answers, or fails, after a time.
type far struct {
	after time.Duration
	err   error
}

func addrs(n int) (all []netip.AddrPort) {
	for i := range n {
		all = append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80))
	}
	return all
}

func TestAddressThatDoesNotAnswerHoldsUpTheNextForAMoment(t *testing.T) {
	const silent = time.Hour
	refused := errors.New("refused")
	for name, tt := range map[string]struct {
		all    []far
		winner int             // -1: none
		took   []time.Duration // of a first connection, one after it, and one when the table has forgotten
	}{
		"one":                     {[]far{{after: time.Second}}, 0, []time.Duration{time.Second, time.Second, time.Second}},
		"the first answers":       {[]far{{after: 10}, {after: 5}}, 0, []time.Duration{10, 10, 10}},
		"the first is silent":     {[]far{{after: silent}, {after: 5}}, 1, []time.Duration{nextAddress + 5, 5, nextAddress + 5}},
		"two are silent":          {[]far{{after: silent}, {after: silent}, {}}, 2, []time.Duration{2 * nextAddress, 0, 2 * nextAddress}},
		"the first refuses":       {[]far{{after: 7, err: refused}, {after: 5}}, 1, []time.Duration{12, 5, 12}},
		"a slow one beats no one": {[]far{{after: 400 * time.Millisecond}, {after: silent}}, 0, []time.Duration{4e8, 4e8, 4e8}},
		"the last one that fails": {[]far{{after: 7, err: refused}, {after: 5, err: refused}}, -1, []time.Duration{12, 12, 12}},
		"silent, and one refuses": {[]far{{after: silent}, {err: refused}}, -1, []time.Duration{time.Minute, time.Minute, time.Minute}},
		"all are silent":          {[]far{{after: silent}, {after: silent}}, -1, []time.Duration{time.Minute, time.Minute, time.Minute}},
		"a silent, a slow one": {[]far{{after: silent}, {after: 300 * time.Millisecond}}, 1,
			[]time.Duration{nextAddress + 3e8, 3e8, nextAddress + 3e8}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dead := newDeadAddresses()
				for i, want := range tt.took {
					all := addrs(len(tt.all))
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					began, open := time.Now(), 0
					c, err := dead.first(ctx, slices.Clone(all), func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
						f := tt.all[slices.Index(all, a)]
						select {
						case <-time.After(f.after):
						case <-ctx.Done():
							return nil, ctx.Err()
						}
						if f.err != nil {
							return nil, f.err
						}
						open++
						return &net.TCPConn{}, nil
					})
					cancel()
					took := time.Since(began)
					if took != want || (err != nil) != (tt.winner < 0) || (c != nil) != (err == nil) || open > 1 {
						t.Errorf("connection %d took %s, want %s; %v, %v, %d open", i, took, want, c, err, open)
					}
					if i > 0 {
						time.Sleep(2 * deadLasts)
					}
				}
			})
		})
	}
}

func TestDeadAddressesAreBounded(t *testing.T) {
	d, now := newDeadAddresses(), time.Now()
	at := func(n int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 80)
	}
	for n := range 3 * maxDead {
		d.add(at(n), now)
	}
	if len(d.until) != maxDead {
		t.Errorf("%d addresses", len(d.until))
	}
	d.add(at(3*maxDead), now.Add(deadLasts)) // by then all others are old
	if len(d.until) != 1 {
		t.Errorf("%d addresses, want the new one alone", len(d.until))
	}
}

// mute listens on an address and port, and answers no one: the queue of its connections is full.
func mute(t *testing.T, addr netip.AddrPort) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err != nil {
		t.Skipf("bind %s: %v", addr, err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		c, err := net.DialTimeout("tcp", addr.String(), 100*time.Millisecond)
		if err != nil {
			if late, ok := errors.AsType[net.Error](err); !ok || !late.Timeout() {
				t.Skip(err)
			}
			return
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Skip("the system has no full queue")
}

func TestAgentWithADeadAddressIsReachedByTheOther(t *testing.T) {
	alive, err := netip.ParseAddrPort(listening(t, func(c net.Conn) { c.Read(make([]byte, 1)) }))
	if err != nil {
		t.Fatal(err)
	}
	dead := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), alive.Port())
	mute(t, dead)
	d := newDialer(wstest.Patience, wstest.Patience, nil, &tls.Config{}, newDeadAddresses())
	d.lookup = func(_ context.Context, network, host string) ([]netip.Addr, error) {
		if network != "ip" || host != "agent" {
			t.Errorf("asked for %s of %s", network, host)
		}
		return []netip.Addr{dead.Addr(), netip.AddrFrom16(alive.Addr().As16())}, nil
	}
	for i, most := range []time.Duration{wstest.Patience / 2, nextAddress / 2, nextAddress / 2} {
		began := time.Now()
		c, err := d.dial(t.Context(), "http", fmt.Sprintf("agent:%d", alive.Port()))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.RemoteAddr().String(); got != alive.String() {
			t.Errorf("connected to %s", got)
		}
		c.Close()
		if took := time.Since(began); took > most {
			t.Errorf("connection %d took %s", i, took)
		}
	}
}

func TestNameWithoutAnAddressIsUnreachable(t *testing.T) {
	d := newDialer(wstest.Patience, wstest.Patience, nil, &tls.Config{}, newDeadAddresses())
	d.lookup = func(context.Context, string, string) ([]netip.Addr, error) { return nil, nil }
	_, err := d.handshake(t.Context(), offer("agent:80", nil))
	if err == nil || outcome.RefusalOf(err).Reason != outcome.UpstreamUnreachable || !strings.Contains(err.Error(), "no address") {
		t.Errorf("got %v", err)
	}
}
