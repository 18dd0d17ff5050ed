package relay

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// patience bounds the writes to a peer that reads slowly: a Write goes on for as long as the peer
// takes bytes, and until its deadline. A deadline alone would end a steady reader of 20 KB/s after
// a minute: Linux takes the next byte only when a third of a send buffer of megabytes is free.
type patience struct {
	// Immutable.
	tcp   *net.TCPConn
	stall time.Duration // how long the peer may take no byte

	mu       sync.Mutex
	deadline time.Time // of the Write; zero: none
	look     time.Time // when a Write that waits looks at what the peer has taken
}

// looks is how often a Write that waits looks within stall, which is how exact stall is.
const looks = 16

// write writes all of b, or fails.
func (p *patience) write(b []byte) (n int, err error) {
	took, left := time.Now(), 0 // when the peer last took a byte, and what it had not taken at the last look
	for first := true; ; first = false {
		p.wait()
		m, err := p.tcp.Write(b[n:])
		n += m
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || p.passed() {
			return n, err
		}
		now, before := time.Now(), left
		if left = unsentBy(p.tcp); m > 0 || !first && left < before {
			took = now
		}
		if now.Sub(took) >= p.stall {
			return n, err
		}
	}
}

// wait lets the next try of a Write wait until its next look.
func (p *patience) wait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.look = time.Now().Add(p.stall / looks)
	p.tcp.SetWriteDeadline(p.earliest())
}

// until sets the deadline of writes.
func (p *patience) until(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline = t
	return p.tcp.SetWriteDeadline(p.earliest())
}

// earliest returns when a Write that waits has to give up or to look. p.mu is held.
func (p *patience) earliest() time.Time {
	if p.deadline.IsZero() || p.look.Before(p.deadline) {
		return p.look
	}
	return p.deadline
}

// passed reports whether the deadline has passed.
func (p *patience) passed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.deadline.IsZero() && !time.Now().Before(p.deadline)
}
