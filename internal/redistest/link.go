package redistest

import (
	"net"
	"sync"
	"testing"
)

// Link passes TCP connections on to a server. While it is cut it passes no byte and closes no
// connection, as a network that drops packets.
type Link struct {
	// Addr is where it listens.
	Addr string

	to string
	l  net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex
	healed *sync.Cond
	cut    bool
	closed bool
	conns  []net.Conn
}

// NewLink returns a link to an address, closed with the test.
func NewLink(t testing.TB, to string) *Link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &Link{Addr: l.Addr().String(), to: to, l: l}
	k.healed = sync.NewCond(&k.mu)
	k.wg.Go(k.serve)
	t.Cleanup(k.close)
	return k
}

// Cut begins to swallow. Heal ends it: what waits on connections that are still open arrives.
func (k *Link) Cut() { k.set(true) }

// Heal ends a Cut.
func (k *Link) Heal() { k.set(false) }

func (k *Link) set(cut bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut = cut
	k.healed.Broadcast()
}

func (k *Link) serve() {
	for {
		from, err := k.l.Accept()
		if err != nil {
			return
		}
		k.wg.Go(func() {
			if !k.pass() {
				from.Close()
				return
			}
			to, err := net.Dial("tcp", k.to)
			if err != nil {
				from.Close()
				return
			}
			if !k.keep(from, to) {
				return
			}
			k.wg.Go(func() { k.copy(to, from) })
			k.copy(from, to)
		})
	}
}

// keep remembers connections, or closes them if the link is closed.
func (k *Link) keep(conns ...net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		for _, c := range conns {
			c.Close()
		}
		return false
	}
	k.conns = append(k.conns, conns...)
	return true
}

// copy passes bytes on until one side ends.
func (k *Link) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if !k.pass() {
			return
		}
		if _, failed := to.Write(buf[:n]); failed != nil || err != nil {
			return
		}
	}
}

// pass waits until the link is whole and reports whether it is still open.
func (k *Link) pass() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.cut && !k.closed {
		k.healed.Wait()
	}
	return !k.closed
}

func (k *Link) close() {
	k.l.Close()
	k.mu.Lock()
	k.closed = true
	for _, c := range k.conns {
		c.Close()
	}
	k.healed.Broadcast()
	k.mu.Unlock()
	k.wg.Wait()
}
