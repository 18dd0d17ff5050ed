package gateway

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// nextAddress is how long an address of a name may take before the next one is tried as well
	// (RFC 8305 §5).
	nextAddress = 250 * time.Millisecond
	// deadLasts is for how long an address that did not answer is tried after the others.
	deadLasts = 30 * time.Second
	maxDead   = 1024
)

// deadAddresses are addresses that did not answer of late. They only come last, because one that
// answers again must not be left out.
type deadAddresses struct {
	mu    sync.Mutex
	until map[netip.AddrPort]time.Time
}

func newDeadAddresses() *deadAddresses {
	return &deadAddresses{until: map[netip.AddrPort]time.Time{}}
}

// add remembers an address that did not answer.
func (d *deadAddresses) add(a netip.AddrPort, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.until[a]; !known && len(d.until) >= maxDead {
		makeRoom(d.until, maxDead, func(until time.Time) bool { return !until.After(now) })
	}
	d.until[a] = now.Add(deadLasts)
}

// remove is told of an address that has answered.
func (d *deadAddresses) remove(a netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.until, a)
}

// last puts the dead ones of some addresses after the others.
func (d *deadAddresses) last(all []netip.AddrPort, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dead := func(a netip.AddrPort) int {
		if d.until[a].After(now) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(all, func(a, b netip.AddrPort) int { return dead(a) - dead(b) })
}

// reach makes a TCP connection to host and port. Where a name has several addresses, they are
// tried in the order of the resolver, those that did not answer of late last, and one that does
// not answer at once does not hold up the next.
func (d *dialer) reach(ctx context.Context, network, address string) (net.Conn, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if _, literal := netip.ParseAddr(host); literal == nil || err != nil {
		return d.net.DialContext(ctx, network, address)
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	found, err := d.lookup(ctx, "ip", host)
	if err == nil && len(found) == 0 {
		err = &net.DNSError{Err: "no address", Name: host, IsNotFound: true}
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	var all []netip.AddrPort
	for _, a := range found {
		all = append(all, netip.AddrPortFrom(a.Unmap(), uint16(port)))
	}
	dial := func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
		return d.net.DialContext(ctx, network, a.String())
	}
	if len(all) == 1 { // as for a Service of Kubernetes
		return dial(ctx, all[0])
	}
	return d.dead.first(ctx, all, dial)
}

// first dials addresses, of which there are some, until one answers. The error is that of
// the first one that failed.
func (d *deadAddresses) first(ctx context.Context, all []netip.AddrPort,
	dial func(context.Context, netip.AddrPort) (net.Conn, error)) (net.Conn, error) {
	d.last(all, time.Now())
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		n    int
		conn net.Conn
		err  error
	}
	results := make(chan result)
	begun, pending := 0, map[int]bool{}
	begin := func() {
		if n := begun; n < len(all) {
			begun++
			pending[n] = true
			go func() {
				c, err := dial(ctx, all[n])
				results <- result{n, c, err}
			}()
		}
	}
	defer func() { // dials that are not needed any more end at once
		cancel()
		for range pending {
			if r := <-results; r.conn != nil {
				r.conn.Close()
			}
		}
	}()
	begin()
	wait := time.NewTicker(nextAddress)
	defer wait.Stop()
	var failed error
	for {
		select {
		case <-wait.C:
			begin()
		case r := <-results:
			delete(pending, r.n)
			if r.err == nil {
				d.remove(all[r.n])
				for n := range pending {
					if n < r.n { // it had more time
						d.add(all[n], time.Now())
					}
				}
				return r.conn, nil
			}
			if ctx.Err() == nil {
				d.add(all[r.n], time.Now())
			}
			if failed == nil {
				failed = r.err
			}
			if begin(); len(pending) == 0 {
				return nil, failed
			}
			wait.Reset(nextAddress)
		}
	}
}
