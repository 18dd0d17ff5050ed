//go:build !linux

package relay

import (
	"net"
	"os"
	"sync"
)

// Lanes move sessions on Linux. Elsewhere a session has goroutines of its own.
type Lanes struct {
	over chan struct{}
	once sync.Once
}

// NewLanes returns lanes that the caller must Run, and Close when no relay is left.
func NewLanes() (*Lanes, error) { return &Lanes{over: make(chan struct{})}, nil }

// Run waits for Close.
func (l *Lanes) Run() { <-l.over }

// Close ends Run. No relay may be left.
func (l *Lanes) Close() { l.once.Do(func() { close(l.over) }) }

// runner returns what drives a new session.
func (l *Lanes) runner(r *Relay) runner { return newThreads(r) }

// socket does not exist here.
type socket struct{}

func (*socket) read([]byte) (int, error)  { return 0, os.ErrInvalid }
func (*socket) write([]byte) (int, error) { return 0, os.ErrInvalid }
func (*socket) close() error              { return os.ErrInvalid }
func (*socket) closeWrite() error         { return os.ErrInvalid }

// holdLess does nothing here.
func holdLess(*net.TCPConn) {}

// unsentBy is not known here: only bytes that the system takes tell that the peer has taken some.
func unsentBy(*net.TCPConn) int { return 0 }

// unreadOf is not known here.
func unreadOf(*net.TCPConn) int { return 0 }

// hungUp is not known here: only a write that fails tells that the peer is gone before all that it
// has sent is read.
func hungUp(*net.TCPConn) (hung, reset bool) { return false, false }
